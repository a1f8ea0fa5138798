// How weights lie in memory: panels of sixteen rows of the matrix, so that a vector holds sixteen outputs' weights.
//
// Dense<T>: [k][16] numbers. Blocks of 32 k as in GGUF keep their bytes: scales of sixteen rows, then the quants.
// A tile is multiplied straight from its panels (blocks: linear_blocks.h); numbers may also be expanded to floats, with
// the same bits.
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

// Nibble J of word i is quant k = 4 J + i of its row: masked in place it is 16**J times the quant, 1 for J = 7, which the
// activations take back.
struct Nibbles {
    uint32_t words[4][kLanes];

    void put(int k, int lane, uint32_t quant) { words[k % 4][lane] |= quant << (4 * (k / 4)); }
    float get(int k, int lane) const { return (float)(words[k % 4][lane] >> (4 * (k / 4)) & 0xF); }
};

struct NibbleBlock {
    static constexpr bool kHasOffset = true;
    static constexpr float kPlaces[kBlock] = {
        0x1p0f,   0x1p0f,   0x1p0f,   0x1p0f,   0x1p-4f,  0x1p-4f,  0x1p-4f,  0x1p-4f,  0x1p-8f,  0x1p-8f,  0x1p-8f,
        0x1p-8f,  0x1p-12f, 0x1p-12f, 0x1p-12f, 0x1p-12f, 0x1p-16f, 0x1p-16f, 0x1p-16f, 0x1p-16f, 0x1p-20f, 0x1p-20f,
        0x1p-20f, 0x1p-20f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p0f,   0x1p0f,   0x1p0f,   0x1p0f};

    template <int J>
    INLINE static Vec quant(const Nibbles& quants, int i) { return nibble<J>(quants.words[i]); }
};

// d * quant + m
struct Q4_1 : NibbleBlock {
    Half d[kLanes], m[kLanes];
    Nibbles quants;

    INLINE Vec scale() const { return load(d); }
    INLINE Vec offset() const { return load(m); }
    float at(int k, int lane) const { return widen(d[lane]) * quants.get(k, lane) + widen(m[lane]); }

    static constexpr int kSourceBytes = 20;
    void put(const uint8_t* source, int lane) {
        memcpy(&d[lane], source, 2);
        memcpy(&m[lane], source + 2, 2);
        for (int k = 0; k < kBlock; ++k) quants.put(k, lane, source[4 + k % 16] >> (k < 16 ? 0 : 4) & 0xF);
    }
};

// d * (quant - 8)
struct Q4_0 : NibbleBlock {
    Half d[kLanes];
    Nibbles quants;

    INLINE Vec scale() const { return load(d); }
    INLINE Vec offset() const { return mul(load(d), broadcast(-8.0f)); }
    float at(int k, int lane) const { return widen(d[lane]) * (quants.get(k, lane) - 8.0f); }

    static constexpr int kSourceBytes = 18;
    void put(const uint8_t* source, int lane) {
        memcpy(&d[lane], source, 2);
        for (int k = 0; k < kBlock; ++k) quants.put(k, lane, source[2 + k % 16] >> (k < 16 ? 0 : 4) & 0xF);
    }
};

// d * (quant - z), as AWQ's and GPTQ's groups are: no format of GGUF.
struct Q4_Z : NibbleBlock {
    Half d[kLanes], z[kLanes];
    Nibbles quants;

    INLINE Vec scale() const { return load(d); }
    INLINE Vec offset() const { return mul(load(d), sub(zero(), load(z))); }
    float at(int k, int lane) const { return widen(d[lane]) * (quants.get(k, lane) - widen(z[lane])); }

    static constexpr int kSourceBytes = 20;
    void put(const uint8_t* source, int lane) {
        memcpy(&d[lane], source, 2);
        memcpy(&z[lane], source + 2, 2);
        for (int k = 0; k < kBlock; ++k) quants.put(k, lane, source[4 + k % 16] >> (k < 16 ? 0 : 4) & 0xF);
    }
};

// Byte J % 4 of word 4 * (J / 4) + i is quant k = 4 J + i of its row: taken out it is 2**24 times the quant, which the
// activations take back.
struct Bytes {
    uint32_t words[8][kLanes];

    void put(int k, int lane, int8_t quant) { at(k, lane) = (uint8_t)quant; }
    float get(int k, int lane) const { return (int8_t)const_cast<Bytes*>(this)->at(k, lane); }

  private:
    uint8_t& at(int k, int lane) { return ((uint8_t*)&words[k / 16 * 4 + k % 4][lane])[k / 4 % 4]; }
};

// d * quant
struct Q8_0 {
    static constexpr bool kHasOffset = false;
    static constexpr float kPlaces[kBlock] = {
        0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f,
        0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f,
        0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f, 0x1p-24f};

    Half d[kLanes];
    Bytes quants;

    template <int J>
    INLINE static Vec quant(const Bytes& quants, int i) { return byte<J % 4>(quants.words[J / 4 * 4 + i]); }
    INLINE Vec scale() const { return load(d); }
    float at(int k, int lane) const { return widen(d[lane]) * quants.get(k, lane); }

    static constexpr int kSourceBytes = 34;
    void put(const uint8_t* source, int lane) {
        memcpy(&d[lane], source, 2);
        for (int k = 0; k < kBlock; ++k) quants.put(k, lane, (int8_t)source[2 + k]);
    }
};

template <class Block>
struct Blocks {
    static constexpr long panel_bytes(long num_columns) { return num_columns / kBlock * (long)sizeof(Block); }

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
};

}  // namespace pagestream
