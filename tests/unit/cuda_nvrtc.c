// What NVRTC makes of the kernels: they compile for every architecture, none spills, none takes more
// registers than its block leaves it. Skipped, and said so, where there is no toolkit; needs no GPU. What launches ask
// for is looked at without it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "codegen/cuda_emit.h"
#include "codegen/cuda_nvrtc.h"
#include "driver/compile.h"
#include "driver/setup.h"

// Of one thread: three blocks of 128 on a multiprocessor; two of attention, whose tiles live in registers.
enum { REGISTER_LIMIT = 168, ATTENTION_LIMIT = 255 };

static bool have_nvrtc(Ir *ir) {
    const char *why = NULL, *version = cuda_compiler_version(ir, &why);
    if (version)
        print_message("NVRTC %s\n", version);
    else
        print_message("skipped: %s\n", why);
    return version != NULL;
}

// `settings`: one or two of --set, between them a space; all else is the model's own, so that kernels are those of a run.
static Program *compile_model(Ir *ir, const char *file, const char *settings, Entry entry) {
    const char *space = strchr(settings, ' ');
    const char *apart[] = {arena_copy(ir->arena, settings, strcspn(settings, " ")), space ? space + 1 : NULL};
    FrontendOptions options = {.settings = apart, .setting_count = space ? 2 : 1};
    Module *module = derive_module(
        ir, frontend_load(ir, arena_format(ir->arena, CHERRY_SOURCE "/models/%s.cherry", file), &options));
    CompileOptions compile = {.chunk = 64, .context = 256, .sequences = 1, .cuda = true};
    Compilation *compilation = module ? compile_programs(ir, module, 1u << entry | 1u << ENTRY_ROUND, &compile) : NULL;
    diagnostics_print(ir->diagnostics, 0, stderr);
    assert_non_null(compilation);
    return compilation->programs[entry];
}

// What `fuse` has joined to a walk over rows is added up by its blocks: in order, it would take an eighth of the GPU.
static void check_folds(const Program *program) {
    for (size_t l = 0; l < program->launches.count; l++) {
        const Launch *launch = &program->launches.items[l];
        const Kernel *kernel = &program->kernels.items[launch->kernel];
        for (int o = 0; o < launch->operand_count; o++)
            if (strcmp(program->buffers.items[launch->buffers[o]].name, "parts") == 0 &&
                launch_reads(program, launch, o) && launch_writes(program, launch, o))
                assert_non_null(strstr(kernel->cuda.text, "row < 8; row++"));
    }
}

// What a launch asks for and what its function declares are one block's.
static void check_launches(const CudaKernel *code, const char *architecture) {
    for (int i = 0; i < code->phase_count; i++) {
        const CudaPhase *phase = &code->phases[i];
        if (!phase->function) continue;
        int64_t registers = (code->registers + 7) / 8 * 8 * (int64_t)phase->block;
        if (phase->shared_bytes + code->static_bytes > cuda_shared_limit(architecture) || registers > 1 << 16 ||
            phase->grid[0] > INT32_MAX || phase->grid[1] > 65535 || phase->grid[2] > 65535)
            fail_msg("%s: %lld and %d bytes of shared memory, %lld registers, %lld x %lld x %lld blocks",
                     phase->function, (long long)phase->shared_bytes, code->static_bytes, (long long)registers,
                     (long long)phase->grid[0], (long long)phase->grid[1], (long long)phase->grid[2]);
    }
}

static void check_architecture(const char *architecture, const char *file, const char *setting, Entry entry) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    Program *program = compile_model(ir, file, setting, entry);
    CudaOptions options = {.architecture = architecture};
    CudaStatistics statistics;
    bool ok = cuda_compile(ir, &program, 1, &options, &statistics);
    diagnostics_print(ir->diagnostics, 0, stderr);
    assert_true(ok);
    check_folds(program);
    print_message("%s %s %s: %zu kernels, %zu distinct, %zu products, at most %d registers\n", architecture,
                  file, entry_name(entry), statistics.kernels, statistics.distinct, statistics.products,
                  statistics.most_registers);
    int most_static = 0;
    for (uint32_t l = 0; l < program->launches.count; l++) {
        const Kernel *kernel = &program->kernels.items[program->launches.items[l].kernel];
        const LaunchGroup *group = program_group(program, l);
        const CudaKernel *code = group ? &group->code : &kernel->cuda;
        if (!code->text) continue;
        assert_true(code->image_bytes > 0 && code->registers > 0);
        if (code->static_bytes > most_static) most_static = code->static_bytes;
        check_launches(code, architecture);
        if (code->spill_bytes > 0 || code->registers > (kernel->named ? ATTENTION_LIMIT : REGISTER_LIMIT))
            fail_msg("%s%s: %d registers, %d bytes spilled", kernel->name, group ? " and others" : "", code->registers,
                     code->spill_bytes);
    }
    assert_true(most_static > 0);  // folds declare some: the report was read
    arena_destroy(arena);
}

static void kernels_fit(void **state) {
    (void)state;
    Arena *arena = arena_create();
    bool have = have_nvrtc(ir_create(arena));
    arena_destroy(arena);
    if (!have) skip();
    check_architecture("sm_90", "gpt2", "layers=2", ENTRY_ACCUMULATE);
    check_architecture("sm_80", "llama", "layers=1", ENTRY_ACCUMULATE);
    check_architecture("sm_120", "nano", "layers=1", ENTRY_ACCUMULATE);
    check_architecture("sm_90", "cherry_566m", "precision=bf16", ENTRY_ACCUMULATE);
    check_architecture("sm_80", "cherry_566m", "precision=bf16", ENTRY_ACCUMULATE);
    check_architecture("sm_120", "cherry_566m", "precision=bf16", ENTRY_ACCUMULATE);
    check_architecture("sm_120", "gpt2", "precision=bf16", ENTRY_ACCUMULATE);
    check_architecture("sm_90", "moe", "precision=bf16", ENTRY_ACCUMULATE);
    check_architecture("sm_90", "cherry_227m", "precision=bf16", ENTRY_DECODE);
    check_architecture("sm_90", "nano", "layers=1", ENTRY_UPDATE);
    check_architecture("sm_90", "nano", "layers=1", ENTRY_DECODE);
}

// Launches overlap: compiled too, each touches global memory behind its wait for those in front alone. A load that is said to
// be of constants (.nc) could be moved before it: none is, but of the table that sines and cosines reduce angles by.
static void check_order(const char *ptx) {
    static const char *const accesses[] = {"ld.global", "st.global", "cp.async", "atom.", "red."};
    bool waited = false;
    int waits = 0;
    for (const char *line = ptx; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        line += strspn(line, " \t");
        if (strstr(line, ".entry") == line + strcspn(line, "\n.")) waited = false;
        if (strncmp(line, "griddepcontrol.launch_dependents", 32) == 0) waited = false;
        if (strncmp(line, "griddepcontrol.wait", 19) == 0) waited = true, waits++;
        if (strncmp(line, "ld.global.nc", 12) == 0) assert_non_null(strstr(ptx, "__cudart_i2opi_f"));
        for (size_t i = 0; i < sizeof accesses / sizeof *accesses && !waited; i++)
            if (strncmp(line, accesses[i], strlen(accesses[i])) == 0)
                fail_msg("before the launches in front have ended: %.*s", (int)strcspn(line, "\n"), line);
    }
    assert_true(waits > 0);
}

static void launches_wait(void **state) {
    (void)state;
    static const struct {
        const char *file, *setting;
        Entry entry;
    } cases[] = {{"cherry_566m", "precision=bf16", ENTRY_ACCUMULATE}, {"cherry_227m", "precision=bf16", ENTRY_DECODE},
                 {"gpt2", "layers=2", ENTRY_ACCUMULATE}, {"nano", "layers=1", ENTRY_UPDATE}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Arena *arena = arena_create();
        Ir *ir = ir_create(arena);
        if (!have_nvrtc(ir)) {
            arena_destroy(arena);
            skip();
        }
        Program *program = compile_model(ir, cases[i].file, cases[i].setting, cases[i].entry);
        CudaOptions options = {.architecture = "sm_90"};
        assert_true(cuda_generate(ir, &program, 1, &options));
        for (size_t k = 0; k < program_cuda_count(program); k++) {
            const CudaKernel *code = program_cuda_code(program, k);
            if (code->text) check_order(cuda_nvrtc_ptx(ir, code, &options));
        }
        arena_destroy(arena);
    }
}

static bool generates(const char *architecture, const char *file, const char *setting) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    Program *program = compile_model(ir, file, setting, ENTRY_ACCUMULATE);
    bool ok = cuda_generate(ir, &program, 1, &(CudaOptions){.architecture = architecture});
    for (size_t k = 0; ok && k < program->kernels.count; k++) check_launches(&program->kernels.items[k].cuda, architecture);
    arena_destroy(arena);
    return ok;
}

// More sequences and heads than a grid has along y; a time of which the gradient of keys notes each tile, in shared memory;
// rows that leave a block of a small GPU no room for whole tiles.
static void shapes_fit(void **state) {
    (void)state;
    assert_true(generates("sm_90", "nano", "batch=20000"));
    assert_true(generates("sm_90", "cherry_566m", "time=200000 precision=bf16"));
    assert_true(generates("sm_120", "cherry_566m", "time=200000 precision=bf16"));
    assert_true(generates("sm_120", "nano", "key=256 precision=bf16"));
    assert_true(generates("sm_120", "nano", "key=256 precision=f32"));
}

// The second compile finds everything on disk; what is damaged there is compiled again.
static void cache_serves(void **state) {
    (void)state;
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    char folder[] = "/tmp/cherry-cubin-XXXXXX";
    if (!have_nvrtc(ir)) {
        arena_destroy(arena);
        skip();
    }
    assert_non_null(mkdtemp(folder));
    Program *program = compile_model(ir, "mlp", "batch=8", ENTRY_EVALUATE);
    CudaOptions options = {.cache = true, .cache_folder = folder, .threads = 1};
    CudaStatistics first, second;
    assert_true(cuda_compile(ir, &program, 1, &options, &first));
    assert_int_equal(first.cached, 0);
    assert_true(cuda_compile(ir, &program, 1, &options, &second));
    assert_int_equal(second.cached, second.distinct);
    assert_int_equal(second.most_registers, first.most_registers);
    // Too long, empty, cut within the header and behind it, of other bytes, and with a size that is not its own.
    static const char *const damages[] = {"echo x >> $f", ": > $f", "truncate -s 20 $f", "truncate -s -100 $f",
                                          "head -c 3000 /dev/urandom > $f",
                                          "printf '\\377\\377\\377\\177' | dd of=$f bs=1 seek=16 conv=notrunc status=none"};
    char command[256];
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        snprintf(command, sizeof command, "for f in %s/*; do %s; done", folder, damages[i]);
        assert_int_equal(system(command), 0);
        assert_true(cuda_compile(ir, &program, 1, &options, &second));
        assert_int_equal(second.cached, 0);
        assert_int_equal(second.most_registers, first.most_registers);
    }
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
    arena_destroy(arena);
}

// Where nothing can be kept, nothing is said of it.
static void useless_folder(void **state) {
    (void)state;
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    Program *program = compile_model(ir, "mlp", "batch=8", ENTRY_EVALUATE);
    CudaOptions options = {.cache = true, .cache_folder = "/proc/nowhere"};
    CudaStatistics statistics;
    if (have_nvrtc(ir)) {
        assert_true(cuda_compile(ir, &program, 1, &options, &statistics));
        assert_int_equal(statistics.cached, 0);
        assert_int_equal(diagnostics_count(ir->diagnostics), 0);
    }
    arena_destroy(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(kernels_fit), cmocka_unit_test(launches_wait),
                                       cmocka_unit_test(shapes_fit), cmocka_unit_test(cache_serves),
                                       cmocka_unit_test(useless_folder)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
