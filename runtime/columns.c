// Columns: the tensors of a safetensors file, bound by name to a program's inputs. See data.h.
#include <inttypes.h>
#include <string.h>

#include "runtime/data.h"

enum { CHECK_CHUNK = 1024, LIST_LIMIT = 12 };

// "x, label": the names in the file, for the message.
static const char *list_names(Arena *arena, const TensorFile *file) {
    const char *text = "";
    for (size_t i = 0; i < file->tensor_count && i < LIST_LIMIT; i++)
        text = arena_format(arena, "%s%s%.40s", text, i ? ", " : "", file->tensors[i].name);
    return file->tensor_count > LIST_LIMIT ? arena_format(arena, "%s, ...", text) : text;
}

static bool shape_fits(const StoredTensor *tensor, const Type *type) {
    if (tensor->rank != type->rank || type->rank == 0) return false;
    for (int i = 1; i < type->rank; i++)
        if (tensor->shape[i] != type->dimensions[i].extent) return false;
    return true;
}

// "f32[rows, pixel=784]"
static const char *wanted_text(Arena *arena, const Type *type) {
    const char *text = arena_format(arena, "%s[rows", element_name(type->element));
    for (int i = 1; i < type->rank; i++)
        text = arena_format(arena, "%s, %s=%" PRId64, text, type->dimensions[i].name, type->dimensions[i].extent);
    return arena_format(arena, "%s]", text);
}

static bool bind(Arena *arena, Diagnostics *diagnostics, const TensorFile *file, const ColumnRequest *request,
                 Column *column) {
    const StoredTensor *tensor = tensor_file_find(file, request->name);
    if (!tensor) {
        report_error(diagnostics, NO_PLACE, "E0704", "%s has no tensor %s", file->path, request->name);
        report_note(diagnostics, NO_PLACE, "it has %s", list_names(arena, file));
        return false;
    }
    if (!shape_fits(tensor, request->type) || !stored_convertible(tensor->element, request->type->element))
        return report_error(diagnostics, NO_PLACE, "E0705", "%s: %s is %s, the model needs %s", file->path,
                            request->name, stored_text(arena, tensor), wanted_text(arena, request->type));
    *column = (Column){.name = request->name, .tensor = tensor, .type = request->type,
                       .row_count = type_count(request->type) / request->type->dimensions[0].extent};
    return true;
}

// Labels and ids become indices in kernels, so each must lie below the limit.
static bool check_values(Diagnostics *diagnostics, const TensorFile *file, const Column *column, int64_t limit) {
    int64_t values[CHECK_CHUNK];
    if (limit <= 0 || !element_is_integer(column->type->element)) return true;
    for (int64_t first = 0; first < column->tensor->count; first += CHECK_CHUNK) {
        int64_t left = column->tensor->count - first;
        int64_t count = left < CHECK_CHUNK ? left : CHECK_CHUNK;
        stored_convert(column->tensor, first, count, ELEMENT_I64, values);
        for (int64_t i = 0; i < count; i++)
            if (values[i] < 0 || values[i] >= limit)
                return report_error(diagnostics, NO_PLACE, "E0706",
                                    "%s: %s holds %" PRId64 " in row %" PRId64 ", it must be at least 0 and below %" PRId64,
                                    file->path, column->name, values[i], (first + i) / column->row_count, limit);
    }
    return true;
}

bool column_set_open(Arena *arena, Diagnostics *diagnostics, const char *path, const ColumnRequest *requests,
                     size_t count, ColumnSet *set) {
    *set = (ColumnSet){.file = tensor_file_open(arena, diagnostics, path), .count = count};
    if (!set->file) return false;
    set->columns = ARENA_ARRAY(arena, Column, count + 1);
    bool good = true;
    for (size_t i = 0; i < count; i++) good &= bind(arena, diagnostics, set->file, &requests[i], &set->columns[i]);
    for (size_t i = 0; i < count && good; i++) {
        int64_t rows = set->columns[i].tensor->shape[0];
        if (i == 0) set->rows = rows;
        if (rows != set->rows)
            good = report_error(diagnostics, NO_PLACE, "E0705", "%s: %s has %" PRId64 " rows, %s has %" PRId64, path,
                                requests[0].name, set->rows, requests[i].name, rows);
        else if (rows == 0)
            good = report_error(diagnostics, NO_PLACE, "E0701", "%s: %s has no rows", path, requests[i].name);
        else
            good = check_values(diagnostics, set->file, &set->columns[i], requests[i].limit);
    }
    if (!good) column_set_close(set);
    return good;
}

void column_set_close(ColumnSet *set) {
    tensor_file_close(set->file);
    set->file = NULL;
}

void column_gather(const Column *column, const int64_t *rows, int64_t count, void *data) {
    int64_t bytes = column->row_count * element_bytes(column->type->element);
    for (int64_t i = 0; i < count; i++)
        stored_convert(column->tensor, rows[i] * column->row_count, column->row_count, column->type->element,
                       (char *)data + i * bytes);
}
