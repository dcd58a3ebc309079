// Random graphs for the tests of the program passes: elementwise work, reductions, contractions, views,
// states that are replaced, accumulations.
#ifndef CHERRY_TESTS_FUSE_RANDOM_H
#define CHERRY_TESTS_FUSE_RANDOM_H

#include "tests/unit/fuse_test.h"

enum { NODES = 26 };

typedef struct Random {
    uint64_t state;
    Ir *ir;
    Graph *graph;
    Element element;          // f32 or f64, of all values
    Dimension dimensions[5];  // a, b, c, d and a double of d
    VECTOR(Value) values;
    uint32_t output_count;
} Random;

static uint32_t below(Random *random, uint32_t limit) {
    return (uint32_t)((test_random(&random->state) + 1) / 2 * limit) % limit;
}

static Value pick(Random *random) {  // recent values more often
    uint32_t count = (uint32_t)random->values.count, a = below(random, count), b = below(random, count);
    return random->values.items[a > b ? a : b];
}

static void keep(Random *random, Value value) {
    if (!value_is_none(value) && graph_type(random->graph, value)->element == random->element)
        vector_push(random->ir->arena, &random->values, value);
}

static const Type *random_type(Random *random) {
    Dimension chosen[4];
    int rank = 0;
    for (int i = 0; i < 4; i++)
        if (below(random, 3)) chosen[rank++] = random->dimensions[i];
    return type_make(random->ir, random->element, rank, chosen);
}

// A value with the dimensions of `type`, made of `value` by summing and broadcasting.
static Value fitted(Random *random, Value value, const Type *type) {
    value = build_reduce_to(random->graph, value, type, NO_PLACE);
    return build_expand(random->graph, value, type, NO_PLACE);
}

static const char *any_name(Random *random, Value value) {
    const Type *type = graph_type(random->graph, value);
    return type->rank ? type->dimensions[below(random, (uint32_t)type->rank)].name : NULL;
}

static Value unary(Random *random) {
    static const Op ops[] = {OP_neg, OP_tanh, OP_sin, OP_abs, OP_exp};
    Value a = pick(random);
    Op op = ops[below(random, 5)];
    if (op == OP_exp) a = fuse_one(random->graph, OP_tanh, a);  // stays small
    return fuse_one(random->graph, op, a);
}

static Value binary(Random *random) {
    static const Op ops[] = {OP_add, OP_sub, OP_mul, OP_max};
    Value a = pick(random), b = fitted(random, pick(random), graph_type(random->graph, a));
    return build_binary(random->graph, ops[below(random, 4)], a, b, NO_PLACE);
}

static Value broadcasted(Random *random) {  // a row or a column over a larger value
    Value a = pick(random);
    const char *name = any_name(random, a);
    if (!name) return fuse_mul(random->graph, a, a);
    Value row = build_reduce(random->graph, below(random, 2) ? OP_sum : OP_max_over, a, &name, 1, NO_PLACE);
    if (below(random, 2)) row = fuse_one(random->graph, OP_tanh, row);
    return below(random, 2) ? fuse_sub(random->graph, a, row) : fuse_mul(random->graph, row, a);
}

static Value reduced(Random *random) {
    Value a = pick(random);
    const char *name = any_name(random, a);
    if (!name) return fuse_one(random->graph, OP_sin, a);
    return build_reduce(random->graph, below(random, 3) ? OP_sum : OP_max_over, a, &name, 1, NO_PLACE);
}

static Value contracted(Random *random) {
    Value a = pick(random), b = fitted(random, pick(random), random_type(random));
    const Type *x = graph_type(random->graph, a), *y = graph_type(random->graph, b);
    const char *shared[RANK_MAX];
    uint32_t count = 0;
    for (int i = 0; i < x->rank; i++)
        if (type_find(y, x->dimensions[i].name) >= 0 && (count == 0 || below(random, 2)))
            shared[count++] = x->dimensions[i].name;
    if (!count) return fuse_one(random->graph, OP_neg, a);
    Value dot = build_dot(random->graph, a, b, shared, count, NO_PLACE);
    return fuse_mul(random->graph, dot, build_constant(random->graph, random->element, 0.125, NO_PLACE));
}

static Value viewed(Random *random) {
    Graph *graph = random->graph;
    Value a = pick(random);
    const char *name = any_name(random, a);
    const Type *type = graph_type(graph, a);
    if (!name) return a;
    int64_t extent = type->dimensions[type_find(type, name)].extent;
    Attribute along = {.key = ATTRIBUTE_along, .count = 1, .text = name};
    Attribute by[] = {along, {.key = ATTRIBUTE_by, .integer = (int64_t)below(random, 3) - 1}};
    switch (below(random, 6)) {
        case 0:
            return graph_add(graph, OP_reverse, &a, 1, &along, 1, NO_PLACE);
        case 1:
            return graph_add(graph, OP_shift, &a, 1, by, 2, NO_PLACE);
        case 2:
            return build_pick(graph, a, name, below(random, (uint32_t)extent), NO_PLACE);
        case 3:
            return build_pad(graph, build_slice(graph, a, name, 0, extent - 1, NO_PLACE), name, 1, extent,
                             NO_PLACE);
        case 4: {
            Value halves[] = {build_slice(graph, a, name, extent / 2, extent - extent / 2, NO_PLACE),
                              build_slice(graph, fuse_one(graph, OP_neg, a), name, 0, extent / 2, NO_PLACE)};
            if (extent < 2) return a;
            return graph_add(graph, OP_concat, halves, 2, &along, 1, NO_PLACE);
        }
        default: {
            const char *order[RANK_MAX];
            for (int i = 0; i < type->rank; i++) order[i] = type->dimensions[(i + 1) % type->rank].name;
            return build_transpose(graph, a, order, (uint32_t)type->rank, NO_PLACE);
        }
    }
}

// Splits d into two and merges it back after work on the parts.
static Value split_and_merged(Random *random) {
    Graph *graph = random->graph;
    Value a = pick(random);
    if (type_find(graph_type(graph, a), random->dimensions[3].name) < 0) return fuse_mul(graph, a, a);
    Dimension parts[] = {test_dimension(random->ir, "outside", 2),
                         test_dimension(random->ir, "inside", random->dimensions[3].extent / 2)};
    Value s = build_split(graph, a, random->dimensions[3].name, parts, 2, NO_PLACE);
    if (below(random, 2)) {
        Value m = build_reduce(graph, OP_sum, s, &parts[below(random, 2)].name, 1, NO_PLACE);
        s = fuse_sub(graph, s, m);
    } else {
        s = fuse_one(graph, OP_tanh, s);
    }
    const char *from[] = {parts[0].name, parts[1].name};
    return build_merge(graph, s, from, 2, random->dimensions[3].name, NO_PLACE);
}

static void add_output(Random *random, Value value) {
    const char *name = names_format(random->ir->names, "out%u", random->output_count++);
    graph_add_output(random->graph, name, value, VALUE_NONE);
}

// A state with the type of some value: replaced by work on it, accumulated into, or added to in a slice.
static void add_state(Random *random, uint32_t number) {
    Graph *graph = random->graph;
    Value like = pick(random);
    const Type *type = graph_type(graph, like);
    const char *name = names_format(random->ir->names, "state%u", number);
    Value state = graph_add_input(graph, name, ROLE_PARAMETER, type, NO_PLACE), value = state;
    keep(random, state);
    for (uint32_t i = 0; i <= below(random, 3); i++) {
        Value other = fitted(random, pick(random), type);
        const char *along = type->rank ? type->dimensions[0].name : NULL;
        switch (below(random, 4)) {
            case 0:
                value = fuse_sub(graph, value, other);
                break;
            case 1:
                value = build_accumulate(graph, value, other, NO_PLACE);
                break;
            case 2:
                if (along)
                    value =
                        build_accumulate_at(graph, value, build_pick(graph, other, along, 0, NO_PLACE), along,
                                            below(random, (uint32_t)type->dimensions[0].extent), NO_PLACE);
                break;
            default:
                value = fuse_mul(graph, fuse_one(graph, OP_tanh, value), other);
        }
        if (below(random, 3) == 0) keep(random, value);
    }
    graph_add_output(graph, names_format(random->ir->names, "new%u", number), value, state);
}

// A graph in an arena of its own: destroy graph->ir->arena.
static Graph *random_graph(uint64_t seed, Element element) {
    Random random = {
        .state = seed * UINT64_C(0x9e3779b97f4a7c15), .ir = ir_create(arena_create()), .element = element};
    static const char *const names[] = {"a", "b", "c", "d"};
    for (int i = 0; i < 4; i++)
        random.dimensions[i] = test_dimension(random.ir, names[i], i == 3 ? 4 : 1 + below(&random, 4));
    random.graph =
        graph_create(random.ir, names_format(random.ir->names, "random%llu", (unsigned long long)seed));
    for (uint32_t i = 0; i < 4; i++)
        keep(&random, graph_add_input(random.graph, names_format(random.ir->names, "in%u", i), ROLE_DATA,
                                      random_type(&random), NO_PLACE));
    uint32_t nodes = 4 + below(&random, NODES);
    for (uint32_t i = 0; i < nodes; i++) {
        switch (below(&random, 10)) {
            case 0:
                keep(&random, unary(&random));
                break;
            case 1:
                keep(&random, broadcasted(&random));
                break;
            case 2:
                keep(&random, reduced(&random));
                break;
            case 3:
                keep(&random, contracted(&random));
                break;
            case 4:
                keep(&random, viewed(&random));
                break;
            case 5:
                keep(&random, split_and_merged(&random));
                break;
            case 6:
                add_state(&random, i);
                break;
            default:
                keep(&random, binary(&random));
        }
    }
    for (uint32_t i = 0; i < 1 + below(&random, 3); i++) add_output(&random, pick(&random));
    add_output(&random, vector_last(&random.values));
    return random.graph;
}

#endif
