// How a token's keys or values of one head lie in the cache.
//
// A float format has the numbers alone. int8 has symmetric quants of at most 127 and, after them, the fp32 scale that
// they are multiplied with: a row is four bytes longer. Keys lie transposed, so a block's scales follow its quants.
#pragma once
#include <cmath>
#include <type_traits>

#include "numbers.h"

namespace pagestream {

template <class T>
constexpr bool kHasScales = std::is_same_v<T, int8_t>;

// Numbers of type T that a row takes.
template <class T>
constexpr int64_t row_size(int64_t head_dim) {
    return head_dim + (kHasScales<T> ? (int64_t)sizeof(float) : 0);
}

// Write one row: number i to `to[i * stride]`, the scale to `scale`, which floats do not have.
template <class T>
INLINE void write_row(const float* row, int64_t head_dim, T* to, int64_t stride, void*) {
    for (int64_t i = 0; i < head_dim; ++i) narrow(row[i], to[i * stride]);
}

// Rounds to nearest, ties to even. A row that is not finite gets a scale of NaN: it spoils what reads it, as it would
// as floats.
INLINE void write_row(const float* row, int64_t head_dim, int8_t* to, int64_t stride, void* scale_place) {
    float most = 0, poison = 0;
    for (int64_t i = 0; i < head_dim; ++i) {
        most = std::fabs(row[i]) > most ? std::fabs(row[i]) : most;
        poison += row[i] * 0.0f;
    }
    const float scale = most / 127 + poison;
    memcpy(scale_place, &scale, sizeof scale);
    for (int64_t i = 0; i < head_dim; ++i) {
        const float quant = scale > 0 ? std::nearbyint(row[i] / scale) : 0.0f;
        to[i * stride] = (int8_t)(quant > 127 ? 127 : quant < -127 ? -127 : quant);
    }
}

}  // namespace pagestream
