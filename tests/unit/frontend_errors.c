// Every file of tests/error: the errors that it makes are those written on their lines, no more and no
// less. `#! E0203 text` on a line expects an error there with that code and that text in its message.
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

typedef struct Expected {
    const char *file;
    uint32_t line;
    const char *code, *text;
    bool found;
} Expected;

typedef struct Case {
    Ir *ir;
    VECTOR(Expected) expected;
    VECTOR(const char *) settings;
} Case;

static void read_expected(Case *test, const char *path) {
    Arena *arena = test->ir->arena;
    size_t length;
    char *text = file_read(arena, test->ir->diagnostics, path, &length);
    assert_non_null(text);
    uint32_t line = 1;
    for (char *at = text; *at; line++) {
        char *end = at + strcspn(at, "\n"), *mark = strstr(at, "#! ");
        if (mark && mark < end) {
            char *code = arena_copy(arena, mark + 3, (size_t)(end - mark - 3));
            char *space = strchr(code, ' ');
            if (space) *space = 0;
            Expected expected = {path, line, code, space ? space + 1 : "", false};
            vector_push(arena, &test->expected, expected);
        }
        if (strncmp(at, "#set ", 5) == 0)
            vector_push(arena, &test->settings, arena_copy(arena, at + 5, (size_t)(end - at - 5)));
        at = *end ? end + 1 : end;
    }
}

static bool take_expected(Case *test, const Message *message) {
    for (size_t i = 0; i < test->expected.count; i++) {
        Expected *expected = &test->expected.items[i];
        bool same_place = message->place.line == 0 ? strstr(expected->text, "--set") != NULL
                                                   : strcmp(expected->file, message->place.file) == 0 &&
                                                         expected->line == message->place.line;
        if (expected->found || !same_place || strcmp(expected->code, message->code) != 0 ||
            !strstr(message->text, expected->text))
            continue;
        return expected->found = true;
    }
    return false;
}

// A message without text, without caret or with a code that docs/errors.md does not have is a failure too.
static int check_file(const char *path, const char *further, const char *index) {
    Arena *arena = arena_create();
    Case test = {.ir = ir_create(arena)};
    read_expected(&test, path);
    if (further) read_expected(&test, further);
    FrontendOptions options = {.settings = test.settings.items, .setting_count = test.settings.count};
    int wrong = frontend_load(test.ir, path, &options) ? 1 : 0;
    if (wrong) print_error("%s: no error at all\n", path);
    for (size_t i = 0; i < diagnostics_count(test.ir->diagnostics); i++) {
        const Message *message = diagnostics_message(test.ir->diagnostics, i);
        if (message->severity != SEVERITY_ERROR) continue;
        if (!strstr(index, message->code)) {
            print_error("docs/errors.md has no entry %s\n", message->code);
            wrong++;
        }
        if (take_expected(&test, message)) continue;
        print_error("%s:%u: unexpected: %s %s\n", message->place.file, message->place.line, message->code,
                    message->text);
        wrong++;
    }
    for (size_t i = 0; i < test.expected.count; i++) {
        const Expected *expected = &test.expected.items[i];
        if (expected->found) continue;
        print_error("%s:%u: missing: %s %s\n", expected->file, expected->line, expected->code,
                    expected->text);
        wrong++;
    }
    arena_destroy(arena);
    return wrong;
}

static void errors_are_those_on_their_lines(void **state) {
    (void)state;
    const char *folder = CHERRY_SOURCE "/tests/error";
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    size_t length;
    const char *index = file_read(arena, ir->diagnostics, CHERRY_SOURCE "/docs/errors.md", &length);
    assert_non_null(index);
    DIR *directory = opendir(folder);
    assert_non_null(directory);
    int wrong = 0, files = 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot || strcmp(dot, ".cherry") != 0) continue;
        const char *path = arena_format(arena, "%s/%s", folder, entry->d_name);
        const char *further = strcmp(entry->d_name, "include.cherry") == 0
                                  ? arena_format(arena, "%s/parts/cycle.cherry", folder)
                                  : NULL;
        wrong += check_file(path, further, index);
        files++;
    }
    closedir(directory);
    arena_destroy(arena);
    assert_true(files > 5);
    assert_int_equal(wrong, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(errors_are_those_on_their_lines)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
