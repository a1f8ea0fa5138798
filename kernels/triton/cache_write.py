"""Rotates queries and keys and puts keys and values into the cache, in one pass over what the projection gave.

One program takes one head of one token. The tables of cosines and sines hold what the model's variant of RoPE makes of
them (linear, dynamic NTK, YaRN, Llama 3, ...); pairs lie half a head apart or side by side.

Source: Su et al. 2021.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.attention_tiles import float_to_fp8
from kernels.triton.device import widens


@triton.jit
def rotate_and_write_kernel(
    query_ptr,
    key_cache_ptr,
    value_cache_ptr,
    qkv_ptr,
    cos_ptr,
    sin_ptr,
    slots_ptr,
    token_stride,
    inverse_key_scale,
    inverse_value_scale,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    PADDED_HALF: tl.constexpr,
    IS_INTERLEAVED: tl.constexpr,
    IS_FP8: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """HALF: pairs that turn; numbers of a head behind them stay. Grid: (num_tokens, NUM_HEADS + 2 * NUM_KV_HEADS).

    Tokens whose slot is negative, a batch's padding, are not written to the cache.
    """
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    slot = tl.load(slots_ptr + token).to(tl.int64)
    is_query = head < NUM_HEADS
    is_value = head >= NUM_HEADS + NUM_KV_HEADS
    if (slot < 0) & (head >= NUM_HEADS):
        return
    pair = tl.arange(0, PADDED_HALF)
    is_pair = pair < HALF
    if IS_INTERLEAVED:
        first_column = pair * 2
        second_column = pair * 2 + 1
    else:
        first_column = pair
        second_column = pair + HALF
    row_ptr = qkv_ptr + token * token_stride + head * HEAD_DIM
    query_row_ptr = query_ptr + (token * NUM_HEADS + head) * HEAD_DIM
    cache_row = (slot * NUM_KV_HEADS + (head - NUM_HEADS) % NUM_KV_HEADS) * HEAD_DIM
    cache_row_ptr = (value_cache_ptr if is_value else key_cache_ptr) + cache_row
    inverse_scale = inverse_value_scale if is_value else inverse_key_scale
    dtype = qkv_ptr.dtype.element_ty
    first = tl.load(row_ptr + first_column, mask=is_pair, other=0.0)
    second = tl.load(row_ptr + second_column, mask=is_pair, other=0.0)
    turned_first, turned_second = first, second
    if not is_value:
        cos = tl.load(cos_ptr + token * HALF + pair, mask=is_pair, other=0.0)
        sin = tl.load(sin_ptr + token * HALF + pair, mask=is_pair, other=0.0)
        if WIDEN:
            first, second = first.to(tl.float32), second.to(tl.float32)
            cos, sin = cos.to(tl.float32), sin.to(tl.float32)
        turned_first = (first * cos - second * sin).to(dtype)
        turned_second = (second * cos + first * sin).to(dtype)
    store_numbers(query_row_ptr, cache_row_ptr, first_column, turned_first, is_pair, is_query, inverse_scale, IS_FP8)
    store_numbers(query_row_ptr, cache_row_ptr, second_column, turned_second, is_pair, is_query, inverse_scale, IS_FP8)
    # What lies behind the pairs that turn stays as it is.
    rest = 2 * HALF + tl.arange(0, PADDED_HALF)
    for _ in range(2 * HALF, HEAD_DIM, PADDED_HALF):
        numbers = tl.load(row_ptr + rest, mask=rest < HEAD_DIM, other=0.0)
        store_numbers(query_row_ptr, cache_row_ptr, rest, numbers, rest < HEAD_DIM, is_query, inverse_scale, IS_FP8)
        rest += PADDED_HALF


@triton.jit
def store_numbers(
    query_row_ptr, cache_row_ptr, column, numbers, is_column, is_query, inverse_scale, IS_FP8: tl.constexpr
):
    """Store some columns of a head: queries as they are, others in the cache's dtype, fp8 as its bits."""
    if is_query:
        tl.store(query_row_ptr + column, numbers, mask=is_column)
    elif IS_FP8:
        bits = float_to_fp8(numbers.to(tl.float32) * inverse_scale)
        tl.store(cache_row_ptr + column, bits, mask=is_column)
    else:
        tl.store(cache_row_ptr + column, numbers.to(cache_row_ptr.dtype.element_ty), mask=is_column)


def rotate_and_write(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Tensor,
    *,
    key_scale: float = 1.0,
    value_scale: float = 1.0,
    is_interleaved: bool = False,
) -> Tensor:
    """As the reference; caches in fp8 (e4m3) as well, and tables narrower than half a head: the rest does not turn.

    Args:
        qkv: See the reference, as all that follow.
        cos: [num_tokens, pairs that turn].
        sin: As `cos`.
        key_cache: In qkv's dtype or fp8.
        value_cache: As `key_cache`.
        slots: Negative ones are not written.
        key_scale: By which keys are divided before they are rounded to fp8.
        value_scale: As `key_scale`.
        is_interleaved: Pairs are (2i, 2i + 1), as in GPT-J, instead of (i, i + pairs).
    """
    num_tokens, num_all, head_dim = qkv.shape
    num_kv_heads = key_cache.shape[2]
    num_heads, half = num_all - 2 * num_kv_heads, cos.shape[1]
    query = torch.empty(num_tokens, num_heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    is_fp8 = key_cache.dtype == torch.float8_e4m3fn
    if is_fp8:
        key_cache, value_cache = key_cache.view(torch.uint8), value_cache.view(torch.uint8)
    if num_tokens:
        rotate_and_write_kernel[num_tokens, num_all](
            query,
            key_cache,
            value_cache,
            qkv,
            cos,
            sin,
            slots,
            qkv.stride(0),
            1.0 / key_scale,
            1.0 / value_scale,
            NUM_HEADS=num_heads,
            NUM_KV_HEADS=num_kv_heads,
            HEAD_DIM=head_dim,
            HALF=half,
            PADDED_HALF=triton.next_power_of_2(half),
            IS_INTERLEAVED=is_interleaved,
            IS_FP8=is_fp8,
            WIDEN=widens(qkv.dtype),
            num_warps=1,
        )
    return query
