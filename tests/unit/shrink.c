// shrink_settings: the smallest numbers at which a made-up fault still shows.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "driver/shrink.h"

static const char *const path = CHERRY_SOURCE "/models/nano.cherry";

// Shows while the model has two layers and an embedding of three or more.
static bool shows(void *context, Ir *ir, const FrontendOptions *options) {
    ++*(int *)context;
    Module *module = frontend_load(ir, path, options);
    if (!module) return false;
    const Parameter *wq = module_find_parameter(module, names_intern(ir->names, "trunk.wq"));
    return wq->type->dimensions[0].extent >= 2 && wq->type->dimensions[1].extent >= 3;
}

static const char *value_of(const char *const *settings, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++)
        if (strncmp(settings[i], name, strlen(name)) == 0 && settings[i][strlen(name)] == '=')
            return settings[i] + strlen(name) + 1;
    return "";
}

static void test_shrink(void **state) {
    (void)state;
    Arena *arena = arena_create();
    int tried = 0;
    size_t count;
    FrontendOptions options = {.settings = (const char *const[]){"ffn=5"}, .setting_count = 1, .small = true};
    const char *const *settings = shrink_settings(arena, &options, path, shows, &tried, &count);
    assert_string_equal(value_of(settings, count, "layers"), "2");
    assert_string_equal(value_of(settings, count, "embed"), "3");
    assert_string_equal(value_of(settings, count, "vocab"), "1");
    assert_string_equal(value_of(settings, count, "ffn"), "1");
    assert_true(tried > 5);
    arena_destroy(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shrink)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
