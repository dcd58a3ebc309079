// The verifier: a sound module passes; each broken rule is reported, with the pass that broke it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
// clang-format off: cmocka.h needs the headers above
#include <cmocka.h>
// clang-format on

#include "ir/module.h"

static const char sample[] =
    "module Sample\n"
    "parameter table : f32[vocab=50, embed=8] rank 2 initialize @init\n"
    "graph @loss {\n"
    "  %0 = input {name = \"table\", role = parameter} : f32[vocab=50, embed=8]\n"
    "  %1 = input {name = \"tokens\", role = data} : i32[time<=4:length]\n"
    "  %2 = input {name = \"length\", role = scalar} : i64[]\n"
    "  %3 = input {name = \"table\", role = gradient} : f32[vocab=50, embed=8]\n"
    "  %4 = input {name = \"step\", role = scalar} : f32[]\n"
    "  %5 = gather %0, %1 {along = vocab} : f32[time<=4:length, embed=8]\n"
    "  %6 = call %5 {function = @double, gradient = @double_gradient} : f32[time<=4:length, embed=8]\n"
    "  %7 = sum %6 {over = (time, embed)} : f32[]\n"
    "  %8 = scatter_add %3, %1, %6 {along = vocab} : f32[vocab=50, embed=8]\n"
    "  %9 = broadcast %4 {dimensions = (vocab=50, embed=8)} : f32[vocab=50, embed=8]\n"
    "  %10 = scatter_add %9, %1, %6 {along = vocab} : f32[vocab=50, embed=8]\n"
    "  %11 = accumulate %9, %10 : f32[vocab=50, embed=8]\n"
    "  output loss = %7\n"
    "  output gradient = %8 replaces %3\n"
    "  output other = %11\n"
    "}\n"
    "graph @init {\n"
    "  %0 = input {name = \"seed\", role = argument} : i64[]\n"
    "  %1 = random %0 {dimensions = (vocab=50, embed=8), site = \"table\"} : f32[vocab=50, embed=8]\n"
    "  output value = %1\n"
    "}\n"
    "graph @double {\n"
    "  %0 = input {name = \"x\", role = argument} : f32[time<=4:length, embed=8]\n"
    "  %1 = add %0, %0 : f32[time<=4:length, embed=8]\n"
    "  output y = %1\n"
    "}\n"
    "graph @double_gradient {\n"
    "  %0 = input {name = \"x\", role = argument} : f32[time<=4:length, embed=8]\n"
    "  %1 = input {name = \"y\", role = argument} : f32[time<=4:length, embed=8]\n"
    "  %2 = input {name = \"d_y\", role = argument} : f32[time<=4:length, embed=8]\n"
    "  %3 = add %2, %2 : f32[time<=4:length, embed=8]\n"
    "  output d_x = %3\n"
    "}\n"
    "graph @body {\n"
    "  %0 = input {name = \"x\", role = argument} : f32[embed=8]\n"
    "  %1 = input {name = \"w\", role = argument} : f32[embed=8]\n"
    "  %2 = mul %0, %1 : f32[embed=8]\n"
    "  output x = %2\n"
    "}\n"
    "graph @deep {\n"
    "  %0 = input {name = \"x\", role = data} : f32[embed=8]\n"
    "  %1 = input {name = \"w\", role = parameter} : f32[layer=3, embed=8]\n"
    "  %2 = stack %0, %1 {body = @body, carried = 1, invariant = 0, entries = (0..2)} : f32[embed=8]\n"
    "  output x = %2\n"
    "}\n";

typedef struct Case {
    Ir *ir;
    Module *module;
    Graph *loss, *deep;
} Case;

static Case start(void) {
    Ir *ir = ir_create(arena_create());
    Module *module = module_read(ir, "test.ir", sample);
    if (!module) diagnostics_print(ir->diagnostics, 0, stderr);
    assert_non_null(module);
    return (Case){ir, module, module_find_graph(module, "loss"), module_find_graph(module, "deep")};
}

// Expects an error that names the pass and has `words` in it.
static void assert_broken(const Case *in, const char *words) {
    assert_false(module_verify(in->module, "tidy"));
    const Message *found = NULL;
    for (size_t i = 0; i < diagnostics_count(in->ir->diagnostics); i++) {
        const Message *message = diagnostics_message(in->ir->diagnostics, i);
        if (strstr(message->text, "pass tidy broke a rule of the IR") && strstr(message->text, words))
            found = message;
    }
    if (!found) {
        diagnostics_print(in->ir->diagnostics, 0, stderr);
        fail_msg("no message with: %s", words);
    }
    assert_string_equal(found->code, "E0501");
    arena_destroy(in->ir->arena);
}

static Value *operand(Graph *graph, uint32_t node, uint32_t i) {
    return (Value *)(uintptr_t)&graph->nodes.items[node].operands[i];
}

static Attribute *attribute(Graph *graph, uint32_t node, AttributeKey key) {
    return (Attribute *)(uintptr_t)attribute_find(&graph->nodes.items[node], key);
}

static void set_type(Graph *graph, uint32_t node, const Type *type) {
    ((const Type **)(uintptr_t)graph->nodes.items[node].types)[0] = type;
}

static void test_sound(void **state) {
    (void)state;
    Case in = start();
    bool good = module_verify(in.module, "tidy") && graph_verify(in.loss, NULL);
    if (!good) diagnostics_print(in.ir->diagnostics, 0, stderr);
    assert_true(good);
    arena_destroy(in.ir->arena);
}

static void test_operands(void **state) {
    (void)state;
    Case in = start();
    *operand(in.loss, 7, 0) = (Value){9, 0};
    assert_broken(&in, "operand 0 of %7 (sum) is not a value of an earlier node");
    in = start();
    *operand(in.loss, 7, 0) = (Value){6, 1};
    assert_broken(&in, "operand 0 of %7 (sum)");
    in = start();
    *operand(in.loss, 7, 0) = VALUE_NONE;
    assert_broken(&in, "operand 0 of %7 (sum)");
}

static void test_types(void **state) {
    (void)state;
    Case in = start();
    set_type(in.loss, 7, type_scalar(in.ir, ELEMENT_BF16));
    assert_broken(&in, "%7 (sum) is bf16[], its shape rule gives f32[]");
    in = start();
    attribute(in.loss, 5, ATTRIBUTE_along)->text = names_intern(in.ir->names, "rows");
    assert_broken(&in, "the shape rule of %5 (gather) refuses it");
    in = start();
    in.loss->nodes.items[7].result_count = 2;
    assert_broken(&in, "%7 (sum) has 2 results");
}

static void test_inputs(void **state) {
    (void)state;
    Case in = start();
    attribute(in.loss, 3, ATTRIBUTE_role)->integer = ROLE_PARAMETER;
    assert_broken(&in, "two inputs are called 'table' (parameter)");
    in = start();
    in.loss->inputs.count--;
    assert_broken(&in, "input %4 is not in the list of inputs");
    in = start();
    in.loss->inputs.items[1] = 0;
    assert_broken(&in, "entry 1 of the list of inputs");
    in = start();
    in.loss->inputs.items[1] = 5;
    assert_broken(&in, "entry 1 of the list of inputs");
    in = start();
    attribute(in.loss, 1, ATTRIBUTE_role)->integer = ROLE_SCALAR;
    assert_broken(&in, "scalar 'tokens' is i32[time<=4:length]");
    in = start();
    in.loss->nodes.items[1].attributes.count = 1;
    assert_broken(&in, "input %1 lacks its name, role or type");
    static const char *const nowhere[] = {"role = data, by = 0", "role = parameter, by = 1"};
    for (int i = 0; i < 2; i++) {
        Ir *ir = ir_create(arena_create());
        const char *text = arena_format(ir->arena, "module M\ngraph @g {\n  %%0 = input {name = \"x\", %s} : f32[]\n}\n",
                                        nowhere[i]);
        Case by = {.ir = ir, .module = module_read(ir, "test.ir", text)};
        assert_non_null(by.module);
        assert_broken(&by, "input 'x' lies no positions further on in the data");
    }
}

static void test_outputs(void **state) {
    (void)state;
    Case in = start();
    in.loss->outputs.items[0].value = VALUE_NONE;
    assert_broken(&in, "output 'loss' is not a value of the graph");
    in = start();
    in.loss->outputs.items[2].name = in.loss->outputs.items[0].name;
    assert_broken(&in, "two outputs are called 'loss'");
    in = start();
    in.loss->outputs.items[1].replaces = (Value){4, 0};
    assert_broken(&in, "output 'gradient' replaces %4, which is no state");
    in = start();
    in.loss->outputs.items[1].replaces = (Value){99, 0};
    assert_broken(&in, "output 'gradient' replaces something that is not a value");
    in = start();
    in.loss->outputs.items[0].replaces = (Value){0, 0};
    assert_broken(&in, "output 'loss' is f32[] and replaces f32[vocab=50, embed=8]");
    in = start();
    in.loss->outputs.items[2].replaces = (Value){3, 0};
    assert_broken(&in, "output 'other' replaces a state that another output replaces");
}

static void test_bounds(void **state) {
    (void)state;
    Case in = start();
    attribute(in.loss, 2, ATTRIBUTE_name)->text = "size";
    assert_broken(&in, "dimension time is bounded by 'length', which is no scalar input of i64[]");
    in = start();
    set_type(in.loss, 2, type_scalar(in.ir, ELEMENT_I32));
    assert_broken(&in, "dimension time is bounded by 'length'");
}

static void test_accumulators(void **state) {
    (void)state;
    Case in = start();
    *operand(in.loss, 11, 0) = (Value){10, 0};  // 10 is its value too
    assert_broken(&in, "%11 (accumulate) takes over %10, which has 2 uses");
    in = start();
    in.loss->outputs.items[2].value = (Value){3, 0};
    assert_broken(&in, "%8 (scatter_add) takes over %3, which has 2 uses");
    // A reader that nothing needs does no harm.
    in = start();
    *operand(in.loss, 11, 0) = (Value){10, 0};
    in.loss->outputs.count = 2;
    assert_true(module_verify(in.module, "tidy"));
    arena_destroy(in.ir->arena);
}

static void test_calls(void **state) {
    (void)state;
    Case in = start();
    attribute(in.loss, 6, ATTRIBUTE_gradient)->graph = module_find_graph(in.module, "double");
    assert_broken(&in, "gradient double takes 1 inputs; operands, results and cotangents of double are 3");
    in = start();
    Graph *gradient = module_find_graph(in.module, "double_gradient");
    gradient->outputs.count = 0;
    assert_broken(&in, "gradient double_gradient has 0 outputs for 1 operands, 1 of them float");
    in = start();
    gradient = module_find_graph(in.module, "double_gradient");
    set_type(gradient, 1, type_scalar(in.ir, ELEMENT_F32));
    assert_broken(&in, "gradient double_gradient: input 1 is f32[], expected f32[time<=4:length, embed=8]");
    in = start();
    attribute(in.loss, 6, ATTRIBUTE_function)->graph = in.loss;
    assert_broken(&in, "%6 refers to loss, which it is a part of");
    in = start();
    attribute(in.loss, 6, ATTRIBUTE_function)->graph = NULL;
    assert_broken(&in, "%6 (call) has no graph in `function`");
    in = start();
    attribute(in.loss, 6, ATTRIBUTE_function)->graph = module_find_graph(in.module, "body");
    assert_broken(&in, "the shape rule of %6 (call) refuses it");
}

static void test_stacks(void **state) {
    (void)state;
    Case in = start();
    StackEntry entry = {.layer = 3, .row = -1};
    Attribute *entries = attribute(in.deep, 2, ATTRIBUTE_entries);
    entries->entries = &entry;
    entries->count = 1;
    assert_broken(&in, "the shape rule of %2 (stack) refuses it");
    in = start();
    entry = (StackEntry){.iteration = -1, .row = -1};
    entries = attribute(in.deep, 2, ATTRIBUTE_entries);
    entries->entries = &entry;
    entries->count = 1;
    assert_broken(&in, "entry 0 of the stack has layer 0, iteration -1, row -1");
    in = start();
    attribute(in.deep, 2, ATTRIBUTE_carried)->integer = 2;
    assert_broken(&in, "the shape rule of %2 (stack) refuses it");
}

static void test_modules(void **state) {
    (void)state;
    Case in = start();
    in.module->graphs.items[1]->name = in.loss->name;
    assert_broken(&in, "two graphs are called loss");
    in = start();
    vector_push(in.ir->arena, &in.module->parameters, in.module->parameters.items[0]);
    assert_broken(&in, "two parameters are called table");
    in = start();
    in.module->parameters.items[0].initialize = module_find_graph(in.module, "double");
    assert_broken(&in, "the initialiser of table does not take one seed");
    in = start();
    in.module->parameters.items[0].declared_rank = 3;
    assert_broken(&in, "declared rank 3");
    in = start();
    in.module->parameters.items[0].type = type_scalar(in.ir, ELEMENT_F32);
    assert_broken(&in, "the initialiser of table does not give f32[]");
    in = start();
    in.module->parameters.count = 0;
    assert_broken(&in, "graph loss reads parameter table, which the module lacks");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound),        cmocka_unit_test(test_operands), cmocka_unit_test(test_types),
        cmocka_unit_test(test_inputs),       cmocka_unit_test(test_outputs),  cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_accumulators), cmocka_unit_test(test_calls),    cmocka_unit_test(test_stacks),
        cmocka_unit_test(test_modules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
