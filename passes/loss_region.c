// Finding the region of a graph that works on logits: from the loss's call outwards, over every node that
// makes or uses a wide value. See passes/loss_region.h for the terms.
#include "passes/loss_region.h"

#include "ir/op.h"

static bool has_dimension(const Type *type, const Dimension *dimension) {
    int at = type_find(type, dimension->name);
    return at >= 0 && dimension_same(&type->dimensions[at], dimension);
}

const Dimension *loss_region_row(const LossRegion *region, const Type *type, int row) {
    for (int i = 0; i < type->rank; i++) {
        const Dimension *dimension = &type->dimensions[i];
        if (region->bound ? dimension->bound == region->bound : dimension_same(dimension, &region->rows[row]))
            return dimension;
    }
    return NULL;
}

static bool has_rows(const LossRegion *region, const Type *type) {
    for (int i = 0; i < region->row_count; i++)
        if (!loss_region_row(region, type, i)) return false;
    return true;
}

bool loss_region_is_wide(const LossRegion *region, Value value) {
    const Type *type = graph_type(region->graph, value);
    return has_dimension(type, &region->column) && has_rows(region, type);
}

// ---- What a node is to the region ----

static bool is_row_part(const LossRegion *region, const Node *node) {
    if (node->operand_count == 0 || node->op == OP_random) return false;  // counts positions: sliced instead
    for (uint32_t i = 0; i < node->result_count; i++)
        if (!has_rows(region, node->types[i])) return false;
    if (region->bound && node->op == OP_rename) return true;  // another name for the same rows
    for (int i = 0; i < region->row_count; i++) {
        const char *name = region->rows[i].name;
        for (uint32_t o = 0; o <= node->operand_count; o++) {
            const Type *type =
                o < node->operand_count ? graph_type(region->graph, node->operands[o]) : node->types[0];
            const Dimension *row = region->bound ? loss_region_row(region, type, i) : NULL;
            if (row) name = row->name;
            if (op_table[node->op]->along(region->graph, node, name) != ALONG_POINTWISE) return false;
        }
    }
    return true;
}

static bool is_reduced_part(const LossRegion *region, const Node *node) {
    if (node->op != OP_dot && node->op != OP_sum) return false;
    const Attribute *over = attribute_find(node, ATTRIBUTE_over);
    for (int i = 0; i < region->row_count; i++) {
        const Dimension *row = loss_region_row(region, graph_type(region->graph, node->operands[0]), i);
        bool summed = false;
        for (uint32_t j = 0; row && j < over->count; j++) summed |= over->names[j] == row->name;
        if (!summed) return false;
    }
    // Both sides of a dot must have the rows, which dot's own rule ensures.
    return true;
}

static bool is_scattered_part(const LossRegion *region, const Node *node) {
    return region->bound && node->op == OP_scatter_add &&
           !has_rows(region, graph_type(region->graph, node->operands[0]));
}

static Part part_of(const LossRegion *region, const Node *node) {
    if (is_row_part(region, node)) return PART_ROW;
    if (is_scattered_part(region, node)) return PART_SINK;
    return is_reduced_part(region, node) ? PART_REDUCED : PART_OUTSIDE;
}

// ---- Growing ----

static bool uses_wide(const LossRegion *region, const Node *node) {
    for (uint32_t i = 0; i < node->operand_count; i++)
        if (region->parts[node->operands[i].node] == PART_ROW &&
            loss_region_is_wide(region, node->operands[i]))
            return true;
    return false;
}

// One sweep down for users of wide values, one up for their makers. False where a user needs them whole.
static bool grow(LossRegion *region, bool *changed) {
    const Graph *graph = region->graph;
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        if (region->parts[id] != PART_OUTSIDE || !uses_wide(region, node)) continue;
        region->parts[id] = part_of(region, node);
        if (region->parts[id] == PART_OUTSIDE) return false;
        *changed = true;
    }
    for (uint32_t id = (uint32_t)graph->nodes.count; id-- > 0;) {
        const Node *node = graph_node(graph, id);
        for (uint32_t i = 0; region->parts[id] != PART_OUTSIDE && i < node->operand_count; i++) {
            uint32_t maker = node->operands[i].node;
            if (region->parts[maker] != PART_OUTSIDE || !loss_region_is_wide(region, node->operands[i]) ||
                !is_row_part(region, graph_node(graph, maker)))
                continue;
            region->parts[maker] = PART_ROW;
            *changed = true;
        }
    }
    for (size_t i = 0; i < graph->outputs.count; i++) {
        Value value = graph->outputs.items[i].value;
        if (region->parts[value.node] == PART_ROW && loss_region_is_wide(region, value)) return false;
    }
    return true;
}

// ---- Bounded rows: all that works along them ----

static bool touches_rows(const LossRegion *region, const Node *node) {
    for (uint32_t i = 0; i < node->operand_count; i++)
        if (has_rows(region, graph_type(region->graph, node->operands[i]))) return true;
    for (uint32_t i = 0; i < node->result_count; i++)
        if (has_rows(region, node->types[i])) return true;
    return false;
}

// False where something needs a value along the rows whole.
static bool take_bounded(LossRegion *region) {
    const Graph *graph = region->graph;
    Value bound = graph_find_bound(graph, region->bound);
    if (value_is_none(bound) || graph_node(graph, bound.node)->op != OP_compact) return false;
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        if (id == bound.node || !touches_rows(region, node)) continue;
        region->parts[id] = part_of(region, node);
        if (region->parts[id] == PART_OUTSIDE) return false;
    }
    for (size_t i = 0; i < graph->outputs.count; i++)
        if (has_rows(region, graph_type(graph, graph->outputs.items[i].value))) return false;
    return true;
}

// ---- Growing, continued ----

// Nodes on a path from the region back into it that work row by row join it: so a cotangent that depends
// on the same row's loss needs no second sweep.
static bool absorb(LossRegion *region) {
    const Graph *graph = region->graph;
    Arena *arena = graph->ir->arena;
    size_t count = graph->nodes.count;
    bool *leads_in = ARENA_ARRAY(arena, bool, count), *comes_out = ARENA_ARRAY(arena, bool, count),
         any = false;
    for (size_t id = count; id-- > 0;) {
        const Node *node = graph_node(graph, (uint32_t)id);
        for (uint32_t i = 0; i < node->operand_count; i++)
            leads_in[node->operands[i].node] |= leads_in[id] || region->parts[id] != PART_OUTSIDE;
    }
    for (uint32_t id = 0; id < count; id++) {
        const Node *node = graph_node(graph, id);
        bool from_rows = true;  // all that comes from the region comes by rows
        for (uint32_t i = 0; i < node->operand_count; i++) {
            uint32_t maker = node->operands[i].node;
            bool inside = region->parts[maker] != PART_OUTSIDE;
            comes_out[id] |= inside || comes_out[maker];
            from_rows &= inside ? region->parts[maker] == PART_ROW : !comes_out[maker];
        }
        if (region->parts[id] != PART_OUTSIDE || !comes_out[id] || !leads_in[id] || !from_rows ||
            !is_row_part(region, node))
            continue;
        region->parts[id] = PART_ROW;
        any = true;
    }
    return any;
}

// ---- Sinks ----

static bool is_tail(Op op) {
    return op == OP_transpose || op == OP_rename || op == OP_split || op == OP_merge || op == OP_cast ||
           op == OP_neg;
}

static uint32_t only_user(const LossRegion *region, uint32_t id) {
    if (region->uses[id] != 1) return UINT32_MAX;
    for (uint32_t user = id + 1; user < region->graph->nodes.count; user++)
        for (uint32_t i = 0; i < graph_node(region->graph, user)->operand_count; i++)
            if (graph_node(region->graph, user)->operands[i].node == id) return user;
    return UINT32_MAX;
}

// reduced -> views -> accumulate(acc, .): the views and the accumulate join the region.
static void find_sink(LossRegion *region, uint32_t reduced) {
    uint32_t user = only_user(region, reduced), last = reduced;
    while (user != UINT32_MAX && region->parts[user] == PART_OUTSIDE &&
           is_tail(graph_node(region->graph, user)->op)) {
        last = user;
        user = only_user(region, user);
    }
    if (user == UINT32_MAX || region->parts[user] != PART_OUTSIDE) return;
    const Node *node = graph_node(region->graph, user);
    if (node->op != OP_accumulate || node->operands[1].node != last) return;
    region->parts[user] = PART_SINK;
    for (uint32_t id = last; id != reduced; id = graph_node(region->graph, id)->operands[0].node)
        region->parts[id] = PART_TAIL;
}

static void drop_sink(LossRegion *region, uint32_t sink) {
    region->parts[sink] = PART_OUTSIDE;
    for (uint32_t id = graph_node(region->graph, sink)->operands[1].node; region->parts[id] == PART_TAIL;
         id = graph_node(region->graph, id)->operands[0].node)
        region->parts[id] = PART_OUTSIDE;
}

// ---- Levels ----

// A sum over all rows is complete only after its sweep; so is whatever lies outside and depends on one.
static uint32_t operand_level(const LossRegion *region, Part user, Value operand) {
    uint32_t level = region->levels[operand.node];
    switch (region->parts[operand.node]) {
    case PART_OUTSIDE: return level;
    case PART_ROW: return user == PART_OUTSIDE ? level + 1 : level;
    default: return user == PART_TAIL || user == PART_SINK ? level : level + 1;
    }
}

static void set_levels(LossRegion *region) {
    const Graph *graph = region->graph;
    region->level_count = 0;
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        uint32_t level = 0;
        for (uint32_t i = 0; i < node->operand_count; i++) {
            uint32_t at = operand_level(region, region->parts[id], node->operands[i]);
            if (at > level) level = at;
        }
        region->levels[id] = level;
        if (region->parts[id] != PART_OUTSIDE && level >= region->level_count)
            region->level_count = level + 1;
    }
}

// A sink works in the sweep of its reduced value: its accumulator must be there before, or be a sink of
// the same sweep that nothing else uses. Dropping a sink changes levels, so this repeats. False where one
// cannot be dropped.
static bool settle_sinks(LossRegion *region) {
    for (bool changed = true; changed;) {
        changed = false;
        set_levels(region);
        for (uint32_t id = 0; id < region->graph->nodes.count && !changed; id++) {
            if (region->parts[id] != PART_SINK) continue;
            const Node *node = graph_node(region->graph, id);
            uint32_t acc = node->operands[0].node, last = node->operands[node->operand_count - 1].node;
            Part part = region->parts[acc];
            bool fits = region->levels[id] == region->levels[last] &&
                        (part == PART_OUTSIDE || (part == PART_SINK && region->uses[acc] == 1));
            if (!fits && node->op == OP_scatter_add) return false;
            if (!fits) drop_sink(region, id);
            changed = !fits;
            region->chains[id] = part == PART_SINK ? region->chains[acc] : id;
        }
    }
    return true;
}

// ---- The region ----

// Rows are all static, or one is bounded and the others have extent 1 (they play no part then).
static bool set_bound(LossRegion *region) {
    int bounded = 0;
    for (int i = 0; i < region->row_count; i++)
        if (region->rows[i].bound) bounded = i;
    region->bound = region->rows[bounded].bound;
    for (int i = 0; region->bound && i < region->row_count; i++)
        if (i != bounded && (region->rows[i].bound || region->rows[i].extent > 1)) return false;
    if (!region->bound) return true;
    region->rows[0] = region->rows[bounded];
    region->row_count = 1;
    return true;
}

// Rows and column from an operand of the call: all results lack exactly one of its dimensions.
static bool set_dimensions(LossRegion *region, const Node *call, Value operand) {
    const Type *type = graph_type(region->graph, operand);
    int columns = 0;
    region->row_count = 0;
    for (int i = 0; i < type->rank; i++) {
        const Dimension *dimension = &type->dimensions[i];
        bool in_results = true;
        for (uint32_t r = 0; r < call->result_count; r++)
            in_results &= has_dimension(call->types[r], dimension);
        if (in_results) {
            region->rows[region->row_count++] = *dimension;
        } else {
            region->column = *dimension;
            columns++;
        }
    }
    if (columns == 1) region->row_bytes = region->column.extent * element_bytes(type->element);
    return columns == 1 && !region->column.bound && region->row_count > 0 && set_bound(region);
}

static bool makes_logits(const LossRegion *region) {
    for (uint32_t id = 0; id < region->graph->nodes.count; id++)
        if (region->parts[id] == PART_ROW && graph_node(region->graph, id)->op == OP_dot &&
            loss_region_is_wide(region, (Value){id, 0}))
            return true;
    return false;
}

static void make_tables(LossRegion *region) {
    const Graph *graph = region->graph;
    Arena *arena = graph->ir->arena;
    size_t count = graph->nodes.count;
    region->parts = ARENA_ARRAY(arena, Part, count);
    region->levels = ARENA_ARRAY(arena, uint32_t, count);
    region->chains = ARENA_ARRAY(arena, uint32_t, count);
    region->uses = graph_uses(graph);
}

static bool take_static(LossRegion *region) {
    do {
        for (bool changed = true; changed;) {
            changed = false;
            if (!grow(region, &changed)) return false;
        }
    } while (absorb(region));
    return true;
}

bool loss_region_find(LossRegion *region, const Graph *graph, uint32_t id) {
    *region = (LossRegion){.graph = graph};
    const Node *call = graph_node(graph, id);
    bool found = false;
    for (uint32_t i = 0; i < call->operand_count && !found; i++)
        found = set_dimensions(region, call, call->operands[i]);
    if (!found || !is_row_part(region, call)) return false;
    make_tables(region);  // no sooner: every layer has calls, most of them end here
    region->parts[id] = PART_ROW;
    if (region->bound ? !take_bounded(region) : !take_static(region)) return false;
    if (!makes_logits(region)) return false;
    for (uint32_t node = 0; node < graph->nodes.count; node++)
        if (region->parts[node] == PART_REDUCED) find_sink(region, node);
    if (!settle_sinks(region)) return false;
    return !region->bound || region->level_count == 1;  // parts of a second sweep would need wholes
}
