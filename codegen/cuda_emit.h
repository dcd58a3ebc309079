// Inside the CUDA back end: the text under construction, formulas as expressions, and who emits what.
//
// Values in registers: bool, i32 (int), i64 and f32, f64 are themselves, bf16 is a float that holds a bf16
// number. Operands are pointers p0, p1, ...; the index of loop time is i_time, its bounded extent n_time.
#ifndef CHERRY_CODEGEN_CUDA_EMIT_H
#define CHERRY_CODEGEN_CUDA_EMIT_H

#include "codegen/cuda.h"
#include "codegen/normalise.h"

// ---- The text of one kernel ----

// What is left to cuBLASLt.
typedef enum CudaProducts {
    PRODUCTS_FUSED,  // products, and what it can do behind them
    PRODUCTS_PLAIN,  // products into the workspace
    PRODUCTS_NONE
} CudaProducts;

typedef struct CudaUnit {
    Arena *arena;
    const Kernel *kernel;
    const char *architecture;
    CudaProducts products;
    int64_t alignment[NEST_OPERAND_MAX];  // bytes that every launch aligns the operand to
    bool lasts[NEST_OPERAND_MAX];         // every launch reads state there: weights, long written
    CudaKernel *out;
    FILE *stream;  // of the text
    int indent;
    int variables;        // that have a number
    const struct CudaPlan *rows;  // the plan of a function that keeps rows in shared memory, or NULL
    bool packed_sums;     // sums are packs: s0[e], a thread's neighbouring columns
    Place place;          // of the last source line that was noted
    const char *failure;  // what went wrong, for E0620; the first one stays
} CudaUnit;

// Notes a failure and returns false.
__attribute__((format(printf, 2, 3))) bool cuda_fail(CudaUnit *unit, const char *format, ...);
__attribute__((format(printf, 2, 3))) void cuda_line(CudaUnit *unit, const char *format, ...);
__attribute__((format(printf, 2, 3))) void cuda_open(CudaUnit *unit, const char *format, ...);  // "... {"
void cuda_close(CudaUnit *unit);
__attribute__((format(printf, 2, 3))) const char *cuda_text(CudaUnit *unit, const char *format, ...);
void cuda_note_place(CudaUnit *unit,
                     Place place);  // "// model.cherry:12", where it is another line than before

const char *cuda_memory_type(Element element);    // "bf16"
const char *cuda_register_type(Element element);  // "float"
// "norm" of "trunk.norm.2" for a variable or a function: letters, digits, underscores.
const char *cuda_name(Arena *arena, const char *name);

// Adds a phase that calls `function`, named after the kernel (unique among all kernels, the text's key in
// it), and opens it: its parameters are the kernel's operands and the workspace. cuda_close ends it.
CudaPhase *cuda_begin_function(CudaUnit *unit, const char *suffix, int threads);
// The same up to begin_launch, before which nothing may be read.
CudaPhase *cuda_open_function(CudaUnit *unit, const char *suffix, int threads);

enum { CUDA_GRID_LIMIT = 65535 };  // blocks along y and z

enum { CUDA_BUFFER_ALIGNMENT = 64 };  // bytes, of every buffer and of the workspace

// The largest power of two that divides both.
static inline int64_t cuda_common_alignment(int64_t a, int64_t b) { return (a | b) & -(a | b); }

// Gives the code its text and key, and the key to the names of its functions.
void cuda_name_functions(Ir *ir, CudaKernel *code, const char *text);

// Makes program->groups of launches whose kernels have their text: codegen/cuda_group.c.
void cuda_find_groups(Program *program);

// What launches give every kernel: where a function's name stands in a text before its key is known.
#define CUDA_KEY_MARK "_KEY_"

// ---- Formulas ----

// Where values are known: one scope a block of the text. An inner scope sees its parent's values.
typedef struct CudaScope {
    CudaUnit *unit;
    const Nest *nest;  // normalised
    const NestAnalysis *analysis;
    const int64_t *low;              // per operand: the least offset within it
    const int *uses;                 // per formula
    const char **value;              // per formula: an expression; NULL: not known here
    const char *loop[LOOP_MAX];      // index of a loop that runs; NULL: it does not
    const char *stage[STAGE_LIMIT];  // results of reductions
    uint32_t varying;                // stages whose results differ from element to element of a pack
    struct CudaScope *parent;
} CudaScope;

CudaScope *cuda_scope(CudaUnit *unit, const Nest *original, const Nest *nest, const NestAnalysis *analysis);
CudaScope *cuda_inner_scope(CudaScope *parent);

// The value as an expression; what takes more than a few characters becomes a variable of the text.
const char *cuda_formula(CudaScope *scope, uint32_t formula);
// Computes what of a formula does not depend on `loops`, which run inside of this scope.
void cuda_hoist(CudaScope *scope, uint32_t formula, uint32_t loops);
// The offset of an access in elements; gathered parts included.
const char *cuda_offset(CudaScope *scope, uint32_t operand, const Index *index);
const char *cuda_affine(CudaScope *scope, const Affine *affine, bool wide);
// What guards a load that a `select` may leave unused: a test that its place lies inside; NULL: it does.
const char *cuda_guard(CudaScope *scope, const Formula *load);
bool cuda_stays_inside(const CudaScope *scope, const Formula *load);  // the affine part, whatever is gathered
// p3[...] as a store's left side.
const char *cuda_element(CudaScope *scope, uint32_t operand, const Index *index);
// Emits what a store or add stage does.
void cuda_write(CudaScope *scope, const Stage *stage, const char *value);
// Forgets values of loads from `operand`, here and outside: it was written.
void cuda_forget(CudaScope *scope, uint32_t operand);

// The indices of `count` loops out of one number, the last loop fastest: declares a variable for each.
void cuda_split_index(CudaScope *scope, const char *number, const int *loops, int count);
// The extent at run time: a number, or a variable that holds it.
const char *cuda_extent(CudaScope *scope, int loop);
const char *cuda_loop_name(const CudaScope *scope, int loop);
// Declares int n_NAME = extent for every bounded loop of the nest.
void cuda_declare_bounds(CudaScope *scope);

// ---- Generators. False after cuda_fail. ----

bool cuda_nest_emit(CudaUnit *unit);
bool cuda_attention_emit(CudaUnit *unit);
bool cuda_attention_turned_emit(CudaUnit *unit);
bool cuda_attention_gradient_emit(CudaUnit *unit);
bool cuda_attention_gradient_turned_emit(CudaUnit *unit);
bool cuda_compact_emit(CudaUnit *unit);

// Tried in order before the general one; *taken says whether it was for this generator.
bool cuda_scatter_emit(CudaUnit *unit, const Nest *nest, bool *taken);
bool cuda_contract_emit(CudaUnit *unit, const Nest *nest, bool *taken);

// ---- Small things ----

static inline int64_t cuda_divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline bool cuda_is_reduction(const Stage *stage) { return stage->kind < STAGE_STORE; }
int64_t cuda_shared_limit(const char *architecture);  // bytes of shared memory that a block may have
int64_t cuda_points(const Nest *nest, uint32_t loops);  // product of extents at capacity

#endif
