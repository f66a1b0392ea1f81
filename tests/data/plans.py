"""Hypothesis strategies for mixtures and plans, which tests of the plan and of the loader share."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from seqgpt_jax.data.packing import RowShape
from seqgpt_jax.data.plan import PlanConfig, TaskSize


@st.composite
def plan_configs(draw: st.DrawFn, hosts: int = 1) -> PlanConfig:
    """Rows of one to four lengths, as many as divide by the hosts."""
    unit, multiples = draw(st.integers(1, 9)), st.sampled_from((1, 2, 3, 4, 6))
    lengths = [unit * multiple for multiple in draw(st.lists(multiples, min_size=1, max_size=4, unique=True))]
    longest = max(lengths)
    whole = math.lcm(*(length // math.gcd(length, longest) for length in lengths))
    return PlanConfig(
        num_rows=hosts * whole * draw(st.integers(1, 3)),
        row_tokens=lengths[0] if len(lengths) == 1 else tuple(lengths),
        row_supervised=draw(st.integers(1, longest)),
        window=draw(st.integers(1, 60)),
        seed=draw(st.integers(0, 5)),
    )


@st.composite
def mixtures(draw: st.DrawFn, longest: RowShape) -> list[TaskSize]:
    """One to four tasks of 1 to 25 examples, each of which fits the longest row."""
    tasks = []
    size = st.tuples(st.integers(1, longest.tokens), st.integers(0, longest.supervised))
    for index in range(draw(st.integers(1, 4))):
        lengths = draw(st.lists(size, min_size=1, max_size=25))
        lengths = [(tokens, min(tokens - 1, supervised)) for tokens, supervised in lengths]
        tasks.append(TaskSize(f"task_{index}", np.array(lengths, np.int32), draw(st.floats(0.01, 100.0))))
    return tasks


@st.composite
def mixtures_and_configs(draw: st.DrawFn, hosts: int = 1) -> tuple[list[TaskSize], PlanConfig]:
    config = draw(plan_configs(hosts))
    return draw(mixtures(config.shapes[-1])), config
