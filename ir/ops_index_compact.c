// compact: the positions where a mask is true. Its second result is an extent that the graph computes:
// the dimension `along` of the first is bounded by it, under the name that the node carries.
#include "ir/density.h"
#include "ir/op_rules.h"

// Of the positions that count, those numbered [start, start + capacity).
static int64_t capacity_of(const Node *node, const Type *mask) {
    int64_t start = attribute_integer(node, ATTRIBUTE_start, 0);
    return attribute_integer(node, ATTRIBUTE_count, mask->dimensions[0].extent - start);
}

static bool compact_shape(Shape *shape) {
    if (!shape_begin(shape)) return false;
    const Type *mask = shape_type(shape, 0);
    const Attribute *along = shape_attribute(shape, ATTRIBUTE_along),
                    *name = shape_attribute(shape, ATTRIBUTE_name);
    if (!along || !name) return false;
    if (mask->element != ELEMENT_BOOL || mask->rank != 1)
        return shape_error(shape, "E0266", "compact: the mask is a bool of one dimension, found %s",
                           type_text(shape->ir, mask));
    if (mask->dimensions[0].bound)
        return shape_error(shape, "E0260", "compact: %s is bounded, a static extent is needed",
                           mask->dimensions[0].name);
    int64_t start = attribute_integer(shape->node, ATTRIBUTE_start, 0),
            capacity = capacity_of(shape->node, mask);
    if (start < 0 || capacity < 1 || start + capacity > mask->dimensions[0].extent)
        return shape_error(shape, "E0258", "compact: positions numbered %lld to %lld of %s = %lld",
                           (long long)start, (long long)(start + capacity), mask->dimensions[0].name,
                           (long long)mask->dimensions[0].extent);
    DimensionList list = {0}, none = {0};
    dimensions_push(&list, (Dimension){along->text, capacity, names_intern(shape->ir->names, name->text)});
    return shape_result(shape, ELEMENT_I32, &list) && shape_result(shape, ELEMENT_I64, &none);
}

int64_t compact_count(const Node *node, const Tensor *mask) {
    int64_t count = 0, capacity = capacity_of(node, mask->type);
    for (int64_t i = 0; i < type_count(mask->type); i++) count += mask->data[i] != 0;
    count -= attribute_integer(node, ATTRIBUTE_start, 0);
    return count < 0 ? 0 : count < capacity ? count : capacity;
}

static void compact_evaluate(const Evaluation *evaluation) {
    const Tensor *mask = evaluation->operands[0];
    int64_t start = attribute_integer(evaluation->node, ATTRIBUTE_start, 0), number = 0;
    int64_t count = compact_count(evaluation->node, mask);
    for (int64_t i = 0; i < type_count(mask->type); i++) {
        if (mask->data[i] == 0) continue;
        if (number >= start && number < start + count)
            evaluation->results[0]->data[number - start] = (double)i;
        number++;
    }
    evaluation->results[1]->data[0] = (double)count;
}

// ---- Lowering: a kernel by name. A nest has no running count. ----

static Graph *meaning_of(Ir *ir, const Node *node, const Type *mask) {
    Graph *graph = graph_create(ir, "compact");
    Value input = graph_add_input(graph, "mask", ROLE_ARGUMENT, mask, node->place);
    Value indices = graph_copy_node(graph, node, &input);
    graph_add_output(graph, "indices", indices, VALUE_NONE);
    graph_add_output(graph, "count", (Value){indices.node, 1}, VALUE_NONE);
    return graph;
}

// The count stays in a buffer of its own, which loops find by its name, as they find scalar inputs.
static View count_view(Lowering *lowering) {
    const Type *type = lowering->node->types[1];
    const char *name =
        names_intern(lowering->program->ir->names, attribute_text(lowering->node, ATTRIBUTE_name));
    Buffer buffer = {.kind = BUFFER_TEMPORARY,
                     .role = ROLE_SCALAR,
                     .name = name,
                     .type = type,
                     .bytes = type_bytes(type),
                     .expected = graph_expected_count(lowering->graph, lowering->node),
                     .offset = -1};
    return view_row_major(program_add_buffer(lowering->program, buffer), type);
}

static bool compact_lower(Lowering *lowering) {
    Ir *ir = lowering->program->ir;
    const Node *node = lowering->node;
    View count = count_view(lowering);
    lowering_set_view(lowering, 1, count);
    const View *views[] = {lower_operand(lowering, 0), lowering_result(lowering, 0), &count};
    NamedKernel *named = ARENA_NEW(ir->arena, NamedKernel);
    Option *options = ARENA_ARRAY(ir->arena, Option, 1);
    options[0] = (Option){.name = names_intern(ir->names, "start"),
                          .number = (double)attribute_integer(node, ATTRIBUTE_start, 0)};
    *named = (NamedKernel){.name = names_intern(ir->names, "compact"),
                           .options = options,
                           .option_count = 1,
                           .operand_count = 3,
                           .output_start = 1,
                           .place = node->place,
                           .meaning = meaning_of(ir, node, views[0]->type)};
    Launch launch = {.operand_count = 3,
                     .workspaces = NO_WORKSPACES,
                     .node = lowering->node_id,
                     .place = node->place,
                     .region = attribute_integer(node, ATTRIBUTE_region, 0)};
    for (int i = 0; i < 3; i++) {
        named->types[i] = views[i]->type;
        for (int d = 0; d < views[i]->type->rank; d++) named->strides[i][d] = views[i]->stride[d];
        launch.buffers[i] = views[i]->buffer;
        launch.offsets[i] = views[i]->offset;
    }
    launch.kernel = program_add_named(lowering->program, named);
    vector_push(ir->arena, &lowering->program->launches, launch);
    return true;
}

const OpDefinition op_compact = {
    OP_ROW(compact),
    .shape = compact_shape,
    .no_gradient = "positions are no numbers to differentiate by",
    .evaluate = compact_evaluate,
    .lower = compact_lower,
    .along = along_impossible,
};
