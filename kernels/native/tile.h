// The register tile: a few rows times a few panels of sixteen columns, summed over k in order.
//
// Each sum starts from what stands in `sums` and adds x[k] * w[k] for k = 0, 1, 2, ... by fused multiply-add. So its
// bits depend neither on the tile's size nor on where k is cut: what makes a row's result independent of its batch.
#pragma once
#include <type_traits>

#include "simd.h"

namespace pagestream {

// Rows of a tile at most: sums, one panel of weights and one broadcast number fit into the registers.
constexpr int kMaxRows = kVectorRegisters == 32 ? (kRegistersPerVec == 1 ? 8 : 6) : (kRegistersPerVec == 2 ? 6 : 2);

// Panels of a tile, a power of two: enough sums for two FMA units of four cycles' latency to stay busy, no more than
// fit beside as many weights and what unpacking takes, and few enough streams for memory to follow.
constexpr int panels_of(int rows) {
    constexpr int kBusy = 8, kStreams = 4, kRoom = kVectorRegisters - 2;
    int panels = kRegistersPerVec == 1 ? 2 : 1;
    while (panels < kStreams && 2 * panels * (rows + 1) * kRegistersPerVec <= kRoom &&
           panels * rows * kRegistersPerVec < kBusy)
        panels *= 2;
    return panels;
}

// sum[r][p] += x[r][k] * w[p][k] for k in [0, k_count). x: [rows][k_count] at stride ldx; w: for each panel a
// pointer to [k_count][16] at stride ldw; ahead: null or, for each panel, what lies in the same way and is wanted soon.
template <int R, int P, class T>
INLINE void multiply_add(Vec (&sum)[R][P], const float* x, long ldx, const T* const* w, long ldw, long k_count,
                         const T* const* ahead = nullptr) {
    for (long k = 0; k < k_count; ++k) {
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) {
            const Vec weight = load(w[p] + k * ldw);
            if (ahead) __builtin_prefetch(ahead[p] + k * ldw, 0, 2);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) sum[r][p] = fma(broadcast(x[r * ldx + k]), weight, sum[r][p]);
        }
    }
}

// f(row, panel) for every sum of a tile, so that they stay in registers.
template <int R, int P, class F>
INLINE void for_sums(F f) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) f(r, p);
}

// x: [rows][k_count] at stride ldx; w: for each panel a pointer to [k_count][16] at stride ldw;
// sums: [rows][panels][16] at stride ld_sums between rows.
template <int R, int P, class T>
INLINE void multiply_tile(const float* x, long ldx, const T* const* w, long ldw, long k_count, float* sums,
                          long ld_sums) {
    Vec sum[R][P];
    for_sums<R, P>([&](int r, int p) INLINED { sum[r][p] = load(sums + r * ld_sums + p * kLanes); });
    multiply_add(sum, x, ldx, w, ldw, k_count);
    for_sums<R, P>([&](int r, int p) INLINED { store(sums + r * ld_sums + p * kLanes, sum[r][p]); });
}

template <int N>
using Count = std::integral_constant<int, N>;

template <int R, class F>
INLINE void with_count(int rows, F f) {
    if constexpr (R > 1) {
        if (rows < R) return with_count<R - 1>(rows, f);
    }
    f(Count<R>());
}

// Cut rows into tiles of nearly the same height: f(Count<height>, first row).
template <int MaxRows, class F>
INLINE void for_row_tiles(long num_rows, F f) {
    long first = 0;
    for (long left = (num_rows + MaxRows - 1) / MaxRows; left; --left) {
        const int height = (int)((num_rows - first + left - 1) / left);
        with_count<MaxRows>(height, [&](auto rows) { f(rows, first); });
        first += height;
    }
}

}  // namespace pagestream
