// How many elements of a value are expected to differ from zero, where the graph tells it before any data are there:
//
//   x >= least of top_k(x, count = k)     k of the extent that top_k chooses along
//   select(c, x, 0), x / y, casts, views  as many as c, x
//   0 < x                                 no more than of x
//
// A share is that of all elements: what a view takes is expected to be like the rest. Anything else counts whole.
#include "ir/density.h"

static const Node *operand(const Graph *graph, const Node *node, uint32_t number) {
    return graph_node(graph, node->operands[number].node);
}

static bool is_zero(const Graph *graph, Value value) {
    const Node *node = graph_node(graph, value.node);
    while (node->op == OP_broadcast || node->op == OP_cast) node = operand(graph, node, 0);
    return node->op == OP_constant && attribute_number(node, ATTRIBUTE_value, 1) == 0;
}

// -max(-x) over the dimension that top_k chooses along: the least of those chosen. NULL: it is something else.
static const Node *chosen_least(const Graph *graph, const Node *node) {
    if (node->op != OP_neg) return NULL;
    const Node *largest = operand(graph, node, 0);
    if (largest->op != OP_max_over || operand(graph, largest, 0)->op != OP_neg) return NULL;
    const Node *chosen = operand(graph, operand(graph, largest, 0), 0);
    const Attribute *over = attribute_find(largest, ATTRIBUTE_over);
    if (chosen->op != OP_top_k || over->count != 1) return NULL;
    return over->names[0] == attribute_text(chosen, ATTRIBUTE_along) ? chosen : NULL;
}

// Of threshold <= values.
static double compared(const Graph *graph, const Node *node) {
    const Node *chosen = chosen_least(graph, operand(graph, node, 0));
    if (!chosen || !value_same(chosen->operands[0], node->operands[1])) return 1;
    const Type *from = graph_type(graph, chosen->operands[0]);
    int along = type_find(from, attribute_text(chosen, ATTRIBUTE_along));
    return (double)attribute_integer(chosen, ATTRIBUTE_count, 1) / (double)from->dimensions[along].extent;
}

double graph_density(const Graph *graph, Value value) {
    for (;;) {
        const Node *node = graph_node(graph, value.node);
        switch (node->op) {
            case OP_le: return compared(graph, node);
            case OP_lt:
                if (!is_zero(graph, node->operands[0])) return 1;
                value = node->operands[1];
                break;
            case OP_select:
                if (!is_zero(graph, node->operands[2])) return 1;
                value = node->operands[0];
                break;
            case OP_div: case OP_cast: case OP_rename: case OP_split: case OP_merge: case OP_transpose:
            case OP_broadcast: case OP_slice: case OP_pick: case OP_reverse: case OP_stop_gradient:
                value = node->operands[0];
                break;
            default: return 1;
        }
    }
}

// At least one, so that what they cost is not lost.
int64_t graph_expected_count(const Graph *graph, const Node *node) {
    if (node->op != OP_compact) return 0;
    double density = graph_density(graph, node->operands[0]);
    if (density == 1) return 0;
    int64_t capacity = node->types[0]->dimensions[0].extent;
    int64_t count = (int64_t)(density * (double)type_count(graph_type(graph, node->operands[0])));
    count -= attribute_integer(node, ATTRIBUTE_start, 0);
    return count < 1 ? 1 : count < capacity ? count : capacity;
}
