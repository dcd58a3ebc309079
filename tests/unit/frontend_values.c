// The prelude against values that do not come from it: figures of PyTorch for single numbers, plain loops
// for rope and attention, finite differences for the gradient clauses.
// clang-format off: cmocka.h wants the headers before it
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
// clang-format on

#include "frontend/frontend.h"
#include "ir/evaluate.h"

// A module from the text of a file; the test fails with its messages where that has errors.
static Module *load_text(Ir *ir, const char *text) {
    char path[] = "/tmp/cherry_test_XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0);
    assert_int_equal(write(file, text, strlen(text)), strlen(text));
    close(file);
    Module *module = frontend_load(ir, path, NULL);
    unlink(path);
    if (!module) diagnostics_print(ir->diagnostics, 0, stderr);
    assert_non_null(module);
    assert_true(module_verify(module, "the front end"));
    return module;
}

// Runs a graph on inputs in order; whole numbers and truths are given as doubles too.
static const double *run(Ir *ir, const Graph *graph, const double *const *inputs, Tensor *outputs) {
    Tensor *tensors = ARENA_ARRAY(ir->arena, Tensor, graph->inputs.count + 1);
    for (size_t i = 0; i < graph->inputs.count; i++) {
        tensors[i] = tensor_create(ir->arena, graph_node(graph, graph->inputs.items[i])->types[0]);
        memcpy(tensors[i].data, inputs[i], sizeof(double) * (size_t)type_count(tensors[i].type));
    }
    assert_true(evaluate_graph(ir->arena, graph, tensors, outputs));
    return outputs[0].data;
}

typedef struct Formula {
    const char *text;  // over x: f32[row, key]
    double x[8];
    int rows, keys, count;  // count: how many results are expected
    double expected[8];
} Formula;

static const Formula formulas[] = {
    {"gelu(x)", {-2, 0, 0.5, 100}, 1, 4, 4, {-0.04550026389635842, 0, 0.34573123063700656, 100}},
    {"gelu_tanh(x)", {-2, 0, 0.5, 100}, 1, 4, 4, {-0.04540230591222494, 0, 0.34571400982514394, 100}},
    {"silu(x)", {-100, -2, 0.5, 100}, 1, 4, 4, {0, -0.23840584404423515, 0.31122966560092726, 100}},
    {"sigmoid(x)", {-100, -2, 0.5, 100}, 1, 4, 4, {0, 0.11920292202211757, 0.62245933120185459, 1}},
    {"softplus(x)", {-100, -2, 0.5, 100}, 1, 4, 4, {0, 0.12692801104297263, 0.97407698418010669, 100}},
    {"relu(x)", {-2, 0, 0.5, 100}, 1, 4, 4, {0, 0, 0.5, 100}},
    {"clamp(x, -1, 1)", {-2, 0, 0.5, 100}, 1, 4, 4, {-1, 0, 0.5, 1}},
    {"cast(top_share(x, 0.5), f32)", {-2, 7, 0.5, 100}, 1, 4, 4, {0, 1, 0, 1}},
    {"cast(top_share(x, 0.26), f32)", {3, 3, 1, 2}, 1, 4, 4, {1, 1, 0, 0}},  // ceil(1.04) = 2
    {"cast(top_share(x, 0.25), f32)", {3, 3, 1, 3}, 1, 4, 4, {1, 1, 0, 1}},  // equal ones come along
    {"cast(top_share(x, 0.5), f32)", {5, 5, 5, 5}, 1, 4, 4, {1, 1, 1, 1}},
    {"cast(top_share(x, 1), f32)", {-1e30, 0, 1, 1e30}, 1, 4, 4, {1, 1, 1, 1}},
    {"selected_mean(x, where = x > 0)", {-2, 0, 0.5, 100}, 1, 4, 1, {50.25}},
    {"selected_mean(x, where = x > 200)", {-2, 0, 0.5, 100}, 1, 4, 1, {0}},
    {"where(x > 0, x, 7)", {-2, 0, 0.5, 100}, 1, 4, 4, {7, 7, 0.5, 100}},
    {"softmax(x, over = key)",
     {1, 2, 3, 4},
     1,
     4,
     4,
     {0.032058603280084994, 0.087144318742032567, 0.23688281808991013, 0.64391425988797231}},
    {"log_softmax(x, over = key)",
     {1001, 1002, 1003, 1004},
     1,
     4,
     4,
     {-3.4401896985611953, -2.4401896985611953, -1.4401896985611953, -0.44018969856119533}},
    {"logsumexp(x, over = key)", {1, 2, 3, 4}, 1, 4, 1, {4.4401896985611953}},
    {"rms_norm(x, over = key)", {1, 2, 3, 4}, 1, 4, 4, {0.36514813, 0.73029626, 1.09544439, 1.46059253}},
    {"layer_norm(x, over = key)", {1, 2, 3, 4}, 1, 4, 4, {-1.34163541, -0.44721180, 0.44721180, 1.34163541}},
    {"variance(x, over = key)", {1, 2, 3, 4}, 1, 4, 1, {1.25}},
    {"mean(x)", {1, 2, 3, 6}, 2, 2, 1, {3}},
    {"mean(x, over = key)", {1, 2, 3, 6}, 2, 2, 2, {1.5, 4.5}},
    {"mean(x, where = x > 2)", {1, 2, 3, 6}, 2, 2, 1, {4.5}},
    {"mean(x, where = x > 9)", {1, 2, 3, 6}, 2, 2, 1, {0}},
    {"min(x, over = key)", {3, -5, 3, 6}, 2, 2, 2, {-5, 3}},
    {"max(x)", {3, -5, 3, 6}, 2, 2, 1, {6}},
    {"outer(x[row: 0], rename(x[row: 1], key = other))", {1, 2, 3, 4}, 2, 2, 4, {3, 4, 6, 8}},
    {"argmax(x, along = key)", {1, 9, 9, 0, 3, 2}, 2, 3, 2, {1, 1}},
    {"one_hot(argmax(x, along = key), x, over = key)", {1, 9, 9, 5, 3, 2}, 2, 3, 6, {0, 1, 0, 1, 0, 0}},
    {"shift(x, along = key, by = 1)", {1, 2, 3, 4}, 1, 4, 4, {0, 1, 2, 3}},
    {"x[key: 1..3]", {1, 2, 3, 4}, 1, 4, 2, {2, 3}},
    {"x[key: 2..]", {1, 2, 3, 4}, 1, 4, 2, {3, 4}},
    {"concat(x, x[key: ..1], along = key)", {1, 2}, 1, 2, 3, {1, 2, 1}},
    {"pad(x, along = key, start = 1, count = 4)", {1, 2}, 1, 2, 4, {0, 1, 2, 0}},
    {"merge(x, (key, row) = all_of)", {1, 2, 3, 4}, 2, 2, 4, {1, 3, 2, 4}},
    {"transpose(x, order = (key, row))", {1, 2, 3, 4}, 2, 2, 4, {1, 3, 2, 4}},
    {"split(x, key = (half: 2, pair))[half: 1]", {1, 2, 3, 4}, 1, 4, 2, {3, 4}},
    {"reverse(x, along = key)", {1, 2, 3}, 1, 3, 3, {3, 2, 1}},
    {"x + cast(index(key), f32) * 10", {1, 2, 3}, 1, 3, 3, {1, 12, 23}},
    {"x * (2 + 3 * 4 - 6 / 2)", {1, 2}, 1, 2, 2, {11, 22}},
    {"if key == 2 then x * sqrt(16) else none", {1, 2}, 1, 2, 2, {4, 8}},
    {"cross_entropy(x, argmax(x, along = key), over = key)", {1, 2, 3, 4}, 1, 4, 1, {0.44018969856119533}},
    {"kl_divergence(x, x * x, over = key)", {1, 2, 3, 4}, 1, 4, 1, {0.4337404627385221}},
    {"kl_divergence(x, x * x, over = key, temperature = 2)", {1, 2, 3, 4}, 1, 4, 1, {2.607055999907078}},
    {"kl_divergence(x, -x, over = key)", {-100, 0, 0.5, 100}, 1, 4, 1, {200}},
    {"kl_divergence(x, x, over = key)", {-100, 0, 0.5, 100}, 1, 4, 1, {0}},
};

static void formulas_have_their_values(void **state) {
    (void)state;
    int wrong = 0;
    for (size_t i = 0; i < sizeof formulas / sizeof *formulas; i++) {
        const Formula *formula = &formulas[i];
        Arena *arena = arena_create();
        Ir *ir = ir_create(arena);
        const char *text =
            arena_format(arena, "dim row = %d, key = %d\nmodel M { fn logits(x: f32[row, key]) = %s }\n",
                         formula->rows, formula->keys, formula->text);
        const Graph *graph = module_find_graph(load_text(ir, text), "logits");
        assert_non_null(graph);
        const double *inputs[] = {formula->x};
        Tensor output;
        const double *found = run(ir, graph, inputs, &output);
        bool ok = type_count(output.type) == formula->count;
        for (int j = 0; j < formula->count && ok; j++)
            ok = fabs(found[j] - formula->expected[j]) <= 1e-7 * (1 + fabs(formula->expected[j]));
        if (!ok) {
            print_error("%s gives %s:", formula->text, type_text(ir, output.type));
            for (int64_t j = 0; j < type_count(output.type) && j < 8; j++) print_error(" %.9g", found[j]);
            print_error("\n");
            wrong++;
        }
        arena_destroy(arena);
    }
    assert_int_equal(wrong, 0);
}

// ---- Rope and attention against plain loops ----

enum { TIME = 5, GROUPS = 2, QUERIES = 2, KEY = 4 };

static double sample(int i) { return sin(i * 12.9898) * 1.7; }

static void rope_turns_halves(void **state) {
    (void)state;
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    const Module *module = load_text(ir,
                                     "dim time = 5, key = 4\nmodel M { fn logits(x: f32[time, key]) = "
                                     "rope(x, over = key, along = time, theta = 100) }\n");
    double x[TIME * KEY];
    for (int i = 0; i < TIME * KEY; i++) x[i] = sample(i);
    const double *inputs[] = {x};
    Tensor output;
    const double *y = run(ir, module_find_graph(module, "logits"), inputs, &output);
    for (int t = 0; t < TIME; t++)
        for (int i = 0; i < KEY / 2; i++) {
            double angle = t * pow(100, -2.0 * i / KEY), a = x[t * KEY + i], b = x[t * KEY + i + KEY / 2];
            assert_true(fabs(y[t * KEY + i] - (a * cos(angle) - b * sin(angle))) < 1e-9);
            assert_true(fabs(y[t * KEY + i + KEY / 2] - (b * cos(angle) + a * sin(angle))) < 1e-9);
        }
    arena_destroy(arena);
}

static double dot_row(const double *a, const double *b) {
    double sum = 0;
    for (int i = 0; i < KEY; i++) sum += a[i] * b[i];
    return sum;
}

static void attention_is_what_it_says(void **state) {
    (void)state;
    for (int window = 0; window < 4; window++) {
        Arena *arena = arena_create();
        Ir *ir = ir_create(arena);
        const char *text = arena_format(arena,
                                        "dim time = 5, groups = 2, queries = 2, key = 4\nmodel M { fn "
                                        "logits(q: f32[time, groups, queries, key], "
                                        "k: f32[time, groups, key], v: f32[time, groups, key]) = "
                                        "attention(q, k, v, over = key, along = time, "
                                        "causal = true, window = %d) }\n",
                                        window);
        double q[TIME * GROUPS * QUERIES * KEY], k[TIME * GROUPS * KEY], v[TIME * GROUPS * KEY];
        for (int i = 0; i < TIME * GROUPS * QUERIES * KEY; i++) q[i] = sample(i + 100);
        for (int i = 0; i < TIME * GROUPS * KEY; i++) k[i] = sample(i + 200), v[i] = sample(i + 300);
        const double *inputs[] = {q, k, v};
        Tensor output;
        const double *o = run(ir, module_find_graph(load_text(ir, text), "logits"), inputs, &output);
        for (int t = 0; t < TIME; t++)
            for (int h = 0; h < GROUPS * QUERIES; h++) {
                const double *query = q + (t * GROUPS * QUERIES + h) * KEY;
                double total = 0, sum[KEY] = {0};
                for (int s = window && t - window + 1 > 0 ? t - window + 1 : 0; s <= t; s++) {
                    int at = (s * GROUPS + h / QUERIES) * KEY;
                    double weight = exp(dot_row(query, k + at) / sqrt(KEY));
                    total += weight;
                    for (int i = 0; i < KEY; i++) sum[i] += weight * v[at + i];
                }
                for (int i = 0; i < KEY; i++)
                    assert_true(fabs(o[(t * GROUPS * QUERIES + h) * KEY + i] - sum[i] / total) < 1e-9);
            }
        arena_destroy(arena);
    }
}

// ---- Gradient clauses against finite differences ----

typedef struct Probe {
    Ir *ir;
    const Graph *function;
    double *values[16];  // of the function's inputs
    double *weights[4];  // cotangents of its outputs
} Probe;

static double weighted_sum(Probe *probe) {
    Tensor outputs[4];
    double sum = 0;
    run(probe->ir, probe->function, (const double *const *)probe->values, outputs);
    for (size_t i = 0; i < probe->function->outputs.count; i++)
        for (int64_t j = 0; j < type_count(outputs[i].type); j++)
            sum += outputs[i].data[j] * probe->weights[i][j];
    return sum;
}

static double *sampled(Ir *ir, const Type *type, int start) {
    double *data = ARENA_ARRAY(ir->arena, double, type_count(type));
    for (int64_t i = 0; i < type_count(type); i++)
        data[i] = type->element == ELEMENT_I32 ? (double)i : sample((int)i + start);
    return data;
}

// d_NAME of the gradient graph for every output it has, by central differences over each element of NAME.
static void check_gradient(Module *module, const char *name) {
    Ir *ir = module->ir;
    Probe probe = {.ir = ir, .function = module_find_graph(module, name)};
    const Graph *gradient = module_find_graph(module, arena_format(ir->arena, "%s.gradient", name));
    assert_non_null(probe.function);
    assert_non_null(gradient);
    size_t operands = probe.function->inputs.count, results = probe.function->outputs.count;
    const double *inputs[32];
    Tensor outputs[8], forward[4];
    for (size_t i = 0; i < operands; i++)
        inputs[i] = probe.values[i] =
            sampled(ir, graph_node(probe.function, probe.function->inputs.items[i])->types[0], 50 * (int)i);
    run(ir, probe.function, inputs, forward);
    for (size_t i = 0; i < results; i++) {
        inputs[operands + i] = forward[i].data;
        inputs[operands + results + i] = probe.weights[i] = sampled(ir, forward[i].type, 700 + 50 * (int)i);
    }
    run(ir, gradient, inputs, outputs);
    for (size_t out = 0; out < gradient->outputs.count; out++) {
        const char *operand = names_intern(ir->names, gradient->outputs.items[out].name + 2);
        size_t at = 0;
        while (at < operands && attribute_text(graph_node(probe.function, probe.function->inputs.items[at]),
                                               ATTRIBUTE_name) != operand)
            at++;
        assert_true(at < operands);
        for (int64_t j = 0; j < type_count(outputs[out].type); j++) {
            double old = probe.values[at][j], step = 1e-5;
            probe.values[at][j] = old + step;
            double above = weighted_sum(&probe);
            probe.values[at][j] = old - step;
            double below = weighted_sum(&probe);
            probe.values[at][j] = old;
            double expected = (above - below) / (2 * step), found = outputs[out].data[j];
            if (fabs(found - expected) > 1e-6 * (1 + fabs(expected)))
                fail_msg("%s: d_%s[%d] is %g, differences give %g", name, operand, (int)j, found, expected);
        }
    }
}

static void gradients_fit_their_functions(void **state) {
    (void)state;
    const char *options[] = {"causal = true", "causal = true, window = 2", "window = 3", "causal = false"};
    for (int i = 0; i < 4; i++) {
        Arena *arena = arena_create();
        const char *text = arena_format(arena,
                                        "dim batch = 2, time = 4, groups = 2, queries = 2, key = 4\nmodel M "
                                        "{ fn logits(q: f32[batch, time, groups, queries, key], "
                                        "k: f32[batch, time, groups, key], v: f32[batch, time, groups, key]) "
                                        "= attention(q, k, v, over = key, along = time, %s) }\n",
                                        options[i]);
        check_gradient(load_text(ir_create(arena), text), "attention_core.1");
        arena_destroy(arena);
    }
    Arena *arena = arena_create();
    check_gradient(load_text(ir_create(arena),
                             "dim time = 3, vocab = 5\nmodel M { fn logits(x: f32[time, vocab], t: "
                             "int[time]) = cross_entropy(x, t, over = vocab) }\n"),
                   "cross_entropy_core.1");
    check_gradient(load_text(ir_create(arena), "dim time = 3, vocab = 5\nmodel M { fn logits(x: f32[time, vocab], t: "
                                               "f32[time, vocab]) = kl_divergence(x, t, over = vocab, temperature = "
                                               "1.5) }\n"),
                   "kl_divergence_core.1");
    arena_destroy(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formulas_have_their_values),
        cmocka_unit_test(rope_turns_halves),
        cmocka_unit_test(attention_is_what_it_says),
        cmocka_unit_test(gradients_fit_their_functions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
