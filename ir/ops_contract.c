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

const OpDefinition op_dot = {
    OP_ROW(dot),
    .shape = dot_shape,
    .along = along_except_over,
};
