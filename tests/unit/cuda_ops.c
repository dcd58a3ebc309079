// Every op case and every kind of nest as CUDA C on the emulated GPU, against the reference evaluator: with
// products left to the library, and with generated tiles in their place.
//   unit_cuda_ops [FILTER]      unit_cuda_ops dot/batched
#include "cpu_nest_cases.h"
#include "ir/op.h"
#include "passes/program_passes.h"
#include "tests/cuda/run.h"
#include "tests/op_case_run.h"

static const char *filter;

// Products of bf16: tensor cores, the library's forms, and what only tiles can do.
#define HALF_OPERANDS "  operand 0: read bf16 [70:50, 50:1]\n  operand 1: read bf16 [50:37, 37:1]\n"
#define HALF_SUM "  stage 0: sum over k { mul(cast f32(@0[m, k]), cast f32(@1[k, n])) }\n"
static const Case half_cases[] = {
    {.name = "plain",
     .tolerance = 1e-5,
     .text = "nest half_plain {\n  outer m=70, n=37\n  inner k=50\n  parallel m, n\n" HALF_OPERANDS
             "  operand 2: write f32 [70:37, 37:1]\n" HALF_SUM "  stage 1: store @2[m, n] { stage 0 }\n}\n"},
    {.name = "turned",
     .tolerance = 1e-5,
     .text = "nest half_turned {\n  outer m=70, n=37\n  inner k=50\n  parallel m, n\n"
             "  operand 0: read bf16 [70:1, 50:70]\n  operand 1: read bf16 [50:1, 37:50]\n"
             "  operand 2: update f32 [70:37, 37:1]\n" HALF_SUM
             "  stage 1: add @2[m, n] { mul(stage 0, 0.5:f32) }\n}\n"},
    {.name = "bias and residual",
     .tolerance = 0x1p-7,
     .text = "nest half_bias {\n  outer m=70, n=37\n  inner k=50\n  parallel m, n\n" HALF_OPERANDS
             "  operand 2: write bf16 [70:37, 37:1]\n  operand 3: read bf16 [37:1]\n  operand 4: read bf16 "
             "[70:37, 37:1]\n" HALF_SUM "  stage 1: store @2[m, n] { cast bf16(add(add(stage 0, cast "
                                        "f32(@3[n])), cast f32(@4[m, n]))) }\n}\n"},
    {.name = "epilogue",
     .tolerance = 0x1p-7,
     .text = "nest half_epilogue {\n  outer m=70, n=36\n  inner k=50\n  parallel m, n\n"
             "  operand 0: read bf16 [70:50, 50:1]\n  operand 1: read bf16 [50:36, 36:1]\n"
             "  operand 2: write bf16 [70:36, 36:1]\n  operand 3: write f32 [70:36, 36:1]\n" HALF_SUM
             "  stage 1: store @3[m, n] { stage 0 }\n  stage 2: store @2[m, n] { cast bf16(tanh(stage 0)) "
             "}\n}\n"},
    {.name = "batch",
     .tolerance = 1e-5,
     .text = "nest half_batch {\n  outer b=3, m=9, n=37\n  inner k=50\n  parallel b, m, n\n"
             "  operand 0: read bf16 [3:450, 9:50, 50:1]\n  operand 1: read bf16 [3:1850, 50:37, 37:1]\n"
             "  operand 2: write f32 [3:333, 9:37, 37:1]\n"
             "  stage 0: sum over k { mul(cast f32(@0[b, m, k]), cast f32(@1[b, k, n])) }\n  stage 1: store "
             "@2[b, m, n] { stage 0 }\n}\n"},
    {.name = "bounded",
     .bounds = {67, 41},
     .tolerance = 1e-5,
     .text = "nest half_bounded {\n  outer m<=130:rows@3, n=37\n  inner k<=50:depth@4\n  parallel m, n\n"
             "  operand 0: read bf16 [130:50, 50:1]\n  operand 1: read bf16 [50:37, 37:1]\n"
             "  operand 2: write f32 [130:37, 37:1]\n  operand 3: read i64 []\n  operand 4: read i64 "
             "[]\n" HALF_SUM "  stage 1: store @2[m, n] { stage 0 }\n}\n"},
    {.name = "rounded weights",
     .tolerance = 1e-5,
     .text = "nest half_mixed {\n  outer m=70, n=37\n  inner k=50\n  parallel m, n\n"
             "  operand 0: read bf16 [70:50, 50:1]\n  operand 1: read f32 [50:37, 37:1]\n  operand 2: write "
             "f32 [70:37, 37:1]\n"
             "  stage 0: sum over k { mul(cast f32(@0[m, k]), cast f32(@1[k, n])) }\n  stage 1: store @2[m, "
             "n] { stage 0 }\n}\n"},
};
enum { HALF_CASES = sizeof half_cases / sizeof *half_cases };

typedef struct Sweep {
    const OpCase *op_case;  // or
    const Case *nest_case;
    Graph *graph;
    const Nest *nest;
    Program *program;
} Sweep;

static void run_program(void *context, const Program *program, char *const *buffers) {
    emulation_run_program(context, program, buffers);
}

static void run_nest_case(const Emulation *emulation, const Sweep *sweep) {
    const Nest *nest = sweep->nest;
    Storage storage[NEST_OPERAND_MAX];
    double *reference[NEST_OPERAND_MAX];
    char *operands[NEST_OPERAND_MAX], *copy[NEST_OPERAND_MAX];
    int bounds_used = 0;
    for (int i = 0; i < nest->operand_count; i++) {
        int width = element_bytes(nest->operands[i].element);
        storage[i] = storage_create(&nest->operands[i], sweep->nest_case, &bounds_used);
        reference[i] = storage[i].values - storage[i].low;
        copy[i] = aligned_alloc(64, (size_t)(storage[i].count * width + 63) & ~(size_t)63);
        memcpy(copy[i], storage[i].bytes, (size_t)(storage[i].count * width));
        operands[i] = copy[i] - storage[i].low * width;
    }
    nest_evaluate(nest, reference);
    emulation_run_kernel(emulation, &sweep->program->kernels.items[0], operands);
    for (int i = 0; i < nest->operand_count; i++) {
        compare_storage(sweep->nest_case, "the emulated GPU", nest, i, &storage[i], copy[i]);
        free(copy[i]);
        free(storage[i].bytes);
        free(storage[i].values);
    }
}

static bool is_wanted(const char *family, const char *name) {
    char whole[160];
    snprintf(whole, sizeof whole, "%s/%s", family, name);
    return !filter || strstr(whole, filter);
}

static size_t collect(Ir *ir, Sweep *sweeps, int *covered) {
    size_t count = 0;
    bool seen[OP_COUNT] = {false};
    for (int i = 0; i < op_case_count; i++) {
        const OpCase *op_case = &op_cases[i];
        if (!is_wanted(op_name(op_case->op), op_case->name)) continue;
        if (!op_table[op_case->op]->lower && op_case->op != OP_input) continue;
        Sweep sweep = {.op_case = op_case, .graph = op_case_graph(ir, op_case)};
        if (sweep.graph) sweep.program = lower_graph(sweep.graph, cuda_has_kernel);
        if (!sweep.program) fail_msg("%s/%s", op_name(op_case->op), op_case->name);
        sweeps[count++] = sweep;
        *covered += !seen[op_case->op];
        seen[op_case->op] = true;
    }
    for (size_t i = 0; i < NEST_CASES + HALF_CASES; i++) {
        const Case *test = i < NEST_CASES ? &nest_cases[i] : &half_cases[i - NEST_CASES];
        if (!is_wanted(i < NEST_CASES ? "nest" : "half", test->name)) continue;
        Sweep sweep = {.nest_case = test, .nest = case_nest(ir, test), .program = program_create(ir, "test")};
        program_add_nest(sweep.program, sweep.nest);
        sweeps[count++] = sweep;
    }
    return count;
}

static void run_sweep(bool no_library) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    Sweep *sweeps = ARENA_ARRAY(arena, Sweep, op_case_count + NEST_CASES + HALF_CASES);
    int covered = 0, lowered = 0;
    size_t count = collect(ir, sweeps, &covered), products = 0;
    Program **programs = ARENA_ARRAY(arena, Program *, count + 1);
    for (size_t i = 0; i < count; i++) programs[i] = sweeps[i].program;
    CudaOptions options = {.no_library = no_library};
    if (!cuda_generate(ir, programs, count, &options)) {
        diagnostics_print(ir->diagnostics, 0, stderr);
        fail();
    }
    Emulation *emulation = emulation_create(programs, count);
    assert_non_null(emulation);
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < programs[i]->kernels.count; k++)
            for (int p = 0; p < programs[i]->kernels.items[k].cuda.phase_count; p++)
                products += !programs[i]->kernels.items[k].cuda.phases[p].function;
        if (sweeps[i].nest)
            run_nest_case(emulation, &sweeps[i]);
        else
            assert_int_equal(op_case_run(sweeps[i].op_case, sweeps[i].graph, programs[i], "the emulated GPU",
                                         run_program, emulation),
                             0);
    }
    emulation_destroy(emulation);
    for (int op = 0; op < OP_COUNT; op++) lowered += op_table[op]->lower != NULL || op == OP_input;
    print_message("%zu cases, %zu products for the library; %d of %d ops that are lowered = %d %%\n", count,
                  products, covered, lowered, covered * 100 / lowered);
    if (!filter) assert_int_equal(covered, lowered);
    arena_destroy(arena);
}

static void with_library(void **state) {
    (void)state;
    run_sweep(false);
}

static void with_tiles(void **state) {
    (void)state;
    run_sweep(true);
}

int main(int argc, char **argv) {
    filter = argc > 1 ? argv[1] : NULL;
    const struct CMUnitTest tests[] = {cmocka_unit_test(with_library), cmocka_unit_test(with_tiles)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
