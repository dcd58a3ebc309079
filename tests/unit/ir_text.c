// IR text: print, read, print again to the same bytes; hostile texts are refused without harm.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
// clang-format off: cmocka.h needs the headers above
#include <cmocka.h>
// clang-format on

#include "ir/entries.h"
#include "ir/module.h"
#include "ir/text.h"

static char *print(const Module *module) {
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    module_print(module, stream);
    fclose(stream);
    return text;
}

static void fail_with(const Ir *ir, const char *text) {
    diagnostics_print(ir->diagnostics, 0, stderr);
    fail_msg("did not read:\n%s", text);
}

// Reads `text`, which is as printed, and expects the same bytes again.
static void assert_round_trip(const char *text) {
    Ir *ir = ir_create(arena_create());
    Module *module = module_read(ir, "test.ir", text);
    if (!module) fail_with(ir, text);
    char *again = print(module);
    assert_string_equal(again, text);
    free(again);
    arena_destroy(ir->arena);
}

// A module that uses every kind of attribute, quoting, several results, forward references between
// graphs, bounded dimensions, a replaced input, a signature out of order.
static const char sample[] =
    "module Sample\n"
    "training small {\n"
    "  optimizer = adamw\n  rate = 0.0003\n  beta1 = 0.9\n  beta2 = 0.95\n  epsilon = 1e-08\n  decay = 0.1\n"
    "  clip = 1\n  momentum = 0\n  decay_rank = 2\n  schedule = cosine\n  warmup = 100\n  steps = 500\n"
    "  final_rate = 3e-05\n  batch = 8\n  time = 256\n  accumulate = 1\n  precision = bf16\n"
    "  evaluate_every = 50\n  sample_every = 0\n  save_every = 100\n  seed = 1\n"
    "} !nano.cherry:40:1+5\n"
    "parameter table : f32[vocab=50, embed=8] rank 2 initialize @init.table !nano.cherry:3:11\n"
    "parameter \"odd path\" : f32[] rank 0\n"
    "\n"
    "graph @loss {\n"
    "  %0 = input {name = \"table\", role = parameter} : f32[vocab=50, embed=8] !nano.cherry:3:11+5\n"
    "  %1 = input {name = \"tokens\", role = data} : i32[batch=2, time<=4:length] !\"my file.cherry\":4:2\n"
    "  %2 = gather %0, %1 {along = vocab} : f32[batch=2, time<=4:length, embed=8]\n"
    "  %3 = call %2 {function = @double, gradient = @double_gradient, kernel = scale, options = (causal = 1, "
    "along = time, odd = \"inf\", limit = -inf, x = 0.1)} : f32[batch=2, time<=4:length, embed=8] "
    "!nano.cherry:7:1\n"
    "  %4 = top_k %3 {along = embed, count = 2} : f32[batch=2, time<=4:length, embed=2], i32[batch=2, "
    "time<=4:length, embed=2]\n"
    "  %5 = cast %4:1 {element = f32} : f32[batch=2, time<=4:length, embed=2]\n"
    "  %6 = sum %5 {over = (batch, time, embed)} : f32[]\n"
    "  %7 = index {dimensions = (rows=3)} : i32[rows=3]\n"
    "  %8 = constant {value = -0, element = f32} : f32[]\n"
    "  %9 = constant {value = nan, element = f64} : f64[]\n"
    "  %10 = constant {value = 0.1, element = f32} : f32[]\n"
    "  %11 = input {name = \"seed\", role = scalar} : i64[]\n"
    "  %12 = random %11 {dimensions = (embed=8), site = \"a \\\"quoted\\\"\\n\\x01 site\\\\\"} : "
    "f32[embed=8]\n"
    "  %13 = accumulate %0, %12 : f32[vocab=50, embed=8]\n"
    "  %14 = input {name = \"length\", role = scalar} : i64[]\n"
    "  %15 = input {name = \"wq\", role = parameter} : f32[layer=6, embed=8]\n"
    "  %16 = stack %12, %15 {body = @body, carried = 1, invariant = 0, entries = (0 (1..4[row])*3 "
    "1..4[row=2, stop_gradient, recompute] 5)} : f32[embed=8]\n"
    "  inputs %1, %0, %11, %14, %15\n"
    "  output loss = %6\n"
    "  output \"gradient table\" = %13 replaces %0\n"
    "  output indices = %4:1\n"
    "}\n"
    "\n"
    "graph @init.table {\n"
    "  %0 = input {name = \"seed\", role = argument} : i64[]\n"
    "  %1 = random %0 {dimensions = (vocab=50, embed=8), site = \"table\"} : f32[vocab=50, embed=8]\n"
    "  output value = %1\n"
    "}\n"
    "\n"
    "graph @double {\n"
    "  %0 = input {name = \"x\", role = argument} : f32[batch=2, time<=4:length, embed=8]\n"
    "  %1 = add %0, %0 : f32[batch=2, time<=4:length, embed=8]\n"
    "  output y = %1\n"
    "}\n"
    "\n"
    "graph @double_gradient {\n"
    "  %0 = input {name = \"x\", role = argument} : f32[batch=2, time<=4:length, embed=8]\n"
    "  %1 = input {name = \"y\", role = argument} : f32[batch=2, time<=4:length, embed=8]\n"
    "  %2 = input {name = \"d_y\", role = argument} : f32[batch=2, time<=4:length, embed=8]\n"
    "  %3 = add %2, %2 : f32[batch=2, time<=4:length, embed=8]\n"
    "  output d_x = %3\n"
    "}\n"
    "\n"
    "graph @body {\n"
    "  %0 = input {name = \"x\", role = argument} : f32[embed=8]\n"
    "  %1 = input {name = \"wq\", role = argument} : f32[embed=8]\n"
    "  %2 = mul %0, %1 : f32[embed=8]\n"
    "  output x = %2\n"
    "}\n";

static void test_sample(void **state) {
    (void)state;
    assert_round_trip(sample);
    Ir *ir = ir_create(arena_create());
    Module *module = module_read(ir, "test.ir", sample);
    assert_int_equal(module->graphs.count, 5);
    assert_int_equal(module->parameters.count, 2);
    assert_ptr_equal(module->parameters.items[0].initialize, module_find_graph(module, "init.table"));
    assert_true(module->has_training && module->training.precision == ELEMENT_BF16);
    const Graph *loss = module_find_graph(module, "loss");
    assert_int_equal(loss->nodes.items[0].place.line, 3);
    assert_int_equal(loss->nodes.items[0].place.length, 5);
    assert_null(loss->nodes.items[2].place.file);
    assert_int_equal(loss->inputs.items[0], 1);
    const Attribute *entries = attribute_find(graph_node(loss, 16), ATTRIBUTE_entries);
    assert_int_equal(entries->count, 18);
    assert_int_equal(entries->entries[9].row, 2);
    assert_int_equal(entries->entries[13].iteration, 3);
    arena_destroy(ir->arena);
}

static void test_lone_graph(void **state) {
    (void)state;
    Ir *ir = ir_create(arena_create());
    Module *module = module_read(ir, "test.ir", sample);
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    graph_print(module_find_graph(module, "loss"), stream);  // brings its callees along
    fclose(stream);
    assert_non_null(strstr(text, "graph @double_gradient"));
    assert_null(strstr(text, "graph @init.table"));
    assert_round_trip(text);
    free(text);
    arena_destroy(ir->arena);
}

// Two graphs of one name (a retyped callee that no module knows) stay apart in the text.
static void test_equal_names(void **state) {
    (void)state;
    Ir *ir = ir_create(arena_create());
    const Type *scalar = type_scalar(ir, ELEMENT_F32);
    Graph *graph = graph_create(ir, "g");
    Value x = graph_add_input(graph, "x", ROLE_ARGUMENT, scalar, NO_PLACE);
    for (int i = 0; i < 3; i++) {
        Graph *callee = graph_create(ir, "f");
        Value a = graph_add_input(callee, "a", ROLE_ARGUMENT, scalar, NO_PLACE);
        graph_add_output(callee, "y", build_unary(callee, (Op)(OP_sin + i), a, NO_PLACE), VALUE_NONE);
        Attribute attribute = {.key = ATTRIBUTE_function, .graph = callee};
        x = graph_add(graph, OP_call, &x, 1, &attribute, 1, NO_PLACE);
    }
    graph_add_output(graph, "x", x, VALUE_NONE);
    Module *module = module_create(ir, "");
    module_add_graph(module, graph);
    char *text = print(module);
    assert_non_null(strstr(text, "@f.2"));
    assert_non_null(strstr(text, "@f.3"));
    assert_round_trip(text);
    free(text);
    arena_destroy(ir->arena);
}

static void test_numbers(void **state) {
    (void)state;
    Arena *arena = arena_create();
    assert_string_equal(text_number(arena, 0.1), "0.1");
    assert_string_equal(text_number(arena, -0.0), "-0");
    assert_string_equal(text_number(arena, 1e300), "1e+300");
    assert_string_equal(text_number(arena, 1.0 / 3), "0.3333333333333333");
    assert_string_equal(text_number(arena, (double)-INFINITY), "-inf");
    uint64_t bits = 0x9e3779b97f4a7c15;
    for (int i = 0; i < 20000; i++) {
        bits = bits * 6364136223846793005u + 1442695040888963407u;
        double number;
        memcpy(&number, &bits, sizeof number);
        if (isnan(number)) continue;
        double back = strtod(text_number(arena, number), NULL);
        assert_memory_equal(&back, &number, sizeof number);
    }
    assert_string_equal(text_name(arena, "trunk.wq"), "trunk.wq");
    assert_string_equal(text_name(arena, "a..b"), "\"a..b\"");
    assert_string_equal(text_name(arena, "a."), "\"a.\"");
    assert_string_equal(text_name(arena, "0a"), "\"0a\"");
    assert_string_equal(text_name(arena, ""), "\"\"");
    arena_destroy(arena);
}

static void assert_entries(const StackEntry *entries, uint32_t count, const char *expected) {
    Arena *arena = arena_create();
    assert_string_equal(entries_text(arena, entries, count), expected);
    arena_destroy(arena);
}

static void test_entries(void **state) {
    (void)state;
    StackEntry entries[64] = {0};
    for (int i = 0; i < 48; i++) entries[i] = (StackEntry){.layer = i, .iteration = 0, .row = -1};
    assert_entries(entries, 48, "0..47");
    assert_entries(entries, 1, "0");
    assert_entries(entries, 0, "");
    uint32_t count = 1;
    for (int iteration = 0; iteration < 8; iteration++)
        for (int layer = 1; layer <= 4; layer++)
            entries[count++] = (StackEntry){.layer = layer, .iteration = iteration, .row = -1};
    entries[count++] = (StackEntry){.layer = 5, .iteration = 0, .row = -1};
    assert_entries(entries, count, "0 (1..4)*8 5");
    for (uint32_t i = 1; i < 33; i++) {  // the last of three rows serves the later iterations
        entries[i].row = entries[i].iteration < 2 ? entries[i].iteration : 2;
        entries[i].stop_gradient = entries[i].iteration == 0 && entries[i].layer == 1;
    }
    assert_entries(entries, count, "0 1[row, stop_gradient] 2..4[row] (1..4[row])*2 (1..4[row=2])*5 5");
    for (int i = 0; i < 3; i++)
        entries[i] = (StackEntry){.layer = 7, .iteration = 2, .row = -1, .recompute = true};
    assert_entries(entries, 3, "(7[iteration=2, recompute])*2 7[recompute]");
}

static void test_long_entries_round_trip(void **state) {
    (void)state;
    uint32_t seed = 1;
    for (int run = 0; run < 200; run++) {
        Ir *ir = ir_create(arena_create());
        StackEntry entries[40];
        for (int i = 0; i < 40; i++) {
            seed = seed * 1664525u + 1013904223u;
            uint32_t bits = seed >> 12;
            entries[i] = (StackEntry){(int32_t)(bits & 3),
                                      (int32_t)(bits >> 2 & 3),
                                      (int32_t)(bits >> 4 & 3) - 1,
                                      (bits >> 6 & 7) == 0,
                                      (bits >> 9 & 7) == 0,
                                      false,
                                      false};
        }
        const char *text = arena_format(
            ir->arena,
            "graph @g {\n  %%0 = input {name = \"x\", role = argument} : f32[]\n"
            "  %%1 = stack %%0 {body = @b, carried = 1, invariant = 0, entries = (%s)} : f32[]\n  output x = "
            "%%1\n}\n\n"
            "graph @b {\n  %%0 = input {name = \"x\", role = argument} : f32[]\n  output x = %%0\n}\n",
            entries_text(ir->arena, entries, 40));
        Module *module = module_read(ir, "test.ir", text);
        if (!module) fail_with(ir, text);
        const Attribute *read = attribute_find(graph_node(module->graphs.items[0], 1), ATTRIBUTE_entries);
        assert_int_equal(read->count, 40);
        for (int i = 0; i < 40; i++) {
            assert_int_equal(read->entries[i].layer, entries[i].layer);
            assert_int_equal(read->entries[i].iteration, entries[i].iteration);
            assert_int_equal(read->entries[i].row, entries[i].row);
            assert_int_equal(read->entries[i].stop_gradient, entries[i].stop_gradient);
            assert_int_equal(read->entries[i].recompute, entries[i].recompute);
        }
        assert_round_trip(text);
        arena_destroy(ir->arena);
    }
}

// ---- hostile texts ----

static void assert_refused(const char *text, const char *code) {
    Ir *ir = ir_create(arena_create());
    if (module_read(ir, "test.ir", text)) fail_msg("accepted:\n%s", text);
    assert_true(diagnostics_error_count(ir->diagnostics) > 0);
    const Message *message = diagnostics_message(ir->diagnostics, 0);
    if (strcmp(message->code, code) != 0)
        fail_msg("%s instead of %s: %s\n%s", message->code, code, message->text, text);
    assert_true(message->place.line > 0);
    arena_destroy(ir->arena);
}

static void test_refused(void **state) {
    (void)state;
#define INPUT "  %0 = input {name = \"x\", role = data} : f32[a=2]\n"
    static const struct {
        const char *text, *code;
    } cases[] = {
        {"graph @g {\n  \x01\n}", "E0401"},
        {"graph @g {\n  output \"x\n}", "E0401"},
        {"graph @g {\n  output \"\\q\" = %0\n}", "E0401"},
        {"graph @g {\n  output \"\\x00\" = %0\n}", "E0401"},
        {"graph @g {\n  %99999999999 = add\n}", "E0401"},
        {"graph @g { @ }", "E0401"},
        {"graph @g { !a:b }", "E0401"},
        {"graph @g { - }", "E0401"},
        {"nonsense", "E0402"},
        {"graph", "E0402"},
        {"graph @g", "E0402"},
        {"graph @g {", "E0402"},
        {"module", "E0402"},
        {"graph @g {\n nonsense\n}", "E0402"},
        {"graph @g {\n  %0 = input : f32[]\n}", "E0402"},
        {"graph @g {\n" INPUT "  %1 = add %0,\n  %2 = neg %0 : f32[a=2]\n}", "E0402"},
        {"graph @g {\n" INPUT "  %1 = neg %0 : f32[a=2] neg\n}", "E0402"},
        {"graph @g {\n" INPUT "  %1 = neg %0 : g32[a=2]\n}", "E0402"},
        {"graph @g {\n" INPUT "  %1 = cast %0 {element = g32} : f32[a=2]\n}", "E0402"},
        {"graph @g {\n  %0 = input {name = \"x\", role = king} : f32[]\n}", "E0402"},
        {"graph @g {\n" INPUT "  %1 = frobnicate %0 : f32[a=2]\n}", "E0403"},
        {"graph @g {\n" INPUT "  %1 = neg %0 {colour = 3} : f32[a=2]\n}", "E0403"},
        {"training { speed = 3 }", "E0403"},
        {"training { rate = fast }", "E0403"},
        {"training { optimizer = 3 }", "E0403"},
        {"training { steps = 1.5 }", "E0403"},
        {"graph @g {\n" INPUT "  %1 = neg %7 : f32[a=2]\n}", "E0404"},
        {"graph @g {\n" INPUT "  %1 = neg %1 : f32[a=2]\n}", "E0404"},
        {"graph @g {\n" INPUT "  %1 = neg %0:1 : f32[a=2]\n}", "E0404"},
        {"graph @g {\n" INPUT "  %0 = neg %0 : f32[a=2]\n}", "E0404"},
        {"graph @g {\n" INPUT "  output y = %3\n}", "E0404"},
        {"graph @g {\n" INPUT "  inputs %0, %0\n}", "E0404"},
        {"graph @g {\n" INPUT "  %1 = sum %0 {over = (a), over = (a)} : f32[]\n}", "E0404"},
        {"graph @g {\n" INPUT "  %1 = call %0 {function = @f}\n}", "E0404"},
        {"graph @g {\n}\ngraph @g {\n}", "E0404"},
        {"parameter p : f32[] rank 0\nparameter p : f32[] rank 0", "E0404"},
        {"parameter p : f32[] rank 0 initialize @f", "E0404"},
        {"graph @g {\n" INPUT "  %1 = neg %0 : f32[a=3]\n}", "E0405"},
        {"graph @g {\n" INPUT "  %1 = neg %0 : f64[a=2]\n}", "E0405"},
        {"graph @g {\n" INPUT "  %1 = neg %0\n}", "E0405"},
        {"graph @g {\n" INPUT "  %1 = neg %0 : f32[a=2], f32[a=2]\n}", "E0405"},
        {"graph @g {\n" INPUT "  %1 = neg %0 : f32[a=0]\n}", "E0406"},
        {"graph @g {\n" INPUT "  %1 = neg %0 : f32[a=99999999999999999]\n}", "E0406"},
        {"graph @g {\n" INPUT "  %1 = neg %0 : f32[a=16777216, b=16777216]\n}", "E0406"},
        {"graph @g {\n" INPUT "  %1 = neg %0 : f32[a=1, a=1]\n}", "E0406"},
        {"graph @g {\n" INPUT "  %1 = neg %0 : f32[a=1,b=1,c=1,d=1,e=1,f=1,g=1,h=1,i=1]\n}", "E0406"},
        {"graph @g {\n" INPUT "  %1 = stack %0 {entries = (99999999)}\n}", "E0406"},
        {"graph @g {\n" INPUT "  %1 = stack %0 {entries = (5..4)}\n}", "E0406"},
        {"graph @g {\n" INPUT "  %1 = stack %0 {entries = ((0..65535)*2)}\n}", "E0402"},
        {"graph @g {\n" INPUT "  %1 = stack %0 {entries = ((0)*0)}\n}", "E0406"},
        {"graph @g {\n" INPUT "  %1 = stack %0 {entries = (0[row=-1])}\n}", "E0406"},
        {"graph @g {\n" INPUT "  %1 = stack %0 {entries = (((0)*2)*2)}\n}", "E0402"},
        {"graph @g {\n" INPUT "  %1 = call %0 {function = @g} : f32[a=2]\n}", "E0407"},
        {"graph @f {\n" INPUT "  %1 = call %0 {function = @g} : f32[a=2]\n}\n"
         "graph @g {\n" INPUT "  %1 = call %0 {function = @f} : f32[a=2]\n}",
         "E0407"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_refused(cases[i].text, cases[i].code);
}

// Shape rules report in the text, each bad line once.
static void test_errors_stay_apart(void **state) {
    (void)state;
    Ir *ir = ir_create(arena_create());
    assert_null(module_read(ir, "test.ir",
                            "graph @g {\n" INPUT "  %1 = sum %0 {over = (b)} : f32[]\n"
                            "  %2 = neg %1 : f32[]\n"
                            "  %3 = pick %0 {along = a, at = 2} : f32[]\n"
                            "  output x = %2\n}\n"
                            "graph @h {\n" INPUT
                            "  %1 = call %0 {function = @g} : f32[]\n  output x = %1\n}"));
    assert_int_equal(diagnostics_error_count(ir->diagnostics), 2);
    assert_int_equal(diagnostics_message(ir->diagnostics, 0)->place.line, 3);
    assert_string_equal(diagnostics_message(ir->diagnostics, 0)->place.file, "test.ir");
    arena_destroy(ir->arena);
}

static void read_anything(const char *text) {
    Ir *ir = ir_create(arena_create());
    Module *module = module_read(ir, "test.ir", text);
    assert_int_equal(module == NULL, diagnostics_error_count(ir->diagnostics) > 0);
    arena_destroy(ir->arena);
}

static void test_truncated(void **state) {
    (void)state;
    for (size_t length = 0; length < sizeof sample; length++) {
        char *copy = strndup(sample, length);
        read_anything(copy);
        free(copy);
    }
}

// Every byte, and now and then two, replaced by one that means something.
static void test_mutated(void **state) {
    (void)state;
    static const char bytes[] = "{}()[]=,:*%@!\"\\#.-<0189aeinx \n\x80";
    uint32_t seed = 7;
    for (int run = 0; run < 6000; run++) {
        char *copy = strdup(sample);
        for (uint32_t i = 0; i < 1 + (uint32_t)run % 3; i++) {
            seed = seed * 1664525u + 1013904223u;
            uint32_t at = (seed >> 8) % (uint32_t)(sizeof sample - 1);
            seed = seed * 1664525u + 1013904223u;
            copy[at] = bytes[(seed >> 8) % (sizeof bytes - 1)];
        }
        read_anything(copy);
        free(copy);
    }
}

// A text may be long in any direction without deep recursion or quadratic time.
static void test_large(void **state) {
    (void)state;
    enum { COUNT = 20000 };
    size_t length = 0;
    char *text = NULL;
    FILE *stream = open_memstream(&text, &length);
    for (int i = 0; i < COUNT; i++)  // each calls the next
        fprintf(stream,
                "graph @g%d {\n  %%0 = input {name = \"x\", role = argument} : f32[]\n"
                "  %%1 = call %%0 {function = @g%d} : f32[]\n  output x = %%1\n}\n",
                i, i + 1);
    fprintf(stream,
            "graph @g%d {\n  %%0 = input {name = \"x\", role = argument} : f32[]\n  output x = %%0\n}\n",
            COUNT);
    fclose(stream);
    assert_refused(text, "E0407");
    memset(text, '{', length);
    memcpy(text, "graph @g ", 9);
    read_anything(text);
    memset(text + 9, '(', length - 9);
    memcpy(text, "graph @g {", 10);
    read_anything(text);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample),      cmocka_unit_test(test_lone_graph),
        cmocka_unit_test(test_equal_names), cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_entries),     cmocka_unit_test(test_long_entries_round_trip),
        cmocka_unit_test(test_refused),     cmocka_unit_test(test_errors_stay_apart),
        cmocka_unit_test(test_truncated),   cmocka_unit_test(test_mutated),
        cmocka_unit_test(test_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
