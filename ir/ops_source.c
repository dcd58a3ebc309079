// Ops that make values from nothing: input, constant, index, random.
#include <math.h>

#include "ir/op_rules.h"

static bool input_shape(Shape *shape) {
    INTERNAL_ERROR("an input is added by graph_add_input, found one at line %u", shape->node->place.line);
}

static bool constant_shape(Shape *shape) {
    if (!shape_begin(shape)) return false;
    const Attribute *value = shape_attribute(shape, ATTRIBUTE_value);
    const Attribute *element = shape_attribute(shape, ATTRIBUTE_element);
    if (!value || !element) return false;
    Element kind = (Element)element->integer;
    bool whole = floor(value->number) == value->number && isfinite(value->number);
    bool fits = element_is_float(kind) ||
                (whole && (kind != ELEMENT_BOOL || value->number == 0 || value->number == 1));
    if (!fits)
        return shape_error(shape, "E0258", "%g is not a value of %s", value->number, element_name(kind));
    return shape_result(shape, kind, &(DimensionList){0});
}

static bool dimensions_attribute(Shape *shape, DimensionList *list) {
    const Attribute *dimensions = shape_attribute(shape, ATTRIBUTE_dimensions);
    if (!dimensions) return false;
    for (uint32_t i = 0; i < dimensions->count; i++) dimensions_push(list, dimensions->dimensions[i]);
    return true;
}

static bool index_shape(Shape *shape) {
    DimensionList list = {0};
    if (!shape_begin(shape) || !dimensions_attribute(shape, &list)) return false;
    if (list.count != 1)
        return shape_error(shape, "E0251", "index works along one dimension, found %d", list.count);
    return shape_result(shape, ELEMENT_I32, &list);
}

static bool random_shape(Shape *shape) {
    DimensionList list = {0};
    if (!shape_begin(shape) || !dimensions_attribute(shape, &list)) return false;
    if (!shape_attribute(shape, ATTRIBUTE_site)) return false;
    const Type *seed = shape_type(shape, 0);
    if (seed->element != ELEMENT_I64 || seed->rank != 0)
        return shape_error(shape, "E0254", "random: the seed is i64[], found %s", type_text(shape->ir, seed));
    return shape_result(shape, ELEMENT_F32, &list);
}

// The value depends on the absolute position, which `incremental` has to supply.
static Along along_position(const Graph *graph, const Node *node, const char *name) {
    (void)graph;
    return type_find(node->types[0], name) >= 0 ? ALONG_STATE : ALONG_POINTWISE;
}

static const char no_operands[] = "it has no operand that varies smoothly";

const OpDefinition op_input = {
    OP_ROW(input),
    .shape = input_shape,
    .no_gradient = no_operands,
    .along = along_pointwise,
};

const OpDefinition op_constant = {
    OP_ROW(constant),
    .shape = constant_shape,
    .no_gradient = no_operands,
    .along = along_pointwise,
};

const OpDefinition op_index = {
    OP_ROW(index),
    .shape = index_shape,
    .no_gradient = no_operands,
    .along = along_position,
};

const OpDefinition op_random = {
    OP_ROW(random),
    .shape = random_shape,
    .no_gradient = no_operands,
    .along = along_position,
};
