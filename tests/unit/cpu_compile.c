// Compiling programs: equal kernels once, the disk cache and its damage, foreign machines, printing.
#include "cpu_test.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct Fixture {
    Arena *arena;
    Ir *ir;
    char folder[64];
} Fixture;

static int setup(void **state) {
    Fixture *fixture = calloc(1, sizeof *fixture);
    fixture->arena = arena_create();
    fixture->ir = ir_create(fixture->arena);
    strcpy(fixture->folder, "/tmp/cherry-cache-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    *state = fixture;
    return 0;
}

// Calls `work` for every file of the folder; returns their number.
static int for_files(const char *folder, void (*work)(const char *path)) {
    int count = 0;
    DIR *directory = opendir(folder);
    for (struct dirent *item; directory && (item = readdir(directory));) {
        if (item->d_name[0] == '.') continue;
        char path[400];
        snprintf(path, sizeof path, "%s/%s", folder, item->d_name);
        if (work) work(path);
        count++;
    }
    if (directory) closedir(directory);
    return count;
}

static void remove_file(const char *path) { unlink(path); }

static int teardown(void **state) {
    Fixture *fixture = *state;
    for_files(fixture->folder, remove_file);
    rmdir(fixture->folder);
    arena_destroy(fixture->arena);
    free(fixture);
    return 0;
}

// y = x + number, over `extent`.
static Program *make_program(Ir *ir, int kernels) {
    Program *program = program_create(ir, "test");
    for (int k = 0; k < kernels; k++) {
        const char *text = arena_format(ir->arena,
            "nest add {\n  outer n=100\n  parallel n\n  operand 0: read f32 [100:1]\n  operand 1: write f32 [100:1]\n"
            "  stage 0: store @1[n] { add(@0[n], %d:f32) }\n}\n", k + 1);
        Nest *nest = nest_read(ir, "test", text);
        assert_non_null(nest);
        program_add_nest(program, nest);
    }
    return program;
}

static void check_program(const Program *program) {
    for (size_t k = 0; k < program->kernels.count; k++) {
        float in[100], out[100];
        for (int i = 0; i < 100; i++) in[i] = (float)i;
        char *operands[] = {(char *)in, (char *)out};
        run_split(&program->kernels.items[k].cpu, operands, 1);
        for (int i = 0; i < 100; i++) assert_true(out[i] == (float)(i + (int)k + 1));
    }
}

static CpuStatistics compile_and_check(Fixture *fixture, Program *const *programs, size_t count, int threads) {
    CpuOptions options = {.threads = threads, .cache = true, .cache_folder = fixture->folder};
    CpuCode *code = cpu_compile(fixture->ir, programs, count, &options);
    assert_non_null(code);
    for (size_t p = 0; p < count; p++) check_program(programs[p]);
    CpuStatistics statistics = cpu_code_statistics(code);
    cpu_code_destroy(code);
    return statistics;
}

static void test_equal_kernels_once(void **state) {
    Fixture *fixture = *state;
    Program *programs[] = {make_program(fixture->ir, 5), make_program(fixture->ir, 7)};
    CpuStatistics statistics = compile_and_check(fixture, programs, 2, 3);
    assert_int_equal(statistics.kernels, 12);
    assert_int_equal(statistics.distinct, 7);
    assert_int_equal(statistics.cached, 0);
}

static void test_cache(void **state) {
    Fixture *fixture = *state;
    Program *small = make_program(fixture->ir, 20), *large = make_program(fixture->ir, 30);
    assert_int_equal(compile_and_check(fixture, &small, 1, 1).cached, 0);
    assert_int_equal(compile_and_check(fixture, &small, 1, 1).cached, 20);
    // Kernels are found whatever they were compiled with.
    assert_int_equal(compile_and_check(fixture, &large, 1, 2).cached, 20);
    assert_int_equal(compile_and_check(fixture, &large, 1, 2).cached, 30);
    CpuOptions narrow = {.cpu = "x86-64-v3", .cache = true, .cache_folder = fixture->folder};
    CpuCode *code = cpu_compile(fixture->ir, &small, 1, &narrow);
    assert_non_null(code);
    assert_int_equal(cpu_code_statistics(code).cached, 0);
    cpu_code_destroy(code);
}

// c = a b, for kernels [first, end) that differ in their depth; they share tiles, packing and the loops around them.
static Program *make_products(Ir *ir, int first, int end) {
    Program *program = program_create(ir, "test");
    for (int i = first; i < end; i++) {
        const char *text = arena_format(ir->arena,
            "nest product {\n  outer m=40, n=96\n  inner k=%d\n  parallel m, n\n  operand 0: read f32 [40:%d, %d:1]\n"
            "  operand 1: read f32 [%d:96, 96:1]\n  operand 2: write f32 [40:96, 96:1]\n"
            "  stage 0: sum over k { mul(@0[m, k], @1[k, n]) }\n  stage 1: store @2[m, n] { stage 0 }\n}\n",
            16 * i, 16 * i, 16 * i, 16 * i);
        Nest *nest = nest_read(ir, "test", text);
        assert_non_null(nest);
        program_add_nest(program, nest);
    }
    return program;
}

static void check_products(const Program *program) {
    for (size_t i = 0; i < program->kernels.count; i++) {
        const Nest *nest = program->kernels.items[i].nest;
        int depth = (int)nest->loops[2].dimension.extent;
        float *a = calloc((size_t)(40 * depth), 4), *b = calloc((size_t)(depth * 96), 4), c[40 * 96];
        for (int j = 0; j < 40 * depth; j++) a[j] = (float)(j % 7 - 3);
        for (int j = 0; j < depth * 96; j++) b[j] = (float)(j % 5 - 2);
        char *operands[] = {(char *)a, (char *)b, (char *)c};
        run_split(&program->kernels.items[i].cpu, operands, 1);
        for (int m = 0; m < 40; m++)
            for (int n = 0; n < 96; n++) {
                float sum = 0;  // of small whole numbers: exact
                for (int k = 0; k < depth; k++) sum += a[m * depth + k] * b[k * 96 + n];
                assert_true(c[m * 96 + n] == sum);
            }
        free(a);
        free(b);
    }
}

static CpuStatistics compile_products(Fixture *fixture, int first, int end, int threads) {
    CpuOptions options = {.threads = threads, .cache = true, .cache_folder = fixture->folder};
    Program *program = make_products(fixture->ir, first, end);
    CpuCode *code = cpu_compile(fixture->ir, &program, 1, &options);
    assert_non_null(code);
    check_products(program);
    CpuStatistics statistics = cpu_code_statistics(code);
    cpu_code_destroy(code);
    return statistics;
}

// One compilation defines what kernels share once; every bundle on disk has all that it calls, also where several
// of them, or some and new code, come together.
static void test_shared_functions(void **state) {
    Fixture *fixture = *state;
    size_t alone = compile_products(fixture, 20, 21, 1).object_bytes;
    size_t sixteen = compile_products(fixture, 1, 17, 2).object_bytes;
    assert_true(sixteen < 8 * alone);
    assert_int_equal(compile_products(fixture, 17, 20, 1).cached, 0);
    assert_int_equal(compile_products(fixture, 8, 21, 1).cached, 13);  // of three bundles
    assert_int_equal(compile_products(fixture, 12, 26, 2).cached, 9);  // of three, and five new ones
    assert_int_equal(compile_products(fixture, 1, 26, 1).cached, 25);
}

static void truncate_file(const char *path) { assert_int_equal(truncate(path, 100), 0); }

static void empty_file(const char *path) { assert_int_equal(truncate(path, 0), 0); }

static void flip_byte(const char *path) {
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, -40, SEEK_END);
    int byte = fgetc(file);
    fseek(file, -40, SEEK_END);
    fputc(byte ^ 0x55, file);
    fclose(file);
}

static void test_damage(void **state) {
    Fixture *fixture = *state;
    // One file with three names: what is done to it an odd number of times stays done.
    Program *program = make_program(fixture->ir, 3);
    void (*damages[])(const char *) = {truncate_file, empty_file, flip_byte};
    for (int i = 0; i < 3; i++) {
        compile_and_check(fixture, &program, 1, 1);
        assert_int_equal(compile_and_check(fixture, &program, 1, 1).cached, 3);
        assert_int_equal(for_files(fixture->folder, damages[i]), 3);
        assert_int_equal(compile_and_check(fixture, &program, 1, 1).cached, 0);
    }
    assert_int_equal(compile_and_check(fixture, &program, 1, 1).cached, 3);
}

static void test_useless_folder(void **state) {
    Fixture *fixture = *state;
    Program *program = make_program(fixture->ir, 3);
    CpuOptions options = {.cache = true, .cache_folder = "/proc/nowhere"};
    for (int i = 0; i < 2; i++) {
        CpuCode *code = cpu_compile(fixture->ir, &program, 1, &options);
        assert_non_null(code);
        assert_int_equal(cpu_code_statistics(code).cached, 0);
        cpu_code_destroy(code);
    }
}

static char *print_program(Ir *ir, const char *cpu, bool assembly) {
    Program *program = make_program(ir, 1);
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    CpuOptions options = {.cpu = cpu};
    assert_true(cpu_print(ir, program, &options, assembly, stream));
    fclose(stream);
    return text;
}

static void test_print(void **state) {
    Fixture *fixture = *state;
    char *text = print_program(fixture->ir, "x86-64-v3", false);
    assert_non_null(strstr(text, "; kernel add: 1 tasks\n; from test:"));
    assert_non_null(strstr(text, "fadd <8 x float>"));
    free(text);
    text = print_program(fixture->ir, "x86-64-v4", true);
    assert_non_null(strstr(text, "%zmm"));
    free(text);
    text = print_program(fixture->ir, "aarch64", true);
    assert_non_null(strstr(text, "fadd\tv"));
    free(text);
}

static void expect_error(Fixture *fixture, const char *cpu, const char *code) {
    Program *program = make_program(fixture->ir, 1);
    CpuOptions options = {.cpu = cpu};
    size_t before = diagnostics_count(fixture->ir->diagnostics);
    assert_null(cpu_compile(fixture->ir, &program, 1, &options));
    assert_int_equal(diagnostics_count(fixture->ir->diagnostics), before + 1);
    assert_string_equal(diagnostics_message(fixture->ir->diagnostics, before)->code, code);
}

static void test_foreign_machines(void **state) {
    expect_error(*state, "x86-64", "E0603");
#ifdef __x86_64__
    expect_error(*state, "aarch64", "E0605");
#endif
}

static void test_missing_named_kernel(void **state) {
    Fixture *fixture = *state;
    assert_false(cpu_has_kernel("no_such_kernel"));
    Program *program = program_create(fixture->ir, "test");
    const Type *type = type_scalar(fixture->ir, ELEMENT_F32);
    NamedKernel *named = ARENA_NEW(fixture->arena, NamedKernel);
    *named = (NamedKernel){.name = "no_such_kernel", .operand_count = 1, .types = {type}};
    program_add_named(program, named);
    assert_null(cpu_compile(fixture->ir, &program, 1, NULL));
    assert_string_equal(diagnostics_message(fixture->ir->diagnostics, 0)->code, "E0602");
}

static void test_peak(void **state) {
    Fixture *fixture = *state;
    double peak = cpu_measure_peak(fixture->ir, 1, ELEMENT_F32, NULL);
    assert_true(peak > 1e8 && peak < 1e13);
}

// A buffer that is one element short: the sanitizer must see into the generated code.
static void test_sanitizer_sees_kernels(void **state) {
    CpuOptions options = {.sanitize = SANITIZE};
    if (!options.sanitize) skip();
    Fixture *fixture = *state;
    Program *program = make_program(fixture->ir, 1);
    CpuCode *code = cpu_compile(fixture->ir, &program, 1, &options);
    assert_non_null(code);
    pid_t child = fork();
    if (child == 0) {
        freopen("/dev/null", "w", stderr);
        char *in = calloc(99, sizeof(float)), *out = calloc(100, sizeof(float));
        run_split(&program->kernels.items[0].cpu, (char *[]){in, out}, 1);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    cpu_code_destroy(code);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_equal_kernels_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cache, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shared_functions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_useless_folder, setup, teardown),
        cmocka_unit_test_setup_teardown(test_print, setup, teardown),
        cmocka_unit_test_setup_teardown(test_foreign_machines, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing_named_kernel, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sanitizer_sees_kernels, setup, teardown),
        cmocka_unit_test_setup_teardown(test_peak, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
