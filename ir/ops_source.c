// Ops that make values from nothing: input, constant, index, random.
#include <math.h>

#include "ir/op_rules.h"

// ---- Shape ----

static bool input_shape(Shape *shape) {
    INTERNAL_ERROR("an input is added by graph_add_input, found one at line %u", shape->node->place.line);
}

static bool represents(Element element, double value) {
    if (element_is_float(element)) return true;
    if (!(floor(value) == value)) return false;  // fractions and NaN
    switch (element) {
    case ELEMENT_BOOL: return value == 0 || value == 1;
    case ELEMENT_I32: return value >= INT32_MIN && value <= INT32_MAX;
    default: return value >= -0x1p63 && value < 0x1p63;
    }
}

static bool constant_shape(Shape *shape) {
    if (!shape_begin(shape)) return false;
    const Attribute *value = shape_attribute(shape, ATTRIBUTE_value);
    const Attribute *element = shape_attribute(shape, ATTRIBUTE_element);
    if (!value || !element) return false;
    if (!represents((Element)element->integer, value->number))
        return shape_error(shape, "E0258", "%g is not a value of %s", value->number,
                           element_name((Element)element->integer));
    return shape_result(shape, (Element)element->integer, &(DimensionList){0});
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

// ---- Evaluation ----

static void input_evaluate(const Evaluation *evaluation) {
    INTERNAL_ERROR("input %s was given no value", attribute_text(evaluation->node, ATTRIBUTE_name));
}

static void constant_evaluate(const Evaluation *evaluation) {
    evaluation->results[0]->data[0] = attribute_number(evaluation->node, ATTRIBUTE_value, 0);
}

static void index_evaluate(const Evaluation *evaluation) {
    Tensor *result = evaluation->results[0];
    for (int64_t i = 0; i < type_count(result->type); i++) result->data[i] = (double)i;
}

// ---- Random numbers ----
// One formula over 32-bit integers, followed by the reference and by every back end, so that all give
// the same bits. Counter-based: a number depends on (seed, site, position) alone.

// Where the formula goes: evaluated at once, or added to a nest. Handles are ids of values.
typedef struct Lanes {
    void *context;
    uint32_t (*constant)(void *context, Element element, double number);
    uint32_t (*apply)(void *context, Primitive primitive, Element element, uint32_t a, uint32_t b);
} Lanes;

static uint32_t lane_constant(const Lanes *lanes, uint32_t bits) {
    return lanes->constant(lanes->context, ELEMENT_I32, (double)(int32_t)bits);
}

static uint32_t lane(const Lanes *lanes, Primitive primitive, uint32_t a, uint32_t b) {
    return lanes->apply(lanes->context, primitive, ELEMENT_I32, a, b);
}

static uint32_t xor_shift(const Lanes *lanes, uint32_t x, uint32_t distance) {
    return lane(lanes, PRIMITIVE_xor, x, lane(lanes, PRIMITIVE_shr, x, lane_constant(lanes, distance)));
}

// A bijection of 32 bits in which every bit of x flips half of the bits of the result (C. Wellons,
// "Prospecting for hash functions", lowbias32).
static uint32_t mix(const Lanes *lanes, uint32_t x) {
    x = xor_shift(lanes, x, 16);
    x = lane(lanes, PRIMITIVE_mul, x, lane_constant(lanes, 0x7feb352d));
    x = xor_shift(lanes, x, 15);
    x = lane(lanes, PRIMITIVE_mul, x, lane_constant(lanes, 0x846ca68b));
    return xor_shift(lanes, x, 16);
}

// The low and the high 32 bits of an i64.
static void halves(const Lanes *lanes, uint32_t x, uint32_t *low, uint32_t *high) {
    uint32_t distance = lanes->constant(lanes->context, ELEMENT_I64, 32);
    uint32_t shifted = lanes->apply(lanes->context, PRIMITIVE_shr, ELEMENT_I64, x, distance);
    *low = lane(lanes, PRIMITIVE_cast, x, FORMULA_NONE);
    *high = lane(lanes, PRIMITIVE_cast, shifted, FORMULA_NONE);
}

// FNV-1a, 64 bits.
static uint64_t site_hash(const char *site) {
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (; *site; site++) hash = (hash ^ (unsigned char)*site) * UINT64_C(0x100000001b3);
    return hash;
}

// Two rounds over the position, each with its own key of seed and site. The top 24 bits, times 2^-24.
// `position` is an i64 where `wide`, else an i32 that is not negative; both give the same number.
static uint32_t random_formula(const Lanes *lanes, uint32_t seed, const char *site, uint32_t position,
                               bool wide) {
    uint64_t hash = site_hash(site);
    uint32_t seed_low, seed_high, low = position, high = lane_constant(lanes, 0);
    halves(lanes, seed, &seed_low, &seed_high);
    if (wide) halves(lanes, position, &low, &high);
    uint32_t key1 = mix(lanes, lane(lanes, PRIMITIVE_xor, seed_low, lane_constant(lanes, (uint32_t)hash)));
    uint32_t key2 = lane(lanes, PRIMITIVE_xor, seed_high, lane_constant(lanes, (uint32_t)(hash >> 32)));
    key2 = mix(lanes, lane(lanes, PRIMITIVE_add, key1, key2));
    uint32_t x = mix(lanes, lane(lanes, PRIMITIVE_add, low, key1));
    x = mix(lanes, lane(lanes, PRIMITIVE_xor, x, lane(lanes, PRIMITIVE_add, high, key2)));
    x = lane(lanes, PRIMITIVE_shr, x, lane_constant(lanes, 8));
    x = lanes->apply(lanes->context, PRIMITIVE_cast, ELEMENT_F32, x, FORMULA_NONE);
    uint32_t scale = lanes->constant(lanes->context, ELEMENT_F32, 0x1p-24);
    return lanes->apply(lanes->context, PRIMITIVE_mul, ELEMENT_F32, x, scale);
}

typedef struct Scratch {
    double values[128];
    uint32_t count;
} Scratch;

static uint32_t scratch_push(Scratch *scratch, double value) {
    CHECK(scratch->count < sizeof scratch->values / sizeof scratch->values[0]);
    scratch->values[scratch->count] = value;
    return scratch->count++;
}

static uint32_t scratch_constant(void *context, Element element, double number) {
    (void)element;
    return scratch_push(context, number);
}

static uint32_t scratch_apply(void *context, Primitive primitive, Element element, uint32_t a, uint32_t b) {
    Scratch *scratch = context;
    double arguments[2] = {scratch->values[a], b == FORMULA_NONE ? 0 : scratch->values[b]};
    return scratch_push(scratch, primitive_evaluate(primitive, element, arguments));
}

static void random_evaluate(const Evaluation *evaluation) {
    Tensor *result = evaluation->results[0];
    const char *site =
        arena_format(evaluation->arena, "%s%s", attribute_text(evaluation->node, ATTRIBUTE_site), evaluation->site);
    // Positions are counted at capacity: the numbers do not depend on extents known at run time.
    int64_t strides[RANK_MAX];
    walk_strides(result->type, evaluation->node->types[0], NULL, strides);
    Odometer odometer;
    ODOMETER_EACH(odometer, result->type) {
        Scratch scratch = {.count = 0};
        Lanes lanes = {&scratch, scratch_constant, scratch_apply};
        uint32_t seed = scratch_push(&scratch, evaluation->operands[0]->data[0]);
        uint32_t position = scratch_push(&scratch, (double)walk_offset(&odometer, strides));
        uint32_t value = random_formula(&lanes, seed, site, position, true);
        result->data[odometer.position] = scratch.values[value];
    }
}

// ---- Lowering: constant and index are nests of one store, which `fuse` puts into their readers. ----

static bool constant_lower(Lowering *lowering) {
    const Type *type = lowering->node->types[0];
    NestBuilder builder = lower_nest(lowering, type);
    double number = attribute_number(lowering->node, ATTRIBUTE_value, 0);
    lower_store(&builder, lowering_result(lowering, 0),
                nest_builder_constant(&builder, type->element, number));
    return true;
}

static bool index_lower(Lowering *lowering) {
    const Type *type = lowering->node->types[0];
    NestBuilder builder = lower_nest(lowering, type);
    lower_store(&builder, lowering_result(lowering, 0),
                nest_builder_loop(&builder, type->dimensions[0].name));
    return true;
}

static uint32_t nest_lane_constant(void *context, Element element, double number) {
    return nest_builder_constant(context, element, number);
}

static uint32_t nest_lane_apply(void *context, Primitive primitive, Element element, uint32_t a, uint32_t b) {
    return nest_builder_primitive(context, primitive, element, a, b, FORMULA_NONE);
}

// The row-major index of the element, counted at capacity.
static uint32_t position_formula(NestBuilder *builder, const Type *type, bool wide) {
    Element element = wide ? ELEMENT_I64 : ELEMENT_I32;
    uint32_t position = nest_builder_constant(builder, element, 0);
    for (int i = 0; i < type->rank; i++) {
        const char *name = type->dimensions[i].name;
        uint32_t at = nest_builder_loop(builder, name);
        uint32_t stride = nest_builder_constant(builder, element, (double)walk_stride(type, name));
        if (wide)
            at = nest_builder_primitive(builder, PRIMITIVE_cast, element, at, FORMULA_NONE, FORMULA_NONE);
        at = nest_builder_primitive(builder, PRIMITIVE_mul, element, at, stride, FORMULA_NONE);
        position =
            i ? nest_builder_primitive(builder, PRIMITIVE_add, element, position, at, FORMULA_NONE) : at;
    }
    return position;
}

static bool random_lower(Lowering *lowering) {
    const Type *type = lowering->node->types[0];
    const View *result = lowering_result(lowering, 0);
    NestBuilder builder = lower_nest(lowering, type);
    Lanes lanes = {&builder, nest_lane_constant, nest_lane_apply};
    bool wide = type_count(type) > INT32_MAX;
    uint32_t seed = nest_builder_load(&builder, lower_operand(lowering, 0));
    uint32_t position = position_formula(&builder, type, wide);
    const char *site = attribute_text(lowering->node, ATTRIBUTE_site);
    lower_store(&builder, result, random_formula(&lanes, seed, site, position, wide));
    return true;
}

// ---- Along ----

// The value depends on the absolute position, which `incremental` has to supply.
static Along along_position(const Graph *graph, const Node *node, const char *name) {
    (void)graph;
    return type_find(node->types[0], name) >= 0 ? ALONG_STATE : ALONG_POINTWISE;
}

// ---- Definitions ----

static const char no_operands[] = "it has no operand that varies smoothly";

const OpDefinition op_input = {
    OP_ROW(input),
    .shape = input_shape,
    .no_gradient = no_operands,
    .evaluate = input_evaluate,
    .no_lowering = "the pass `lower` gives it a buffer",
    .along = along_pointwise,
};

const OpDefinition op_constant = {
    OP_ROW(constant),           .shape = constant_shape,
    .no_gradient = no_operands, .evaluate = constant_evaluate,
    .lower = constant_lower,    .along = along_pointwise,
};

const OpDefinition op_index = {
    OP_ROW(index),        .shape = index_shape,    .no_gradient = no_operands, .evaluate = index_evaluate,
    .lower = index_lower, .along = along_position,
};

const OpDefinition op_random = {
    OP_ROW(random),        .shape = random_shape,   .no_gradient = no_operands, .evaluate = random_evaluate,
    .lower = random_lower, .along = along_position,
};
