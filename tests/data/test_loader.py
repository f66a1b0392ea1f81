"""Batches from rows: each token, position and target where it belongs, on any number of hosts."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqgpt_jax.data.loader import Batch, Loader, make_batch
from seqgpt_jax.data.plan import BatchPlan, PlanConfig, TaskSize
from seqgpt_jax.errors import UserError
from tests.data.plans import mixtures_and_configs
from tests.training.toy import ToyExample, ToySource


class Listed:
    def __init__(self, *examples: tuple[list[int], int]) -> None:
        self.examples = [ToyExample(np.array(ids, np.int32), num_prompt) for ids, num_prompt in examples]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> ToyExample:
        return self.examples[index]


def toy_loader(process_index: int = 0, num_processes: int = 1, num_rows: int = 8) -> Loader:
    sources = [ToySource("a", 60, seed=1), ToySource("b", 30, seed=2)]
    plan = BatchPlan([source.size(len(source)) for source in sources], PlanConfig(num_rows, 40, 12, window=32))
    return Loader(plan, sources, process_index, num_processes)


def test_worked_example() -> None:
    batch = make_batch([((0, 0), (0, 1))], [Listed(([5, 6, 7, 2], 2), ([8, 9, 2], 1))], 8, 5)
    assert batch.tokens_BT.tolist() == [[5, 6, 7, 2, 8, 9, 2, 0]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0]]
    assert batch.segment_ids_BT.tolist() == [[1, 1, 1, 1, 2, 2, 2, 0]]
    assert batch.target_positions_BS.tolist() == [[1, 2, 4, 5, 0]]
    assert batch.targets_BS.tolist() == [[7, 2, 9, 2, 0]]
    assert batch.target_mask_BS.tolist() == [[True, True, True, True, False]]


def test_documents_come_out_as_they_went_in() -> None:
    loader = toy_loader()
    sources = loader._sources
    for step in (0, 5):
        batch, rows = loader.batch(step), loader.plan.rows(step)
        for b, row in enumerate(rows):
            for segment, (task, index) in enumerate(row, start=1):
                here = batch.segment_ids_BT[b] == segment
                assert batch.tokens_BT[b][here].tolist() == sources[task][index].ids.tolist()
                assert batch.positions_BT[b][here].tolist() == list(range(here.sum()))
            answers = [sources[task][index].ids[sources[task][index].num_prompt :] for task, index in row]
            mask = batch.target_mask_BS[b]
            assert batch.targets_BS[b][mask].tolist() == np.concatenate(answers).tolist()
            # A hidden state predicts the token after its own.
            assert (
                batch.tokens_BT[b][batch.target_positions_BS[b][mask] + 1].tolist()
                == batch.targets_BS[b][mask].tolist()
            )


class Numbered:
    """Examples whose every token says which example of which task it is."""

    def __init__(self, number: int, task: TaskSize) -> None:
        self.examples = [
            ToyExample(np.full(tokens, 1000 * number + index, np.int32), int(tokens - supervised))
            for index, (tokens, supervised) in enumerate(task.lengths.tolist())
        ]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> ToyExample:
        return self.examples[index]


@settings(max_examples=25)
@given(mixtures_and_configs(hosts=8), st.sampled_from((1, 2, 4, 8)), st.integers(0, 6))
def test_hosts_have_disjoint_rows_that_are_the_whole_step(
    mixture_and_config: tuple[list[TaskSize], PlanConfig], num_processes: int, step: int
) -> None:
    tasks, config = mixture_and_config
    sources = [Numbered(number, task) for number, task in enumerate(tasks)]
    rows = BatchPlan(tasks, config).rows(step)
    parts = [
        Loader(BatchPlan(tasks, config), sources, host, num_processes).batch(step) for host in range(num_processes)
    ]
    assert {len(part.tokens_BT) for part in parts} == {len(rows) // num_processes}
    found = []
    for part in parts:
        for tokens_T, segments_T in zip(part.tokens_BT, part.segment_ids_BT, strict=True):
            numbers = [tokens_T[segments_T == segment] for segment in range(1, segments_T.max() + 1)]
            found.append([(*divmod(int(own[0]), 1000), len(own)) for own in numbers])
    assert found == [[(task, index, tasks[task].lengths[index, 0]) for task, index in row] for row in rows]


def test_background_batches_are_those_of_their_steps() -> None:
    loader = toy_loader()
    batches = list(loader.batches(4, 11, num_threads=3))
    assert len(batches) == 7
    for step, batch in zip(range(4, 11), batches, strict=True):
        jax.tree.map(np.testing.assert_array_equal, batch, loader.batch(step))
    assert list(loader.batches(5, 5)) == []


def test_rows_must_divide_by_hosts() -> None:
    with pytest.raises(UserError, match="8 rows a step do not divide by 3 hosts"):
        toy_loader(0, 3)


def test_batch_is_a_pytree() -> None:
    batch = toy_loader().batch(0)
    assert len(jax.tree.leaves(batch)) == len(dataclasses.fields(Batch)) == 6


def test_training_path_imports_no_tensorflow() -> None:
    code = (
        "import sys, seqgpt_jax.data.loader, seqgpt_jax.training.step, seqgpt_jax.training.checkpoints, "
        "seqgpt_jax.training.journal, seqgpt_jax.training.loop, seqgpt_jax.configuration\n"
        "print([name for name in ('tensorflow', 'seqio', 't5', 'transformers', 'torch') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
