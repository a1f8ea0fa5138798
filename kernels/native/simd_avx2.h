// Sixteen floats in two AVX registers; needs AVX2, FMA and F16C (x86-64-v3).
#pragma once
#include <immintrin.h>

#include "numbers.h"

namespace pagestream {

constexpr int kVectorRegisters = 16;
constexpr int kRegistersPerVec = 2;

struct Vec {
    __m256 low, high;
};

INLINE Vec broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
INLINE Vec load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
INLINE Vec load(const Half* from) {
    const __m128i* halves = (const __m128i*)from;
    return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
INLINE Vec load(const BFloat* from) {
    const __m128i* halves = (const __m128i*)from;
    const __m256i low = _mm256_cvtepu16_epi32(_mm_loadu_si128(halves));
    const __m256i high = _mm256_cvtepu16_epi32(_mm_loadu_si128(halves + 1));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))};
}
INLINE Vec load(const int8_t* from) {
    const __m256i low = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from));
    const __m256i high = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(from + 8)));
    return {_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)};
}
INLINE Vec load(const int32_t* from) {
    const __m256i* halves = (const __m256i*)from;
    return {_mm256_cvtepi32_ps(_mm256_loadu_si256(halves)), _mm256_cvtepi32_ps(_mm256_loadu_si256(halves + 1))};
}
INLINE void store(float* to, Vec x) {
    _mm256_storeu_ps(to, x.low);
    _mm256_storeu_ps(to + 8, x.high);
}
INLINE float first(Vec x) { return _mm256_cvtss_f32(x.low); }

INLINE Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
INLINE Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
INLINE Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
INLINE Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
INLINE Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
INLINE Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
INLINE Vec fma(Vec a, Vec b, Vec c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

INLINE Vec keep_first(int count, Vec x, Vec other) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256 low = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane));
    const __m256 high = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count - 8), lane));
    return {_mm256_blendv_ps(other.low, x.low, low), _mm256_blendv_ps(other.high, x.high, high)};
}

INLINE Vec keep_at_least(Vec x, Vec least) {
    return {_mm256_and_ps(x.low, _mm256_cmp_ps(x.low, least.low, _CMP_GE_OQ)),
            _mm256_and_ps(x.high, _mm256_cmp_ps(x.high, least.high, _CMP_GE_OQ))};
}

INLINE __m256 add_to_exponent(__m256 x, __m256 n) {
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(_mm256_castps_si256(n), 23)));
}
INLINE Vec add_to_exponent(Vec x, Vec n) { return {add_to_exponent(x.low, n.low), add_to_exponent(x.high, n.high)}; }

template <int Stride>
INLINE __m256 flip(__m256 x) {
    return Stride == 4 ? _mm256_permute2f128_ps(x, x, 1) : _mm256_permute_ps(x, Stride == 2 ? 0x4E : 0xB1);
}
template <int Stride>
INLINE Vec flip(Vec x) {
    if constexpr (Stride == 8) return {x.high, x.low};
    return {flip<Stride>(x.low), flip<Stride>(x.high)};
}

template <int B>
INLINE __m256 byte(__m256i word) {
    const __m128i top = _mm_setr_epi8(-1, -1, -1, B, -1, -1, -1, 4 + B, -1, -1, -1, 8 + B, -1, -1, -1, 12 + B);
    return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(word, _mm256_broadcastsi128_si256(top)));
}
template <int B>
INLINE Vec byte(const uint32_t* words) {
    const __m256i* halves = (const __m256i*)words;
    return {byte<B>(_mm256_loadu_si256(halves)), byte<B>(_mm256_loadu_si256(halves + 1))};
}

template <int J>
INLINE __m256 nibble(__m256i word) {
    return _mm256_cvtepi32_ps(J == 7 ? _mm256_srli_epi32(word, 28)
                                     : _mm256_and_si256(word, _mm256_set1_epi32(0xF << (4 * (J % 7)))));
}
template <int J>
INLINE Vec nibble(const uint32_t* words) {
    const __m256i* halves = (const __m256i*)words;
    return {nibble<J>(_mm256_loadu_si256(halves)), nibble<J>(_mm256_loadu_si256(halves + 1))};
}

}  // namespace pagestream
