// How weights lie in memory: panels of sixteen rows of the matrix, so that a vector holds sixteen outputs' weights.
//
// Dense<T>: [k][16] numbers. Blocks of 32 k as in GGUF keep their bytes: scales of sixteen rows, then the quants.
// Each format can multiply a tile straight from its panels, or expand a piece of a panel to [k][16] floats. A weight
// is the same float either way: scale * quant is exact in 32 bits, and one addition rounds as it does in gguf's
// `dequantize`.
#pragma once
#include "tile.h"

namespace pagestream {

// Ask for memory that is needed soon, here by the next group of panels: its streams are too short for the processor to
// guess. Past the end of the matrix it asks in vain.
template <long kBytes>
INLINE void fetch(const uint8_t* from) {
    for (long byte = 0; byte < kBytes; byte += 64) __builtin_prefetch(from + byte, 0, 2);
}

template <class T>
struct Dense {
    static constexpr int kTileRows = kMaxRows;

    static constexpr long panel_bytes(long num_columns) { return num_columns * kLanes * (long)sizeof(T); }

    template <int R, int P>
    INLINE static void multiply(const uint8_t* const* panels, const float* x, long ldx, long k_count, float* sums) {
        const T* w[P];
        for (int p = 0; p < P; ++p) w[p] = (const T*)panels[p];
        multiply_tile<R, P>(x, ldx, w, kLanes, k_count, sums, P * kLanes);
    }

    INLINE static void expand(const uint8_t* panel, long k_begin, long k_count, long, float* to) {
        const T* from = (const T*)panel + k_begin * kLanes;
        for (long k = 0; k < k_count; ++k) store(to + k * kLanes, load(from + k * kLanes));
    }

    static float at(const uint8_t* panel, long k, int lane) { return widen(((const T*)panel)[k * kLanes + lane]); }

    // source: [num_rows][num_columns].
    static void pack(const uint8_t* source, long num_rows, long num_columns, long first_row, uint8_t* panel) {
        for (long k = 0; k < num_columns; ++k)
            for (int lane = 0; lane < kLanes && first_row + lane < num_rows; ++lane)
                ((T*)panel)[k * kLanes + lane] = ((const T*)source)[(first_row + lane) * num_columns + k];
    }
};

constexpr int kBlock = 32;

// The same pointer, whose numbers the compiler must load anew: it would keep all words of a block in registers that
// there are not.
template <class T>
INLINE const T* reread(const T* pointer) {
    asm("" : "+r"(pointer));
    return pointer;
}

// Nibble J of word i is quant k = 4 J + i of its row: masked in place it is 16**J times the quant, which the scale
// takes back, both exactly.
struct Nibbles {
    uint32_t words[4][kLanes];

    template <int J>
    INLINE static Vec scale(const Half* d) {
        constexpr float kPlace = J == 7 ? 1.0f : 1.0f / (float)(1ull << (4 * J));
        return mul(load(d), broadcast(kPlace));
    }
    void put(int k, int lane, uint32_t quant) { words[k % 4][lane] |= quant << (4 * (k / 4)); }
    float get(int k, int lane) const { return (float)(words[k % 4][lane] >> (4 * (k / 4)) & 0xF); }
};

// d * quant + m
struct Q4_1 {
    Half d[kLanes], m[kLanes];
    Nibbles quants;

    struct Scales {
        Vec d, m;
    };
    template <int J>
    INLINE Scales scales() const { return {Nibbles::scale<J>(d), load(m)}; }
    template <int J>
    INLINE static Vec weight(const Nibbles& quants, int i, Scales s) {
        return fma(nibble<J>(quants.words[i]), s.d, s.m);
    }
    float at(int k, int lane) const { return widen(d[lane]) * quants.get(k, lane) + widen(m[lane]); }

    static constexpr int kSourceBytes = 20;
    void put(const uint8_t* source, int lane) {
        memcpy(&d[lane], source, 2);
        memcpy(&m[lane], source + 2, 2);
        for (int k = 0; k < kBlock; ++k) quants.put(k, lane, source[4 + k % 16] >> (k < 16 ? 0 : 4) & 0xF);
    }
};

// d * (quant - 8) = d * quant - 8 d, whose terms and result are exact.
struct Q4_0 {
    Half d[kLanes];
    Nibbles quants;

    using Scales = Q4_1::Scales;
    template <int J>
    INLINE Scales scales() const { return {Nibbles::scale<J>(d), mul(load(d), broadcast(-8.0f))}; }
    template <int J>
    INLINE static Vec weight(const Nibbles& quants, int i, Scales s) {
        return fma(nibble<J>(quants.words[i]), s.d, s.m);
    }
    float at(int k, int lane) const { return widen(d[lane]) * (quants.get(k, lane) - 8.0f); }

    static constexpr int kSourceBytes = 18;
    void put(const uint8_t* source, int lane) {
        memcpy(&d[lane], source, 2);
        for (int k = 0; k < kBlock; ++k) quants.put(k, lane, source[2 + k % 16] >> (k < 16 ? 0 : 4) & 0xF);
    }
};

// d * quant
struct Q8_0 {
    Half d[kLanes];
    struct Bytes {
        int8_t rows[kBlock][kLanes];
    } quants;

    template <int J>
    INLINE Vec scales() const { return load(d); }
    template <int J>
    INLINE static Vec weight(const Bytes& quants, int i, Vec d) { return mul(load(quants.rows[4 * J + i]), d); }
    float at(int k, int lane) const { return widen(d[lane]) * quants.rows[k][lane]; }

    static constexpr int kSourceBytes = 34;
    void put(const uint8_t* source, int lane) {
        memcpy(&d[lane], source, 2);
        for (int k = 0; k < kBlock; ++k) quants.rows[k][lane] = (int8_t)source[2 + k];
    }
};

template <class Block>
struct Blocks {
    // The sums leave few registers for unpacking.
    static constexpr int kTileRows = kVectorRegisters == 32 ? kMaxRows / 2 : (kMaxRows < 4 ? kMaxRows : 4);

    static constexpr long panel_bytes(long num_columns) { return num_columns / kBlock * (long)sizeof(Block); }

    template <int R, int P>
    INLINE static void multiply(const uint8_t* const* panels, const float* x, long ldx, long k_count, float* sums) {
        Vec sum[R][P];
        each<R, P>(sum, [&](Vec& s, int r, int p) { s = load(sums + (r * P + p) * kLanes); });
        const long ahead = P * (k_count / kBlock) * (long)sizeof(Block);
        for (long block = 0; block < k_count / kBlock; ++block) {
            const Block* from[P];
            for (int p = 0; p < P; ++p) {
                from[p] = (const Block*)panels[p] + block;
                fetch<sizeof(Block)>((const uint8_t*)from[p] + ahead);
            }
            multiply_block<0>(from, x + block * kBlock, ldx, sum);
        }
        each<R, P>(sum, [&](Vec s, int r, int p) { store(sums + (r * P + p) * kLanes, s); });
    }

    INLINE static void expand(const uint8_t* panel, long k_begin, long k_count, long ahead, float* to) {
        const Block* block = (const Block*)panel + k_begin / kBlock;
        for (long k = 0; k < k_count; k += kBlock, ++block) {
            fetch<sizeof(Block)>((const uint8_t*)block + ahead);
            expand_block<0>(*block, to + k * kLanes);
        }
    }

    static float at(const uint8_t* panel, long k, int lane) {
        return ((const Block*)panel)[k / kBlock].at((int)(k % kBlock), lane);
    }

    // source: [num_rows][num_columns / 32] blocks as GGUF has them.
    static void pack(const uint8_t* source, long num_rows, long num_columns, long first_row, uint8_t* panel) {
        const long num_blocks = num_columns / kBlock;
        for (int lane = 0; lane < kLanes && first_row + lane < num_rows; ++lane)
            for (long block = 0; block < num_blocks; ++block)
                ((Block*)panel)[block].put(
                    source + ((first_row + lane) * num_blocks + block) * Block::kSourceBytes, lane);
    }

  private:
    template <int R, int P, class F>
    INLINE static void each(Vec (&sum)[R][P], F f) {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int p = 0; p < P; ++p) f(sum[r][p], r, p);
    }

    template <int J, int R, int P>
    INLINE static void multiply_block(const Block* const (&from)[P], const float* x, long ldx, Vec (&sum)[R][P]) {
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) {
            const auto scales = from[p]->template scales<J>();
            const auto* quants = reread(&from[p]->quants);
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                const Vec weight = Block::template weight<J>(*quants, i, scales);
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r)
                    sum[r][p] = fma(broadcast(x[r * ldx + 4 * J + i]), weight, sum[r][p]);
            }
        }
        if constexpr (J < 7) multiply_block<J + 1>(from, x, ldx, sum);
    }

    template <int J>
    INLINE static void expand_block(const Block& block, float* to) {
        const auto scales = block.template scales<J>();
        const auto* quants = reread(&block.quants);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) store(to + (4 * J + i) * kLanes, Block::template weight<J>(*quants, i, scales));
        if constexpr (J < 7) expand_block<J + 1>(block, to);
    }
};

}  // namespace pagestream
