// Thin names over graph_add. An operand that is VALUE_NONE gives VALUE_NONE: its error is reported.
#include "ir/graph.h"

#define TEXT(attribute_key, value) ((Attribute){.key = ATTRIBUTE_##attribute_key, .text = (value)})
#define INTEGER(attribute_key, value) ((Attribute){.key = ATTRIBUTE_##attribute_key, .integer = (value)})
#define NAMES(attribute_key, value, length) \
    ((Attribute){.key = ATTRIBUTE_##attribute_key, .names = (value), .count = (length)})
#define DIMENSIONS(attribute_key, value, length) \
    ((Attribute){.key = ATTRIBUTE_##attribute_key, .dimensions = (value), .count = (length)})

static Value add_1(Graph *graph, Op op, Value a, Attribute attribute, Place place) {
    return graph_add(graph, op, &a, 1, &attribute, 1, place);
}

static Value add_2(Graph *graph, Op op, Value a, Attribute first, Attribute second, Place place) {
    return graph_add(graph, op, &a, 1, (Attribute[]){first, second}, 2, place);
}

static Value add_3(Graph *graph, Op op, Value a, Attribute first, Attribute second, Attribute third,
                   Place place) {
    return graph_add(graph, op, &a, 1, (Attribute[]){first, second, third}, 3, place);
}

Value build_constant(Graph *graph, Element element, double value, Place place) {
    Attribute attributes[] = {{.key = ATTRIBUTE_value, .number = value}, INTEGER(element, element)};
    return graph_add(graph, OP_constant, NULL, 0, attributes, 2, place);
}

Value build_index(Graph *graph, Dimension dimension, Place place) {
    Attribute attribute = DIMENSIONS(dimensions, &dimension, 1);
    return graph_add(graph, OP_index, NULL, 0, &attribute, 1, place);
}

Value build_unary(Graph *graph, Op op, Value a, Place place) {
    return graph_add(graph, op, &a, 1, NULL, 0, place);
}

Value build_binary(Graph *graph, Op op, Value a, Value b, Place place) {
    return graph_add(graph, op, (Value[]){a, b}, 2, NULL, 0, place);
}

Value build_select(Graph *graph, Value condition, Value a, Value b, Place place) {
    return graph_add(graph, OP_select, (Value[]){condition, a, b}, 3, NULL, 0, place);
}

Value build_cast(Graph *graph, Value a, Element element, Place place) {
    if (value_is_none(a) || graph_type(graph, a)->element == element) return a;
    return add_1(graph, OP_cast, a, INTEGER(element, element), place);
}

Value build_dot(Graph *graph, Value a, Value b, const char *const *over, uint32_t count, Place place) {
    Attribute attribute = NAMES(over, over, count);
    return graph_add(graph, OP_dot, (Value[]){a, b}, 2, &attribute, 1, place);
}

Value build_reduce(Graph *graph, Op op, Value a, const char *const *over, uint32_t count, Place place) {
    return add_1(graph, op, a, NAMES(over, over, count), place);
}

Value build_rename(Graph *graph, Value a, const char *from, const char *to, Place place) {
    return add_2(graph, OP_rename, a, NAMES(from, &from, 1), NAMES(to, &to, 1), place);
}

Value build_split(Graph *graph, Value a, const char *along, const Dimension *into, uint32_t count,
                  Place place) {
    return add_2(graph, OP_split, a, TEXT(along, along), DIMENSIONS(into, into, count), place);
}

Value build_merge(Graph *graph, Value a, const char *const *from, uint32_t count, const char *to,
                  Place place) {
    return add_2(graph, OP_merge, a, NAMES(from, from, count), TEXT(along, to), place);
}

Value build_transpose(Graph *graph, Value a, const char *const *order, uint32_t count, Place place) {
    return add_1(graph, OP_transpose, a, NAMES(order, order, count), place);
}

Value build_broadcast(Graph *graph, Value a, const Dimension *dimensions, uint32_t count, Place place) {
    return add_1(graph, OP_broadcast, a, DIMENSIONS(dimensions, dimensions, count), place);
}

Value build_slice(Graph *graph, Value a, const char *along, int64_t start, int64_t count, Place place) {
    return add_3(graph, OP_slice, a, TEXT(along, along), INTEGER(start, start), INTEGER(count, count), place);
}

Value build_pick(Graph *graph, Value a, const char *along, int64_t at, Place place) {
    return add_2(graph, OP_pick, a, TEXT(along, along), INTEGER(at, at), place);
}

Value build_pad(Graph *graph, Value a, const char *along, int64_t start, int64_t count, Place place) {
    return add_3(graph, OP_pad, a, TEXT(along, along), INTEGER(start, start), INTEGER(count, count), place);
}

Value build_gather(Graph *graph, Value table, Value indices, const char *along, Place place) {
    Attribute attribute = TEXT(along, along);
    return graph_add(graph, OP_gather, (Value[]){table, indices}, 2, &attribute, 1, place);
}

Value build_scatter_add(Graph *graph, Value acc, Value indices, Value values, const char *along,
                        Place place) {
    Attribute attribute = TEXT(along, along);
    return graph_add(graph, OP_scatter_add, (Value[]){acc, indices, values}, 3, &attribute, 1, place);
}

Value build_accumulate(Graph *graph, Value acc, Value value, Place place) {
    return build_binary(graph, OP_accumulate, acc, value, place);
}

Value build_accumulate_at(Graph *graph, Value acc, Value value, const char *along, int64_t at, Place place) {
    Attribute attributes[] = {TEXT(along, along), INTEGER(at, at)};
    return graph_add(graph, OP_accumulate, (Value[]){acc, value}, 2, attributes, 2, place);
}

Value build_expand(Graph *graph, Value a, const Type *type, Place place) {
    if (value_is_none(a)) return VALUE_NONE;
    Ir *ir = graph->ir;
    const Type *from = graph_type(graph, a);
    if (!type_contains(type, from)) {
        report_error(ir->diagnostics, place, "E0292", "%s does not expand to %s", type_text(ir, from),
                     type_text(ir, type));
        return VALUE_NONE;
    }
    Dimension missing[RANK_MAX];
    const char *order[RANK_MAX];
    uint32_t count = 0;
    for (int i = 0; i < type->rank; i++) {
        order[i] = type->dimensions[i].name;
        if (type_find(from, order[i]) < 0) missing[count++] = type->dimensions[i];
    }
    if (count) a = build_broadcast(graph, a, missing, count, place);
    if (value_is_none(a) || type_same_dimensions(graph_type(graph, a), type)) return a;
    return build_transpose(graph, a, order, (uint32_t)type->rank, place);
}

Value build_reduce_to(Graph *graph, Value a, const Type *type, Place place) {
    if (value_is_none(a)) return VALUE_NONE;
    const Type *from = graph_type(graph, a);
    const char *over[RANK_MAX];
    uint32_t count = 0;
    for (int i = 0; i < from->rank; i++)
        if (type_find(type, from->dimensions[i].name) < 0) over[count++] = from->dimensions[i].name;
    if (count) a = build_reduce(graph, OP_sum, a, over, count, place);
    return build_expand(graph, a, type, place);  // reorders; also repeats what `a` lacks
}
