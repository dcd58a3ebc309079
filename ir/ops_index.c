// Indexing and accumulation: gather, scatter_add, scatter, accumulate.
// In gather and the scatters the dimension `along` of the table is replaced by the dimensions of the
// indices, so the indices may themselves have a dimension of that name (top_k's do).
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
    .along = along_except_along,
};

const OpDefinition op_scatter_add = {
    OP_ROW(scatter_add),
    .shape = scatter_shape,
    .along = scatter_along,
};

const OpDefinition op_scatter = {
    OP_ROW(scatter),
    .shape = scatter_shape,
    .along = scatter_along,
};

const OpDefinition op_accumulate = {
    OP_ROW(accumulate),
    .shape = accumulate_shape,
    .along = along_except_along,
};
