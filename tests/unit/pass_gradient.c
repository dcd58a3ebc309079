// expand-stacks and gradient on a small language model: values kept, slopes right, chains linear.
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

static void expansion_keeps_the_loss(void **state) {
    Ir *ir = start(state);
    TestModel model = test_model(ir, false, test_entries, 4);
    Graph *flat = test_pass(ir, "expand-stacks", model.loss);
    assert_int_equal(test_count(flat, OP_stack), 0);
    assert_int_equal(test_count(flat, OP_tanh), 4);
    assert_int_equal(test_count(flat, OP_pick), 4);  // two layers of w and v, whatever the iterations
    assert_int_equal(test_count(flat, OP_call), 1);  // has a gradient clause
    test_same(model.loss, flat, TEST_VOCAB, 1e-12);
    Graph *inlined = test_pass(ir, "expand-calls{calls=all}", flat);
    assert_int_equal(test_count(inlined, OP_call), 0);
    test_same(model.loss, inlined, TEST_VOCAB, 1e-12);
}

static void gradients_are_slopes(void **state) {
    Ir *ir = start(state);
    for (int wrapped = 0; wrapped < 2; wrapped++) {
        TestModel model = test_model(ir, wrapped, test_entries, 4);
        Graph *flat = test_pass(ir, "expand-stacks", model.loss);
        Graph *accumulate = test_pass(ir, "gradient", flat);
        assert_string_equal(accumulate->name, "accumulate");
        assert_int_equal(test_count(accumulate, OP_call), 2);
        test_gradients(model.loss, accumulate, TEST_VOCAB, 1e-5);
        test_same(flat, accumulate, TEST_VOCAB, 1e-12);
        // The same by the derived gradient of the loss.
        Graph *plain = test_pass(ir, "expand-calls{calls=all}, gradient", flat);
        test_gradients(model.loss, plain, TEST_VOCAB, 1e-5);
    }
}

// A wrapped clause hands its kernel on.
static void wrapped_gradient_keeps_its_kernel(void **state) {
    Ir *ir = start(state);
    TestModel model = test_model(ir, true, test_entries, 4);
    Graph *accumulate = test_pass(ir, "expand-stacks, gradient", model.loss);
    uint32_t kernels = 0;
    for (uint32_t id = 0; id < accumulate->nodes.count; id++)
        kernels += attribute_text(graph_node(accumulate, id), ATTRIBUTE_kernel) != NULL;
    assert_int_equal(kernels, 1);
}

// From the gradient input to its output: each link is used once, by the next; nothing else has the size.
static void chains_are_linear(void **state) {
    Ir *ir = start(state);
    TestModel model = test_model(ir, false, test_entries, 4);
    Graph *graph = test_pass(ir, "expand-stacks, gradient", model.loss);
    uint32_t *uses = ARENA_ARRAY(ir->arena, uint32_t, graph->nodes.count);
    for (uint32_t id = 0; id < graph->nodes.count; id++)
        for (uint32_t i = 0; i < graph_node(graph, id)->operand_count; i++)
            uses[graph_node(graph, id)->operands[i].node]++;
    int64_t parameter_bytes = 0, gradient_bytes = 0;
    uint32_t links = 0;
    for (size_t i = 0; i < graph->inputs.count; i++) {
        const Node *node = graph_node(graph, graph->inputs.items[i]);
        int64_t role = attribute_integer(node, ATTRIBUTE_role, 0);
        if (role == ROLE_PARAMETER) parameter_bytes += type_bytes(node->types[0]);
        if (role == ROLE_GRADIENT) gradient_bytes += type_bytes(node->types[0]);
    }
    assert_int_equal(parameter_bytes, gradient_bytes);
    for (size_t i = 0; i < graph->outputs.count; i++) {
        Value value = graph->outputs.items[i].value, start_value = graph->outputs.items[i].replaces;
        if (value_is_none(start_value)) continue;
        uint32_t expected_uses = 0;  // the last link belongs to the output alone
        for (; value.node != start_value.node; value = graph_node(graph, value.node)->operands[0]) {
            Op op = graph_node(graph, value.node)->op;
            assert_true(op == OP_accumulate || op == OP_scatter_add);
            assert_int_equal(uses[value.node], expected_uses);
            expected_uses = 1;
            links++;
        }
        assert_int_equal(uses[value.node], expected_uses);
    }
    assert_int_equal(links, 2 + 4 + 4);  // table: head and embedding; w and v: once an entry
}

static void accumulation_adds_to_what_is_there(void **state) {
    Ir *ir = start(state);
    TestModel model = test_model(ir, false, test_entries, 4);
    Graph *graph = test_pass(ir, "expand-stacks, gradient", model.loss);
    Tensor *inputs = test_inputs(graph, TEST_VOCAB);
    double once = test_output(graph, test_evaluate(graph, inputs), "gradient.table")->data[3];
    *test_find_input(graph, inputs, "table", ROLE_GRADIENT) =
        *test_output(graph, test_evaluate(graph, inputs), "gradient.table");
    test_find_input(graph, inputs, "loss_scale", ROLE_SCALAR)->data[0] = 0.5;
    double both = test_output(graph, test_evaluate(graph, inputs), "gradient.table")->data[3];
    assert_true(fabs(once) > 1e-6);
    assert_true(fabs(both - 1.5 * once) < 1e-12);
}

static void stop_gradient_cuts_an_entry(void **state) {
    Ir *ir = start(state);
    StackEntry entries[] = {{.row = -1}, {.layer = 1, .row = -1, .stop_gradient = true}};
    TestModel model = test_model(ir, false, entries, 2);
    Graph *graph = test_pass(ir, "expand-stacks, gradient", model.loss);
    const Tensor *outputs = test_evaluate(graph, test_inputs(graph, TEST_VOCAB));
    const Tensor *w = test_output(graph, outputs, "gradient.trunk.w");
    int64_t layer = TEST_EMBED * TEST_FFN;
    for (int64_t i = 0; i < layer; i++) assert_true(w->data[i] == 0);
    double total = 0;
    for (int64_t i = layer; i < 2 * layer; i++) total += fabs(w->data[i]);
    assert_true(total > 1e-3);
}

static void recompute_marks_regions(void **state) {
    Ir *ir = start(state);
    StackEntry entries[] = {{.row = -1, .recompute = true},
                            {.layer = 1, .row = -1},
                            {.layer = 1, .iteration = 1, .row = -1, .recompute = true}};
    TestModel model = test_model(ir, false, entries, 3);
    Graph *flat = test_pass(ir, "expand-stacks", model.loss);
    int64_t regions[4] = {0};
    for (uint32_t id = 0; id < flat->nodes.count; id++)
        if (graph_node(flat, id)->op == OP_tanh)
            regions[attribute_integer(graph_node(flat, id), ATTRIBUTE_region, 0)]++;
    assert_int_equal(regions[0], 1);
    assert_int_equal(regions[1], 1);
    assert_int_equal(regions[2], 1);
    test_same(model.loss, flat, TEST_VOCAB, 1e-12);
}

// Two dropouts of one layer in two iterations draw different numbers.
static void random_sites_are_extended(void **state) {
    Ir *ir = start(state);
    const Type *type = test_type(ir, ELEMENT_F32, "batch", 2, NULL),
               *seed_type = type_scalar(ir, ELEMENT_I64);
    Graph *body = graph_create(ir, test_name(ir, "noise"));
    Value x = test_input(body, "x", ROLE_ARGUMENT, type),
          seed = test_input(body, "seed", ROLE_ARGUMENT, seed_type);
    Attribute random[] = {{.key = ATTRIBUTE_dimensions, .count = 1, .dimensions = type->dimensions},
                          {.key = ATTRIBUTE_site, .text = test_name(ir, "trunk.dropout")}};
    Value noise = graph_add(body, OP_random, &seed, 1, random, 2, NO_PLACE);
    graph_add_output(body, test_name(ir, "y"), build_binary(body, OP_add, x, noise, NO_PLACE), VALUE_NONE);
    Graph *graph = graph_create(ir, test_name(ir, "loss"));
    Value operands[] = {test_input(graph, "x", ROLE_DATA, type),
                        test_input(graph, "seed", ROLE_SCALAR, seed_type)};
    Attribute attributes[] = {{.key = ATTRIBUTE_body, .graph = body},
                              {.key = ATTRIBUTE_carried, .integer = 1},
                              {.key = ATTRIBUTE_invariant, .integer = 1},
                              {.key = ATTRIBUTE_entries, .count = 4, .entries = test_entries}};
    Value y = graph_add(graph, OP_stack, operands, 2, attributes, 4, NO_PLACE);
    assert_false(value_is_none(y));
    graph_add_output(graph, test_name(ir, "y"), y, VALUE_NONE);
    Graph *flat = test_pass(ir, "expand-stacks", graph);
    assert_int_equal(test_count(flat, OP_random), 4);
    const char *sites[4];
    uint32_t count = 0;
    for (uint32_t id = 0; id < flat->nodes.count; id++)
        if (graph_node(flat, id)->op == OP_random)
            sites[count++] = attribute_text(graph_node(flat, id), ATTRIBUTE_site);
    assert_string_equal(sites[0], "trunk.dropout.0.0");
    assert_string_equal(sites[3], "trunk.dropout.0.1");
}

static bool has_error(const Ir *ir, const char *code) {
    for (size_t i = 0; i < diagnostics_count(ir->diagnostics); i++) {
        const Message *message = diagnostics_message(ir->diagnostics, i);
        if (message->code && strcmp(message->code, code) == 0) return true;
    }
    return false;
}

static void errors_are_reported(void **state) {
    Ir *ir = start(state);
    PassContext context = {.ir = ir, .verify = true};
    TestModel model = test_model(ir, false, test_entries, 4);
    assert_null(pass_run(&context, "gradient", model.loss));
    assert_true(has_error(ir, "E0505"));
    assert_null(pass_run(&context, "no-such-pass", model.loss));
    assert_true(has_error(ir, "E0512"));
    assert_null(pass_run(&context, "dead{", model.loss));
    assert_true(has_error(ir, "E0502"));
    assert_null(pass_run(&context, "dead{colour=red}", model.loss));
    assert_true(has_error(ir, "E0503"));
    assert_null(pass_run(&context, "dead{inputs=red}", model.loss));
    assert_true(has_error(ir, "E0504"));
    Graph *empty = graph_create(ir, test_name(ir, "empty"));
    assert_null(pass_run(&context, "gradient", empty));
    assert_true(has_error(ir, "E0515"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(expansion_keeps_the_loss, finish),
        cmocka_unit_test_teardown(gradients_are_slopes, finish),
        cmocka_unit_test_teardown(wrapped_gradient_keeps_its_kernel, finish),
        cmocka_unit_test_teardown(chains_are_linear, finish),
        cmocka_unit_test_teardown(accumulation_adds_to_what_is_there, finish),
        cmocka_unit_test_teardown(stop_gradient_cuts_an_entry, finish),
        cmocka_unit_test_teardown(recompute_marks_regions, finish),
        cmocka_unit_test_teardown(random_sites_are_extended, finish),
        cmocka_unit_test_teardown(errors_are_reported, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
