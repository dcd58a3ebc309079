// turn-attention: which queries and gradients are turned by the kernels of attention, and that no value changes.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "frontend/frontend.h"
#include "tests/unit/pass_test.h"

// A layer of attention: what the queries are, what the keys are.
static const char model[] =
    "dim vocab = 11, embed = 8, groups = 2, heads = 2, key = 6\n"
    "include \"std/objective.cherry\"\n"
    "fn back(x, over: dim, along: dim) {\n"
    "    let halves = split(x, over = (half: 2, pair))\n"
    "    let angle = outer(cast(index(along, of = x), f32), cast(index(pair, of = halves), f32))\n"
    "    let turned = reverse(halves, along = half) * cast(1 - 2 * index(half, of = halves), element(x))\n"
    "    return merge(halves * cos(angle) + turned * sin(angle), (half, pair) = over)\n"
    "}\n"
    "layer Block(x[batch, time, embed]) {\n"
    "    param wq[embed, groups, heads, key], wk[embed, heads, key], wv[embed, heads, key] ~ normal(0.5)\n"
    "    param wo[groups, heads, key, embed] ~ normal(0.5)\n"
    "    let q = dot(x, wq, over = embed)\n"
    "    let k = dot(x, wk, over = embed)\n"
    "    let a = attention(%s, %s, dot(x, wv, over = embed), over = key, along = time, causal = true)\n"
    "    return x + dot(a, wo, over = (groups, heads, key))\n"
    "}\n"
    "model M {\n"
    "    param table[vocab, embed] ~ normal(0.5)\n"
    "    stack trunk = Block * 2\n"
    "    fn logits(tokens: int[batch, time]) = dot(trunk(table[vocab: tokens]), table, over = embed)\n"
    "}\n"
    "train M with next_token { optimizer sgd(rate = 0.1)\n batch = 2, time = 5, steps = 1 }\n";

#define ROPE(x) "rope(" x ", over = key, along = time)"

static const struct {
    const char *q, *k;
    bool queries, gradients;  // turned by attention and by its gradient
} subjects[] = {
    {ROPE("q"), ROPE("k"), true, true},
    {"q", "k", false, false},
    {ROPE("q"), "k", true, false},
    {"q", ROPE("k"), false, false},
    {ROPE("q"), "rope(k, over = key, along = time, theta = 100)", true, false},
    {"back(q, over = key, along = time)", "back(k, over = key, along = time)", false, false},  // the other way
    {ROPE("q") " + q", ROPE("k"), false, false},  // d_q is read as it is, too
    {ROPE("q"), ROPE("k") " + k", true, false},
    {"cast(cast(" ROPE("q") ", bf16), f32)", ROPE("k"), false, false},  // rounded once more
    {"rope(rope(q, over = key, along = time), over = key, along = time)", ROPE("k"), false, false},
};

static bool has_attention(const char *kernel) { return strncmp(kernel, "attention", 9) == 0; }
static bool has_plain(const char *kernel) { return has_attention(kernel) && !strstr(kernel, "_turned"); }

static Graph *load(Ir *ir, size_t subject) {
    char path[] = "/tmp/cherry_test_XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0);
    dprintf(file, model, subjects[subject].q, subjects[subject].k);
    close(file);
    Module *module = frontend_load(ir, path, NULL);
    unlink(path);
    if (!module) test_show_errors(ir);
    assert_non_null(module);
    return module_find_graph(module, "loss");
}

static Graph *run(Ir *ir, const char *passes, const Graph *graph, bool (*has_kernel)(const char *)) {
    PassContext context = {.ir = ir, .verify = true, .has_kernel = has_kernel};
    Graph *result = pass_run(&context, passes, graph);
    if (!result) test_show_errors(ir);
    assert_non_null(result);
    return result;
}

static uint32_t count_kernels(const Graph *graph, const char *kernel) {
    uint32_t count = 0;
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const char *text = attribute_text(graph_node(graph, id), ATTRIBUTE_kernel);
        count += text && strcmp(text, kernel) == 0;
    }
    return count;
}

static void check_precision(const char *precision) {
    for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++) {
        Arena *arena = arena_create();
        Ir *ir = ir_create(arena);
        const char *before = arena_format(arena,
                                          "expand-stacks, simplify, gradient, expand-calls, simplify, recompute, "
                                          "precision{compute=%s}, share",
                                          precision);
        Graph *plain = run(ir, before, load(ir, i), has_attention);
        Graph *turned = run(ir, "turn-attention, dead", plain, has_attention);
        uint32_t queries = count_kernels(turned, "attention_turned"),
                 gradients = count_kernels(turned, "attention_gradient_turned");
        if (queries != 2 * subjects[i].queries || gradients != 2 * subjects[i].gradients)
            fail_msg("%s, %s: %u and %u turned", subjects[i].q, subjects[i].k, queries, gradients);
        assert_int_equal(count_kernels(turned, "attention"), 2 - queries);
        assert_int_equal(count_kernels(turned, "attention_gradient"), 2 - gradients);
        // Nothing is left of what they turn.
        uint32_t reversed = test_count(plain, OP_reverse) - test_count(turned, OP_reverse);
        assert_int_equal(reversed, queries + 2 * gradients);
        test_same(plain, turned, 11, 0);
        Graph *left = run(ir, "turn-attention", plain, has_plain);
        assert_int_equal(count_kernels(left, "attention") + count_kernels(left, "attention_gradient"), 4);
        // Whoever has no such kernel takes its meaning.
        Graph *expanded = run(ir, "expand-calls", turned, has_plain);
        assert_int_equal(count_kernels(expanded, "attention") + count_kernels(expanded, "attention_gradient"),
                         4 - queries - gradients);
        assert_int_equal(test_count(expanded, OP_call), 4 - queries - gradients);
        test_same(plain, expanded, 11, 0);
        arena_destroy(arena);
    }
}

static void in_f32(void **state) {
    (void)state;
    check_precision("f32");
}

static void in_bf16(void **state) {
    (void)state;
    check_precision("bf16");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(in_f32), cmocka_unit_test(in_bf16)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
