// The passes on models as people write them, at small extents: gradients against finite differences, every
// graph pass before and after, chains in one piece, decode against the whole.
#include "frontend/frontend.h"
#include "tests/unit/pass_test.h"

enum { VOCAB = 11 };

static Module *load(void **state, const char *file, const char *time) {
    const char *settings[] = {"vocab=11", "embed=8", "heads=2", "key=4", "ffn=6", "layers=2", "batch=2", time};
    Arena *arena = arena_create();
    *state = arena;
    Ir *ir = ir_create(arena);
    FrontendOptions options = {.settings = settings, .setting_count = sizeof settings / sizeof *settings};
    Module *module = frontend_load(ir, arena_format(arena, CHERRY_SOURCE "/%s", file), &options);
    if (!module) test_show_errors(ir);
    assert_non_null(module);
    return module;
}

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
        const Tensor *gradient = test_output(accumulate, outputs, state_output_name(loss->ir, ROLE_GRADIENT, name));
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
static Graph *training(void **state, const char *file, const char *time, bool slopes) {
    Module *module = load(state, file, time);
    Ir *ir = module->ir;
    const Graph *loss = module_find_graph(module, "loss");
    static const char *const passes[] = {"expand-stacks", "gradient", "fuse-loss{bytes=1}", "recompute", "expand-calls{calls=all}",
                                         "simplify", "share", "dead{inputs=drop}"};
    Graph *graph = NULL;
    for (size_t i = 0; i < sizeof passes / sizeof *passes; i++) {
        Graph *next = test_pass(ir, passes[i], graph ? graph : loss);
        test_same(graph ? graph : loss, next, VOCAB, 1e-9);
        print_message("%-26s %5zu nodes\n", passes[i], next->nodes.count);
        graph = next;
    }
    if (slopes) check_slopes(loss, graph);
    return graph;
}

static void nano_trains(void **state) { training(state, "models/nano.cherry", "time=5", true); }

static void nano_trains_in_chunks(void **state) {
    const Graph *graph = training(state, "models/nano.cherry", "time=70", false);
    const char *vocab = test_name(graph->ir, "vocab"), *time = test_name(graph->ir, "time");
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Type *type = graph_node(graph, id)->types[0];
        if (type_find(type, vocab) >= 0 && type_find(type, time) >= 0) assert_true(type_count(type) <= 64 * VOCAB);
    }
}

static void nano_decodes(void **state) {
    Module *module = load(state, "models/nano.cherry", "time=5");
    Ir *ir = module->ir;
    Graph *flat = test_pass(ir, "expand-stacks", module_find_graph(module, "logits"));
    Graph *decode = test_pass(ir, "incremental{context=16, batch=1}", flat);
    test_pass(ir, "incremental{context=16, batch=1, chunk=8}, expand-calls{calls=all}, simplify, share, dead", flat);
    size_t caches = 0;
    for (size_t i = 0; i < decode->inputs.count; i++)
        caches += attribute_integer(graph_node(decode, decode->inputs.items[i]), ATTRIBUTE_role, 0) == ROLE_CACHE;
    assert_int_equal(caches, 2 * 2);  // keys and values of two layers
}

static void nano_updates(void **state) {
    Module *module = load(state, "models/nano.cherry", "time=5");
    PassContext context = {.ir = module->ir, .verify = true};
    Module *with_update = pass_run_module(&context, "optimizer, expand-stacks, gradient, simplify, share, dead", module);
    if (!with_update) test_show_errors(module->ir);
    assert_non_null(with_update);
    assert_non_null(module_find_graph(with_update, "update"));
    assert_non_null(module_find_graph(with_update, "accumulate"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(nano_trains, finish),
        cmocka_unit_test_teardown(nano_trains_in_chunks, finish),
        cmocka_unit_test_teardown(nano_decodes, finish),
        cmocka_unit_test_teardown(nano_updates, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
