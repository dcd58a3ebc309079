// Gradient coupling: by hand for a model of two parameters; and for a model whose layers run more than once,
// where what single runs contribute must sum to the gradient of the shared layer.
#include "driver/coupling.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "driver/setup.h"
#include "runtime/checkpoint.h"
#include "tests/unit/pass_test.h"

static const char pair[] =
    "dim vocab = 3, batch = 1, time = 4\n"
    "model Pair {\n"
    "    param bias[vocab] = 0\n"
    "    param echo[] = 0\n"
    "    fn logits(tokens: int[batch, time]) {\n"
    "        let place = index(vocab)\n"
    "        let same = cast(broadcast(tokens, like = outer(cast(tokens, f32), cast(place, f32))) == place, "
    "f32)\n"
    "        return same * echo + bias\n"
    "    }\n"
    "}\n";

static Module *load(Ir *ir, const char *path, const char *model) {
    FrontendOptions options = {.objective = "coupling", .model = model};
    Module *module = derive_module(ir, frontend_load(ir, path, &options));
    if (!module) test_show_errors(ir);
    assert_non_null(module);
    return module;
}

static const CompileOptions compile = {.verify = true, .chunk = 1, .context = 1, .sequences = 1};

// A file of the model's first weights, moved so that layers differ.
static void write_weights(Ir *ir, const Module *module, const char *path, double size) {
    Runner *runner = runner_create(ir, module, 1u << ENTRY_INITIALIZE, &compile, 1);
    assert_non_null(runner);
    runner_initialize(runner, 3);
    uint64_t random = 5;
    for (size_t i = 0; i < module->parameters.count; i++) {
        const Parameter *parameter = &module->parameters.items[i];
        float *data = state_data(runner->state, parameter->path, ROLE_PARAMETER);
        for (int64_t k = 0; k < type_count(parameter->type); k++)
            data[k] += (float)(size * test_random(&random));
    }
    assert_true(checkpoint_save_weights(ir->diagnostics, path, module, runner->state, NULL));
    runner_destroy(runner);
}

static void fill(Runner *runner, const int32_t *tokens, const int32_t *targets, const bool *mask,
                 size_t count) {
    Executor *executor = runner->executors[ENTRY_ACCUMULATE];
    memcpy(executor_input(executor, "tokens"), tokens, count * sizeof *tokens);
    memcpy(executor_input(executor, "targets"), targets, count * sizeof *targets);
    memcpy(executor_input(executor, "supervised"), mask, count);
}

static const CouplingFigure *find(const Coupling *coupling, CouplingPart part, int layer, int iteration) {
    for (size_t i = 0; i < coupling->figures.count; i++) {
        const CouplingFigure *figure = &coupling->figures.items[i];
        if (figure->part == part && figure->layer == layer && figure->iteration == iteration) return figure;
    }
    return NULL;
}

// All probabilities are 1/3. The gradient of `bias` is 1/3 minus the share of each target, that of `echo` 1/3
// minus the share of positions whose target is their token.
//   S = {0, 1}: (1/3, -1/6, -1/6; 1/3)     U = {2, 3}: (-2/3, 1/3, 1/3; -1/6)     gamma = -14 / (5 sqrt(10))
//   S = {0, 3}: (-1/6, -1/6, 1/3; -1/6)    U = {1, 2}: (-1/6, 1/3, -1/6; 1/3)     gamma = -5 / sqrt(70)
static void test_by_hand(void **state) {
    (void)state;
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    char path[] = "/tmp/cherry_test_XXXXXX", weights[] = "/tmp/cherry_test_XXXXXX";
    int file = mkstemp(path), other = mkstemp(weights);
    assert_int_equal(write(file, pair, strlen(pair)), strlen(pair));
    close(file);
    close(other);
    Module *module = load(ir, path, NULL);
    write_weights(ir, module, weights, 0);
    Coupling *coupling = coupling_create(ir, module, weights, &compile, 2);
    if (!coupling) test_show_errors(ir);
    assert_non_null(coupling);
    const int32_t tokens[] = {0, 1, 2, 0}, targets[] = {1, 2, 0, 0};
    const bool masks[4][4] = {{1, 1, 0, 0}, {0, 0, 0, 0}, {1, 0, 0, 1}, {1, 1, 1, 1}};
    double expected[] = {-14 / (5 * sqrt(10)), -5 / sqrt(70)};
    for (int i = 0; i < 4; i++) {
        fill(coupling->runner, tokens, targets, masks[i], 4);
        coupling_measure(coupling);
        const CouplingFigure *whole = find(coupling, COUPLING_WHOLE, 0, 0);
        if (i < 2) assert_true(fabs(whole->mean - expected[0]) < 1e-6);
        if (i < 2) assert_true(isnan(coupling_deviation(whole)));
    }
    assert_int_equal(coupling->batches, 4);
    assert_int_equal(coupling->skipped, 2);
    assert_true(coupling->supervised == 8 && coupling->positions == 16);
    for (int part = COUPLING_WHOLE; part <= COUPLING_OUTSIDE; part++) {
        const CouplingFigure *figure = find(coupling, (CouplingPart)part, 0, 0);
        assert_int_equal(figure->count, 2);
        assert_true(fabs(figure->mean - (expected[0] + expected[1]) / 2) < 1e-6);
        assert_true(fabs(coupling_deviation(figure) - fabs(expected[0] - expected[1]) / sqrt(2)) < 1e-6);
    }
    assert_int_equal(find(coupling, COUPLING_STACKS, 0, 0)->count, 0);
    coupling_destroy(coupling);
    unlink(path);
    unlink(weights);
    arena_destroy(arena);
}

// ---- Layers that run more than once ----

#define LOOP CHERRY_SOURCE "/tests/pass/untie-layers.cherry"
enum { RUNS = 6, LAYERS = 4, TOKENS = 16 };
static const int layer_of[RUNS] = {0, 1, 2, 1, 2, 3};

static Graph *gradient_of(Ir *ir, const Module *module) {
    return test_pass(ir, "expand-stacks, gradient", module_find_graph(module, "loss"));
}

static void test_sums(void **state) {
    (void)state;
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    Module *module = load(ir, LOOP, "Loop");
    PassContext context = {.ir = ir, .verify = true};
    const Module *untied = pass_run_module(&context, "untie-layers", module);
    assert_non_null(untied);
    const Graph *tied_graph = gradient_of(ir, module), *untied_graph = gradient_of(ir, untied);
    Tensor *inputs = test_inputs(tied_graph, 8);
    Tensor *untied_inputs = test_carry(tied_graph, inputs, untied_graph, 8);
    Tensor *w = test_find_input(tied_graph, inputs, "trunk.w", ROLE_PARAMETER);
    int64_t count = type_count(w->type) / LAYERS;
    // test_carry gave the untied weights and gradients those of the tied model, which have another size.
    for (int role = ROLE_PARAMETER; role <= ROLE_GRADIENT; role++) {
        Tensor *to = test_find_input(untied_graph, untied_inputs, "trunk.w", (Role)role);
        Value input = graph_find_input(untied_graph, test_name(ir, "trunk.w"), (Role)role);
        *to = tensor_create(arena, graph_type(untied_graph, input));
        for (int run = 0; run < RUNS && role == ROLE_PARAMETER; run++)
            memcpy(to->data + run * count, w->data + layer_of[run] * count, (size_t)count * sizeof *w->data);
    }
    const Tensor *tied = test_evaluate(tied_graph, inputs),
                 *found = test_evaluate(untied_graph, untied_inputs);
    assert_true(test_output(tied_graph, tied, "loss")->data[0] ==
                test_output(untied_graph, found, "loss")->data[0]);
    const double *whole = test_output(tied_graph, tied, "gradient.trunk.w")->data,
                 *parts = test_output(untied_graph, found, "gradient.trunk.w")->data;
    for (int layer = 0; layer < LAYERS; layer++)
        for (int64_t i = 0; i < count; i++) {
            double sum = 0;
            for (int run = 0; run < RUNS; run++)
                if (layer_of[run] == layer) sum += parts[run * count + i];
            assert_true(fabs(sum - whole[layer * count + i]) < 1e-12);
            assert_true(whole[layer * count + i] != 0);
        }
    const char *shared[] = {"gradient.table", "gradient.trunk.core.gate"};
    for (int i = 0; i < 2; i++) {
        const Tensor *a = test_output(tied_graph, tied, shared[i]),
                     *b = test_output(untied_graph, found, shared[i]);
        for (int64_t k = 0; k < type_count(a->type); k++) assert_true(fabs(a->data[k] - b->data[k]) < 1e-12);
    }
    arena_destroy(arena);
}

// The tied gradients of the model as it is, on the CPU.
static void tied_gradients(Ir *ir, const Module *module, const char *weights, const bool *mask,
                           const int32_t *tokens, const int32_t *targets, float *to, int64_t *layer_counts) {
    Runner *runner = runner_create(ir, module, 1u << ENTRY_ACCUMULATE, &compile, 1);
    assert_non_null(runner);
    assert_true(checkpoint_load_weights(ir->diagnostics, weights, module, runner->state));
    fill(runner, tokens, targets, mask, TOKENS);
    runner_set_float(runner, ENTRY_ACCUMULATE, "loss_scale", 1);
    runner_run(runner, ENTRY_ACCUMULATE);
    for (size_t i = 0; i < module->parameters.count; i++) {
        int64_t count = type_count(module->parameters.items[i].type);
        memcpy(to, state_data(runner->state, module->parameters.items[i].path, ROLE_GRADIENT),
               (size_t)count * sizeof *to);
        to += count;
        layer_counts[i] = count;
    }
    runner_destroy(runner);
}

static void test_looped(void **state) {
    (void)state;
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    char weights[] = "/tmp/cherry_test_XXXXXX";
    close(mkstemp(weights));
    Module *module = load(ir, LOOP, "Loop");
    write_weights(ir, module, weights, 0.3);
    int32_t tokens[TOKENS], targets[TOKENS];
    bool mask[TOKENS], complement[TOKENS];
    for (int i = 0; i < TOKENS; i++) {
        tokens[i] = i * i % 7;
        targets[i] = (i + 1) * (i + 1) % 7;
        mask[i] = i % 3 == 1;
        complement[i] = !mask[i];
    }
    Coupling *coupling = coupling_create(ir, module, weights, &compile, 1);
    assert_non_null(coupling);
    fill(coupling->runner, tokens, targets, mask, TOKENS);
    coupling_measure(coupling);
    float *s = ARENA_ARRAY(arena, float, 1000), *u = ARENA_ARRAY(arena, float, 1000);
    int64_t counts[8], offset = 0;
    tied_gradients(ir, module, weights, mask, tokens, targets, s, counts);
    tied_gradients(ir, module, weights, complement, tokens, targets, u, counts);
    CouplingFigure whole = {0};
    for (size_t i = 0; i < module->parameters.count; i++) {
        const Parameter *parameter = &module->parameters.items[i];
        coupling_add(&whole, s + offset, u + offset, counts[i]);
        for (int layer = 0; layer < LAYERS && strcmp(parameter->path, "trunk.w") == 0; layer++) {
            CouplingFigure one = {0};
            int64_t at = offset + layer * counts[i] / LAYERS;
            coupling_add(&one, s + at, u + at, counts[i] / LAYERS);
            double gamma = coupling_close(&one), found = find(coupling, COUPLING_LAYER, layer, 0)->mean;
            if (fabs(gamma - found) > 1e-5)
                fail_msg("layer %d: %.9g, from its runs %.9g", layer, gamma, found);
        }
        offset += counts[i];
    }
    double gamma = coupling_close(&whole), found = find(coupling, COUPLING_WHOLE, 0, 0)->mean;
    if (fabs(gamma - found) > 1e-6) fail_msg("whole: %.9g, from its runs %.9g", gamma, found);
    assert_true(find(coupling, COUPLING_ITERATION, 2, 1)->count == 1);
    assert_null(find(coupling, COUPLING_ITERATION, 3, 1));
    assert_true(find(coupling, COUPLING_ITERATION, 1, 0)->mean !=
                find(coupling, COUPLING_ITERATION, 1, 1)->mean);
    assert_true(find(coupling, COUPLING_ROWS, 0, 0)->count == 1);
    coupling_destroy(coupling);
    unlink(weights);
    arena_destroy(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_by_hand), cmocka_unit_test(test_sums),
                                       cmocka_unit_test(test_looped)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
