// keep-rounded: what products read of a parameter in bf16 is rounded where it changes, not at every call.
//
//   before: y = dot(n, cast (pick w) to bf16)                       w: parameter, f32
//   after:  y = dot(n, pick w')                                     w': rounded, bf16
//
// Whoever calls the graph keeps the rounded copies true: they are the parameters as one cast rounds them, so
// that no bit of a result changes. Requires: `precision`. Leaves: inputs of role `rounded` with the name and
// the dimensions of their parameter, which stays an input.
#include "passes/rewrite.h"

static Value rounded_input(Graph *graph, const Node *parameter) {
    const char *name = attribute_text(parameter, ATTRIBUTE_name);
    Value known = graph_find_input(graph, name, ROLE_ROUNDED);
    if (!value_is_none(known)) return known;
    return graph_add_input(graph, name, ROLE_ROUNDED,
                           type_with_element(graph->ir, parameter->types[0], ELEMENT_BF16), parameter->place);
}

// What moves make of a parameter, made of its rounded copy. VALUE_NONE: it is something else.
static Value read_rounded(Graph *graph, Value value) {
    const Node *node = graph_node(graph, value.node);
    if (node->op == OP_input)
        return attribute_integer(node, ATTRIBUTE_role, 0) == ROLE_PARAMETER ? rounded_input(graph, node)
                                                                            : VALUE_NONE;
    if (!node_is_move(node)) return VALUE_NONE;
    Value operand = read_rounded(graph, node->operands[0]);
    return value_is_none(operand) ? operand : graph_copy_node(graph, graph_node(graph, value.node), &operand);
}

static bool keep_node(Rewrite *rewrite, uint32_t id) {
    const Node *node = graph_node(rewrite->from, id);
    if (node->op != OP_cast || node->types[0]->element != ELEMENT_BF16) return false;
    Value operand = rewrite_value(rewrite, node->operands[0]);
    if (graph_type(rewrite->to, operand)->element != ELEMENT_F32) return false;
    Value rounded = read_rounded(rewrite->to, operand);
    if (value_is_none(rounded)) return false;
    rewrite_set(rewrite, (Value){id, 0}, rounded);
    return true;
}

Graph *keep_rounded(PassContext *context, const Graph *graph) {
    return rewrite_graph(context, graph, graph->name, keep_node, NULL);
}
