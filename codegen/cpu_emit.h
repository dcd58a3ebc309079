// Emission interface inside the CPU back end: what generates code (cpu_nest.c, cpu_contract.c,
// cpu_attention.c) and what it generates with. The only header of this project that shows llvm-c.
//
// Values in registers: bool is i1, i32 and i64 are themselves, bf16 is a float that holds a bf16 number,
// f32 and f64 are themselves. A value is a scalar (the same for all lanes: uniform) or a vector of
// `lanes` elements. All floating-point operations are exact as written: no fast-math flag is ever set and
// multiply-add is written as cpu_fma, so a value depends on its operands alone, never on its neighbours.
// On x86, results below the smallest normal number are 0 (cpu_body_begin).
#ifndef CHERRY_CODEGEN_CPU_EMIT_H
#define CHERRY_CODEGEN_CPU_EMIT_H

#include <llvm-c/Core.h>
#include <llvm-c/TargetMachine.h>

#include "codegen/cpu.h"
#include "codegen/normalise.h"
#include "ir/program.h"

// ---- The machine ----

typedef struct CpuTarget {
    const char *triple, *name, *features;  // as LLVM spells them
    int vector_bits;                       // of the widest vector: 512, 256, 128
    int lanes;                             // f32 lanes of the widest vector
    int registers;                         // vector registers: 32 or 16
    bool avx2, avx512, avx512_bf16, neon;
    bool bf16_dot;    // pairs of bf16 are multiplied and summed as fast as f32 numbers are
    bool masks;       // masked loads and stores with a run-time mask are single instructions
    bool native;      // the code can run here
} CpuTarget;

// ---- A module under construction; one compile thread owns it ----

typedef struct CpuHelpers CpuHelpers;  // codegen/cpu_helper.h

typedef struct CpuUnit {
    Arena *arena;              // of this thread: names and diagnostics of Ir must not be touched
    const CpuTarget *target;
    CpuSanitize sanitize;      // or NULL
    LLVMContextRef context;
    LLVMModuleRef module;
    LLVMBuilderRef builder;
    LLVMTargetMachineRef machine;
    LLVMTypeRef void_type, i1, i8, i16, i32, i64, f32, f64, pointer;
    LLVMTypeRef function_type;  // of CpuFunction
    struct CpuDebug *debug;     // line information, or NULL
    uint64_t bundle;            // of the kernels that are compiled together: part of every symbol
    CpuHelpers *helpers;        // of the compilation; NULL: this module stands alone
    // What went wrong, for E0602: set by cpu_fail.
    const char *failure;
    Place failure_place;
} CpuUnit;

// Notes a failure (the first one stays) and returns false.
__attribute__((format(printf, 3, 4))) bool cpu_fail(CpuUnit *unit, Place place, const char *format, ...);

// ---- Types and constants ----

LLVMTypeRef cpu_vector_of(LLVMTypeRef type, int lanes);  // `type` itself where lanes is 1
LLVMTypeRef cpu_register_type(CpuUnit *unit, Element element, int lanes);
LLVMTypeRef cpu_memory_type(CpuUnit *unit, Element element, int lanes);  // bool: i8, bf16: i16
int cpu_lanes(LLVMValueRef value);  // 1 for a scalar
LLVMValueRef cpu_i32(CpuUnit *unit, int64_t value);
LLVMValueRef cpu_i64(CpuUnit *unit, int64_t value);
// A number of the register type of `element`; lanes > 1 splats it.
LLVMValueRef cpu_number(CpuUnit *unit, Element element, double value, int lanes);
// A number of the same type as `like`.
LLVMValueRef cpu_number_like(LLVMValueRef like, double value);
LLVMValueRef cpu_zero(LLVMTypeRef type);
LLVMValueRef cpu_splat(CpuUnit *unit, LLVMValueRef value, int lanes);  // vectors pass through
LLVMValueRef cpu_iota(CpuUnit *unit, LLVMTypeRef integer, int lanes, int64_t scale);  // 0, scale, 2 scale, ..

// ---- Arithmetic ----

// Calls an overloaded or plain LLVM intrinsic: cpu_intrinsic(unit, "llvm.fma", &type, 1, arguments, 3).
LLVMValueRef cpu_intrinsic(CpuUnit *unit, const char *name, const LLVMTypeRef *overloads, unsigned overload_count,
                           const LLVMValueRef *arguments, unsigned argument_count);
LLVMValueRef cpu_fma(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b, LLVMValueRef c);  // a * b + c, rounded once
LLVMValueRef cpu_select(CpuUnit *unit, LLVMValueRef condition, LLVMValueRef a, LLVMValueRef b);
// Lane i of the result is lane from[i] of the concatenation of a and b (b NULL: undefined).
LLVMValueRef cpu_shuffle(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b, const int *from, int count);
// Lanes folded by halves: (0 + n/2), (1 + n/2 + 1), ... The order depends on the lane count alone.
LLVMValueRef cpu_horizontal_sum(CpuUnit *unit, LLVMValueRef vector);
LLVMValueRef cpu_horizontal_max(CpuUnit *unit, LLVMValueRef vector);
LLVMValueRef cpu_max(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b);  // floats or signed integers
LLVMValueRef cpu_min(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b);
// Lanes [0, count) set; `count` is an i64 and may be a constant (then so is the mask).
LLVMValueRef cpu_mask(CpuUnit *unit, int lanes, LLVMValueRef count);
LLVMValueRef cpu_round_bf16(CpuUnit *unit, LLVMValueRef value);       // f32 to the nearest bf16, as f32
// sum + a1 * b1 + a0 * b0 in each lane, one after the other; a and b are f32 lanes that hold bf16 pairs, 0 the lower
// half. Needs bf16_dot.
LLVMValueRef cpu_dot_pairs(CpuUnit *unit, LLVMValueRef a, LLVMValueRef b, LLVMValueRef sum);
// Lanes of pairs out of two f32 values that hold bf16 numbers; NULL: zeros.
LLVMValueRef cpu_pair(CpuUnit *unit, LLVMValueRef low, LLVMValueRef high);
// The same out of twice as many bf16 numbers side by side, in two vectors: pairs[0] the first ones.
void cpu_pair_two(CpuUnit *unit, LLVMValueRef low, LLVMValueRef high, LLVMValueRef *pairs);
// The numbers of such lanes: halves[0] the lower ones, halves[1] the others.
void cpu_unpair(CpuUnit *unit, LLVMValueRef pairs, LLVMValueRef *halves);
// Lanes of pairs out of f32 numbers that are rounded to bf16, in fewer instructions. Needs bf16_dot.
LLVMValueRef cpu_round_pair(CpuUnit *unit, LLVMValueRef low, LLVMValueRef high);
// Neighbours of f32 numbers, rounded to bf16, as lanes of pairs; of two vectors, one behind the other.
LLVMValueRef cpu_narrow_two(CpuUnit *unit, LLVMValueRef first, LLVMValueRef second);
LLVMValueRef cpu_narrow_pairs(CpuUnit *unit, LLVMValueRef numbers);
LLVMValueRef cpu_convert(CpuUnit *unit, LLVMValueRef value, Element from, Element to);  // primitive `cast`

// cpu_math.c: inline polynomials on scalars and vectors of f32 and f64 of any width.
LLVMValueRef cpu_exp(CpuUnit *unit, LLVMValueRef x);
LLVMValueRef cpu_exp2(CpuUnit *unit, LLVMValueRef x);  // f32 alone
LLVMValueRef cpu_log(CpuUnit *unit, LLVMValueRef x);
LLVMValueRef cpu_sin(CpuUnit *unit, LLVMValueRef x);
LLVMValueRef cpu_cos(CpuUnit *unit, LLVMValueRef x);
LLVMValueRef cpu_tanh(CpuUnit *unit, LLVMValueRef x);
LLVMValueRef cpu_erf(CpuUnit *unit, LLVMValueRef x);
LLVMValueRef cpu_sqrt(CpuUnit *unit, LLVMValueRef x);
LLVMValueRef cpu_rsqrt(CpuUnit *unit, LLVMValueRef x);

// cpu_primitive.c: a scalar primitive; `element` as in primitive_evaluate, `from` that of argument 0 (for casts).
LLVMValueRef cpu_primitive(CpuUnit *unit, Primitive primitive, Element element, Element from,
                           const LLVMValueRef *arguments);

// ---- Memory. Alignment is that of one element. ----

LLVMValueRef cpu_at(CpuUnit *unit, LLVMValueRef pointer, Element element, LLVMValueRef index);  // elements
LLVMValueRef cpu_at_bytes(CpuUnit *unit, LLVMValueRef pointer, LLVMValueRef bytes);
// `lanes` consecutive elements in register form. mask NULL: all; lanes that are off read as zero.
LLVMValueRef cpu_load(CpuUnit *unit, Element element, LLVMValueRef pointer, int lanes, LLVMValueRef mask);
void cpu_store(CpuUnit *unit, Element element, LLVMValueRef pointer, LLVMValueRef value, LLVMValueRef mask);
// A whole vector past the caches, at a multiple of its size. cpu_fence: before another thread may read such stores.
void cpu_stream(CpuUnit *unit, Element element, LLVMValueRef pointer, LLVMValueRef value);
void cpu_fence(CpuUnit *unit);
void cpu_keep_order(CpuUnit *unit);  // no instruction: the compiler moves no load or store past this place
// Element `index[lane]` from `pointer` for every lane; `index` is a vector of i32 or i64.
LLVMValueRef cpu_gather(CpuUnit *unit, Element element, LLVMValueRef pointer, LLVMValueRef index,
                        LLVMValueRef mask);
void cpu_scatter(CpuUnit *unit, Element element, LLVMValueRef pointer, LLVMValueRef index,
                 LLVMValueRef value, LLVMValueRef mask);
void cpu_prefetch(CpuUnit *unit, LLVMValueRef pointer, bool write);
void cpu_prefetch_far(CpuUnit *unit, LLVMValueRef pointer);  // into the second cache: it is read a while later

// ---- Control flow ----

enum { CPU_CARRY_MAX = 64 };

// for (index = begin; index < end; index += step) with values carried from iteration to iteration.
typedef struct CpuLoop {
    LLVMValueRef index;                   // i64, inside the loop
    LLVMValueRef carried[CPU_CARRY_MAX];  // inside: values on entry of the iteration; after end: final ones
    int carry_count;
    LLVMValueRef begin, end, initial[CPU_CARRY_MAX];
    int64_t step;
    LLVMBasicBlockRef before, body, after;
    bool guarded;                         // may run no iteration
} CpuLoop;

void cpu_loop_begin(CpuUnit *unit, CpuLoop *loop, LLVMValueRef begin, LLVMValueRef end, int64_t step,
                    const LLVMValueRef *initial, int carry_count);
void cpu_loop_end(CpuUnit *unit, CpuLoop *loop, const LLVMValueRef *next);

typedef struct CpuIf {
    LLVMBasicBlockRef otherwise, after;
    bool has_else;
} CpuIf;

void cpu_if_begin(CpuUnit *unit, CpuIf *branch, LLVMValueRef condition);
void cpu_if_else(CpuUnit *unit, CpuIf *branch);
void cpu_if_end(CpuUnit *unit, CpuIf *branch);

// Unsigned quotient and remainder of a task number; extents are i64 constants or values.
void cpu_divide(CpuUnit *unit, LLVMValueRef value, LLVMValueRef by, LLVMValueRef *quotient,
                LLVMValueRef *remainder);
LLVMValueRef cpu_blocks(CpuUnit *unit, LLVMValueRef count, LLVMValueRef size);  // count / size, rounded up

// ---- A function under construction ----

typedef struct CpuBody {
    CpuUnit *unit;
    LLVMValueRef function;
    LLVMValueRef workspaces, scratch, begin, end;  // arguments: tasks [begin, end)
    LLVMValueRef operand[NEST_OPERAND_MAX];       // base pointers, loaded in the entry block
    LLVMBasicBlockRef entry;
    LLVMValueRef control_word;                    // of the caller's floating point, or NULL
} CpuBody;

// The function of phase `phase` of `kernel`; positions the builder in its entry block, behind the loads
// of the operand pointers.
CpuBody *cpu_body_begin(CpuUnit *unit, const Kernel *kernel, int phase);
void cpu_body_end(CpuBody *body);  // returns
// What every function of a module needs, helper functions included.
void cpu_function_attributes(CpuUnit *unit, LLVMValueRef function);
// The symbol of a phase: "cherry_<kernel>_<bundle>_<phase>".
const char *cpu_symbol(CpuUnit *unit, const Kernel *kernel, int phase);
// The thread's note of this phase, an i64 that is -1 at first.
LLVMValueRef cpu_note(CpuBody *body);
// A stack slot in the entry block.
LLVMValueRef cpu_stack_slot(CpuBody *body, LLVMTypeRef type);
void cpu_set_place(CpuUnit *unit, Place place);  // source line of the instructions that follow

// ---- Nests ----

enum { CPU_STAGE_LIMIT = sizeof(((Nest *)0)->stages) / sizeof(Stage) };

// Emission of formulas. A frame fixes where in the iteration space one stands: the index of every loop,
// and one loop that runs over `lanes` consecutive iterations at once (its index is that of lane 0).
// Values are computed once per frame; a frame finds the values of its parents, which must have been
// computed in blocks that dominate it: all of them where the vector loop stands at the same index, else
// the uniform ones. Make a frame for each block of straight-line code, and its child inside a loop.
typedef struct CpuFrame {
    CpuBody *body;
    const Nest *nest;                 // normalised
    const NestAnalysis *analysis;
    const struct CpuFrame *parent;
    const struct CpuFrame *also;      // a second parent, or NULL
    LLVMValueRef loop[LOOP_MAX];      // i64 scalars; NULL: outside of that loop
    int vector_loop;                  // -1: none, everything is scalar
    int lanes;
    LLVMValueRef mask;                // <lanes x i1> or NULL: lanes that exist
    LLVMValueRef guard;               // i1, scalar or vector, or NULL: where loads that may miss are made
    uint32_t streamed;                // operands that are stored past the caches: every vector is whole and aligned
    LLVMValueRef stage[CPU_STAGE_LIMIT];  // results of reduction stages: scalars or vectors
    LLVMValueRef *values;             // by formula, NULL: not yet computed
    struct CpuBase *bases;            // addresses so far
} CpuFrame;

enum { CPU_CACHE_LINE = 64 };

LLVMValueRef cpu_starts_on_lines(CpuBody *body, uint32_t operands);       // i1: each of the mask does
CpuFrame *cpu_frame(CpuBody *body, const Nest *nest);                     // no loops, scalar
CpuFrame *cpu_frame_inside(const CpuFrame *parent);                       // same place, fresh values
CpuFrame *cpu_frame_vector(const CpuFrame *parent, int loop, int lanes);  // loop[loop] is set by the caller

LLVMValueRef cpu_formula(CpuFrame *frame, uint32_t formula);         // scalar where uniform
LLVMValueRef cpu_formula_vector(CpuFrame *frame, uint32_t formula);  // always `lanes` lanes
// Computes ahead, in the frame, what does not depend on the loops that the frame is still outside of.
// Loads of operands in `written` stay where they are.
void cpu_frame_hoist(CpuFrame *frame, uint32_t formula, uint32_t written);
void cpu_frame_hoist_address(CpuFrame *frame, uint32_t operand, const Index *index);
// Pointer to an access at lane 0. Parts gathered along the vector loop are left out.
LLVMValueRef cpu_address(CpuFrame *frame, uint32_t operand, const Index *index);
// operand[index] = value, or += for STAGE_ADD, as the stage says; value in register form.
void cpu_store_stage(CpuFrame *frame, const Stage *stage, LLVMValueRef value);
// Epilogue: runs stages [first, count) where they have no inner loops, at the place of the frame.
// frame->stage[] must hold the results that they use.
void cpu_emit_stages(CpuFrame *frame, int first);
// The extent of a loop as i64: a constant, or for a bounded loop the value at run time.
LLVMValueRef cpu_extent(CpuBody *body, const Nest *nest, int loop);

// ---- Generators ----
// cpu_generators.def has a row for every special generator; nests that none takes go to cpu_nest_emit.
// A generator fills phase_count, tasks, scratch_bytes and workspace_bytes of `out` and emits
// the phases' functions; false after cpu_fail. The rows of the table expand to
//   bool <name>_supports(const CpuTarget *target, const Nest *nest);
//   bool <name>_emit(CpuUnit *unit, const Kernel *kernel, CpuKernel *out);
bool cpu_nest_emit(CpuUnit *unit, const Kernel *kernel, CpuKernel *out);

#define CPU_NEST_GENERATOR(name)                                         \
    bool name##_supports(const CpuTarget *target, const Nest *nest);     \
    bool name##_emit(CpuUnit *unit, const Kernel *kernel, CpuKernel *out);
#define CPU_NAMED_GENERATOR(kernel_name, function, composites) \
    bool function(CpuUnit *unit, const Kernel *kernel, CpuKernel *out);
#include "codegen/cpu_generators.def"
#undef CPU_NEST_GENERATOR
#undef CPU_NAMED_GENERATOR

bool cpu_emit_kernel(CpuUnit *unit, const Kernel *kernel, CpuKernel *out);  // chooses the generator

#endif
