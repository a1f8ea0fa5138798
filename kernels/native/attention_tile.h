// One tile of a context, for a strip of rows: scores, weights under the running maximum, and the sum of the values.
//
// Within a tile every sum has one order. Apart from the class that finds tiles, so that what does not depend on windows,
// or not on the cache's format, is compiled once.
#pragma once
#include <algorithm>
#include <cmath>

#include "cache.h"
#include "library.h"
#include "tile.h"

namespace pagestream {

constexpr int kTile = 64;
constexpr int kPanels = kTile / kLanes;
constexpr float kLog2E = 1.44269504f;
constexpr float kLowest = -1e30f;  // below every score: where a window ends, a row of a strip may see none of a tile

// Rows of a strip: six times four panels fill the registers of AVX-512, and need fewer loads than eight times two.
constexpr int kStripRows = std::min(kMaxRows, 6);

// Panels that a strip's sums take at once: as many as the registers hold beside one panel's weights and one broadcast
// number.
constexpr int width_of(int rows) {
    int panels = 1;
    while (panels < kPanels && (2 * panels * rows + 1) * kRegistersPerVec + 1 <= kVectorRegisters) panels *= 2;
    return panels;
}

// Some rows of an item and what is kept of them from tile to tile. The queries lie in chunks, so that the distance of
// two rows is a constant: [head_dim / 64][rows][64]; the sums in panels: [head_dim / 16][rows][16].
// Weights are those of one tile, scores before: [rows][64].
struct Strip {
    float *query, *sums, *weights;
    long context[kStripRows];  // tokens that each row sees
    alignas(64) float maxima[kLanes], totals[kLanes], factors[kLanes];
};

// Which tokens of an item's context a tile has, and with int8 their scales.
struct TileTokens {
    long first, count;
    alignas(64) float key_scales[kTile], value_scales[kTile];
};

// Where its panels of sixteen tokens lie.
template <class T>
struct Tile : TileTokens {
    const T *keys[kPanels], *values[kPanels];
};

// What attention is limited by: tokens that a row sees at most, and how far a score goes, in the logarithm to base 2.
// Plain attention has neither.
struct Limits {
    long window;
    float soft_cap;

    // The first token that a row with such a context sees.
    template <bool kIsPlain>
    long first_seen(long context) const { return kIsPlain ? 0 : std::max<long>(0, context - window); }

    // soft_cap * tanh(score / soft_cap)
    INLINE Vec cap(Vec score) const {
        if (soft_cap == 0) return score;
        const Vec growth = exp2(mul(score, broadcast(2 * kLog2E / soft_cap))), one = broadcast(1.0f);
        return mul(broadcast(soft_cap), sub(one, div(broadcast(2.0f), add(growth, one))));
    }
};

// f(Count<width>, first panel), as wide as the registers allow, then by halves.
template <int Width, class F>
INLINE void cut_panels(long panel, long num_panels, F f) {
    for (; panel + Width <= num_panels; panel += Width) f(Count<Width>(), panel);
    if constexpr (Width > 1) cut_panels<Width / 2>(panel, num_panels, f);
}
template <int R, class F>
INLINE void for_panels(long num_panels, F f) {
    cut_panels<width_of(R)>(0, num_panels, f);
}

// weights[r][t] = query[r] . key[t], without the keys' scales; of panels that a row of the strip sees.
template <int R, bool kAhead, class T>
void score(const CacheShape& shape, const Tile<T>& tile, const Tile<T>& next, long count, const Strip& strip) {
    const long dim = shape.head_dim, block_size = shape.block_size;
    for_panels<R>((count + kLanes - 1) / kLanes, [&](auto width, long panel) {
        Vec sum[R][width];
        for_sums<R, width>([&](int r, int p) INLINED { sum[r][p] = zero(); });
        for (long d = 0; d < dim; d += kTile) {
            const T *keys[width], *ahead[width];
            for (int p = 0; p < width; ++p) keys[p] = tile.keys[panel + p] + d * block_size;
            for (int p = 0; p < width; ++p) ahead[p] = next.keys[panel + p] + d * block_size;
            multiply_add(sum, strip.query + d * R, kTile, keys, block_size, std::min<long>(kTile, dim - d),
                         kAhead ? ahead : nullptr);
        }
        for_sums<R, width>([&](int r, int p) INLINED {
            store(strip.weights + r * kTile + (panel + p) * kLanes, sum[r][p]);
        });
    });
}

// Scores become weights under the running maximum, times the values' scales; what was summed under the maximum
// before is to be multiplied by the row's factor.
template <int R, bool kSeesAll, bool kIsPlain, bool kIsScaled>
void weigh(const TileTokens& tile, const Limits& limits, Strip& strip) {
    const auto keep_seen = [&](int r, int i, Vec x, Vec other) INLINED {
        if constexpr (kSeesAll) return x;
        const long panel = tile.first + i * kLanes;
        if constexpr (!kIsPlain) {
            const long before = limits.template first_seen<kIsPlain>(strip.context[r]) - panel;
            x = keep_first((int)std::clamp<long>(before, 0, kLanes), other, x);
        }
        return keep_first((int)std::clamp<long>(strip.context[r] - panel, 0, kLanes), x, other);
    };
    alignas(64) float largest_of[kLanes] = {}, sum_of[kLanes] = {};
    for (int r = 0; r < R; ++r) {
        Vec most = broadcast(kIsPlain ? -INFINITY : kLowest);
#pragma GCC unroll 4
        for (int i = 0; i < kPanels; ++i) {
            float* place = strip.weights + r * kTile + i * kLanes;
            Vec score = load(place);
            if constexpr (kIsScaled) score = mul(score, load(tile.key_scales + i * kLanes));
            if constexpr (!kIsPlain) score = limits.cap(score);
            score = keep_seen(r, i, score, broadcast(-INFINITY));
            if constexpr (!kSeesAll || !kIsPlain || kIsScaled) store(place, score);
            most = max(score, most);
        }
        largest_of[r] = largest(most);
    }
    const Vec before = load(strip.maxima), now = max(load(largest_of), before), factor = exp2(sub(before, now));
    store(strip.maxima, now);
    store(strip.factors, factor);
    for (int r = 0; r < R; ++r) {
        Vec total = zero();
#pragma GCC unroll 4
        for (int i = 0; i < kPanels; ++i) {
            float* place = strip.weights + r * kTile + i * kLanes;
            Vec weight = exp2(sub(load(place), broadcast(strip.maxima[r])));
            weight = keep_seen(r, i, weight, zero());
            total = add(total, weight);
            if constexpr (kIsScaled) weight = mul(weight, load(tile.value_scales + i * kLanes));
            store(place, weight);
        }
        sum_of[r] = sum(total);
    }
    store(strip.totals, add(mul(load(strip.totals), factor), load(sum_of)));
}

// sums[r] = sums[r] * factors[r] + weights[r][t] * value[t], in order of t.
template <int R, bool kAhead, class T>
void add_values(const CacheShape& shape, const Tile<T>& tile, const Tile<T>& next, long count, Strip& strip) {
    const long row = row_size<T>(shape.head_dim);
    for_panels<R>(shape.head_dim / kLanes, [&](auto width, long panel) {
        Vec sum[R][width];
        float* sums = strip.sums + panel * R * kLanes;
        for_sums<R, width>([&](int r, int p) INLINED {
            sum[r][p] = mul(load(sums + (p * R + r) * kLanes), broadcast(strip.factors[r]));
        });
        for (long t = 0; t < count; t += kLanes) {
            const T *values[width], *ahead[width];
            for (int p = 0; p < width; ++p) values[p] = tile.values[t / kLanes] + (panel + p) * kLanes;
            for (int p = 0; p < width; ++p) ahead[p] = next.values[t / kLanes] + (panel + p) * kLanes;
            multiply_add(sum, strip.weights + t, kTile, values, row, std::min<long>(kLanes, count - t),
                         kAhead ? ahead : nullptr);
        }
        for_sums<R, width>([&](int r, int p) INLINED { store(sums + (p * R + r) * kLanes, sum[r][p]); });
    });
}

}  // namespace pagestream
