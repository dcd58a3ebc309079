// fuse-loss: the head and its loss in one sweep over chunks of rows; logits are never whole.
//
//   before: logits = dot(h, w) {over=[embed]}           logits[batch, time, vocab]
//           loss, lse = call(logits, targets)
//           d_logits = call(logits, targets, loss, lse, d_loss, d_lse)
//           dh = dot(d_logits, w);  acc1 = accumulate(acc, dot(d_logits, h))
//   after:  for each chunk of rows: all of that over slices of h, targets, d_loss; acc1 is one chain over
//           the chunks; loss and dh are concats of the chunks' parts
//
// Requires: calls not yet inlined (expand-calls comes later); rows static, or bounded by a `compact`: then
// chunks are cut at its capacity, each with a `compact` of its own, and those beyond the extent are empty
// when they run. Works before `gradient` too.
// Leaves: nothing wide (rows times vocab) but chunks of at most `bytes`; where those are few rows, up to eight
// times as much for 256 of them, and 64 in any case: a chunk reads the head twice, and reads and writes its
// gradient, 6 * rows FLOPs for every 16 bytes. The chunks stand one after the other, so the order as it
// stands needs the memory of one. Where a cotangent depends on all losses (a mean over something that they decide),
// there are two sweeps, and the second computes its chunks of logits again. What a region is: passes/loss_region.h.
#include <string.h>

#include "ir/op.h"
#include "passes/loss_region.h"

// Chunks: about, so that the graph stays small.
enum { ROWS_FEW = 256, BYTES_FEW = 8, ROWS_MIN = 64, ROWS_STEP = 16, CHUNKS_MAX = 512 };

typedef struct Meaning {            // of a composite at a chunk's extents
    const Graph *function;
    int64_t extent[RANK_MAX];
    const char *bound;
    Graph *graph;
} Meaning;

typedef struct Sweep {
    LossRegion region;
    int64_t chunk[RANK_MAX];        // rows of a chunk along each row dimension
    int64_t parts[RANK_MAX];        // how many chunks along each
    int64_t cells;                  // product of parts
    bool *done;                     // by level
    // The chunk under construction
    uint32_t level;
    int64_t start[RANK_MAX], extent[RANK_MAX];
    const char *bound;              // of the chunk's rows, where those of the region have one
    Value **made;                   // by node: its results in this chunk, or NULL
    Value *carried;                 // by node: sums so far of reduced nodes and of chains of sinks
    int64_t clone_region;           // of what is computed again
    VECTOR(Meaning) meanings;
} Sweep;

static bool demand(Rewrite *rewrite, Value old);

// ---- Chunks ----

static int64_t round_chunk(int64_t extent, int64_t target) {
    int64_t parts = (extent + target - 1) / target;
    if (extent % parts == 0) return extent / parts;
    return target;
}

static int64_t rows_within(const LossRegion *region, int64_t bytes) {
    return bytes / region->row_bytes / ROWS_STEP * ROWS_STEP;
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

// As many whole inner rows as fit, in multiples of 16; outer dimensions are then taken one by one.
static void choose_chunks(Sweep *sweep, int64_t bytes) {
    const LossRegion *region = &sweep->region;
    int64_t target = rows_within(region, bytes);
    if (target < ROWS_FEW) target = least(rows_within(region, BYTES_FEW * bytes), ROWS_FEW);
    if (target < ROWS_MIN) target = ROWS_MIN;
    int64_t rows = 1;  // fewer than 2^47, like the elements of any value
    for (int i = 0; i < region->row_count; i++) rows *= region->rows[i].extent;
    if (target < rows / CHUNKS_MAX) target = rows / CHUNKS_MAX;
    sweep->cells = 1;
    for (int i = region->row_count; i-- > 0;) {
        int64_t extent = region->rows[i].extent;
        sweep->chunk[i] = target >= extent ? extent : round_chunk(extent, target);
        target = target >= extent ? target / extent : 1;
        sweep->parts[i] = (extent + sweep->chunk[i] - 1) / sweep->chunk[i];
        sweep->cells *= sweep->parts[i];
    }
}

static void set_cell(Sweep *sweep, int64_t cell) {
    if (sweep->region.bound)
        sweep->bound =
            names_format(sweep->region.graph->ir->names, "%s.%lld", sweep->region.bound, (long long)cell);
    for (int i = sweep->region.row_count; i-- > 0;) {
        sweep->start[i] = cell % sweep->parts[i] * sweep->chunk[i];
        int64_t left = sweep->region.rows[i].extent - sweep->start[i];
        sweep->extent[i] = left < sweep->chunk[i] ? left : sweep->chunk[i];
        cell /= sweep->parts[i];
    }
    for (size_t id = 0; id < sweep->region.graph->nodes.count; id++) sweep->made[id] = NULL;
}

// The positions of the chunk's rows.
static Value compact_rows(Rewrite *rewrite, uint32_t id) {
    const Sweep *sweep = rewrite->data;
    const Node *node = graph_node(sweep->region.graph, id);
    Value mask = rewrite_value(rewrite, node->operands[0]);
    int64_t before = attribute_integer(node, ATTRIBUTE_start, 0);
    Attribute attributes[] = {{.key = ATTRIBUTE_along, .text = attribute_text(node, ATTRIBUTE_along)},
                              {.key = ATTRIBUTE_name, .text = sweep->bound},
                              {.key = ATTRIBUTE_start, .integer = before + sweep->start[0]},
                              {.key = ATTRIBUTE_count, .integer = sweep->extent[0]}};
    return graph_add(rewrite->to, OP_compact, &mask, 1, attributes, 4, node->place);
}

static Value slice_rows(const Rewrite *rewrite, Value value, Place place) {
    const Sweep *sweep = rewrite->data;
    for (int i = 0; i < sweep->region.row_count; i++) {
        const Dimension *row = &sweep->region.rows[i];
        if (sweep->extent[i] == row->extent || value_is_none(value)) continue;
        if (type_find(graph_type(rewrite->to, value), row->name) < 0) continue;
        value = build_slice(rewrite->to, value, row->name, sweep->start[i], sweep->extent[i], place);
    }
    return value;
}

// ---- One node in one chunk ----

static Value *make_node(Rewrite *rewrite, uint32_t id, bool again);

static bool is_inside(const Sweep *sweep, Value value) {
    return sweep->region.parts[value.node] != PART_OUTSIDE;
}

// The rows of `old` that belong to this chunk.
static Value chunk_value(Rewrite *rewrite, Value old, Place place, bool again) {
    Sweep *sweep = rewrite->data;
    if (is_inside(sweep, old)) {
        if (sweep->made[old.node]) return sweep->made[old.node][old.result];
        if (sweep->region.levels[old.node] == sweep->level || loss_region_is_wide(&sweep->region, old)) {
            Value *results =
                make_node(rewrite, old.node, again || sweep->region.levels[old.node] != sweep->level);
            return results ? results[old.result] : VALUE_NONE;
        }
    }
    const char *bound = sweep->region.bound;
    if (bound && loss_region_row(&sweep->region, graph_type(sweep->region.graph, old), 0))
        return compact_rows(rewrite, old.node);
    return bound ? rewrite_value(rewrite, old) : slice_rows(rewrite, rewrite_value(rewrite, old), place);
}

// The dimension in a chunk.
static Dimension chunk_dimension(const Sweep *sweep, Dimension dimension) {
    for (int r = 0; r < sweep->region.row_count; r++) {
        if (sweep->region.bound ? sweep->region.bound != dimension.bound
                                : sweep->region.rows[r].name != dimension.name)
            continue;
        dimension.extent = sweep->extent[r];
        dimension.bound = sweep->bound;
    }
    return dimension;
}

static Attribute chunk_attribute(const Sweep *sweep, Arena *arena, Attribute attribute) {
    if (attribute_kind(attribute.key) != KIND_DIMENSIONS) return attribute;
    Dimension *dimensions = ARENA_ARRAY(arena, Dimension, attribute.count);
    for (uint32_t i = 0; i < attribute.count; i++)
        dimensions[i] = chunk_dimension(sweep, attribute.dimensions[i]);
    attribute.dimensions = dimensions;
    return attribute;
}

static Graph *meaning_at(Sweep *sweep, const Node *call) {
    Graph *function = attribute_graph(call, ATTRIBUTE_function);
    int count = sweep->region.row_count;
    Meaning meaning = {.function = function, .bound = sweep->bound};
    Dimension map[RANK_MAX];
    for (int i = 0; i < count; i++) {
        map[i] = chunk_dimension(sweep, *loss_region_row(&sweep->region, call->types[0], i));
        meaning.extent[i] = sweep->extent[i];
    }
    for (size_t i = 0; i < sweep->meanings.count; i++) {
        const Meaning *known = &sweep->meanings.items[i];
        if (known->function == function && known->bound == meaning.bound &&
            memcmp(known->extent, meaning.extent, sizeof meaning.extent) == 0)
            return known->graph;
    }
    meaning.graph = graph_retype(function, function->name, map, (uint32_t)count);
    vector_push(function->ir->arena, &sweep->meanings, meaning);
    return meaning.graph;
}

static Value *make_node(Rewrite *rewrite, uint32_t id, bool again) {
    Sweep *sweep = rewrite->data;
    const Node *node = graph_node(sweep->region.graph, id);
    Arena *arena = rewrite->to->ir->arena;
    Value *operands = ARENA_ARRAY(arena, Value, node->operand_count + 1);
    Value *results = ARENA_ARRAY(arena, Value, node->result_count + 1);
    for (uint32_t i = 0; i < node->operand_count; i++) {
        operands[i] = chunk_value(rewrite, node->operands[i], node->place, again);
        if (value_is_none(operands[i])) return NULL;
    }
    if (node->op == OP_call) {
        const Graph *function = meaning_at(sweep, node);
        if (!function || !rewrite_splice(rewrite, function, operands, results)) return NULL;
    } else {
        Attribute *attributes = ARENA_ARRAY(arena, Attribute, node->attributes.count + 1);
        uint32_t count = 0;
        for (uint32_t i = 0; i < node->attributes.count; i++)
            if (!again || node->attributes.items[i].key != ATTRIBUTE_region)
                attributes[count++] = chunk_attribute(sweep, arena, node->attributes.items[i]);
        if (again) attributes[count++] = (Attribute){.key = ATTRIBUTE_region, .integer = sweep->clone_region};
        Value value =
            graph_add(rewrite->to, node->op, operands, node->operand_count, attributes, count, node->place);
        if (value_is_none(value)) return NULL;
        for (uint32_t i = 0; i < node->result_count; i++) results[i] = (Value){value.node, i};
    }
    return sweep->made[id] = results;
}

// The chunk's part of a sum joins what the chunks before it gave.
static bool make_reduced(Rewrite *rewrite, uint32_t id) {
    Sweep *sweep = rewrite->data;
    Value *results = make_node(rewrite, id, false);
    if (!results) return false;
    Value *carried = &sweep->carried[id];
    *carried = value_is_none(*carried) ? results[0]
                                       : build_binary(rewrite->to, OP_add, *carried, results[0],
                                                      graph_node(sweep->region.graph, id)->place);
    return !value_is_none(*carried);
}

static bool make_sink(Rewrite *rewrite, uint32_t id) {
    Sweep *sweep = rewrite->data;
    const Node *node = graph_node(sweep->region.graph, id);
    Value *carried = &sweep->carried[sweep->region.chains[id]];
    Value operands[3] = {*carried};
    if (value_is_none(*carried)) operands[0] = rewrite_value(rewrite, node->operands[0]);
    for (uint32_t i = 1; i < node->operand_count; i++) {
        operands[i] = chunk_value(rewrite, node->operands[i], node->place, false);
        if (value_is_none(operands[i])) return false;
    }
    *carried = graph_copy_node(rewrite->to, node, operands);
    return !value_is_none(*carried);
}

static bool is_summed_whole(const Sweep *sweep, uint32_t id) {  // reduced, and not on its way into a sink
    const Graph *graph = sweep->region.graph;
    for (uint32_t user = id + 1; user < graph->nodes.count; user++)
        for (uint32_t i = 0; i < graph_node(graph, user)->operand_count; i++)
            if (graph_node(graph, user)->operands[i].node == id)
                return sweep->region.parts[user] != PART_TAIL && sweep->region.parts[user] != PART_SINK;
    return true;
}

static bool make_part(Rewrite *rewrite, uint32_t id) {
    Sweep *sweep = rewrite->data;
    switch (sweep->region.parts[id]) {
    case PART_SINK: return make_sink(rewrite, id);
    case PART_REDUCED:
        if (is_summed_whole(sweep, id)) return make_reduced(rewrite, id);
        return make_node(rewrite, id, false) != NULL;
    default: return sweep->made[id] || make_node(rewrite, id, false);
    }
}

// ---- A sweep ----

// Is the value, made by rows, needed whole: outside, as an output, or by rows in a later sweep? That may
// also compute wide users of this sweep again, from this value.
static bool makes_wide(const Sweep *sweep, uint32_t id) {
    for (uint32_t r = 0; r < graph_node(sweep->region.graph, id)->result_count; r++)
        if (loss_region_is_wide(&sweep->region, (Value){id, r})) return true;
    return false;
}

static bool is_needed_whole(const Sweep *sweep, Value value) {
    const Graph *graph = sweep->region.graph;
    if (loss_region_is_wide(&sweep->region, value)) return false;
    for (size_t i = 0; i < graph->outputs.count; i++)
        if (value_same(graph->outputs.items[i].value, value)) return true;
    for (uint32_t user = value.node + 1; user < graph->nodes.count; user++) {
        const Node *node = graph_node(graph, user);
        bool inside = sweep->region.parts[user] != PART_OUTSIDE &&
                      sweep->region.levels[user] == sweep->region.levels[value.node] &&
                      (sweep->region.level_count == 1 || !makes_wide(sweep, user));
        for (uint32_t i = 0; !inside && i < node->operand_count; i++)
            if (value_same(node->operands[i], value)) return true;
    }
    return false;
}

// Chunks of all cells, row-major over the grid, become one value: innermost dimension first.
static Value join(Rewrite *rewrite, Value *chunks, Place place) {
    const Sweep *sweep = rewrite->data;
    int64_t count = sweep->cells;
    for (int i = sweep->region.row_count; i-- > 0; count /= sweep->parts[i]) {
        if (sweep->parts[i] == 1) continue;
        Attribute along = {.key = ATTRIBUTE_along, .text = sweep->region.rows[i].name};
        for (int64_t j = 0; j < count / sweep->parts[i]; j++)
            chunks[j] = graph_add(rewrite->to, OP_concat, chunks + j * sweep->parts[i],
                                  (uint32_t)sweep->parts[i], &along, 1, place);
    }
    return chunks[0];
}

typedef struct Whole {  // a value that is put together from its chunks
    Value old;
    Value *chunks;
} Whole;
typedef VECTOR(Whole) Wholes;

static Wholes list_wholes(const Sweep *sweep, uint32_t level, Arena *arena) {
    Wholes wholes = {0};
    for (uint32_t id = 0; id < sweep->region.graph->nodes.count; id++) {
        if (sweep->region.parts[id] != PART_ROW || sweep->region.levels[id] != level) continue;
        for (uint32_t r = 0; r < graph_node(sweep->region.graph, id)->result_count; r++)
            if (is_needed_whole(sweep, (Value){id, r}))
                vector_push(arena, &wholes, ((Whole){{id, r}, ARENA_ARRAY(arena, Value, sweep->cells)}));
    }
    return wholes;
}

// Whatever node `id` reads in this sweep, from outside or from earlier sweeps, must be there first; wide
// values of earlier sweeps are computed again, so what they read counts too.
static bool demand_operands(Rewrite *rewrite, uint32_t id, uint32_t level, bool *visited) {
    const LossRegion *region = &((Sweep *)rewrite->data)->region;
    if (visited[id]) return true;
    visited[id] = true;
    const Node *node = graph_node(region->graph, id);
    for (uint32_t i = 0; i < node->operand_count; i++) {
        Value operand = node->operands[i];
        bool inside = region->parts[operand.node] != PART_OUTSIDE;
        if (inside && region->levels[operand.node] == level) continue;
        bool again = inside && loss_region_is_wide(region, operand);
        if (again ? !demand_operands(rewrite, operand.node, level, visited) : !demand(rewrite, operand))
            return false;
    }
    return true;
}

static bool demand_all_operands(Rewrite *rewrite, uint32_t level) {
    const LossRegion *region = &((Sweep *)rewrite->data)->region;
    bool *visited = ARENA_ARRAY(rewrite->to->ir->arena, bool, region->graph->nodes.count);
    for (uint32_t id = 0; id < region->graph->nodes.count; id++)
        if (region->parts[id] != PART_OUTSIDE && region->levels[id] == level &&
            !demand_operands(rewrite, id, level, visited))
            return false;
    return true;
}

static bool run_cell(Rewrite *rewrite, int64_t cell, const Wholes *wholes) {
    Sweep *sweep = rewrite->data;
    set_cell(sweep, cell);
    for (uint32_t id = 0; id < sweep->region.graph->nodes.count; id++)
        if (sweep->region.parts[id] != PART_OUTSIDE && sweep->region.levels[id] == sweep->level &&
            !make_part(rewrite, id))
            return false;
    for (size_t i = 0; i < wholes->count; i++)
        wholes->items[i].chunks[cell] = sweep->made[wholes->items[i].old.node][wholes->items[i].old.result];
    return true;
}

static bool run_level(Rewrite *rewrite, uint32_t level) {
    Sweep *sweep = rewrite->data;
    const Graph *graph = sweep->region.graph;
    if (!demand_all_operands(rewrite, level)) return false;
    sweep->level = level;
    Wholes wholes = list_wholes(sweep, level, rewrite->to->ir->arena);
    for (int64_t cell = 0; cell < sweep->cells; cell++)
        if (!run_cell(rewrite, cell, &wholes)) return false;
    for (size_t i = 0; i < wholes.count; i++)
        rewrite_set(
            rewrite, wholes.items[i].old,
            join(rewrite, wholes.items[i].chunks, graph_node(graph, wholes.items[i].old.node)->place));
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        if (sweep->region.levels[id] != level) continue;
        if (sweep->region.parts[id] == PART_SINK)
            rewrite_set(rewrite, (Value){id, 0}, sweep->carried[sweep->region.chains[id]]);
        if (sweep->region.parts[id] == PART_REDUCED && is_summed_whole(sweep, id))
            rewrite_set(rewrite, (Value){id, 0}, sweep->carried[id]);
    }
    sweep->done[level] = true;
    return !rewrite->failed;
}

// ---- The rest of the graph, in its order; a sweep runs when something first needs it, a link of a chain
// among that: one link must not be half made when the sweep of another loss extends the same chain. ----

// Extents that the graph computes stand before what is as long as they say.
static bool demand_bounds(Rewrite *rewrite, const Node *node) {
    for (uint32_t r = 0; r < node->result_count; r++)
        for (int d = 0; d < node->types[r]->rank; d++) {
            const char *bound = node->types[r]->dimensions[d].bound;
            Value value = bound ? graph_find_bound(rewrite->from, bound) : VALUE_NONE;
            if (!value_is_none(value) && !demand(rewrite, value)) return false;
        }
    return true;
}

static bool demand(Rewrite *rewrite, Value old) {
    const Sweep *sweep = rewrite->data;
    if (!value_is_none(rewrite_value(rewrite, old))) return true;
    if (is_inside(sweep, old)) {
        uint32_t level = sweep->region.levels[old.node];
        if (sweep->done[level]) INTERNAL_ERROR("fuse-loss left a value of its sweep behind");
        if (!run_level(rewrite, level)) return !rewrite_fail(rewrite);
        return true;
    }
    const Node *node = graph_node(rewrite->from, old.node);
    for (uint32_t i = 0; i < node->operand_count; i++)
        if (!demand(rewrite, node->operands[i])) return false;
    if (node->op != OP_compact && !demand_bounds(rewrite, node)) return false;
    rewrite_copy(rewrite, old.node, NULL);
    return !rewrite->failed;
}

static bool fuse_node(Rewrite *rewrite, uint32_t id) {
    const Sweep *sweep = rewrite->data;
    if (rewrite->from != sweep->region.graph) return false;  // the meaning of a composite
    if (!is_inside(sweep, (Value){id, 0}) || sweep->region.parts[id] == PART_SINK)
        demand(rewrite, (Value){id, 0});
    return true;
}

static Graph *fuse_region(PassContext *context, const LossRegion *region, int64_t bytes) {
    Arena *arena = context->ir->arena;
    size_t count = region->graph->nodes.count;
    Sweep sweep = {.region = *region, .clone_region = 1};
    choose_chunks(&sweep, bytes);
    sweep.done = ARENA_ARRAY(arena, bool, region->level_count);
    sweep.made = ARENA_ARRAY(arena, Value *, count);
    sweep.carried = ARENA_ARRAY(arena, Value, count);
    for (uint32_t id = 0; id < count; id++) {
        sweep.carried[id] = VALUE_NONE;
        int64_t used = attribute_integer(graph_node(region->graph, id), ATTRIBUTE_region, 0);
        if (used >= sweep.clone_region) sweep.clone_region = used + 1;
    }
    Rewrite *rewrite = rewrite_begin(context, region->graph, region->graph->name, fuse_node, &sweep);
    if (!rewrite_inputs(rewrite) || !rewrite_nodes(rewrite)) return NULL;
    for (size_t i = 0; i < region->graph->outputs.count; i++)
        if (!demand(rewrite, region->graph->outputs.items[i].value)) return NULL;
    rewrite_outputs(rewrite);
    return rewrite->to;
}

Graph *fuse_loss(PassContext *context, const Graph *graph) {
    int64_t bytes = pass_integer(context, "bytes");
    Graph *result = rewrite_graph(context, graph, graph->name, NULL, NULL);
    for (uint32_t id = 0; result && id < result->nodes.count; id++) {
        LossRegion region;
        if (graph_node(result, id)->op != OP_call || !loss_region_find(&region, result, id)) continue;
        Sweep sweep = {.region = region};
        choose_chunks(&sweep, bytes);
        if (sweep.cells == 1) continue;
        result = fuse_region(context, &region, bytes);
        id = 0;  // the region's calls are gone; look for another
    }
    return result;
}
