// add-heads: further heads predict the tokens after the next one (multi-token prediction).
//
//   before: x = stack(...) {name="trunk"};  logits = head(x);  l = loss of (logits, targets)
//           output loss = l
//   after:  x1 = stack(x, trunk.heads.wq[layer=count, ...]) {name="trunk.heads", entries=(0)}
//           l1 = all between x and l once more, over x1 and targets.1 {by=1} in place of x and targets
//           output loss = l + weight l1;  output head1 = l1
//           and a graph `draft`: that of `logits`, with a further output draft1 = head(x1) for each head
//   transfer: a head starts as a copy of the layer that runs last
//
// Head j reads position t and predicts token t + 1 + j. It is one more layer of the stack's body, with
// parameters of its own, before the model's own norm and output head: the table is shared.
//
// Options: stack (the only one); count; kind = independent (head j is layer j, over x) or shared (one layer,
// head j over what head j - 1 gave); weight of their losses: 0.3, or one by one 1|0.5; of = the output whose
// computation a head repeats (where the loss has parts that no head can have, such as those of a teacher);
// start = last, or new (as the layer's parameters start).
// Requires: the loss runs the stack once, and what follows the stack reads neither tokens nor other data
// that the stack reads. Leaves: `evaluate` and `logits` as they were.
#include <string.h>

#include "passes/module_pass.h"

enum { HEADS_MAX = 16 };

typedef struct Heads {
    PassContext *context;
    const char *stack, *name;  // "trunk", "trunk.heads"
    const Graph *graph;        // one of the graphs with the stack, and the stack there
    const Node *node;
    int64_t count;
    bool shared, starts_new;
    double weights[HEADS_MAX];
    VECTOR(const char *) paths;  // "trunk.heads.wq": for each parameter of the body
    VECTOR(const char *) from;   // "trunk.wq"
    Module *result;
} Heads;

static Arena *arena_of(const Heads *heads) { return heads->context->ir->arena; }

static bool refuse(const Heads *heads, const char *code, const char *text) {
    return report_error(heads->context->ir->diagnostics, heads->context->place, code, "add-heads: %s", text);
}

// ---- Options ----

static bool read_weights(Heads *heads) {
    Arena *arena = arena_of(heads);
    const char *text = pass_text(heads->context, "weight");
    double *given;
    int64_t count = module_pass_numbers(arena, strcmp(text, "none") == 0 ? "0.3" : text, &given);
    if (count != 1 && count != heads->count)
        return refuse(heads, "E0560",
                      arena_format(arena, "weight = %s for %lld heads", text, (long long)heads->count));
    for (int64_t i = 0; i < heads->count; i++) {
        heads->weights[i] = given[count == 1 ? 0 : i];
        if (!(heads->weights[i] >= 0))
            return refuse(heads, "E0560", arena_format(arena, "a weight of %g", heads->weights[i]));
    }
    return true;
}

static bool read_options(Heads *heads) {
    PassContext *context = heads->context;
    int kind = pass_choice(context, "kind", "independent shared"),
        start = pass_choice(context, "start", "last new");
    if (kind < 0 || start < 0) return false;
    heads->shared = kind == 1;
    heads->starts_new = start == 1;
    heads->count = pass_integer(context, "count");
    if (heads->count < 1 || heads->count > HEADS_MAX || (double)heads->count != pass_number(context, "count"))
        return refuse(heads, "E0560",
                      arena_format(arena_of(heads), "count is from 1 to %d, not %g", HEADS_MAX,
                                   pass_number(context, "count")));
    return read_weights(heads);
}

// ---- Parameters, and how they start ----

// The initialiser draws other numbers than the one it comes from.
static bool move_site(Rewrite *rewrite, uint32_t id) {
    const Node *node = graph_node(rewrite->from, id);
    if (node->op == OP_call) {
        Value *results = ARENA_ARRAY(rewrite->to->ir->arena, Value, node->result_count);
        if (!rewrite_splice(rewrite, attribute_graph(node, ATTRIBUTE_function),
                            rewrite_operands(rewrite, node), results))
            return true;
        for (uint32_t i = 0; i < node->result_count; i++) rewrite_set(rewrite, (Value){id, i}, results[i]);
        return true;
    }
    if (node->op != OP_random) return false;
    const char *site = names_format(rewrite->to->ir->names, "%s.heads", attribute_text(node, ATTRIBUTE_site));
    return rewrite_copy(rewrite, id, &(Attribute){.key = ATTRIBUTE_site, .text = site});
}

static bool add_parameter(Heads *heads, const Parameter *old, const char *path) {
    Ir *ir = heads->context->ir;
    Parameter parameter = *old;
    Type type = *old->type;
    type.dimensions[0].extent = heads->shared ? 1 : heads->count;
    parameter.path = path;
    parameter.type = type_make(ir, type.element, type.rank, type.dimensions);
    Graph *initialize = rewrite_graph(heads->context, old->initialize,
                                      names_format(ir->names, "%s.initialize", path), move_site, NULL);
    if (!parameter.type || !initialize) return false;
    parameter.initialize = graph_retype(initialize, initialize->name, type.dimensions, 1);
    vector_push(ir->arena, &heads->result->parameters, parameter);
    return parameter.initialize != NULL;
}

static Value start_of(const Heads *heads, Transfer *transfer, const Module *module, const char *path,
                      const char *from) {
    const Parameter *parameter = module_find_parameter(heads->result, path);
    if (heads->starts_new) return transfer_initial(transfer, parameter);
    const Attribute *entries = attribute_find(heads->node, ATTRIBUTE_entries);
    Value last = build_pick(transfer->graph, transfer_source(transfer, module, -1, from), "layer",
                            entries->entries[entries->count - 1].layer, parameter->place);
    return build_broadcast(transfer->graph, last, parameter->type->dimensions, 1, parameter->place);
}

static bool add_parameters(Heads *heads, Transfer *transfer, const Module *module) {
    const Graph *body = attribute_graph(heads->node, ATTRIBUTE_body);
    Arena *arena = arena_of(heads);
    size_t length = strlen(heads->stack);
    for (size_t i = stack_first_stacked(heads->node); i < body->inputs.count; i++) {
        const Node *input = graph_node(heads->graph, heads->node->operands[i].node);
        const char *from = input->op == OP_input ? attribute_text(input, ATTRIBUTE_name) : "?";
        const Parameter *old = module_find_parameter(module, from);
        bool alike = old && stack_stores(heads->graph, heads->node, from) &&
                     old->type->rank == graph_node(body, body->inputs.items[i])->types[0]->rank + 1;
        if (!alike || old->file)
            return refuse(heads, "E0562",
                          arena_format(arena, "%s has no heads: its parameter %s is %s", heads->stack, from,
                                       alike ? "read from a file" : "not stored layer by layer"));
        bool below = strncmp(from, heads->stack, length) == 0 && from[length] == '.';
        const char *path =
            names_format(heads->context->ir->names, "%s.%s", heads->name, below ? from + length + 1 : from);
        vector_push(arena, &heads->paths, path);
        vector_push(arena, &heads->from, from);
        if (module_find_parameter(heads->result, path)) continue;  // read twice by the body
        if (!add_parameter(heads, old, path)) return false;
        transfer_result(transfer, path, start_of(heads, transfer, module, path, from));
    }
    return true;
}

// ---- One graph with heads ----

typedef struct Copying {
    Heads *heads;
    Graph *graph;
    uint32_t count;  // nodes before anything is added
    uint32_t stack;
    uint32_t *map;   // what stands for a node over the head at work; results keep their numbers
    bool *ahead;     // depends on the stack's result, or on data that is read further on
    bool *behind;    // depends on data that the stack reads, other than through the stack
    bool *upstream;  // the stack depends on it
} Copying;

static bool find_stack(Copying *copying) {
    const Heads *heads = copying->heads;
    int found = 0;
    for (uint32_t id = 0; id < copying->count; id++)
        if (stack_has_name(graph_node(copying->graph, id), heads->stack)) {
            copying->stack = id;
            found++;
        }
    if (found == 1) return true;
    return refuse(heads, "E0564",
                  arena_format(arena_of(heads), "%s runs %s %d times; once is wanted", copying->graph->name,
                               heads->stack, found));
}

typedef VECTOR(uint32_t) NodeList;

// The nodes that node `id` depends on: operands, and what computes the extents of its results.
static NodeList sources_of(const Graph *graph, uint32_t id) {
    Arena *arena = graph->ir->arena;
    const Node *node = graph_node(graph, id);
    NodeList list = {0};
    for (uint32_t i = 0; i < node->operand_count; i++) vector_push(arena, &list, node->operands[i].node);
    for (uint32_t r = 0; r < node->result_count; r++)
        for (int d = 0; d < node->types[r]->rank; d++) {
            const char *name = node->types[r]->dimensions[d].bound;
            Value bound = name ? graph_find_bound(graph, name) : VALUE_NONE;
            if (!value_is_none(bound) && bound.node != id) vector_push(arena, &list, bound.node);
        }
    return list;
}

static void mark_upstream(bool *marks, const Graph *graph, uint32_t from) {
    marks[from] = true;
    for (uint32_t id = from + 1; id-- > 0;) {
        if (!marks[id]) continue;
        NodeList sources = sources_of(graph, id);
        for (size_t i = 0; i < sources.count; i++) marks[sources.items[i]] = true;
    }
}

// `shifts`: data that the stack does not read can be had from further on.
static void mark(Copying *copying, bool shifts) {
    const Graph *graph = copying->graph;
    mark_upstream(copying->upstream, graph, copying->stack);
    for (uint32_t id = 0; id < copying->count; id++) {
        const Node *node = graph_node(graph, id);
        if (id == copying->stack) {
            copying->ahead[id] = true;
            continue;
        }
        if (node->op == OP_input && attribute_integer(node, ATTRIBUTE_role, 0) == ROLE_DATA) {
            copying->behind[id] = !shifts || copying->upstream[id] ||
                                  strcmp(attribute_text(node, ATTRIBUTE_name), "tokens") == 0;
            copying->ahead[id] = !copying->behind[id];
        }
        NodeList sources = sources_of(graph, id);
        for (size_t i = 0; i < sources.count; i++) {
            copying->ahead[id] |= copying->ahead[sources.items[i]];
            copying->behind[id] |= copying->behind[sources.items[i]];
        }
    }
}

// What a head repeats must not look at tokens beside the stack: they would have to be shifted too.
static bool check_reads(const Copying *copying, const bool *needed) {
    for (uint32_t id = 0; id < copying->count; id++) {
        const Node *node = graph_node(copying->graph, id);
        if (!needed[id] || !copying->ahead[id] || !copying->behind[id] || id == copying->stack) continue;
        report_error(copying->heads->context->ir->diagnostics, node->place, "E0563",
                     "add-heads: %s reads here what %s reads too; a head, some positions further on, cannot",
                     copying->graph->name, copying->heads->stack);
        report_hint(copying->heads->context->ir->diagnostics,
                    "of = NAME lets heads repeat another result of the objective");
        return false;
    }
    return true;
}

// One more layer over `from` (carried values of a stack), numbered from 0. Its entries count on where the
// trunk ends, so that a dropout draws other numbers there.
static uint32_t add_head(const Copying *copying, uint32_t from, int64_t number) {
    const Heads *heads = copying->heads;
    Graph *graph = copying->graph;
    Node stack = *graph_node(graph, copying->stack);
    const Graph *body = attribute_graph(&stack, ATTRIBUTE_body);
    const Attribute *entries = attribute_find(&stack, ATTRIBUTE_entries);
    uint32_t first = stack_first_stacked(&stack), count = 0;
    Value *operands = ARENA_ARRAY(graph->ir->arena, Value, body->inputs.count);
    for (uint32_t i = 0; i < stack.result_count; i++) operands[count++] = (Value){from, i};
    for (uint32_t i = stack.result_count; i < first; i++) operands[count++] = stack.operands[i];
    for (size_t i = 0; i < heads->paths.count; i++)
        operands[count++] = module_pass_parameter(graph, heads->result, heads->paths.items[i]);
    StackEntry entry = {.row = -1, .recompute = entries->entries[entries->count - 1].recompute};
    entry.layer = heads->shared ? 0 : (int32_t)number;
    entry.iteration = (int32_t)entries->count + (heads->shared ? (int32_t)number : 0);
    Attribute attributes[] = {{.key = ATTRIBUTE_name, .text = heads->name},
                              *attribute_find(&stack, ATTRIBUTE_body),
                              *attribute_find(&stack, ATTRIBUTE_carried),
                              *attribute_find(&stack, ATTRIBUTE_invariant),
                              {.key = ATTRIBUTE_entries, .entries = &entry, .count = 1}};
    return graph_add(graph, OP_stack, operands, count, attributes, 5, stack.place).node;
}

static Value data_ahead(Graph *graph, const Node *input, int64_t by) {
    const char *name =
        names_format(graph->ir->names, "%s.%lld", attribute_text(input, ATTRIBUTE_name), (long long)by);
    Value known = graph_find_input(graph, name, ROLE_DATA);
    if (!value_is_none(known)) return known;
    Attribute attributes[] = {
        {.key = ATTRIBUTE_name, .text = name},
        {.key = ATTRIBUTE_role, .integer = ROLE_DATA},
        {.key = ATTRIBUTE_by, .integer = by + attribute_integer(input, ATTRIBUTE_by, 0)}};
    return graph_add_input_with(graph, attributes, 3, input->types[0], input->place);
}

// One node over other operands; extents that it computes, or goes by, are the head's own.
static Value copy_node(const Copying *copying, const Node *node, const Value *operands, int64_t by) {
    const char *suffix = arena_format(arena_of(copying->heads), ".head%lld", (long long)by);
    Attribute attributes[ATTRIBUTE_COUNT];
    for (uint32_t i = 0; i < node->attributes.count; i++) {
        attributes[i] =
            rename_extents(copying->graph, copying->ahead, suffix, node, node->attributes.items[i]);
        if (attribute_kind(attributes[i].key) == KIND_GRAPH && !attributes[i].graph) return VALUE_NONE;
    }
    return graph_add(copying->graph, node->op, operands, node->operand_count, attributes,
                     node->attributes.count, node->place);
}

// `value` once more, over the head that stands for the stack.
static Value repeat(Copying *copying, Value value, const bool *needed, uint32_t head, int64_t by) {
    Graph *graph = copying->graph;
    for (uint32_t id = 0; id <= value.node; id++) {
        Node node = *graph_node(graph, id);
        copying->map[id] = id;
        if (id == copying->stack) copying->map[id] = head;
        if (!needed[id] || !copying->ahead[id] || id == copying->stack) continue;
        Value *operands = ARENA_ARRAY(graph->ir->arena, Value, node.operand_count + 1);
        for (uint32_t i = 0; i < node.operand_count; i++)
            operands[i] = (Value){copying->map[node.operands[i].node], node.operands[i].result};
        Value copy =
            node.op == OP_input ? data_ahead(graph, &node, by) : copy_node(copying, &node, operands, by);
        if (value_is_none(copy)) return VALUE_NONE;
        copying->map[id] = copy.node;
    }
    return (Value){copying->map[value.node], value.result};
}

// A copy of an entry graph called `name`; `values[j]` is the output `of` as head j gives it. NULL after
// errors.
static Graph *repeat_output(Heads *heads, const Graph *entry, const char *name, const char *of, bool shifts,
                            Value *values) {
    Graph *graph = rewrite_graph(heads->context, entry, name, NULL, NULL);
    Arena *arena = arena_of(heads);
    uint32_t count = (uint32_t)graph->nodes.count;
    Copying copying = {.heads = heads, .graph = graph, .count = count};
    copying.map = ARENA_ARRAY(arena, uint32_t, count);
    copying.ahead = ARENA_ARRAY(arena, bool, count);
    copying.behind = ARENA_ARRAY(arena, bool, count);
    copying.upstream = ARENA_ARRAY(arena, bool, count);
    bool *needed = ARENA_ARRAY(arena, bool, count);
    const Output *output = graph_find_output(graph, of);
    if (!output) {
        refuse(heads, "E0565", arena_format(arena, "%s has no result '%s'", entry->name, of));
        return NULL;
    }
    Value value = output->value;
    if (!find_stack(&copying)) return NULL;
    mark(&copying, shifts);
    mark_upstream(needed, graph, value.node);
    if (!copying.ahead[value.node] || !needed[copying.stack]) {
        refuse(heads, "E0564",
               arena_format(arena, "%s of %s does not come from %s", of, entry->name, heads->stack));
        return NULL;
    }
    if (!check_reads(&copying, needed)) return NULL;
    uint32_t head = copying.stack;
    for (int64_t j = 0; j < heads->count; j++) {
        head = add_head(&copying, heads->shared ? head : copying.stack, j);
        if (head == VALUE_NONE.node) return NULL;
        values[j] = repeat(&copying, value, needed, head, j + 1);
        if (value_is_none(values[j])) return NULL;
    }
    module_pass_order(graph, heads->result);
    return graph;
}

static Graph *loss_with_heads(Heads *heads, const Graph *loss) {
    Ir *ir = heads->context->ir;
    Value values[HEADS_MAX];
    Graph *graph = repeat_output(heads, loss, loss->name, pass_text(heads->context, "of"), true, values);
    if (!graph) return NULL;
    Value total = graph_find_output(graph, "loss")->value;
    Place place = graph_node(graph, total.node)->place;
    for (int64_t j = 0; j < heads->count; j++) {
        Value weight = build_constant(graph, graph_type(graph, total)->element, heads->weights[j], place);
        total =
            build_binary(graph, OP_add, total, build_binary(graph, OP_mul, values[j], weight, place), place);
        graph_add_output(graph, names_format(ir->names, "head%lld", (long long)j + 1), values[j], VALUE_NONE);
    }
    for (size_t i = 0; i < graph->outputs.count; i++)
        if (strcmp(graph->outputs.items[i].name, "loss") == 0) graph->outputs.items[i].value = total;
    return value_is_none(total) ? NULL : graph;
}

static Graph *draft_with_heads(Heads *heads, const Graph *logits) {
    Names *names = heads->context->ir->names;
    Value values[HEADS_MAX];
    Graph *graph = repeat_output(heads, logits, names_intern(names, "draft"), "logits", false, values);
    for (int64_t j = 0; graph && j < heads->count; j++)
        graph_add_output(graph, names_format(names, "draft%lld", (long long)j + 1), values[j], VALUE_NONE);
    return graph;
}

static bool add_graphs(Heads *heads, const Module *module) {
    for (size_t i = 0; i < module->graphs.count; i++) {
        Graph *graph = module->graphs.items[i];
        if (!module_is_entry(module, graph)) continue;
        if (strcmp(graph->name, "loss") == 0) graph = loss_with_heads(heads, graph);
        if (!graph || !module_add_with_callees(heads->result, graph)) return false;
    }
    const Graph *logits = module_find_graph(module, "logits");
    Graph *draft = logits ? draft_with_heads(heads, logits) : NULL;
    return !logits || (draft && module_add_with_callees(heads->result, draft));
}

Module *add_heads(PassContext *context, const Module *module) {
    Heads heads = {.context = context};
    heads.stack = module_pass_stack(context, module, &heads.graph, &heads.node);
    if (!heads.stack || !read_options(&heads)) return NULL;
    if (module_find_graph(module, "draft")) {
        refuse(&heads, "E0561", arena_format(context->ir->arena, "%s has heads already", module->name));
        return NULL;
    }
    heads.name = names_format(context->ir->names, "%s.heads", heads.stack);
    heads.result = module_copy(module);
    Transfer transfer = transfer_begin(context);
    if (!add_parameters(&heads, &transfer, module) || !add_graphs(&heads, module) ||
        !transfer_end(&transfer, heads.result, &module, 1))
        return NULL;
    return heads.result;
}
