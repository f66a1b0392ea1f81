"""`seqgpt plan`: numbers against counts by hand, on the CPU; and on a TPU's compiler where libtpu is installed."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from seqgpt_jax.cli import main
from seqgpt_jax.errors import UserError
from seqgpt_jax.recipe import DataSettings, MeshSettings, ModelSettings, Recipe, Stage, TokenizerSettings
from seqgpt_jax.training import chips
from seqgpt_jax.training.ahead import Plan, StepTime, _memory_of, make_plan
from seqgpt_jax.training.ahead_report import plan_to_dict, plan_to_text
from seqgpt_jax.training.chips import CHIPS, parse_topology
from seqgpt_jax.training.flops import traced_flops
from seqgpt_jax.training.hlo import find_collectives, memory_traffic, parse_program, type_bytes
from seqgpt_jax.training.optimizers import OptimizerConfig
from seqgpt_jax.training.partitioning import make_mesh

REPO = Path(__file__).resolve().parent.parent.parent
LAYERS, WIDTH, VOCABULARY, ROWS, TOKENS, SUPERVISED = 3, 32, 320, 8, 16, 4
RECIPE = Recipe(
    stages=(
        Stage("one", "synthetic", 5, optimizer=OptimizerConfig(name="adamw")),
        Stage("two", "mini_real", 5, num_microbatches=3),
        Stage("texts", "mini_real", 5, objective="language_modelling", optimizer=OptimizerConfig(name="adamw")),
    ),
    model=ModelSettings(num_layers=LAYERS, width=WIDTH, num_heads=4, layer_loop="scan"),
    tokenizer=TokenizerSettings(vocab_size=VOCABULARY),
    data=DataSettings(rows_per_step=ROWS, row_tokens=TOKENS, row_supervised=SUPERVISED),
    mesh=MeshSettings(data=2, fsdp=2, tensor=2),
)
GIN = f"""
recipe.stages = [@one/stage()]
one/stage.name = "one"
one/stage.mixture = "synthetic"
one/stage.steps = 5
optimizer.name = "adamw"
model.num_layers = {LAYERS}
model.width = {WIDTH}
model.layer_loop = "scan"
tokenizer.vocab_size = {VOCABULARY}
data.rows_per_step = {ROWS}
data.row_tokens = {TOKENS}
data.row_supervised = {SUPERVISED}
mesh.data = 1
mesh.fsdp = -1
"""


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(RECIPE, parse_topology("cpu:8"))


@pytest.fixture
def gin_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gin"
    path.write_text(GIN)
    return path


def run_plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`seqgpt plan` as a user runs it: a process that has as many devices as the machine."""
    cleaned = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    command = [sys.executable, "-m", "seqgpt_jax.cli", "plan", *arguments]
    return subprocess.run(command, cwd=REPO, env=cleaned, capture_output=True, text=True, timeout=600)


def test_every_parameter_and_its_bytes(plan: Plan) -> None:
    by_name = {parameter.name: parameter for parameter in plan.parameters}
    embedding = by_name["embedding"]
    assert (embedding.shape, embedding.dtype, embedding.spec) == ((VOCABULARY, WIDTH), "float32", ("tensor", "fsdp"))
    assert embedding.bytes_per_device == VOCABULARY * WIDTH * 4 // 4
    assert by_name["blocks/up/kernel"].bytes_per_device == LAYERS * WIDTH * 4 * WIDTH * 4 // 4
    assert by_name["final_norm/scale"].bytes_per_device == WIDTH * 4  # on every device
    matrices = LAYERS * 12 * WIDTH**2 + VOCABULARY * WIDTH  # split in four
    over_tensor = LAYERS * (3 * WIDTH + 4 * WIDTH)  # biases of heads and of the MLP, split in two
    everywhere = LAYERS * (4 * WIDTH + 2 * WIDTH) + 4 * WIDTH  # norms, and biases of the width
    assert plan.num_parameters == matrices + over_tensor + everywhere
    total = sum(parameter.bytes_per_device for parameter in plan.parameters)
    assert total == 4 * (matrices // 4 + over_tensor // 2 + everywhere)
    batch = ROWS // 4 * (3 * TOKENS * 4 + 2 * SUPERVISED * 4 + SUPERVISED)
    counts = 3 * 4  # of the state, of Adam, of its schedule
    assert plan.memory.arguments == pytest.approx(3 * total + batch + counts, abs=64)


def test_flops_by_hand(plan: Plan) -> None:
    blocks = 2 * ROWS * TOKENS * LAYERS * 12 * WIDTH**2
    attention = LAYERS * ROWS * 2 * (2 * TOKENS * TOKENS * WIDTH)
    head = 2 * ROWS * SUPERVISED * WIDTH * VOCABULARY
    assert plan.work.model_flops == 3 * (blocks + attention + head)
    assert plan.work.traced_flops == pytest.approx(plan.work.model_flops, rel=0.01)  # nothing is recomputed
    assert plan.work.unknown_loops == 0


def test_language_modelling_has_the_head_at_every_token(plan: Plan) -> None:
    texts = make_plan(RECIPE, parse_topology("cpu:8"), "texts")
    assert plan_to_dict(texts)["row_supervised"] == TOKENS
    more = 3 * 2 * ROWS * (TOKENS - SUPERVISED) * WIDTH * VOCABULARY
    assert texts.work.model_flops - plan.work.model_flops == more
    assert texts.work.traced_flops - plan.work.traced_flops == pytest.approx(more, rel=0.01)
    assert f"{TOKENS} of them supervised" in plan_to_text(texts)


def test_remat_shows_in_the_traced_count(plan: Plan) -> None:
    settings = dataclasses.replace(RECIPE.model, remat="full")
    again = make_plan(dataclasses.replace(RECIPE, model=settings), parse_topology("cpu:8")).work
    assert again.model_flops == plan.work.model_flops
    head = 3 * 2 * ROWS * SUPERVISED * WIDTH * VOCABULARY
    assert again.traced_flops - head == pytest.approx(4 / 3 * (plan.work.traced_flops - head), rel=0.1)


def test_an_fsdp_mesh_gathers_parameters_and_never_rows() -> None:
    data = DataSettings(rows_per_step=8, row_tokens=128, row_supervised=4)
    wide = dataclasses.replace(RECIPE, data=data, mesh=MeshSettings(data=1, fsdp=8))
    work = make_plan(wide, parse_topology("cpu:8")).work
    activations, largest_parameter = 8 * 128 * WIDTH * 4, VOCABULARY * WIDTH * 4
    gathers = [one.size for one in work.collectives or () if one.kind == "all-gather"]
    assert 0 < max(gathers) <= largest_parameter < activations


def test_dict_and_text_say_the_same(plan: Plan) -> None:
    fields = json.loads(json.dumps(plan_to_dict(plan)))
    assert fields["mesh"] == {"data": 2, "fsdp": 2, "tensor": 2}
    assert fields["model"]["num_layers"] == LAYERS
    assert fields["num_parameters"] == plan.num_parameters
    assert fields["memory"]["fits"] is None  # nobody knows a CPU's limit
    assert fields["memory"]["temporaries"] > 0
    assert fields["step_time"] is None
    assert fields["flops"]["xla_one_device_loops_once"] > 0
    assert fields["bytes_moved"]["hbm_one_device"] > fields["memory"]["arguments"]
    assert fields["collectives_by_kind"]["all-reduce"]["count"] > LAYERS
    assert sum(one["received_bytes"] for one in fields["collectives"]) == pytest.approx(
        sum(kind["received_bytes"] for kind in fields["collectives_by_kind"].values())
    )
    text = plan_to_text(plan)
    for expected in ("blocks/key_value/kernel", "(tensor, fsdp)", "temporaries", "all all-reduce", "fits: unknown"):
        assert expected in text


def test_the_command_needs_no_eight_devices(gin_file: Path) -> None:
    done = run_plan(str(gin_file), "--topology", "cpu:4", "--json", "--gin", "model.num_layers=2")
    assert done.returncode == 0, done.stderr[-2000:]
    fields = json.loads(done.stdout)
    assert fields["num_devices"] == fields["mesh"]["fsdp"] == 4
    assert fields["model"]["num_layers"] == 2
    assert {"parameters", "memory", "flops", "bytes_moved", "collectives", "collectives_by_kind", "step_time"} <= set(
        fields
    )


# --- counting ---------------------------------------------------------------------------------------------------------


NEXT = [(i, (i + 1) % 8) for i in range(8)]


@pytest.mark.parametrize(
    ("kind", "size", "received", "function"),
    [
        ("all-reduce", 4 * 16, 2 * 4 * 16 * 7 / 8, lambda x: jax.lax.psum(x, "data")),
        ("all-gather", 8 * 4 * 16, 4 * 16 * 7, lambda x: jax.lax.all_gather(x, "data").sum(0)),
        ("reduce-scatter", 4 * 16, 4 * 16 * 7 / 8, lambda x: jnp.tile(jax.lax.psum_scatter(x, "data", tiled=True), 8)),
        ("all-to-all", 4 * 16, 4 * 16 * 7 / 8, lambda x: jax.lax.all_to_all(x, "data", 0, 0, tiled=True)),
        ("collective-permute", 4 * 16, 4 * 16, lambda x: jax.lax.ppermute(x, "data", NEXT)),
    ],
)  # fmt: skip
def test_collectives_in_a_loop(kind: str, size: int, received: float, function: Any) -> None:
    def loop(x: jax.Array) -> jax.Array:  # 16 floats a device
        return jax.lax.scan(lambda carry, _: (jnp.sin(function(carry)), None), x, length=5)[0]

    rows = PartitionSpec("data")
    mapped = jax.shard_map(loop, mesh=make_mesh(), in_specs=rows, out_specs=rows, check_vma=False)
    compiled = jax.jit(mapped).lower(jax.ShapeDtypeStruct((128,), jnp.float32)).compile()
    program = parse_program(compiled.as_text())
    (found,) = find_collectives(program)
    assert (found.kind, found.count) == (kind, 5)
    assert (found.size, found.received_bytes) == (size, 5 * received)
    assert program.unknown_loops == 0


TPU_TEXT = """HloModule jit_step, is_scheduled=true, num_partitions=16

%part.1 (p.1: bf16[2,8]) -> bf16[32,8] {
  %p.1 = bf16[2,8]{1,0:T(2,128)(2,1)} parameter(0)
  ROOT %g.1 = bf16[32,8]{1,0:T(2,128)(2,1)S(1)} all-gather(%p.1), channel_id=7, replica_groups=mesh['a'=1,'b'=16] {'b'}
}

%part.2 (p.2: bf16[2,8]) -> bf16[32,8] {
  %p.2 = bf16[2,8]{1,0} parameter(0)
  ROOT %g.2 = bf16[32,8]{1,0} all-gather(%p.2), channel_id=7, replica_groups=mesh['a'=1,'b'=16] {'b'}
}

%all-reduce-scatter.3 (p.3: f32[32]) -> f32[8] {
  %p.3 = f32[32]{0} parameter(0)
  %sum.3 = f32[32]{0} all-reduce(%p.3), channel_id=9, replica_groups=[4,4]<=[16], to_apply=%add
  %zero = s32[] constant(0)
  ROOT %own.3 = f32[8]{0} dynamic-slice(%sum.3, %zero), dynamic_slice_sizes={8}
}

%condition (c.1: (s32[], bf16[2,8], s32[])) -> pred[] {
  %c.1 = (s32[]{:T(128)}, bf16[2,8]{1,0}, /*index=2*/s32[]{:T(128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%c.1), index=0
  %n.1 = s32[]{:T(128)} get-tuple-element(%c.1), index=2
  ROOT %less = pred[]{:T(512)} compare(%i.1, %n.1), direction=LT
}

%body (c.2: (s32[], bf16[2,8], s32[])) -> (s32[], bf16[2,8], s32[]) {
  %c.2 = (s32[]{:T(128)}, bf16[2,8]{1,0}, /*index=2*/s32[]{:T(128)}) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%c.2), index=0
  %x.2 = bf16[2,8]{1,0} get-tuple-element(%c.2), index=1
  %n.2 = s32[]{:T(128)} get-tuple-element(%c.2), index=2
  %start = bf16[32,8]{1,0:S(1)} fusion(%x.2), kind=kCustom, calls=%part.1
  %done = bf16[32,8]{1,0:S(1)} fusion(%x.2), kind=kCustom, calls=%part.2
  ROOT %next = (s32[], bf16[2,8], s32[]) tuple(%i.2, %x.2, %n.2)
}

ENTRY %main (a: bf16[2,8], b: f32[32]) -> f32[8] {
  %a = bf16[2,8]{1,0} parameter(0)
  %b = f32[32]{0} parameter(1)
  %one = s32[] constant(1)
  %six = s32[] constant(6)
  %begin = (s32[], bf16[2,8], s32[]) tuple(%one, %a, %six)
  %loop = (s32[], bf16[2,8], s32[]) while(%begin), condition=%condition, body=%body
  ROOT %own = f32[8]{0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter.3
}
"""


def test_tpu_text() -> None:
    """Its ways of writing groups, loops without a noted length, one gather in two fusions, and a reduce-scatter."""
    program = parse_program(TPU_TEXT)
    found = {one.kind: one for one in find_collectives(program)}
    assert program.runs == {"main": 1, "body": 5}
    gather, scatter = found["all-gather"], found["reduce-scatter"]
    assert (gather.group, gather.count, gather.size) == (16, 5, 32 * 8 * 2)
    assert (scatter.group, scatter.count, scatter.size, scatter.received_bytes) == (4, 1, 128, 96)
    assert memory_traffic(program) == 5 * 2 * (2 * 8 * 2) + 32 * 4 + 8 * 4  # the gathered lie in vector memory


def test_bytes_of_types() -> None:
    assert type_bytes("(bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/f32[3], pred[5], s4[6])") == 64 + 12 + 5 + 3
    assert type_bytes("(bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, f8e4m3fn[3])", only_hbm=True) == 3


def test_memory_traffic_counts_slices_as_slices() -> None:
    """Ten rounds that each read a row of a stack and write a row of another."""

    def loop(stack: jax.Array) -> jax.Array:
        return jax.lax.map(lambda row: jnp.sin(row) * 2, stack)

    text = jax.jit(loop).lower(jax.ShapeDtypeStruct((10, 4096), jnp.float32)).compile().as_text()
    row = 4096 * 4
    assert 10 * 2 * row <= memory_traffic(parse_program(text)) < 10 * 6 * row  # a whole stack would be ten rows more


def test_traced_flops() -> None:
    def function(x: jax.Array) -> jax.Array:
        x, _ = jax.lax.scan(lambda carry, _: (carry @ carry, None), x, length=7)
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    trace = jax.jit(function).trace(jax.ShapeDtypeStruct((4, 4), jnp.float32))
    assert traced_flops(trace.jaxpr) == (7 + 2) * 2 * 4**3


def test_traced_flops_of_all_devices() -> None:
    """As attention kernels are called: each device its rows and heads."""
    rows = PartitionSpec(("data", "fsdp"))

    def function(x: jax.Array) -> jax.Array:
        with jax.sharding.use_abstract_mesh(make_mesh(2, 4, 1).abstract_mesh):
            return jax.shard_map(lambda x: x @ jnp.ones((4, 3)), in_specs=rows, out_specs=rows, check_vma=False)(x)

    trace = jax.jit(function).trace(jax.ShapeDtypeStruct((16, 4), jnp.float32))
    assert traced_flops(trace.jaxpr) == 2 * 16 * 4 * 3


# --- limits and errors ------------------------------------------------------------------------------------------------


def test_a_model_that_does_not_fit_is_said_so(plan: Plan) -> None:
    chip = CHIPS["v5e"]
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (20.00G) "
        "exceeds available HBM (15.75G)."
    )
    memory = _memory_of(None, message, 2**30, chip)
    assert (memory.fits, memory.total, memory.temporaries) == (False, 20 * 2**30, None)
    used = _memory_of(None, "RESOURCE_EXHAUSTED: Used 16.25G of 15.75G hbm. Exceeded hbm capacity by 512M.", 1, chip)
    assert used.total == 16.25 * 2**30
    unknown = dataclasses.replace(plan.work, xla_flops=None, hbm_bytes=None, xla_bytes=None, collectives=None)
    time = StepTime(0.5, None, None, tokens=100, flops_share=0.1)
    failed = dataclasses.replace(plan, memory=memory, work=unknown, step_time=time)
    assert "fits: no, 4.25 GiB more than the 15.75 GiB that there are" in plan_to_text(failed)
    assert plan_to_dict(failed)["memory"]["free"] == -4.25 * 2**30
    assert plan_to_dict(failed)["collectives"] is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", "topology 'v5e' is not KIND:SHAPE (such as v5e:16x16"),
        ("v5e:0x4", "is not KIND:SHAPE"),
        ("v9:4x4", "chip 'v9' is unknown (choose v4, v5e, v5p, v6e or cpu)"),
        ("v5e:4x4x4", "v5e takes v5e:AxB"),
        ("v5p:4x4", "v5p takes v5p:AxBxC"),
        ("cpu:2x4", "cpu takes cpu:A"),
        ("v6e:32x16", "has 512 chips (a slice of v6e has at most 256)"),
    ],
)
def test_unknown_topologies(name: str, message: str, gin_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(gin_file), "--topology", name]) == 2
    line = capsys.readouterr().err.strip()
    assert message in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("change", "stage", "message"),
    [
        ({"mesh": MeshSettings(data=1, fsdp=3)}, "one", "mesh data=1 fsdp=3 tensor=1 does not fit 8 devices"),
        ({"mesh": MeshSettings(fsdp=5)}, "one", "does not fit 8 devices"),
        ({"data": DataSettings(rows_per_step=6)}, "one", "6 rows a step do not divide by 4"),
        ({}, "two", "8 rows a step do not divide by 12"),
        ({}, "three", "the recipe has no stage 'three' (choose one, two, texts)"),
    ],
)
def test_what_cannot_be_planned(change: dict[str, Any], stage: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        make_plan(dataclasses.replace(RECIPE, **change), parse_topology("cpu:8"), stage)
    assert message in str(error.value)


def test_more_cpu_devices_than_a_running_jax_has() -> None:
    with pytest.raises(UserError, match="jax runs already with 8 CPU devices"):
        make_plan(RECIPE, parse_topology("cpu:16"))


def test_without_libtpu(gin_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        chips.importlib.util, "find_spec", lambda name, *rest: None if name == "libtpu" else find(name, *rest)
    )
    assert main(["plan", str(gin_file), "--topology", "v5e:2x2"]) == 2
    line = capsys.readouterr().err.strip()
    assert "pip install 'seqgpt_jax[tpu-plan]'" in line
    assert "\n" not in line


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install 'seqgpt_jax[tpu-plan]'"
)


@needs_libtpu
def test_a_shape_that_libtpu_refuses(gin_file: Path) -> None:
    done = run_plan(str(gin_file), "--topology", "v5e:3x3")
    assert done.returncode == 2
    assert "libtpu knows no topology 'v5e:3x3'" in done.stderr


@needs_libtpu
@pytest.mark.slow
def test_on_a_tpu_that_is_not_there(gin_file: Path) -> None:
    done = run_plan(str(gin_file), "--topology", "v5e:2x2", "--json", "--gin", "model.compute_dtype='bfloat16'")
    assert done.returncode == 0, done.stderr[-2000:]
    assert not done.stderr.strip()
    fields = json.loads(done.stdout)
    assert fields["memory"]["fits"] is True
    assert fields["memory"]["limit"] == 15.75 * 2**30
    assert fields["unknown_loops"] == 0
    assert fields["flops"]["traced"] == pytest.approx(fields["flops"]["model"], rel=0.01)
    assert fields["collectives_by_kind"]["all-gather"]["count"] >= 2 * LAYERS  # parameters, forward and backward
    time = fields["step_time"]
    assert time["bound"] == max(time["compute"], time["memory"], time["interconnect"]) > 0


@needs_libtpu
def test_the_limits_are_those_of_libtpu_and_its_message_is_the_whole() -> None:
    """160 GiB that no chip has, in each kind's own process. The sum needs no more than its argument."""
    code = """
import jax, jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from seqgpt_jax.training.ahead import _compile, _memory_of
from seqgpt_jax.training.chips import CHIPS, parse_topology, topology_devices
for kind, chip in CHIPS.items():
    device = topology_devices(parse_topology(kind + ":" + "x".join("221"[:chip.dimensions])))[0]
    shape = jax.ShapeDtypeStruct((160, 2**28), jnp.float32, sharding=SingleDeviceSharding(device))
    compiled, failure = _compile(jax.jit(jnp.sum).lower(shape))
    limit = float(failure.split("available HBM (")[1].split("G)")[0])
    assert abs(limit - chip.hbm_bytes / 2**30) < 0.01, (kind, limit)
    assert abs(_memory_of(None, failure, 0, chip).total / 2**30 - 160) < 1, (kind, failure)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
