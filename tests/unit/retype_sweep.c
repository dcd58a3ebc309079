// Retyping over the op table: a node whose operands get a further dimension computes, at each index of it,
// what the node computes of the operands there. Every case, with all operands widened and with each alone.
//   build/tests/unit_retype_sweep 'gather/*'
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
// After those, which it needs.
#include <cmocka.h>

#include "tests/op_cases.h"

enum { EXPERTS = 2 };

static const Dimension *expert(Ir *ir) {
    Dimension *dimension = ARENA_NEW(ir->arena, Dimension);
    *dimension = (Dimension){names_intern(ir->names, "expert"), EXPERTS, NULL};
    return dimension;
}

// In front; behind the layers of what a stack stores.
static const Type *wide_type(Ir *ir, const Type *type, int at) {
    Dimension dimensions[RANK_MAX];
    for (int i = 0; i < type->rank; i++) dimensions[i < at ? i : i + 1] = type->dimensions[i];
    dimensions[at] = *expert(ir);
    return type_make(ir, type->element, type->rank + 1, dimensions);
}

static int position(const Graph *graph, size_t input) {
    const Node *node = graph_node(graph, graph->outputs.items[0].value.node);
    if (node->op != OP_stack) return 0;
    int64_t whole =
        attribute_integer(node, ATTRIBUTE_carried, 0) + attribute_integer(node, ATTRIBUTE_invariant, 0);
    return (int64_t)input >= whole;
}

// The values of one expert: as they are, or in the other direction.
static Tensor turned(Arena *arena, const Tensor *tensor, int number) {
    Tensor copy = tensor_create(arena, tensor->type);
    int64_t count = type_count(tensor->type);
    for (int64_t i = 0; i < count; i++) copy.data[i] = tensor->data[number ? count - 1 - i : i];
    return copy;
}

// Element `odometer` of a tensor with the dimension, at `number` of it.
static int64_t wide_offset(const Odometer *odometer, const Type *wide, int number) {
    int64_t offset = 0;
    for (int i = 0; i < wide->rank; i++) {
        int at = type_find(odometer->type, wide->dimensions[i].name);
        offset = offset * wide->dimensions[i].extent + (at < 0 ? number : odometer->at[at]);
    }
    return offset;
}

typedef struct Widened {
    Graph *graph;
    Tensor *inputs, *narrow[EXPERTS];  // of the graph, and of the one that it was
} Widened;

static Widened widen(Ir *ir, const Graph *graph, const Tensor *inputs, const bool *wanted) {
    Arena *arena = ir->arena;
    size_t count = graph->inputs.count;
    Widened widened = {.graph = graph_create(ir, "wide"), .inputs = ARENA_ARRAY(arena, Tensor, count + 1)};
    Value *map = ARENA_ARRAY(arena, Value, graph->nodes.count);
    for (int e = 0; e < EXPERTS; e++) widened.narrow[e] = ARENA_ARRAY(arena, Tensor, count + 1);
    for (size_t i = 0; i < count; i++) {
        const Node *node = graph_node(graph, graph->inputs.items[i]);
        Role role = (Role)attribute_integer(node, ATTRIBUTE_role, ROLE_DATA);
        const Type *type = wanted[i] ? wide_type(ir, node->types[0], position(graph, i)) : node->types[0];
        map[graph->inputs.items[i]] =
            graph_add_input(widened.graph, attribute_text(node, ATTRIBUTE_name), role, type, NO_PLACE);
        widened.inputs[i] = inputs[i];
        for (int e = 0; e < EXPERTS; e++) widened.narrow[e][i] = inputs[i];
        if (!wanted[i]) continue;
        widened.inputs[i] = tensor_create(arena, wide_type(ir, inputs[i].type, position(graph, i)));
        for (int e = 0; e < EXPERTS; e++) {
            widened.narrow[e][i] = turned(arena, &inputs[i], e);
            const Tensor *narrow = &widened.narrow[e][i];
            Odometer odometer;
            odometer_start(&odometer, narrow->type);
            do
                widened.inputs[i].data[wide_offset(&odometer, widened.inputs[i].type, e)] =
                    narrow->data[odometer.position];
            while (odometer_next(&odometer));
        }
    }
    Retype *retype = retype_begin(ir, NULL, 0);
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        if (node->op == OP_input) continue;
        Value operands[16];
        for (uint32_t i = 0; i < node->operand_count; i++)
            operands[i] = (Value){map[node->operands[i].node].node, node->operands[i].result};
        map[id] = retype_node(retype, widened.graph, graph, node, operands);
        if (!value_is_none(map[id])) continue;
        diagnostics_print(ir->diagnostics, 0, stderr);
        fail_msg("%s cannot be widened", op_name(node->op));
    }
    for (size_t i = 0; i < graph->outputs.count; i++) {
        Value value = graph->outputs.items[i].value;
        graph_add_output(widened.graph, graph->outputs.items[i].name,
                         (Value){map[value.node].node, value.result}, VALUE_NONE);
    }
    return widened;
}

static void compare(Ir *ir, const Graph *graph, const Widened *widened) {
    Tensor *wide = ARENA_ARRAY(ir->arena, Tensor, graph->outputs.count + 1),
           *narrow = ARENA_ARRAY(ir->arena, Tensor, graph->outputs.count + 1);
    assert_true(evaluate_graph(ir->arena, widened->graph, widened->inputs, wide));
    for (int e = 0; e < EXPERTS; e++) {
        assert_true(evaluate_graph(ir->arena, graph, widened->narrow[e], narrow));
        for (size_t i = 0; i < graph->outputs.count; i++) {
            Odometer odometer;
            odometer_start(&odometer, narrow[i].type);
            do {
                double expected = narrow[i].data[odometer.position];
                double found = wide[i].data[wide_offset(&odometer, wide[i].type, e)];
                if (!(fabs(expected - found) <= 1e-9 * (1 + fabs(expected))) && expected != found &&
                    !(isnan(expected) && isnan(found)))
                    fail_msg("y%zu of expert %d: %.12g, expected %.12g", i, e, found, expected);
            } while (odometer_next(&odometer));
        }
    }
}

static void run_case(void **state) {
    const OpCase *op_case = *state;
    Ir *ir = ir_create(arena_create());
    const Graph *graph = op_case_graph(ir, op_case);
    assert_non_null(graph);
    const Tensor *inputs = op_case_inputs(ir->arena, op_case, graph);
    size_t count = graph->inputs.count;
    bool *wanted = ARENA_ARRAY(ir->arena, bool, count + 1), *full = ARENA_ARRAY(ir->arena, bool, count + 1);
    for (size_t i = 0; i < count; i++) {
        const Node *node = graph_node(graph, graph->inputs.items[i]);
        full[i] = node->types[0]->rank == RANK_MAX || type_count(inputs[i].type) == 0 ||
                  attribute_integer(node, ATTRIBUTE_role, 0) == ROLE_SCALAR;
        wanted[i] = !full[i];
    }
    Widened all = widen(ir, graph, inputs, wanted);
    compare(ir, graph, &all);
    for (size_t one = 0; one < count; one++) {
        for (size_t i = 0; i < count; i++) wanted[i] = i == one && !full[i];
        Widened alone = widen(ir, graph, inputs, wanted);
        compare(ir, graph, &alone);
    }
    arena_destroy(ir->arena);
}

int main(int argument_count, char **arguments) {
    Arena *arena = arena_create();
    struct CMUnitTest *tests = ARENA_ARRAY(arena, struct CMUnitTest, op_case_count + 1);
    int count = 0;
    if (argument_count > 1) cmocka_set_test_filter(arguments[1]);
    for (int i = 0; i < op_case_count; i++) {
        if (op_cases[i].op == OP_compact || op_cases[i].op == OP_input || op_cases[i].op == OP_random)
            continue;  // one dimension; no operands
        tests[count++] = (struct CMUnitTest){
            .name = arena_format(arena, "%s/%s", op_name(op_cases[i].op), op_cases[i].name),
            .test_func = run_case,
            .initial_state = (void *)&op_cases[i]};
    }
    int failed = _cmocka_run_group_tests("retype_sweep", tests, (size_t)count, NULL, NULL);
    arena_destroy(arena);
    return failed;
}
