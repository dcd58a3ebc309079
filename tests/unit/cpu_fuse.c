// Random graphs in f64 through fuse, order, generated code and the planned arena, on two threads, against
// the reference evaluator. FUSE_SEED=n runs one graph, FUSE_PRINT=1 shows its program.
#include "codegen/cpu.h"
#include "runtime/executor.h"
#include "tests/unit/fuse_random.h"

enum { GRAPHS = 100 };

typedef struct Run {
    Program *program;
    CpuCode *code;
    State *state;
    Executor *executor;
} Run;

static Run run_graph(const Graph *graph, const Tensor *inputs, ThreadPool *pool) {
    Diagnostics *diagnostics = graph->ir->diagnostics;
    Run run = {.program = fuse_test_lower(graph, NULL)};
    assert_true(fuse_program(run.program, false) && order_program(run.program));
    if (getenv("FUSE_PRINT")) program_print(run.program, stderr);
    CpuOptions options = {.threads = 1};
    run.code = cpu_compile(graph->ir, &run.program, 1, &options);
    if (!run.code) test_show_errors(graph->ir);
    assert_non_null(run.code);
    assert_true(plan_memory(run.program));
    run.state = state_create(diagnostics, &run.program, 1);
    run.executor = executor_create(diagnostics, run.program, run.state, pool);
    for (size_t i = 0; i < graph->inputs.count; i++) {
        const Node *node = graph_node(graph, graph->inputs.items[i]);
        const char *name = attribute_text(node, ATTRIBUTE_name);
        Role role = (Role)attribute_integer(node, ATTRIBUTE_role, 0);
        void *data =
            role_is_state(role) ? state_data(run.state, name, role) : executor_input(run.executor, name);
        memcpy(data, inputs[i].data, sizeof(double) * (size_t)type_count(node->types[0]));
    }
    executor_run(run.executor);
    return run;
}

static const void *result_of(const Graph *graph, const Run *run, const Output *output) {
    if (value_is_none(output->replaces)) return executor_output(run->executor, output->name);
    const Node *node = graph_node(graph, output->replaces.node);
    return state_data(run->state, attribute_text(node, ATTRIBUTE_name),
                      (Role)attribute_integer(node, ATTRIBUTE_role, 0));
}

static void end_run(Run *run) {
    executor_destroy(run->executor);
    state_destroy(run->state);
    cpu_code_destroy(run->code);
}

static void compare(const Graph *graph, const Tensor *inputs, ThreadPool *pool) {
    Run run = run_graph(graph, inputs, pool);
    const Tensor *expected = test_evaluate(graph, inputs);
    for (size_t i = 0; i < graph->outputs.count; i++) {
        const double *found = result_of(graph, &run, &graph->outputs.items[i]);
        for (int64_t j = 0; j < type_count(expected[i].type); j++) {
            double right = expected[i].data[j];
            if (!(fabs(found[j] - right) <= 1e-9 * (1 + fabs(right))))
                fail_msg("%s: %s[%ld] is %.17g, expected %.17g", graph->name, graph->outputs.items[i].name,
                         (long)j, found[j], right);
        }
    }
    end_run(&run);
}

static void random_graphs(void **state) {
    (void)state;
    const char *one = getenv("FUSE_SEED");
    ThreadPool *pool = thread_pool_create(2);
    for (uint64_t seed = 1; seed <= GRAPHS; seed++) {
        Graph *graph = random_graph(one ? strtoull(one, NULL, 10) : seed, ELEMENT_F64);
        compare(graph, test_inputs(graph, 3), pool);
        arena_destroy(graph->ir->arena);
        if (one) break;
    }
    thread_pool_destroy(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_graphs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
