// Files that must build: tests/check and tests/parse, and the model files. `# CHECK: text` lines must be
// in the printed module, in this order ({{.*}} matches anything on the line); `#set name=value` and
// `#train name` are options. Each module passes the verifier and reads back to the same bytes.
// clang-format off: cmocka.h wants the headers before it
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
// clang-format on

#include "base/file.h"
#include "frontend/frontend.h"
#include "ir/op.h"

static bool seen_ops[OP_COUNT];

static char *print_text(Arena *arena, const Module *module) {
    char *buffer = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&buffer, &length);
    assert_non_null(stream);
    module_print(module, stream);
    fclose(stream);
    char *text = arena_copy(arena, buffer, length);
    free(buffer);
    return text;
}

// Does `pattern` start at `at`? {{.*}} runs to the next place where the rest fits.
static const char *match(const char *at, const char *pattern) {
    const char *gap = strstr(pattern, "{{.*}}");
    size_t length = gap ? (size_t)(gap - pattern) : strlen(pattern);
    if (strncmp(at, pattern, length) != 0) return NULL;
    at += length;
    if (!gap) return at;
    for (; *at && *at != '\n'; at++) {
        const char *end = match(at, gap + 6);
        if (end) return end;
    }
    return NULL;
}

static int check_lines(Arena *arena, const char *path, const char *source, const char *text) {
    const char *at = text;
    for (const char *line = source; (line = strstr(line, "# CHECK: ")); line++) {
        const char *pattern = arena_copy(arena, line + 9, strcspn(line + 9, "\n")), *end = NULL;
        const char *from = at;
        while (*from && !(end = match(from, pattern))) from++;
        if (!end) {
            print_error("%s: not found after what was found before: %s\n", path, pattern);
            return 1;
        }
        at = end;
    }
    return 0;
}

static void count_ops(const Module *module) {
    for (size_t i = 0; i < module->graphs.count; i++)
        for (size_t j = 0; j < module->graphs.items[i]->nodes.count; j++)
            seen_ops[module->graphs.items[i]->nodes.items[j].op] = true;
    for (size_t i = 0; i < module->parameters.count; i++)
        for (size_t j = 0; j < module->parameters.items[i].initialize->nodes.count; j++)
            seen_ops[module->parameters.items[i].initialize->nodes.items[j].op] = true;
}

static int check_file(const char *path) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    size_t length;
    const char *source = file_read(arena, ir->diagnostics, path, &length);
    assert_non_null(source);
    VECTOR(const char *) settings = {0};
    FrontendOptions options = {0};
    for (const char *at = source; at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL) {
        if (strncmp(at, "#set ", 5) == 0)
            vector_push(arena, &settings, arena_copy(arena, at + 5, strcspn(at + 5, "\n")));
        if (strncmp(at, "#train ", 7) == 0) options.train = arena_copy(arena, at + 7, strcspn(at + 7, "\n"));
    }
    options.settings = settings.items;
    options.setting_count = settings.count;
    Module *module = frontend_load(ir, path, &options);
    if (module && !module_verify(module, "the front end")) module = NULL;
    int wrong = module ? 0 : 1;
    if (!module) diagnostics_print(ir->diagnostics, 0, stderr);
    if (module) {
        count_ops(module);
        const char *text = print_text(arena, module);
        wrong += check_lines(arena, path, source, text);
        Ir *again = ir_create(arena);
        Module *read = module_read(again, "module.ir", text);
        if (!read) diagnostics_print(again->diagnostics, 0, stderr);
        if (!read || strcmp(print_text(arena, read), text) != 0) {
            print_error("%s: its module does not read back to the same text\n", path);
            wrong++;
        }
    }
    arena_destroy(arena);
    return wrong;
}

static void check_folder(const char *folder, int least) {
    DIR *directory = opendir(folder);
    assert_non_null(directory);
    Arena *arena = arena_create();
    int files = 0, wrong = 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot || strcmp(dot, ".cherry") != 0) continue;
        wrong += check_file(arena_format(arena, "%s/%s", folder, entry->d_name));
        files++;
    }
    closedir(directory);
    arena_destroy(arena);
    assert_true(files >= least);
    assert_int_equal(wrong, 0);
}

static void checks_build(void **state) {
    (void)state;
    check_folder(CHERRY_SOURCE "/tests/check", 5);
    check_folder(CHERRY_SOURCE "/tests/parse", 1);
}

static void model_files_build(void **state) {
    (void)state;
    check_folder(CHERRY_SOURCE "/models", 5);
    assert_int_equal(check_file(CHERRY_SOURCE "/bench/step34m.cherry"), 0);
}

static void every_op_is_reachable(void **state) {
    (void)state;
    int missing = 0;
    memset(seen_ops, 0, sizeof seen_ops);
    assert_int_equal(check_file(CHERRY_SOURCE "/tests/check/every_op.cherry"), 0);
    for (int op = 0; op < OP_COUNT; op++)
        if (!seen_ops[op]) {
            print_error("no %s in tests/check/every_op.cherry\n", op_table[op]->name);
            missing++;
        }
    assert_int_equal(missing, 0);
}

// The same file gives the same module, whatever was built before.
static void parameters_have_their_sizes(void **state) {
    (void)state;
    static const struct {
        const char *file;
        int64_t count;
    } models[] = {{"models/gpt2.cherry", 124439808},
                  {"bench/step34m.cherry", 34087424},
                  {"models/shakespeare_char.cherry", 828544}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        Arena *arena = arena_create();
        Module *module = frontend_load(ir_create(arena),
                                       arena_format(arena, "%s/%s", CHERRY_SOURCE, models[i].file), NULL);
        assert_non_null(module);
        int64_t count = 0;
        for (size_t j = 0; j < module->parameters.count; j++)
            count += type_count(module->parameters.items[j].type);
        assert_int_equal(count, models[i].count);
        arena_destroy(arena);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checks_build),
        cmocka_unit_test(model_files_build),
        cmocka_unit_test(every_op_is_reachable),
        cmocka_unit_test(parameters_have_their_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
