// Every op case through lowering and generated code, against the reference evaluator.
//   unit_cpu_ops [FILTER [CPU]]      one case: unit_cpu_ops 'dot/batched' x86-64-v3
#include "cpu_test.h"

#include "ir/op.h"
#include "passes/program_passes.h"
#include "tests/op_cases.h"

static char *const *sweep_arguments;  // FILTER and CPU of the command line

static double rounded(Element element, double value) {
    char bytes[8] = {0};
    element_write(element, bytes, value);
    return element_read(element, bytes);
}

// Between row-major doubles of the tensor's own extents and a buffer at capacity.
static void copy_elements(const Tensor *tensor, const Type *type, char *bytes, bool into) {
    if (type_count(tensor->type) == 0) return;
    Odometer odometer;
    odometer_start(&odometer, tensor->type);
    do {
        int64_t offset = 0;
        for (int d = 0; d < type->rank; d++) offset = offset * type->dimensions[d].extent + odometer.at[d];
        char *at = bytes + offset * element_bytes(type->element);
        if (into) element_write(type->element, at, tensor->data[odometer.position]);
        else tensor->data[odometer.position] = element_read(type->element, at);
    } while (odometer_next(&odometer));
}

static void run_program(const Program *program, char **buffers) {
    for (size_t i = 0; i < program->launches.count; i++) {
        const Launch *launch = &program->launches.items[i];
        char *operands[NEST_OPERAND_MAX];
        for (int o = 0; o < launch->operand_count; o++) {
            const Buffer *buffer = &program->buffers.items[launch->buffers[o]];
            operands[o] = buffers[launch->buffers[o]] + launch->offsets[o] * element_bytes(buffer->type->element);
        }
        run_split(&program->kernels.items[launch->kernel].cpu, operands, 2);
    }
}

static void compare_output(const OpCase *op_case, const char *cpu, const Tensor *expected, const Tensor *got) {
    Element element = expected->type->element;
    double tolerance = element == ELEMENT_BF16 ? 0x1p-6 : element == ELEMENT_F64 ? 1e-12 : 4e-6;
    for (int64_t i = 0; i < type_count(expected->type); i++) {
        double a = rounded(element_is_float(element) ? ELEMENT_F32 : element, expected->data[i]), b = got->data[i];
        if (a == b || (isnan(a) && isnan(b))) continue;
        double size = fabs(a) > 1 ? fabs(a) : 1;
        if (!(fabs(expected->data[i] - b) <= tolerance * size))
            fail_msg("%s/%s on %s: element %lld: expected %.9g, found %.9g", op_name(op_case->op), op_case->name,
                     cpu ? cpu : "native", (long long)i, a, b);
    }
}

static void fail_with_diagnostics(const OpCase *op_case, Ir *ir) {
    diagnostics_print(ir->diagnostics, 0, stderr);
    fail_msg("%s/%s", op_name(op_case->op), op_case->name);
}

static void sweep_case(const OpCase *op_case, const char *cpu) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    Graph *graph = op_case_graph(ir, op_case);
    if (!graph) fail_with_diagnostics(op_case, ir);
    Tensor *inputs = op_case_inputs(arena, op_case, graph);
    for (size_t i = 0; i < graph->inputs.count; i++)
        for (int64_t j = 0; j < type_count(inputs[i].type); j++)
            inputs[i].data[j] = rounded(inputs[i].type->element, inputs[i].data[j]);
    Tensor *outputs = ARENA_ARRAY(arena, Tensor, graph->outputs.count);
    if (!evaluate_graph(arena, graph, inputs, outputs)) fail_with_diagnostics(op_case, ir);
    Program *program = lower_graph(graph, cpu_has_kernel);
    if (!program) fail_with_diagnostics(op_case, ir);
    CpuOptions options = {.cpu = cpu, .threads = 1, .sanitize = SANITIZE};
    CpuCode *code = cpu_compile(ir, &program, 1, &options);
    if (!code) fail_with_diagnostics(op_case, ir);
    char **buffers = ARENA_ARRAY(arena, char *, program->buffers.count);
    for (size_t b = 0; b < program->buffers.count; b++) {
        const Buffer *buffer = &program->buffers.items[b];
        buffers[b] = malloc((size_t)buffer->bytes + 1);
        memset(buffers[b], 0x7f, (size_t)buffer->bytes);
        for (size_t i = 0; buffer->kind == BUFFER_INPUT && i < graph->inputs.count; i++)
            if (attribute_text(graph_node(graph, graph->inputs.items[i]), ATTRIBUTE_name) == buffer->name)
                copy_elements(&inputs[i], buffer->type, buffers[b], true);
    }
    run_program(program, buffers);
    for (size_t b = 0; b < program->buffers.count; b++) {
        const Buffer *buffer = &program->buffers.items[b];
        for (size_t i = 0; buffer->kind == BUFFER_OUTPUT && i < graph->outputs.count; i++) {
            if (graph->outputs.items[i].name != buffer->name) continue;
            Tensor got = tensor_create(arena, outputs[i].type);
            copy_elements(&got, buffer->type, buffers[b], false);
            compare_output(op_case, cpu, &outputs[i], &got);
        }
        free(buffers[b]);
    }
    cpu_code_destroy(code);
    arena_destroy(arena);
}

static void sweep(const char *cpu) {
    int count = 0;
    for (int i = 0; i < op_case_count; i++) {
        const OpCase *op_case = &op_cases[i];
        char name[128];
        snprintf(name, sizeof name, "%s/%s", op_name(op_case->op), op_case->name);
        if (sweep_arguments[0] && !strstr(name, sweep_arguments[0])) continue;
        if (!op_table[op_case->op]->lower && op_case->op != OP_input) continue;
        sweep_case(op_case, cpu);
        count++;
    }
    print_message("%d cases on %s\n", count, cpu ? cpu : "this machine");
    assert_true(count > 0);
}

static void test_native(void **state) {
    (void)state;
    sweep(sweep_arguments[0] ? sweep_arguments[1] : NULL);
}

static void test_narrow(void **state) {
    (void)state;
    sweep("x86-64-v3");
}

int main(int argc, char **argv) {
    (void)argc;
    sweep_arguments = argv + 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_native), cmocka_unit_test(test_narrow)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
