// Indexing and accumulation: gather, scatter_add, scatter, accumulate.
// In gather and the scatters the dimension `along` of the table is replaced by the dimensions of the
// indices, so the indices may themselves have a dimension of that name (top_k's do).
#include <string.h>

#include "ir/op_rules.h"

// ---- Shape ----

// Checks table (operand 0) and indices (operand 1), and lists the dimensions of table[along: indices]:
// those of the indices, then those of the table that the indices lack.
static bool gathered_dimensions(Shape *shape, const char **along_name, DimensionList *list) {
    if (!shape_begin(shape)) return false;
    const Type *table = shape_type(shape, 0), *indices = shape_type(shape, 1);
    const Attribute *along = shape_attribute(shape, ATTRIBUTE_along);
    if (!along || shape_find(shape, 0, along->text) < 0) return false;
    *along_name = along->text;
    if (indices->element != ELEMENT_I32)
        return shape_error(shape, "E0254", "%s: indices are i32, found %s", op_name(shape->op),
                           element_name(indices->element));
    for (int i = 0; i < table->rank; i++) {
        int j = table->dimensions[i].name == along->text ? -1 : type_find(indices, table->dimensions[i].name);
        if (j < 0 || dimension_same(&table->dimensions[i], &indices->dimensions[j])) continue;
        return shape_error(shape, "E0253", "%s: %s has another extent in the indices", op_name(shape->op),
                           table->dimensions[i].name);
    }
    dimensions_push_except(list, indices, NULL, 0);
    for (int i = 0; i < table->rank; i++) {
        const char *name = table->dimensions[i].name;
        if (name != along->text && type_find(indices, name) < 0) dimensions_push(list, table->dimensions[i]);
    }
    return true;
}

static bool gather_shape(Shape *shape) {
    const char *along;
    DimensionList list = {0};
    return gathered_dimensions(shape, &along, &list) &&
           shape_result(shape, shape_type(shape, 0)->element, &list);
}

static bool scatter_shape(Shape *shape) {
    const char *along;
    DimensionList list = {0};
    if (!gathered_dimensions(shape, &along, &list) || !shape_same_elements(shape, 0, 2)) return false;
    const Type *values = shape_type(shape, 2);
    bool fits = values->rank == list.count;
    for (int i = 0; fits && i < list.count && i < RANK_MAX; i++) {
        int j = type_find(values, list.items[i].name);
        fits = j >= 0 && dimension_same(&values->dimensions[j], &list.items[i]);
    }
    if (!fits)
        return shape_error(
            shape, "E0252",
            "%s: the values must have the dimensions of the indices and those of the accumulator "
            "but %s",
            op_name(shape->op), along);
    return shape_result_type(shape, shape_type(shape, 0));
}

static bool accumulate_shape(Shape *shape) {
    if (!shape_begin(shape) || !shape_same_elements(shape, 0, 1) || !shape_agree(shape, NULL)) return false;
    const Type *acc = shape_type(shape, 0), *value = shape_type(shape, 1);
    if (acc->element == ELEMENT_BOOL)
        return shape_error(shape, "E0255", "accumulate is not defined for bool");
    const char *extra = shape_missing(shape->ir, value, acc);
    if (extra) return shape_error(shape, "E0252", "accumulate: the accumulator lacks %s", extra);
    const Attribute *along = attribute_find(shape->node, ATTRIBUTE_along);
    const Attribute *at = attribute_find(shape->node, ATTRIBUTE_at);
    if (!along != !at) return shape_error(shape, "E0251", "accumulate takes both along and at, or neither");
    if (along) {
        int index = shape_find_static(shape, 0, along->text);
        if (index < 0) return false;
        if (type_find(value, along->text) >= 0)
            return shape_error(shape, "E0252",
                               "accumulate at one index of %s: the value has that dimension too",
                               along->text);
        if (at->integer < 0 || at->integer >= acc->dimensions[index].extent)
            return shape_error(shape, "E0258", "accumulate at index %lld of %s = %lld",
                               (long long)at->integer, along->text, (long long)acc->dimensions[index].extent);
    }
    return shape_result_type(shape, acc);
}

// ---- Widening ----

static void scatter_widen(Widening *widening) {
    widening_spread(widening, 0);
    widening_spread(widening, 2);
}

// ---- Gradients ----

static Value gather_cotangent(const Gradient *gradient) {
    return build_gather(gradient->graph, gradient->cotangents[0], gradient_operand(gradient, 1),
                        attribute_text(gradient->node, ATTRIBUTE_along), gradient->node->place);
}

// An accumulation onto zeros: the pass turns it into one onto the gradient where the table is a parameter.
static bool gather_gradient(Gradient *gradient) {
    gradient->operand_cotangents[1] = VALUE_NONE;
    Value zeros = gradient_zeros(gradient, gradient_type(gradient, 0));
    return gradient_set(
        gradient, 0,
        build_scatter_add(gradient->graph, zeros, gradient_operand(gradient, 1), gradient->cotangents[0],
                          attribute_text(gradient->node, ATTRIBUTE_along), gradient->node->place));
}

static bool scatter_add_gradient(Gradient *gradient) {
    gradient->operand_cotangents[1] = VALUE_NONE;
    return gradient_set(gradient, 0, gradient->cotangents[0]) &&
           gradient_set(gradient, 2, gather_cotangent(gradient));
}

// The accumulator's cotangent is zero where values were written: scatter makes that mask out of ones.
static bool scatter_gradient(Gradient *gradient) {
    gradient->operand_cotangents[1] = VALUE_NONE;
    const Type *type = gradient_type(gradient, 0);
    Place place = gradient->node->place;
    Value one = gradient_constant(gradient, gradient->cotangents[0], 1);
    Value ones = build_expand(gradient->graph, one, type, place);
    Value zeros = gradient_zeros(gradient, gradient_type(gradient, 2));
    Value operands[3] = {ones, gradient_operand(gradient, 1), zeros};
    Value mask = graph_copy_node(gradient->graph, gradient->node, operands);
    return gradient_set(gradient, 0, gradient_binary(gradient, OP_mul, gradient->cotangents[0], mask)) &&
           gradient_set(gradient, 2, gather_cotangent(gradient));
}

static bool accumulate_gradient(Gradient *gradient) {
    Value d = gradient->cotangents[0];
    const char *along = attribute_text(gradient->node, ATTRIBUTE_along);
    int64_t at = attribute_integer(gradient->node, ATTRIBUTE_at, 0);
    Value part = along ? build_pick(gradient->graph, d, along, at, gradient->node->place) : d;
    return gradient_set(gradient, 0, d) && gradient_set(gradient, 1, part);
}

// ---- Evaluation ----

// The index that was read from `indices`; whoever fed it had to check it.
static int64_t checked_index(const Evaluation *evaluation, double index, const char *along) {
    const Type *table = evaluation->operands[0]->type;
    int64_t extent = table->dimensions[type_find(table, along)].extent;
    if (!(index >= 0 && index < (double)extent))
        INTERNAL_ERROR("%s: index %g of %s = %lld", op_name(evaluation->node->op), index, along,
                       (long long)extent);
    return (int64_t)index;
}

static void gather_evaluate(const Evaluation *evaluation) {
    const Tensor *table = evaluation->operands[0], *indices = evaluation->operands[1];
    Tensor *result = evaluation->results[0];
    const char *along = attribute_text(evaluation->node, ATTRIBUTE_along);
    int64_t table_strides[RANK_MAX], index_strides[RANK_MAX], step = walk_stride(table->type, along);
    walk_strides(result->type, table->type, along, table_strides);
    walk_strides(result->type, indices->type, NULL, index_strides);
    Odometer odometer;
    ODOMETER_EACH(odometer, result->type) {
        double index = indices->data[walk_offset(&odometer, index_strides)];
        int64_t offset = walk_offset(&odometer, table_strides);
        result->data[odometer.position] =
            table->data[offset + checked_index(evaluation, index, along) * step];
    }
}

static void copy_accumulator(const Evaluation *evaluation) {
    Tensor *result = evaluation->results[0];
    memcpy(result->data, evaluation->operands[0]->data, sizeof(double) * (size_t)type_count(result->type));
}

static void scatter_evaluate(const Evaluation *evaluation) {
    const Tensor *indices = evaluation->operands[1], *values = evaluation->operands[2];
    Tensor *result = evaluation->results[0];
    const char *along = attribute_text(evaluation->node, ATTRIBUTE_along);
    bool adds = evaluation->node->op == OP_scatter_add;
    copy_accumulator(evaluation);
    // Positions ascend in the order of the indices, whatever the memory order of the values.
    Type walk = *indices->type;
    for (int i = 0; i < values->type->rank; i++)
        if (type_find(indices->type, values->type->dimensions[i].name) < 0)
            walk.dimensions[walk.rank++] = values->type->dimensions[i];
    int64_t result_strides[RANK_MAX], index_strides[RANK_MAX], value_strides[RANK_MAX];
    int64_t step = walk_stride(result->type, along);
    walk_strides(&walk, result->type, along, result_strides);
    walk_strides(&walk, indices->type, NULL, index_strides);
    walk_strides(&walk, values->type, NULL, value_strides);
    Odometer odometer;
    ODOMETER_EACH(odometer, &walk) {
        double index = indices->data[walk_offset(&odometer, index_strides)];
        int64_t at = checked_index(evaluation, index, along);
        double value = values->data[walk_offset(&odometer, value_strides)];
        double *to = &result->data[walk_offset(&odometer, result_strides) + at * step];
        *to = adds ? *to + value : value;
    }
}

static void accumulate_evaluate(const Evaluation *evaluation) {
    const Tensor *value = evaluation->operands[1];
    Tensor *result = evaluation->results[0];
    const char *along = attribute_text(evaluation->node, ATTRIBUTE_along);
    int64_t at = attribute_integer(evaluation->node, ATTRIBUTE_at, 0);
    int index = along ? type_find(result->type, along) : -1;
    int64_t strides[RANK_MAX];
    walk_strides(result->type, value->type, NULL, strides);
    copy_accumulator(evaluation);
    Odometer odometer;
    ODOMETER_EACH(odometer, result->type)
    if (index < 0 || odometer.at[index] == at)
        result->data[odometer.position] += value->data[walk_offset(&odometer, strides)];
}

// ---- Lowering. The pass `lower` sees to it that accumulators may be changed in place. ----

static bool gather_lower(Lowering *lowering) {
    const char *along = attribute_text(lowering->node, ATTRIBUTE_along);
    NestBuilder builder = lower_nest(lowering, lowering->node->types[0]);
    uint32_t index = nest_builder_load(&builder, lower_operand(lowering, 1));
    uint32_t formula = nest_builder_load_at(&builder, lower_operand(lowering, 0), along, index);
    lower_store(&builder, lowering_result(lowering, 0), formula);
    return true;
}

// Loops in the order of the indices first: additions that meet come in ascending order of position.
static bool scatter_lower(Lowering *lowering) {
    const Node *node = lowering->node;
    const View *acc = lower_operand(lowering, 0), *indices = lower_operand(lowering, 1);
    const View *values = lower_operand(lowering, 2);
    NestBuilder builder = lower_nest(lowering, indices->type);
    nest_builder_outer(&builder, values->type, NULL, 0);  // those that the indices lack
    uint32_t index = nest_builder_load(&builder, indices);
    uint32_t formula = nest_builder_load(&builder, values);
    StageKind kind = node->op == OP_scatter_add ? STAGE_ADD : STAGE_STORE;
    nest_builder_store(&builder, kind, acc, formula, attribute_text(node, ATTRIBUTE_along), index);
    nest_builder_finish(&builder);
    lowering_set_view(lowering, 0, *acc);
    return true;
}

static bool accumulate_lower(Lowering *lowering) {
    const View *acc = lower_operand(lowering, 0);
    const char *along = attribute_text(lowering->node, ATTRIBUTE_along);
    int64_t at = attribute_integer(lowering->node, ATTRIBUTE_at, 0);
    View part = along ? view_pick(lowering->program->ir, *acc, along, at) : *acc;
    NestBuilder builder = nest_builder(lowering, lowering->stores ? "store" : op_name(lowering->node->op));
    nest_builder_outer(&builder, part.type, NULL, 0);
    uint32_t formula = nest_builder_load(&builder, lower_operand(lowering, 1));
    nest_builder_store(&builder, lowering->stores ? STAGE_STORE : STAGE_ADD, &part, formula, NULL, FORMULA_NONE);
    nest_builder_finish(&builder);
    lowering_set_view(lowering, 0, *acc);
    return true;
}

// ---- Along ----

// Every position of the result must come from its own position of the values: not where the indices
// run over `name` and the accumulator does not, for then all positions meet in it.
static Along scatter_along(const Graph *graph, const Node *node, const char *name) {
    if (attribute_text(node, ATTRIBUTE_along) == name) return ALONG_IMPOSSIBLE;
    const Type *acc = graph_type(graph, node->operands[0]), *indices = graph_type(graph, node->operands[1]);
    return type_find(indices, name) >= 0 && type_find(acc, name) < 0 ? ALONG_IMPOSSIBLE : ALONG_POINTWISE;
}

// ---- Definitions ----

const OpDefinition op_gather = {
    OP_ROW(gather),
    .shape = gather_shape,
    .gradient = gather_gradient,
    .evaluate = gather_evaluate,
    .lower = gather_lower,
    .along = along_except_along,
};

const OpDefinition op_scatter_add = {
    OP_ROW(scatter_add),
    .shape = scatter_shape,
    .gradient = scatter_add_gradient,
    .evaluate = scatter_evaluate,
    .lower = scatter_lower,
    .along = scatter_along,
    .widen = scatter_widen,
};

const OpDefinition op_scatter = {
    OP_ROW(scatter),
    .shape = scatter_shape,
    .gradient = scatter_gradient,
    .evaluate = scatter_evaluate,
    .lower = scatter_lower,
    .along = scatter_along,
    .widen = scatter_widen,
};

const OpDefinition op_accumulate = {
    OP_ROW(accumulate),
    .shape = accumulate_shape,
    .gradient = accumulate_gradient,
    .evaluate = accumulate_evaluate,
    .lower = accumulate_lower,
    .along = along_except_along,
    .widen = widening_spread_first,
};
