// Matrices of int8 times activations that are rounded to int8, both with one scale a row.
//
// A row of activations is rotated (rotation.h), divided by its largest number's 127th and rounded; the sums over all of
// k are exact, and become floats once, times both scales. So a row's bits depend neither on its batch nor on the
// threads nor on the instructions that computed it.
//
// A panel is sixteen rows: their scales, what the offset of the activations adds to their sums, then [k / 4][16][4].
#include <algorithm>
#include <vector>

#include "int8_ways.h"
#if defined(__AMX_INT8__)
#include "matrix_unit.h"
#endif
#include "rotation.h"
#include "threads.h"
#include "tile.h"

namespace pagestream {
namespace {

constexpr int kGroup = 4;             // panels that are handed out at once, a multiple of every tile's
constexpr long kSmallWork = 1 << 18;  // multiplications that are not worth a second thread
constexpr long kSmallRows = 1 << 14;  // numbers to round that are not
constexpr long kRowTile = 16;         // rows that memory is there for come in tiles of it
constexpr float kLeast = 1e-36f;      // below it a row's largest number has no inverse, and the row is zeros

struct PanelHead {
    float scales[kLanes];
    int32_t sums[kLanes];  // of the row's weights
};

INLINE long padded(long num_columns) { return (num_columns + kInt8Block - 1) / kInt8Block * kInt8Block; }
INLINE long bytes_of_panel(long num_columns) { return (long)sizeof(PanelHead) + padded(num_columns) * kLanes; }

// Activations as a way wants them: [rows][padded columns] and a scale for each row.
template <class Number>
struct Rounded {
    const Number* numbers;
    const float* scales;
    long stride;
};

template <class Way>
void round_row(const float* x, long num_columns, float* rotated, typename Way::Number* numbers, float* scale) {
    Vec largest_lanes = zero(), poison = zero();
    for (long k = 0; k < num_columns; k += kInt8Block) {
        Vec block[kBlockVectors];
        for (int i = 0; i < kBlockVectors; ++i) {
            const long left = num_columns - k - i * kLanes;
            const float* from = x + k + i * kLanes;
            block[i] = left >= kLanes ? load(from) : left > 0 ? load_first((int)left, from) : zero();
        }
        rotate(block);
        for (int i = 0; i < kBlockVectors; ++i) {
            largest_lanes = max(largest_lanes, max(block[i], sub(zero(), block[i])));
            poison = fma(block[i], zero(), poison);  // NaN where a number is none, or infinite
            store(rotated + k + i * kLanes, block[i]);
        }
    }
    const float most = largest(largest_lanes);
    *scale = most / 127.0f + sum(poison);
    const Vec inverse = broadcast(most > kLeast ? 127.0f / most : 0.0f), magic = broadcast(0x1.8p23f);
    for (long k = 0; k < padded(num_columns); k += kLanes) {
        float lanes[kLanes];  // whose low bits are the rounded number
        store(lanes, add(mul(load(rotated + k), inverse), magic));
        for (int i = 0; i < kLanes; ++i)
            numbers[k + i] = (typename Way::Number)(bits_of(lanes[i]) - bits_of(0x1.8p23f) + Way::kOffset);
    }
}

// All rows, in the calling thread's memory until its next call.
template <class Way>
Rounded<typename Way::Number> round_rows(const float* x, long num_tokens, long num_columns) {
    using Number = typename Way::Number;
    thread_local std::vector<Number> numbers;
    thread_local std::vector<float> scales;
    const long stride = padded(num_columns);
    const size_t size = (num_tokens + kRowTile - 1) / kRowTile * kRowTile * stride;
    if (numbers.size() < size) numbers.resize(size);
    if ((long)scales.size() < num_tokens) scales.resize(num_tokens);
    Number* to = numbers.data();
    float* scale = scales.data();
    parallel_for(num_tokens, std::max(1L, kSmallRows / 4 / stride), num_tokens * stride < kSmallRows,
                 [&](long begin, long end) {
                     thread_local std::vector<float> rotated;
                     rotated.resize(stride);
                     for (long row = begin; row < end; ++row)
                         round_row<Way>(x + row * num_columns, num_columns, rotated.data(), to + row * stride,
                                        scale + row);
                 });
    return {to, scale, stride};
}

// The exact sums of one row and panel, as floats.
INLINE void put_out(const Int8Matrix& matrix, long panel, const PanelHead& head, const int32_t* sums, float scale,
                    float* y) {
    const long first = panel * kLanes;
    const int wanted = (int)std::min<long>(kLanes, matrix.num_rows - first);
    Vec out = mul(load(sums), mul(broadcast(scale), load(head.scales)));
    if (matrix.bias) out = add(out, load(matrix.bias + first));
    if (wanted == kLanes)
        store(y + first, out);
    else
        store_first(wanted, y + first, out);
}

template <class Way, int R, int P>
void multiply(const Int8Matrix& matrix, long panel, const Rounded<typename Way::Number>& x, long row, float* y,
              long ldy) {
    const long bytes = bytes_of_panel(matrix.num_columns);
    const PanelHead* heads[P];
    const int8_t* weights[P];
    alignas(64) int32_t sums[R][P][kLanes];
    for (int p = 0; p < P; ++p) {
        heads[p] = (const PanelHead*)(matrix.panels + (panel + p) * bytes);
        weights[p] = (const int8_t*)(heads[p] + 1);
        for (int r = 0; r < R; ++r)
            for (int lane = 0; lane < kLanes; ++lane) sums[r][p][lane] = -Way::kOffset * heads[p]->sums[lane];
    }
    Way::template sums<R, P>(weights, x.numbers + row * x.stride, x.stride, x.stride, P * bytes, sums[0][0]);
    for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; ++p)
            put_out(matrix, panel + p, *heads[p], sums[r][p], x.scales[row + r], y + (row + r) * ldy);
}

template <class Way>
void multiply_all(const Int8Matrix& matrix, const float* x, long num_tokens, float* y, long ldy) {
    const auto rounded = round_rows<Way>(x, num_tokens, matrix.num_columns);
    const long num_panels = (matrix.num_rows + kLanes - 1) / kLanes;
    const long num_groups = (num_panels + kGroup - 1) / kGroup;
    const bool is_small = num_tokens * matrix.num_rows * rounded.stride < kSmallWork;
    parallel_for(num_groups, 1, is_small, [&](long begin, long end) {
        for (long group = begin; group < end; ++group) {
            const long first = group * kGroup, stop = std::min(num_panels, first + kGroup);
            for_row_tiles<Way::kMaxRows>(num_tokens, [&](auto height, long row) {
                constexpr int kPanels = Way::panels_of(height);
                long panel = first;
                for (; panel + kPanels <= stop; panel += kPanels)
                    multiply<Way, height, kPanels>(matrix, panel, rounded, row, y, ldy);
                for (; panel < stop; ++panel) multiply<Way, height, 1>(matrix, panel, rounded, row, y, ldy);
            });
        }
    });
}

#if defined(__AMX_INT8__)

// By the matrix unit: a block of a panel is one of its tiles as it lies in memory.
struct OnUnit {
    using Number = uint8_t;
    static constexpr int kOffset = 128;

    static bool is_there() { return Avx512Vnni::is_there(); }
};
static_assert(kRowTile == kUnitRows && kInt8Block * kLanes == sizeof(UnitTile<int8_t>));

// T tiles of rows times two panels; sums start from `starts`.
template <int T>
INLINE void multiply_tiles_of_rows(const uint8_t* x, long stride, const int8_t* const (&weights)[2], long ahead,
                                   const UnitTile<int32_t> (&starts)[2], UnitTile<int32_t> (&sums)[2][2]) {
    load_tile<sums_register(0, 0)>(&starts[0]);
    load_tile<sums_register(0, 1)>(&starts[1]);
    if constexpr (T > 1) {
        load_tile<sums_register(1, 0)>(&starts[0]);
        load_tile<sums_register(1, 1)>(&starts[1]);
    }
    for (long k = 0; k < stride; k += kInt8Block) {
        for (const int8_t* panel : weights) fetch<kInt8Block * kLanes>((const uint8_t*)panel + k * kLanes + ahead);
        load_tile<weights_register(0)>(weights[0] + k * kLanes);
        load_tile<weights_register(1)>(weights[1] + k * kLanes);
        load_tile<activations_register(0)>(x + k, stride);
        multiply_byte_tiles<sums_register(0, 0), activations_register(0), weights_register(0)>();
        multiply_byte_tiles<sums_register(0, 1), activations_register(0), weights_register(1)>();
        if constexpr (T > 1) {
            load_tile<activations_register(1)>(x + kUnitRows * stride + k, stride);
            multiply_byte_tiles<sums_register(1, 0), activations_register(1), weights_register(0)>();
            multiply_byte_tiles<sums_register(1, 1), activations_register(1), weights_register(1)>();
        }
    }
    store_tile<sums_register(0, 0)>(&sums[0][0]);
    store_tile<sums_register(0, 1)>(&sums[0][1]);
    if constexpr (T > 1) {
        store_tile<sums_register(1, 0)>(&sums[1][0]);
        store_tile<sums_register(1, 1)>(&sums[1][1]);
    }
}

// Two panels; the second is the first once more where the matrix has no other.
void multiply_on_unit(const Int8Matrix& matrix, long panel, const Rounded<uint8_t>& x, long num_tokens, float* y,
                      long ldy) {
    const long bytes = bytes_of_panel(matrix.num_columns);
    const int num_panels = (panel + 1) * kLanes < matrix.num_rows ? 2 : 1;
    const PanelHead* const heads[2] = {(const PanelHead*)(matrix.panels + panel * bytes),
                                       (const PanelHead*)(matrix.panels + (panel + num_panels - 1) * bytes)};
    const int8_t* const weights[2] = {(const int8_t*)(heads[0] + 1), (const int8_t*)(heads[1] + 1)};
    UnitTile<int32_t> starts[2], sums[2][2];
    for (int p = 0; p < 2; ++p)
        for (auto& row : starts[p].rows)
            for (int lane = 0; lane < kLanes; ++lane) row[lane] = -OnUnit::kOffset * heads[p]->sums[lane];
    for (long row = 0; row < num_tokens; row += 2 * kUnitRows) {
        const uint8_t* from = x.numbers + row * x.stride;
        const long rows = std::min<long>(2 * kUnitRows, num_tokens - row);
        if (rows > kUnitRows)
            multiply_tiles_of_rows<2>(from, x.stride, weights, 2 * bytes, starts, sums);
        else
            multiply_tiles_of_rows<1>(from, x.stride, weights, 2 * bytes, starts, sums);
        for (long r = 0; r < rows; ++r)
            for (int p = 0; p < num_panels; ++p)
                put_out(matrix, panel + p, *heads[p], sums[r / kUnitRows][p].rows[r % kUnitRows], x.scales[row + r],
                        y + (row + r) * ldy);
    }
}

// For few rows the unit spends more on loading weights than vectors on multiplying; the bits are the same.
constexpr long kVectorRows = 8;

template <>
void multiply_all<OnUnit>(const Int8Matrix& matrix, const float* x, long num_tokens, float* y, long ldy) {
    if (num_tokens <= kVectorRows) return multiply_all<Avx512Vnni>(matrix, x, num_tokens, y, ldy);
    const auto rounded = round_rows<OnUnit>(x, num_tokens, matrix.num_columns);
    const long num_groups = (matrix.num_rows + 2 * kLanes - 1) / (2 * kLanes);
    const bool is_small = num_tokens * matrix.num_rows * rounded.stride < kSmallWork;
    parallel_for(num_groups, kGroup, is_small, [&](long begin, long end) {
        Unit unit;
        unit.set_height((int)std::min<long>(num_tokens, kUnitRows));
        for (long group = begin; group < end; ++group)
            multiply_on_unit(matrix, 2 * group, rounded, num_tokens, y, ldy);
    });
}

#endif

// What multiplies a matrix, and where it is there.
struct WayOfThisBuild {
    bool (*is_there)();
    void (*multiply_all)(const Int8Matrix& matrix, const float* x, long num_tokens, float* y, long ldy);
};
constexpr WayOfThisBuild kWays[] = {
    {PlainInt8::is_there, multiply_all<PlainInt8>},
#if defined(__AVX512F__)
    {Avx512Vnni::is_there, multiply_all<Avx512Vnni>},
#endif
#if defined(__AMX_INT8__)
    {OnUnit::is_there, multiply_all<OnUnit>},
#endif
};

int64_t& chosen_way() {
    static int64_t way = num_int8_ways() - 1;
    return way;
}

}  // namespace
}  // namespace pagestream

using namespace pagestream;

int64_t num_int8_ways() {
    int64_t count = 0;
    for (const WayOfThisBuild& way : kWays) count += way.is_there();
    return count;
}

int64_t is_int8_fast() { return num_int8_ways() > 1; }

void choose_int8_way(int64_t way) { chosen_way() = way; }

int64_t int8_panel_bytes(int64_t num_columns) { return bytes_of_panel(num_columns); }

void pack_int8(const int8_t* numbers, const float* scales, int64_t num_rows, int64_t num_columns, uint8_t* panels) {
    const long num_panels = (num_rows + kLanes - 1) / kLanes, stride = padded(num_columns);
    parallel_for(num_panels, 1, false, [&](long begin, long end) {
        for (long panel = begin; panel < end; ++panel) {
            PanelHead* head = (PanelHead*)(panels + panel * bytes_of_panel(num_columns));
            int8_t* weights = (int8_t*)(head + 1);
            memset(head, 0, bytes_of_panel(num_columns));
            for (int lane = 0; lane < kLanes && panel * kLanes + lane < num_rows; ++lane) {
                const int8_t* from = numbers + (panel * kLanes + lane) * stride;
                head->scales[lane] = scales[panel * kLanes + lane];
                for (long k = 0; k < stride; ++k) {
                    weights[k / 4 * 4 * kLanes + lane * 4 + k % 4] = from[k];
                    head->sums[lane] += from[k];
                }
            }
        }
    });
}

void linear_int8(const Int8Matrix* matrix, const float* x, int64_t num_tokens, float* y, int64_t ldy) {
    if (num_tokens) kWays[chosen_way()].multiply_all(*matrix, x, num_tokens, y, ldy);
}

void gather_rows_int8(const Int8Matrix* matrix, const int64_t* rows, int64_t num_tokens, float* y) {
    const long num_columns = matrix->num_columns;
    for (int64_t token = 0; token < num_tokens; ++token) {
        const uint8_t* panel = matrix->panels + rows[token] / kLanes * bytes_of_panel(num_columns);
        const PanelHead* head = (const PanelHead*)panel;
        const int8_t* weights = (const int8_t*)(head + 1);
        const int lane = (int)(rows[token] % kLanes);
        for (long k = 0; k < num_columns; k += kInt8Block) {
            float numbers[kInt8Block];
            for (long i = 0; i < kInt8Block; ++i)
                numbers[i] = weights[(k + i) / 4 * 4 * kLanes + lane * 4 + i % 4] * head->scales[lane];
            Vec block[kBlockVectors];
            for (int i = 0; i < kBlockVectors; ++i) block[i] = load(numbers + i * kLanes);
            rotate(block);
            for (int i = 0; i < kBlockVectors; ++i) store(numbers + i * kLanes, block[i]);
            memcpy(y + token * num_columns + k, numbers,
                   std::min<long>(kInt8Block, num_columns - k) * sizeof(float));
        }
    }
}
