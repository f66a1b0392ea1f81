"""What each bad input is told: the file, the line or task, the field and the remedy, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax.errors import UserError
from tests.data.importers.samples import EMOJI, lines, region, tasks
from tests.data.importers.test_formats import convert

ADA = "Ada is in Rome"


def labelled(*results: Any, text: str = ADA) -> str:
    return tasks({"id": 5, "data": {"text": text}, "annotations": [{"result": list(results)}]})


CHOICE = {"type": "choices", "from_name": "tone", "value": {"choices": ["good"]}}

BAD = {  # name -> (format, file name, content, options, the part of the message behind the folder)
    "conll: no tag": ("conll", "a.txt", "Ada B-PER\nPark\n", {}, 'a.txt:2: "Park" has 1 columns, and 2 are needed'),
    "conll: odd tag": ("conll", "a.txt", "Ada B-PER\nPark PER\n", {}, "a.txt:2: field 'column 2': the tag of \"Park\""),
    "conll: column": ("conll", "a.txt", "Ada B-PER\n", {"tag_column": 3}, 'a.txt:1: "Ada B-PER" has 2 columns, and 3'),
    "conll: not UTF-8": ("conll", "a.txt", b"Ada O\n\xff O\n", {}, "a.txt:2: not UTF-8 text"),
    "conll: empty": ("conll", "a.txt", "\n", {}, "a.txt: holds no annotated text"),
    "conll: option": ("conll", "a.txt", "Ada O\n", {"offsets": "utf16"}, "--offsets says nothing to format conll"),
    "conll: nothing": ("conll", "a.txt", "Ada O\n", {}, "nothing is annotated in any text, so the task cannot be told"),
    "bio: numbers": (
        "bio-json",
        "a.jsonl",
        lines({"tokens": ["Ada"], "tags": [1]}),
        {},
        "a.jsonl:1: field 'tags': holds numbers",
    ),
    "bio: lengths": (
        "bio-json",
        "a.jsonl",
        lines({"tokens": ["Ada"], "tags": []}),
        {},
        "a.jsonl:1: field 'tags': has 0 tags for 1 tokens",
    ),
    "bio: wrong string": (
        "bio-json",
        "a.jsonl",
        lines({"text": ADA, "spans": [{"start": 1, "end": 4, "label": "x", "text": "Ada"}]}),
        {},
        'a.jsonl:1: field \'spans[0].start\': 1..4 is "da ", not "Ada" (it occurs at 0)',
    ),
    "bio: cluener": (
        "bio-json",
        "a.jsonl",
        lines({"text": ADA, "label": {"x": {"Ada": [[0, 3]]}}}),
        {},
        "a.jsonl:1: field 'label.x.start': 0..4 is \"Ada \"",
    ),
    "bio: none": (
        "bio-json",
        "a.jsonl",
        lines({"text": ADA}),
        {},
        "a.jsonl:1: no annotation that is known (write tokens",
    ),
    "doccano: not JSON": ("doccano", "a.jsonl", lines({"text": ADA, "label": []}) + "{", {}, "a.jsonl:2: not JSON"),
    "doccano: no label": ("doccano", "a.jsonl", lines({"text": ADA}), {}, "a.jsonl:1: field 'label': is missing"),
    "doccano: text": (
        "doccano",
        "a.jsonl",
        lines({"text": 3, "label": []}),
        {},
        "a.jsonl:1: field 'text': is 3 (it must be a string)",
    ),
    "doccano: triple": (
        "doccano",
        "a.jsonl",
        lines({"text": ADA, "label": [[0, "x"]]}),
        {},
        "a.jsonl:1: field 'label[0]': is [0, \"x\"]",
    ),
    "doccano: beyond": (
        "doccano",
        "a.jsonl",
        lines({"text": ADA, "label": [[0, 15, "x"]]}),
        {},
        "a.jsonl:1: field 'label[0].start': 0..15 is no span of a text of 14",
    ),
    "doccano: which": (
        "doccano",
        "a.jsonl",
        lines({"text": EMOJI, "label": [[3, 6, "x"]]}),
        {},
        'a.jsonl:1: field \'label[0].start\': 3..6 is "Ada" in utf16 and "da " in code_points, and the file does not '
        "say which it counts (give --offsets utf16 or code_points)",
    ),
    "doccano: cut": (
        "doccano",
        "a.jsonl",
        lines({"text": EMOJI, "label": [[0, 1, "x"]]}),
        {"offsets": "utf16"},
        "a.jsonl:1: field 'label[0].start': 0..1 cuts a character in two",
    ),
    "doccano: id": (
        "doccano",
        "a.jsonl",
        lines(
            {
                "text": ADA,
                "entities": [{"id": 1, "label": "x", "start_offset": 0, "end_offset": 3}],
                "relations": [{"from_id": 1, "to_id": 2, "type": "r"}],
            }
        ),
        {},
        "a.jsonl:1: field 'relations[0].to_id': is 2, and no entity has this id",
    ),
    "doccano: both": (
        "doccano",
        "a.jsonl",
        lines({"text": ADA, "label": [[0, 3, "x"]]}, {"text": ADA, "label": ["x"]}),
        {},
        "a.jsonl:2, NER at ",
    ),
    "doccano: same id": (
        "doccano",
        "a.jsonl",
        lines({"id": 1, "text": ADA, "label": ["x"]}, {"id": 1, "text": ADA, "label": ["x"]}),
        {},
        "a.jsonl:2: field 'id': \"1\" stands at ",
    ),
    "doccano: task": (
        "doccano",
        "a.jsonl",
        lines({"text": ADA, "label": [[0, 3, "x"]]}),
        {"task": "CLS"},
        "no label for task CLS occurs",
    ),
    "doccano: label": (
        "doccano",
        "a.jsonl",
        lines({"text": ADA, "label": ["x"]}, {"text": ADA, "label": ["y"]}),
        {"labels": ("x",)},
        "a.jsonl:2: field 'labels': \"y\" is not in the dataset's labels",
    ),
    "doccano: None": (
        "doccano",
        "a.jsonl",
        lines({"text": ADA, "label": ["None"]}),
        {},
        "label 'None' cannot be asked",
    ),
    "doccano: language": (
        "doccano",
        "a.jsonl",
        lines({"text": "Это русский текст", "label": ["x"]}),
        {},
        "the texts look neither English nor Chinese (give --language en or --language zh)",
    ),
    "studio: not JSON": ("labelstudio", "a.json", "[{]", {}, "a.json: not JSON"),
    "studio: no list": ("labelstudio", "a.json", '{"id": 1}', {}, "a.json: must be a list of objects"),
    "studio: no object": ("labelstudio", "a.json", "[1]", {}, "a.json: field '[0]': is 1"),
    "studio: no text": (
        "labelstudio",
        "a.json",
        tasks({"id": 5, "data": {"a": "x", "b": "y"}, "annotations": [{"result": []}]}),
        {},
        'a.json: field \'task 5: data.text\': is missing, and ["a", "b"] are strings (name the text with',
    ),
    "studio: string": (
        "labelstudio",
        "a.json",
        labelled(region("r", 1, 4, "Ada", "x")),
        {},
        'a.json: field \'task 5: annotations[0].result[0].value.start\': 1..4 is "da ", not "Ada"',
    ),
    "studio: no start": (
        "labelstudio",
        "a.json",
        labelled({"type": "labels", "value": {"end": 3, "labels": ["x"]}}),
        {},
        "a.json: field 'task 5: annotations[0].result[0].value.start': is missing",
    ),
    "studio: relation": (
        "labelstudio",
        "a.json",
        labelled({"type": "relation", "from_id": "q", "to_id": "q", "labels": ["x"]}),
        {},
        "a.json: field 'task 5: annotations[0].result[0].from_id': is \"q\", and no labelled region has this id",
    ),
    "studio: two choices": (
        "labelstudio",
        "a.json",
        labelled(CHOICE, {**CHOICE, "from_name": "topic"}),
        {},
        'there are choices of ["tone", "topic"] (name those that you want with --label_column)',
    ),
    "studio: unlabelled": (
        "labelstudio",
        "a.json",
        tasks({"id": 1, "data": {"text": "x y"}}),
        {},
        "a.json: holds no annotated",
    ),
    "csv: columns": ("csv", "a.csv", "text,label\na,b\nc\n", {}, "a.csv:3: 1 columns, where the first line has 2"),
    "csv: quotes": ("csv", "a.csv", 'text,label\n"a" b,c\n', {}, "a.csv:2: no row of a table: ',' expected after '\"'"),
    "csv: open quote": (
        "csv",
        "a.csv",
        'text,label\nx,y\n"a,c\nd,e\n',
        {},
        "a.csv:3: no row of a table: unexpected end",
    ),
    "csv: no label": ("csv", "a.csv", "text,label\na,\n", {}, "a.csv:2: field 'label': is empty (write a label; give"),
    "csv: no text": ("csv", "a.csv", "text,label\n ,b\n", {}, "a.csv:2: field 'text': is empty"),
    "csv: no header": ("csv", "a.csv", "a one,b\nc,d\n", {}, "a.csv: the first line names no text and label column"),
    "csv: name": (
        "csv",
        "a.csv",
        "text,label\na,b\n",
        {"label_column": "c"},
        "a.csv: no column 'c' for the label (there are: text, label)",
    ),
    "csv: number": (
        "csv",
        "a.csv",
        "text,label\na,b\n",
        {"label_column": "3"},
        "a.csv: no column 3 for the label (there are 2, counted",
    ),
    "brat: no text": ("brat", "a/1.ann", "T1\tx 0 3\tAda\n", {}, "1.txt: no such file"),
    "brat: no id": ("brat", "a/1.ann", "Q1\tx 0 3\tAda\n", {}, "1.ann:1: field 'id': is \"Q1\""),
    "brat: place": (
        "brat",
        "a/1.ann",
        "T1\tx 0\tAda\n",
        {},
        "1.ann:1: field 'T1': is \"x 0\" (a span is TYPE START END",
    ),
    "brat: twice": (
        "brat",
        "a/1.ann",
        "T1\tx 0 3\tAda\nT1\tx 0 3\tAda\n",
        {},
        "1.ann:2: field 'T1': stands here twice",
    ),
    "brat: string": (
        "brat",
        "a/1.ann",
        "T1\tx 1 4\tAda\n",
        {},
        '1.ann:1: field \'T1 start\': 1..4 is "da ", not "Ada" (it occurs at 0)',
    ),
    "brat: ends": ("brat", "a/1.ann", "T1\tx 0 3\tAda\nR1\tr Arg1:T1\n", {}, "1.ann:2: field 'R1': has 1 ends"),
    "brat: end": (
        "brat",
        "a/1.ann",
        "T1\tx 0 3\tAda\nR1\tr Arg1:T1 Arg2:T2\n",
        {},
        "1.ann:2: field 'R1': names \"T2\", which is no span",
    ),
    "brat: trigger": ("brat", "a/1.ann", "E1\tx:T1\n", {}, "1.ann:1: field 'E1': names \"T1\" as its trigger"),
    "brat: empty": ("brat", "a/1.ann", "R1\t\n", {}, "1.ann:1: field 'R1': has 0 ends"),
    "brat: pieces": (
        "brat",
        "a/1.ann",
        "T1\tx 0 3;10 14\tAda Rome\n",
        {},
        "1.ann:1: field 'T1': is in 2 pieces with other text between them, which a record cannot hold (--disc",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, tmp_path: Path) -> None:
    format_name, file, content, options, words = BAD[name]
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    if format_name == "brat":
        if name != "brat: no text":
            path.with_suffix(".txt").write_text(ADA)
        path = path.parent
    with pytest.raises(UserError) as caught:
        convert(path, tmp_path / "out", format_name, **options)
    message = str(caught.value)
    assert words in message and "\n" not in message
    assert {each.name for each in tmp_path.iterdir()} == {Path(file).parts[0]}
