// select-supervision: what only the rows taken by a `compact` need is computed for those rows alone.
//
//   before: logits = dot(h, w);  l = call(logits, targets)                [batch, time, ...]
//           at, count = compact(mask);  s = gather(merge(l), at)          [selected <= N: selected]
//   after:  at, count = compact(mask);  h' = gather(merge(h), at)         [batch=1, time <= N: selected, ...]
//           logits' = dot(h', w);  l' = call(logits', gather(merge(targets), at))
//           s = rename(sum(l') {over=(batch)})
//
// Requires: `loss` as `selected_mean` writes it; stacks expanded; static rows. Works before `gradient`, which
// then scatters the gradient of h' into that of h.
// Leaves: the other values as they were. The gather moves up over nodes that work row by row and that
// nothing else needs, as far as the first contraction (the head): so it changes nothing where a metric, or
// another part of the loss, reads the losses of all rows. The rows keep their names: the last of them is as
// long as the mask says, the others have extent 1.
#include "ir/op.h"
#include "passes/rewrite.h"

typedef struct Selection {
    const Graph *graph;
    uint32_t gather;  // the node that takes the rows
    Value source;     // what they are taken from, with all rows
    Value indices;
    const char *element;      // what the merged rows are called
    const Type *rows;         // type of source: its dimensions are the rows
    bool *inside;             // by node: made for the selected rows alone
    Dimension map[RANK_MAX];  // what the rows become
    // Under construction
    Rewrite *rewrite;
    Value *made;  // by node: result 0 for the selected rows
} Selection;

// ---- Finding ----

static int rows_in(const Selection *selection, const Type *type) {
    int count = 0;
    for (int i = 0; i < selection->rows->rank; i++) {
        int at = type_find(type, selection->rows->dimensions[i].name);
        count += at >= 0 && dimension_same(&type->dimensions[at], &selection->rows->dimensions[i]);
    }
    return count;
}

static bool has_rows(const Selection *selection, const Type *type) {
    return rows_in(selection, type) == selection->rows->rank;
}

// Its results have all rows, each row of theirs needs the same row of the operands, and no operand has
// only some of the row dimensions.
static bool works_by_rows(const Selection *selection, const Node *node) {
    if (node->operand_count == 0 || node->op == OP_random) return false;
    for (uint32_t i = 0; i < node->result_count; i++)
        if (!has_rows(selection, node->types[i])) return false;
    for (uint32_t i = 0; i < node->operand_count; i++) {
        const Type *type = graph_type(selection->graph, node->operands[i]);
        if (!has_rows(selection, type) && rows_in(selection, type) > 0) return false;
    }
    for (int i = 0; i < selection->rows->rank; i++)
        if (op_table[node->op]->along(selection->graph, node, selection->rows->dimensions[i].name) !=
            ALONG_POINTWISE)
            return false;
    return true;
}

// Nodes whose users are all inside, from the source upwards; a contraction is the last on its path.
static void grow(Selection *selection, const uint32_t *uses) {
    const Graph *graph = selection->graph;
    uint32_t *inner = ARENA_ARRAY(graph->ir->arena, uint32_t, graph->nodes.count);  // uses by nodes inside
    for (uint32_t id = selection->source.node + 1; id-- > 0;) {
        const Node *node = graph_node(graph, id);
        if (id == selection->source.node ? uses[id] != 1 : !inner[id] || inner[id] != uses[id]) continue;
        if (!works_by_rows(selection, node)) continue;
        selection->inside[id] = true;
        for (uint32_t i = 0; node->op != OP_dot && i < node->operand_count; i++)
            inner[node->operands[i].node]++;
    }
}

// The gather of all rows in their order by a compact; false for any other node.
static bool find_source(Selection *selection, uint32_t id, const uint32_t *uses) {
    const Graph *graph = selection->graph;
    const Node *node = graph_node(graph, id);
    if (node->op != OP_gather) return false;
    Value table = node->operands[0];
    const Node *indices = graph_node(graph, node->operands[1].node), *maker = graph_node(graph, table.node);
    if (indices->op != OP_compact || graph_type(graph, table)->rank != 1) return false;
    selection->gather = id;
    selection->indices = node->operands[1];
    selection->element = attribute_text(node, ATTRIBUTE_along);
    selection->source = table;
    if (maker->op != OP_merge) return true;
    selection->source = maker->operands[0];
    const Type *type = graph_type(graph, selection->source);
    const Attribute *from = attribute_find(maker, ATTRIBUTE_from);
    bool in_order = (int)from->count == type->rank && uses[table.node] == 1;
    for (int i = 0; in_order && i < type->rank; i++) in_order = from->names[i] == type->dimensions[i].name;
    return in_order;
}

static bool contains_dot(const Selection *selection) {
    for (uint32_t id = 0; id < selection->graph->nodes.count; id++)
        if (selection->inside[id] && graph_node(selection->graph, id)->op == OP_dot) return true;
    return false;
}

static bool find_selection(Selection *selection, const Graph *graph, uint32_t id, const uint32_t *uses) {
    *selection = (Selection){.graph = graph};
    if (!find_source(selection, id, uses)) return false;
    selection->rows = graph_type(graph, selection->source);
    for (int i = 0; i < selection->rows->rank; i++) {
        selection->map[i] = selection->rows->dimensions[i];
        if (selection->map[i].bound) return false;
        selection->map[i].extent = 1;
    }
    if (selection->rows->rank == 0) return false;
    Dimension *last = &selection->map[selection->rows->rank - 1];
    *last = graph_type(graph, selection->indices)->dimensions[0];
    last->name = selection->rows->dimensions[selection->rows->rank - 1].name;
    selection->inside = ARENA_ARRAY(graph->ir->arena, bool, graph->nodes.count);
    grow(selection, uses);
    return contains_dot(selection);
}

// ---- Rewriting ----

static const Dimension *find_row(const Selection *selection, const Dimension *dimension) {
    for (int i = 0; i < selection->rows->rank; i++)
        if (dimension_same(&selection->rows->dimensions[i], dimension)) return &selection->map[i];
    return NULL;
}

static const Type *selected_type(const Selection *selection, const Type *type) {
    Dimension dimensions[RANK_MAX];
    for (int i = 0; i < type->rank; i++) {
        const Dimension *row = find_row(selection, &type->dimensions[i]);
        dimensions[i] = row ? *row : type->dimensions[i];
    }
    return type_make(selection->graph->ir, type->element, type->rank, dimensions);
}

// The selected rows of a value from above: table[element: at], as [batch=1, time <= N, ...].
static Value take_rows(const Selection *selection, Value old, Place place) {
    Graph *to = selection->rewrite->to;
    int rank = selection->rows->rank;
    const char *names[RANK_MAX], *last = selection->map[rank - 1].name;
    for (int i = 0; i < rank; i++) names[i] = selection->rows->dimensions[i].name;
    Value table = rewrite_value(selection->rewrite, old),
          at = rewrite_value(selection->rewrite, selection->indices);
    const Type *type = graph_type(to, table);
    table = build_merge(to, table, names, (uint32_t)rank, selection->element, place);
    if (graph_type(to, at)->dimensions[0].name != last)
        at = build_rename(to, at, graph_type(to, at)->dimensions[0].name, last, place);
    Value rows = value_is_none(table) ? table : build_gather(to, table, at, selection->element, place);
    return value_is_none(rows) ? rows : build_expand(to, rows, selected_type(selection, type), place);
}

static Attribute selected_attribute(const Selection *selection, Attribute attribute) {
    if (attribute_kind(attribute.key) == KIND_DIMENSIONS) {
        Dimension *dimensions = ARENA_ARRAY(selection->graph->ir->arena, Dimension, attribute.count);
        for (uint32_t i = 0; i < attribute.count; i++) {
            const Dimension *row = find_row(selection, &attribute.dimensions[i]);
            dimensions[i] = row ? *row : attribute.dimensions[i];
        }
        attribute.dimensions = dimensions;
    } else if (attribute_kind(attribute.key) == KIND_GRAPH) {
        const char *name =
            names_format(selection->graph->ir->names, "%s.%s.%s", attribute.graph->name,
                         selection->graph->name, selection->map[selection->rows->rank - 1].bound);
        attribute.graph =
            graph_retype(attribute.graph, name, selection->map, (uint32_t)selection->rows->rank);
    }
    return attribute;
}

static bool make_inside(Selection *selection, uint32_t id) {
    const Node *node = graph_node(selection->graph, id);
    Arena *arena = selection->graph->ir->arena;
    Value *operands = ARENA_ARRAY(arena, Value, node->operand_count + 1);
    for (uint32_t i = 0; i < node->operand_count; i++) {
        Value old = node->operands[i];
        if (selection->inside[old.node])
            operands[i] = (Value){selection->made[old.node].node, old.result};
        else if (has_rows(selection, graph_type(selection->graph, old)))
            operands[i] = take_rows(selection, old, node->place);
        else
            operands[i] = rewrite_value(selection->rewrite, old);
        if (value_is_none(operands[i])) return false;
    }
    Attribute *attributes = ARENA_ARRAY(arena, Attribute, node->attributes.count + 1);
    for (uint32_t i = 0; i < node->attributes.count; i++) {
        attributes[i] = selected_attribute(selection, node->attributes.items[i]);
        if (attribute_kind(attributes[i].key) == KIND_GRAPH && !attributes[i].graph) return false;
    }
    selection->made[id] = graph_add(selection->rewrite->to, node->op, operands, node->operand_count,
                                    attributes, node->attributes.count, node->place);
    return !value_is_none(selection->made[id]);
}

// [batch=1, time <= N] -> what the gather gave.
static Value as_gathered(const Selection *selection, Value value, const Node *gather) {
    Graph *to = selection->rewrite->to;
    int rank = selection->rows->rank;
    const char *names[RANK_MAX], *last = selection->map[rank - 1].name,
                                 *wanted = gather->types[0]->dimensions[0].name;
    for (int i = 0; i + 1 < rank; i++) names[i] = selection->map[i].name;
    if (rank > 1) value = build_reduce(to, OP_sum, value, names, (uint32_t)(rank - 1), gather->place);
    return value_is_none(value) || last == wanted ? value
                                                  : build_rename(to, value, last, wanted, gather->place);
}

static bool select_node(Rewrite *rewrite, uint32_t id) {
    Selection *selection = rewrite->data;
    if (rewrite->from != selection->graph) return false;
    if (selection->inside[id]) return true;  // made below, when the indices are there
    const Node *node = graph_node(selection->graph, id);
    if (node->op == OP_merge && selection->inside[node->operands[0].node]) return true;
    if (id != selection->gather) return false;
    selection->rewrite = rewrite;
    for (uint32_t i = 0; i <= selection->source.node; i++)
        if (selection->inside[i] && !make_inside(selection, i)) return rewrite_fail(rewrite);
    Value value = {selection->made[selection->source.node].node, selection->source.result};
    rewrite_set(rewrite, (Value){id, 0}, as_gathered(selection, value, node));
    return true;
}

Graph *select_supervision(PassContext *context, const Graph *graph) {
    Graph *result = rewrite_graph(context, graph, graph->name, NULL, NULL);
    const uint32_t *uses = graph_uses(result);
    for (uint32_t id = 0; result && id < result->nodes.count; id++) {
        Selection selection;
        if (!find_selection(&selection, result, id, uses)) continue;
        selection.made = ARENA_ARRAY(context->ir->arena, Value, result->nodes.count);
        result = rewrite_graph(context, result, result->name, select_node, &selection);
        if (result) uses = graph_uses(result);
        id = 0;  // numbers changed; this gather is gone
    }
    return result;
}
