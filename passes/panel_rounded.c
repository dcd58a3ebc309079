// panel-rounded: rounded copies of parameters lie in the order in which products read them.
//
//   before: y = dot(n, pick w', over = embed)               w': rounded[layer, embed, ffn]
//   after:  y = merge(dot(n, pick w', over = embed))        w': rounded[layer, ffn.panel, embed, ffn.column]
//
// Where panels of whole vectors do not divide the columns, as in a vocabulary of 50257, the last one has some zeros, of
// which a slice leaves the result free.
// A product of few rows takes the time that its matrix takes to come from memory, and memory gives most where it is
// read from end to end. A thread computes some columns, of which a matrix as it is written has short runs; of
// panels, each with all that is summed, it has whole ones. No bit of a result changes: sums run as they did.
// Requires: `keep-rounded`. Leaves: copies whose last dimension is at most `columns` long, where all that reads them
// are products that sum the same dimensions; panel_order makes such a copy of its parameter.
#include "passes/panel_rounded.h"

#include <string.h>

#include "passes/rewrite.h"

enum {
    COLUMNS_STEP = 32,  // whole vectors, and two side by side in bf16
    ADDED_SHARE = 64    // one column in so many, at most, is there for the panels alone
};

typedef struct Copy {     // of one rounded input
    const Node *product;  // one that reads it; NULL: none does
    const Type *type;     // as that sees it: layers picked
    const char *column;   // the dimension that panels are cut from
    int64_t columns;      // of a panel
    bool stays;           // as it is
} Copy;

typedef struct Panels {
    int64_t columns;  // at most
    Copy *copies;     // by node of the input
} Panels;

static bool is_summed(const Node *product, const char *name) {
    const Attribute *over = attribute_find(product, ATTRIBUTE_over);
    for (uint32_t i = 0; i < over->count; i++)
        if (over->names[i] == name) return true;
    return false;
}

// ---- What reads a copy ----

// The copy that picks take `value` of, or NULL.
static Copy *find_copy(const Panels *panels, const Graph *graph, Value value) {
    const Node *node = graph_node(graph, value.node);
    while (node->op == OP_pick) {
        value = node->operands[0];
        node = graph_node(graph, value.node);
    }
    bool rounded = node->op == OP_input && attribute_integer(node, ATTRIBUTE_role, ROLE_ARGUMENT) == ROLE_ROUNDED;
    return rounded ? &panels->copies[value.node] : NULL;
}

static bool same_sums(const Node *a, const Node *b) {
    const Attribute *over_a = attribute_find(a, ATTRIBUTE_over), *over_b = attribute_find(b, ATTRIBUTE_over);
    return over_a->count == over_b->count &&
           memcmp(over_a->names, over_b->names, over_a->count * sizeof *over_a->names) == 0;
}

// The last dimension that a product keeps for itself; NULL: none, or every matrix of several has an index along it.
static const char *find_column(const Node *product, const Type *type, const Type *other) {
    const char *last = NULL;
    for (int i = 0; i < type->rank; i++)
        if (!is_summed(product, type->dimensions[i].name)) last = type->dimensions[i].name;
    return last && type_find(other, last) < 0 ? last : NULL;
}

static void mark_product(const Panels *panels, const Graph *graph, const Node *product, uint32_t operand) {
    Copy *copy = find_copy(panels, graph, product->operands[operand]);
    if (!copy) return;
    Value other = product->operands[1 - operand];
    const Type *type = graph_type(graph, product->operands[operand]);
    const char *column = find_column(product, type, graph_type(graph, other));
    bool first = !copy->product;
    if (first) *copy = (Copy){.product = product, .type = type, .column = column, .stays = copy->stays};
    else copy->stays |= copy->type != type || copy->column != column || !same_sums(copy->product, product);
    copy->stays |= !column || find_copy(panels, graph, other);
}

static void mark_uses(const Panels *panels, const Graph *graph, const Node *node) {
    for (uint32_t i = 0; i < node->operand_count && node->op != OP_pick; i++) {
        Copy *copy = find_copy(panels, graph, node->operands[i]);
        if (node->op == OP_dot) mark_product(panels, graph, node, i);
        else if (copy) copy->stays = true;
    }
}

// ---- The order of a copy ----

static int64_t count_panels(int64_t extent, int64_t columns) { return (extent + columns - 1) / columns; }

// The most columns that divide `extent` into whole panels, or nearly so, with few that are added; 0: none do.
static int64_t choose_columns(int64_t extent, int64_t most) {
    const int64_t allowed[] = {0, extent / ADDED_SHARE};
    for (int i = 0; i < 2; i++)
        for (int64_t columns = most - most % COLUMNS_STEP; columns > 0; columns -= COLUMNS_STEP)
            if (count_panels(extent, columns) * columns - extent <= allowed[i]) return columns;
    return 0;
}

static void choose_panels(const Panels *panels, Copy *copy) {
    copy->stays |= !copy->product || copy->type->rank == RANK_MAX;
    if (copy->stays) return;
    const Dimension *column = &copy->type->dimensions[type_find(copy->type, copy->column)];
    copy->columns = choose_columns(column->extent, panels->columns);
    copy->stays = !copy->columns;
}

static const char *part_name(Ir *ir, const char *name, const char *part) {
    return names_format(ir->names, "%s.%s", name, part);
}

// All that is not summed, panels last; what is summed; the columns of a panel.
static const Type *panel_type(Ir *ir, const Copy *copy, const Type *type) {
    Dimension dimensions[RANK_MAX], summed[RANK_MAX];
    int rank = 0, sums = 0;
    for (int i = 0; i < type->rank; i++) {
        Dimension dimension = type->dimensions[i];
        bool is_column = dimension.name == copy->column;
        if (is_summed(copy->product, dimension.name)) summed[sums++] = dimension;
        else if (!is_column) dimensions[rank++] = dimension;
    }
    Dimension column = type->dimensions[type_find(type, copy->column)];
    if (column.extent > copy->columns) {
        int64_t panels = count_panels(column.extent, copy->columns);
        dimensions[rank++] = (Dimension){part_name(ir, column.name, "panel"), panels, NULL};
        column = (Dimension){part_name(ir, column.name, "column"), copy->columns, NULL};
    }
    memcpy(dimensions + rank, summed, sizeof *summed * (size_t)sums);
    rank += sums;
    dimensions[rank++] = column;
    return type_make(ir, type->element, rank, dimensions);
}

Value panel_order(Graph *graph, Value value, const Type *type) {
    Ir *ir = graph->ir;
    const Type *from = graph_type(graph, value);
    const char *order[RANK_MAX];
    for (int i = 0; i < from->rank; i++) {
        const char *name = from->dimensions[i].name;
        if (type_find(type, name) >= 0) continue;
        Dimension into[] = {type->dimensions[type_find(type, part_name(ir, name, "panel"))],
                            type->dimensions[type_find(type, part_name(ir, name, "column"))]};
        int64_t columns = into[0].extent * into[1].extent;
        if (columns > from->dimensions[i].extent) value = build_pad(graph, value, name, 0, columns, NO_PLACE);
        value = build_split(graph, value, name, into, 2, NO_PLACE);
    }
    for (int i = 0; i < type->rank; i++) order[i] = type->dimensions[i].name;
    return build_transpose(graph, value, order, (uint32_t)type->rank, NO_PLACE);
}

// ---- The graph ----

static Value merge_panels(Graph *graph, Value value, const Copy *copy, const char **parts, Place place) {
    int64_t extent = copy->type->dimensions[type_find(copy->type, copy->column)].extent;
    value = build_merge(graph, value, parts, 2, copy->column, place);
    const Type *merged = graph_type(graph, value);
    bool added = merged->dimensions[type_find(merged, copy->column)].extent > extent;
    return added ? build_slice(graph, value, copy->column, 0, extent, place) : value;
}

static bool panel_product(Rewrite *rewrite, uint32_t id) {
    const Panels *panels = rewrite->data;
    const Node *node = graph_node(rewrite->from, id);
    if (node->op != OP_dot) return false;
    for (int i = 0; i < 2; i++) {
        const Copy *copy = find_copy(panels, rewrite->from, node->operands[i]);
        if (!copy || copy->stays) continue;
        Ir *ir = rewrite->to->ir;
        const char *parts[] = {part_name(ir, copy->column, "panel"), part_name(ir, copy->column, "column")};
        Value value = graph_copy_node(rewrite->to, node, rewrite_operands(rewrite, node));
        if (!value_is_none(value) && type_find(graph_type(rewrite->to, value), parts[0]) >= 0)
            value = merge_panels(rewrite->to, value, copy, parts, node->place);
        CHECK(value_is_none(value) || graph_type(rewrite->to, value) == node->types[0]);
        rewrite_set(rewrite, (Value){id, 0}, value);
        return true;
    }
    return false;
}

Graph *panel_rounded(PassContext *context, const Graph *graph) {
    Panels panels = {.columns = pass_integer(context, "columns"),
                     .copies = ARENA_ARRAY(context->ir->arena, Copy, graph->nodes.count + 1)};
    const bool *live = graph_live_nodes(graph);
    for (uint32_t id = 0; id < graph->nodes.count; id++)
        if (live[id]) mark_uses(&panels, graph, graph_node(graph, id));
    for (size_t i = 0; i < graph->outputs.count; i++) {
        Copy *copy = find_copy(&panels, graph, graph->outputs.items[i].value);
        if (copy) copy->stays = true;
    }
    Rewrite *rewrite = rewrite_begin(context, graph, graph->name, panel_product, &panels);
    for (size_t i = 0; i < graph->inputs.count; i++) {
        uint32_t id = graph->inputs.items[i];
        const Node *node = graph_node(graph, id);
        Copy *copy = &panels.copies[id];  // stays, if it is no rounded copy: nothing marked it
        choose_panels(&panels, copy);
        const Type *type = copy->stays ? node->types[0] : panel_type(context->ir, copy, node->types[0]);
        rewrite_set(rewrite, (Value){id, 0}, graph_copy_input(rewrite->to, node, type));
    }
    if (rewrite->failed || !rewrite_nodes(rewrite)) return NULL;
    rewrite_outputs(rewrite);
    return rewrite->to;
}
