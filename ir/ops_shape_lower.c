// Lowering of shape ops: views where strides can say it, copies into a new buffer elsewhere.
#include "ir/op_rules.h"
#include "ir/ops_shape.h"

// ---- Views ----

bool rename_lower(Lowering *lowering) {
    View view = *lower_operand(lowering, 0);
    view.type = lowering->node->types[0];
    lowering_set_view(lowering, 0, view);
    return true;
}

// The last part keeps the stride of the whole; the parts before it step over the later ones.
static View split_view(const View *whole, const Type *type, const char *along, int parts) {
    View view = {.buffer = whole->buffer, .offset = whole->offset, .type = type};
    int index = type_find(whole->type, along);
    for (int i = 0; i < index; i++) view.stride[i] = whole->stride[i];
    int64_t stride = whole->stride[index];
    for (int i = index + parts - 1; i >= index; stride *= type->dimensions[i].extent, i--)
        view.stride[i] = stride;
    for (int i = index + 1; i < whole->type->rank; i++) view.stride[i + parts - 1] = whole->stride[i];
    return view;
}

bool split_lower(Lowering *lowering) {
    const Node *node = lowering->node;
    int parts = (int)attribute_find(node, ATTRIBUTE_into)->count;
    const char *along = attribute_text(node, ATTRIBUTE_along);
    lowering_set_view(lowering, 0, split_view(lower_operand(lowering, 0), node->types[0], along, parts));
    return true;
}

// Can the parts be walked with one stride? Parts of extent 1 do not matter.
static bool merged_stride(const View *view, const Attribute *from, int64_t *stride) {
    int64_t expected = 0;
    bool any = false;
    *stride = 0;
    for (uint32_t i = from->count; i-- > 0;) {
        int index = type_find(view->type, from->names[i]);
        int64_t extent = view->type->dimensions[index].extent;
        if (extent == 1) continue;
        if (any && view->stride[index] != expected) return false;
        if (!any) *stride = view->stride[index];
        any = true;
        expected = view->stride[index] * extent;
    }
    return true;
}

// A copy: the result, seen through the dimensions of the operand, is written in the result's order.
static bool merge_copy(Lowering *lowering, const Attribute *from, const char *along) {
    const View *operand = lower_operand(lowering, 0), *result = lowering_result(lowering, 0);
    const Type *type = result->type;
    int index = type_find(type, along);
    Type split = {.element = type->element};
    for (int i = 0; i < type->rank; i++) {
        if (i != index) split.dimensions[split.rank++] = type->dimensions[i];
        for (uint32_t j = 0; i == index && j < from->count; j++)
            split.dimensions[split.rank++] =
                operand->type->dimensions[type_find(operand->type, from->names[j])];
    }
    const Type *parts = type_make(lowering->program->ir, split.element, split.rank, split.dimensions);
    View view = split_view(result, parts, along, (int)from->count);
    NestBuilder builder = lower_nest(lowering, parts);
    lower_store(&builder, &view, nest_builder_load(&builder, operand));
    return true;
}

bool merge_lower(Lowering *lowering) {
    const View *operand = lower_operand(lowering, 0);
    const Attribute *from = attribute_find(lowering->node, ATTRIBUTE_from);
    const char *along = attribute_text(lowering->node, ATTRIBUTE_along);
    View view = {.buffer = operand->buffer, .offset = operand->offset, .type = lowering->node->types[0]};
    int64_t merged;
    if (!merged_stride(operand, from, &merged)) return merge_copy(lowering, from, along);
    for (int i = 0; i < view.type->rank; i++) {
        int index = view.type->dimensions[i].name == along
                        ? -1
                        : type_find(operand->type, view.type->dimensions[i].name);
        view.stride[i] = index < 0 ? merged : operand->stride[index];
    }
    lowering_set_view(lowering, 0, view);
    return true;
}

// transpose, broadcast: strides by name; a dimension that the operand lacks does not move it.
bool by_name_lower(Lowering *lowering) {
    const View *operand = lower_operand(lowering, 0);
    View view = {.buffer = operand->buffer, .offset = operand->offset, .type = lowering->node->types[0]};
    for (int i = 0; i < view.type->rank; i++) {
        int index = type_find(operand->type, view.type->dimensions[i].name);
        view.stride[i] = index < 0 ? 0 : operand->stride[index];
    }
    lowering_set_view(lowering, 0, view);
    return true;
}

bool slice_lower(Lowering *lowering) {
    const Node *node = lowering->node;
    lowering_set_view(
        lowering, 0,
        view_slice(lowering->program->ir, *lower_operand(lowering, 0), attribute_text(node, ATTRIBUTE_along),
                   attribute_integer(node, ATTRIBUTE_start, 0), attribute_integer(node, ATTRIBUTE_count, 0)));
    return true;
}

bool pick_lower(Lowering *lowering) {
    const Node *node = lowering->node;
    lowering_set_view(
        lowering, 0,
        view_pick(lowering->program->ir, *lower_operand(lowering, 0), attribute_text(node, ATTRIBUTE_along),
                  attribute_integer(node, ATTRIBUTE_at, 0)));
    return true;
}

bool reverse_lower(Lowering *lowering) {
    View view = *lower_operand(lowering, 0);
    int index = type_find(view.type, attribute_text(lowering->node, ATTRIBUTE_along));
    view.offset += (view.type->dimensions[index].extent - 1) * view.stride[index];
    view.stride[index] = -view.stride[index];
    lowering_set_view(lowering, 0, view);
    return true;
}

// ---- Copies into parts of a new buffer ----

static void store_copy(Lowering *lowering, const View *from, const View *to) {
    NestBuilder builder = lower_nest(lowering, to->type);
    lower_store(&builder, to, nest_builder_load(&builder, from));
}

// Zeros in [start, end) of `along`.
static void store_zeros(Lowering *lowering, const View *whole, const char *along, int64_t start,
                        int64_t end) {
    if (start >= end) return;
    View part = view_slice(lowering->program->ir, *whole, along, start, end - start);
    NestBuilder builder = lower_nest(lowering, part.type);
    lower_store(&builder, &part, nest_builder_constant(&builder, part.type->element, 0));
}

bool concat_lower(Lowering *lowering) {
    const View result = *lowering_result(lowering, 0);
    const char *along = attribute_text(lowering->node, ATTRIBUTE_along);
    int64_t start = 0;
    for (uint32_t i = 0; i < lowering->node->operand_count; i++) {
        const View *operand = lower_operand(lowering, i);
        int64_t count = operand->type->dimensions[type_find(operand->type, along)].extent;
        View part = view_slice(lowering->program->ir, result, along, start, count);
        store_copy(lowering, operand, &part);
        start += count;
    }
    return true;
}

bool pad_lower(Lowering *lowering) {
    const View result = *lowering_result(lowering, 0), *operand = lower_operand(lowering, 0);
    const char *along = attribute_text(lowering->node, ATTRIBUTE_along);
    int64_t start = attribute_integer(lowering->node, ATTRIBUTE_start, 0);
    int64_t count = operand->type->dimensions[type_find(operand->type, along)].extent;
    View part = view_slice(lowering->program->ir, result, along, start, count);
    store_zeros(lowering, &result, along, 0, start);
    store_copy(lowering, operand, &part);
    store_zeros(lowering, &result, along, start + count,
                attribute_integer(lowering->node, ATTRIBUTE_count, 0));
    return true;
}

// Along a bounded dimension parts of a static extent do not exist: y[i] = i < by ? 0 : x[max(i - by, 0)].
static bool shift_bounded(Lowering *lowering, const char *along, int64_t by) {
    const View *operand = lower_operand(lowering, 0);
    Element element = operand->type->element;
    NestBuilder builder = lower_nest(lowering, operand->type);
    uint32_t loop = nest_builder_loop(&builder, along), none = FORMULA_NONE;
    uint32_t distance = nest_builder_constant(&builder, ELEMENT_I32, (double)by);
    uint32_t zero = nest_builder_constant(&builder, ELEMENT_I32, 0);
    uint32_t outside = nest_builder_primitive(&builder, PRIMITIVE_lt, ELEMENT_BOOL, loop, distance, none);
    uint32_t at = nest_builder_primitive(&builder, PRIMITIVE_sub, ELEMENT_I32, loop, distance, none);
    at = nest_builder_primitive(&builder, PRIMITIVE_max, ELEMENT_I32, at, zero, none);
    uint32_t value = nest_builder_load_at(&builder, operand, along, at);
    uint32_t nothing = nest_builder_constant(&builder, element, 0);
    value = nest_builder_primitive(&builder, PRIMITIVE_select, element, outside, nothing, value);
    lower_store(&builder, lowering_result(lowering, 0), value);
    return true;
}

bool shift_lower(Lowering *lowering) {
    Ir *ir = lowering->program->ir;
    const char *along = attribute_text(lowering->node, ATTRIBUTE_along);
    int64_t by = attribute_integer(lowering->node, ATTRIBUTE_by, 0);
    const View *operand = lower_operand(lowering, 0);
    const Dimension *dimension = &operand->type->dimensions[type_find(operand->type, along)];
    if (dimension->bound)
        return shift_bounded(lowering, along, by < dimension->extent ? by : dimension->extent);
    int64_t extent = dimension->extent, distance = by < 0 ? -by : by, kept = extent - distance;
    const View result = *lowering_result(lowering, 0);
    if (distance >= extent) {
        store_zeros(lowering, &result, along, 0, extent);
        return true;
    }
    store_zeros(lowering, &result, along, by < 0 ? kept : 0, by < 0 ? extent : distance);
    View from = view_slice(ir, *operand, along, by < 0 ? distance : 0, kept);
    View to = view_slice(ir, result, along, by < 0 ? 0 : distance, kept);
    store_copy(lowering, &from, &to);
    return true;
}
