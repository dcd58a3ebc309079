// The sweep over the op table: for each case the shape, expected numbers, the gradient against central
// differences, and the lowered program against the reference. Every op needs two cases, and every op
// with a gradient rule a case that checks it.
//   unit_ops_sweep [FILTER]      one case: unit_ops_sweep 'dot/batched'
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// after the headers that it needs
#include <cmocka.h>

#include "ir/op.h"
#include "passes/program_passes.h"
#include "tests/op_cases.h"

typedef struct Sweep {
    const OpCase *op_case;
    Ir *ir;
    Graph *graph;
    Tensor *inputs, *outputs;
} Sweep;

static int gradients_checked[OP_COUNT];

static void fail_with_diagnostics(const Sweep *sweep) {
    diagnostics_print(sweep->ir->diagnostics, 0, stderr);
    fail();
}

static bool close_to(double a, double b, double relative, double absolute) {
    if (a == b || (isnan(a) && isnan(b))) return true;
    return fabs(a - b) <= absolute + relative * fmax(fabs(a), fabs(b));
}

static void assert_close(const char *what, uint32_t number, int64_t position, double found, double expected,
                         double relative, double absolute) {
    if (close_to(found, expected, relative, absolute)) return;
    fail_msg("%s %u [%lld]: %.17g, expected %.17g", what, number, (long long)position, found, expected);
}

// ---- Shapes and numbers ----

static void check_shape(const Sweep *sweep) {
    const char *text = "";
    for (size_t i = 0; i < sweep->graph->outputs.count; i++)
        text = arena_format(
            sweep->ir->arena, "%s%s%s", text, i ? "; " : "",
            type_text(sweep->ir, graph_type(sweep->graph, sweep->graph->outputs.items[i].value)));
    assert_string_equal(text, sweep->op_case->result);
}

static void check_numbers(const Sweep *sweep) {
    double expected[64];
    int count = op_case_expected(sweep->op_case, expected, 64), next = 0;
    for (uint32_t i = 0; i < sweep->graph->outputs.count; i++) {
        const Tensor *output = &sweep->outputs[i];
        for (int64_t j = 0; j < type_count(output->type); j++) {
            bool finite = isfinite(output->data[j]);
            if (!finite && (sweep->op_case->flags & CASE_EXTREME)) fail_msg("result %u is not finite", i);
            if (sweep->op_case->expected) {
                assert_true(next < count);
                assert_close("result", i, j, output->data[j], expected[next++], 1e-12, 0);
            }
        }
    }
    assert_int_equal(next, count);
}

// ---- Lowering ----

// Copies between a tensor and a buffer whose strides are those of the capacity.
static void transfer(const Tensor *tensor, const Type *capacity, double *buffer, bool load) {
    Odometer odometer;
    for (odometer_start(&odometer, tensor->type); odometer.position < type_count(tensor->type);
         odometer_next(&odometer)) {
        double *element = &buffer[odometer_offset(&odometer, capacity)];
        if (load)
            *element = tensor->data[odometer.position];
        else
            assert_close("lowered", 0, odometer.position, *element, tensor->data[odometer.position], 1e-12,
                         0);
    }
}

static void check_program(const Sweep *sweep, const Program *program, const Graph *graph,
                          const Tensor *inputs, const Tensor *outputs) {
    for (size_t i = 0; i < program->kernels.count; i++)
        if (program->kernels.items[i].nest && !nest_verify(sweep->ir, program->kernels.items[i].nest)) fail_with_diagnostics(sweep);
    if (!program_verify(program)) fail_with_diagnostics(sweep);
    double **storage = ARENA_ARRAY(sweep->ir->arena, double *, program->buffers.count + 1);
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *buffer = &program->buffers.items[i];
        if (buffer->kind != BUFFER_TEMPORARY)
            storage[i] = ARENA_ARRAY(sweep->ir->arena, double, type_count(buffer->type));
        for (size_t j = 0; buffer->kind == BUFFER_INPUT && j < graph->inputs.count; j++)
            if (attribute_text(graph_node(graph, graph->inputs.items[j]), ATTRIBUTE_name) == buffer->name)
                transfer(&inputs[j], buffer->type, storage[i], true);
    }
    program_evaluate(program, storage);
    for (size_t i = 0; i < program->buffers.count; i++)
        for (size_t j = 0; program->buffers.items[i].kind == BUFFER_OUTPUT && j < graph->outputs.count; j++)
            if (graph->outputs.items[j].name == program->buffers.items[i].name)
                transfer(&outputs[j], program->buffers.items[i].type, storage[i], false);
}

static void check_lowering(const Sweep *sweep, const Graph *graph, const Tensor *inputs,
                           const Tensor *outputs) {
    Program *program = lower_graph(graph, NULL);
    if (!program) fail_with_diagnostics(sweep);
    check_program(sweep, program, graph, inputs, outputs);
}

// ---- Gradients ----

static bool varies(const Type *type) { return element_is_float(type->element); }

// A graph over the inputs of the case and a cotangent for each result, whose outputs d0, d1, ... are
// the cotangents of the float operands (NONE: zero, no output). `operand_of[i]`: operand of output i.
static Graph *gradient_graph(const Sweep *sweep, uint32_t *operand_of) {
    Graph *graph = op_case_graph(sweep->ir, sweep->op_case);
    Value self = graph->outputs.items[0].value;
    graph->outputs.count = 0;
    const Node *node = graph_node(graph, self.node);
    Value *cotangents = ARENA_ARRAY(sweep->ir->arena, Value, node->result_count);
    Value *operands = ARENA_ARRAY(sweep->ir->arena, Value, node->operand_count + 1);
    for (uint32_t i = 0; i < node->result_count; i++) {
        const char *name = names_format(sweep->ir->names, "dy%u", i);
        cotangents[i] = varies(node->types[i])
                            ? graph_add_input(graph, name, ROLE_DATA, node->types[i], NO_PLACE)
                            : VALUE_NONE;
    }
    for (uint32_t i = 0; i < node->operand_count; i++) operands[i] = VALUE_NONE;
    Gradient gradient = {graph, node, self, cotangents, operands};
    if (!op_table[node->op]->gradient(&gradient)) fail_with_diagnostics(sweep);
    for (uint32_t i = 0; i < node->operand_count; i++) {
        if (value_is_none(operands[i])) continue;
        const Type *type = graph_type(graph, node->operands[i]);
        assert_true(graph_type(graph, operands[i])->element == type->element);
        Value fitted = build_reduce_to(graph, operands[i], type, NO_PLACE);
        if (value_is_none(fitted)) fail_with_diagnostics(sweep);
        operand_of[graph->outputs.count] = i;
        graph_add_output(graph, names_format(sweep->ir->names, "d%u", i), fitted, VALUE_NONE);
    }
    return graph;
}

// Sum of the cotangents times the change of the results, element by element: no cancellation between
// large results and small ones.
static double weighted_change(const Sweep *sweep, const Tensor *above, const Tensor *below,
                              const Tensor *cotangents) {
    double sum = 0;
    uint32_t next = 0;
    for (uint32_t i = 0; i < sweep->graph->outputs.count; i++) {
        if (!varies(above[i].type)) continue;
        const Tensor *cotangent = &cotangents[next++];
        for (int64_t j = 0; j < type_count(above[i].type); j++)
            sum += cotangent->data[j] * (above[i].data[j] - below[i].data[j]);
    }
    return sum;
}

static double central_difference(const Sweep *sweep, double *element, const Tensor *cotangents) {
    double value = *element, step = value != 0 ? 3e-6 * fabs(value) : 3e-6;
    Tensor above[4], below[4];
    assert_true(sweep->graph->outputs.count <= 4);
    *element = value + step;
    assert_true(evaluate_graph(sweep->ir->arena, sweep->graph, sweep->inputs, above));
    *element = value - step;
    assert_true(evaluate_graph(sweep->ir->arena, sweep->graph, sweep->inputs, below));
    *element = value;
    return weighted_change(sweep, above, below, cotangents) / (2 * step);
}

// The input that is operand `number`, past the scalars for bounds.
static size_t operand_input(const Graph *graph, uint32_t number, Value self) {
    uint32_t node = graph_node(graph, self.node)->operands[number].node;
    for (size_t i = 0; i < graph->inputs.count; i++)
        if (graph->inputs.items[i] == node) return i;
    INTERNAL_ERROR("no input is operand %u", number);
}

// `found` NULL: the rule says that it is zero.
static void check_operand(const Sweep *sweep, uint32_t operand, const Tensor *found,
                          const Tensor *cotangents) {
    Value self = sweep->graph->outputs.items[0].value;
    Tensor *input = &sweep->inputs[operand_input(sweep->graph, operand, self)];
    assert_true(!found || type_count(found->type) == type_count(input->type));
    for (int64_t i = 0; i < type_count(input->type); i++) {
        double gradient = found ? found->data[i] : 0;
        if ((sweep->op_case->flags & CASE_EXTREME) && !isfinite(gradient))
            fail_msg("gradient of operand %u is not finite at %lld", operand, (long long)i);
        if (sweep->op_case->flags & CASE_NO_DIFFERENCES) continue;
        double expected = central_difference(sweep, &input->data[i], cotangents);
        assert_close("gradient of operand", operand, i, gradient, expected, 1e-5, 1e-8);
    }
}

static void check_gradient(const Sweep *sweep) {
    uint32_t operand_of[8];
    Graph *graph = gradient_graph(sweep, operand_of);
    size_t input_count = sweep->graph->inputs.count;
    Tensor *inputs = ARENA_ARRAY(sweep->ir->arena, Tensor, graph->inputs.count);
    Tensor *outputs = ARENA_ARRAY(sweep->ir->arena, Tensor, graph->outputs.count + 1);
    memcpy(inputs, sweep->inputs, sizeof(Tensor) * input_count);
    for (size_t i = input_count, result = 0; i < graph->inputs.count; i++, result++) {
        while (!varies(sweep->outputs[result].type)) result++;
        inputs[i] = tensor_create(sweep->ir->arena, sweep->outputs[result].type);
        for (int64_t j = 0; j < type_count(inputs[i].type); j++)
            inputs[i].data[j] = 0.5 + (double)(j % 7) / 4;
    }
    if (!evaluate_graph(sweep->ir->arena, graph, inputs, outputs)) fail_with_diagnostics(sweep);
    const Node *node = graph_node(sweep->graph, sweep->graph->outputs.items[0].value.node);
    for (uint32_t operand = 0, next = 0; operand < node->operand_count; operand++) {
        bool found = next < graph->outputs.count && operand_of[next] == operand;
        if (!found && (!varies(graph_type(graph, node->operands[operand])) || node->op == OP_stop_gradient))
            continue;
        check_operand(sweep, operand, found ? &outputs[next++] : NULL, &inputs[input_count]);
    }
    check_lowering(sweep, graph, inputs, outputs);
    gradients_checked[sweep->op_case->op]++;
}

// ---- Running ----

static void run_case(void **state) {
    Sweep sweep = {.op_case = *state, .ir = ir_create(arena_create())};
    sweep.graph = op_case_graph(sweep.ir, sweep.op_case);
    if (!sweep.graph) fail_with_diagnostics(&sweep);
    check_shape(&sweep);
    sweep.inputs = op_case_inputs(sweep.ir->arena, sweep.op_case, sweep.graph);
    sweep.outputs = ARENA_ARRAY(sweep.ir->arena, Tensor, sweep.graph->outputs.count);
    if (!evaluate_graph(sweep.ir->arena, sweep.graph, sweep.inputs, sweep.outputs))
        fail_with_diagnostics(&sweep);
    check_numbers(&sweep);
    const OpDefinition *definition = op_table[sweep.op_case->op];
    bool lowers = definition->lower || sweep.op_case->op == OP_input;
    if (lowers) check_lowering(&sweep, sweep.graph, sweep.inputs, sweep.outputs);
    bool smooth = varies(graph_type(sweep.graph, sweep.graph->outputs.items[0].value));
    if (definition->gradient && smooth && !(sweep.op_case->flags & CASE_NO_GRADIENT)) check_gradient(&sweep);
    arena_destroy(sweep.ir->arena);
}

// Runs last: what the table has and the cases do not.
static void check_coverage(void **state) {
    (void)state;
    int cases[OP_COUNT] = {0}, covered = 0;
    for (int i = 0; i < op_case_count; i++) cases[op_cases[i].op]++;
    for (int op = 0; op < OP_COUNT; op++) {
        const OpDefinition *definition = op_table[op];
        bool gradient = !definition->gradient || gradients_checked[op] > 0;
        if (cases[op] >= 2 && gradient)
            covered++;
        else
            print_error("%s: %d cases%s\n", definition->name, cases[op],
                        gradient ? "" : ", gradient not checked");
    }
    print_message("op table: %d of %d ops covered by %d cases\n", covered, OP_COUNT, op_case_count);
    assert_int_equal(covered, OP_COUNT);
}

static void check_definitions(void **state) {
    (void)state;
    for (int op = 0; op < OP_COUNT; op++) {
        const OpDefinition *definition = op_table[op];
        assert_string_equal(definition->name, op_name((Op)op));
        assert_true(definition->shape && definition->evaluate && definition->along);
        assert_true(!definition->gradient == (definition->no_gradient != NULL));
        assert_true(!definition->lower == (definition->no_lowering != NULL));
        bool elementwise = strcmp(definition->family, "elementwise") == 0;
        if (elementwise) assert_string_equal(primitive_name(definition->primitive), definition->name);
        if (elementwise) assert_int_equal(primitive_arguments(definition->primitive), definition->operands);
    }
}

int main(int argc, char **argv) {
    Arena *arena = arena_create();
    struct CMUnitTest *tests = ARENA_ARRAY(arena, struct CMUnitTest, op_case_count + 2);
    tests[0] = (struct CMUnitTest){.name = "definitions", .test_func = check_definitions};
    for (int i = 0; i < op_case_count; i++)
        tests[i + 1] = (struct CMUnitTest){
            .name = arena_format(arena, "%s/%s", op_name(op_cases[i].op), op_cases[i].name),
            .test_func = run_case,
            .initial_state = (void *)&op_cases[i]};
    tests[op_case_count + 1] = (struct CMUnitTest){.name = "coverage", .test_func = check_coverage};
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    int failed = _cmocka_run_group_tests("ops_sweep", tests, (size_t)op_case_count + 2, NULL, NULL);
    arena_destroy(arena);
    return failed;
}
