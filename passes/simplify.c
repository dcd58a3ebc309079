// simplify: algebraic identities, as a table of op -> rules.
//
//   before: %2 = mul(%1, 1)  %3 = rename(rename(%2, time -> past), past -> later)
//   after:  %3 = rename(%1, time -> later)
//
// Requires: nothing. Leaves: the same values. A rule for floats may change the sign of a zero and nothing
// else, with two exceptions that round less often: the sum of a value repeated n times becomes n times the
// value, and ops of constants become one constant. So 0 * x stays (x may be infinite), and no sum changes
// its order.
// Rules look one node deep into operands that are already simplified; the pass repeats until none applies.
// Views are in passes/simplify_views.c.
#include "passes/simplify.h"

#include <math.h>
#include <string.h>

#include "ir/op.h"

bool simplify_constant(const Graph *graph, Value value, double *number) {
    const Node *node = graph_node(graph, value.node);
    while (node->op == OP_broadcast) node = graph_node(graph, node->operands[0].node);
    if (node->op != OP_constant) return false;
    *number = attribute_number(node, ATTRIBUTE_value, 0);
    return true;
}

static bool is_number(const Graph *graph, Value value, double wanted) {
    double number;
    return simplify_constant(graph, value, &number) && number == wanted;
}

Value simplify_fit(Graph *graph, Value value, const Type *type, Place place) {
    return graph_type(graph, value) == type ? value : build_expand(graph, value, type, place);
}

static const Node *operand_node(const Match *match, uint32_t i) {
    return graph_node(match->graph, match->operands[i].node);
}

static Value fit(const Match *match, Value value) {
    return simplify_fit(match->graph, value, match->node->types[0], match->node->place);
}

static Value binary(const Match *match, Op op, Value a, Value b) {
    return fit(match, build_binary(match->graph, op, a, b, match->node->place));
}

// ---- Arithmetic ----

static Value add_rule(const Match *match) {
    const Value *x = match->operands;
    for (int i = 0; i < 2; i++) {
        if (is_number(match->graph, x[1 - i], 0)) return fit(match, x[i]);
        if (operand_node(match, 1 - i)->op == OP_neg)
            return binary(match, OP_sub, x[i], operand_node(match, 1 - i)->operands[0]);
    }
    return VALUE_NONE;
}

static Value sub_rule(const Match *match) {
    const Value *x = match->operands;
    if (is_number(match->graph, x[1], 0)) return fit(match, x[0]);
    if (operand_node(match, 1)->op == OP_neg)
        return binary(match, OP_add, x[0], operand_node(match, 1)->operands[0]);
    return VALUE_NONE;
}

static Value mul_rule(const Match *match) {
    const Value *x = match->operands;
    bool integer = element_is_integer(match->node->types[0]->element);
    for (int i = 0; i < 2; i++) {
        if (is_number(match->graph, x[1 - i], 1)) return fit(match, x[i]);
        if (is_number(match->graph, x[1 - i], -1))
            return fit(match, build_unary(match->graph, OP_neg, x[i], match->node->place));
        if (integer && is_number(match->graph, x[1 - i], 0)) return fit(match, x[1 - i]);
    }
    return VALUE_NONE;
}

// x / 2^n = x * 2^-n, exactly, for exponents that stay normal.
static Value div_rule(const Match *match) {
    const Value *x = match->operands;
    double number;
    int exponent;
    if (!simplify_constant(match->graph, x[1], &number)) return VALUE_NONE;
    if (number == 1) return fit(match, x[0]);
    if (!element_is_float(match->node->types[0]->element) || number == 0) return VALUE_NONE;
    double mantissa = frexp(fabs(number), &exponent);
    if (mantissa != 0.5 || exponent > 100 || exponent < -100) return VALUE_NONE;
    Value inverse =
        build_constant(match->graph, match->node->types[0]->element, 1 / number, match->node->place);
    return binary(match, OP_mul, x[0], inverse);
}

static Value same_operands_rule(const Match *match) {  // max, min, and, or
    return value_same(match->operands[0], match->operands[1]) ? fit(match, match->operands[0]) : VALUE_NONE;
}

static Value involution_rule(const Match *match) {  // neg, not
    const Node *inner = operand_node(match, 0);
    return inner->op == match->node->op ? inner->operands[0] : VALUE_NONE;
}

static Value abs_rule(const Match *match) {
    const Node *inner = operand_node(match, 0);
    if (inner->op == OP_abs) return match->operands[0];
    return inner->op == OP_neg ? build_unary(match->graph, OP_abs, inner->operands[0], match->node->place)
                               : VALUE_NONE;
}

static Value select_rule(const Match *match) {
    const Value *x = match->operands;
    double condition;
    if (simplify_constant(match->graph, x[0], &condition)) return fit(match, condition != 0 ? x[1] : x[2]);
    if (value_same(x[1], x[2])) return fit(match, x[1]);
    if (operand_node(match, 0)->op == OP_not)
        return fit(match, build_select(match->graph, operand_node(match, 0)->operands[0], x[2], x[1],
                                       match->node->place));
    return VALUE_NONE;
}

// Does every value of `narrow` have an exact image in `wide`?
static bool widens(Element narrow, Element wide) {
    switch (narrow) {
    case ELEMENT_BOOL: return wide != ELEMENT_BOOL;
    case ELEMENT_I32: return wide == ELEMENT_I64 || wide == ELEMENT_F64;
    case ELEMENT_BF16: return wide == ELEMENT_F32 || wide == ELEMENT_F64;
    case ELEMENT_F32: return wide == ELEMENT_F64;
    default: return false;
    }
}

// There and back: exact where the way there loses nothing.
static Value cast_rule(const Match *match) {
    const Graph *graph = match->graph;
    Element to = match->node->types[0]->element, from = graph_type(graph, match->operands[0])->element;
    if (to == from) return match->operands[0];
    const Node *inner = operand_node(match, 0);
    if (inner->op != OP_cast) return VALUE_NONE;
    Element first = graph_type(graph, inner->operands[0])->element;
    return first == to && widens(first, from) ? inner->operands[0] : VALUE_NONE;
}

// ---- Constants and broadcasts in elementwise ops ----

// A folded constant stays a double until code is generated: it is rounded once, where the ops that it
// stands for would have rounded each result.
static bool is_representable(Element element, double number) {
    switch (element) {
    case ELEMENT_BOOL: case ELEMENT_F64: return isfinite(number);
    case ELEMENT_I32: return fabs(number) <= 2147483647.0;
    case ELEMENT_I64: return fabs(number) < 9007199254740992.0;
    case ELEMENT_F32: return isfinite((double)(float)number);
    default: return false;  // bf16: left to the machine
    }
}

static Value fold_rule(const Match *match) {
    double arguments[3] = {0};
    if (match->node->operand_count == 0 || match->node->operand_count > 3) return VALUE_NONE;
    for (uint32_t i = 0; i < match->node->operand_count; i++)
        if (!simplify_constant(match->graph, match->operands[i], &arguments[i])) return VALUE_NONE;
    Primitive primitive = op_table[match->node->op]->primitive;
    const Type *result = match->node->types[0];
    Element element = result->element;
    if (primitive_is_comparison(primitive)) element = graph_type(match->graph, match->operands[0])->element;
    double number = primitive_evaluate(primitive, element, arguments);
    if (!is_representable(result->element, number)) return VALUE_NONE;
    return fit(match, build_constant(match->graph, result->element, number, match->node->place));
}

// Elementwise ops match their operands by name and broadcast by themselves: where one operand has all the
// dimensions, the others' own broadcasts and transposes go.
static Value full_operand_rule(const Match *match) {
    Graph *graph = match->graph;
    const Type *result = match->node->types[0];
    Value operands[3];
    bool has_full = false, stripped = false;
    for (uint32_t i = 0; i < match->node->operand_count; i++) {
        operands[i] = match->operands[i];
        const Node *node = operand_node(match, i);
        while (node->op == OP_broadcast || node->op == OP_transpose) {
            operands[i] = node->operands[0];
            node = graph_node(graph, operands[i].node);
        }
        bool full = graph_type(graph, operands[i])->rank == result->rank;
        has_full |= full && type_same_dimensions(graph_type(graph, operands[i]), result);
        if (full) operands[i] = match->operands[i];  // a transpose at most, which may be what sets the order
        stripped |= !value_same(operands[i], match->operands[i]);
    }
    if (!stripped || !has_full) return VALUE_NONE;
    Value value = graph_copy_node(graph, match->node, operands);
    return graph_type(graph, value) == result ? value : VALUE_NONE;
}

// Where all operands lack the same dimensions, the broadcast moves behind the op.
static Value late_broadcast_rule(const Match *match) {
    Graph *graph = match->graph;
    Value operands[3];
    const Attribute *first = NULL;
    for (uint32_t i = 0; i < match->node->operand_count; i++) {
        const Node *node = operand_node(match, i);
        if (node->op != OP_broadcast) return VALUE_NONE;
        const Attribute *dimensions = attribute_find(node, ATTRIBUTE_dimensions);
        if (!first) first = dimensions;
        if (dimensions->count != first->count) return VALUE_NONE;
        for (uint32_t d = 0; d < first->count; d++)
            if (!dimension_same(&first->dimensions[d], &dimensions->dimensions[d])) return VALUE_NONE;
        operands[i] = node->operands[0];
    }
    Value value = graph_copy_node(graph, match->node, operands);
    value = build_broadcast(graph, value, first->dimensions, first->count, match->node->place);
    return graph_type(graph, value) == match->node->types[0] ? value : VALUE_NONE;
}

// ---- Accumulation ----

static Value accumulate_rule(const Match *match) {
    return is_number(match->graph, match->operands[1], 0) ? match->operands[0] : VALUE_NONE;
}

// ---- The table ----

typedef struct Rule {
    Op op;
    Value (*apply)(const Match *match);  // the node's new value, of the same type, or VALUE_NONE
} Rule;

static const Rule rules[] = {
    {OP_add, add_rule},
    {OP_sub, sub_rule},
    {OP_mul, mul_rule},
    {OP_div, div_rule},
    {OP_max, same_operands_rule},
    {OP_min, same_operands_rule},
    {OP_and, same_operands_rule},
    {OP_or, same_operands_rule},
    {OP_neg, involution_rule},
    {OP_not, involution_rule},
    {OP_abs, abs_rule},
    {OP_select, select_rule},
    {OP_cast, cast_rule},
    {OP_rename, simplify_rename},
    {OP_transpose, simplify_transpose},
    {OP_broadcast, simplify_broadcast},
    {OP_split, simplify_split},
    {OP_merge, simplify_merge},
    {OP_slice, simplify_slice},
    {OP_pick, simplify_pick},
    {OP_reverse, simplify_reverse},
    {OP_shift, simplify_shift},
    {OP_pad, simplify_pad},
    {OP_concat, simplify_concat},
    {OP_sum, simplify_reduction},
    {OP_max_over, simplify_reduction},
    {OP_accumulate, accumulate_rule},
};

static Value apply_rules(const Match *match) {
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        if (rules[i].op != match->node->op) continue;
        Value value = rules[i].apply(match);
        if (!value_is_none(value)) return value;
    }
    if (strcmp(op_table[match->node->op]->family, "elementwise") != 0) return VALUE_NONE;
    Value value = fold_rule(match);
    if (value_is_none(value)) value = full_operand_rule(match);
    return value_is_none(value) ? late_broadcast_rule(match) : value;
}

typedef struct Round {
    bool changed;
    const uint32_t *uses;  // of each old node
} Round;

static bool simplify_node(Rewrite *rewrite, uint32_t id) {
    const Node *node = graph_node(rewrite->from, id);
    if (node->result_count != 1 || node->operand_count == 0) return false;
    Round *round = rewrite->data;
    Match match = {rewrite->to, node, rewrite_operands(rewrite, node), round->uses};
    Value value = apply_rules(&match);
    if (value_is_none(value)) return false;
    if (graph_type(rewrite->to, value) != node->types[0])
        INTERNAL_ERROR("simplify changed the type of a node %s", op_name(node->op));
    round->changed = true;
    rewrite_set(rewrite, (Value){id, 0}, value);
    return true;
}

Graph *simplify(PassContext *context, const Graph *graph) {
    Graph *result = NULL;
    Round round = {.changed = true};
    for (int count = 0; round.changed && count < 16; count++) {
        if (result) graph = result;
        round = (Round){.uses = graph_uses(graph)};
        result = rewrite_graph(context, graph, graph->name, simplify_node, &round);
        if (!result) return NULL;
    }
    return result;
}
