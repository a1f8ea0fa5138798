// Sixteen floats in one AVX-512 register.
#pragma once
#include <immintrin.h>

#include "numbers.h"

namespace pagestream {

constexpr int kVectorRegisters = 32;
constexpr int kRegistersPerVec = 1;

struct Vec {
    __m512 v;
};

INLINE Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }
INLINE Vec load(const float* from) { return {_mm512_loadu_ps(from)}; }
INLINE Vec load(const Half* from) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from))}; }
INLINE Vec load(const BFloat* from) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
INLINE Vec load(const int8_t* from) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)from)))};
}
INLINE Vec load(const int32_t* from) { return {_mm512_cvtepi32_ps(_mm512_loadu_si512(from))}; }
INLINE void store(float* to, Vec x) { _mm512_storeu_ps(to, x.v); }
INLINE float first(Vec x) { return _mm512_cvtss_f32(x.v); }

INLINE Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
INLINE Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
INLINE Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
INLINE Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
INLINE Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
INLINE Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

INLINE Vec keep_first(int count, Vec x, Vec other) {
    return {_mm512_mask_blend_ps((__mmask16)((1u << count) - 1), other.v, x.v)};
}

INLINE Vec keep_at_least(Vec x, Vec least) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, least.v, _CMP_GE_OQ), x.v)};
}

INLINE Vec add_to_exponent(Vec x, Vec n) {
    return {_mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(x.v), _mm512_slli_epi32(_mm512_castps_si512(n.v), 23)))};
}

template <int Stride>
INLINE Vec flip(Vec x) {
    if constexpr (Stride == 8) return {_mm512_shuffle_f32x4(x.v, x.v, 0x4E)};
    if constexpr (Stride == 4) return {_mm512_shuffle_f32x4(x.v, x.v, 0xB1)};
    return {_mm512_permute_ps(x.v, Stride == 2 ? 0x4E : 0xB1)};
}

template <int B>
INLINE Vec byte(const uint32_t* words) {
    const __m128i top = _mm_setr_epi8(-1, -1, -1, B, -1, -1, -1, 4 + B, -1, -1, -1, 8 + B, -1, -1, -1, 12 + B);
    return {_mm512_cvtepi32_ps(_mm512_shuffle_epi8(_mm512_loadu_si512(words), _mm512_broadcast_i32x4(top)))};
}

template <int J>
INLINE Vec nibble(const uint32_t* words) {
    const __m512i word = _mm512_loadu_si512(words);
    return {_mm512_cvtepi32_ps(J == 7 ? _mm512_srli_epi32(word, 28)
                                      : _mm512_and_si512(word, _mm512_set1_epi32(0xF << (4 * (J % 7)))))};
}

}  // namespace pagestream
