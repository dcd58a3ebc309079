// Laws about what is planned, checked without running anything: attention keeps nothing of time x past, the
// loss keeps no logits, gradients take as much room as parameters, and depth brings no new kernels.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "driver/compile.h"
#include "passes/pass.h"
#include "driver/setup.h"

enum { TRAINING = 1u << ENTRY_ACCUMULATE | 1u << ENTRY_UPDATE };

static const char *const small[] = {"embed=64", "heads=4", "batch=2", "accumulate=1", NULL};

typedef struct Plan {
    Arena *arena;
    Ir *ir;
    Compilation *compilation;
    const Program *accumulate, *update;
} Plan;

// Compiles the training programs of a model file; `code`: machine code too, without which the plan lacks the
// kernels' workspaces.
static Plan make_plan_after(const char *passes, const char *file, const char *const *settings, const char *size,
                            bool code) {
    Plan plan = {.arena = arena_create()};
    plan.ir = ir_create(plan.arena);
    const char *texts[16];
    FrontendOptions options = {.settings = texts};
    while (settings[options.setting_count]) {
        texts[options.setting_count] = settings[options.setting_count];
        options.setting_count++;
    }
    if (size) texts[options.setting_count++] = size;
    const char *path = arena_format(plan.arena, CHERRY_SOURCE "/%s", file);
    Module *module = derive_module(plan.ir, frontend_load(plan.ir, path, &options));
    PassContext context = {.ir = plan.ir, .module = module, .has_kernel = cpu_has_kernel};
    if (module) module = pass_run_module(&context, passes, module);
    CompileOptions compile = {.chunk = 1, .context = 1, .sequences = 1};
    plan.compilation = module ? compile_programs(plan.ir, module, TRAINING, &compile) : NULL;
    bool good = plan.compilation && (!code || compile_code(plan.compilation, &compile));
    diagnostics_print(plan.ir->diagnostics, 0, stderr);
    assert_true(good);
    plan.accumulate = plan.compilation->programs[ENTRY_ACCUMULATE];
    plan.update = plan.compilation->programs[ENTRY_UPDATE];
    return plan;
}

static Plan make_plan(const char *file, const char *const *settings, const char *size, bool code) {
    return make_plan_after("", file, settings, size, code);
}

static void drop_plan(Plan *plan) {
    compilation_destroy(plan->compilation);
    arena_destroy(plan->arena);
}

static bool has_dimension(const Plan *plan, const Type *type, const char *name) {
    return type && type_find(type, names_intern(plan->ir->names, name)) >= 0;
}

static int64_t role_bytes(const Plan *plan, Role role) {
    int64_t bytes = 0;
    for (size_t i = 0; i < plan->accumulate->buffers.count; i++) {
        const Buffer *buffer = &plan->accumulate->buffers.items[i];
        if (buffer->kind == BUFFER_STATE && buffer->role == role) bytes += buffer->bytes;
    }
    return bytes;
}

static double arena_mib(const Plan *plan) { return (double)plan->accumulate->arena_bytes / (1 << 20); }

// ---- Time ----

static void check_time(const char *file, const char *const *settings, const char *shorter, const char *longer) {
    Plan a = make_plan(file, settings, shorter, true), b = make_plan(file, settings, longer, true);
    print_message("%s: %.2f MiB at %s, %.2f MiB at %s\n", file, arena_mib(&a), shorter, arena_mib(&b), longer);
    assert_true((double)b.accumulate->arena_bytes <= 2.1 * (double)a.accumulate->arena_bytes);
    for (size_t i = 0; i < b.accumulate->buffers.count; i++) {
        const Buffer *buffer = &b.accumulate->buffers.items[i];
        if (buffer->kind == BUFFER_TEMPORARY && has_dimension(&b, buffer->type, "time") &&
            has_dimension(&b, buffer->type, "past"))
            fail_msg("%s: %s", buffer->name, type_text(b.ir, buffer->type));
    }
    drop_plan(&a);
    drop_plan(&b);
}

static void test_time(void **state) {
    (void)state;
    const char *nano[] = {"embed=64", "heads=4", "key=16", "ffn=128", "layers=2", "batch=2", NULL};
    const char *gpt2[] = {"vocab=256", "embed=64", "heads=4", "layers=2", "batch=2", "accumulate=1", NULL};
    const char *llama[] = {"vocab=256", "embed=64", "groups=2",     "queries=2", "key=16", "ffn=128",
                           "layers=2",  "batch=2",  "accumulate=1", NULL};
    check_time("models/nano.cherry", nano, "time=512", "time=1024");
    check_time("models/gpt2.cherry", gpt2, "context=512", "context=1024");
    check_time("models/llama.cherry", llama, "time=512", "time=1024");
}

// ---- Vocabulary ----

static void check_vocabulary(const char *file, const char *const *settings, const char *smaller, const char *larger) {
    Plan a = make_plan(file, settings, smaller, true), b = make_plan(file, settings, larger, true);
    print_message("%s: %.2f MiB at %s, %.2f MiB at %s\n", file, arena_mib(&a), smaller, arena_mib(&b), larger);
    assert_true((double)b.accumulate->arena_bytes <= 1.05 * (double)a.accumulate->arena_bytes);
    drop_plan(&a);
    drop_plan(&b);
}

// The logits of 2048 rows would take 512 MiB and 1 GiB; a chunk, 64 MiB of them.
static void test_vocabulary(void **state) {
    (void)state;
    const char *nano[] = {"embed=64", "heads=4", "key=16", "ffn=128", "layers=1", "batch=8", "time=256", NULL};
    const char *llama[] = {"embed=64", "groups=2", "queries=2", "key=16",       "ffn=128",
                           "layers=1", "batch=8",  "time=256",  "accumulate=1", NULL};
    check_vocabulary("models/nano.cherry", nano, "vocab=65536", "vocab=131072");
    check_vocabulary("models/llama.cherry", llama, "vocab=65536", "vocab=131072");
    const char *distill[] = {"batch=8", "time=256", NULL};  // neither the student's logits nor the teacher's
    check_vocabulary("tests/data/distill.cherry", distill, "vocab=65536", "vocab=131072");
}

// Heads over the same table each have logits of their own, and none is ever whole; their gradients go into
// the one chain of the table.
static void test_heads(void **state) {
    (void)state;
    const char *nano[] = {"embed=64", "heads=4", "key=16", "ffn=128", "layers=1", "batch=8", "time=256", NULL};
    Plan a = make_plan_after("add-heads{count=2}", "models/nano.cherry", nano, "vocab=65536", true),
         b = make_plan_after("add-heads{count=2}", "models/nano.cherry", nano, "vocab=131072", true);
    print_message("two heads: %.2f MiB at vocab=65536, %.2f MiB at vocab=131072\n", arena_mib(&a), arena_mib(&b));
    assert_true((double)b.accumulate->arena_bytes <= 1.05 * (double)a.accumulate->arena_bytes);
    assert_int_equal(role_bytes(&b, ROLE_PARAMETER), role_bytes(&b, ROLE_GRADIENT));
    for (size_t i = 0; i < b.accumulate->buffers.count; i++) {
        const Buffer *buffer = &b.accumulate->buffers.items[i];
        if (buffer->kind == BUFFER_TEMPORARY && has_dimension(&b, buffer->type, "vocab") &&
            has_dimension(&b, buffer->type, "embed"))
            fail_msg("%s: %s", buffer->name, type_text(b.ir, buffer->type));
    }
    drop_plan(&a);
    drop_plan(&b);
}

// ---- Gradients ----

// A tied table, a stack, several micro-batches: one gradient a parameter, and no temporary of its shape with
// all layers.
static void test_gradients(void **state) {
    (void)state;
    const char *const files[] = {"models/nano.cherry", "models/gpt2.cherry", "bench/step34m.cherry"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        Plan plan = make_plan(files[i], i < 2 ? small : small + 2, i == 1 ? "vocab=512" : NULL, false);
        int64_t parameters = role_bytes(&plan, ROLE_PARAMETER);
        assert_true(parameters > 0);
        assert_int_equal(parameters, role_bytes(&plan, ROLE_GRADIENT));
        for (size_t k = 0; k < plan.accumulate->buffers.count; k++) {
            const Buffer *buffer = &plan.accumulate->buffers.items[k];
            if (buffer->kind == BUFFER_TEMPORARY && has_dimension(&plan, buffer->type, "layer"))
                fail_msg("%s: %s", buffer->name, type_text(plan.ir, buffer->type));
        }
        drop_plan(&plan);
    }
}

// ---- Recurrence ----

static const char loop_file[] = "tests/data/loop.cherry";

// A temporary of a parameter's size and dimensions, or more: neither layers nor activations look like this.
static bool looks_like_weight(const Plan *plan, const Type *type) {
    return !has_dimension(plan, type, "time") && !has_dimension(plan, type, "past") &&
           has_dimension(plan, type, "embed") && (has_dimension(plan, type, "ffn") || has_dimension(plan, type, "key"));
}

// Layers that run many times have one gradient, added to in place, and weights that are packed once a sweep.
static void test_iterations(void **state) {
    (void)state;
    const char *const rounds[] = {"rounds=2", "rounds=9", "rounds=16"};
    const char *const batches[][2] = {{"batch=4", NULL}, {"batch=8", NULL}};
    int64_t arena[2][3];
    for (int b = 0; b < 2; b++)
        for (int i = 0; i < 3; i++) {
            Plan plan = make_plan(loop_file, batches[b], rounds[i], true);
            assert_int_equal(role_bytes(&plan, ROLE_PARAMETER), role_bytes(&plan, ROLE_GRADIENT));
            assert_int_equal(role_bytes(&plan, ROLE_PARAMETER), 4 * 213760);
            for (size_t k = 0; k < plan.accumulate->buffers.count; k++) {
                const Buffer *buffer = &plan.accumulate->buffers.items[k];
                if (buffer->kind == BUFFER_TEMPORARY && looks_like_weight(&plan, buffer->type))
                    fail_msg("%s: %s", buffer->name, type_text(plan.ir, buffer->type));
            }
            arena[b][i] = plan.accumulate->arena_bytes;
            drop_plan(&plan);
        }
    for (int b = 0; b < 2; b++) {
        double early = (double)(arena[b][1] - arena[b][0]), late = (double)(arena[b][2] - arena[b][1]);
        print_message("%s: %.2f MiB, then %.2f and %.2f MiB for 7 rounds more\n", batches[b][0],
                      (double)arena[b][0] / (1 << 20), early / (1 << 20), late / (1 << 20));
        assert_true(late > 0.95 * early && late < 1.05 * early);
    }
    // What a round adds is activations alone: it doubles with the batch.
    double growth = (double)(arena[1][2] - arena[1][0]) / (double)(arena[0][2] - arena[0][0]);
    assert_true(growth > 1.95 && growth < 2.05);
}

static int64_t packing_launches(const Plan *plan, bool shared) {
    int64_t count = 0;
    for (size_t i = 0; i < plan->accumulate->launches.count; i++) {
        const Launch *launch = &plan->accumulate->launches.items[i];
        const CpuKernel *code = &plan->accumulate->kernels.items[launch->kernel].cpu;
        for (int p = 0; p < code->pack_count; p++) {
            const Buffer *packed = &plan->accumulate->buffers.items[launch->buffers[code->packed_operand[p]]];
            bool weight = packed->kind == BUFFER_STATE && packed->role == ROLE_PARAMETER;
            count += code->packed_key[p] && weight && launch->packed[p] == shared;
        }
    }
    return count;
}

static void test_packing(void **state) {
    (void)state;
    static const char *const none[] = {NULL};
    Plan few = make_plan(loop_file, none, "rounds=2", true), many = make_plan(loop_file, none, "rounds=16", true);
    print_message("%lld and %lld launches pack weights, %lld and %lld find them packed\n",
                  (long long)packing_launches(&few, false), (long long)packing_launches(&many, false),
                  (long long)packing_launches(&few, true), (long long)packing_launches(&many, true));
    assert_true(packing_launches(&few, false) > 0);
    assert_int_equal(packing_launches(&few, false), packing_launches(&many, false));
    assert_true(packing_launches(&many, true) == 15 * packing_launches(&few, true));  // of 2 rounds the second
    drop_plan(&few);
    drop_plan(&many);
}

// ---- Depth ----

static void test_depth(void **state) {
    (void)state;
    const char *const depths[] = {"layers=8", "layers=48"};
    static const char *const none[] = {NULL};
    Plan plans[2];
    for (int i = 0; i < 2; i++) plans[i] = make_plan("bench/step34m.cherry", none, depths[i], false);
    print_message("%zu and %zu launches, %zu and %zu kernels\n", plans[0].accumulate->launches.count,
                  plans[1].accumulate->launches.count, plans[0].accumulate->kernels.count,
                  plans[1].accumulate->kernels.count);
    assert_true(plans[1].accumulate->launches.count > 4 * plans[0].accumulate->launches.count);
    assert_int_equal(plans[0].accumulate->kernels.count, plans[1].accumulate->kernels.count);
    // Parameters are stored stacked: the update grows in rows. A long sum of squares is taken in parts, so it
    // may have a few launches more.
    for (int i = 0; i < 2; i++)
        assert_true(plans[i].update->launches.count <= 4 * plans[i].compilation->module->parameters.count);
    drop_plan(&plans[0]);
    drop_plan(&plans[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_time), cmocka_unit_test(test_vocabulary), cmocka_unit_test(test_heads),
                                       cmocka_unit_test(test_gradients), cmocka_unit_test(test_iterations),
                                       cmocka_unit_test(test_packing), cmocka_unit_test(test_depth)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
