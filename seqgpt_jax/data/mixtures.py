"""What a mixture's name stands for: datasets, from every source there is. No TensorFlow.

mixture   PART, or PART+PART+...: the datasets of all; one that two parts name comes once
PART      NAME, or NAME:N[:SEED]: the first N in an order drawn with SEED (0), for studies of the number of datasets
NAME      held_in, held_out, synthetic, mini_real, mini_held_out; each with _en or _zh, with a task (held_in_ner),
          or both (held_in_zh_mrc_se)
          the name of one dataset, or the path of a folder of them (with a /)
          tfds:glue/cola, tfds:glue     datasets of TensorFlow Datasets (tfds_sources.py)
          t5:glue_cola_v002, t5:glue    tasks of t5's registry (t5_sources.py)
          hub:OWNER/NAME[/CONFIG]       a dataset of the Hugging Face hub, or hub:./FOLDER of its files (hub.py)

<data_dir>/partitions.json              {"held_in": {"en": [names], "zh": [names]}, "held_out": {...}}
<data_dir>/<language>/<name>/           a folder of records (datasets.py)
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from seqgpt_jax.data.datasets import Dataset, FolderDataset, GeneratedDataset
from seqgpt_jax.data.hub import hub_datasets
from seqgpt_jax.data.t5_sources import t5_datasets
from seqgpt_jax.data.tfds_sources import tfds_datasets
from seqgpt_jax.errors import RecordError, UserError
from seqgpt_jax.records import LANGUAGES, TASKS
from seqgpt_jax.synthesis import generator

PARTITIONS = ("held_in", "held_out")
PROTOCOLS = ("zero_shot", "few_shot")
_Partitions: TypeAlias = Mapping[str, Mapping[str, Sequence[str]]]  # partition -> language -> names
_FIRST = re.compile(r"(?P<name>.+?):(?P<number>\d+)(:(?P<seed>\d+))?")


def resolve_mixture(name: str, data_dir: Path | None = None) -> list[Dataset]:
    """The datasets of a mixture (module docstring). data_dir None: the environment's SEQGPT_DATA_DIR.

    UserError for a name that is none, listing close ones, for real data that is not there, and for two datasets of one
    name.
    """
    if os.sep in name and Path(name).is_dir():  # a path may hold a +
        return find_folder_datasets(Path(name))
    folder = _data_folder(data_dir)
    parts = [part.strip() for part in name.split("+")]
    if not all(parts):
        raise UserError(f"mixture '{name}' has an empty part (write NAME+NAME)")
    return _distinct(dataset for part in parts for dataset in _resolve_part(part, folder))


def training_datasets(mixture: str, split: str, data_dir: Path | None, protocol: str = "zero_shot") -> list[Dataset]:
    """The datasets of a mixture that a stage of training reads: those that have the split.

    zero_shot: UserError where one is held out, whichever way it is named. few_shot: held-out ones are opened, train
    split and all. UserError where no dataset has the split.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol '{protocol}' (one of {', '.join(PROTOCOLS)})")
    datasets = resolve_mixture(mixture, data_dir)
    held_out = [dataset.declared.name for dataset in datasets if dataset.held_out]
    if held_out and protocol == "zero_shot":
        names = ", ".join(held_out[:3]) + (" ..." if len(held_out) > 3 else "")
        raise UserError(
            f"mixture '{mixture}' is held out ({names}): it is never trained on "
            "(use a held_in one, or stage.protocol='few_shot', which every report then shows)"
        )
    present = [dataset for dataset in (each.opened() for each in datasets) if split in dataset.splits]
    if not present:
        raise UserError(f"no dataset of '{mixture}' has a split '{split}' (choose train or validation)")
    return present


def mixture_names(head: str, data_dir: Path | None = None) -> list[str]:
    """The mixtures of a family or partition that hold any dataset: held_in, held_in_en, held_in_ner, held_in_en_ner."""
    declared = (dataset.declared for dataset in resolve_mixture(head, data_dir))
    kinds = {(meta.language, _slug(meta.task)) for meta in declared}
    tails = {tail for language, task in kinds for tail in ((), (language,), (task,), (language, task))}
    return sorted("_".join([head, *tail]) for tail in tails)


def known_sources(data_dir: Path | None = None) -> dict[str, list[Dataset]]:
    """Every dataset that can be named, by source: "folder", "generator", "tfds" and "t5"; nothing is downloaded.

    folder: the dataset folders in data_dir (None: SEQGPT_DATA_DIR; none where that is not set). Each dataset's
    `declared` says what it is, atomic_tasks gives its tasks, and its name is a mixture's name. tfds and t5 datasets are
    listed whether they have been prepared on this machine or not. Hub datasets cannot be listed.
    """
    folder = _data_folder(data_dir)
    return {
        "folder": find_folder_datasets(folder) if folder else [],
        "generator": [dataset for family in generator.families() for dataset in _generated(family)],
        "tfds": list(tfds_datasets(_held_out_names(folder)).values()),
        "t5": list(t5_datasets(_held_out_names(folder)).values()),
    }


def find_folder_datasets(root: Path) -> list[Dataset]:
    """The dataset folders at or below `root`, sorted by path; UserError where there are none, or two of one name."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder (give a folder with meta.json, or a tree of such folders)")
    folders = sorted(Path(folder) for folder, _, files in os.walk(root, followlinks=True) if "meta.json" in files)
    if not folders:
        raise UserError(f"{root}: no meta.json here or below, so no dataset (see the record format in the README)")
    return _distinct(FolderDataset(folder, held_out=_is_held_out(folder)) for folder in folders)


def _data_folder(data_dir: Path | None) -> Path | None:
    return data_dir or (Path(os.environ["SEQGPT_DATA_DIR"]) if os.environ.get("SEQGPT_DATA_DIR") else None)


def _distinct(datasets: Iterable[Dataset]) -> list[Dataset]:
    found: dict[str, Dataset] = {}
    for dataset in datasets:
        first = found.setdefault(dataset.declared.name, dataset)
        if first.place != dataset.place:
            raise UserError(
                f"two datasets are named '{dataset.declared.name}', of {first.place} and {dataset.place} "
                "(rename one in its meta.json)"
            )
    return list(found.values())


# --- one part of a name ----------------------------------------------------------------------------------------------


def _resolve_part(part: str, folder: Path | None) -> list[Dataset]:
    if part.startswith("hub:"):
        return hub_datasets(part.removeprefix("hub:"))
    if match := _FIRST.fullmatch(part):
        datasets = _resolve_name(match["name"], folder)
        return _first(datasets, match["name"], int(match["number"]), int(match["seed"] or 0))
    return _resolve_name(part, folder)


def _first(datasets: Sequence[Dataset], name: str, number: int, seed: int) -> list[Dataset]:
    """By a hash of seed and name: the order of two datasets does not depend on which others there are."""
    if not 1 <= number <= len(datasets):
        raise UserError(
            f"mixture '{name}:{number}': {name} has {len(datasets)} datasets (ask for 1 to {len(datasets)})"
        )
    return sorted(datasets, key=lambda d: hashlib.sha256(f"{seed}/{d.declared.name}".encode()).digest())[:number]


def _resolve_name(name: str, folder: Path | None) -> list[Dataset]:
    source, colon, inner = name.partition(":")
    if colon and source in ("tfds", "t5"):
        return _of_source(source, inner, folder)
    if os.sep in name:
        return find_folder_datasets(Path(name))
    for found in (_generated(name), _published(name, folder)):
        if found:
            return found
    if folder is None:
        if any(name == partition or name.startswith(f"{partition}_") for partition in PARTITIONS):
            raise UserError(f"mixture '{name}' needs real datasets (set SEQGPT_DATA_DIR to their folder)")
        raise _unknown(name, _known_names(None))
    partitions = _read_partitions(folder)
    for partition in PARTITIONS:
        if name == partition or name.startswith(f"{partition}_"):
            return _partition_part(name, partition, partitions[partition], folder)
    for partition in PARTITIONS:
        for language, names in partitions[partition].items():
            if name in names:
                return [FolderDataset(folder / language / name, held_out=partition == "held_out")]
    raise _unknown(name, _known_names(partitions))


def _of_source(source: str, name: str, folder: Path | None) -> list[Dataset]:
    """A dataset of TFDS or t5, or all whose names begin so: glue -> glue/cola, glue/sst2; glue_cola_v002 ..."""
    held_out = _held_out_names(folder)
    datasets: Mapping[str, Dataset] = tfds_datasets(held_out) if source == "tfds" else t5_datasets(held_out)
    found = [dataset for key, dataset in datasets.items() if key == name or re.match(rf"{re.escape(name)}[/_]", key)]
    if not found:
        close = difflib.get_close_matches(name, datasets, n=3, cutoff=0.4) or list(datasets)[:3]
        raise UserError(f"unknown mixture '{source}:{name}' (did you mean {', '.join(close)}?)")
    return found


def _published(name: str, folder: Path | None) -> list[Dataset]:
    """The dataset of TFDS or t5 that bears this name: tfds_glue_cola, t5_glue_cola_v002."""
    if not name.startswith(("tfds_", "t5_")):
        return []
    held_out = _held_out_names(folder)
    datasets: list[Dataset] = [*tfds_datasets(held_out).values(), *t5_datasets(held_out).values()]
    return [dataset for dataset in datasets if dataset.declared.name == name]


def _generated(name: str) -> list[Dataset]:
    for family in generator.families():
        if name == family or name.startswith(f"{family}_"):
            metas = {meta.name: meta for meta in generator.generated_dataset_metas(family)}
            names = (name,) if name in metas else generator.mixture_datasets(name)
            return [GeneratedDataset(metas[each]) for each in names]
    return []


def _partition_part(name: str, partition: str, languages: Mapping[str, Sequence[str]], folder: Path) -> list[Dataset]:
    wanted_language, wanted_task = _parse_part(name, partition)
    datasets = _distinct(
        FolderDataset(folder / language / each, held_out=partition == "held_out")
        for language, names in sorted(languages.items())
        if wanted_language in (None, language)
        for each in names
    )
    datasets = [dataset for dataset in datasets if wanted_task in (None, dataset.declared.task)]
    if not datasets:
        raise UserError(
            f"mixture '{name}' is empty: {folder}/partitions.json lists no such dataset (choose a larger one)"
        )
    return datasets


def _parse_part(name: str, partition: str) -> tuple[str | None, str | None]:
    """ "held_in_en_mrc_se" -> ("en", "MRC-SE")"""
    for language in (None, *LANGUAGES):
        for task in (None, *TASKS):
            if name == "_".join([partition, *filter(None, (language, task and _slug(task)))]):
                return language, task
    raise _unknown(name, _known_names(None))


def _slug(task: str) -> str:
    return task.lower().replace("-", "_")


def _known_names(partitions: _Partitions | None) -> list[str]:
    tails = ["", *(f"_{language}" for language in LANGUAGES), *(f"_{_slug(task)}" for task in TASKS)]
    tails += [f"_{language}_{_slug(task)}" for language in LANGUAGES for task in TASKS]
    names = [head + tail for head in (*generator.families(), *PARTITIONS) for tail in tails]
    if partitions:
        names += [name for languages in partitions.values() for each in languages.values() for name in each]
    return names


def _unknown(name: str, known: Sequence[str]) -> UserError:
    close = difflib.get_close_matches(name, known, n=3) or [*generator.families(), *PARTITIONS]
    return UserError(f"unknown mixture '{name}' (did you mean {', '.join(close)}? a folder is given with a /)")


# --- partitions ------------------------------------------------------------------------------------------------------


def _read_partitions(folder: Path) -> _Partitions:
    path = folder / "partitions.json"
    if not path.is_file():
        raise UserError(f"{folder}: no partitions.json, which says what is held in (set SEQGPT_DATA_DIR to its folder)")
    try:
        fields = json.loads(path.read_text("utf-8"))
        return {
            partition: {language: [str(name) for name in names] for language, names in fields[partition].items()}
            for partition in PARTITIONS
        }
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        remedy = 'it must be {"held_in": {"en": [names], ...}, "held_out": {...}}'
        raise RecordError(f"cannot be read: {error!r}", file=path, remedy=remedy) from None


def data_folder_of(dataset: Dataset, data_dir: Path | None = None) -> Path | None:
    """The folder with partitions.json that a folder of records lies in; for a dataset from elsewhere, data_dir.

    None where there is none: a folder of the user's own, the generator. data_dir None: SEQGPT_DATA_DIR.
    """
    if isinstance(dataset, GeneratedDataset):
        return None
    if isinstance(dataset, FolderDataset):
        parents = dataset.folder.resolve().parents
        return parents[1] if len(parents) > 1 and (parents[1] / "partitions.json").is_file() else None
    folder = _data_folder(data_dir)
    return folder.resolve() if folder else None


def _held_out_names(folder: Path | None) -> set[str]:
    """The held-out datasets of a data folder, whose copies in other sources are held out too."""
    if folder is None or not (folder / "partitions.json").is_file():
        return set()
    return {name for names in _read_partitions(folder)["held_out"].values() for name in names}


def _is_held_out(folder: Path) -> bool:
    """Whether the data folder that a dataset lies in holds it out: its path is no way around that."""
    place = folder.resolve()
    if len(place.parents) < 2 or not (place.parents[1] / "partitions.json").is_file():
        return False
    return place.name in _read_partitions(place.parents[1])["held_out"].get(place.parent.name, [])
