// Attention on the CPU, inside the back end: what the forward and the gradient generator share.
//
//   q[shared.., time, group.., key]   k[shared.., past, key]   v[shared.., past, feature..]
//   o[shared.., time, group.., feature..]   lse[shared.., time, group..]   positions[time]
//
// in any order of dimensions and with any strides. Queries stand in the lanes of scores, [key][query], so
// that the softmax of a query runs down one lane and never depends on what stands in other lanes; every other
// product takes scores as they lie and has features in its lanes, so that nothing but queries is ever
// transposed. Of few queries keys stand in the lanes (cpu_attention_few.c), with the same sums. Blocks of keys
// start at absolute multiples of a fixed size: a query has the same bits alone and in a block.
//
// Where the machine multiplies pairs of bf16 and all that products read is bf16, two steps of a product stand in the
// room of a float, the even one in the lower half, and weights and d_scores are rounded to bf16 for the products that
// read them. Of an odd number of steps the last room has a zero. Strides and offsets below are in floats all the same.
#ifndef CHERRY_CODEGEN_CPU_ATTENTION_H
#define CHERRY_CODEGEN_CPU_ATTENTION_H

#include "codegen/cpu_contract.h"

enum { ATTENTION_OPERANDS = 16, ATTENTION_VECTORS = 3 };  // vectors: of queries, at most
enum { ATTENTION_FEW = 4 };  // queries for which keys may stand in lanes
enum { ATTENTION_INPUTS = 4, ATTENTION_GRADIENT_INPUTS = 8 };  // that are not extents

typedef struct AttentionSide {  // strides of one operand, in elements; 0 where it lacks the dimension
    Element element;
    int64_t time, past, key, feature, shared[RANK_MAX], group[RANK_MAX];
} AttentionSide;

typedef struct CpuAttention {
    const NamedKernel *named;
    bool causal;
    bool pairs;      // products take pairs of bf16
    int64_t window;  // 0: none
    double scale;
    int64_t time, past, keys, features;  // extents at capacity; `keys`: of the dimension that scores sum over
    uint32_t time_bound, past_bound;     // operands that hold the extent, or UINT32_MAX
    int shared_count, group_count;
    int64_t shared[RANK_MAX], group[RANK_MAX];
    uint32_t shared_bound[RANK_MAX], group_bound[RANK_MAX];
    AttentionSide side[ATTENTION_OPERANDS];  // by operand
    int rows;                                // of tiles: keys
    int vectors;                             // of queries side by side
    int64_t lanes, queries;                  // of a vector of queries; of a block: lanes * vectors
    int query_rows;                          // of tiles that have queries for rows
    int64_t query_lines;                     // rows of such tiles in a block: a multiple of query_rows
    int64_t key_block;                       // keys whose scores stand at once: a multiple of rows
    int64_t padded_past;                     // a multiple of rows
    bool passing;                            // forward: one block of queries takes all keys, each once
    bool turning;                            // few queries read them as they lie, see cpu_attention_turns
    int64_t key_columns, feature_columns;    // keys and features, rounded up to vectors of the target
    int64_t key_room, feature_room;          // the same of what a row of them takes as steps
    int64_t units, group_total;              // products of the shared and of the group dimensions
} CpuAttention;

static const double ATTENTION_HIDDEN = -1e30;  // score of a masked key: its weight underflows to 0
static const double ATTENTION_LEAST = -1e20;   // the running maximum before the first key
static const double ATTENTION_ABSENT = 1e30;   // log-sum of a lane without a query: all its weights are 0

// `regular`: inputs that are not extents. False after cpu_fail.
bool cpu_attention_plan(CpuUnit *unit, const NamedKernel *named, int regular, CpuAttention *plan);
int64_t cpu_attention_shares(const CpuAttention *plan);  // forward: tasks that share the query blocks of a unit

// ---- Emission in a task ----

enum { ATTENTION_STREAMS = 8 };

typedef struct AttentionStream {  // rows of memory that the next block of queries will want
    LLVMValueRef at;
    int64_t row_bytes, bytes;  // from row to row; of a row
    bool write;
} AttentionStream;

typedef struct AttentionTask {
    CpuUnit *unit;
    CpuBody *body;
    const CpuAttention *plan;
    LLVMValueRef shared[RANK_MAX], group[RANK_MAX];  // indices
    LLVMValueRef time, past;                         // extents at run time
    LLVMValueRef first_key, last_key;  // keys [first, last) that some query sees; first: of a block
    LLVMValueRef positions;            // i32 of the block's queries in scratch, -1 beyond them
    LLVMValueRef valid;                // queries of the block
    LLVMValueRef copied;               // slot: keys [first_key, copied) stand in scratch
    LLVMValueRef brought;              // slot: rows of all streams asked for
    AttentionStream streams[ATTENTION_STREAMS];
    int stream_count;
    int64_t bring_rows, bring_limit;  // rows asked for at a time, and in all
} AttentionTask;

LLVMValueRef cpu_attention_extent(const AttentionTask *task, int64_t extent, uint32_t bound);
// Sets the indices of `count` dimensions out of `number`; returns i1 whether they are within their extents.
LLVMValueRef cpu_attention_split(const AttentionTask *task, LLVMValueRef number, const int64_t *extents,
                                 const uint32_t *bounds, int count, LLVMValueRef *indices);
// Operand `operand` at the task's shared and group indices, 0 of all others.
LLVMValueRef cpu_attention_base(const AttentionTask *task, int operand);
// Position of query `index`, as i64.
LLVMValueRef cpu_attention_position(const AttentionTask *task, LLVMValueRef index);
// Position of the last query of [row, row + count) of the block that exists, or of the last of all.
LLVMValueRef cpu_attention_last_position(const AttentionTask *task, LLVMValueRef row, int64_t count);
// Keys [*begin, *end) that queries [first, last] (their positions) see; *begin is a multiple of key_block.
void cpu_attention_range(const AttentionTask *task, LLVMValueRef first, LLVMValueRef last,
                         LLVMValueRef *begin, LLVMValueRef *end);
// Where K and V are copied to: rows of steps for products that sum over keys or features, [past][room], rows as steps
// for those that sum over the past, [past][columns], two rows in the room of one where there are pairs. NULL: not wanted.
typedef struct AttentionCopies {
    LLVMValueRef key_rows, key_steps, value_rows, value_steps;
} AttentionCopies;
// Rows [first, end), to rows from `row` on; both even where there are pairs.
void cpu_attention_copy_keys(const AttentionTask *task, LLVMValueRef first, LLVMValueRef end, LLVMValueRef row,
                             AttentionCopies to);
// The same with rows [task->copied, end), to their absolute rows.
void cpu_attention_copy(const AttentionTask *task, LLVMValueRef end, AttentionCopies to);
// Copies the positions of queries [query0, query0 + valid) to task->positions, and `valid`.
void cpu_attention_positions(AttentionTask *task, LLVMValueRef query0, LLVMValueRef valid);

// ---- Bringing nearer what comes next, while tiles are computed ----

typedef struct AttentionNext {
    const AttentionTask *task;  // the next one, at its indices
    LLVMValueRef over;          // i1: the block is the last of this task
} AttentionNext;
void cpu_attention_next(AttentionTask *task);  // forgets the streams
// Adds rows of an operand, `count` elements each, from row `row` of this task on, or from row 0 of the next
// one.
void cpu_attention_stream(AttentionTask *task, AttentionNext next, int operand, int64_t row_stride,
                          int64_t column_stride, int64_t count, LLVMValueRef row, bool write);
void cpu_attention_bring(const AttentionTask *task);  // asks for some more rows of all streams
void cpu_attention_bring_rest(const AttentionTask *task);  // for all that are left

// A matrix in memory: `from` on, `rows` and `columns` of an element, with their strides.
typedef struct AttentionMatrix {
    Element element;
    LLVMValueRef from, rows, columns;
    int64_t row_stride, column_stride;
} AttentionMatrix;
AttentionMatrix cpu_attention_turned(AttentionMatrix matrix);
// Copies rows as the steps of a product: to[row][width], pairs of rows where there are pairs; zeros behind the columns.
void cpu_attention_pack_steps(const AttentionTask *task, AttentionMatrix matrix, int64_t width, LLVMValueRef to);
// Copies columns as the steps, row by row: to[row][room].
void cpu_attention_pack_rows(const AttentionTask *task, AttentionMatrix matrix, int64_t room, LLVMValueRef to);
// Elements of a float's room in a product: 2 where there are pairs.
int64_t cpu_attention_step(const CpuAttention *plan);
// Whether some pair of a query at [first, last] and a key of [begin, end) may be masked; NULL: never.
LLVMValueRef cpu_attention_partly(const AttentionTask *task, LLVMValueRef first, LLVMValueRef last,
                                  LLVMValueRef begin, LLVMValueRef end);
// Writes from[row][column], rows of from_stride floats, times factors[row * factor_stride] to
// to[row * row_stride + column * column_stride] of any element.
typedef struct AttentionWrite {
    Element element;
    int64_t row_stride, column_stride, from_stride, columns, factor_stride;
} AttentionWrite;
void cpu_attention_write(CpuUnit *unit, AttentionWrite write, LLVMValueRef to, LLVMValueRef from,
                         LLVMValueRef rows, LLVMValueRef factors);
// Sets `count` (a multiple of lanes) floats to 0.
void cpu_attention_clear(CpuUnit *unit, LLVMValueRef at, int64_t count);
// Masks scores[key - key0][query], rows of plan->queries floats, of keys [key0, key0 + rows) where `partly`
// holds.
void cpu_attention_mask(const AttentionTask *task, LLVMValueRef scores, LLVMValueRef key0, LLVMValueRef rows,
                        LLVMValueRef partly);
// Sets scores[row], rows of plan->queries floats, of rows [rows, rows rounded up to plan->rows) to `value`.
void cpu_attention_fill(const AttentionTask *task, LLVMValueRef scores, LLVMValueRef rows, double value);
// Takes room for `floats` and one vector behind them off the scratch.
LLVMValueRef cpu_attention_take(CpuUnit *unit, LLVMValueRef scratch, int64_t *used, int64_t floats);

// ---- Few queries: cpu_attention_few.c. Scores are [query][key of the block], rows of cpu_attention_few_stride. ----

// Whether keys may be turned in registers: elements of a key, and of its values, are side by side and whole vectors.
bool cpu_attention_turns(const CpuTarget *target, const CpuAttention *plan);
int64_t cpu_attention_few_stride(const CpuUnit *unit, const CpuAttention *plan);
// Of key `key` of the block.
LLVMValueRef cpu_attention_few_place(const AttentionTask *task, LLVMValueRef scores, int64_t query, LLVMValueRef key);
// Of keys [key0, end), whole vectors of them, hidden where a query does not see them. `queries`: [query][key_columns].
void cpu_attention_few_scores(const AttentionTask *task, LLVMValueRef queries, LLVMValueRef scores, LLVMValueRef key0,
                              LLVMValueRef end);
// The largest of each query, in the lanes of a vector.
LLVMValueRef cpu_attention_few_maximum(const AttentionTask *task, LLVMValueRef scores, LLVMValueRef rows);
// Scores become 2^(scale score - maximum); returns the sum of each query.
LLVMValueRef cpu_attention_few_weights(const AttentionTask *task, LLVMValueRef scores, LLVMValueRef rows, double scale,
                                       LLVMValueRef maximum);

// ---- Products: cpu_attention_tile.c ----

typedef enum AttentionStart { ATTENTION_ZERO, ATTENTION_ADD, ATTENTION_FADE } AttentionStart;

// c[row * c_row + column] = start + sum over step of a[row * a_row + step * a_step] * b[step * b_step +
// column], in ascending steps; the start is 0, c, or c times factors[row]. Strides in floats, of b in its numbers.
// Where there are pairs, a step of a and b is two of those that are counted.
typedef struct AttentionProduct {
    int rows;   // of a tile
    int lanes;  // of a vector of columns
    int64_t a_row, a_step, b_step, c_row;
    int64_t steps;  // where their number is constant, else 0
    bool narrow_b;  // b has bf16 numbers, as they lie: of pairs too, b_step is from row to row
    bool pairs;
    AttentionStart start;
} AttentionProduct;

// What causality leaves out of a product, of whose weights it knows that they are 0.
typedef enum AttentionSkip {
    ATTENTION_SKIP_NONE,
    ATTENTION_SKIP_COLUMNS,  // rows are keys, columns queries: whole vectors of queries; their c stays as it
                             // was
    ATTENTION_SKIP_LAST,     // rows are queries, steps keys
    ATTENTION_SKIP_FIRST     // rows are keys, steps queries
} AttentionSkip;

typedef struct AttentionMatrices {
    LLVMValueRef a, b, c, factors;  // factors: NULL unless the start fades
    LLVMValueRef rows;              // rounded up to those of a tile
    int64_t columns;                // a multiple of the product's lanes
    LLVMValueRef steps;             // NULL where constant
    AttentionSkip skip;
    LLVMValueRef key0;  // the first of the block
} AttentionMatrices;
// Brings the streams of the task nearer with every row of tiles.
void cpu_attention_multiply(const AttentionTask *task, const AttentionProduct *product,
                            const AttentionMatrices *matrices);

#endif
