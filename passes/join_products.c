// join-products: products of one matrix become one product of all their rows.
//
//   before: y1 = dot(a1, w);  y2 = dot(a2, w)             a1, a2: [batch=1, time=3, embed];  w: [embed, vocab]
//   after:  y = dot(concat(a1, a2), w)                    y: [batch=2, time=3, vocab]
//           y1 = slice(y, batch from 0);  y2 = slice(y, batch from 1)
//
// A product of few rows takes the time that its matrix takes to come from memory, and all heads of multi-token
// prediction read the output matrix. No bit of a result changes: a row's sums are its own. Products are joined where
// neither needs what the other gives, the rows are of one type, and all rows and results together are fewer elements
// than the matrix has.
// Requires: a flat graph. Leaves: the nodes that need no joined product before it, the others behind.
#include "ir/op.h"
#include "passes/rewrite.h"

typedef struct Group {          // of products
    const Node *first;
    uint32_t matrix;            // the operand that they share; the other is the rows
    const char *along;          // the dimension that rows are joined along
    int64_t extent;             // of one product along it
    VECTOR(uint32_t) members;
    bool *behind;               // by node: needs what a member gives, or is one
} Group;

// ---- Which products ----

// The first dimension that the result takes from the rows alone; NULL: none of a known extent.
static const Dimension *find_row(const Node *product, const Type *rows, const Type *matrix) {
    const Type *result = product->types[0];
    for (int i = 0; i < rows->rank; i++) {
        const Dimension *dimension = &rows->dimensions[i];
        if (type_find(matrix, dimension->name) >= 0 || type_find(result, dimension->name) < 0) continue;
        return dimension->bound ? NULL : dimension;
    }
    return NULL;
}

static bool same_sums(const Node *a, const Node *b) {
    const Attribute *over_a = attribute_find(a, ATTRIBUTE_over), *over_b = attribute_find(b, ATTRIBUTE_over);
    bool same = over_a->count == over_b->count;
    for (uint32_t i = 0; same && i < over_a->count; i++) same = over_a->names[i] == over_b->names[i];
    return same;
}

static bool is_alike(const Graph *graph, const Group *group, const Node *node) {
    uint32_t matrix = group->matrix;
    return node->op == OP_dot && value_same(node->operands[matrix], group->first->operands[matrix]) &&
           graph_type(graph, node->operands[1 - matrix]) == graph_type(graph, group->first->operands[1 - matrix]) &&
           same_sums(node, group->first);
}

// Whether the matrix is more than the rows and results of `count` products.
static bool pays(const Graph *graph, const Group *group, int64_t count) {
    const Node *product = group->first;
    int64_t rows = type_count(graph_type(graph, product->operands[1 - group->matrix]));
    int64_t matrix = type_count(graph_type(graph, product->operands[group->matrix]));
    return count * (rows + type_count(product->types[0])) < matrix;
}

static bool is_behind(const Graph *graph, const Node *node, const bool *behind) {
    for (uint32_t i = 0; i < node->operand_count; i++)
        if (behind[node->operands[i].node]) return true;
    for (uint32_t r = 0; r < node->result_count; r++)
        for (int d = 0; d < node->types[r]->rank; d++) {
            const char *bound = node->types[r]->dimensions[d].bound;
            Value extent = bound ? graph_find_bound(graph, bound) : VALUE_NONE;
            if (!value_is_none(extent) && behind[extent.node]) return true;
        }
    return false;
}

static void find_members(const Graph *graph, const bool *live, uint32_t first, Group *group) {
    Arena *arena = graph->ir->arena;
    group->behind = ARENA_ARRAY(arena, bool, graph->nodes.count);
    for (uint32_t id = first; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        bool behind = live[id] && is_behind(graph, node, group->behind);
        bool joins = live[id] && !behind && is_alike(graph, group, node) &&
                     pays(graph, group, (int64_t)group->members.count + 1);
        if (joins) vector_push(arena, &group->members, id);
        group->behind[id] = behind || joins;
    }
}

static bool has_twin(const Graph *graph, const bool *live, uint32_t first, const Group *group) {
    for (uint32_t id = first + 1; id < graph->nodes.count; id++)
        if (live[id] && is_alike(graph, group, graph_node(graph, id))) return true;
    return false;
}

// The first products that may be joined; no members: there are none.
static Group find_group(const Graph *graph) {
    const bool *live = graph_live_nodes(graph);
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        for (uint32_t matrix = 0; live[id] && node->op == OP_dot && matrix < 2; matrix++) {
            const Dimension *row = find_row(node, graph_type(graph, node->operands[1 - matrix]),
                                            graph_type(graph, node->operands[matrix]));
            Group group = {.first = node, .matrix = matrix};
            if (!row || !pays(graph, &group, 2) || !has_twin(graph, live, id, &group)) continue;
            group.along = row->name;
            group.extent = row->extent;
            find_members(graph, live, id, &group);
            if (group.members.count > 1) return group;
        }
    }
    return (Group){0};
}

// ---- The graph ----

static Value member_rows(const Rewrite *rewrite, const Group *group, size_t member) {
    const Node *node = graph_node(rewrite->from, group->members.items[member]);
    return rewrite_value(rewrite, node->operands[1 - group->matrix]);
}

static bool add_product(Rewrite *rewrite, const Group *group) {
    Graph *to = rewrite->to;
    uint32_t count = (uint32_t)group->members.count;
    Value *rows = ARENA_ARRAY(to->ir->arena, Value, count), operands[2];
    for (uint32_t i = 0; i < count; i++) rows[i] = member_rows(rewrite, group, i);
    Attribute along = {.key = ATTRIBUTE_along, .text = group->along};
    operands[1 - group->matrix] = graph_add(to, OP_concat, rows, count, &along, 1, group->first->place);
    operands[group->matrix] = rewrite_value(rewrite, group->first->operands[group->matrix]);
    if (value_is_none(operands[1 - group->matrix])) return false;
    Value product = graph_copy_node(to, group->first, operands);
    if (value_is_none(product)) return false;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t id = group->members.items[i];
        Place place = graph_node(rewrite->from, id)->place;
        rewrite_set(rewrite, (Value){id, 0},
                    build_slice(to, product, group->along, i * group->extent, group->extent, place));
    }
    return !rewrite->failed;
}

static Graph *join_group(PassContext *context, const Graph *graph, const Group *group) {
    Rewrite *rewrite = rewrite_begin(context, graph, graph->name, NULL, NULL);
    const bool *live = graph_live_nodes(graph);
    if (!rewrite_inputs(rewrite)) return NULL;
    for (uint32_t id = 0; id < graph->nodes.count && !rewrite->failed; id++)
        if (live[id] && !group->behind[id] && graph_node(graph, id)->op != OP_input) rewrite_copy(rewrite, id, NULL);
    if (rewrite->failed || !add_product(rewrite, group) || !rewrite_nodes(rewrite)) return NULL;
    rewrite_outputs(rewrite);
    return rewrite->to;
}

Graph *join_products(PassContext *context, const Graph *graph) {
    Graph *joined = rewrite_graph(context, graph, graph->name, NULL, NULL);
    for (Group group; joined && (group = find_group(joined)).members.count;)
        joined = join_group(context, joined, &group);
    return joined;
}
