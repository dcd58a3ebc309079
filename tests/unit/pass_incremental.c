// incremental: a small causal model, computed at once, position by position and in chunks.
#include "tests/unit/pass_test.h"

static Ir *start(void **state) {
    Arena *arena = arena_create();
    *state = arena;
    return ir_create(arena);
}

static int finish(void **state) {
    arena_destroy(*state);
    return 0;
}

enum { BATCH = 2, TIME = 6, EMBED = 4, KEY = 3, VOCAB = 5, CONTEXT = 8, CACHES = 5 };

static const Type *sequence(Ir *ir, const char *time, const char *last, int extent) {
    return test_type(ir, ELEMENT_F32, "batch", BATCH, time, TIME, last, extent, NULL);
}

// (q, k, v, positions) -> o: softmax over index(past) <= positions, as the prelude writes it.
static Graph *attention_core(Ir *ir) {
    Graph *graph = graph_create(ir, test_name(ir, "attention_core"));
    Value q = test_input(graph, "q", ROLE_ARGUMENT, sequence(ir, "time", "key", KEY));
    Value k = test_input(graph, "k", ROLE_ARGUMENT, sequence(ir, "past", "key", KEY));
    Value v = test_input(graph, "v", ROLE_ARGUMENT, sequence(ir, "past", "key", KEY));
    Value positions =
        test_input(graph, "positions", ROLE_ARGUMENT, test_type(ir, ELEMENT_I32, "time", TIME, NULL));
    Value scores = test_dot(graph, q, k, "key");
    const Type *type = type_with_element(ir, graph_type(graph, scores), ELEMENT_I32);
    Value past =
        build_expand(graph, build_index(graph, test_dimension(ir, "past", TIME), NO_PLACE), type, NO_PLACE);
    Value seen = build_binary(graph, OP_le, past, build_expand(graph, positions, type, NO_PLACE), NO_PLACE);
    Value none = build_expand(graph, build_constant(graph, ELEMENT_F32, -1e30, NO_PLACE),
                              graph_type(graph, scores), NO_PLACE);
    scores = build_select(graph, seen, scores, none, NO_PLACE);
    Value top = test_reduce(graph, OP_max_over, scores, "past");
    Value e = build_unary(graph, OP_exp, build_binary(graph, OP_sub, scores, top, NO_PLACE), NO_PLACE);
    Value p = build_binary(graph, OP_div, e, test_reduce(graph, OP_sum, e, "past"), NO_PLACE);
    graph_add_output(graph, test_name(ir, "o"), test_dot(graph, p, v, "past"), VALUE_NONE);
    return graph;
}

// As an attention call with or without the kernel's name and causal option.
static Value attention(Graph *graph, Value q, Value k, Value v, bool kernel, bool causal) {
    Ir *ir = graph->ir;
    const char *time = test_name(ir, "time"), *past = test_name(ir, "past");
    Value operands[] = {q, build_rename(graph, k, time, past, NO_PLACE),
                        build_rename(graph, v, time, past, NO_PLACE),
                        build_index(graph, test_dimension(ir, "time", TIME), NO_PLACE)};
    Option *options = ARENA_ARRAY(ir->arena, Option, 3);
    options[0] = (Option){.name = test_name(ir, "along"), .text = time};
    options[1] = (Option){.name = test_name(ir, "past"), .text = past};
    options[2] = (Option){.name = test_name(ir, "causal"), .number = causal};
    Attribute attributes[] = {{.key = ATTRIBUTE_function, .graph = attention_core(ir)},
                              {.key = ATTRIBUTE_kernel, .text = test_name(ir, "attention")},
                              {.key = ATTRIBUTE_options, .count = 3, .options = options}};
    return graph_add(graph, OP_call, operands, 4, attributes, kernel ? 3 : 1, NO_PLACE);
}

static Value weight(Graph *graph, const char *name, const char *from, int rows, const char *to, int columns) {
    return test_input(graph, name, ROLE_PARAMETER,
                      test_type(graph->ir, ELEMENT_F32, from, rows, to, columns, NULL));
}

// Embedding and learned positions, the token before last beside each, two attention layers, a tied head.
static Graph *logits(Ir *ir, bool kernel, bool causal) {
    Graph *graph = graph_create(ir, test_name(ir, "logits"));
    Value table = weight(graph, "table", "vocab", VOCAB, "embed", EMBED);
    Value places = weight(graph, "places", "context", CONTEXT, "embed", EMBED);
    Value tokens = test_input(graph, "tokens", ROLE_DATA,
                              test_type(ir, ELEMENT_I32, "batch", BATCH, "time", TIME, NULL));
    Value x = build_gather(graph, table, tokens, test_name(ir, "vocab"), NO_PLACE);
    Value index = build_index(graph, test_dimension(ir, "time", TIME), NO_PLACE);
    x = build_binary(graph, OP_add, x, build_gather(graph, places, index, test_name(ir, "context"), NO_PLACE),
                     NO_PLACE);
    Attribute back[] = {{.key = ATTRIBUTE_along, .text = test_name(ir, "time")}, {.key = ATTRIBUTE_by, .integer = 2}};
    x = build_binary(graph, OP_add, x, graph_add(graph, OP_shift, &x, 1, back, 2, NO_PLACE), NO_PLACE);
    for (int layer = 0; layer < 2; layer++) {
        Value qkv[3];
        for (int i = 0; i < 3; i++)
            qkv[i] = test_dot(
                graph, x,
                weight(graph, arena_format(ir->arena, "w%d.%d", layer, i), "embed", EMBED, "key", KEY),
                "embed");
        Value o = attention(graph, qkv[0], qkv[1], qkv[2], kernel, causal);
        Value out =
            test_dot(graph, o,
                     weight(graph, arena_format(ir->arena, "o%d", layer), "key", KEY, "embed", EMBED), "key");
        x = build_binary(graph, OP_add, x, out, NO_PLACE);
    }
    graph_add_output(graph, test_name(ir, "logits"), test_dot(graph, x, table, "embed"), VALUE_NONE);
    return graph;
}

// A cache tensor with `length` positions, from one with fewer.
static Tensor grown(Ir *ir, const Tensor *old, const Type *type, int64_t length) {
    Type *resolved = ARENA_NEW(ir->arena, Type);
    *resolved = *type;
    int past = type_find(type, test_name(ir, "past"));
    if (past < 0) past = type_find(type, test_name(ir, "time.before"));
    resolved->dimensions[past].extent = length;
    resolved->dimensions[past].bound = NULL;
    Tensor tensor = tensor_create(ir->arena, resolved);
    if (!old->data) return tensor;
    Odometer odometer;
    odometer_start(&odometer, old->type);
    do tensor.data[odometer_offset(&odometer, resolved)] = old->data[odometer.position];
    while (odometer_next(&odometer));
    return tensor;
}

// Runs `chunk` positions from `position`, with and to caches[], and compares with the whole.
static void run_chunk(const Graph *whole, Tensor *whole_inputs, const Tensor *expected, const Graph *step,
                      int64_t position, int64_t chunk, Tensor *caches) {
    Ir *ir = step->ir;
    Tensor *inputs = test_carry(whole, whole_inputs, step, VOCAB);
    const Tensor *tokens = test_find_input(whole, whole_inputs, "tokens", ROLE_DATA);
    Tensor few = tensor_create(ir->arena,
                               graph_node(step, graph_find_input(step, "tokens", ROLE_DATA).node)->types[0]);
    for (int64_t b = 0; b < BATCH; b++)
        for (int64_t t = 0; t < chunk; t++) few.data[b * chunk + t] = tokens->data[b * TIME + position + t];
    *test_find_input(step, inputs, "tokens", ROLE_DATA) = few;
    test_find_input(step, inputs, "position", ROLE_SCALAR)->data[0] = (double)position;
    test_find_input(step, inputs, "length", ROLE_SCALAR)->data[0] = (double)(position + chunk);
    for (int i = 0; i < CACHES; i++) {
        const char *name = arena_format(ir->arena, "cache.%d", i);
        Tensor *cache = test_find_input(step, inputs, name, ROLE_CACHE);
        *cache = grown(ir, &caches[i], cache->type, position + chunk);
    }
    const Tensor *outputs = test_evaluate(step, inputs);
    const Tensor *found = test_output(step, outputs, "logits");
    for (int64_t b = 0; b < BATCH; b++)
        for (int64_t t = 0; t < chunk; t++)
            for (int64_t v = 0; v < VOCAB; v++)
                assert_true(fabs(found->data[(b * chunk + t) * VOCAB + v] -
                                 expected->data[(b * TIME + position + t) * VOCAB + v]) < 1e-12);
    for (int i = 0; i < CACHES; i++)
        caches[i] = *test_output(step, outputs, arena_format(ir->arena, "cache.%d", i));
}

static void compare(Ir *ir, const Graph *whole, int64_t prompt) {
    const char *text = arena_format(ir->arena, "incremental{chunk=%d, context=%d}", (int)prompt, CONTEXT);
    Graph *prefill = test_pass(ir, text, whole), *decode = test_pass(ir, "incremental{context=8}", whole);
    assert_string_equal(decode->name, "decode");
    assert_string_equal(prefill->name, prompt == 1 ? "decode" : "prefill");
    assert_int_equal(test_count(decode, OP_scatter), CACHES);
    Tensor *inputs = test_inputs(whole, VOCAB), caches[CACHES] = {{0}};
    const Tensor *expected = test_output(whole, test_evaluate(whole, inputs), "logits");
    run_chunk(whole, inputs, expected, prefill, 0, prompt, caches);
    for (int64_t position = prompt; position < TIME; position++)
        run_chunk(whole, inputs, expected, decode, position, 1, caches);
}

static void steps_equal_the_whole(void **state) {
    Ir *ir = start(state);
    for (int kernel = 0; kernel < 2; kernel++)
        for (int64_t prompt = 1; prompt < TIME; prompt += 2) compare(ir, logits(ir, kernel, true), prompt);
}

static void caches_are_state(void **state) {
    Ir *ir = start(state);
    Graph *graph = test_pass(ir, "incremental{context=8, batch=1}", logits(ir, true, true));
    Value input = graph_find_input(graph, "cache.3", ROLE_CACHE);
    assert_string_equal(type_text(ir, graph_type(graph, input)), "f32[batch=1, past<=8:length, key=3]");
    const Output *output = graph_find_output(graph, "cache.3");
    assert_true(value_same(output->replaces, input));
}

static bool fails_with(Ir *ir, const Graph *graph, const char *code, const char *words) {
    PassContext context = {.ir = ir};
    assert_null(pass_run(&context, "incremental{context=8}", graph));
    for (size_t i = 0; i < diagnostics_count(ir->diagnostics); i++) {
        const Message *message = diagnostics_message(ir->diagnostics, i);
        if (message->code && strcmp(message->code, code) == 0 && strstr(message->text, words)) return true;
    }
    return false;
}

static void what_looks_ahead_is_refused(void **state) {
    Ir *ir = start(state);
    assert_true(fails_with(ir, logits(ir, true, false), "E0513",
                           "attention cannot be computed incrementally along time"));
}

static Graph *with_op(Ir *ir, int which) {
    Graph *graph = graph_create(ir, test_name(ir, "logits"));
    Value x = test_input(graph, "x", ROLE_DATA, sequence(ir, "time", "embed", EMBED));
    const char *time = test_name(ir, "time");
    Attribute shift[] = {{.key = ATTRIBUTE_along, .text = time}, {.key = ATTRIBUTE_by, .integer = -1}};
    Value y = which == 0   ? test_reduce(graph, OP_sum, x, "time")
              : which == 1 ? build_slice(graph, x, time, 0, 2, NO_PLACE)
              : which == 2
                  ? graph_add(graph, OP_shift, &x, 1, shift, 2, NO_PLACE)
                  : build_binary(graph, OP_add, x,
                                 test_input(graph, "p", ROLE_PARAMETER, sequence(ir, "time", "embed", EMBED)),
                                 NO_PLACE);
    graph_add_output(graph, test_name(ir, "y"), y, VALUE_NONE);
    return graph;
}

static void ops_over_time_are_refused(void **state) {
    Ir *ir = start(state);
    assert_true(fails_with(ir, with_op(ir, 0), "E0513", "sum cannot"));
    assert_true(fails_with(ir, with_op(ir, 1), "E0513", "slice cannot"));
    assert_true(fails_with(ir, with_op(ir, 2), "E0513", "shift cannot"));
    assert_true(fails_with(ir, with_op(ir, 3), "E0514", "parameter 'p'"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(steps_equal_the_whole, finish),
        cmocka_unit_test_teardown(caches_are_state, finish),
        cmocka_unit_test_teardown(what_looks_ahead_is_refused, finish),
        cmocka_unit_test_teardown(ops_over_time_are_refused, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
