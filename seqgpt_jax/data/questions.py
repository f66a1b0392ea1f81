"""From a record to what the model is trained on: which questions it is asked, and their token ids. No TensorFlow.

    record -> ask_record -> atomic examples -> encode_examples -> TokenExample(prompt + answer), or None: does not fit

tasks/ runs these functions inside SeqIO. An example that is too long loses the end of its text, and with it the spans
of its answer that are not in what is left; one that is too long even so is dropped. Both are counted.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from seqgpt_jax.atomic import STEPS, AtomicExample, decompose
from seqgpt_jax.data.balance import EVEN, Balance, balance
from seqgpt_jax.data.datasets import Dataset, sample_records
from seqgpt_jax.data.label_pools import label_pool
from seqgpt_jax.errors import UserError
from seqgpt_jax.negatives import NO_POOL, AskConfig, LabelPool, evaluation_questions, training_questions
from seqgpt_jax.prompt import get_format
from seqgpt_jax.records import Record
from seqgpt_jax.vocabulary import Vocabulary

STATS = (  # what is counted
    "examples",
    "tokens",
    "supervised",
    "cut",
    "cut_tokens",
    "cut_spans",
    "dropped",
    "surplus",
    "leaked",
)
_TEXT_SHARES = (1.0, 0.75, 0.5, 0.25)  # of max_tokens, for the prompt of an example whose answer leaves it less


@dataclass(frozen=True)
class EncodeConfig:
    """How a record becomes token ids. max_tokens: prompt and answer with EOS; max_supervised: the answer with EOS."""

    prompt_format: str = "seqgpt_v1"
    max_tokens: int | None = None
    max_supervised: int | None = None
    ask: AskConfig = field(default_factory=AskConfig)

    def __post_init__(self) -> None:
        get_format(self.prompt_format)
        for name in ("max_tokens", "max_supervised"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value} (it must be at least 1)")


@dataclass(frozen=True, slots=True)
class TokenExample:
    """Prompt and answer as one sequence of the tokenizer's own ids; ids[num_prompt:], EOS last, are supervised."""

    ids: np.ndarray  # int32 [tokens]
    num_prompt: int


@dataclass(frozen=True)
class AskContext:
    """What the questions about one record depend on beyond it; only those of training do (`ask_context`)."""

    pool: LabelPool = NO_POOL
    balance: Balance = EVEN


ALONE = AskContext()


def ask_record(
    record: Record,
    dataset: Dataset,
    split: str,
    steps: Collection[str],
    config: AskConfig,
    seed: int,
    context: AskContext = ALONE,
    stats: Counter[str] | None = None,
) -> list[AtomicExample]:
    """The questions about a record with their gold answers, of these steps of atomic.STEPS alone.

    Train split: shuffled, sampled and chunked (negatives.py), a function of (seed, dataset, record id) and the context;
    counts in stats the questions that balance leaves out (surplus). Other splits: every label in the order of the
    dataset, as prediction asks.
    """
    meta = dataset.record_meta(record)
    examples = [example for example in decompose(record, meta, split) if example.source.step in steps]
    if split != "train":
        return evaluation_questions(examples, config.max_extract_labels)
    if surplus := context.balance.surplus(record):
        kept = [each for each in examples if (each.source.step, each.source.query) not in surplus]
        if stats is not None:
            stats["surplus"] += len(examples) - len(kept)
        examples = kept
    rng = random.Random(f"{seed}/{meta.name}/{record.id}")
    return training_questions(examples, config, rng, context.pool)


def ask_context(
    dataset: Dataset,
    split: str,
    steps: Collection[str],
    config: AskConfig,
    seed: int,
    foreign: tuple[str, ...] = (),
    limit: int | None = None,
    sample_seed: int = 0,
    skip: Collection[str] = (),
) -> AskContext:
    """What `ask_record` needs of a dataset's split, worked out once: reads the split where it has choices to balance.

    foreign: see label_pools.foreign_labels. limit, sample_seed, skip: which records will be asked,
    a sample without those of these ids.
    """
    if split != "train":
        return ALONE
    pool = label_pool(dataset.meta, foreign)
    choices = _CHOICE_STEPS.intersection(steps)
    if config.max_answer_share == 1 or dataset.meta.task in _TASKS_WITHOUT_CHOICES or not choices:
        return AskContext(pool)
    records = dataset.records(split) if limit is None else sample_records(dataset, split, limit, sample_seed)
    asked = (record for record in records if record.id not in skip)
    return AskContext(pool, balance(asked, choices, config.max_answer_share, f"{seed}/{dataset.meta.name}"))


_CHOICE_STEPS = frozenset({"classify", "relation", "event_type"})
_TASKS_WITHOUT_CHOICES = ("NER", "SF", "MRC-SE")


def encode_examples(
    examples: Sequence[AtomicExample], vocabulary: Vocabulary, config: EncodeConfig, stats: Counter[str]
) -> list[TokenExample | None]:
    """Token ids of each example; None for one that cannot fit.

    Counts in stats: examples and tokens and supervised (tokens) of what is given back, cut (examples that lost the end
    of their text), cut_tokens, cut_spans (spans that left an answer), dropped. `leaked` is left to whoever reads the
    records: those that were kept out because an evaluation split has them.
    """
    prompt_format = get_format(config.prompt_format)
    prompts = vocabulary.encode_prompts(prompt_format, examples)
    answers = vocabulary.encode_answers([prompt_format.render_answer(example) for example in examples])
    encoded: list[TokenExample | None] = []
    for example, prompt, answer in zip(examples, prompts, answers, strict=True):
        assert prompt is not None  # no limit was given
        if _fits(len(prompt.ids), len(answer), config):
            encoded.append(_token_example(prompt.ids, answer, stats))
        else:
            shortened = _encode_shortened(example, len(prompt.ids), len(answer), vocabulary, config, stats)
            encoded.append(shortened)
    return encoded


def _fits(num_prompt: int, num_answer: int, config: EncodeConfig) -> bool:
    return (config.max_tokens is None or num_prompt + num_answer <= config.max_tokens) and (
        config.max_supervised is None or num_answer <= config.max_supervised
    )


def _token_example(prompt: list[int], answer: list[int], stats: Counter[str]) -> TokenExample:
    stats["examples"] += 1
    stats["tokens"] += len(prompt) + len(answer)
    stats["supervised"] += len(answer)
    return TokenExample(np.array(prompt + answer, np.int32), len(prompt))


def _encode_shortened(
    example: AtomicExample,
    num_prompt: int,
    num_answer: int,
    vocabulary: Vocabulary,
    config: EncodeConfig,
    stats: Counter[str],
) -> TokenExample | None:
    """Keeps as much text as leaves room for the answer; where the answer is long, less, so that it loses spans."""
    prompt_format = get_format(config.prompt_format)
    most = num_prompt if config.max_tokens is None else config.max_tokens
    for limit in (most - num_answer, *(int(most * share) for share in _TEXT_SHARES)):
        prompt = vocabulary.encode_prompts(prompt_format, [example], limit)[0]
        if prompt is None:
            continue
        shortened, num_lost = _without_lost_spans(example, prompt.text_kept)
        answer = vocabulary.encode_answer(prompt_format.render_answer(shortened))
        if _fits(len(prompt.ids), len(answer), config):
            stats["cut"] += prompt.tokens_cut > 0
            stats["cut_tokens"] += prompt.tokens_cut
            stats["cut_spans"] += num_lost
            return _token_example(prompt.ids, answer, stats)
    stats["dropped"] += 1
    return None


def _without_lost_spans(example: AtomicExample, text: str) -> tuple[AtomicExample, int]:
    """The example with this text, the start of its own, and how many spans its answer lost."""
    if isinstance(example.answer, tuple):
        return dataclasses.replace(example, text=text), 0
    kept = {label: tuple(span for span in spans if span in text) for label, spans in example.answer.items()}
    num_lost = sum(map(len, example.answer.values())) - sum(map(len, kept.values()))
    answer = {label: spans for label, spans in kept.items() if spans}
    return dataclasses.replace(example, text=text, answer=answer), num_lost


def training_texts(
    datasets: Iterable[Dataset],
    split: str,
    limit: int | None,
    config: EncodeConfig | None = None,
    seed: int = 0,
) -> Iterator[str]:
    """What a tokenizer is trained on: each record's text once, its labels and answers as they stand in prompts.

    limit: records a dataset. The frame words of the prompt come along, so that they are single tokens.
    """
    config = config or EncodeConfig()
    prompt_format = get_format(config.prompt_format)
    for dataset in datasets:
        for record in sample_records(dataset, split, limit, seed):
            seen: set[str] = set()
            for example in ask_record(record, dataset, split, STEPS, config.ask, seed):
                head, tail = prompt_format.prompt_pieces(example.kind, example.text, example.labels)
                if head not in seen:
                    seen.add(head)
                    yield head
                yield tail
                yield prompt_format.render_answer(example)
