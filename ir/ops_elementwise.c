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
    report_hint(shape->ir->diagnostics, "%s",
                shape->op == OP_mul ? "for every pair of elements, write outer(a, b)"
                                    : "for every pair of elements, write broadcast(a, like = x) for one of them, of an "
                                      "x with the names of both");
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

// The operand that had all names gets all that the others got, unless one still has all.
static void elementwise_widen(Widening *widening) {
    uint32_t count = widening->node->operand_count;
    const Type *after[3];
    for (uint32_t i = 0; i < count; i++) after[i] = graph_type(widening->graph, widening->operands[i]);
    Shape shape = {.operands = after, .operand_count = count};
    if (container(&shape)) return;
    shape.operands = widening->before;
    const Type *all = container(&shape);
    for (uint32_t i = 0; i < count; i++)
        if (widening->before[i] == all) {
            widening_spread(widening, i);
            return;
        }
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

// ---- Gradients: `d` is the cotangent of the result, y the result, a and b the operands. ----

static bool add_gradient(Gradient *gradient) {
    Value d = gradient->cotangents[0];
    return gradient_set(gradient, 0, d) && gradient_set(gradient, 1, d);
}

static bool sub_gradient(Gradient *gradient) {
    Value d = gradient->cotangents[0];
    return gradient_set(gradient, 0, d) && gradient_set(gradient, 1, gradient_unary(gradient, OP_neg, d));
}

static bool mul_gradient(Gradient *gradient) {
    Value d = gradient->cotangents[0], a = gradient_operand(gradient, 0), b = gradient_operand(gradient, 1);
    return gradient_set(gradient, 0, gradient_binary(gradient, OP_mul, d, b)) &&
           gradient_set(gradient, 1, gradient_binary(gradient, OP_mul, d, a));
}

// d/b, and -d y/b, which stays finite where a/b^2 would not.
static bool div_gradient(Gradient *gradient) {
    Value d = gradient->cotangents[0], b = gradient_operand(gradient, 1);
    Value da = gradient_binary(gradient, OP_div, d, b);
    Value db = gradient_unary(gradient, OP_neg, gradient_binary(gradient, OP_mul, da, gradient->self));
    return gradient_set(gradient, 0, da) && gradient_set(gradient, 1, db);
}

// The cotangent where `condition` holds goes to operand `first`, elsewhere to the one after it.
static bool split_by(Gradient *gradient, Value condition, uint32_t first) {
    Value d = gradient->cotangents[0], zero = gradient_constant(gradient, d, 0);
    Place place = gradient->node->place;
    return gradient_set(gradient, first, build_select(gradient->graph, condition, d, zero, place)) &&
           gradient_set(gradient, first + 1, build_select(gradient->graph, condition, zero, d, place));
}

static bool max_gradient(Gradient *gradient) {
    Value a = gradient_operand(gradient, 0), b = gradient_operand(gradient, 1);
    return split_by(gradient, gradient_binary(gradient, OP_le, b, a), 0);
}

static bool min_gradient(Gradient *gradient) {
    Value a = gradient_operand(gradient, 0), b = gradient_operand(gradient, 1);
    return split_by(gradient, gradient_binary(gradient, OP_le, a, b), 0);
}

static bool select_gradient(Gradient *gradient) {
    gradient->operand_cotangents[0] = VALUE_NONE;
    return split_by(gradient, gradient_operand(gradient, 0), 1);
}

static bool neg_gradient(Gradient *gradient) {
    return gradient_set(gradient, 0, gradient_unary(gradient, OP_neg, gradient->cotangents[0]));
}

// d sign(a), and 0 at 0.
static bool abs_gradient(Gradient *gradient) {
    Value d = gradient->cotangents[0], a = gradient_operand(gradient, 0);
    Value zero = gradient_constant(gradient, d, 0), minus = gradient_unary(gradient, OP_neg, d);
    Value below = gradient_binary(gradient, OP_lt, a, zero),
          above = gradient_binary(gradient, OP_lt, zero, a);
    Place place = gradient->node->place;
    Value rest = build_select(gradient->graph, above, d, zero, place);
    return gradient_set(gradient, 0, build_select(gradient->graph, below, minus, rest, place));
}

// d f'(a) where the factor is a formula over a or y.
static bool set_product(Gradient *gradient, Value factor) {
    return gradient_set(gradient, 0, gradient_binary(gradient, OP_mul, gradient->cotangents[0], factor));
}

static bool exp_gradient(Gradient *gradient) { return set_product(gradient, gradient->self); }

static bool log_gradient(Gradient *gradient) {
    Value a = gradient_operand(gradient, 0);
    return gradient_set(gradient, 0, gradient_binary(gradient, OP_div, gradient->cotangents[0], a));
}

static bool sin_gradient(Gradient *gradient) {
    return set_product(gradient, gradient_unary(gradient, OP_cos, gradient_operand(gradient, 0)));
}

static bool cos_gradient(Gradient *gradient) {
    Value sine = gradient_unary(gradient, OP_sin, gradient_operand(gradient, 0));
    return set_product(gradient, gradient_unary(gradient, OP_neg, sine));
}

// 1 - y^2
static bool tanh_gradient(Gradient *gradient) {
    Value y = gradient->self, one = gradient_constant(gradient, y, 1);
    return set_product(gradient,
                       gradient_binary(gradient, OP_sub, one, gradient_binary(gradient, OP_mul, y, y)));
}

// 2 / sqrt(pi) exp(-a^2)
static bool erf_gradient(Gradient *gradient) {
    Value a = gradient_operand(gradient, 0);
    Value square = gradient_unary(gradient, OP_neg, gradient_binary(gradient, OP_mul, a, a));
    Value factor = gradient_constant(gradient, a, 1.1283791670955126);
    return set_product(gradient,
                       gradient_binary(gradient, OP_mul, gradient_unary(gradient, OP_exp, square), factor));
}

// 1 / (2 y)
static bool sqrt_gradient(Gradient *gradient) {
    Value half = gradient_constant(gradient, gradient->self, 0.5);
    return set_product(gradient, gradient_binary(gradient, OP_div, half, gradient->self));
}

// -y^3 / 2
static bool rsqrt_gradient(Gradient *gradient) {
    Value y = gradient->self, half = gradient_constant(gradient, y, -0.5);
    Value cube = gradient_binary(gradient, OP_mul, y, gradient_binary(gradient, OP_mul, y, y));
    return set_product(gradient, gradient_binary(gradient, OP_mul, cube, half));
}

static bool cast_gradient(Gradient *gradient) {
    Element element = gradient_type(gradient, 0)->element;
    if (!element_is_float(element)) return gradient_none(gradient);
    return gradient_set(gradient, 0,
                        build_cast(gradient->graph, gradient->cotangents[0], element, gradient->node->place));
}

// ---- Lowering: one nest over the dimensions of the result, which stores the primitive. ----

static bool elementwise_lower(Lowering *lowering) {
    const Node *node = lowering->node;
    NestBuilder builder = lower_nest(lowering, node->types[0]);
    uint32_t arguments[3] = {FORMULA_NONE, FORMULA_NONE, FORMULA_NONE};
    for (uint32_t i = 0; i < node->operand_count; i++)
        arguments[i] = nest_builder_load(&builder, lower_operand(lowering, i));
    bool shifts = node->op == OP_shl || node->op == OP_shr;
    if (shifts && lower_operand(lowering, 1)->type->element != node->types[0]->element)
        arguments[1] = nest_builder_primitive(&builder, PRIMITIVE_cast, node->types[0]->element, arguments[1],
                                              FORMULA_NONE, FORMULA_NONE);
    uint32_t formula =
        nest_builder_primitive(&builder, op_table[node->op]->primitive, node->types[0]->element, arguments[0],
                               arguments[1], arguments[2]);
    lower_store(&builder, lowering_result(lowering, 0), formula);
    return true;
}

// ---- Definitions ----

static const char is_bool[] = "its result is a bool";
static const char is_integer[] = "integers and bools do not vary smoothly";

#define ELEMENTWISE(op, ...)                                        \
    const OpDefinition op_##op = {OP_ROW(op),                       \
                                  .primitive = PRIMITIVE_##op,      \
                                  .shape = elementwise_shape,       \
                                  .evaluate = elementwise_evaluate, \
                                  .lower = elementwise_lower,       \
                                  .along = along_pointwise,         \
                                  .widen = elementwise_widen,       \
                                  __VA_ARGS__};

ELEMENTWISE(add, .gradient = add_gradient)
ELEMENTWISE(sub, .gradient = sub_gradient)
ELEMENTWISE(mul, .gradient = mul_gradient)
ELEMENTWISE(div, .gradient = div_gradient)
ELEMENTWISE(rem, .no_gradient = is_integer)
ELEMENTWISE(max, .gradient = max_gradient)
ELEMENTWISE(min, .gradient = min_gradient)
ELEMENTWISE(neg, .gradient = neg_gradient)
ELEMENTWISE(abs, .gradient = abs_gradient)
ELEMENTWISE(floor, .gradient = gradient_none)
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
ELEMENTWISE(select, .gradient = select_gradient)
ELEMENTWISE(exp, .gradient = exp_gradient)
ELEMENTWISE(log, .gradient = log_gradient)
ELEMENTWISE(sin, .gradient = sin_gradient)
ELEMENTWISE(cos, .gradient = cos_gradient)
ELEMENTWISE(tanh, .gradient = tanh_gradient)
ELEMENTWISE(erf, .gradient = erf_gradient)
ELEMENTWISE(sqrt, .gradient = sqrt_gradient)
ELEMENTWISE(rsqrt, .gradient = rsqrt_gradient)
ELEMENTWISE(cast, .gradient = cast_gradient)
