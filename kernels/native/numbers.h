// The numbers that weights and caches are stored as, and how one of them becomes a float and back.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))
#define INLINED __attribute__((always_inline))  // after a lambda's parameters

namespace pagestream {

struct Half {
    uint16_t bits;
};
struct BFloat {
    uint16_t bits;
};

INLINE float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
INLINE uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE float widen(float x) { return x; }
INLINE float widen(int8_t x) { return x; }
INLINE float widen(int32_t x) { return (float)x; }
INLINE float widen(BFloat x) { return float_of((uint32_t)x.bits << 16); }
INLINE float widen(Half x) {
#if defined(__F16C__)
    return _cvtsh_ss(x.bits);
#else
    // 2**112 moves the exponent to its new bias and makes subnormal numbers normal; infinity and NaN stay.
    const uint32_t magnitude = (uint32_t)(x.bits & 0x7FFF) << 13, sign = (uint32_t)(x.bits & 0x8000) << 16;
    const uint32_t special = magnitude >= 0x0F800000 ? 0x7F800000 : 0;
    return float_of(bits_of(float_of(magnitude) * 0x1p112f) | special | sign);
#endif
}

// Rounds to nearest, ties to even.
INLINE void narrow(float x, float& to) { to = x; }
INLINE void narrow(float x, BFloat& to) {
    const uint32_t bits = bits_of(x);
    to.bits = x != x ? 0x7FC0 : (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
INLINE void narrow(float x, Half& to) {
#if defined(__F16C__)
    to.bits = _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#else
    const uint32_t sign = bits_of(x) >> 16 & 0x8000, magnitude = bits_of(x) & 0x7FFFFFFF;
    if (magnitude >= 0x47800000) {  // 65536 and above, NaN
        to.bits = (uint16_t)(sign | (magnitude > 0x7F800000 ? 0x7E00 : 0x7C00));
    } else if (magnitude < 0x38800000) {  // below 2**-14: the sum's last bits are the subnormal number
        to.bits = (uint16_t)(sign | (bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f)));
    } else {
        to.bits = (uint16_t)(sign | ((magnitude - 0x38000000 + 0xFFF + (magnitude >> 13 & 1)) >> 13));
    }
#endif
}

}  // namespace pagestream
