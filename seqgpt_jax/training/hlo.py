"""What a compiled step does, read from its HLO text: collectives and memory traffic, with loops counted in full.

XLA's own cost analysis counts the body of a loop once, however often it runs; a scan over 30 layers would look like
one layer. Here each instruction counts as often as the loops around it run. All numbers are of one device.

A TPU spreads one collective over several fusions (async collective fusion), so within a loop body one channel is one
collective; and it writes a reduce-scatter as a fusion of an all-reduce that keeps its own slice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "token": 0, "opaque": 0}  # others end with their number of bits
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_NO_TRAFFIC = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "optimization-barrier", "add-dependency", "async-start", "async-update",
}  # fmt: skip
_READS_PART = {"dynamic-slice", "slice", "gather"}  # only what they return is read


@dataclass(frozen=True)
class Collective:
    """All collectives of one kind and shape. A size is what a chip holds of the whole: after a gather, before a
    reduction."""

    kind: str
    shape: str  # of the operands, such as bf16[16,4096]
    group: int  # devices that take part together
    count: int  # a step
    size: int  # bytes of one

    @property
    def bytes(self) -> int:
        return self.count * self.size

    @property
    def received_bytes(self) -> float:
        """What a chip must receive a step: all but its own part, and twice that for an all-reduce."""
        if self.kind == "collective-permute":
            return float(self.bytes)
        return self.bytes * (self.group - 1) / self.group * (2 if self.kind == "all-reduce" else 1)


@dataclass(frozen=True)
class Instruction:
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    text: str  # operands and attributes
    is_root: bool

    def called(self, *attributes: str) -> Iterator[str]:
        for match in re.finditer(rf"\b(?:{'|'.join(attributes)})=\{{?((?:%[\w.\-]+(?:, )?)+)", self.text):
            yield from re.findall(r"%([\w.\-]+)", match[1])


@dataclass
class Program:
    """The computations of an HLO module, and how often each runs a step."""

    computations: dict[str, dict[str, Instruction]]
    entry: str
    num_devices: int
    unknown_loops: int = 0  # whose number of rounds could not be read; they count as one round
    runs: dict[str, int] = field(default_factory=dict)  # of the entry and of loop bodies and branches

    def root(self, computation: str) -> Instruction:
        return next(one for one in self.computations[computation].values() if one.is_root)


def parse_program(text: str) -> Program:
    """The program of `compiled.as_text()`."""
    computations: dict[str, dict[str, Instruction]] = {}
    current: dict[str, Instruction] = {}
    entry = ""
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%([\w.\-]+) .*\{$", line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif line.startswith("  ") and " = " in line:
            instruction = _parse_instruction(line)
            current[instruction.name] = instruction
    partitions = re.search(r"num_partitions=(\d+)", text)
    program = Program(computations, entry, int(partitions[1]) if partitions else 1)
    _count_runs(program, entry, 1)
    return program


def _parse_instruction(line: str) -> Instruction:
    name, rest = line.strip().split(" = ", 1)
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    inside = rest[opening : _closing(rest, opening)]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(
        name.removeprefix("ROOT ").lstrip("%"), kind, rest[:opening], operands, rest[opening:], name.startswith("ROOT ")
    )


def _closing(text: str, start: int) -> int:
    """The place of the parenthesis that closes the one at start."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise AssertionError(text[start : start + 80])


def _count_runs(program: Program, name: str, runs: int) -> None:
    program.runs[name] = program.runs.get(name, 0) + runs
    for instruction in program.computations[name].values():
        if instruction.opcode == "while":
            rounds = _rounds(program, name, instruction)
            program.unknown_loops += rounds is None
            for body in instruction.called("body"):
                _count_runs(program, body, runs * (1 if rounds is None else rounds))
        elif instruction.opcode in ("call", "conditional"):
            for body in instruction.called("to_apply", "branch_computations", "true_computation", "false_computation"):
                _count_runs(program, body, runs)


def _rounds(program: Program, computation: str, loop: Instruction) -> int | None:
    """How often a loop runs: as XLA noted it, or else from `counter < bound` where both begin as constants."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.text):
        return int(known[1])
    (condition,) = loop.called("condition")
    compare = program.root(condition)
    if compare.opcode != "compare" or "direction=LT" not in compare.text:
        return None
    start, stop = (_constant_of(program, computation, loop, condition, operand) for operand in compare.operands)
    return None if start is None or stop is None else stop - start


def _constant_of(program: Program, computation: str, loop: Instruction, condition: str, name: str) -> int | None:
    """The constant behind a name of the condition, which may be an element of what the loop begins with."""
    instruction = program.computations[condition][name]
    if instruction.opcode == "get-tuple-element":
        index = re.search(r"index=(\d+)", instruction.text)
        outside = program.computations[computation]
        begin = outside[loop.operands[0]]
        if index is None or begin.opcode != "tuple":
            return None
        instruction = outside[begin.operands[int(index[1])]]
        while instruction.opcode in ("copy", "bitcast"):
            instruction = outside[instruction.operands[0]]
    value = re.match(r"\((-?\d+)\)", instruction.text)
    return int(value[1]) if instruction.opcode == "constant" and value else None


def find_collectives(program: Program) -> list[Collective]:
    """Every collective among more than one device, those of the most bytes first."""
    counts: dict[tuple[str, str, int, int], int] = {}
    for name, runs in program.runs.items():
        for key in _collectives_of(program, name, set()):
            counts[key] = counts.get(key, 0) + runs
    found = [Collective(kind, shape, group, count, size) for (kind, shape, group, size), count in counts.items()]
    return sorted(found, key=lambda one: (-one.bytes, one.kind, one.shape))


def _collectives_of(program: Program, name: str, seen: set[tuple[str, str]]) -> Iterator[tuple[str, str, int, int]]:
    """(kind, operands, group, size) of a computation and of what is fused or wrapped in it."""
    instructions = program.computations[name]
    for instruction in instructions.values():
        kind = instruction.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            channel = re.search(r"channel_id=(\d+)", instruction.text)
            identity = (kind, channel[1] if channel else f"{name}/{instruction.name}")
            group = _group_size(instruction.text, program.num_devices)
            if group == 1 or identity in seen:
                continue
            seen.add(identity)
            operands = [instructions[operand].type for operand in instruction.operands]
            size = sum(map(type_bytes, operands)) * (group if kind == "all-gather" else 1)
            if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
            yield kind, ", ".join(re.sub(r"\{[^}]*\}", "", operand) for operand in operands), group, size
        elif instruction.opcode in ("fusion", "async-start"):
            for inner in instruction.called("calls"):
                yield from _collectives_of(program, inner, seen)


def _group_size(text: str, num_devices: int) -> int:
    """Devices a group, of replica_groups={{0,1},{2,3}}, [2,4]<=[8], or mesh['x'=2,'y'=4] {'y'}."""
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", text):
        return 2 if pairs[1] else 1
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", text):
        return listed[1].count(",") + 1
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", text):
        return int(iota[1])
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        used = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part) if part else sizes[name] for name, part in used)
    return num_devices


def type_bytes(text: str, only_hbm: bool = False) -> int:
    """Bytes of a type such as f32[4,8]{1,0:T(8,128)} or a tuple of some.

    only_hbm leaves out arrays in another memory, which a TPU layout marks: S(1) is its vector memory.
    """
    total = 0
    for match in _ARRAY.finditer(text):
        if only_hbm and re.search(r"S\([1-9]\d*\)", match[3] or ""):
            continue
        bits = _BITS.get(match[1])
        if bits is None:
            bits = int(re.sub(r"^[a-z]+(\d+).*$", r"\1", match[1]))
        total += math.prod(int(size) for size in match[2].split(",") if size) * bits // 8
    return total


def memory_traffic(program: Program) -> int:
    """Bytes a step reads and writes in main memory: operands and results of all that is not fused into something.

    A slice counts as what it returns and an update as what it writes, also inside a fusion. An estimate: it knows
    neither padding nor what a kernel reads twice.
    """
    return sum(
        runs * _instruction_traffic(program, instructions, instruction)
        for name, runs in program.runs.items()
        for instructions in [program.computations[name]]
        for instruction in instructions.values()
    )


def _instruction_traffic(program: Program, instructions: dict[str, Instruction], instruction: Instruction) -> int:
    opcode = instruction.opcode
    if opcode in _NO_TRAFFIC or opcode.endswith("-done"):
        return 0
    types = [instructions[operand].type for operand in instruction.operands]
    if opcode == "fusion":
        (body,) = instruction.called("calls")
        return _fusion_traffic(program.computations[body], program.root(body), instruction.type, types)
    if opcode in _READS_PART:
        return 2 * type_bytes(instruction.type, only_hbm=True)
    if opcode == "dynamic-update-slice":
        return 2 * type_bytes(types[1], only_hbm=True)
    return sum(type_bytes(kind, only_hbm=True) for kind in (*types, instruction.type))


def _fusion_traffic(body: dict[str, Instruction], root: Instruction, result: str, operands: list[str]) -> int:
    users: dict[str, list[Instruction]] = {name: [] for name in body}
    for instruction in body.values():
        for operand in instruction.operands:
            users[operand].append(instruction)

    def behind(instruction: Instruction) -> list[Instruction]:
        """Users, looking through bitcasts."""
        direct = users[instruction.name]
        return [user for one in direct for user in (behind(one) if one.opcode == "bitcast" else [one])]

    total = 0
    for parameter in (one for one in body.values() if one.opcode == "parameter"):
        index = re.match(r"\((\d+)\)", parameter.text)
        assert index is not None, parameter
        operand = operands[int(index[1])]
        whole = type_bytes(operand, only_hbm=True)
        used = [_part_read(body, user, parameter) for user in behind(parameter)]
        total += min(whole, sum(part for part in used if part is not None)) if None not in used else whole
    while root.opcode == "bitcast":
        root = body[root.operands[0]]
    if root.opcode == "dynamic-update-slice" and type_bytes(result, only_hbm=True):
        return total + type_bytes(body[root.operands[1]].type)
    return total + type_bytes(result, only_hbm=True)


def _part_read(body: dict[str, Instruction], user: Instruction, parameter: Instruction) -> int | None:
    """Bytes that a user reads of a parameter, None for all of it."""
    if user.opcode in _READS_PART:
        return type_bytes(user.type)
    if user.opcode == "dynamic-update-slice" and type_bytes(body[user.operands[0]].type) == type_bytes(parameter.type):
        return 0  # what is updated in place is not read
    return None
