// Every op case through lowering and generated code, against the reference evaluator.
//   unit_cpu_ops [FILTER [CPU]]      one case: unit_cpu_ops 'dot/batched' x86-64-v3
#include "cpu_test.h"

#include "ir/op.h"
#include "passes/program_passes.h"
#include "tests/op_case_run.h"

static char *const *sweep_arguments;  // FILTER and CPU of the command line

static void run_program(void *context, const Program *program, char *const *buffers) {
    (void)context;
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

static void fail_with_diagnostics(const OpCase *op_case, Ir *ir) {
    diagnostics_print(ir->diagnostics, 0, stderr);
    fail_msg("%s/%s", op_name(op_case->op), op_case->name);
}

static void sweep_case(const OpCase *op_case, const char *cpu) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    Graph *graph = op_case_graph(ir, op_case);
    if (!graph) fail_with_diagnostics(op_case, ir);
    Program *program = lower_graph(graph, cpu_has_kernel);
    if (!program) fail_with_diagnostics(op_case, ir);
    CpuOptions options = {.cpu = cpu, .threads = 1, .sanitize = SANITIZE};
    CpuCode *code = cpu_compile(ir, &program, 1, &options);
    if (!code) fail_with_diagnostics(op_case, ir);
    if (op_case_run(op_case, graph, program, cpu ? cpu : "this machine", run_program, NULL) != 0)
        fail_with_diagnostics(op_case, ir);
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
