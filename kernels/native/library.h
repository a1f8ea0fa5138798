// The library's C interface, as kernels/native_library.py declares it to ctypes. All numbers are 64-bit, all rows lie
// one after another unless a stride says otherwise.
#pragma once
#include <cstdint>

extern "C" {

enum Format : int64_t { kFloat32, kFloat16, kBFloat16, kQ4_0, kQ4_1, kQ8_0, kInt8, kQ4_Z };

// Threads of every function below, the caller included; 1 until this is called.
void set_num_threads(int64_t count);

// panels: see formats.h; bias: one float for each row, padded to whole panels, or null.
struct Matrix {
    const uint8_t* panels;
    const float* bias;
    int64_t num_rows, num_columns, format;
};

int64_t panel_bytes(int64_t format, int64_t num_columns);
void pack_matrix(int64_t format, const uint8_t* source, int64_t num_rows, int64_t num_columns, uint8_t* panels);
void linear(const Matrix* matrix, const float* x, int64_t num_tokens, float* y, int64_t ldy);
void gather_rows(const Matrix* matrix, const int64_t* rows, int64_t num_tokens, float* y);

// A matrix of blocks times activations that are rounded to int8 on the way, block by block, see linear_int8_blocks.cpp.
void linear_int8_blocks(const Matrix* matrix, const float* x, int64_t num_tokens, float* y, int64_t ldy);

// Weights in int8 with one scale a row, multiplied by activations that are rounded to int8 on the way, see
// linear_int8.cpp. panels: of pack_int8; bias as above.
struct Int8Matrix {
    const uint8_t* panels;
    const float* bias;
    int64_t num_rows, num_columns;
};

// Columns are padded with zeros to whole blocks of this many, which are rotated together.
enum : int64_t { kInt8Block = 64 };

int64_t int8_panel_bytes(int64_t num_columns);
// numbers: [num_rows][padded columns], rotated; scales: [num_rows].
void pack_int8(const int8_t* numbers, const float* scales, int64_t num_rows, int64_t num_columns, uint8_t* panels);
void linear_int8(const Int8Matrix* matrix, const float* x, int64_t num_tokens, float* y, int64_t ldy);
void gather_rows_int8(const Int8Matrix* matrix, const int64_t* rows, int64_t num_tokens, float* y);
// Whether it is faster here than linear_int8_blocks: where processors sum products of bytes in one instruction.
int64_t is_int8_fast();
// Ways to multiply int8 that this machine has, worst first. The best one is used until another is chosen; all give the
// same bits.
int64_t num_int8_ways();
void choose_int8_way(int64_t way);

void rms_norm(const float* x, const float* weight, float eps, int64_t num_tokens, int64_t size, float* y);
// residual += x, y = norm of the sum.
void add_rms_norm(const float* x, float* residual, const float* weight, float eps, int64_t num_tokens, int64_t size,
                  float* y);
// residual += x
void add_numbers(const float* x, float* residual, int64_t count);
void scale_numbers(float* x, float factor, int64_t count);
// x: [num_tokens][2 * size], gates first.
void silu_and_mul(const float* x, int64_t num_tokens, int64_t size, float* y);
void gelu_and_mul(const float* x, int64_t num_tokens, int64_t size, float* y);
// Norm the queries and the keys of qkv in place: each head by weights [head_dim], or all heads of a token at once by
// weights of as many numbers.
void norm_heads(float* qkv, const float* query_weight, const float* key_weight, float eps, int64_t num_tokens,
                int64_t num_heads, int64_t num_kv_heads, int64_t head_dim, int64_t is_by_head);

// keys: [num_blocks][num_kv_heads][head_dim][block_size], values: [num_blocks][num_kv_heads][block_size][head_dim],
// both in `format`, one of the first three or kInt8, whose rows are four bytes longer than head_dim (cache.h).

struct CacheShape {
    int64_t format, num_kv_heads, head_dim, block_size;
};

// Rotate queries and keys of qkv [num_tokens][num_heads + 2 * num_kv_heads][head_dim] by cos and sin
// [num_tokens][head_dim / 2]; write the queries to `query`, keys and values to their slots.
void rotate_and_write(const float* qkv, const float* cos, const float* sin, const int64_t* slots, int64_t num_tokens,
                      int64_t num_heads, const CacheShape* shape, void* keys, void* values, float* query);

// query_start: [num_seqs + 1]; context_lens: [num_seqs]; block_tables: [num_seqs][max_blocks].
struct Batch {
    const int32_t *query_start, *context_lens, *block_tables;
    int64_t num_seqs, max_blocks;
};

// window: tokens that a token sees, itself included, 0 for all; soft_cap: scores become soft_cap * tanh(score / soft_cap),
// 0 for none.
void paged_attention(const Batch* batch, const float* query, int64_t num_heads, const CacheShape* shape,
                     const void* keys, const void* values, float scale, int64_t window, float soft_cap, float* y);

// A call of one of these functions with its arguments, each in a word's low bytes: what a step of the model is made of.
enum Function : int64_t {
    kLinear, kLinearInt8, kLinearInt8Blocks, kGatherRows, kGatherRowsInt8, kRmsNorm, kAddRmsNorm, kAddNumbers, kScaleNumbers,
    kSiluAndMul, kGeluAndMul, kNormHeads, kRotateAndWrite, kPagedAttention
};
enum : int64_t { kMaxArguments = 10 };
struct Call {
    int64_t function, arguments[kMaxArguments];
};

void repeat_calls(const Call* calls, int64_t num_calls);

// The first of the largest logits [num_rows][vocab_size], 0 where they hold NaN or infinity, or nothing but -infinity.
void argmax(const float* logits, int64_t num_rows, int64_t vocab_size, int64_t* tokens, bool* is_finite);

// One of each for a row; see SamplingTensors in kernels/arguments.py.
struct Sampling {
    const float* temperature;
    const int64_t* top_k;
    const double* top_p;
    const float* min_p;
    const double* uniforms;
};

// vocab_size: at most 2**20.
void sample(const float* logits, int64_t num_rows, int64_t vocab_size, const Sampling* how, int64_t* tokens);

// To measure what the machine can do at best. read_all sums the floats of each of num_read_pieces(num_floats) pieces;
// multiply_add_all does in registers as many fp32 multiply-adds as it returns, and leaves sums[num_pieces].
int64_t num_read_pieces(int64_t num_floats);
void read_all(const float* numbers, int64_t num_floats, float* sums);
int64_t multiply_add_all(int64_t num_pieces, float* sums);
}
