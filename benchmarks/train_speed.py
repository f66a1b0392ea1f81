"""Training speed on the CPU against transformers with torch: the same examples, sizes and optimiser, side by side.

    python benchmarks/train_speed.py [--sizes mini 560m] [--steps N] [--json FILE] [--quick]

Three sides, each in a process of its own, one after the other:

    ours    the real train step, on packed rows whose segments keep documents apart
    padded  BloomForCausalLM as transformers' Trainer feeds it: shuffled batches of 16, padded to the longest
    packed  BloomForCausalLM on packed rows; it can hold no segment mask, so documents in a row see one another

Examples are questions of the mixture held_in (SEQGPT_DATA_DIR, else ../shared/data), tokenized once with a vocabulary
of 32,768 that is trained on them; every side gets the same token ids, also bloom_560m, whose head has 250,880 rows.
The examples of the first steps of our plan are the work of every side. `packed` packs them anew into rows of the same
length, as full as they go, since it has no use for our rows' second limit, of supervised tokens. A side is timed from
its first step to its last, after one step that is not counted (`warmup_s`: that step, and compilation). The answer
alone is supervised. AdamW (torch's fused one) with clipping, float32, all cores. A step of `padded` is 16 examples, a
step of packed rows about as many.

Ratios are examples per second, ours over theirs. Figures of each side, beside its speed:

    peak_mib          largest resident memory of its process
    cores_busy        processor seconds over seconds: where it is short of the cores, other work disturbed the side
    peak_gflops       float32 product of two 2,048 x 2,048 matrices by the same library, the best of several
    computed_of_peak  operations that the side computes (padding too; head where it computes logits) / s / that peak
    needed_of_peak    operations that the examples need, each alone in its row and the head at answers only, likewise

Operations are those of seqgpt_jax/models/flops.py. `needed_of_peak` is how near a side is to the bound that the
counted operations set: 1 would be no padding, no needless logits, and every product at the speed of the large one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _harness import answer_child, finish, machine, make_parser, run_child

# The libraries under test are imported where a side needs them: no process holds the memory of another's.

REPO = Path(__file__).resolve().parent.parent
SIDES = ("ours", "padded", "packed")
PADDED_BATCH = 16  # examples of a step
LEARNING_RATE, BETAS, EPSILON, WEIGHT_DECAY, CLIP_NORM = 1e-3, (0.9, 0.95), 1e-8, 0.01, 1.0
PAD_ID, IGNORED = 3, -100


@dataclasses.dataclass(frozen=True)
class Size:
    """A model of models/presets.py, and how long it is measured."""

    preset: str
    vocab_size: int
    steps: int  # packed steps that are timed
    micro_rows: int = 0  # rows computed at once, their gradients added up; 0: all of the step's


SIZES = {
    "mini": Size("bloom_mini", 32_768, steps=24),
    "560m": Size("bloom_560m", 250_880, steps=3, micro_rows=1),  # more than one row at once passes 24 GiB
}
QUICK_SIZES = {"quick": Size("bloom_nano", 2_048, steps=3)}


@dataclasses.dataclass(frozen=True)
class Data:
    """The examples and the shape of a packed step."""

    folder: str  # where the examples lie between processes
    mixture: str = "held_in"
    records_per_dataset: int = 50
    vocab_size: int = 32_768
    row_tokens: tuple[int, ...] = (512,)  # several lengths are for ours alone
    row_supervised: int = 96  # of the longest rows, as the next
    rows_per_step: int = 4
    most_steps: int = 0

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Data:
        return cls(**{**fields, "row_tokens": tuple(fields["row_tokens"])})

    @property
    def longest(self) -> int:
        return max(self.row_tokens)


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process does, given to it as JSON."""

    side: str
    data: Data
    size: Size
    torch_optimizer: str = "fused"
    torch_compile: bool = False
    torch_keep_freed_memory: bool = False

    @classmethod
    def from_json(cls, text: str) -> Job:
        fields = json.loads(text)
        return cls(**{**fields, "data": Data.from_dict(fields["data"]), "size": Size(**fields["size"])})


# --- the examples ----------------------------------------------------------------------------------------------------


class Examples:
    """Token ids of all examples, as prepare() leaves them."""

    name = "examples"

    def __init__(self, folder: Path) -> None:
        with np.load(folder / "examples.npz") as arrays:
            self._ids, self.lengths = arrays["ids"], arrays["lengths"]  # lengths: tokens, supervised tokens
        self._ends = np.cumsum(self.lengths[:, 0])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Any:
        from seqgpt_jax.data.questions import TokenExample

        return TokenExample(self.ids(index), int(self.lengths[index, 0] - self.lengths[index, 1]))

    def ids(self, index: int) -> np.ndarray:
        return self._ids[self._ends[index] - self.lengths[index, 0] : self._ends[index]]

    def answer(self, index: int) -> np.ndarray:
        """bool: which tokens are supervised."""
        tokens, supervised = self.lengths[index]
        return np.arange(tokens) >= tokens - supervised


def prepare(data: Data) -> dict[str, Any]:
    """Writes examples.npz, and steps.npz: which of them our steps hold."""
    from seqgpt_jax.atomic import STEPS
    from seqgpt_jax.data.datasets import sample_records
    from seqgpt_jax.data.mixtures import resolve_mixture
    from seqgpt_jax.data.questions import EncodeConfig, ask_record, encode_examples, training_texts
    from seqgpt_jax.vocabulary import train_tokenizer

    source = Path(os.environ.get("SEQGPT_DATA_DIR") or REPO.parent / "shared" / "data")
    datasets = [each for each in resolve_mixture(data.mixture, source) if "train" in each.splits]
    vocabulary = train_tokenizer(training_texts(datasets, "train", data.records_per_dataset * 2), data.vocab_size)
    config = EncodeConfig(max_tokens=data.longest, max_supervised=data.row_supervised)
    encoded = []
    for dataset in datasets:
        for record in sample_records(dataset, "train", data.records_per_dataset):
            questions = ask_record(record, dataset, "train", STEPS, config.ask, 0)
            encoded += encode_examples(questions, vocabulary, config, Counter())
    examples = [example for example in encoded if example is not None]
    np.savez(
        Path(data.folder) / "examples.npz",
        ids=np.concatenate([example.ids for example in examples]),
        lengths=np.array([(len(each.ids), len(each.ids) - each.num_prompt) for each in examples]),
    )
    plan = _plan_and_loader(data)[0]
    steps = [[index for row in plan.rows(step) for _, index in row] for step in range(data.most_steps)]
    ends = np.cumsum([len(members) for members in steps])
    np.savez(Path(data.folder) / "steps.npz", members=np.concatenate(steps), ends=ends)
    return {"vocabulary": vocabulary.size, "fill": plan.fill()}


def _plan_and_loader(data: Data) -> tuple[Any, Any]:
    from seqgpt_jax.data.loader import Loader
    from seqgpt_jax.data.plan import BatchPlan, PlanConfig, TaskSize

    examples = Examples(Path(data.folder))
    config = PlanConfig(data.rows_per_step, data.row_tokens, data.row_supervised)
    plan = BatchPlan([TaskSize(examples.name, examples.lengths, 1.0)], config)
    return plan, Loader(plan, [examples])


def _members(data: Data, steps: int) -> np.ndarray:
    """The examples of our first steps."""
    with np.load(Path(data.folder) / "steps.npz") as arrays:
        return arrays["members"][: arrays["ends"][steps - 1]]


# --- the sides -------------------------------------------------------------------------------------------------------

# tokens, positions at which logits are computed, tokens of a row, tokens that the last block computes in full
Computed = tuple[int, int, int, int]


def run_ours(job: Job) -> dict[str, Any]:
    from seqgpt_jax.host_memory import keep_freed_memory

    keep_freed_memory()  # as the command does
    import jax
    from flax import nnx

    from seqgpt_jax.models import architectures
    from seqgpt_jax.models.decoder import Decoder
    from seqgpt_jax.models.presets import get_preset
    from seqgpt_jax.training.optimizers import OptimizerConfig, make_optimizer
    from seqgpt_jax.training.partitioning import batch_sharding, make_mesh, make_skeleton
    from seqgpt_jax.training.step import abstract_batch, init_params, init_state, make_train_step, state_shardings

    matrix = jax.random.normal(jax.random.key(0), (2048, 2048))
    multiply = jax.jit(lambda x: x @ x)
    peak = _peak_flops(lambda: multiply(matrix).block_until_ready())

    data, size = job.data, job.size
    loader = _plan_and_loader(data)[1]
    config = get_preset(size.preset, size.vocab_size)

    def make_model() -> Decoder:
        return architectures.make_model(config, rngs=nnx.Rngs(0))

    skeleton, mesh = make_skeleton(make_model), make_mesh(devices=jax.devices()[:1])
    settings = OptimizerConfig(
        name="adamw", learning_rate=LEARNING_RATE, warmup_steps=0, decay="constant", weight_decay=WEIGHT_DECAY,
        clip_norm=CLIP_NORM, beta1=BETAS[0], beta2=BETAS[1], epsilon=EPSILON,
    )  # fmt: skip
    optimizer = make_optimizer(settings, size.steps + 1, skeleton)
    shardings = state_shardings(skeleton, optimizer, mesh)
    state = init_state(skeleton, init_params(make_model, skeleton, mesh), optimizer, shardings)
    num_parts = data.rows_per_step // (size.micro_rows or data.rows_per_step)
    unrolled = config.layer_loop == "unroll" or (config.layer_loop == "auto" and config.num_layers <= 12)

    begin = time.perf_counter()
    jitted = make_train_step(skeleton, optimizer, mesh, shardings, num_parts)
    steps = {shape.tokens: jitted.lower(state, abstract_batch(shape, mesh)).compile() for shape in loader.shapes()}
    uncounted = {(batch := loader.batch(number)).tokens_BT.shape[1]: batch for number in range(size.steps)}
    for row_tokens, batch in uncounted.items():
        state, metrics = steps[row_tokens](state, jax.device_put(batch, batch_sharding(mesh)))
        float(metrics.loss)
    start = _now()
    losses, pending, computed = [], None, []
    for rows in loader.batches(0, size.steps):
        state, metrics = steps[rows.tokens_BT.shape[1]](state, jax.device_put(rows, batch_sharding(mesh)))
        if pending is not None:
            losses.append(float(pending.loss))  # a step late, as the trainer does
        pending = metrics
        tokens, head = rows.tokens_BT.size, rows.targets_BS.size
        computed.append((tokens, head, rows.tokens_BT.shape[1], head if unrolled else tokens))
    assert pending is not None
    losses.append(float(pending.loss))
    return _side_result(_now() - start, float(start[0]) - begin, peak, losses, computed)


def run_torch(job: Job) -> dict[str, Any]:
    from seqgpt_jax.host_memory import keep_freed_memory

    if job.torch_keep_freed_memory:
        keep_freed_memory()
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    matrix = torch.randn(2048, 2048)
    peak = _peak_flops(lambda: matrix @ matrix)

    shape = _preset_shape(job.size.preset)
    config = transformers.BloomConfig(
        vocab_size=job.size.vocab_size, n_layer=shape["num_layers"], hidden_size=shape["width"],
        n_head=shape["num_heads"], pad_token_id=PAD_ID, use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = transformers.BloomForCausalLM(config).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameters, LEARNING_RATE, BETAS, EPSILON, WEIGHT_DECAY, **{job.torch_optimizer: True}
    )
    if job.torch_compile:
        model = torch.compile(model, dynamic=job.side == "padded")

    def step(batch: dict[str, np.ndarray]) -> float:
        arrays = {name: torch.from_numpy(array) for name, array in batch.items()}
        num_targets = (arrays["labels"] != IGNORED).sum()
        num_rows, loss_sum = len(arrays["labels"]), 0.0
        micro_rows = job.size.micro_rows or num_rows
        for first in range(0, num_rows, micro_rows):
            part = {name: array[first : first + micro_rows] for name, array in arrays.items()}
            loss = model(**part, num_items_in_batch=num_targets).loss
            loss.backward()
            loss_sum += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        return loss_sum

    batches = list((_padded if job.side == "padded" else _packed)(job.data, job.size.steps))
    begin = time.perf_counter()
    step(batches[0])
    start = _now()
    losses = [step(batch) for batch in batches]
    took = _now() - start
    computed = [(batch["labels"].size, batch["labels"].size, batch["labels"].shape[1]) for batch in batches]
    return _side_result(took, float(start[0]) - begin, peak, losses, [(*each, each[0]) for each in computed])


def _padded(data: Data, steps: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of 16 of the examples in random order, on the right padded to the longest."""
    examples = Examples(Path(data.folder))
    order = np.random.default_rng(0).permutation(_members(data, steps)).tolist()
    for first in range(0, len(order), PADDED_BATCH):
        chosen = order[first : first + PADDED_BATCH]
        yield _torch_batch([[index] for index in chosen], examples, int(examples.lengths[chosen, 0].max()))


def _packed(data: Data, steps: int) -> Iterator[dict[str, np.ndarray]]:
    """Rows of several examples in random order, without segments."""
    from seqgpt_jax.data.packing import pack, row_shapes

    examples, members = Examples(Path(data.folder)), _members(data, steps)
    tokens, supervised = examples.lengths[members].T
    (rows,) = pack(tokens, supervised, row_shapes(data.rows_per_step, data.longest, data.longest))
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    for first in range(0, len(order), data.rows_per_step):
        chosen = [members[rows[row]].tolist() for row in order[first : first + data.rows_per_step]]
        batch = _torch_batch(chosen, examples, data.longest)
        del batch["attention_mask"]  # what is not attended stands at the end, where causality hides it
        yield batch


def _torch_batch(rows: Sequence[Sequence[int]], examples: Examples, row_tokens: int) -> dict[str, np.ndarray]:
    """The examples of each row one after another. Labels are the tokens themselves, which the model then shifts."""
    shape = (len(rows), row_tokens)
    input_ids, labels = np.full(shape, PAD_ID, np.int64), np.full(shape, IGNORED, np.int64)
    attention_mask = np.zeros(shape, np.int64)
    for row, members in enumerate(rows):
        ids = np.concatenate([examples.ids(index) for index in members])
        answers = np.concatenate([examples.answer(index) for index in members])
        input_ids[row, : len(ids)], attention_mask[row, : len(ids)] = ids, 1
        labels[row, : len(ids)] = np.where(answers, ids, IGNORED)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def _preset_shape(preset: str) -> dict[str, int]:
    """Sizes of a preset, asked in another process: its module imports jax, whose memory is not torch's."""
    code = (
        "import dataclasses, json, sys; from seqgpt_jax.models.presets import get_preset; "
        "config = get_preset(sys.argv[1]); "
        "print(json.dumps({name: getattr(config, name) for name in ('num_layers', 'width', 'num_heads')}))"
    )
    return json.loads(subprocess.run([sys.executable, "-c", code, preset], capture_output=True, check=True).stdout)


def _peak_flops(multiply: Callable[[], Any], tries: int = 8) -> float:
    """Operations a second of a product of two 2,048 x 2,048 matrices, at its best."""
    best = float("inf")
    for _ in range(tries):
        start = time.perf_counter()
        multiply()
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best


def _now() -> np.ndarray:
    """Seconds, and processor seconds of all threads of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def _side_result(
    took: np.ndarray, warmup: float, peak: float, losses: Sequence[float], computed: Sequence[Computed]
) -> dict[str, Any]:
    seconds, cpu_seconds = took.tolist()
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "warmup_s": warmup,
        "peak_flops": peak,
        "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "computed": computed,
    }


# --- both together ---------------------------------------------------------------------------------------------------


def _run(job: Job) -> dict[str, Any]:
    return run_child(job, f"{job.side} {job.size.preset}", HF_HUB_OFFLINE="1")


def _child_main(text: str) -> None:
    job = Job.from_json(text)
    run = run_ours if job.side == "ours" else run_torch
    answer_child(lambda: prepare(job.data) if job.side == "prepare" else run(job))


def _figures(data: Data, size: Size, result: dict[str, Any]) -> dict[str, float]:
    from seqgpt_jax.models.flops import train_flops
    from seqgpt_jax.models.presets import get_preset

    config, members = get_preset(size.preset, size.vocab_size), _members(data, size.steps)
    computed = sum(train_flops(config, *each) for each in result["computed"])
    lengths = Examples(Path(data.folder)).lengths[members].tolist()
    needed = sum(train_flops(config, tokens, answer, tokens, answer) for tokens, answer in lengths)
    available = result["peak_flops"] * result["seconds"]
    return {
        "examples_per_s": round(len(members) / result["seconds"], 3),
        "cores_busy": round(result["cpu_seconds"] / result["seconds"], 2),
        "step_s": round(result["seconds"] / len(result["computed"]), 3),
        "warmup_s": round(result["warmup_s"], 2),
        "peak_mib": round(result["peak_kib"] / 1024),
        "peak_gflops": round(result["peak_flops"] / 1e9, 1),
        "computed_of_peak": round(computed / available, 3),
        "needed_of_peak": round(needed / available, 3),
        "loss_first": round(result["loss_first"], 3),
        "loss_last": round(result["loss_last"], 3),
    }


def main() -> None:
    parser = make_parser(__doc__, quick="a tiny model for a few steps on generated examples")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--steps", type=int, help="packed steps that are timed, instead of the size's own number")
    parser.add_argument(
        "--row_tokens", type=int, nargs="+", default=list(Data.row_tokens),
        help="the longest is also the most tokens of an example; several lengths are for ours alone",
    )  # fmt: skip
    parser.add_argument("--row_supervised", type=int, default=Data.row_supervised)
    parser.add_argument("--rows_per_step", type=int, default=Data.rows_per_step)
    parser.add_argument("--torch_optimizer", choices=("fused", "foreach"), default="fused", help="kind of its AdamW")
    parser.add_argument("--torch_compile", action="store_true", help="torch.compile its model")
    parser.add_argument("--torch_keep_freed_memory", action="store_true", help="tell its malloc what ours is told")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child_main(options.child)
        return
    sizes = QUICK_SIZES if options.quick else {name: SIZES[name] for name in options.sizes}
    if options.steps:
        sizes = {name: dataclasses.replace(size, steps=options.steps) for name, size in sizes.items()}
    shape = {name: getattr(options, name) for name in ("row_supervised", "rows_per_step")}
    data = Data(
        "", row_tokens=tuple(options.row_tokens), **shape, most_steps=max(size.steps for size in sizes.values())
    )
    if options.quick:
        data = dataclasses.replace(
            data, mixture="synthetic", records_per_dataset=3, vocab_size=2_048, row_tokens=(128, 256)
        )
    torch_settings = {
        name: getattr(options, name) for name in ("torch_optimizer", "torch_compile", "torch_keep_freed_memory")
    }
    ratios: dict[str, float] = {}
    figures: dict[str, float] = {}
    settings: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = dataclasses.replace(data, folder=folder)
        jobs = {
            name: Job("", data, size, options.torch_optimizer, options.torch_compile) for name, size in sizes.items()
        }
        prepared = _run(dataclasses.replace(next(iter(jobs.values())), side="prepare"))
        measured = {
            (name, side): _run(dataclasses.replace(job, side=side)) for name, job in jobs.items() for side in SIDES
        }
        for (name, side), result in measured.items():
            found = _figures(data, sizes[name], result)
            figures |= {f"{side}_{name}_{figure}": value for figure, value in found.items()}
            print(f"{name:6}{side:8}" + "".join(f"{figure} {value:<10}" for figure, value in found.items()))
        for name, size in sizes.items():
            speed = {side: figures[f"{side}_{name}_examples_per_s"] for side in SIDES}
            ratios |= {f"{side}_{name}": round(speed["ours"] / speed[side], 2) for side in ("padded", "packed")}
            settings[name] = {**dataclasses.asdict(size), "examples": len(_members(data, size.steps))}
    for name, ratio in ratios.items():
        print(f"{name:16} {ratio:>8}")
    settings |= {key: value for key, value in dataclasses.asdict(data).items() if key not in ("folder", "most_steps")}
    settings |= {"fill": round(prepared["fill"], 4), "padded_batch": PADDED_BATCH, "precision": "float32"}
    settings |= torch_settings
    finish(options, ratios=ratios, figures=figures, settings=settings, device=machine())


if __name__ == "__main__":
    main()
