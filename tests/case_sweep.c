#include "tests/case_sweep.h"

#include "ir/op.h"
#include "passes/program_passes.h"
#include "tests/unit/cpu_nest_cases.h"

// Products of bf16: tensor cores, the library's forms, and what only tiles can do.
#define HALF_OPERANDS "  operand 0: read bf16 [70:50, 50:1]\n  operand 1: read bf16 [50:37, 37:1]\n"
#define HALF_SUM "  stage 0: sum over k { mul(cast f32(@0[m, k]), cast f32(@1[k, n])) }\n"
#define HALF_GELU "mul(mul(0.5:f32, v0), add(1:f32, tanh(mul(0.7978845608028654:f32, add(v0, mul(v0, mul(v0, mul(0.044715:f32, v0))))))))"
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
    {.name = "GELU, with what it is taken of",
     .tolerance = 0x1p-7,
     .text = "nest half_gelu {\n  outer m=70, n=40\n  inner k=50\n  parallel m, n\n"
             "  operand 0: read bf16 [70:50, 50:1]\n  operand 1: read bf16 [50:40, 40:1]\n  operand 2: read bf16 [40:1]\n"
             "  operand 3: write bf16 [70:48, 40:1]\n  operand 4: write bf16 [70:40, 40:1]\n" HALF_SUM
             "  let v0 = add(stage 0, cast f32(@2[n]))\n  stage 1: store @3[m, n] { cast bf16(v0) }\n"
             "  stage 2: store @4[m, n] { cast bf16(" HALF_GELU ") }\n}\n"},
    {.name = "GELU, of an odd number of columns",
     .tolerance = 0x1p-7,
     .text = "nest half_gelu_odd {\n  outer m=9, n=517\n  inner k=24\n  parallel m, n\n"
             "  operand 0: read bf16 [9:24, 24:1]\n  operand 1: read bf16 [24:1, 517:24]\n"
             "  operand 2: write bf16 [9:520, 517:1]\n  operand 3: write bf16 [9:528, 517:1]\n" HALF_SUM
             "  let v0 = stage 0\n  stage 1: store @2[m, n] { cast bf16(" HALF_GELU ") }\n"
             "  stage 2: store @3[m, n] { cast bf16(v0) }\n}\n"},
    // The library takes a bias at whole pieces of 16 bytes alone.
    {.name = "bias between",
     .tolerance = 1e-5,
     .text = "nest half_between {\n  outer m=70, n=37\n  inner k=50\n  parallel m, n\n" HALF_OPERANDS
             "  operand 2: write f32 [70:37, 37:1]\n  operand 3: read f32 [38:1]\n" HALF_SUM
             "  stage 1: store @2[m, n] { add(stage 0, @3[n + 1]) }\n}\n"},
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
    // Rows of 16 bytes whose extents are odd: the library gets what is a multiple of 8, and then the rest.
    {.name = "odd columns",
     .tolerance = 1e-5,
     .text = "nest half_columns {\n  outer m=9, n=517\n  inner k=24\n  parallel m, n\n"
             "  operand 0: read bf16 [9:24, 24:1]\n  operand 1: read bf16 [24:1, 517:24]\n"
             "  operand 2: write f32 [9:520, 517:1]\n  operand 3: read f32 [517:1]\n"
             "  operand 4: read f32 [9:524, 517:1]\n" HALF_SUM
             "  stage 1: store @2[m, n] { add(add(stage 0, @3[n]), @4[m, n]) }\n}\n"},
    {.name = "odd rows",
     .tolerance = 1e-5,
     .text = "nest half_rows {\n  outer b=2, m=518, n=16\n  inner k=9\n  parallel b, m, n\n"
             "  operand 0: read bf16 [2:4680, 520:1, 9:520]\n  operand 1: read bf16 [2:144, 9:16, 16:1]\n"
             "  operand 2: update f32 [2:8288, 518:16, 16:1]\n"
             "  stage 0: sum over k { mul(cast f32(@0[b, m, k]), cast f32(@1[b, k, n])) }\n"
             "  stage 1: add @2[b, m, n] { stage 0 }\n}\n"},
    {.name = "odd steps",
     .tolerance = 1e-4,
     .text = "nest half_steps {\n  outer m=9, n=24\n  inner k=517\n  parallel m, n\n"
             "  operand 0: read bf16 [9:520, 520:1]\n  operand 1: read bf16 [517:24, 24:1]\n"
             "  operand 2: write f32 [9:24, 24:1]\n  operand 3: read f32 [24:1]\n" HALF_SUM
             "  stage 1: store @2[m, n] { add(stage 0, @3[n]) }\n}\n"},
    {.name = "odd steps, rounded",
     .tolerance = 0x1p-7,
     .text = "nest half_rounded {\n  outer m=9, n=24\n  inner k=517\n  parallel m, n\n"
             "  operand 0: read bf16 [9:520, 520:1]\n  operand 1: read bf16 [517:24, 24:1]\n"
             "  operand 2: write bf16 [9:24, 24:1]\n" HALF_SUM "  stage 1: store @2[m, n] { cast bf16(stage 0) }\n}\n"},
    {.name = "odd columns and steps",
     .tolerance = 0x1p-7,
     .text = "nest half_odd {\n  outer m=9, n=517\n  inner k=515\n  parallel m, n\n"
             "  operand 0: read bf16 [9:520, 520:1]\n  operand 1: read bf16 [520:1, 517:520]\n"
             "  operand 2: write bf16 [9:520, 517:1]\n  operand 3: write f32 [9:520, 517:1]\n" HALF_SUM
             "  stage 1: store @3[m, n] { mul(stage 0, 0.5:f32) }\n"
             "  stage 2: store @2[m, n] { cast bf16(tanh(mul(stage 0, 0.5:f32))) }\n}\n"},
};
enum { HALF_CASES = sizeof half_cases / sizeof *half_cases };

// One row: sums over the rows of a matrix, whose columns are read as packs, with a last block that is not full.
static const Case row_cases[] = {
    {.name = "product",
     .tolerance = 0x1p-7,
     .text = "nest row_product {\n  outer n=1064\n  inner k=150\n  parallel n\n"
             "  operand 0: read bf16 [150:1]\n  operand 1: read bf16 [150:1064, 1064:1]\n"
             "  operand 2: read bf16 [1064:1]\n  operand 3: write bf16 [1064:1]\n"
             "  stage 0: sum over k { mul(cast f32(@0[k]), cast f32(@1[k, n])) }\n"
             "  stage 1: store @3[n] { cast bf16(mul(tanh(stage 0), cast f32(@2[n]))) }\n}\n"},
    {.name = "two sums",
     .tolerance = 1e-5,
     .text = "nest row_two {\n  outer n=532\n  inner k=137\n  parallel n\n"
             "  operand 0: read f32 [137:532, 532:1]\n  operand 1: write f32 [532:1]\n  operand 2: update f32 [532:1]\n"
             "  stage 0: max over k { @0[k, n] }\n  stage 1: sum over k { mul(@0[k, n], @0[k, n]) }\n"
             "  stage 2: store @1[n] { sub(stage 0, stage 1) }\n  stage 3: add @2[n] { stage 1 }\n}\n"},
    {.name = "two products",
     .tolerance = 0x1p-7,
     .text = "nest row_gate {\n  outer n=536\n  inner k=141\n  parallel n\n"
             "  operand 0: read bf16 [141:1]\n  operand 1: read bf16 [141:536, 536:1]\n"
             "  operand 2: read bf16 [141:536, 536:1]\n  operand 3: write bf16 [536:1]\n"
             "  stage 0: sum over k { mul(cast f32(@0[k]), cast f32(@1[k, n])) }\n"
             "  stage 1: sum over k { mul(cast f32(@0[k]), cast f32(@2[k, n])) }\n"
             "  stage 2: store @3[n] { cast bf16(mul(tanh(stage 0), stage 1)) }\n}\n"},
    {.name = "normed",
     .tolerance = 0x1p-7,
     .text = "nest row_normed {\n  outer n=1064\n  inner k=150\n  parallel n\n"
             "  operand 0: read f32 [150:1]\n  operand 1: read f32 [150:1]\n  operand 2: read bf16 [150:1064, 1064:1]\n"
             "  operand 3: write bf16 [1064:1]\n  stage 0: sum over k { mul(@0[k], @0[k]) }\n"
             "  stage 1: sum over k { mul(mul(mul(@0[k], rsqrt(stage 0)), @1[k]), cast f32(@2[k, n])) }\n"
             "  stage 2: store @3[n] { cast bf16(stage 1) }\n}\n"},
    {.name = "wide",
     .tolerance = 1e-5,
     .text = "nest row_wide {\n  outer n=2060\n  inner k=70\n  parallel n\n"
             "  operand 0: read bf16 [70:1]\n  operand 1: read f32 [70:2060, 2060:1]\n  operand 2: write f32 [2060:1]\n"
             "  stage 0: sum over k { mul(cast f32(@0[k]), @1[k, n]) }\n  stage 1: store @2[n] { stage 0 }\n}\n"},
};
enum { ROW_CASES = sizeof row_cases / sizeof *row_cases };

// Rows that a GPU keeps in shared memory from one loop to the next: part of a long one, single elements of an odd one
// or, where it is aligned, of its end; those of several warps; the last loop takes what it has just stored.
#define KEPT_SOFTMAX                                                                                                   \
    "  stage 0: store over n @1[row, n] { cast bf16(@0[row, n]) }\n  stage 1: max over n { @0[row, n] }\n"             \
    "  let v0 = exp(sub(@0[row, n], stage 1))\n  stage 2: sum over n { v0 }\n"                                        \
    "  stage 3: store over n @2[row, n] { div(v0, stage 2) }\n}\n"
static const Case kept_cases[] = {
    {.name = "long",
     .tolerance = 0x1p-7,
     .text = "nest kept_long {\n  outer row=3\n  inner n=60000\n  parallel row\n"
             "  operand 0: read f32 [3:60000, 60000:1]\n  operand 1: write bf16 [3:60000, 60000:1]\n"
             "  operand 2: write f32 [3:60000, 60000:1]\n" KEPT_SOFTMAX},
    {.name = "odd",
     .tolerance = 0x1p-7,
     .text = "nest kept_odd {\n  outer row=2\n  inner n=20011\n  parallel row\n"
             "  operand 0: read f32 [2:20011, 20011:1]\n  operand 1: write bf16 [2:20011, 20011:1]\n"
             "  operand 2: write f32 [2:20011, 20011:1]\n" KEPT_SOFTMAX},
    {.name = "odd and aligned",
     .tolerance = 0x1p-7,
     .text = "nest kept_rest {\n  outer row=2\n  inner n=20011\n  parallel row\n"
             "  operand 0: read f32 [2:20012, 20011:1]\n  operand 1: write bf16 [2:20016, 20011:1]\n"
             "  operand 2: write f32 [2:20012, 20011:1]\n" KEPT_SOFTMAX},
    // A row of bytes before one of floats.
    {.name = "mask",
     .tolerance = 0x1p-7,
     .text = "nest kept_mask {\n  outer row=2\n  inner n=20008\n  parallel row\n"
             "  operand 0: read bool [2:20008, 20008:1]\n  operand 1: read f32 [2:20008, 20008:1]\n"
             "  operand 2: write bf16 [2:20008, 20008:1]\n  operand 3: write f32 [2:20008, 20008:1]\n"
             "  let v0 = mul(cast f32(@0[row, n]), @1[row, n])\n  stage 0: store over n @2[row, n] { cast bf16(v0) }\n"
             "  stage 1: max over n { v0 }\n  stage 2: store over n @3[row, n] { sub(v0, stage 1) }\n}\n"},
    {.name = "warps",
     .tolerance = 0x1p-7,
     .text = "nest kept_warps {\n  outer row=2050\n  inner n=264\n  parallel row\n"
             "  operand 0: read bf16 [2050:264, 264:1]\n  operand 1: read f32 [2050:264, 264:1]\n"
             "  operand 2: update f32 [2050:264, 264:1]\n  operand 3: write bf16 [2050:264, 264:1]\n"
             "  stage 0: sum over n { mul(cast f32(@0[row, n]), @1[row, n]) }\n"
             "  stage 1: store over n @2[row, n] { add(mul(@1[row, n], stage 0), cast f32(@0[row, n])) }\n"
             "  stage 2: store over n @3[row, n] { cast bf16(mul(@2[row, n], 0.5:f32)) }\n}\n"},
};
enum { KEPT_CASES = sizeof kept_cases / sizeof *kept_cases };

// ---- Programs ----

static Program *nest_program(Ir *ir, const Nest *nest, const Case *test) {
    Program *program = program_create(ir, test->name);
    Launch launch = {.kernel = program_add_nest(program, nest), .operand_count = nest->operand_count,
                     .workspaces = NO_WORKSPACES};
    for (int i = 0; i < nest->operand_count; i++) {
        const NestOperand *operand = &nest->operands[i];
        int64_t low = 0, high = 0;
        operand_span(operand, &low, &high);
        Dimension dimension = {.name = names_intern(ir->names, "elements"), .extent = high - low + 1};
        launch.offsets[i] = -low;
        launch.buffers[i] = program_add_buffer(
            program, (Buffer){.kind = BUFFER_STATE, .role = ROLE_PARAMETER, .offset = -1,
                              .name = names_intern(ir->names, arena_format(ir->arena, "operand%d", i)),
                              .type = type_make(ir, operand->element, 1, &dimension),
                              .bytes = dimension.extent * element_bytes(operand->element)});
    }
    vector_push(ir->arena, &program->launches, launch);
    return program;
}

static bool add_op_case(Ir *ir, const OpCase *op_case, bool (*has_kernel)(const char *), SweepCase *added) {
    added->op_case = op_case;
    added->graph = op_case_graph(ir, op_case);
    added->program = added->graph ? lower_graph(added->graph, has_kernel) : NULL;
    return added->program;
}

static bool add_nest_case(Ir *ir, const Case *test, SweepCase *added) {
    Nest *nest = nest_read(ir, test->name, test->text);
    if (!nest || !nest_verify(ir, nest)) return false;
    added->nest_case = test;
    added->nest = nest;
    added->program = nest_program(ir, nest, test);
    return true;
}

typedef struct Collection {
    Ir *ir;
    const char *filter;
    CaseSweep *sweep;
} Collection;

static bool is_wanted(const char *name, const char *filter) {
    for (const char *at = filter; at;) {
        size_t length = strcspn(at, ",");
        if (memmem(name, strlen(name), at, length)) return true;
        at = at[length] ? at + length + 1 : NULL;
    }
    return !filter;
}

// The next case, NULL where it is not wanted.
static SweepCase *next_case(const Collection *collection, const char *family, const char *name) {
    const char *whole = arena_format(collection->ir->arena, "%s/%s", family, name);
    if (!is_wanted(whole, collection->filter)) return NULL;
    SweepCase *added = &collection->sweep->cases[collection->sweep->count];
    added->name = whole;
    return added;
}

static bool keep_case(const Collection *collection, const SweepCase *added, bool good) {
    CaseSweep *sweep = collection->sweep;
    if (!good) {
        diagnostics_print(collection->ir->diagnostics, 0, stderr);
        fprintf(stderr, "%s does not become a program\n", added->name);
        return false;
    }
    sweep->programs[sweep->count++] = added->program;
    return true;
}

static bool add_nest_cases(const Collection *collection, const char *family, const Case *tests, size_t count) {
    for (size_t i = 0; i < count; i++) {
        SweepCase *added = next_case(collection, family, tests[i].name);
        if (added && !keep_case(collection, added, add_nest_case(collection->ir, &tests[i], added))) return false;
    }
    return true;
}

bool case_sweep_create(Ir *ir, const char *filter, bool (*has_kernel)(const char *kernel), CaseSweep *sweep) {
    size_t most = (size_t)op_case_count + NEST_CASES + HALF_CASES + ROW_CASES + KEPT_CASES;
    *sweep = (CaseSweep){.cases = ARENA_ARRAY(ir->arena, SweepCase, most),
                         .programs = ARENA_ARRAY(ir->arena, Program *, most)};
    Collection collection = {ir, filter, sweep};
    bool seen[OP_COUNT] = {false};
    for (int op = 0; op < OP_COUNT; op++) sweep->lowered += op_table[op]->lower != NULL || op == OP_input;
    for (int i = 0; i < op_case_count; i++) {
        const OpCase *op_case = &op_cases[i];
        if (!op_table[op_case->op]->lower && op_case->op != OP_input) continue;
        SweepCase *added = next_case(&collection, op_name(op_case->op), op_case->name);
        if (!added) continue;
        if (!keep_case(&collection, added, add_op_case(ir, op_case, has_kernel, added))) return false;
        sweep->covered += !seen[op_case->op];
        seen[op_case->op] = true;
    }
    return add_nest_cases(&collection, "nest", nest_cases, NEST_CASES) &&
           add_nest_cases(&collection, "half", half_cases, HALF_CASES) &&
           add_nest_cases(&collection, "row", row_cases, ROW_CASES) &&
           add_nest_cases(&collection, "kept", kept_cases, KEPT_CASES);
}

// ---- Running ----

static int64_t run_nest_case(const SweepCase *sweep_case, const char *where, RunProgram run, void *context) {
    const Nest *nest = sweep_case->nest;
    Storage storage[NEST_OPERAND_MAX];
    double *reference[NEST_OPERAND_MAX];
    char *buffers[NEST_OPERAND_MAX];
    int bounds_used = 0;
    for (int i = 0; i < nest->operand_count; i++) {
        size_t bytes = (size_t)sweep_case->program->buffers.items[i].bytes;
        storage[i] = storage_create(&nest->operands[i], sweep_case->nest_case, &bounds_used);
        reference[i] = storage[i].values - storage[i].low;
        buffers[i] = malloc(bytes);
        CHECK(buffers[i]);
        memcpy(buffers[i], storage[i].bytes, bytes);
    }
    nest_evaluate(nest, reference);
    run(context, sweep_case->program, buffers);
    int64_t wrong = 0;
    for (int i = 0; i < nest->operand_count; i++) {
        wrong += storage_differs(sweep_case->nest_case, where, nest, i, &storage[i], buffers[i]);
        free(buffers[i]);
        free(storage[i].bytes);
        free(storage[i].values);
    }
    return wrong;
}

int64_t sweep_case_run(const SweepCase *sweep_case, const char *where, RunProgram run, void *context) {
    if (sweep_case->nest) return run_nest_case(sweep_case, where, run, context);
    return op_case_run(sweep_case->op_case, sweep_case->graph, sweep_case->program, where, run, context);
}
