// Functions that the language offers besides the prelude: their table, their arguments, and those that
// compute. build_intrinsic_shape.c has those that arrange.
#include <math.h>
#include <string.h>

#include "frontend/build.h"
#include "ir/op.h"

static const Intrinsic intrinsics[] = {
#define INTRINSIC(name, least, most, labels, doc) {#name, least, most, labels, intrinsic_##name, doc},
#include "frontend/intrinsics.def"
#undef INTRINSIC
};
enum { INTRINSIC_COUNT = sizeof intrinsics / sizeof *intrinsics };

// Elementwise ops are called by their own names.
static bool elementwise_find(const char *name, Op *op) {
    for (int i = 0; i < OP_COUNT; i++)
        if (strcmp(op_table[i]->family, "elementwise") == 0 && strcmp(op_table[i]->name, name) == 0) {
            *op = (Op)i;
            return true;
        }
    return false;
}

static Thing elementwise_run(Context *context, const Call *call);

const Intrinsic *intrinsic_find(const char *name) {
    static const Intrinsic elementwise[] = {
        {NULL, 1, 1, "", elementwise_run, NULL},
        {NULL, 2, 2, "", elementwise_run, NULL},
        {NULL, 3, 3, "", elementwise_run, NULL},
    };
    for (int i = 0; i < INTRINSIC_COUNT; i++)
        if (strcmp(intrinsics[i].name, name) == 0) return &intrinsics[i];
    Op op;
    return elementwise_find(name, &op) ? &elementwise[op_table[op]->operands - 1] : NULL;
}

void intrinsic_gather_names(Builder *builder, NameList *names) {
    for (int i = 0; i < INTRINSIC_COUNT; i++) vector_push(builder->ir->arena, names, intrinsics[i].name);
    for (int i = 0; i < OP_COUNT; i++)
        if (strcmp(op_table[i]->family, "elementwise") == 0)
            vector_push(builder->ir->arena, names, op_table[i]->name);
}

// ---- Arguments ----

const Argument *call_argument(const Call *call, int index) {
    const Arguments *arguments = &call->expression->arguments;
    for (size_t i = 0; i < arguments->count; i++)
        if (!arguments->items[i].label && index-- == 0) return &arguments->items[i];
    return NULL;
}

const Argument *call_option(const Call *call, const char *label) {
    const Arguments *arguments = &call->expression->arguments;
    for (size_t i = 0; i < arguments->count; i++) {
        const Expression *written = arguments->items[i].label;
        if (written && written->kind == EXPRESSION_NAME && strcmp(written->name, label) == 0)
            return &arguments->items[i];
    }
    return NULL;
}

Value call_tensor(Context *context, const Call *call, int index) {
    const Argument *argument = call_argument(call, index);
    return thing_to_tensor(context, evaluate(context, argument->value), ELEMENT_F32, argument->place);
}

// The names given by an option. `all` may be NULL where `all` makes no sense; a missing option is all.
bool call_names(Context *context, const Call *call, const char *label, NameList *names, bool *all) {
    const Argument *argument = call_option(call, label);
    if (argument) return evaluate_names(context, argument->value, names, all);
    if (all) return *all = true;
    return REPORT(context, call->place, "E0227", "%s needs `%s = ...`", call->expression->a->name, label);
}

const char *call_name(Context *context, const Call *call, const char *label) {
    NameList names = {0};
    if (!call_names(context, call, label, &names, NULL)) return NULL;
    if (names.count == 1) return names.items[0];
    REPORT(context, call_option(call, label)->place, "E0217", "`%s` is one dimension, found %zu", label,
           names.count);
    return NULL;
}

bool check_has_names(Context *context, Value value, const NameList *names, Place place) {
    const Type *type = graph_type(context->work->graph, value);
    for (size_t i = 0; i < names->count; i++) {
        if (type_find(type, names->items[i]) >= 0) continue;
        REPORT(context, place, "E0203", "no dimension '%s' in %s", names->items[i],
               type_text(context->builder->ir, type));
        NameList candidates = {0};
        for (int j = 0; j < type->rank; j++)
            vector_push(context->builder->ir->arena, &candidates, type->dimensions[j].name);
        report_suggestion(context, names->items[i], &candidates);
        NOTE(context, graph_node(context->work->graph, value.node)->place, "the value: %s",
             type_text(context->builder->ir, type));
        return false;
    }
    return true;
}

static bool knows_label(const char *labels, const char *label) {
    size_t length = strlen(label);
    for (const char *at = labels; *at; at += strcspn(at, " "), at += strspn(at, " "))
        if (strcspn(at, " ") == length && strncmp(at, label, length) == 0) return true;
    return false;
}

static bool check_label(Context *context, const Intrinsic *intrinsic, const Expression *expression,
                        const Argument *argument) {
    const Expression *label = argument->label;
    if (argument->sign != '=')
        return REPORT(context, argument->place, "E0228", "an option is written name = value");
    if (strcmp(intrinsic->labels, "*") == 0) return true;
    if (label->kind == EXPRESSION_NAME && knows_label(intrinsic->labels, label->name)) return true;
    const char *name = label->kind == EXPRESSION_NAME ? label->name : "(...)";
    REPORT(context, argument->place, "E0229", "%s has no option '%s'", expression->a->name, name);
    if (*intrinsic->labels) HINT(context, "it knows: %s", intrinsic->labels);
    return false;
}

Thing intrinsic_call(Context *context, const Intrinsic *intrinsic, const Expression *expression) {
    int positional = 0;
    for (size_t i = 0; i < expression->arguments.count; i++) {
        if (!expression->arguments.items[i].label)
            positional++;
        else if (!check_label(context, intrinsic, expression, &expression->arguments.items[i]))
            return THING_MISSING;
    }
    if (positional < intrinsic->least || (intrinsic->most >= 0 && positional > intrinsic->most)) {
        REPORT(context, expression->place, "E0230", "%s takes %d%s argument%s, found %d", expression->a->name,
               intrinsic->least,
               intrinsic->most < 0 ? " or more"
               : intrinsic->most != intrinsic->least
                   ? arena_format(context->builder->ir->arena, " or %d", intrinsic->most)
                   : "",
               intrinsic->least == 1 && intrinsic->most == 1 ? "" : "s", positional);
        if (positional > intrinsic->least && *intrinsic->labels && strcmp(intrinsic->labels, "*") != 0)
            HINT(context, "what follows is written name = value: %s", intrinsic->labels);
        return THING_MISSING;
    }
    Call call = {expression, context_place(context, expression->place)};
    return intrinsic->run(context, &call);
}

// ---- Computing ----

static Thing elementwise_run(Context *context, const Call *call) {
    Op op;
    if (!elementwise_find(call->expression->a->name, &op)) return THING_MISSING;
    Thing operands[3];
    uint32_t count = (uint32_t)call->expression->arguments.count;
    for (uint32_t i = 0; i < count; i++)
        operands[i] = evaluate(context, call->expression->arguments.items[i].value);
    return operate_op(context, op, operands, count, call->expression->place);
}

Thing intrinsic_select(Context *context, const Call *call) { return elementwise_run(context, call); }

Thing intrinsic_cast(Context *context, const Call *call) {
    Value value = call_tensor(context, call, 0);
    Thing element = evaluate(context, call_argument(call, 1)->value);
    if (value_is_none(value) || element.kind == THING_UNKNOWN) return THING_MISSING;
    if (element.kind != THING_ELEMENT) {
        REPORT(context, call_argument(call, 1)->place, "E0209", "expected an element type, found %s",
               thing_text(context, element));
        return THING_MISSING;
    }
    return tensor_or_unknown(build_cast(context->work->graph, value, element.element, call->place));
}

Thing intrinsic_stop_gradient(Context *context, const Call *call) {
    Value value = call_tensor(context, call, 0);
    if (value_is_none(value)) return THING_MISSING;
    return tensor_or_unknown(build_unary(context->work->graph, OP_stop_gradient, value, call->place));
}

Thing intrinsic_dot(Context *context, const Call *call) {
    Value a = call_tensor(context, call, 0), b = call_tensor(context, call, 1);
    NameList over = {0};
    if (!call_names(context, call, "over", &over, NULL) || value_is_none(a) || value_is_none(b))
        return THING_MISSING;
    Place place = call_option(call, "over")->place;
    if (!check_has_names(context, a, &over, place) || !check_has_names(context, b, &over, place))
        return THING_MISSING;
    return tensor_or_unknown(
        build_dot(context->work->graph, a, b, over.items, (uint32_t)over.count, call->place));
}

// a repeated along what only b has, times b.
Thing intrinsic_outer(Context *context, const Call *call) {
    Value a = call_tensor(context, call, 0), b = call_tensor(context, call, 1);
    if (value_is_none(a) || value_is_none(b)) return THING_MISSING;
    Graph *graph = context->work->graph;
    const Type *type_a = graph_type(graph, a), *type_b = graph_type(graph, b);
    Dimension dimensions[2 * RANK_MAX];
    int rank = 0;
    for (int i = 0; i < type_a->rank; i++) dimensions[rank++] = type_a->dimensions[i];
    for (int i = 0; i < type_b->rank; i++)
        if (type_find(type_a, type_b->dimensions[i].name) < 0) dimensions[rank++] = type_b->dimensions[i];
    const Type *type = type_checked(context, call->place, type_a->element, rank, dimensions);
    if (!type) return THING_MISSING;
    a = build_expand(graph, a, type, call->place);
    if (value_is_none(a)) return THING_MISSING;
    return tensor_or_unknown(build_binary(graph, OP_mul, a, b, call->place));
}

static Thing reduce(Context *context, const Call *call, Op op, Value value) {
    NameList over = {0};
    bool all = false;
    if (!call_names(context, call, "over", &over, &all) || value_is_none(value)) return THING_MISSING;
    const Type *type = graph_type(context->work->graph, value);
    if (all)
        for (int i = 0; i < type->rank; i++)
            vector_push(context->builder->ir->arena, &over, type->dimensions[i].name);
    else if (!check_has_names(context, value, &over, call_option(call, "over")->place))
        return THING_MISSING;
    if (over.count == 0) return tensor_thing(value);
    return tensor_or_unknown(
        build_reduce(context->work->graph, op, value, over.items, (uint32_t)over.count, call->place));
}

Thing intrinsic_sum(Context *context, const Call *call) {
    return reduce(context, call, OP_sum, call_tensor(context, call, 0));
}

// Whether `other` is written as the name of a dimension of `thing`: the largest along it is meant, not that of each
// element and the extent.
static bool names_dimension(const Context *context, Thing thing, const Expression *other) {
    return thing.kind == THING_TENSOR && other->kind == EXPRESSION_NAME && !scope_find(context->scope, other->name) &&
           type_find(graph_type(context->work->graph, thing.value), other->name) >= 0;
}

static Thing extreme(Context *context, const Call *call, Op op) {
    const Argument *other = call_argument(call, 1);
    if (!other) return reduce(context, call, OP_max_over, call_tensor(context, call, 0));
    Thing operands[2] = {evaluate(context, call_argument(call, 0)->value), evaluate(context, other->value)};
    if (names_dimension(context, operands[0], other->value)) {
        report_unnamed(context, "over", other);
        return THING_MISSING;
    }
    return operate_op(context, op, operands, 2, call->expression->place);
}

Thing intrinsic_max(Context *context, const Call *call) { return extreme(context, call, OP_max); }

// The smallest along dimensions is minus the largest of the negated values.
Thing intrinsic_min(Context *context, const Call *call) {
    if (call_argument(call, 1)) return extreme(context, call, OP_min);
    Value value = call_tensor(context, call, 0);
    if (value_is_none(value)) return THING_MISSING;
    Graph *graph = context->work->graph;
    Thing largest = reduce(context, call, OP_max_over, build_unary(graph, OP_neg, value, call->place));
    if (largest.kind != THING_TENSOR) return THING_MISSING;
    return tensor_or_unknown(build_unary(graph, OP_neg, largest.value, call->place));
}

static bool call_integer(Context *context, const Call *call, const char *label, int64_t *number) {
    const Argument *argument = call_option(call, label);
    if (argument) return evaluate_integer(context, argument->value, label, number);
    return REPORT(context, call->place, "E0227", "%s needs `%s = ...`", call->expression->a->name, label);
}

Thing intrinsic_top_k(Context *context, const Call *call) {
    Value value = call_tensor(context, call, 0);
    const char *along = call_name(context, call, "along");
    int64_t count;
    if (!along || !call_integer(context, call, "count", &count) || value_is_none(value)) return THING_MISSING;
    Attribute attributes[] = {{.key = ATTRIBUTE_along, .text = along},
                              {.key = ATTRIBUTE_count, .integer = count}};
    Value best = graph_add(context->work->graph, OP_top_k, &value, 1, attributes, 2, call->place);
    if (value_is_none(best)) return THING_MISSING;
    Thing results[2] = {tensor_thing(best), tensor_thing((Value){best.node, 1})};
    return tuple_thing(context->builder, 2, results, NULL);
}

// The extent needs a name that no other in this graph has; the same mask has the same one.
static const char *compact_name(const Graph *graph, Value mask, const char *along) {
    int others = 0;
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        const char *name = graph_bound(graph->ir, node);
        if (!name) continue;
        if (value_same(node->operands[0], mask) && strcmp(attribute_text(node, ATTRIBUTE_along), along) == 0)
            return name;
        others++;
    }
    return others ? names_format(graph->ir->names, "%s_%d", along, others + 1) : along;
}

Thing intrinsic_compact(Context *context, const Call *call) {
    Value mask = call_tensor(context, call, 0);
    const char *along = call_name(context, call, "along");
    if (!along || value_is_none(mask)) return THING_MISSING;
    Graph *graph = context->work->graph;
    Attribute attributes[] = {{.key = ATTRIBUTE_along, .text = along},
                              {.key = ATTRIBUTE_name, .text = compact_name(graph, mask, along)}};
    Value indices = graph_add(graph, OP_compact, &mask, 1, attributes, 2, call->place);
    if (value_is_none(indices)) return THING_MISSING;
    Thing results[2] = {tensor_thing(indices), tensor_thing((Value){indices.node, 1})};
    return tuple_thing(context->builder, 2, results, NULL);
}

Thing intrinsic_gather(Context *context, const Call *call) {
    Value table = call_tensor(context, call, 0), indices = call_tensor(context, call, 1);
    const char *along = call_name(context, call, "along");
    if (!along || value_is_none(table) || value_is_none(indices)) return THING_MISSING;
    return tensor_or_unknown(build_gather(context->work->graph, table, indices, along, call->place));
}

// ---- Accumulating ----
// These ops take over the storage of their first operand. In the language nothing is ever taken over: they
// start from zeros of their own, and what the user calls `acc` is added.

static Value zeros_like(Context *context, Value value, Place place) {
    const Type *type = graph_type(context->work->graph, value);
    return build_expand(context->work->graph, build_constant(context->work->graph, type->element, 0, place),
                        type, place);
}

static bool scatter_operands(Context *context, const Call *call, Value *operands) {
    for (int i = 0; i < 3; i++) operands[i] = call_tensor(context, call, i);
    for (int i = 0; i < 3; i++)
        if (value_is_none(operands[i])) return false;
    return true;
}

Thing intrinsic_scatter_add(Context *context, const Call *call) {
    Value operands[3];
    const char *along = call_name(context, call, "along");
    if (!scatter_operands(context, call, operands) || !along) return THING_MISSING;
    Graph *graph = context->work->graph;
    Value sums = build_scatter_add(graph, zeros_like(context, operands[0], call->place), operands[1],
                                   operands[2], along, call->place);
    if (value_is_none(sums)) return THING_MISSING;
    return tensor_or_unknown(build_binary(graph, OP_add, operands[0], sums, call->place));
}

static Value scatter_into_zeros(Context *context, Value like, Value indices, Value values, const char *along,
                                Place place) {
    Attribute attribute = {.key = ATTRIBUTE_along, .text = along};
    Value operands[3] = {zeros_like(context, like, place), indices, values};
    return graph_add(context->work->graph, OP_scatter, operands, 3, &attribute, 1, place);
}

// acc where nothing was written, the values elsewhere.
Thing intrinsic_scatter(Context *context, const Call *call) {
    Value operands[3];
    const char *along = call_name(context, call, "along");
    if (!scatter_operands(context, call, operands) || !along) return THING_MISSING;
    Graph *graph = context->work->graph;
    Place place = call->place;
    Value values = scatter_into_zeros(context, operands[0], operands[1], operands[2], along, place);
    if (value_is_none(values)) return THING_MISSING;
    const Type *type = graph_type(graph, operands[2]);
    Value ones = build_expand(graph, build_constant(graph, type->element, 1, place), type, place);
    Value marks = scatter_into_zeros(context, operands[0], operands[1], ones, along, place);
    if (value_is_none(marks)) return THING_MISSING;
    Value zero = build_constant(graph, graph_type(graph, marks)->element, 0, place);
    Value written = build_binary(graph, OP_ne, marks, zero, place);
    return tensor_or_unknown(build_select(graph, written, values, operands[0], place));
}

Thing intrinsic_accumulate(Context *context, const Call *call) {
    Value acc = call_tensor(context, call, 0), value = call_tensor(context, call, 1);
    if (value_is_none(acc) || value_is_none(value)) return THING_MISSING;
    Graph *graph = context->work->graph;
    Value zeros = zeros_like(context, acc, call->place), sum;
    if (!call_option(call, "along") && !call_option(call, "at")) {
        sum = build_accumulate(graph, zeros, value, call->place);
    } else {
        int64_t at;
        const char *along = call_name(context, call, "along");
        if (!along || !call_integer(context, call, "at", &at)) return THING_MISSING;
        sum = build_accumulate_at(graph, zeros, value, along, at, call->place);
    }
    if (value_is_none(sum)) return THING_MISSING;
    return tensor_or_unknown(build_binary(graph, OP_add, acc, sum, call->place));
}

Thing intrinsic_pow(Context *context, const Call *call) {
    double base, exponent;
    Expression *first = call_argument(call, 0)->value;
    Thing of = evaluate(context, first);
    if (!thing_to_number(context, of, first->place, &base)) {
        if (of.kind == THING_TENSOR) HINT(context, "pow is of constants: write x * x, or exp(y * log(x))");
        return THING_MISSING;
    }
    if (!evaluate_number(context, call_argument(call, 1)->value, &exponent)) return THING_MISSING;
    double result = pow(base, exponent);
    if (isfinite(result)) return number_thing(result);
    REPORT(context, call->place, "E0224", "this constant is not a finite number");
    return THING_MISSING;
}

// Only the branch taken of an `if` is looked at, so reading this is the error.
Thing intrinsic_fail(Context *context, const Call *call) {
    Arena *arena = context->builder->ir->arena;
    const char *text = "";
    for (int i = 0; call_argument(call, i); i++) {
        Thing thing = evaluate(context, call_argument(call, i)->value);
        if (thing.kind == THING_UNKNOWN) return THING_MISSING;
        const char *part = thing.kind == THING_TEXT     ? thing.name
                           : thing.kind == THING_NUMBER ? arena_format(arena, "%.9g", thing.number)
                                                        : thing_text(context, thing);
        text = arena_format(arena, "%s%s", text, part);
    }
    REPORT(context, call->place, "E0267", "%s", text);
    return THING_MISSING;
}
