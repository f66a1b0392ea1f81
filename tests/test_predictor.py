"""predictor.py: what is asked and what becomes of answers, with an oracle for a decoder; at the end, a real model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqgpt_jax import hf
from seqgpt_jax.answering import DecodeConfig
from seqgpt_jax.atomic import AtomicExample, decompose
from seqgpt_jax.errors import UserError
from seqgpt_jax.metrics import empty_predictions, score_dataset
from seqgpt_jax.models.bloom import Bloom, BloomConfig
from seqgpt_jax.negatives import evaluation_questions
from seqgpt_jax.predictor import SeqGPT
from seqgpt_jax.prompt import SEQGPT_V1
from seqgpt_jax.records import (
    ClassificationRecord,
    DatasetMeta,
    EventRecord,
    ExtractionRecord,
    Span,
    read_meta,
    read_records,
)
from seqgpt_jax.results import Classification, FoundSpan
from seqgpt_jax.vocabulary import Vocabulary
from tests.oracle import PROMPT, OracleDecoder, byte_vocabulary, oracle_model, write_spans


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return byte_vocabulary()


@pytest.fixture
def with_oracle(monkeypatch: pytest.MonkeyPatch, vocabulary: Vocabulary) -> Callable[..., tuple[SeqGPT, OracleDecoder]]:
    return partial(oracle_model, monkeypatch, vocabulary)


# --- classify --------------------------------------------------------------------------------------------------------


def test_classify_one_text_or_many(with_oracle: Any) -> None:
    model, decoder = with_oracle(lambda kind, text, labels: f"{labels[len(text) % 2]}\n")
    assert model.classify("ab", ["x", "y"]) == Classification(("x",), document="ab")
    assert [found.labels for found in model.classify(["ab", "abc"], ["x", "y"])] == [("x",), ("y",)]
    assert model.classify(["ab", "abc"], ["x", "y"])[1].to_dict() == {"labels": ["y"]}
    assert decoder.batches[0] == ["输入: ab\n分类: x，y\n输出: "]


def test_classify_drops_what_was_not_asked_and_none_is_no_label(with_oracle: Any) -> None:
    model, _ = with_oracle(lambda kind, text, labels: "y，zebra\n" if text == "one" else "None\n")
    assert [found.labels for found in model.classify(["one", "two"], ["x", "y"])] == [("y",), ()]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"text_pair": "It rains."}, "It is wet.\tIt rains."),
        ({"target": "It"}, "It is wet.\tIt"),
        ({"target": "It", "task": "SA"}, "what is the sentiment towards It in It is wet?"),
        ({"target": "It", "task": "ET"}, "what is the type of It in It is wet?"),
    ],
)
def test_classify_a_pair_or_a_target(with_oracle: Any, fields: dict[str, Any], text: str) -> None:
    model, decoder = with_oracle(lambda kind, text, labels: "x\n")
    model.classify("It is wet.", ["x"], **fields)
    assert decoder.batches == [[f"输入: {text}\n分类: x\n输出: "]]


def test_a_target_in_chinese_is_asked_in_chinese(with_oracle: Any) -> None:
    model, decoder = with_oracle(lambda kind, text, labels: "好\n")
    assert model.classify(["房间大。", "饭咸。"], ["好", "坏"], target=["房间", "饭"], task="SA")[1].labels == ("好",)
    assert sorted(decoder.batches[0])[0] == "输入: 房间大。对房间的情感是什么？\n分类: 好，坏\n输出: "


# --- extract ---------------------------------------------------------------------------------------------------------


def test_offsets_are_those_of_the_text_that_was_given(with_oracle: Any) -> None:
    text = "😀 Ada\tPark\nmet 李雷 in Rome, Ada Park  "
    model, decoder = with_oracle(
        lambda kind, text, labels: write_spans(labels, person=["Ada Park", "李雷", "Eve"], city=["Rome"])
    )
    found = model.extract(text, ["person", "city"])
    assert [(s.label, s.text) for s in found.spans] == [
        ("person", "Ada\tPark"),
        ("person", "李雷"),
        ("city", "Rome"),
        ("person", "Ada Park"),
    ]
    assert all(text[s.start : s.end] == s.text for s in found.spans)
    assert found.to_dict()["spans"][1] == {"label": "person", "start": 15, "end": 17, "text": "李雷"}
    assert decoder.batches == [["输入: 😀 Ada Park met 李雷 in Rome, Ada Park\n抽取: person，city\n输出: "]]


def test_results_carry_the_labels_that_were_given(with_oracle: Any) -> None:
    model, _ = with_oracle(lambda kind, text, labels: write_spans(labels, **{labels[0]: ["Ada"]}))
    assert model.extract("Ada", ["who，\twhom", "x"]).spans == (FoundSpan("who，\twhom", 0, 3, "Ada"),)


def test_many_labels_are_asked_in_near_equal_chunks(with_oracle: Any) -> None:
    labels = [f"l{i}" for i in range(7)]
    model, decoder = with_oracle(lambda kind, text, labels: write_spans(labels, l0=["Ada"], l6=["Ada"]))
    assert [span.label for span in model.extract("Ada", labels).spans] == ["l0", "l6"]
    asked = [PROMPT.fullmatch(prompt)["labels"].split("，") for batch in decoder.batches for prompt in batch]  # type: ignore[index]
    assert sorted(asked) == [labels[:4], labels[4:]]


def test_labels_of_a_prompt_can_be_chosen(with_oracle: Any) -> None:
    labels = [f"l{i}" for i in range(7)]
    model, decoder = with_oracle(lambda kind, text, labels: write_spans(labels), max_extract_labels=3)
    model.extract("Ada", labels)
    asked = [PROMPT.fullmatch(prompt)["labels"].split("，") for batch in decoder.batches for prompt in batch]  # type: ignore[index]
    assert sorted(asked) == [labels[:3], labels[3:5], labels[5:]]
    with pytest.raises(UserError, match="max_extract_labels is 0"):
        DecodeConfig(max_extract_labels=0)


# --- batches ---------------------------------------------------------------------------------------------------------


def test_questions_are_decoded_once_and_answered_in_order(with_oracle: Any) -> None:
    model, decoder = with_oracle(lambda kind, text, labels: f"{'y' if text.endswith('y') else 'x'}\n")
    texts = ["a y", "a much longer text y", "a x", "a y", "a text of some length x"]
    assert [found.labels[0] for found in model.classify(texts, ["x", "y"])] == ["y", "y", "x", "y", "x"]
    assert [len(batch) for batch in decoder.batches] == [4]


def test_a_text_that_is_too_long_loses_its_end_and_that_is_counted(with_oracle: Any, vocabulary: Vocabulary) -> None:
    model, decoder = with_oracle(lambda kind, text, labels: write_spans(labels, who=["Zoe"]), max_prompt_tokens=60)
    meta = DatasetMeta("toy", "NER", "en", ("who",))
    text = "Ada " * 100 + "Zoe"
    (prediction,) = model.predict_records([ExtractionRecord("0", "NER", text, ())], [meta])
    kept = PROMPT.fullmatch(decoder.batches[0][0])["text"]  # type: ignore[index]
    assert text.startswith(kept)
    assert len(kept) < len(text)
    assert prediction.answered[0].tokens_cut == len(vocabulary.encode(text)) - len(vocabulary.encode(kept))
    assert prediction.record == ExtractionRecord("0", "NER", text, (Span("who", 400, 403, "Zoe"),))  # gold is not cut


def test_labels_that_leave_no_room_for_the_text(with_oracle: Any) -> None:
    model, decoder = with_oracle(lambda kind, text, labels: "x\n", max_prompt_tokens=40)
    labels = tuple(f"a long label {i}" for i in range(9))
    with pytest.raises(UserError, match=r"9 labels take \d+ tokens"):
        model.classify("Ada", labels)
    record = ClassificationRecord("0", "CLS", "Ada", ())
    (prediction,) = model.predict_records([record], [DatasetMeta("toy", "CLS", "en", labels)])
    assert prediction.answered[0].parsed.problems == ("the labels leave no room for the text",)
    assert prediction.record == record
    assert decoder.batches == []


def test_malformed_answers_are_reported_and_nothing_is_filtered(with_oracle: Any) -> None:
    model, _ = with_oracle(lambda kind, text, labels: "who: Ada\tEve\nplanet: Rome\n")
    meta = DatasetMeta("toy", "NER", "en", ("who",))
    (prediction,) = model.predict_records([ExtractionRecord("0", "NER", "Ada in Rome", ())], [meta])
    (answer,) = prediction.answered
    assert answer.raw == "who: Ada\tEve\nplanet: Rome\n"
    assert answer.parsed.unasked == ("planet",)
    assert answer.parsed.problems
    assert answer.strings == ("Ada", "Eve", "Rome")
    assert answer.invented == ("Eve",)
    assert prediction.record.spans == (  # type: ignore[union-attr]
        Span("who", 0, 3, "Ada"),
        Span("planet", 7, 11, "Rome"),
        Span("who", -1, -1, "Eve"),
    )


def test_answer_questions_gives_examples_back_with_their_answers(with_oracle: Any) -> None:
    model, _ = with_oracle(lambda kind, text, labels: "x\n" if kind == "分类" else write_spans(labels, x=["Ada"]))
    meta = DatasetMeta("toy", "NER", "en", ("x",))
    (question,) = decompose(ExtractionRecord("7", "NER", "Ada", ()), meta)
    (answer,) = model.answer_questions([question])
    assert answer.example == AtomicExample("Ada", "extract", ("x",), {"x": ("Ada",)}, question.source)


# --- every task, in its stages ---------------------------------------------------------------------------------------

# What a perfect reader cannot get right: gold marks one of several occurrences, pairs of one string, arguments that are
# nearer to another trigger.
FLOORS = {"span_f1": 0.8, "triple_f1": 0.85, "argument_c": 0.75, "token_f1": 0.99, "accuracy": 1.0, "micro_f1": 1.0}


@pytest.mark.parametrize(
    "folder",
    [
        "en/wnut17", "zh/cluener", "en/snips_slots", "en/banking77", "zh/crosswoz_intent", "en/sst2", "zh/absa_mooc_zh",
        "en/twitter_target_sentiment", "zh/tnews", "en/rte", "en/scierc_relations", "zh/finre", "en/casie", "zh/duee",
        "zh/fewfc", "zh/cfet", "en/xquad_en", "zh/cmrc2018", "en/subjqa_grocery", "zh/c3",
    ],
)  # fmt: skip
def test_gold_answers_give_gold_records(with_oracle: Any, data_dir: Path, folder: str) -> None:
    """The loop of questions in stages, with the gold answer of each question; every kind of record of the real data."""
    meta = read_meta(data_dir / folder)
    gold = list(islice(read_records(data_dir / folder / "test.jsonl.gz"), 12))
    known: dict[tuple[str, str, str], str] = {}
    for record in gold:
        for example in evaluation_questions(decompose(record, meta)):
            for label in example.labels:
                one = SEQGPT_V1.render_answer(
                    AtomicExample(
                        example.text,
                        example.kind,
                        (label,),
                        tuple(set(example.answer) & {label})
                        if isinstance(example.answer, tuple)
                        else {k: v for k, v in example.answer.items() if k == label},
                        example.source,
                    )
                )
                known[SEQGPT_V1.kind_words[example.kind], example.text, label] = one

    def oracle(kind: str, text: str, labels: tuple[str, ...]) -> str:
        if kind == "抽取":
            return "".join(known.get((kind, text, label), f"{label}: None\n") for label in labels)
        chosen = [label for label in labels if known.get((kind, text, label), "None\n") != "None\n"]
        return ("，".join(chosen) or "None") + "\n"

    model, _ = with_oracle(oracle, max_prompt_tokens=100_000)
    predictions = model.predict_records(empty_predictions(gold), [meta] * len(gold))
    assert [problem for p in predictions for answer in p.answered for problem in answer.parsed.problems] == []
    score = score_dataset(gold, [prediction.record for prediction in predictions], meta)
    assert score.headline >= FLOORS[score.headline_name], score


# --- bad input -------------------------------------------------------------------------------------------------------


def test_paths_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is not a model: there is no such directory \(give"):
        SeqGPT.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"neither export/ nor config.json"):
        SeqGPT.from_pretrained(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"run `seqgpt export --run .* --out .*export`"):
        SeqGPT.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.classify("", ["x"]), "text is empty"),
        (lambda model: model.extract(["a", " \n"], ["x"]), "text 1 is empty"),
        (lambda model: model.extract("a", []), "labels is empty"),
        (lambda model: model.extract("a", "person"), "give a list of strings"),
        (lambda model: model.classify("a", ["a，b", "a,b"]), "rename one"),
        (lambda model: model.classify("a", ["None"]), "empty answer"),
        (lambda model: model.classify("a", ["x"], text_pair="b", target="a"), "both text_pair and target"),
        (lambda model: model.classify("a", ["x"], task="SA"), "only beside a target"),
        (lambda model: model.classify(["a", "b"], ["x"], target=["a"]), "2 texts but 1 of target"),
    ],
)
def test_a_users_mistakes_are_named(with_oracle: Any, call: Callable[[SeqGPT], object], message: str) -> None:
    model, _ = with_oracle(lambda kind, text, labels: "x\n")
    with pytest.raises(UserError, match=message):
        call(model)


# --- with a real, untrained model ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_dir(vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory whose export/ holds a tiny random model."""
    folder = tmp_path_factory.mktemp("run")
    model = Bloom(BloomConfig(vocab_size=vocabulary.size, num_layers=2, width=16, num_heads=2), rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)  # noise, as a fresh model with a tied head only says its last token again
    nnx.update(model, jax.tree.map(lambda x: x + (0.6 * rng.normal(size=x.shape)).astype(x.dtype), nnx.state(model)))
    hf.export_model(model, vocabulary, folder / "export")
    return folder


def test_a_run_directory_and_its_export_are_the_same_model(run_dir: Path) -> None:
    decode = DecodeConfig(max_new_tokens=8, constrained=False)
    meta = DatasetMeta("toy", "EE", "en", ("meet", "leave"), roles=("who", "where"))
    records = [
        EventRecord(str(i), "EE", text, ()) for i, text in enumerate(["Ada met Bob", "Ada left Rome. " * 5, "x"])
    ]
    of_run = SeqGPT.from_pretrained(run_dir, decode=decode).predict_records(records, [meta] * 3)
    of_export = SeqGPT.from_pretrained(str(run_dir / "export"), decode=decode)
    one_by_one = [of_export.predict_records([record], [meta])[0] for record in records]
    assert [p.record.id for p in of_run] == ["0", "1", "2"]
    assert [p.answered[0].raw for p in of_run] == [p.answered[0].raw for p in one_by_one]
    assert len({p.answered[0].raw for p in of_run} - {""}) > 1


def test_the_answers_are_those_of_a_plain_loop_without_cache(run_dir: Path, vocabulary: Vocabulary) -> None:
    model = SeqGPT.from_pretrained(run_dir, decode=DecodeConfig(max_new_tokens=6, constrained=False))
    meta = DatasetMeta("toy", "CLS", "en", ("good", "bad"))
    (question,) = decompose(ClassificationRecord("0", "CLS", "Ada met Bob", ()), meta)
    ids = [*vocabulary.encode(SEQGPT_V1.render_prompt(question).removesuffix("[GEN]")), vocabulary.gen_id]
    num_prompt = len(ids)
    while len(ids) < num_prompt + 6 and ids[-1] != vocabulary.eos_id:
        tokens_1T = jnp.asarray(ids, jnp.int32)[None]
        hidden_1TD, _ = model.answerer.model(
            tokens_1T, jnp.arange(len(ids), dtype=jnp.int32)[None], jnp.ones_like(tokens_1T)
        )
        ids.append(int(model.answerer.model.head(hidden_1TD[:, -1]).argmax()))
    written = vocabulary.decode(ids[num_prompt:])
    assert written
    assert model.answer_questions([question])[0].raw == written


def test_questions_are_also_answered_without_constraints(run_dir: Path) -> None:
    model = SeqGPT.from_pretrained(run_dir, decode=DecodeConfig(max_new_tokens=6))
    meta = DatasetMeta("toy", "CLS", "en", ("good", "bad"))
    (question,) = decompose(ClassificationRecord("0", "CLS", "Ada met Bob", ()), meta)
    assert model.answer_questions([question])[0].raw in ("good\n", "bad\n")
    assert model.answer_questions([question], constrained=False)[0].parsed.problems != ()
