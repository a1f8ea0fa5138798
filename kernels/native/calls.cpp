// A step's calls, noted once and repeated without the interpreter between them.
#include <cstring>
#include <type_traits>
#include <utility>

#include "library.h"

namespace {

template <class Argument>
Argument read(int64_t word) {
    if constexpr (std::is_pointer_v<Argument>) {
        return (Argument)word;
    } else {
        Argument argument;  // the word's low bytes
        memcpy(&argument, &word, sizeof argument);
        return argument;
    }
}

template <class... Arguments, size_t... I>
void call(void (*function)(Arguments...), const int64_t* words, std::index_sequence<I...>) {
    function(read<Arguments>(words[I])...);
}

template <class... Arguments>
void call(void (*function)(Arguments...), const int64_t* words) {
    static_assert(sizeof...(Arguments) <= kMaxArguments);
    call(function, words, std::index_sequence_for<Arguments...>());
}

}  // namespace

void repeat_calls(const Call* calls, int64_t num_calls) {
    for (const Call* next = calls; next != calls + num_calls; ++next) {
        const int64_t* words = next->arguments;
        switch (next->function) {
            case kLinear: call(linear, words); break;
            case kLinearInt8: call(linear_int8, words); break;
            case kLinearInt8Blocks: call(linear_int8_blocks, words); break;
            case kGatherRows: call(gather_rows, words); break;
            case kGatherRowsInt8: call(gather_rows_int8, words); break;
            case kRmsNorm: call(rms_norm, words); break;
            case kAddRmsNorm: call(add_rms_norm, words); break;
            case kAddNumbers: call(add_numbers, words); break;
            case kScaleNumbers: call(scale_numbers, words); break;
            case kSiluAndMul: call(silu_and_mul, words); break;
            case kGeluAndMul: call(gelu_and_mul, words); break;
            case kNormHeads: call(norm_heads, words); break;
            case kRotateAndWrite: call(rotate_and_write, words); break;
            case kPagedAttention: call(paged_attention, words); break;
        }
    }
}
