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

// Stored layers stand along `layer`; whatever else is in front holds a row for each iteration.
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

static bool stack_operand(Shape *shape, const Graph *graph, uint32_t operand, uint32_t input, bool stacked) {
    const Type *found = shape_type(shape, operand), *expected = input_type(graph, input);
    if (stacked ? is_stacked(found, expected) : found == expected) return true;
    return shape_error(shape, "E0261", "stack of %s: operand %u is %s, expected %s%s", graph->name,
                       operand + 1, type_text(shape->ir, found), type_text(shape->ir, expected),
                       stacked ? " with the layers in front" : "");
}

// `enter` takes the carried values and the rows, `leave` also those that the core was entered with; both
// return the carried values.
static bool stack_bracket(Shape *shape, AttributeKey key, uint32_t carried, uint32_t first_row) {
    const Graph *graph = attribute_graph(shape->node, key);
    if (!graph) return true;
    uint32_t sets = key == ATTRIBUTE_leave ? 2 : 1, rows = shape->operand_count - first_row;
    if (graph->inputs.count != sets * carried + rows || graph->outputs.count != carried)
        return shape_error(shape, "E0250", "stack: %s has %zu inputs and %zu outputs, expected %u and %u",
                           graph->name, graph->inputs.count, graph->outputs.count, sets * carried + rows,
                           carried);
    for (uint32_t i = 0; i < sets * carried; i++)
        if (!stack_operand(shape, graph, i % carried, i, false)) return false;
    for (uint32_t i = 0; i < rows; i++)
        if (!stack_operand(shape, graph, first_row + i, sets * carried + i, true)) return false;
    for (uint32_t i = 0; i < carried; i++)
        if (graph_type(graph, graph->outputs.items[i].value) != shape_type(shape, i))
            return shape_error(shape, "E0261", "stack: %s changes the type of carried value %u", graph->name,
                               i + 1);
    return true;
}

// A core is entered before it is left, and both graphs are there.
static bool stack_brackets_pair(Shape *shape, const Attribute *entries) {
    bool inside = false, used = false;
    for (uint32_t i = 0; i < entries->count; i++) {
        const StackEntry *entry = &entries->entries[i];
        if (entry->enter && inside)
            return shape_error(shape, "E0258", "stack: entry %u enters a core inside a core", i);
        inside |= entry->enter;
        used |= inside;
        if (entry->leave && !inside)
            return shape_error(shape, "E0258", "stack: entry %u leaves a core that was not entered", i);
        if (entry->leave) inside = false;
    }
    if (inside) return shape_error(shape, "E0258", "stack: the last core is not left");
    bool known = attribute_find(shape->node, ATTRIBUTE_enter) && attribute_find(shape->node, ATTRIBUTE_leave);
    return !used || known ||
           shape_error(shape, "E0258", "stack: entries enter a core, and there is no enter or leave");
}

static bool stack_entries(Shape *shape, const Attribute *entries, uint32_t first_stacked,
                          uint32_t body_count) {
    for (uint32_t i = 0; i < entries->count; i++) {
        const StackEntry *entry = &entries->entries[i];
        for (uint32_t j = first_stacked; j < shape->operand_count; j++) {
            const Dimension *front = &shape_type(shape, j)->dimensions[0];
            int32_t at = stack_entry_index(entry, front);
            bool unused = at < 0 && j >= body_count && !entry->enter && !entry->leave;
            if (unused || (at >= 0 && at < front->extent)) continue;
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
    bool has_rows =
        attribute_find(shape->node, ATTRIBUTE_enter) || attribute_find(shape->node, ATTRIBUTE_leave);
    uint32_t body_count = (uint32_t)body->inputs.count;
    if (has_rows ? body_count > shape->operand_count : body_count != shape->operand_count)
        return shape_error(shape, "E0250", "stack of %s takes %u operands, found %u", body->name, body_count,
                           shape->operand_count);
    if (carried->integer < 1 || invariant->integer < 0 || carried->integer > body_count ||
        invariant->integer > body_count - carried->integer)
        return shape_error(shape, "E0251", "stack: %lld carried and %lld invariant of %u operands",
                           (long long)carried->integer, (long long)invariant->integer, body_count);
    uint32_t first_stacked = (uint32_t)(carried->integer + invariant->integer);
    for (uint32_t i = 0; i < body_count; i++)
        if (!stack_operand(shape, body, i, i, i >= first_stacked)) return false;
    if (!stack_bracket(shape, ATTRIBUTE_enter, (uint32_t)carried->integer, body_count) ||
        !stack_bracket(shape, ATTRIBUTE_leave, (uint32_t)carried->integer, body_count) ||
        !stack_brackets_pair(shape, entries) || !stack_entries(shape, entries, first_stacked, body_count))
        return false;
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

// What is carried becomes what the parameters make of it.
static void stack_widen(Widening *widening) {
    for (uint32_t i = 0; i < widening->node->result_count; i++) widening_spread(widening, i);
}

// ---- Evaluation ----

static void copy_tensor(Tensor *to, const Tensor *from) {
    memcpy(to->data, from->data, sizeof(double) * (size_t)type_count(to->type));
}

static void stop_gradient_evaluate(const Evaluation *evaluation) {
    Held *held = evaluation->held;
    const Tensor *value = evaluation->operands[0];
    if (held && !held->kept) {
        Type *type = ARENA_NEW(held->arena, Type);  // one with extents of this run goes with it
        *type = *value->type;
        Tensor copy = tensor_create(held->arena, type);
        copy_tensor(&copy, value);
        vector_push(held->arena, &held->values, copy);
    } else if (held) {
        CHECK(held->next < held->values.count);
        const Tensor *kept = &held->values.items[held->next++];
        if (type_count(kept->type) == type_count(value->type)) value = kept;  // else a mask of it has another extent
    }
    copy_tensor(evaluation->results[0], value);
}

// Runs a graph over the tensors; evaluate_graph has reported where it fails, and its caller sees that.
static bool run_graph(const Evaluation *evaluation, const Graph *graph, const char *site, const Tensor *inputs,
                      Tensor *outputs) {
    CHECK(graph->outputs.count == evaluation->node->result_count);
    return evaluate_below(evaluation, graph, site, inputs, outputs);
}

static void call_evaluate(const Evaluation *evaluation) {
    uint32_t operands = evaluation->node->operand_count, results = evaluation->node->result_count;
    Tensor *inputs = ARENA_ARRAY(evaluation->arena, Tensor, operands + 1);
    Tensor *outputs = ARENA_ARRAY(evaluation->arena, Tensor, results + 1);
    for (uint32_t i = 0; i < operands; i++) inputs[i] = *evaluation->operands[i];
    if (!run_graph(evaluation, attribute_graph(evaluation->node, ATTRIBUTE_function), "", inputs, outputs))
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

typedef struct StackRun {
    const Evaluation *evaluation;
    uint32_t carried, invariant, body_count;
    Tensor *values;  // the carried ones
} StackRun;

// Runs a graph of the stack over the carried values (`before` in front of them: those of the core's start)
// and operands [first, last), of which those below `first_stacked` are whole.
static bool run_part(StackRun *run, AttributeKey key, const StackEntry *entry, const Tensor *before,
                     uint32_t first, uint32_t last, uint32_t first_stacked) {
    const Evaluation *evaluation = run->evaluation;
    uint32_t count = 0;
    Tensor *inputs =
        ARENA_ARRAY(evaluation->arena, Tensor, evaluation->node->operand_count + 2 * run->carried);
    for (uint32_t i = 0; before && i < run->carried; i++) inputs[count++] = before[i];
    for (uint32_t i = 0; i < run->carried; i++) inputs[count++] = run->values[i];
    for (uint32_t i = first; i < last; i++) {
        const Tensor *operand = evaluation->operands[i];
        inputs[count++] = i < first_stacked
                              ? *operand
                              : front_slice(evaluation->arena, operand,
                                            stack_entry_index(entry, &operand->type->dimensions[0]));
    }
    Tensor *outputs = ARENA_ARRAY(evaluation->arena, Tensor, run->carried);
    const char *site = arena_format(evaluation->arena, ".%d.%d", entry->layer, entry->iteration);
    if (!run_graph(evaluation, attribute_graph(evaluation->node, key), site, inputs, outputs)) return false;
    run->values = outputs;
    return true;
}

static void stack_evaluate(const Evaluation *evaluation) {
    const Node *node = evaluation->node;
    const Attribute *entries = attribute_find(node, ATTRIBUTE_entries);
    StackRun run = {.evaluation = evaluation, .carried = node->result_count};
    run.invariant = (uint32_t)attribute_integer(node, ATTRIBUTE_invariant, 0);
    run.body_count = (uint32_t)attribute_graph(node, ATTRIBUTE_body)->inputs.count;
    run.values = ARENA_ARRAY(evaluation->arena, Tensor, run.carried);
    for (uint32_t i = 0; i < run.carried; i++) run.values[i] = *evaluation->operands[i];
    const Tensor *start = NULL;
    for (uint32_t i = 0; i < entries->count; i++) {
        const StackEntry *entry = &entries->entries[i];
        if (entry->enter) start = run.values;
        if (entry->enter &&
            !run_part(&run, ATTRIBUTE_enter, entry, NULL, run.body_count, node->operand_count, 0))
            return;
        if (!run_part(&run, ATTRIBUTE_body, entry, NULL, run.carried, run.body_count,
                      run.carried + run.invariant))
            return;
        if (entry->leave &&
            !run_part(&run, ATTRIBUTE_leave, entry, start, run.body_count, node->operand_count, 0))
            return;
    }
    for (uint32_t i = 0; i < run.carried; i++) copy_tensor(evaluation->results[i], &run.values[i]);
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
    .widen = stack_widen,
};
