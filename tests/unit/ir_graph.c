// Graphs: interned types, hash-consing, build helpers, inlining, retyping.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
// clang-format off: cmocka.h needs the headers above
#include <cmocka.h>
// clang-format on

#include "ir/graph.h"

static Ir *ir_new(void) { return ir_create(arena_create()); }

static void ir_free(Ir *ir) { arena_destroy(ir->arena); }

static const char *name(Ir *ir, const char *text) { return names_intern(ir->names, text); }

static Dimension dimension(Ir *ir, const char *text, int64_t extent) {
    return (Dimension){name(ir, text), extent, NULL};
}

static const Type *type(Ir *ir, Element element, const char *a, int64_t a_extent, const char *b,
                        int64_t b_extent) {
    Dimension dimensions[2] = {dimension(ir, a, a_extent)};
    if (b) dimensions[1] = dimension(ir, b, b_extent);
    return type_make(ir, element, b ? 2 : 1, dimensions);
}

static Value input(Graph *graph, const char *text, const Type *of) {
    return graph_add_input(graph, text, ROLE_ARGUMENT, of, NO_PLACE);
}

static void assert_type(const Graph *graph, Value value, const char *text) {
    assert_false(value_is_none(value));
    assert_string_equal(type_text(graph->ir, graph_type(graph, value)), text);
}

static void test_types(void **state) {
    (void)state;
    Ir *ir = ir_new();
    const Type *a = type(ir, ELEMENT_F32, "batch", 8, "embed", 512);
    assert_ptr_equal(a, type(ir, ELEMENT_F32, "batch", 8, "embed", 512));
    assert_ptr_not_equal(a, type(ir, ELEMENT_BF16, "batch", 8, "embed", 512));
    assert_ptr_not_equal(a, type(ir, ELEMENT_F32, "batch", 8, "embed", 511));
    assert_ptr_not_equal(a, type(ir, ELEMENT_F32, "embed", 512, "batch", 8));
    Dimension bounded = {name(ir, "time"), 256, name(ir, "length")};
    const Type *b = type_make(ir, ELEMENT_BF16, 1, &bounded);
    assert_string_equal(type_text(ir, b), "bf16[time<=256:length]");
    assert_string_equal(type_text(ir, type_scalar(ir, ELEMENT_I64)), "i64[]");
    assert_int_equal(type_count(a), 4096);
    assert_int_equal(type_bytes(a), 16384);
    assert_int_equal(type_bytes(b), 512);
    assert_int_equal(type_find(a, name(ir, "embed")), 1);
    assert_int_equal(type_find(a, name(ir, "time")), -1);
    assert_ptr_equal(type_with_element(ir, a, ELEMENT_BF16),
                     type(ir, ELEMENT_BF16, "batch", 8, "embed", 512));
    assert_true(type_contains(a, type(ir, ELEMENT_I32, "embed", 512, NULL, 0)));
    assert_false(type_contains(a, type(ir, ELEMENT_F32, "embed", 511, NULL, 0)));
    bounded.bound = NULL;
    assert_false(type_contains(type_make(ir, ELEMENT_F32, 1, &bounded), b));
    Element element;
    for (int i = 0; i < ELEMENT_COUNT; i++) {
        assert_true(element_parse(element_name((Element)i), &element));
        assert_int_equal(element, i);
    }
    assert_false(element_parse("f16", &element));
    ir_free(ir);
}

static void test_type_limits(void **state) {
    (void)state;
    Ir *ir = ir_new();
    Dimension a[] = {dimension(ir, "a", INT64_C(1) << 23), dimension(ir, "b", INT64_C(1) << 24)};
    assert_null(type_make(ir, ELEMENT_F32, 2, a));  // 2^47
    a[1].extent--;
    assert_non_null(type_make(ir, ELEMENT_F32, 2, a));
    a[1].extent = 0;
    assert_null(type_make(ir, ELEMENT_F32, 2, a));
    a[1].extent = INT64_MAX;
    assert_null(type_make(ir, ELEMENT_F32, 2, a));
    // Many types, so that the table grows.
    const Type *first = type(ir, ELEMENT_F32, "a", 1, NULL, 0);
    for (int i = 2; i < 1000; i++) type(ir, ELEMENT_F32, "a", i, NULL, 0);
    assert_ptr_equal(first, type(ir, ELEMENT_F32, "a", 1, NULL, 0));
    ir_free(ir);
}

static void test_hash_consing(void **state) {
    (void)state;
    Ir *ir = ir_new();
    Graph *graph = graph_create(ir, "g");
    Value x = input(graph, "x", type(ir, ELEMENT_F32, "time", 4, "embed", 6));
    Value y = input(graph, "x", type(ir, ELEMENT_F32, "time", 4, "embed", 6));
    assert_false(value_same(x, y));  // inputs never merge
    Value sum = build_binary(graph, OP_add, x, y, (Place){"a", 1, 1, 1});
    assert_true(value_same(sum, build_binary(graph, OP_add, x, y, (Place){"b", 2, 2, 2})));
    assert_int_equal(graph_node(graph, sum.node)->place.line, 1);  // the first place stays
    assert_false(value_same(sum, build_binary(graph, OP_add, y, x, NO_PLACE)));
    assert_false(value_same(sum, build_binary(graph, OP_sub, x, y, NO_PLACE)));
    // Numbers merge by their bits.
    Value zero = build_constant(graph, ELEMENT_F32, 0.0, NO_PLACE);
    assert_true(value_same(zero, build_constant(graph, ELEMENT_F32, 0.0, NO_PLACE)));
    assert_false(value_same(zero, build_constant(graph, ELEMENT_F32, -0.0, NO_PLACE)));
    assert_false(value_same(zero, build_constant(graph, ELEMENT_F64, 0.0, NO_PLACE)));
    // Lists merge by contents, whatever memory they lie in, and in any order of attributes.
    char buffer[8] = "embed";
    const char *over = buffer, *interned = name(ir, "embed");
    Value reduced = build_reduce(graph, OP_sum, x, &over, 1, NO_PLACE);
    memcpy(buffer, "zzzzz", 5);
    assert_true(value_same(reduced, build_reduce(graph, OP_sum, x, &interned, 1, NO_PLACE)));
    assert_ptr_equal(attribute_find(graph_node(graph, reduced.node), ATTRIBUTE_over)->names[0], interned);
    Attribute forward[] = {{.key = ATTRIBUTE_along, .text = "time"}, {.key = ATTRIBUTE_at, .integer = 2}};
    Attribute backward[] = {forward[1], forward[0]};
    Value picked = graph_add(graph, OP_pick, &x, 1, forward, 2, NO_PLACE);
    assert_true(value_same(picked, graph_add(graph, OP_pick, &x, 1, backward, 2, NO_PLACE)));
    assert_false(value_same(picked, build_pick(graph, x, "time", 3, NO_PLACE)));
    assert_int_equal(diagnostics_error_count(ir->diagnostics), 0);
    // Enough nodes for the table to grow several times.
    for (int i = 0; i < 500; i++) build_constant(graph, ELEMENT_F32, i + 1, NO_PLACE);
    size_t count = graph->nodes.count;
    for (int i = 0; i < 500; i++) build_constant(graph, ELEMENT_F32, i + 1, NO_PLACE);
    assert_int_equal(graph->nodes.count, count);
    ir_free(ir);
}

static void test_attributes_compare(void **state) {
    (void)state;
    Ir *ir = ir_new();
    Graph *graph = graph_create(ir, "g"), *one = graph_create(ir, "f"), *two = graph_create(ir, "f");
    const Type *scalar = type_scalar(ir, ELEMENT_F32);
    Graph *functions[] = {one, two};
    for (int i = 0; i < 2; i++)
        graph_add_output(functions[i], "y", input(functions[i], "x", scalar), VALUE_NONE);
    Value x = input(graph, "x", scalar);
    Option options[][1] = {
        {{"causal", 1, NULL}}, {{"causal", 2, NULL}}, {{"causal", 1, "time"}}, {{"window", 1, NULL}}};
    Value calls[8];
    for (int i = 0; i < 8; i++) {
        Attribute attributes[] = {{.key = ATTRIBUTE_function, .graph = functions[i / 4]},
                                  {.key = ATTRIBUTE_options, .options = options[i % 4], .count = 1}};
        calls[i] = graph_add(graph, OP_call, &x, 1, attributes, 2, NO_PLACE);
        assert_true(value_same(calls[i], graph_add(graph, OP_call, &x, 1, attributes, 2, NO_PLACE)));
        for (int j = 0; j < i; j++) assert_false(value_same(calls[i], calls[j]));
    }
    Attribute dimensions = {.key = ATTRIBUTE_dimensions, .count = 1};
    Dimension variants[] = {
        {"n", 4, NULL}, {"n", 5, NULL}, {"m", 4, NULL}, {"n", 4, "length"}, {"n", 4, "rows"}};
    Value indices[5];
    for (int i = 0; i < 5; i++) {
        dimensions.dimensions = &variants[i];
        indices[i] = graph_add(graph, OP_index, NULL, 0, &dimensions, 1, NO_PLACE);
        assert_true(value_same(indices[i], graph_add(graph, OP_index, NULL, 0, &dimensions, 1, NO_PLACE)));
        for (int j = 0; j < i; j++) assert_false(value_same(indices[i], indices[j]));
    }
    ir_free(ir);
}

static void test_errors_pass_quietly(void **state) {
    (void)state;
    Ir *ir = ir_new();
    Graph *graph = graph_create(ir, "g");
    Value x = input(graph, "x", type(ir, ELEMENT_F32, "time", 4, NULL, 0));
    Value y = input(graph, "y", type(ir, ELEMENT_F32, "time", 5, NULL, 0));
    Value bad = build_binary(graph, OP_add, x, y, NO_PLACE);
    assert_true(value_is_none(bad));
    size_t errors = diagnostics_error_count(ir->diagnostics), nodes = graph->nodes.count;
    assert_int_equal(errors, 1);
    const char *over = "time";
    assert_true(value_is_none(build_binary(graph, OP_mul, bad, x, NO_PLACE)));
    assert_true(value_is_none(build_unary(graph, OP_exp, bad, NO_PLACE)));
    assert_true(value_is_none(build_cast(graph, bad, ELEMENT_BF16, NO_PLACE)));
    assert_true(value_is_none(build_reduce(graph, OP_sum, bad, &over, 1, NO_PLACE)));
    assert_true(value_is_none(build_expand(graph, bad, graph_type(graph, x), NO_PLACE)));
    assert_true(value_is_none(build_reduce_to(graph, bad, graph_type(graph, x), NO_PLACE)));
    assert_int_equal(diagnostics_error_count(ir->diagnostics), errors);
    assert_int_equal(graph->nodes.count, nodes);
    ir_free(ir);
}

static void test_expand_and_reduce(void **state) {
    (void)state;
    Ir *ir = ir_new();
    Graph *graph = graph_create(ir, "g");
    const Type *wide = type(ir, ELEMENT_F32, "time", 4, "embed", 6),
               *narrow = type(ir, ELEMENT_F32, "embed", 6, NULL, 0);
    const Type *turned = type(ir, ELEMENT_F32, "embed", 6, "time", 4);
    Value x = input(graph, "x", narrow), w = input(graph, "w", wide);
    assert_true(value_same(x, build_expand(graph, x, narrow, NO_PLACE)));
    assert_type(graph, build_expand(graph, x, wide, NO_PLACE), "f32[time=4, embed=6]");
    assert_type(graph, build_expand(graph, x, turned, NO_PLACE), "f32[embed=6, time=4]");
    assert_true(value_same(w, build_reduce_to(graph, w, wide, NO_PLACE)));
    assert_type(graph, build_reduce_to(graph, w, narrow, NO_PLACE), "f32[embed=6]");
    assert_type(graph, build_reduce_to(graph, w, turned, NO_PLACE), "f32[embed=6, time=4]");
    assert_type(graph, build_reduce_to(graph, w, type_scalar(ir, ELEMENT_F32), NO_PLACE), "f32[]");
    assert_type(graph, build_reduce_to(graph, x, wide, NO_PLACE), "f32[time=4, embed=6]");
    assert_int_equal(diagnostics_error_count(ir->diagnostics), 0);
    assert_true(value_is_none(build_expand(graph, w, narrow, NO_PLACE)));
    assert_int_equal(diagnostics_error_count(ir->diagnostics), 1);
    ir_free(ir);
}

static void test_build_helpers(void **state) {
    (void)state;
    Ir *ir = ir_new();
    Graph *graph = graph_create(ir, "g");
    Value x = input(graph, "x", type(ir, ELEMENT_F32, "time", 4, "embed", 6));
    Value w = input(graph, "w", type(ir, ELEMENT_F32, "embed", 6, "ffn", 10));
    const char *over = name(ir, "embed"), *order[] = {name(ir, "embed"), name(ir, "time")};
    assert_type(graph, build_dot(graph, x, w, &over, 1, NO_PLACE), "f32[time=4, ffn=10]");
    assert_type(graph, build_rename(graph, x, "time", "past", NO_PLACE), "f32[past=4, embed=6]");
    Dimension into[] = {dimension(ir, "half", 2), dimension(ir, "pair", 3)};
    assert_type(graph, build_split(graph, x, "embed", into, 2, NO_PLACE), "f32[time=4, half=2, pair=3]");
    assert_type(graph, build_merge(graph, x, order, 2, "all", NO_PLACE), "f32[all=24]");
    assert_type(graph, build_transpose(graph, x, order, 2, NO_PLACE), "f32[embed=6, time=4]");
    assert_type(graph, build_slice(graph, x, "time", 1, 2, NO_PLACE), "f32[time=2, embed=6]");
    assert_type(graph, build_pick(graph, x, "time", 3, NO_PLACE), "f32[embed=6]");
    assert_type(graph, build_pad(graph, x, "time", 1, 9, NO_PLACE), "f32[time=9, embed=6]");
    Value i = build_index(graph, dimension(ir, "rows", 3), NO_PLACE);
    Value rows = build_gather(graph, x, i, "time", NO_PLACE);
    assert_type(graph, rows, "f32[rows=3, embed=6]");
    assert_type(graph, build_scatter_add(graph, x, i, rows, "time", NO_PLACE), "f32[time=4, embed=6]");
    assert_type(graph, build_accumulate(graph, x, x, NO_PLACE), "f32[time=4, embed=6]");
    Value row = build_pick(graph, x, "time", 0, NO_PLACE);
    assert_type(graph, build_accumulate_at(graph, x, row, "time", 2, NO_PLACE), "f32[time=4, embed=6]");
    assert_type(graph, build_cast(graph, x, ELEMENT_BF16, NO_PLACE), "bf16[time=4, embed=6]");
    assert_true(value_same(x, build_cast(graph, x, ELEMENT_F32, NO_PLACE)));
    Value smaller = build_binary(graph, OP_lt, x, x, NO_PLACE);
    assert_type(graph, build_select(graph, smaller, x, x, NO_PLACE), "f32[time=4, embed=6]");
    assert_int_equal(diagnostics_error_count(ir->diagnostics), 0);
    ir_free(ir);
}

static void test_inline(void **state) {
    (void)state;
    Ir *ir = ir_new();
    const Type *scalar = type_scalar(ir, ELEMENT_F32);
    Graph *callee = graph_create(ir, "f");
    Value a = input(callee, "a", scalar), b = input(callee, "b", scalar);
    Value difference = build_binary(callee, OP_sub, a, b, NO_PLACE);
    graph_add_output(callee, "d", difference, VALUE_NONE);
    graph_add_output(callee, "b", b, VALUE_NONE);
    callee->inputs.items[0] = b.node;  // signature (b, a): the order of inputs is not that of nodes
    callee->inputs.items[1] = a.node;

    Graph *graph = graph_create(ir, "g");
    Value x = input(graph, "x", scalar), y = input(graph, "y", scalar), results[2];
    graph_inline(graph, callee, (Value[]){x, y}, results);
    assert_true(value_same(results[0], build_binary(graph, OP_sub, y, x, NO_PLACE)));
    assert_true(value_same(results[1], x));
    size_t count = graph->nodes.count;
    graph_inline(graph, callee, (Value[]){x, y}, results);
    assert_int_equal(graph->nodes.count, count);
    ir_free(ir);
}

// top_k has two results; inlined, its second result must still be the second.
static void test_inline_results(void **state) {
    (void)state;
    Ir *ir = ir_new();
    const Type *vector = type(ir, ELEMENT_F32, "n", 8, NULL, 0);
    Graph *callee = graph_create(ir, "f");
    Value a = input(callee, "a", vector);
    Attribute attributes[] = {{.key = ATTRIBUTE_along, .text = "n"}, {.key = ATTRIBUTE_count, .integer = 2}};
    Value top = graph_add(callee, OP_top_k, &a, 1, attributes, 2, NO_PLACE);
    graph_add_output(callee, "indices", (Value){top.node, 1}, VALUE_NONE);
    Graph *graph = graph_create(ir, "g");
    Value x = input(graph, "x", vector), result;
    graph_inline(graph, callee, &x, &result);
    assert_type(graph, result, "i32[n=2]");
    ir_free(ir);
}

static void test_retype(void **state) {
    (void)state;
    Ir *ir = ir_new();
    const char *time = name(ir, "time"), *past = name(ir, "past");
    Graph *core = graph_create(ir, "core");  // (k[past, key], p[time]) -> sum over past of k where past <= p
    Value k = input(core, "k", type(ir, ELEMENT_F32, "past", 16, NULL, 0));
    Value p = input(core, "p", type(ir, ELEMENT_I32, "time", 16, NULL, 0));
    Value index = build_index(core, dimension(ir, "past", 16), NO_PLACE);
    Dimension times = dimension(ir, "time", 16), pasts = dimension(ir, "past", 16);
    Value mask = build_binary(core, OP_le, build_broadcast(core, index, &times, 1, NO_PLACE),
                              build_broadcast(core, p, &pasts, 1, NO_PLACE), NO_PLACE);
    (void)mask;
    Value wide = build_broadcast(core, k, &times, 1, NO_PLACE);
    graph_add_output(core, "y", build_reduce(core, OP_sum, wide, &past, 1, NO_PLACE), VALUE_NONE);
    Graph *other = graph_create(ir, "other");
    Value n = input(other, "n", type(ir, ELEMENT_F32, "embed", 3, NULL, 0));
    graph_add_output(other, "n", build_unary(other, OP_neg, n, NO_PLACE), VALUE_NONE);

    Graph *graph = graph_create(ir, "g");
    Value x = input(graph, "x", type(ir, ELEMENT_F32, "time", 16, NULL, 0));
    Value e = input(graph, "e", type(ir, ELEMENT_F32, "embed", 3, NULL, 0));
    Value renamed = build_rename(graph, x, "time", "past", NO_PLACE);
    Value positions = build_index(graph, times, NO_PLACE);
    Attribute function = {.key = ATTRIBUTE_function, .graph = core};
    Value y = graph_add(graph, OP_call, (Value[]){renamed, positions}, 2, &function, 1, NO_PLACE);
    function.graph = other;
    Value z = graph_add(graph, OP_call, &e, 1, &function, 1, NO_PLACE);
    Value padded = build_pad(graph, build_slice(graph, x, time, 0, 4, NO_PLACE), time, 0, 16, NO_PLACE);
    graph_add_output(graph, "y", y, VALUE_NONE);
    graph_add_output(graph, "z", z, VALUE_NONE);
    graph_add_output(graph, "padded", padded, VALUE_NONE);
    assert_int_equal(diagnostics_error_count(ir->diagnostics), 0);

    Dimension map = {"time", 32, NULL};
    Graph *longer = graph_retype(graph, "longer", &map, 1);
    assert_non_null(longer);
    assert_string_equal(longer->name, "longer");
    for (int i = 0; i < 3; i += 2) assert_type(longer, longer->outputs.items[i].value, "f32[time=32]");
    assert_int_equal(longer->nodes.count, graph->nodes.count);
    const Graph *callee =
        attribute_graph(graph_node(longer, longer->outputs.items[0].value.node), ATTRIBUTE_function);
    assert_ptr_not_equal(callee, core);
    assert_int_equal(callee->nodes.count, core->nodes.count);
    // A callee without the dimension stays the same graph.
    assert_ptr_equal(
        other, attribute_graph(graph_node(longer, longer->outputs.items[1].value.node), ATTRIBUTE_function));

    map.bound = "length";
    Graph *empty = graph_create(ir, "e");
    graph_add_output(empty, "x",
                     build_unary(empty, OP_neg, input(empty, "x", graph_type(graph, x)), NO_PLACE),
                     VALUE_NONE);
    Graph *bounded = graph_retype(empty, "bounded", &map, 1);
    assert_type(bounded, bounded->outputs.items[0].value, "f32[time<=32:length]");
    assert_int_equal(diagnostics_error_count(ir->diagnostics), 0);
    map = (Dimension){"time", 2, NULL};
    assert_null(graph_retype(graph, "shorter", &map, 1));  // the slice of 4 no longer fits
    assert_int_equal(diagnostics_error_count(ir->diagnostics), 1);
    ir_free(ir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_type_limits),
        cmocka_unit_test(test_hash_consing),
        cmocka_unit_test(test_attributes_compare),
        cmocka_unit_test(test_errors_pass_quietly),
        cmocka_unit_test(test_expand_and_reduce),
        cmocka_unit_test(test_build_helpers),
        cmocka_unit_test(test_inline),
        cmocka_unit_test(test_inline_results),
        cmocka_unit_test(test_retype),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
