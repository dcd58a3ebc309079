// The passes on models as people write them, at small extents: gradients against finite differences, every
// graph pass before and after, chains in one piece, decode against the whole.
#include "frontend/frontend.h"
#include "passes/prove.h"
#include "tests/unit/pass_test.h"

enum { VOCAB = 11 };

// `settings`: "name=value ..." as for --set, small enough for the evaluator.
static Module *load(void **state, const char *file, const char *settings) {
    Arena *arena = arena_create();
    *state = arena;
    Ir *ir = ir_create(arena);
    const char *list[16];
    FrontendOptions options = {.settings = list};
    char *text = arena_copy(arena, settings, strlen(settings)), *rest;
    for (char *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        list[options.setting_count++] = word;
    Module *module = frontend_load(ir, arena_format(arena, CHERRY_SOURCE "/%s", file), &options);
    if (!module) test_show_errors(ir);
    assert_non_null(module);
    return module;
}

static const char nano[] = "vocab=11 embed=8 heads=2 key=4 ffn=6 layers=2 batch=2 time=5";
static const char nano_long[] = "vocab=11 embed=8 heads=2 key=4 ffn=6 layers=2 batch=2 time=70";
static const char gpt2[] = "vocab=11 embed=8 heads=2 context=8 layers=2 batch=2 time=5 accumulate=1";

static int finish(void **state) {
    arena_destroy(*state);
    return 0;
}

// Every 7th element of every parameter: enough to touch all rules, quick enough for each build.
static void check_slopes(const Graph *loss, const Graph *accumulate) {
    Tensor *inputs = test_inputs(loss, VOCAB);
    const Tensor *outputs = test_evaluate(accumulate, test_carry(loss, inputs, accumulate, VOCAB));
    for (size_t i = 0; i < loss->inputs.count; i++) {
        const Node *node = graph_node(loss, loss->inputs.items[i]);
        if (attribute_integer(node, ATTRIBUTE_role, 0) != ROLE_PARAMETER) continue;
        const char *name = attribute_text(node, ATTRIBUTE_name);
        const Tensor *gradient =
            test_output(accumulate, outputs, state_output_name(loss->ir, ROLE_GRADIENT, name));
        for (int64_t j = 0; j < type_count(node->types[0]); j += 7) {
            double at = inputs[i].data[j], step = 1e-5;
            inputs[i].data[j] = at + step;
            double above = test_output(loss, test_evaluate(loss, inputs), "loss")->data[0];
            inputs[i].data[j] = at - step;
            double below = test_output(loss, test_evaluate(loss, inputs), "loss")->data[0];
            inputs[i].data[j] = at;
            double slope = (above - below) / (2 * step);
            if (!(fabs(slope - gradient->data[j]) <= 1e-5 * (1 + fabs(slope))))
                fail_msg("%s[%ld]: gradient %.12g, slope %.12g", name, (long)j, gradient->data[j], slope);
        }
    }
}

// Returns the last graph; slopes are checked where `slopes` says so.
static Graph *training(void **state, const char *file, const char *settings, bool slopes) {
    Module *module = load(state, file, settings);
    Ir *ir = module->ir;
    const Graph *loss = module_find_graph(module, "loss");
    static const char *const passes[] = {
        "expand-stacks", "gradient", "fuse-loss{bytes=1}", "recompute", "expand-calls{calls=all}",
        "simplify",      "share",    "dead{inputs=drop}"};
    Graph *graph = test_pass(ir, passes[0], loss), *flat = graph;
    // The evaluator runs a stack's body without extending its random sites, so a body that draws differs.
    if (test_count(flat, OP_random) == 0) test_same(loss, flat, VOCAB, 1e-9);
    for (size_t i = 1; i < sizeof passes / sizeof *passes; i++) {
        Graph *next = test_pass(ir, passes[i], graph);
        test_same(graph, next, VOCAB, 1e-9);
        graph = next;
    }
    if (slopes) check_slopes(flat, graph);
    return graph;
}

static void nano_trains(void **state) { training(state, "models/nano.cherry", nano, true); }

static void nano_trains_in_chunks(void **state) {
    const Graph *graph = training(state, "models/nano.cherry", nano_long, false);
    const char *vocab = test_name(graph->ir, "vocab"), *time = test_name(graph->ir, "time");
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Type *type = graph_node(graph, id)->types[0];
        if (type_find(type, vocab) >= 0 && type_find(type, time) >= 0)
            assert_true(type_count(type) <= 64 * VOCAB);
    }
}

static void gpt2_trains(void **state) { training(state, "models/gpt2.cherry", gpt2, true); }

// Routed experts, grouped queries, a window, dropout, capped logits.
static void experts_train(void **state) { training(state, "tests/pass/experts.cherry", "", true); }
static void experts_train_in_chunks(void **state) {
    training(state, "tests/pass/experts.cherry", "time=70 layers=1", false);
}

static void nano_decodes(void **state) {
    Module *module = load(state, "models/nano.cherry", nano);
    Ir *ir = module->ir;
    Graph *flat = test_pass(ir, "expand-stacks", module_find_graph(module, "logits"));
    Graph *decode = test_pass(ir, "incremental{context=16, batch=1}", flat);
    test_pass(ir, "incremental{context=16, batch=1, chunk=8}, expand-calls{calls=all}, simplify, share, dead",
              flat);
    size_t caches = 0;
    for (size_t i = 0; i < decode->inputs.count; i++)
        caches +=
            attribute_integer(graph_node(decode, decode->inputs.items[i]), ATTRIBUTE_role, 0) == ROLE_CACHE;
    assert_int_equal(caches, 2 * 2);  // keys and values of two layers
}

static void nano_is_proved(void **state) {
    Module *module = load(state, "models/nano.cherry", nano);
    PassContext context = {.ir = module->ir, .verify = true};
    Module *proved = prove_passes(
        &context, "optimizer, expand-stacks, gradient, simplify, share, recompute, dead", module, 3, 1e-9);
    if (!proved) test_show_errors(module->ir);
    assert_non_null(proved);
}

static void nano_updates(void **state) {
    Module *module = load(state, "models/nano.cherry", nano);
    PassContext context = {.ir = module->ir, .verify = true};
    Module *with_update =
        pass_run_module(&context, "optimizer, expand-stacks, gradient, simplify, share, dead", module);
    if (!with_update) test_show_errors(module->ir);
    assert_non_null(with_update);
    assert_non_null(module_find_graph(with_update, "update"));
    assert_non_null(module_find_graph(with_update, "accumulate"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(nano_trains, finish),
        cmocka_unit_test_teardown(nano_trains_in_chunks, finish),
        cmocka_unit_test_teardown(gpt2_trains, finish),
        cmocka_unit_test_teardown(experts_train, finish),
        cmocka_unit_test_teardown(experts_train_in_chunks, finish),
        cmocka_unit_test_teardown(nano_decodes, finish),
        cmocka_unit_test_teardown(nano_is_proved, finish),
        cmocka_unit_test_teardown(nano_updates, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
