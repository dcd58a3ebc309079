// lower: a flat graph -> a program, one launch per node that computes something.
//
//   y = add(x, rename(b))      ->  launch add(x, b) -> y          (rename is only a view)
//   g' = accumulate(g, v)      ->  launch accumulate(v) -> g      (in place; g' has g's storage)
//
// Requires: no stacks; calls only with a kernel that `has_kernel` accepts.
// Leaves: launches in the order of the nodes; every output in its buffer; nodes that no output needs
// are gone. Storage is settled here, by four rules:
//  - An output that replaces a state input is computed in the state's buffer, where its producer makes
//    a fresh buffer and the old state has no later reader; else it is copied at the end.
//  - accumulate, scatter_add and scatter work in place, where the old value has no later reader and
//    its storage is a temporary or the state that the chain ends in; else on a copy. A chain of accumulate
//    that starts at zero and reaches every element stores what comes first: nothing is cleared.
//  - A value that only a concat or a pad uses is computed in its part of the result.
//  - All other values get a fresh temporary.
#include <string.h>

#include "ir/op.h"
#include "passes/program_passes.h"
#include "passes/rewrite.h"

enum { NEVER = INT32_MAX };  // a reader after all nodes: the caller, or a copy at the end

typedef struct Lower {
    Lowering lowering;
    const Graph *graph;
    Program *program;
    bool (*has_kernel)(const char *kernel);
    uint32_t slot_count;
    const bool *needed;       // per node
    int32_t *last_use;        // per slot: last node that reads it, directly or through views; -1: none
    uint32_t *target;         // per slot: the buffer of the output that this value should be computed in
    uint32_t *output_buffer;  // per output
    bool *starts;             // per node: accumulates onto zeros that need not be there
    bool *stores;             // per node: the first of its chain that reaches its part
    VECTOR(int32_t) busy;     // per buffer: last node that reads what it holds now
} Lower;

static uint32_t slot_of(const Lower *lower, Value value) {
    return lower->lowering.slots[value.node] + value.result;
}

// Ops whose result may be a view of operand 0.
static bool may_be_view(Op op) {
    return op == OP_rename || op == OP_split || op == OP_merge || op == OP_transpose || op == OP_broadcast ||
           op == OP_slice || op == OP_pick || op == OP_reverse || op == OP_stop_gradient;
}

static bool consumes_first(Op op) { return op == OP_accumulate || op == OP_scatter_add || op == OP_scatter; }

static void find_last_uses(Lower *lower) {
    const Graph *graph = lower->graph;
    for (uint32_t i = 0; i < lower->slot_count; i++) lower->last_use[i] = -1;
    for (size_t i = 0; i < graph->outputs.count; i++)
        lower->last_use[slot_of(lower, graph->outputs.items[i].value)] = NEVER;
    for (size_t i = graph->nodes.count; i-- > 0;) {
        const Node *node = graph_node(graph, (uint32_t)i);
        if (!lower->needed[i]) continue;
        int32_t through = may_be_view(node->op) ? lower->last_use[lower->lowering.slots[i]] : -1;
        for (uint32_t o = 0; o < node->operand_count; o++) {
            int32_t *last = &lower->last_use[slot_of(lower, node->operands[o])];
            if (*last < (int32_t)i) *last = (int32_t)i;
            if (*last < through) *last = through;
        }
    }
}

static uint32_t add_buffer(Lower *lower, Buffer buffer) {
    buffer.offset = -1;
    buffer.bytes = type_bytes(buffer.type);
    return program_add_buffer(lower->program, buffer);
}

// Last node that reads what the buffer holds now. Buffers appear during lowering: grow on demand.
static int32_t *busy(Lower *lower, uint32_t buffer) {
    while (lower->busy.count <= buffer) vector_push(lower->program->ir->arena, &lower->busy, -1);
    return &lower->busy.items[buffer];
}

static void add_inputs(Lower *lower) {
    for (size_t i = 0; i < lower->graph->inputs.count; i++) {
        uint32_t id = lower->graph->inputs.items[i];
        const Node *node = graph_node(lower->graph, id);
        Role role = (Role)attribute_integer(node, ATTRIBUTE_role, ROLE_ARGUMENT);
        Buffer buffer = {.kind = role_is_state(role) ? BUFFER_STATE : BUFFER_INPUT,
                         .role = role,
                         .name = attribute_text(node, ATTRIBUTE_name),
                         .type = node->types[0]};
        uint32_t number = add_buffer(lower, buffer);
        lower->lowering.views[lower->lowering.slots[id]] = view_row_major(number, node->types[0]);
        *busy(lower, number) = lower->last_use[lower->lowering.slots[id]];
    }
}

// Walks from each output back through the accumulations that it ends: all of them, and the value that
// they start from, would best live in the output's buffer.
static void add_outputs(Lower *lower) {
    const Graph *graph = lower->graph;
    for (uint32_t i = 0; i < lower->slot_count; i++) lower->target[i] = UINT32_MAX;
    for (size_t i = 0; i < graph->outputs.count; i++) {
        const Output *output = &graph->outputs.items[i];
        Value value = output->value;
        uint32_t buffer;
        if (value_is_none(output->replaces))
            buffer = add_buffer(
                lower,
                (Buffer){.kind = BUFFER_OUTPUT, .name = output->name, .type = graph_type(graph, value)});
        else
            buffer = lower->lowering.views[slot_of(lower, output->replaces)].buffer;
        lower->output_buffer[i] = buffer;
        for (;;) {
            uint32_t slot = slot_of(lower, value);
            if (lower->target[slot] != UINT32_MAX) break;
            lower->target[slot] = buffer;
            if (!consumes_first(graph_node(graph, value.node)->op)) break;
            Value acc = graph_node(graph, value.node)->operands[0];
            if (lower->last_use[slot_of(lower, acc)] > (int32_t)value.node)
                break;  // needed later: a copy changes
            value = acc;
        }
    }
}

// ---- Sums that start at zero ----

static bool is_zero(const Graph *graph, Value value) {
    const Node *node = graph_node(graph, value.node);
    while (node->op == OP_broadcast) node = graph_node(graph, node->operands[0].node);
    return node->op == OP_constant && attribute_number(node, ATTRIBUTE_value, 1) == 0;
}

// The links of the chain from `id` on that are the first to reach their indices of `along`, as long as only
// such picks come. True where they reach all of them.
static bool mark_first_links(Lower *lower, uint32_t id, const uint32_t *next) {
    const Graph *graph = lower->graph;
    const char *along = attribute_text(graph_node(graph, id), ATTRIBUTE_along);
    const Type *type = graph_node(graph, id)->types[0];
    int64_t extent = along ? type->dimensions[type_find(type, along)].extent : 1, reached = 0;
    Arena *scratch = lower->lowering.scratch->arena;
    bool *seen = ARENA_ARRAY(scratch, bool, (size_t)extent);
    VECTOR(uint32_t) first = {0};
    for (; id && reached < extent; id = next[id]) {
        const Node *node = graph_node(graph, id);
        if (node->op != OP_accumulate || attribute_text(node, ATTRIBUTE_along) != along) break;
        int64_t at = attribute_integer(node, ATTRIBUTE_at, 0);
        if (seen[at]) continue;
        seen[at] = true;
        reached++;
        vector_push(scratch, &first, id);
    }
    for (size_t i = 0; reached == extent && i < first.count; i++) lower->stores[first.items[i]] = true;
    arena_reset(scratch);
    return reached == extent;
}

static void find_starts(Lower *lower) {
    const Graph *graph = lower->graph;
    uint32_t *next = ARENA_ARRAY(lower->program->ir->arena, uint32_t, graph->nodes.count + 1);  // 0: none
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        if (lower->needed[id] && consumes_first(node->op)) next[node->operands[0].node] = id;
    }
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        if (lower->needed[id] && node->op == OP_accumulate && is_zero(graph, node->operands[0]))
            lower->starts[id] = mark_first_links(lower, id, next);
    }
}

// ---- Parts of a concat or a pad ----

// Uses of every slot by nodes that are needed and by outputs.
static uint32_t *count_uses(const Lower *lower) {
    const Graph *graph = lower->graph;
    uint32_t *uses = ARENA_ARRAY(lower->program->ir->arena, uint32_t, lower->slot_count + 1);
    for (size_t i = 0; i < graph->outputs.count; i++) uses[slot_of(lower, graph->outputs.items[i].value)]++;
    for (size_t i = 0; i < graph->nodes.count; i++)
        for (uint32_t o = 0; lower->needed[i] && o < graph_node(graph, (uint32_t)i)->operand_count; o++)
            uses[slot_of(lower, graph_node(graph, (uint32_t)i)->operands[o])]++;
    return uses;
}

static View part_of(const View *whole, const Type *type, const char *along, int64_t start) {
    View part = *whole;
    part.type = type;
    part.offset += start * whole->stride[type_find(whole->type, along)];
    return part;
}

// The result's buffer is made here, and the operands' views, so that they are computed in place. Nodes in
// reverse: a concat of concats comes before those.
static void place_parts(Lower *lower) {
    const Graph *graph = lower->graph;
    const uint32_t *uses = count_uses(lower);
    for (size_t i = graph->nodes.count; i-- > 0;) {
        const Node *node = graph_node(graph, (uint32_t)i);
        if (!lower->needed[i] || (node->op != OP_concat && node->op != OP_pad)) continue;
        uint32_t slot = lower->lowering.slots[i];
        View *whole = &lower->lowering.views[slot];
        if (lower->target[slot] != UINT32_MAX) continue;
        if (!whole->type)
            *whole = view_row_major(add_buffer(lower, (Buffer){.kind = BUFFER_TEMPORARY,
                                                               .type = node->types[0],
                                                               .name = op_name(node->op)}),
                                    node->types[0]);
        const char *along = attribute_text(node, ATTRIBUTE_along);
        int64_t start = node->op == OP_pad ? attribute_integer(node, ATTRIBUTE_start, 0) : 0;
        for (uint32_t o = 0; o < node->operand_count; o++) {
            Value value = node->operands[o];
            const Type *type = graph_type(graph, value);
            Op op = graph_node(graph, value.node)->op;
            uint32_t part = slot_of(lower, value);
            // All dimensions stand in the same order; a kernel with a name may want its own strides.
            bool fits = !may_be_view(op) && !consumes_first(op) && op != OP_input && op != OP_call;
            for (int d = 0; d < type->rank; d++)
                fits &= type->dimensions[d].name == node->types[0]->dimensions[d].name;
            if (fits && uses[part] == 1 && lower->target[part] == UINT32_MAX)
                lower->lowering.views[part] = part_of(whole, type, along, start);
            start += type->dimensions[type_find(type, along)].extent;
        }
    }
}

// A launch that copies elements onto themselves: a part that was computed where it belongs.
static bool copies_onto_itself(const Program *program, const Launch *launch) {
    const Nest *nest = program->kernels.items[launch->kernel].nest;
    if (!nest || nest->stage_count != 1 || nest->stages[0].kind != STAGE_STORE || nest->operand_count != 1)
        return false;
    const Formula *load = &nest->formulas.items[nest->stages[0].formula];
    if (load->kind != FORMULA_LOAD || load->operand != nest->stages[0].operand) return false;
    for (int d = 0; d < nest->operands[0].rank; d++)
        if (memcmp(&load->index[d], &nest->stages[0].index[d], sizeof *load->index) != 0) return false;
    return true;
}

static void drop_copies_onto_themselves(Program *program, size_t begin) {
    size_t kept = begin;
    for (size_t i = begin; i < program->launches.count; i++)
        if (!copies_onto_itself(program, &program->launches.items[i]))
            program->launches.items[kept++] = program->launches.items[i];
    program->launches.count = kept;
}

// ---- Outputs and accumulators ----

static void copy_view(Lower *lower, const View *from, const View *to) {
    NestBuilder builder = nest_builder(&lower->lowering, "copy");
    nest_builder_outer(&builder, to->type, NULL, 0);
    View source = *from;  // same dimensions in the same order; names may differ for a replaced state
    source.type = to->type;
    nest_builder_store(&builder, STAGE_STORE, to, nest_builder_load(&builder, &source), NULL, 0);
    nest_builder_finish(&builder);
}

static bool view_equal(const View *a, const View *b) {
    if (a->buffer != b->buffer || a->offset != b->offset || a->type->rank != b->type->rank) return false;
    for (int d = 0; d < a->type->rank; d++)
        if (a->type->dimensions[d].extent != b->type->dimensions[d].extent ||
            (a->stride[d] != b->stride[d] && a->type->dimensions[d].extent > 1))
            return false;
    return true;
}

// May the node write its result over what `buffer` holds? No later node may read the old content, and
// the node itself only if it is elementwise and reads each element where it writes it.
static bool may_overwrite(Lower *lower, uint32_t buffer, const Type *type) {
    int32_t id = (int32_t)lower->lowering.node_id, last = *busy(lower, buffer);
    const Node *node = lower->lowering.node;
    if (last != id) return last < id;
    if (strcmp(op_table[node->op]->family, "elementwise") != 0) return false;
    View result = view_row_major(buffer, type);
    for (uint32_t i = 0; i < node->operand_count; i++) {
        const View *view = lowering_view(&lower->lowering, node->operands[i]);
        if (view->buffer == buffer && (!type_same_dimensions(view->type, type) || !view_equal(view, &result)))
            return false;
    }
    return true;
}

// Sends results that an output waits for to that output's buffer.
static void place_results(Lower *lower) {
    const Node *node = lower->lowering.node;
    if (may_be_view(node->op) || consumes_first(node->op)) return;
    for (uint32_t r = 0; r < node->result_count; r++) {
        uint32_t slot = lower->lowering.slots[lower->lowering.node_id] + r;
        uint32_t buffer = lower->target[slot];
        if (buffer == UINT32_MAX || !may_overwrite(lower, buffer, node->types[r])) continue;
        if (lower->program->buffers.items[buffer].type->element != node->types[r]->element) continue;
        lower->lowering.views[slot] = view_row_major(buffer, node->types[r]);
    }
}

static bool view_is_writable(const View *view) {
    for (int d = 0; d < view->type->rank; d++)
        if (view->stride[d] == 0 && view->type->dimensions[d].extent > 1) return false;
    return true;
}

// May the accumulating node change operand 0 in place?
static bool works_in_place(Lower *lower, const View *acc) {
    const Node *node = lower->lowering.node;
    const Buffer *buffer = &lower->program->buffers.items[acc->buffer];
    uint32_t target = lower->target[lower->lowering.slots[lower->lowering.node_id]];
    if (buffer->kind == BUFFER_INPUT || !view_is_writable(acc)) return false;
    if (buffer->kind == BUFFER_STATE && target != acc->buffer) return false;
    if (*busy(lower, acc->buffer) > (int32_t)lower->lowering.node_id) return false;
    for (uint32_t i = 1; i < node->operand_count; i++)
        if (lowering_view(&lower->lowering, node->operands[i])->buffer == acc->buffer) return false;
    return true;
}

// A copy of operand 0 that the node may change, in the target's buffer where that is free already. Of zeros
// that need not be there it is only the place.
static View copy_accumulator(Lower *lower, const View *acc) {
    uint32_t buffer = lower->target[lower->lowering.slots[lower->lowering.node_id]];
    bool target_is_free = buffer != UINT32_MAX && *busy(lower, buffer) < (int32_t)lower->lowering.node_id;
    if (!target_is_free)
        buffer =
            add_buffer(lower, (Buffer){.kind = BUFFER_TEMPORARY, .type = acc->type, .name = "accumulator"});
    View copy = view_row_major(buffer, acc->type);
    if (!lower->starts[lower->lowering.node_id]) copy_view(lower, acc, &copy);
    return copy;
}

static bool lower_call(Lower *lower) {
    const Node *node = lower->lowering.node;
    const char *kernel = attribute_text(node, ATTRIBUTE_kernel);
    if (!kernel || !lower->has_kernel || !lower->has_kernel(kernel))
        return report_error(lower->program->ir->diagnostics, node->place, "E0520",
                            "a call that is not inlined, with no kernel for it here");
    uint32_t count = node->operand_count + node->result_count;
    if (count > NEST_OPERAND_MAX)
        return report_error(lower->program->ir->diagnostics, node->place, "E0521",
                            "kernel %s has more than %d operands and results", kernel, NEST_OPERAND_MAX);
    NamedKernel *named = ARENA_NEW(lower->program->ir->arena, NamedKernel);
    Launch launch = {.operand_count = (int)count,
                     .workspaces = NO_WORKSPACES,
                     .place = node->place,
                     .node = lower->lowering.node_id,
                     .region = attribute_integer(node, ATTRIBUTE_region, 0)};
    *named = (NamedKernel){.name = kernel,
                           .operand_count = (int)count,
                           .place = node->place,
                           .output_start = (int)node->operand_count,
                           .meaning = attribute_graph(node, ATTRIBUTE_function)};
    const Attribute *options = attribute_find(node, ATTRIBUTE_options);
    if (options) {
        named->options = options->options;
        named->option_count = options->count;
    }
    for (uint32_t i = 0; i < count; i++) {
        bool result = i >= node->operand_count;
        const View *view = result ? lowering_result(&lower->lowering, i - node->operand_count)
                                  : lowering_view(&lower->lowering, node->operands[i]);
        named->types[i] = view->type;
        memcpy(named->strides[i], view->stride, sizeof view->stride);
        launch.buffers[i] = view->buffer;
        launch.offsets[i] = view->offset;
    }
    launch.kernel = program_add_named(lower->program, named);
    vector_push(lower->program->ir->arena, &lower->program->launches, launch);
    return true;
}

static bool lower_op(Lower *lower) {
    const Node *node = lower->lowering.node;
    const OpDefinition *definition = op_table[node->op];
    if (node->op == OP_call) return lower_call(lower);
    if (!definition->lower)
        return report_error(lower->program->ir->diagnostics, node->place, "E0522", "%s cannot be lowered: %s",
                            op_name(node->op), definition->no_lowering);
    return definition->lower(&lower->lowering);
}

// False after an error, of this node or of one that it needs.
static bool lower_node(Lower *lower, uint32_t id) {
    const Node *node = graph_node(lower->graph, id);
    Lowering *lowering = &lower->lowering;
    for (uint32_t i = 0; i < node->operand_count; i++)
        if (!lowering->views[slot_of(lower, node->operands[i])].type) return false;
    lowering->node = node;
    lowering->node_id = id;
    View *acc = NULL, before = {0};
    size_t launches = lower->program->launches.count;
    place_results(lower);
    if (consumes_first(node->op)) {
        acc = &lowering->views[slot_of(lower, node->operands[0])];
        before = *acc;
        if (lower->starts[id] || !works_in_place(lower, acc)) *acc = copy_accumulator(lower, acc);
    }
    lowering->stores = lower->stores[id];
    if (!lower_op(lower)) return false;
    if (acc) *acc = before;
    drop_copies_onto_themselves(lower->program, launches);
    arena_reset(lowering->scratch->arena);
    for (uint32_t r = 0; r < node->result_count; r++) {
        uint32_t slot = lowering->slots[id] + r;
        const View *view = &lowering->views[slot];
        if (!view->type) INTERNAL_ERROR("%s set no view of result %u", op_name(node->op), r);
        int32_t *until = busy(lower, view->buffer);  // consumed: the old value has no reader left
        if (consumes_first(node->op) || *until < lower->last_use[slot]) *until = lower->last_use[slot];
    }
    return true;
}

// Copies what is not in its output's buffer yet. A state that takes the value of another state that is
// replaced too goes through a temporary: all old values are saved before the first is overwritten.
static void finish_outputs(Lower *lower) {
    const Graph *graph = lower->graph;
    size_t count = graph->outputs.count;
    View *from = ARENA_ARRAY(lower->program->ir->arena, View, count + 1),
         *to = ARENA_ARRAY(lower->program->ir->arena, View, count + 1);
    bool *done = ARENA_ARRAY(lower->program->ir->arena, bool, count + 1);
    for (size_t i = 0; i < count; i++) {
        const Output *output = &graph->outputs.items[i];
        from[i] = *lowering_view(&lower->lowering, output->value);
        to[i] = view_row_major(lower->output_buffer[i], graph_type(graph, output->value));
        done[i] = view_equal(&from[i], &to[i]);
    }
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < count; i++) {
            bool is_state = !value_is_none(graph->outputs.items[i].replaces);
            lower->lowering.node_id = graph->outputs.items[i].value.node;
            lower->lowering.node = graph_node(graph, lower->lowering.node_id);
            if (done[i] || is_state != (round > 0)) continue;
            if (round == 1 && lower->program->buffers.items[from[i].buffer].kind == BUFFER_STATE) {
                View saved = view_row_major(
                    add_buffer(lower,
                               (Buffer){.kind = BUFFER_TEMPORARY, .type = to[i].type, .name = "saved"}),
                    to[i].type);
                copy_view(lower, &from[i], &saved);
                from[i] = saved;
            }
            if (round != 1) copy_view(lower, &from[i], &to[i]);
        }
    }
}

Program *lower_graph(const Graph *graph, bool (*has_kernel)(const char *kernel)) {
    Arena *arena = graph->ir->arena;
    Ir scratch = *graph->ir;
    scratch.arena = arena_create();
    Lower lower = {
        .graph = graph, .has_kernel = has_kernel, .program = program_create(graph->ir, graph->name)};
    uint32_t *slots = ARENA_ARRAY(arena, uint32_t, graph->nodes.count + 1);
    for (size_t i = 0; i < graph->nodes.count; i++) {
        slots[i] = lower.slot_count;
        lower.slot_count += graph_node(graph, (uint32_t)i)->result_count;
    }
    lower.lowering = (Lowering){.graph = graph,
                                .program = lower.program,
                                .slots = slots,
                                .scratch = &scratch,
                                .views = ARENA_ARRAY(arena, View, lower.slot_count + 1)};
    lower.needed = graph_live_nodes(graph);
    lower.last_use = ARENA_ARRAY(arena, int32_t, lower.slot_count + 1);
    lower.target = ARENA_ARRAY(arena, uint32_t, lower.slot_count + 1);
    lower.output_buffer = ARENA_ARRAY(arena, uint32_t, graph->outputs.count + 1);
    lower.starts = ARENA_ARRAY(arena, bool, graph->nodes.count + 1);
    lower.stores = ARENA_ARRAY(arena, bool, graph->nodes.count + 1);
    find_last_uses(&lower);
    find_starts(&lower);
    add_inputs(&lower);
    add_outputs(&lower);
    place_parts(&lower);
    bool ok = true;
    for (size_t i = 0; i < graph->nodes.count; i++)
        if (lower.needed[i] && graph_node(graph, (uint32_t)i)->op != OP_input)
            ok &= lower_node(&lower, (uint32_t)i);
    if (ok) finish_outputs(&lower);
    arena_destroy(scratch.arena);
    if (!ok) return NULL;
    program_drop_unused_kernels(lower.program);
    return lower.program;
}
