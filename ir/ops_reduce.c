// Reductions: sum, max_over, top_k.
#include <math.h>
#include <string.h>

#include "ir/op_rules.h"

static bool reduce_shape(Shape *shape) {
    if (!shape_begin(shape)) return false;
    const Type *type = shape_type(shape, 0);
    const Attribute *over = shape_attribute(shape, ATTRIBUTE_over);
    if (!over || !shape_find_all(shape, 0, over)) return false;
    if (type->element == ELEMENT_BOOL)
        return shape_error(shape, "E0255", "%s is not defined for bool: cast it first", op_name(shape->op));
    DimensionList list = {0};
    dimensions_push_except(&list, type, over->names, over->count);
    return shape_result(shape, type->element, &list);
}

static bool top_k_shape(Shape *shape) {
    if (!shape_begin(shape)) return false;
    const Type *type = shape_type(shape, 0);
    const Attribute *along = shape_attribute(shape, ATTRIBUTE_along);
    const Attribute *count = shape_attribute(shape, ATTRIBUTE_count);
    if (!along || !count) return false;
    int index = shape_find_static(shape, 0, along->text);
    if (index < 0) return false;
    if (type->element == ELEMENT_BOOL) return shape_error(shape, "E0255", "top_k is not defined for bool");
    int64_t extent = type->dimensions[index].extent;
    if (count->integer < 1 || count->integer > extent)
        return shape_error(shape, "E0258", "top_k: %lld of %lld values along %s", (long long)count->integer,
                           (long long)extent, along->text);
    DimensionList list = {0};
    dimensions_push_except(&list, type, NULL, 0);
    list.items[index].extent = count->integer;
    return shape_result(shape, type->element, &list) && shape_result(shape, ELEMENT_I32, &list);
}

// ---- Evaluation ----

// The maximum of nothing.
static double max_identity(Element element) {
    if (element_is_float(element)) return -INFINITY;
    return element == ELEMENT_I32 ? INT32_MIN : (double)INT64_MIN;
}

static void reduce_evaluate(const Evaluation *evaluation) {
    const Tensor *operand = evaluation->operands[0];
    Tensor *result = evaluation->results[0];
    const Attribute *over = attribute_find(evaluation->node, ATTRIBUTE_over);
    bool is_sum = evaluation->node->op == OP_sum;
    Type reduced = {.element = operand->type->element};  // the dimensions in `over`, in the operand's order
    for (int i = 0; i < operand->type->rank; i++)
        if (name_among(operand->type->dimensions[i].name, over->names, over->count))
            reduced.dimensions[reduced.rank++] = operand->type->dimensions[i];
    int64_t outer_strides[RANK_MAX], inner_strides[RANK_MAX];
    walk_strides(result->type, operand->type, NULL, outer_strides);
    walk_strides(&reduced, operand->type, NULL, inner_strides);
    Odometer outer, inner;
    ODOMETER_EACH(outer, result->type) {
        const double *from = operand->data + walk_offset(&outer, outer_strides);
        double value = is_sum ? 0 : max_identity(operand->type->element);
        ODOMETER_EACH(inner, &reduced) {
            double arguments[2] = {value, from[walk_offset(&inner, inner_strides)]};
            Primitive primitive = is_sum ? PRIMITIVE_add : PRIMITIVE_max;
            value = primitive_evaluate(primitive, operand->type->element, arguments);
        }
        result->data[outer.position] = value;
    }
}

// Takes the largest value that is left, `count` times; the first of equal ones.
static void top_k_evaluate(const Evaluation *evaluation) {
    const Tensor *operand = evaluation->operands[0];
    Tensor *values = evaluation->results[0], *indices = evaluation->results[1];
    const char *along = attribute_text(evaluation->node, ATTRIBUTE_along);
    int64_t extent = operand->type->dimensions[type_find(operand->type, along)].extent;
    int64_t count = attribute_integer(evaluation->node, ATTRIBUTE_count, 0);
    int64_t step = walk_stride(operand->type, along), result_step = walk_stride(values->type, along);
    int64_t strides[RANK_MAX];
    walk_strides(values->type, operand->type, along, strides);
    bool *taken = ARENA_ARRAY(evaluation->arena, bool, extent);
    Odometer odometer;
    ODOMETER_EACH(odometer, values->type) {
        if (odometer.at[type_find(values->type, along)] != 0) continue;
        const double *from = operand->data + walk_offset(&odometer, strides);
        memset(taken, 0, sizeof(bool) * (size_t)extent);
        for (int64_t k = 0; k < count; k++) {
            int64_t best = -1;
            for (int64_t i = 0; i < extent; i++)
                if (!taken[i] && (best < 0 || from[i * step] > from[best * step])) best = i;
            taken[best] = true;
            values->data[odometer.position + k * result_step] = from[best * step];
            indices->data[odometer.position + k * result_step] = (double)best;
        }
    }
}

// ---- Definitions ----

const OpDefinition op_sum = {
    OP_ROW(sum),
    .shape = reduce_shape,
    .evaluate = reduce_evaluate,
    .along = along_except_over,
};

const OpDefinition op_max_over = {
    OP_ROW(max_over),
    .shape = reduce_shape,
    .evaluate = reduce_evaluate,
    .along = along_except_over,
};

const OpDefinition op_top_k = {
    OP_ROW(top_k),
    .shape = top_k_shape,
    .evaluate = top_k_evaluate,
    .along = along_except_along,
};
