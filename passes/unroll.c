// unroll-recurrent: stored layers run more than once.
//
//   before: x1 = stack(x, trunk.wq) {entries=(0..5)}
//   after:  x1 = stack(x, trunk.wq, trunk.core.gate, trunk.core.step)
//                {entries=(0 (1[row, enter] 2..3[row] 4[row, leave])*8 5), enter, leave}
//   transfer: what was there stays; gates, steps and adapters start so that they change nothing
//
// Options: stack (the only one); schedule = 1|4*8|1: how many layers, in order, how often; learn = none, or
// gate+step+adapter of them; start = repeat (each iteration counts from the start) or skip (those after the
// first pass their input on until they learn); rank = of the adapters; rows = how many iterations of a core
// have parameters of their own, 0: all (the last row serves those that follow); backprop = through how many
// of the last iterations gradients flow, 0: all; recompute = 1: forward values of cores are computed again.
//
// One iteration of a core with parameters g, e, A, B of its row is, exactly x -> core(x) at g = 1, e = 0,
// B = 0:   h = core(x + e + (x A) B);  x' = (1 - g) x + g h
//
// Requires: each stored layer runs once, in order; one carried value where something is learned.
// Leaves: depth is still one node.
#include <stdlib.h>
#include <string.h>

#include "ir/entries.h"
#include "passes/module_pass.h"

typedef struct Segment {
    int64_t layers, times;
    bool core;    // written with a count, be it 1
    int64_t row;  // of a core's first iteration
} Segment;

typedef struct Brackets {  // the graphs for one type of carried value
    const Type *type;
    Graph *enter, *leave;
} Brackets;

typedef struct Unroll {
    PassContext *context;
    const char *stack;
    int64_t stored;
    VECTOR(Segment) segments;
    const char *file;  // of a frozen stack: what is learned is read there too
    bool gate, step, adapter, skip, recompute;
    int64_t rank, rows, backprop;  // rows: of each core, 0: as many as it has iterations
    int64_t row_count;             // of the parameters
    VECTOR(StackEntry) entries;
    VECTOR(const char *) paths;  // of the parameters that are learned
    VECTOR(Brackets) brackets;
    Module *result;
} Unroll;

static bool refuse(const Unroll *unroll, const char *text) {
    return report_error(unroll->context->ir->diagnostics, unroll->context->place, "E0542",
                        "unroll-recurrent: %s has %lld layers: %s", unroll->stack, (long long)unroll->stored,
                        text);
}

static bool learns(const Unroll *unroll) { return unroll->gate || unroll->step || unroll->adapter; }

// ---- Options ----

// "1|4*8|1"
static bool read_schedule(Unroll *unroll, const char *text) {
    Arena *arena = unroll->context->ir->arena;
    const char *whole = text;
    int64_t layers = 0, entries = 0;
    for (bool more = true; more;) {
        char *end;
        Segment segment = {.layers = strtoll(text, &end, 10), .times = 1};
        bool good = end != text;
        if (*end == '*') {
            text = end + 1;
            segment.core = true;
            segment.times = strtoll(text, &end, 10);
            good &= end != text;
        }
        if (!good || (*end && *end != '|'))
            return refuse(unroll, arena_format(arena, "a schedule reads 1|4*8|1, not %s", whole));
        if (segment.layers < 1 || segment.times < 1 || segment.layers > unroll->stored ||
            segment.times > ENTRY_COUNT_LIMIT ||
            (entries += segment.layers * segment.times) > ENTRY_COUNT_LIMIT)
            return refuse(unroll, arena_format(arena, "%lld of them cannot run %lld times in schedule %s",
                                               (long long)segment.layers, (long long)segment.times, whole));
        layers += segment.layers;
        vector_push(arena, &unroll->segments, segment);
        more = *end == '|';
        text = end + 1;
    }
    return layers == unroll->stored ||
           refuse(unroll, arena_format(arena, "schedule %s is about %lld", whole, (long long)layers));
}

static bool read_learned(Unroll *unroll, const char *text) {
    static const char *const words[] = {"gate", "step", "adapter"};
    bool *const flags[] = {&unroll->gate, &unroll->step, &unroll->adapter};
    if (strcmp(text, "none") == 0) return true;
    while (*text) {
        size_t length = strcspn(text, "+");
        int found = -1;
        for (int i = 0; i < 3; i++)
            if (strlen(words[i]) == length && strncmp(words[i], text, length) == 0) found = i;
        if (found < 0)
            return refuse(unroll, arena_format(unroll->context->ir->arena,
                                               "learned are none, or of gate+step+adapter, not %s", text));
        *flags[found] = true;
        text += length + (text[length] == '+');
    }
    return true;
}

static bool read_options(Unroll *unroll) {
    PassContext *context = unroll->context;
    int start = pass_choice(context, "start", "repeat skip");
    const char *schedule = pass_text(context, "schedule");
    if (start < 0) return false;
    unroll->skip = start == 1;
    unroll->rank = pass_integer(context, "rank");
    unroll->rows = pass_integer(context, "rows");
    unroll->backprop = pass_integer(context, "backprop");
    unroll->recompute = pass_integer(context, "recompute") != 0;
    if (strcmp(schedule, "none") == 0)
        schedule = arena_format(context->ir->arena, "%lld", (long long)unroll->stored);
    if (!read_schedule(unroll, schedule) || !read_learned(unroll, pass_text(context, "learn"))) return false;
    if (unroll->rank < 1 || unroll->rows < 0 || unroll->backprop < 0)
        return refuse(unroll, "rank is 1 or more, rows and backprop are not negative");
    return !unroll->skip || unroll->gate || refuse(unroll, "start = skip needs learn = gate");
}

// ---- The order ----

static void add_core(Unroll *unroll, Segment *segment, int64_t first) {
    int64_t rows = unroll->rows ? unroll->rows : segment->times;
    segment->row = unroll->row_count;
    if (learns(unroll)) unroll->row_count += rows;
    for (int64_t i = 0; i < segment->times; i++)
        for (int64_t j = 0; j < segment->layers; j++) {
            StackEntry entry = {.layer = (int32_t)(first + j), .iteration = (int32_t)i, .row = -1};
            entry.recompute = unroll->recompute;
            entry.stop_gradient =
                unroll->backprop && j == 0 && i > 0 && i == segment->times - unroll->backprop;
            if (learns(unroll)) {
                entry.row = (int32_t)(segment->row + (i < rows ? i : rows - 1));
                entry.enter = j == 0;
                entry.leave = j == segment->layers - 1;
            }
            vector_push(unroll->context->ir->arena, &unroll->entries, entry);
        }
}

static void make_entries(Unroll *unroll) {
    int64_t first = 0;
    for (size_t s = 0; s < unroll->segments.count; s++) {
        Segment *segment = &unroll->segments.items[s];
        if (segment->core)
            add_core(unroll, segment, first);
        else
            for (int64_t j = 0; j < segment->layers; j++)
                vector_push(unroll->context->ir->arena, &unroll->entries,
                            ((StackEntry){.layer = (int32_t)(first + j), .row = -1}));
        first += segment->layers;
    }
}

// ---- What is learned ----

// (seed) -> gates 1 (of later iterations 0 where they start by skipping), steps and `up` 0, `down` random.
static Graph *initial(const Unroll *unroll, const char *path, const Type *type, bool gate, bool random) {
    Ir *ir = unroll->context->ir;
    Place place = unroll->context->place;
    Graph *graph = graph_create(ir, names_format(ir->names, "%s.initialize", path));
    Value seed = graph_add_input(graph, names_intern(ir->names, "seed"), ROLE_SCALAR,
                                 type_scalar(ir, ELEMENT_I64), place);
    Value value = build_constant(graph, ELEMENT_F32, gate ? 1 : 0, place);
    if (gate && unroll->skip) {
        value = build_constant(graph, ELEMENT_F32, 0, place);
        Value row = build_index(graph, type->dimensions[0], place);
        for (size_t s = 0; s < unroll->segments.count; s++) {
            const Segment *segment = &unroll->segments.items[s];
            if (!segment->core) continue;
            Value first = build_binary(
                graph, OP_eq, row, build_constant(graph, ELEMENT_I32, (double)segment->row, place), place);
            value = build_select(graph, first, build_constant(graph, ELEMENT_F32, 1, place), value, place);
        }
    }
    if (random) value = module_pass_random(graph, seed, path, type, place);
    value = build_expand(graph, value, type, place);
    graph_add_output(graph, names_intern(ir->names, "value"), value, VALUE_NONE);
    return graph;
}

static void learn(Unroll *unroll, const char *name, const Dimension *dimensions, int rank, bool random) {
    Ir *ir = unroll->context->ir;
    const char *path = names_format(ir->names, "%s.core.%s", unroll->stack, name);
    const Type *type = type_make(ir, ELEMENT_F32, rank, dimensions);
    bool gate = strcmp(name, "gate") == 0;
    Parameter parameter = {
        .path = path, .type = type, .declared_rank = rank - 1, .place = unroll->context->place};
    if (unroll->file)
        parameter.file = unroll->file;
    else
        parameter.initialize = initial(unroll, path, type, gate, random);
    vector_push(ir->arena, &unroll->result->parameters, parameter);
    vector_push(ir->arena, &unroll->paths, path);
}

// Parameters stand along `iteration`, then along the last dimension of what the stack carries.
static bool add_learned(Unroll *unroll, const Graph *graph, const Node *stack) {
    Ir *ir = unroll->context->ir;
    if (!learns(unroll)) return true;
    if (!unroll->row_count)
        return refuse(unroll, "something is learned, and no part of the schedule is repeated");
    size_t length = strlen(unroll->stack);
    for (size_t i = 0; i < unroll->result->parameters.count; i++) {
        const Parameter *parameter = &unroll->result->parameters.items[i];
        if (strncmp(parameter->path, unroll->stack, length) == 0 && parameter->path[length] == '.')
            unroll->file = parameter->file;
    }
    const Type *carried = graph_type(graph, stack->operands[0]);
    if (stack->result_count != 1 || carried->rank < 1 || carried->element != ELEMENT_F32)
        return refuse(unroll, "gates, steps and adapters want one carried value, f32 with a dimension");
    if (attribute_find(stack, ATTRIBUTE_enter)) return refuse(unroll, "it was unrolled before");
    Dimension row = {.name = names_intern(ir->names, "iteration"), .extent = unroll->row_count};
    Dimension rank = {.name = names_intern(ir->names, "rank"), .extent = unroll->rank};
    Dimension feature = carried->dimensions[carried->rank - 1];
    if (unroll->gate) learn(unroll, "gate", (Dimension[]){row, feature}, 2, false);
    if (unroll->step) learn(unroll, "step", (Dimension[]){row, feature}, 2, false);
    if (unroll->adapter) learn(unroll, "down", (Dimension[]){row, feature, rank}, 3, true);
    if (unroll->adapter) learn(unroll, "up", (Dimension[]){row, rank, feature}, 3, false);
    return true;
}

// ---- Entering and leaving a core ----

typedef struct Bracket {
    Graph *graph;
    Value before, value;  // `before` only where it is left
    Value rows[4];        // as unroll->paths
} Bracket;

static Bracket open_bracket(const Unroll *unroll, const Type *type, bool leaves) {
    Ir *ir = unroll->context->ir;
    Place place = unroll->context->place;
    const char *name = names_format(ir->names, "%s.%s", unroll->stack, leaves ? "leave" : "enter");
    if (unroll->brackets.count) name = names_format(ir->names, "%s.%zu", name, unroll->brackets.count + 1);
    Bracket bracket = {.graph = graph_create(ir, name), .before = VALUE_NONE};
    if (leaves)
        bracket.before =
            graph_add_input(bracket.graph, names_intern(ir->names, "before"), ROLE_ARGUMENT, type, place);
    bracket.value = graph_add_input(bracket.graph, names_intern(ir->names, "x"), ROLE_ARGUMENT, type, place);
    for (size_t i = 0; i < unroll->paths.count; i++) {
        const Parameter *parameter = module_find_parameter(unroll->result, unroll->paths.items[i]);
        const Type *row =
            type_make(ir, ELEMENT_F32, parameter->type->rank - 1, parameter->type->dimensions + 1);
        const char *short_name = names_intern(ir->names, parameter->path + strlen(unroll->stack) + 1);
        bracket.rows[i] = graph_add_input(bracket.graph, short_name, ROLE_ARGUMENT, row, place);
    }
    return bracket;
}

static Value row_of(const Unroll *unroll, const Bracket *bracket, const char *name) {
    for (size_t i = 0; i < unroll->paths.count; i++)
        if (strcmp(strrchr(unroll->paths.items[i], '.') + 1, name) == 0) return bracket->rows[i];
    INTERNAL_ERROR("nothing learned is called %s", name);
}

static Graph *close_bracket(Bracket *bracket, Value value) {
    graph_add_output(bracket->graph, names_intern(bracket->graph->ir->names, "x"), value, VALUE_NONE);
    return bracket->graph;
}

static Graph *enter_graph(const Unroll *unroll, const Type *type) {
    Place place = unroll->context->place;
    Bracket bracket = open_bracket(unroll, type, false);
    Graph *graph = bracket.graph;
    const char *feature = type->dimensions[type->rank - 1].name,
               *rank = names_intern(graph->ir->names, "rank");
    Value x = bracket.value;
    if (unroll->step) x = build_binary(graph, OP_add, x, row_of(unroll, &bracket, "step"), place);
    if (unroll->adapter) {
        Value low = build_dot(graph, bracket.value, row_of(unroll, &bracket, "down"), &feature, 1, place);
        Value change = build_dot(graph, low, row_of(unroll, &bracket, "up"), &rank, 1, place);
        x = build_binary(graph, OP_add, x, change, place);
    }
    return close_bracket(&bracket, x);
}

static Graph *leave_graph(const Unroll *unroll, const Type *type) {
    Place place = unroll->context->place;
    Bracket bracket = open_bracket(unroll, type, true);
    Graph *graph = bracket.graph;
    if (!unroll->gate) return close_bracket(&bracket, bracket.value);
    Value gate = row_of(unroll, &bracket, "gate");
    Value rest = build_binary(graph, OP_sub, build_constant(graph, ELEMENT_F32, 1, place), gate, place);
    Value kept = build_binary(graph, OP_mul, bracket.before, rest, place);
    Value made = build_binary(graph, OP_mul, bracket.value, gate, place);
    return close_bracket(&bracket, build_binary(graph, OP_add, kept, made, place));
}

static const Brackets *brackets_for(Unroll *unroll, const Type *type) {
    for (size_t i = 0; i < unroll->brackets.count; i++)
        if (unroll->brackets.items[i].type == type) return &unroll->brackets.items[i];
    Brackets brackets = {type, enter_graph(unroll, type), leave_graph(unroll, type)};
    vector_push(unroll->context->ir->arena, &unroll->brackets, brackets);
    return &vector_last(&unroll->brackets);
}

// ---- The stack ----

static bool lengthen(Rewrite *rewrite, uint32_t id) {
    Unroll *unroll = rewrite->data;
    const Node *node = graph_node(rewrite->from, id);
    if (!stack_has_name(node, unroll->stack)) return false;
    Arena *arena = rewrite->to->ir->arena;
    Attribute attributes[ATTRIBUTE_COUNT];
    uint32_t count = 0;
    for (uint32_t i = 0; i < node->attributes.count; i++)
        if (node->attributes.items[i].key != ATTRIBUTE_entries)
            attributes[count++] = node->attributes.items[i];
    attributes[count++] = (Attribute){
        .key = ATTRIBUTE_entries, .entries = unroll->entries.items, .count = (uint32_t)unroll->entries.count};
    Value *operands = ARENA_ARRAY(arena, Value, node->operand_count + unroll->paths.count);
    memcpy(operands, rewrite_operands(rewrite, node), node->operand_count * sizeof *operands);
    for (size_t i = 0; i < unroll->paths.count; i++)
        operands[node->operand_count + i] =
            module_pass_parameter(rewrite->to, unroll->result, unroll->paths.items[i]);
    if (unroll->paths.count) {
        const Brackets *brackets = brackets_for(unroll, node->types[0]);
        attributes[count++] = (Attribute){.key = ATTRIBUTE_enter, .graph = brackets->enter};
        attributes[count++] = (Attribute){.key = ATTRIBUTE_leave, .graph = brackets->leave};
    }
    Value value =
        graph_add(rewrite->to, OP_stack, operands, node->operand_count + (uint32_t)unroll->paths.count,
                  attributes, count, node->place);
    if (value_is_none(value)) return rewrite_fail(rewrite);
    for (uint32_t i = 0; i < node->result_count; i++)
        rewrite_set(rewrite, (Value){id, i}, (Value){value.node, i});
    return true;
}

Module *unroll_recurrent(PassContext *context, const Module *module) {
    const Graph *graph;
    const Node *stack;
    Unroll unroll = {.context = context, .stack = module_pass_stack(context, module, &graph, &stack)};
    if (!unroll.stack) return NULL;
    unroll.stored = stack_layers(graph, stack);
    if (!stack_is_straight(graph, stack)) {
        refuse(&unroll, "they do not run once each, in order");
        return NULL;
    }
    if (!read_options(&unroll)) return NULL;
    make_entries(&unroll);
    unroll.result = module_copy(module);
    if (!add_learned(&unroll, graph, stack)) return NULL;
    Transfer transfer = transfer_begin(context);
    for (size_t i = 0; i < unroll.paths.count; i++) {
        const Parameter *parameter = module_find_parameter(unroll.result, unroll.paths.items[i]);
        if (!parameter->file)
            transfer_result(&transfer, parameter->path, transfer_initial(&transfer, parameter));
    }
    if (!module_pass_rewrite(context, module, unroll.result, lengthen, &unroll) ||
        !transfer_end(&transfer, unroll.result, &module, 1))
        return NULL;
    return unroll.result;
}
