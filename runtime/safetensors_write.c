// Writing safetensors: the header is made in memory, the data goes from where it lies to the file.
#include <stdlib.h>
#include <string.h>

#include "runtime/safetensors.h"

enum { DATA_ALIGNMENT = 64, LENGTH_BYTES = 8 };

static void write_text(FILE *stream, const char *text) {
    fputc('"', stream);
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
        if (*at == '"' || *at == '\\') fprintf(stream, "\\%c", *at);
        else if (*at < 32 || *at == 127) fprintf(stream, "\\u%04x", *at);
        else fputc(*at, stream);
    }
    fputc('"', stream);
}

static int64_t source_bytes(const TensorSource *tensor) {
    int64_t count = 1;
    for (int i = 0; i < tensor->rank; i++) count *= tensor->shape[i];
    return count * stored_bytes(tensor->element);
}

static void write_tensor(FILE *stream, const TensorSource *tensor, int64_t begin) {
    write_text(stream, tensor->name);
    fprintf(stream, ":{\"dtype\":\"%s\",\"shape\":[", stored_name(tensor->element));
    for (int i = 0; i < tensor->rank; i++) fprintf(stream, "%s%lld", i ? "," : "", (long long)tensor->shape[i]);
    fprintf(stream, "],\"data_offsets\":[%lld,%lld]}", (long long)begin, (long long)(begin + source_bytes(tensor)));
}

// The length and the header, padded with spaces so that the data begin on a multiple of DATA_ALIGNMENT.
// The caller frees it.
static char *make_header(const TensorSource *tensors, size_t tensor_count, const StoredText *metadata,
                         size_t metadata_count, size_t *bytes) {
    char *header = NULL;
    FILE *stream = open_memstream(&header, bytes);
    CHECK(stream);
    fwrite("\0\0\0\0\0\0\0\0", 1, LENGTH_BYTES, stream);
    fputc('{', stream);
    if (metadata_count) fputs("\"__metadata__\":{", stream);
    for (size_t i = 0; i < metadata_count; i++) {
        if (i) fputc(',', stream);
        write_text(stream, metadata[i].key);
        fputc(':', stream);
        write_text(stream, metadata[i].value);
    }
    if (metadata_count) fputs(tensor_count ? "}," : "}", stream);
    int64_t begin = 0;
    for (size_t i = 0; i < tensor_count; i++) {
        if (i) fputc(',', stream);
        write_tensor(stream, &tensors[i], begin);
        begin += source_bytes(&tensors[i]);
    }
    fputc('}', stream);
    while (ftell(stream) % DATA_ALIGNMENT) fputc(' ', stream);
    CHECK(fclose(stream) == 0 && header);
    uint64_t length = *bytes - LENGTH_BYTES;
    for (int i = 0; i < LENGTH_BYTES; i++) header[i] = (char)(length >> (8 * i) & 255);
    return header;
}

static int compare_names(const void *left, const void *right) {
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

static bool check_distinct(Diagnostics *diagnostics, const char *path, const TensorSource *tensors, size_t count) {
    const char **names = calloc(count + 1, sizeof *names);
    CHECK(names);
    for (size_t i = 0; i < count; i++) names[i] = tensors[i].name;
    qsort(names, count, sizeof *names, compare_names);
    bool good = true;
    for (size_t i = 1; i < count && good; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            good = report_error(diagnostics, NO_PLACE, "E0808", "cannot write %s: two tensors would be called %s", path,
                                names[i]);
    free(names);
    return good;
}

bool tensor_file_write(Diagnostics *diagnostics, const char *path, const TensorSource *tensors, size_t tensor_count,
                       const StoredText *metadata, size_t metadata_count) {
    if (!check_distinct(diagnostics, path, tensors, tensor_count)) return false;
    FileWriter *writer = file_create(diagnostics, path);
    if (!writer) return false;
    size_t bytes = 0;
    char *header = make_header(tensors, tensor_count, metadata, metadata_count, &bytes);
    bool good = file_write(writer, header, bytes);
    free(header);
    for (size_t i = 0; i < tensor_count && good; i++)
        good = file_write(writer, tensors[i].data, (size_t)source_bytes(&tensors[i]));
    if (good) return file_commit(writer);
    file_abandon(writer);
    return false;
}
