// Reading safetensors: see safetensors.h. The header is JSON from anywhere, so sizes are bounded before
// it is parsed, every number is checked before it is used, and the tensors must tile the data exactly.
#include "runtime/safetensors.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

enum {
    LENGTH_BYTES = 8,
    HEADER_LIMIT = 32 << 20,      // bytes; a tensor takes about 100
    STRUCTURE_LIMIT = 4 << 20,    // JSON values: each takes about 80 bytes when parsed
    STORED_RANK_LIMIT = 32,
    SHOWN_NAME = 120
};

typedef struct Reader {
    Arena *arena;
    Diagnostics *diagnostics;
    TensorFile *file;
    const char *header;
    size_t header_bytes;
    const unsigned char *data;
    int64_t data_bytes;
} Reader;

__attribute__((format(printf, 2, 3))) static bool broken(Reader *reader, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const char *text = arena_format_list(reader->arena, format, arguments);
    va_end(arguments);
    return report_error(reader->diagnostics, NO_PLACE, "E0805", "%s is not a valid safetensors file: %s",
                        reader->file->path, text);
}

// A name from the file, fit to be shown: it may hold anything, escape codes for the terminal too.
static const char *shown(Reader *reader, const char *name) {
    size_t length = strlen(name);
    char *copy = arena_copy(reader->arena, name, length < SHOWN_NAME ? length : SHOWN_NAME);
    for (char *at = copy; *at; at++)
        if ((unsigned char)*at < 32 || (unsigned char)*at >= 127) *at = '?';
    return copy;
}

// ---- The frame ----

// Checks the length and finds header and data.
static bool read_frame(Reader *reader) {
    const FileMap *map = &reader->file->map;
    if (map->bytes < LENGTH_BYTES) return broken(reader, "it has only %zu bytes", map->bytes);
    uint64_t length = 0;
    for (int i = 0; i < LENGTH_BYTES; i++) length |= (uint64_t)map->data[i] << (8 * i);
    if (length > map->bytes - LENGTH_BYTES)
        return broken(reader, "its header should have %llu bytes, the file has %zu after the length",
                      (unsigned long long)length, map->bytes - LENGTH_BYTES);
    if (length > HEADER_LIMIT)
        return broken(reader, "its header has %llu bytes, more than %d", (unsigned long long)length, HEADER_LIMIT);
    reader->header = (const char *)map->data + LENGTH_BYTES;
    reader->header_bytes = (size_t)length;
    reader->data = map->data + LENGTH_BYTES + length;
    reader->data_bytes = (int64_t)(map->bytes - LENGTH_BYTES - length);
    if (!length || *reader->header != '{') return broken(reader, "its header does not begin with {");

    size_t values = 0;  // an upper bound: text that holds these characters counts too
    for (size_t i = 0; i < reader->header_bytes; i++) {
        char c = reader->header[i];
        values += c == ',' || c == '[' || c == '{';
    }
    if (values > STRUCTURE_LIMIT) return broken(reader, "its header holds more than %d values", STRUCTURE_LIMIT);
    return true;
}

// ---- The header ----

// A whole number from 0 to 2^53, which doubles hold exactly.
static bool whole_number(const cJSON *item, int64_t *value) {
    if (!cJSON_IsNumber(item)) return false;
    double number = item->valuedouble;
    if (!(number >= 0 && number <= 0x1p53) || floor(number) != number) return false;
    *value = (int64_t)number;
    return true;
}

// The member `key`, which must be there once.
static const cJSON *find_member(const cJSON *object, const char *key) {
    const cJSON *found = NULL;
    for (const cJSON *item = object->child; item; item = item->next) {
        if (strcmp(item->string, key) != 0) continue;
        if (found) return NULL;
        found = item;
    }
    return found;
}

static bool read_element(Reader *reader, const cJSON *entry, StoredTensor *tensor) {
    const cJSON *item = find_member(entry, "dtype");
    if (!cJSON_IsString(item)) return broken(reader, "tensor %s has no dtype", shown(reader, tensor->name));
    for (int i = 0; i < STORED_COUNT; i++) {
        tensor->element = (StoredElement)i;
        if (strcmp(item->valuestring, stored_name(tensor->element)) == 0) return true;
    }
    return broken(reader, "tensor %s has the unknown dtype %s", shown(reader, tensor->name),
                  shown(reader, item->valuestring));
}

static bool read_shape(Reader *reader, const cJSON *entry, StoredTensor *tensor) {
    const cJSON *item = find_member(entry, "shape");
    if (!cJSON_IsArray(item)) return broken(reader, "tensor %s has no shape", shown(reader, tensor->name));
    int64_t shape[STORED_RANK_LIMIT];
    tensor->count = 1;
    for (const cJSON *extent = item->child; extent; extent = extent->next) {
        if (tensor->rank == STORED_RANK_LIMIT)
            return broken(reader, "tensor %s has more than %d dimensions", shown(reader, tensor->name), STORED_RANK_LIMIT);
        if (!whole_number(extent, &shape[tensor->rank]))
            return broken(reader, "tensor %s has an extent that is no whole number", shown(reader, tensor->name));
        if (__builtin_mul_overflow(tensor->count, shape[tensor->rank], &tensor->count))
            return broken(reader, "tensor %s has a shape too large to count", shown(reader, tensor->name));
        tensor->rank++;
    }
    int64_t *copy = ARENA_ARRAY(reader->arena, int64_t, tensor->rank + 1);
    memcpy(copy, shape, sizeof *shape * (size_t)tensor->rank);
    tensor->shape = copy;
    return true;
}

static bool read_offsets(Reader *reader, const cJSON *entry, StoredTensor *tensor) {
    const cJSON *item = find_member(entry, "data_offsets");
    const cJSON *first = cJSON_IsArray(item) ? item->child : NULL;
    int64_t begin = 0, end = 0, bytes = 0;
    if (!first || !first->next || first->next->next || !whole_number(first, &begin) || !whole_number(first->next, &end))
        return broken(reader, "tensor %s has no two data_offsets", shown(reader, tensor->name));
    if (begin > end || end > reader->data_bytes)
        return broken(reader, "tensor %s lies at bytes %lld to %lld of %lld: the file is cut short or damaged",
                      shown(reader, tensor->name), (long long)begin, (long long)end, (long long)reader->data_bytes);
    if (__builtin_mul_overflow(tensor->count, (int64_t)stored_bytes(tensor->element), &bytes) || bytes != end - begin)
        return broken(reader, "tensor %s is %s and lies in %lld bytes", shown(reader, tensor->name),
                      stored_text(reader->arena, tensor), (long long)(end - begin));
    tensor->data = reader->data + begin;
    return true;
}

static bool read_tensor(Reader *reader, const cJSON *entry) {
    StoredTensor *tensor = &reader->file->tensors[reader->file->tensor_count++];
    tensor->name = arena_copy(reader->arena, entry->string, strlen(entry->string));
    if (!cJSON_IsObject(entry)) return broken(reader, "tensor %s is not an object", shown(reader, tensor->name));
    return read_element(reader, entry, tensor) && read_shape(reader, entry, tensor) &&
           read_offsets(reader, entry, tensor);
}

static bool read_metadata(Reader *reader, const cJSON *object) {
    TensorFile *file = reader->file;
    if (!cJSON_IsObject(object) || file->metadata) return broken(reader, "__metadata__ is not one object");
    file->metadata = ARENA_ARRAY(reader->arena, StoredText, cJSON_GetArraySize(object) + 1);
    for (const cJSON *item = object->child; item; item = item->next) {
        if (!cJSON_IsString(item)) return broken(reader, "__metadata__ holds something other than text");
        file->metadata[file->metadata_count++] =
            (StoredText){.key = arena_copy(reader->arena, item->string, strlen(item->string)),
                         .value = arena_copy(reader->arena, item->valuestring, strlen(item->valuestring))};
    }
    return true;
}

static bool read_entries(Reader *reader, const cJSON *root) {
    if (!cJSON_IsObject(root)) return broken(reader, "its header is not an object");
    reader->file->tensors = ARENA_ARRAY(reader->arena, StoredTensor, cJSON_GetArraySize(root) + 1);
    for (const cJSON *entry = root->child; entry; entry = entry->next) {
        bool metadata = strcmp(entry->string, "__metadata__") == 0;
        if (!(metadata ? read_metadata(reader, entry) : read_tensor(reader, entry))) return false;
    }
    return true;
}

static bool read_header(Reader *reader) {
    const char *end = NULL;
    cJSON *root = cJSON_ParseWithLengthOpts(reader->header, reader->header_bytes, &end, false);
    bool good = root != NULL;
    if (!good) {
        size_t at = end ? (size_t)(end - reader->header) : 0;
        broken(reader, "its header is not valid JSON at byte %zu", at);
    }
    for (const char *at = end; good && at < reader->header + reader->header_bytes; at++)
        if (!strchr(" \t\r\n", *at) || !*at) good = broken(reader, "its header goes on after the last }");
    good = good && read_entries(reader, root);
    cJSON_Delete(root);
    return good;
}

// ---- The whole ----

static int compare_tensors(const void *left, const void *right) {
    const StoredTensor *a = left, *b = right;
    if (a->data != b->data) return a->data < b->data ? -1 : 1;
    return a->count < b->count ? -1 : a->count > b->count;  // empty ones first
}

// The tensors lie side by side: no overlap, no hole, nothing after the last.
static bool check_tiling(Reader *reader) {
    TensorFile *file = reader->file;
    if (file->tensor_count) qsort(file->tensors, file->tensor_count, sizeof *file->tensors, compare_tensors);
    const unsigned char *expected = reader->data;
    for (size_t i = 0; i < file->tensor_count; i++) {
        const StoredTensor *tensor = &file->tensors[i];
        if (tensor->data != expected)
            return broken(reader, "tensor %s begins at byte %lld of the data, %lld expected",
                          shown(reader, tensor->name), (long long)(tensor->data - reader->data),
                          (long long)(expected - reader->data));
        expected += tensor->count * stored_bytes(tensor->element);
    }
    if (expected != reader->data + reader->data_bytes)
        return broken(reader, "%lld bytes of data belong to no tensor",
                      (long long)(reader->data + reader->data_bytes - expected));
    return true;
}

static uint32_t *find_slot(const TensorFile *file, const char *name) {
    size_t slot = hash_text(HASH_START, name) & (file->table_size - 1);
    while (file->table[slot] != UINT32_MAX && strcmp(file->tensors[file->table[slot]].name, name) != 0)
        slot = (slot + 1) & (file->table_size - 1);
    return &file->table[slot];
}

static bool index_names(Reader *reader) {
    TensorFile *file = reader->file;
    file->table_size = 16;
    while (file->table_size < 2 * file->tensor_count) file->table_size *= 2;
    file->table = ARENA_ARRAY(reader->arena, uint32_t, file->table_size);
    memset(file->table, 0xff, file->table_size * sizeof *file->table);
    for (size_t i = 0; i < file->tensor_count; i++) {
        uint32_t *slot = find_slot(file, file->tensors[i].name);
        if (*slot != UINT32_MAX)
            return broken(reader, "it has two tensors called %s", shown(reader, file->tensors[i].name));
        *slot = (uint32_t)i;
    }
    return true;
}

TensorFile *tensor_file_open(Arena *arena, Diagnostics *diagnostics, const char *path) {
    TensorFile *file = ARENA_NEW(arena, TensorFile);
    file->path = arena_copy(arena, path, strlen(path));
    if (!file_map(diagnostics, path, &file->map)) return NULL;
    Reader reader = {.arena = arena, .diagnostics = diagnostics, .file = file};
    if (read_frame(&reader) && read_header(&reader) && check_tiling(&reader) && index_names(&reader)) return file;
    tensor_file_close(file);
    return NULL;
}

void tensor_file_close(TensorFile *file) {
    if (file) file_unmap(&file->map);
}

const StoredTensor *tensor_file_find(const TensorFile *file, const char *name) {
    uint32_t index = *find_slot(file, name);
    return index == UINT32_MAX ? NULL : &file->tensors[index];
}

const char *tensor_file_metadata(const TensorFile *file, const char *key) {
    for (size_t i = 0; i < file->metadata_count; i++)
        if (strcmp(file->metadata[i].key, key) == 0) return file->metadata[i].value;
    return NULL;
}

const char *stored_text(Arena *arena, const StoredTensor *tensor) {
    char *text = arena_format(arena, "%s[", stored_name(tensor->element));
    for (int i = 0; i < tensor->rank; i++)
        text = arena_format(arena, "%s%s%lld", text, i ? ", " : "", (long long)tensor->shape[i]);
    return arena_format(arena, "%s]", text);
}
