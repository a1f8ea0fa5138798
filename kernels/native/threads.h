// A team of threads that shares out the items of a loop and waits for no thread that has taken none.
//
// OpenMP's loops end when every thread of the team has come by. Beside other busy processes one of them often waits
// for a core, and with it all: a step of 20 ms takes a second. Here the caller works through the loop itself, helpers
// that are awake take items off it, and it ends when all items are done. Between loops helpers look for the next one
// for a moment, which is longer than the gaps inside a step, and then sleep.
#pragma once
#include <algorithm>
#include <cstdint>

namespace pagestream {

// Call run(context, i) once for every i in [0, count), in any order and on any thread; returns when all are done.
void share_out(long count, void (*run)(const void* context, long index), const void* context);

// Threads that take items, the caller included.
long num_threads();

// body(begin, end) on pieces of [0, count) of `grain` items; serial where `is_small`.
template <class Body>
void parallel_for(long count, long grain, bool is_small, const Body& body) {
    const long num_pieces = (count + grain - 1) / grain;
    if (is_small || num_pieces < 2) {
        if (count) body(0L, count);
        return;
    }
    struct Loop {
        const Body& body;
        long count, grain;
    } const loop{body, count, grain};
    const auto run = [](const void* context, long piece) {
        const Loop& loop = *static_cast<const Loop*>(context);
        loop.body(piece * loop.grain, std::min(loop.count, (piece + 1) * loop.grain));
    };
    share_out(num_pieces, run, &loop);
}

}  // namespace pagestream
