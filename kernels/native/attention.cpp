// Paged attention with a running softmax over tiles of the context.
//
// Tiles are cut at multiples of 64 tokens from the sequence's first, whatever is computed with them, and within a tile
// every sum has one order: a token's result has the same bits alone, in a batch, in a chunk of any length or after a
// hit in the prefix cache. A work item is some rows (a row: one query head of one token) that read one key head.
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

struct Item {
    long sequence, kv_head, first_row, num_rows;
};

// What one item needs while it runs; a thread keeps it.
struct Workspace {
    std::vector<float> query, scores, sums, maxima, totals;

    void resize(long rows, long head_dim) {
        query.resize(rows * head_dim);
        scores.resize(rows * kTile);
        sums.assign(rows * head_dim, 0.0f);
        maxima.assign(rows, -INFINITY);
        totals.assign(rows, 0.0f);
    }
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
    std::vector<Item> work() const {
        std::vector<Item> items;
        for (long sequence = 0; sequence < batch_.num_seqs; ++sequence) {
            const long rows = (batch_.query_start[sequence + 1] - batch_.query_start[sequence]) * group_;
            for (long row = 0; row < rows; row += kItemRows)
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
        static thread_local Workspace space;
        const long dim = shape_.head_dim, longest = context_of(item, item.num_rows - 1);
        space.resize(item.num_rows, dim);
        for (long row = 0; row < item.num_rows; ++row) {
            const float* from = query_ + place(item, row);
            for (long d = 0; d < dim; ++d) space.query[row * dim + d] = from[d] * scale_;
        }
        for (long first = 0; first < longest; first += kTile) {
            const long count = std::min<long>(kTile, longest - first);
            score(item, first, count, space);
            for (long row = 0; row < item.num_rows; ++row) weigh(row, context_of(item, row) - first, space);
            add_values(item, first, count, space);
        }
        for (long row = 0; row < item.num_rows; ++row) {
            const float inverse = 1.0f / space.totals[row];
            float* to = y_ + place(item, row);
            for (long d = 0; d < dim; ++d) to[d] = space.sums[row * dim + d] * inverse;
        }
    }

    // The block of keys or values that holds a position of the context.
    const T* block_of(const T* cache, const Item& item, long position) const {
        const long block = batch_.block_tables[item.sequence * batch_.max_blocks + position / shape_.block_size];
        return cache + (block * shape_.num_kv_heads + item.kv_head) * row_size<T>(shape_.head_dim) * shape_.block_size;
    }

    // scores[row][t] = query[row] . key[first + t], by panels of sixteen keys. A key's scale comes last.
    void score(const Item& item, long first, long count, Workspace& space) const {
        const T* keys[kPanels];
        const long num_panels = (count + kLanes - 1) / kLanes;
        for (long panel = 0; panel < num_panels; ++panel) {
            const long position = first + panel * kLanes;
            keys[panel] = block_of(keys_, item, position) + position % shape_.block_size;
        }
        std::fill(space.scores.begin(), space.scores.end(), 0.0f);
        for_row_tiles<kMaxRows>(item.num_rows, [&](auto height, long row) {
            const float* query = space.query.data() + row * shape_.head_dim;
            for_panels<height>(num_panels, [&](auto width, long panel) {
                multiply_tile<height, width>(query, shape_.head_dim, keys + panel, shape_.block_size, shape_.head_dim,
                                             space.scores.data() + row * kTile + panel * kLanes, kTile);
            });
        });
        if constexpr (kHasScales<T>) {
            for (long panel = 0; panel < num_panels; ++panel) {
                const long position = first + panel * kLanes;
                const T* block = block_of(keys_, item, position) + shape_.head_dim * shape_.block_size;
                const Vec scales = load((const float*)block + position % shape_.block_size);
                scale_scores(item, panel, scales, space);
            }
        }
    }

    static void scale_scores(const Item& item, long panel, Vec scales, Workspace& space) {
        for (long row = 0; row < item.num_rows; ++row) {
            float* scores = space.scores.data() + row * kTile + panel * kLanes;
            store(scores, mul(load(scores), scales));
        }
    }

    // Weights take on the scales of the values that they are for.
    void scale_weights(const Item& item, long first, long count, Workspace& space) const {
        const long row = row_size<T>(shape_.head_dim);
        float scales[kTile] = {};
        for (long t = 0; t < count; ++t) {
            const long position = first + t;
            const T* slot = block_of(values_, item, position) + position % shape_.block_size * row;
            memcpy(scales + t, slot + shape_.head_dim, sizeof(float));
        }
        for (long panel = 0; panel * kLanes < count; ++panel)
            scale_scores(item, panel, load(scales + panel * kLanes), space);
    }

    // Scores become weights under the running maximum; what was summed under the old one is scaled down to it.
    void weigh(long row, long num_seen, Workspace& space) const {
        float* scores = space.scores.data() + row * kTile;
        if (num_seen <= 0) {
            std::fill(scores, scores + kTile, 0.0f);
            return;
        }
        Vec part[kPanels];
        Vec most = broadcast(-INFINITY);
        for (int i = 0; i < kPanels; ++i) {
            const int seen = (int)std::clamp<long>(num_seen - i * kLanes, 0, kLanes);
            part[i] = keep_first(seen, load(scores + i * kLanes), broadcast(-INFINITY));
            most = max(part[i], most);
        }
        const float before = space.maxima[row], now = std::max(before, largest(most));
        Vec total = zero();
        for (int i = 0; i < kPanels; ++i) {
            const int seen = (int)std::clamp<long>(num_seen - i * kLanes, 0, kLanes);
            part[i] = keep_first(seen, exp2(sub(part[i], broadcast(now))), zero());
            total = add(total, part[i]);
            store(scores + i * kLanes, part[i]);
        }
        space.maxima[row] = now;
        if (before == now) {
            space.totals[row] += sum(total);
            return;
        }
        float lane[kLanes];
        store(lane, exp2(broadcast(before - now)));
        space.totals[row] = space.totals[row] * lane[0] + sum(total);
        float* sums = space.sums.data() + row * shape_.head_dim;
        for (long d = 0; d < shape_.head_dim; ++d) sums[d] *= lane[0];
    }

    // sums[row] += scores[row][t] * value[first + t].
    void add_values(const Item& item, long first, long count, Workspace& space) const {
        const long dim = shape_.head_dim, stride = row_size<T>(dim);
        if constexpr (kHasScales<T>) scale_weights(item, first, count, space);
        for_row_tiles<kMaxRows>(item.num_rows, [&](auto height, long row) {
            for_panels<height>(dim / kLanes, [&](auto width, long panel) {
                float* sums = space.sums.data() + row * dim + panel * kLanes;
                for (long t = 0; t < count; t += kLanes) {
                    const long position = first + t;
                    const T* block = block_of(values_, item, position);
                    const T* values[width];
                    for (int p = 0; p < width; ++p)
                        values[p] = block + position % shape_.block_size * stride + (panel + p) * kLanes;
                    multiply_tile<height, width>(space.scores.data() + row * kTile + t, kTile, values, stride,
                                                 std::min<long>(kLanes, count - t), sums, dim);
                }
            });
        });
    }

    template <int R, class F>
    INLINE static void for_panels(long num_panels, F f) {
        constexpr int kWidth = std::min(panels_of(R), kPanels);
        long panel = 0;
        for (; panel + kWidth <= num_panels; panel += kWidth) f(Count<kWidth>(), panel);
        for (; panel < num_panels; ++panel) f(Count<1>(), panel);
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
