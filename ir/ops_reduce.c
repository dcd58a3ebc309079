// Reductions: sum, max_over, top_k.
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

const OpDefinition op_sum = {
    OP_ROW(sum),
    .shape = reduce_shape,
    .along = along_except_over,
};

const OpDefinition op_max_over = {
    OP_ROW(max_over),
    .shape = reduce_shape,
    .along = along_except_over,
};

const OpDefinition op_top_k = {
    OP_ROW(top_k),
    .shape = top_k_shape,
    .along = along_except_along,
};
