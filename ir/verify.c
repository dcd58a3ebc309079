// The rules of docs/ir.md, checked. A graph is verified together with all that it calls. Every break is
// reported with the pass that ran last: a broken rule is that pass's bug, not the user's.
#include <string.h>

#include "ir/graph_rules.h"
#include "ir/module.h"
#include "ir/pointer_map.h"

typedef struct Verifier {
    Ir *ir;
    const char *after;  // or NULL
    const Graph *graph;
    bool good;
    PointerMap state;  // of graphs: GRAPH_OPEN, GRAPH_DONE
} Verifier;

enum { GRAPH_NEW = POINTER_MISSING, GRAPH_OPEN = 0, GRAPH_DONE = 1 };

__attribute__((format(printf, 3, 4))) static void broke(Verifier *verifier, Place place, const char *format,
                                                        ...) {
    va_list arguments;
    va_start(arguments, format);
    const char *rule = arena_format_list(verifier->ir->arena, format, arguments);
    va_end(arguments);
    const char *where =
        verifier->graph ? arena_format(verifier->ir->arena, "graph %s: ", verifier->graph->name) : "";
    if (verifier->after)
        report_error(verifier->ir->diagnostics, place, "E0501", "pass %s broke a rule of the IR: %s%s",
                     verifier->after, where, rule);
    else
        report_error(verifier->ir->diagnostics, place, "E0501", "the IR breaks a rule: %s%s", where, rule);
    verifier->good = false;
}

// ---- nodes ----

static bool value_is_valid(const Graph *graph, Value value, size_t limit) {
    return value.node < limit && value.result < graph_node(graph, value.node)->result_count;
}

static bool operands_precede(Verifier *verifier, uint32_t id, const Node *node) {
    for (uint32_t i = 0; i < node->operand_count; i++)
        if (!value_is_valid(verifier->graph, node->operands[i], id)) {
            broke(verifier, node->place, "operand %u of %%%u (%s) is not a value of an earlier node", i, id,
                  op_name(node->op));
            return false;
        }
    return true;
}

// Types are what the shape rule gives.
static bool check_types(Verifier *verifier, uint32_t id, const Node *node) {
    for (uint32_t i = 0; i < node->attributes.count; i++)
        if (attribute_kind(node->attributes.items[i].key) == KIND_GRAPH && !node->attributes.items[i].graph) {
            broke(verifier, node->place, "%%%u (%s) has no graph in `%s`", id, op_name(node->op),
                  attribute_name(node->attributes.items[i].key));
            return false;
        }
    Node again = *node;
    if (!graph_infer_types(verifier->graph, &again)) {
        broke(verifier, node->place, "the shape rule of %%%u (%s) refuses it", id, op_name(node->op));
        return false;
    }
    if (again.result_count != node->result_count) {
        broke(verifier, node->place, "%%%u (%s) has %u results, its shape rule gives %u", id,
              op_name(node->op), node->result_count, again.result_count);
        return false;
    }
    for (uint32_t i = 0; i < node->result_count; i++)
        if (again.types[i] != node->types[i]) {
            broke(verifier, node->place, "%%%u (%s) is %s, its shape rule gives %s", id, op_name(node->op),
                  type_text(verifier->ir, node->types[i]), type_text(verifier->ir, again.types[i]));
            return false;
        }
    return true;
}

static const Type *input_type(const Graph *graph, size_t index) {
    return graph_node(graph, graph->inputs.items[index])->types[0];
}

// The gradient of a call: (operands, results, cotangents of the results) -> a cotangent for each
// operand, or for each float operand. (That `function` fits the operands is the shape rule's.)
static void check_call(Verifier *verifier, const Node *node) {
    const Graph *graph = verifier->graph, *gradient = attribute_graph(node, ATTRIBUTE_gradient);
    if (!gradient) return;
    const Graph *function = attribute_graph(node, ATTRIBUTE_function);
    uint32_t expected = node->operand_count + 2 * node->result_count, floats = 0;
    if (gradient->inputs.count != expected) {
        broke(verifier, node->place,
              "gradient %s takes %zu inputs; operands, results and cotangents of %s are %u", gradient->name,
              gradient->inputs.count, function->name, expected);
        return;
    }
    for (uint32_t i = 0; i < expected; i++) {
        const Type *type = i < node->operand_count
                               ? graph_type(graph, node->operands[i])
                               : node->types[(i - node->operand_count) % node->result_count];
        if (i < node->operand_count) floats += element_is_float(type->element);
        if (input_type(gradient, i) != type)
            broke(verifier, node->place, "gradient %s: input %u is %s, expected %s", gradient->name, i,
                  type_text(verifier->ir, input_type(gradient, i)), type_text(verifier->ir, type));
    }
    size_t outputs = gradient->outputs.count;
    if (outputs != node->operand_count && outputs != floats)
        broke(verifier, node->place, "gradient %s has %zu outputs for %u operands, %u of them float",
              gradient->name, outputs, node->operand_count, floats);
}

static void check_stack(Verifier *verifier, const Node *node) {
    const Attribute *entries = attribute_find(node, ATTRIBUTE_entries);
    for (uint32_t i = 0; i < entries->count; i++) {
        const StackEntry *entry = &entries->entries[i];
        if (entry->layer < 0 || entry->iteration < 0 || entry->row < -1) {
            broke(verifier, node->place, "entry %u of the stack has layer %d, iteration %d, row %d", i,
                  entry->layer, entry->iteration, entry->row);
            return;
        }
    }
}

// ---- inputs and outputs ----

static bool check_input(Verifier *verifier, uint32_t id, const Node *node) {
    const char *name = attribute_text(node, ATTRIBUTE_name);
    int64_t role = attribute_integer(node, ATTRIBUTE_role, -1);
    if (name && role >= 0 && role < ROLE_COUNT && node->result_count == 1 && node->types[0]) {
        if (role == ROLE_SCALAR && node->types[0]->rank)
            broke(verifier, node->place, "scalar '%s' is %s", name, type_text(verifier->ir, node->types[0]));
        if (attribute_find(node, ATTRIBUTE_by) &&
            (role != ROLE_DATA || attribute_integer(node, ATTRIBUTE_by, 0) < 1))
            broke(verifier, node->place, "input '%s' lies no positions further on in the data", name);
        return true;
    }
    broke(verifier, node->place, "input %%%u lacks its name, role or type", id);
    return false;
}

// The list of inputs holds every input node once; names are distinct within a role, but for arguments,
// which are known by their position.
static bool check_inputs(Verifier *verifier) {
    const Graph *graph = verifier->graph;
    bool *listed = ARENA_ARRAY(verifier->ir->arena, bool, graph->nodes.count);
    PointerMap names[ROLE_COUNT] = {0};
    for (size_t i = 0; i < graph->inputs.count; i++) {
        uint32_t id = graph->inputs.items[i];
        if (id >= graph->nodes.count || graph_node(graph, id)->op != OP_input || listed[id]) {
            broke(verifier, NO_PLACE, "entry %zu of the list of inputs, %%%u, is no input or comes twice", i,
                  id);
            return false;
        }
        listed[id] = true;
        const Node *node = graph_node(graph, id);
        if (!check_input(verifier, id, node)) return false;
        const char *name = names_intern(verifier->ir->names, attribute_text(node, ATTRIBUTE_name));
        int64_t role = attribute_integer(node, ATTRIBUTE_role, 0);
        if (role != ROLE_ARGUMENT && pointer_map_find(&names[role], name) != POINTER_MISSING)
            broke(verifier, node->place, "two inputs are called '%s' (%s)", name, role_name((Role)role));
        else
            pointer_map_set(verifier->ir->arena, &names[role], name, 0);
    }
    for (uint32_t id = 0; id < graph->nodes.count; id++)
        if (graph_node(graph, id)->op == OP_input && !listed[id]) {
            broke(verifier, graph_node(graph, id)->place, "input %%%u is not in the list of inputs", id);
            return false;
        }
    return true;
}

static void check_replaced(Verifier *verifier, const Output *output, bool *replaced) {
    const Graph *graph = verifier->graph;
    if (!value_is_valid(graph, output->replaces, graph->nodes.count)) {
        broke(verifier, NO_PLACE, "output '%s' replaces something that is not a value", output->name);
        return;
    }
    const Node *state = graph_node(graph, output->replaces.node);
    const Type *type = graph_type(graph, output->value);
    if (state->op != OP_input || !role_is_state((Role)attribute_integer(state, ATTRIBUTE_role, 0)))
        broke(verifier, state->place, "output '%s' replaces %%%u, which is no state", output->name,
              output->replaces.node);
    else if (state->types[0] != type)
        broke(verifier, state->place, "output '%s' is %s and replaces %s", output->name,
              type_text(verifier->ir, type), type_text(verifier->ir, state->types[0]));
    else if (replaced[output->replaces.node])
        broke(verifier, state->place, "output '%s' replaces a state that another output replaces",
              output->name);
    replaced[output->replaces.node] = true;
}

static bool check_outputs(Verifier *verifier) {
    const Graph *graph = verifier->graph;
    bool *replaced = ARENA_ARRAY(verifier->ir->arena, bool, graph->nodes.count);
    PointerMap names = {0};
    for (size_t i = 0; i < graph->outputs.count; i++) {
        const Output *output = &graph->outputs.items[i];
        if (!value_is_valid(graph, output->value, graph->nodes.count)) {
            broke(verifier, NO_PLACE, "output '%s' is not a value of the graph", output->name);
            return false;
        }
        if (pointer_map_find(&names, output->name) != POINTER_MISSING)
            broke(verifier, NO_PLACE, "two outputs are called '%s'", output->name);
        else
            pointer_map_set(verifier->ir->arena, &names, output->name, 0);
        if (!value_is_none(output->replaces)) check_replaced(verifier, output, replaced);
    }
    return true;
}

// The extents that a graph computes have names of their own.
static void check_computed_bounds(Verifier *verifier) {
    const Graph *graph = verifier->graph;
    PointerMap known = {0};
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        const char *bound = graph_bound(verifier->ir, node);
        if (!bound) continue;
        if (pointer_map_find(&known, bound) != POINTER_MISSING ||
            !value_is_none(graph_find_input(graph, bound, ROLE_SCALAR)))
            broke(verifier, node->place, "%%%u computes the extent '%s', which is there already", id, bound);
        pointer_map_set(verifier->ir->arena, &known, bound, 0);
    }
}

// A graph that nothing calls (it has no arguments) knows the extents of its own bounded dimensions, those
// that it computes before it uses them.
static void check_bounds(Verifier *verifier) {
    const Graph *graph = verifier->graph;
    check_computed_bounds(verifier);
    for (size_t i = 0; i < graph->inputs.count; i++)
        if (attribute_integer(graph_node(graph, graph->inputs.items[i]), ATTRIBUTE_role, 0) == ROLE_ARGUMENT)
            return;
    PointerMap known = {0};
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        for (uint32_t r = 0; r < node->result_count; r++)
            for (int d = 0; d < node->types[r]->rank; d++) {
                const char *bound = node->types[r]->dimensions[d].bound;
                if (!bound || pointer_map_find(&known, bound) != POINTER_MISSING) continue;
                pointer_map_set(verifier->ir->arena, &known, bound, 0);
                Value scalar = graph_find_bound(graph, bound);
                bool is_input = !value_is_none(scalar) && graph_node(graph, scalar.node)->op == OP_input;
                if (value_is_none(scalar) ||
                    graph_type(graph, scalar) != type_scalar(verifier->ir, ELEMENT_I64))
                    broke(verifier, node->place,
                          "dimension %s is bounded by '%s', which is no scalar input of i64[] and no count "
                          "of a compact",
                          node->types[r]->dimensions[d].name, bound);
                else if (!is_input && scalar.node > id)
                    broke(verifier, node->place, "dimension %s is bounded by '%s', which is computed later",
                          node->types[r]->dimensions[d].name, bound);
            }
    }
}

// ---- accumulators ----

static bool *find_live(const Graph *graph) {
    bool *live = ARENA_ARRAY(graph->ir->arena, bool, graph->nodes.count);
    for (size_t i = 0; i < graph->outputs.count; i++) live[graph->outputs.items[i].value.node] = true;
    for (size_t id = graph->nodes.count; id-- > 0;)
        for (uint32_t i = 0; live[id] && i < graph_node(graph, (uint32_t)id)->operand_count; i++)
            live[graph_node(graph, (uint32_t)id)->operands[i].node] = true;
    return live;
}

static bool op_accumulates(Op op) { return op == OP_accumulate || op == OP_scatter_add || op == OP_scatter; }

// What has no storage of its own to be taken over: zeros that each user makes for itself.
static bool op_is_fresh(Op op) { return op == OP_constant || op == OP_broadcast; }

// An accumulating op takes over the storage of operand 0, so no other live node may use that value.
static void check_accumulators(Verifier *verifier) {
    const Graph *graph = verifier->graph;
    const bool *live = find_live(graph);
    // Uses of result 0 of each node; accumulators have no other results.
    uint32_t *uses = ARENA_ARRAY(verifier->ir->arena, uint32_t, graph->nodes.count);
    for (size_t i = 0; i < graph->outputs.count; i++)
        if (graph->outputs.items[i].value.result == 0) uses[graph->outputs.items[i].value.node]++;
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        for (uint32_t i = 0; live[id] && i < node->operand_count; i++)
            if (node->operands[i].result == 0) uses[node->operands[i].node]++;
    }
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        if (!live[id] || !op_accumulates(node->op) || node->operands[0].result) continue;
        uint32_t acc = node->operands[0].node;
        if (uses[acc] > 1 && !op_is_fresh(graph_node(graph, acc)->op))
            broke(verifier, node->place, "%%%u (%s) takes over %%%u, which has %u uses", id,
                  op_name(node->op), acc, uses[acc]);
    }
}

// ---- graphs ----

static void check_graph(Verifier *verifier, const Graph *graph) {
    verifier->graph = graph;
    if (!check_inputs(verifier)) return;
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        if (!operands_precede(verifier, id, node)) return;
        if (node->op == OP_input) continue;
        if (!check_types(verifier, id, node)) return;  // what follows takes the rule's findings for granted
        if (node->op == OP_call) check_call(verifier, node);
        if (node->op == OP_stack) check_stack(verifier, node);
    }
    if (!check_outputs(verifier)) return;
    check_bounds(verifier);
    check_accumulators(verifier);
}

// A graph on the way down, and the node whose callees come next.
typedef struct Visit {
    const Graph *graph;
    uint32_t node;
} Visit;

typedef VECTOR(Visit) Visits;

// The first callee of the visit that has not been seen, or NULL when all are done.
static const Graph *next_callee(Verifier *verifier, Visit *visit) {
    for (; visit->node < visit->graph->nodes.count; visit->node++) {
        const Node *node = graph_node(visit->graph, visit->node);
        for (uint32_t i = 0; i < node->attributes.count; i++) {
            const Attribute *attribute = &node->attributes.items[i];
            if (attribute_kind(attribute->key) != KIND_GRAPH || !attribute->graph) continue;
            int64_t state = pointer_map_find(&verifier->state, attribute->graph);
            if (state == GRAPH_NEW) return attribute->graph;
            if (state == GRAPH_DONE) continue;
            verifier->graph = visit->graph;
            broke(verifier, node->place, "%%%u refers to %s, which it is a part of", visit->node,
                  attribute->graph->name);
        }
    }
    return NULL;
}

// Callees before callers, without recursion. A cycle is reported and not walked.
static void check_reachable(Verifier *verifier, const Graph *root) {
    Visits visits = {0};
    if (pointer_map_find(&verifier->state, root) != GRAPH_NEW) return;
    vector_push(verifier->ir->arena, &visits, ((Visit){root, 0}));
    pointer_map_set(verifier->ir->arena, &verifier->state, root, GRAPH_OPEN);
    while (visits.count) {
        Visit *visit = &vector_last(&visits);
        const Graph *callee = next_callee(verifier, visit);
        if (callee) {
            pointer_map_set(verifier->ir->arena, &verifier->state, callee, GRAPH_OPEN);
            vector_push(verifier->ir->arena, &visits, ((Visit){callee, 0}));
            continue;
        }
        if (verifier->good) check_graph(verifier, visit->graph);  // it trusts its callees
        pointer_map_set(verifier->ir->arena, &verifier->state, visit->graph, GRAPH_DONE);
        visits.count--;
    }
}

bool graph_verify(const Graph *graph, const char *after) {
    Verifier verifier = {.ir = graph->ir, .after = after, .good = true};
    check_reachable(&verifier, graph);
    return verifier.good;
}

// ---- modules ----

static void check_parameter(Verifier *verifier, const Parameter *parameter) {
    const Graph *initialize = parameter->initialize;
    if (parameter->declared_rank < 0 || parameter->declared_rank > parameter->type->rank)
        broke(verifier, parameter->place, "parameter %s of rank %d has declared rank %d", parameter->path,
              parameter->type->rank, parameter->declared_rank);
    if (!initialize) return;
    if (initialize->inputs.count != 1 || input_type(initialize, 0) != type_scalar(verifier->ir, ELEMENT_I64))
        broke(verifier, parameter->place, "the initialiser of %s does not take one seed: i64[]",
              parameter->path);
    if (initialize->outputs.count != 1 ||
        graph_type(initialize, initialize->outputs.items[0].value) != parameter->type)
        broke(verifier, parameter->place, "the initialiser of %s does not give %s", parameter->path,
              type_text(verifier->ir, parameter->type));
}

// Parameters that an entry graph reads are the module's.
static void check_entry(Verifier *verifier, const Module *module, const char *name) {
    const Graph *graph = module_find_graph(module, name);
    for (size_t i = 0; graph && i < graph->inputs.count; i++) {
        const Node *node = graph_node(graph, graph->inputs.items[i]);
        if (attribute_integer(node, ATTRIBUTE_role, 0) != ROLE_PARAMETER) continue;
        const char *path = attribute_text(node, ATTRIBUTE_name);
        const Parameter *parameter = module_find_parameter(module, path);
        if (!parameter)
            broke(verifier, node->place, "graph %s reads parameter %s, which the module lacks", name, path);
        else if (parameter->type != node->types[0])
            broke(verifier, node->place, "graph %s reads %s as %s, the module has %s", name, path,
                  type_text(verifier->ir, node->types[0]), type_text(verifier->ir, parameter->type));
    }
}

bool module_verify(const Module *module, const char *after) {
    Verifier verifier = {.ir = module->ir, .after = after, .good = true};
    PointerMap names = {0}, paths = {0};
    for (size_t i = 0; i < module->graphs.count; i++) {
        const Graph *graph = module->graphs.items[i];
        if (pointer_map_find(&names, graph->name) != POINTER_MISSING)
            broke(&verifier, NO_PLACE, "two graphs are called %s", graph->name);
        pointer_map_set(module->ir->arena, &names, graph->name, 0);
        check_reachable(&verifier, graph);
    }
    for (size_t i = 0; i < module->parameters.count; i++) {
        const Parameter *parameter = &module->parameters.items[i];
        const char *path = names_intern(module->ir->names, parameter->path);
        if (parameter->initialize) check_reachable(&verifier, parameter->initialize);
        verifier.graph = NULL;
        if (pointer_map_find(&paths, path) != POINTER_MISSING)
            broke(&verifier, parameter->place, "two parameters are called %s", path);
        pointer_map_set(module->ir->arena, &paths, path, 0);
        if (verifier.good) check_parameter(&verifier, parameter);
    }
    verifier.graph = NULL;
    if (!verifier.good) return false;
    check_entry(&verifier, module, "loss");
    check_entry(&verifier, module, "logits");
    return verifier.good;
}
