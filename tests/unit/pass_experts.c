// fuse-experts in the reference evaluator: a fused pair is the two experts, mixed.
#include "frontend/frontend.h"
#include "tests/unit/pass_test.h"

enum { VOCAB = 7, EXPERTS = 2 };

static Module *load(Ir *ir, const char *model) {
    const char *settings[] = {"vocab=7",  "embed=4", "heads=2", "key=2",     "ffn=3",
                              "rounds=2", "batch=2", "time=4",  "rate=0.001"};
    FrontendOptions options = {.settings = settings, .setting_count = 9, .train = model};
    Module *module = frontend_load(ir, CHERRY_SOURCE "/tests/data/pair.cherry", &options);
    PassContext context = {.ir = ir, .verify = true};
    if (module) module = pass_derive(&context, module);
    if (!module) test_show_errors(ir);
    assert_non_null(module);
    return module;
}

// The inputs of an expert: parameters differ from expert to expert, data do not.
static Tensor *expert_inputs(const Graph *graph, int expert) {
    Tensor *inputs = test_inputs(graph, VOCAB);
    for (size_t i = 0; i < graph->inputs.count; i++) {
        const Node *node = graph_node(graph, graph->inputs.items[i]);
        bool weight = attribute_integer(node, ATTRIBUTE_role, -1) == ROLE_PARAMETER;
        for (int64_t j = 0; weight && j < type_count(node->types[0]); j++)
            inputs[i].data[j] = expert ? cos(3 * inputs[i].data[j] + expert) : inputs[i].data[j];
    }
    return inputs;
}

typedef struct Pair {
    Arena *arena;
    Module *one, *fused;
    const Graph *before, *after;  // graphs of one name
    Tensor *inputs[EXPERTS], *fused_inputs;
} Pair;

// The fused model's parameters, by its transfer.
static void transfer(const Pair *pair) {
    const Graph *graph = pair->fused->transfer;
    Tensor *given = test_inputs(graph, VOCAB);
    for (size_t i = 0; i < graph->inputs.count; i++) {
        const Node *node = graph_node(graph, graph->inputs.items[i]);
        const char *name = attribute_text(node, ATTRIBUTE_name);
        if (attribute_integer(node, ATTRIBUTE_role, -1) != ROLE_FROZEN) continue;
        given[i] = *test_find_input(pair->before, pair->inputs[name[0] - '0'], name + 2, ROLE_PARAMETER);
    }
    const Tensor *made = test_evaluate(graph, given);
    for (size_t i = 0; i < graph->outputs.count; i++)
        for (size_t j = 0; j < pair->after->inputs.count; j++)
            if (strcmp(attribute_text(graph_node(pair->after, pair->after->inputs.items[j]), ATTRIBUTE_name),
                       graph->outputs.items[i].name) == 0)
                pair->fused_inputs[j] = made[i];
}

static Pair make_pair(void **state, const char *fused, const char *graph) {
    Arena *arena = arena_create();
    *state = arena;
    Ir *ir = ir_create(arena);
    Pair pair = {.arena = arena, .one = load(ir, "a"), .fused = load(ir, fused)};
    pair.before = module_find_graph(pair.one, graph);
    pair.after = module_find_graph(pair.fused, graph);
    for (int e = 0; e < EXPERTS; e++) pair.inputs[e] = expert_inputs(pair.before, e);
    pair.fused_inputs = test_carry(pair.before, pair.inputs[0], pair.after, VOCAB);
    transfer(&pair);
    return pair;
}

// Every position at these weights.
static void set_weights(const Pair *pair, double first, double second) {
    Tensor *w = test_find_input(pair->after, pair->fused_inputs, "router.w", ROLE_PARAMETER);
    Tensor *b = test_find_input(pair->after, pair->fused_inputs, "router.b", ROLE_PARAMETER);
    for (int64_t i = 0; i < type_count(w->type); i++) w->data[i] = 0;
    b->data[0] = first > 0 ? log(first) : -1000;
    b->data[1] = second > 0 ? log(second) : -1000;
}

static void check_mixture(const Pair *pair, double first, double second) {
    set_weights(pair, first, second);
    const Tensor *a = &test_evaluate(pair->before, pair->inputs[0])[0],
                 *b = &test_evaluate(pair->before, pair->inputs[1])[0],
                 *both = &test_evaluate(pair->after, pair->fused_inputs)[0];
    assert_ptr_equal(a->type, both->type);
    double distance = 0;
    for (int64_t i = 0; i < type_count(a->type); i++) {
        double expected = first * a->data[i] + second * b->data[i];
        distance += fabs(a->data[i] - b->data[i]);
        if (!(fabs(both->data[i] - expected) <= 1e-12))
            fail_msg("element %ld: %.15g, expected %.15g", (long)i, both->data[i], expected);
    }
    assert_true(distance > 1);
}

static void one_hot_is_one_expert(void **state) {
    Pair pair = make_pair(state, "own", "logits");
    check_mixture(&pair, 1, 0);
    check_mixture(&pair, 0, 1);
}

static void batched_is_apart(void **state) {
    Pair pair = make_pair(state, "own", "logits");
    check_mixture(&pair, 0.25, 0.75);
}

static void balance_is_one_where_even(void **state) {
    Pair pair = make_pair(state, "own", "loss");
    set_weights(&pair, 0.5, 0.5);
    Tensor *outputs = test_evaluate(pair.after, pair.fused_inputs);
    assert_true(fabs(test_output(pair.after, outputs, "balance")->data[0] - (1)) < 1e-12);
    set_weights(&pair, 1, 0);
    outputs = test_evaluate(pair.after, pair.fused_inputs);
    assert_true(fabs(test_output(pair.after, outputs, "balance")->data[0] - (2)) < 1e-12);
    double alone = test_output(pair.before, test_evaluate(pair.before, pair.inputs[0]), "loss")->data[0];
    assert_true(fabs(test_output(pair.after, outputs, "loss")->data[0] - (alone + 0.01 * 2)) < 1e-12);
}

// Shared parameters start as the mean of the experts'.
static void shared_is_mean(void **state) {
    Pair pair = make_pair(state, "shared", "logits");
    const Tensor *table = test_find_input(pair.after, pair.fused_inputs, "table", ROLE_PARAMETER),
                 *a = test_find_input(pair.before, pair.inputs[0], "table", ROLE_PARAMETER),
                 *b = test_find_input(pair.before, pair.inputs[1], "table", ROLE_PARAMETER);
    assert_ptr_equal(table->type, a->type);
    for (int64_t i = 0; i < type_count(a->type); i++)
        assert_true(fabs(table->data[i] - (a->data[i] + b->data[i]) / 2) < 1e-12);
}

static void gradients_are_slopes(void **state) {
    static const char *const models[] = {"own", "shared"};
    for (int i = 0; i < 2; i++) {
        Pair pair = make_pair(state, models[i], "loss");
        Graph *flat = test_pass(pair.one->ir, "expand-stacks, simplify", pair.after);
        Graph *accumulate = test_pass(pair.one->ir, "gradient, fuse-loss{bytes=1}, recompute", flat);
        test_gradients(flat, accumulate, VOCAB, 1e-5);
        if (i == 0) arena_destroy(*state);
    }
}

// Decoding position by position gives what the whole sequence gives.
static void decodes(void **state) {
    Pair pair = make_pair(state, "own", "logits");
    Ir *ir = pair.one->ir;
    Graph *flat = test_pass(ir, "expand-stacks", pair.after);
    Graph *decode = test_pass(ir, "incremental{context=4}", flat);
    const Tensor *whole = &test_evaluate(flat, pair.fused_inputs)[0];
    Tensor *inputs = test_carry(flat, pair.fused_inputs, decode, VOCAB);
    const Tensor *tokens = test_find_input(flat, pair.fused_inputs, "tokens", ROLE_DATA);
    Tensor *next = test_find_input(decode, inputs, "tokens", ROLE_DATA);
    *next = tensor_create(ir->arena, test_type(ir, ELEMENT_I32, "batch", 2, "time", 1, NULL));
    for (int64_t t = 0; t < 4; t++) {
        for (int64_t row = 0; row < 2; row++) next->data[row] = tokens->data[row * 4 + t];
        test_find_input(decode, inputs, "position", ROLE_SCALAR)->data[0] = (double)t;
        test_find_input(decode, inputs, "length", ROLE_SCALAR)->data[0] = 4;  // later ones are not looked at
        const Tensor *outputs = test_evaluate(decode, inputs);
        const Tensor *logits = test_output(decode, outputs, "logits");
        for (int64_t row = 0; row < 2; row++)
            for (int64_t v = 0; v < VOCAB; v++)
                assert_true(fabs(logits->data[row * VOCAB + v] - whole->data[(row * 4 + t) * VOCAB + v]) <
                            1e-9);
        for (size_t i = 0; i < decode->outputs.count; i++) {
            const Output *output = &decode->outputs.items[i];
            if (value_is_none(output->replaces)) continue;
            for (size_t j = 0; j < decode->inputs.count; j++)
                if (decode->inputs.items[j] == output->replaces.node) inputs[j] = outputs[i];
        }
    }
}

// models/moe.cherry: rows that are gathered for their experts give what all experts on all rows give.
static void routed_rows_are_all_rows(void **state) {
    Arena *arena = arena_create();
    *state = arena;
    Ir *ir = ir_create(arena);
    const char *settings[] = {"vocab=7", "embed=4",  "heads=2", "key=2",
                              "ffn=3",   "layers=2", "batch=2", "time=4"};
    FrontendOptions options = {.settings = settings, .setting_count = 8};
    Module *module = frontend_load(ir, CHERRY_SOURCE "/models/moe.cherry", &options);
    if (!module) test_show_errors(ir);
    assert_non_null(module);
    const Graph *training = module_find_graph(module, "loss"), *all = module_find_graph(module, "evaluate");
    Tensor *inputs = test_inputs(training, VOCAB);
    const Tensor *routed = test_output(training, test_evaluate(training, inputs), "loss"),
                 *plain =
                     test_output(all, test_evaluate(all, test_carry(training, inputs, all, VOCAB)), "loss");
    assert_true(fabs(routed->data[0] - plain->data[0]) < 1e-12);
}

// Of three experts two are computed for each sequence; copies of one model give what it gives.
static void chosen_copies_are_the_model(void **state) {
    Pair pair = make_pair(state, "own", "logits");  // weights of A for all three
    Module *chosen = load(pair.one->ir, "chosen");
    const Graph *graph = module_find_graph(chosen, "logits");
    Tensor *given = test_inputs(chosen->transfer, VOCAB);
    for (size_t i = 0; i < chosen->transfer->inputs.count; i++) {
        const Node *node = graph_node(chosen->transfer, chosen->transfer->inputs.items[i]);
        if (attribute_integer(node, ATTRIBUTE_role, -1) == ROLE_FROZEN)
            given[i] = *test_find_input(pair.before, pair.inputs[0], attribute_text(node, ATTRIBUTE_name) + 2,
                                        ROLE_PARAMETER);
    }
    const Tensor *made = test_evaluate(chosen->transfer, given);
    Tensor *inputs = test_carry(pair.before, pair.inputs[0], graph, VOCAB);
    for (size_t i = 0; i < chosen->transfer->outputs.count; i++)
        *test_find_input(graph, inputs, chosen->transfer->outputs.items[i].name, ROLE_PARAMETER) = made[i];
    const Tensor *one = &test_evaluate(pair.before, pair.inputs[0])[0],
                 *found = &test_evaluate(graph, inputs)[0];
    for (int64_t i = 0; i < type_count(one->type); i++)
        assert_true(fabs(one->data[i] - found->data[i]) < 1e-9);
}

static int finish(void **state) {
    arena_destroy(*state);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(one_hot_is_one_expert, finish),
        cmocka_unit_test_teardown(batched_is_apart, finish),
        cmocka_unit_test_teardown(balance_is_one_where_even, finish),
        cmocka_unit_test_teardown(shared_is_mean, finish),
        cmocka_unit_test_teardown(gradients_are_slopes, finish),
        cmocka_unit_test_teardown(decodes, finish),
        cmocka_unit_test_teardown(chosen_copies_are_the_model, finish),
        cmocka_unit_test_teardown(routed_rows_are_all_rows, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
