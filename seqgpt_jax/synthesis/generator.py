"""The built-in bilingual generator: endless, seeded datasets of all 11 tasks, without any file to download.

Record i of a dataset is a function of (dataset, split, seed, i) alone: a limit, a shard or a restart is a range of i.

    synthetic_en_ner, mini_real_zh_mrc_se         one dataset per language and task; records carry their own label set
    mini_held_out_en_ner_garden_centre            one per domain too; the label set is the dataset's own

Relation and event records have no label set of their own; `record_meta` narrows the description to their domain.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import itertools
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from seqgpt_jax.errors import UserError
from seqgpt_jax.records import TASKS, DatasetMeta, Record
from seqgpt_jax.synthesis.authoring import ANSWER_LABELS, Author, can_write
from seqgpt_jax.synthesis.content import FAMILIES, LANGUAGES, Domain, FamilyContent
from seqgpt_jax.synthesis.options import LabelSets, pick
from seqgpt_jax.synthesis.reader import CONTENT_DIR, content_files, load_family, read_family
from seqgpt_jax.synthesis.wordings import NLI_WORDINGS, SENTIMENT_WORDINGS

SPLITS = ("train", "validation", "test")
HELD_OUT = "mini_held_out"
_MAX_TRIES = 1_000  # draws for one record; the content checker refuses texts that need many
_LICENSE = "Apache-2.0"


@dataclasses.dataclass(frozen=True)
class _Dataset:
    meta: DatasetMeta
    author: Author
    domains: tuple[Domain, ...]


def families() -> tuple[str, ...]:
    """The families of generated data: two to train on, one to be judged on."""
    return FAMILIES


def generated_dataset_metas(family: str, root: Path = CONTENT_DIR) -> list[DatasetMeta]:
    """The family's datasets, English first, tasks in the order of records.TASKS; UserError if the family is unknown.

    `root` (here and below) is the content folder: another one makes data of domains of your own.
    """
    return [dataset.meta for dataset in _datasets(family, root).values()]


def dataset_names(family: str, root: Path = CONTENT_DIR) -> tuple[str, ...]:
    """The names of the family's datasets; UserError if the family is unknown."""
    return tuple(_datasets(family, root))


def generate(
    dataset_name: str, split: str, seed: int = 0, start: int = 0, root: Path = CONTENT_DIR
) -> Iterator[Record]:
    """Records start, start + 1, ... of a generated dataset, without end; UserError for an unknown dataset or split."""
    dataset = _find(dataset_name, root)
    if split not in SPLITS:
        raise UserError(f"unknown split '{split}' of {dataset_name} (one of {', '.join(SPLITS)})")
    return _records(dataset, split, seed, start)


def _records(dataset: _Dataset, split: str, seed: int, start: int) -> Iterator[Record]:
    name, author, domains, task = dataset.meta.name, dataset.author, dataset.domains, dataset.meta.task
    key = hashlib.blake2b(f"{name}\t{split}\t{seed}".encode(), digest_size=8).digest()
    base = int.from_bytes(key, "big")
    for i in itertools.count(start):
        draw = random.Random(base + i).random
        for _ in range(_MAX_TRIES):
            domain = pick(domains, draw)
            record = author.write(task, domain, f"{name}-{split}-{domain.slug}-{i}", draw)
            if record is not None:
                yield record
                break
        else:
            raise AssertionError(f"{name}: no usable record in {_MAX_TRIES} draws")


def generate_mixture(name: str, num: int, seed: int = 0, split: str | None = None) -> Iterator[Record]:
    """`num` records, the datasets of a mixture in turn; UserError for an unknown mixture.

    A mixture is a family or a part of one: synthetic, synthetic_zh, mini_real_ner, mini_held_out_en_mrc_se. The
    split is train, or test for mini_held_out, unless one is given.
    """
    names = mixture_datasets(name)
    chosen = split or ("test" if name.startswith(HELD_OUT) else "train")
    streams = [generate(dataset, chosen, seed) for dataset in names]
    return (next(streams[i % len(streams)]) for i in range(num))


def mixture_datasets(name: str) -> tuple[str, ...]:
    """The datasets of a mixture name: a family, or with a language, a task or both behind it; UserError if unknown."""
    for family in FAMILIES:
        if name == family or name.startswith(family + "_"):
            parts = _mixture_parts(family)
            if name in parts:
                return parts[name]
    known = [mixture for family in FAMILIES for mixture in _mixture_parts(family)]
    close = difflib.get_close_matches(name, known, n=3) or FAMILIES
    raise UserError(f"no generated mixture '{name}' (did you mean {', '.join(close)}?)")


@functools.lru_cache
def _mixture_parts(family: str) -> dict[str, tuple[str, ...]]:
    parts: dict[str, list[str]] = {}
    for name, dataset in _datasets(family, CONTENT_DIR).items():
        language, task = dataset.meta.language, _slug(dataset.meta.task)
        for mixture in (family, f"{family}_{language}", f"{family}_{task}", f"{family}_{language}_{task}"):
            parts.setdefault(mixture, []).append(name)
    return {mixture: tuple(names) for mixture, names in parts.items()}


def record_meta(meta: DatasetMeta, record: Record, root: Path = CONTENT_DIR) -> DatasetMeta:
    """The description that fits one generated record: for RE and EE that of its domain, for other tasks `meta` itself.

    A training dataset mixes domains, and RE and EE records carry no label set of their own: asked with the union of all
    domains' labels, an entity may answer to labels of another domain.
    """
    if meta.task not in ("RE", "EE") or meta.name.startswith(HELD_OUT):
        return meta
    return _domain_meta(meta.name, record.id.split("-")[2], root)


@functools.cache
def _domain_meta(name: str, slug: str, root: Path) -> DatasetMeta:
    dataset = _find(name, root)
    domains = [domain for domain in dataset.domains if domain.slug == slug]
    return _meta(name, dataset.meta.task, dataset.meta.language, domains, _family_of(name))


def fingerprint(root: Path = CONTENT_DIR) -> str:
    """A hash of the content and of the code that reads it: it changes whenever the generated records may change."""
    digest = hashlib.sha256()
    code = Path(__file__).parent
    modules = sorted(path for path in code.glob("*.py") if path.name != "check.py")
    for folder, paths in ((root, content_files(root)), (code, modules)):
        for path in paths:
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _find(name: str, root: Path) -> _Dataset:
    for family in FAMILIES:
        if name.startswith(family + "_") and name in _datasets(family, root):
            return _datasets(family, root)[name]
    known = [known for family in FAMILIES for known in _datasets(family, root)]
    close = difflib.get_close_matches(name, known, n=3) or known[:3]
    raise UserError(f"no generated dataset '{name}' (did you mean {', '.join(close)}?)")


def _family_of(name: str) -> str:
    return next(family for family in FAMILIES if name.startswith(family + "_"))


@functools.lru_cache
def _datasets(family: str, root: Path) -> dict[str, _Dataset]:
    if family not in FAMILIES:
        raise UserError(f"unknown family '{family}' of generated data (one of {', '.join(FAMILIES)})")
    datasets: dict[str, _Dataset] = {}
    for language in LANGUAGES:
        content = load_family(language, family, root)
        author = Author(content, _label_sets(content, root))
        for task in TASKS:
            domains = tuple(domain for domain in content.domains if can_write(task, domain))
            groups = [(domain,) for domain in domains] if family == HELD_OUT else [domains] if domains else []
            for group in groups:
                name = f"{family}_{language}_{_slug(task)}" + (f"_{group[0].slug}" if family == HELD_OUT else "")
                datasets[name] = _Dataset(_meta(name, task, language, group, family, content), author, tuple(group))
    return datasets


def _label_sets(content: FamilyContent, root: Path) -> LabelSets | None:
    if content.family == HELD_OUT:
        return None
    rivals = [read_family(content.language, family, root)[0] for family in FAMILIES if family != content.family]
    return LabelSets(content, rivals)


def _slug(task: str) -> str:
    return task.lower().replace("-", "_")


def _meta(
    name: str, task: str, language: str, domains: Iterable[Domain], family: str, content: FamilyContent | None = None
) -> DatasetMeta:
    group = tuple(domains)
    meta = DatasetMeta(
        name=name,
        task=task,
        language=language,
        labels=(),
        domain=", ".join(domain.name for domain in group),
        license=_LICENSE,
    )
    if task in ("NER", "ET", "SF"):
        labels = _union(_types(task, domain, family) for domain in group)
        return dataclasses.replace(meta, labels=labels)
    if task in ("SA", "NLI"):
        wordings = (SENTIMENT_WORDINGS if task == "SA" else NLI_WORDINGS)[language, family]
        if family == HELD_OUT and content is not None:
            wordings = (wordings[content.domains.index(group[0]) % len(wordings)],)
        return dataclasses.replace(meta, labels=_union(wording.values() for wording in wordings))
    if task == "RE":
        pairs = {
            (head.split("#")[0], tail.split("#")[0])
            for domain in group
            for fact in domain.facts
            for _, head, tail in fact.relations
        }
        return dataclasses.replace(
            meta,
            labels=_union(domain.relation_names for domain in group),
            entity_labels=_union(domain.fact_types for domain in group),
            pair_types=frozenset(pairs),
        )
    if task == "EE":
        schema: dict[str, dict[str, None]] = {}
        for domain in group:
            for event, roles in domain.event_schema.items():
                schema.setdefault(event, {}).update(dict.fromkeys(roles))
        return dataclasses.replace(
            meta,
            labels=tuple(schema),
            event_schema={event: tuple(roles) for event, roles in schema.items()},
            roles=_union(schema.values()),
        )
    if task == "MRC-SE":
        return dataclasses.replace(meta, labels=(ANSWER_LABELS[language],))
    if task == "MRC-MC":
        return meta
    return dataclasses.replace(meta, labels=_union(d.topics if task == "CLS" else d.intent_names for d in group))


def _types(task: str, domain: Domain, family: str) -> tuple[str, ...]:
    """Training asks for all types of the domain; held-out datasets for those that their texts can hold."""
    if family != HELD_OUT:
        return tuple(domain.types)
    return domain.utterance_types if task == "SF" else domain.fact_types


def _union(groups: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label for group in groups for label in group))
