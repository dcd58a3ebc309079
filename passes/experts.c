// fuse-experts: several models of one form become one, their operations batched along `expert`.
//
//   before: h[batch, time, embed] = stack(table[vocab, embed] ..., trunk.wq[layer, embed, heads, key])
//           logits = dot(h, table) {over=(embed)}
//   after:  h[batch, time, expert, embed] = stack(..., trunk.wq[layer, expert, embed, heads, key])
//           w[batch, time, expert] = softmax(mean of h over expert . router.w + router.b)
//           logits = dot(h * w, table[expert, vocab, embed]) {over=(expert, embed)}
//   transfer: trunk.wq' = the experts' trunk.wq, one behind the other; the router starts small
//
// Options: count = how many copies of the module, where no experts are given; route = soft; share = none, or
// embedding+head of them: parameters that are looked up in, and those of the head and of all behind it, are
// one for all experts, and start as the mean of theirs (a tied table is shared where one of its uses is);
// balance = weight of the term that keeps the router even, experts * sum of squared mean weights, which is
// 1 where it is; the loss of `loss` holds it, and it is the metric `balance` there.
// Requires: experts that differ in nothing but the values of their weights; an end of each expert: the last
// contraction of a value with a parameter, on every way to an output. Parameters behind it are mixed.
// Leaves: one graph for each that there was; declared ranks.
#include "passes/experts.h"

#include <string.h>

typedef struct Routed {  // a graph of the result, and the router's weights in it
    Graph *graph;
    Value weights;
} Routed;

typedef struct Experts {
    PassContext *context;
    const Module **modules;
    uint32_t count;
    Dimension dimension;
    ExpertShare share;
    double balance;
    Retype *retype;
    Module *result;
    const char *score, *bias;  // paths of the router's parameters; NULL until a head was met
    VECTOR(Routed) routed;
    // Of the graph that is being rewritten:
    const Graph *from;
    ExpertMark *marks;
    Value *weights;  // by node: those of the head that it depends on
} Experts;

static bool refuse(const Experts *experts, Place place, const char *text) {
    PassContext *context = experts->context;
    report_error(context->ir->diagnostics, context->place, "E0546", "fuse-experts: %s: %s",
                 experts->modules[0]->name, text);
    if (place.file) report_note(context->ir->diagnostics, place, "here");
    return false;
}

// ---- Options ----

static bool read_share(Experts *experts, const char *text) {
    static const char *const words[] = {"none", "embedding", "head", "embedding+head", "head+embedding"};
    for (int i = 0; i < 5; i++)
        if (strcmp(text, words[i]) == 0) {
            experts->share = (ExpertShare){.embedding = i == 1 || i > 2, .head = i > 1};
            return true;
        }
    return refuse(
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

// The modules, and a name for their dimension that none of them has.
static bool begin(Experts *experts, const Module *module) {
    PassContext *context = experts->context;
    Ir *ir = context->ir;
    int64_t copies = pass_integer(context, "count");
    experts->count = context->experts ? context->expert_count + 1 : (uint32_t)copies;
    experts->modules = ARENA_ARRAY(ir->arena, const Module *, experts->count + 1);
    experts->modules[0] = module;
    if (!context->experts && (copies < 2 || copies > 1024))
        return refuse(experts, NO_PLACE, "count is between 2 and 1024");
    for (uint32_t i = 1; i < experts->count; i++)
        experts->modules[i] = context->experts ? context->experts[i - 1] : module;
    for (uint32_t i = 1; i < experts->count; i++)
        if (!experts_alike(context, module, experts->modules[i])) return false;
    const char *name = names_intern(ir->names, "expert");
    for (int i = 2; is_taken(module, name); i++) name = names_format(ir->names, "expert%d", i);
    experts->dimension = (Dimension){name, experts->count, NULL};
    experts->balance = pass_number(context, "balance");
    return pass_choice(context, "route", "soft") >= 0 && read_share(experts, pass_text(context, "share"));
}

// ---- Parameters ----

// Behind `layer`, or what else stands in front of the declared dimensions; else in front.
static const Type *wide_type(const Experts *experts, const Parameter *parameter) {
    const Type *type = parameter->type;
    Dimension dimensions[RANK_MAX];
    int front = type->rank - parameter->declared_rank;
    if (type->rank == RANK_MAX) {
        refuse(experts, parameter->place, "a parameter has too many dimensions for one more");
        return NULL;
    }
    for (int i = 0; i < type->rank; i++) dimensions[i < front ? i : i + 1] = type->dimensions[i];
    dimensions[front] = experts->dimension;
    const Type *wide = type_make(experts->context->ir, type->element, type->rank + 1, dimensions);
    if (!wide) refuse(experts, parameter->place, "the experts' parameter has too many elements");
    return wide;
}

// The experts' values one behind the other, at the type of the result.
static Value join(const Experts *experts, Graph *graph, const Value *values, const Type *type) {
    Place place = experts->context->place;
    Dimension one = experts->dimension;
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

// ---- The router ----

// (seed) -> zeros, or numbers of deviation 0.02, uniform.
static Graph *initial(const Experts *experts, const char *path, const Type *type, bool random) {
    Ir *ir = experts->context->ir;
    Place place = experts->context->place;
    Graph *graph = graph_create(ir, names_format(ir->names, "%s.initialize", path));
    Value seed = graph_add_input(graph, names_intern(ir->names, "seed"), ROLE_SCALAR,
                                 type_scalar(ir, ELEMENT_I64), place);
    Value value = build_constant(graph, ELEMENT_F32, 0, place);
    if (random) {
        Attribute attributes[] = {
            {.key = ATTRIBUTE_dimensions, .dimensions = type->dimensions, .count = (uint32_t)type->rank},
            {.key = ATTRIBUTE_site, .text = path}};
        value = graph_add(graph, OP_random, &seed, 1, attributes, 2, place);
        Value half = build_constant(graph, ELEMENT_F32, 0.5, place);
        value = build_binary(graph, OP_sub, value, half, place);
        value = build_binary(graph, OP_mul, value, build_constant(graph, ELEMENT_F32, 0.0692820323, place),
                             place);
    }
    graph_add_output(graph, names_intern(ir->names, "value"), build_expand(graph, value, type, place),
                     VALUE_NONE);
    return graph;
}

static const char *add_router(Experts *experts, const char *name, const Type *type, bool random) {
    Ir *ir = experts->context->ir;
    const char *path = names_format(ir->names, "router.%s", name);
    for (int i = 2; module_find_parameter(experts->result, path); i++)
        path = names_format(ir->names, "router%d.%s", i, name);
    Parameter parameter = {.path = path,
                           .type = type,
                           .declared_rank = type->rank,
                           .initialize = initial(experts, path, type, random),
                           .place = experts->context->place};
    vector_push(ir->arena, &experts->result->parameters, parameter);
    return path;
}

// The score of each expert reads the dimensions that the first head sums. False for another head that sums
// others.
static bool need_router(Experts *experts, const Type *hidden, const Attribute *over) {
    Ir *ir = experts->context->ir;
    Dimension dimensions[RANK_MAX];
    for (uint32_t i = 0; i < over->count; i++)
        dimensions[i] = hidden->dimensions[type_find(hidden, over->names[i])];
    dimensions[over->count] = experts->dimension;
    const Type *type = type_make(ir, ELEMENT_F32, (int)over->count + 1, dimensions);
    if (!experts->score) {
        experts->score = add_router(experts, "w", type, true);
        experts->bias = add_router(experts, "b", type_make(ir, ELEMENT_F32, 1, &experts->dimension), false);
    }
    return module_find_parameter(experts->result, experts->score)->type == type;
}

static Value softmax(const Experts *experts, Graph *graph, Value score) {
    Place place = experts->context->place;
    const char *over = experts->dimension.name;
    Value largest = build_reduce(graph, OP_max_over, score, &over, 1, place);
    largest = build_unary(graph, OP_stop_gradient, largest, place);
    Value e = build_unary(graph, OP_exp, build_binary(graph, OP_sub, score, largest, place), place);
    return build_binary(graph, OP_div, e, build_reduce(graph, OP_sum, e, &over, 1, place), place);
}

// The experts' weights from what they made, [.., expert, embed] -> [.., expert].
static Value route(const Experts *experts, Graph *graph, Value hidden, const Attribute *over) {
    Place place = experts->context->place;
    const char *expert = experts->dimension.name;
    Value share = build_constant(graph, ELEMENT_F32, 1.0 / experts->count, place);
    Value middle =
        build_cast(graph, build_reduce(graph, OP_sum, hidden, &expert, 1, place), ELEMENT_F32, place);
    middle = build_binary(graph, OP_mul, middle, share, place);
    Value w = module_pass_parameter(graph, experts->result, experts->score);
    Value b = module_pass_parameter(graph, experts->result, experts->bias);
    Value score = build_dot(graph, middle, w, over->names, over->count, place);
    return softmax(experts, graph, build_binary(graph, OP_add, score, b, place));
}

// ---- Graphs ----

static bool is_wide(const Experts *experts, const Graph *graph, Value value) {
    return type_find(graph_type(graph, value), experts->dimension.name) >= 0;
}

static Value multiply(Graph *graph, Value value, Value weights, Place place) {
    Element element = graph_type(graph, value)->element;
    return build_binary(graph, OP_mul, value, build_cast(graph, weights, element, place), place);
}

static Value earlier_weights(const Experts *experts, const Graph *graph) {
    for (size_t i = 0; i < experts->routed.count; i++)
        if (experts->routed.items[i].graph == graph) return experts->routed.items[i].weights;
    return VALUE_NONE;
}

// Experts end here: sum over experts of weight * hidden . W.
static bool end_experts(Rewrite *rewrite, Experts *experts, uint32_t id) {
    const Node *node = graph_node(rewrite->from, id);
    Graph *graph = rewrite->to;
    const Attribute *over = attribute_find(node, ATTRIBUTE_over);
    Value *operands = rewrite_operands(rewrite, node);
    uint32_t weight = experts_head_weight(experts->marks, node), hidden = 1 - weight;
    const char *expert = experts->dimension.name, *names[RANK_MAX] = {expert};
    for (uint32_t i = 0; i < over->count; i++) names[i + 1] = over->names[i];
    if (!is_wide(experts, graph, operands[hidden]))
        return !refuse(experts, node->place, "what comes here is the same for all experts") &&
               rewrite_fail(rewrite);
    Value weights = need_router(experts, graph_type(graph, operands[hidden]), over)
                        ? route(experts, graph, operands[hidden], over)
                        : earlier_weights(experts, graph);
    if (value_is_none(weights))
        return !refuse(experts, node->place, "the first end of experts sums dimensions that are not here") &&
               rewrite_fail(rewrite);
    operands[hidden] = multiply(graph, operands[hidden], weights, node->place);
    bool own = is_wide(experts, graph, operands[weight]);
    if (!own) operands[hidden] = build_reduce(graph, OP_sum, operands[hidden], &expert, 1, node->place);
    Value result =
        build_dot(graph, operands[0], operands[1], own ? names : names + 1, over->count + own, node->place);
    experts->weights[id] = weights;
    vector_push(graph->ir->arena, &experts->routed, ((Routed){graph, weights}));
    rewrite_set(rewrite, (Value){id, 0}, result);
    return true;
}

// What is left of the dimension where no position is: the mean.
static Value level(const Experts *experts, Graph *graph, Value value, Place place) {
    Value sum = build_reduce(graph, OP_sum, value, &experts->dimension.name, 1, place);
    Value share = build_constant(graph, graph_type(graph, value)->element, 1.0 / experts->count, place);
    return build_binary(graph, OP_mul, sum, share, place);
}

// A parameter behind the head: mixed like what the head made.
static Value mix(const Experts *experts, Graph *graph, Value value, Value weights, const Node *node) {
    const char *expert = experts->dimension.name;
    const Type *type = graph_type(graph, weights);
    for (int i = 0; i < type->rank; i++)
        if (type->dimensions[i].name != expert && type_find(node->types[0], type->dimensions[i].name) < 0)
            return level(experts, graph, value, node->place);
    weights = build_cast(graph, weights, graph_type(graph, value)->element, node->place);
    return build_dot(graph, weights, value, &expert, 1, node->place);
}

static void begin_graph(Experts *experts, const Graph *from) {
    if (experts->from == from) return;
    experts->from = from;
    experts->marks = experts_mark(from);
    experts->weights = ARENA_ARRAY(from->ir->arena, Value, from->nodes.count);
    for (size_t i = 0; i < from->nodes.count; i++) experts->weights[i] = VALUE_NONE;
}

static bool widen_node(Rewrite *rewrite, uint32_t id) {
    Experts *experts = rewrite->data;
    const Node *node = graph_node(rewrite->from, id);
    begin_graph(experts, rewrite->from);
    if (experts->marks[id].head) return end_experts(rewrite, experts, id);
    Value *operands = rewrite_operands(rewrite, node), *weights = &experts->weights[id];
    for (uint32_t i = 0; i < node->operand_count; i++)
        if (value_is_none(*weights)) *weights = experts->weights[node->operands[i].node];
    for (uint32_t i = 0; i < node->operand_count && !value_is_none(*weights); i++)
        if (is_wide(experts, rewrite->to, operands[i]))
            operands[i] = mix(experts, rewrite->to, operands[i], *weights, node);
    Value value = retype_node(experts->retype, rewrite->to, rewrite->from, node, operands);
    if (value_is_none(value)) return rewrite_fail(rewrite);
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
                return refuse(experts, graph_node(before, value.node)->place,
                              arena_format(after->ir->arena,
                                           "output %s of graph %s comes from no last contraction with a "
                                           "parameter, where experts could end",
                                           before->outputs.items[i].name, before->name));
        }
    }
    return experts->score ||
           refuse(experts, NO_PLACE, "no contraction of data with a parameter, where experts could end");
}

// ---- Balance ----

// experts * sum over experts of the squared mean weight: 1 where all are used alike, `experts` at one alone.
static Value evenness(const Experts *experts, Graph *graph, Value weights) {
    Place place = experts->context->place;
    const Type *type = graph_type(graph, weights);
    const char *over[RANK_MAX];
    uint32_t count = 0;
    double positions = 1;
    for (int i = 0; i < type->rank; i++)
        if (type->dimensions[i].name != experts->dimension.name) {
            over[count++] = type->dimensions[i].name;
            positions *= (double)type->dimensions[i].extent;
        }
    Value sum = count ? build_reduce(graph, OP_sum, weights, over, count, place) : weights;
    Value p =
        build_binary(graph, OP_mul, sum, build_constant(graph, ELEMENT_F32, 1 / positions, place), place);
    Value squares = build_reduce(graph, OP_sum, build_binary(graph, OP_mul, p, p, place),
                                 &experts->dimension.name, 1, place);
    return build_binary(graph, OP_mul, squares, build_constant(graph, ELEMENT_F32, experts->count, place),
                        place);
}

static bool add_balance(const Experts *experts) {
    Place place = experts->context->place;
    Graph *graph = module_find_graph(experts->result, "loss");
    Value sum = VALUE_NONE;
    double terms = 0;
    for (size_t i = 0; i < experts->routed.count; i++) {
        if (experts->routed.items[i].graph != graph) continue;
        Value even = evenness(experts, graph, experts->routed.items[i].weights);
        sum = terms ? build_binary(graph, OP_add, sum, even, place) : even;
        terms++;
    }
    const Output *loss = graph && terms ? graph_find_output(graph, "loss") : NULL;
    if (!loss) return true;
    const char *name = "balance";  // experts that are fused themselves have one
    for (int i = 2; graph_find_output(graph, name); i++)
        name = names_format(graph->ir->names, "balance%d", i);
    Value share = build_constant(graph, ELEMENT_F32, 1 / terms, place);
    Value balance = build_binary(graph, OP_mul, sum, share, place);
    Value term = build_binary(graph, OP_mul, balance,
                              build_constant(graph, ELEMENT_F32, experts->balance, place), place);
    Value total = build_binary(graph, OP_add, loss->value, term, place);
    if (value_is_none(total)) return false;
    graph->outputs.items[loss - graph->outputs.items].value = total;
    graph_add_output(graph, name, balance, VALUE_NONE);
    return true;
}

Module *fuse_experts(PassContext *context, const Module *module) {
    Experts experts = {.context = context, .retype = retype_begin(context->ir)};
    if (!begin(&experts, module)) return NULL;
    experts.result = module_copy(module);
    Transfer transfer = transfer_begin(context);
    if (!add_parameters(&experts, &transfer) ||
        !module_pass_rewrite(context, module, experts.result, widen_node, &experts) ||
        !end_outputs(&experts, module) || !add_balance(&experts))
        return NULL;
    const char *router[] = {experts.score, experts.bias};
    for (int i = 0; i < 2; i++)
        transfer_result(&transfer, router[i],
                        transfer_initial(&transfer, module_find_parameter(experts.result, router[i])));
    return transfer_end(&transfer, experts.result, experts.modules, experts.count) ? experts.result : NULL;
}
