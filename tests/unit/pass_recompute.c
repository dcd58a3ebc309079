// recompute: what the backward pass keeps, and that values are the same.
#include "tests/unit/pass_test.h"

static Ir *start(void **state) {
    Arena *arena = arena_create();
    *state = arena;
    return ir_create(arena);
}

static int finish(void **state) {
    arena_destroy(*state);
    return 0;
}

// x + v . (n w)^2, n = x g
static Graph *squares(Ir *ir) {
    Graph *body = graph_create(ir, test_name(ir, "Squares"));
    const Type *rows = test_type(ir, ELEMENT_F32, "batch", 2, "time", 3, "embed", 4, NULL);
    Value x = test_input(body, "x", ROLE_ARGUMENT, rows);
    Value g = test_input(body, "g", ROLE_ARGUMENT, test_type(ir, ELEMENT_F32, "embed", 4, NULL));
    Value w = test_input(body, "w", ROLE_ARGUMENT, test_type(ir, ELEMENT_F32, "embed", 4, "ffn", 3, NULL));
    Value v = test_input(body, "v", ROLE_ARGUMENT, test_type(ir, ELEMENT_F32, "ffn", 3, "embed", 4, NULL));
    Value h = test_dot(body, build_binary(body, OP_mul, x, g, NO_PLACE), w, "embed");
    Value y = build_binary(body, OP_add, x,
                           test_dot(body, build_binary(body, OP_mul, h, h, NO_PLACE), v, "ffn"), NO_PLACE);
    graph_add_output(body, test_name(ir, "y"), y, VALUE_NONE);
    return body;
}

static Graph *accumulate(Ir *ir, const char *passes) {
    Graph *graph = graph_create(ir, test_name(ir, "loss"));
    Value x = test_input(graph, "x", ROLE_DATA,
                         test_type(ir, ELEMENT_F32, "batch", 2, "time", 3, "embed", 4, NULL));
    Value g =
        test_input(graph, "g", ROLE_PARAMETER, test_type(ir, ELEMENT_F32, "layer", 2, "embed", 4, NULL));
    Value w = test_input(graph, "w", ROLE_PARAMETER,
                         test_type(ir, ELEMENT_F32, "layer", 2, "embed", 4, "ffn", 3, NULL));
    Value v = test_input(graph, "v", ROLE_PARAMETER,
                         test_type(ir, ELEMENT_F32, "layer", 2, "ffn", 3, "embed", 4, NULL));
    Attribute attributes[] = {{.key = ATTRIBUTE_body, .graph = squares(ir)},
                              {.key = ATTRIBUTE_carried, .integer = 1},
                              {.key = ATTRIBUTE_invariant, .integer = 0},
                              {.key = ATTRIBUTE_entries, .count = 4, .entries = test_entries}};
    Value y = graph_add(graph, OP_stack, (Value[]){x, g, w, v}, 4, attributes, 4, NO_PLACE);
    Value loss = test_mean(graph, build_binary(graph, OP_mul, y, y, NO_PLACE));
    graph_add_output(graph, test_name(ir, "loss"), loss, VALUE_NONE);
    return test_pass(ir, passes, graph);
}

static bool is_free(Op op) {
    return op == OP_input || op == OP_constant || op == OP_pick || op == OP_broadcast;
}

// Bytes of forward values that backward nodes have as operands.
static int64_t kept(const Graph *graph) {
    Arena *arena = graph->ir->arena;
    bool *forward = ARENA_ARRAY(arena, bool, graph->nodes.count),
         *counted = ARENA_ARRAY(arena, bool, graph->nodes.count);
    for (size_t i = 0; i < graph->outputs.count; i++)
        if (value_is_none(graph->outputs.items[i].replaces))
            forward[graph->outputs.items[i].value.node] = true;
    for (size_t id = graph->nodes.count; id-- > 0;)
        for (uint32_t i = 0; forward[id] && i < graph_node(graph, (uint32_t)id)->operand_count; i++)
            forward[graph_node(graph, (uint32_t)id)->operands[i].node] = true;
    int64_t bytes = 0;
    for (uint32_t id = 0; id < graph->nodes.count; id++)
        for (uint32_t i = 0; !forward[id] && i < graph_node(graph, id)->operand_count; i++) {
            Value operand = graph_node(graph, id)->operands[i];
            if (!forward[operand.node] || counted[operand.node] ||
                is_free(graph_node(graph, operand.node)->op))
                continue;
            counted[operand.node] = true;
            bytes += type_bytes(graph_type(graph, operand));
        }
    return bytes;
}

enum { WIDE = 2 * 3 * 4 * 4, NARROW = 2 * 3 * 3 * 4, ENTRIES = 4 };

static void cheap_values_are_made_again(void **state) {
    Ir *ir = start(state);
    Graph *graph = accumulate(ir, "expand-stacks, gradient, simplify");
    // An entry keeps n, h, h^2 and its result; the first one's x is data.
    assert_int_equal(kept(graph), ENTRIES * (2 * WIDE + 2 * NARROW));
    Graph *result = test_pass(ir, "recompute", graph);
    assert_int_equal(kept(result), ENTRIES * (WIDE + NARROW));  // h and the result
    test_same(graph, result, 3, 1e-12);
    assert_int_equal(kept(test_pass(ir, "recompute{mode=none}", graph)), kept(graph));
}

static void factors_of_both_directions_are_kept(void **state) {
    Ir *ir = start(state);
    Graph *graph = accumulate(ir, "expand-stacks, gradient, simplify");
    Graph *result = test_pass(ir, "recompute{factors=kept}", graph);
    // n and h^2 are such factors; x, which n is made of, is still read for the gradient of g.
    assert_int_equal(kept(result), kept(graph));
    test_same(graph, result, 3, 1e-12);
}

static void layers_are_made_again(void **state) {
    Ir *ir = start(state);
    Graph *graph = accumulate(ir, "expand-stacks{recompute=all}, gradient, simplify");
    Graph *result = test_pass(ir, "recompute{mode=none}", graph);
    assert_int_equal(kept(result), ENTRIES * WIDE);  // the results
    test_same(graph, result, 3, 1e-12);
    // One forward dot a layer for the clone: that to embed is not needed again.
    assert_int_equal(test_count(result, OP_dot), test_count(graph, OP_dot) + ENTRIES);
}

static void a_budget_takes_as_few_layers_as_it_can(void **state) {
    Ir *ir = start(state);
    Graph *graph = accumulate(ir, "expand-stacks{recompute=all}, gradient, simplify");
    const char *text =
        arena_format(ir->arena, "recompute{mode=none, bytes=%lld}", (long long)kept(graph) - 1);
    Graph *result = test_pass(ir, text, graph);
    assert_int_equal(kept(result), ENTRIES * WIDE + (ENTRIES - 1) * (WIDE + 2 * NARROW));
    test_same(graph, result, 3, 1e-12);
    assert_int_equal(kept(test_pass(ir, "recompute{mode=none, bytes=1000000}", graph)), kept(graph));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(cheap_values_are_made_again, finish),
        cmocka_unit_test_teardown(factors_of_both_directions_are_kept, finish),
        cmocka_unit_test_teardown(layers_are_made_again, finish),
        cmocka_unit_test_teardown(a_budget_takes_as_few_layers_as_it_can, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
