"""Attention kernels for whole rows, with segment ids and ALiBi: splash (TPU), flash (GPU, Pallas) and cuDNN.

None of them takes a bias that it does not keep as a [T, T] array, so ALiBi goes into the head dimension: extra
entries of query and key whose product is slope * position (`fold_alibi`). A row is causal by slot and cut by segment;
padding is segment 0 and sees padding, so that no query sees nothing.

A kernel cannot be partitioned by XLA: under a mesh context (`jax.sharding.use_abstract_mesh`) each device runs it on
its own rows (axes data and fsdp) and heads (axis tensor).

Shapes: B rows, T tokens, N query heads, G key-value heads, H head dim, E extra head dims.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from seqgpt_jax.errors import UserError

# In tests: the Pallas kernels run on any device, as plain JAX.
INTERPRET = False

_Kernel = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def platform() -> str:
    """Where the code being traced will run, "cpu", "gpu" or "tpu": the mesh context's devices, else jax's default."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    name = jax.default_backend() if device is None or device.platform is None else device.platform
    return "gpu" if name in ("cuda", "rocm") else name


def splash(
    query_BTNH: jax.Array,
    key_BTGH: jax.Array,
    value_BTGH: jax.Array,
    segments_BT: jax.Array,
    positions_BT: jax.Array,
    slopes_N: np.ndarray | None,
) -> jax.Array:
    """Splash attention on a TPU (jax.experimental.pallas.ops.tpu). Rows of any length: they are padded to 128."""
    _check_platform("splash", "tpu")
    from jax.experimental.pallas.ops.tpu import splash_attention as ops

    length = query_BTNH.shape[1]
    padded = 128 * math.ceil(length / 128)
    scaled_BTNH = query_BTNH * jnp.asarray(query_BTNH.shape[-1] ** -0.5, query_BTNH.dtype)
    query_BTNH, key_BTGH = fold_alibi(scaled_BTNH, key_BTGH, positions_BT, slopes_N)

    def kernel(query_BTNH: jax.Array, key_BTGH: jax.Array, value_BTGH: jax.Array, segments_BT: jax.Array) -> jax.Array:
        block = next(size for size in (512, 256, 128) if padded % size == 0)
        sizes = ops.BlockSizes(
            block_q=block, block_kv=block, block_q_dkv=block, block_kv_dkv=block, use_fused_bwd_kernel=True
        )
        mask = ops.MultiHeadMask([ops.CausalMask((padded, padded))] * query_BTNH.shape[2])
        run = ops.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=INTERPRET)

        def row(query_TNH: jax.Array, key_TGH: jax.Array, value_TGH: jax.Array, segments_T: jax.Array) -> jax.Array:
            heads_first = (array.swapaxes(0, 1) for array in (query_TNH, key_TGH, value_TGH))
            return run(*heads_first, segment_ids=ops.SegmentIds(segments_T, segments_T)).swapaxes(0, 1)

        return jax.vmap(row)(query_BTNH, key_BTGH, value_BTGH, segments_BT)

    arrays = (_pad(array, 1, padded) for array in (query_BTNH, key_BTGH, value_BTGH, segments_BT))
    return _over_mesh(kernel, key_BTGH.shape[2])(*arrays)[:, :length]


def flash(
    query_BTNH: jax.Array,
    key_BTGH: jax.Array,
    value_BTGH: jax.Array,
    segments_BT: jax.Array,
    positions_BT: jax.Array,
    slopes_N: np.ndarray | None,
) -> jax.Array:
    """Flash attention on a GPU, written in Pallas (jax.experimental.pallas.ops.gpu). Rows of any length."""
    _check_platform("flash", "gpu")
    from jax.experimental.pallas.ops.gpu.attention import mha

    length, head_dim = query_BTNH.shape[1], query_BTNH.shape[-1]
    scale, padded = head_dim**-0.5, 128 * math.ceil(length / 128)
    num_groups = query_BTNH.shape[2] // key_BTGH.shape[2]
    query_BTNH, key_BTGH = fold_alibi(query_BTNH, key_BTGH, positions_BT, slopes_N, scale)
    wide = max(16, 2 ** math.ceil(math.log2(query_BTNH.shape[-1])))  # the kernel's tiles are powers of two

    def kernel(query_BTNH: jax.Array, key_BTGH: jax.Array, value_BTGH: jax.Array, segments_BT: jax.Array) -> jax.Array:
        key_BTNH, value_BTNH = (jnp.repeat(array, num_groups, axis=2) for array in (key_BTGH, value_BTGH))
        return mha(query_BTNH, key_BTNH, value_BTNH, segments_BT, sm_scale=scale, causal=True, interpret=INTERPRET)

    query, key, value = (_pad(_pad(array, 1, padded), 3, wide) for array in (query_BTNH, key_BTGH, value_BTGH))
    attended = _over_mesh(kernel, key_BTGH.shape[2])(query, key, value, _pad(segments_BT, 1, padded))
    return attended[:, :length, :, :head_dim]


def cudnn(
    query_BTNH: jax.Array,
    key_BTGH: jax.Array,
    value_BTGH: jax.Array,
    segments_BT: jax.Array,
    positions_BT: jax.Array,
    slopes_N: np.ndarray | None,
) -> jax.Array:
    """cuDNN's fused attention, through jax.nn.dot_product_attention; it partitions itself.

    The segments are a mask [B, 1, T, T] in memory, in bfloat16. Raises UserError for what cuDNN does not take:
    float32, an odd row length, or a head dimension above 128 (256 from Hopper on), ALiBi's entries included.
    """
    _check_platform("cudnn", "gpu")
    head_dim = query_BTNH.shape[-1]
    if problem := cudnn_refuses(query_BTNH, slopes_N):
        raise UserError(f"attention backend 'cudnn' {problem} (choose flash or xla)")
    scale = head_dim**-0.5
    query_BTNH, key_BTGH = fold_alibi(query_BTNH, key_BTGH, positions_BT, slopes_N, scale)
    wide = 8 * math.ceil(query_BTNH.shape[-1] / 8)
    query, key, value = (_pad(array, 3, wide) for array in (query_BTNH, key_BTGH, value_BTGH))
    same_B1TT = (segments_BT[:, :, None] == segments_BT[:, None, :])[:, None]
    attended = jax.nn.dot_product_attention(
        query, key, value, mask=same_B1TT, scale=scale, is_causal=True, implementation="cudnn"
    )
    return attended[..., :head_dim]


def cudnn_refuses(query_BTNH: jax.Array, slopes_N: np.ndarray | None) -> str | None:
    """What cuDNN does not take of such a call, as a predicate; None where it takes it."""
    if query_BTNH.dtype not in (jnp.bfloat16, jnp.float16):
        return f"takes bfloat16 and float16 alone, not {query_BTNH.dtype}"
    if query_BTNH.shape[1] % 2:
        return f"takes rows of even length alone, not {query_BTNH.shape[1]}"
    needed = query_BTNH.shape[-1] + num_extra_dims(query_BTNH.dtype, query_BTNH.shape[1], slopes_N)
    most = 256 if _compute_capability() >= 9 else 128
    return f"takes head dimensions up to {most} on this GPU, not {needed}" if needed > most else None


def fold_alibi(
    query_BTNH: jax.Array,
    key_BTGH: jax.Array,
    positions_BT: jax.Array,
    slopes_N: np.ndarray | None,
    scale: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Query and key with E more head dims, so that scale * (query . key) has grown by slope * position of the key.

    A bfloat16 has 8 significant bits, so a position goes in as 16 * (j // 16) and j % 16, each exact below 4,096,
    and as three parts beyond; and slope/scale as a sum of bfloat16 numbers: one where that is exact, else two (an
    error under 2^-17 of the slope), three for float32 (exact). The same parts serve float32, because matrix units
    round its factors too. E is parts of a position times parts of a slope.

    Worked example, slope 0.5, scale 1, position 300: query entries 0.5 and 0.5, key entries 288 and 12.
    Without slopes both come back as they are.
    """
    if slopes_N is None:
        return query_BTNH, key_BTGH
    factors_NP = _split_slopes(slopes_N / scale, query_BTNH.dtype)
    digits_BTC = _split_positions(positions_BT)
    num_parts, num_digits = factors_NP.shape[1], digits_BTC.shape[-1]
    more_query = jnp.asarray(np.repeat(factors_NP, num_digits, axis=1), query_BTNH.dtype)  # [N, E]
    more_key = jnp.tile(digits_BTC, (1, 1, num_parts)).astype(key_BTGH.dtype)  # [B, T, E]
    return (
        jnp.concatenate([query_BTNH, jnp.broadcast_to(more_query, (*query_BTNH.shape[:-1], more_query.shape[-1]))], -1),
        jnp.concatenate(
            [key_BTGH, jnp.broadcast_to(more_key[:, :, None], (*key_BTGH.shape[:-1], more_key.shape[-1]))], -1
        ),
    )


def num_extra_dims(dtype: jnp.dtype, length: int, slopes_N: np.ndarray | None) -> int:
    """How many head dims `fold_alibi` may add to rows of this length."""
    if slopes_N is None:
        return 0
    return (3 if dtype == jnp.float32 else 2) * (2 if length <= 4096 else 3)


def _split_slopes(factors_N: np.ndarray, dtype: jnp.dtype) -> np.ndarray:
    rest_N, parts = np.asarray(factors_N, np.float32), []
    for _ in range(3 if dtype == jnp.float32 else 2):
        parts.append(rest_N.astype(jnp.bfloat16).astype(np.float32))
        rest_N = rest_N - parts[-1]
        if not rest_N.any():
            break
    return np.stack(parts, axis=-1)


def _split_positions(positions_BT: jax.Array) -> jax.Array:
    digits = [positions_BT % 4096 // 16 * 16, positions_BT % 16]
    if positions_BT.shape[1] > 4096:
        digits.append(positions_BT // 4096 * 4096)
    return jnp.stack(digits, axis=-1)


def _over_mesh(kernel: _Kernel, num_kv_heads: int) -> _Kernel:
    """The kernel on each device's own rows and heads, where there is a mesh context of more than one device."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return kernel
    heads = "tensor" if num_kv_heads % mesh.shape["tensor"] == 0 else None
    rows = ("data", "fsdp")
    by_head, by_row = PartitionSpec(rows, None, heads), PartitionSpec(rows)
    return jax.shard_map(kernel, in_specs=(by_head, by_head, by_head, by_row), out_specs=by_head, check_vma=False)


def _pad(array: jax.Array, axis: int, size: int) -> jax.Array:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return jnp.pad(array, widths)


def _compute_capability() -> float:
    return float(getattr(jax.local_devices()[0], "compute_capability", 0))


def _check_platform(backend: str, needed: str) -> None:
    if not INTERPRET and platform() != needed:
        raise UserError(
            f"attention backend '{backend}' runs on a {needed.upper()}, and this is a {platform().upper()} "
            "(choose auto or xla)"
        )
