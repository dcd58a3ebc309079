// Rows without loss weight: the objective `sgt`, select-supervision, chunks of a computed extent, and the CPU
// back end on them, for no supervised position, one, some and all.
#include <stdlib.h>

#include "codegen/cpu.h"
#include "frontend/frontend.h"
#include "tests/unit/fuse_test.h"

enum { VOCAB = 11, ROWS = 200 };

static const char selecting[] = "expand-stacks, simplify, select-supervision, gradient";
static const char whole[] = "expand-stacks, simplify, gradient";
static const char chunked[] =
    "expand-stacks, simplify, select-supervision, gradient, fuse-loss{bytes=1}, expand-calls, simplify, "
    "recompute, "
    "share, dead";
static const int counts[] = {0, 1, 30, ROWS};
enum { COUNTS = sizeof counts / sizeof *counts };

static Ir *start(void **state) {
    Arena *arena = arena_create();
    *state = arena;
    return ir_create(arena);
}

static int finish(void **state) {
    arena_destroy(*state);
    return 0;
}

static Graph *load_file(Ir *ir, const char *file, const char *layers, const char *alpha) {
    const char *settings[] = {"time=100", layers, alpha};
    FrontendOptions options = {.settings = settings, .setting_count = 3};
    Module *module =
        frontend_load(ir, arena_format(ir->arena, CHERRY_SOURCE "/tests/data/%s", file), &options);
    if (!module) test_show_errors(ir);
    assert_non_null(module);
    return module_find_graph(module, "loss");
}

static Graph *load(Ir *ir, const char *alpha) { return load_file(ir, "sgt.cherry", "layers=1", alpha); }

// Inputs as f32 has them, `count` of the mask set, spread over all rows.
static Tensor *masked_inputs(const Graph *graph, int count) {
    Tensor *inputs = test_inputs(graph, 9);  // below every vocabulary here
    for (size_t i = 0; i < graph->inputs.count; i++)
        for (int64_t j = 0; j < type_count(inputs[i].type); j++) inputs[i].data[j] = (float)inputs[i].data[j];
    double *mask = test_find_input(graph, inputs, "supervised", ROLE_DATA)->data;
    for (int i = 0; i < ROWS; i++) mask[i] = (i + 1) * count / ROWS > i * count / ROWS;
    return inputs;
}

static void compare(const Graph *before, const Tensor *expected, const Graph *after, const Tensor *found,
                    double tolerance) {
    for (size_t i = 0; i < before->outputs.count; i++) {
        const Tensor *other = test_output(after, found, before->outputs.items[i].name);
        for (int64_t j = 0; j < type_count(other->type); j++) {
            double a = expected[i].data[j], b = other->data[j];
            if (!(fabs(a - b) <= tolerance * (1 + fabs(a))))
                fail_msg("%s[%ld]: %.12g and %.12g", before->outputs.items[i].name, (long)j, a, b);
        }
    }
}

// Contractions that make rows of logits, and how many of them run over rows that were selected.
static void count_heads(Ir *ir, const Graph *graph, int *all, int *selected) {
    *all = *selected = 0;
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        int vocab = type_find(node->types[0], test_name(ir, "vocab")),
            time = type_find(node->types[0], test_name(ir, "time"));
        if (node->op != OP_dot || vocab < 0 || time < 0) continue;
        *all += 1;
        *selected += node->types[0]->dimensions[time].bound != NULL;
    }
}

static void values_stay(void **state) {
    Ir *ir = start(state);
    Graph *loss = load(ir, "alpha=1");
    Graph *before = test_pass(ir, whole, loss);
    const char *pipelines[] = {selecting, chunked};
    for (int p = 0; p < 2; p++) {
        Graph *after = test_pass(ir, pipelines[p], loss);
        int heads, selected;
        count_heads(ir, after, &heads, &selected);
        assert_int_equal(heads, p ? 4 : 1);  // 200 rows are four chunks of 50
        assert_int_equal(selected, heads);
        for (int i = 0; i < COUNTS; i++) {
            Tensor *inputs = masked_inputs(before, counts[i]);
            compare(before, test_evaluate(before, inputs), after,
                    test_evaluate(after, test_carry(before, inputs, after, VOCAB)), 1e-12);
        }
    }
}

static void a_metric_over_all_rows_keeps_them(void **state) {
    Ir *ir = start(state);
    Graph *loss = load(ir, "alpha=1");
    for (uint32_t id = 0; id < loss->nodes.count; id++)
        if (graph_node(loss, id)->op == OP_call && graph_node(loss, id)->types[0]->rank == 2)
            graph_add_output(loss, test_name(ir, "everywhere"), test_mean(loss, (Value){id, 0}), VALUE_NONE);
    int heads, selected;
    count_heads(ir, test_pass(ir, selecting, loss), &heads, &selected);
    assert_int_equal(heads, 1);
    assert_int_equal(selected, 0);
}

// One head forward and one backward, whatever the weights; the gradient of the sum is that of its parts.
static void mixed_is_one_pass(void **state) {
    Ir *ir = start(state);
    Graph *mixed = test_pass(ir, selecting, load(ir, "alpha=0.7"));
    Graph *masked = test_pass(ir, selecting, load(ir, "alpha=1"));
    Graph *all = test_pass(ir, selecting, load(ir, "alpha=0"));
    assert_int_equal(test_count(mixed, OP_dot), test_count(all, OP_dot));
    assert_int_equal(test_count(mixed, OP_call), test_count(all, OP_call));
    for (int i = 0; i < COUNTS; i++) {
        const Tensor *m = test_evaluate(mixed, masked_inputs(mixed, counts[i]));
        const Tensor *s = test_evaluate(masked, masked_inputs(masked, counts[i]));
        const Tensor *a = test_evaluate(all, masked_inputs(all, counts[i]));
        for (size_t o = 0; o < mixed->outputs.count; o++) {
            const char *name = mixed->outputs.items[o].name;
            const double *x = test_output(masked, s, name)->data, *y = test_output(all, a, name)->data;
            for (int64_t j = 0; j < type_count(m[o].type); j++)
                assert_true(fabs(m[o].data[j] - (0.7 * x[j] + 0.3 * y[j])) <=
                            1e-12 * (1 + fabs(m[o].data[j])));
        }
    }
}

// Lowered, fused, ordered and planned in doubles: a count lives as long as what it bounds. In experts.cherry
// the layers compute extents too, and are computed again for the backward pass.
static void planned_programs_agree(void **state) {
    Ir *ir = start(state);
    static const char *const files[] = {"sgt.cherry", "experts.cherry"};
    for (int f = 0; f < 2; f++) {
        Graph *loss = load_file(ir, files[f], "layers=2", "alpha=1");
        const char *passes =
            f ? arena_format(ir->arena, "expand-stacks{recompute=all}%s", strchr(chunked, ',')) : chunked;
        Graph *graph = test_pass(ir, passes, loss);
        Program *program = fuse_test_lower(graph, cpu_has_kernel);
        assert_true(fuse_program(program, false) && order_program(program) && plan_memory(program));
        for (int i = 0; i < COUNTS; i++)
            fuse_test_run(graph, program, masked_inputs(graph, counts[i]), "plan-memory");
    }
}

// ---- On the CPU ----

static char *transfer(const Buffer *buffer, const Tensor *tensor, char *bytes, bool into) {
    for (int64_t i = 0; i < type_count(tensor->type); i++) {
        double *value = &tensor->data[i];
        switch (buffer->type->element) {
            case ELEMENT_BOOL:
                if (into) bytes[i] = *value != 0;
                break;
            case ELEMENT_I32:
                if (into) ((int32_t *)(void *)bytes)[i] = (int32_t)*value;
                break;
            default:
                if (into)
                    ((float *)(void *)bytes)[i] = (float)*value;
                else
                    *value = ((float *)(void *)bytes)[i];
        }
    }
    return bytes;
}

static void run_launch(const Program *program, const Launch *launch, char **buffers) {
    const CpuKernel *kernel = &program->kernels.items[launch->kernel].cpu;
    char *operands[NEST_OPERAND_MAX];
    char *workspaces[WORKSPACE_MAX];
    for (int i = 0; i < WORKSPACE_MAX; i++)
        workspaces[i] = aligned_alloc(64, (size_t)(kernel->workspace_bytes[i] + 127) & ~(size_t)63);
    char *memory = aligned_alloc(64, (size_t)(kernel->scratch_bytes + 191) & ~(size_t)63), *scratch = memory + 64;
    for (int o = 0; o < launch->operand_count; o++) {
        int width = element_bytes(program->buffers.items[launch->buffers[o]].type->element);
        operands[o] = buffers[launch->buffers[o]] + launch->offsets[o] * width;
    }
    for (int phase = 0; phase < kernel->phase_count; phase++) {
        memset(scratch - SCRATCH_NOTE, 0xff, SCRATCH_NOTE);
        for (int64_t task = 0; task < kernel->tasks[phase]; task += 3)
            kernel->functions[phase](operands, workspaces, scratch, task,
                                     task + 3 < kernel->tasks[phase] ? task + 3 : kernel->tasks[phase]);
    }
    for (int i = 0; i < WORKSPACE_MAX; i++) free(workspaces[i]);
    free(memory);
}

// The outputs of the program for these inputs, and how many rows the chunks of the head ran over.
static Tensor *run_program(const Program *program, const Graph *graph, const Tensor *inputs, int64_t *rows) {
    Arena *arena = graph->ir->arena;
    char **buffers = ARENA_ARRAY(arena, char *, program->buffers.count);
    Tensor *outputs = ARENA_ARRAY(arena, Tensor, graph->outputs.count);
    for (size_t b = 0; b < program->buffers.count; b++) {
        const Buffer *buffer = &program->buffers.items[b];
        buffers[b] = aligned_alloc(64, (size_t)(buffer->bytes + 127) & ~(size_t)63);
        memset(buffers[b], 0x7f, (size_t)buffer->bytes);  // huge floats: what is not written shows
        for (size_t i = 0; buffer->kind != BUFFER_TEMPORARY && i < graph->inputs.count; i++) {
            const Node *node = graph_node(graph, graph->inputs.items[i]);
            if (attribute_text(node, ATTRIBUTE_name) == buffer->name &&
                attribute_integer(node, ATTRIBUTE_role, 0) == (int64_t)buffer->role)
                transfer(buffer, &inputs[i], buffers[b], true);
        }
    }
    for (size_t i = 0; i < program->launches.count; i++)
        run_launch(program, &program->launches.items[i], buffers);
    *rows = 0;
    for (size_t b = 0; b < program->buffers.count; b++) {
        const Buffer *buffer = &program->buffers.items[b];
        if (buffer->kind == BUFFER_TEMPORARY && buffer->role == ROLE_SCALAR && strchr(buffer->name, '.'))
            *rows += *(int64_t *)(void *)buffers[b];
        for (size_t o = 0; o < graph->outputs.count; o++) {
            const Output *output = &graph->outputs.items[o];
            bool is_state = !value_is_none(output->replaces);
            const char *name = is_state
                                   ? attribute_text(graph_node(graph, output->replaces.node), ATTRIBUTE_name)
                                   : output->name;
            if (buffer->name != name ||
                (is_state ? buffer->role != ROLE_GRADIENT : buffer->kind != BUFFER_OUTPUT))
                continue;
            outputs[o] = tensor_create(arena, graph_type(graph, output->value));
            transfer(buffer, &outputs[o], buffers[b], false);
        }
        free(buffers[b]);
    }
    return outputs;
}

static void cpu_agrees(void **state) {
    Ir *ir = start(state);
    Graph *loss = load(ir, "alpha=1"), *reference = test_pass(ir, whole, loss);
    Graph *graph = test_pass(ir, chunked, loss);
    Program *program = lower_graph(graph, cpu_has_kernel);
    assert_true(program && fuse_program(program, false) && order_program(program) && program_verify(program));
    const char *machines[] = {NULL, "x86-64-v3"};
    for (int m = 0; m < 2; m++) {
        CpuOptions options = {.cpu = machines[m], .threads = 1};
        CpuCode *code = cpu_compile(ir, &program, 1, &options);
        if (!code) test_show_errors(ir);
        assert_non_null(code);
        for (int i = 0; i < COUNTS; i++) {
            Tensor *inputs = masked_inputs(reference, counts[i]);
            const Tensor *expected = test_evaluate(reference, inputs);
            int64_t rows;
            const Tensor *found =
                run_program(program, graph, test_carry(reference, inputs, graph, VOCAB), &rows);
            compare(reference, expected, graph, found, 1e-5);
            assert_int_equal(rows, counts[i]);
        }
        cpu_code_destroy(code);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(values_stay, finish),
        cmocka_unit_test_teardown(a_metric_over_all_rows_keeps_them, finish),
        cmocka_unit_test_teardown(mixed_is_one_pass, finish),
        cmocka_unit_test_teardown(planned_programs_agree, finish),
        cmocka_unit_test_teardown(cpu_agrees, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
