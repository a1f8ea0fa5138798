// Multiplying on the matrix unit: some tokens times two panels of weights, the whole of k.
//
// The order of every sum: block after block of 32 k; within a block the unit's own order, first over the third pieces of
// the activations, then the second, then the first; then the offset's product is added and the scaled sum. It depends
// neither on the rows beside a row nor on where rows or columns are cut.
#pragma once
#include "matrix_unit.h"

namespace pagestream {

constexpr long kUnitTokens = 128;   // that share the expanded weights
constexpr long kChunk = 1;          // blocks of k whose scales are applied together; k is padded to whole chunks
constexpr long kExpandedBlocks = 9;  // a multiple of it: 110 KiB for two panels

// What one thread needs: reused, as it is large.
struct UnitWorkspace {
    UnitBlock weights[2][kExpandedBlocks];
    UnitTile<float> products[2][kChunk][2][2];  // of this chunk and the one before: [block][tile][panel]
    alignas(64) float sums[kUnitTokens][2][kLanes];
};

template <int kTile, int kPanel>
INLINE void multiply_registers() {
    multiply_tiles<sums_register(kTile, kPanel), activations_register(kTile), weights_register(kPanel)>();
}

template <int kTile>
INLINE void load_piece(const SplitBlock& x, int piece) {
    load_tile<activations_register(kTile)>(x.pieces[0][piece], kPieceStride);
}

// One chunk of k of 32 tokens times two panels.
struct UnitChunk {
    const SplitBlock* x[2];   // of each tile of rows
    const UnitBlock* w[2];    // of each panel
    UnitTile<float> (*products)[2][2];
    float (*sums)[2][kLanes];
};

// Multiply a chunk, and meanwhile add up what the chunk before gave: the unit and the vector registers work side by
// side if their instructions are close enough together.
template <bool kHasOffset>
class ChunkPipeline {
  public:
    void run(const UnitChunk& next) {
        if (has_before_)
            interleave<true, true>(next, before_);
        else
            interleave<true, false>(next, next);
        before_ = next;
        has_before_ = true;
    }

    void drain() {
        if (has_before_) interleave<false, true>(before_, before_);
        has_before_ = false;
    }

  private:
    static constexpr int kSteps = 4 * kChunk;

    template <bool kMultiply, bool kAdd, int kStep = 0>
    INLINE static void interleave(const UnitChunk& next, const UnitChunk& before) {
        Vec sums[kUnitRows];
        steps<kMultiply, kAdd, 0>(next, before, sums);
    }

    template <bool kMultiply, bool kAdd, int kStep>
    INLINE static void steps(const UnitChunk& next, const UnitChunk& before, Vec (&sums)[kUnitRows]) {
        if constexpr (kStep < kSteps) {
            if constexpr (kMultiply) multiply<kStep / 4, kStep % 4>(next);
            if constexpr (kAdd) add_up<kStep / kChunk, kStep % kChunk>(before, sums);
            steps<kMultiply, kAdd, kStep + 1>(next, before, sums);
        }
    }

    // A quarter of one block's twelve products.
    template <int kBlockOfChunk, int kQuarter>
    INLINE static void multiply(const UnitChunk& chunk) {
        if constexpr (kQuarter == 0) {
            clear_tile<sums_register(0, 0)>();
            clear_tile<sums_register(0, 1)>();
            clear_tile<sums_register(1, 0)>();
            clear_tile<sums_register(1, 1)>();
            load_tile<weights_register(0)>(&chunk.w[0][kBlockOfChunk].weights);
            load_tile<weights_register(1)>(&chunk.w[1][kBlockOfChunk].weights);
        }
        product<kBlockOfChunk, 3 * kQuarter>(chunk);
        product<kBlockOfChunk, 3 * kQuarter + 1>(chunk);
        product<kBlockOfChunk, 3 * kQuarter + 2>(chunk);
        if constexpr (kQuarter == 3) {
            auto& to = chunk.products[kBlockOfChunk];
            store_tile<sums_register(0, 0)>(&to[0][0]);
            store_tile<sums_register(0, 1)>(&to[0][1]);
            store_tile<sums_register(1, 0)>(&to[1][0]);
            store_tile<sums_register(1, 1)>(&to[1][1]);
        }
    }

    template <int kBlockOfChunk, int kProduct>
    INLINE static void product(const UnitChunk& chunk) {
        constexpr int kPiece = kProduct / 4, kTile = kProduct % 4 / 2, kPanel = kProduct % 2;
        if constexpr (kPanel == 0) load_piece<kTile>(chunk.x[kTile][kBlockOfChunk], kPiece);
        multiply_registers<kTile, kPanel>();
    }

    // One block's products of one tile and panel, scaled and added to their sums.
    template <int kTileAndPanel, int kBlockOfChunk>
    INLINE static void add_up(const UnitChunk& chunk, Vec (&sums)[kUnitRows]) {
        constexpr int kTile = kTileAndPanel / 2, kPanel = kTileAndPanel % 2;
        const UnitBlock& w = chunk.w[kPanel][kBlockOfChunk];
        const float* totals = chunk.x[kTile][kBlockOfChunk].totals;
        const auto& products = chunk.products[kBlockOfChunk][kTile][kPanel];
        float(*to)[2][kLanes] = chunk.sums + kTile * kUnitRows;
        const Vec scale = load(w.scale), offset = load(w.offset);
#pragma GCC unroll 16
        for (int row = 0; row < kUnitRows; ++row) {
            if constexpr (kBlockOfChunk == 0) sums[row] = load(to[row][kPanel]);
            if constexpr (kHasOffset) sums[row] = fma(offset, broadcast(totals[row]), sums[row]);
            sums[row] = fma(scale, load(products.rows[row]), sums[row]);
            if constexpr (kBlockOfChunk == kChunk - 1) store(to[row][kPanel], sums[row]);
        }
    }

    UnitChunk before_ = {};
    bool has_before_ = false;
};

template <class Format>
INLINE void expand_blocks(const uint8_t* const (&panels)[2], long first, long count, long num_columns, long ahead,
                          UnitWorkspace& space) {
    constexpr long kBytes = Format::panel_bytes(kBlock);
    for (long block = 0; block < count; ++block)
        for (int p = 0; p < 2; ++p) {
            UnitBlock& to = space.weights[p][block];
            if ((first + block) * kBlock >= num_columns) {
                memset(&to, 0, sizeof to);
                continue;
            }
            fetch<kBytes>(panels[p] + (first + block) * kBytes + ahead);
            UnitFormat<Format>::expand(panels[p], first + block, num_columns, to);
        }
}

// rows: a multiple of 32 as far as memory goes; those that are too many are of no meaning.
template <class Format>
void multiply_many(Unit& unit, const uint8_t* const (&panels)[2], long num_columns, long ahead, const SplitBlock* x,
                   long num_blocks, long rows, UnitWorkspace& space) {
    unit.set_height(kUnitRows);
    ChunkPipeline<UnitFormat<Format>::kHasOffset> pipeline;
    for (long first = 0; first < num_blocks; first += kExpandedBlocks) {
        const long count = std::min(kExpandedBlocks, num_blocks - first);
        expand_blocks<Format>(panels, first, count, num_columns, ahead, space);
        int turn = 0;
        for (long row = 0; row < rows; row += 2 * kUnitRows) {
            const SplitBlock* from = x + row / kUnitRows * num_blocks + first;
            for (long chunk = 0; chunk < count; chunk += kChunk, turn ^= 1)
                pipeline.run({{from + chunk, from + num_blocks + chunk},
                              {space.weights[0] + chunk, space.weights[1] + chunk},
                              space.products[turn],
                              space.sums + row});
        }
        pipeline.drain();
    }
}

constexpr long kStackedRows = kUnitRows / kPieces;

// Up to sixteen tokens: the weights are used once, so they are expanded while the unit multiplies those before. Loading a
// tile of weights takes the unit as long as multiplying sixteen rows by it: so where they fit, the pieces of all rows are
// multiplied as rows of one tile, and added here as the unit would add them.
template <class Format, bool kIsStacked>
void multiply_few(Unit& unit, const uint8_t* const (&panels)[2], long num_columns, long ahead, const SplitBlock* x,
                  long num_blocks, long rows, UnitWorkspace& space) {
    constexpr long kBytes = Format::panel_bytes(kBlock), kLead = 4, kRing = 8;
    unit.set_height((int)(kIsStacked ? kPieces * rows : rows));
    const auto expand = [&](long block) {
#pragma GCC unroll 2
        for (int p = 0; p < 2; ++p) {
            fetch<kBytes>(panels[p] + block * kBytes + ahead);
            UnitFormat<Format>::expand(panels[p], block, num_columns, space.weights[p][block % kRing]);
        }
    };
    const auto multiply = [&](auto panel, long block) {
        constexpr int kRegister = sums_register(0, panel);
        clear_tile<kRegister>();
        load_tile<weights_register(panel)>(&space.weights[panel][block % kRing].weights);
        if constexpr (kIsStacked) {
            load_tile<activations_register(0)>(x[block].pieces);
            multiply_registers<0, panel>();
        } else {
#pragma GCC unroll 3
            for (int piece = 0; piece < kPieces; ++piece) {
                load_piece<0>(x[block], piece);
                multiply_registers<0, panel>();
            }
        }
        store_tile<kRegister>(&space.products[block % 2][0][0][panel]);
    };
    const auto product = [&](const UnitTile<float>& products, long row) {
        if constexpr (!kIsStacked) return load(products.rows[row]);
        const auto* pieces = products.rows + kPieces * row;
        return add(add(load(pieces[0]), load(pieces[1])), load(pieces[2]));
    };
    const auto add_up = [&](long block) {
        for (int p = 0; p < 2; ++p) {
            const UnitBlock& w = space.weights[p][block % kRing];
            const Vec scale = load(w.scale), offset = load(w.offset);
            for (long row = 0; row < rows; ++row) {
                Vec sum = load(space.sums[row][p]);
                if constexpr (UnitFormat<Format>::kHasOffset) sum = fma(offset, broadcast(x[block].totals[row]), sum);
                store(space.sums[row][p], fma(scale, product(space.products[block % 2][0][0][p], row), sum));
            }
        }
    };
    for (long block = 0; block < std::min(kLead, num_blocks); ++block) expand(block);
    for (long block = 0; block < num_blocks; ++block) {
        multiply(Count<0>(), block);
        multiply(Count<1>(), block);
        if (block + kLead < num_blocks) expand(block + kLead);
        if (block) add_up(block - 1);
    }
    add_up(num_blocks - 1);
}

// Weights without scales: the sums stay in the unit.
template <class Format>
void multiply_dense(Unit& unit, const uint8_t* const (&panels)[2], long num_columns, long ahead, const SplitBlock* x,
                    long num_blocks, long rows, UnitWorkspace& space) {
    constexpr long kStride = sizeof space.sums[0];
    unit.set_height((int)std::min<long>(rows, kUnitRows));
    for (long first = 0; first < num_blocks; first += kExpandedBlocks) {
        const long count = std::min(kExpandedBlocks, num_blocks - first);
        expand_blocks<Format>(panels, first, count, num_columns, ahead, space);
        for (long row = 0; row < rows; row += kUnitRows) {
            const SplitBlock* from = x + row / kUnitRows * num_blocks + first;
            load_tile<sums_register(0, 0)>(space.sums[row][0], kStride);
            load_tile<sums_register(0, 1)>(space.sums[row][1], kStride);
            for (long block = 0; block < count; ++block) {
                load_tile<weights_register(0)>(&space.weights[0][block].weights);
                load_tile<weights_register(1)>(&space.weights[1][block].weights);
#pragma GCC unroll 3
                for (int piece = 0; piece < kPieces; ++piece) {
                    load_piece<0>(from[block], piece);
                    multiply_registers<0, 0>();
                    multiply_registers<0, 1>();
                }
            }
            store_tile<sums_register(0, 0)>(space.sums[row][0], kStride);
            store_tile<sums_register(0, 1)>(space.sums[row][1], kStride);
        }
    }
}

}  // namespace pagestream
