"""Batches from rows: each token, position and target where it belongs, on any number of hosts."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest

from seqgpt_jax.data.loader import Batch, Loader, make_batch
from seqgpt_jax.data.plan import BatchPlan, PlanConfig
from seqgpt_jax.errors import UserError
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
        batch, rows = loader.batch(step), loader._plan.rows(step)
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


@pytest.mark.parametrize("num_processes", [1, 2, 4, 8])
def test_hosts_have_disjoint_rows_that_are_the_whole_step(num_processes: int) -> None:
    whole = toy_loader().batch(3)
    parts = [toy_loader(index, num_processes).batch(3) for index in range(num_processes)]
    together = jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
    jax.tree.map(np.testing.assert_array_equal, together, whole)


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
        "seqgpt_jax.training.journal, seqgpt_jax.configuration\n"
        "print([name for name in ('tensorflow', 'seqio', 't5', 'transformers', 'torch') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
