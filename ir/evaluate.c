// Reference evaluation of a graph: node after node, every value as doubles.
#include "ir/evaluate.h"

#include <string.h>

#include "ir/op_rules.h"

// ---- Walking ----

void odometer_start(Odometer *odometer, const Type *type) { *odometer = (Odometer){.type = type}; }

bool odometer_next(Odometer *odometer) {
    odometer->position++;
    for (int i = odometer->type->rank - 1; i >= 0; i--) {
        if (++odometer->at[i] < odometer->type->dimensions[i].extent) return true;
        odometer->at[i] = 0;
    }
    return false;
}

int64_t odometer_offset(const Odometer *odometer, const Type *type) {
    int64_t strides[RANK_MAX];
    walk_strides(odometer->type, type, NULL, strides);
    return walk_offset(odometer, strides);
}

void walk_strides(const Type *walk, const Type *operand, const char *except, int64_t *strides) {
    memset(strides, 0, sizeof(int64_t) * RANK_MAX);
    int64_t stride = 1;
    for (int i = operand->rank - 1; i >= 0; stride *= operand->dimensions[i].extent, i--) {
        const char *name = operand->dimensions[i].name;
        int index = name == except ? -1 : type_find(walk, name);
        if (index >= 0) strides[index] = stride;
    }
}

int64_t walk_stride(const Type *type, const char *name) {
    int64_t stride = 1;
    for (int i = type->rank - 1; i >= 0; stride *= type->dimensions[i].extent, i--)
        if (type->dimensions[i].name == name) return stride;
    return 0;
}

// ---- Tensors ----

Tensor tensor_create(Arena *arena, const Type *type) {
    return (Tensor){type, ARENA_ARRAY(arena, double, type_count(type))};
}

// ---- Extents of bounded dimensions ----

typedef struct Extent {
    const char *bound;
    int64_t value;
} Extent;

typedef struct Run {
    Arena *arena;
    const Graph *graph;
    VECTOR(Extent) extents;
    Tensor *tensors;  // of every value, by slot
    uint32_t *slots;  // first slot of each node
    const char *site;
    Held *held;
} Run;

static const Extent *find_extent(const Run *run, const char *bound) {
    for (size_t i = 0; i < run->extents.count; i++)
        if (run->extents.items[i].bound == bound) return &run->extents.items[i];
    return NULL;
}

static bool set_extent(Run *run, const Node *node, const char *bound, int64_t value) {
    const Extent *known = find_extent(run, bound);
    if (!known) vector_push(run->arena, &run->extents, ((Extent){bound, value}));
    if (!known || known->value == value) return true;
    return report_error(run->graph->ir->diagnostics, node->place, "E0262",
                        "%s is %lld in one input and %lld in another", bound, (long long)known->value,
                        (long long)value);
}

// Extents come from scalar inputs, and from the tensors of inputs whose types are bounded.
static bool collect_extents(Run *run, const Tensor *inputs) {
    for (size_t i = 0; i < run->graph->inputs.count; i++) {
        const Node *node = graph_node(run->graph, run->graph->inputs.items[i]);
        const Type *type = node->types[0];
        if (attribute_integer(node, ATTRIBUTE_role, ROLE_ARGUMENT) == ROLE_SCALAR &&
            type->element == ELEMENT_I64 &&
            !set_extent(run, node, attribute_text(node, ATTRIBUTE_name), (int64_t)inputs[i].data[0]))
            return false;
        CHECK(inputs[i].type->rank == type->rank);
        for (int j = 0; j < type->rank; j++)
            if (type->dimensions[j].bound &&
                !set_extent(run, node, type->dimensions[j].bound, inputs[i].type->dimensions[j].extent))
                return false;
    }
    return true;
}

// The type of this run: bounded dimensions get their extent. Such types are not interned, because an
// extent may be 0 here.
static const Type *resolve(Run *run, const Node *node, const Type *type) {
    Type *result = NULL;
    for (int i = 0; i < type->rank; i++) {
        const Dimension *dimension = &type->dimensions[i];
        if (!dimension->bound) continue;
        const Extent *extent = find_extent(run, dimension->bound);
        if (!extent || extent->value < 0 || extent->value > dimension->extent) {
            report_error(run->graph->ir->diagnostics, node->place, "E0262", "the extent of %s, %s, is %s",
                         dimension->name, dimension->bound, extent ? "out of range" : "not known");
            return NULL;
        }
        if (!result) {
            result = ARENA_NEW(run->arena, Type);
            *result = *type;
        }
        result->dimensions[i] = (Dimension){.name = dimension->name, .extent = extent->value};
    }
    return result ? result : type;
}

// ---- Running ----

static bool run_node(Run *run, const Node *node, uint32_t slot) {
    const Tensor **operands = ARENA_ARRAY(run->arena, const Tensor *, node->operand_count + 1);
    for (uint32_t i = 0; i < node->operand_count; i++)
        operands[i] = &run->tensors[run->slots[node->operands[i].node] + node->operands[i].result];
    if (node->op == OP_compact && !set_extent(run, node, graph_bound(run->graph->ir, node),
                                              compact_count(node, operands[0])))
        return false;
    Tensor **results = ARENA_ARRAY(run->arena, Tensor *, node->result_count + 1);
    for (uint32_t i = 0; i < node->result_count; i++) {
        const Type *type = resolve(run, node, node->types[i]);
        if (!type) return false;
        results[i] = &run->tensors[slot + i];
        *results[i] = tensor_create(run->arena, type);
    }
    op_table[node->op]->evaluate(&(Evaluation){run->arena, run->graph, node, operands, results, run->site, run->held});
    return true;
}

static bool evaluate(Arena *arena, const Graph *graph, const char *site, Held *held, const Tensor *inputs,
                     Tensor *outputs) {
    Run run = {.arena = arena, .graph = graph, .site = site, .held = held};
    size_t errors = diagnostics_error_count(graph->ir->diagnostics);
    run.slots = ARENA_ARRAY(arena, uint32_t, graph->nodes.count + 1);
    for (uint32_t i = 0; i < graph->nodes.count; i++)
        run.slots[i + 1] = run.slots[i] + graph_node(graph, i)->result_count;
    run.tensors = ARENA_ARRAY(arena, Tensor, run.slots[graph->nodes.count] + 1);
    if (!collect_extents(&run, inputs)) return false;
    for (uint32_t i = 0; i < graph->inputs.count; i++)
        run.tensors[run.slots[graph->inputs.items[i]]] = inputs[i];
    for (uint32_t i = 0; i < graph->nodes.count; i++) {
        const Node *node = graph_node(graph, i);
        if (node->op != OP_input && !run_node(&run, node, run.slots[i])) return false;
    }
    for (uint32_t i = 0; i < graph->outputs.count; i++) {
        Value value = graph->outputs.items[i].value;
        outputs[i] = run.tensors[run.slots[value.node] + value.result];
    }
    return diagnostics_error_count(graph->ir->diagnostics) == errors;
}

bool evaluate_graph(Arena *arena, const Graph *graph, const Tensor *inputs, Tensor *outputs) {
    return evaluate(arena, graph, "", NULL, inputs, outputs);
}

bool evaluate_holding(Arena *arena, const Graph *graph, const Tensor *inputs, Tensor *outputs, Held *held) {
    held->next = 0;
    bool good = evaluate(arena, graph, "", held, inputs, outputs);
    held->kept = good;
    return good;
}

bool evaluate_below(const Evaluation *above, const Graph *graph, const char *site, const Tensor *inputs, Tensor *outputs) {
    const char *whole = arena_format(above->arena, "%s%s", above->site, site);
    return evaluate(above->arena, graph, whole, above->held, inputs, outputs);
}
