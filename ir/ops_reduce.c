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

// ---- Gradients ----

// Equal maxima share the cotangent equally.
static bool max_over_gradient(Gradient *gradient) {
    Graph *graph = gradient->graph;
    Place place = gradient->node->place;
    const Attribute *over = attribute_find(gradient->node, ATTRIBUTE_over);
    Value d = gradient->cotangents[0], a = gradient_operand(gradient, 0);
    Value is_maximum = gradient_binary(gradient, OP_eq, a, gradient->self);
    Value ones = build_cast(graph, is_maximum, graph_type(graph, a)->element, place);
    Value count = build_reduce(graph, OP_sum, ones, over->names, over->count, place);
    Value share = gradient_binary(gradient, OP_div, d, count);
    return gradient_set(gradient, 0,
                        build_select(graph, is_maximum, share, gradient_constant(gradient, d, 0), place));
}

static bool top_k_gradient(Gradient *gradient) {
    if (value_is_none(gradient->cotangents[0])) return gradient_none(gradient);
    Value zeros = gradient_zeros(gradient, gradient_type(gradient, 0));
    Value indices = {gradient->self.node, 1};
    const char *along = attribute_text(gradient->node, ATTRIBUTE_along);
    return gradient_set(gradient, 0,
                        build_scatter_add(gradient->graph, zeros, indices, gradient->cotangents[0], along,
                                          gradient->node->place));
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

// ---- Lowering ----

// Outer loops: the dimensions that stay; inner ones: those that are reduced. A sum of bf16 is made in f32.
static bool reduce_lower(Lowering *lowering) {
    const Node *node = lowering->node;
    const Attribute *over = attribute_find(node, ATTRIBUTE_over);
    const View *operand = lower_operand(lowering, 0);
    Element element = operand->type->element;
    bool is_sum = node->op == OP_sum, widens = is_sum && element == ELEMENT_BF16;
    NestBuilder builder = lower_nest(lowering, node->types[0]);
    for (int i = 0; i < operand->type->rank; i++)
        if (name_among(operand->type->dimensions[i].name, over->names, over->count))
            nest_builder_inner(&builder, operand->type->dimensions[i]);
    uint32_t formula = nest_builder_load(&builder, operand);
    if (widens)
        formula = nest_builder_primitive(&builder, PRIMITIVE_cast, ELEMENT_F32, formula, FORMULA_NONE,
                                         FORMULA_NONE);
    if (over->count) {
        uint32_t stage = nest_builder_reduce(&builder, is_sum ? STAGE_SUM : STAGE_MAX, formula);
        formula = nest_builder_stage_value(&builder, stage);
    }
    if (widens)
        formula =
            nest_builder_primitive(&builder, PRIMITIVE_cast, element, formula, FORMULA_NONE, FORMULA_NONE);
    lower_store(&builder, lowering_result(lowering, 0), formula);
    return true;
}

// top_k: rank after rank, each by two reductions over `along`: the largest value that is not taken yet,
// and the smallest index that has it (as the largest of the negated indices). The last rank tells what is taken:
// what is larger, and of what is equal that which comes no later. A nest has room for six ranks; the next one reads
// the last of them from memory. Work grows with the count, so that a very large one asks for another algorithm.
enum { RANKS_PER_NEST = 6, RANK_LIMIT = 4096 };

typedef struct TopK {
    NestBuilder builder;
    const View *operand, *values, *indices;
    const char *along;
    Dimension dimension;
    uint32_t loop, value;  // formulas: the index along `along`, the operand there
    uint32_t taken;        // formula: is the index taken already? FORMULA_NONE: none is
} TopK;

static uint32_t top_k_apply(TopK *top, Primitive primitive, Element element, uint32_t a, uint32_t b,
                            uint32_t c) {
    return nest_builder_primitive(&top->builder, primitive, element, a, b, c);
}

// Taken is all up to the rank of this value and index.
static void top_k_take(TopK *top, uint32_t value, uint32_t index) {
    Element element = top->operand->type->element;
    uint32_t larger = top_k_apply(top, PRIMITIVE_lt, element, value, top->value, FORMULA_NONE);
    uint32_t equal = top_k_apply(top, PRIMITIVE_eq, element, top->value, value, FORMULA_NONE);
    uint32_t no_later = top_k_apply(top, PRIMITIVE_le, ELEMENT_I32, top->loop, index, FORMULA_NONE);
    equal = top_k_apply(top, PRIMITIVE_and, ELEMENT_BOOL, equal, no_later, FORMULA_NONE);
    top->taken = top_k_apply(top, PRIMITIVE_or, ELEMENT_BOOL, larger, equal, FORMULA_NONE);
}

// Returns the formulas of the value and the index of the next rank.
static void top_k_rank(TopK *top, uint32_t *value, uint32_t *index) {
    Element element = top->operand->type->element;
    uint32_t candidate = top->value, none = nest_builder_constant(&top->builder, ELEMENT_I32, INT32_MIN);
    if (top->taken != FORMULA_NONE) {
        uint32_t least = nest_builder_constant(&top->builder, element, max_identity(element));
        candidate = top_k_apply(top, PRIMITIVE_select, element, top->taken, least, candidate);
    }
    *value =
        nest_builder_stage_value(&top->builder, nest_builder_reduce(&top->builder, STAGE_MAX, candidate));
    uint32_t negated = top_k_apply(top, PRIMITIVE_neg, ELEMENT_I32, top->loop, FORMULA_NONE, FORMULA_NONE);
    uint32_t equal = top_k_apply(top, PRIMITIVE_eq, element, top->value, *value, FORMULA_NONE);
    negated = top_k_apply(top, PRIMITIVE_select, ELEMENT_I32, equal, negated, none);
    if (top->taken != FORMULA_NONE)  // values equal to the largest that are taken do not count
        negated = top_k_apply(top, PRIMITIVE_select, ELEMENT_I32, top->taken, none, negated);
    uint32_t largest =
        nest_builder_stage_value(&top->builder, nest_builder_reduce(&top->builder, STAGE_MAX, negated));
    *index = top_k_apply(top, PRIMITIVE_neg, ELEMENT_I32, largest, FORMULA_NONE, FORMULA_NONE);
    // Among NaNs nothing is equal; the index stays within the extent all the same.
    uint32_t zero = nest_builder_constant(&top->builder, ELEMENT_I32, 0);
    *index = top_k_apply(top, PRIMITIVE_max, ELEMENT_I32, *index, zero, FORMULA_NONE);
}

static void top_k_nest(Lowering *lowering, TopK *top, int64_t first, int64_t end) {
    Ir *ir = lowering->program->ir;
    uint32_t value[RANKS_PER_NEST], index[RANKS_PER_NEST];
    top->builder = nest_builder(lowering, "top_k");
    nest_builder_outer(&top->builder, top->values->type, &top->along, 1);
    nest_builder_inner(&top->builder, top->dimension);
    top->loop = nest_builder_loop(&top->builder, top->along);
    top->value = nest_builder_load(&top->builder, top->operand);
    top->taken = FORMULA_NONE;
    if (first) {
        View last_value = view_pick(ir, *top->values, top->along, first - 1),
             last_index = view_pick(ir, *top->indices, top->along, first - 1);
        top_k_take(top, nest_builder_load(&top->builder, &last_value), nest_builder_load(&top->builder, &last_index));
    }
    for (int64_t k = first; k < end; k++) {
        top_k_rank(top, &value[k - first], &index[k - first]);
        if (k + 1 < end) top_k_take(top, value[k - first], index[k - first]);
    }
    for (int64_t k = first; k < end; k++) {
        View values = view_pick(ir, *top->values, top->along, k),
             indices = view_pick(ir, *top->indices, top->along, k);
        nest_builder_store(&top->builder, STAGE_STORE, &values, value[k - first], NULL, FORMULA_NONE);
        nest_builder_store(&top->builder, STAGE_STORE, &indices, index[k - first], NULL, FORMULA_NONE);
    }
    nest_builder_finish(&top->builder);
}

static bool top_k_lower(Lowering *lowering) {
    const Type *type = lowering_view(lowering, lowering->node->operands[0])->type;
    int64_t count = attribute_integer(lowering->node, ATTRIBUTE_count, 0);
    TopK top = {.operand = lower_operand(lowering, 0),
                .along = attribute_text(lowering->node, ATTRIBUTE_along)};
    if (count > RANK_LIMIT)
        return report_error(lowering->program->ir->diagnostics, lowering->node->place, "E0263",
                            "top_k of %lld values: at most %d can be compiled", (long long)count, RANK_LIMIT);
    top.values = lowering_result(lowering, 0);
    top.indices = lowering_result(lowering, 1);
    top.dimension = type->dimensions[type_find(type, top.along)];
    for (int64_t k = 0; k < count; k += RANKS_PER_NEST)
        top_k_nest(lowering, &top, k, k + RANKS_PER_NEST < count ? k + RANKS_PER_NEST : count);
    return true;
}

// ---- Definitions ----

const OpDefinition op_sum = {
    OP_ROW(sum),           .shape = reduce_shape,      .gradient = gradient_pass, .evaluate = reduce_evaluate,
    .lower = reduce_lower, .along = along_except_over,
};

const OpDefinition op_max_over = {
    OP_ROW(max_over),
    .shape = reduce_shape,
    .gradient = max_over_gradient,
    .evaluate = reduce_evaluate,
    .lower = reduce_lower,
    .along = along_except_over,
};

const OpDefinition op_top_k = {
    OP_ROW(top_k),        .shape = top_k_shape,        .gradient = top_k_gradient, .evaluate = top_k_evaluate,
    .lower = top_k_lower, .along = along_except_along,
};
