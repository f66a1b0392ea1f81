"""openai:NAME against a server that the test starts: right answers, and every way in which a server can fail."""

from __future__ import annotations

import email.utils
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax.asking import NO_ANSWER, RecordPrediction
from seqgpt_jax.atomic import decompose
from seqgpt_jax.errors import UserError
from seqgpt_jax.metrics import empty_predictions, score_dataset
from seqgpt_jax.negatives import ask_only
from seqgpt_jax.prompt import SEQGPT_V1
from seqgpt_jax.records import (
    ClassificationRecord,
    DatasetMeta,
    Event,
    EventRecord,
    ExtractionRecord,
    Record,
    Relation,
    RelationRecord,
    Span,
)
from seqgpt_jax.systems.answer_store import AnswerStore, Reply
from seqgpt_jax.systems.chat_server import HOPELESS, ChatServer, RateLimit, ServerOptions
from tests.systems.chat import Said, chat_server, completion

TOPICS = DatasetMeta("topics", "CLS", "en", ("yes", "no", "perhaps"))
PEOPLE = DatasetMeta("people", "NER", "en", ("person", "city", "date", "river", "team", "law", "dish"))


def topics(number: int, label: str = "yes") -> list[Record]:
    return [ClassificationRecord(str(i), "CLS", f"text {i}", (label,)) for i in range(number)]


class Sleeps(list[float]):
    """Does not wait, and writes down how long it was told to."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def open_server(url: str, tmp_path: Path, sleep: Any = None, **options: Any) -> ChatServer:
    fields = {"concurrency": 1, "timeout": 5.0, "cache": tmp_path / "answers.sqlite", **options}
    return ChatServer("toy", ServerOptions(base_url=url, **fields), sleep=Sleeps() if sleep is None else sleep)


def ask(server: ChatServer, records: Sequence[Record], meta: DatasetMeta = TOPICS) -> list[RecordPrediction]:
    return server.predict_records(empty_predictions(records), [meta] * len(records))


def problems(predictions: Sequence[RecordPrediction]) -> list[str]:
    return [problem for each in predictions for answer in each.answered for problem in answer.parsed.problems]


# --- a server that is well -------------------------------------------------------------------------------------------


def test_every_kind_of_record_comes_back_as_gold(tmp_path: Path) -> None:
    text = "Ada of Acme met Bob in Paris"
    ada, acme, bob = Span("person", 0, 3, "Ada"), Span("firm", 7, 11, "Acme"), Span("person", 16, 19, "Bob")
    gold: list[tuple[Record, DatasetMeta]] = [
        (ClassificationRecord("c", "CLS", "text", ("perhaps",)), TOPICS),
        (ExtractionRecord("n", "NER", text, (ada, bob, Span("city", 23, 28, "Paris"))), PEOPLE),
        (
            RelationRecord("r", "RE", text, (ada, acme, bob), (Relation("works at", 0, 1), Relation("knows", 0, 2))),
            DatasetMeta("jobs", "RE", "en", ("works at", "knows"), entity_labels=("person", "firm")),
        ),
        (
            EventRecord("e", "EE", text, (Event("meet", Span("meet", 12, 15, "met"), (Span("who", 0, 3, "Ada"),)),)),
            DatasetMeta("meetings", "EE", "en", ("meet", "leave"), roles=("who", "where")),
        ),
    ]
    examples = [example for record, meta in gold for example in decompose(record, meta)]

    def answer(request: dict[str, Any], number: int) -> Said:
        system, user = request["messages"]
        assert system["role"] == "system"
        assert user["role"] == "user"
        text_line, labels_line, answer_line = user["content"].split("\n")
        assert answer_line == "输出:"
        kind_word, labels = labels_line.split(": ", 1)
        kind = "classify" if kind_word == "分类" else "extract"
        asked, text = tuple(labels.split("，")), text_line.removeprefix("输入: ")
        fitting = (e for e in examples if e.text == text and e.kind == kind and {*asked} <= {*e.labels})
        example = next(fitting, None)
        if example is None:  # a pair of mentions that gold does not relate
            return completion("None")
        reply = SEQGPT_V1.render_answer(ask_only(example, asked))
        return completion(reply.rstrip("\n"))  # chat models end without a line break

    with chat_server(answer) as server:
        system = open_server(server.url, tmp_path, concurrency=4)
        records, metas = [record for record, _ in gold], [meta for _, meta in gold]
        predictions = system.predict_records(empty_predictions(records), metas)
    for (record, meta), predicted in zip(gold, predictions, strict=True):
        assert score_dataset([record], [predicted.record], meta).headline == 1.0, predicted
    assert problems(predictions) == []
    request = server.requests[0]
    assert (request["path"], request["model"], request["temperature"]) == ("/v1/chat/completions", "toy", 0)
    assert "stream" not in request
    # seven labels are two questions; relations and events take further rounds
    assert len(predictions[1].answered) == 2
    assert system.description()["requests"] == len(server.requests)


def test_what_is_said_depends_on_how_many_labels_may_hold(tmp_path: Path) -> None:
    several = replace(TOPICS, multi_label=True)
    own_none = ClassificationRecord("0", "MRC-MC", "text", (), label_set=("a", "None"))
    with chat_server(lambda request, number: completion("None")) as server:
        system = open_server(server.url, tmp_path)
        (one,) = ask(system, topics(1))
        (many,) = ask(system, topics(1), several)
        (none,) = ask(system, [own_none], replace(TOPICS, task="MRC-MC"))
    texts = [request["messages"][0]["content"] for request in server.requests]
    assert "the one label that holds, exactly as it is given." in texts[0]
    assert "every label that holds" in texts[1]
    assert "or with None if no label holds" in texts[2]
    assert one.record.labels == many.record.labels == ()  # type: ignore[union-attr]
    assert none.record.labels == ("None",)  # type: ignore[union-attr]


def test_answers_are_read_like_those_of_any_model(tmp_path: Path) -> None:
    replies = {
        "text 0": completion("<think>\nno?\n</think>\n\nyes\n"),
        "text 1": completion("I think it is yes"),
        "text 2": completion("perh", finish_reason="length"),
        "text 3": completion("yes\ud800"),
    }
    with chat_server(lambda request, _: replies[request["messages"][1]["content"].split("\n")[0][4:]]) as server:
        predictions = ask(open_server(server.url, tmp_path), topics(4))
    read = [prediction.answered[0] for prediction in predictions]
    assert (read[0].raw, read[0].parsed.problems) == ("yes\n", ())
    assert read[1].parsed.unasked == ("I think it is yes",)
    assert predictions[1].record.labels == ("I think it is yes",)  # type: ignore[union-attr]  # counts as wrong
    assert (read[2].raw, predictions[2].record.labels) == ("perh", ())  # type: ignore[union-attr]
    assert read[3].raw == "yes?\n"  # half a character, which no file could hold
    assert not any(answer.unanswered for answer in read)


def test_tokens_costs_and_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret\n")
    settings = {"temperature": None, "seed": 3}
    with chat_server(lambda request, number: completion("yes", tokens=(1000, 10))) as server:
        system = open_server(server.url, tmp_path, prices=(2.0, 50.0), settings=settings)
        ask(system, topics(3))
        description = system.description()
    assert server.keys == ["Bearer secret"] * 3
    assert "secret" not in str(description)
    assert description["tokens"] == {"prompt": 3000, "completion": 30}
    assert description["cost"] == description["cost_paid"] == pytest.approx(3000 * 2e-6 + 30 * 50e-6)
    assert (description["name"], description["kind"], description["unanswered"]) == ("toy", "openai", {})
    assert "temperature" not in server.requests[0]
    assert server.requests[0]["seed"] == 3


def test_a_second_run_asks_nothing(tmp_path: Path) -> None:
    with chat_server(lambda request, number: completion("yes")) as server:
        first = ask(open_server(server.url, tmp_path), [*topics(3), *topics(3)])
        assert len(server.requests) == 3  # the same question is asked once
    again = open_server(server.url, tmp_path, prices=(1.0, 1.0))  # the server is gone
    assert ask(again, [*topics(3), *topics(3)]) == first
    description = again.description()
    assert (description["requests"], description["answers_from_disk"]) == (0, 3)
    assert description["tokens"] == {"prompt": 30, "completion": 6}
    assert (description["cost"], description["cost_paid"]) == (pytest.approx(36e-6), 0.0)
    with pytest.raises(UserError, match="start the server"):  # other settings are other questions
        ask(open_server(server.url, tmp_path, settings={"temperature": 1}), topics(1))


def test_answers_are_on_disk_at_once_and_for_all(tmp_path: Path) -> None:
    path, reply = tmp_path / "new" / "answers.sqlite", Reply("名\t", False, 3, 4)
    first, second = AnswerStore(path), AnswerStore(path)
    first.put("a", reply)
    assert second.get("a") == reply
    assert second.get("b") is None
    second.put("a", replace(reply, text="other"))
    assert first.get("a") == replace(reply, text="other")


def test_the_file_of_answers_may_be_wrong(tmp_path: Path) -> None:
    (tmp_path / "answers.sqlite").write_text("not a database, but long enough to be taken for one" * 30)
    with pytest.raises(UserError, match="cannot keep answers.*--cache"):
        open_server("http://127.0.0.1:1/v1", tmp_path)


# --- a server that is not --------------------------------------------------------------------------------------------


def test_failures_in_passing_are_asked_again(tmp_path: Path) -> None:
    in_90_seconds = email.utils.formatdate(time.time() + 90, usegmt=True)
    said = [
        Said(429, headers={"Retry-After": "7"}),
        Said(500, b"oops"),
        Said(503, headers={"Retry-After": in_90_seconds}),
        Said(200, b"<html>busy</html>"),
        Said(200, b'{"choices": []}'),
        completion("yes"),
    ]
    sleeps = Sleeps()
    with chat_server(lambda request, number: said[number]) as server:
        system = open_server(server.url, tmp_path, sleeps)
        (prediction,) = ask(system, topics(1))
    assert prediction.record.labels == ("yes",)  # type: ignore[union-attr]
    assert problems([prediction]) == []
    assert sleeps[0] == 7.0
    assert 88 <= sleeps[2] <= 90
    # otherwise 2^n s and up to 1 s of jitter behind the n-th failure, counted from 0
    assert 2 <= sleeps[1] <= 3
    assert 8 <= sleeps[3] <= 9
    assert 16 <= sleeps[4] <= 17
    assert system.description()["retries"] == 5


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (Said(500, b'{"error": {"message": "out of\\nmemory"}}'), "HTTP 500: out of memory"),
        (Said(200, b"\xff<html>"), "the reply is no chat completion: \ufffd<html>"),
        (Said(200, b'{"choices": []}'), "the reply is no chat completion"),
        (Said(200, b"[" * 100_000), "the reply is no chat completion"),
        (completion(None), "the reply has no text"),
        (Said(400, b'{"error": {"message": "too long"}}'), "HTTP 400: too long"),
        (Said(429, headers={"Retry-After": "86400"}), "to be asked again after 86400 s only"),
    ],
)
def test_what_is_never_answered_is_counted_and_the_rest_goes_on(tmp_path: Path, said: Said, reason: str) -> None:
    def answer(request: dict[str, Any], number: int) -> Said:
        return said if "text 1" in request["messages"][1]["content"] else completion("yes")

    with chat_server(answer) as server:
        system = open_server(server.url, tmp_path, attempts=3)
        predictions = ask(system, topics(3))
        num_requests = len(server.requests)
        # only what was answered is on disk: the next run asks for what is missing, and for nothing else
        server.answer = lambda request, number: completion("no")
        repaired = ask(open_server(server.url, tmp_path), topics(3))
        assert len(server.requests) == num_requests + 1
    assert [p.record.labels for p in repaired] == [("yes",), ("no",), ("yes",)]  # type: ignore[union-attr]
    assert [p.record.labels for p in predictions] == [("yes",), (), ("yes",)]  # type: ignore[union-attr]
    (problem,) = problems(predictions)
    assert problem.startswith(NO_ANSWER)
    assert reason in problem
    assert predictions[1].answered[0].unanswered
    ((counted, number),) = system.description()["unanswered"].items()
    assert (NO_ANSWER + counted, number) == (problem, 1)
    assert num_requests == 2 + (3 if said.status in (200, 500) else 1)


def test_an_unanswered_question_is_not_the_option_that_means_none(tmp_path: Path) -> None:
    own_none = ClassificationRecord("0", "MRC-MC", "text", ("None",), label_set=("a", "None"))
    with chat_server(lambda request, number: Said(400)) as server:
        (prediction,) = ask(open_server(server.url, tmp_path), [own_none], replace(TOPICS, task="MRC-MC"))
    assert prediction.record.labels == ()  # type: ignore[union-attr]


def test_unanswered_chunks_and_stages_leave_the_others(tmp_path: Path) -> None:
    record = ExtractionRecord("0", "NER", "Ada in Paris", (Span("person", 0, 3, "Ada"),))

    def answer(request: dict[str, Any], number: int) -> Said:
        return completion("person: Ada") if "person" in request["messages"][1]["content"] else Said(400)

    with chat_server(answer) as server:
        (prediction,) = ask(open_server(server.url, tmp_path), [record], PEOPLE)
        jobs = DatasetMeta("jobs", "RE", "en", ("knows",), entity_labels=("city",))
        (related,) = ask(open_server(server.url, tmp_path), [RelationRecord("1", "RE", "Ada in Rome", (), ())], jobs)
    assert prediction.record.spans == record.spans  # type: ignore[union-attr]
    assert [answer.unanswered for answer in prediction.answered] == [False, True]
    assert related.record == RelationRecord("1", "RE", "Ada in Rome", (), ())
    assert [answer.unanswered for answer in related.answered] == [True]


@pytest.mark.parametrize("trickle", [0.03, 60.0])
def test_a_reply_that_takes_too_long(tmp_path: Path, trickle: float) -> None:
    """It hangs, or sends a byte now and then, which no limit for a single byte would end."""

    def answer(request: dict[str, Any], number: int) -> Said:
        return replace(completion("yes"), trickle=trickle)

    with chat_server(answer) as server:
        start = time.monotonic()
        predictions = ask(open_server(server.url, tmp_path, timeout=0.15, attempts=2), topics(1))
        assert time.monotonic() - start < 2
        server.stopped.set()
    assert problems(predictions) == [NO_ANSWER + "no reply in 0.15 s"]
    assert len(server.requests) == 2


def test_a_server_that_breaks_down_is_not_asked_for_ever(tmp_path: Path) -> None:
    def answer(request: dict[str, Any], number: int) -> Said:
        return completion("yes") if number < 2 else Said(500)

    with chat_server(answer) as server:
        system = open_server(server.url, tmp_path, attempts=2)
        predictions = ask(system, topics(60))
        assert len(server.requests) == 2 + 2 * HOPELESS
        unanswered = system.description()["unanswered"]
        assert unanswered == {"HTTP 500": HOPELESS, "not asked, as the server failed 20 times in a row": 38}
        assert sum(prediction.answered[0].unanswered for prediction in predictions) == 58


def test_refused_questions_are_no_break_down(tmp_path: Path) -> None:
    with chat_server(lambda request, number: completion("yes") if number == 40 else Said(400)) as server:
        system = open_server(server.url, tmp_path)
        predictions = ask(system, topics(41))
    assert predictions[40].record.labels == ("yes",)  # type: ignore[union-attr]
    assert system.description()["unanswered"] == {"HTTP 400": 40}


def test_nobody_there_a_wrong_key_or_model_is_said_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(UserError, match=r"ConnectError.*\(start the server, or mend --base_url\)"):
            ask(open_server(url, tmp_path, sleeps := Sleeps()), topics(50))
        assert sleeps == []
    for status, remedy in ((401, "set OPENAI_API_KEY"), (404, "mend openai:NAME")):
        with chat_server(lambda request, number, status=status: Said(status, b"no")) as server:  # type: ignore[misc]
            with pytest.raises(UserError, match=f"HTTP {status}: no .{remedy}"):
                ask(open_server(server.url, tmp_path), topics(50))
            assert len(server.requests) == 1


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x/v1", "http://", "http://me:pass@host/v1", "http://[::1"])
def test_an_address_that_is_none(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="--base_url"):
        open_server(url, tmp_path)


def test_the_service_itself_needs_a_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        ChatServer("toy", ServerOptions(cache=tmp_path / "answers"))


# --- how fast --------------------------------------------------------------------------------------------------------


def test_the_rate_limit_with_a_clock_of_its_own() -> None:
    now = 100.0
    sleeps = Sleeps()
    limit = RateLimit(30, sleeps, clock=lambda: now)
    for _ in range(4):
        limit.wait()
    assert sleeps == [2.0, 4.0, 6.0]  # four at once: one goes, the others stand in line, 2 s apart
    now = 107.0
    limit.wait()
    assert sleeps[3:] == [1.0]
    now = 200.0
    limit.wait()
    assert len(sleeps) == 4  # nobody waits after a pause, and none is saved up
    limit.wait()
    assert sleeps[4:] == [2.0]


def test_requests_keep_to_the_limit_retries_too(tmp_path: Path) -> None:
    sleeps = Sleeps()
    with chat_server(lambda request, number: Said(500) if number == 0 else completion("yes")) as server:
        ask(open_server(server.url, tmp_path, sleeps, requests_per_minute=1e-3), topics(3))
    assert len(server.requests) == 4
    assert len([s for s in sleeps if s > 1000]) == 3


def test_several_requests_at_once(tmp_path: Path) -> None:
    at_once = [0, 0]

    def answer(request: dict[str, Any], number: int) -> Said:
        at_once[0] += 1
        at_once[1] = max(at_once)
        time.sleep(0.05)
        at_once[0] -= 1
        return completion("yes")

    with chat_server(answer) as server:
        predictions = ask(open_server(server.url, tmp_path, concurrency=4), topics(9))
    assert at_once[1] == 4
    assert [prediction.record.id for prediction in predictions] == [str(i) for i in range(9)]
