// Which launches a GPU runs side by side, where their memory lies, and that they compute the same.
#include <math.h>

#include "codegen/cuda.h"
#include "tests/cuda/run.h"
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

static Value input(const char *name, int extent) {
    return test_input(g, name, ROLE_DATA, test_type(ir, ELEMENT_F32, "i", extent, NULL));
}

static Program *generate(void) {
    Program *program = fuse_test_lower(g, NULL);
    assert_true(cuda_generate(ir, &program, 1, NULL));
    assert_true(plan_memory(program) && program_verify(program));
    fuse_test_run(g, program, test_inputs(g, 3), "groups");
    return program;
}

// What the emulated GPU leaves in the temporaries' arena and the outputs, against the reference.
static void run_emulated(Program *program) {
    Emulation *emulation = emulation_create(&program, 1);
    assert_non_null(emulation);
    char *arena = aligned_alloc(64, (size_t)program->arena_bytes + 64);
    char **buffers = ARENA_ARRAY(ir->arena, char *, program->buffers.count);
    double **reference = ARENA_ARRAY(ir->arena, double *, program->buffers.count);
    uint64_t seed = 5;
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *buffer = &program->buffers.items[i];
        buffers[i] = buffer->kind == BUFFER_TEMPORARY
                         ? arena + buffer->offset
                         : (char *)ARENA_ARRAY(ir->arena, float, type_count(buffer->type));
        if (buffer->kind == BUFFER_TEMPORARY) continue;
        reference[i] = ARENA_ARRAY(ir->arena, double, type_count(buffer->type));
        for (int64_t k = 0; k < type_count(buffer->type) && buffer->kind == BUFFER_INPUT; k++)
            reference[i][k] = ((float *)buffers[i])[k] = (float)test_random(&seed);
    }
    emulation_run_program(emulation, program, buffers);
    program_evaluate(program, reference);
    for (size_t i = 0; i < program->buffers.count; i++)
        for (int64_t k = 0; program->buffers.items[i].kind == BUFFER_OUTPUT &&
                            k < type_count(program->buffers.items[i].type);
             k++)
            assert_true(fabs((double)((float *)buffers[i])[k] - reference[i][k]) <
                        1e-5 * (1 + fabs(reference[i][k])));
    free(arena);
    emulation_destroy(emulation);
}

static const char *kernel_of(const Program *program, uint32_t launch) {
    return program->kernels.items[program->launches.items[launch].kernel].name;
}

// exp(y) waits for nothing: it runs with tanh(x), before what reads that.
static void what_is_independent_joins(void **state) {
    (void)state;
    Value x = fuse_one(g, OP_tanh, input("x", 300)), z = fuse_one(g, OP_sqrt, fuse_one(g, OP_exp, x));
    fuse_output(g, "z", z);
    fuse_output(g, "w", fuse_one(g, OP_exp, input("y", 1000)));
    Program *program = generate();
    assert_int_equal(program->groups.count, 1);
    assert_int_equal(program->groups.items[0].first, 0);
    assert_int_equal(program->groups.items[0].count, 2);
    assert_string_equal(kernel_of(program, 0), "tanh");
    assert_string_equal(kernel_of(program, 1), "exp");
    assert_string_equal(kernel_of(program, 3), "sqrt");
    const CudaPhase *phase = &program->groups.items[0].code.phases[0];
    assert_int_equal(phase->grid[0],
                     program_cuda_code(program, program->launches.items[0].kernel)->phases[0].grid[0] +
                         program_cuda_code(program, program->launches.items[1].kernel)->phases[0].grid[0]);
    run_emulated(program);
}

// A chain has no two launches that could meet.
static void what_depends_stays(void **state) {
    (void)state;
    Value x = input("x", 100);
    for (int i = 0; i < 4; i++) x = fuse_one(g, OP_tanh, x);
    fuse_output(g, "out", x);
    assert_int_equal(generate()->groups.count, 0);
}

// Made early, a large value would only lie about; one that waits beside its like joins it.
static void large_values_wait(void **state) {
    (void)state;
    for (int far = 0; far < 2; far++) {
        g = graph_create(ir, test_name(ir, "test"));
        Value x = fuse_one(g, OP_tanh, input("x", 40000)), y;
        if (far) x = fuse_one(g, OP_exp, x);
        y = fuse_one(g, OP_tanh, input("y", 40000));
        if (!far) x = fuse_one(g, OP_exp, x);
        fuse_output(g, "x", fuse_sum(g, x, "i"));
        fuse_output(g, "y", fuse_sum(g, fuse_one(g, OP_exp, y), "i"));
        const Program *program = generate();
        const LaunchGroup *group = program_group(program, 0);
        assert_true(far ? !group : group && group->count == 2);
    }
}

// What leaves only state that nothing touches again waits for its like, behind the products that it could not pass.
static void what_leaves_state_waits(void **state) {
    (void)state;
    const char *const dimensions[] = {"k", "m"};
    Value x = test_input(g, "x", ROLE_DATA, test_type(ir, ELEMENT_F32, "i", 64, "k", 64, NULL));
    for (int i = 0; i < 3; i++) {
        const char *over = dimensions[i % 2], *name = names_format(ir->names, "w%d", i);
        const Type *type = test_type(ir, ELEMENT_F32, over, 64, dimensions[!(i % 2)], 64, NULL);
        x = test_dot(g, x, test_input(g, name, ROLE_DATA, type), over);
        graph_add_output(g, state_output_name(ir, ROLE_GRADIENT, name), fuse_one(g, OP_exp, x),
                         test_input(g, name, ROLE_GRADIENT, graph_type(g, x)));
    }
    fuse_output(g, "out", x);
    const Program *program = generate();
    const LaunchGroup *group = program_group(program, (uint32_t)program->launches.count - 1);
    assert_non_null(group);
    assert_int_equal(group->count, 3);
    for (uint32_t i = 0; i < 3; i++) assert_string_equal(kernel_of(program, group->first + i), "exp");
}

// It does not wait beyond a launch that changes what it reads, nor where it is read.
static void what_is_read_again_stays(void **state) {
    (void)state;
    const Type *type = test_type(ir, ELEMENT_F32, "i", 300, NULL);
    Value before = test_input(g, test_name(ir, "w"), ROLE_GRADIENT, type);
    Value other = test_input(g, test_name(ir, "v"), ROLE_GRADIENT, type);
    graph_add_output(g, state_output_name(ir, ROLE_GRADIENT, "v"), fuse_one(g, OP_exp, before), other);
    graph_add_output(g, state_output_name(ir, ROLE_GRADIENT, "w"), fuse_one(g, OP_tanh, input("x", 300)), before);
    fuse_output(g, "out", fuse_one(g, OP_sqrt, fuse_one(g, OP_exp, input("y", 300))));
    const Program *program = generate();
    uint32_t reads = 0, writes = 0;
    for (uint32_t l = 0; l < program->launches.count; l++) {
        if (strcmp(kernel_of(program, l), "tanh") == 0) writes = l;
        if (strcmp(kernel_of(program, l), "exp") == 0 &&
            program->buffers.items[program->launches.items[l].buffers[0]].kind == BUFFER_STATE)
            reads = l;
    }
    assert_true(reads < writes);
}

// Sums of two phases, with workspaces; launches that read one temporary for the last time, side by side.
static void parts_and_memory(void **state) {
    (void)state;
    Value x = fuse_one(g, OP_tanh, input("x", 1 << 16));
    fuse_output(g, "a", fuse_one(g, OP_exp, x));
    fuse_output(g, "b", fuse_sum(g, fuse_one(g, OP_sqrt, fuse_mul(g, x, x)), "i"));
    fuse_output(g, "c", fuse_sum(g, input("y", 1 << 18), "i"));
    fuse_output(g, "d", fuse_sum(g, input("z", 1 << 17), "i"));
    Program *program = generate();
    size_t two_phases = 0;
    for (size_t i = 0; i < program->groups.count; i++) {
        const LaunchGroup *group = &program->groups.items[i];
        two_phases += group->code.phase_count == 2;
        for (uint32_t l = group->first; l < group->first + group->count; l++)
            for (int o = 0; o < program->launches.items[l].operand_count; o++) {
                const Buffer *buffer = &program->buffers.items[program->launches.items[l].buffers[o]];
                if (buffer->kind != BUFFER_TEMPORARY) continue;
                assert_true(buffer->first <= (int32_t)group->first);
                assert_true(buffer->last >= (int32_t)(group->first + group->count - 1));
            }
    }
    assert_true(two_phases > 0);
    run_emulated(program);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_independent_joins, setup, teardown),
        cmocka_unit_test_setup_teardown(what_depends_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(large_values_wait, setup, teardown),
        cmocka_unit_test_setup_teardown(what_leaves_state_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_read_again_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(parts_and_memory, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
