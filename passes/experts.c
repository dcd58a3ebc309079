// fuse-experts: several models of one form become one, their operations batched along `expert`.
//
//   before: h[batch, time, embed] = stack(table[vocab, embed] ..., trunk.wq[layer, embed, heads, key])
//           logits = dot(h, table) {over=(embed)}
//   after:  h[batch, time, expert, embed] = stack(..., trunk.wq[layer, expert, embed, heads, key])
//           w[batch, time, expert] = softmax(mean of h over expert . router.w + router.b)
//           logits = dot(h * w, table[expert, vocab, embed]) {over=(expert, embed)}
//   transfer: trunk.wq' = the experts' trunk.wq, one behind the other; the router starts small
//
// With route = top_k each sequence computes `k` experts, whose parameters are gathered for it:
//   after:  choice[batch, slot], w[batch, slot] = the k largest shares that the router gives it
//           h[batch, time, slot, embed] = stack(..., trunk.wq[expert: choice] as [layer, batch, slot, ..])
//
// Options: count = how many copies of the module, where no experts are given; route = soft or top_k, with k =
// how many experts, read = by how many first tokens; share = none, or embedding+head of them: parameters that
// are looked up in, and those of the head and of all behind it, are one for all experts, and start as the
// mean of theirs (a tied table is shared where one of its uses is); balance = weight of the term that keeps
// the router even, experts * sum of mean share * usage, which is 1 where it is; the loss of `loss` holds it,
// and it is the metric `balance` there.
// Requires: experts that differ in nothing but the values of their weights; an end of each expert: the last
// contraction of a value with a parameter, on every way to an output. Parameters behind it are mixed.
// Leaves: one graph for each that there was; declared ranks.
#include "passes/experts.h"

#include <string.h>

bool experts_refuse(const Experts *experts, Place place, const char *text) {
    PassContext *context = experts->context;
    report_error(context->ir->diagnostics, context->place, "E0546", "fuse-experts: %s: %s",
                 experts->modules[0]->name, text);
    if (place.file) report_note(context->ir->diagnostics, place, "here");
    return false;
}

bool experts_has(const Graph *graph, Value value, const Dimension *dimension) {
    return type_find(graph_type(graph, value), dimension->name) >= 0;
}

// ---- Options ----

static bool read_share(Experts *experts, const char *text) {
    static const char *const words[] = {"none", "embedding", "head", "embedding+head", "head+embedding"};
    for (int i = 0; i < 5; i++)
        if (strcmp(text, words[i]) == 0) {
            experts->share = (ExpertShare){.embedding = i == 1 || i > 2, .head = i > 1};
            return true;
        }
    return experts_refuse(
        experts, NO_PLACE,
        arena_format(experts->context->ir->arena, "share is none, or of embedding+head, not %s", text));
}

static bool is_taken(const Module *module, const char *name) {
    for (size_t g = 0; g < module->graphs.count; g++)
        for (uint32_t id = 0; id < module->graphs.items[g]->nodes.count; id++) {
            const Node *node = graph_node(module->graphs.items[g], id);
            for (uint32_t r = 0; r < node->result_count; r++)
                if (type_find(node->types[r], name) >= 0) return true;
        }
    return false;
}

// `name`, or with a number behind it where the module has such a dimension.
static const char *own_name(const Module *module, const char *name) {
    Names *names = module->ir->names;
    const char *own = names_intern(names, name);
    for (int i = 2; is_taken(module, own); i++) own = names_format(names, "%s%d", name, i);
    return own;
}

static bool begin(Experts *experts, const Module *module) {
    PassContext *context = experts->context;
    Ir *ir = context->ir;
    int64_t copies = pass_integer(context, "count");
    experts->count = context->experts ? context->expert_count + 1 : (uint32_t)copies;
    experts->modules = ARENA_ARRAY(ir->arena, const Module *, experts->count + 1);
    experts->modules[0] = module;
    if (!context->experts && (copies < 2 || copies > 1024))
        return experts_refuse(experts, NO_PLACE, "count is between 2 and 1024");
    for (uint32_t i = 1; i < experts->count; i++)
        experts->modules[i] = context->experts ? context->experts[i - 1] : module;
    for (uint32_t i = 1; i < experts->count; i++)
        if (!experts_alike(context, module, experts->modules[i])) return false;
    experts->expert = (Dimension){own_name(module, "expert"), experts->count, NULL};
    experts->balance = pass_number(context, "balance");
    int route = pass_choice(context, "route", "soft top_k");
    if (route < 0 || !read_share(experts, pass_text(context, "share"))) return false;
    experts->route = (ExpertRoute)route;
    experts->lane = experts->expert;
    if (route == ROUTE_SOFT) return true;
    experts->chosen = pass_integer(context, "k");
    experts->read = pass_integer(context, "read");
    experts->lane = (Dimension){own_name(module, "slot"), experts->chosen, NULL};
    return (experts->chosen >= 1 && experts->chosen <= experts->count && experts->read >= 1) ||
           experts_refuse(experts, NO_PLACE,
                          arena_format(ir->arena, "of %u experts top_k cannot choose %lld by %lld tokens",
                                       experts->count, (long long)experts->chosen, (long long)experts->read));
}

// ---- Parameters ----

// Behind `layer`, or what else stands in front of the declared dimensions; else in front.
static const Type *wide_type(const Experts *experts, const Parameter *parameter) {
    const Type *type = parameter->type;
    Dimension dimensions[RANK_MAX];
    int front = type->rank - parameter->declared_rank;
    if (type->rank == RANK_MAX) {
        experts_refuse(experts, parameter->place, "a parameter has too many dimensions for one more");
        return NULL;
    }
    for (int i = 0; i < type->rank; i++) dimensions[i < front ? i : i + 1] = type->dimensions[i];
    dimensions[front] = experts->expert;
    const Type *wide = type_make(experts->context->ir, type->element, type->rank + 1, dimensions);
    if (!wide) experts_refuse(experts, parameter->place, "the experts' parameter has too many elements");
    return wide;
}

// The experts' values one behind the other, at the type of the result.
static Value join(const Experts *experts, Graph *graph, const Value *values, const Type *type) {
    Place place = experts->context->place;
    Dimension one = experts->expert;
    one.extent = 1;
    Value *parts = ARENA_ARRAY(graph->ir->arena, Value, experts->count);
    for (uint32_t i = 0; i < experts->count; i++)
        parts[i] = build_broadcast(graph, values[i], &one, 1, place);
    Attribute along = {.key = ATTRIBUTE_along, .text = one.name};
    Value joined = graph_add(graph, OP_concat, parts, experts->count, &along, 1, place);
    return build_expand(graph, joined, type, place);
}

static Value mean(const Experts *experts, Graph *graph, const Value *values) {
    Place place = experts->context->place;
    Value sum = VALUE_NONE;
    for (uint32_t i = 0; i < experts->count; i++) {
        Value value = build_cast(graph, values[i], ELEMENT_F64, place);
        sum = i ? build_binary(graph, OP_add, sum, value, place) : value;
    }
    Value count = build_constant(graph, ELEMENT_F64, experts->count, place);
    return build_cast(graph, build_binary(graph, OP_div, sum, count, place),
                      graph_type(graph, values[0])->element, place);
}

// An initialiser with random numbers of its own: those of expert 0 are those of the model alone.
static Graph *own_numbers(const Graph *initialize, uint32_t expert) {
    Ir *ir = initialize->ir;
    if (!expert) return (Graph *)initialize;
    Graph *copy = graph_create(ir, initialize->name);
    Value *map = ARENA_ARRAY(ir->arena, Value, initialize->nodes.count);
    for (uint32_t id = 0; id < initialize->nodes.count; id++) {
        const Node *node = graph_node(initialize, id);
        Value *operands = ARENA_ARRAY(ir->arena, Value, node->operand_count + 1);
        for (uint32_t i = 0; i < node->operand_count; i++)
            operands[i] = (Value){map[node->operands[i].node].node, node->operands[i].result};
        const char *site = attribute_text(node, ATTRIBUTE_site);
        Attribute own = {.key = ATTRIBUTE_site};
        if (site) own.text = names_format(ir->names, "%s.expert%u", site, expert);
        map[id] =
            site ? graph_copy_node_with(copy, node, operands, own) : graph_copy_node(copy, node, operands);
    }
    const Output *output = &initialize->outputs.items[0];
    graph_add_output(copy, output->name, (Value){map[output->value.node].node, output->value.result},
                     VALUE_NONE);
    return copy;
}

static Graph *wide_initialize(const Experts *experts, size_t index, const Type *type) {
    const Parameter *first = &experts->modules[0]->parameters.items[index];
    Ir *ir = experts->context->ir;
    Graph *graph = graph_create(ir, first->initialize->name);
    Value seed = graph_add_input(graph, names_intern(ir->names, "seed"), ROLE_SCALAR,
                                 type_scalar(ir, ELEMENT_I64), first->place);
    Value *values = ARENA_ARRAY(ir->arena, Value, experts->count);
    for (uint32_t i = 0; i < experts->count; i++) {
        const Parameter *parameter = &experts->modules[i]->parameters.items[index];
        graph_inline(graph, own_numbers(parameter->initialize, i), &seed, &values[i]);
    }
    graph_add_output(graph, names_intern(ir->names, "value"), join(experts, graph, values, type), VALUE_NONE);
    return graph;
}

static bool add_parameters(Experts *experts, Transfer *transfer) {
    const Module *first = experts->modules[0];
    for (size_t i = 0; i < first->parameters.count; i++) {
        Parameter *parameter = &experts->result->parameters.items[i];
        if (parameter->file) continue;
        Value *values = ARENA_ARRAY(experts->context->ir->arena, Value, experts->count);
        for (uint32_t e = 0; e < experts->count; e++)
            values[e] = transfer_source(transfer, experts->modules[e], (int)e, parameter->path);
        if (experts_shares(first, parameter->path, experts->share)) {
            transfer_result(transfer, parameter->path, mean(experts, transfer->graph, values));
            continue;
        }
        parameter->type = wide_type(experts, parameter);
        if (!parameter->type) return false;
        parameter->initialize = wide_initialize(experts, i, parameter->type);
        transfer_result(transfer, parameter->path, join(experts, transfer->graph, values, parameter->type));
    }
    return true;
}

// ---- Graphs ----

static Value multiply(Graph *graph, Value value, Value weights, Place place) {
    Element element = graph_type(graph, value)->element;
    return build_binary(graph, OP_mul, value, build_cast(graph, weights, element, place), place);
}

// top_k: a parameter of all experts as that of the chosen ones, [batch, slot, ..], behind what stands in
// front of its declared dimensions.
static Value choose(const Experts *experts, Graph *graph, Value value, Place place) {
    const Routed *routed = experts_routed(experts, graph);
    const Type *type = graph_type(graph, value);
    const char *order[RANK_MAX];
    int front = type_find(type, experts->expert.name), count = 0;
    for (int i = 0; i < front; i++) order[count++] = type->dimensions[i].name;
    value = build_gather(graph, value, routed->choice, experts->expert.name, place);
    if (!front || value_is_none(value)) return value;
    const Type *chosen = graph_type(graph, value);
    for (int i = 0; i < chosen->rank; i++) {
        bool first = false;
        for (int j = 0; j < front; j++) first |= order[j] == chosen->dimensions[i].name;
        if (!first) order[count++] = chosen->dimensions[i].name;
    }
    return build_transpose(graph, value, order, (uint32_t)count, place);
}

// table[expert, vocab, ..] at [slot, vocab: tokens], without a copy of the chosen tables. VALUE_NONE where
// the two dimensions are not neighbours.
static Value look_up(const Experts *experts, Graph *graph, const Node *node, const Value *operands) {
    Names *names = graph->ir->names;
    const Routed *routed = experts_routed(experts, graph);
    const Type *type = graph_type(graph, operands[0]), *tokens = graph_type(graph, operands[1]);
    const char *along = attribute_text(node, ATTRIBUTE_along);
    int at = type_find(type, experts->expert.name);
    if (at + 1 >= type->rank || type->dimensions[at + 1].name != along) return VALUE_NONE;
    const char *row = names_format(names, "%s.%s", experts->expert.name, along);
    const char *pair[] = {experts->expert.name, along};
    Value extent = build_constant(graph, ELEMENT_I32, (double)type->dimensions[at + 1].extent, node->place);
    Value first = build_binary(graph, OP_mul, routed->choice, extent, node->place);
    const Type *choice = graph_type(graph, first);
    Dimension dimensions[RANK_MAX];
    int rank = 0;
    for (int i = 0; i < tokens->rank; i++) dimensions[rank++] = tokens->dimensions[i];
    for (int i = 0; i < choice->rank && rank < RANK_MAX; i++)
        if (type_find(tokens, choice->dimensions[i].name) < 0) dimensions[rank++] = choice->dimensions[i];
    const Type *both = type_make(graph->ir, ELEMENT_I32, rank, dimensions);
    Value index =
        build_binary(graph, OP_add, build_expand(graph, operands[1], both, node->place), first, node->place);
    return build_gather(graph, build_merge(graph, operands[0], pair, 2, row, node->place), index, row,
                        node->place);
}

// Operands, those that are parameters of all experts being those of the experts that are computed.
static Value *lane_operands(const Experts *experts, Rewrite *rewrite, const Node *node) {
    Value *operands = rewrite_operands(rewrite, node);
    for (uint32_t i = 0; i < node->operand_count && experts->route == ROUTE_TOP_K; i++)
        if (experts_has(rewrite->to, operands[i], &experts->expert))
            operands[i] = choose(experts, rewrite->to, operands[i], node->place);
    return operands;
}

// Experts end here: sum over experts of weight * hidden . W.
static bool end_experts(Rewrite *rewrite, Experts *experts, uint32_t id) {
    const Node *node = graph_node(rewrite->from, id);
    Graph *graph = rewrite->to;
    const Attribute *over = attribute_find(node, ATTRIBUTE_over);
    Value *operands = lane_operands(experts, rewrite, node);
    uint32_t weight = experts_head_weight(experts->marks, node), hidden = 1 - weight;
    const char *lane = experts->lane.name, *names[RANK_MAX] = {lane};
    for (uint32_t i = 0; i < over->count; i++) names[i + 1] = over->names[i];
    if (!experts_has(graph, operands[hidden], &experts->lane))
        return !experts_refuse(experts, node->place, "what comes here is the same for all experts") &&
               rewrite_fail(rewrite);
    Routed routed;
    if (experts->route == ROUTE_TOP_K)
        routed = *experts_routed(experts, graph);
    else if (!experts_route_soft(experts, graph, operands[hidden], over, &routed))
        return rewrite_fail(rewrite);
    operands[hidden] = multiply(graph, operands[hidden], routed.weights, node->place);
    bool own = experts_has(graph, operands[weight], &experts->lane);
    if (!own) operands[hidden] = build_reduce(graph, OP_sum, operands[hidden], &lane, 1, node->place);
    Value result =
        build_dot(graph, operands[0], operands[1], own ? names : names + 1, over->count + own, node->place);
    experts->weights[id] = routed.weights;
    rewrite_set(rewrite, (Value){id, 0}, result);
    return true;
}

// What is left of the dimension where no position is: the mean.
static Value level(const Experts *experts, Graph *graph, Value value, Place place) {
    Value sum = build_reduce(graph, OP_sum, value, &experts->lane.name, 1, place);
    double share = 1.0 / (double)experts->lane.extent;
    Element element = graph_type(graph, value)->element;
    return build_binary(graph, OP_mul, sum, build_constant(graph, element, share, place), place);
}

// A parameter behind the head: mixed like what the head made.
static Value mix(const Experts *experts, Graph *graph, Value value, Value weights, const Node *node) {
    const char *lane = experts->lane.name;
    const Type *type = graph_type(graph, weights);
    for (int i = 0; i < type->rank; i++)
        if (type->dimensions[i].name != lane && type_find(node->types[0], type->dimensions[i].name) < 0)
            return level(experts, graph, value, node->place);
    weights = build_cast(graph, weights, graph_type(graph, value)->element, node->place);
    return build_dot(graph, weights, value, &lane, 1, node->place);
}

static bool begin_graph(Experts *experts, Rewrite *rewrite) {
    const Graph *from = rewrite->from;
    if (experts->from == from) return true;
    experts->from = from;
    experts->marks = experts_mark(from);
    experts->weights = ARENA_ARRAY(from->ir->arena, Value, from->nodes.count);
    for (size_t i = 0; i < from->nodes.count; i++) experts->weights[i] = VALUE_NONE;
    Routed routed;
    return experts->route == ROUTE_SOFT || experts_route_top(experts, rewrite, &routed);
}

static Value widen(Rewrite *rewrite, Experts *experts, uint32_t id) {
    const Node *node = graph_node(rewrite->from, id);
    Value *plain = rewrite_operands(rewrite, node), *weights = &experts->weights[id];
    if (experts->route == ROUTE_TOP_K && node->op == OP_gather &&
        experts_has(rewrite->to, plain[0], &experts->expert)) {
        Value value = look_up(experts, rewrite->to, node, plain);
        if (!value_is_none(value)) return value;
    }
    Value *operands = lane_operands(experts, rewrite, node);
    for (uint32_t i = 0; i < node->operand_count; i++)
        if (value_is_none(*weights)) *weights = experts->weights[node->operands[i].node];
    for (uint32_t i = 0; i < node->operand_count && !value_is_none(*weights); i++)
        if (experts_has(rewrite->to, operands[i], &experts->lane))
            operands[i] = mix(experts, rewrite->to, operands[i], *weights, node);
    return retype_node(experts->retype, rewrite->to, rewrite->from, node, operands);
}

static bool widen_node(Rewrite *rewrite, uint32_t id) {
    Experts *experts = rewrite->data;
    if (!begin_graph(experts, rewrite)) return rewrite_fail(rewrite);
    if (experts->marks[id].head) return end_experts(rewrite, experts, id);
    Value value = widen(rewrite, experts, id);
    if (value_is_none(value)) return rewrite_fail(rewrite);
    const Node *node = graph_node(rewrite->from, id);
    for (uint32_t i = 0; i < node->result_count; i++)
        rewrite_set(rewrite, (Value){id, i}, (Value){value.node, i});
    return true;
}

// A number that no head had a part in, of each expert: the mean of them.
static bool end_output(const Experts *experts, Graph *graph, Output *output, const Type *type) {
    Place place = graph_node(graph, output->value.node)->place;
    if (graph_type(graph, output->value) == type) return true;
    if (type->rank || !element_is_float(type->element)) return false;
    output->value = level(experts, graph, output->value, place);
    return true;
}

static bool end_outputs(const Experts *experts, const Module *module) {
    for (size_t g = 0; g < module->graphs.count; g++) {
        const Graph *before = module->graphs.items[g];
        if (!module_is_entry(module, before)) continue;
        Graph *after = module_find_graph(experts->result, before->name);
        for (size_t i = 0; i < before->outputs.count; i++) {
            Value value = before->outputs.items[i].value;
            if (!end_output(experts, after, &after->outputs.items[i], graph_type(before, value)))
                return experts_refuse(
                    experts, graph_node(before, value.node)->place,
                    arena_format(after->ir->arena,
                                 "output %s of graph %s comes from no last contraction with a "
                                 "parameter, where experts could end",
                                 before->outputs.items[i].name, before->name));
        }
    }
    return experts->score ||
           experts_refuse(experts, NO_PLACE,
                          "no contraction of data with a parameter, where experts could end");
}

Module *fuse_experts(PassContext *context, const Module *module) {
    Experts experts = {.context = context, .retype = retype_begin(context->ir, NULL, 0)};
    if (!begin(&experts, module)) return NULL;
    experts.result = module_copy(module);
    Transfer transfer = transfer_begin(context);
    if (!add_parameters(&experts, &transfer) ||
        !module_pass_rewrite(context, module, experts.result, widen_node, &experts) ||
        !end_outputs(&experts, module) || !experts_add_balance(&experts))
        return NULL;
    const char *router[] = {experts.score, experts.bias};
    for (int i = 0; i < 2; i++)
        transfer_result(&transfer, router[i],
                        transfer_initial(&transfer, module_find_parameter(experts.result, router[i])));
    return transfer_end(&transfer, experts.result, experts.modules, experts.count) ? experts.result : NULL;
}
