// Three training steps of a small gpt2 and llama on the emulated GPU, temporaries placed as planned, beside
// the CPU back end: the same losses, the same gradients, the same parameters, and copies of these as true as they are.
#include "cpu_test.h"
#include "driver/runner.h"
#include "driver/setup.h"
#include "passes/program_passes.h"
#include "tests/cuda/run.h"

#ifdef CHERRY_LLVM

enum { STEPS = 3, VOCABULARY = 37 };

static const Entry entries[] = {ENTRY_ACCUMULATE, ENTRY_UPDATE, ENTRY_ROUND};  // the last where copies are kept

typedef struct Device {  // the emulated GPU's side
    Emulation *emulation;
    Program *programs[3];  // of these entries
    char **buffers[3];
    size_t count;
    char *arena;
    bool half;
    int shared;  // launches that find their weights rounded
    struct {
        const char *name;
        Role role;
        char *data;
        int64_t bytes;
    } states[1024];
    int state_count;
} Device;

static char *memory(int64_t bytes) {
    char *data = aligned_alloc(64, (size_t)(bytes + 64) & ~(size_t)63);
    memset(data, 0, (size_t)(bytes + 64) & ~(size_t)63);
    return data;
}

static char *device_state(Device *device, const Buffer *buffer, const Runner *runner) {
    for (int i = 0; i < device->state_count; i++)
        if (strcmp(device->states[i].name, buffer->name) == 0 && device->states[i].role == buffer->role)
            return device->states[i].data;
    int at = device->state_count++;
    device->states[at].name = buffer->name;
    device->states[at].role = buffer->role;
    device->states[at].data = memory(buffer->bytes);
    device->states[at].bytes = buffer->bytes;
    const char *data = state_data(runner->state, buffer->name, buffer->role);
    if (data) memcpy(device->states[at].data, data, (size_t)buffer->bytes);
    return device->states[at].data;
}

static int count_packed(const Program *program) {
    int count = 0;
    for (size_t i = 0; i < program->launches.count; i++) count += program->launches.items[i].packed[0];
    return count;
}

// Phases that are the rest of a product before them.
static int count_rests(const Device *device) {
    int count = 0;
    for (size_t e = 0; e < device->count; e++)
        for (size_t k = 0; k < device->programs[e]->kernels.count; k++) {
            const CudaKernel *code = &device->programs[e]->kernels.items[k].cuda;
            for (int p = 1; p < code->phase_count; p++)
                count += !code->phases[p].function && !code->phases[p - 1].function;
        }
    return count;
}

// Takes the CPU's first parameters over.
static void bind(Device *device, Arena *arena, const Runner *runner) {
    int64_t arena_bytes = 0;
    for (size_t e = 0; e < device->count; e++) {
        assert_true(share_packed(device->programs[e]) && plan_memory(device->programs[e]));
        device->shared += count_packed(device->programs[e]);
        if (device->programs[e]->arena_bytes > arena_bytes) arena_bytes = device->programs[e]->arena_bytes;
    }
    device->arena = memory(arena_bytes);
    for (size_t e = 0; e < device->count; e++) {
        const Program *program = device->programs[e];
        device->buffers[e] = ARENA_ARRAY(arena, char *, program->buffers.count);
        for (size_t i = 0; i < program->buffers.count; i++) {
            const Buffer *buffer = &program->buffers.items[i];
            device->buffers[e][i] = buffer->kind == BUFFER_TEMPORARY ? device->arena + buffer->offset
                                    : buffer->kind == BUFFER_STATE   ? device_state(device, buffer, runner)
                                                                     : memory(buffer->bytes);
        }
    }
}

static void release(Device *device) {
    for (size_t e = 0; e < device->count; e++)
        for (size_t i = 0; i < device->programs[e]->buffers.count; i++) {
            BufferKind kind = device->programs[e]->buffers.items[i].kind;
            if (kind == BUFFER_INPUT || kind == BUFFER_OUTPUT) free(device->buffers[e][i]);
        }
    for (int i = 0; i < device->state_count; i++) free(device->states[i].data);
    free(device->arena);
    emulation_destroy(device->emulation);
}

static void fill_inputs(Runner *runner, Entry entry, int step) {
    const Program *program = runner->compilation->programs[entry];
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *buffer = &program->buffers.items[i];
        if (buffer->kind != BUFFER_INPUT) continue;
        char *to = executor_input(runner->executors[entry], buffer->name);
        int width = element_bytes(buffer->type->element);
        for (int64_t k = 0; k < type_count(buffer->type); k++) {
            double value = buffer->role != ROLE_SCALAR         ? floor(test_random() * VOCABULARY)
                           : strcmp(buffer->name, "rate") == 0 ? 1e-3
                           : strcmp(buffer->name, "step") == 0 ? step + 1
                                                               : 1;
            if (buffer->type->element == ELEMENT_BOOL) value = test_random() < 0.7;
            element_write(buffer->type->element, to + k * width, value);
        }
    }
}

static void run_both(Device *device, Runner *runner, size_t number, int step) {
    Entry entry = entries[number];
    fill_inputs(runner, entry, step);
    const Program *program = device->programs[number];
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *buffer = &program->buffers.items[i];
        if (buffer->kind == BUFFER_INPUT)
            memcpy(device->buffers[number][i], executor_input(runner->executors[entry], buffer->name),
                   (size_t)buffer->bytes);
    }
    runner_run(runner, entry);
    emulation_run_program(device->emulation, program, device->buffers[number]);
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *buffer = &program->buffers.items[i];
        if (buffer->kind != BUFFER_OUTPUT || strcmp(buffer->name, "loss") != 0) continue;
        float a = runner_output(runner, entry, "loss"), b = *(float *)(void *)device->buffers[number][i];
        if (!(fabsf(a - b) <= (device->half ? 1e-3f : 2e-5f) * fabsf(a)))
            fail_msg("step %d: loss %.9g on the CPU, %.9g on the GPU", step, (double)a, (double)b);
    }
}

// Adam turns the noise of a gradient that should be zero (gpt2's bias of keys) into whole steps: a few
// elements.
static void compare(const Device *device, const Runner *runner, Role role, double tolerance) {
    int64_t count = 0, apart = 0;
    for (int i = 0; i < device->state_count; i++) {
        if (device->states[i].role != role) continue;
        const float *a = state_data(runner->state, device->states[i].name, role),
                    *b = (const float *)(const void *)device->states[i].data;
        for (int64_t k = 0; k < device->states[i].bytes / 4; k++, count++)
            apart += !(fabsf(a[k] - b[k]) <= tolerance);
    }
    assert_true(count > 0);
    if (apart * 100 > count)
        fail_msg("%s: %lld of %lld elements differ", role_name(role), (long long)apart, (long long)count);
}

// Every copy is its parameter, rounded.
static void check_copies(const Device *device) {
    int copies = 0;
    for (int i = 0; i < device->state_count; i++) {
        if (device->states[i].role != ROLE_ROUNDED) continue;
        int parameter = 0;
        while (device->states[parameter].role != ROLE_PARAMETER ||
               strcmp(device->states[parameter].name, device->states[i].name) != 0)
            parameter++;
        for (int64_t k = 0; k < device->states[i].bytes / 2; k++) {
            char expected[2];
            element_write(ELEMENT_BF16, expected, (double)((float *)(void *)device->states[parameter].data)[k]);
            assert_memory_equal(expected, device->states[i].data + 2 * k, 2);
        }
        copies++;
    }
    assert_true(copies > 0);
}

// `rests`: products that are cut: of a long odd vocabulary.
static void train(const char *file, const char *const *settings, bool keeps, int rests) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    FrontendOptions options = {.settings = (const char **)(uintptr_t)settings};
    while (settings[options.setting_count]) options.setting_count++;
    Module *module = derive_module(
        ir, frontend_load(ir, arena_format(arena, CHERRY_SOURCE "/models/%s.cherry", file), &options));
    uint32_t training = 1u << ENTRY_ACCUMULATE | 1u << ENTRY_UPDATE, round = keeps ? 1u << ENTRY_ROUND : 0;
    CompileOptions compile = {.chunk = 1, .context = 1, .sequences = 1};
    Runner *runner =
        module ? runner_create(ir, module, training | 1u << ENTRY_INITIALIZE, &compile, 1) : NULL;
    compile.cuda = true;
    Compilation *compilation = runner ? compile_programs(ir, module, training | round, &compile) : NULL;
    diagnostics_print(ir->diagnostics, 0, stderr);
    assert_non_null(compilation);
    runner_initialize(runner, 7);
    Device *device = ARENA_NEW(arena, Device);
    device->count = keeps ? 3 : 2;
    for (size_t e = 0; e < device->count; e++) device->programs[e] = compilation->programs[entries[e]];
    assert_true(cuda_generate(ir, device->programs, device->count, NULL));
    bind(device, arena, runner);
    assert_int_equal(count_rests(device), rests);
    bool half = device->half = module->training.precision == ELEMENT_BF16;
    assert_true((half && !keeps) == (device->shared > 0));
    device->emulation = emulation_create(device->programs, device->count);
    assert_non_null(device->emulation);
    if (keeps) emulation_run_program(device->emulation, device->programs[2], device->buffers[2]);
    for (int step = 0; step < STEPS; step++) {
        run_both(device, runner, 0, step);
        if (step == 0) compare(device, runner, ROLE_GRADIENT, half ? 2e-4 : 1e-5);
        run_both(device, runner, 1, step);
        if (keeps) check_copies(device);
    }
    // Sums that lie between two bf16 numbers are rounded to either, and Adam makes steps of the difference.
    compare(device, runner, ROLE_PARAMETER, half ? 2e-3 : 1e-4);
    release(device);
    runner_destroy(runner);
    arena_destroy(arena);
}

static void gpt2_trains(void **state) {
    (void)state;
    train("gpt2", (const char *const[]){"vocab=37", "embed=24", "heads=2", "layers=2", "context=19",
                                        "batch=2", "accumulate=1", NULL}, false, 0);
}

static void llama_trains(void **state) {
    (void)state;
    train("llama", (const char *const[]){"vocab=37", "embed=24", "groups=2", "queries=2", "key=6", "ffn=40",
                                         "layers=2", "time=19", "accumulate=1", "batch=2", NULL}, false, 0);
}

static const char *const half_settings[] = {"vocab=37", "embed=24", "groups=2", "queries=2", "key=8",
                                            "ffn=40", "layers=2", "time=19", "precision=bf16", "accumulate=1",
                                            "batch=2", NULL};

static void bf16_trains(void **state) {
    (void)state;
    train("llama", half_settings, false, 0);
}

static void rounded_copies_follow(void **state) {
    (void)state;
    train("llama", half_settings, true, 0);
}

// Logits, what they hand back, and the head's gradient.
static void odd_vocabulary_trains(void **state) {
    (void)state;
    train("gpt2", (const char *const[]){"vocab=517", "embed=24", "heads=2", "layers=1", "context=19", "precision=bf16",
                                        "batch=2", "accumulate=1", NULL}, true, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(gpt2_trains), cmocka_unit_test(llama_trains),
                                       cmocka_unit_test(bf16_trains), cmocka_unit_test(rounded_copies_follow),
                                       cmocka_unit_test(odd_vocabulary_trains)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else
int main(void) { return 0; }  // there is no CPU back end to compare with
#endif
