// Paged attention with a running softmax over tiles of the context.
//
// Tiles are cut at multiples of 64 tokens from the sequence's first, whatever is computed with them, and within a tile
// every sum has one order: a token's result has the same bits alone, in a batch, in a chunk of any length or after a
// hit in the prefix cache. A work item is some rows (a row: one query head of one token) that read one key head. Its
// rows are cut into strips of as many as the registers hold sums for; a strip reads no panel of keys that none of its
// rows sees. Windows and soft caps are a template of their own, so that attention without them pays nothing.
#include <algorithm>
#include <vector>

#include "attention_tile.h"
#include "threads.h"

namespace pagestream {
namespace {

constexpr long kItemRows = 48;
constexpr long kPiecesPerThread = 4;  // few enough to ask early for a piece's next item, many enough to share out
constexpr long kUnbounded = 1L << 62;

struct Item {
    long sequence, kv_head, first_row, num_rows;
};

// What a thread needs for an item.
class Workspace {
  public:
    Strip strips[kItemRows];
    float *query, *sums, *weights;
    long query_stride;

    void resize(long head_dim) {
        query_stride = (head_dim + kTile - 1) / kTile * kTile;
        floats_.resize(kItemRows * (query_stride + head_dim + kTile) + kLanes);
        query = (float*)(((uintptr_t)floats_.data() + 63) & ~(uintptr_t)63);  // at the start of a cache line
        sums = query + kItemRows * query_stride;
        weights = sums + kItemRows * head_dim;
    }

  private:
    std::vector<float> floats_;
};

// kIsPlain: without window and soft cap.
template <class T, bool kIsPlain>
class PagedAttention {
  public:
    PagedAttention(const Batch& batch, const float* query, long num_heads, const CacheShape& shape, const void* keys,
                   const void* values, float scale, long window, float soft_cap, float* y)
        : batch_(batch), shape_(shape), query_(query), keys_((const T*)keys), values_((const T*)values), y_(y),
          num_heads_(num_heads), group_(num_heads / shape.num_kv_heads), scale_(scale * kLog2E),
          limits_{window ? window : kUnbounded, soft_cap * kLog2E} {}

    void run() const {
        const std::vector<Item> items = work();
        const long grain = std::max<long>(1, (long)items.size() / (kPiecesPerThread * num_threads()));
        parallel_for((long)items.size(), grain, false,
                     [&](long begin, long end) { attend(items.data() + begin, items.data() + end); });
    }

  private:
    // The last rows of a sequence see most and come first: no thread is left with a long item at the end.
    std::vector<Item> work() const {
        std::vector<Item> items;
        for (long sequence = 0; sequence < batch_.num_seqs; ++sequence) {
            const long rows = (batch_.query_start[sequence + 1] - batch_.query_start[sequence]) * group_;
            for (long row = (rows + kItemRows - 1) / kItemRows * kItemRows - kItemRows; row >= 0; row -= kItemRows)
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

    long first_seen(long context) const { return limits_.first_seen<kIsPlain>(context); }

    long first_tile(const Item& item) const { return first_seen(context_of(item, 0)) / kTile * kTile; }

    void attend(const Item* item, const Item* end) const {
        static thread_local Workspace space;
        space.resize(shape_.head_dim);
        Tile<T> tiles[2];
        int current = 0;
        find(*item, first_tile(*item), tiles[current]);
        for (; item != end; ++item) {
            begin(*item, space);
            const long longest = context_of(*item, item->num_rows - 1);
            for (long first = first_tile(*item); first < longest; first += kTile, current ^= 1) {
                Tile<T>& next = tiles[current ^ 1];
                if (first + kTile < longest)
                    find(*item, first + kTile, next);
                else if (item + 1 != end)
                    find(item[1], first_tile(item[1]), next);
                else
                    next = tiles[current];
                if constexpr (kHasScales<T>) read_scales(tiles[current]);
                attend_tile(*item, tiles[current], next, space);
            }
            finish(*item, space);
        }
    }

    void begin(const Item& item, Workspace& space) const {
        const long dim = shape_.head_dim;
        for_strips(item, [&](auto height, long row, long i) {
            Strip& strip = space.strips[i];
            strip.query = space.query + row * space.query_stride;
            strip.sums = space.sums + row * dim;
            strip.weights = space.weights + row * kTile;
            std::fill(strip.sums, strip.sums + height * dim, 0.0f);
            store(strip.maxima, broadcast(kIsPlain ? -INFINITY : kLowest));
            store(strip.totals, zero());
            for (int r = 0; r < height; ++r) {
                strip.context[r] = context_of(item, row + r);
                const float* from = query_ + place(item, row + r);
                for (long d = 0; d < dim; d += kLanes)
                    store(strip.query + (d / kTile * height + r) * kTile + d % kTile,
                          mul(load(from + d), broadcast(scale_)));
            }
        });
    }

    void finish(const Item& item, const Workspace& space) const {
        for_strips(item, [&](auto height, long row, long i) {
            const Strip& strip = space.strips[i];
            for (int r = 0; r < height; ++r) {
                const Vec inverse = broadcast(1.0f / strip.totals[r]);
                float* to = y_ + place(item, row + r);
                for (long d = 0; d < shape_.head_dim; d += kLanes)
                    store(to + d, mul(load(strip.sums + d * height + r * kLanes), inverse));
            }
        });
    }

    // All strips' keys before all strips' values: one of both fits into the nearest cache beside what is summed. Where
    // there is one strip, memory is what takes the time: ask for the next tile meanwhile.
    void attend_tile(const Item& item, const Tile<T>& tile, const Tile<T>& next, Workspace& space) const {
        const auto for_seeing = [&](auto f) {
            for_strips(item, [&](auto height, long, long i) {
                Strip& strip = space.strips[i];
                const long count = std::min<long>(kTile, strip.context[height - 1] - tile.first);
                if (count > 0 && first_seen(strip.context[0]) < tile.first + kTile) f(height, strip, count);
            });
        };
        const bool is_alone = item.num_rows <= kStripRows;
        for_seeing([&](auto height, Strip& strip, long count) {
            if (is_alone)
                score<height, true>(shape_, tile, next, count, strip);
            else
                score<height, false>(shape_, tile, next, count, strip);
            if (strip.context[0] - tile.first >= kTile && first_seen(strip.context[height - 1]) <= tile.first)
                weigh<height, true, kIsPlain, kHasScales<T>>(tile, limits_, strip);
            else
                weigh<height, false, kIsPlain, kHasScales<T>>(tile, limits_, strip);
        });
        for_seeing([&](auto height, Strip& strip, long count) {
            if (is_alone)
                add_values<height, true>(shape_, tile, next, count, strip);
            else
                add_values<height, false>(shape_, tile, next, count, strip);
        });
    }

    // f(Count<height>, first row, index) for an item's strips.
    template <class F>
    INLINE static void for_strips(const Item& item, F f) {
        long index = 0;
        for_row_tiles<kStripRows>(item.num_rows, [&](auto height, long row) { f(height, row, index++); });
    }

    void find(const Item& item, long first, Tile<T>& tile) const {
        tile.first = first;
        tile.count = std::min<long>(kTile, context_of(item, item.num_rows - 1) - first);
        const long row = row_size<T>(shape_.head_dim);
        for (long panel = 0; panel * kLanes < tile.count; ++panel) {
            const unsigned position = (unsigned)(first + panel * kLanes), block_size = (unsigned)shape_.block_size;
            const long block = batch_.block_tables[item.sequence * batch_.max_blocks + position / block_size];
            const long start = (block * shape_.num_kv_heads + item.kv_head) * row * shape_.block_size;
            const long within = position % block_size;
            tile.keys[panel] = keys_ + start + within;
            tile.values[panel] = values_ + start + within * row;
        }
        for (long panel = (tile.count + kLanes - 1) / kLanes; panel < kPanels; ++panel) {
            tile.keys[panel] = tile.keys[0];
            tile.values[panel] = tile.values[0];
        }
    }

    // A block's key scales follow its keys, a value's scale the value.
    void read_scales(Tile<T>& tile) const {
        const long row = row_size<T>(shape_.head_dim);
        for (long panel = 0; panel * kLanes < tile.count; ++panel) {
            const long within = (tile.first + panel * kLanes) % shape_.block_size;
            const T* scales = tile.keys[panel] + shape_.head_dim * shape_.block_size + within * (sizeof(float) - 1);
            memcpy(tile.key_scales + panel * kLanes, scales, kLanes * sizeof(float));
            const long num_seen = std::min<long>(kLanes, tile.count - panel * kLanes);
            float* to = tile.value_scales + panel * kLanes;
            std::fill(to, to + kLanes, 0.0f);
            for (long t = 0; t < num_seen; ++t)
                memcpy(to + t, tile.values[panel] + t * row + shape_.head_dim, sizeof(float));
        }
    }

    const Batch& batch_;
    const CacheShape& shape_;
    const float* query_;
    const T *keys_, *values_;
    float* y_;
    long num_heads_, group_;
    float scale_;  // times the logarithm of e to base 2, as all scores are
    Limits limits_;
};

}  // namespace
}  // namespace pagestream

void paged_attention(const Batch* batch, const float* query, int64_t num_heads, const CacheShape* shape,
                     const void* keys, const void* values, float scale, int64_t window, float soft_cap, float* y) {
    using namespace pagestream;
    const auto run_as = [&](auto number, auto is_plain) {
        using Attention = PagedAttention<decltype(number), is_plain>;
        Attention(*batch, query, num_heads, *shape, keys, values, scale, window, soft_cap, y).run();
    };
    const auto run = [&](auto number) {
        if (window || soft_cap != 0) return run_as(number, std::false_type());
        run_as(number, std::true_type());
    };
    switch (shape->format) {
        case kFloat32: return run(float());
        case kFloat16: return run(Half());
        case kInt8: return run(int8_t());
        default: return run(BFloat());
    }
}
