"""How much of an accelerator the train step uses (MFU), each attention backend, and decoding, on made-up tokens.

    python benchmarks/device.py [--sizes bloom_560m bloom_1b7] [--batches 16 8 4 2 1] [--remats none dots full]
                                [--peak_tflops F] [--json FILE] [--quick]

MFU is model FLOPs utilisation (PaLM, arXiv 2204.02311, appendix B), of the whole train step with AdamW:

    mfu   = train_flops(tokens, head_positions, row_tokens) / (seconds of a step * peak of the device)
    train_flops = 3 * (2 * entries of the blocks' matrices * tokens + 4 * L * N * H * row_tokens * tokens
                       + 2 * D * V * head_positions)

in operations, a multiplication with its addition being two (seqgpt_jax/models/flops.py). The head counts at the
positions whose logits are computed, the supervised ones; what rematerialisation computes again is not counted, nor is
the optimiser. Attention counts whole rows; `mfu_causal` counts half of them, as much as a causal kernel must compute.
The peak is the dense bfloat16 one of the device's data sheet, or --peak_tflops; where the device is not in the table,
that of a large product measured here (`peak_from` says which).

Parameters and optimiser are float32, the computation is bfloat16. Rows are full of documents of 128 tokens with
answers of 20. For each rematerialisation policy the largest batch that fits is taken; the best policy is the figure.
An attention backend is timed forward and backward on one layer's heads; one that cannot run here says why. Decoding is
`generate` with bfloat16 parameters: answer tokens a second, with the prompts of 256 tokens that come before them.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _harness import finish, machine, make_parser
from flax import nnx

from seqgpt_jax.data.loader import Batch
from seqgpt_jax.decoding.generate import generate
from seqgpt_jax.models import architectures
from seqgpt_jax.models.attention import BACKENDS, KERNELS, TokenLayout, alibi_slopes, attend
from seqgpt_jax.models.bloom import BloomConfig
from seqgpt_jax.models.decoder import Decoder, DecoderConfig
from seqgpt_jax.models.flops import train_flops
from seqgpt_jax.models.presets import get_preset
from seqgpt_jax.training.chips import peak_flops
from seqgpt_jax.training.optimizers import OptimizerConfig, make_optimizer
from seqgpt_jax.training.partitioning import batch_sharding, make_mesh, make_skeleton
from seqgpt_jax.training.step import init_params, init_state, make_train_step, state_shardings

DOCUMENT_TOKENS, ANSWER_TOKENS = 128, 20
PROMPT_TOKENS, NEW_TOKENS = 256, 128
NEVER = -1  # no token has this id, so decoding goes on to the last token
TINY = BloomConfig(vocab_size=512, num_layers=2, width=64, num_heads=4)


def train(config: DecoderConfig, batch: int, row_tokens: int, num_steps: int) -> tuple[float, float, float]:
    """Seconds of a train step on batch rows; its operations with attention over whole rows, and over half of them."""

    def make_model() -> Decoder:
        return architectures.make_model(config, rngs=nnx.Rngs(0))

    skeleton, mesh = make_skeleton(make_model), make_mesh(devices=jax.devices()[:1])
    optimizer = make_optimizer(OptimizerConfig(name="adamw", learning_rate=1e-4), num_steps, skeleton)
    shardings = state_shardings(skeleton, optimizer, mesh)
    rows = jax.device_put(made_up_rows(config.vocab_size, batch, row_tokens), batch_sharding(mesh))
    state = init_state(skeleton, init_params(make_model, skeleton, mesh), optimizer, shardings)
    step = make_train_step(skeleton, optimizer, mesh, shardings).lower(state, rows).compile()
    for _ in range(2):  # the first steps may still tune and allocate
        state, metrics = step(state, rows)
    metrics.loss.block_until_ready()
    start = time.perf_counter()
    for _ in range(num_steps):
        state, metrics = step(state, rows)
    metrics.loss.block_until_ready()
    seconds = (time.perf_counter() - start) / num_steps
    tokens, head_positions = batch * row_tokens, rows.targets_BS.size
    whole, half = (train_flops(config, tokens, head_positions, seen) for seen in (row_tokens, row_tokens / 2))
    return seconds, whole, half


def made_up_rows(vocab_size: int, batch: int, row_tokens: int) -> Batch:
    """Rows full of documents, each of DOCUMENT_TOKENS random tokens of which the last are the answer."""
    rng = np.random.default_rng(0)
    places_T = np.arange(row_tokens, dtype=np.int32)
    tokens_BT = rng.integers(5, vocab_size, (batch, row_tokens), np.int32)
    answers_S = np.flatnonzero(places_T % DOCUMENT_TOKENS >= DOCUMENT_TOKENS - ANSWER_TOKENS).astype(np.int32)
    positions_BT, segment_ids_BT, predictors_BS = (
        np.tile(row, (batch, 1)) for row in (places_T % DOCUMENT_TOKENS, places_T // DOCUMENT_TOKENS + 1, answers_S - 1)
    )
    targets_BS = tokens_BT[:, answers_S]
    return Batch(tokens_BT, positions_BT, segment_ids_BT, predictors_BS, targets_BS, np.ones_like(targets_BS, bool))


def measure_train(name: str, config: DecoderConfig, options: argparse.Namespace, peak: float) -> dict[str, Any]:
    """For each policy the figures of the largest batch that fits; under the model's name those of the best policy."""
    figures: dict[str, Any] = {}
    best = 0.0
    for remat in options.remats:
        changed = dataclasses.replace(config, remat=remat)
        for batch in sorted(options.batches, reverse=True):
            gc.collect()  # what a batch that did not fit has left
            try:
                seconds, whole, half = train(changed, batch, options.row_tokens, options.steps)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    figures[f"{name}_{remat}_b{batch}_error"] = _first_line(error)
                continue
            found = {
                "mfu": round(whole / seconds / peak, 4),
                "mfu_causal": round(half / seconds / peak, 4),
                "tokens_per_s": round(batch * options.row_tokens / seconds),
                "step_s": round(seconds, 4),
            }
            figures |= {f"{name}_{remat}_b{batch}_{figure}": value for figure, value in found.items()}
            if found["mfu"] > best:
                best = found["mfu"]
                figures |= {f"{name}_{figure}": value for figure, value in found.items()}
                figures |= {f"{name}_remat": remat, f"{name}_batch": batch}
            break
    return figures


def measure_attention(name: str, config: DecoderConfig, batch: int, row_tokens: int, num_steps: int) -> dict[str, Any]:
    """Milliseconds of each backend's forward and backward pass over one layer's heads, or the message it raises."""
    rows = made_up_rows(config.vocab_size, batch, row_tokens)
    segments_BT, positions_BT = jnp.asarray(rows.segment_ids_BT), jnp.asarray(rows.positions_BT)
    layout = TokenLayout(segments_BT, segments_BT, positions_BT, jnp.arange(row_tokens, dtype=jnp.int32)[None])
    shape = (3, batch, row_tokens, config.num_heads, config.head_dim)
    heads_CBTNH = jax.random.normal(jax.random.key(0), shape, config.compute_dtype)
    slopes_N = alibi_slopes(config.num_heads)
    figures: dict[str, Any] = {}
    for backend in (*BACKENDS, *KERNELS):

        def loss(heads_CBTNH: jax.Array, backend: str = backend) -> jax.Array:
            query_BTNH, key_BTNH, value_BTNH = heads_CBTNH
            attended_BTNH = attend(query_BTNH, key_BTNH, value_BTNH, layout, slopes_N, backend)
            return attended_BTNH.astype(jnp.float32).sum()

        gradient = jax.jit(jax.grad(loss))
        key = f"{name}_attention_{backend}"
        try:
            figures[f"{key}_ms"] = round(1e3 * _seconds(lambda: gradient(heads_CBTNH), num_steps), 3)  # noqa: B023
        except Exception as error:  # a backend says in its own way that it cannot run here
            figures[f"{key}_error"] = f"{type(error).__name__}: {_first_line(error)}"
    return figures


def measure_decoding(name: str, config: DecoderConfig, batches: Sequence[int], new_tokens: int) -> dict[str, Any]:
    """Answer tokens a second of `generate` at each batch size, compilation apart."""
    config = dataclasses.replace(config, param_dtype=config.compute_dtype)
    model = nnx.jit(lambda: architectures.make_model(config, rngs=nnx.Rngs(0)))()
    rng = np.random.default_rng(0)
    figures = {}
    for batch in batches:
        prompts = rng.integers(5, config.vocab_size, (batch, PROMPT_TOKENS)).tolist()

        def decode(prompts: list[list[int]] = prompts, batch: int = batch) -> None:
            generate(model, prompts, max_new_tokens=new_tokens, eos_id=NEVER, batch_size=batch)

        figures[f"{name}_decode_b{batch}_tokens_per_s"] = round(batch * new_tokens / _seconds(decode, 2), 1)
    return figures


def _seconds(call: Callable[[], Any], times: int) -> float:
    """Seconds of one call, the first (which compiles) apart."""
    jax.block_until_ready(call())
    start = time.perf_counter()
    for _ in range(times):
        result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / times


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def matmul_flops(size: int, dtype: str) -> float:
    """Operations a second of the product of two square matrices, at its best of five."""
    matrix = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda x: x @ x)
    return 2 * size**3 / min(_seconds(lambda: multiply(matrix), 3) for _ in range(5))


def peak_of(device: Any, given_tflops: float | None, measured: float) -> tuple[float, str]:
    """Operations a second that MFU is measured against, and where the number is from: flag, table or product."""
    if given_tflops:
        return given_tflops * 1e12, "flag"
    stated = peak_flops(device.device_kind)
    return (measured, "product") if stated is None else (stated, "table")


def main() -> None:
    parser = make_parser(__doc__, quick="a tiny model, to see that everything runs")
    parser.add_argument("--sizes", nargs="+", default=["bloom_560m", "bloom_1b7"], help="presets")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 8, 4, 2, 1], help="rows; the largest that fits")
    parser.add_argument("--remats", nargs="+", choices=("none", "dots", "full"), default=["none", "dots", "full"])
    parser.add_argument("--row_tokens", type=int, default=2048)
    parser.add_argument("--attention", default="auto", help="backend of the train step and of decoding")
    parser.add_argument("--attention_batch", type=int, default=4, help="rows that the backends are timed on")
    parser.add_argument("--decode_batches", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--steps", type=int, default=10, help="that are timed")
    parser.add_argument("--peak_tflops", type=float, help="of the device, instead of the table's")
    options = parser.parse_args()
    new_tokens, matrix = NEW_TOKENS, 8192
    if options.quick:
        options.sizes, options.batches, options.remats, options.row_tokens = ["tiny"], [2], ["none"], 256
        options.attention_batch, options.decode_batches, options.steps = 1, [1, 4], 2
        new_tokens, matrix = 8, 512
    device = jax.devices()[0]
    measured = matmul_flops(matrix, "bfloat16" if device.platform != "cpu" else "float32")
    peak, peak_from = peak_of(device, options.peak_tflops, measured)
    figures: dict[str, Any] = {"product_tflops": round(measured / 1e12, 3)}
    for name in options.sizes:
        config = dataclasses.replace(
            TINY if options.quick else get_preset(name),
            compute_dtype="bfloat16",
            attention=options.attention,
            layer_loop="scan",
        )
        found = measure_train(name, config, options, peak)
        found |= measure_attention(name, config, options.attention_batch, options.row_tokens, options.steps)
        found |= measure_decoding(name, config, options.decode_batches, new_tokens)
        for figure, value in found.items():
            print(f"{figure:44} {value}", flush=True)
        figures |= found
    settings = {key: value for key, value in vars(options).items() if key not in ("json", "quick")}
    settings |= {"peak_tflops": round(peak / 1e12, 3), "peak_from": peak_from, "optimizer": "adamw"}
    settings |= {"document_tokens": DOCUMENT_TOKENS, "answer_tokens": ANSWER_TOKENS}
    settings |= {"prompt_tokens": PROMPT_TOKENS, "new_tokens": new_tokens}
    where = f"{device.device_kind} ({device.platform}), jax {jax.__version__}; {machine()}"
    finish(options, ratios={}, figures=figures, settings=settings, device=where)


if __name__ == "__main__":
    main()
