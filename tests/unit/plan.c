// order and plan-memory: less is live, nothing that is live is overwritten, large programs take no time.
#include "base/thread.h"
#include "tests/unit/fuse_test.h"

static Ir *ir;
static Graph *g;

static int setup(void **state) {
    (void)state;
    ir = ir_create(arena_create());
    g = graph_create(ir, test_name(ir, "test"));
    return 0;
}

static int teardown(void **state) {
    (void)state;
    arena_destroy(ir->arena);
    return 0;
}

static const Type *vector_type(int extent) { return test_type(ir, ELEMENT_F32, "i", extent, NULL); }

// Many large values are made first and summed to scalars later: ordered, one is live at a time.
static void order_frees_early(void **state) {
    (void)state;
    Value x = test_input(g, "x", ROLE_DATA, vector_type(256)), made[8], total = fuse_number(g, 0);
    for (int i = 0; i < 8; i++) made[i] = fuse_one(g, OP_tanh, fuse_add(g, x, fuse_number(g, i)));
    for (int i = 0; i < 8; i++) total = fuse_add(g, total, fuse_sum(g, made[i], "i"));
    fuse_output(g, "out", total);
    Program *program = fuse_test_lower(g, NULL);
    assert_true(plan_memory(program));
    int64_t before = program->live_bytes;
    program = fuse_test_lower(g, NULL);
    assert_true(order_program(program) && plan_memory(program));
    fuse_test_run(g, program, test_inputs(g, 3), "order");
    assert_true(before >= 8 * 1024);
    assert_true(program->live_bytes <= 3 * 1024);
}

static void results_take_the_place_of_operands(void **state) {
    (void)state;
    Value x = test_input(g, "x", ROLE_DATA, vector_type(64));
    for (int i = 0; i < 10; i++) x = fuse_one(g, OP_tanh, x);
    fuse_output(g, "out", fuse_sum(g, x, "i"));
    Program *program = fuse_test_lower(g, NULL);
    assert_true(plan_memory(program));
    fuse_test_run(g, program, test_inputs(g, 3), "plan-memory");
    assert_int_equal(program->launches.count, 11);
    assert_int_equal(program->arena_bytes, 256);
}

// A transposed operand is not read where the result is written.
static void no_place_is_taken_out_of_step(void **state) {
    (void)state;
    const Type *square = test_type(ir, ELEMENT_F32, "i", 8, "j", 8, NULL);
    Value x = fuse_one(g, OP_tanh, test_input(g, "x", ROLE_DATA, square));
    const char *swapped[] = {test_name(ir, "j"), test_name(ir, "i")};
    Value y = fuse_one(g, OP_tanh, build_transpose(g, x, swapped, 2, NO_PLACE));
    fuse_output(g, "out", fuse_sum(g, y, "i"));
    Program *program = fuse_test_lower(g, NULL);
    assert_true(plan_memory(program));
    fuse_test_run(g, program, test_inputs(g, 3), "plan-memory");
    assert_int_equal(program->arena_bytes, 512);
}

static void workspaces_are_planned(void **state) {
    (void)state;
    Value x = test_input(g, "x", ROLE_DATA, vector_type(64));
    fuse_output(g, "out", fuse_sum(g, fuse_one(g, OP_tanh, fuse_one(g, OP_exp, x)), "i"));
    Program *program = fuse_test_lower(g, NULL);
    assert_int_equal(program->kernels.count, 3);
    program->kernels.items[1].cpu.workspace_bytes[0] = 1000;
    program_attach_workspace(program, 2, 0, 100);
    assert_true(plan_memory(program));
    const Launch *launch = &program->launches.items[1];
    assert_true(launch->workspaces[0] != UINT32_MAX);
    const Buffer *workspace = &program->buffers.items[launch->workspaces[0]];
    assert_int_equal(workspace->bytes, 1000);
    assert_int_equal(workspace->first, 1);
    assert_int_equal(workspace->last, 1);
    assert_int_equal(workspace->offset % 64, 0);
    assert_true(program->arena_bytes >= 256 + 1024);
    assert_true(program_verify(program));
    int64_t once = program->arena_bytes;
    assert_true(plan_memory(program));  // planning again changes nothing
    assert_int_equal(program->arena_bytes, once);
}

// Forward and backward of a deep chain with residuals: every forward value is read again, last first.
static void deep_graph(int layers, int extent) {
    const Type *type = vector_type(extent);
    Value x = test_input(g, "x", ROLE_DATA, type), *kept = ARENA_ARRAY(ir->arena, Value, layers);
    Value w =
        test_input(g, "w", ROLE_PARAMETER, test_type(ir, ELEMENT_F32, "layer", layers, "i", extent, NULL));
    Value dw =
        test_input(g, "w", ROLE_GRADIENT, test_type(ir, ELEMENT_F32, "layer", layers, "i", extent, NULL));
    const char *layer = test_name(ir, "layer");
    for (int i = 0; i < layers; i++) {
        kept[i] = fuse_one(g, OP_tanh, fuse_mul(g, x, build_pick(g, w, layer, i, NO_PLACE)));
        x = fuse_add(g, x, fuse_one(g, OP_sin, kept[i]));
    }
    Value dx = fuse_mul(g, x, fuse_number(g, 1e-3)), sum = dw;
    for (int i = layers - 1; i >= 0; i--) {
        Value d = fuse_mul(g, dx, fuse_one(g, OP_cos, kept[i]));
        sum = build_accumulate_at(g, sum, fuse_mul(g, d, kept[i]), layer, i, NO_PLACE);
        dx = fuse_add(g, dx, fuse_mul(g, d, build_pick(g, w, layer, i, NO_PLACE)));
    }
    fuse_output(g, "loss", fuse_sum(g, dx, "i"));
    fuse_replace(g, "dw", sum, dw);
}

static void deep_graphs_stay_right(void **state) {
    (void)state;
    deep_graph(30, 16);
    Program *program = fuse_test(g, -1);
    assert_true(program->arena_bytes <= program->live_bytes + program->live_bytes / 20);
}

static void large_programs_are_fast(void **state) {
    (void)state;
    deep_graph(600, 4);
    double start = clock_seconds();
    Program *program = fuse_test_lower(g, NULL);
    assert_true(program->launches.count > 4000);
    double lowered = clock_seconds();
    assert_true(order_program(program));
    double ordered = clock_seconds();
    assert_true(plan_memory(program));
    double planned = clock_seconds();
    program = fuse_test_lower(g, NULL);
    double again = clock_seconds();
    assert_true(fuse_program(program, false));
    double fused = clock_seconds();
    fuse_test_run(g, program, test_inputs(g, 3), "fuse");
    assert_true(program->kernels.count < 60);
    printf("lower %.3f s, order %.3f s, plan %.3f s, fuse %.3f s\n", lowered - start, ordered - lowered,
           planned - ordered, fused - again);
    assert_true(planned - start + fused - again < 20);  // generous: sanitizers, a busy machine
}

// Random lifetimes: the arena is near the largest live set.
static void arenas_are_tight(void **state) {
    (void)state;
    uint64_t random = 5;
    double worst = 0;
    for (int round = 0; round < 50; round++) {
        Graph *graph = graph_create(ir, names_format(ir->names, "random%d", round));
        Value values[60];
        int count = 0;
        values[count++] =
            graph_add_input(graph, test_name(ir, "x"), ROLE_DATA, type_scalar(ir, ELEMENT_F32), NO_PLACE);
        for (int i = 0; i < 50; i++) {
            Dimension dimension = test_dimension(ir, "i", 16 << (int)((test_random(&random) + 1) * 4));
            Value a = values[(int)((test_random(&random) + 1) / 2 * count)];
            if (graph_type(graph, a)->rank) a = test_reduce(graph, OP_sum, a, "i");
            Value wide = build_broadcast(graph, a, &dimension, 1, NO_PLACE);
            values[count++] = fuse_one(graph, OP_tanh, wide);
        }
        Value total = values[0];
        for (int i = 1; i < count; i++)
            total = fuse_add(graph, total, test_reduce(graph, OP_sum, values[i], "i"));
        fuse_output(graph, "total", total);
        Program *program = fuse_test_lower(graph, NULL);
        assert_true(plan_memory(program));
        fuse_test_run(graph, program, test_inputs(graph, 3), "plan-memory");
        double waste = (double)program->arena_bytes / (double)program->live_bytes - 1;
        if (waste > worst) worst = waste;
    }
    printf("worst arena: %.1f %% above the live set\n", 100 * worst);
    assert_true(worst <= 0.05);
}

// A composite with a kernel stays one launch and runs through its meaning.
static bool knows_twice(const char *kernel) { return strcmp(kernel, "twice") == 0; }

static void named_kernels(void **state) {
    (void)state;
    Graph *meaning = graph_create(ir, test_name(ir, "twice"));
    Value a = test_input(meaning, "a", ROLE_ARGUMENT, test_type(ir, ELEMENT_F32, "i", 3, "j", 4, NULL));
    fuse_output(meaning, "doubled", fuse_add(meaning, a, a));
    fuse_output(meaning, "summed", fuse_sum(meaning, a, "i"));
    Value x = test_input(g, "x", ROLE_DATA, test_type(ir, ELEMENT_F32, "j", 4, "i", 3, NULL));
    const char *order[] = {test_name(ir, "i"), test_name(ir, "j")};
    Value y = build_transpose(g, fuse_one(g, OP_tanh, x), order, 2, NO_PLACE);
    Attribute attributes[] = {{.key = ATTRIBUTE_function, .graph = meaning},
                              {.key = ATTRIBUTE_kernel, .text = test_name(ir, "twice")}};
    Value call = graph_add(g, OP_call, &y, 1, attributes, 2, NO_PLACE);
    fuse_output(g, "out", fuse_mul(g, call, (Value){call.node, 1}));
    Program *program = fuse_test_kernels(g, 3, knows_twice);
    uint32_t named = 0;
    for (size_t i = 0; i < program->kernels.count; i++) named += program->kernels.items[i].named != NULL;
    assert_int_equal(named, 1);
    size_t before = diagnostics_error_count(ir->diagnostics);
    assert_null(lower_graph(g, NULL));  // not inlined and no kernel: an error
    assert_int_equal(diagnostics_error_count(ir->diagnostics), before + 1);
}

static void bounded_extents(void **state) {
    (void)state;
    Dimension time = {test_name(ir, "time"), 8, test_name(ir, "length")},
              embed = test_dimension(ir, "embed", 4);
    const Type *type = type_make(ir, ELEMENT_F32, 2, (Dimension[]){time, embed});
    test_input(g, "length", ROLE_SCALAR, type_scalar(ir, ELEMENT_I64));
    Value x = test_input(g, "x", ROLE_DATA, type), y = fuse_one(g, OP_exp, x);
    Value n = fuse_div(g, y, fuse_sum(g, y, "embed"));
    fuse_output(g, "last", fuse_sum(g, fuse_mul(g, n, x), "time"));
    Program *program = fuse_test_lower(g, NULL);
    assert_true(fuse_program(program, false) && order_program(program) && plan_memory(program) &&
                program_verify(program));
    double length[] = {3}, data[32], out[4] = {0};
    for (int i = 0; i < 32; i++) data[i] = i < 12 ? 0.1 * i : 1e30;
    double *storage[8] = {0};
    storage[program_find_buffer(program, time.bound, ROLE_SCALAR)] = length;
    storage[program_find_buffer(program, test_name(ir, "x"), ROLE_DATA)] = data;
    for (uint32_t i = 0; i < program->buffers.count; i++)
        if (program->buffers.items[i].kind == BUFFER_OUTPUT) storage[i] = out;
    program_evaluate(program, storage);
    double expected[4] = {0};
    for (int t = 0; t < 3; t++) {
        double sum = 0;
        for (int k = 0; k < 4; k++) sum += exp(data[4 * t + k]);
        for (int k = 0; k < 4; k++) expected[k] += exp(data[4 * t + k]) / sum * data[4 * t + k];
    }
    for (int k = 0; k < 4; k++) assert_true(fabs(out[k] - expected[k]) < 1e-12);
}

int main(void) {
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(order_frees_early),
        TEST(results_take_the_place_of_operands),
        TEST(no_place_is_taken_out_of_step),
        TEST(workspaces_are_planned),
        TEST(deep_graphs_stay_right),
        TEST(large_programs_are_fast),
        TEST(arenas_are_tight),
        TEST(named_kernels),
        TEST(bounded_extents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
