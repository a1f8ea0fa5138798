// Ways to sum products of int8 exactly, by the instructions they need; which of them a machine has is found out there.
//
// A way has the type its activations are stored as (`Number`), what is added to them (`kOffset`), how many rows it
// takes at most, how many panels beside so many rows, and
//
//     sums<R, P>(weights, x, stride, k_count, ahead, to)
//
// which adds the products of R rows of x and P panels to `to` [R][P][16]. weights: for each panel [k / 4][16][4]; ahead:
// how far away the weights lie that are needed next; k_count: a multiple of kInt8Block. 32 bits hold any sum of up to
// kMaxInt8Columns products, and where they overflow on the way they wrap back: the order does not matter.
#pragma once
#include "library.h"
#include "simd.h"

namespace pagestream {

constexpr long kMaxInt8Columns = 65536;  // of 255 * 127 each

struct PlainInt8 {
    using Number = int16_t;
    static constexpr int kOffset = 0, kMaxRows = 4;
    static constexpr int panels_of(int) { return 1; }

    static bool is_there() { return true; }

    template <int R, int P>
    static void sums(const int8_t* const* weights, const Number* x, long stride, long k_count, long, int32_t* to) {
        for (long k = 0; k < k_count; k += 4)
            for (int p = 0; p < P; ++p)
                for (int r = 0; r < R; ++r)
                    for (int lane = 0; lane < kLanes; ++lane) {
                        const int8_t* w = weights[p] + k * kLanes + lane * 4;
                        const Number* from = x + r * stride + k;
                        to[(r * P + p) * kLanes + lane] +=
                            from[0] * w[0] + from[1] * w[1] + from[2] * w[2] + from[3] * w[3];
                    }
    }
};

#if defined(__AVX512F__)

// Not among the instructions this file is compiled for, so only what is marked so may use them.
struct Avx512Vnni {
    using Number = uint8_t;
    static constexpr int kOffset = 128, kMaxRows = 12;
    static constexpr int panels_of(int rows) { return rows <= 6 ? 4 : 2; }

    static bool is_there() { return __builtin_cpu_supports("avx512vnni"); }

    template <int R, int P>
    __attribute__((target("avx512vnni"))) static void sums(const int8_t* const* weights, const Number* x, long stride,
                                                           long k_count, long ahead, int32_t* to) {
        __m512i sum[R][P];
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int p = 0; p < P; ++p) sum[r][p] = _mm512_loadu_si512(to + (r * P + p) * kLanes);
        for (long k = 0; k < k_count; k += 4) {
            __m512i w[P];
#pragma GCC unroll 4
            for (int p = 0; p < P; ++p) {
                w[p] = _mm512_loadu_si512(weights[p] + k * kLanes);
                __builtin_prefetch(weights[p] + k * kLanes + ahead, 0, 2);
            }
#pragma GCC unroll 12
            for (int r = 0; r < R; ++r) {
                int32_t four;
                memcpy(&four, x + r * stride + k, sizeof four);
                const __m512i quad = _mm512_set1_epi32(four);
#pragma GCC unroll 4
                for (int p = 0; p < P; ++p) sum[r][p] = _mm512_dpbusd_epi32(sum[r][p], quad, w[p]);
            }
        }
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int p = 0; p < P; ++p) _mm512_storeu_si512(to + (r * P + p) * kLanes, sum[r][p]);
    }
};

#endif

}  // namespace pagestream
