// Multiplying on the matrix unit: some tokens times two panels of weights, the whole of k.
//
// The order of every sum: block after block of 32 k; within a block the unit's own order, first over the third pieces of
// the activations, then the second, then the first; then the offset's product is added and the scaled sum. It depends
// neither on the rows beside a row nor on where rows or columns are cut.
#pragma once
#include "matrix_unit.h"

namespace pagestream {

constexpr long kUnitTokens = 128;    // that share the expanded weights
constexpr long kExpandedBlocks = 9;  // of k: 20 KiB for two panels
constexpr long kLead = 4;            // blocks that few rows' weights are expanded ahead

// What one thread needs: reused, as it is large.
struct UnitWorkspace {
    UnitBlock weights[2][kExpandedBlocks];
    UnitTile<float> products[2][2][2];  // of this block and the one before: [tile][panel]
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

// Two panels of weights in the format they are stored in, expanded block by block into the workspace.
template <class Format>
struct PanelPair {
    const uint8_t* panels[2];
    long num_columns, ahead;  // ahead: bytes to the panels that are needed next

    INLINE void expand(long block, UnitWorkspace& space) const {
        constexpr long kBytes = Format::panel_bytes(kBlock);
#pragma GCC unroll 2
        for (int p = 0; p < 2; ++p) {
            fetch<kBytes>(panels[p] + block * kBytes + ahead);
            UnitFormat<Format>::expand(panels[p], block, num_columns, space.weights[p][block % kExpandedBlocks]);
        }
    }
};

// One block of k of 32 tokens times two panels.
struct BlockProduct {
    const SplitBlock* x[2];  // of each tile of rows
    const UnitBlock* w[2];   // of each panel
    UnitTile<float> (*products)[2];
    float (*sums)[2][kLanes];
};

// Multiply a block, and meanwhile add up what the block before gave: the unit and the vector registers work side by
// side if their instructions are close enough together.
template <bool kHasOffset>
class BlockPipeline {
  public:
    void run(const BlockProduct& next) {
        if (has_before_)
            step<true, true>(next, before_);
        else
            step<true, false>(next, next);
        before_ = next;
        has_before_ = true;
    }

    void drain() {
        if (has_before_) step<false, true>(before_, before_);
        has_before_ = false;
    }

  private:
    template <bool kMultiply, bool kAdd, int kQuarter = 0>
    INLINE static void step(const BlockProduct& next, const BlockProduct& before) {
        if constexpr (kMultiply) multiply<kQuarter>(next);
        if constexpr (kAdd) add_up<kQuarter / 2, kQuarter % 2>(before);
        if constexpr (kQuarter < 3) step<kMultiply, kAdd, kQuarter + 1>(next, before);
    }

    // A quarter of the twelve products of three pieces, two tiles and two panels.
    template <int kQuarter>
    INLINE static void multiply(const BlockProduct& block) {
        if constexpr (kQuarter == 0) {
            clear_tile<sums_register(0, 0)>();
            clear_tile<sums_register(0, 1)>();
            clear_tile<sums_register(1, 0)>();
            clear_tile<sums_register(1, 1)>();
            load_tile<weights_register(0)>(&block.w[0]->weights);
            load_tile<weights_register(1)>(&block.w[1]->weights);
        }
        product<3 * kQuarter>(block);
        product<3 * kQuarter + 1>(block);
        product<3 * kQuarter + 2>(block);
        if constexpr (kQuarter == 3) {
            store_tile<sums_register(0, 0)>(&block.products[0][0]);
            store_tile<sums_register(0, 1)>(&block.products[0][1]);
            store_tile<sums_register(1, 0)>(&block.products[1][0]);
            store_tile<sums_register(1, 1)>(&block.products[1][1]);
        }
    }

    template <int kProduct>
    INLINE static void product(const BlockProduct& block) {
        constexpr int kPiece = kProduct / 4, kTile = kProduct % 4 / 2, kPanel = kProduct % 2;
        if constexpr (kPanel == 0) load_piece<kTile>(*block.x[kTile], kPiece);
        multiply_registers<kTile, kPanel>();
    }

    // The products of one tile and panel, scaled and added to their sums.
    template <int kTile, int kPanel>
    INLINE static void add_up(const BlockProduct& block) {
        const Vec scale = load(block.w[kPanel]->scale), offset = load(block.w[kPanel]->offset);
        const float* totals = block.x[kTile]->totals;
        const auto& products = block.products[kTile][kPanel];
        float(*to)[2][kLanes] = block.sums + kTile * kUnitRows;
#pragma GCC unroll 16
        for (int row = 0; row < kUnitRows; ++row) {
            Vec sum = load(to[row][kPanel]);
            if constexpr (kHasOffset) sum = fma(offset, broadcast(totals[row]), sum);
            store(to[row][kPanel], fma(scale, load(products.rows[row]), sum));
        }
    }

    BlockProduct before_ = {};
    bool has_before_ = false;
};

// rows: memory is there for a multiple of 32; those that are too many are of no meaning.
template <class Format>
void multiply_many(Unit& unit, const PanelPair<Format>& weights, const SplitBlock* x, long num_blocks, long rows,
                   UnitWorkspace& space) {
    unit.set_height(kUnitRows);
    BlockPipeline<UnitFormat<Format>::kHasOffset> pipeline;
    for (long first = 0; first < num_blocks; first += kExpandedBlocks) {
        const long count = std::min(kExpandedBlocks, num_blocks - first);
        for (long i = 0; i < count; ++i) weights.expand(first + i, space);
        int turn = 0;
        for (long row = 0; row < rows; row += 2 * kUnitRows) {
            const SplitBlock* from = x + row / kUnitRows * num_blocks + first;
            for (long i = 0; i < count; ++i, turn ^= 1)
                pipeline.run({{from + i, from + num_blocks + i},
                              {space.weights[0] + i, space.weights[1] + i},
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
void multiply_few(Unit& unit, const PanelPair<Format>& weights, const SplitBlock* x, long num_blocks, long rows,
                  UnitWorkspace& space) {
    unit.set_height((int)(kIsStacked ? kPieces * rows : rows));
    const auto multiply = [&](auto panel, long block) {
        constexpr int kRegister = sums_register(0, panel);
        clear_tile<kRegister>();
        load_tile<weights_register(panel)>(&space.weights[panel][block % kExpandedBlocks].weights);
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
        store_tile<kRegister>(&space.products[block % 2][0][panel]);
    };
    const auto product = [&](const UnitTile<float>& products, long row) {
        if constexpr (!kIsStacked) return load(products.rows[row]);
        const auto* pieces = products.rows + kPieces * row;
        return add(add(load(pieces[0]), load(pieces[1])), load(pieces[2]));
    };
    const auto add_up = [&](long block) {
        for (int p = 0; p < 2; ++p) {
            const UnitBlock& w = space.weights[p][block % kExpandedBlocks];
            const Vec scale = load(w.scale), offset = load(w.offset);
            for (long row = 0; row < rows; ++row) {
                Vec sum = load(space.sums[row][p]);
                if constexpr (UnitFormat<Format>::kHasOffset) sum = fma(offset, broadcast(x[block].totals[row]), sum);
                store(space.sums[row][p], fma(scale, product(space.products[block % 2][0][p], row), sum));
            }
        }
    };
    for (long block = 0; block < std::min(kLead, num_blocks); ++block) weights.expand(block, space);
    for (long block = 0; block < num_blocks; ++block) {
        multiply(Count<0>(), block);
        multiply(Count<1>(), block);
        if (block + kLead < num_blocks) weights.expand(block + kLead, space);
        if (block) add_up(block - 1);
    }
    add_up(num_blocks - 1);
}

// Weights without scales: the sums stay in the unit.
template <class Format>
void multiply_dense(Unit& unit, const PanelPair<Format>& weights, const SplitBlock* x, long num_blocks, long rows,
                    UnitWorkspace& space) {
    constexpr long kStride = sizeof space.sums[0];
    unit.set_height((int)std::min<long>(rows, kUnitRows));
    for (long first = 0; first < num_blocks; first += kExpandedBlocks) {
        const long count = std::min(kExpandedBlocks, num_blocks - first);
        for (long i = 0; i < count; ++i) weights.expand(first + i, space);
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
