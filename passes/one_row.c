// one-row: what is wanted of a chunk at one position is computed there alone.
//
//   before: k = f(x)  x[batch, time=32, embed];  c = scatter(cache.0, index(time) + position, k)  replaces cache.0
//           y = g(x, c)                          logits = dot(y, w)                               [batch, time=32, vocab]
//   after:  k and c as they were;  x' = gather(x, row)  x'[batch, time=1, embed], row: i64[], a scalar input
//           y = g(x', c)                         logits = dot(y, w)                               [batch, time=1, vocab]
//
// Caches need every position; of what comes behind the last of them, which is most of the last layer and the head, a
// prompt needs the last. No bit of it changes: positions do not look at each other but through caches.
// Requires: the graph of a chunk, as `incremental` leaves it. Leaves: every output that is no cache's with one position,
// the input `row` where there is more than one, and rows that merge positions with others as they were.
#include "ir/op.h"
#include "passes/rewrite.h"

typedef struct OneRow {
    const char *along;
    Retype *retype;
    bool *varies;  // by node: other positions have other values, and it has no dimension to tell them by
    bool *whole;   // by node: every position is needed
    Value row;     // i32[along=1], in the new graph
    Value *taken;  // by node of the old graph, result 0: its one position, VALUE_NONE where it was not asked for
} OneRow;

static bool has_along(const OneRow *one, const Graph *graph, Value value) {
    return type_find(graph_type(graph, value), one->along) >= 0;
}

static bool is_cache(const Graph *graph, Value value) {
    for (size_t i = 0; i < graph->outputs.count; i++) {
        const Output *output = &graph->outputs.items[i];
        if (value_same(output->value, value) && !value_is_none(output->replaces)) return true;
    }
    return false;
}

static void find_varying(const OneRow *one, const Graph *graph) {
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        bool varies = false, has = has_along(one, graph, (Value){id, 0});
        for (uint32_t i = 0; i < node->operand_count; i++)
            varies |= one->varies[node->operands[i].node] || has_along(one, graph, node->operands[i]);
        one->varies[id] = varies && !has && !is_cache(graph, (Value){id, 0});
    }
}

// Whether a node computes each position from the same one of its operands, whatever their number.
static bool is_by_position(const OneRow *one, const Graph *graph, uint32_t id) {
    const Node *node = graph_node(graph, id);
    if (node->op == OP_input || node->op == OP_index) return false;
    for (uint32_t r = 0; r < node->result_count; r++)
        if (!has_along(one, graph, (Value){id, r})) return false;
    for (uint32_t i = 0; i < node->operand_count; i++)
        if (one->varies[node->operands[i].node]) return false;
    return true;
}

static void find_whole(const OneRow *one, const Graph *graph) {
    const bool *live = graph_live_nodes(graph);
    for (size_t i = 0; i < graph->outputs.count; i++)
        if (!value_is_none(graph->outputs.items[i].replaces)) one->whole[graph->outputs.items[i].value.node] = true;
    for (uint32_t id = (uint32_t)graph->nodes.count; id-- > 0;) {
        const Node *node = graph_node(graph, id);
        if (live[id] && !is_by_position(one, graph, id)) one->whole[id] = true;
        for (uint32_t i = 0; one->whole[id] && i < node->operand_count; i++) one->whole[node->operands[i].node] = true;
    }
}

// ---- The graph ----

// The position `row` of an old value that is computed whole.
static Value take_row(Rewrite *rewrite, Value old, Place place) {
    const OneRow *one = rewrite->data;
    Graph *to = rewrite->to;
    Value *taken = &one->taken[old.node];
    if (old.result == 0 && !value_is_none(*taken)) return *taken;
    Value value = rewrite_value(rewrite, old);
    const Type *type = graph_type(to, value);
    const char *all = names_format(to->ir->names, "%s.all", one->along);
    Dimension dimensions[RANK_MAX];
    for (int d = 0; d < type->rank; d++) dimensions[d] = type->dimensions[d];
    dimensions[type_find(type, one->along)].extent = 1;
    value = build_gather(to, build_rename(to, value, one->along, all, place), one->row, all, place);
    value = build_expand(to, value, type_make(to->ir, type->element, type->rank, dimensions), place);
    if (old.result == 0) *taken = value;
    return value;
}

static bool row_node(Rewrite *rewrite, uint32_t id) {
    const OneRow *one = rewrite->data;
    if (one->whole[id]) return false;
    const Node *node = graph_node(rewrite->from, id);
    Value *operands = rewrite_operands(rewrite, node);
    for (uint32_t i = 0; i < node->operand_count; i++)
        if (one->whole[node->operands[i].node] && has_along(one, rewrite->from, node->operands[i]))
            operands[i] = take_row(rewrite, node->operands[i], node->place);
    Value value = retype_node(one->retype, rewrite->to, rewrite->from, node, operands);
    if (value_is_none(value)) return rewrite_fail(rewrite);
    for (uint32_t r = 0; r < node->result_count; r++) rewrite_set(rewrite, (Value){id, r}, (Value){value.node, r});
    return true;
}

static Value row_index(const OneRow *one, Graph *graph) {
    const char *name = names_intern(graph->ir->names, "row");
    Value row = graph_add_input(graph, name, ROLE_SCALAR, type_scalar(graph->ir, ELEMENT_I64), NO_PLACE);
    Dimension along = {one->along, 1, NULL};
    return build_broadcast(graph, build_cast(graph, row, ELEMENT_I32, NO_PLACE), &along, 1, NO_PLACE);
}

static bool add_outputs(Rewrite *rewrite) {
    const OneRow *one = rewrite->data;
    for (size_t i = 0; i < rewrite->from->outputs.count; i++) {
        const Output *output = &rewrite->from->outputs.items[i];
        bool cache = !value_is_none(output->replaces);
        bool whole = !cache && one->whole[output->value.node] && has_along(one, rewrite->from, output->value);
        Value value = whole ? take_row(rewrite, output->value, NO_PLACE) : rewrite_value(rewrite, output->value);
        if (value_is_none(value)) return false;
        graph_add_output(rewrite->to, output->name, value,
                         cache ? rewrite_value(rewrite, output->replaces) : VALUE_NONE);
    }
    return true;
}

Graph *compute_one_row(PassContext *context, const Graph *graph) {
    Arena *arena = context->ir->arena;
    Dimension along = {names_intern(context->ir->names, pass_text(context, "along")), 1, NULL};
    OneRow one = {.along = along.name,
                  .retype = retype_begin(context->ir, &along, 1),
                  .varies = ARENA_ARRAY(arena, bool, graph->nodes.count + 1),
                  .whole = ARENA_ARRAY(arena, bool, graph->nodes.count + 1),
                  .taken = ARENA_ARRAY(arena, Value, graph->nodes.count + 1)};
    for (size_t i = 0; i < graph->nodes.count; i++) one.taken[i] = VALUE_NONE;
    find_varying(&one, graph);
    find_whole(&one, graph);
    Rewrite *rewrite = rewrite_begin(context, graph, graph->name, row_node, &one);
    if (!rewrite_inputs(rewrite)) return NULL;
    one.row = row_index(&one, rewrite->to);
    return rewrite_nodes(rewrite) && add_outputs(rewrite) ? rewrite->to : NULL;
}
