// What the tests of fuse, order and plan-memory share: a graph is lowered, fused, ordered and planned,
// and after every step the program is verified and run against evaluate_graph.
#ifndef CHERRY_TESTS_FUSE_TEST_H
#define CHERRY_TESTS_FUSE_TEST_H

#include <stdio.h>
#include <stdlib.h>

#include "ir/module.h"
#include "passes/program_passes.h"
#include "tests/unit/pass_test.h"

static inline Program *fuse_test_lower(const Graph *graph, bool (*has_kernel)(const char *)) {
    Program *program = lower_graph(graph, has_kernel);
    if (!program) {
        test_show_errors(graph->ir);
        fail_msg("%s was not lowered", graph->name);
    }
    return program;
}

// Runs the program on the inputs and compares every output with what the graph gives.
static inline void fuse_test_run(const Graph *graph, const Program *program, const Tensor *inputs,
                                 const char *after) {
    Arena *arena = arena_create();
    double **storage = ARENA_ARRAY(arena, double *, program->buffers.count + 1);
    if (!program_verify(program)) {
        test_show_errors(graph->ir);
        program_print(program, stderr);
        fail_msg("%s: a rule is broken after %s", graph->name, after);
    }
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *buffer = &program->buffers.items[i];
        if (buffer->kind == BUFFER_TEMPORARY) continue;
        int64_t count = type_count(buffer->type);
        storage[i] = ARENA_ARRAY(arena, double, count + 1);
        for (int64_t j = 0; j < count; j++) storage[i][j] = NAN;
    }
    for (size_t i = 0; i < graph->inputs.count; i++) {
        const Node *node = graph_node(graph, graph->inputs.items[i]);
        uint32_t buffer = program_find_buffer(program, attribute_text(node, ATTRIBUTE_name),
                                              (Role)attribute_integer(node, ATTRIBUTE_role, 0));
        memcpy(storage[buffer], inputs[i].data, sizeof(double) * (size_t)type_count(node->types[0]));
    }
    program_evaluate(program, storage);
    const Tensor *expected = test_evaluate(graph, inputs);
    for (size_t i = 0; i < graph->outputs.count; i++) {
        const Output *output = &graph->outputs.items[i];
        uint32_t buffer = UINT32_MAX;
        for (uint32_t b = 0; b < program->buffers.count; b++)
            if (program->buffers.items[b].kind == BUFFER_OUTPUT &&
                program->buffers.items[b].name == output->name && value_is_none(output->replaces))
                buffer = b;
        if (!value_is_none(output->replaces)) {
            const Node *node = graph_node(graph, output->replaces.node);
            buffer = program_find_buffer(program, attribute_text(node, ATTRIBUTE_name),
                                         (Role)attribute_integer(node, ATTRIBUTE_role, 0));
        }
        for (int64_t j = 0; j < type_count(expected[i].type); j++) {
            double a = expected[i].data[j], b = storage[buffer][j];
            if (!isfinite(a))
                fail_msg("%s: %s[%ld] is %g: a test that shows nothing", graph->name, output->name, (long)j,
                         a);
            if (fabs(a - b) <= 1e-12 * (1 + fabs(a))) continue;
            graph_print(graph, stderr);
            program_print(program, stderr);
            fail_msg("%s after %s: %s[%ld] is %.15g, expected %.15g", graph->name, after, output->name,
                     (long)j, b, a);
        }
    }
    arena_destroy(arena);
}

// The whole pipeline; returns the planned program. `launches` >= 0: how many there must be after fuse.
static inline Program *fuse_test_for(const Graph *graph, int launches, bool (*has_kernel)(const char *),
                                     bool for_gpu) {
    Tensor *inputs = test_inputs(graph, 3);
    Program *program = fuse_test_lower(graph, has_kernel);
    fuse_test_run(graph, program, inputs, "lower");
    size_t before = program->launches.count;
    assert_true(fuse_program(program, for_gpu));
    if (getenv("FUSE_PRINT")) program_print(program, stderr);
    fuse_test_run(graph, program, inputs, "fuse");
    assert_true(program->launches.count <= before + 8);
    if (launches >= 0 && (int)program->launches.count != launches) {
        program_print(program, stderr);
        fail_msg("%s: %zu launches after fuse, expected %d", graph->name, program->launches.count, launches);
    }
    assert_true(order_program(program));
    fuse_test_run(graph, program, inputs, "order");
    assert_true(plan_memory(program));
    fuse_test_run(graph, program, inputs, "plan-memory");
    assert_true(program->arena_bytes >= program->live_bytes);
    return program;
}

static inline Program *fuse_test_kernels(const Graph *graph, int launches, bool (*has_kernel)(const char *)) {
    return fuse_test_for(graph, launches, has_kernel, false);
}

static inline Program *fuse_test(const Graph *graph, int launches) {
    return fuse_test_kernels(graph, launches, NULL);
}

// ---- Short names for building ----

static inline Value fuse_sum(Graph *graph, Value a, const char *over) {
    return test_reduce(graph, OP_sum, a, over);
}
static inline Value fuse_add(Graph *g, Value a, Value b) { return build_binary(g, OP_add, a, b, NO_PLACE); }
static inline Value fuse_sub(Graph *g, Value a, Value b) { return build_binary(g, OP_sub, a, b, NO_PLACE); }
static inline Value fuse_mul(Graph *g, Value a, Value b) { return build_binary(g, OP_mul, a, b, NO_PLACE); }
static inline Value fuse_div(Graph *g, Value a, Value b) { return build_binary(g, OP_div, a, b, NO_PLACE); }
static inline Value fuse_one(Graph *g, Op op, Value a) { return build_unary(g, op, a, NO_PLACE); }
static inline Value fuse_number(Graph *g, double x) { return build_constant(g, ELEMENT_F32, x, NO_PLACE); }
static inline void fuse_output(Graph *graph, const char *name, Value value) {
    graph_add_output(graph, test_name(graph->ir, name), value, VALUE_NONE);
}
static inline void fuse_replace(Graph *graph, const char *name, Value value, Value state) {
    graph_add_output(graph, test_name(graph->ir, name), value, state);
}

#endif
