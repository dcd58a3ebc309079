// fuse-experts: the router.
//
// soft: each position's weights of all experts, from the mean of what the experts made of it.
// top_k: each sequence's experts, from the mean of the embeddings of its first tokens, those of all experts
// where they have their own; the weights of the chosen ones add up to 1. Where no loss is computed the first
// tokens are an input of their own, `prompt`, so that a sequence can be read a few positions at a time.
#include <string.h>

#include "passes/experts.h"

// ---- Parameters ----

// (seed) -> zeros, or numbers of deviation 0.02, uniform.
static Graph *initial(const Experts *experts, const char *path, const Type *type, bool random) {
    Ir *ir = experts->context->ir;
    Place place = experts->context->place;
    Graph *graph = graph_create(ir, names_format(ir->names, "%s.initialize", path));
    Value seed = graph_add_input(graph, names_intern(ir->names, "seed"), ROLE_SCALAR,
                                 type_scalar(ir, ELEMENT_I64), place);
    Value value = build_constant(graph, ELEMENT_F32, 0, place);
    if (random) value = module_pass_random(graph, seed, path, type, place);
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

// The parameters w[features.., expert] and b[expert]; false where they are there for other features.
static bool need_router(Experts *experts, const Type *values, const char *const *features, uint32_t count) {
    Ir *ir = experts->context->ir;
    Dimension dimensions[RANK_MAX];
    for (uint32_t i = 0; i < count; i++) dimensions[i] = values->dimensions[type_find(values, features[i])];
    dimensions[count] = experts->expert;
    const Type *type = type_make(ir, ELEMENT_F32, (int)count + 1, dimensions);
    if (!experts->score) {
        experts->score = add_router(experts, "w", type, true);
        experts->bias = add_router(experts, "b", type_make(ir, ELEMENT_F32, 1, &experts->expert), false);
    }
    return module_find_parameter(experts->result, experts->score)->type == type;
}

const Routed *experts_routed(const Experts *experts, const Graph *graph) {
    for (size_t i = 0; i < experts->routed.count; i++)
        if (experts->routed.items[i].graph == graph) return &experts->routed.items[i];
    return NULL;
}

// ---- Scores ----

static Value softmax(const Experts *experts, Graph *graph, Value score) {
    Place place = experts->context->place;
    const char *over = experts->expert.name;
    Value largest = build_reduce(graph, OP_max_over, score, &over, 1, place);
    largest = build_unary(graph, OP_stop_gradient, largest, place);
    Value e = build_unary(graph, OP_exp, build_binary(graph, OP_sub, score, largest, place), place);
    return build_binary(graph, OP_div, e, build_reduce(graph, OP_sum, e, &over, 1, place), place);
}

static Value mean(const Experts *experts, Graph *graph, Value values, const char *const *over,
                  uint32_t count) {
    Place place = experts->context->place;
    const Type *type = graph_type(graph, values);
    double size = 1;
    for (uint32_t i = 0; i < count; i++) size *= (double)type->dimensions[type_find(type, over[i])].extent;
    Value sum =
        build_cast(graph, build_reduce(graph, OP_sum, values, over, count, place), ELEMENT_F32, place);
    return build_binary(graph, OP_mul, sum, build_constant(graph, ELEMENT_F32, 1 / size, place), place);
}

// Of each expert, from features without that dimension.
static Value shares(const Experts *experts, Graph *graph, Value values, const char *const *features,
                    uint32_t count) {
    Place place = experts->context->place;
    Value w = module_pass_parameter(graph, experts->result, experts->score);
    Value b = module_pass_parameter(graph, experts->result, experts->bias);
    Value score = build_dot(graph, values, w, features, count, place);
    return softmax(experts, graph, build_binary(graph, OP_add, score, b, place));
}

bool experts_route_soft(Experts *experts, Graph *graph, Value hidden, const Attribute *over, Routed *routed) {
    const Routed *earlier = experts_routed(experts, graph);
    *routed = (Routed){.graph = graph};
    if (need_router(experts, graph_type(graph, hidden), over->names, over->count)) {
        Value middle = mean(experts, graph, hidden, &experts->expert.name, 1);
        routed->weights = routed->shares = shares(experts, graph, middle, over->names, over->count);
    } else if (earlier) {
        *routed = *earlier;
    } else {
        return experts_refuse(experts, experts->context->place,
                              "experts end in values of different dimensions");
    }
    if (value_is_none(routed->weights)) return false;
    vector_push(graph->ir->arena, &experts->routed, *routed);
    return true;
}

// ---- The first tokens ----

// The first table[along: tokens] of a parameter by data.
static const Node *find_lookup(const Graph *graph) {
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        if (node->op != OP_gather) continue;
        const Node *table = graph_node(graph, node->operands[0].node),
                   *tokens = graph_node(graph, node->operands[1].node);
        if (table->op == OP_input && tokens->op == OP_input && tokens->types[0]->rank > 1 &&
            attribute_integer(table, ATTRIBUTE_role, 0) == ROLE_PARAMETER &&
            attribute_integer(tokens, ATTRIBUTE_role, 0) == ROLE_DATA)
            return node;
    }
    return NULL;
}

// [batch, prompt]: of a loss those that it reads, else an input.
static Value first_tokens(const Experts *experts, const Rewrite *rewrite, Value tokens) {
    Graph *graph = rewrite->to;
    Names *names = graph->ir->names;
    Place place = experts->context->place;
    Type type = *graph_type(graph, tokens);
    Dimension *last = &type.dimensions[type.rank - 1];
    const char *along = last->name;
    int64_t count = experts->read < last->extent ? experts->read : last->extent;
    if (graph_find_output(rewrite->from, "loss"))
        return build_rename(graph, build_slice(graph, tokens, along, 0, count, place), along,
                            names_intern(names, "prompt"), place);
    *last = (Dimension){names_intern(names, "prompt"), count, NULL};
    return graph_add_input(graph, last->name, ROLE_DATA,
                           type_make(graph->ir, type.element, type.rank, type.dimensions), place);
}

static void choose(const Experts *experts, Graph *graph, Routed *routed) {
    Place place = experts->context->place;
    const char *lane = experts->lane.name;
    Attribute attributes[] = {{.key = ATTRIBUTE_along, .text = experts->expert.name},
                              {.key = ATTRIBUTE_count, .integer = experts->lane.extent}};
    Value best = graph_add(graph, OP_top_k, &routed->shares, 1, attributes, 2, place);
    if (value_is_none(best)) return;
    routed->choice = build_rename(graph, (Value){best.node, 1}, experts->expert.name, lane, place);
    best = build_rename(graph, best, experts->expert.name, lane, place);
    routed->weights =
        build_binary(graph, OP_div, best, build_reduce(graph, OP_sum, best, &lane, 1, place), place);
}

bool experts_route_top(Experts *experts, Rewrite *rewrite, Routed *routed) {
    Graph *graph = rewrite->to;
    Place place = experts->context->place;
    const Node *lookup = find_lookup(rewrite->from);
    if (!lookup)
        return experts_refuse(experts, place,
                              "route = top_k reads tokens, and none are looked up in a parameter");
    Value table = rewrite_value(rewrite, lookup->operands[0]);
    Value tokens = first_tokens(experts, rewrite, rewrite_value(rewrite, lookup->operands[1]));
    Value rows = build_gather(graph, table, tokens, attribute_text(lookup, ATTRIBUTE_along), place);
    if (value_is_none(rows)) return false;
    const Type *type = graph_type(graph, rows), *kept = graph_type(graph, tokens);
    const char *over[2] = {kept->dimensions[kept->rank - 1].name, experts->expert.name}, *features[RANK_MAX];
    uint32_t count = 0;
    for (int i = 0; i < type->rank; i++)
        if (type_find(kept, type->dimensions[i].name) < 0 && type->dimensions[i].name != over[1])
            features[count++] = type->dimensions[i].name;
    if (!need_router(experts, type, features, count))
        return experts_refuse(experts, place, "graphs look tokens up in values of different dimensions");
    Value middle = mean(experts, graph, rows, over, experts_has(graph, rows, &experts->expert) ? 2 : 1);
    *routed = (Routed){
        .graph = graph, .weights = VALUE_NONE, .shares = shares(experts, graph, middle, features, count)};
    choose(experts, graph, routed);
    if (value_is_none(routed->weights)) return false;
    vector_push(graph->ir->arena, &experts->routed, *routed);
    return true;
}

// ---- Balance ----

// All dimensions of `value` but one.
static uint32_t others(const Graph *graph, Value value, const char *except, const char **names) {
    const Type *type = graph_type(graph, value);
    uint32_t count = 0;
    for (int i = 0; i < type->rank; i++)
        if (type->dimensions[i].name != except) names[count++] = type->dimensions[i].name;
    return count;
}

// How often each expert is used: its mean weight, or the share of sequences that chose it.
static Value usage(const Experts *experts, Graph *graph, const Routed *routed, Value share) {
    Place place = experts->context->place;
    if (experts->route == ROUTE_SOFT) return share;
    const Type *type = graph_type(graph, routed->choice);
    Value index = build_index(graph, experts->expert, place);
    index = build_broadcast(graph, index, type->dimensions, (uint32_t)type->rank, place);
    Value hits =
        build_cast(graph, build_binary(graph, OP_eq, index, routed->choice, place), ELEMENT_F32, place);
    const char *over[RANK_MAX];
    if (value_is_none(hits)) return hits;
    return mean(experts, graph, hits, over, others(graph, hits, experts->expert.name, over));
}

// experts * sum over experts of usage * mean share: 1 where all are used alike, `experts` at one alone.
static Value evenness(const Experts *experts, Graph *graph, const Routed *routed) {
    Place place = experts->context->place;
    const char *over[RANK_MAX];
    uint32_t count = others(graph, routed->shares, experts->expert.name, over);
    Value share = mean(experts, graph, routed->shares, over, count);
    Value products = build_binary(graph, OP_mul, share, usage(experts, graph, routed, share), place);
    Value sum = build_reduce(graph, OP_sum, products, &experts->expert.name, 1, place);
    return build_binary(graph, OP_mul, sum, build_constant(graph, ELEMENT_F32, experts->count, place), place);
}

bool experts_add_balance(const Experts *experts) {
    Place place = experts->context->place;
    Graph *graph = module_find_graph(experts->result, "loss");
    Value sum = VALUE_NONE;
    double terms = 0;
    for (size_t i = 0; i < experts->routed.count; i++) {
        if (experts->routed.items[i].graph != graph) continue;
        Value even = evenness(experts, graph, &experts->routed.items[i]);
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
