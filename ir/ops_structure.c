// Structure: stop_gradient, call (a composite), stack (layers in order).
#include <string.h>

#include "ir/op_rules.h"

// ---- Shape ----

static bool stop_gradient_shape(Shape *shape) {
    return shape_begin(shape) && shape_result_type(shape, shape_type(shape, 0));
}

static const Type *input_type(const Graph *graph, uint32_t index) {
    return graph_node(graph, graph->inputs.items[index])->types[0];
}

static bool call_shape(Shape *shape) {
    if (!shape_begin(shape)) return false;
    const Graph *function = attribute_graph(shape->node, ATTRIBUTE_function);
    if (!function) return shape_attribute(shape, ATTRIBUTE_function) != NULL;
    if (function->inputs.count != shape->operand_count)
        return shape_error(shape, "E0250", "%s takes %zu operands, found %u", function->name,
                           function->inputs.count, shape->operand_count);
    for (uint32_t i = 0; i < shape->operand_count; i++)
        if (shape_type(shape, i) != input_type(function, i))
            return shape_error(shape, "E0261", "%s: operand %u is %s, expected %s", function->name, i + 1,
                               type_text(shape->ir, shape_type(shape, i)),
                               type_text(shape->ir, input_type(function, i)));
    for (size_t i = 0; i < function->outputs.count; i++)
        if (!shape_result_type(shape, graph_type(function, function->outputs.items[i].value))) return false;
    return true;
}

// Stored layers stand along `layer`; whatever else is in front is a per-iteration parameter.
int32_t stack_entry_index(const StackEntry *entry, const Dimension *front) {
    return strcmp(front->name, "layer") == 0 ? entry->layer : entry->row;
}

// Is `stacked` the type `single` with one dimension in front?
static bool is_stacked(const Type *stacked, const Type *single) {
    if (stacked->rank != single->rank + 1 || stacked->element != single->element) return false;
    for (int i = 0; i < single->rank; i++)
        if (!dimension_same(&stacked->dimensions[i + 1], &single->dimensions[i])) return false;
    return true;
}

static bool stack_operand(Shape *shape, const Graph *body, uint32_t operand, bool stacked) {
    const Type *found = shape_type(shape, operand), *expected = input_type(body, operand);
    if (stacked ? is_stacked(found, expected) : found == expected) return true;
    return shape_error(shape, "E0261", "stack of %s: operand %u is %s, expected %s%s", body->name,
                       operand + 1, type_text(shape->ir, found), type_text(shape->ir, expected),
                       stacked ? " with the layers in front" : "");
}

static bool stack_entries(Shape *shape, const Attribute *entries, uint32_t first_stacked) {
    for (uint32_t i = 0; i < entries->count; i++) {
        const StackEntry *entry = &entries->entries[i];
        for (uint32_t j = first_stacked; j < shape->operand_count; j++) {
            const Dimension *front = &shape_type(shape, j)->dimensions[0];
            int32_t at = stack_entry_index(entry, front);
            if (at >= 0 && at < front->extent) continue;
            return shape_error(shape, "E0258", "stack: entry %u takes index %d of %s = %lld", i, at,
                               front->name, (long long)front->extent);
        }
    }
    return true;
}

static bool stack_shape(Shape *shape) {
    if (!shape_begin(shape)) return false;
    AttributeKey needed[] = {ATTRIBUTE_body, ATTRIBUTE_carried, ATTRIBUTE_invariant, ATTRIBUTE_entries};
    for (int i = 0; i < 4; i++)
        if (!shape_attribute(shape, needed[i])) return false;
    const Attribute *body_attribute = attribute_find(shape->node, ATTRIBUTE_body);
    const Attribute *carried = attribute_find(shape->node, ATTRIBUTE_carried);
    const Attribute *invariant = attribute_find(shape->node, ATTRIBUTE_invariant);
    const Attribute *entries = attribute_find(shape->node, ATTRIBUTE_entries);
    const Graph *body = body_attribute->graph;
    if (body->inputs.count != shape->operand_count)
        return shape_error(shape, "E0250", "stack of %s takes %zu operands, found %u", body->name,
                           body->inputs.count, shape->operand_count);
    if (carried->integer < 1 || invariant->integer < 0 || carried->integer > shape->operand_count ||
        invariant->integer > shape->operand_count - carried->integer)
        return shape_error(shape, "E0251", "stack: %lld carried and %lld invariant of %u operands",
                           (long long)carried->integer, (long long)invariant->integer, shape->operand_count);
    uint32_t first_stacked = (uint32_t)(carried->integer + invariant->integer);
    for (uint32_t i = 0; i < shape->operand_count; i++)
        if (!stack_operand(shape, body, i, i >= first_stacked)) return false;
    if (!stack_entries(shape, entries, first_stacked)) return false;
    if (body->outputs.count != (size_t)carried->integer)
        return shape_error(shape, "E0261", "stack of %s: %zu outputs for %lld carried values", body->name,
                           body->outputs.count, (long long)carried->integer);
    for (uint32_t i = 0; i < body->outputs.count; i++) {
        const Type *output = graph_type(body, body->outputs.items[i].value);
        if (output != shape_type(shape, i))
            return shape_error(shape, "E0261", "stack of %s: %s goes in and %s comes out", body->name,
                               type_text(shape->ir, shape_type(shape, i)), type_text(shape->ir, output));
        if (!shape_result_type(shape, output)) return false;
    }
    return true;
}

// ---- Evaluation ----

static void copy_tensor(Tensor *to, const Tensor *from) {
    memcpy(to->data, from->data, sizeof(double) * (size_t)type_count(to->type));
}

static void stop_gradient_evaluate(const Evaluation *evaluation) {
    copy_tensor(evaluation->results[0], evaluation->operands[0]);
}

// Runs a graph over the tensors; evaluate_graph has reported where it fails, and its caller sees that.
static bool run_graph(const Evaluation *evaluation, const Graph *graph, const Tensor *inputs,
                      Tensor *outputs) {
    CHECK(graph->outputs.count == evaluation->node->result_count);
    return evaluate_graph(evaluation->arena, graph, inputs, outputs);
}

static void call_evaluate(const Evaluation *evaluation) {
    uint32_t operands = evaluation->node->operand_count, results = evaluation->node->result_count;
    Tensor *inputs = ARENA_ARRAY(evaluation->arena, Tensor, operands + 1);
    Tensor *outputs = ARENA_ARRAY(evaluation->arena, Tensor, results + 1);
    for (uint32_t i = 0; i < operands; i++) inputs[i] = *evaluation->operands[i];
    if (!run_graph(evaluation, attribute_graph(evaluation->node, ATTRIBUTE_function), inputs, outputs))
        return;
    for (uint32_t i = 0; i < results; i++) copy_tensor(evaluation->results[i], &outputs[i]);
}

// Index `at` of the first dimension, without copying.
static Tensor front_slice(Arena *arena, const Tensor *stacked, int64_t at) {
    Type *type = ARENA_NEW(arena, Type);
    type->element = stacked->type->element;
    type->rank = stacked->type->rank - 1;
    for (int i = 0; i < type->rank; i++) type->dimensions[i] = stacked->type->dimensions[i + 1];
    return (Tensor){type, stacked->data + at * type_count(type)};
}

static void stack_evaluate(const Evaluation *evaluation) {
    const Node *node = evaluation->node;
    const Attribute *entries = attribute_find(node, ATTRIBUTE_entries);
    int64_t carried = attribute_integer(node, ATTRIBUTE_carried, 0);
    int64_t first_stacked = carried + attribute_integer(node, ATTRIBUTE_invariant, 0);
    Tensor *inputs = ARENA_ARRAY(evaluation->arena, Tensor, node->operand_count + 1);
    for (int64_t i = 0; i < node->operand_count; i++) inputs[i] = *evaluation->operands[i];
    for (uint32_t i = 0; i < entries->count; i++) {
        for (int64_t j = first_stacked; j < node->operand_count; j++) {
            const Tensor *stacked = evaluation->operands[j];
            int32_t at = stack_entry_index(&entries->entries[i], &stacked->type->dimensions[0]);
            inputs[j] = front_slice(evaluation->arena, stacked, at);
        }
        Tensor *outputs = ARENA_ARRAY(evaluation->arena, Tensor, carried);
        if (!run_graph(evaluation, attribute_graph(node, ATTRIBUTE_body), inputs, outputs)) return;
        for (int64_t j = 0; j < carried; j++) inputs[j] = outputs[j];
    }
    for (int64_t j = 0; j < carried; j++) copy_tensor(evaluation->results[j], &inputs[j]);
}

// ---- Lowering ----

static bool stop_gradient_lower(Lowering *lowering) {
    lowering_set_view(lowering, 0, *lower_operand(lowering, 0));
    return true;
}

// ---- Along ----

static Along worse(Along a, Along b) { return a > b ? a : b; }

// The worst of all nodes: a composite carries state where one of its ops does.
static Along graph_along(const Graph *graph, const char *name) {
    Along result = ALONG_POINTWISE;
    for (uint32_t i = 0; i < graph->nodes.count; i++) {
        const Node *node = graph_node(graph, i);
        result = worse(result, op_table[node->op]->along(graph, node, name));
    }
    return result;
}

static const Option *find_option(const Node *node, const char *name) {
    const Attribute *options = attribute_find(node, ATTRIBUTE_options);
    for (uint32_t i = 0; options && i < options->count; i++)
        if (strcmp(options->options[i].name, name) == 0) return &options->options[i];
    return NULL;
}

// Attention needs the earlier keys, and where it is not causal the later ones too.
static Along call_along(const Graph *graph, const Node *node, const char *name) {
    (void)graph;
    const char *kernel = attribute_text(node, ATTRIBUTE_kernel);
    if (!kernel || strcmp(kernel, "attention") != 0)
        return graph_along(attribute_graph(node, ATTRIBUTE_function), name);
    const Option *along = find_option(node, "along"), *past = find_option(node, "past");
    if (past && past->text == name) return ALONG_IMPOSSIBLE;
    if (!along || along->text != name) return ALONG_POINTWISE;
    const Option *causal = find_option(node, "causal");
    return causal && causal->number != 0 ? ALONG_STATE : ALONG_IMPOSSIBLE;
}

static Along stack_along(const Graph *graph, const Node *node, const char *name) {
    (void)graph;
    return graph_along(attribute_graph(node, ATTRIBUTE_body), name);
}

// ---- Definitions ----

const OpDefinition op_stop_gradient = {
    OP_ROW(stop_gradient),        .shape = stop_gradient_shape,
    .gradient = gradient_none,    .evaluate = stop_gradient_evaluate,
    .lower = stop_gradient_lower, .along = along_pointwise,
};

const OpDefinition op_call = {
    OP_ROW(call),
    .shape = call_shape,
    .no_gradient = "the pass `gradient` goes into it",
    .evaluate = call_evaluate,
    .no_lowering = "the pass `lower` makes its kernel, or `expand` inlines it",
    .along = call_along,
};

const OpDefinition op_stack = {
    OP_ROW(stack),
    .shape = stack_shape,
    .no_gradient = "the pass `expand-stacks` comes first",
    .evaluate = stack_evaluate,
    .no_lowering = "the pass `expand-stacks` comes first",
    .along = stack_along,
};
