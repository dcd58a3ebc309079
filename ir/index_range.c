// Ranges of integers, node after node: see index_range.h. An interval for a whole tensor; where an op is not followed,
// what its element type can hold.
#include "ir/index_range.h"

#include <math.h>
#include <string.h>

#include "ir/input_limit.h"

typedef struct Range {
    double least, most;  // exact: integers of 32 bits, their sums and products
} Range;

typedef struct Walk {
    const Graph *graph;
    Range **ranges;  // of each node's results
} Walk;

// A function that was walked: called again with the same ranges it gives the same, and has nothing new to say.
typedef struct Walked {
    const Graph *function;
    const Range *inputs, *outputs;
} Walked;

// Of one module.
typedef struct Check {
    VECTOR(Walked) walked;
    bool good;
} Check;

static const Range anything = {-INFINITY, INFINITY};

static Range *walk_graph(const Graph *graph, const Range *inputs, Check *check);

static Range of(const Walk *walk, Value value) { return walk->ranges[value.node][value.result]; }

static Range both(Range a, Range b) { return (Range){fmin(a.least, b.least), fmax(a.most, b.most)}; }

static double extent_of(const Type *type, const char *name) {
    return (double)type->dimensions[type_find(type, name)].extent;
}

static Range product(Range a, Range b) {
    double corners[] = {a.least * b.least, a.least * b.most, a.most * b.least, a.most * b.most};
    Range range = {INFINITY, -INFINITY};
    for (int i = 0; i < 4; i++) {
        if (isnan(corners[i])) return anything;
        range = both(range, (Range){corners[i], corners[i]});
    }
    return range;
}

// The sign is that of a.
static Range remainder_of(Range a, Range b) {
    double most = fmax(fabs(b.least), fabs(b.most)) - 1;
    if (!(most >= 0)) return (Range){0, 0};
    return (Range){a.least < 0 ? fmax(a.least, -most) : 0, a.most > 0 ? fmin(a.most, most) : 0};
}

static Range arithmetic(const Walk *walk, const Node *node) {
    Range a = of(walk, node->operands[0]), b = node->operand_count > 1 ? of(walk, node->operands[1]) : a;
    switch (node->op) {
    case OP_add: return (Range){a.least + b.least, a.most + b.most};
    case OP_sub: return (Range){a.least - b.most, a.most - b.least};
    case OP_mul: return product(a, b);
    case OP_neg: return (Range){-a.most, -a.least};
    case OP_rem: return remainder_of(a, b);
    case OP_max: return (Range){fmax(a.least, b.least), fmax(a.most, b.most)};
    case OP_min: return (Range){fmin(a.least, b.least), fmin(a.most, b.most)};
    case OP_abs: {
        bool crosses = a.least < 0 && a.most > 0;
        return (Range){crosses ? 0 : fmin(fabs(a.least), fabs(a.most)), fmax(fabs(a.least), fabs(a.most))};
    }
    default: return anything;
    }
}

static Range source(const Walk *walk, uint32_t id) {
    const Node *node = graph_node(walk->graph, id);
    if (node->op == OP_index) return (Range){0, (double)node->types[0]->dimensions[0].extent - 1};
    if (node->op == OP_constant) {
        double value = attribute_find(node, ATTRIBUTE_value)->number;
        return (Range){value, value};
    }
    bool data = node->op == OP_input && attribute_integer(node, ATTRIBUTE_role, ROLE_ARGUMENT) == ROLE_DATA;
    int64_t limit = data ? input_limit(walk->graph, (Value){id, 0}) : INT64_MAX;
    return limit == INT64_MAX ? anything : (Range){0, (double)limit - 1};
}

// Result 1 of top_k and result 0 of compact are positions along what was searched.
static Range positions(const Walk *walk, const Node *node, uint32_t result) {
    const Type *type = graph_type(walk->graph, node->operands[0]);
    if (node->op == OP_compact) return (Range){0, (double)type->dimensions[0].extent - (result == 0)};
    return result == 0 ? of(walk, node->operands[0])
                       : (Range){0, extent_of(type, attribute_text(node, ATTRIBUTE_along)) - 1};
}

static Range range_of(const Walk *walk, uint32_t id, uint32_t result) {
    const Node *node = graph_node(walk->graph, id);
    if (node->types[result]->element == ELEMENT_BOOL) return (Range){0, 1};
    if (!node->operand_count) return source(walk, id);
    if (node->op == OP_top_k || node->op == OP_compact) return positions(walk, node, result);
    if (node->op == OP_select) return both(of(walk, node->operands[1]), of(walk, node->operands[2]));
    if (node->op == OP_cast && !element_is_integer(graph_type(walk->graph, node->operands[0])->element))
        return graph_type(walk->graph, node->operands[0])->element == ELEMENT_BOOL ? (Range){0, 1} : anything;
    if (op_moves(node->op) || node->op == OP_gather || node->op == OP_max_over) {
        Range range = of(walk, node->operands[0]);
        for (uint32_t i = 1; node->op == OP_concat && i < node->operand_count; i++)
            range = both(range, of(walk, node->operands[i]));
        return node->op == OP_shift || node->op == OP_pad ? both(range, (Range){0, 0}) : range;
    }
    return arithmetic(walk, node);
}

// What the element type cannot hold has wrapped round, or is not followed: it may be all that the type holds.
static Range held(Range range, const Type *type) {
    double limit = type->element == ELEMENT_I32 ? 0x1p31 : 0x1p53;
    bool fits = range.least >= -limit && range.most < limit;
    return fits || !element_is_integer(type->element) ? range : (Range){-limit, limit - 1};
}

// ---- Graphs below ----

// The meaning over the operands' ranges; a gradient clause over those, and results and cotangents of any value.
static const Range *walk_function(const Graph *function, const Range *inputs, Check *check) {
    size_t bytes = sizeof *inputs * function->inputs.count;
    for (size_t i = 0; i < check->walked.count; i++) {
        const Walked *walked = &check->walked.items[i];
        if (walked->function == function && memcmp(walked->inputs, inputs, bytes) == 0) return walked->outputs;
    }
    const Range *outputs = walk_graph(function, inputs, check);
    vector_push(function->ir->arena, &check->walked, ((Walked){function, inputs, outputs}));
    return outputs;
}

static void walk_call(const Walk *walk, const Node *node, Range *results, Check *check) {
    const Graph *function = attribute_graph(node, ATTRIBUTE_function), *gradient = attribute_graph(node, ATTRIBUTE_gradient);
    size_t count = node->operand_count + 2 * (size_t)node->result_count;
    Range *inputs = ARENA_ARRAY(walk->graph->ir->arena, Range, count + 1);
    for (size_t i = 0; i < count; i++) inputs[i] = i < node->operand_count ? of(walk, node->operands[i]) : anything;
    const Range *found = walk_function(function, inputs, check);
    for (uint32_t i = 0; i < node->result_count; i++) results[i] = found[i];
    if (gradient) walk_function(gradient, inputs, check);
}

// One body serves every layer: what is carried may be anything, what is the same for each has its range.
static void walk_stack(const Walk *walk, const Node *node, Range *results, Check *check) {
    const Graph *body = attribute_graph(node, ATTRIBUTE_body);
    int64_t carried = attribute_integer(node, ATTRIBUTE_carried, 0);
    Range *inputs = ARENA_ARRAY(walk->graph->ir->arena, Range, body->inputs.count + 1);
    for (size_t i = 0; i < body->inputs.count; i++)
        inputs[i] = (int64_t)i < carried ? anything : of(walk, node->operands[i]);
    walk_graph(body, inputs, check);
    for (uint32_t i = 0; i < node->result_count; i++) results[i] = anything;
}

// ---- Indices ----

static bool check_index(const Walk *walk, const Node *node) {
    Ir *ir = walk->graph->ir;
    const Type *table = graph_type(walk->graph, node->operands[0]);
    const char *along = attribute_text(node, ATTRIBUTE_along);
    double extent = extent_of(table, along);
    Range range = of(walk, node->operands[1]);
    if (range.least >= 0 && range.most < extent) return true;
    bool counted = range.least > -0x1p31 && range.most < 0x1p31 - 1;  // indices are i32
    if (!counted)
        report_error(ir->diagnostics, node->place, "E0264",
                     "what indexes %s here is computed from data: it may lie outside of %s = %.0f", along, along, extent);
    else
        report_error(ir->diagnostics, node->place, "E0264", "what indexes %s here runs from %.0f to %.0f, outside of %s = %.0f",
                     along, range.least, range.most, along, extent);
    report_note(ir->diagnostics, graph_node(walk->graph, node->operands[0].node)->place, "what is indexed: %s",
                type_text(ir, table));
    const char *larger = counted && range.least >= 0
                             ? arena_format(ir->arena, "%s = %.0f holds them all; ", along, range.most + 1) : "";
    report_hint(ir->diagnostics, "%sclamp(i, 0, %.0f) stays inside", larger, extent - 1);
    return false;
}

// The ranges of the outputs. Inputs that are arguments have the ranges given, in the order of the signature.
static Range *walk_graph(const Graph *graph, const Range *inputs, Check *check) {
    Arena *arena = graph->ir->arena;
    Walk walk = {graph, ARENA_ARRAY(arena, Range *, graph->nodes.count + 1)};
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        Range *results = walk.ranges[id] = ARENA_ARRAY(arena, Range, node->result_count + 1);
        if (node->op == OP_call) {
            walk_call(&walk, node, results, check);
        } else if (node->op == OP_stack) {
            walk_stack(&walk, node, results, check);
        } else {
            for (uint32_t i = 0; i < node->result_count; i++) results[i] = range_of(&walk, id, i);
        }
        for (size_t i = 0; inputs && node->op == OP_input && i < graph->inputs.count; i++)
            if (graph->inputs.items[i] == id) results[0] = inputs[i];
        for (uint32_t i = 0; i < node->result_count; i++) results[i] = held(results[i], node->types[i]);
        bool indexes = node->op == OP_gather || node->op == OP_scatter || node->op == OP_scatter_add;
        if (indexes && !check_index(&walk, node)) check->good = false;
    }
    Range *outputs = ARENA_ARRAY(arena, Range, graph->outputs.count + 1);
    for (size_t i = 0; i < graph->outputs.count; i++) outputs[i] = of(&walk, graph->outputs.items[i].value);
    return outputs;
}

bool module_check_indices(const Module *module) {
    static const char *const entries[] = {"loss", "evaluate", "logits"};
    Check check = {.good = true};
    for (size_t i = 0; i < sizeof entries / sizeof *entries && check.good; i++) {
        const Graph *graph = module_find_graph(module, entries[i]);
        if (graph) walk_graph(graph, NULL, &check);
    }
    for (size_t i = 0; i < module->parameters.count && check.good; i++)
        if (module->parameters.items[i].initialize) walk_graph(module->parameters.items[i].initialize, NULL, &check);
    return check.good;
}
