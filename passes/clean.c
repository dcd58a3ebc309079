// dead: what no output needs is dropped. share: equal nodes become one.
//
//   before: %3 = add(%1, %2)  %4 = add(%2, %1)  %5 = exp(%1)  output mul(%3, %4)
//   after:  %3 = add(%1, %2)  output mul(%3, %3)
//
// Require: nothing. Leave: the same values. Nodes are hash-consed as they are added, so sharing is
// rebuilding with the operands of commutative ops in one order.
#include "passes/rewrite.h"

static bool is_commutative(Op op) {
    switch (op) {
    case OP_add: case OP_mul: case OP_and: case OP_or: case OP_xor: case OP_eq: case OP_ne: return true;
    default: return false;
    }
}

// Operands are swapped only where their types are equal: the order of the result's dimensions is that
// of an operand.
static bool share_node(Rewrite *rewrite, uint32_t id) {
    const Node *node = graph_node(rewrite->from, id);
    if (!is_commutative(node->op)) return false;
    Value *operands = rewrite_operands(rewrite, node);
    bool ordered = operands[0].node < operands[1].node ||
                   (operands[0].node == operands[1].node && operands[0].result <= operands[1].result);
    if (ordered || graph_type(rewrite->to, operands[0]) != graph_type(rewrite->to, operands[1])) return false;
    Value swapped[2] = {operands[1], operands[0]};
    rewrite_set(rewrite, (Value){id, 0}, graph_copy_node(rewrite->to, node, swapped));
    return true;
}

Graph *share(PassContext *context, const Graph *graph) {
    return rewrite_graph(context, graph, graph->name, share_node, NULL);
}

static bool is_replaced(const Graph *graph, uint32_t id) {
    for (size_t i = 0; i < graph->outputs.count; i++)
        if (graph->outputs.items[i].replaces.node == id) return true;
    return false;
}

Graph *remove_dead(PassContext *context, const Graph *graph) {
    int inputs = pass_choice(context, "inputs", "keep drop");
    if (inputs < 0) return NULL;
    if (inputs == 0) return rewrite_graph(context, graph, graph->name, NULL, NULL);
    Rewrite *rewrite = rewrite_begin(context, graph, graph->name, NULL, NULL);
    const bool *live = graph_live_nodes(graph);
    for (size_t i = 0; i < graph->inputs.count; i++) {
        uint32_t id = graph->inputs.items[i];
        if (live[id] || is_replaced(graph, id)) rewrite_copy(rewrite, id, NULL);
    }
    if (!rewrite_nodes(rewrite)) return NULL;
    rewrite_outputs(rewrite);
    return rewrite->to;
}
