// The IR texts that people read are true: the example of docs/ir.md and every tests/ir/*.ir print back
// to the same bytes and pass the verifier.
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
// clang-format off: cmocka.h needs the headers above
#include <cmocka.h>
// clang-format on

#include "base/file.h"
#include "ir/module.h"

// `exact`: the text is as printed. Else it is hand-written, and what is printed from it is compared.
static void assert_sound(const char *path, const char *text, bool exact) {
    char *printed[2] = {0};
    for (int i = 0; i < 2; i++) {
        Ir *ir = ir_create(arena_create());
        Module *module = module_read(ir, path, i ? printed[0] : text);
        if (!module || !module_verify(module, NULL)) {
            diagnostics_print(ir->diagnostics, 0, stderr);
            fail_msg("%s", path);
        }
        size_t length = 0;
        FILE *stream = open_memstream(&printed[i], &length);
        module_print(module, stream);
        fclose(stream);
        arena_destroy(ir->arena);
    }
    if (exact) assert_string_equal(printed[0], text);
    assert_string_equal(printed[1], printed[0]);
    free(printed[0]);
    free(printed[1]);
}

static char *read(Ir *ir, const char *path) {
    size_t length;
    char *text = file_read(ir->arena, ir->diagnostics, path, &length);
    if (!text) fail_msg("cannot read %s", path);
    return text;
}

static void test_documentation(void **state) {
    (void)state;
    Ir *ir = ir_create(arena_create());
    char *text = read(ir, CHERRY_SOURCE "/docs/ir.md");
    char *start = strstr(text, "```\nmodule ");
    assert_non_null(start);
    start += 4;
    char *end = strstr(start, "```");
    assert_non_null(end);
    *end = 0;
    assert_sound("docs/ir.md", start, true);
    arena_destroy(ir->arena);
}

static void test_files(void **state) {
    (void)state;
    Ir *ir = ir_create(arena_create());
    DIR *folder = opendir(CHERRY_SOURCE "/tests/ir");
    assert_non_null(folder);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        size_t length = strlen(entry->d_name);
        if (length < 3 || strcmp(entry->d_name + length - 3, ".ir") != 0) continue;
        const char *path = arena_format(ir->arena, CHERRY_SOURCE "/tests/ir/%s", entry->d_name);
        assert_sound(path, read(ir, path), false);
        count++;
    }
    closedir(folder);
    assert_true(count >= 2);
    arena_destroy(ir->arena);
}

// A new op or attribute belongs into the sample, so that its text form is tested.
static void test_every_op(void **state) {
    (void)state;
    Ir *ir = ir_create(arena_create());
    const char *path = CHERRY_SOURCE "/tests/ir/every_op.ir";
    Module *module = module_read(ir, path, read(ir, path));
    assert_non_null(module);
    bool ops[OP_COUNT] = {0}, attributes[ATTRIBUTE_COUNT] = {0};
    for (size_t g = 0; g < module->graphs.count; g++)
        for (uint32_t id = 0; id < module->graphs.items[g]->nodes.count; id++) {
            const Node *node = graph_node(module->graphs.items[g], id);
            ops[node->op] = true;
            for (uint32_t i = 0; i < node->attributes.count; i++)
                attributes[node->attributes.items[i].key] = true;
        }
    for (Op op = 0; op < OP_COUNT; op++)
        if (!ops[op]) fail_msg("tests/ir/every_op.ir lacks op %s", op_name(op));
    for (AttributeKey key = 0; key < ATTRIBUTE_COUNT; key++)
        if (!attributes[key]) fail_msg("tests/ir/every_op.ir lacks attribute %s", attribute_name(key));
    arena_destroy(ir->arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_documentation), cmocka_unit_test(test_files),
                                       cmocka_unit_test(test_every_op)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
