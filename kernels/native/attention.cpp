// Paged attention with a running softmax over tiles of the context.
//
// Tiles are cut at multiples of 64 tokens from the sequence's first, whatever is computed with them, and within a tile
// every sum has one order: a token's result has the same bits alone, in a batch, in a chunk of any length or after a
// hit in the prefix cache. A work item is some rows (a row: one query head of one token) that read one key head. Its
// rows are cut into strips of as many as the registers hold sums for; a strip reads no panel of keys that none of its
// rows sees.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cache.h"
#include "library.h"
#include "threads.h"
#include "tile.h"

namespace pagestream {
namespace {

constexpr int kTile = 64;
constexpr int kPanels = kTile / kLanes;
constexpr long kItemRows = 48;
constexpr float kLog2E = 1.44269504f;

// Rows of a strip: six times four panels fill the registers of AVX-512, and need fewer loads than eight times two.
constexpr int kStripRows = std::min(kMaxRows, 6);

// Panels that a strip's sums take at once: as many as the registers hold beside the weights and one broadcast number.
constexpr int width_of(int rows) {
    int panels = 1;
    while (panels < kPanels && (2 * panels * (rows + 1) + 1) * kRegistersPerVec <= kVectorRegisters) panels *= 2;
    return panels;
}

// Floats at the start of a cache line.
class Buffer {
  public:
    float* resize(long size) {
        floats_.resize(size + kLanes);
        return (float*)(((uintptr_t)floats_.data() + 63) & ~(uintptr_t)63);
    }

  private:
    std::vector<float> floats_;
};

struct Item {
    long sequence, kv_head, first_row, num_rows;
};

// Some rows of an item, with what is kept of them from tile to tile.
struct Strip {
    long first_row, longest;  // of the item; context that its last row sees
    float *query, *sums;      // [head_dim][rows], [rows][head_dim]
    alignas(64) float maxima[kLanes], totals[kLanes];
};

// One tile of an item's context: where its panels of sixteen tokens lie, and for int8 their scales.
template <class T>
struct Tile {
    long first, count;
    const T *keys[kPanels], *values[kPanels];
    alignas(64) float key_scales[kTile], value_scales[kTile];
};

template <class T>
class PagedAttention {
  public:
    PagedAttention(const Batch& batch, const float* query, long num_heads, const CacheShape& shape, const void* keys,
                   const void* values, float scale, float* y)
        : batch_(batch), shape_(shape), query_(query), keys_((const T*)keys), values_((const T*)values), y_(y),
          num_heads_(num_heads), group_(num_heads / shape.num_kv_heads), scale_(scale * kLog2E) {}

    void run() const {
        const std::vector<Item> items = work();
        parallel_for((long)items.size(), 1, false, [&](long begin, long end) {
            for (long i = begin; i < end; ++i) attend(items[i]);
        });
    }

  private:
    // The last rows of a sequence see most and come first: no thread is left with a long item at the end.
    std::vector<Item> work() const {
        std::vector<Item> items;
        for (long sequence = 0; sequence < batch_.num_seqs; ++sequence) {
            const long rows = (batch_.query_start[sequence + 1] - batch_.query_start[sequence]) * group_;
            for (long row = (rows - 1) / kItemRows * kItemRows; row >= 0; row -= kItemRows)
                for (long head = 0; head < shape_.num_kv_heads; ++head)
                    items.push_back({sequence, head, row, std::min(kItemRows, rows - row)});
        }
        return items;
    }

    // Offset of an item's row in query and output.
    long place(const Item& item, long row) const {
        const long token = batch_.query_start[item.sequence] + (item.first_row + row) / group_;
        const long head = item.kv_head * group_ + (item.first_row + row) % group_;
        return (token * num_heads_ + head) * shape_.head_dim;
    }

    // Tokens of the context that a row sees.
    long context_of(const Item& item, long row) const {
        const long num_tokens = batch_.query_start[item.sequence + 1] - batch_.query_start[item.sequence];
        return batch_.context_lens[item.sequence] - num_tokens + (item.first_row + row) / group_ + 1;
    }

    void attend(const Item& item) const {
        static thread_local Buffer query_space, sums_space;
        const long dim = shape_.head_dim, longest = context_of(item, item.num_rows - 1);
        float* const query = query_space.resize(item.num_rows * dim);
        float* const sums = sums_space.resize(item.num_rows * dim);
        std::fill(sums, sums + item.num_rows * dim, 0.0f);
        Strip strips[kItemRows];
        for_strips(item, [&](auto height, long row, long i) {
            strips[i].first_row = row;
            strips[i].longest = context_of(item, row + height - 1);
            strips[i].query = query + row * dim;
            strips[i].sums = sums + row * dim;
            std::fill(strips[i].maxima, strips[i].maxima + kLanes, -INFINITY);
            std::fill(strips[i].totals, strips[i].totals + kLanes, 0.0f);
            for (int r = 0; r < height; ++r) {
                const float* from = query_ + place(item, row + r);
                for (long d = 0; d < dim; ++d) strips[i].query[d * height + r] = from[d] * scale_;
            }
        });
        Tile<T> tile;
        for (long first = 0; first < longest; first += kTile) {
            find(item, first, std::min<long>(kTile, longest - first), tile);
            for_strips(item, [&](auto height, long, long i) {
                if (strips[i].longest > first) attend_tile<height>(item, tile, strips[i]);
            });
        }
        for_strips(item, [&](auto height, long row, long i) {
            for (int r = 0; r < height; ++r) {
                const float inverse = 1.0f / strips[i].totals[r];
                float* to = y_ + place(item, row + r);
                for (long d = 0; d < dim; ++d) to[d] = strips[i].sums[r * dim + d] * inverse;
            }
        });
    }

    // f(Count<height>, first row, index) for an item's strips.
    template <class F>
    INLINE static void for_strips(const Item& item, F f) {
        long index = 0;
        for_row_tiles<kStripRows>(item.num_rows, [&](auto height, long row) { f(height, row, index++); });
    }

    void find(const Item& item, long first, long count, Tile<T>& tile) const {
        tile.first = first;
        tile.count = count;
        const long row = row_size<T>(shape_.head_dim);
        for (long panel = 0; panel * kLanes < count; ++panel) {
            const unsigned position = (unsigned)(first + panel * kLanes), block_size = (unsigned)shape_.block_size;
            const long block = batch_.block_tables[item.sequence * batch_.max_blocks + position / block_size];
            const long start = (block * shape_.num_kv_heads + item.kv_head) * row * shape_.block_size;
            const long within = position % block_size;
            tile.keys[panel] = keys_ + start + within;
            tile.values[panel] = values_ + start + within * row;
            if constexpr (kHasScales<T>) {
                const T* scales = keys_ + start + shape_.head_dim * shape_.block_size + within * sizeof(float);
                memcpy(tile.key_scales + panel * kLanes, scales, kLanes * sizeof(float));
                const long seen = std::min<long>(kLanes, count - panel * kLanes);
                for (long t = 0; t < kLanes; ++t) {
                    float& scale = tile.value_scales[panel * kLanes + t] = 0.0f;
                    if (t < seen) memcpy(&scale, tile.values[panel] + t * row + shape_.head_dim, sizeof scale);
                }
            }
        }
    }

    template <int R>
    void attend_tile(const Item& item, const Tile<T>& tile, Strip& strip) const {
        alignas(64) float weights[R * kTile], factors[kLanes];
        const long count = std::min(tile.count, strip.longest - tile.first);
        score<R>(tile, count, strip, weights);
        long seen[R];
        for (int r = 0; r < R; ++r) seen[r] = context_of(item, strip.first_row + r) - tile.first;
        if (seen[0] >= kTile)
            weigh<R, true>(tile, seen, strip, weights, factors);
        else
            weigh<R, false>(tile, seen, strip, weights, factors);
        add_values<R>(tile, count, strip, weights, factors);
    }

    // scores[r][t] = query[r] . key[t], without the keys' scales; of panels that a row of the strip sees.
    template <int R>
    INLINE void score(const Tile<T>& tile, long count, const Strip& strip, float* scores) const {
        for_panels<R>((count + kLanes - 1) / kLanes, [&](auto width, long panel) {
            Vec sum[R][width];
            for_sums<R, width>([&](int r, int p) __attribute__((always_inline)) { sum[r][p] = zero(); });
            multiply_add(sum, strip.query, 1, R, tile.keys + panel, shape_.block_size, shape_.head_dim);
            for_sums<R, width>([&](int r, int p) __attribute__((always_inline)) {
                store(scores + r * kTile + (panel + p) * kLanes, sum[r][p]);
            });
        });
    }

    // Scores become weights under the running maximum, times the values' scales; what was summed under the maximum
    // before is to be multiplied by the row's factor.
    template <int R, bool kSeesAll>
    INLINE static void weigh(const Tile<T>& tile, const long* seen, Strip& strip, float* scores, float* factors) {
        const auto seen_of = [&](int r, int i) { return (int)std::clamp<long>(seen[r] - i * kLanes, 0, kLanes); };
        alignas(64) float largest_of[kLanes] = {}, sum_of[kLanes] = {};
        for (int r = 0; r < R; ++r) {
            Vec most = broadcast(-INFINITY);
#pragma GCC unroll 4
            for (int i = 0; i < kPanels; ++i) {
                Vec score = load(scores + r * kTile + i * kLanes);
                if constexpr (kHasScales<T>) score = mul(score, load(tile.key_scales + i * kLanes));
                if constexpr (!kSeesAll) score = keep_first(seen_of(r, i), score, broadcast(-INFINITY));
                if constexpr (!kSeesAll || kHasScales<T>) store(scores + r * kTile + i * kLanes, score);
                most = max(score, most);
            }
            largest_of[r] = largest(most);
        }
        const Vec before = load(strip.maxima), now = max(load(largest_of), before);
        store(strip.maxima, now);
        const Vec factor = exp2(sub(before, now));
        store(factors, factor);
        for (int r = 0; r < R; ++r) {
            Vec total = zero();
#pragma GCC unroll 4
            for (int i = 0; i < kPanels; ++i) {
                float* place = scores + r * kTile + i * kLanes;
                Vec weight = exp2(sub(load(place), broadcast(strip.maxima[r])));
                if constexpr (!kSeesAll) weight = keep_first(seen_of(r, i), weight, zero());
                total = add(total, weight);
                if constexpr (kHasScales<T>) weight = mul(weight, load(tile.value_scales + i * kLanes));
                store(place, weight);
            }
            sum_of[r] = sum(total);
        }
        store(strip.totals, add(mul(load(strip.totals), factor), load(sum_of)));
    }

    // sums[r] = sums[r] * factors[r] + weights[r][t] * value[t], in order of t.
    template <int R>
    INLINE void add_values(const Tile<T>& tile, long count, Strip& strip, const float* weights,
                           const float* factors) const {
        const long dim = shape_.head_dim;
        for_panels<R>(dim / kLanes, [&](auto width, long panel) {
            Vec sum[R][width];
            float* sums = strip.sums + panel * kLanes;
            for_sums<R, width>([&](int r, int p) __attribute__((always_inline)) {
                sum[r][p] = mul(load(sums + r * dim + p * kLanes), broadcast(factors[r]));
            });
            for (long t = 0; t < count; t += kLanes) {
                const T* values[width];
                for (int p = 0; p < width; ++p) values[p] = tile.values[t / kLanes] + (panel + p) * kLanes;
                multiply_add(sum, weights + t, kTile, 1, values, row_size<T>(dim), std::min<long>(kLanes, count - t));
            }
            for_sums<R, width>([&](int r, int p) __attribute__((always_inline)) {
                store(sums + r * dim + p * kLanes, sum[r][p]);
            });
        });
    }

    // f(Count<width>, first panel), as wide as the registers allow, then by halves.
    template <int R, class F>
    INLINE static void for_panels(long num_panels, F f) {
        cut_panels<width_of(R)>(0, num_panels, f);
    }
    template <int Width, class F>
    INLINE static void cut_panels(long panel, long num_panels, F f) {
        for (; panel + Width <= num_panels; panel += Width) f(Count<Width>(), panel);
        if constexpr (Width > 1) cut_panels<Width / 2>(panel, num_panels, f);
    }

    const Batch& batch_;
    const CacheShape& shape_;
    const float* query_;
    const T *keys_, *values_;
    float* y_;
    long num_heads_, group_;
    float scale_;
};

}  // namespace
}  // namespace pagestream

void paged_attention(const Batch* batch, const float* query, int64_t num_heads, const CacheShape* shape,
                     const void* keys, const void* values, float scale, float* y) {
    using namespace pagestream;
    const auto run = [&](auto number) {
        PagedAttention<decltype(number)>(*batch, query, num_heads, *shape, keys, values, scale, y).run();
    };
    switch (shape->format) {
        case kFloat32: return run(float());
        case kFloat16: return run(Half());
        case kInt8: return run(int8_t());
        default: return run(BFloat());
    }
}
