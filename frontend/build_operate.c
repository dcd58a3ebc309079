// Operators: constants are folded, a number beside a tensor takes the tensor's element type.
#include <math.h>

#include "frontend/build.h"
#include "ir/op.h"

// ---- Constants ----

// Constants are doubles; bits and remainders are those of whole numbers, logic is that of bools.
static Element fold_element(Op op) {
    switch (op) {
        case OP_and:
        case OP_or:
        case OP_xor:
        case OP_not:
            return ELEMENT_BOOL;
        case OP_rem:
        case OP_shl:
        case OP_shr:
            return ELEMENT_I64;
        default:
            return ELEMENT_F64;
    }
}

static bool gives_truth(Op op) {
    return op == OP_lt || op == OP_le || op == OP_eq || op == OP_ne || op == OP_and || op == OP_or ||
           op == OP_xor || op == OP_not;
}

static Thing fold(Context *context, Op op, const Thing *operands, uint32_t count, Place place) {
    double numbers[3] = {0};
    Element element = fold_element(op);
    for (uint32_t i = 0; i < count; i++) {
        if (!thing_to_number(context, operands[i], place, &numbers[i])) return THING_MISSING;
        if (element == ELEMENT_BOOL) numbers[i] = numbers[i] != 0;
        if (element == ELEMENT_I64 && (floor(numbers[i]) != numbers[i] || fabs(numbers[i]) > 0x1p53)) {
            REPORT(context, place, "E0215", "%s needs whole numbers, found %g", op_name(op), numbers[i]);
            return THING_MISSING;
        }
    }
    double result = primitive_evaluate(op_table[op]->primitive, element, numbers);
    if (!isfinite(result)) {
        REPORT(context, place, "E0224", "this constant is not a finite number");
        return THING_MISSING;
    }
    return gives_truth(op) ? truth_thing(result != 0) : number_thing(result);
}

// ---- Tensors ----

Thing tensor_or_unknown(Value value) { return value_is_none(value) ? THING_MISSING : tensor_thing(value); }

static Value constant_tensor(Context *context, double number, bool truth, Element element, Place place) {
    if (truth && element != ELEMENT_BOOL) {
        REPORT(context, place, "E0225", "true and false do not mix with %s", element_name(element));
        return VALUE_NONE;
    }
    if (element == ELEMENT_BOOL && !truth) {
        REPORT(context, place, "E0225", "the number %g does not mix with bool", number);
        HINT(context, "write cast(x, f32) or cast(x, i32) for the bool");
        return VALUE_NONE;
    }
    if (element_is_integer(element) && floor(number) != number) {
        REPORT(context, place, "E0225", "the number %g does not mix with integers", number);
        HINT(context, "write cast(x, f32) for the integers");
        return VALUE_NONE;
    }
    return build_constant(context->work->graph, element, number, context_place(context, place));
}

Value thing_to_tensor(Context *context, Thing thing, Element element, Place place) {
    if (thing.kind == THING_TENSOR) return thing.value;
    if (thing.kind == THING_UNKNOWN) return VALUE_NONE;
    if (!context->work) {
        REPORT(context, place, "E0226", "only constants can stand here");
        return VALUE_NONE;
    }
    double number;
    bool truth = thing.kind == THING_NUMBER && thing.truth;
    if (thing.kind == THING_NUMBER || (thing.kind == THING_NAME && thing.name)) {
        if (!thing_to_number(context, thing, place, &number)) return VALUE_NONE;
        return constant_tensor(context, number, truth, truth ? ELEMENT_BOOL : element, place);
    }
    REPORT(context, place, "E0210", "expected a tensor, found %s", thing_text(context, thing));
    return VALUE_NONE;
}

// The element type that constants take beside these operands.
static Element common_element(Context *context, Op op, const Thing *operands, uint32_t count) {
    for (uint32_t i = op == OP_select ? 1 : 0; i < count; i++)
        if (operands[i].kind == THING_TENSOR)
            return graph_type(context->work->graph, operands[i].value)->element;
    return ELEMENT_F32;
}

Thing operate_op(Context *context, Op op, const Thing *operands, uint32_t count, Place place) {
    bool constant = true;
    for (uint32_t i = 0; i < count; i++) {
        if (operands[i].kind == THING_UNKNOWN) return THING_MISSING;
        if (!thing_is_constant(operands[i])) constant = false;
    }
    if (constant) return fold(context, op, operands, count, place);
    Element element = common_element(context, op, operands, count);
    Value values[3];
    for (uint32_t i = 0; i < count; i++) {
        if (operands[i].kind == THING_TENSOR) {
            values[i] = operands[i].value;
        } else {
            double number;
            bool truth = operands[i].kind == THING_NUMBER && operands[i].truth;
            Element wanted = op == OP_select && i == 0 ? ELEMENT_BOOL : element;
            if (!thing_to_number(context, operands[i], place, &number)) return THING_MISSING;
            values[i] = constant_tensor(context, number, truth, wanted, place);
        }
        if (value_is_none(values[i])) return THING_MISSING;
    }
    return tensor_or_unknown(
        graph_add(context->work->graph, op, values, count, NULL, 0, context_place(context, place)));
}

// none == none, names of dimensions, element types: equal or not at this time.
static bool compare_things(Thing a, Thing b, bool *equal) {
    bool special_a =
        a.kind == THING_NONE || a.kind == THING_NAME || a.kind == THING_ELEMENT || a.kind == THING_TUPLE;
    bool special_b =
        b.kind == THING_NONE || b.kind == THING_NAME || b.kind == THING_ELEMENT || b.kind == THING_TUPLE;
    if (a.kind == THING_NONE || b.kind == THING_NONE) {
        *equal = a.kind == b.kind;
        return a.kind != THING_UNKNOWN && b.kind != THING_UNKNOWN;
    }
    if (!special_a || !special_b || a.kind == THING_TUPLE || b.kind == THING_TUPLE) return false;
    *equal = a.kind == b.kind && (a.kind == THING_NAME ? a.name == b.name : a.element == b.element);
    return true;
}

Thing operate_binary(Context *context, Operator operator, Thing a, Thing b, const Expression *expression) {
    static const Op ops[] = {
        [OPERATOR_ADD] = OP_add, [OPERATOR_SUB] = OP_sub, [OPERATOR_MUL] = OP_mul, [OPERATOR_DIV] = OP_div,
        [OPERATOR_EQ] = OP_eq,   [OPERATOR_NE] = OP_ne,   [OPERATOR_LT] = OP_lt,   [OPERATOR_LE] = OP_le,
        [OPERATOR_GT] = OP_lt,   [OPERATOR_GE] = OP_le};
    bool equal;
    // The user compares extents; only the prelude asks whether two names are the same.
    bool extents = a.kind == THING_NAME && b.kind == THING_NAME && !context->in_prelude;
    if ((operator== OPERATOR_EQ || operator== OPERATOR_NE) && !extents && compare_things(a, b, &equal))
        return truth_thing(equal == (operator== OPERATOR_EQ));
    bool swapped = operator== OPERATOR_GT || operator== OPERATOR_GE;
    Thing operands[2] = {swapped ? b : a, swapped ? a : b};
    return operate_op(context, ops[operator], operands, 2, expression->place);
}
