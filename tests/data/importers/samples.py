"""One handmade input or more for each format, with the records that it holds. No content of real datasets."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqgpt_jax.records import (
    ClassificationRecord,
    Event,
    EventRecord,
    ExtractionRecord,
    Record,
    Relation,
    RelationRecord,
    Span,
    Target,
)

CLUENER = {"label": {"person": {"李明": [[0, 1]]}, "city": {"北京": [[3, 4], [6, 7]]}}}


@dataclass
class Sample:
    """files: name -> content. source: what is given to the command, "" for the folder. arguments: as on the command
    line. The records are those of the data set `x`, in order, all in train unless split says otherwise."""

    format: str
    files: dict[str, str]
    records: list[Record]
    source: str
    arguments: dict[str, Any] = field(default_factory=dict)
    language: str = "en"

    def write(self, folder: Path) -> Path:
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content.encode("utf-8"))
        return folder / self.source


def lines(*objects: Any) -> str:
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in objects)


def tasks(*objects: Any) -> str:
    return json.dumps(objects, indent=2)


def region(id: str, start: int, end: int, string: str, label: str) -> dict[str, Any]:
    return {"id": id, "type": "labels", "value": {"start": start, "end": end, "text": string, "labels": [label]}}


def ner(number: int, text: str, *spans: tuple[str, int, int], id: str | None = None, task: str = "NER") -> Record:
    found = tuple(Span(label, start, end, text[start:end]) for label, start, end in spans)
    return ExtractionRecord(id or f"x-train-{number}", task, text, found)


def cls(number: int, text: str, *labels: str, task: str = "CLS", id: str | None = None, **more: Any) -> Record:
    return ClassificationRecord(id or f"x-train-{number}", task, text, labels, **more)


ADA = "Ada met Bo in Rome"
ADA_BO = (Span("person", 0, 3, "Ada"), Span("person", 8, 10, "Bo"))
MET = RelationRecord("7", "RE", ADA, ADA_BO, (Relation("met", 1, 0),))
EMOJI = "😀 Ada met Bo"  # utf16: Ada 3..6; code points: 2..5

SAMPLES: dict[str, Sample] = {
    "conll_bio": Sample(
        "conll",
        {
            "a.conll": "-DOCSTART- -X- -X- O\n\n"
            "EU NNP B-NP B-ORG\nrejects VBZ B-VP O\nGerman JJ B-NP B-MISC\n\n"
            "Ada X X B-PER\nPark X X I-PER\n"
        },
        [ner(0, "EU rejects German", ("ORG", 0, 2), ("MISC", 11, 17)), ner(1, "Ada Park", ("PER", 0, 8))],
        "a.conll",
    ),
    "conll_iob1": Sample(  # a span begins with I; B only parts two of a label
        "conll",
        {
            "a.txt": "# id 1 domain=x\nAda\tI-PER\nPark\tI-PER\nBo\tB-PER\n"
            "in\tO\nRome\tI-LOC\nParis\tI-LOC\nNorth\tI-ORG\n"
        },
        [
            ner(
                0,
                "Ada Park Bo in Rome Paris North",
                ("PER", 0, 8),
                ("PER", 9, 11),
                ("LOC", 15, 25),
                ("ORG", 26, 31),
            )
        ],
        "a.txt",
    ),
    "conll_bioes": Sample(
        "conll",
        {"a.bioes": "New B-LOC\r\nYork I-LOC\r\nCity E-LOC\r\nRome S-LOC\r\n, O\r\nOslo S-LOC\r\n# O\r\n"},
        [ner(0, "New York City Rome , Oslo #", ("LOC", 0, 13), ("LOC", 14, 18), ("LOC", 21, 25))],
        "a.bioes",
    ),
    "conll_bilou": Sample(
        "conll",
        {"a.bilou": "Ada B-PER\nPark L-PER\nBo U-PER\nJo U-PER\n"},
        [ner(0, "Ada Park Bo Jo", ("PER", 0, 8), ("PER", 9, 11), ("PER", 12, 14))],
        "a.bilou",
    ),
    "conll_zh_bmes": Sample(
        "conll",
        {"a.txt": "李 B-人名\n小 M-人名\n明 E-人名\n在 O\n京 S-城市\n\n他\tO\n \tO\n好\tO\n"},
        [ner(0, "李小明在京", ("人名", 0, 3), ("城市", 4, 5)), ner(1, "他 好")],
        "a.txt",
        language="zh",
    ),
    "conll_columns": Sample(
        "conll",
        {"a.txt": "1\tAda\tB-PER\tx\n2\tis\tO\ty\n"},
        [ner(0, "Ada is", ("PER", 0, 3))],
        "a.txt",
        {"format_name": "conll", "token_column": 2, "tag_column": 3},
    ),
    "bio_json_tokens": Sample(
        "bio-json",
        {"a.jsonl": lines({"id": 5, "tokens": ["Ada", "is", "in", "Rome"], "ner_tags": ["B-PER", "O", "O", "B-LOC"]})},
        [ner(0, "Ada is in Rome", ("PER", 0, 3), ("LOC", 10, 14), id="5")],
        "a.jsonl",
    ),
    "bio_json_characters": Sample(
        "bio-json",
        {"a.json": lines({"text": ["李", "明", "说"], "labels": ["B-人名", "I-人名", "O"]})},
        [ner(0, "李明说", ("人名", 0, 2))],
        "a.json",
        language="zh",
    ),
    "bio_json_spans": Sample(
        "bio-json",
        {
            "a.jsonl": lines(
                {"text": EMOJI, "entities": [{"start": 2, "end": 5, "type": "PER", "text": "Ada"}]},
                {"text": "no", "spans": []},
            )
        },
        [ner(0, EMOJI, ("PER", 2, 5)), ner(1, "no")],
        "a.jsonl",
    ),
    "bio_json_cluener": Sample(
        "bio-json",
        {"a.json": lines({"text": "李明在北京，北京好", **CLUENER})},
        [ner(0, "李明在北京，北京好", ("person", 0, 2), ("city", 3, 5), ("city", 6, 8))],
        "a.json",
        language="zh",
    ),
    "doccano_spans": Sample(
        "doccano",
        {
            "admin.jsonl": lines(
                {"id": 3, "text": ADA, "label": [[0, 3, "person"], [14, 18, "place"]], "Comments": []},
                {"id": 4, "text": "no", "label": []},
            )
        },
        [ner(0, ADA, ("person", 0, 3), ("place", 14, 18), id="3"), ner(1, "no", id="4")],
        "admin.jsonl",
    ),
    "doccano_old": Sample(
        "doccano",
        {"a.json1": lines({"text": ADA, "labels": [[0, 3, "person"], [0, 10, "pair"]]})},
        [ner(0, ADA, ("person", 0, 3), ("pair", 0, 10))],
        "a.json1",
    ),
    "doccano_utf16": Sample(
        "doccano",
        {"a.jsonl": lines({"text": EMOJI, "label": [[0, 2, "mood"], [3, 6, "person"], [11, 13, "person"]]})},
        [ner(0, EMOJI, ("mood", 0, 1), ("person", 2, 5), ("person", 10, 12))],
        "a.jsonl",
    ),
    "doccano_classes": Sample(
        "doccano",
        {
            "a.jsonl": lines(
                {"text": "Great price.", "label": ["good"]},
                {"text": "It is.", "label": []},
                {"text": "Both?", "label": ["good", "bad"]},
            )
        },
        [cls(0, "Great price.", "good"), cls(1, "It is."), cls(2, "Both?", "good", "bad")],
        "a.jsonl",
    ),
    "doccano_relations": Sample(
        "doccano",
        {
            "a.jsonl": lines(
                {
                    "id": 7,
                    "text": ADA,
                    "entities": [
                        {"id": 91, "label": "person", "start_offset": 0, "end_offset": 3},
                        {"id": 90, "label": "person", "start_offset": 8, "end_offset": 10},
                    ],
                    "relations": [{"id": 1, "from_id": 90, "to_id": 91, "type": "met"}],
                }
            )
        },
        [MET],
        "a.jsonl",
    ),
    "doccano_intent": Sample(
        "doccano",
        {"a.jsonl": lines({"text": ADA, "entities": [[0, 3, "person"]], "cats": ["news"]})},
        [cls(0, ADA, "news", task="ID")],
        "a.jsonl",
        {"task": "ID"},
    ),
    "labelstudio_spans": Sample(
        "labelstudio",
        {
            "project.json": tasks(
                {
                    "id": 7,
                    "data": {"text": ADA, "source": "web"},
                    "predictions": [{"result": []}],
                    "annotations": [
                        {"id": 1, "was_cancelled": True, "created_at": "2024-03-01", "result": []},
                        {"id": 2, "created_at": "2024-01-01", "result": []},
                        {
                            "id": 3,
                            "created_at": "2024-02-01",
                            "result": [
                                region("b", 0, 3, "Ada", "person"),
                                region("a", 8, 10, "Bo", "person"),
                                {
                                    "type": "relation",
                                    "from_id": "b",
                                    "to_id": "a",
                                    "direction": "left",
                                    "labels": ["met"],
                                },
                            ],
                        },
                    ],
                },
                {"id": 8, "data": {"text": "not yet"}, "annotations": []},
            )
        },
        [MET],
        "project.json",
    ),
    "labelstudio_utf16": Sample(  # as before 2021; the string beside the offsets tells
        "labelstudio",
        {
            "a.json": tasks(
                {
                    "id": 1,
                    "data": {"text": EMOJI},
                    "completions": [{"result": [region("b", 3, 6, "Ada", "person")]}],
                }
            )
        },
        [ner(0, EMOJI, ("person", 2, 5), id="1")],
        "a.json",
    ),
    "labelstudio_choices": Sample(
        "labelstudio",
        {
            "a.json": tasks(
                {
                    "id": 1,
                    "data": {"review": "Great.\r\nPrice."},
                    "annotations": [{"result": [{"type": "choices", "value": {"choices": ["good", "cheap"]}}]}],
                },
                {"id": 2, "data": {"review": "So so."}, "annotations": [{"result": []}]},
            )
        },
        [cls(0, "Great.\r\nPrice.", "good", "cheap", id="1"), cls(1, "So so.", id="2")],
        "a.json",
    ),
    "labelstudio_min": Sample(
        "labelstudio",
        {
            "a.json": tasks(
                {"text": "no", "source": "web", "id": 1, "annotator": 1, "annotation_id": 4, "lead_time": 1},
                {
                    "text": EMOJI,
                    "source": "web",
                    "id": 2,
                    "label": [{"start": 2, "end": 5, "text": "Ada", "labels": ["person", "name"]}],
                    "annotator": 1,
                    "annotation_id": 5,
                },
            )
        },
        [ner(0, "no", id="1"), ner(1, EMOJI, ("person", 2, 5), ("name", 2, 5), id="2")],
        "a.json",
    ),
    "labelstudio_min_choice": Sample(
        "labelstudio",
        {
            "a.json": tasks(
                {"text": "Great.", "id": 1, "sentiment": "good", "annotator": 1, "annotation_id": 5},
                {"text": "Hm.", "id": 2, "sentiment": {"choices": ["good", "bad"]}, "annotator": 1},
            )
        },
        [cls(0, "Great.", "good", id="1"), cls(1, "Hm.", "good", "bad", id="2")],
        "a.json",
    ),
    "csv": Sample(
        "csv",
        {"a.csv": 'id,Text,Label,rest\n1,"Great, ""really"".",good,x\n2,"two\nlines",bad,y\n'},
        [cls(0, 'Great, "really".', "good", id="1"), cls(1, "two\nlines", "bad", id="2")],
        "a.csv",
    ),
    "csv_pairs": Sample(
        "csv",
        {"a.tsv": "premise\thypothesis\tlabel\nAda ran.\tAda moved.\tentailment\n"},
        [cls(0, "Ada ran.", "entailment", task="NLI", text_pair="Ada moved.")],
        "a.tsv",
    ),
    "csv_target": Sample(
        "csv",
        {"a.csv": "sentence;aspect;label\nGood food here;food;good\n"},
        [cls(0, "Good food here", "good", task="SA", target=Target("food"))],
        "a.csv",
        {"task": "SA"},
    ),
    "csv_no_header": Sample(
        "csv",
        {"a.tsv": 'good|cheap\t"Nice" price\n\t\n\tNothing\n'},
        [cls(0, '"Nice" price', "good", "cheap"), cls(1, "Nothing")],
        "a.tsv",
        {"text_column": "2", "label_column": "1", "separator": "|", "quotes": "none"},
    ),
    "csv_zh": Sample(
        "csv",
        {"a.csv": "\ufeff标签,文本\n积极,很好！\n"},
        [cls(0, "很好！", "积极")],
        "a.csv",
        language="zh",
    ),
    "brat_spans": Sample(
        "brat",
        {
            "a/doc-2.txt": EMOJI,
            "a/doc-2.ann": "T1\tperson 2 5\tAda\nA1\tSure T1\n#1\tAnnotatorNotes T1\twho?\n",
            "a/doc-10.txt": "New\r\nYork City",
            "a/doc-10.ann": "T1\tplace 0 3;5 9\tNew York\n",
        },
        [ner(0, EMOJI, ("person", 2, 5), id="doc-2"), ner(1, "New\r\nYork City", ("place", 0, 9), id="doc-10")],
        "a",
    ),
    "brat_relations": Sample(
        "brat",
        {
            "a/7.txt": ADA,
            "a/7.ann": "T2\tperson 0 3\tAda\nT1\tperson 8 10\tBo\nR1\tmet Arg1:T1 Arg2:T2\t\n*\tEquiv T1 T2\n",
        },
        [MET],
        "a",
    ),
    "brat_events": Sample(
        "brat",
        {
            "a/7.txt": ADA,
            "a/7.ann": "T1\tperson 0 3\tAda\nT2\tperson 8 10\tBo\nT3\tmeeting 4 7\tmet\n"
            "E1\tmeeting:T3 who:T1 who2:T2\n",
            "a/visual.conf": "[labels]\nwho | who is there\n",
        },
        [
            EventRecord(
                "7",
                "EE",
                ADA,
                (
                    Event(
                        "meeting",
                        Span("meeting", 4, 7, "met"),
                        (Span("who is there", 0, 3, "Ada"), Span("who is there", 8, 10, "Bo")),
                    ),
                ),
            )
        ],
        "a",
    ),
    "brat_line_ends": Sample(  # written where \r\n was one character
        "brat",
        {"a/d.txt": "One\r\ntwo\r\nthree", "a/d.ann": "T1\tx 8 13\tthree\r\n"},
        [ner(0, "One\ntwo\nthree", ("x", 8, 13), id="d")],
        "a",
    ),
}
