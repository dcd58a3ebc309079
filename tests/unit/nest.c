// Loop nests: text, identity, rules, contractions, evaluation.
#include "ir/nest.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
// clang-format off: cmocka.h needs the headers above
#include <cmocka.h>
// clang-format on

#include <cmocka.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static Arena *arena;
static Ir *ir;

static int setup(void **state) {
    (void)state;
    arena = arena_create();
    ir = ir_create(arena);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    arena_destroy(arena);
    return 0;
}

static void close_to(double found, double expected, double tolerance) {
    if (!(fabs(found - expected) <= tolerance)) fail_msg("found %.12g, expected %.12g", found, expected);
}

static const char *text_of(const Nest *nest) {
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    nest_print(nest, stream);
    fclose(stream);
    const char *copy = arena_copy(arena, text, length);
    free(text);
    return copy;
}

static const char rms_norm[] =
    "nest rms_norm {\n"
    "  outer batch=2, time=3\n"
    "  inner embed=4\n"
    "  parallel batch, time\n"
    "  operand 0: read f32 [2:12, 3:4, 4:1]\n"
    "  operand 1: write f32 [2:12, 3:4, 4:1]\n"
    "  stage 0: sum over embed { mul(@0[batch, time, embed], @0[batch, time, embed]) }\n"
    "  let v0 = add(mul(stage 0, 0.25:f32), 1e-05:f32)\n"
    "  stage 1: store over embed @1[batch, time, embed] { add(mul(@0[batch, time, embed], rsqrt(v0)), "
    "mul(v0, 0:f32)) }\n"
    "}\n";

static const char gather[] =
    "nest gather {\n"
    "  outer time<=8:length@0, embed=4, \"odd name\"=2\n"
    "  parallel time, embed, \"odd name\"\n"
    "  operand 0: read i64 []\n"
    "  operand 1: read i32 [8:1]\n"
    "  operand 2: read f32 [10:4, 4:1]\n"
    "  operand 3: write bf16 [16:4, 4:-1]\n"
    "  stage 0: store @3[2*time + \"odd name\", -1*embed + 3] "
    "{ cast bf16(select(lt(index(time), 2:i32), @2[1 + {@1[time]}, embed], -inf:f32)) }\n"
    "}\n";

static void round_trip(const char *text) {
    Nest *nest = nest_read(ir, "test", text);
    if (!nest) diagnostics_print(ir->diagnostics, 0, stderr);
    assert_non_null(nest);
    assert_string_equal(text_of(nest), text);
    Nest *again = nest_read(ir, "test", text_of(nest));
    assert_true(nest_equal(nest, again));
    assert_int_equal(nest_hash(nest), nest_hash(again));
    nest_compact(again);
    assert_string_equal(text_of(again), text);
}

static void text_round_trips(void **state) {
    (void)state;
    round_trip(rms_norm);
    round_trip(gather);
}

static void text_errors_are_reported(void **state) {
    (void)state;
    // Cut anywhere, the text must fail with a message and never crash.
    for (size_t length = 0; length + 2 < sizeof rms_norm; length++) {
        size_t before = diagnostics_error_count(ir->diagnostics);
        assert_null(nest_read(ir, "test", arena_copy(arena, rms_norm, length)));
        assert_int_equal(diagnostics_error_count(ir->diagnostics), before + 1);
    }
}

// `text` with the first `from` replaced by `to` must be refused.
static void refuses(const char *text, const char *from, const char *to) {
    const char *at = strstr(text, from);
    assert_non_null(at);
    const char *changed = arena_format(arena, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    size_t before = diagnostics_error_count(ir->diagnostics);
    assert_null(nest_read(ir, "test", changed));
    assert_int_equal(diagnostics_error_count(ir->diagnostics), before + 1);
}

static void rules_are_checked(void **state) {
    (void)state;
    refuses(rms_norm, "inner embed=4", "inner embed=5");       // leaves the operand
    refuses(rms_norm, "sum over embed", "sum");                // uses a loop that it does not run
    refuses(rms_norm, "0.25:f32", "1:i32");                    // mixed element types
    refuses(rms_norm, "operand 1: write", "operand 1: read");  // stores to a read operand
    refuses(rms_norm, "operand 0: read", "operand 0: write");  // loads a write operand
    refuses(rms_norm, "time=3", "batch=3");                    // two loops of one name
    refuses(rms_norm, "stage 0: sum over embed { mul(@0", "stage 0: sum over embed { mul(stage 0, @0");
    refuses(gather, "read i64 []", "read i32 []");    // a bound is i64
    refuses(gather, "-1*embed + 3", "-1*embed + 2");  // below 0
}

static void identity_ignores_names(void **state) {
    (void)state;
    Nest *a = nest_read(ir, "test", rms_norm), *b = nest_read(ir, "test", rms_norm);
    b->name = "other";
    b->loops[2].dimension.name = names_intern(ir->names, "width");
    assert_true(nest_equal(a, b));
    assert_int_equal(nest_hash(a), nest_hash(b));
    b->operands[0].stride[0] = 24;
    assert_false(nest_equal(a, b));
    assert_int_not_equal(nest_hash(a), nest_hash(b));
}

static void evaluates(void **state) {
    (void)state;
    double x[24], y[24];
    for (int i = 0; i < 24; i++) x[i] = i - 7;
    nest_evaluate(nest_read(ir, "test", rms_norm), (double *[]){x, y});
    close_to(y[0], -7 / 5.612493, 1e-5);  // mean of 49 36 25 16 = 31.5
    close_to(y[23], 16 / 14.543040, 1e-5);

    double length = 3, tokens[8] = {4, 0, 8}, table[40], out[64];
    for (int i = 0; i < 40; i++) table[i] = i;
    for (int i = 0; i < 64; i++) out[i] = -1;
    nest_evaluate(nest_read(ir, "test", gather), (double *[]){&length, tokens, table, out + 3});
    close_to(out[3 + 0 - 3], 20, 0);        // table[1 + 4, 0] at [0, 3 - 0], stride -1
    close_to(out[3 + 4 - 0], 23, 0);        // odd name = 1, embed = 3
    close_to(out[3 + 8 - 0], 7, 0);         // table[1, 3] at time 1
    assert_true(out[3 + 16 - 0] < -1e300);  // time 2 is not loaded
    close_to(out[3 + 24 - 0], -1, 0);       // time 3 is past the run's extent
}

static const char product[] =
    "nest dot_gelu {\n"
    "  outer heads=2, time=3, ffn=5\n"
    "  inner embed=4\n"
    "  parallel heads, time, ffn\n"
    "  operand 0: read bf16 [2:4, 3:8, 4:1]\n"
    "  operand 1: read f32 [2:20, 4:1, 5:4]\n"
    "  operand 2: read f32 [5:1]\n"
    "  operand 3: update f32 [2:15, 3:5, 5:1]\n"
    "  stage 0: sum over embed { mul(cast f32(@0[heads, time, embed]), @1[heads, embed, ffn]) }\n"
    "  stage 1: add @3[heads, time, ffn] { tanh(add(stage 0, @2[ffn])) }\n"
    "}\n";

static void recognises_contractions(void **state) {
    (void)state;
    Nest *nest = nest_read(ir, "test", product);
    Contraction contraction;
    assert_true(nest_contraction(nest, &contraction));
    assert_int_equal(contraction.batch, 1);
    assert_int_equal(contraction.row, 2);
    assert_int_equal(contraction.column, 4);
    assert_int_equal(contraction.reduced, 8);
    assert_int_equal(nest->formulas.items[contraction.load_a].operand, 0);
    close_to(nest_flops(nest), 2.0 * 2 * 3 * 5 * 4, 0);
    assert_int_equal(nest_bytes(nest), 24 * 2 + 40 * 4 + 5 * 4 + 30 * 4 * 2);
    assert_false(nest_contraction(nest_read(ir, "test", rms_norm), &contraction));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(text_round_trips, setup, teardown),
        cmocka_unit_test_setup_teardown(text_errors_are_reported, setup, teardown),
        cmocka_unit_test_setup_teardown(rules_are_checked, setup, teardown),
        cmocka_unit_test_setup_teardown(identity_ignores_names, setup, teardown),
        cmocka_unit_test_setup_teardown(evaluates, setup, teardown),
        cmocka_unit_test_setup_teardown(recognises_contractions, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
