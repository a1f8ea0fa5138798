"""What every attention kernel does with a tile of keys: scores, mask, online softmax, sums.

Scores, soft caps, slopes and sinks are times the logarithm of e to base 2, since the exponentials are powers of 2.

Source: online softmax as in FlashAttention-2, Dao 2023; block tables, Kwon et al. 2023.
"""

import triton
import triton.language as tl


@triton.jit
def attend_tiles(
    query,
    positions,
    slopes,
    maxima,
    totals,
    sums,
    key_ptr,
    value_ptr,
    table_ptr,
    kv_head,
    first_tile,
    end_tile,
    first_token,
    end_token,
    score_scale,
    soft_cap,
    window,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFT_CAP: tl.constexpr,
    HAS_ALIBI: tl.constexpr,
    IS_FP8: tl.constexpr,
    WIDEN: tl.constexpr,
    ALL_SEEN: tl.constexpr,
):
    """Let rows of queries attend to the tokens of some tiles, besides what they attended to before.

    Args:
        query: [rows, PADDED_DIM].
        positions: [rows], of the queries in their sequence.
        slopes: [rows] float32, ALiBi's, of no meaning without.
        maxima: [rows] float32, so far; negative infinity where nothing was seen yet.
        totals: [rows] float32, sums of weights under these maxima.
        sums: [rows, PADDED_DIM] float32, sums of weighted values.
        key_ptr: [num_blocks, BLOCK_SIZE, NUM_KV_HEADS, HEAD_DIM]; fp8 (e4m3) as its bits, u8.
        value_ptr: As `key_ptr`.
        table_ptr: The sequence's row of the block tables.
        kv_head: Whose keys.
        first_tile: In tiles of the sequence, [first_tile, end_tile).
        end_tile: See `first_tile`.
        first_token: Tokens before it are not read.
        end_token: Nor from here on.
        score_scale: Multiplied into q.k, the keys' own scale included.
        soft_cap: Scores become `soft_cap * tanh(score / soft_cap)`.
        window: Tokens that a token sees, itself included.
        NUM_KV_HEADS: Of the cache.
        HEAD_DIM: Of the cache.
        PADDED_DIM: The next power of 2.
        BLOCK_SIZE: Tokens of a block of the cache, any number.
        TILE: Tokens that are read at once, whatever blocks they lie in.
        HAS_WINDOW: Whether `window` counts.
        HAS_SOFT_CAP: Whether `soft_cap` counts.
        HAS_ALIBI: Whether `slopes` count.
        IS_FP8: Whether the cache is in fp8.
        WIDEN: See the package.
        ALL_SEEN: Whether every row sees every token of these tiles: nothing is masked then.

    Returns:
        maxima, totals, sums.
    """
    dim = tl.arange(0, PADDED_DIM)
    is_dim = dim < HEAD_DIM
    for tile in range(first_tile, end_tile):
        token = tile * TILE + tl.arange(0, TILE)
        is_token = tl.full([TILE], 1, tl.int1) if ALL_SEEN else (token >= first_token) & (token < end_token)
        block = tl.load(table_ptr + token // BLOCK_SIZE, mask=is_token, other=0).to(tl.int64)
        row = ((block * BLOCK_SIZE + token % BLOCK_SIZE) * NUM_KV_HEADS + kv_head) * HEAD_DIM
        keys = tl.load(key_ptr + row[None, :] + dim[:, None], mask=is_dim[:, None] & is_token[None, :], other=0)
        values = tl.load(value_ptr + row[:, None] + dim[None, :], mask=is_token[:, None] & is_dim[None, :], other=0)
        if IS_FP8:
            keys = fp8_to_float(keys).to(query.dtype)
            values = fp8_to_float(values).to(query.dtype)
        if WIDEN:
            keys = keys.to(tl.float32)
            values = values.to(tl.float32)
        scores = tl.dot(query, keys, input_precision="ieee") * score_scale
        if HAS_SOFT_CAP:
            scores = soft_cap * tanh(scores / soft_cap)
        if HAS_ALIBI:
            scores += slopes[:, None] * (token[None, :] - positions[:, None]).to(tl.float32)
        if not ALL_SEEN:
            is_seen = token[None, :] <= positions[:, None]
            if HAS_WINDOW:
                is_seen = is_seen & (token[None, :] > positions[:, None] - window)
            scores = tl.where(is_seen, scores, float("-inf"))
        new_maxima = tl.maximum(maxima, tl.max(scores, 1))
        # A row that has seen nothing yet, as with windows: weights of 0 instead of NaN.
        finite = tl.where(new_maxima == float("-inf"), 0.0, new_maxima)
        weights = tl.exp2(scores - finite[:, None])
        shrink = tl.exp2(maxima - finite)
        totals = totals * shrink + tl.sum(weights, 1)
        sums = tl.dot(weights.to(values.dtype), values, sums * shrink[:, None], input_precision="ieee")
        maxima = new_maxima
    return maxima, totals, sums


@triton.jit
def tanh(x):
    """Hyperbolic tangent, by one exponential that does not overflow."""
    shrunk = tl.exp(-2.0 * tl.abs(x))
    size = (1.0 - shrunk) / (1.0 + shrunk)
    return tl.where(x < 0, -size, size)


@triton.jit
def fp8_to_float(bits):
    """From the bits of e4m3 (u8) to fp32, exactly; NaN becomes 480.

    Exponent and fraction are moved to where fp32 has them, and the other bias is multiplied in. No target lacks that,
    while sm_80 knows no fp8 and gfx942 another one.
    """
    wide = bits.to(tl.uint32)
    moved = ((wide & 0x80) << 24) | ((wide & 0x7F) << 20)
    return moved.to(tl.float32, bitcast=True) * 1.329227995784916e36  # 2 ** 120


@triton.jit
def float_to_fp8(x):
    """From fp32 to the bits of e4m3 (u8), rounded to the nearest, ties to even; what is too large becomes 448."""
    bits = x.to(tl.uint32, bitcast=True)
    sign = (bits >> 24) & 0x80
    size = tl.minimum(tl.abs(x), 448.0)
    # Numbers below 2**-6 have steps of 2**-9: adding 2**14 rounds to those in the last bits of the sum.
    small = (size + 16384.0).to(tl.uint32, bitcast=True) & 0xF
    normal = size.to(tl.uint32, bitcast=True)
    normal = (normal + 0x7FFFF + ((normal >> 20) & 1)) >> 20
    is_small = size < 0.015625  # noqa: PLR2004  2 ** -6, the least number with a full fraction
    return (sign | tl.where(is_small, small, normal - 0x3C0)).to(tl.uint8)
