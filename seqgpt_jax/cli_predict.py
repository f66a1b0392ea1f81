"""`seqgpt predict`: texts of any number through a model, read in blocks, written as it goes, and taken up again.

An output file that was left unfinished is gone on with: its whole lines stay, a torn last line is cut off. Beside it
lies FILE.settings.json with what was asked of which model; other settings, or lines that are not those of the input,
are refused.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tqdm import tqdm

from seqgpt_jax.cli_arguments import add_command, add_model, count, share
from seqgpt_jax.errors import UserError
from seqgpt_jax.lines import parse_json, read_lines, text_lines
from seqgpt_jax.whole import write_json

if TYPE_CHECKING:
    from seqgpt_jax.predictor import SeqGPT
    from seqgpt_jax.schema import Part

_BLOCK = 512  # texts in memory at once
_STDIN = Path("-")


def add_predict_command(commands: Any) -> None:
    predict = add_command(
        commands, "predict", _predict, "classify texts, extract spans from them, or fill in a schema",
        "seqgpt predict --model runs/quickstart --extract person city -- 'Ada Park moved to Norford.'",
    )  # fmt: skip
    add_model(predict)
    task = predict.add_mutually_exclusive_group(required=True)
    task.add_argument("--classify", nargs="*", metavar="LABEL", help="choose from these labels")
    task.add_argument("--extract", nargs="*", metavar="LABEL", help="find the spans of each of these labels")
    task.add_argument("--schema", type=Path, metavar="FILE.json", help='such as {"names": {"extract": ["person"]}}')
    predict.add_argument("--labels", type=Path, metavar="FILE", help="labels, one a line, or JSON: a list or an object")
    predict.add_argument("--multi_label", action="store_true", help="several labels may hold, or none (--classify)")
    predict.add_argument(
        "text",
        nargs="*",
        metavar="TEXT",
        help="one or more texts; put them first, or after a lone -- behind the labels",
    )
    predict.add_argument(
        "--input",
        type=Path,
        metavar="FILE",
        help="FILE.jsonl(.gz), FILE.csv, FILE.tsv, or - for JSON lines on stdin",
    )
    predict.add_argument(
        "--text_field", default="text", metavar="NAME", help="the field or column of the text (default: text)"
    )
    predict.add_argument(
        "--out", type=Path, metavar="FILE.jsonl", help="default: stdout; goes on with an unfinished file"
    )
    predict.add_argument(
        "--format", default="results", choices=("results", "records"), help="of the lines written (default: results)"
    )
    predict.add_argument(
        "--long",
        default="chunk",
        choices=("chunk", "truncate", "error"),
        help="what of a text that is too long (default: chunk)",
    )
    predict.add_argument("--abstain_below", type=share, metavar="P", help="leave out what is less probable")
    predict.add_argument("--examples", type=Path, metavar="FILE.jsonl", help="demonstrations, [text, answer] a line")
    predict.add_argument("--max_examples", type=count, default=8, metavar="N", help="before one text (default: 8)")


@dataclass(frozen=True, slots=True)
class _Row:
    """A text with its id in the input, where it has one, and where it stands there."""

    text: str
    id: str | None
    place: str


def _predict(options: argparse.Namespace) -> None:
    from seqgpt_jax.input_checks import as_text
    from seqgpt_jax.predictor import SeqGPT, model_directory
    from seqgpt_jax.schema import read_schema
    from seqgpt_jax.training.signals import SignalWatch

    schema = _schema(options)
    parts = read_schema(schema)
    single = len(parts) == 1 and "" in parts
    if options.format == "records" and (not single or "types" in schema[""]):
        raise UserError(
            "--format records takes one task with a record a text (--classify, --extract, or such a schema)"
        )
    _check_input(options)
    directory = model_directory(Path(options.model))
    output = _Output(options.out, _settings(options, schema, directory))
    watch = SignalWatch() if options.out else contextlib.nullcontext()  # a stop leaves whole lines behind
    with (
        watch,
        output,
        tqdm(unit="B", unit_scale=True, total=_size(options), disable=options.input is None, delay=1) as bar,
    ):
        rows = _rows(options, bar)
        num_done = output.skip(rows)
        model: SeqGPT | None = None
        while block := list(islice(rows, _BLOCK)):
            for row in block:
                as_text(row.text, f"{row.place}: text")
            model = model or SeqGPT.from_pretrained(options.model)
            for line in _lines(model, block, parts, options, num_done):
                output.write(line)
            output.flush()
            num_done += len(block)
            bar.set_postfix_str(f"{num_done:,} texts")
    if options.out:
        print(f"wrote {num_done:,} lines to {options.out}")


def _lines(
    model: SeqGPT, block: Sequence[_Row], parts: dict[str, Part], options: argparse.Namespace, first: int
) -> Iterator[dict[str, Any]]:
    """The output of a block of rows."""
    from seqgpt_jax.records import record_to_dict
    from seqgpt_jax.results import to_record

    answers = model.ask_parts(
        [row.text for row in block for _ in parts],
        [*parts.values()] * len(block),
        long=options.long,
        abstain_below=options.abstain_below,
        max_examples=options.max_examples,
        progress=False,
    )
    results = iter(answers)
    for number, row in enumerate(block, first):
        own = {name: next(results) for name in parts}
        if options.format == "records":
            (request,) = parts[""].requests(row.text)
            record = replace(request.record, id=row.id if row.id is not None else str(number))
            yield record_to_dict(to_record(record, own[""]))
        else:
            fields = own[""].to_dict() if "" in own else {name: result.to_dict() for name, result in own.items()}
            yield {"text": row.text, **({} if row.id is None else {"id": row.id}), **fields}


# --- what is asked ---------------------------------------------------------------------------------------------------


def _schema(options: argparse.Namespace) -> dict[str, Any]:
    """The parts that are asked, or one part without a name."""
    from seqgpt_jax.schema import is_single

    if options.schema:
        if options.labels or options.examples or options.multi_label:
            raise UserError("--labels, --examples and --multi_label do not go with --schema (write them into it)")
        schema = _read_json(options.schema)
        return {"": schema} if is_single(schema) else schema
    word = "classify" if options.classify is not None else "extract"
    given = options.classify or options.extract
    if bool(given) == bool(options.labels):
        raise UserError(f"labels are wanted once, as --{word} LABEL ... or as --labels FILE")
    part: dict[str, Any] = {word: _read_labels(options.labels) if options.labels else given}
    if options.multi_label:
        part["multi_label"] = True
    if options.examples:
        part["examples"] = [
            parse_json(line, options.examples, number, "[text, answer] a line")
            for number, line in enumerate(read_lines(options.examples), 1)
            if line.strip()
        ]
    return {"": part}


def _read_labels(path: Path) -> Any:
    if path.suffix == ".json":
        return _read_json(path)
    return [line.strip() for _, line in text_lines(path) if line.strip()]


def _read_json(path: Path) -> Any:
    return parse_json(b"".join(read_lines(path)), path, None)


def _settings(options: argparse.Namespace, schema: dict[str, Any], directory: Path) -> dict[str, Any]:
    """All that an output depends on, but for the texts, which the lines themselves hold."""
    files = sorted(file for file in directory.iterdir() if file.suffix in (".json", ".safetensors", ".bin"))
    names = ("text_field", "format", "long", "abstain_below", "max_examples")
    return {
        "model": {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files},
        "schema": schema,
        **{name: getattr(options, name) for name in names},
    }


# --- what is read ----------------------------------------------------------------------------------------------------


def _check_input(options: argparse.Namespace) -> None:
    if options.text and options.input:
        raise UserError("both TEXT and --input were given (give one of them)")
    if not options.text and not options.input:
        raise UserError("there is no text (give TEXT before the labels or after a lone --, or --input FILE.jsonl)")
    if options.input and options.input != _STDIN and not options.input.is_file():
        raise UserError(f"{options.input}: no such file (--input takes a file with one JSON object a line, or CSV)")
    if options.out and options.out.suffix != ".jsonl":
        raise UserError(f"--out {options.out}: lines of JSON are written (name it FILE.jsonl)")


def _size(options: argparse.Namespace) -> int | None:
    return options.input.stat().st_size if options.input and options.input != _STDIN else None


def _rows(options: argparse.Namespace, bar: tqdm) -> Iterator[_Row]:
    if options.text:
        yield from (_Row(text, None, f"text {i}") for i, text in enumerate(options.text))
    elif options.input.suffix in (".csv", ".tsv"):
        yield from _csv_rows(options.input, options.text_field, bar)
    else:
        source = sys.stdin.buffer if options.input == _STDIN else read_lines(options.input)
        for number, line in enumerate(source, 1):
            if options.input.suffix != ".gz":
                bar.update(len(line))
            if line.strip():
                yield _json_row(line, options.input, number, options.text_field)


def _json_row(line: bytes, path: Path, number: int, field: str) -> _Row:
    found = parse_json(line, path, number, f'each line is an object such as {{"{field}": "..."}}')
    if not isinstance(found, dict) or not isinstance(found.get(field), str):
        raise UserError(f'{path}:{number}: no text (each line is an object such as {{"{field}": "..."}})')
    id_ = found.get("id")
    return _Row(found[field], id_ if id_ is None else str(id_), f"{path}:{number}")


def _csv_rows(path: Path, field: str, bar: tqdm) -> Iterator[_Row]:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as stream:

        def lines() -> Iterator[str]:
            for line in stream:
                bar.update(len(line.encode("utf-8", "replace")))
                yield line

        reader = csv.DictReader(lines(), delimiter="\t" if path.suffix == ".tsv" else ",")
        try:
            if field not in (reader.fieldnames or ()):
                have = ", ".join(reader.fieldnames or ()) or "none"
                raise UserError(f"{path}: no column '{field}' (it has: {have}; name one with --text_field)")
            for row in reader:
                if not isinstance(row[field], str):
                    raise UserError(f"{path}:{reader.line_num}: no text (the line has too few columns)")
                yield _Row(row[field], row.get("id"), f"{path}:{reader.line_num}")
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{path}:{reader.line_num}: not CSV in UTF-8: {error} (save it again)") from None


# --- what is written -------------------------------------------------------------------------------------------------


class _Output:
    """Lines of JSON in a file that is gone on with, or on stdout."""

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self._path, self._settings = path, json.loads(json.dumps(settings))
        self._stream: IO[bytes] | None = None

    def __enter__(self) -> _Output:
        if self._path is not None:
            beside = self._path.with_name(self._path.name + ".settings.json")
            if self._path.exists():
                self._check(beside)
            else:
                write_json(beside, self._settings)
                self._path.touch()
            self._stream = self._path.open("r+b")
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def skip(self, rows: Iterator[_Row]) -> int:
        """Goes past the rows that are answered, and cuts off a torn last line; returns how many they are."""
        if self._stream is None:
            return 0
        end = number = 0
        for line in self._stream:
            if not line.endswith(b"\n"):
                break
            number += 1
            row = next(rows, None)
            with contextlib.suppress(ValueError, TypeError, KeyError):
                if row is not None and json.loads(line)["text"] == row.text:
                    end += len(line)
                    continue
            what = "the input has no such line" if row is None else f"it is not the answer to {row.place}"
            raise UserError(f"{self._path}:{number}: {what} (remove the file, or give another --out)")
        self._stream.seek(end)
        self._stream.truncate()
        return number

    def write(self, fields: dict[str, Any]) -> None:
        line = json.dumps(fields, ensure_ascii=False)
        if self._stream is None:
            print(line, flush=True)
        else:
            self._stream.write(line.encode("utf-8") + b"\n")

    def flush(self) -> None:
        if self._stream is not None:
            self._stream.flush()

    def _check(self, beside: Path) -> None:
        remedy = "remove the file, or give another --out"
        if not beside.is_file():
            raise UserError(f"{self._path} is there, and not from an earlier run of predict ({remedy})")
        found = _read_json(beside)
        for name, value in self._settings.items():
            if not isinstance(found, dict) or found.get(name) != value:
                raise UserError(f"{self._path} was begun with another {name} ({remedy})")
