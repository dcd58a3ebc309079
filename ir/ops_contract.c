// Contraction: dot.
#include "ir/op_rules.h"

static bool dot_shape(Shape *shape) {
    if (!shape_begin(shape)) return false;
    const Type *a = shape_type(shape, 0), *b = shape_type(shape, 1);
    const Attribute *over = shape_attribute(shape, ATTRIBUTE_over);
    if (!over || !shape_same_elements(shape, 0, 1) || !shape_accepts_float(shape, 0)) return false;
    if (!shape_find_all(shape, 0, over) || !shape_find_all(shape, 1, over)) return false;
    if (!shape_agree(shape, NULL)) return false;
    DimensionList list = {0};
    dimensions_push_except(&list, a, over->names, over->count);
    for (int i = 0; i < b->rank; i++)
        if (type_find(a, b->dimensions[i].name) < 0) dimensions_push(&list, b->dimensions[i]);
    // Products of bf16 are summed in f32, and rounding the sum is for the model to say.
    return shape_result(shape, a->element == ELEMENT_BF16 ? ELEMENT_F32 : a->element, &list);
}

// The dimensions that are summed, in a's order.
static Type summed_type(const Type *a, const Attribute *over) {
    Type type = {.element = a->element};
    for (int i = 0; i < a->rank; i++)
        if (name_among(a->dimensions[i].name, over->names, over->count))
            type.dimensions[type.rank++] = a->dimensions[i];
    return type;
}

static void dot_evaluate(const Evaluation *evaluation) {
    const Tensor *a = evaluation->operands[0], *b = evaluation->operands[1];
    Tensor *result = evaluation->results[0];
    Type summed = summed_type(a->type, attribute_find(evaluation->node, ATTRIBUTE_over));
    int64_t outer_a[RANK_MAX], outer_b[RANK_MAX], inner_a[RANK_MAX], inner_b[RANK_MAX];
    walk_strides(result->type, a->type, NULL, outer_a);
    walk_strides(result->type, b->type, NULL, outer_b);
    walk_strides(&summed, a->type, NULL, inner_a);
    walk_strides(&summed, b->type, NULL, inner_b);
    Odometer outer, inner;
    ODOMETER_EACH(outer, result->type) {
        const double *from_a = a->data + walk_offset(&outer, outer_a);
        const double *from_b = b->data + walk_offset(&outer, outer_b);
        double sum = 0;
        ODOMETER_EACH(inner, &summed)
        sum += from_a[walk_offset(&inner, inner_a)] * from_b[walk_offset(&inner, inner_b)];
        result->data[outer.position] = sum;
    }
}

// The names of `type` that `other` lacks: free in a contraction of the two.
static uint32_t free_names(const Type *type, const Type *other, const char **names) {
    uint32_t count = 0;
    for (int i = 0; i < type->rank; i++)
        if (type_find(other, type->dimensions[i].name) < 0) names[count++] = type->dimensions[i].name;
    return count;
}

// da = dot(d, b, over the free names of b) has the names of a; db the same way. Operands stand in the
// order that gives the usual layouts: [batch, time, embed] for an activation, [embed, ffn] for a matrix.
static bool dot_gradient(Gradient *gradient) {
    Graph *graph = gradient->graph;
    Place place = gradient->node->place;
    Value a = gradient_operand(gradient, 0), b = gradient_operand(gradient, 1);
    const Type *type_a = graph_type(graph, a), *type_b = graph_type(graph, b);
    const char *free_a[RANK_MAX], *free_b[RANK_MAX];
    uint32_t count_a = free_names(type_a, type_b, free_a), count_b = free_names(type_b, type_a, free_b);
    Value d = build_cast(graph, gradient->cotangents[0], type_a->element, place);  // f32 for operands of bf16
    Value da = build_dot(graph, d, b, free_b, count_b, place);
    Value db = build_dot(graph, a, d, free_a, count_a, place);
    return gradient_set(gradient, 0, build_cast(graph, da, type_a->element, place)) &&
           gradient_set(gradient, 1, build_cast(graph, db, type_b->element, place));
}

// Outer loops: the dimensions of the result; inner ones: what is summed. Products of bf16 are made and
// summed in f32, which is how nest_contraction knows them. Over nothing it is an outer product.
static bool dot_lower(Lowering *lowering) {
    Element element = lowering->node->types[0]->element;
    const Attribute *over = attribute_find(lowering->node, ATTRIBUTE_over);
    const View *views[2] = {lower_operand(lowering, 0), lower_operand(lowering, 1)};
    NestBuilder builder = lower_nest(lowering, lowering->node->types[0]);
    Type summed = summed_type(views[0]->type, over);
    for (int i = 0; i < summed.rank; i++) nest_builder_inner(&builder, summed.dimensions[i]);
    uint32_t loads[2];
    for (int i = 0; i < 2; i++) {
        loads[i] = nest_builder_load(&builder, views[i]);
        if (views[i]->type->element != element)
            loads[i] = nest_builder_primitive(&builder, PRIMITIVE_cast, element, loads[i], FORMULA_NONE,
                                              FORMULA_NONE);
    }
    uint32_t formula =
        nest_builder_primitive(&builder, PRIMITIVE_mul, element, loads[0], loads[1], FORMULA_NONE);
    if (summed.rank)
        formula = nest_builder_stage_value(&builder, nest_builder_reduce(&builder, STAGE_SUM, formula));
    lower_store(&builder, lowering_result(lowering, 0), formula);
    return true;
}

const OpDefinition op_dot = {
    OP_ROW(dot),
    .shape = dot_shape,
    .gradient = dot_gradient,
    .evaluate = dot_evaluate,
    .lower = dot_lower,
    .along = along_except_over,
};
