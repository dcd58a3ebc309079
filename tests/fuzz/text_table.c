// Tables of text: the first byte chooses the kind and the marks, the rest is the file. What opens has a mark
// for each token, ids below the vocabulary, and no more marks than bytes that a span can share.
#include "runtime/text_table.h"

#include <string.h>

#include "ir/ir.h"
#include "tests/fuzz/fuzz.h"

static void check(const TokenFile *file, const TextOptions *options) {
    CHECK(file->count > 0 && (file->marks != NULL) == (options->marks != TEXT_MARKS_NONE));
    for (int64_t i = 0; i < file->count; i++) {
        CHECK(token_at(file, i) < (uint32_t)tokenizer_bytes.vocabulary);
        if (!file->marks) continue;
        CHECK(file->marks[i] <= 1);
        bool separator = token_at(file, i) == (uint32_t)tokenizer_bytes.separator;
        if (options->marks == TEXT_MARKS_SPANS) CHECK(!(separator && file->marks[i]));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const TextOptions kinds[] = {
        {.format = TOKENS_LINES},
        {.format = TOKENS_TSV},
        {.format = TOKENS_TSV, .marks = TEXT_MARKS_SPANS},
        {.format = TOKENS_TSV, .marks = TEXT_MARKS_SPANS, .kinds = "PS,LC"},
        {.format = TOKENS_PAIRS, .marks = TEXT_MARKS_ANSWERS},
    };
    if (size < 1) return 0;
    Arena *arena = arena_create();
    Diagnostics *diagnostics = diagnostics_create(arena);
    TextOptions options = kinds[data[0] % 5];
    options.tokenizer = &tokenizer_bytes;
    TokenFile file;
    bool good = text_table_open(diagnostics, fuzz_file(data + 1, size - 1), &options, &file);
    CHECK(good == (diagnostics_error_count(diagnostics) == 0));
    if (good) {
        check(&file, &options);
        token_file_close(&file);
    }
    arena_destroy(arena);
    return 0;
}
