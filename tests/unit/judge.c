// PyTorch as the outside judge: small gpt2 and llama from the model files, and a student under a teacher; their
// weights and tokens given by the formulas of tests/judge/reference.py, against the losses and gradient norms
// that PyTorch found and that are committed as tests/judge/{gpt2,llama,distill}.json.
#include <cjson/cJSON.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "driver/runner.h"

static const double tolerance = 1e-4;  // relative

// ---- The formulas of reference.py ----

static double weight_phase(const char *name) {
    uint32_t hash = 2166136261u;
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 16777619u;
    return (double)(hash % 6283) / 1000;
}

static double weight_base(const char *name) {
    const char *dot = strrchr(name, '.'), *last = dot ? dot + 1 : name;
    return strcmp(last, "scale") == 0 || strcmp(last, "g") == 0 || strcmp(last, "g1") == 0 ||
           strcmp(last, "g2") == 0;
}

static void fill_weights(const char *name, float *data, int64_t count) {
    double phase = weight_phase(name), base = weight_base(name);
    for (int64_t i = 0; i < count; i++) {
        double at = (double)i;
        data[i] = (float)(base + 0.12 * sin(phase + 0.7311 * at + 0.0013 * at * at));
    }
}

// tokens[batch, time] and the targets that follow them; all supervised, or `some`.
static void fill_tokens(Runner *runner, int step, int batch, int time, int vocabulary, bool some) {
    Executor *executor = runner->executors[ENTRY_ACCUMULATE];
    int32_t *tokens = executor_input(executor, "tokens"), *targets = executor_input(executor, "targets");
    for (int b = 0; b < batch; b++)
        for (int t = 0; t <= time; t++) {
            int token = (37 * (step % 2) + 11 * b + t * t + t * b / 3) % vocabulary;
            if (t < time) tokens[b * time + t] = token;
            if (t > 0) targets[b * time + t - 1] = token;
        }
    bool *supervised = executor_input(executor, "supervised");
    for (int i = 0; i < batch * time; i++) supervised[i] = !some || (i / time + i % time) % 3 != 0;
}

// ---- Stored tensors: those of a stack by layer, trunk.wq as trunk.0.wq ----

typedef void (*Visit)(const char *name, float *data, int64_t count, void *context);

static void visit_tensors(Runner *runner, Role role, Visit visit, void *context) {
    const Module *module = runner->module;
    for (size_t i = 0; i < module->parameters.count; i++) {
        const Parameter *parameter = &module->parameters.items[i];
        if ((parameter->file != NULL) != (role == ROLE_FROZEN)) continue;
        float *data = state_data(runner->state, parameter->path, role);
        assert_non_null(data);
        bool stacked = parameter->type->rank > parameter->declared_rank;
        int64_t layers = stacked ? parameter->type->dimensions[0].extent : 1,
                count = type_count(parameter->type) / layers;
        for (int64_t layer = 0; layer < layers; layer++, data += count) {
            const char *own = parameter->file ? strchr(parameter->path, '.') + 1 : parameter->path;
            int stack = (int)(own - parameter->path + (ptrdiff_t)strcspn(own, "."));
            const char *name = !stacked ? parameter->path
                                        : arena_format(runner->ir->arena, "%.*s.%d%s", stack, parameter->path,
                                                       (int)layer, parameter->path + stack);
            visit(name, data, count, context);
        }
    }
}

static void fill_tensor(const char *name, float *data, int64_t count, void *context) {
    (void)context;
    fill_weights(name, data, count);
}

// ---- Comparison ----

static bool compare(const char *what, double expected, double found, double slack) {
    if (fabs(found - expected) <= tolerance * fabs(expected) + slack) return true;
    print_message("%s: %.9g, PyTorch says %.9g\n", what, found, expected);
    return false;
}

typedef struct Norms {
    const cJSON *expected;
    double slack;  // what is exactly 0 (the gradient of a bias of keys) comes out as rounding noise
    int missing, wrong, count;
} Norms;

static void compare_norm(const char *name, float *data, int64_t count, void *context) {
    Norms *norms = context;
    double total = 0;
    for (int64_t i = 0; i < count; i++) total += (double)data[i] * (double)data[i];
    const cJSON *expected = cJSON_GetObjectItemCaseSensitive(norms->expected, name);
    norms->count++;
    if (!expected) {
        print_message("reference.py has no tensor %s\n", name);
        norms->missing++;
    } else if (!compare(name, expected->valuedouble, sqrt(total), norms->slack)) {
        norms->wrong++;
    }
}

// ---- One model ----

static Runner *make_runner(Ir *ir, const char *file, const cJSON *settings, int threads) {
    const char *texts[32];
    FrontendOptions options = {.settings = texts};
    const cJSON *setting;
    cJSON_ArrayForEach(setting, settings) texts[options.setting_count++] = setting->valuestring;
    Module *module =
        frontend_load(ir, arena_format(ir->arena, CHERRY_SOURCE "/%s", file), &options);
    CompileOptions compile = {.verify = true, .chunk = 1, .context = 1, .sequences = 1};
    Runner *runner =
        module ? runner_create(ir, module, 1u << ENTRY_ACCUMULATE | 1u << ENTRY_UPDATE, &compile, threads)
               : NULL;
    diagnostics_print(ir->diagnostics, 0, stderr);
    assert_non_null(runner);
    return runner;
}

static void train_and_compare(Runner *runner, const cJSON *reference, bool some) {
    const cJSON *losses = cJSON_GetObjectItem(reference, "loss"),
                *norms = cJSON_GetObjectItem(reference, "gradient_norm");
    const Training *training = &runner->module->training;
    int steps = cJSON_GetArraySize(losses), wrong = 0;
    int vocabulary = (int)module_find_parameter(runner->module, names_intern(runner->ir->names, "table"))
                         ->type->dimensions[0]
                         .extent;
    assert_true(steps >= 20);
    visit_tensors(runner, ROLE_PARAMETER, fill_tensor, NULL);
    visit_tensors(runner, ROLE_FROZEN, fill_tensor, NULL);
    runner_set_float(runner, ENTRY_ACCUMULATE, "loss_scale", 1);
    runner_set_float(runner, ENTRY_UPDATE, "gradient_scale", 1);
    runner_set_float(runner, ENTRY_UPDATE, "rate",
                     (float)cJSON_GetObjectItem(reference, "rate")->valuedouble);
    for (int step = 0; step < steps; step++) {
        fill_tokens(runner, step, (int)training->batch, (int)training->time, vocabulary, some);
        runner_run(runner, ENTRY_ACCUMULATE);
        if (step == 0) {
            Norms parts = {.expected = cJSON_GetObjectItem(reference, "gradient_norms_of_step_0"),
                           .slack = 1e-6 * cJSON_GetArrayItem(norms, 0)->valuedouble};
            visit_tensors(runner, ROLE_GRADIENT, compare_norm, &parts);
            wrong += parts.wrong + parts.missing;
            assert_int_equal(parts.count, cJSON_GetArraySize(parts.expected));
        }
        runner_set_integer(runner, ENTRY_UPDATE, "step", step + 1);
        runner_run(runner, ENTRY_UPDATE);
        wrong += !compare(arena_format(runner->ir->arena, "loss of step %d", step),
                          cJSON_GetArrayItem(losses, step)->valuedouble,
                          (double)runner_output(runner, ENTRY_ACCUMULATE, "loss"), 0);
        wrong += !compare(arena_format(runner->ir->arena, "gradient norm of step %d", step),
                          cJSON_GetArrayItem(norms, step)->valuedouble,
                          (double)runner_output(runner, ENTRY_UPDATE, "gradient_norm"), 0);
    }
    assert_int_equal(wrong, 0);
}

static void judge(const char *name, const char *file, int threads, bool some) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    size_t length;
    char *text = file_read(arena, ir->diagnostics,
                           arena_format(arena, CHERRY_SOURCE "/tests/judge/%s.json", name), &length);
    assert_non_null(text);
    cJSON *reference = cJSON_Parse(text);
    assert_non_null(reference);
    Runner *runner = make_runner(ir, file, cJSON_GetObjectItem(reference, "settings"), threads);
    train_and_compare(runner, reference, some);
    runner_destroy(runner);
    cJSON_Delete(reference);
    arena_destroy(arena);
}

static void test_gpt2(void **state) {
    (void)state;
    judge("gpt2", "models/gpt2.cherry", 1, false);
}

static void test_llama(void **state) {
    (void)state;
    judge("llama", "models/llama.cherry", 2, false);
}

static void test_distill(void **state) {
    (void)state;
    judge("distill", "tests/data/distill.cherry", 2, true);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gpt2), cmocka_unit_test(test_llama),
                                       cmocka_unit_test(test_distill)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
