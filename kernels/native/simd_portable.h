// Sixteen floats in four vectors of the compiler's own kind: SSE2, NEON, or whatever the machine has.
#pragma once
#include <cstring>

#include "numbers.h"

namespace pagestream {

#if defined(__aarch64__)
constexpr int kVectorRegisters = 32;
#else
constexpr int kVectorRegisters = 16;
#endif
constexpr int kRegistersPerVec = 4;

typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));

struct Vec {
    Floats part[4];
};

#define EACH_PART(expression)           \
    Vec result;                         \
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; ++i) result.part[i] = (expression); \
    return result

INLINE Vec broadcast(float x) { EACH_PART((Floats{x, x, x, x})); }
INLINE Vec load(const float* from) {
    Vec result;
    memcpy(&result, from, sizeof result);
    return result;
}
template <class Narrow>
INLINE Vec load(const Narrow* from) {
    float wide[16];
    for (int i = 0; i < 16; ++i) wide[i] = widen(from[i]);
    return load(wide);
}
INLINE void store(float* to, Vec x) { memcpy(to, &x, sizeof x); }
INLINE float first(Vec x) { return x.part[0][0]; }

INLINE Vec add(Vec a, Vec b) { EACH_PART(a.part[i] + b.part[i]); }
INLINE Vec sub(Vec a, Vec b) { EACH_PART(a.part[i] - b.part[i]); }
INLINE Vec mul(Vec a, Vec b) { EACH_PART(a.part[i] * b.part[i]); }
INLINE Vec div(Vec a, Vec b) { EACH_PART(a.part[i] / b.part[i]); }
INLINE Vec max(Vec a, Vec b) { EACH_PART(a.part[i] > b.part[i] ? a.part[i] : b.part[i]); }
INLINE Vec min(Vec a, Vec b) { EACH_PART(a.part[i] < b.part[i] ? a.part[i] : b.part[i]); }

INLINE Floats fma(Floats a, Floats b, Floats c) {
#ifdef __FP_FAST_FMAF
    Floats result;
    for (int i = 0; i < 4; ++i) result[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return result;
#else
    return a * b + c;
#endif
}
INLINE Vec fma(Vec a, Vec b, Vec c) { EACH_PART(fma(a.part[i], b.part[i], c.part[i])); }

INLINE Vec keep_first(int count, Vec x, Vec other) {
    EACH_PART((Ints{4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3} < count) ? x.part[i] : other.part[i]);
}

INLINE Vec keep_at_least(Vec x, Vec least) { EACH_PART((Floats)((Ints)x.part[i] & (x.part[i] >= least.part[i]))); }

INLINE Vec add_to_exponent(Vec x, Vec n) { EACH_PART((Floats)((Ints)x.part[i] + ((Ints)n.part[i] << 23))); }

template <int Stride>
INLINE Vec flip(Vec x) {
    if constexpr (Stride >= 4) {
        EACH_PART(x.part[i ^ (Stride / 4)]);
    } else {
        EACH_PART((Floats{x.part[i][Stride], x.part[i][1 ^ Stride], x.part[i][2 ^ Stride], x.part[i][3 ^ Stride]}));
    }
}

template <int B>
INLINE Vec byte(const uint32_t* words) {
    Ints word[4];
    memcpy(word, words, sizeof word);
    EACH_PART(__builtin_convertvector((word[i] << (24 - 8 * B)) & (int32_t)0xFF000000, Floats));
}

template <int J>
INLINE Vec nibble(const uint32_t* words) {
    Ints word[4];
    memcpy(word, words, sizeof word);
    EACH_PART(__builtin_convertvector(J == 7 ? (word[i] >> 28) & 0xF : word[i] & (0xF << (4 * (J % 7))), Floats));
}

#undef EACH_PART

}  // namespace pagestream
