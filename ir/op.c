// The op table, and what the definitions of ops share: shape errors in names, along rules.
#include "ir/op.h"

#include <string.h>

#include "ir/op_rules.h"

const OpDefinition *const op_table[OP_COUNT] = {
#define OP(name, family, operands, results, doc) [OP_##name] = &op_##name,
#include "ir/ops.def"
#undef OP
};

// ---- Errors ----

static const char *operand_label(const Shape *shape, uint32_t operand) {
    switch (shape->op) {
    case OP_select: return (const char *[]){"condition", "value where true", "value where false"}[operand];
    case OP_gather: return operand == 0 ? "table" : "indices";
    case OP_scatter:
    case OP_scatter_add: return (const char *[]){"accumulator", "indices", "values"}[operand];
    case OP_accumulate: return operand == 0 ? "accumulator" : "value";
    default: break;
    }
    if (shape->operand_count == 1) return "operand";
    if (shape->operand_count == 2) return operand == 0 ? "left operand" : "right operand";
    return arena_format(shape->ir->arena, "operand %u", operand + 1);
}

bool shape_error(const Shape *shape, const char *code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const char *text = arena_format_list(shape->ir->arena, format, arguments);
    va_end(arguments);
    report_error(shape->ir->diagnostics, shape->node->place, code, "%s", text);
    bool few = shape->operand_count <= 4;  // a concat or a call of many would bury the message
    for (uint32_t i = 0; few && i < shape->operand_count; i++) {
        Place place = shape->operand_places ? shape->operand_places[i] : NO_PLACE;
        report_note(shape->ir->diagnostics, place, "%s: %s", operand_label(shape, i),
                    type_text(shape->ir, shape->operands[i]));
    }
    return false;
}

bool shape_begin(Shape *shape) {
    int expected = op_table[shape->op]->operands;
    shape->result_count = 0;
    if (expected < 0 || shape->operand_count == (uint32_t)expected) return true;
    return report_error(shape->ir->diagnostics, shape->node->place, "E0250",
                        "%s takes %d operand%s, found %u", op_name(shape->op), expected,
                        expected == 1 ? "" : "s", shape->operand_count);
}

const Attribute *shape_attribute(const Shape *shape, AttributeKey key) {
    const Attribute *attribute = attribute_find(shape->node, key);
    if (!attribute) shape_error(shape, "E0251", "%s needs `%s`", op_name(shape->op), attribute_name(key));
    return attribute;
}

static const char *dimension_text(Ir *ir, const Dimension *dimension) {
    if (!dimension->bound) return arena_format(ir->arena, "%lld", (long long)dimension->extent);
    return arena_format(ir->arena, "at most %lld, bounded by %s", (long long)dimension->extent,
                        dimension->bound);
}

static bool agree_pair(const Shape *shape, uint32_t first, uint32_t second, const char *except) {
    const Type *a = shape->operands[first], *b = shape->operands[second];
    for (int i = 0; i < a->rank; i++) {
        const Dimension *left = &a->dimensions[i];
        int j = left->name == except ? -1 : type_find(b, left->name);
        if (j < 0 || dimension_same(left, &b->dimensions[j])) continue;
        return shape_error(shape, "E0253", "%s: %s is %s in the %s and %s in the %s", op_name(shape->op),
                           left->name, dimension_text(shape->ir, left), operand_label(shape, first),
                           dimension_text(shape->ir, &b->dimensions[j]), operand_label(shape, second));
    }
    return true;
}

bool shape_agree(const Shape *shape, const char *except) {
    for (uint32_t i = 0; i < shape->operand_count; i++)
        for (uint32_t j = i + 1; j < shape->operand_count; j++)
            if (!agree_pair(shape, i, j, except)) return false;
    return true;
}

bool shape_same_elements(const Shape *shape, uint32_t first, uint32_t second) {
    Element a = shape->operands[first]->element, b = shape->operands[second]->element;
    if (a == b) return true;
    shape_error(shape, "E0254", "%s: the %s is %s, the %s is %s", op_name(shape->op),
                operand_label(shape, first), element_name(a), operand_label(shape, second), element_name(b));
    report_hint(shape->ir->diagnostics, "element types never change by themselves: write cast(x, %s)",
                element_name(element_is_float(b) && !element_is_float(a) ? b : a));
    return false;
}

bool shape_accepts_float(const Shape *shape, uint32_t operand) {
    Element element = shape->operands[operand]->element;
    if (element_is_float(element)) return true;
    return shape_error(shape, "E0255", "%s is not defined for %s: it needs a float", op_name(shape->op),
                       element_name(element));
}

int shape_find(const Shape *shape, uint32_t operand, const char *name) {
    int index = type_find(shape->operands[operand], name);
    if (index < 0)
        shape_error(shape, "E0256", "%s: the %s has no dimension %s", op_name(shape->op),
                    operand_label(shape, operand), name);
    return index;
}

int shape_find_static(const Shape *shape, uint32_t operand, const char *name) {
    int index = shape_find(shape, operand, name);
    if (index < 0) return -1;
    const Dimension *dimension = &shape->operands[operand]->dimensions[index];
    if (!dimension->bound) return index;
    shape_error(shape, "E0260",
                "%s: %s is bounded by %s and known only at run time, a static extent is needed",
                op_name(shape->op), name, dimension->bound);
    return -1;
}

bool shape_find_all(const Shape *shape, uint32_t operand, const Attribute *names) {
    for (uint32_t i = 0; i < names->count; i++) {
        if (shape_find(shape, operand, names->names[i]) < 0) return false;
        if (name_among(names->names[i], names->names, i))
            return shape_error(shape, "E0257", "%s: %s is given twice", op_name(shape->op), names->names[i]);
    }
    return true;
}

const char *shape_missing(Ir *ir, const Type *type, const Type *other) {
    const char *text = NULL, *last = NULL;
    for (int i = 0; i < type->rank; i++) {
        const char *name = type->dimensions[i].name;
        if (type_find(other, name) >= 0) continue;
        if (last) text = text ? arena_format(ir->arena, "%s, %s", text, last) : last;
        last = name;
    }
    return text ? arena_format(ir->arena, "%s and %s", text, last) : last;
}

// ---- Results ----

void dimensions_push(DimensionList *list, Dimension dimension) {
    if (list->count < RANK_MAX) list->items[list->count] = dimension;
    list->count++;
}

bool name_among(const char *name, const char *const *names, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (names[i] == name) return true;
    return false;
}

void dimensions_push_except(DimensionList *list, const Type *type, const char *const *names, uint32_t count) {
    for (int i = 0; i < type->rank; i++)
        if (!name_among(type->dimensions[i].name, names, count)) dimensions_push(list, type->dimensions[i]);
}

bool shape_result(Shape *shape, Element element, const DimensionList *dimensions) {
    const int64_t limit = INT64_C(1) << 47;  // what type_make accepts
    if (dimensions->count > RANK_MAX)
        return shape_error(shape, "E0259", "%s: the result would have %d dimensions, %d is the limit",
                           op_name(shape->op), dimensions->count, RANK_MAX);
    int64_t count = 1;
    for (int i = 0; i < dimensions->count; i++) {
        const Dimension *dimension = &dimensions->items[i];
        for (int j = 0; j < i; j++)
            if (dimensions->items[j].name == dimension->name)
                return shape_error(shape, "E0257", "%s: the result would have two dimensions %s",
                                   op_name(shape->op), dimension->name);
        if (dimension->extent < 1)
            return shape_error(shape, "E0258", "%s: %s would have extent %lld", op_name(shape->op),
                               dimension->name, (long long)dimension->extent);
        if (dimension->extent > (limit - 1) / count)
            return shape_error(shape, "E0259", "%s: the result would have 2^47 elements or more",
                               op_name(shape->op));
        count *= dimension->extent;
    }
    return shape_result_type(shape, type_make(shape->ir, element, dimensions->count, dimensions->items));
}

bool shape_result_type(Shape *shape, const Type *type) {
    if (shape->result_count >= shape->result_limit)
        return shape_error(shape, "E0261", "%s: more results than the %u that are expected",
                           op_name(shape->op), shape->result_limit);
    shape->results[shape->result_count++] = type;
    return true;
}

// ---- Attributes ----

Attribute attribute_of_integer(AttributeKey key, int64_t integer) {
    return (Attribute){.key = key, .integer = integer};
}

Attribute attribute_of_text(AttributeKey key, const char *text) {
    return (Attribute){.key = key, .text = text};
}

Attribute attribute_of_names(AttributeKey key, const char *const *names, uint32_t count) {
    return (Attribute){.key = key, .count = count, .names = names};
}

Attribute attribute_of_dimensions(AttributeKey key, const Dimension *dimensions, uint32_t count) {
    return (Attribute){.key = key, .count = count, .dimensions = dimensions};
}

// ---- Gradients ----

Value gradient_constant(const Gradient *gradient, Value like, double number) {
    if (value_is_none(like)) return like;
    Element element = graph_type(gradient->graph, like)->element;
    return build_constant(gradient->graph, element, number, gradient->node->place);
}

Value gradient_zeros(const Gradient *gradient, const Type *type) {
    Value zero = build_constant(gradient->graph, type->element, 0, gradient->node->place);
    return build_expand(gradient->graph, zero, type, gradient->node->place);
}

bool gradient_set(Gradient *gradient, uint32_t operand, Value value) {
    gradient->operand_cotangents[operand] = value;
    return !value_is_none(value);
}

bool gradient_none(Gradient *gradient) {
    for (uint32_t i = 0; i < gradient->node->operand_count; i++) gradient->operand_cotangents[i] = VALUE_NONE;
    return true;
}

bool gradient_pass(Gradient *gradient) {
    gradient_none(gradient);
    return gradient_set(gradient, 0, gradient->cotangents[0]);
}

// ---- Widening ----

void widening_spread(Widening *widening, uint32_t operand) {
    Graph *graph = widening->graph;
    const Type *type = graph_type(graph, widening->operands[operand]);
    DimensionList list = {0};
    for (int i = 0; i + 1 < type->rank; i++) dimensions_push(&list, type->dimensions[i]);
    for (int i = 0; i < widening->extra_count; i++)
        if (type_find(type, widening->extra[i].name) < 0) dimensions_push(&list, widening->extra[i]);
    if (type->rank) dimensions_push(&list, type->dimensions[type->rank - 1]);
    const Type *wide =
        list.count <= RANK_MAX ? type_make(graph->ir, type->element, list.count, list.items) : NULL;
    if (!wide) {
        report_error(graph->ir->diagnostics, widening->node->place, "E0293",
                     "%s would have too many dimensions or elements with %s", type_text(graph->ir, type),
                     type_dimension_text(graph->ir, &widening->extra[0]));
        widening->operands[operand] = VALUE_NONE;
        return;
    }
    widening->operands[operand] =
        build_expand(graph, widening->operands[operand], wide, widening->node->place);
}

void widening_spread_first(Widening *widening) { widening_spread(widening, 0); }

void widening_spread_all(Widening *widening) {
    for (uint32_t i = 0; i < widening->node->operand_count; i++) widening_spread(widening, i);
}

// ---- Lowering ----

NestBuilder lower_nest(Lowering *lowering, const Type *type) {
    NestBuilder builder = nest_builder(lowering, op_name(lowering->node->op));
    nest_builder_outer(&builder, type, NULL, 0);
    return builder;
}

void lower_store(NestBuilder *builder, const View *view, uint32_t formula) {
    nest_builder_store(builder, STAGE_STORE, view, formula, NULL, FORMULA_NONE);
    nest_builder_finish(builder);
}

View view_slice(Ir *ir, View view, const char *along, int64_t start, int64_t count) {
    int index = type_find(view.type, along);
    Type type = *view.type;
    type.dimensions[index].extent = count;
    view.offset += start * view.stride[index];
    view.type = type_make(ir, type.element, type.rank, type.dimensions);
    return view;
}

View view_pick(Ir *ir, View view, const char *along, int64_t at) {
    int index = type_find(view.type, along);
    Type type = *view.type;
    view.offset += at * view.stride[index];
    type.rank--;
    for (int i = index; i < type.rank; i++) {
        type.dimensions[i] = type.dimensions[i + 1];
        view.stride[i] = view.stride[i + 1];
    }
    view.stride[type.rank] = 0;
    view.type = type_make(ir, type.element, type.rank, type.dimensions);
    return view;
}

// ---- Along ----

Along along_pointwise(const Graph *graph, const Node *node, const char *name) {
    (void)graph, (void)node, (void)name;
    return ALONG_POINTWISE;
}

Along along_impossible(const Graph *graph, const Node *node, const char *name) {
    (void)graph, (void)node, (void)name;
    return ALONG_IMPOSSIBLE;
}

Along along_except_over(const Graph *graph, const Node *node, const char *name) {
    (void)graph;
    const Attribute *over = attribute_find(node, ATTRIBUTE_over);
    return over && name_among(name, over->names, over->count) ? ALONG_IMPOSSIBLE : ALONG_POINTWISE;
}

Along along_except_along(const Graph *graph, const Node *node, const char *name) {
    (void)graph;
    return attribute_text(node, ATTRIBUTE_along) == name ? ALONG_IMPOSSIBLE : ALONG_POINTWISE;
}
