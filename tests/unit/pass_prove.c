// prove: it accepts what is right and names what is wrong.
#include "passes/prove.h"

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

static bool has_error(const Ir *ir, const char *code, const char *words) {
    for (size_t i = 0; i < diagnostics_count(ir->diagnostics); i++) {
        const Message *message = diagnostics_message(ir->diagnostics, i);
        if (message->code && strcmp(message->code, code) == 0 && strstr(message->text, words)) return true;
    }
    return false;
}

static void right_passes_are_accepted(void **state) {
    Ir *ir = start(state);
    TestModel model = test_model(ir, false, test_entries, 4);
    Graph *flat = test_pass(ir, "expand-stacks", model.loss);
    Graph *accumulate = test_pass(ir, "gradient", flat);
    double worst = 1;
    assert_true(prove_same("expand-stacks", model.loss, flat, 1, 1e-12));
    assert_true(prove_same("gradient", flat, accumulate, 1, 1e-12));
    assert_true(prove_gradients(model.loss, accumulate, 1, 0, 1e-6, &worst));
    assert_true(worst > 0 && worst < 1e-6);
}

static void wrong_values_are_found(void **state) {
    Ir *ir = start(state);
    Graph *before = graph_create(ir, test_name(ir, "before")),
          *after = graph_create(ir, test_name(ir, "after"));
    const Type *type = test_type(ir, ELEMENT_F32, "a", 3, NULL);
    Value x = test_input(before, "x", ROLE_DATA, type), y = test_input(after, "x", ROLE_DATA, type);
    graph_add_output(before, test_name(ir, "out"), build_unary(before, OP_abs, x, NO_PLACE), VALUE_NONE);
    graph_add_output(after, test_name(ir, "out"), y, VALUE_NONE);
    assert_false(prove_same("simplify", before, after, 3, 1e-6));
    assert_true(has_error(ir, "E0516", "simplify changed output out: element"));
    after->outputs.count = 0;
    assert_false(prove_same("dead", before, after, 3, 1e-6));
    assert_true(has_error(ir, "E0516", "dead dropped output out"));
}

static void wrong_gradients_are_found(void **state) {
    Ir *ir = start(state);
    TestModel model = test_model(ir, false, test_entries, 4);
    StackEntry entries[4];
    memcpy(entries, test_entries, sizeof entries);
    entries[2].stop_gradient = true;
    TestModel other = test_model(ir, false, entries, 4);
    Graph *accumulate = test_pass(ir, "expand-stacks, gradient", other.loss);
    assert_false(prove_gradients(model.loss, accumulate, 1, 10, 1e-6, NULL));
    assert_true(has_error(ir, "E0517", "gradient of table"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(right_passes_are_accepted, finish),
        cmocka_unit_test_teardown(wrong_values_are_found, finish),
        cmocka_unit_test_teardown(wrong_gradients_are_found, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
