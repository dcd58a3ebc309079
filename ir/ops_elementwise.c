// Elementwise ops: one per scalar primitive. They share shape, evaluation, lowering and behaviour along
// a dimension; each has its own gradient.
#include <string.h>

#include "ir/op_rules.h"

// ---- Shape: one operand's names contain the others', and the result has its dimensions. ----

static const char *verb(Op op) {
    switch (op) {
    case OP_sub: return "subtract";
    case OP_mul: return "multiply";
    case OP_div: return "divide";
    case OP_lt:
    case OP_le:
    case OP_eq:
    case OP_ne: return "compare";
    case OP_add:
    case OP_select: return op_name(op);
    default: return "combine";
    }
}

static bool names_contain(const Type *type, const Type *part) {
    for (int i = 0; i < part->rank; i++)
        if (type_find(type, part->dimensions[i].name) < 0) return false;
    return true;
}

// The first operand whose names contain those of all operands, or NULL.
static const Type *container(const Shape *shape) {
    for (uint32_t i = 0; i < shape->operand_count; i++) {
        bool all = true;
        for (uint32_t j = 0; j < shape->operand_count; j++)
            all = all && names_contain(shape->operands[i], shape->operands[j]);
        if (all) return shape->operands[i];
    }
    return NULL;
}

// Two names, one on each side, that look like one dimension under two names: `rename` would help.
static void hint_rename(const Shape *shape, const Type *left, const Type *right) {
    const Dimension *only_left = NULL, *only_right = NULL;
    for (int i = 0; i < left->rank; i++)
        if (type_find(right, left->dimensions[i].name) < 0) only_left = &left->dimensions[i];
    for (int i = 0; i < right->rank; i++)
        if (type_find(left, right->dimensions[i].name) < 0) only_right = &right->dimensions[i];
    if (only_left && only_right && only_left->extent == only_right->extent)
        report_hint(shape->ir->diagnostics, "if %s and %s are one dimension, write rename(..., %s = %s)",
                    only_left->name, only_right->name, only_right->name, only_left->name);
    report_hint(shape->ir->diagnostics, "for every pair of elements, write outer(a, b)");
}

static bool report_names(Shape *shape) {
    Ir *ir = shape->ir;
    if (shape->operand_count != 2)
        return shape_error(shape, "E0252", "cannot select: no operand's names contain those of the others");
    const Type *left = shape_type(shape, 0), *right = shape_type(shape, 1);
    bool many = strstr(shape_missing(ir, left, right), " and ") != NULL;
    shape_error(
        shape, "E0252",
        "cannot %s %s and %s: neither operand's names contain the other's: %s %s missing on the right, "
        "%s on the left",
        verb(shape->op), type_text(ir, left), type_text(ir, right), shape_missing(ir, left, right),
        many ? "are" : "is", shape_missing(ir, right, left));
    hint_rename(shape, left, right);
    return false;
}

// Which operand's element decides, and whether all elements fit together.
static bool elements_fit(Shape *shape) {
    switch (shape->op) {
    case OP_select:
        if (shape_type(shape, 0)->element != ELEMENT_BOOL)
            return shape_error(shape, "E0254", "select: the condition is a bool, found %s",
                               element_name(shape_type(shape, 0)->element));
        return shape_same_elements(shape, 1, 2);
    case OP_shl:
    case OP_shr:
        if (element_is_integer(shape_type(shape, 1)->element)) return true;
        return shape_error(shape, "E0254", "%s: the distance is an integer, found %s", op_name(shape->op),
                           element_name(shape_type(shape, 1)->element));
    default: return shape->operand_count < 2 || shape_same_elements(shape, 0, 1);
    }
}

static bool elementwise_shape(Shape *shape) {
    if (!shape_begin(shape)) return false;
    const OpDefinition *definition = op_table[shape->op];
    Element element = shape_type(shape, shape->op == OP_select ? 1 : 0)->element;
    if (!elements_fit(shape)) return false;
    if (!primitive_accepts(definition->primitive, element))
        return shape_error(shape, "E0255", "%s is not defined for %s", op_name(shape->op),
                           element_name(element));
    const Type *type = container(shape);
    if (!type) return report_names(shape);
    if (!shape_agree(shape, NULL)) return false;
    if (primitive_is_comparison(definition->primitive)) element = ELEMENT_BOOL;
    if (shape->op == OP_cast) {
        const Attribute *to = shape_attribute(shape, ATTRIBUTE_element);
        if (!to) return false;
        element = (Element)to->integer;
    }
    return shape_result_type(shape, type_with_element(shape->ir, type, element));
}

// ---- Evaluation ----

static void elementwise_evaluate(const Evaluation *evaluation) {
    const OpDefinition *definition = op_table[evaluation->node->op];
    Tensor *result = evaluation->results[0];
    uint32_t count = evaluation->node->operand_count;
    int64_t strides[3][RANK_MAX];
    for (uint32_t i = 0; i < count; i++)
        walk_strides(result->type, evaluation->operands[i]->type, NULL, strides[i]);
    Element element = evaluation->operands[count - 1]->type->element;
    if (evaluation->node->op == OP_cast) element = result->type->element;
    if (evaluation->node->op == OP_shl || evaluation->node->op == OP_shr) element = result->type->element;
    Odometer odometer;
    ODOMETER_EACH(odometer, result->type) {
        double arguments[3];
        for (uint32_t i = 0; i < count; i++)
            arguments[i] = evaluation->operands[i]->data[walk_offset(&odometer, strides[i])];
        result->data[odometer.position] = primitive_evaluate(definition->primitive, element, arguments);
    }
}

// ---- Definitions ----

static const char is_bool[] = "its result is a bool";
static const char is_integer[] = "integers and bools do not vary smoothly";

#define ELEMENTWISE(op, ...)                                        \
    const OpDefinition op_##op = {OP_ROW(op),                       \
                                  .primitive = PRIMITIVE_##op,      \
                                  .shape = elementwise_shape,       \
                                  .evaluate = elementwise_evaluate, \
                                  .along = along_pointwise,         \
                                  __VA_ARGS__};

ELEMENTWISE(add, .gradient = NULL)
ELEMENTWISE(sub, .gradient = NULL)
ELEMENTWISE(mul, .gradient = NULL)
ELEMENTWISE(div, .gradient = NULL)
ELEMENTWISE(rem, .no_gradient = is_integer)
ELEMENTWISE(max, .gradient = NULL)
ELEMENTWISE(min, .gradient = NULL)
ELEMENTWISE(neg, .gradient = NULL)
ELEMENTWISE(abs, .gradient = NULL)
ELEMENTWISE(floor, .gradient = NULL)
ELEMENTWISE(lt, .no_gradient = is_bool)
ELEMENTWISE(le, .no_gradient = is_bool)
ELEMENTWISE(eq, .no_gradient = is_bool)
ELEMENTWISE(ne, .no_gradient = is_bool)
ELEMENTWISE(and, .no_gradient = is_integer)
ELEMENTWISE(or, .no_gradient = is_integer)
ELEMENTWISE(xor, .no_gradient = is_integer)
ELEMENTWISE(not, .no_gradient = is_integer)
ELEMENTWISE(shl, .no_gradient = is_integer)
ELEMENTWISE(shr, .no_gradient = is_integer)
ELEMENTWISE(select, .gradient = NULL)
ELEMENTWISE(exp, .gradient = NULL)
ELEMENTWISE(log, .gradient = NULL)
ELEMENTWISE(sin, .gradient = NULL)
ELEMENTWISE(cos, .gradient = NULL)
ELEMENTWISE(tanh, .gradient = NULL)
ELEMENTWISE(erf, .gradient = NULL)
ELEMENTWISE(sqrt, .gradient = NULL)
ELEMENTWISE(rsqrt, .gradient = NULL)
ELEMENTWISE(cast, .gradient = NULL)
