// Sixteen floats at a time, the same bits on every machine that has a fused multiply-add.
//
// Each simd_*.h defines `Vec` and the same functions on it. max and min return their second argument where one is NaN.
// keep_first(n, x, other): the first n lanes of x, the rest of other.
// keep_at_least(x, least): the lanes of x that are at least `least`, 0 in place of the rest and of NaN.
// add_to_exponent(x, n): x * 2**m, where n is m + 1.5 * 2**23 and so has m in its low bits.
// first(x): lane 0.
// flip<S>(x): lane i is lane i xor S of x, for S = 1, 2, 4, 8.
// byte<B>(words): bytes B of sixteen words as signed numbers times 2**24.
// nibble<J>(words): bits 4 J to 4 J + 3 of sixteen words as 16**J times their value, the value itself for J = 7.
#pragma once
#if defined(__AVX512F__)
#include "simd_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "simd_avx2.h"
#else
#include "simd_portable.h"
#endif

namespace pagestream {

constexpr int kLanes = 16;

INLINE Vec zero() { return broadcast(0.0f); }

INLINE Vec load_first(int count, const float* from) {
    float lane[kLanes] = {};
    memcpy(lane, from, count * sizeof(float));
    return load(lane);
}
INLINE void store_first(int count, float* to, Vec x) {
    float lane[kLanes];
    store(lane, x);
    memcpy(to, lane, count * sizeof(float));
}

INLINE float largest(Vec x) {
    x = max(x, flip<8>(x));
    x = max(x, flip<4>(x));
    x = max(x, flip<2>(x));
    return first(max(x, flip<1>(x)));
}

// Every sum of sixteen lanes in the library has this order, whatever the machine.
INLINE float sum(Vec x) {
    x = add(x, flip<8>(x));
    x = add(x, flip<4>(x));
    x = add(x, flip<2>(x));
    return first(add(x, flip<1>(x)));
}

// 2**x within 2 units of the last place; NaN stays NaN, below -126 it is 2**-126, above 127 it is 2**127.
INLINE Vec exp2(Vec x) {
    const Vec magic = broadcast(0x1.8p23f);
    x = min(broadcast(127.0f), max(broadcast(-126.0f), x));
    const Vec shifted = add(x, magic);
    const Vec f = sub(x, sub(shifted, magic));
    Vec p = broadcast(1.5403530e-4f);
    p = fma(p, f, broadcast(1.3333558e-3f));
    p = fma(p, f, broadcast(9.6181291e-3f));
    p = fma(p, f, broadcast(5.5504109e-2f));
    p = fma(p, f, broadcast(2.4022651e-1f));
    p = fma(p, f, broadcast(6.9314718e-1f));
    p = fma(p, f, broadcast(1.0f));
    return add_to_exponent(p, shifted);
}

}  // namespace pagestream
