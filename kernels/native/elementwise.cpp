// RMSNorm, rotary positions with the write to the cache, gated activations. Rows are independent of each other.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cache.h"
#include "library.h"
#include "simd.h"
#include "threads.h"

namespace pagestream {
namespace {

constexpr int64_t kSmallWork = 1 << 14;  // numbers that are not worth a second thread

// body(row) for each of some rows of `size` numbers.
template <class Body>
void for_rows(int64_t num_rows, int64_t size, const Body& body) {
    parallel_for(num_rows, std::max<int64_t>(1, kSmallWork / 4 / size), num_rows * size < kSmallWork,
                 [&](long begin, long end) {
                     for (long row = begin; row < end; ++row) body(row);
                 });
}
constexpr float kLog2E = 1.44269504f;

template <class F>
INLINE void for_vectors(int64_t size, F f) {
    int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes) f(i, kLanes);
    if (i < size) f(i, (int)(size - i));
}
INLINE Vec load_some(int count, const float* from) { return count == kLanes ? load(from) : load_first(count, from); }
INLINE void store_some(int count, float* to, Vec x) {
    if (count == kLanes)
        store(to, x);
    else
        store_first(count, to, x);
}

INLINE void norm_row(const float* x, const float* weight, float eps, int64_t size, float* y) {
    Vec squares = zero();
    for_vectors(size, [&](int64_t i, int count) {
        const Vec part = load_some(count, x + i);
        squares = fma(part, part, squares);
    });
    const Vec factor = broadcast(1.0f / std::sqrt(sum(squares) / (float)size + eps));
    for_vectors(size, [&](int64_t i, int count) {
        store_some(count, y + i, mul(mul(load_some(count, x + i), factor), load_some(count, weight + i)));
    });
}

// gates * sigmoid(argument(gates)) * ups of each row.
template <class Argument>
void gate_and_mul(const float* x, int64_t num_tokens, int64_t size, float* y, const Argument& argument) {
    for_rows(num_tokens, size, [&](int64_t row) {
        const float *gates = x + 2 * row * size, *ups = gates + size;
        for_vectors(size, [&](int64_t i, int count) {
            const Vec gate = load_some(count, gates + i), one = broadcast(1.0f);
            const Vec activated = div(gate, add(one, exp2(mul(argument(gate), broadcast(-kLog2E)))));
            store_some(count, y + row * size + i, mul(activated, load_some(count, ups + i)));
        });
    });
}

// f(from, count) for pieces of some numbers that are one vector's multiple.
template <class F>
void for_pieces(int64_t count, const F& f) {
    constexpr int64_t kPiece = 1 << 12;
    parallel_for((count + kPiece - 1) / kPiece, 1, count < kSmallWork, [&](long begin, long end) {
        f(begin * kPiece, std::min<int64_t>(count, end * kPiece) - begin * kPiece);
    });
}

// Rotate one head: its halves are the two coordinates of `half` planes.
INLINE void rotate_head(const float* x, const float* cos, const float* sin, int64_t half, float* y) {
    for_vectors(half, [&](int64_t i, int count) {
        const Vec first = load_some(count, x + i), second = load_some(count, x + half + i);
        const Vec c = load_some(count, cos + i), s = load_some(count, sin + i);
        store_some(count, y + i, sub(mul(first, c), mul(second, s)));
        store_some(count, y + half + i, add(mul(second, c), mul(first, s)));
    });
}

template <class T>
void rotate_and_write_token(const float* heads, const float* cos, const float* sin, int64_t slot, int64_t num_heads,
                            const CacheShape& cache, void* keys, void* values, float* query) {
    const int64_t dim = cache.head_dim, size = cache.block_size;
    const int64_t block = slot / size, offset = slot % size;
    for (int64_t head = 0; head < num_heads; ++head)
        rotate_head(heads + head * dim, cos, sin, dim / 2, query + head * dim);
    static thread_local std::vector<float> rotated;
    rotated.resize(dim);
    for (int64_t head = 0; head < cache.num_kv_heads; ++head) {
        const float* key = heads + (num_heads + head) * dim;
        const float* value = key + cache.num_kv_heads * dim;
        const int64_t row = row_size<T>(dim), place = (block * cache.num_kv_heads + head) * row * size;
        T* key_block = (T*)keys + place;
        T* value_slot = (T*)values + place + offset * row;
        rotate_head(key, cos, sin, dim / 2, rotated.data());
        write_row(rotated.data(), dim, key_block + offset, size, (float*)(key_block + dim * size) + offset);
        write_row(value, dim, value_slot, 1, value_slot + dim);
    }
}

}  // namespace
}  // namespace pagestream

using namespace pagestream;

void rms_norm(const float* x, const float* weight, float eps, int64_t num_tokens, int64_t size, float* y) {
    for_rows(num_tokens, size, [&](int64_t row) { norm_row(x + row * size, weight, eps, size, y + row * size); });
}

void add_rms_norm(const float* x, float* residual, const float* weight, float eps, int64_t num_tokens, int64_t size,
                  float* y) {
    for_rows(num_tokens, size, [&](int64_t row) {
        float* total = residual + row * size;
        for_vectors(size, [&](int64_t i, int count) {
            store_some(count, total + i, add(load_some(count, total + i), load_some(count, x + row * size + i)));
        });
        norm_row(total, weight, eps, size, y + row * size);
    });
}

void silu_and_mul(const float* x, int64_t num_tokens, int64_t size, float* y) {
    gate_and_mul(x, num_tokens, size, y, [](Vec gate) INLINED { return gate; });
}

// By the tanh of 0.798 (x + 0.0447 x**3), which is the sigmoid of twice that.
void gelu_and_mul(const float* x, int64_t num_tokens, int64_t size, float* y) {
    gate_and_mul(x, num_tokens, size, y, [](Vec gate) INLINED {
        const Vec cubic = fma(mul(gate, gate), broadcast(0.044715f), broadcast(1.0f));
        return mul(mul(gate, broadcast(1.59576912f)), cubic);
    });
}

void add_numbers(const float* x, float* residual, int64_t count) {
    for_pieces(count, [&](int64_t first, int64_t size) {
        for_vectors(size, [&](int64_t i, int some) {
            float* to = residual + first + i;
            store_some(some, to, add(load_some(some, to), load_some(some, x + first + i)));
        });
    });
}

void scale_numbers(float* x, float factor, int64_t count) {
    for_pieces(count, [&](int64_t first, int64_t size) {
        for_vectors(size, [&](int64_t i, int some) {
            float* to = x + first + i;
            store_some(some, to, mul(load_some(some, to), broadcast(factor)));
        });
    });
}

void norm_heads(float* qkv, const float* query_weight, const float* key_weight, float eps, int64_t num_tokens,
                int64_t num_heads, int64_t num_kv_heads, int64_t head_dim, int64_t is_by_head) {
    const int64_t width = (num_heads + 2 * num_kv_heads) * head_dim;
    const auto norm = [&](float* heads, int64_t count, const float* weight) {
        const int64_t size = is_by_head ? head_dim : count * head_dim;
        for (float* head = heads; head < heads + count * head_dim; head += size) norm_row(head, weight, eps, size, head);
    };
    for_rows(num_tokens, width, [&](int64_t token) {
        norm(qkv + token * width, num_heads, query_weight);
        norm(qkv + token * width + num_heads * head_dim, num_kv_heads, key_weight);
    });
}

void rotate_and_write(const float* qkv, const float* cos, const float* sin, const int64_t* slots, int64_t num_tokens,
                      int64_t num_heads, const CacheShape* shape, void* keys, void* values, float* query) {
    const int64_t dim = shape->head_dim, width = (num_heads + 2 * shape->num_kv_heads) * dim;
    const auto token_by = shape->format == kFloat32   ? rotate_and_write_token<float>
                          : shape->format == kFloat16 ? rotate_and_write_token<Half>
                          : shape->format == kInt8    ? rotate_and_write_token<int8_t>
                                                      : rotate_and_write_token<BFloat>;
    for_rows(num_tokens, width, [&](int64_t token) {
        token_by(qkv + token * width, cos + token * dim / 2, sin + token * dim / 2, slots[token], num_heads, *shape,
                 keys, values, query + token * num_heads * dim);
    });
}
