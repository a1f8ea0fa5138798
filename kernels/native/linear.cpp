// Matrices in the formats of formats.h: packing, multiplying, reading rows.
//
// Threads share out the outputs and never a sum over k; the sums have one order (tile.h, linear_blocks.h). Rows are
// multiplied straight from the weights as they are stored; many rows by 16-bit or 32-bit numbers by way of a piece of a
// panel that is expanded into the first-level cache and used by all of them.
#include <algorithm>
#include <atomic>
#include <vector>

#include "formats.h"
#include "linear_blocks.h"
#if defined(__AMX_BF16__)
#include "linear_unit.h"
#endif

namespace pagestream {
namespace {

constexpr long kExpandedColumns = 288;  // 18 KiB a panel
constexpr int kDirectPanels = 8;        // that are handed out at once
constexpr int kDirectTiles = 2;         // of rows; weights are widened for each of them
template <class Format, int P>
INLINE void panel_pointers(const Matrix& matrix, long panel, const uint8_t* (&panels)[P]) {
    for (int p = 0; p < P; ++p) panels[p] = matrix.panels + (panel + p) * Format::panel_bytes(matrix.num_columns);
}

template <class Format, int R, int P>
void multiply_direct(const Matrix& matrix, long panel, const float* x, float* y, long ldy) {
    const uint8_t* panels[P];
    panel_pointers<Format>(matrix, panel, panels);
    alignas(64) float sums[R * P * kLanes];
    put_bias(matrix, panel, P, R, sums);
    Format::template multiply<R, P>(panels, x, matrix.num_columns, matrix.num_columns, sums);
    put_out(matrix, panel, P, R, sums, y, ldy);
}

template <class Format>
void direct_rows(const Matrix& matrix, const float* x, long num_tokens, float* y, long ldy) {
    constexpr int kGroup = panels_of(1);  // a multiple of every other tile's panels
    const long num_panels = (matrix.num_rows + kLanes - 1) / kLanes;
    const long num_groups = (num_panels + kGroup - 1) / kGroup;
    const bool is_small = num_tokens * matrix.num_rows * matrix.num_columns < kSmallWork;
    parallel_for(num_groups, std::max(1, kDirectPanels / kGroup), is_small, [&](long begin, long end) {
        for (long group = begin; group < end; ++group) {
            const long first = group * kGroup, stop = std::min(num_panels, first + kGroup);
            for_row_tiles<Format::kTileRows>(num_tokens, [&](auto height, long row) {
                constexpr int kPanels = panels_of(height);
                const float* from = x + row * matrix.num_columns;
                float* to = y + row * ldy;
                long panel = first;
                for (; panel + kPanels <= stop; panel += kPanels)
                    multiply_direct<Format, height, kPanels>(matrix, panel, from, to, ldy);
                for (; panel < stop; ++panel) multiply_direct<Format, height, 1>(matrix, panel, from, to, ldy);
            });
        }
    });
}

// Some rows times one group of panels, by way of the expanded weights.
template <class Format, int P>
void multiply_expanded(const Matrix& matrix, long panel, const float* x, long rows, float* y, long ldy) {
    const long num_columns = matrix.num_columns;
    const uint8_t* panels[P];
    panel_pointers<Format>(matrix, panel, panels);
    alignas(64) float weights[P][kExpandedColumns * kLanes];
    alignas(64) float sums[kSharedRows * P * kLanes];
    const float* expanded[P];
    for (int p = 0; p < P; ++p) expanded[p] = weights[p];
    const long ahead = P * Format::panel_bytes(num_columns);
    put_bias(matrix, panel, P, rows, sums);
    for (long k = 0; k < num_columns; k += kExpandedColumns) {
        const long k_count = std::min(kExpandedColumns, num_columns - k);
        for (int p = 0; p < P; ++p) Format::expand(panels[p], k, k_count, ahead, weights[p]);
        for_row_tiles<kMaxRows>(rows, [&](auto height, long row) {
            multiply_tile<height, P>(x + row * num_columns + k, num_columns, expanded, kLanes, k_count,
                                     sums + row * P * kLanes, P * kLanes);
        });
    }
    put_out(matrix, panel, P, rows, sums, y, ldy);
}

template <class Format>
void expanded_rows(const Matrix& matrix, const float* x, long num_tokens, float* y, long ldy) {
    constexpr int kPanels = panels_of(kMaxRows);
    const long num_panels = (matrix.num_rows + kLanes - 1) / kLanes;
    const long num_groups = (num_panels + kPanels - 1) / kPanels;
    const bool is_small = num_tokens * matrix.num_rows * matrix.num_columns < kSmallWork;
    parallel_for(num_groups, 1, is_small, [&](long begin, long end) {
        for (long row = 0; row < num_tokens; row += kSharedRows) {
            const long rows = std::min(kSharedRows, num_tokens - row), stop = std::min(num_panels, end * kPanels);
            const float* from = x + row * matrix.num_columns;
            float* to = y + row * ldy;
            long panel = begin * kPanels;
            for (; panel + kPanels <= stop; panel += kPanels)
                multiply_expanded<Format, kPanels>(matrix, panel, from, rows, to, ldy);
            for (; panel < stop; ++panel) multiply_expanded<Format, 1>(matrix, panel, from, rows, to, ldy);
        }
    });
}

#if defined(__AMX_BF16__)

// Two panels; the second is the first once more where the matrix has no other.
template <class Format>
void multiply_on_unit(Unit& unit, const Matrix& matrix, long panel, const SplitBlock* x, long num_blocks, long rows,
                      float* y, long ldy) {
    static thread_local UnitWorkspace* const space = new UnitWorkspace();
    const long bytes = Format::panel_bytes(matrix.num_columns);
    const int num_panels = (panel + 1) * kLanes < matrix.num_rows ? 2 : 1;
    const PanelPair<Format> weights = {
        {matrix.panels + panel * bytes, matrix.panels + (panel + num_panels - 1) * bytes}, matrix.num_columns, 2 * bytes};
    Vec bias[2];
    for (int p = 0; p < 2; ++p)
        bias[p] = matrix.bias && p < num_panels ? load(matrix.bias + (panel + p) * kLanes) : zero();
    for (long row = 0; row < rows; ++row)
        for (int p = 0; p < 2; ++p) store(space->sums[row][p], bias[p]);
    const auto multiply = !UnitFormat<Format>::kIsScaled ? multiply_dense<Format>
                          : rows > kUnitRows             ? multiply_many<Format>
                          : rows > kStackedRows          ? multiply_few<Format, false>
                                                         : multiply_few<Format, true>;
    multiply(unit, weights, x, num_blocks, rows, *space);
    if ((panel + 2) * kLanes > matrix.num_rows) return put_out(matrix, panel, 2, rows, space->sums[0][0], y, ldy);
    for (long row = 0; row < rows; ++row)
        for (int p = 0; p < 2; ++p) store(y + row * ldy + (panel + p) * kLanes, load(space->sums[row][p]));
}

// Activations as the unit wants them. Each thread cuts up all of them for itself: to fetch what another core has written
// takes longer.
class SplitRows {
  public:
    // x: [rows][num_columns] of one call of `rows_on_unit`, by its number.
    const SplitBlock* of(long call, const float* x, long rows, long num_columns) {
        const long num_blocks = (num_columns + kBlock - 1) / kBlock;
        if (call_ == call) return blocks_.data();
        call_ = call;
        blocks_.resize((rows + 2 * kUnitRows - 1) / (2 * kUnitRows) * 2 * num_blocks);
        for (long r = 0; r < rows; ++r)
            for (long block = 0; block < num_blocks; ++block)
                split(x + r * num_columns + block * kBlock, (int)std::min<long>(kBlock, num_columns - block * kBlock),
                      (int)(r % kUnitRows), blocks_[r / kUnitRows * num_blocks + block]);
        return blocks_.data();
    }

  private:
    std::vector<SplitBlock> blocks_;
    long call_ = 0;
};

template <class Format>
void rows_on_unit(const Matrix& matrix, const float* x, long num_tokens, float* y, long ldy) {
    static std::atomic<long> num_calls{0};
    const long num_blocks = (matrix.num_columns + kBlock - 1) / kBlock;
    const long num_groups = (matrix.num_rows + 2 * kLanes - 1) / (2 * kLanes);
    for (long row = 0; row < num_tokens; row += kUnitTokens) {
        const long rows = std::min(kUnitTokens, num_tokens - row), call = ++num_calls;
        const bool is_small = rows * matrix.num_rows * matrix.num_columns < kSmallWork;
        parallel_for(num_groups, rows > kUnitRows ? 1 : 4, is_small, [&](long begin, long end) {
            static thread_local SplitRows split_rows;
            const SplitBlock* blocks = split_rows.of(call, x + row * matrix.num_columns, rows, matrix.num_columns);
            Unit unit;
            for (long group = begin; group < end; ++group)
                multiply_on_unit<Format>(unit, matrix, 2 * group, blocks, num_blocks, rows, y + row * ldy, ldy);
        });
    }
}

#endif

template <class T>
void multiply(Dense<T>, const Matrix& matrix, const float* x, long num_tokens, float* y, long ldy) {
    if (num_tokens <= kDirectTiles * Dense<T>::kTileRows)
        direct_rows<Dense<T>>(matrix, x, num_tokens, y, ldy);
    else
        expanded_rows<Dense<T>>(matrix, x, num_tokens, y, ldy);
}

template <class Block>
void multiply(Blocks<Block>, const Matrix& matrix, const float* x, long num_tokens, float* y, long ldy) {
    block_rows<ScaledRows<Block>, Block>(matrix, x, num_tokens, y, ldy);
}

template <class F>
void with_format(long format, F f) {
    switch (format) {
        case kFloat32: return f(Dense<float>());
        case kFloat16: return f(Dense<Half>());
        case kBFloat16: return f(Dense<BFloat>());
        case kQ4_0: return f(Blocks<Q4_0>());
        case kQ4_1: return f(Blocks<Q4_1>());
        case kQ4_Z: return f(Blocks<Q4_Z>());
        default: return f(Blocks<Q8_0>());
    }
}

}  // namespace
}  // namespace pagestream

using namespace pagestream;

int64_t panel_bytes(int64_t format, int64_t num_columns) {
    int64_t bytes = 0;
    with_format(format, [&](auto chosen) { bytes = decltype(chosen)::panel_bytes(num_columns); });
    return bytes;
}

void pack_matrix(int64_t format, const uint8_t* source, int64_t num_rows, int64_t num_columns, uint8_t* panels) {
    with_format(format, [&](auto chosen) {
        using Format = decltype(chosen);
        const long num_panels = (num_rows + kLanes - 1) / kLanes, bytes = Format::panel_bytes(num_columns);
        parallel_for(num_panels, 1, false, [&](long begin, long end) {
            for (long panel = begin; panel < end; ++panel) {
                memset(panels + panel * bytes, 0, bytes);
                Format::pack(source, num_rows, num_columns, panel * kLanes, panels + panel * bytes);
            }
        });
    });
}

void linear(const Matrix* matrix, const float* x, int64_t num_tokens, float* y, int64_t ldy) {
    if (!num_tokens) return;
    with_format(matrix->format, [&](auto chosen) {
#if defined(__AMX_BF16__)
        using Format = decltype(chosen);
        if constexpr (UnitFormat<Format>::kExists) return rows_on_unit<Format>(*matrix, x, num_tokens, y, ldy);
#endif
        multiply(chosen, *matrix, x, num_tokens, y, ldy);
    });
}

void gather_rows(const Matrix* matrix, const int64_t* rows, int64_t num_tokens, float* y) {
    with_format(matrix->format, [&](auto chosen) {
        using Format = decltype(chosen);
        for (int64_t token = 0; token < num_tokens; ++token) {
            const uint8_t* panel = matrix->panels + rows[token] / kLanes * Format::panel_bytes(matrix->num_columns);
            for (int64_t k = 0; k < matrix->num_columns; ++k)
                y[token * matrix->num_columns + k] = Format::at(panel, k, (int)(rows[token] % kLanes));
        }
    });
}
