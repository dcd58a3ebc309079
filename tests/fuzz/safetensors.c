// Safetensors: any bytes give a file whose every value can be read, or errors.
#include "base/arena.h"
#include "runtime/data.h"
#include "runtime/safetensors.h"
#include "tests/fuzz/fuzz.h"

static void read_all(Arena *arena, const TensorFile *file) {
    for (size_t i = 0; i < file->tensor_count; i++) {
        const StoredTensor *tensor = &file->tensors[i];
        CHECK(tensor_file_find(file, tensor->name) == tensor);
        CHECK(stored_text(arena, tensor));
        for (int to = 0; to < ELEMENT_COUNT; to++)
            if (stored_convertible(tensor->element, (Element)to))
                stored_convert(tensor, 0, tensor->count, (Element)to,
                               arena_allocate(arena, (size_t)(tensor->count * element_bytes((Element)to)) + 1));
    }
    CHECK(!tensor_file_find(file, "no such name, surely"));
    tensor_file_metadata(file, "step");
}

// The same file as a table with the columns of a small classifier.
static void read_columns(Arena *arena, Diagnostics *diagnostics, Ir *ir, const char *path) {
    Dimension x[2] = {{names_intern(ir->names, "batch"), 2, NULL}, {names_intern(ir->names, "features"), 3, NULL}};
    ColumnRequest requests[2] = {{"x", type_make(ir, ELEMENT_F32, 2, x), 0}, {"label", type_make(ir, ELEMENT_I32, 1, x), 3}};
    ColumnSet set;
    if (!column_set_open(arena, diagnostics, path, requests, 2, &set)) return;
    char data[64];
    for (size_t i = 0; i < set.count; i++) {
        int64_t rows[2] = {0, set.rows - 1};
        column_gather(&set.columns[i], rows, 2, data);
    }
    column_set_close(&set);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    const char *path = fuzz_file(data, size);
    TensorFile *file = tensor_file_open(arena, ir->diagnostics, path);
    CHECK((file != NULL) == (diagnostics_error_count(ir->diagnostics) == 0));
    if (file) {
        read_all(arena, file);
        tensor_file_close(file);
        read_columns(arena, ir->diagnostics, ir, path);
    }
    arena_destroy(arena);
    return 0;
}
