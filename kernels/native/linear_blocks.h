// Multiplying rows of fp32 by panels of GGUF's blocks, block after block of 32 k.
//
// The order of every sum: within a block the products of activations and bare quants, in order over k; then
// sums += offset * (total of the block's activations) and sums += scale * (sum). It depends neither on the rows beside a
// row nor on where rows or panels are cut. A weight costs no multiplication by its scale, and is unpacked anew for every
// few rows: by instructions that processors have beside their multiply-adds.
#pragma once
#include <algorithm>
#include <atomic>
#include <type_traits>
#include <vector>

#include "formats.h"
#include "outputs.h"

namespace pagestream {

// Rows of a tile at most, and the panels beside so many, a power of two: their sums, one panel's quants and one broadcast
// number fit into the registers. One row has four sums, no more: threads share out groups of panels, and small matrices
// have few.
struct BlockTiles {
    static constexpr int kTileRows = std::min(10, (kVectorRegisters - 1) / kRegistersPerVec - 1);
    static constexpr int panels_of(int rows) {
        constexpr int kEnough = 4;
        int panels = 1;
        while (panels * kRegistersPerVec < kEnough && 2 * panels * rows * kRegistersPerVec <= kVectorRegisters * 2 / 3)
            panels *= 2;
        return panels;
    }
};

// Activations as blocks want them: what a quant's place in its word has multiplied it by is taken back here, exactly,
// and each block's total is there for its offset.
struct BlockRows {
    const float *x, *totals;
    long num_columns;
};
struct RoundedBlockRows : BlockRows {
    const float* scales;  // of each block
};

// The rows of one call, by its number. Each thread makes them for itself: to fetch what another core has written takes
// longer.
template <class Block>
class ScaledRows : public BlockTiles {
  public:
    BlockRows of(long call, const float* x, long rows, long num_columns) {
        if (call_ != call) scale(x, rows, num_columns);
        call_ = call;
        return {scaled_.data(), totals_.data(), num_columns};
    }

  private:
    void scale(const float* x, long rows, long num_columns) {
        const long count = rows * num_columns;
        if ((long)scaled_.size() < count) scaled_.resize(count);
        if ((long)totals_.size() < count / kBlock) totals_.resize(count / kBlock);
        const Vec low = load(Block::kPlaces), high = load(Block::kPlaces + kLanes);
        for (long i = 0; i < count; i += kBlock) {
            const Vec first = load(x + i), second = load(x + i + kLanes);
            totals_[i / kBlock] = sum(add(first, second));
            store(scaled_.data() + i, mul(first, low));
            store(scaled_.data() + i + kLanes, mul(second, high));
        }
    }

    std::vector<float> scaled_, totals_;
    long call_ = 0;
};

template <int J, int R, int P, class Block>
INLINE void sum_block(const Block* (&blocks)[P], const float* (&x)[R], Vec (&sum)[R][P]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        asm volatile("" : : : "memory");  // or the compiler loads a block's words once, and spills them
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
            const Vec quant = Block::template quant<J>(blocks[p]->quants, i);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                const Vec number = broadcast(x[r][4 * J + i]);
                sum[r][p] = J + i == 0 ? mul(number, quant) : fma(number, quant, sum[r][p]);
            }
        }
    }
    if constexpr (J < 7) sum_block<J + 1>(blocks, x, sum);
}

// sums[r][p] += row r times panel p. ahead: bytes to the panels that are needed next, 0 to ask for none.
template <int R, int P, class Block, class Rows>
INLINE void add_blocks(const Block* (&blocks)[P], const Rows& rows, long row, long ahead, float* sums) {
    constexpr bool kIsRounded = std::is_same_v<Rows, RoundedBlockRows>;
    const long num_blocks = rows.num_columns / kBlock;
    const float* x[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) x[r] = rows.x + (row + r) * rows.num_columns;
    const float* totals = rows.totals + row * num_blocks;
    for (long block = 0; block < num_blocks; ++block) {
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
            if (ahead) fetch<sizeof(Block)>((const uint8_t*)blocks[p] + ahead);
            asm("" : "+r"(blocks[p]));
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) asm("" : "+r"(x[r]));  // one register each, at constant distances
        Vec sum[R][P];
        sum_block<0>(blocks, x, sum);
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
            const Vec scale = blocks[p]->scale();
            [[maybe_unused]] Vec offset;
            if constexpr (Block::kHasOffset) offset = blocks[p]->offset();
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                float* to = sums + (r * P + p) * kLanes;
                Vec total = load(to);
                if constexpr (Block::kHasOffset) total = fma(offset, broadcast(totals[r * num_blocks + block]), total);
                Vec factor = scale;
                if constexpr (kIsRounded) factor = mul(scale, broadcast(rows.scales[(row + r) * num_blocks + block]));
                store(to, fma(factor, sum[r][p], total));
            }
            ++blocks[p];
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) x[r] += kBlock;
    }
}

template <class Block, int R, int P, class Rows>
void multiply_blocks(const Matrix& matrix, long panel, const Rows& rows, long row, float* y, long ldy) {
    const long bytes = Blocks<Block>::panel_bytes(matrix.num_columns);
    const Block* blocks[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) blocks[p] = (const Block*)(matrix.panels + (panel + p) * bytes);
    alignas(64) float sums[R * P * kLanes];
    put_bias(matrix, panel, P, R, sums);
    // Asked for by the first rows, what the thread needs next is there for all.
    add_blocks<R, P>(blocks, rows, row, row == 0 ? P * num_threads() * bytes : 0, sums);
    put_out(matrix, panel, P, R, sums, y + row * ldy, ldy);
}

// Rows: what makes the rows of a call, and says how many of them, and panels beside, a tile has.
template <class Rows, class Block>
void block_rows(const Matrix& matrix, const float* x, long num_tokens, float* y, long ldy) {
    static std::atomic<long> num_calls{0};
    constexpr int kGroup = Rows::panels_of(1);  // a multiple of every other tile's panels
    const long num_panels = (matrix.num_rows + kLanes - 1) / kLanes;
    const long num_groups = (num_panels + kGroup - 1) / kGroup;
    for (long row = 0; row < num_tokens; row += kSharedRows) {
        const long rows = std::min(kSharedRows, num_tokens - row), call = ++num_calls;
        const bool is_small = rows * matrix.num_rows * matrix.num_columns < kSmallWork;
        parallel_for(num_groups, 1, is_small, [&](long begin, long end) {
            static thread_local Rows rows_of_call;
            const auto from = rows_of_call.of(call, x + row * matrix.num_columns, rows, matrix.num_columns);
            for_row_tiles<Rows::kTileRows>(rows, [&](auto height, long tile) {
                constexpr int kPanels = Rows::panels_of(height);
                const long stop = std::min(num_panels, end * kGroup);
                float* to = y + row * ldy;
                long panel = begin * kGroup;
                for (; panel + kPanels <= stop; panel += kPanels)
                    multiply_blocks<Block, height, kPanels>(matrix, panel, from, tile, to, ldy);
                for (; panel < stop; ++panel) multiply_blocks<Block, height, 1>(matrix, panel, from, tile, to, ldy);
            });
        });
    }
}

}  // namespace pagestream
