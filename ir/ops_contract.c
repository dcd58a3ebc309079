// Contraction: dot.
#include "ir/op_rules.h"

static bool dot_shape(Shape *shape) {
    if (!shape_begin(shape)) return false;
    const Type *a = shape_type(shape, 0), *b = shape_type(shape, 1);
    const Attribute *over = shape_attribute(shape, ATTRIBUTE_over);
    if (!over || !shape_same_elements(shape, 0, 1) || !shape_accepts_float(shape, 0)) return false;
    if (!shape_find_all(shape, 0, over) || !shape_find_all(shape, 1, over)) return false;
    if (!shape_agree(shape, NULL)) return false;
    DimensionList list = {0};
    dimensions_push_except(&list, a, over->names, over->count);
    for (int i = 0; i < b->rank; i++)
        if (type_find(a, b->dimensions[i].name) < 0) dimensions_push(&list, b->dimensions[i]);
    // Products of bf16 are summed in f32, and rounding the sum is for the model to say.
    return shape_result(shape, a->element == ELEMENT_BF16 ? ELEMENT_F32 : a->element, &list);
}

// The dimensions that are summed, in a's order.
static Type summed_type(const Type *a, const Attribute *over) {
    Type type = {.element = a->element};
    for (int i = 0; i < a->rank; i++)
        if (name_among(a->dimensions[i].name, over->names, over->count))
            type.dimensions[type.rank++] = a->dimensions[i];
    return type;
}

static void dot_evaluate(const Evaluation *evaluation) {
    const Tensor *a = evaluation->operands[0], *b = evaluation->operands[1];
    Tensor *result = evaluation->results[0];
    Type summed = summed_type(a->type, attribute_find(evaluation->node, ATTRIBUTE_over));
    int64_t outer_a[RANK_MAX], outer_b[RANK_MAX], inner_a[RANK_MAX], inner_b[RANK_MAX];
    walk_strides(result->type, a->type, NULL, outer_a);
    walk_strides(result->type, b->type, NULL, outer_b);
    walk_strides(&summed, a->type, NULL, inner_a);
    walk_strides(&summed, b->type, NULL, inner_b);
    Odometer outer, inner;
    ODOMETER_EACH(outer, result->type) {
        const double *from_a = a->data + walk_offset(&outer, outer_a);
        const double *from_b = b->data + walk_offset(&outer, outer_b);
        double sum = 0;
        ODOMETER_EACH(inner, &summed)
        sum += from_a[walk_offset(&inner, inner_a)] * from_b[walk_offset(&inner, inner_b)];
        result->data[outer.position] = sum;
    }
}

const OpDefinition op_dot = {
    OP_ROW(dot),
    .shape = dot_shape,
    .evaluate = dot_evaluate,
    .along = along_except_over,
};
