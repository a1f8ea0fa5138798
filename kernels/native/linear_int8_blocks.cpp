// Multiplying rows that are rounded to int8, each block of 32 k with a scale of its own, by panels of GGUF's blocks.
//
// A block of activations is divided by its largest number's 127th and rounded. Then its products with bare quants are
// integers, whose sum over the block is exact: by whatever instructions, and in whatever order. As for fp32
// (linear_blocks.h) sums += offset * (total of the block) and sums += scale * (sum) follow, with the activations' scale in
// both: the same bits by every way, and for a row whatever its batch.
#include "linear_blocks.h"

namespace pagestream {
namespace {

constexpr float kLeastLargest = 1e-36f;  // below it a block's largest number has no inverse, and the block is zeros

// 32 numbers as steps of a scale, from -127 to 127. Where one is no number, or infinite, scale and total are NaN.
struct RoundedBlock {
    Vec first, second;
    float scale, total;
};

INLINE RoundedBlock round_block(const float* x) {
    const Vec first = load(x), second = load(x + kLanes), magic = broadcast(0x1.8p23f);
    const float most = largest(max(max(first, sub(zero(), first)), max(second, sub(zero(), second))));
    const Vec inverse = broadcast(most > kLeastLargest ? 127.0f / most : 0.0f);
    RoundedBlock to;
    to.first = sub(add(mul(first, inverse), magic), magic);
    to.second = sub(add(mul(second, inverse), magic), magic);
    const float steps = sum(add(to.first, to.second));
    to.scale = most / 127.0f + (steps - steps);
    to.total = to.scale * steps;
    return to;
}

#if !defined(__AVX2__) || defined(__AVX512F__)

// Steps as floats, whose sums over a block are exact as well.
template <class Block>
class RoundedRows : public BlockTiles {
  public:
    RoundedBlockRows of(long call, const float* x, long rows, long num_columns) {
        if (call_ != call) round(x, rows * num_columns);
        call_ = call;
        return {{steps_.data(), totals_.data(), num_columns}, scales_.data()};
    }

  private:
    void round(const float* x, long count) {
        if ((long)steps_.size() < count) steps_.resize(count);
        if ((long)scales_.size() < count / kBlock) {
            scales_.resize(count / kBlock);
            totals_.resize(count / kBlock);
        }
        for (long i = 0; i < count; i += kBlock) {
            const RoundedBlock block = round_block(x + i);
            scales_[i / kBlock] = block.scale;
            totals_[i / kBlock] = block.total;
            store(steps_.data() + i, mul(block.first, load(Block::kPlaces)));
            store(steps_.data() + i + kLanes, mul(block.second, load(Block::kPlaces + kLanes)));
        }
    }

    std::vector<float> steps_, scales_, totals_;
    long call_ = 0;
};

template <class Block>
using Int8Rows = RoundedRows<Block>;

#else

// Steps as bytes, four by four as a block's quants lie in its words.
struct ByteBlock {
    int8_t steps[2][4][4];
    float scale, total;
};

// Lane k / 4 % 2, dword k / 8, byte k % 4.
INLINE __m256i narrow(const RoundedBlock& block) {
    const auto words = [](Vec x) INLINED {
        return _mm256_packs_epi32(_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high));
    };
    return _mm256_packs_epi16(words(block.first), words(block.second));
}

// Dword i of a lane is for word i. Lane 0: the low nibbles of its bytes, lane 1: the high ones; or, where a quant is a byte,
// lane 0: the first four words, lane 1: the others.
template <class Quants>
INLINE __m256i in_order_of(__m256i steps) {
    if constexpr (std::is_same_v<Quants, Bytes>)
        steps = _mm256_permutevar8x32_epi32(steps, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    const __m128i transposed = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm256_shuffle_epi8(steps, _mm256_broadcastsi128_si256(transposed));
}

struct ByteRows {
    const ByteBlock* blocks;
    long num_blocks;  // of a row
};

template <class Block>
class RowsOfBytes {
  public:
    static constexpr int kTileRows = Block::kHasOffset ? 5 : 4;
    static constexpr int panels_of(int rows) { return rows == 1 ? 2 : 1; }

    ByteRows of(long call, const float* x, long rows, long num_columns) {
        if (call_ != call) round(x, rows * num_columns / kBlock);
        call_ = call;
        return {blocks_.data(), num_columns / kBlock};
    }

  private:
    void round(const float* x, long count) {
        if ((long)blocks_.size() < count) blocks_.resize(count);
        for (long i = 0; i < count; ++i) {
            const RoundedBlock block = round_block(x + i * kBlock);
            _mm256_storeu_si256((__m256i*)blocks_[i].steps, in_order_of<decltype(Block::quants)>(narrow(block)));
            blocks_[i].scale = block.scale;
            blocks_[i].total = block.total;
        }
    }

    std::vector<ByteBlock> blocks_;
    long call_ = 0;
};

// Four steps, eight times.
INLINE __m256i quad(const ByteBlock* x, int lane, int word) {
    int32_t four;
    memcpy(&four, x->steps[lane][word], sizeof four);
    return _mm256_set1_epi32(four);
}

// Sums stay in registers: left alone, the compiler puts off the additions and spills what is to be added.
INLINE void put(__m256i& sum, __m256i x) {
    sum = x;
    asm volatile("" : "+x"(sum));
}

// The sums of one block: 16 bits hold those of eight pairs of products, of 2 * 15 * 127 each.
template <int R>
INLINE void sum_bytes(const Nibbles& quants, const ByteBlock* (&x)[R], __m256i (&sum)[R][2]) {
    const __m256i mask = _mm256_set1_epi8(0xF);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            asm volatile("" : : : "memory");
            const __m256i* words = (const __m256i*)quants.words[i];
            __m256i low = _mm256_loadu_si256(words), high = _mm256_loadu_si256(words + 1);
            if (half) low = _mm256_srli_epi16(low, 4), high = _mm256_srli_epi16(high, 4);
            low = _mm256_and_si256(low, mask);
            high = _mm256_and_si256(high, mask);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                const __m256i steps = quad(x[r], half, i);
                const __m256i first = _mm256_maddubs_epi16(low, steps), second = _mm256_maddubs_epi16(high, steps);
                put(sum[r][0], i + half == 0 ? first : _mm256_add_epi16(sum[r][0], first));
                put(sum[r][1], i + half == 0 ? second : _mm256_add_epi16(sum[r][1], second));
            }
        }
    }
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        sum[r][0] = _mm256_madd_epi16(sum[r][0], ones);
        sum[r][1] = _mm256_madd_epi16(sum[r][1], ones);
    }
}

// The same with signed quants. The sign of each is given to the step, as the instruction wants one factor without; 16 bits
// hold one pair of products, of 128 * 127 at most each.
template <int R>
INLINE void sum_bytes(const Bytes& quants, const ByteBlock* (&x)[R], __m256i (&sum)[R][2]) {
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
        asm volatile("" : : : "memory");
        const __m256i* words = (const __m256i*)quants.words[i];
        const __m256i low = _mm256_loadu_si256(words), high = _mm256_loadu_si256(words + 1);
        const __m256i low_size = _mm256_abs_epi8(low), high_size = _mm256_abs_epi8(high);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const __m256i steps = quad(x[r], i / 4, i % 4);
            __m256i first = _mm256_maddubs_epi16(low_size, _mm256_sign_epi8(steps, low));
            __m256i second = _mm256_maddubs_epi16(high_size, _mm256_sign_epi8(steps, high));
            first = _mm256_madd_epi16(first, ones);
            second = _mm256_madd_epi16(second, ones);
            put(sum[r][0], i == 0 ? first : _mm256_add_epi32(sum[r][0], first));
            put(sum[r][1], i == 0 ? second : _mm256_add_epi32(sum[r][1], second));
        }
    }
}

template <int R, int P, class Block>
INLINE void add_blocks(const Block* (&blocks)[P], const ByteRows& rows, long row, long ahead, float* sums) {
    const ByteBlock* x[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) x[r] = rows.blocks + (row + r) * rows.num_blocks;
    for (long block = 0; block < rows.num_blocks; ++block) {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) asm("" : "+r"(x[r]));
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
            if (ahead) fetch<sizeof(Block)>((const uint8_t*)blocks[p] + ahead);
            asm("" : "+r"(blocks[p]));
            __m256i sum[R][2];
            sum_bytes(blocks[p]->quants, x, sum);
            const Vec scale = blocks[p]->scale();
            [[maybe_unused]] Vec offset;
            if constexpr (Block::kHasOffset) offset = blocks[p]->offset();
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                float* to = sums + (r * P + p) * kLanes;
                Vec total = load(to);
                if constexpr (Block::kHasOffset) total = fma(offset, broadcast(x[r]->total), total);
                const Vec exact = {_mm256_cvtepi32_ps(sum[r][0]), _mm256_cvtepi32_ps(sum[r][1])};
                store(to, fma(mul(scale, broadcast(x[r]->scale)), exact, total));
            }
            ++blocks[p];
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) ++x[r];
    }
}

template <class Block>
using Int8Rows = RowsOfBytes<Block>;

#endif

}  // namespace
}  // namespace pagestream

using namespace pagestream;

void linear_int8_blocks(const Matrix* matrix, const float* x, int64_t num_tokens, float* y, int64_t ldy) {
    switch (matrix->format) {
        case kQ4_0: return block_rows<Int8Rows<Q4_0>, Q4_0>(*matrix, x, num_tokens, y, ldy);
        case kQ4_1: return block_rows<Int8Rows<Q4_1>, Q4_1>(*matrix, x, num_tokens, y, ldy);
        case kQ4_Z: return block_rows<Int8Rows<Q4_Z>, Q4_Z>(*matrix, x, num_tokens, y, ldy);
        default: return block_rows<Int8Rows<Q8_0>, Q8_0>(*matrix, x, num_tokens, y, ldy);
    }
}
