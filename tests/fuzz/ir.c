// IR text: any bytes give a module or errors; a module that verifies survives the passes over views and
// identities, and reads back from its print.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "passes/pass.h"
#include "tests/fuzz/fuzz.h"

enum { NODES_MAX = 500 };

static char *print_module(const Module *module, size_t *size) {
    char *text = NULL;
    FILE *stream = open_memstream(&text, size);
    CHECK(stream);
    module_print(module, stream);
    fclose(stream);
    return text;
}

static void check_print(const Module *module) {
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

static bool is_small(const Module *module) {
    size_t nodes = 0;
    for (size_t i = 0; i < module->graphs.count; i++) {
        const Graph *graph = module->graphs.items[i];
        nodes += graph->nodes.count;
        for (size_t id = 0; id < graph->nodes.count; id++) {
            const Attribute *entries = attribute_find(&graph->nodes.items[id], ATTRIBUTE_entries);
            if (entries) nodes += 20 * (size_t)entries->count;
        }
    }
    return nodes <= NODES_MAX;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    char *text = arena_copy(arena, (const char *)data, size);
    Module *module = module_read(ir, "fuzz.ir", text);
    CHECK((module != NULL) == (diagnostics_error_count(ir->diagnostics) == 0));
    if (module && module_verify(module, "reading")) {
        check_print(module);
        PassContext context = {.ir = ir, .module = module, .verify = true};
        if (is_small(module)) pass_run_module(&context, "expand-stacks, simplify, share, dead", module);
    }
    arena_destroy(arena);
    return 0;
}
