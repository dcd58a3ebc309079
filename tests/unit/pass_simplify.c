// simplify, share, dead: what goes, what stays, and that values are kept.
#include "tests/unit/pass_test.h"

typedef struct Case {
    Ir *ir;
    Graph *graph;
    Value x, y;  // x[a=2, b=3], y[b=3]
    Value n;     // i32[a, b]
} Case;

static Case start(void **state) {
    Arena *arena = arena_create();
    *state = arena;
    Ir *ir = ir_create(arena);
    Graph *graph = graph_create(ir, test_name(ir, "case"));
    Case made = {.ir = ir, .graph = graph};
    made.x = test_input(graph, "x", ROLE_DATA, test_type(ir, ELEMENT_F32, "a", 2, "b", 3, NULL));
    made.y = test_input(graph, "y", ROLE_DATA, test_type(ir, ELEMENT_F32, "b", 3, NULL));
    made.n = test_input(graph, "n", ROLE_DATA, test_type(ir, ELEMENT_I32, "a", 2, "b", 3, NULL));
    return made;
}

static int finish(void **state) {
    arena_destroy(*state);
    return 0;
}

static Value number(const Case *at, double value) {
    return build_constant(at->graph, ELEMENT_F32, value, NO_PLACE);
}
static Value binary(const Case *at, Op op, Value a, Value b) {
    return build_binary(at->graph, op, a, b, NO_PLACE);
}
static Value unary(const Case *at, Op op, Value a) { return build_unary(at->graph, op, a, NO_PLACE); }
static const char *name(const Case *at, const char *text) { return test_name(at->ir, text); }

// Ends the case with `value`, simplifies, compares, and returns how many nodes are left beside inputs.
static size_t simplified(Case *at, Value value) {
    assert_false(value_is_none(value));
    graph_add_output(at->graph, name(at, "out"), value, VALUE_NONE);
    Graph *result = test_pass(at->ir, "simplify", at->graph);
    test_same(at->graph, result, 3, 1e-12);
    return result->nodes.count - result->inputs.count;
}

static void neutral_elements_go(void **state) {
    Case at = start(state);
    Value ones = build_expand(at.graph, number(&at, 1), graph_type(at.graph, at.x), NO_PLACE);
    Value v = binary(&at, OP_mul, binary(&at, OP_add, at.x, number(&at, 0)), ones);
    v = binary(&at, OP_div, binary(&at, OP_sub, v, number(&at, 0)), number(&at, 1));
    v = unary(&at, OP_neg, unary(&at, OP_neg, v));
    assert_int_equal(simplified(&at, build_select(at.graph, binary(&at, OP_lt, at.x, at.y), v, v, NO_PLACE)),
                     0);
}

static void zero_times_a_float_stays(void **state) {
    Case at = start(state);
    assert_true(simplified(&at, binary(&at, OP_mul, at.x, number(&at, 0))) > 0);
}

static void zero_times_an_integer_goes(void **state) {
    Case at = start(state);
    Value v = binary(&at, OP_mul, at.n, build_constant(at.graph, ELEMENT_I32, 0, NO_PLACE));
    assert_int_equal(simplified(&at, v), 2);  // the constant and its broadcast
}

static void negation_moves_into_sums(void **state) {
    Case at = start(state);
    assert_int_equal(simplified(&at, binary(&at, OP_add, unary(&at, OP_neg, at.y), at.x)), 1);
}

static void constants_fold(void **state) {
    Case at = start(state);
    Value v = binary(&at, OP_add, number(&at, 2), binary(&at, OP_mul, number(&at, 3), number(&at, 0.5)));
    assert_int_equal(simplified(&at, binary(&at, OP_mul, at.x, unary(&at, OP_exp, v))), 2);
}

static void powers_of_two_multiply(void **state) {
    Case at = start(state);
    Value v = binary(&at, OP_div, at.x, number(&at, 8));
    graph_add_output(at.graph, name(&at, "eight"), v, VALUE_NONE);
    graph_add_output(at.graph, name(&at, "three"), binary(&at, OP_div, at.x, number(&at, 3)), VALUE_NONE);
    Graph *result = test_pass(at.ir, "simplify", at.graph);
    test_same(at.graph, result, 3, 0);
    assert_int_equal(test_count(result, OP_mul), 1);
    assert_int_equal(test_count(result, OP_div), 1);
}

static void casts_there_and_back_go(void **state) {
    Case at = start(state);
    Value wide =
        build_cast(at.graph, build_cast(at.graph, at.n, ELEMENT_I64, NO_PLACE), ELEMENT_I32, NO_PLACE);
    Value narrow =
        build_cast(at.graph, build_cast(at.graph, at.x, ELEMENT_BF16, NO_PLACE), ELEMENT_F32, NO_PLACE);
    graph_add_output(at.graph, name(&at, "wide"), wide, VALUE_NONE);
    graph_add_output(at.graph, name(&at, "narrow"), narrow, VALUE_NONE);
    Graph *result = test_pass(at.ir, "simplify", at.graph);
    assert_int_equal(test_count(result, OP_cast), 2);
}

static void views_compose(void **state) {
    Case at = start(state);
    Value v = build_rename(at.graph, build_rename(at.graph, at.x, name(&at, "a"), name(&at, "c"), NO_PLACE),
                           name(&at, "c"), name(&at, "d"), NO_PLACE);
    const char *order1[] = {name(&at, "b"), name(&at, "d")}, *order2[] = {name(&at, "d"), name(&at, "b")};
    v = build_transpose(at.graph, build_transpose(at.graph, v, order1, 2, NO_PLACE), order2, 2, NO_PLACE);
    const char *merged[] = {name(&at, "d"), name(&at, "b")};
    v = build_merge(at.graph, v, merged, 2, name(&at, "m"), NO_PLACE);
    Dimension parts[] = {test_dimension(at.ir, "p", 2), test_dimension(at.ir, "q", 3)};
    v = build_split(at.graph, v, name(&at, "m"), parts, 2, NO_PLACE);
    v = build_slice(at.graph, build_slice(at.graph, v, name(&at, "q"), 1, 2, NO_PLACE), name(&at, "q"), 1, 1,
                    NO_PLACE);
    v = build_pad(at.graph, v, name(&at, "q"), 0, 1, NO_PLACE);
    assert_int_equal(simplified(&at, v), 2);  // a rename and a slice
}

static void slices_find_their_part_of_a_concat(void **state) {
    Case at = start(state);
    Value e = unary(&at, OP_exp, at.x);
    Attribute along = {.key = ATTRIBUTE_along, .text = name(&at, "b")};
    Value v = graph_add(at.graph, OP_concat, (Value[]){at.x, e}, 2, &along, 1, NO_PLACE);
    assert_int_equal(simplified(&at, build_pick(at.graph, v, name(&at, "b"), 4, NO_PLACE)), 2);
}

static void sums_of_broadcasts_multiply(void **state) {
    Case at = start(state);
    Value wide = build_expand(at.graph, unary(&at, OP_exp, at.y), graph_type(at.graph, at.x), NO_PLACE);
    const char *over[] = {name(&at, "a"), name(&at, "b")};
    assert_int_equal(simplified(&at, build_reduce(at.graph, OP_sum, wide, over, 2, NO_PLACE)), 4);
}

static void broadcasts_leave_elementwise_ops(void **state) {
    Case at = start(state);
    Value wide = build_expand(at.graph, at.y, graph_type(at.graph, at.x), NO_PLACE);
    Value both = unary(&at, OP_exp, binary(&at, OP_mul, wide, wide));
    assert_int_equal(simplified(&at, binary(&at, OP_add, at.x, both)), 3);
}

static void transposes_leave_elementwise_ops_and_dots(void **state) {
    Case at = start(state);
    Value wide = build_expand(at.graph, unary(&at, OP_exp, at.y),
                              test_type(at.ir, ELEMENT_F32, "b", 3, "a", 2, NULL), NO_PLACE);
    const char *order[] = {name(&at, "a"), name(&at, "b")};
    Value turned = build_transpose(at.graph, wide, order, 2, NO_PLACE);
    graph_add_output(at.graph, name(&at, "product"), binary(&at, OP_mul, turned, at.x), VALUE_NONE);
    Value z = test_input(at.graph, "z", ROLE_DATA, test_type(at.ir, ELEMENT_F32, "b", 3, "c", 4, NULL));
    const char *swapped[] = {name(&at, "c"), name(&at, "a")};
    Value dot = build_transpose(at.graph, test_dot(at.graph, at.x, z, "b"), swapped, 2, NO_PLACE);
    assert_int_equal(simplified(&at, dot), 3);  // exp, mul, dot
}

static void gradients_stay_right(void **state) {
    Ir *ir = (start(state)).ir;
    TestModel model = test_model(ir, false, test_entries, 4);
    Graph *long_way = test_pass(ir, "expand-stacks, gradient, expand-calls{calls=all}", model.loss);
    Graph *graph = test_pass(ir, "simplify, share, dead", long_way);
    assert_true(graph->nodes.count < long_way->nodes.count);
    test_same(long_way, graph, TEST_VOCAB, 1e-12);
    test_gradients(model.loss, graph, TEST_VOCAB, 1e-5);
}

static void sharing_finds_swapped_operands(void **state) {
    Case at = start(state);
    Value e = unary(&at, OP_exp, at.x);
    Value v = binary(&at, OP_mul, binary(&at, OP_add, at.x, e), binary(&at, OP_add, e, at.x));
    graph_add_output(at.graph, name(&at, "out"), v, VALUE_NONE);
    Graph *result = test_pass(at.ir, "share", at.graph);
    assert_int_equal(result->nodes.count - result->inputs.count, 3);
    test_same(at.graph, result, 3, 0);
}

static void dead_nodes_and_inputs_go(void **state) {
    Case at = start(state);
    unary(&at, OP_exp, at.y);
    graph_add_output(at.graph, name(&at, "out"), unary(&at, OP_neg, at.x), VALUE_NONE);
    assert_int_equal(test_pass(at.ir, "dead", at.graph)->nodes.count, 4);
    Graph *result = test_pass(at.ir, "dead{inputs=drop}", at.graph);
    assert_int_equal(result->nodes.count, 2);
    assert_int_equal(result->inputs.count, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(neutral_elements_go, finish),
        cmocka_unit_test_teardown(zero_times_a_float_stays, finish),
        cmocka_unit_test_teardown(zero_times_an_integer_goes, finish),
        cmocka_unit_test_teardown(negation_moves_into_sums, finish),
        cmocka_unit_test_teardown(constants_fold, finish),
        cmocka_unit_test_teardown(powers_of_two_multiply, finish),
        cmocka_unit_test_teardown(casts_there_and_back_go, finish),
        cmocka_unit_test_teardown(views_compose, finish),
        cmocka_unit_test_teardown(slices_find_their_part_of_a_concat, finish),
        cmocka_unit_test_teardown(sums_of_broadcasts_multiply, finish),
        cmocka_unit_test_teardown(broadcasts_leave_elementwise_ops, finish),
        cmocka_unit_test_teardown(transposes_leave_elementwise_ops_and_dots, finish),
        cmocka_unit_test_teardown(gradients_stay_right, finish),
        cmocka_unit_test_teardown(sharing_finds_swapped_operands, finish),
        cmocka_unit_test_teardown(dead_nodes_and_inputs_go, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
