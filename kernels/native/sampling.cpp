// The choice of a token from each row of logits. A row belongs to one thread, and no other row is looked at.
//
// The vocabulary is never sorted. Weights lie in [0, 1], where floats order as their bits do, so that the weight at
// which a number of tokens or a share of the mass is reached is found ten bits at a time: a histogram says which
// thousandth part of the range it lies in, and only the weights of that part are looked at again. A part's weights
// share their exponent; its mass is a sum of integers, the same in any order. The histogram begins with the blocks of
// weights that hold heavy ones, and takes in the others while the weight that is sought lies further down.
#include <cfloat>
#include <cmath>
#include <limits>
#include <vector>

#include "library.h"
#include "simd.h"
#include "threads.h"

namespace pagestream {
namespace {

constexpr int64_t kBlock = 256;  // weights that are summed at once on the way to the chosen one
constexpr float kLeastWeight = 0x1p-125f;

// body(row) for every row.
template <class Body>
void for_rows(int64_t num_rows, const Body& body) {
    parallel_for(num_rows, 1, false, [&](long begin, long end) {
        for (long row = begin; row < end; ++row) body(row);
    });
}

INLINE Vec load_or_none(int64_t count, const float* from) {
    return count >= kLanes ? load(from) : keep_first((int)count, load_first((int)count, from), broadcast(-INFINITY));
}

struct Largest {
    float number;
    bool is_finite;  // no number is NaN or positive infinity, and not all are negative infinity
};

Largest find_largest(const float* logits, int64_t size) {
    Vec most = broadcast(-INFINITY), poison = zero();
    for (int64_t i = 0; i < size; i += kLanes) {
        const Vec x = load_or_none(size - i, logits + i);
        most = max(most, x);
        poison = fma(max(broadcast(-FLT_MAX), x), zero(), poison);  // 0, or NaN for ever
    }
    const float number = largest(most);
    return {number, sum(poison) == 0.0f && number > -INFINITY};
}

int64_t place_of(float number, const float* logits, int64_t size) {
    for (int64_t first = 0; first < size; first += kBlock) {
        const int64_t end = std::min(first + kBlock, size);
        int found = 0;
        for (int64_t i = first; i < end; ++i) found |= logits[i] == number;
        for (int64_t i = first; found && i < end; ++i)
            if (logits[i] == number) return i;
    }
    return 0;
}

// e**x of numbers up to 0 within 2 units of the last place, exactly 1 of 0, and 0 where it is below kLeastWeight.
INLINE Vec weight_of(Vec x) {
    const Vec magic = broadcast(0x1.8p23f);
    x = max(broadcast(-87.0f), x);
    const Vec shifted = fma(x, broadcast(1.44269504f), magic);
    const Vec n = sub(shifted, magic);
    // ln 2 in two parts, the first with so few bits that its multiples are exact.
    const Vec r = fma(n, broadcast(2.12194440e-4f), fma(n, broadcast(-0.693359375f), x));
    // (e**r - 1 - r) / r**2 at Chebyshev's nodes in +-ln(2) / 2
    Vec p = broadcast(1.98910799e-4f);
    p = fma(p, r, broadcast(1.39337312e-3f));
    p = fma(p, r, broadcast(8.33331048e-3f));
    p = fma(p, r, broadcast(4.16664630e-2f));
    p = fma(p, r, broadcast(1.66666672e-1f));
    p = fma(p, r, broadcast(0.5f));
    p = add(fma(mul(p, r), r, r), broadcast(1.0f));
    return keep_at_least(add_to_exponent(p, shifted), broadcast(kLeastWeight));
}

// How far down the row, from the heaviest token on: to this many tokens, or to this much mass, whichever comes first.
struct Goal {
    int64_t num_tokens;
    double mass;
};

// One row's weights. Its memory is used again for the thread's next row.
class Weights {
  public:
    void fill(const float* logits, int64_t size, float temperature) {
        const int64_t num_blocks = (size + kBlock - 1) / kBlock;
        weights_.resize(num_blocks * kBlock);
        heaviest_.resize(num_blocks);
        through_.resize(num_blocks);
        candidates_.resize(weights_.size() + 1);  // one more is written and not kept
        const Vec most = broadcast(find_largest(logits, size).number), divisor = broadcast(temperature);
        for (int64_t block = 0; block < num_blocks; ++block) {
            Vec heaviest = zero();
            for (int64_t i = block * kBlock; i < (block + 1) * kBlock; i += kLanes) {
                const Vec x = i < size ? load_or_none(size - i, logits + i) : broadcast(-INFINITY);
                const Vec weight = weight_of(div(sub(x, most), divisor));
                heaviest = max(heaviest, weight);
                store(weights_.data() + i, weight);
            }
            heaviest_[block] = largest(heaviest);
        }
        num_floors_ = 0;
    }

    // The mass of the tokens that weigh at least `least`. `choose` goes by the last call.
    double sum_up(float least) {
        double total = 0.0;
        for (size_t block = 0; block < through_.size(); ++block) {
            total += sum_of_block(weights_.data() + block * kBlock, least);
            through_[block] = total;
        }
        least_ = least;
        return total;
    }

    // The token at which the running sum of the weights passes this share of the total; `share` is so far below 1 that
    // the product is less than the total.
    int64_t choose(double share) const {
        const double target = share * through_.back();
        const auto block = std::upper_bound(through_.begin(), through_.end(), target) - through_.begin();
        double mass = block ? through_[block - 1] : 0.0;
        int64_t chosen = 0;
        // One by one the sum can round below the block's; the token is then the block's last one with a weight.
        for (int64_t i = block * kBlock; i < (block + 1) * kBlock; ++i) {
            const float weight = weights_[i];
            if (weight == 0.0f || weight < least_) continue;
            chosen = i;
            mass += weight;
            if (mass > target) break;
        }
        return chosen;
    }

    // The largest weight at which tokens at least as heavy reach the goal; 0 if all of them do not.
    float least_weight(Goal goal) {
        Reached reached{};
        uint32_t prefix = descend_all(goal, reached);
        if (prefix == 0) return 0.0f;
        int64_t count = 0;
        for (size_t block = 0; block < heaviest_.size(); ++block)
            if (heaviest_[block] >= float_of(prefix))
                count = collect(bits() + block * kBlock, kBlock, kFirstShift, prefix, count);
        for (int shift = kFirstShift - kDigitBits;; shift -= kDigitBits) {
            Histogram histogram = {};
            for (int64_t i = 0; i < count; ++i) histogram.add(candidates_[i], shift);
            prefix = descend(histogram, shift, prefix, 0, goal, reached);
            if (shift == 0) return float_of(prefix);
            count = collect(candidates_.data(), count, shift, prefix, 0);
        }
    }

  private:
    static constexpr int kDigitBits = 10, kFirstShift = 20;
    static constexpr uint32_t kNumDigits = 1 << kDigitBits;
    static constexpr int kMassBits = 44;
    static constexpr int kNumFloors = 2;
    static constexpr float kFloors[kNumFloors] = {0x1p-8f, kLeastWeight};

    // Tokens of each digit in the high bits, the sum of their 24-bit significands in the low ones.
    struct Histogram {
        uint64_t entry[kNumDigits];

        INLINE void add(uint32_t bits, int shift) {
            entry[bits >> shift & (kNumDigits - 1)] += 1ull << kMassBits | (bits & 0x7FFFFF) | 0x800000;
        }
    };

    struct Reached {
        int64_t num_tokens;
        double mass;
    };

    const uint32_t* bits() const { return (const uint32_t*)weights_.data(); }

    // The first digit of the weight that reaches the goal, 0 if there is none. Every weight from the last floor on is in
    // the histograms: there are several, because the next sum of the same digit would have to wait for the last.
    uint32_t descend_all(Goal goal, Reached& reached) {
        for (;;) {
            if (num_floors_) {
                const uint32_t floor = bits_of(kFloors[num_floors_ - 1]) >> kFirstShift;
                reached = {};
                const uint32_t prefix = descend(all_, kFirstShift, 0, floor, goal, reached);
                if (prefix || num_floors_ == kNumFloors) return prefix;
            }
            count_down_to_next_floor();
        }
    }

    void count_down_to_next_floor() {
        const float floor = kFloors[num_floors_], ceiling = num_floors_ ? kFloors[num_floors_ - 1] : INFINITY;
        if (num_floors_ == 0) all_ = {};
        Histogram part[4] = {};
        for (size_t block = 0; block < heaviest_.size(); ++block) {
            if (heaviest_[block] < floor || heaviest_[block] >= ceiling) continue;
            const uint32_t* from = bits() + block * kBlock;
            for (int64_t i = 0; i < kBlock; i += 4)
                for (int j = 0; j < 4; ++j) part[j].add(from[i + j], kFirstShift);
        }
        for (const Histogram& one : part)
            for (uint32_t digit = 1; digit < kNumDigits; ++digit) all_.entry[digit] += one.entry[digit];
        ++num_floors_;
    }

    // `prefix` with the digit in which the goal is reached; `reached` counts what lies above. Of a digit that reached it
    // at the shift before, rounding may keep the parts from it: then it is the last of them.
    static uint32_t descend(const Histogram& histogram, int shift, uint32_t prefix, uint32_t least_digit, Goal goal,
                            Reached& reached) {
        uint32_t last = 0;
        Reached above_last = reached;
        for (uint32_t digit = kNumDigits; digit-- > least_digit;) {
            const uint64_t entry = histogram.entry[digit];
            if (entry == 0) continue;
            last = prefix | digit << shift;
            above_last = reached;
            reached.num_tokens += (int64_t)(entry >> kMassBits);
            reached.mass += std::ldexp((double)(entry & ((1ull << kMassBits) - 1)), (int)(last >> 23) - 150);
            if (reached.num_tokens >= goal.num_tokens || reached.mass >= goal.mass) {
                reached = above_last;
                return last;
            }
        }
        if (shift == kFirstShift) return 0;
        reached = above_last;
        return last;
    }

    // Put the weights that begin with the prefix behind the first `num_kept` candidates; may read the candidates.
    int64_t collect(const uint32_t* from, int64_t count, int shift, uint32_t prefix, int64_t num_kept) {
        uint32_t* to = candidates_.data();
        for (int64_t i = 0; i < count; ++i) {
            const uint32_t one = from[i];
            to[num_kept] = one;
            num_kept += one >> shift == prefix >> shift;
        }
        return num_kept;
    }

    static double sum_of_block(const float* weights, float least) {
        typedef float Floats __attribute__((vector_size(32)));
        typedef int32_t Ints __attribute__((vector_size(32)));
        typedef double Doubles __attribute__((vector_size(64)));
        Doubles sums[2] = {};
        for (int64_t i = 0; i < kBlock; i += 16) {
            for (int half = 0; half < 2; ++half) {
                Floats x;
                memcpy(&x, weights + i + 8 * half, sizeof x);
                x = (Floats)((Ints)x & (x >= least));
                sums[half] += __builtin_convertvector(x, Doubles);
            }
        }
        const Doubles both = sums[0] + sums[1];
        return ((both[0] + both[4]) + (both[2] + both[6])) + ((both[1] + both[5]) + (both[3] + both[7]));
    }

    float least_ = 0.0f;
    int num_floors_ = 0;                // how far down all_ counts
    std::vector<float> weights_;        // padded to whole blocks with 0
    std::vector<float> heaviest_;       // of each block
    std::vector<double> through_;       // mass up to and including each block
    std::vector<uint32_t> candidates_;  // bits of the weights that share the digits found so far
    Histogram all_;
};

int64_t sample_row(const float* logits, int64_t size, const Sampling& how, int64_t row) {
    static thread_local Weights weights;
    constexpr double kNoMass = std::numeric_limits<double>::infinity();
    weights.fill(logits, size, how.temperature[row]);
    float least = how.min_p[row];
    if (how.top_k[row] > 0) least = std::max(least, weights.least_weight({how.top_k[row], kNoMass}));
    const double mass = weights.sum_up(least);
    if (how.top_p[row] < 1.0) {
        const Goal nucleus{std::numeric_limits<int64_t>::max(), how.top_p[row] * mass};
        least = std::max(least, weights.least_weight(nucleus));
        weights.sum_up(least);
    }
    return weights.choose(how.uniforms[row]);
}

}  // namespace
}  // namespace pagestream

using namespace pagestream;

void argmax(const float* logits, int64_t num_rows, int64_t vocab_size, int64_t* tokens, bool* is_finite) {
    for_rows(num_rows, [&](int64_t row) {
        const float* numbers = logits + row * vocab_size;
        const Largest found = find_largest(numbers, vocab_size);
        is_finite[row] = found.is_finite;
        tokens[row] = found.is_finite ? place_of(found.number, numbers, vocab_size) : 0;
    });
}

void sample(const float* logits, int64_t num_rows, int64_t vocab_size, const Sampling* how, int64_t* tokens) {
    for_rows(num_rows,
             [&](int64_t row) { tokens[row] = sample_row(logits + row * vocab_size, vocab_size, *how, row); });
}
