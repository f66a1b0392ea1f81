"""`seqgpt plan`: the train step of a recipe compiled for devices that need not be there, and what XLA says of it.

Nothing is allocated, no data is read and no tokenizer is trained: parameters, optimiser state and batch are shapes.
The vocabulary is that of the preset where the recipe names a tokenizer, else as large as the one it would train.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
import time
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from seqgpt_jax.data.packing import RowShape
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.architectures import make_model
from seqgpt_jax.models.decoder import DecoderConfig, embedding_rows
from seqgpt_jax.models.flops import train_flops
from seqgpt_jax.models.presets import get_preset
from seqgpt_jax.recipe import Recipe, Stage
from seqgpt_jax.training.chips import Chip, Topology, topology_devices
from seqgpt_jax.training.flops import traced_flops
from seqgpt_jax.training.hlo import Collective, find_collectives, memory_traffic, parse_program
from seqgpt_jax.training.model_info import Parameter, parameters_of, shard_bytes
from seqgpt_jax.training.optimizers import make_optimizer
from seqgpt_jax.training.partitioning import check_rows, make_mesh, make_skeleton
from seqgpt_jax.training.start import stage_skeleton
from seqgpt_jax.training.step import abstract_batch, abstract_state, make_train_step, state_shardings


@dataclass(frozen=True)
class Memory:
    """Bytes of one device. What the compiler did not say, as it failed for want of memory, is None."""

    arguments: int  # state and batch
    outputs: int | None
    aliased: int | None  # outputs that lie in the arguments' place
    temporaries: int | None
    code: int | None
    total: int
    limit: int | None  # None: a CPU, which has none that is known

    @property
    def fits(self) -> bool | None:
        return None if self.limit is None else self.total <= self.limit


@dataclass(frozen=True)
class Work:
    """What a step does. Where the compiler failed, what only it knows is None."""

    model_flops: float  # all devices, by the model's sizes, nothing computed twice
    traced_flops: int  # all devices, as traced: with recomputation, and loops in full
    xla_flops: float | None  # one device, XLA's own count: loop bodies once
    hbm_bytes: int | None  # one device, read and written, loops in full
    xla_bytes: float | None  # one device, XLA's own count, of all memories: loop bodies once
    collectives: tuple[Collective, ...] | None
    unknown_loops: int  # loops of unknown length, counted as one round


@dataclass(frozen=True)
class StepTime:
    """Seconds a step at the chip's peak rates: no step can be faster than the longest of the three."""

    compute: float
    memory: float | None
    interconnect: float | None
    tokens: int  # of a step
    flops_share: float  # model FLOPs of all the FLOPs that the chips could do in `bound`

    @property
    def bound(self) -> float:
        """All three at once."""
        return max(self.compute, self.memory or 0.0, self.interconnect or 0.0)

    @property
    def one_by_one(self) -> float:
        """None of them at the same time as another."""
        return self.compute + (self.memory or 0.0) + (self.interconnect or 0.0)


@dataclass(frozen=True)
class Plan:
    """All that `seqgpt plan` says."""

    topology: Topology
    mesh: dict[str, int]
    stage: Stage
    shape: RowShape  # the longest rows, whose step needs the most memory and time
    config: DecoderConfig
    num_parameters: int
    parameters: tuple[Parameter, ...]
    memory: Memory
    work: Work
    step_time: StepTime | None  # None: a device whose rates are not known
    trace_seconds: float
    compile_seconds: float
    compile_cpu_seconds: float  # of all cores together, which other work on the machine does not change
    versions: dict[str, str]


def make_plan(recipe: Recipe, topology: Topology, stage_name: str | None = None) -> Plan:
    """Compiles the step of a stage (default: the first) for the topology, on rows of the longest length.

    Raises UserError where the mesh does not divide the devices, or the rows the mesh. A model that does not fit is
    no error: memory.fits says so.
    """
    stage = _find_stage(recipe, stage_name)
    mesh = make_mesh(recipe.mesh.data, recipe.mesh.fsdp, recipe.mesh.tensor, topology_devices(topology))
    shapes = recipe.plan_config(stage).shapes
    for each in shapes:
        check_rows(each.num_rows, mesh, stage.num_microbatches)
    shape = shapes[-1]
    config = planned_config(recipe, topology)
    begin = time.perf_counter()
    skeleton = stage_skeleton(make_skeleton(lambda: make_model(config, rngs=nnx.Rngs(0))), stage, recipe.seed)
    num_steps = stage.steps or 1  # constants of the schedule, whose values change nothing that is planned
    optimizer = make_optimizer(stage.optimizer, num_steps, skeleton)
    shardings = state_shardings(skeleton, optimizer, mesh)
    arguments = (abstract_state(skeleton, optimizer, shardings), abstract_batch(shape, mesh))
    traced = make_train_step(skeleton, optimizer, mesh, shardings, stage.num_microbatches, recipe.loss).trace(
        *arguments
    )
    lowered = traced.lower()
    middle, middle_cpu = time.perf_counter(), time.process_time()
    compiled, failure = _compile(lowered)
    end, end_cpu = time.perf_counter(), time.process_time()
    memory = _memory_of(compiled, failure, _bytes_per_device(arguments), topology.chip)
    num_tokens = shape.num_rows * shape.tokens
    needed = train_flops(config, num_tokens, shape.num_rows * shape.supervised, shape.tokens)
    work = _work_of(compiled, needed, traced_flops(traced.jaxpr))
    return Plan(
        topology=topology,
        mesh=dict(mesh.shape),
        stage=stage,
        shape=shape,
        config=config,
        num_parameters=skeleton.num_parameters(),
        parameters=parameters_of(skeleton, shardings.params),
        memory=memory,
        work=work,
        step_time=_step_time(work, topology, num_tokens),
        trace_seconds=middle - begin,
        compile_seconds=end - middle,
        compile_cpu_seconds=end_cpu - middle_cpu,
        versions=_versions(topology),
    )


def _find_stage(recipe: Recipe, name: str | None) -> Stage:
    stages = {stage.name: stage for stage in recipe.stages}
    if name is not None and name not in stages:
        raise UserError(f"the recipe has no stage '{name}' (choose {', '.join(stages)})")
    return recipe.stages[0] if name is None else stages[name]


def planned_config(recipe: Recipe, topology: Topology) -> DecoderConfig:
    """The model as it would be built on these devices."""
    preset = get_preset(recipe.model.preset)
    rows = preset.vocab_size
    if not (recipe.tokenizer.path or recipe.model.pretrained):
        rows = embedding_rows(recipe.tokenizer.vocab_size)
    config = recipe.model.config(rows)
    if topology.chip and config.layer_loop == "auto":  # the model would ask this process, which runs on the CPU
        config = dataclasses.replace(config, layer_loop="scan")
    return config


def _bytes_per_device(arguments: Any) -> int:
    return sum(shard_bytes(leaf, leaf.sharding) for leaf in jax.tree.leaves(arguments))


def _compile(lowered: Any) -> tuple[Any, str]:
    """The compiled step, or what XLA says that it needs more memory for."""
    try:
        return lowered.compile(), ""
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, str(error)


def _memory_of(compiled: Any, failure: str, arguments: int, chip: Chip | None) -> Memory:
    limit = chip.hbm_bytes if chip else None
    if compiled is None:
        return Memory(arguments, None, None, None, None, _needed_bytes(failure), limit)
    stats = compiled.memory_analysis()
    own = stats.argument_size_in_bytes, stats.output_size_in_bytes - stats.alias_size_in_bytes
    return Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
        total=sum(own) + stats.temp_size_in_bytes + stats.generated_code_size_in_bytes,
        limit=limit,
    )


def _needed_bytes(failure: str) -> int:
    """All that the step would need, by XLA's message: `temporaries (123.86G) exceeds`, or `Used 20.1G of 15.75G hbm`.

    What the first calls temporaries has the arguments in it.
    """
    size = re.search(r"temporaries \(([\d.]+)([KMGT])\)|Used ([\d.]+)([KMGT]) of", failure)
    assert size is not None, f"no size in: {failure[:500]}"
    number, unit = (part for part in size.groups() if part)
    return int(float(number) * 2 ** (10 * (1 + "KMGT".index(unit))))


def _work_of(compiled: Any, needed: float, traced: int) -> Work:
    if compiled is None:
        return Work(needed, traced, None, None, None, None, 0)
    cost = compiled.cost_analysis()
    program = parse_program(compiled.as_text())
    return Work(
        model_flops=needed,
        traced_flops=traced,
        xla_flops=cost.get("flops"),
        hbm_bytes=memory_traffic(program),
        xla_bytes=cost.get("bytes accessed"),
        collectives=tuple(find_collectives(program)),
        unknown_loops=program.unknown_loops,
    )


def _step_time(work: Work, topology: Topology, tokens: int) -> StepTime | None:
    chip = topology.chip
    if chip is None:
        return None
    received = None if work.collectives is None else sum(one.received_bytes for one in work.collectives)
    time = StepTime(
        compute=work.traced_flops / topology.num_devices / chip.flops,
        memory=None if work.hbm_bytes is None else work.hbm_bytes / chip.hbm_bandwidth,
        interconnect=None if received is None else received / chip.ici_bandwidth,
        tokens=tokens,
        flops_share=0.0,
    )
    share = work.model_flops / (topology.num_devices * chip.flops * time.bound)
    return dataclasses.replace(time, flops_share=share)


def _versions(topology: Topology) -> dict[str, str]:
    names = ("jax", "jaxlib", "libtpu") if topology.chip else ("jax", "jaxlib")
    return {name: importlib.metadata.version(name) for name in names}
