// How a nest runs on a GPU: which loops are blocks and threads, how stages share loops, what is read widely.
#ifndef CHERRY_CODEGEN_CUDA_PLAN_H
#define CHERRY_CODEGEN_CUDA_PLAN_H

#include "codegen/cuda_emit.h"

typedef enum CudaShape {
    CUDA_POINTS,  // a thread runs a point of the parallel outer loops (or `vector` neighbours)
    CUDA_ROWS,    // `team` neighbouring threads share a point: inner loops walk memory
    CUDA_COLUMNS  // `width` neighbouring threads are neighbouring points (or packs), `team` rows of them share each
} CudaShape;

// Consecutive stages that run the same inner loops together.
typedef struct CudaGroup {
    int first, count;
    uint32_t inner;
    bool reduces;                      // every stage is a reduction; else every stage writes
    bool serial;                       // iterations meet in one place: one thread runs them in order
    bool sync;                         // other groups touch what it writes: the team meets before and after
    int order[LOOP_MAX], order_count;  // the inner loops, slowest first
    int vector;  // iterations of the last of them at once, 1: one; of a single loop some may be left
} CudaGroup;

// A row that several groups walk alike and that stays in shared memory.
typedef struct CudaRow {
    uint32_t operand;
    const Index *index;
    int first;       // the group that reads it from memory, by its first stage
    uint32_t users;  // bit mask: the groups that walk it, by their first stages
    int64_t at;      // in shared memory, the block's first one
} CudaRow;

enum { CUDA_ROWS_MOST = 4 };

typedef struct CudaPlan {
    const Nest *original, *nest;  // nest: normalised
    const NestAnalysis *analysis;
    CudaShape shape;
    int spread[LOOP_MAX], spread_count;          // parallel outer loops, slowest first
    int sequential[LOOP_MAX], sequential_count;  // other outer loops, in the nest's order
    int64_t points;                              // of the spread loops at capacity
    int team;                                    // threads that share a point
    int width;                                   // points of a block at once
    int vector;                                  // POINTS, COLUMNS: neighbours along the last spread loop in a thread
    int64_t splits;    // blocks that share the reductions of group 0, 1: none; 0: they lie in the workspace
    const char *sums;  // where they lie
    int group_count;
    CudaGroup groups[STAGE_LIMIT];
    int packed_group;  // packs of COLUMNS: whose sums these are; those of the groups before are alike for all columns
    uint32_t folds;  // bit mask: stages that add up the rows of a block
    int fold_loop;   // over these rows, the fastest of the spread ones; -1: none
    int row_count;
    CudaRow rows[CUDA_ROWS_MOST];
    int64_t kept, row_bytes;  // iterations that stay of each row; bytes of all rows of a block
    bool keeps_all;
} CudaPlan;

CudaPlan cuda_plan(CudaUnit *unit, const Nest *original, const Nest *normalised);
// The plan of what follows stage 0, whose values lie in the workspace, f32, points in the order of `spread`.
CudaPlan cuda_plan_epilogue(CudaUnit *unit, const Nest *original, const Nest *normalised, const int *spread,
                            int count);

// Whether two accesses through an operand are of one place.
bool cuda_same_place(const Nest *nest, uint32_t operand, const Index *a, const Index *b);
// Marks the formulas that stages [first, first + count) use.
void cuda_mark_used(const Nest *nest, int first, int count, bool *used);
// Whether an access takes `vector` elements along `loop` that lie side by side, aligned.
bool cuda_is_packed(const CudaUnit *unit, const Nest *nest, uint32_t operand, const Index *index, int loop,
                    int vector);

// Rows in shared memory: codegen/cuda_rows.c.
void cuda_choose_rows(const CudaUnit *unit, CudaPlan *plan);
void cuda_declare_rows(CudaUnit *unit, const CudaPlan *plan, const char *row);  // of the block's rows
// The row that a load of the group that starts at stage `first` walks, or NULL.
const CudaRow *cuda_find_row(const CudaPlan *plan, const Formula *load, int first);
// Declares pack x`number` of iterations [i, i + vector): out of `from`, an element, and into the row; or out of it.
void cuda_load_row(CudaUnit *unit, const CudaRow *row, bool fills, int vector, const char *from, int number);

// Folds: codegen/cuda_fold.c.
void cuda_find_folds(CudaPlan *plan);
void cuda_forget_folds(CudaPlan *plan);
bool cuda_may_fold(const CudaPlan *plan);  // asked of the plan as it is made with them
// What stands for the sum of the rows before in a stage that folds, or FORMULA_NONE.
uint32_t cuda_fold_start(const Nest *nest, const Stage *stage);

typedef enum CudaPart { CUDA_WHOLE, CUDA_PARTIAL_SUMS, CUDA_REST } CudaPart;
// Emits one function: everything; the first group's partial sums into the workspace; or what follows, which
// finds plan->splits parts of them there.
void cuda_emit_function(CudaUnit *unit, const CudaPlan *plan, CudaPart part, const char *suffix);

#endif
