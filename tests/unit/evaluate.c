// The reference evaluator: primitives at their edges, odometers, extents known at run time.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// after the headers that it needs
#include <cmocka.h>

#include "ir/evaluate.h"
#include "ir/primitive.h"

static double value_of(Primitive primitive, Element element, double a, double b) {
    return primitive_evaluate(primitive, element, (double[]){a, b, 0});
}

static void test_integers_wrap(void **state) {
    (void)state;
    assert_true(value_of(PRIMITIVE_add, ELEMENT_I32, INT32_MAX, 1) == INT32_MIN);
    assert_true(value_of(PRIMITIVE_mul, ELEMENT_I32, 0x10001, 0x10001) == 0x20001);
    assert_true(value_of(PRIMITIVE_neg, ELEMENT_I32, INT32_MIN, 0) == INT32_MIN);
    assert_true(value_of(PRIMITIVE_abs, ELEMENT_I32, INT32_MIN, 0) == INT32_MIN);
    assert_true(value_of(PRIMITIVE_add, ELEMENT_I64, INT32_MAX, 1) == 2147483648.0);
    assert_true(value_of(PRIMITIVE_neg, ELEMENT_I64, (double)INT64_MIN, 0) == (double)INT64_MIN);
}

static void test_division(void **state) {
    (void)state;
    assert_true(value_of(PRIMITIVE_div, ELEMENT_I32, 7, 0) == 0);
    assert_true(value_of(PRIMITIVE_rem, ELEMENT_I32, 7, 0) == 0);
    assert_true(value_of(PRIMITIVE_div, ELEMENT_I64, (double)INT64_MIN, -1) == (double)INT64_MIN);
    assert_true(value_of(PRIMITIVE_rem, ELEMENT_I64, (double)INT64_MIN, -1) == 0);
    assert_true(value_of(PRIMITIVE_div, ELEMENT_I32, -7, 2) == -3);
    assert_true(value_of(PRIMITIVE_rem, ELEMENT_I32, -7, 2) == -1);
    assert_true(isinf(value_of(PRIMITIVE_div, ELEMENT_F32, 1, 0)));
}

static void test_shifts_and_casts(void **state) {
    (void)state;
    assert_true(value_of(PRIMITIVE_shr, ELEMENT_I32, -1, 8) == 0xffffff);
    assert_true(value_of(PRIMITIVE_shr, ELEMENT_I64, -1, 32) == 4294967295.0);
    assert_true(value_of(PRIMITIVE_shl, ELEMENT_I32, 1, 33) == 2);  // modulo the width
    assert_true(value_of(PRIMITIVE_cast, ELEMENT_I32, -1.9, 0) == -1);
    assert_true(value_of(PRIMITIVE_cast, ELEMENT_I32, 4294967295.0, 0) == -1);
    assert_true(value_of(PRIMITIVE_cast, ELEMENT_BOOL, NAN, 0) == 1);
    assert_true(value_of(PRIMITIVE_cast, ELEMENT_I32, NAN, 0) == 0);
    assert_true(value_of(PRIMITIVE_cast, ELEMENT_I64, 1e300, 0) == 0x1p63);
}

static void test_accepts(void **state) {
    (void)state;
    assert_true(primitive_accepts(PRIMITIVE_add, ELEMENT_BF16));
    assert_false(primitive_accepts(PRIMITIVE_add, ELEMENT_BOOL));
    assert_true(primitive_accepts(PRIMITIVE_and, ELEMENT_BOOL));
    assert_false(primitive_accepts(PRIMITIVE_and, ELEMENT_F32));
    assert_false(primitive_accepts(PRIMITIVE_exp, ELEMENT_I32));
    assert_false(primitive_accepts(PRIMITIVE_shl, ELEMENT_BOOL));
    assert_true(primitive_is_comparison(PRIMITIVE_le));
    assert_false(primitive_is_comparison(PRIMITIVE_select));
    assert_int_equal(primitive_arguments(PRIMITIVE_select), 3);
}

static Dimension named(Ir *ir, const char *name, int64_t extent, const char *bound) {
    return (Dimension){names_intern(ir->names, name), extent, bound ? names_intern(ir->names, bound) : NULL};
}

static void test_odometer(void **state) {
    (void)state;
    Ir *ir = ir_create(arena_create());
    Dimension ab[] = {named(ir, "a", 2, NULL), named(ir, "b", 3, NULL)};
    Dimension ca[] = {named(ir, "c", 5, NULL), named(ir, "a", 2, NULL)};
    const Type *walk = type_make(ir, ELEMENT_F32, 2, ab), *other = type_make(ir, ELEMENT_F32, 2, ca);
    Odometer odometer;
    int count = 0;
    odometer_start(&odometer, walk);
    do {
        assert_int_equal(odometer.position, count);
        assert_int_equal(odometer.at[0] * 3 + odometer.at[1], count);
        assert_int_equal(odometer_offset(&odometer, other), odometer.at[0]);
        count++;
    } while (odometer_next(&odometer));
    assert_int_equal(count, 6);
    arena_destroy(ir->arena);
}

// y = sum of x[time] over the time that the scalar `length` says.
static Graph *bounded_sum(Ir *ir) {
    Graph *graph = graph_create(ir, "bounded_sum");
    Dimension time = named(ir, "time", 8, "length");
    graph_add_input(graph, names_intern(ir->names, "length"), ROLE_SCALAR, type_scalar(ir, ELEMENT_I64), NO_PLACE);
    Value x = graph_add_input(graph, names_intern(ir->names, "x"), ROLE_DATA, type_make(ir, ELEMENT_F32, 1, &time),
                              NO_PLACE);
    Value at = build_cast(graph, build_index(graph, time, NO_PLACE), ELEMENT_F32, NO_PLACE);
    Value y = build_reduce(graph, OP_sum, build_binary(graph, OP_mul, x, at, NO_PLACE), &time.name, 1, NO_PLACE);
    graph_add_output(graph, names_intern(ir->names, "y"), y, VALUE_NONE);
    return graph;
}

static bool run_bounded(Ir *ir, double length, int64_t given, double *y) {
    Graph *graph = bounded_sum(ir);
    Type *type = ARENA_NEW(ir->arena, Type);  // not interned: an extent may be 0
    *type = (Type){.element = ELEMENT_F32, .rank = 1, .dimensions = {named(ir, "time", given, NULL)}};
    Tensor inputs[] = {tensor_create(ir->arena, type_scalar(ir, ELEMENT_I64)), tensor_create(ir->arena, type)};
    inputs[0].data[0] = length;
    for (int64_t i = 0; i < given; i++) inputs[1].data[i] = 1;
    Tensor output;
    if (!evaluate_graph(ir->arena, graph, inputs, &output)) return false;
    *y = output.data[0];
    return true;
}

static void test_bounded(void **state) {
    (void)state;
    Ir *ir = ir_create(arena_create());
    double y = -1;
    assert_true(run_bounded(ir, 5, 5, &y));
    assert_true(y == 10);
    assert_true(run_bounded(ir, 0, 0, &y));
    assert_true(y == 0);
    assert_false(run_bounded(ir, 5, 4, &y));  // the tensor says otherwise
    assert_string_equal(diagnostics_message(ir->diagnostics, 0)->code, "E0262");
    assert_false(run_bounded(ir, 9, 9, &y));  // beyond the capacity
    assert_int_equal(diagnostics_error_count(ir->diagnostics), 2);
    arena_destroy(ir->arena);
}

// A callee whose inputs are bounded takes their extents from the tensors that it is given.
static void test_bounded_call(void **state) {
    (void)state;
    Ir *ir = ir_create(arena_create());
    Dimension time = named(ir, "time", 8, "length");
    const Type *type = type_make(ir, ELEMENT_F32, 1, &time);
    Graph *function = graph_create(ir, "twice");
    Value inner = graph_add_input(function, names_intern(ir->names, "x"), ROLE_ARGUMENT, type, NO_PLACE);
    graph_add_output(function, names_intern(ir->names, "y"), build_binary(function, OP_add, inner, inner, NO_PLACE),
                     VALUE_NONE);
    Graph *graph = graph_create(ir, "outer");
    graph_add_input(graph, names_intern(ir->names, "length"), ROLE_SCALAR, type_scalar(ir, ELEMENT_I64), NO_PLACE);
    Value x = graph_add_input(graph, names_intern(ir->names, "x"), ROLE_DATA, type, NO_PLACE);
    Attribute attribute = {.key = ATTRIBUTE_function, .graph = function};
    graph_add_output(graph, names_intern(ir->names, "y"), graph_add(graph, OP_call, &x, 1, &attribute, 1, NO_PLACE),
                     VALUE_NONE);
    Dimension actual = named(ir, "time", 3, NULL);
    Tensor inputs[] = {tensor_create(ir->arena, type_scalar(ir, ELEMENT_I64)),
                       tensor_create(ir->arena, type_make(ir, ELEMENT_F32, 1, &actual))};
    inputs[0].data[0] = 3;
    inputs[1].data[2] = 21;
    Tensor output;
    assert_true(evaluate_graph(ir->arena, graph, inputs, &output));
    assert_int_equal(type_count(output.type), 3);
    assert_true(output.data[2] == 42);
    arena_destroy(ir->arena);
}

// Accumulating ops leave their operands as they were.
static void test_inputs_stay(void **state) {
    (void)state;
    Ir *ir = ir_create(arena_create());
    Dimension a = named(ir, "a", 2, NULL);
    const Type *type = type_make(ir, ELEMENT_F32, 1, &a);
    Graph *graph = graph_create(ir, "accumulate");
    Value x = graph_add_input(graph, names_intern(ir->names, "x"), ROLE_DATA, type, NO_PLACE);
    Value y = build_accumulate(graph, x, x, NO_PLACE);
    graph_add_output(graph, names_intern(ir->names, "y"), y, VALUE_NONE);
    Tensor input = tensor_create(ir->arena, type), output;
    input.data[0] = 4;
    assert_true(evaluate_graph(ir->arena, graph, &input, &output));
    assert_true(input.data[0] == 4 && output.data[0] == 8);
    arena_destroy(ir->arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_integers_wrap),    cmocka_unit_test(test_division),
        cmocka_unit_test(test_shifts_and_casts), cmocka_unit_test(test_accepts),
        cmocka_unit_test(test_odometer),         cmocka_unit_test(test_bounded),
        cmocka_unit_test(test_bounded_call),     cmocka_unit_test(test_inputs_stay)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
