"""html_report.py: what the page says, that it needs nothing else, and that hostile text stays text.

The slow test opens it in Chromium where one is installed (Debian's chromium-headless-shell, say), and clicks.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax.analysis.breakdowns import by_label, by_length, confusion
from seqgpt_jax.analysis.error_kinds import count_errors
from seqgpt_jax.analysis.html_report import write_html
from seqgpt_jax.analysis.record_counts import headline_counts
from seqgpt_jax.averages import AnswerRates, DatasetEvaluation, Evaluation
from seqgpt_jax.errors import UserError
from seqgpt_jax.metrics import baseline_predictions, score_dataset
from seqgpt_jax.predictions import GivenAnswer, PredictedRecord, write_predictions
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
from seqgpt_jax.sections import section_to_dict

HOSTILE = (
    "</script><script>document.title='hacked'</script><!-- <img src=x onerror=alert()> &amp; \u202egnp \x00\x1b[31m"
)
SHOWN = HOSTILE.replace("\u202e", "U+202E").replace("\x00", "U+0000").replace("\x1b", "U+001B")
RIGHT_TO_LEFT = "פגישה עם \U0001f642 Ada בתל אביב"  # a character outside the BMP before the span


def _entity(text: str, part: str, label: str) -> Span:
    return Span(label, text.index(part), text.index(part) + len(part), part)


def _answer(raw: str, labels: tuple[str, ...], text: str, problems: tuple[str, ...] = ()) -> GivenAnswer:
    return GivenAnswer("extract", (), "extract", text, labels, raw, problems)


def _people(i: int) -> PredictedRecord:
    text = RIGHT_TO_LEFT if i % 2 else f"Number {i}: Ada met Bob {HOSTILE}"
    gold: Record = ExtractionRecord(f"people-{i}", "NER", text, (_entity(text, "Ada", "person"),))
    said = (_entity(text, "Ada", "person" if i % 3 else "place"),)
    answer = _answer(f"person: Ada\n{HOSTILE}", ("person", "place"), text, ("not well-formed",) if i == 4 else ())
    return PredictedRecord(gold, replace(gold, spans=said), (answer,))


def _topic(i: int) -> PredictedRecord:
    gold: Record = ClassificationRecord(f"topic-{i}", "CLS", f"新闻 {i}", (("体育", "贸易", HOSTILE)[i % 3],))
    said = replace(gold, labels=(("体育", "体育", HOSTILE)[i % 3],))
    return PredictedRecord(gold, said, (_answer("体育\n", ("体育", "贸易", HOSTILE), gold.text),))


def _relation(i: int) -> PredictedRecord:
    text = f"Ada {i} knows Bob"
    entities = (_entity(text, "Ada", "person"), _entity(text, "Bob", "person"))
    gold: Record = RelationRecord(f"relation-{i}", "RE", text, entities, (Relation("knows", 0, 1),))
    return PredictedRecord(gold, replace(gold, relations=()), ())


def _event(i: int) -> PredictedRecord:
    text = f"Ada {i} left Rome"
    event = Event("leave", _entity(text, "left", "leave"), (_entity(text, "Ada", "who"),))
    return PredictedRecord(gold := EventRecord(f"event-{i}", "EE", text, (event,)), gold, ())


def _evaluated(meta: DatasetMeta, records: list[PredictedRecord], folder: Path) -> DatasetEvaluation:
    gold, said = [each.gold for each in records], [each.predicted for each in records]
    counts = headline_counts(gold, said, meta)
    path = folder / "predictions" / f"{meta.language}-{meta.name.encode('ascii', 'ignore').hex()}-test.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_predictions(path, records)
    return DatasetEvaluation(
        name=meta.name,
        task=meta.task,
        language=meta.language,
        kind=gold[0].kind,
        split="test",
        score=score_dataset(gold, said, meta),
        baseline=score_dataset(gold, baseline_predictions(gold, meta), meta),
        rates=AnswerRates(len(records), 0.125, 0.0, 0.0),
        unconstrained=AnswerRates(len(records), 0.375, 0.25, 0.0625),
        num_cut=1,
        tokens_cut=3,
        counts=counts,
        labels=meta.labels,
        by_label=by_label(gold, said, meta),
        by_length=by_length(gold, counts, meta.language),
        errors=count_errors(records, meta),
        confusion=confusion(gold, said, meta),
        predictions=path,
    )


NAMES = ("people", "topics", "knows & <b>friends</b>", "leaving")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation of four datasets, with its page."""
    made = tmp_path_factory.mktemp("scores")
    metas = (
        DatasetMeta(NAMES[0], "NER", "en", ("person", "place")),
        DatasetMeta(NAMES[1], "CLS", "zh", ("体育", "贸易", HOSTILE)),
        DatasetMeta(NAMES[2], "RE", "en", ("knows",)),
        DatasetMeta(NAMES[3], "EE", "en", ("leave",)),
    )
    makers = (_people, _topic, _relation, _event)
    datasets = tuple(
        _evaluated(meta, [make(i) for i in range(25)], made) for meta, make in zip(metas, makers, strict=True)
    )
    evaluation = Evaluation(
        "test", 25, datasets, ("left_out",), {"goldless": "no gold"}, 7, {"name": HOSTILE, "settings": {"beams": 2}}
    )
    report = section_to_dict(evaluation, made)
    report["system"]["error"] = f"{HOSTILE}\ud800"  # as a server's answer may hold it; JSON escapes it
    report["datasets"][0]["errors"]["wrong_type"]["examples"][0]["gold"] = "\ud800"
    (made / "report.json").write_text(json.dumps(report), "utf-8")
    assert write_html(made) == made / "report.html"
    return made


class _Page(HTMLParser):
    """Elements with their attributes, the text of the data, and whether every element is closed that has to be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.data: list[Any] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.rows: list[tuple[dict[str, str | None], list[str | None]]] = []  # attributes, and the values of the cells
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append((dict(attrs), []))
        elif tag == "td":
            self.rows[-1][1].append(dict(attrs).get("data-value"))
        if tag not in ("meta", "input", "line", "rect", "br", "tr", "td", "th"):  # void ones, and those that may stay
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "rect", "tr", "td", "th"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            kind = self.elements[-1][1].get("type")
            (self.data if kind == "application/json" else self.scripts).append(
                json.loads(data) if kind == "application/json" else data
            )


@pytest.fixture(scope="module")
def page(folder: Path) -> _Page:
    return _Page((folder / "report.html").read_text("utf-8"))


def test_the_page_needs_nothing_else(folder: Path, page: _Page) -> None:
    assert page.open == []
    assert len(page.scripts) == 1, "the page's own script, and none that a dataset brought along"
    for tag, attributes in page.elements:
        assert tag not in ("img", "link", "iframe", "object", "embed", "base"), tag
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    text = (folder / "report.html").read_text("utf-8")
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"url\(|@import|@font-face", style)
    policies = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"]


def test_numbers_are_those_of_the_report(folder: Path, page: _Page) -> None:
    report = json.loads((folder / "report.json").read_text("utf-8"))
    assert sorted(each["name"] for each in page.data) == sorted(NAMES)
    for each in report["datasets"]:
        embedded = next(data for data in page.data if data["name"] == each["name"])
        same = each.keys() - {"counts"}
        assert {name: embedded[name] for name in same} == {name: each[name] for name in same}
        assert (len(embedded["records"]), embedded["left_out"]) == (25, 0)
        wrong = [item[0] for record in embedded["records"] for item in record["items"] if item[0] != "right"]
        assert {kind: wrong.count(kind) for kind in each["errors"]} == {
            kind: error["count"] for kind, error in each["errors"].items()
        }
    rows = [(attributes["data-name"], cells) for attributes, cells in page.rows if "data-dataset" in attributes]
    assert len(rows) == len(report["datasets"])
    for each in report["datasets"]:
        cells = dict(rows)[each["name"]]
        gain = each["score"] - each["baseline"]
        shown = [each["score"], each["interval"][0], each["baseline"], gain, each["num_records"]]
        shown += [error["count"] for error in each["errors"].values()]
        assert cells == [None, None, None, None, *map(str, shown), str(each["num_cut"])]
    for language, scores in report["per_language"].items():
        large = [a["data-value"] for tag, a in page.elements if tag == "p" and a.get("data-score") == language]
        assert large == [str(scores["score"])]
        for task in scores["per_task"].values():
            shown = [task["score"], task["interval"][0], task["baseline"], task["score"] - task["baseline"], 1]
            assert [None, None, None, *map(str, shown)] in [cells for _, cells in page.rows]


def test_hostile_text_stays_text(folder: Path, page: _Page) -> None:
    text = (folder / "report.html").read_text("utf-8")
    assert "<script>document.title" not in text
    assert not re.search("[\x00-\x08\x0b-\x1f\ud800-\udfff]", text)
    people = next(data for data in page.data if data["name"] == "people")
    record = people["records"][0]
    assert record["text"] == f"Number 0: Ada met Bob {HOSTILE}"
    assert record["answers"][0]["raw"] == f"person: Ada\n{HOSTILE}"
    assert people["errors"]["wrong_type"]["examples"][0]["gold"] == "\ud800"
    assert "[31m\ufffd</bdi>" in text, "in the summary it is replaced"
    assert people["label_lists"][record["answers"][0]["labels"]] == ["person", "place"]
    assert [record["gold"], record["said"]] == [[["person", 10, 13]], [["place", 10, 13]]]
    assert record["items"][0][0] == "wrong_type"
    leaving = next(data for data in page.data if data["name"] == "leaving")
    assert leaving["records"][0]["gold"] == [["leave", 6, 10], ["who", 0, 3]]


def test_what_is_left_out_is_said(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    page = _Page(write_html(tmp_path / "copy" / "report.json", max_records=10).read_text("utf-8"))
    assert {(len(data["records"]), data["left_out"]) for data in page.data} == {(10, 15)}


def test_an_evaluation_without_any_score_has_a_page(tmp_path: Path) -> None:
    nothing = section_to_dict(Evaluation("test", None, (), (), {"goldless": "no gold"}), tmp_path)
    (tmp_path / "held_out.json").write_text(json.dumps(nothing), "utf-8")
    path = write_html(tmp_path / "held_out.json")
    assert path.name == "held_out.html" and "goldless" in path.read_text("utf-8")


def test_what_is_no_report_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such report"):
        write_html(tmp_path)
    (tmp_path / "report.json").write_text("[1", "utf-8")
    with pytest.raises(UserError, match="not JSON"):
        write_html(tmp_path)
    (tmp_path / "report.json").write_text('{"stages": []}', "utf-8")
    with pytest.raises(UserError, match="it has no datasets"):
        write_html(tmp_path)
    shutil.copy(folder / "report.json", tmp_path)
    with pytest.raises(UserError, match="no such file of predictions"):
        write_html(tmp_path)


# --- in a browser ----------------------------------------------------------------------------------------------------

_BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")

_CLICKS = """
<script>
const said = [];
const change = (id, value, event) => { const e = document.getElementById(id);
  if (typeof value === "boolean") e.checked = value; else e.value = value;
  e.dispatchEvent(new Event(event)); };
const see = (name) => said.push([name, document.getElementById("num-records").textContent]);
addEventListener("error", (event) => said.push(["error", event.message]));
change("find-dataset", "en ner", "input");
said.push(["found", document.getElementById("num-datasets").textContent]);
location.hash = "dataset-%d";
setTimeout(() => {
  see("all");
  said.push(["page", String(document.querySelectorAll(".record").length)]);
  document.getElementById("later").click();
  said.push(["later", String(document.querySelectorAll(".record").length)]);
  change("only", true, "change"); see("errors only");
  change("only", false, "change");
  change("kind", "wrong_type", "change"); see("wrong type");
  change("kind", "", "change");
  change("label", "place", "change"); see("place");
  change("label", "", "change");
  change("text", "people-11", "input"); see("id");
  said.push(["marked", [...document.querySelectorAll(".record mark")].map((mark) => mark.textContent).join()]);
  document.querySelector(".record details").open = true;
  setTimeout(() => {
    said.push(["raw", document.querySelector(".record pre").textContent]);
    said.push(["title", document.title]);
    document.title = "done:" + JSON.stringify(said);
  }, 50);
}, 50);
</script>
"""


def _browser() -> str:
    found: Iterator[str] = (path for name in _BROWSERS if (path := shutil.which(name)))
    browser = next(found, None)
    if browser is None:
        pytest.skip(f"no browser to open the page with (apt-get install {_BROWSERS[0]})")
    return browser


@pytest.mark.slow
def test_filters_work_in_a_browser_and_no_request_leaves(folder: Path, page: _Page, tmp_path: Path) -> None:
    browser = _browser()
    place = next(i for i, data in enumerate(page.data) if data["name"] == "people")
    text = (folder / "report.html").read_text("utf-8")
    clicked, log = tmp_path / "clicked.html", tmp_path / "net.json"
    clicked.write_text(text.replace("</body>", _CLICKS % place + "</body>"), "utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--log-net-log={log}", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", clicked.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    title = re.search(r"<title>done:(.*?)</title>", shown, re.DOTALL)
    assert title, shown[:500]
    said = dict(json.loads(title[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")))
    assert said == {
        "found": "1 of 4 datasets",
        "all": "25 of 25 records",
        "page": "20",
        "later": "5",
        "errors only": "9 of 25 records",  # 0, 3, 6 ... 24
        "wrong type": "9 of 25 records",
        "place": "9 of 25 records",
        "id": "1 of 25 records",
        "marked": "Ada",  # places count code points
        "raw": f"person: Ada\n{SHOWN}",
        "title": f"{folder.name}: evaluation",
    }
    urls = set(re.findall(r'"url":"([a-z]+:[^"]*)"', log.read_text("utf-8", errors="replace")))
    assert not {url for url in urls if clicked.name not in url and url.startswith(("http", "ws", "ftp"))}, urls
