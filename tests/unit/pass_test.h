// What the tests of graph passes share: a small model as a graph, random tensors, evaluation by name,
// finite differences.
#ifndef CHERRY_TESTS_PASS_TEST_H
#define CHERRY_TESTS_PASS_TEST_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "ir/evaluate.h"
#include "passes/pass.h"

static inline const char *test_name(Ir *ir, const char *text) { return names_intern(ir->names, text); }

static inline Dimension test_dimension(Ir *ir, const char *name, int64_t extent) {
    return (Dimension){test_name(ir, name), extent, NULL};
}

// test_type(ir, ELEMENT_F32, "batch", 2, "time", 3, NULL)
static inline const Type *test_type(Ir *ir, Element element, ...) {
    Dimension dimensions[RANK_MAX];
    int rank = 0;
    va_list list;
    va_start(list, element);
    for (const char *name; (name = va_arg(list, const char *));)
        dimensions[rank++] = test_dimension(ir, name, va_arg(list, int));
    va_end(list);
    return type_make(ir, element, rank, dimensions);
}

static inline Value test_input(Graph *graph, const char *name, Role role, const Type *type) {
    return graph_add_input(graph, test_name(graph->ir, name), role, type, NO_PLACE);
}

static inline void test_show_errors(Ir *ir) { diagnostics_print(ir->diagnostics, 0, stderr); }

// splitmix64 to [-1, 1): the same numbers on every machine.
static inline double test_random(uint64_t *state) {
    uint64_t x = (*state += UINT64_C(0x9e3779b97f4a7c15));
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (double)((x ^ (x >> 31)) >> 11) * 0x1p-52 - 1;
}

static inline uint64_t test_seed(const Node *input) {
    uint64_t seed = (uint64_t)attribute_integer(input, ATTRIBUTE_role, 0) == ROLE_MOMENT2 ? 77 : 7;
    for (const char *at = attribute_text(input, ATTRIBUTE_name); *at; at++)
        seed = seed * 131 + (unsigned char)*at;
    return seed;
}

// One tensor per input: floats random by name (second moments positive), integers small, gradients zero,
// loss_scale 1, step 1.
static inline Tensor *test_inputs(const Graph *graph, int64_t limit) {
    Arena *arena = graph->ir->arena;
    Tensor *inputs = ARENA_ARRAY(arena, Tensor, graph->inputs.count + 1);
    for (size_t i = 0; i < graph->inputs.count; i++) {
        const Node *node = graph_node(graph, graph->inputs.items[i]);
        Role role = (Role)attribute_integer(node, ATTRIBUTE_role, ROLE_ARGUMENT);
        inputs[i] = tensor_create(arena, node->types[0]);
        uint64_t state = test_seed(node);
        for (int64_t j = 0; j < type_count(node->types[0]); j++) {
            double x = test_random(&state);
            if (role == ROLE_GRADIENT) x = 0;
            if (role == ROLE_SCALAR) x = 1;
            if (role == ROLE_MOMENT2) x = fabs(x);
            if (element_is_integer(node->types[0]->element) && role != ROLE_SCALAR)
                x = floor((x + 1) / 2 * (double)limit);
            inputs[i].data[j] = x;
        }
    }
    return inputs;
}

static inline Tensor *test_find_input(const Graph *graph, Tensor *inputs, const char *name, Role role) {
    for (size_t i = 0; i < graph->inputs.count; i++) {
        const Node *node = graph_node(graph, graph->inputs.items[i]);
        if (attribute_integer(node, ATTRIBUTE_role, -1) == (int64_t)role &&
            strcmp(attribute_text(node, ATTRIBUTE_name), name) == 0)
            return &inputs[i];
    }
    fail_msg("no input %s", name);
    return NULL;
}

static inline Tensor *test_evaluate(const Graph *graph, const Tensor *inputs) {
    Tensor *outputs = ARENA_ARRAY(graph->ir->arena, Tensor, graph->outputs.count + 1);
    if (!evaluate_graph(graph->ir->arena, graph, inputs, outputs)) {
        test_show_errors(graph->ir);
        fail_msg("evaluation of %s failed", graph->name);
    }
    return outputs;
}

static inline const Tensor *test_output(const Graph *graph, const Tensor *outputs, const char *name) {
    for (size_t i = 0; i < graph->outputs.count; i++)
        if (strcmp(graph->outputs.items[i].name, name) == 0) return &outputs[i];
    fail_msg("no output %s", name);
    return NULL;
}

// Inputs of `to` taken by name and role from those of `from`; what `from` lacks stays as test_inputs made it.
static inline Tensor *test_carry(const Graph *from, const Tensor *inputs, const Graph *to, int64_t limit) {
    Tensor *carried = test_inputs(to, limit);
    for (size_t i = 0; i < from->inputs.count; i++) {
        const Node *node = graph_node(from, from->inputs.items[i]);
        for (size_t j = 0; j < to->inputs.count; j++) {
            const Node *other = graph_node(to, to->inputs.items[j]);
            if (strcmp(attribute_text(node, ATTRIBUTE_name), attribute_text(other, ATTRIBUTE_name)) == 0 &&
                attribute_integer(node, ATTRIBUTE_role, 0) == attribute_integer(other, ATTRIBUTE_role, 0))
                carried[j] = inputs[i];
        }
    }
    return carried;
}

// Every output of `before` is in `after`, with the same values.
static inline void test_same(const Graph *before, const Graph *after, int64_t limit, double tolerance) {
    Tensor *inputs = test_inputs(before, limit);
    const Tensor *expected = test_evaluate(before, inputs);
    const Tensor *found = test_evaluate(after, test_carry(before, inputs, after, limit));
    for (size_t i = 0; i < before->outputs.count; i++) {
        const char *name = before->outputs.items[i].name;
        const Tensor *other = test_output(after, found, name);
        assert_ptr_equal(expected[i].type, other->type);
        for (int64_t j = 0; j < type_count(other->type); j++) {
            double a = expected[i].data[j], b = other->data[j];
            if (!(fabs(a - b) <= tolerance * (1 + fabs(a))))
                fail_msg("%s[%ld]: %.12g before, %.12g after", name, (long)j, a, b);
        }
    }
}

static inline uint32_t test_count(const Graph *graph, Op op) {
    uint32_t count = 0;
    for (uint32_t id = 0; id < graph->nodes.count; id++) count += graph_node(graph, id)->op == op;
    return count;
}

static inline Graph *test_pass(Ir *ir, const char *text, const Graph *graph) {
    PassContext context = {.ir = ir, .verify = true};
    Graph *result = pass_run(&context, text, graph);
    if (!result) {
        test_show_errors(ir);
        fail_msg("%s failed", text);
    }
    return result;
}

// Gradients of `accumulate` against central differences of `loss`, at every element of every parameter.
static inline void test_gradients(const Graph *loss, const Graph *accumulate, int64_t limit,
                                  double tolerance) {
    Tensor *inputs = test_inputs(loss, limit);
    const Tensor *outputs = test_evaluate(accumulate, test_carry(loss, inputs, accumulate, limit));
    for (size_t i = 0; i < loss->inputs.count; i++) {
        const Node *node = graph_node(loss, loss->inputs.items[i]);
        if (attribute_integer(node, ATTRIBUTE_role, 0) != ROLE_PARAMETER) continue;
        const char *name = attribute_text(node, ATTRIBUTE_name);
        const Tensor *gradient =
            test_output(accumulate, outputs, state_output_name(loss->ir, ROLE_GRADIENT, name));
        for (int64_t j = 0; j < type_count(node->types[0]); j++) {
            double at = inputs[i].data[j], step = 1e-5;
            inputs[i].data[j] = at + step;
            double above = test_output(loss, test_evaluate(loss, inputs), "loss")->data[0];
            inputs[i].data[j] = at - step;
            double below = test_output(loss, test_evaluate(loss, inputs), "loss")->data[0];
            inputs[i].data[j] = at;
            double slope = (above - below) / (2 * step);
            if (!(fabs(slope - gradient->data[j]) <= tolerance * (1 + fabs(slope))))
                fail_msg("%s[%ld]: gradient %.12g, slope %.12g", name, (long)j, gradient->data[j], slope);
        }
    }
}

// ---- A small language model: embedding, a stack of tanh layers, a tied head, cross entropy ----

#ifndef TEST_TIME
#define TEST_TIME 3
#endif
enum { TEST_BATCH = 2, TEST_EMBED = 4, TEST_VOCAB = 5, TEST_FFN = 3, TEST_LAYERS = 2 };

static inline Value test_dot(Graph *graph, Value a, Value b, const char *over) {
    const char *names[] = {test_name(graph->ir, over)};
    return build_dot(graph, a, b, names, 1, NO_PLACE);
}

static inline Value test_reduce(Graph *graph, Op op, Value a, const char *over) {
    const char *names[] = {test_name(graph->ir, over)};
    return build_reduce(graph, op, a, names, 1, NO_PLACE);
}

// x[batch, time, embed] + tanh(x w) v
static inline Graph *test_body(Ir *ir) {
    Graph *body = graph_create(ir, test_name(ir, "Block"));
    Value x = test_input(
        body, "x", ROLE_ARGUMENT,
        test_type(ir, ELEMENT_F32, "batch", TEST_BATCH, "time", TEST_TIME, "embed", TEST_EMBED, NULL));
    Value w = test_input(body, "w", ROLE_ARGUMENT,
                         test_type(ir, ELEMENT_F32, "embed", TEST_EMBED, "ffn", TEST_FFN, NULL));
    Value v = test_input(body, "v", ROLE_ARGUMENT,
                         test_type(ir, ELEMENT_F32, "ffn", TEST_FFN, "embed", TEST_EMBED, NULL));
    Value h = build_unary(body, OP_tanh, test_dot(body, x, w, "embed"), NO_PLACE);
    Value y = build_binary(body, OP_add, x, test_dot(body, h, v, "ffn"), NO_PLACE);
    graph_add_output(body, test_name(ir, "y"), y, VALUE_NONE);
    return body;
}

static inline Value test_onehot(Graph *graph, Value targets, const Type *logits) {
    Ir *ir = graph->ir;
    const Type *type = type_with_element(ir, logits, ELEMENT_I32);
    Dimension vocab = logits->dimensions[type_find(logits, test_name(ir, "vocab"))];
    Value index = build_expand(graph, build_index(graph, vocab, NO_PLACE), type, NO_PLACE);
    Value equal = build_binary(graph, OP_eq, index, build_expand(graph, targets, type, NO_PLACE), NO_PLACE);
    return build_cast(graph, equal, ELEMENT_F32, NO_PLACE);
}

// (logits, targets) -> loss, lse
static inline Graph *test_cross_entropy(Ir *ir, const Type *logits, const Type *targets) {
    Graph *graph = graph_create(ir, test_name(ir, "cross_entropy_core"));
    Value x = test_input(graph, "logits", ROLE_ARGUMENT, logits);
    Value t = test_input(graph, "targets", ROLE_ARGUMENT, targets);
    Value top = test_reduce(graph, OP_max_over, x, "vocab");
    Value e = build_unary(graph, OP_exp, build_binary(graph, OP_sub, x, top, NO_PLACE), NO_PLACE);
    Value lse =
        build_binary(graph, OP_add, top,
                     build_unary(graph, OP_log, test_reduce(graph, OP_sum, e, "vocab"), NO_PLACE), NO_PLACE);
    Value hit = test_reduce(graph, OP_sum,
                            build_binary(graph, OP_mul, test_onehot(graph, t, logits), x, NO_PLACE), "vocab");
    graph_add_output(graph, test_name(ir, "loss"), build_binary(graph, OP_sub, lse, hit, NO_PLACE),
                     VALUE_NONE);
    graph_add_output(graph, test_name(ir, "lse"), lse, VALUE_NONE);
    return graph;
}

// (logits, targets, loss, lse, d_loss, d_lse) -> d_logits
static inline Graph *test_cross_entropy_gradient(Ir *ir, const Type *logits, const Type *targets,
                                                 const Type *rows) {
    Graph *graph = graph_create(ir, test_name(ir, "cross_entropy_core_gradient"));
    Value x = test_input(graph, "logits", ROLE_ARGUMENT, logits);
    Value t = test_input(graph, "targets", ROLE_ARGUMENT, targets);
    test_input(graph, "loss", ROLE_ARGUMENT, rows);
    Value lse = test_input(graph, "lse", ROLE_ARGUMENT, rows);
    Value d_loss = test_input(graph, "d_loss", ROLE_ARGUMENT, rows);
    Value d_lse = test_input(graph, "d_lse", ROLE_ARGUMENT, rows);
    Value p = build_unary(graph, OP_exp, build_binary(graph, OP_sub, x, lse, NO_PLACE), NO_PLACE);
    Value off = build_binary(graph, OP_sub, p, test_onehot(graph, t, logits), NO_PLACE);
    Value d = build_binary(graph, OP_add, build_binary(graph, OP_mul, off, d_loss, NO_PLACE),
                           build_binary(graph, OP_mul, p, d_lse, NO_PLACE), NO_PLACE);
    graph_add_output(graph, test_name(ir, "d_logits"), d, VALUE_NONE);
    return graph;
}

// The call; with `wrapped`, its gradient clause is a graph around a call, as the front end may write it.
static inline Value test_loss_call(Graph *graph, Value logits, Value targets, bool wrapped) {
    Ir *ir = graph->ir;
    const Type *l = graph_type(graph, logits), *t = graph_type(graph, targets);
    const Type *rows = type_with_element(ir, t, ELEMENT_F32);
    Graph *gradient = test_cross_entropy_gradient(ir, l, t, rows);
    if (wrapped) {
        Graph *wrapper = graph_create(ir, test_name(ir, "wrapper"));
        Value arguments[6];
        for (int i = 0; i < 6; i++)
            arguments[i] = test_input(wrapper, arena_format(ir->arena, "operand%d", i), ROLE_ARGUMENT,
                                      graph_node(gradient, gradient->inputs.items[i])->types[0]);
        Attribute attributes[] = {{.key = ATTRIBUTE_function, .graph = gradient},
                                  {.key = ATTRIBUTE_kernel, .text = test_name(ir, "loss_gradient")}};
        Value value = graph_add(wrapper, OP_call, arguments, 6, attributes, 2, NO_PLACE);
        graph_add_output(wrapper, test_name(ir, "d"), value, VALUE_NONE);
        gradient = wrapper;
    }
    Attribute attributes[] = {{.key = ATTRIBUTE_function, .graph = test_cross_entropy(ir, l, t)},
                              {.key = ATTRIBUTE_gradient, .graph = gradient}};
    return graph_add(graph, OP_call, (Value[]){logits, targets}, 2, attributes, 2, NO_PLACE);
}

static inline Value test_mean(Graph *graph, Value x) {
    const Type *type = graph_type(graph, x);
    const char *over[RANK_MAX];
    for (int i = 0; i < type->rank; i++) over[i] = type->dimensions[i].name;
    Value total = build_reduce(graph, OP_sum, x, over, (uint32_t)type->rank, NO_PLACE);
    return build_binary(graph, OP_div, total,
                        build_constant(graph, ELEMENT_F32, (double)type_count(type), NO_PLACE), NO_PLACE);
}

typedef struct TestModel {
    Graph *loss;
    Value hidden, logits, table, tokens, targets;
} TestModel;

// Layers run 0 1 1 0; entries[2].stop_gradient as asked.
static inline TestModel test_model(Ir *ir, bool wrapped, const StackEntry *entries, uint32_t count) {
    Graph *graph = graph_create(ir, test_name(ir, "loss"));
    TestModel model = {.loss = graph};
    const Type *data = test_type(ir, ELEMENT_I32, "batch", TEST_BATCH, "time", TEST_TIME, NULL);
    model.table = test_input(graph, "table", ROLE_PARAMETER,
                             test_type(ir, ELEMENT_F32, "vocab", TEST_VOCAB, "embed", TEST_EMBED, NULL));
    Value w = test_input(
        graph, "trunk.w", ROLE_PARAMETER,
        test_type(ir, ELEMENT_F32, "layer", TEST_LAYERS, "embed", TEST_EMBED, "ffn", TEST_FFN, NULL));
    Value v = test_input(
        graph, "trunk.v", ROLE_PARAMETER,
        test_type(ir, ELEMENT_F32, "layer", TEST_LAYERS, "ffn", TEST_FFN, "embed", TEST_EMBED, NULL));
    model.tokens = test_input(graph, "tokens", ROLE_DATA, data);
    model.targets = test_input(graph, "targets", ROLE_DATA, data);
    Value x = build_gather(graph, model.table, model.tokens, test_name(ir, "vocab"), NO_PLACE);
    Attribute attributes[] = {{.key = ATTRIBUTE_body, .graph = test_body(ir)},
                              {.key = ATTRIBUTE_carried, .integer = 1},
                              {.key = ATTRIBUTE_invariant, .integer = 0},
                              {.key = ATTRIBUTE_entries, .count = count, .entries = entries}};
    model.hidden = graph_add(graph, OP_stack, (Value[]){x, w, v}, 3, attributes, 4, NO_PLACE);
    model.logits = test_dot(graph, model.hidden, model.table, "embed");
    Value call = test_loss_call(graph, model.logits, model.targets, wrapped);
    graph_add_output(graph, test_name(ir, "loss"), test_mean(graph, call), VALUE_NONE);
    return model;
}

static const StackEntry test_entries[] = {{.layer = 0, .iteration = 0, .row = -1},
                                          {.layer = 1, .iteration = 0, .row = -1},
                                          {.layer = 1, .iteration = 1, .row = -1},
                                          {.layer = 0, .iteration = 1, .row = -1}};

#endif
