"""`seqgpt data`: what each of its subcommands takes, and which room of data/ does the work."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from seqgpt_jax.cli_arguments import add_command, count
from seqgpt_jax.errors import EXIT_USER_ERROR, UserError
from seqgpt_jax.records import LANGUAGES, TASKS
from seqgpt_jax.whole import write_json

_SPLITS = ("train", "validation", "test")


def add_data_command(commands: Any) -> None:
    """Adds `data` and its subcommands to the `seqgpt` command."""
    summary = "look at, check and convert datasets"
    parser: argparse.ArgumentParser = commands.add_parser("data", help=summary, description=f"{summary.capitalize()}.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    convert = add_command(
        commands, "convert", _convert, "make a dataset folder of files of other tools, or those of a dataset folder",
        "seqgpt data convert --from doccano exported.jsonl my_dataset --task SF",
    )  # fmt: skip
    _add_convert(convert)

    leaks = add_command(
        commands, "leaks", _leaks, "find training records that an evaluation split holds too",
        "seqgpt data leaks held_in --json leaks.json",
    )  # fmt: skip
    _add_mixture(leaks, default="held_in")
    leaks.add_argument("--json", type=Path, metavar="FILE", help="write every leak, with the record it is like")

    listing = add_command(
        commands, "list", _list, "list the datasets there are, and the atomic tasks that they become",
        "seqgpt data list held_in_zh",
    )  # fmt: skip
    listing.add_argument("mixture", nargs="?", metavar="MIXTURE", help="such as held_in (default: all that there is)")
    listing.add_argument("--json", action="store_true", help="print one JSON object")

    roundtrip = add_command(
        commands, "roundtrip", _roundtrip, "send gold through the text format and back, and count what is lost",
        "seqgpt data roundtrip held_in_zh --split test --json losses.json",
    )  # fmt: skip
    roundtrip.add_argument(
        "mixture", metavar="MIXTURE", help="such as synthetic, held_in, held_in_en_ner, or one dataset"
    )
    roundtrip.add_argument("--split", choices=("train", "validation", "test"), help="default: all that may be read")
    roundtrip.add_argument("--limit", type=count, metavar="N", help="records a split, the same ones each time")
    roundtrip.add_argument("--json", type=Path, metavar="FILE.json", help="write all counts here too")

    show = add_command(
        commands, "show", _show, "print records with the questions that training and evaluation ask about them",
        "seqgpt data show cluener --split test --num 3 --seed 1",
    )  # fmt: skip
    show.add_argument("name", metavar="NAME", help="a dataset, or a mixture, whose datasets are shown in turn")
    _add_split(show, "the first of them that may be read")
    show.add_argument("--num", type=count, default=1, metavar="N", help="records of each dataset (default: 1)")
    show.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice of records, and of training")
    show.add_argument("--record", metavar="ID", help="the record with this id")
    show.add_argument("--questions", type=count, default=6, metavar="N", help="shown each time (default: 6)")

    stats = add_command(
        commands, "stats", _stats, "count examples, tokens, labels and lengths of a mixture, and draw them",
        "seqgpt data stats held_in_en_ner --tokenizer runs/real/tokenizer --row_tokens 512 --out stats",
    )  # fmt: skip
    _add_mixture(stats)
    _add_split(stats, "the first of them that any dataset has")
    stats.add_argument("--limit", type=count, metavar="N", help="records a dataset, a sample")
    stats.add_argument("--tokenizer", metavar="DIR|ID", help="default: one trained on a sample of the mixture")
    stats.add_argument("--row_tokens", type=count, default=1024, metavar="N", help="of a packed row (default: 1024)")
    stats.add_argument("--out", type=Path, metavar="DIR", help="write stats.json and figures there")

    validate = add_command(
        commands, "validate", _validate, "print every fault of a dataset folder, with file and line",
        "seqgpt data validate my_dataset",
    )  # fmt: skip
    validate.add_argument("folder", type=Path, metavar="FOLDER", help="a folder with meta.json, or a tree of them")


def _add_mixture(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    parser.add_argument(
        "mixture",
        nargs="?" if default else None,
        default=default,
        metavar="MIXTURE",
        help="such as held_in, held_in_zh, synthetic, a dataset's name, or the path of a folder"
        + (f" (default: {default})" if default else ""),
    )


def _add_split(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--split", choices=_SPLITS, help=f"default: {default}")


def _leaks(options: argparse.Namespace) -> None:
    from seqgpt_jax.data.leaks import ensure_leaks, leaks_to_dict, leaks_to_text
    from seqgpt_jax.data.mixtures import training_datasets
    from seqgpt_jax.recipe import DataSettings

    datasets = training_datasets(options.mixture, "train", None)
    found = ensure_leaks(datasets, None, DataSettings().cache_path())
    print(leaks_to_text(found))
    if options.json:
        _write(options.json, leaks_to_dict(found))


def _list(options: argparse.Namespace) -> None:
    from seqgpt_jax.data.listing import list_datasets, listing_to_dict, listing_to_text, missing_sources

    listed = list_datasets(options.mixture)
    missing = [] if options.mixture else missing_sources()
    if options.json:
        print(json.dumps(listing_to_dict(listed, missing), ensure_ascii=False))
    else:
        print(listing_to_text(listed, missing))


def _show(options: argparse.Namespace) -> None:
    from seqgpt_jax.data.mixtures import resolve_mixture
    from seqgpt_jax.data.showing import show_dataset

    datasets = resolve_mixture(options.name)
    for dataset in datasets:
        shown = show_dataset(
            dataset, options.split, options.num, options.seed, options.record, options.questions, mixture=datasets
        )
        for line in shown:
            print(line)


def _stats(options: argparse.Namespace) -> None:
    from seqgpt_jax.data import stats
    from seqgpt_jax.data.mixtures import resolve_mixture
    from seqgpt_jax.data.stats_figures import draw_stats
    from seqgpt_jax.recipe import DataSettings
    from seqgpt_jax.vocabulary import Vocabulary

    datasets = resolve_mixture(options.mixture)
    split = options.split or next(name for name in _SPLITS if any(name in each.splits for each in datasets))
    if options.tokenizer:
        vocabulary, tokenizer = Vocabulary.from_pretrained(options.tokenizer), options.tokenizer
    else:
        vocabulary = stats.sample_tokenizer(datasets, split)
        tokenizer = f"a BPE of {vocabulary.size:,} ids, trained on {stats.SAMPLE_RECORDS} records a dataset"
    leaked = stats.leaked_records(datasets, split, DataSettings().cache_path())
    found = stats.mixture_stats(
        options.mixture, datasets, split, vocabulary, tokenizer, options.row_tokens,
        leaked=leaked, limit=options.limit, progress=True,
    )  # fmt: skip
    print(stats.stats_to_text(found))
    if options.out:
        _write(options.out / "stats.json", stats.stats_to_dict(found))
        for path in draw_stats(found, options.out):
            print(f"wrote {path}")


def _roundtrip(options: argparse.Namespace) -> None:
    from seqgpt_jax.data.mixtures import resolve_mixture
    from seqgpt_jax.data.roundtrip import round_trip, round_trip_json, round_trip_table

    results = round_trip(resolve_mixture(options.mixture), options.split, options.limit)
    print(round_trip_table(results))
    if options.json is not None:
        _write(options.json, round_trip_json(results))


def _write(path: Path, fields: Any) -> None:
    write_json(path, fields)
    print(f"wrote {path}")


def _add_convert(convert: argparse.ArgumentParser) -> None:
    formats = "conll, bio-json, doccano, labelstudio, csv or brat"
    convert.add_argument("source", type=Path, metavar="IN", help="a file; or a folder with train, dev and test files")
    convert.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet")
    convert.add_argument(
        "--from", dest="source_format", metavar="FORMAT", help=f"{formats}, or records (default: found out)"
    )
    convert.add_argument(
        "--to", dest="out_format", default="records", metavar="FORMAT",
        help="records (default), doccano, labelstudio or brat",
    )  # fmt: skip

    dataset = convert.add_argument_group("the dataset that is made")
    dataset.add_argument("--name", help="default: the name of OUT")
    dataset.add_argument("--task", choices=TASKS, help="default: NER, RE, EE, CLS or NLI, by what there is")
    dataset.add_argument("--language", choices=LANGUAGES, help="default: that of the script")
    dataset.add_argument("--labels", nargs="+", metavar="LABEL", help="all of them (default: those that occur)")
    dataset.add_argument("--split", choices=("train", "validation", "test"), help="default: by file name, else train")
    dataset.add_argument(
        "--split_by", type=_shares, metavar="0.8,0.1,0.1", help="shares of train, validation and test of one file"
    )

    file = convert.add_argument_group("what a file does not say of itself")
    file.add_argument(
        "--offsets",
        choices=("code_points", "utf16", "graphemes"),
        help="what offsets count, where it matters",
    )
    file.add_argument("--token_column", type=count, metavar="N", help="conll: the token's column (default: 1)")
    file.add_argument("--tag_column", type=count, metavar="N", help="conll: the tag's column (default: the last)")
    file.add_argument("--text_column", metavar="NAME|N", help="csv: the text's column; labelstudio: its field of data")
    file.add_argument("--label_column", metavar="NAME|N", help="csv: the label's column; labelstudio: the choices")
    file.add_argument("--pair_column", metavar="NAME|N", help="csv: the second text's column")
    file.add_argument("--question_column", metavar="NAME|N", help="csv: the question's column")
    file.add_argument("--target_column", metavar="NAME|N", help="csv: the column of what is asked about")
    file.add_argument("--separator", metavar="STRING", help="csv: what stands between several labels in a cell")
    file.add_argument("--quotes", choices=("none",), help="csv: quotation marks are characters like others")
    file.add_argument(
        "--discontinuous", choices=("pieces",), help="brat: a span in pieces gives several (default: it is refused)"
    )


def _convert(options: argparse.Namespace) -> None:
    from dataclasses import fields

    from seqgpt_jax.data.convert import Description, from_records, to_records
    from seqgpt_jax.data.importers.documents import ReadOptions

    given = {name: value for name, value in vars(options).items() if value is not None}
    described = {field.name: given[field.name] for field in fields(Description) if field.name in given}
    if "labels" in described:
        described["labels"] = tuple(described["labels"])
    # the language is the dataset's; whoever reads a file is told it then
    reading = {f.name: given[f.name] for f in fields(ReadOptions) if f.name in given and f.name != "language"}
    source_format, out_format = options.source_format, options.out_format
    if out_format != "records":
        if source_format not in (None, "records"):
            raise UserError("--from and --to are both of other tools (convert to records first, and those then)")
        if described:
            raise UserError(f"--{next(iter(described))} is said of records that are made (leave it out with --to)")
        done = from_records(options.source, options.out, out_format, ReadOptions(**reading))
        print(f"{done}; wrote {options.out}")
        return
    if source_format == "records":
        raise UserError("records are to be made of records (give --to doccano, labelstudio or brat)")
    done = to_records(options.source, options.out, source_format, Description(**described), ReadOptions(**reading))
    if done.notes.counts:
        print(done.notes, file=sys.stderr)
    print(f"{done}; wrote {options.out}")


def _shares(text: str) -> tuple[float, ...]:
    """ "0.8,0.1,0.1" -> (0.8, 0.1, 0.1)"""
    try:
        values = tuple(map(float, text.split(",")))
    except ValueError:
        values = ()
    if len(values) != 3 or min(values) < 0 or not 0 < sum(values) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not three shares such as 0.8,0.1,0.1")
    return values


def _validate(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from seqgpt_jax.data.validate import Validation

    validation = Validation(options.folder)
    for finding in validation:
        tqdm.write(str(finding))  # keeps clear of the progress bar
    print(validation.summary())
    return EXIT_USER_ERROR if validation.faults else 0
