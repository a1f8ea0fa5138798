// Linear layers on the processor's matrix unit (AMX), which multiplies bfloat16 and sums in fp32, as exact as fp32.
//
// A float is the sum of three bfloat16 numbers without a rest: its 24 bits are cut into 8, 8 and 8. Weights that are
// bfloat16, and the quants of blocks, go in as they are. So each product is exact, and only the sums round, as in fp32.
//
// This file: the unit's registers and instructions, and what is fed to them. linear_unit.h multiplies with it.
#pragma once
#include <immintrin.h>

#include <algorithm>

#include "formats.h"

namespace pagestream {

constexpr int kUnitRows = 16;  // of a tile of the unit, and of weights' columns
constexpr int kPieces = 3;

// One tile of the unit: sixteen rows of 64 bytes.
template <class T>
struct alignas(64) UnitTile {
    T rows[kUnitRows][64 / sizeof(T)];
};

// Sixteen tokens' activations in one block of k, each in three pieces, the smallest first, and their totals.
struct alignas(64) SplitBlock {
    uint16_t pieces[kUnitRows][kPieces][kBlock];
    float totals[kUnitRows];
};
constexpr long kPieceStride = sizeof SplitBlock::pieces[0];

// The unit's registers: sums of two tiles of rows times two panels, two tiles of activations, two panels' weights.
constexpr int sums_register(int tile, int panel) { return 2 * tile + panel; }
constexpr int activations_register(int tile) { return 4 + tile; }
constexpr int weights_register(int panel) { return 6 + panel; }

template <int kRegister>
INLINE void load_tile(const void* from, long stride = 64) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kRegister) : "memory");
}
template <int kRegister>
INLINE void store_tile(void* to, long stride = 64) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kRegister) : "memory");
}
template <int kRegister>
INLINE void clear_tile() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kRegister));
}
template <int kSums, int kActivations, int kWeights>
INLINE void multiply_tiles() {
    asm volatile("tdpbf16ps %%tmm%c0, %%tmm%c1, %%tmm%c2" : : "i"(kWeights), "i"(kActivations), "i"(kSums));
}

// The same for unsigned bytes of activations, signed ones of weights and sums of 32 bits.
template <int kSums, int kActivations, int kWeights>
INLINE void multiply_byte_tiles() {
    asm volatile("tdpbusd %%tmm%c0, %%tmm%c1, %%tmm%c2" : : "i"(kWeights), "i"(kActivations), "i"(kSums));
}

// The unit of the calling thread, set up for tiles with some rows of activations while this lives. Subnormal numbers are
// zeros meanwhile, as the unit has it, so that a sum has the same bits wherever it is made.
class Unit {
  public:
    Unit() : control_(_mm_getcsr()) { _mm_setcsr(control_ | kSubnormalsAreZero); }
    Unit(const Unit&) = delete;
    ~Unit() {
        _mm_setcsr(control_);
        if (height_) asm volatile("tilerelease");
    }

    void set_height(int height) {
        if (height_ == height) return;
        height_ = height;
        struct {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t bytes_of_row[16] = {};
            uint8_t rows[16] = {};
        } shape;
        for (int tile = 0; tile < 8; ++tile) {
            shape.bytes_of_row[tile] = 64;
            shape.rows[tile] = (uint8_t)(tile < weights_register(0) ? height : kUnitRows);
        }
        asm volatile("ldtilecfg %0" : : "m"(shape));
    }

  private:
    static constexpr unsigned kSubnormalsAreZero = _MM_FLUSH_ZERO_ON | 0x0040;

    unsigned control_;
    int height_ = 0;
};

// The unit multiplies pairs of k. Pair 4 i + s is k = 4 s + i and k + 16, as the nibbles of a word lie.
INLINE __m512 in_pair_order(__m512 x) {
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), x);
}

constexpr int kUpperHalves = 0xAAAAAAAA;

// The upper halves of two vectors of floats, side by side.
INLINE __m512i upper_halves(__m512 first, __m512 second) {
    return _mm512_mask_blend_epi16(kUpperHalves, _mm512_srli_epi32(_mm512_castps_si512(first), 16),
                                   _mm512_castps_si512(second));
}
INLINE __m512 without_upper_half(__m512 x) {
    return _mm512_sub_ps(x, _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(~0xFFFF))));
}

// x: one token's block of k, of which there are `count`.
INLINE void split(const float* x, int count, int row, SplitBlock& to) {
    __m512 first, second;
    if (count == kBlock) {
        first = _mm512_loadu_ps(x);
        second = _mm512_loadu_ps(x + 16);
    } else {
        first = load_first(std::min(count, 16), x).v;
        second = load_first(std::max(count - 16, 0), x + 16).v;
    }
    to.totals[row] = _mm512_reduce_add_ps(_mm512_add_ps(first, second));
    first = in_pair_order(first);
    second = in_pair_order(second);
    for (int piece = kPieces - 1; piece >= 0; --piece) {
        _mm512_store_si512(to.pieces[row][piece], upper_halves(first, second));
        first = without_upper_half(first);
        second = without_upper_half(second);
    }
}

// Weights of sixteen outputs in one block of k, as a tile. What the unit sums over the block is multiplied by `scale`;
// `offset` is multiplied by the total of the block's activations.
struct UnitBlock {
    UnitTile<uint16_t> weights;
    alignas(64) float scale[kLanes], offset[kLanes];
};

// A format that the unit can multiply: how a block of it is expanded, and which of its numbers above have a meaning.
template <class Format>
struct UnitFormat {
    static constexpr bool kExists = false;
};

template <>
struct UnitFormat<Dense<BFloat>> {
    static constexpr bool kExists = true, kIsScaled = false, kHasOffset = false;

    INLINE static void expand(const uint8_t* panel, long block, long num_columns, UnitBlock& to) {
        const uint16_t* from = (const uint16_t*)panel + block * kBlock * kLanes;
        const long count = std::min<long>(kBlock, num_columns - block * kBlock);
        for (int pair = 0; pair < kUnitRows; ++pair) {
            const int k = pair % 4 * 4 + pair / 4;
            const __m512i first = row(from, k, count), second = row(from, k + 16, count);
            _mm512_store_si512(to.weights.rows[pair], _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
        }
    }

  private:
    INLINE static __m512i row(const uint16_t* from, int k, long count) {
        return k < count ? _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(from + k * kLanes)))
                         : _mm512_setzero_si512();
    }
};

// Nibbles as bfloat16 numbers less 8, which halves what large and small terms of a sum cancel.
INLINE void expand_quants(const Nibbles& quants, UnitTile<uint16_t>& to) {
    alignas(64) static constexpr uint16_t kNumbers[32] = {
        0xC100, 0xC0E0, 0xC0C0, 0xC0A0, 0xC080, 0xC040, 0xC000, 0xBF80, 0x0000, 0x3F80, 0x4000,
        0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0, 0xC100, 0xC0E0, 0xC0C0, 0xC0A0, 0xC080, 0xC040,
        0xC000, 0xBF80, 0x0000, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0};
    const __m512i numbers = _mm512_load_si512(kNumbers);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const __m512i words = _mm512_loadu_si512(quants.words[i]);
        _mm512_store_si512(to.rows[4 * i], _mm512_permutexvar_epi16(words, numbers));
        _mm512_store_si512(to.rows[4 * i + 1], _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), numbers));
        _mm512_store_si512(to.rows[4 * i + 2], _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 8), numbers));
        _mm512_store_si512(to.rows[4 * i + 3], _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 12), numbers));
    }
}

// Bytes as bfloat16 numbers, 2**24 times as large.
INLINE void expand_quants(const Bytes& quants, UnitTile<uint16_t>& to) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const uint32_t *words = quants.words[i], *others = quants.words[4 + i];
        _mm512_store_si512(to.rows[4 * i], upper_halves(byte<0>(words).v, byte<0>(others).v));
        _mm512_store_si512(to.rows[4 * i + 1], upper_halves(byte<1>(words).v, byte<1>(others).v));
        _mm512_store_si512(to.rows[4 * i + 2], upper_halves(byte<2>(words).v, byte<2>(others).v));
        _mm512_store_si512(to.rows[4 * i + 3], upper_halves(byte<3>(words).v, byte<3>(others).v));
    }
}

template <class Quants>
struct UnitFormat<Blocks<Quants>> {
    static constexpr bool kExists = true, kIsScaled = true, kHasZero = std::is_same_v<Quants, Q4_Z>;
    static constexpr bool kHasOffset = std::is_same_v<Quants, Q4_1> || kHasZero;

    INLINE static void expand(const uint8_t* panel, long block, long, UnitBlock& to) {
        const Quants& from = ((const Quants*)panel)[block];
        const Vec scale = load(from.d);
        store(to.scale, std::is_same_v<Quants, Q8_0> ? mul(scale, broadcast(Q8_0::kPlaces[0])) : scale);
        if constexpr (kHasZero)
            store(to.offset, mul(scale, sub(broadcast(8.0f), load(from.z))));
        else if constexpr (kHasOffset)
            store(to.offset, fma(scale, broadcast(8.0f), load(from.m)));
        expand_quants(from.quants, to.weights);
    }
};

}  // namespace pagestream
