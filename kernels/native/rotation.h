// Sixty-four columns times the Hadamard matrix of that size, in place.
//
// A few columns of activations are many times larger than the rest, and one scale for a whole row would leave little
// of the others. The rotation spreads each of them over its block. Weights are rotated alike, so that products stay
// what they are: (x H)(w H) = 64 x w. It is additions and subtractions in one order: the same bits on every machine.
//
// Source: Ashkboos et al. 2024 (QuaRot) rotate by such matrices; here by blocks, and without a change to the model.
#pragma once
#include "library.h"
#include "simd.h"

namespace pagestream {

constexpr int kBlockVectors = kInt8Block / kLanes;

template <int Stride>
INLINE Vec butterfly(Vec x) {
    alignas(64) float signs[kLanes];
    for (int i = 0; i < kLanes; ++i) signs[i] = i & Stride ? -1.0f : 1.0f;
    return fma(x, load(signs), flip<Stride>(x));
}

INLINE void rotate(Vec (&x)[kBlockVectors]) {
    for (int i = 0; i < kBlockVectors; ++i) x[i] = butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(x[i]))));
    for (int stride = 1; stride < kBlockVectors; stride *= 2)
        for (int i = 0; i < kBlockVectors; ++i)
            if (!(i & stride)) {
                const Vec a = x[i], b = x[i + stride];
                x[i] = add(a, b);
                x[i + stride] = sub(a, b);
            }
}

}  // namespace pagestream
