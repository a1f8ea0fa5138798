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

// Panels of a tile: enough sums for two FMA units of four cycles' latency to stay busy, and no more than fit.
constexpr int panels_of(int rows) {
    constexpr int kBusy = 8, kRoom = kVectorRegisters - 4;
    const int wanted = (kBusy + rows * kRegistersPerVec - 1) / (rows * kRegistersPerVec);
    const int possible = kRoom / ((rows + 1) * kRegistersPerVec);
    const int best = kRegistersPerVec == 1 && wanted < 2 ? 2 : wanted;
    return possible < 1 ? 1 : (best < possible ? best : possible);
}

// x: [rows][k_count] at stride ldx; w: for each panel a pointer to [k_count][16] at stride ldw;
// sums: [rows][panels][16] at stride ld_sums between rows.
template <int R, int P, class T>
INLINE void multiply_tile(const float* x, long ldx, const T* const* w, long ldw, long k_count, float* sums,
                          long ld_sums) {
    Vec sum[R][P];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) sum[r][p] = load(sums + r * ld_sums + p * kLanes);
    for (long k = 0; k < k_count; ++k) {
        Vec weight[P];
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) weight[p] = load(w[p] + k * ldw);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const Vec factor = broadcast(x[r * ldx + k]);
#pragma GCC unroll 8
            for (int p = 0; p < P; ++p) sum[r][p] = fma(factor, weight[p], sum[r][p]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) store(sums + r * ld_sums + p * kLanes, sum[r][p]);
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
