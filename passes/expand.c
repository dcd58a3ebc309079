// expand-stacks: depth becomes nodes.
//
//   before: x1 = stack(x, trunk.wq) {body=Block, carried=1, entries=[0..1]}
//   after:  w0 = pick(trunk.wq) {along=layer, at=0};  the nodes of Block over x, w0
//           w1 = pick(trunk.wq) {along=layer, at=1};  the nodes of Block over that, w1
//
// An entry that enters a core runs the stack's `enter` graph first, one that leaves it `leave` after.
// Requires: nothing. Leaves: no stack; no call that is plain (neither kernel nor gradient clause).
// Random sites are extended by ".layer.iteration", so that each layer and each iteration draws its own
// numbers. Nodes of an entry that asks for recomputation carry its number as `region`.
//
// expand-calls: composites whose kernel the back end lacks become their meaning, before lowering.
#include "passes/rewrite.h"

// A composite's meaning with its random sites extended: made once for each suffix, so that equal calls
// stay equal.
typedef struct Sited {
    const Graph *function;
    const char *suffix;
    Graph *graph;
} Sited;

typedef VECTOR(Sited) SitedVector;

typedef struct Expansion {
    bool keeps_kernels;    // calls with a kernel stay even where the back end lacks it
    bool keeps_gradients;  // calls with a gradient clause and no kernel stay
    bool keeps_supported;  // calls whose kernel the back end has stay
    bool expands_stacks;
    bool recomputes_all;
    const char *suffix;  // of random sites: ".layer.iteration" of each enclosing entry
    int64_t region;      // 0: none
    bool renames;        // the body computes extents, which each entry has its own of
    int64_t *next_region;
    SitedVector *sited;
} Expansion;

static bool expand_node(Rewrite *rewrite, uint32_t id);

static bool keeps_call(const Rewrite *rewrite, const Node *node) {
    const Expansion *expansion = rewrite->data;
    const char *kernel = attribute_text(node, ATTRIBUTE_kernel);
    if (kernel && (expansion->keeps_kernels ||
                   (expansion->keeps_supported && pass_has_kernel(rewrite->context, kernel))))
        return true;
    return !kernel && expansion->keeps_gradients && attribute_graph(node, ATTRIBUTE_gradient);
}

bool graph_draws_random(const Graph *graph) {
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        if (node->op == OP_random) return true;
        for (uint32_t i = 0; i < node->attributes.count; i++)
            if (attribute_kind(node->attributes.items[i].key) == KIND_GRAPH &&
                graph_draws_random(node->attributes.items[i].graph))
                return true;
    }
    return false;
}

static bool computes_extents(const Graph *graph) {
    for (uint32_t id = 0; id < graph->nodes.count; id++)
        if (graph_node(graph, id)->op == OP_compact) return true;
    return false;
}

// Copies a node with the region of its entry, one attribute replaced or added (NULL: none), and the entry's
// own extents.
static bool copy_with_region(Rewrite *rewrite, uint32_t id, const Attribute *attribute) {
    const Expansion *expansion = rewrite->data;
    const Node *node = graph_node(rewrite->from, id);
    bool recomputed = expansion->region && node->operand_count, renames = expansion->renames;
    if (!recomputed && !renames) return rewrite_copy(rewrite, id, attribute);
    Attribute region = {.key = ATTRIBUTE_region, .integer = expansion->region};
    if (!attribute && !renames) return rewrite_copy(rewrite, id, &region);
    VECTOR(Attribute) attributes = {0};
    Arena *arena = rewrite->to->ir->arena;
    for (uint32_t i = 0; i < node->attributes.count; i++) {
        Attribute old = node->attributes.items[i];
        if ((attribute && old.key == attribute->key) || (recomputed && old.key == ATTRIBUTE_region)) continue;
        if (renames) old = rename_extents(rewrite->from, NULL, expansion->suffix, node, old);
        if (attribute_kind(old.key) == KIND_GRAPH && !old.graph) return rewrite_fail(rewrite);
        vector_push(arena, &attributes, old);
    }
    if (attribute) vector_push(arena, &attributes, *attribute);
    if (recomputed) vector_push(arena, &attributes, region);
    Value value = graph_add(rewrite->to, node->op, rewrite_operands(rewrite, node), node->operand_count,
                            attributes.items, (uint32_t)attributes.count, node->place);
    if (value_is_none(value)) return rewrite_fail(rewrite);
    for (uint32_t i = 0; i < node->result_count; i++)
        rewrite_set(rewrite, (Value){id, i}, (Value){value.node, i});
    return true;
}

static Graph *extend_sites(Rewrite *rewrite, const Graph *function) {
    const Expansion *expansion = rewrite->data;
    for (size_t i = 0; i < expansion->sited->count; i++) {
        const Sited *sited = &expansion->sited->items[i];
        if (sited->function == function && sited->suffix == expansion->suffix) return sited->graph;
    }
    Expansion inner = *expansion;
    inner.region = 0;
    inner.renames = false;
    const char *name = names_format(rewrite->to->ir->names, "%s%s", function->name, expansion->suffix);
    Graph *graph = rewrite_graph(rewrite->context, function, name, expand_node, &inner);
    vector_push(rewrite->to->ir->arena, expansion->sited, ((Sited){function, expansion->suffix, graph}));
    return graph;
}

// A composite that stays, inside an entry: the random sites of its meaning are extended as well.
static bool copy_call(Rewrite *rewrite, uint32_t id) {
    const Expansion *expansion = rewrite->data;
    Graph *function = attribute_graph(graph_node(rewrite->from, id), ATTRIBUTE_function);
    if (!*expansion->suffix || !graph_draws_random(function)) return copy_with_region(rewrite, id, NULL);
    Attribute attribute = {.key = ATTRIBUTE_function, .graph = extend_sites(rewrite, function)};
    return attribute.graph ? copy_with_region(rewrite, id, &attribute) : rewrite_fail(rewrite);
}

static bool expand_call(Rewrite *rewrite, uint32_t id) {
    const Node *node = graph_node(rewrite->from, id);
    if (keeps_call(rewrite, node)) return copy_call(rewrite, id);
    Value *results = ARENA_ARRAY(rewrite->to->ir->arena, Value, node->result_count);
    Graph *function = attribute_graph(node, ATTRIBUTE_function);
    if (!rewrite_splice(rewrite, function, rewrite_operands(rewrite, node), results)) return true;
    for (uint32_t i = 0; i < node->result_count; i++) rewrite_set(rewrite, (Value){id, i}, results[i]);
    return true;
}

// The operand as one entry sees it: a stacked parameter's layer, or a row of the per-iteration ones,
// whose leading dimension the body's input lacks.
static Value entry_operand(Graph *graph, Value value, const Type *wanted, const StackEntry *entry,
                           Place place) {
    const Type *type = graph_type(graph, value);
    if (type->rank == wanted->rank) return value;
    const Dimension *first = &type->dimensions[0];
    bool by_layer = first->name == names_intern(graph->ir->names, "layer");
    int64_t at = by_layer ? entry->layer : entry->row;
    if (at < 0 || at >= first->extent) {
        report_error(graph->ir->diagnostics, place, "E0506",
                     "an entry of this stack asks for index %lld of %s, which has %lld", (long long)at,
                     first->name, (long long)first->extent);
        return VALUE_NONE;
    }
    value = build_pick(graph, value, first->name, at, place);
    return value_is_none(value) ? value : entry_operand(graph, value, wanted, entry, place);
}

// A stack under expansion: what is carried from entry to entry.
typedef struct Course {
    Rewrite *rewrite;
    const Node *node;
    const Value *operands;
    Value *carried, *entered;  // now, and when the core was entered
    uint32_t carried_count;
} Course;

// Runs the body, or the graph that enters or leaves a core, in place of the carried values. Operands from
// `first` on follow those that it takes over (`before`: the values when the core was entered).
static bool expand_part(const Course *course, AttributeKey key, const StackEntry *entry, const Value *before,
                        uint32_t first, uint32_t last) {
    Graph *to = course->rewrite->to;
    const Graph *graph = attribute_graph(course->node, key);
    Value *arguments = ARENA_ARRAY(to->ir->arena, Value, graph->inputs.count + 1);
    uint32_t count = 0;
    for (uint32_t i = 0; before && i < course->carried_count; i++) arguments[count++] = before[i];
    for (uint32_t i = 0; i < course->carried_count; i++) arguments[count++] = course->carried[i];
    for (uint32_t i = first; i < last; i++, count++) {
        const Type *wanted = graph_node(graph, graph->inputs.items[count])->types[0];
        arguments[count] = entry_operand(to, course->operands[i], wanted, entry, course->node->place);
        if (value_is_none(arguments[count])) return false;
    }
    return rewrite_splice(course->rewrite, graph, arguments, course->carried);
}

static bool expand_entry(Course *course, const StackEntry *entry) {
    Rewrite *rewrite = course->rewrite;
    const Expansion *outer = rewrite->data;
    uint32_t body_count = (uint32_t)attribute_graph(course->node, ATTRIBUTE_body)->inputs.count;
    Expansion inner = *outer;
    inner.renames = computes_extents(attribute_graph(course->node, ATTRIBUTE_body));
    inner.suffix =
        names_format(rewrite->to->ir->names, "%s.%d.%d", outer->suffix, entry->layer, entry->iteration);
    if (entry->recompute || outer->recomputes_all) inner.region = ++*outer->next_region;
    Rewrite entry_rewrite = *rewrite;
    entry_rewrite.data = &inner;
    course->rewrite = &entry_rewrite;
    for (uint32_t i = 0; i < course->carried_count && entry->stop_gradient; i++)
        course->carried[i] =
            build_unary(rewrite->to, OP_stop_gradient, course->carried[i], course->node->place);
    for (uint32_t i = 0; i < course->carried_count && entry->enter; i++)
        course->entered[i] = course->carried[i];
    bool good = (!entry->enter || expand_part(course, ATTRIBUTE_enter, entry, NULL, body_count,
                                              course->node->operand_count)) &&
                expand_part(course, ATTRIBUTE_body, entry, NULL, course->carried_count, body_count) &&
                (!entry->leave || expand_part(course, ATTRIBUTE_leave, entry, course->entered, body_count,
                                              course->node->operand_count));
    course->rewrite = rewrite;
    return good;
}

static bool expand_stack(Rewrite *rewrite, uint32_t id) {
    const Node *node = graph_node(rewrite->from, id);
    const Attribute *entries = attribute_find(node, ATTRIBUTE_entries);
    Course course = {.rewrite = rewrite, .node = node, .carried_count = node->result_count};
    course.operands = rewrite_operands(rewrite, node);
    course.carried = ARENA_ARRAY(rewrite->to->ir->arena, Value, node->result_count + 1);
    course.entered = ARENA_ARRAY(rewrite->to->ir->arena, Value, node->result_count + 1);
    for (uint32_t i = 0; i < node->result_count; i++) course.carried[i] = course.operands[i];
    for (uint32_t i = 0; i < entries->count; i++)
        if (!expand_entry(&course, &entries->entries[i])) return rewrite_fail(rewrite);
    for (uint32_t i = 0; i < node->result_count; i++) rewrite_set(rewrite, (Value){id, i}, course.carried[i]);
    return true;
}

static bool expand_random(Rewrite *rewrite, uint32_t id) {
    const Expansion *expansion = rewrite->data;
    if (!*expansion->suffix) return copy_with_region(rewrite, id, NULL);
    const char *site = attribute_text(graph_node(rewrite->from, id), ATTRIBUTE_site);
    Attribute attribute = {
        .key = ATTRIBUTE_site,
        .text = names_format(rewrite->to->ir->names, "%s%s", site ? site : "", expansion->suffix)};
    return copy_with_region(rewrite, id, &attribute);
}

static bool expand_node(Rewrite *rewrite, uint32_t id) {
    const Expansion *expansion = rewrite->data;
    switch (graph_node(rewrite->from, id)->op) {
        case OP_stack:
            return expansion->expands_stacks ? expand_stack(rewrite, id) : false;
        case OP_call:
            return expand_call(rewrite, id);
        case OP_random:
            return expand_random(rewrite, id);
        default:
            return copy_with_region(rewrite, id, NULL);
    }
}

Graph *expand_stacks(PassContext *context, const Graph *graph) {
    int calls = pass_choice(context, "calls", "plain unsupported all");
    int recompute = pass_choice(context, "recompute", "entries all");
    if (calls < 0 || recompute < 0) return NULL;
    int64_t next_region = 0;
    SitedVector sited = {0};
    Expansion expansion = {.keeps_kernels = calls == 0,
                           .keeps_gradients = calls == 0,
                           .keeps_supported = calls < 2,
                           .expands_stacks = true,
                           .recomputes_all = recompute == 1,
                           .suffix = "",
                           .next_region = &next_region,
                           .sited = &sited};
    return rewrite_graph(context, graph, graph->name, expand_node, &expansion);
}

Graph *expand_calls(PassContext *context, const Graph *graph) {
    int calls = pass_choice(context, "calls", "unsupported all");
    if (calls < 0) return NULL;
    Expansion expansion = {.keeps_supported = calls == 0, .suffix = ""};
    return rewrite_graph(context, graph, graph->name, expand_node, &expansion);
}
