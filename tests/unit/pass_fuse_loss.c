// fuse-loss: values kept, nothing of rows times vocabulary left, for the shapes that losses take.
#define TEST_TIME 130
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

// The largest number of elements of a value with dimension vocab and one of batch and time.
static int64_t widest(Ir *ir, const Graph *graph) {
    int64_t most = 0;
    for (uint32_t id = 0; id < graph->nodes.count; id++)
        for (uint32_t r = 0; r < graph_node(graph, id)->result_count; r++) {
            const Type *type = graph_node(graph, id)->types[r];
            bool wide =
                type_find(type, test_name(ir, "vocab")) >= 0 &&
                (type_find(type, test_name(ir, "time")) >= 0 || type_find(type, test_name(ir, "batch")) >= 0);
            if (wide && type_count(type) > most) most = type_count(type);
        }
    return most;
}

static uint32_t head_dots(Ir *ir, const Graph *graph) {
    uint32_t count = 0;
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        count += node->op == OP_dot && type_find(node->types[0], test_name(ir, "vocab")) >= 0 &&
                 type_find(node->types[0], test_name(ir, "time")) >= 0;
    }
    return count;
}

enum { CELLS = 6 };  // 130 positions go 64, 64, 2; two batch rows

// Fuses, checks what is wide and the values, and returns the result.
static Graph *fused(Ir *ir, const Graph *graph, uint32_t sweeps) {
    Graph *result = test_pass(ir, "fuse-loss{bytes=1}", graph);
    assert_int_equal(test_count(result, OP_call), 0);
    assert_true(widest(ir, result) <= 64 * TEST_VOCAB);
    assert_int_equal(head_dots(ir, result), sweeps * CELLS);
    test_same(graph, result, TEST_VOCAB, 1e-12);
    return result;
}

static void training_is_chunked(void **state) {
    Ir *ir = start(state);
    for (int wrapped = 0; wrapped < 2; wrapped++) {
        TestModel model = test_model(ir, wrapped, test_entries, 4);
        Graph *graph = test_pass(ir, "expand-stacks, gradient", model.loss);
        Graph *result = fused(ir, graph, 1);
        // The head's part of the table's gradient is in the one chain, a link a chunk.
        assert_int_equal(test_count(result, OP_accumulate), CELLS + 8);
        assert_int_equal(test_count(result, OP_concat),
                         2 * 3);  // losses and dh: two rows of three, then both
    }
}

static void evaluation_is_chunked(void **state) {
    Ir *ir = start(state);
    TestModel model = test_model(ir, false, test_entries, 4);
    fused(ir, test_pass(ir, "expand-stacks", model.loss), 1);
}

static void small_losses_stay(void **state) {
    Ir *ir = start(state);
    TestModel model = test_model(ir, false, test_entries, 4);
    Graph *graph = test_pass(ir, "expand-stacks, gradient", model.loss);
    assert_int_equal(test_pass(ir, "fuse-loss", graph)->nodes.count, graph->nodes.count);
}

static void whole_logits_stay(void **state) {
    Ir *ir = start(state);
    TestModel model = test_model(ir, false, test_entries, 4);
    graph_add_output(model.loss, test_name(ir, "logits"), model.logits, VALUE_NONE);
    Graph *graph = test_pass(ir, "expand-stacks", model.loss);
    assert_int_equal(test_count(test_pass(ir, "fuse-loss{bytes=1}", graph), OP_call), 1);
}

// loss, lse of a head whose logits are `soften`ed before.
static Value head(Graph *graph, TestModel *model, bool soften, Value table) {
    Value logits = test_dot(graph, model->hidden, table, "embed");
    if (soften) logits = build_unary(graph, OP_tanh, logits, NO_PLACE);
    return test_loss_call(graph, logits, model->targets, false);
}

static Graph *with_loss(TestModel *model, Value loss) {
    model->loss->outputs.count = 0;
    graph_add_output(model->loss, test_name(model->loss->ir, "loss"), loss, VALUE_NONE);
    return test_pass(model->loss->ir, "expand-stacks, gradient", model->loss);
}

// A penalty on each row's log-sum-exp: the cotangents need the same row alone, so one sweep does.
static void row_penalties_need_one_sweep(void **state) {
    Ir *ir = start(state);
    TestModel model = test_model(ir, false, test_entries, 1);
    Value call = head(model.loss, &model, true, model.table), lse = {call.node, 1};
    Value total = build_binary(model.loss, OP_add, call, build_binary(model.loss, OP_mul, lse, lse, NO_PLACE),
                               NO_PLACE);
    fused(ir, with_loss(&model, test_mean(model.loss, total)), 1);
}

// sum of squares over sum: every cotangent needs both sums.
static void normalised_losses_need_two_sweeps(void **state) {
    Ir *ir = start(state);
    TestModel model = test_model(ir, false, test_entries, 1);
    Value call = head(model.loss, &model, true, model.table);
    Value squares = test_mean(model.loss, build_binary(model.loss, OP_mul, call, call, NO_PLACE));
    Value loss = build_binary(model.loss, OP_div, squares, test_mean(model.loss, call), NO_PLACE);
    Graph *graph = with_loss(&model, loss);
    test_gradients(test_pass(ir, "expand-stacks", model.loss), graph, TEST_VOCAB, 1e-5);
    fused(ir, graph, 2);
}

// A head that is not the parameter itself: its gradient is summed over the chunks, then goes on.
static void derived_heads_are_summed(void **state) {
    Ir *ir = start(state);
    TestModel model = test_model(ir, false, test_entries, 1);
    Value table = build_unary(model.loss, OP_tanh, model.table, NO_PLACE);
    fused(ir, with_loss(&model, test_mean(model.loss, head(model.loss, &model, false, table))), 1);
}

// A second head over a layer of a stacked parameter; two losses, two regions.
static void two_heads_are_two_regions(void **state) {
    Ir *ir = start(state);
    TestModel model = test_model(ir, false, test_entries, 1);
    Graph *graph = model.loss;
    Value heads =
        test_input(graph, "heads", ROLE_PARAMETER,
                   test_type(ir, ELEMENT_F32, "layer", 2, "embed", TEST_EMBED, "vocab", TEST_VOCAB, NULL));
    Value picked = build_pick(graph, heads, test_name(ir, "layer"), 1, NO_PLACE);
    Value first = test_mean(graph, head(graph, &model, false, model.table));
    Value second = test_mean(graph, head(graph, &model, true, picked));
    fused(ir, with_loss(&model, build_binary(graph, OP_add, first, second, NO_PLACE)), 2);
}

// Row weights from outside are sliced; how often the largest logit is the target is a metric by rows.
static void weights_and_metrics_go_along(void **state) {
    Ir *ir = start(state);
    TestModel model = test_model(ir, false, test_entries, 1);
    Graph *graph = model.loss;
    const Type *rows = test_type(ir, ELEMENT_F32, "batch", TEST_BATCH, "time", TEST_TIME, NULL);
    Value weights = test_input(graph, "weights", ROLE_DATA, rows);
    Value logits = test_dot(graph, model.hidden, model.table, "embed");
    Value call = test_loss_call(graph, logits, model.targets, false);
    Attribute attributes[] = {{.key = ATTRIBUTE_along, .text = test_name(ir, "vocab")},
                              {.key = ATTRIBUTE_count, .integer = 1}};
    Value top = graph_add(graph, OP_top_k, &logits, 1, attributes, 2, NO_PLACE);
    Value best = build_pick(graph, (Value){top.node, 1}, test_name(ir, "vocab"), 0, NO_PLACE);
    Value hits =
        build_cast(graph, build_binary(graph, OP_eq, best, model.targets, NO_PLACE), ELEMENT_F32, NO_PLACE);
    graph->outputs.count = 0;
    Value weighted = build_binary(graph, OP_mul, call, weights, NO_PLACE);
    graph_add_output(graph, test_name(ir, "loss"), test_mean(graph, weighted), VALUE_NONE);
    graph_add_output(graph, test_name(ir, "accuracy"), test_mean(graph, hits), VALUE_NONE);
    fused(ir, test_pass(ir, "expand-stacks, gradient", graph), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(training_is_chunked, finish),
        cmocka_unit_test_teardown(evaluation_is_chunked, finish),
        cmocka_unit_test_teardown(small_losses_stay, finish),
        cmocka_unit_test_teardown(whole_logits_stay, finish),
        cmocka_unit_test_teardown(row_penalties_need_one_sweep, finish),
        cmocka_unit_test_teardown(normalised_losses_need_two_sweeps, finish),
        cmocka_unit_test_teardown(derived_heads_are_summed, finish),
        cmocka_unit_test_teardown(two_heads_are_two_regions, finish),
        cmocka_unit_test_teardown(weights_and_metrics_go_along, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
