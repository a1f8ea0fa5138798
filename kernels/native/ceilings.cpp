// What this machine can do at best, with the threads and the vectors that the ops have.
#include "library.h"
#include "simd.h"
#include "threads.h"

namespace pagestream {
namespace {

constexpr int64_t kReadPiece = 1 << 16;  // floats
constexpr int kReadStreams = 8;
// Enough sums under way to hide a multiply-add's latency, few enough to stay in registers beside its two operands.
constexpr int kSpareSums = kVectorRegisters / kRegistersPerVec - 2;
constexpr int kNumSums = kSpareSums < 12 ? kSpareSums : 12;
constexpr int64_t kRoundsOfAPiece = 1 << 14;

float sum_of_piece(const float* numbers, int64_t count) {
    Vec sums[kReadStreams];
    for (Vec& part : sums) part = zero();
    int64_t i = 0;
    for (; i + kReadStreams * kLanes <= count; i += kReadStreams * kLanes)
#pragma GCC unroll 8
        for (int stream = 0; stream < kReadStreams; ++stream)
            sums[stream] = add(sums[stream], load(numbers + i + stream * kLanes));
    float total = 0;
    for (const Vec& part : sums) total += sum(part);
    for (; i < count; ++i) total += numbers[i];
    return total;
}

float multiply_and_add() {
    Vec sums[kNumSums];
    for (int i = 0; i < kNumSums; ++i) sums[i] = broadcast((float)i);
    const Vec factor = broadcast(0.5f), addend = broadcast(1.0f);
    for (int64_t round = 0; round < kRoundsOfAPiece; ++round)
#pragma GCC unroll 16  // or the sums lie in memory
        for (int i = 0; i < kNumSums; ++i) sums[i] = fma(sums[i], factor, addend);
    float total = 0;
    for (const Vec& part : sums) total += sum(part);
    return total;
}

}  // namespace
}  // namespace pagestream

using namespace pagestream;

int64_t num_read_pieces(int64_t num_floats) { return (num_floats + kReadPiece - 1) / kReadPiece; }

void read_all(const float* numbers, int64_t num_floats, float* sums) {
    parallel_for(num_read_pieces(num_floats), 1, false, [&](long begin, long end) {
        for (long piece = begin; piece < end; ++piece) {
            const int64_t first = piece * kReadPiece;
            sums[piece] = sum_of_piece(numbers + first, std::min(kReadPiece, num_floats - first));
        }
    });
}

int64_t multiply_add_all(int64_t num_pieces, float* sums) {
    parallel_for(num_pieces, 1, false, [&](long begin, long end) {
        for (long piece = begin; piece < end; ++piece) sums[piece] = multiply_and_add();
    });
    return num_pieces * kRoundsOfAPiece * kNumSums * kLanes;
}
