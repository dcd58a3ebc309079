// Module passes: stacks, entry graphs, transfers of weights.
#include "passes/module_pass.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- Finding ----

bool stack_has_name(const Node *node, const char *name) {
    const char *own = node->op == OP_stack ? attribute_text(node, ATTRIBUTE_name) : NULL;
    return own && strcmp(own, name) == 0;
}

static bool among(const char *const *names, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(names[i], name) == 0) return true;
    return false;
}

const char *module_pass_stack(PassContext *context, const Module *module, const Graph **graph,
                              const Node **node) {
    Ir *ir = context->ir;
    const char *wanted = pass_text(context, "stack"), *list = "";
    bool any = strcmp(wanted, "none") == 0;
    VECTOR(const char *) names = {0};
    for (size_t g = 0; g < module->graphs.count; g++)
        for (uint32_t id = 0; id < module->graphs.items[g]->nodes.count; id++) {
            const Node *candidate = graph_node(module->graphs.items[g], id);
            const char *name = candidate->op == OP_stack ? attribute_text(candidate, ATTRIBUTE_name) : NULL;
            if (!name) continue;
            if (!among(names.items, names.count, name)) {
                list = arena_format(ir->arena, "%s%s%s", list, names.count ? ", " : "", name);
                vector_push(ir->arena, &names, name);
            }
            if (any || strcmp(name, wanted) == 0) *graph = module->graphs.items[g], *node = candidate;
        }
    const char *pass = context->request->pass->name;
    if (any && names.count == 1) return names.items[0];
    if (!any && among(names.items, names.count, wanted)) return names_intern(ir->names, wanted);
    if (any)
        report_error(ir->diagnostics, context->place, "E0540", "%s: %s has %zu stacks; say which: stack=NAME",
                     pass, module->name, names.count);
    else
        report_error(ir->diagnostics, context->place, "E0540", "%s: %s has no stack '%s'", pass, module->name,
                     wanted);
    report_hint(ir->diagnostics, "stacks: %s", names.count ? list : "none");
    return NULL;
}

uint32_t stack_first_stacked(const Node *stack) {
    return (uint32_t)(attribute_integer(stack, ATTRIBUTE_carried, 0) +
                      attribute_integer(stack, ATTRIBUTE_invariant, 0));
}

int64_t stack_layers(const Graph *graph, const Node *stack) {
    for (uint32_t i = stack_first_stacked(stack); i < stack->operand_count; i++) {
        const Dimension *front = &graph_type(graph, stack->operands[i])->dimensions[0];
        if (strcmp(front->name, "layer") == 0) return front->extent;
    }
    return 1;
}

bool stack_stores(const Graph *graph, const Node *stack, const char *path) {
    for (uint32_t i = stack_first_stacked(stack); i < stack->operand_count; i++) {
        const Node *input = graph_node(graph, stack->operands[i].node);
        if (input->op == OP_input && strcmp(attribute_text(input, ATTRIBUTE_name), path) == 0)
            return strcmp(input->types[0]->dimensions[0].name, "layer") == 0;
    }
    return false;
}

bool stack_is_straight(const Graph *graph, const Node *stack) {
    const Attribute *entries = attribute_find(stack, ATTRIBUTE_entries);
    for (uint32_t i = 0; i < entries->count; i++)
        if (entries->entries[i].layer != (int32_t)i || entries->entries[i].row >= 0) return false;
    return entries->count == stack_layers(graph, stack);
}

int64_t module_pass_numbers(Arena *arena, const char *text, double **numbers) {
    int64_t count = 1;
    for (const char *at = text; *at; at++) count += *at == '|';
    *numbers = ARENA_ARRAY(arena, double, count);
    for (int64_t i = 0; i < count; i++) {
        char *end;
        (*numbers)[i] = strtod(text, &end);
        if (end == text || (*end && *end != '|') || !isfinite((*numbers)[i])) return -1;
        text = end + 1;
    }
    return count;
}

// ---- Rewriting ----

Value module_pass_parameter(Graph *graph, const Module *module, const char *path) {
    const Parameter *parameter = module_find_parameter(module, path);
    if (!parameter) INTERNAL_ERROR("module %s has no parameter %s", module->name, path);
    Role role = parameter->file ? ROLE_FROZEN : ROLE_PARAMETER;
    Value value = graph_find_input(graph, parameter->path, role);
    if (!value_is_none(value)) return value;
    return graph_add_input(graph, parameter->path, role, parameter->type, parameter->place);
}

static Role input_role(const Node *node) {
    return (Role)attribute_integer(node, ATTRIBUTE_role, ROLE_ARGUMENT);
}

void module_pass_order(Graph *graph, const Module *module) {
    VECTOR(uint32_t) order = {0};
    Arena *arena = graph->ir->arena;
    for (size_t p = 0; p < module->parameters.count; p++)
        for (size_t i = 0; i < graph->inputs.count; i++) {
            const Node *node = graph_node(graph, graph->inputs.items[i]);
            bool weight = input_role(node) == ROLE_PARAMETER || input_role(node) == ROLE_FROZEN;
            if (weight && strcmp(attribute_text(node, ATTRIBUTE_name), module->parameters.items[p].path) == 0)
                vector_push(arena, &order, graph->inputs.items[i]);
        }
    for (size_t i = 0; i < graph->inputs.count; i++) {
        Role role = input_role(graph_node(graph, graph->inputs.items[i]));
        if (role != ROLE_PARAMETER && role != ROLE_FROZEN) vector_push(arena, &order, graph->inputs.items[i]);
    }
    CHECK(order.count == graph->inputs.count);
    for (size_t i = 0; i < order.count; i++) graph->inputs.items[i] = order.items[i];
}

static Graph *rewrite_entry(PassContext *context, const Graph *graph, const Module *result, RewriteNode node,
                            void *data) {
    Rewrite *rewrite = rewrite_begin(context, graph, graph->name, node, data);
    for (size_t i = 0; i < graph->inputs.count; i++) {
        uint32_t id = graph->inputs.items[i];
        Role role = input_role(graph_node(graph, id));
        const char *name = attribute_text(graph_node(graph, id), ATTRIBUTE_name);
        if ((role == ROLE_PARAMETER || role == ROLE_FROZEN) && module_find_parameter(result, name))
            rewrite_set(rewrite, (Value){id, 0}, module_pass_parameter(rewrite->to, result, name));
    }
    if (!rewrite_inputs(rewrite) || !rewrite_nodes(rewrite)) return NULL;
    rewrite_outputs(rewrite);
    module_pass_order(rewrite->to, result);
    return rewrite->to;
}

Module *module_pass_rewrite(PassContext *context, const Module *module, Module *result, RewriteNode node,
                            void *data) {
    for (size_t i = 0; i < module->graphs.count; i++) {
        Graph *graph = module->graphs.items[i];
        if (!module_is_entry(module, graph)) continue;
        graph = rewrite_entry(context, graph, result, node, data);
        if (!graph || !module_add_with_callees(result, graph)) return NULL;
    }
    return result;
}

bool module_pass_set_layers(Ir *ir, Parameter *parameter, int64_t layers) {
    Type type = *parameter->type;
    type.dimensions[0].extent = layers;
    parameter->type = type_make(ir, type.element, type.rank, type.dimensions);
    if (!parameter->initialize) return true;
    parameter->initialize =
        graph_retype(parameter->initialize, parameter->initialize->name, type.dimensions, 1);
    return parameter->initialize != NULL;
}

Value module_pass_random(Graph *graph, Value seed, const char *path, const Type *type, Place place) {
    Attribute attributes[] = {
        {.key = ATTRIBUTE_dimensions, .dimensions = type->dimensions, .count = (uint32_t)type->rank},
        {.key = ATTRIBUTE_site, .text = path}};
    Value value = graph_add(graph, OP_random, &seed, 1, attributes, 2, place);
    value = build_binary(graph, OP_sub, value, build_constant(graph, ELEMENT_F32, 0.5, place), place);
    // A uniform number of width 1 deviates by 1 / sqrt(12).
    return build_binary(graph, OP_mul, value, build_constant(graph, ELEMENT_F32, 0.0692820323, place), place);
}

// ---- Transfers ----

Transfer transfer_begin(PassContext *context) {
    Ir *ir = context->ir;
    const char *name = names_format(ir->names, "%s.transfer", context->request->pass->name);
    return (Transfer){.context = context, .graph = graph_create(ir, name), .seed = VALUE_NONE};
}

Value transfer_source(Transfer *transfer, const Module *from, int source, const char *path) {
    Graph *graph = transfer->graph;
    const Parameter *parameter = module_find_parameter(from, path);
    if (!parameter) INTERNAL_ERROR("module %s has no parameter %s", from->name, path);
    const char *name = parameter->path;
    if (source >= 0) name = names_format(graph->ir->names, "%d.%s", source, path);
    Value value = graph_find_input(graph, name, ROLE_FROZEN);
    if (!value_is_none(value)) return value;
    return graph_add_input(graph, name, ROLE_FROZEN, parameter->type, parameter->place);
}

Value transfer_initial(Transfer *transfer, const Parameter *parameter) {
    Graph *graph = transfer->graph;
    if (value_is_none(transfer->seed))
        transfer->seed = graph_add_input(graph, names_intern(graph->ir->names, "seed"), ROLE_SCALAR,
                                         type_scalar(graph->ir, ELEMENT_I64), NO_PLACE);
    Value value;
    graph_inline(graph, parameter->initialize, &transfer->seed, &value);
    return value;
}

Value transfer_stack(Transfer *transfer, const Value *layers, uint32_t count) {
    Graph *graph = transfer->graph;
    Place place = transfer->context->place;
    Dimension one = {.name = names_intern(graph->ir->names, "layer"), .extent = 1};
    Value *parts = ARENA_ARRAY(graph->ir->arena, Value, count);
    for (uint32_t i = 0; i < count; i++) parts[i] = build_broadcast(graph, layers[i], &one, 1, place);
    Attribute along = {.key = ATTRIBUTE_along, .text = one.name};
    return graph_add(graph, OP_concat, parts, count, &along, 1, place);
}

void transfer_result(Transfer *transfer, const char *path, Value value) {
    if (!value_is_none(value)) graph_add_output(transfer->graph, path, value, VALUE_NONE);
}

bool transfer_end(Transfer *transfer, Module *result, const Module *const *sources, uint32_t source_count) {
    Graph *graph = transfer->graph;
    for (size_t i = 0; i < result->parameters.count; i++) {
        const Parameter *parameter = &result->parameters.items[i];
        if (parameter->file) continue;
        if (!graph_find_output(graph, parameter->path) && source_count == 1)
            transfer_result(transfer, parameter->path,
                            transfer_source(transfer, sources[0], -1, parameter->path));
        const Output *output = graph_find_output(graph, parameter->path);
        if (!output) return false;  // an error was reported when its value was made
        if (graph_type(graph, output->value) != parameter->type)
            INTERNAL_ERROR("%s: %s comes as %s, not %s", graph->name, parameter->path,
                           type_text(graph->ir, graph_type(graph, output->value)),
                           type_text(graph->ir, parameter->type));
    }
    result->transfer = graph;
    result->sources.items = NULL;
    result->sources.count = result->sources.capacity = 0;
    for (uint32_t i = 0; i < source_count; i++) vector_push(graph->ir->arena, &result->sources, sources[i]);
    return true;
}
