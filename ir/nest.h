// Loop nests: the back-end neutral form of a kernel. A nest is pure data; both back ends read it.
//
//   nest {
//     outer batch=8, time=256               loops whose iterations are independent of each other,
//     inner embed=512                       then loops that single stages run
//     operand 0: f32 x[batch:131072, time:512, embed:1]
//     stage 0: sum over embed { mul(x[batch, time, embed], x[batch, time, embed]) }
//     stage 1: store over embed operand 2 [batch, time, embed] { mul(x[..], rsqrt(stage 0 ...)) }
//   }
//
// For every iteration of the outer loops the stages run in order. A reduction stage folds its formula
// over its own inner loops into one scalar, in ascending order of the inner loops *by a rule that
// depends only on their extents*; a store or add stage writes its formula for each inner iteration.
// A load sees what earlier stages of the same outer iteration stored, and what the same iteration of its
// own stage has not stored yet. A back end may keep the value of a formula from stage to stage only where
// no stage between wrote to an operand that the formula loads. Operands that share storage where one is
// written are the same operand, except that plan-memory may put an operand that is only stored in the
// place of one that is loaded, at the same index, by no stage after the first such store.
// A contraction is a nest whose first stage sums a product of two loads; back ends recognise it
// (nest_contraction) and use their fast path, with the remaining stages as its epilogue.
#ifndef CHERRY_IR_NEST_H
#define CHERRY_IR_NEST_H

#include "base/vector.h"
#include "ir/primitive.h"

enum { LOOP_MAX = 12, NEST_OPERAND_MAX = 32, STAGE_LIMIT = 24 };

// offset + sum over loops of scale[loop] * loop index
typedef struct Affine {
    int64_t offset;
    int64_t scale[LOOP_MAX];
} Affine;

// Index into one dimension of an operand: an affine part plus, where `gathered` is not FORMULA_NONE,
// the integer value of that formula (checked to be within the extent where data can be hostile: the
// runtime checks token ids before they reach a kernel).
typedef struct Index {
    Affine affine;
    uint32_t gathered;
} Index;

#define FORMULA_NONE UINT32_MAX

typedef enum FormulaKind {
    FORMULA_CONSTANT,  // number
    FORMULA_LOOP,      // the affine value of loops, element i32
    FORMULA_LOAD,      // operand, one Index per dimension of the operand
    FORMULA_STAGE,     // the scalar result of an earlier reduction stage
    FORMULA_PRIMITIVE  // primitive over arguments
} FormulaKind;

typedef struct Formula {
    FormulaKind kind;
    Element element;  // of the value
    Primitive primitive;
    uint32_t arguments[3];  // formula ids
    double number;
    Affine affine;       // FORMULA_LOOP
    uint32_t operand;    // FORMULA_LOAD
    const Index *index;  // FORMULA_LOAD: one per dimension of the operand
    uint32_t stage;      // FORMULA_STAGE
    Place place;         // the source line it came from
} Formula;

// A buffer argument, seen through strides (in elements). The launch gives buffer and base offset.
typedef struct NestOperand {
    Element element;
    int rank;
    int64_t extent[RANK_MAX], stride[RANK_MAX];
    bool reads, writes;
} NestOperand;

typedef struct Loop {
    Dimension dimension;     // name, extent (capacity)
    uint32_t bound_operand;  // operand (i64, rank 0) that holds the extent at run time, or UINT32_MAX
} Loop;

typedef enum StageKind {
    STAGE_SUM,
    STAGE_MAX,
    STAGE_STORE,  // operand[index] = formula
    STAGE_ADD     // operand[index] += formula; iterations that meet in one place add in ascending order
} StageKind;

typedef struct Stage {
    StageKind kind;
    Element element;  // of the formula; a sum of f32 accumulates in f32, of bf16 in f32
    uint32_t inner;   // bit mask over loops: the inner loops that this stage runs
    uint32_t formula;
    uint32_t operand;    // store, add
    const Index *index;  // store, add: one per dimension of the operand
    Place place;
} Stage;

typedef struct Nest {
    Ir *ir;
    const char *name;             // readable: "mul_silu_dot"; not part of its identity
    int loop_count, outer_count;  // loops [0, outer_count) are outer, the rest inner
    Loop loops[LOOP_MAX];
    uint32_t parallel;  // bit mask of outer loops whose iterations may run on different threads
    int operand_count;
    NestOperand operands[NEST_OPERAND_MAX];
    VECTOR(Formula) formulas;  // hash-consed, arguments before users
    int stage_count;
    Stage stages[STAGE_LIMIT];
    Place place;  // of the node that gave the nest its main work
} Nest;

Nest *nest_create(Ir *ir, const char *name, Place place);
uint32_t nest_formula(Nest *nest, Formula formula);  // hash-consing; compares everything but place
uint64_t nest_hash(const Nest *nest);                // structure without name and places
bool nest_equal(const Nest *a, const Nest *b);
bool nest_verify(Ir *ir, const Nest *nest);  // reports what is broken

Nest *nest_copy(Ir *ir, const Nest *nest);  // nothing shared; lives in ir->arena
// Drops formulas that no stage uses and renumbers the others in the order of their first use, so that
// nests that were built in different ways but say the same compare equal.
void nest_compact(Nest *nest);
// Sets `parallel`: the outer loops that keep every write of their iterations apart.
void nest_mark_parallel(Nest *nest);
// Loops on which a formula, or the place that an index names, depends.
uint32_t nest_formula_loops(const Nest *nest, uint32_t formula);
uint32_t nest_index_loops(const Nest *nest, const NestOperand *operand, const Index *index);

// A contraction: stage 0 is a sum of mul(a, b), where a and b are loads, ungathered, perhaps under casts;
// all other stages write and run no inner loops; all outer loops are parallel; there is at least one row
// and one column loop. Its loops by the part they play: a loop over which both loads and the result move
// is a batch loop; in the result and one load: row (a) or column (b); in both loads only: reduced.
typedef struct Contraction {
    uint32_t stage;                        // the sum (always 0)
    uint32_t load_a, load_b;               // formula ids of the two loads
    uint32_t batch, row, column, reduced;  // loop masks
} Contraction;

bool nest_contraction(const Nest *nest, Contraction *contraction);

double nest_flops(const Nest *nest);   // multiply-adds of contractions count two, all else nothing
void nest_operand_bytes(const Nest *nest, double *read, double *written);  // by operand
int64_t nest_bytes(const Nest *nest);  // least bytes moved: every operand element touched once

// Runs a nest on doubles: buffers[i] holds operand i from its base offset.
void nest_evaluate(const Nest *nest, double *const *buffers);

// Text form: nest_print(nest_read(text)) gives the same bytes.
void nest_print(const Nest *nest, FILE *stream);
Nest *nest_read(Ir *ir, const char *file, const char *text);  // NULL after reporting an error

#endif
