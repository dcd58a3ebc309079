// Attention on the CPU, inside the back end: what the forward and the gradient generator share.
//
//   q[shared.., time, group.., key]   k[shared.., past, key]   v[shared.., past, feature..]
//   o[shared.., time, group.., feature..]   lse[shared.., time, group..]   positions[time]
//
// in any order of dimensions and with any strides. Blocks of queries stand in vector lanes, keys and
// features in rows of tiles (cpu_contract.h): scores are [key][query], so that the softmax of a query runs
// down one lane, and one query's numbers never depend on what stands in other lanes. Blocks of keys start
// at absolute multiples of a fixed size: a query has the same bits alone and in a block.
#ifndef CHERRY_CODEGEN_CPU_ATTENTION_H
#define CHERRY_CODEGEN_CPU_ATTENTION_H

#include "codegen/cpu_contract.h"

enum { ATTENTION_OPERANDS = 16 };

typedef struct AttentionSide {  // strides of one operand, in elements; 0 where it lacks the dimension
    Element element;
    int64_t time, past, key, feature, shared[RANK_MAX], group[RANK_MAX];
} AttentionSide;

typedef struct CpuAttention {
    const NamedKernel *named;
    bool causal;
    int64_t window;             // 0: none
    double scale;
    int64_t time, past, keys, features;  // extents at capacity; `keys`: of the dimension that scores sum over
    uint32_t time_bound, past_bound;     // operands that hold the extent, or UINT32_MAX
    int shared_count, group_count;
    int64_t shared[RANK_MAX], group[RANK_MAX];
    uint32_t shared_bound[RANK_MAX], group_bound[RANK_MAX];
    AttentionSide side[ATTENTION_OPERANDS];  // by operand
    int rows;                   // of tiles: keys or features
    int vectors;                // of queries side by side
    int64_t lanes, queries;     // of a vector; of a block: lanes * vectors
    int64_t key_block;          // keys whose scores stand at once: a multiple of rows
    int64_t padded_past, padded_features, padded_keys;  // multiples of rows
    int64_t units, group_total; // products of the shared and of the group dimensions
} CpuAttention;

static const double ATTENTION_HIDDEN = -1e30;  // score of a masked key: its weight underflows to 0

// `regular`: inputs that are not extents. False after cpu_fail.
bool cpu_attention_plan(CpuUnit *unit, const NamedKernel *named, int regular, CpuAttention *plan);

// ---- Emission in a task ----

typedef struct AttentionTask {
    CpuUnit *unit;
    CpuBody *body;
    const CpuAttention *plan;
    LLVMValueRef shared[RANK_MAX], group[RANK_MAX];  // indices
    LLVMValueRef time, past;                         // extents at run time
    LLVMValueRef first_key, last_key;                // keys [first, last) that some query sees; first: of a block
    LLVMValueRef positions;                          // i32 of the block's queries in scratch, -1 beyond them
} AttentionTask;

LLVMValueRef cpu_attention_extent(const AttentionTask *task, int64_t extent, uint32_t bound);
// Sets the indices of `count` dimensions out of `number`; returns i1 whether they are within their extents.
LLVMValueRef cpu_attention_split(const AttentionTask *task, LLVMValueRef number, const int64_t *extents,
                                 const uint32_t *bounds, int count, LLVMValueRef *indices);
// Operand `operand` at the task's shared and group indices, 0 of all others.
LLVMValueRef cpu_attention_base(const AttentionTask *task, int operand);
// Position of query `index`, as i64.
LLVMValueRef cpu_attention_position(const AttentionTask *task, LLVMValueRef index);
// Keys [*begin, *end) that queries [first, last] (their positions) see; *begin is a multiple of key_block.
void cpu_attention_range(const AttentionTask *task, LLVMValueRef first, LLVMValueRef last, LLVMValueRef *begin,
                         LLVMValueRef *end);
// Copies the positions of queries [query0, query0 + valid) to task->positions.
void cpu_attention_positions(const AttentionTask *task, LLVMValueRef query0, LLVMValueRef valid);

// Packs into panels `width` wide: columns `column_stride` apart, k steps `k_stride` apart (see cpu_contract.h).
void cpu_attention_pack(CpuUnit *unit, Element element, int64_t column_stride, int64_t k_stride, int64_t width,
                        LLVMValueRef to, LLVMValueRef from, LLVMValueRef valid, LLVMValueRef k,
                        LLVMValueRef panel_size);
// Multiplies `count` (a multiple of lanes) floats at `at`.
void cpu_attention_scale(CpuUnit *unit, LLVMValueRef at, int64_t count, double factor);
// Whether some pair of a query at [first, last] and a key of [begin, end) may be masked; NULL: never.
LLVMValueRef cpu_attention_partly(const AttentionTask *task, LLVMValueRef first, LLVMValueRef last,
                                  LLVMValueRef begin, LLVMValueRef end);
// Writes matrix from[column * from_stride + row], row < rows, column < columns, to to[row * row_stride +
// column * column_stride] of any element. `turned` is scratch for rows x columns rounded up to 8.
void cpu_attention_write(CpuUnit *unit, Element element, LLVMValueRef to, int64_t row_stride, int64_t column_stride,
                         LLVMValueRef from, int64_t from_stride, LLVMValueRef rows, int64_t columns,
                         LLVMValueRef turned);
// The same out of from[row * from_stride + column].
void cpu_attention_write_rows(CpuUnit *unit, Element element, LLVMValueRef to, int64_t row_stride,
                              int64_t column_stride, LLVMValueRef from, int64_t from_stride, LLVMValueRef rows,
                              int64_t columns);
// Sets `count` (a multiple of lanes) floats to 0.
void cpu_attention_clear(CpuUnit *unit, LLVMValueRef at, int64_t count);
// Masks scores[key - key0][query], rows of plan->queries floats, of keys [key0, key0 + rows) where `partly` holds.
void cpu_attention_mask(const AttentionTask *task, LLVMValueRef scores, LLVMValueRef key0, LLVMValueRef rows,
                        LLVMValueRef partly);
// Takes room for `floats` and one vector behind them off the scratch.
LLVMValueRef cpu_attention_take(CpuUnit *unit, LLVMValueRef scratch, int64_t *used, int64_t floats);

#endif
