// Token files: the first byte chooses the format, the rest is the file. What opens can be cut into batches;
// no id that is not below the vocabulary ever comes out.
#include "ir/ir.h"
#include "runtime/data.h"
#include "tests/fuzz/fuzz.h"
#include "tests/token_batches.h"

enum { ROWS = 3, TIME = 5, VOCABULARY = 300 };

static void check_ids(const int32_t *ids) {
    for (int i = 0; i < ROWS * TIME; i++) CHECK(ids[i] >= 0 && ids[i] < VOCABULARY);
}

static void read_part(Diagnostics *diagnostics, const TokenPart *part) {
    int32_t tokens[ROWS * TIME], targets[ROWS * TIME];
    bool marks[ROWS * TIME];
    bool good_ids = token_part_check_ids(diagnostics, part, VOCABULARY);
    if (token_part_check(diagnostics, part, TIME + 1, "the part")) {
        for (int step = 0; step < 3; step++) {
            bool good = token_batch(diagnostics, part, 7, step, 0, ROWS, TIME, VOCABULARY, tokens, targets);
            CHECK(good || !good_ids);
            if (!good) continue;
            check_ids(tokens);
            check_ids(targets);
        }
    }
    int64_t windows = token_sequence_windows(part, TIME), total = 0;
    for (int64_t first = 0; first < windows; first += ROWS) {
        int64_t counted = 0;
        bool good = token_sequence_batch(diagnostics, part, first, ROWS, TIME, VOCABULARY, tokens, targets, marks,
                                         &counted);
        CHECK(good || !good_ids);
        if (!good) return;
        check_ids(tokens);
        check_ids(targets);
        total += counted;
    }
    CHECK(!windows || total == part->end - part->begin - 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    Arena *arena = arena_create();
    Diagnostics *diagnostics = diagnostics_create(arena);
    TokenFile file;
    if (token_file_open(diagnostics, fuzz_file(data + 1, size - 1), (TokenFormat)(data[0] % (TOKENS_LLMC + 1)), &file)) {
        TokenPart train, valid;
        token_file_split(&file, 0.25, &train, &valid);
        read_part(diagnostics, &train);
        read_part(diagnostics, &valid);
        token_file_close(&file);
    }
    arena_destroy(arena);
    return 0;
}
