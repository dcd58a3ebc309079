// incremental: a graph over whole sequences becomes one over the next few positions, with caches.
//
//   before: k = f(x)                         k[batch, time, heads, key]
//           p = rename(k, time -> past);     attention over past
//   after:  inputs cache.0[batch, heads, past<=context:length, key], scalars position, length: i64[]
//           c = scatter(cache.0, index(time) + position, k) {along=past};  cache.0' = c;  p = transpose c
//           k[batch, time=chunk, heads, key];  index(time) is index(time) + position everywhere
//
// In a cache only the last dimension stands behind `past`: what one head reads of the past lies together.
// chunk=1 gives `decode`, another chunk `prefill`; both have the same caches. The caller gives `length` =
// position + chunk and keeps position + chunk <= context.
// Requires: stacks expanded; every op works position by position along `time`, or reads it under another
// name (one that looks at earlier positions alone: attention with causal = true; a shift to later positions is
// made to). What cannot be computed so is an error that names it. Leaves: one cache for each value that is read
// under another name, which is each effective layer's keys and values.
#include "ir/op.h"
#include "passes/rewrite.h"

typedef struct Cache {
    const char *name;  // "cache.0": of the input, and of the output that replaces it
    const char *past;  // the name of `time` there
    Value input;       // in the retyped graph; the output of the same name there is what is written
    Value written;     // in the last graph
} Cache;

typedef struct Incremental {
    PassContext *context;
    const char *along;
    int64_t chunk, capacity, batch;
    VECTOR(Cache) caches;
    Value position;    // i32[], in the last graph
} Incremental;

static bool among(const Attribute *names, const char *name) {
    for (uint32_t i = 0; i < names->count; i++)
        if (names->names[i] == name) return true;
    return false;
}

static bool is_cached(const Incremental *incremental, const Node *node) {
    return node->op == OP_rename && among(attribute_find(node, ATTRIBUTE_from), incremental->along);
}

static const char *new_name(const Node *rename, const char *name) {
    const Attribute *from = attribute_find(rename, ATTRIBUTE_from);
    for (uint32_t i = 0; i < from->count; i++)
        if (from->names[i] == name) return attribute_find(rename, ATTRIBUTE_to)->names[i];
    return name;
}

static bool counts_positions(const Incremental *incremental, const Node *node) {
    return node->op == OP_index && type_find(node->types[0], incremental->along) >= 0;
}

// y[i] = x[i - by] with by > 0.
static bool looks_back(const Incremental *incremental, const Node *node) {
    return node->op == OP_shift && attribute_text(node, ATTRIBUTE_along) == incremental->along &&
           attribute_integer(node, ATTRIBUTE_by, 0) > 0;
}

// ---- A shift reads earlier positions under another name ----

//   before: y = shift x {along=time, by}
//   after:  y = select(0 <= i, gather(rename(x, time -> time.before), max(i, 0)), 0) with i = index(time) - by
static bool open_shift(Rewrite *rewrite, const Node *node, Value shifted) {
    const Incremental *incremental = rewrite->data;
    Graph *graph = rewrite->to;
    Place place = node->place;
    const Type *type = node->types[0];
    const char *before = names_format(graph->ir->names, "%s.before", incremental->along);
    Value zero = build_constant(graph, ELEMENT_I32, 0, place);
    Value by = build_constant(graph, ELEMENT_I32, (double)attribute_integer(node, ATTRIBUTE_by, 0), place);
    Value index = build_index(graph, type->dimensions[type_find(type, incremental->along)], place);
    Value at = build_binary(graph, OP_sub, index, by, place);
    Value table = build_rename(graph, rewrite_value(rewrite, node->operands[0]), incremental->along, before, place);
    Value value = build_gather(graph, table, build_binary(graph, OP_max, at, zero, place), before, place);
    Value nothing = build_constant(graph, type->element, 0, place);
    value = build_select(graph, build_binary(graph, OP_le, zero, at, place), value, nothing, place);
    rewrite_set(rewrite, shifted, build_expand(graph, value, type, place));
    return true;
}

// ---- Composites with such a node or with positions inside give way to their meaning ----

static bool must_be_open(const Incremental *incremental, const Graph *graph) {
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        const Graph *function = attribute_graph(node, ATTRIBUTE_function);
        if (is_cached(incremental, node) || counts_positions(incremental, node) || looks_back(incremental, node))
            return true;
        if (function && must_be_open(incremental, function)) return true;
    }
    return false;
}

static bool open_node(Rewrite *rewrite, uint32_t id) {
    const Node *node = graph_node(rewrite->from, id);
    if (looks_back(rewrite->data, node)) return open_shift(rewrite, node, (Value){id, 0});
    const Graph *function = attribute_graph(node, ATTRIBUTE_function);
    if (node->op != OP_call || !must_be_open(rewrite->data, function)) return false;
    Value *results = ARENA_ARRAY(rewrite->to->ir->arena, Value, node->result_count);
    if (!rewrite_splice(rewrite, function, rewrite_operands(rewrite, node), results)) return true;
    for (uint32_t i = 0; i < node->result_count; i++) rewrite_set(rewrite, (Value){id, i}, results[i]);
    return true;
}

// ---- What cannot be computed a few positions at a time ----

static bool impossible(const Incremental *incremental, const Node *node, const char *why) {
    const char *kernel = attribute_text(node, ATTRIBUTE_kernel);
    const Graph *function = attribute_graph(node, ATTRIBUTE_function);
    return report_error(incremental->context->ir->diagnostics, node->place, "E0513",
                        "%s cannot be computed incrementally along %s: %s",
                        kernel     ? kernel
                        : function ? function->name
                                   : op_name(node->op),
                        incremental->along, why);
}

static bool check_input(const Incremental *incremental, const Node *node) {
    Role role = (Role)attribute_integer(node, ATTRIBUTE_role, ROLE_ARGUMENT);
    if (role == ROLE_DATA || type_find(node->types[0], incremental->along) < 0) return true;
    return report_error(
        incremental->context->ir->diagnostics, node->place, "E0514",
        "%s '%s' has dimension %s, whose extent changes from call to call; give it a dimension "
        "of its own and index it by position",
        role_name(role), attribute_text(node, ATTRIBUTE_name), incremental->along);
}

static bool reads_cache(const Incremental *incremental, const Graph *graph, const Node *node) {
    for (uint32_t i = 0; i < node->operand_count; i++)
        for (size_t c = 0; c < incremental->caches.count; c++)
            if (type_find(graph_type(graph, node->operands[i]), incremental->caches.items[c].past) >= 0)
                return true;
    return false;
}

static bool check_node(const Incremental *incremental, const Graph *graph, const Node *node) {
    if (node->op == OP_input) return check_input(incremental, node);
    if (node->op == OP_stack)
        return report_error(graph->ir->diagnostics, node->place, "E0505",
                            "incremental: this stack must be expanded first (run expand-stacks)");
    if (counts_positions(incremental, node)) return true;
    switch (op_table[node->op]->along(graph, node, incremental->along)) {
    case ALONG_POINTWISE: return true;
    case ALONG_STATE:
        if (node->op == OP_call && reads_cache(incremental, graph, node)) return true;
        return impossible(incremental, node, "it needs earlier positions, and keeps none");
    default:
        return impossible(incremental, node,
                          node->op == OP_call ? "it looks at later positions (is it causal?)"
                                              : "it needs all positions at once");
    }
}

// ---- Cutting: what is read under another name becomes an input, what is renamed an output ----

// The value with its other dimensions renamed, as it is written into the cache.
static Value rename_others(Rewrite *rewrite, const Node *node, Value value) {
    const Incremental *incremental = rewrite->data;
    const Type *type = graph_type(rewrite->to, value);
    for (int i = 0; i < type->rank; i++) {
        const char *name = type->dimensions[i].name, *other = new_name(node, name);
        if (name != incremental->along && other != name)
            value = build_rename(rewrite->to, value, name, other, node->place);
    }
    return value;
}

// `past` stands before the last of the other dimensions, which keep their order.
static const Type *cache_type(Ir *ir, const Type *type, const char *past) {
    Dimension dimensions[RANK_MAX];
    int rank = 0, at = type_find(type, past);
    for (int i = 0; i < type->rank; i++)
        if (i != at) dimensions[rank++] = type->dimensions[i];
    dimensions[rank] = type->dimensions[at];
    if (rank) {
        dimensions[rank] = dimensions[rank - 1];
        dimensions[rank - 1] = type->dimensions[at];
    }
    return type_make(ir, type->element, type->rank, dimensions);
}

static bool cut_node(Rewrite *rewrite, uint32_t id) {
    Incremental *incremental = rewrite->data;
    const Node *node = graph_node(rewrite->from, id);
    if (!is_cached(incremental, node)) return false;
    Ir *ir = rewrite->to->ir;
    const char *past = new_name(node, incremental->along);
    if (graph_node(rewrite->from, node->operands[0].node)->op == OP_index) {  // positions need no cache
        rewrite_set(rewrite, (Value){id, 0},
                    build_index(rewrite->to, node->types[0]->dimensions[0], node->place));
        return true;
    }
    Cache cache = {.name = names_format(ir->names, "cache.%zu", incremental->caches.count), .past = past};
    Value value = rename_others(rewrite, node, rewrite_value(rewrite, node->operands[0]));
    if (value_is_none(value)) return rewrite_fail(rewrite);
    graph_add_output(rewrite->to, cache.name, value, VALUE_NONE);
    const Type *type = cache_type(ir, node->types[0], past);
    Value input = graph_add_input(rewrite->to, cache.name, ROLE_CACHE, type, node->place);
    rewrite_set(rewrite, (Value){id, 0}, build_expand(rewrite->to, input, node->types[0], node->place));
    vector_push(ir->arena, &incremental->caches, cache);
    return true;
}

// ---- Retyping: a few positions, and caches of bounded extent ----

static Graph *retype(Incremental *incremental, const Graph *graph) {
    Ir *ir = graph->ir;
    VECTOR(Dimension) map = {0};
    vector_push(ir->arena, &map, ((Dimension){incremental->along, incremental->chunk, NULL}));
    const char *batch = names_intern(ir->names, "batch"), *length = names_intern(ir->names, "length");
    if (incremental->batch > 0) vector_push(ir->arena, &map, ((Dimension){batch, incremental->batch, NULL}));
    for (size_t i = 0; i < incremental->caches.count; i++) {
        bool known = false;
        for (size_t j = 0; j < map.count; j++)
            known |= map.items[j].name == incremental->caches.items[i].past;
        Dimension past = {incremental->caches.items[i].past, incremental->capacity, length};
        if (!known) vector_push(ir->arena, &map, past);
    }
    return graph_retype(graph, names_intern(ir->names, incremental->chunk == 1 ? "decode" : "prefill"),
                        map.items, (uint32_t)map.count);
}

// ---- Positions and caches ----

static Value absolute_index(Rewrite *rewrite, const Node *node) {
    const Incremental *incremental = rewrite->data;
    Value index = build_index(rewrite->to, node->types[0]->dimensions[0], node->place);
    return build_binary(rewrite->to, OP_add, index, incremental->position, node->place);
}

// What is written stands before all that reads it, as the rename did.
static Value write_cache(Rewrite *rewrite, Cache *cache) {
    const Incremental *incremental = rewrite->data;
    if (!value_is_none(cache->written)) return cache->written;
    Value values = rewrite_value(rewrite, graph_find_output(rewrite->from, cache->name)->value);
    Place place = graph_node(rewrite->to, values.node)->place;
    const Type *type = graph_type(rewrite->to, values);
    Dimension along = type->dimensions[type_find(type, incremental->along)];
    Value index = build_binary(rewrite->to, OP_add, build_index(rewrite->to, along, place),
                               incremental->position, place);
    Attribute attribute = {.key = ATTRIBUTE_along, .text = cache->past};
    Value operands[] = {rewrite_value(rewrite, cache->input), index, values};
    return cache->written = graph_add(rewrite->to, OP_scatter, operands, 3, &attribute, 1, place);
}

static bool place_node(Rewrite *rewrite, uint32_t id) {
    Incremental *incremental = rewrite->data;
    const Node *node = graph_node(rewrite->from, id);
    if (counts_positions(incremental, node)) {
        rewrite_set(rewrite, (Value){id, 0}, absolute_index(rewrite, node));
        return true;
    }
    Value *operands = rewrite_operands(rewrite, node);
    bool reads = false;
    for (uint32_t i = 0; i < node->operand_count; i++)
        for (size_t c = 0; c < incremental->caches.count; c++)
            if (value_same(node->operands[i], incremental->caches.items[c].input)) {
                operands[i] = write_cache(rewrite, &incremental->caches.items[c]);
                reads = true;
            }
    if (!reads) return false;
    Value value = graph_copy_node(rewrite->to, node, operands);
    if (value_is_none(value)) return rewrite_fail(rewrite);
    for (uint32_t i = 0; i < node->result_count; i++)
        rewrite_set(rewrite, (Value){id, i}, (Value){value.node, i});
    return true;
}

static Value scalar(Graph *graph, const char *name, Place place) {
    Value value = graph_find_input(graph, name, ROLE_SCALAR);
    if (!value_is_none(value)) return value;
    return graph_add_input(graph, names_intern(graph->ir->names, name), ROLE_SCALAR,
                           type_scalar(graph->ir, ELEMENT_I64), place);
}

static Graph *place_caches(Incremental *incremental, const Graph *graph) {
    Rewrite *rewrite = rewrite_begin(incremental->context, graph, graph->name, place_node, incremental);
    if (!rewrite_inputs(rewrite)) return NULL;
    Value position = scalar(rewrite->to, "position", NO_PLACE);
    scalar(rewrite->to, "length", NO_PLACE);
    incremental->position = build_cast(rewrite->to, position, ELEMENT_I32, NO_PLACE);
    for (size_t i = 0; i < incremental->caches.count; i++) {
        Cache *cache = &incremental->caches.items[i];
        cache->input = graph_find_input(graph, cache->name, ROLE_CACHE);
        cache->written = VALUE_NONE;
    }
    if (!rewrite_nodes(rewrite)) return NULL;
    for (size_t i = 0; i < graph->outputs.count; i++) {
        const Output *output = &graph->outputs.items[i];
        Cache *cache = NULL;
        for (size_t c = 0; c < incremental->caches.count; c++)
            if (incremental->caches.items[c].name == output->name) cache = &incremental->caches.items[c];
        Value value = cache ? write_cache(rewrite, cache) : rewrite_value(rewrite, output->value);
        if (value_is_none(value)) return NULL;
        graph_add_output(rewrite->to, output->name, value,
                         cache ? rewrite_value(rewrite, cache->input) : VALUE_NONE);
    }
    return rewrite->to;
}

Graph *derive_incremental(PassContext *context, const Graph *graph) {
    Incremental incremental = {.context = context,
                               .chunk = pass_integer(context, "chunk"),
                               .capacity = pass_integer(context, "context"),
                               .batch = pass_integer(context, "batch")};
    incremental.along = names_intern(context->ir->names, pass_text(context, "along"));
    if (incremental.chunk < 1 || incremental.capacity < incremental.chunk) {
        report_error(context->ir->diagnostics, NO_PLACE, "E0504",
                     "incremental: chunk must be 1 to context = %lld, not %lld",
                     (long long)incremental.capacity, (long long)incremental.chunk);
        return NULL;
    }
    Graph *open = rewrite_graph(context, graph, graph->name, open_node, &incremental);
    if (!open) return NULL;
    Rewrite *cut = rewrite_begin(context, open, graph->name, cut_node, &incremental);
    if (!rewrite_inputs(cut) || !rewrite_nodes(cut)) return NULL;
    rewrite_outputs(cut);
    bool possible = true;  // every reason is reported
    for (uint32_t id = 0; id < cut->to->nodes.count; id++)
        if (attribute_integer(graph_node(cut->to, id), ATTRIBUTE_role, ROLE_ARGUMENT) != ROLE_CACHE)
            possible &= check_node(&incremental, cut->to, graph_node(cut->to, id));
    Graph *few = possible ? retype(&incremental, cut->to) : NULL;
    return few ? place_caches(&incremental, few) : NULL;
}
