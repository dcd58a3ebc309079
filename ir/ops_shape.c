// Shape ops: the same elements under other names, in another order, or a part of them.
#include "ir/ops_shape.h"

#include <string.h>

#include "ir/op_rules.h"

// ---- Shape ----

static bool rename_shape(Shape *shape) {
    if (!shape_begin(shape)) return false;
    const Attribute *from = shape_attribute(shape, ATTRIBUTE_from),
                    *to = shape_attribute(shape, ATTRIBUTE_to);
    if (!from || !to || !shape_find_all(shape, 0, from)) return false;
    if (from->count != to->count)
        return shape_error(shape, "E0251", "rename: %u old and %u new names", from->count, to->count);
    DimensionList list = {0};
    dimensions_push_except(&list, shape_type(shape, 0), NULL, 0);
    for (uint32_t i = 0; i < from->count; i++)
        list.items[type_find(shape_type(shape, 0), from->names[i])].name = to->names[i];
    return shape_result(shape, shape_type(shape, 0)->element, &list);
}

// The product of extents, or 0 where it passes 2^47 or an extent is not positive.
static int64_t product(const Dimension *dimensions, uint32_t count) {
    int64_t result = 1;
    for (uint32_t i = 0; i < count; i++) {
        if (dimensions[i].extent < 1 || dimensions[i].extent > (INT64_C(1) << 47) / result) return 0;
        result *= dimensions[i].extent;
    }
    return result;
}

static bool split_shape(Shape *shape) {
    if (!shape_begin(shape)) return false;
    const Type *type = shape_type(shape, 0);
    const Attribute *along = shape_attribute(shape, ATTRIBUTE_along);
    const Attribute *into = shape_attribute(shape, ATTRIBUTE_into);
    if (!along || !into) return false;
    int index = shape_find_static(shape, 0, along->text);
    if (index < 0) return false;
    if (product(into->dimensions, into->count) != type->dimensions[index].extent || into->count == 0)
        return shape_error(shape, "E0258", "split: the extents of the parts do not multiply to %s = %lld",
                           along->text, (long long)type->dimensions[index].extent);
    DimensionList list = {0};
    for (int i = 0; i < type->rank; i++) {
        if (i != index) dimensions_push(&list, type->dimensions[i]);
        for (uint32_t j = 0; i == index && j < into->count; j++) {
            if (into->dimensions[j].bound)
                return shape_error(shape, "E0260", "split: the part %s must be static",
                                   into->dimensions[j].name);
            dimensions_push(&list, into->dimensions[j]);
        }
    }
    return shape_result(shape, type->element, &list);
}

// The merged dimension stands where from[0] stood.
static bool merge_shape(Shape *shape) {
    if (!shape_begin(shape)) return false;
    const Type *type = shape_type(shape, 0);
    const Attribute *from = shape_attribute(shape, ATTRIBUTE_from);
    const Attribute *along = shape_attribute(shape, ATTRIBUTE_along);
    if (!from || !along || !shape_find_all(shape, 0, from)) return false;
    if (from->count == 0) return shape_error(shape, "E0251", "merge: no dimension is given");
    Dimension merged = {.name = along->text, .extent = 1};
    for (uint32_t i = 0; i < from->count; i++) {
        int index = shape_find_static(shape, 0, from->names[i]);
        if (index < 0) return false;
        merged.extent *= type->dimensions[index].extent;  // a part of type_count: no overflow
    }
    DimensionList list = {0};
    for (int i = 0; i < type->rank; i++) {
        if (type->dimensions[i].name == from->names[0])
            dimensions_push(&list, merged);
        else if (!name_among(type->dimensions[i].name, from->names, from->count))
            dimensions_push(&list, type->dimensions[i]);
    }
    return shape_result(shape, type->element, &list);
}

static bool transpose_shape(Shape *shape) {
    if (!shape_begin(shape)) return false;
    const Type *type = shape_type(shape, 0);
    const Attribute *order = shape_attribute(shape, ATTRIBUTE_order);
    if (!order || !shape_find_all(shape, 0, order)) return false;
    if (order->count != (uint32_t)type->rank)
        return shape_error(shape, "E0251", "transpose: %u names for %d dimensions", order->count, type->rank);
    DimensionList list = {0};
    for (uint32_t i = 0; i < order->count; i++)
        dimensions_push(&list, type->dimensions[type_find(type, order->names[i])]);
    return shape_result(shape, type->element, &list);
}

static bool broadcast_shape(Shape *shape) {
    if (!shape_begin(shape)) return false;
    const Attribute *dimensions = shape_attribute(shape, ATTRIBUTE_dimensions);
    if (!dimensions) return false;
    DimensionList list = {0};
    for (uint32_t i = 0; i < dimensions->count; i++) dimensions_push(&list, dimensions->dimensions[i]);
    dimensions_push_except(&list, shape_type(shape, 0), NULL, 0);
    return shape_result(shape, shape_type(shape, 0)->element, &list);
}

// Starts a rule with attribute {along}, static: the operand's dimensions, and the index of `along` in them.
static int along_static(Shape *shape, DimensionList *list) {
    if (!shape_begin(shape)) return -1;
    const Attribute *along = shape_attribute(shape, ATTRIBUTE_along);
    if (!along) return -1;
    dimensions_push_except(list, shape_type(shape, 0), NULL, 0);
    return shape_find_static(shape, 0, along->text);
}

static bool slice_shape(Shape *shape) {
    DimensionList list = {0};
    int index = along_static(shape, &list);
    if (index < 0) return false;
    const Attribute *start = shape_attribute(shape, ATTRIBUTE_start),
                    *count = shape_attribute(shape, ATTRIBUTE_count);
    if (!start || !count) return false;
    Dimension *dimension = &list.items[index];
    if (start->integer < 0 || count->integer < 1 || start->integer > dimension->extent ||
        count->integer > dimension->extent - start->integer)
        return shape_error(shape, "E0258", "slice: %lld indices of %s from %lld, but its extent is %lld",
                           (long long)count->integer, dimension->name, (long long)start->integer,
                           (long long)dimension->extent);
    dimension->extent = count->integer;
    return shape_result(shape, shape_type(shape, 0)->element, &list);
}

static bool pick_shape(Shape *shape) {
    DimensionList list = {0};
    int index = along_static(shape, &list);
    if (index < 0) return false;
    const Attribute *at = shape_attribute(shape, ATTRIBUTE_at);
    if (!at) return false;
    const Type *type = shape_type(shape, 0);
    const Dimension *dimension = &type->dimensions[index];
    if (at->integer < 0 || at->integer >= dimension->extent)
        return shape_error(shape, "E0258", "pick: index %lld of %s, but its extent is %lld",
                           (long long)at->integer, dimension->name, (long long)dimension->extent);
    DimensionList rest = {0};
    dimensions_push_except(&rest, type, &dimension->name, 1);
    return shape_result(shape, type->element, &rest);
}

static bool reverse_shape(Shape *shape) {
    DimensionList list = {0};
    return along_static(shape, &list) >= 0 && shape_result_type(shape, shape_type(shape, 0));
}

static bool shift_shape(Shape *shape) {
    if (!shape_begin(shape)) return false;
    const Attribute *along = shape_attribute(shape, ATTRIBUTE_along),
                    *by = shape_attribute(shape, ATTRIBUTE_by);
    if (!along || !by) return false;
    if (by->integer < -INT32_MAX || by->integer > INT32_MAX)
        return shape_error(shape, "E0258", "shift by %lld", (long long)by->integer);
    // Shifting back brings zeros in behind the last index, which must be known.
    int index =
        by->integer < 0 ? shape_find_static(shape, 0, along->text) : shape_find(shape, 0, along->text);
    return index >= 0 && shape_result_type(shape, shape_type(shape, 0));
}

static bool pad_shape(Shape *shape) {
    DimensionList list = {0};
    int index = along_static(shape, &list);
    if (index < 0) return false;
    const Attribute *start = shape_attribute(shape, ATTRIBUTE_start),
                    *count = shape_attribute(shape, ATTRIBUTE_count);
    if (!start || !count) return false;
    Dimension *dimension = &list.items[index];
    if (start->integer < 0 || dimension->extent > count->integer ||
        start->integer > count->integer - dimension->extent)
        return shape_error(shape, "E0258", "pad: %s = %lld from %lld on does not fit into %lld",
                           dimension->name, (long long)dimension->extent, (long long)start->integer,
                           (long long)count->integer);
    dimension->extent = count->integer;
    return shape_result(shape, shape_type(shape, 0)->element, &list);
}

static bool concat_shape(Shape *shape) {
    if (!shape_begin(shape)) return false;
    const Attribute *along = shape_attribute(shape, ATTRIBUTE_along);
    if (!along) return false;
    if (shape->operand_count == 0) return shape_error(shape, "E0250", "concat needs an operand");
    const Type *first = shape_type(shape, 0);
    int64_t extent = 0;
    for (uint32_t i = 0; i < shape->operand_count; i++) {
        const Type *type = shape_type(shape, i);
        int index = shape_find_static(shape, i, along->text);
        if (index < 0 || !shape_same_elements(shape, 0, i)) return false;
        const char *missing = shape_missing(shape->ir, first, type),
                   *extra = shape_missing(shape->ir, type, first);
        if (missing || extra)
            return shape_error(shape, "E0252", "concat: %s is not in every operand",
                               missing ? missing : extra);
        extent += type->dimensions[index].extent;
    }
    if (!shape_agree(shape, along->text)) return false;
    DimensionList list = {0};
    dimensions_push_except(&list, first, NULL, 0);
    list.items[type_find(first, along->text)].extent = extent;
    return shape_result(shape, first->element, &list);
}

// ---- Widening ----

// New dimensions come first.
static void transpose_widen(Widening *widening) {
    const Type *type = graph_type(widening->graph, widening->operands[0]);
    Attribute *order = &widening->attributes[0];
    const char **names = ARENA_ARRAY(widening->graph->ir->arena, const char *, type->rank);
    uint32_t count = 0;
    for (int i = 0; i < type->rank; i++)
        if (!name_among(type->dimensions[i].name, order->names, order->count))
            names[count++] = type->dimensions[i].name;
    for (uint32_t i = 0; i < order->count; i++) names[count++] = order->names[i];
    *order = attribute_of_names(ATTRIBUTE_order, names, count);
}

// ---- Gradients ----

static const char *along_name(const Gradient *gradient) {
    return attribute_text(gradient->node, ATTRIBUTE_along);
}

static Dimension along_dimension(const Gradient *gradient, uint32_t operand) {
    const Type *type = gradient_type(gradient, operand);
    return type->dimensions[type_find(type, along_name(gradient))];
}

static bool rename_gradient(Gradient *gradient) {
    const Attribute *from = attribute_find(gradient->node, ATTRIBUTE_from);
    const Attribute *to = attribute_find(gradient->node, ATTRIBUTE_to);
    Attribute back[] = {attribute_of_names(ATTRIBUTE_from, to->names, to->count),
                        attribute_of_names(ATTRIBUTE_to, from->names, from->count)};
    return gradient_set(
        gradient, 0,
        graph_add(gradient->graph, OP_rename, gradient->cotangents, 1, back, 2, gradient->node->place));
}

static bool split_gradient(Gradient *gradient) {
    const Attribute *into = attribute_find(gradient->node, ATTRIBUTE_into);
    const char *parts[RANK_MAX];
    for (uint32_t i = 0; i < into->count; i++) parts[i] = into->dimensions[i].name;
    return gradient_set(gradient, 0,
                        build_merge(gradient->graph, gradient->cotangents[0], parts, into->count,
                                    along_name(gradient), gradient->node->place));
}

static bool merge_gradient(Gradient *gradient) {
    const Attribute *from = attribute_find(gradient->node, ATTRIBUTE_from);
    const Type *type = gradient_type(gradient, 0);
    Dimension parts[RANK_MAX];
    for (uint32_t i = 0; i < from->count; i++) parts[i] = type->dimensions[type_find(type, from->names[i])];
    return gradient_set(gradient, 0,
                        build_split(gradient->graph, gradient->cotangents[0], along_name(gradient), parts,
                                    from->count, gradient->node->place));
}

static bool transpose_gradient(Gradient *gradient) {
    const Type *type = gradient_type(gradient, 0);
    return gradient_set(gradient, 0,
                        build_expand(gradient->graph, gradient->cotangents[0], type, gradient->node->place));
}

static bool slice_gradient(Gradient *gradient) {
    int64_t start = attribute_integer(gradient->node, ATTRIBUTE_start, 0);
    return gradient_set(gradient, 0,
                        build_pad(gradient->graph, gradient->cotangents[0], along_name(gradient), start,
                                  along_dimension(gradient, 0).extent, gradient->node->place));
}

// An accumulation onto zeros: the pass turns it into one onto the gradient where x is a parameter.
static bool pick_gradient(Gradient *gradient) {
    Value zeros = gradient_zeros(gradient, gradient_type(gradient, 0));
    int64_t at = attribute_integer(gradient->node, ATTRIBUTE_at, 0);
    return gradient_set(gradient, 0,
                        build_accumulate_at(gradient->graph, zeros, gradient->cotangents[0],
                                            along_name(gradient), at, gradient->node->place));
}

static bool reverse_gradient(Gradient *gradient) {
    return gradient_set(gradient, 0, graph_copy_node(gradient->graph, gradient->node, gradient->cotangents));
}

static bool shift_gradient(Gradient *gradient) {
    int64_t by = attribute_integer(gradient->node, ATTRIBUTE_by, 0);
    return gradient_set(gradient, 0,
                        graph_copy_node_with(gradient->graph, gradient->node, gradient->cotangents,
                                             attribute_of_integer(ATTRIBUTE_by, -by)));
}

static Value slice_cotangent(const Gradient *gradient, int64_t start, int64_t count) {
    return build_slice(gradient->graph, gradient->cotangents[0], along_name(gradient), start, count,
                       gradient->node->place);
}

static bool pad_gradient(Gradient *gradient) {
    int64_t start = attribute_integer(gradient->node, ATTRIBUTE_start, 0);
    return gradient_set(gradient, 0, slice_cotangent(gradient, start, along_dimension(gradient, 0).extent));
}

static bool concat_gradient(Gradient *gradient) {
    int64_t start = 0;
    for (uint32_t i = 0; i < gradient->node->operand_count; i++) {
        int64_t count = along_dimension(gradient, i).extent;
        if (!gradient_set(gradient, i, slice_cotangent(gradient, start, count))) return false;
        start += count;
    }
    return true;
}

// ---- Evaluation ----

// rename, split: the same elements in the same order.
static void copy_evaluate(const Evaluation *evaluation) {
    Tensor *result = evaluation->results[0];
    memcpy(result->data, evaluation->operands[0]->data, sizeof(double) * (size_t)type_count(result->type));
}

// transpose, broadcast: every element by the names of its dimensions.
static void by_name_evaluate(const Evaluation *evaluation) {
    const Tensor *operand = evaluation->operands[0];
    Tensor *result = evaluation->results[0];
    int64_t strides[RANK_MAX];
    walk_strides(result->type, operand->type, NULL, strides);
    Odometer odometer;
    ODOMETER_EACH(odometer, result->type)
    result->data[odometer.position] = operand->data[walk_offset(&odometer, strides)];
}

static void merge_evaluate(const Evaluation *evaluation) {
    const Tensor *operand = evaluation->operands[0];
    Tensor *result = evaluation->results[0];
    const Attribute *from = attribute_find(evaluation->node, ATTRIBUTE_from);
    const char *along = attribute_text(evaluation->node, ATTRIBUTE_along);
    int merged = type_find(result->type, along);
    int64_t strides[RANK_MAX];
    walk_strides(result->type, operand->type, along, strides);
    Odometer odometer;
    ODOMETER_EACH(odometer, result->type) {
        int64_t rest = odometer.at[merged], offset = walk_offset(&odometer, strides);
        for (uint32_t i = from->count; i-- > 0;) {  // the last name varies fastest
            int64_t extent = operand->type->dimensions[type_find(operand->type, from->names[i])].extent;
            offset += rest % extent * walk_stride(operand->type, from->names[i]);
            rest /= extent;
        }
        result->data[odometer.position] = operand->data[offset];
    }
}

// Where index `at` of the result comes from along the one dimension that the op changes; -1: zero.
static int64_t source_index(const Node *node, int64_t at, int64_t extent) {
    switch (node->op) {
    case OP_slice: return at + attribute_integer(node, ATTRIBUTE_start, 0);
    case OP_pick: return attribute_integer(node, ATTRIBUTE_at, 0);
    case OP_reverse: return extent - 1 - at;
    case OP_shift: at -= attribute_integer(node, ATTRIBUTE_by, 0); break;
    case OP_pad: at -= attribute_integer(node, ATTRIBUTE_start, 0); break;
    default: INTERNAL_ERROR("%s has no source index", op_name(node->op));
    }
    return at >= 0 && at < extent ? at : -1;
}

static void along_evaluate(const Evaluation *evaluation) {
    const Tensor *operand = evaluation->operands[0];
    Tensor *result = evaluation->results[0];
    const char *along = attribute_text(evaluation->node, ATTRIBUTE_along);
    int64_t extent = operand->type->dimensions[type_find(operand->type, along)].extent;
    int64_t step = walk_stride(operand->type, along);
    int index = type_find(result->type, along);  // -1: pick
    int64_t strides[RANK_MAX];
    walk_strides(result->type, operand->type, along, strides);
    Odometer odometer;
    ODOMETER_EACH(odometer, result->type) {
        int64_t source = source_index(evaluation->node, index < 0 ? 0 : odometer.at[index], extent);
        if (source < 0) continue;  // results start as zeros
        result->data[odometer.position] = operand->data[walk_offset(&odometer, strides) + source * step];
    }
}

static void concat_evaluate(const Evaluation *evaluation) {
    Tensor *result = evaluation->results[0];
    const char *along = attribute_text(evaluation->node, ATTRIBUTE_along);
    int64_t start = 0;
    for (uint32_t i = 0; i < evaluation->node->operand_count; i++) {
        const Tensor *operand = evaluation->operands[i];
        int64_t strides[RANK_MAX];
        walk_strides(operand->type, result->type, NULL, strides);
        double *to = result->data + start * walk_stride(result->type, along);
        Odometer odometer;
        ODOMETER_EACH(odometer, operand->type)
        to[walk_offset(&odometer, strides)] = operand->data[odometer.position];
        start += operand->type->dimensions[type_find(operand->type, along)].extent;
    }
}

// ---- Along ----

// Under its new name the dimension holds all positions, so the earlier ones must be kept.
static Along rename_along(const Graph *graph, const Node *node, const char *name) {
    (void)graph;
    const Attribute *from = attribute_find(node, ATTRIBUTE_from);
    return name_among(name, from->names, from->count) ? ALONG_STATE : ALONG_POINTWISE;
}

static Along merge_along(const Graph *graph, const Node *node, const char *name) {
    (void)graph;
    const Attribute *from = attribute_find(node, ATTRIBUTE_from);
    return name_among(name, from->names, from->count) ? ALONG_IMPOSSIBLE : ALONG_POINTWISE;
}

static Along shift_along(const Graph *graph, const Node *node, const char *name) {
    (void)graph;
    if (attribute_text(node, ATTRIBUTE_along) != name) return ALONG_POINTWISE;
    int64_t by = attribute_integer(node, ATTRIBUTE_by, 0);
    return by == 0 ? ALONG_POINTWISE : by > 0 ? ALONG_STATE : ALONG_IMPOSSIBLE;
}

// ---- Definitions ----

const OpDefinition op_rename = {
    OP_ROW(rename),        .shape = rename_shape, .gradient = rename_gradient, .evaluate = copy_evaluate,
    .lower = rename_lower, .along = rename_along,
};

const OpDefinition op_split = {
    OP_ROW(split),        .shape = split_shape,        .gradient = split_gradient, .evaluate = copy_evaluate,
    .lower = split_lower, .along = along_except_along,
};

const OpDefinition op_merge = {
    OP_ROW(merge),        .shape = merge_shape, .gradient = merge_gradient, .evaluate = merge_evaluate,
    .lower = merge_lower, .along = merge_along,
};

const OpDefinition op_transpose = {
    OP_ROW(transpose),
    .shape = transpose_shape,
    .gradient = transpose_gradient,
    .evaluate = by_name_evaluate,
    .lower = by_name_lower,
    .along = along_pointwise,
    .widen = transpose_widen,
};

const OpDefinition op_broadcast = {
    OP_ROW(broadcast),      .shape = broadcast_shape, .gradient = gradient_pass, .evaluate = by_name_evaluate,
    .lower = by_name_lower, .along = along_pointwise,
};

const OpDefinition op_slice = {
    OP_ROW(slice),        .shape = slice_shape,        .gradient = slice_gradient, .evaluate = along_evaluate,
    .lower = slice_lower, .along = along_except_along,
};

const OpDefinition op_pick = {
    OP_ROW(pick),        .shape = pick_shape,         .gradient = pick_gradient, .evaluate = along_evaluate,
    .lower = pick_lower, .along = along_except_along,
};

const OpDefinition op_reverse = {
    OP_ROW(reverse),
    .shape = reverse_shape,
    .gradient = reverse_gradient,
    .evaluate = along_evaluate,
    .lower = reverse_lower,
    .along = along_except_along,
};

const OpDefinition op_shift = {
    OP_ROW(shift),        .shape = shift_shape, .gradient = shift_gradient, .evaluate = along_evaluate,
    .lower = shift_lower, .along = shift_along,
};

const OpDefinition op_pad = {
    OP_ROW(pad),        .shape = pad_shape,          .gradient = pad_gradient, .evaluate = along_evaluate,
    .lower = pad_lower, .along = along_except_along,
};

const OpDefinition op_concat = {
    OP_ROW(concat),
    .shape = concat_shape,
    .gradient = concat_gradient,
    .evaluate = concat_evaluate,
    .lower = concat_lower,
    .along = along_except_along,
    .widen = widening_spread_all,
};
