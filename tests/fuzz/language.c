// The language: any bytes as a .cherry file give a module or errors; a module verifies and reads back.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/frontend.h"
#include "tests/fuzz/fuzz.h"

static char *print_module(const Module *module, size_t *size) {
    char *text = NULL;
    FILE *stream = open_memstream(&text, size);
    CHECK(stream);
    module_print(module, stream);
    fclose(stream);
    return text;
}

static void check_module(const Module *module) {
    CHECK(module_verify(module, "the front end"));
    size_t size, again_size;
    char *text = print_module(module, &size);
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    Module *read = module_read(ir, "printed.ir", text);
    if (!read) diagnostics_print(ir->diagnostics, 0, stderr);
    CHECK(read);
    char *again = print_module(read, &again_size);
    CHECK(size == again_size && memcmp(text, again, size) == 0);
    free(text);
    free(again);
    arena_destroy(arena);
}

// Whether it is a module.
static bool run(const uint8_t *data, size_t size) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    FrontendOptions options = {.small = true};
    Module *module = frontend_load(ir, fuzz_file(data, size), &options);
    bool loaded = module != NULL;
    CHECK(loaded == (diagnostics_error_count(ir->diagnostics) == 0));
    if (module) check_module(module);
    arena_destroy(arena);
    return loaded;
}

// What cannot load a good file tests nothing.
static void check_target(void) {
    static const char good[] = "model M { param w[batch] = 1 fn logits(tokens: int[batch, time]) = w }";
    static bool checked;
    if (checked) return;
    checked = true;
    CHECK(run((const uint8_t *)good, sizeof good - 1));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    check_target();
    run(data, size);
    return 0;
}
