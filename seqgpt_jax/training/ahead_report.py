"""A plan as text for the terminal, and as one JSON object."""

from __future__ import annotations

import dataclasses
from typing import Any

from seqgpt_jax.tables import text_table
from seqgpt_jax.training.ahead import Memory, Plan, StepTime, Work
from seqgpt_jax.training.chips import GIB
from seqgpt_jax.training.model_info import parameter_table

MAX_COLLECTIVES = 12  # shown in the text; JSON has all


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """Bytes, FLOPs and seconds as plain numbers; null is what the compiler did not say."""
    memory, work, time = plan.memory, plan.work, plan.step_time
    return {
        "topology": plan.topology.name,
        "num_devices": plan.topology.num_devices,
        "mesh": plan.mesh,
        "stage": plan.stage.name,
        "optimizer": plan.stage.optimizer.name,
        "num_microbatches": plan.stage.num_microbatches,
        "rows_per_step": plan.shape.num_rows,
        "row_tokens": plan.shape.tokens,
        "row_supervised": plan.shape.supervised,
        "model": dataclasses.asdict(plan.config),
        "num_parameters": plan.num_parameters,
        "parameters": [dataclasses.asdict(parameter) for parameter in plan.parameters],
        "memory": {
            **dataclasses.asdict(memory),
            "fits": memory.fits,
            "free": None if memory.limit is None else memory.limit - memory.total,
        },
        "flops": {
            "model": work.model_flops,
            "traced": work.traced_flops,
            "xla_one_device_loops_once": work.xla_flops,
        },
        "bytes_moved": {"hbm_one_device": work.hbm_bytes, "xla_one_device_loops_once": work.xla_bytes},
        "collectives": None
        if work.collectives is None
        else [
            {**dataclasses.asdict(one), "bytes": one.bytes, "received_bytes": one.received_bytes}
            for one in work.collectives
        ],
        "collectives_by_kind": _by_kind(work),
        "unknown_loops": work.unknown_loops,
        "step_time": None
        if time is None
        else {**dataclasses.asdict(time), "bound": time.bound, "one_by_one": time.one_by_one},
        "trace_seconds": plan.trace_seconds,
        "compile_seconds": plan.compile_seconds,
        "compile_cpu_seconds": plan.compile_cpu_seconds,
        "versions": plan.versions,
    }


def _by_kind(work: Work) -> dict[str, dict[str, float]] | None:
    if work.collectives is None:
        return None
    kinds: dict[str, dict[str, float]] = {}
    for one in work.collectives:
        total = kinds.setdefault(one.kind, {"count": 0, "bytes": 0, "received_bytes": 0.0})
        total["count"] += one.count
        total["bytes"] += one.bytes
        total["received_bytes"] += one.received_bytes
    return kinds


def plan_to_text(plan: Plan) -> str:
    """The same in words and tables."""
    config, shape = plan.config, plan.shape
    mesh = " ".join(f"{axis}={size}" for axis, size in plan.mesh.items())
    parts = [
        f"{plan.topology.name}: {plan.topology.num_devices} devices, mesh {mesh}",
        f"{plan.num_parameters:,} parameters in {config.param_dtype}, computed in {config.compute_dtype}; "
        f"{config.num_layers} layers, width {config.width}, {config.num_heads} heads, "
        f"vocabulary {config.vocab_size:,}; remat {config.remat}, attention {config.attention}",
        f"stage {plan.stage.name}: {shape.num_rows} rows of {shape.tokens} tokens a step, "
        f"{shape.supervised} of them supervised; microbatches {plan.stage.num_microbatches}; "
        f"optimiser {plan.stage.optimizer.name}",
        "",
        *parameter_table(plan.parameters),
        "",
        *_memory_lines(plan.memory),
        "",
        *_work_lines(plan.work),
        "",
        *_collective_lines(plan.work),
        "",
        *_time_lines(plan.step_time),
        f"traced in {plan.trace_seconds:.0f} s, compiled in {plan.compile_seconds:.0f} s "
        f"({plan.compile_cpu_seconds:.0f} s of CPU) "
        f"({', '.join(f'{name} {version}' for name, version in plan.versions.items())})",
    ]
    return "\n".join(parts)


def _memory_lines(memory: Memory) -> list[str]:
    lines = [f"memory of a device: {_gib(memory.total)}"]
    for label, size in (
        ("arguments", memory.arguments),
        ("outputs", memory.outputs),
        ("of them in the arguments' place", memory.aliased),
        ("temporaries", memory.temporaries),
        ("code", memory.code),
    ):
        lines.append(f"  {label:<32}{_gib(size):>12}")
    if memory.limit is None:
        return [*lines, "  fits: unknown (no limit is known for this device)"]
    spare = memory.limit - memory.total
    if memory.fits:
        return [*lines, f"  fits: yes, {_gib(spare)} of {_gib(memory.limit)} are left"]
    return [*lines, f"  fits: no, {_gib(-spare)} more than the {_gib(memory.limit)} that there are"]


def _work_lines(work: Work) -> list[str]:
    lines = [
        "FLOPs of a step, all devices",
        f"  {'by the sizes of the model':<32}{work.model_flops:>12.3e}  nothing computed twice",
        f"  {'as traced':<32}{work.traced_flops:>12.3e}  with recomputation, loops in full",
        "of one device",
        f"  {'FLOPs, XLA':<32}{_number(work.xla_flops):>12}  loop bodies once: too few where layers are scanned",
        f"  {'bytes moved, from the HLO':<32}{_number(work.hbm_bytes):>12}  main memory alone, loops in full",
        f"  {'bytes moved, XLA':<32}{_number(work.xla_bytes):>12}  all memories, loop bodies once",
    ]
    if work.unknown_loops:
        lines.append(f"  {work.unknown_loops} loops of unknown length count as one round")
    return lines


def _collective_lines(work: Work) -> list[str]:
    if work.collectives is None:
        return ["collectives: unknown, it did not compile"]
    if not work.collectives:
        return ["collectives: none"]
    rows = [["collectives of a device", "devices", "times a step", "MB each", "MB received a step"]]
    for one in work.collectives[:MAX_COLLECTIVES]:
        name = f"{one.kind} {one.shape}"
        numbers = [str(one.group), str(one.count), f"{one.size / 1e6:.2f}", f"{one.received_bytes / 1e6:.1f}"]
        rows.append([name if len(name) <= 60 else f"{name[:57]}...", *numbers])
    rest = work.collectives[MAX_COLLECTIVES:]
    if rest:
        received = sum(one.received_bytes for one in rest)
        rows.append(["smaller ones", "", str(sum(one.count for one in rest)), "", f"{received / 1e6:.1f}"])
    for kind, total in (_by_kind(work) or {}).items():
        rows.append([f"all {kind}", "", str(total["count"]), "", f"{total['received_bytes'] / 1e6:.1f}"])
    return text_table(rows, num_left=1)


def _time_lines(time: StepTime | None) -> list[str]:
    if time is None:
        return ["step time: unknown (no rates are known for this device)"]
    lines = ["step time at the chip's peak rates"]
    for label, seconds in (
        ("matrix products (as traced)", time.compute),
        ("main memory", time.memory),
        ("interconnect", time.interconnect),
    ):
        lines.append(f"  {label:<32}{'unknown' if seconds is None else f'{seconds * 1e3:.1f} ms':>12}")
    return [
        *lines,
        f"  at least {time.bound * 1e3:.1f} ms if all overlap ({time.one_by_one * 1e3:.1f} ms if nothing does): "
        f"at most {time.tokens / time.bound:,.0f} tokens/s, {time.flops_share:.0%} of the peak FLOPs",
    ]


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / GIB:,.2f} GiB"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3e}"
