"""`seqgpt data`: what each of its subcommands takes, and which room of data/ does the work."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from seqgpt_jax.cli_arguments import add_command, count
from seqgpt_jax.errors import UserError


def add_data_command(commands: Any) -> None:
    """Adds `data` and its subcommands to the `seqgpt` command."""
    summary = "look at, check and convert datasets"
    parser: argparse.ArgumentParser = commands.add_parser("data", help=summary, description=f"{summary.capitalize()}.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

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
    _add_split(show, "train, where it may be read")
    show.add_argument("--num", type=count, default=1, metavar="N", help="records of each dataset (default: 1)")
    show.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice of records, and of training")
    show.add_argument("--record", metavar="ID", help="the record with this id")
    show.add_argument("--questions", type=count, default=6, metavar="N", help="shown each time (default: 6)")

    stats = add_command(
        commands, "stats", _stats, "count examples, tokens, labels and lengths of a mixture, and draw them",
        "seqgpt data stats held_in_en_ner --tokenizer runs/real/tokenizer --row_tokens 512 --out stats",
    )  # fmt: skip
    _add_mixture(stats)
    _add_split(stats, "train, where any dataset has one")
    stats.add_argument("--limit", type=count, metavar="N", help="records a dataset, a sample")
    stats.add_argument("--tokenizer", metavar="DIR|ID", help="default: one trained on a sample of the mixture")
    stats.add_argument("--row_tokens", type=count, default=1024, metavar="N", help="of a packed row (default: 1024)")
    stats.add_argument("--out", type=Path, metavar="DIR", help="write stats.json and figures there")

    add_command(
        commands, "validate", _validate, "print every fault of a dataset folder, with file and line",
        "seqgpt data validate my_dataset",
    )  # fmt: skip


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
    parser.add_argument("--split", choices=("train", "validation", "test"), help=f"default: {default}")


def _leaks(options: argparse.Namespace) -> None:
    from seqgpt_jax.data.leaks import ensure_leaks, leaks_to_dict, leaks_to_text
    from seqgpt_jax.data.mixtures import training_datasets
    from seqgpt_jax.recipe import DataSettings

    datasets = training_datasets(options.mixture, "train", None)
    found = ensure_leaks(datasets, None, DataSettings().cache_path())
    print(leaks_to_text(found))
    if options.json:
        _write_json(options.json, leaks_to_dict(found))


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
    split = options.split or ("train" if any("train" in each.splits for each in datasets) else "validation")
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
        _write_json(options.out / "stats.json", stats.stats_to_dict(found))
        for path in draw_stats(found, options.out):
            print(f"wrote {path}")


def _write_json(path: Path, fields: Any) -> None:
    from seqgpt_jax.training.checkpoints import write_atomically

    write_atomically(path, json.dumps(fields, ensure_ascii=False, indent=1) + "\n")
    print(f"wrote {path}")


def _roundtrip(options: argparse.Namespace) -> None:
    from seqgpt_jax.data.mixtures import resolve_mixture
    from seqgpt_jax.data.roundtrip import round_trip, round_trip_json, round_trip_table

    results = round_trip(resolve_mixture(options.mixture), options.split, options.limit)
    print(round_trip_table(results))
    if options.json is not None:
        text = json.dumps(round_trip_json(results), indent=1, ensure_ascii=False)
        options.json.write_text(text + "\n", "utf-8")


def _validate(options: argparse.Namespace) -> None:
    raise UserError("not there yet")
