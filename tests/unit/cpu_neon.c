// Code for AArch64 (NEON) run under qemu: every nest case, assembled and linked with a small runner into
// one program that reads the operands from a file and writes them back. Skipped where gcc-aarch64-linux-gnu,
// libc6-dev-arm64-cross or qemu-user is missing.
#include "cpu_nest_cases.h"
#include "cpu_test.h"

#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

// The AArch64 side. A record: kernel, tasks, operands; for each operand its bytes, the base within, data.
static const char runner[] =
    "#include <stdint.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include \"table.h\"\n"
    "int main(int argc, char **argv) {\n"
    "  FILE *in = fopen(argv[1], \"rb\"), *out = fopen(argv[2], \"wb\");\n"
    "  int64_t head[3];\n"
    "  while (fread(head, 8, 3, in) == 3) {\n"
    "    char *data[32], *base[32]; int64_t bytes[32], at;\n"
    "    for (int i = 0; i < head[2]; i++) {\n"
    "      if (fread(&bytes[i], 8, 1, in) != 1 || fread(&at, 8, 1, in) != 1) return 1;\n"
    "      data[i] = malloc(bytes[i]); base[i] = data[i] + at;\n"
    "      if (fread(data[i], 1, bytes[i], in) != bytes[i]) return 1;\n"
    "    }\n"
    "    for (int64_t t = 0; t < head[1]; t += 2)\n"
    "      kernels[head[0]](base, 0, 0, t, t + 2 < head[1] ? t + 2 : head[1]);\n"
    "    for (int i = 0; i < head[2]; i++) fwrite(data[i], 1, bytes[i], out);\n"
    "  }\n  return fclose(out);\n}\n";

static const Case math_cases[] = {
#define MATHS(function, from, to)                                                                      \
    {.name = #function,                                                                                \
     .text = "nest maths {\n  outer n=1003\n  parallel n\n  operand 0: read f32 [1003:1]\n"            \
             "  operand 1: write f32 [1003:1]\n  operand 2: read f64 [1003:1]\n"                       \
             "  operand 3: write f64 [1003:1]\n  stage 0: store @1[n] { " #function "(@0[n]) }\n"      \
             "  stage 1: store @3[n] { " #function "(@2[n]) }\n}\n",                                   \
     .low = from, .high = to, .tolerance = 4e-7}
    MATHS(exp, -20, 20), MATHS(log, 0.001, 100), MATHS(sin, -100, 100), MATHS(cos, -100, 100),
    MATHS(tanh, -5, 5), MATHS(erf, -5, 5), MATHS(sqrt, 0, 10), MATHS(rsqrt, 0.01, 10), MATHS(floor, -9, 9),
};
enum { MATH_CASES = sizeof math_cases / sizeof *math_cases, ALL_CASES = NEST_CASES + MATH_CASES };

static const Case *case_at(int i) { return i < NEST_CASES ? &nest_cases[i] : &math_cases[i - NEST_CASES]; }

typedef struct Bench {
    char folder[64];
    Arena *arena;
    Ir *ir;
    const Nest *nests[ALL_CASES];
    Storage storage[ALL_CASES][NEST_OPERAND_MAX];
} Bench;

static FILE *open_file(const Bench *bench, const char *name, const char *mode) {
    FILE *file = fopen(arena_format(bench->arena, "%s/%s", bench->folder, name), mode);
    assert_non_null(file);
    return file;
}

// Writes the kernel's assembly; returns its number of tasks and its symbol.
static int64_t write_kernel(Bench *bench, int i, const char **symbol) {
    Program *program = program_create(bench->ir, "test");
    program_add_nest(program, bench->nests[i]);
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    CpuOptions options = {.cpu = "aarch64"};
    if (!cpu_print(bench->ir, program, &options, true, stream)) {
        diagnostics_print(bench->ir->diagnostics, 0, stderr);
        fail_msg("%s", case_at(i)->name);
    }
    fclose(stream);
    int64_t tasks = strtoll(strchr(strstr(text, "# kernel "), ':') + 1, NULL, 10);
    char unique[8];  // cases of one structure have one symbol: number them
    snprintf(unique, sizeof unique, "k%05d_", i);
    for (char *at = text; (at = strstr(at, "cherry_"));) memcpy(at, unique, 7);
    const char *at = strstr(text, unique);
    *symbol = arena_copy(bench->arena, at, strspn(at, "k_0123456789abcdef"));
    FILE *file = open_file(bench, arena_format(bench->arena, "k%d.s", i), "w");
    for (const char *line = text; *line;) {  // comments of ours are not the assembler's
        size_t end = strcspn(line, "\n") + 1;
        if (line[0] != '#') fwrite(line, 1, end, file);
        line += end;
    }
    fclose(file);
    free(text);
    return tasks;
}

static void write_record(Bench *bench, FILE *file, int i, int64_t tasks) {
    const Nest *nest = bench->nests[i];
    int64_t head[3] = {i, tasks, nest->operand_count};
    fwrite(head, 8, 3, file);
    int bounds_used = 0;
    for (int o = 0; o < nest->operand_count; o++) {
        Storage *storage = &bench->storage[i][o];
        *storage = storage_create(&nest->operands[o], case_at(i), &bounds_used);
        int64_t width = element_bytes(nest->operands[o].element);
        int64_t sizes[2] = {storage->count * width, -storage->low * width};
        fwrite(sizes, 8, 2, file);
        fwrite(storage->bytes, 1, (size_t)sizes[0], file);
    }
}

static void check_record(Bench *bench, FILE *file, int i) {
    const Nest *nest = bench->nests[i];
    double *reference[NEST_OPERAND_MAX];
    for (int o = 0; o < nest->operand_count; o++)
        reference[o] = bench->storage[i][o].values - bench->storage[i][o].low;
    nest_evaluate(nest, reference);
    for (int o = 0; o < nest->operand_count; o++) {
        Storage *storage = &bench->storage[i][o];
        size_t bytes = (size_t)(storage->count * element_bytes(nest->operands[o].element));
        assert_int_equal(fread(storage->bytes, 1, bytes, file), bytes);
        compare_storage(case_at(i), "aarch64", nest, o, storage, storage->bytes);
        free(storage->bytes);
        free(storage->values);
    }
}

static void build_and_run(Bench *bench) {
    FILE *table = open_file(bench, "table.h", "w"), *data = open_file(bench, "in", "wb");
    const char *symbols[ALL_CASES];
    for (int i = 0; i < ALL_CASES; i++) {
        bench->nests[i] = case_nest(bench->ir, case_at(i));
        write_record(bench, data, i, write_kernel(bench, i, &symbols[i]));
        fprintf(table, "void %s(char **, char *, char *, int64_t, int64_t);\n", symbols[i]);
    }
    fprintf(table, "void (*kernels[])(char **, char *, char *, int64_t, int64_t) = {\n");
    for (int i = 0; i < ALL_CASES; i++) fprintf(table, "  %s,\n", symbols[i]);
    fprintf(table, "};\n");
    fclose(table);
    fclose(data);
    FILE *source = open_file(bench, "runner.c", "w");
    fputs(runner, source);
    fclose(source);
    const char *command = arena_format(bench->arena,
        "cd %s && aarch64-linux-gnu-gcc -static -O1 -w runner.c k*.s -o runner && qemu-aarch64 ./runner in out",
        bench->folder);
    assert_int_equal(system(command), 0);
}

static void test_neon(void **state) {
    (void)state;
    if (system("command -v qemu-aarch64 >/dev/null && echo '#include <stdio.h>' | "
               "aarch64-linux-gnu-gcc -E - >/dev/null 2>&1") != 0)
        skip();
    Bench *bench = calloc(1, sizeof *bench);
    strcpy(bench->folder, "/tmp/cherry-neon-XXXXXX");
    assert_non_null(mkdtemp(bench->folder));
    bench->arena = arena_create();
    bench->ir = ir_create(bench->arena);
    build_and_run(bench);
    FILE *results = open_file(bench, "out", "rb");
    for (int i = 0; i < ALL_CASES; i++) check_record(bench, results, i);
    fclose(results);
    assert_int_equal(system(arena_format(bench->arena, "rm -r %s", bench->folder)), 0);
    arena_destroy(bench->arena);
    free(bench);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_neon)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
