// Shape rules refuse what does not fit, and say so in names: code, message, notes and hints.
// Also behaviour along a dimension, which has no other test.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

// after the headers that it needs
#include <cmocka.h>

#include "ir/op.h"
#include "tests/op_cases.h"

typedef struct Refusal {
    Op op;
    const char *operands, *attributes, *code, *message;
    const char *follow;  // a part of a note or a hint, or NULL
} Refusal;

static const Refusal refusals[] = {
    {OP_add, "f32[batch=8, time=4]; f32[batch=8, past=4]", "", "E0252",
     "cannot add f32[batch=8, time=4] and f32[batch=8, past=4]: neither operand's names contain the other's: "
     "time is missing on the right, past on the left",
     "write rename(..., past = time)"},
    {OP_mul, "f32[a=2, b=3, c=4]; f32[d=5]", "", "E0252",
     "cannot multiply f32[a=2, b=3, c=4] and f32[d=5]: neither operand's names contain the other's: a, b and c "
     "are missing on the right, d on the left",
     "outer(a, b)"},
    {OP_lt, "f32[a=2]; f32[b=3]", "", "E0252", "cannot compare", "right operand: f32[b=3]"},
    {OP_add, "f32[time=4]; f32[time=5]", "", "E0253",
     "add: time is 4 in the left operand and 5 in the right operand", "left operand: f32[time=4]"},
    {OP_add, "f32[time<=4:length]; f32[time=4]", "", "E0253",
     "add: time is at most 4, bounded by length in the left operand and 4 in the right operand", NULL},
    {OP_add, "f32[a=2]; i32[a=2]", "", "E0254", "add: the left operand is f32, the right operand is i32",
     "write cast(x, f32)"},
    {OP_select, "f32[a=2]; f32[a=2]; f32[a=2]", "", "E0254", "select: the condition is a bool, found f32",
     "condition: f32[a=2]"},
    {OP_shl, "i32[a=2]; f32[]", "", "E0254", "shl: the distance is an integer, found f32", NULL},
    {OP_select, "bool[a=2]; f32[b=2]; f32[]", "", "E0252",
     "cannot select: no operand's names contain those of the others", NULL},
    {OP_exp, "i32[a=2]", "", "E0255", "exp is not defined for i32", NULL},
    {OP_add, "bool[a=2]; bool[a=2]", "", "E0255", "add is not defined for bool", NULL},
    {OP_not, "i32[a=2]", "", "E0255", "not is not defined for i32", NULL},
    {OP_add, "f32[a=2]", "", "E0250", "add takes 2 operands, found 1", NULL},
    {OP_cast, "f32[a=2]", "", "E0251", "cast needs `element`", NULL},
    {OP_constant, "", "value=1.5, element=i32", "E0258", "1.5 is not a value of i32", NULL},
    {OP_constant, "", "value=3000000000, element=i32", "E0258", "3e+09 is not a value of i32", NULL},
    {OP_constant, "", "value=2, element=bool", "E0258", "2 is not a value of bool", NULL},
    {OP_index, "", "dimensions=(a=2, b=3)", "E0251", "index works along one dimension, found 2", NULL},
    {OP_random, "i32[]", "dimensions=(a=2), site=s", "E0254", "random: the seed is i64[], found i32[]", NULL},
    {OP_dot, "f32[a=2, k=3]; f32[k=3, b=2]", "over=(j)", "E0256", "dot: the left operand has no dimension j", NULL},
    {OP_dot, "f32[a=2, k=3]; f32[k=3, b=2]", "over=(k, k)", "E0257", "dot: k is given twice", NULL},
    {OP_dot, "f32[a=2, k=3]; f32[k=4, b=2]", "over=(k)", "E0253",
     "dot: k is 3 in the left operand and 4 in the right operand", NULL},
    {OP_dot, "i32[k=3]; i32[k=3]", "over=(k)", "E0255", "dot is not defined for i32: it needs a float", NULL},
    {OP_sum, "bool[a=3]", "over=(a)", "E0255", "sum is not defined for bool", NULL},
    {OP_top_k, "f32[a=3]", "along=a, count=4", "E0258", "top_k: 4 of 3 values along a", NULL},
    {OP_top_k, "f32[a<=3:n]", "along=a, count=2", "E0260", "top_k: a is bounded by n", NULL},
    {OP_rename, "f32[a=2, b=3]", "from=(a), to=(b)", "E0257", "rename: the result would have two dimensions b", NULL},
    {OP_rename, "f32[a=2]", "from=(a), to=(b, c)", "E0251", "rename: 1 old and 2 new names", NULL},
    {OP_split, "f32[a=6]", "along=a, into=(x=2, y=4)", "E0258",
     "split: the extents of the parts do not multiply to a = 6", NULL},
    {OP_split, "f32[a=6, x=2]", "along=a, into=(x=2, y=3)", "E0257", "two dimensions x", NULL},
    {OP_split, "f32[a=6]", "along=a, into=()", "E0258", "do not multiply to a = 6", NULL},
    {OP_merge, "f32[a=6, b<=4:n]", "from=(a, b), along=c", "E0260", "merge: b is bounded by n", NULL},
    {OP_merge, "f32[a=6, b=4]", "from=(), along=c", "E0251", "merge: no dimension is given", NULL},
    {OP_transpose, "f32[a=6, b=4]", "order=(b)", "E0251", "transpose: 1 names for 2 dimensions", NULL},
    {OP_broadcast, "f32[a=6]", "dimensions=(a=6)", "E0257", "two dimensions a", NULL},
    {OP_broadcast, "f32[a=6]", "dimensions=(b=0)", "E0258", "b would have extent 0", NULL},
    {OP_broadcast, "f32[a=1048576]", "dimensions=(b=1048576, c=1048576)", "E0259", "2^47 elements", NULL},
    {OP_broadcast, "f32[a=2, b=2, c=2, d=2]", "dimensions=(e=2, f=2, g=2, h=2, i=2)", "E0259",
     "would have 9 dimensions, 8 is the limit", NULL},
    {OP_slice, "f32[a=6]", "along=a, start=4, count=3", "E0258",
     "slice: 3 indices of a from 4, but its extent is 6", NULL},
    {OP_slice, "f32[a=6]", "along=a, start=1, count=9223372036854775807", "E0258", "but its extent is 6", NULL},
    {OP_pick, "f32[a=6]", "along=a, at=6", "E0258", "pick: index 6 of a, but its extent is 6", NULL},
    {OP_pick, "f32[a=6]", "along=b, at=0", "E0256", "pick: the operand has no dimension b", NULL},
    {OP_reverse, "f32[a<=6:n]", "along=a", "E0260", "reverse: a is bounded by n", NULL},
    {OP_shift, "f32[a<=6:n]", "along=a, by=-1", "E0260", "shift: a is bounded by n", NULL},
    {OP_shift, "f32[a=6]", "along=a, by=-9223372036854775808", "E0258", "shift by -9223372036854775808", NULL},
    {OP_pad, "f32[a=6]", "along=a, start=2, count=7", "E0258", "pad: a = 6 from 2 on does not fit into 7", NULL},
    {OP_concat, "", "along=a", "E0250", "concat needs an operand", NULL},
    {OP_concat, "f32[a=2, b=3]; f32[a=2]", "along=a", "E0252", "concat: b is not in every operand", NULL},
    {OP_concat, "f32[a=2, b=3]; f32[a=2, b=4]", "along=a", "E0253",
     "concat: b is 3 in the left operand and 4 in the right operand", NULL},
    {OP_gather, "f32[vocab=5, embed=2]; i64[time=3]", "along=vocab", "E0254", "gather: indices are i32, found i64",
     "table: f32[vocab=5, embed=2]"},
    {OP_gather, "f32[vocab=5, time=2]; i32[time=3]", "along=vocab", "E0253",
     "gather: time has another extent in the indices", NULL},
    {OP_scatter_add, "f32[vocab=5, embed=2]; i32[time=3]; f32[time=3]", "along=vocab", "E0252",
     "scatter_add: the values must have the dimensions of the indices and those of the accumulator but vocab",
     "values: f32[time=3]"},
    {OP_accumulate, "f32[a=2]; f32[a=2, b=3]", "", "E0252", "accumulate: the accumulator lacks b", NULL},
    {OP_accumulate, "f32[a=2]; f32[]", "along=a", "E0251", "accumulate takes both along and at, or neither", NULL},
    {OP_accumulate, "f32[a=2]; f32[]", "along=a, at=2", "E0258", "accumulate at index 2 of a = 2", NULL},
    {OP_accumulate, "f32[a=2]; f32[a=2]", "along=a, at=0", "E0252", "the value has that dimension too", NULL},
    {OP_call, "f32[a=2]", "", "E0251", "call needs `function`", NULL},
    {OP_stack, "f32[a=2]", "carried=1, invariant=0", "E0251", "stack needs `body`", NULL},
};

static const Message *find_following(const Ir *ir, const char *part) {
    for (size_t i = 1; i < diagnostics_count(ir->diagnostics); i++)
        if (strstr(diagnostics_message(ir->diagnostics, i)->text, part))
            return diagnostics_message(ir->diagnostics, i);
    return NULL;
}

static void test_refusals(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        const Refusal *refusal = &refusals[i];
        Ir *ir = ir_create(arena_create());
        OpCase op_case = {.op = refusal->op, .operands = refusal->operands, .attributes = refusal->attributes};
        if (op_case_graph(ir, &op_case)) fail_msg("%s: accepted, expected: %s", op_name(refusal->op), refusal->message);
        if (diagnostics_error_count(ir->diagnostics) != 1) {
            diagnostics_print(ir->diagnostics, 0, stderr);
            fail_msg("expected one error: %s", refusal->message);
        }
        const Message *message = diagnostics_message(ir->diagnostics, 0);
        if (!strstr(message->text, refusal->message))
            fail_msg("found:    %s\nexpected: %s", message->text, refusal->message);
        assert_string_equal(message->code, refusal->code);
        if (refusal->follow && !find_following(ir, refusal->follow))
            fail_msg("%s: nothing follows that says: %s", message->text, refusal->follow);
        arena_destroy(ir->arena);
    }
}

// Every op with operands refuses a missing one.
static void test_operand_counts(void **state) {
    (void)state;
    for (int op = 0; op < OP_COUNT; op++) {
        if (op_table[op]->operands < 1) continue;
        Ir *ir = ir_create(arena_create());
        OpCase op_case = {.op = (Op)op, .operands = "", .attributes = ""};
        assert_null(op_case_graph(ir, &op_case));
        assert_string_equal(diagnostics_message(ir->diagnostics, 0)->code, "E0250");
        arena_destroy(ir->arena);
    }
}

typedef struct Behaviour {
    Op op;
    const char *operands, *attributes, *name;
    Along along;
} Behaviour;

static const Behaviour behaviours[] = {
    {OP_add, "f32[time=4, a=2]; f32[a=2]", "", "time", ALONG_POINTWISE},
    {OP_dot, "f32[time=4, a=2]; f32[a=2]", "over=(a)", "time", ALONG_POINTWISE},
    {OP_dot, "f32[time=4, a=2]; f32[time=4]", "over=(time)", "time", ALONG_IMPOSSIBLE},
    {OP_sum, "f32[time=4, a=2]", "over=(a)", "time", ALONG_POINTWISE},
    {OP_sum, "f32[time=4, a=2]", "over=(time)", "time", ALONG_IMPOSSIBLE},
    {OP_index, "", "dimensions=(time=4)", "time", ALONG_STATE},
    {OP_index, "", "dimensions=(past=4)", "time", ALONG_POINTWISE},
    {OP_rename, "f32[time=4]", "from=(time), to=(past)", "time", ALONG_STATE},
    {OP_rename, "f32[time=4, a=2]", "from=(a), to=(b)", "time", ALONG_POINTWISE},
    {OP_shift, "f32[time=4]", "along=time, by=1", "time", ALONG_STATE},
    {OP_shift, "f32[time=4]", "along=time, by=-1", "time", ALONG_IMPOSSIBLE},
    {OP_shift, "f32[time=4, a=2]", "along=a, by=-1", "time", ALONG_POINTWISE},
    {OP_merge, "f32[time=4, a=2]", "from=(time, a), along=b", "time", ALONG_IMPOSSIBLE},
    {OP_split, "f32[time=4, a=2]", "along=a, into=(x=2)", "time", ALONG_POINTWISE},
    {OP_slice, "f32[time=4, a=2]", "along=time, start=1, count=2", "time", ALONG_IMPOSSIBLE},
    {OP_gather, "f32[vocab=4, a=2]; i32[time=4]", "along=vocab", "time", ALONG_POINTWISE},
    {OP_gather, "f32[time=4, a=2]; i32[b=4]", "along=time", "time", ALONG_IMPOSSIBLE},
    {OP_scatter_add, "f32[vocab=4]; i32[time=3]; f32[time=3]", "along=vocab", "time", ALONG_IMPOSSIBLE},
    {OP_scatter_add, "f32[time=3, b=4]; i32[time=3]; f32[time=3]", "along=b", "time", ALONG_POINTWISE},
    {OP_max_over, "f32[time=4, a=2]", "over=(a, time)", "time", ALONG_IMPOSSIBLE},
    {OP_stop_gradient, "f32[time=4]", "", "time", ALONG_POINTWISE},
};

static void test_along(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof behaviours / sizeof behaviours[0]; i++) {
        const Behaviour *behaviour = &behaviours[i];
        Ir *ir = ir_create(arena_create());
        OpCase op_case = {.op = behaviour->op, .operands = behaviour->operands, .attributes = behaviour->attributes};
        Graph *graph = op_case_graph(ir, &op_case);
        assert_non_null(graph);
        const Node *node = graph_node(graph, graph->outputs.items[0].value.node);
        Along along = op_table[node->op]->along(graph, node, names_intern(ir->names, behaviour->name));
        if (along != behaviour->along)
            fail_msg("%s along %s: %d, expected %d", op_name(node->op), behaviour->name, along, behaviour->along);
        arena_destroy(ir->arena);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_refusals), cmocka_unit_test(test_operand_counts),
                                       cmocka_unit_test(test_along)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
