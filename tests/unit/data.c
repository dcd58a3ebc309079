// Data: formats, windows that are a function of seed and step, evaluation that counts every token once,
// columns by name, and files that are wrong.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/data.h"
#include "tests/token_batches.h"

typedef struct Fixture {
    Arena *arena;
    Ir *ir;
    Diagnostics *diagnostics;
    char *folder;
} Fixture;

static int set_up(void **state) {
    Fixture *fixture = calloc(1, sizeof *fixture);
    fixture->arena = arena_create();
    fixture->ir = ir_create(fixture->arena);
    fixture->diagnostics = fixture->ir->diagnostics;
    fixture->folder = arena_format(fixture->arena, "/tmp/cherry-data-XXXXXX");
    *state = fixture;
    return mkdtemp(fixture->folder) ? 0 : -1;
}

static int tear_down(void **state) {
    Fixture *fixture = *state;
    int status = system(arena_format(fixture->arena, "rm -rf '%s'", fixture->folder));
    arena_destroy(fixture->arena);
    free(fixture);
    return status;
}

static const char *write_file(Fixture *fixture, const char *name, const void *data, size_t bytes) {
    const char *path = arena_format(fixture->arena, "%s/%s", fixture->folder, name);
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(data, 1, bytes, stream), bytes);
    fclose(stream);
    return path;
}

static void expect_error(Fixture *fixture, const char *code, const char *text) {
    size_t count = diagnostics_count(fixture->diagnostics);
    assert_true(count > 0);
    const Message *last = diagnostics_message(fixture->diagnostics, count - 1);
    while (last->severity != SEVERITY_ERROR) last--;
    assert_string_equal(last->code, code);
    if (!strstr(last->text, text)) fail_msg("'%s' lacks '%s'", last->text, text);
}

static void test_formats(void **state) {
    Fixture *fixture = *state;
    TokenFile file;
    assert_true(token_file_open(fixture->diagnostics, write_file(fixture, "a.txt", "abc", 3), TOKENS_DETECT, &file));
    assert_true(file.format == TOKENS_BYTES && file.count == 3 && token_at(&file, 2) == 'c');
    token_file_close(&file);

    uint16_t narrow[4] = {1, 2, 50256, 65535};
    assert_true(token_file_open(fixture->diagnostics, write_file(fixture, "a.bin", narrow, 8), TOKENS_DETECT, &file));
    assert_true(file.format == TOKENS_U16 && file.count == 4 && token_at(&file, 3) == 65535);
    token_file_close(&file);

    uint32_t wide[300] = {[0] = 20240520, [1] = 1, [2] = 4, [256] = 7 | 8 << 16, [257] = 9 | 10 << 16};
    assert_true(token_file_open(fixture->diagnostics, write_file(fixture, "b.bin", wide, 1032), TOKENS_DETECT, &file));
    assert_true(file.format == TOKENS_LLMC && file.count == 4 && token_at(&file, 0) == 7 && token_at(&file, 3) == 10);
    token_file_close(&file);

    wide[0] = 20240801, wide[1] = 7, wide[2] = 3, wide[257] = 128000;
    assert_true(token_file_open(fixture->diagnostics, write_file(fixture, "c.txt", wide, 1036), TOKENS_DETECT, &file));
    assert_true(file.format == TOKENS_LLMC && file.width == 4 && token_at(&file, 1) == 128000);
    token_file_close(&file);
    assert_true(token_file_open(fixture->diagnostics, write_file(fixture, "d", wide, 1036), TOKENS_U32, &file));
    assert_int_equal(file.count, 259);
    token_file_close(&file);
    assert_int_equal(diagnostics_count(fixture->diagnostics), 0);

    wide[2] = 4;
    assert_false(token_file_open(fixture->diagnostics, write_file(fixture, "e.bin", wide, 1036), TOKENS_DETECT, &file));
    expect_error(fixture, "E0702", "should hold 4 tokens of 4 bytes and holds 12 bytes");
    wide[1] = 2;
    assert_false(token_file_open(fixture->diagnostics, write_file(fixture, "e.bin", wide, 1036), TOKENS_DETECT, &file));
    expect_error(fixture, "E0702", "version 2 of the llm.c format, 7 is known");
    assert_false(token_file_open(fixture->diagnostics, write_file(fixture, "e.bin", "abc", 3), TOKENS_DETECT, &file));
    expect_error(fixture, "E0702", "has 3 bytes, no multiple of the 2");
    assert_false(token_file_open(fixture->diagnostics, write_file(fixture, "e.bin", "abcd", 4), TOKENS_LLMC, &file));
    expect_error(fixture, "E0702", "no llm.c header");
    assert_false(token_file_open(fixture->diagnostics, write_file(fixture, "e.txt", "", 0), TOKENS_DETECT, &file));
    expect_error(fixture, "E0701", "holds no tokens");
    assert_null(file.map.data);
    TokenFormat format;
    assert_true(token_format_parse("u16", &format) && format == TOKENS_U16);
    assert_false(token_format_parse("u8", &format));
}

// Random bytes against every format: an error or a file whose tokens can all be read.
static void test_every_prefix(void **state) {
    Fixture *fixture = *state;
    uint32_t wide[260] = {[0] = 20240520, [1] = 1, [2] = 8};
    for (size_t bytes = 0; bytes <= sizeof wide; bytes += bytes < 1000 ? 41 : 1)
        for (int format = TOKENS_DETECT; format <= TOKENS_LLMC; format++) {
            TokenFile file;
            if (!token_file_open(fixture->diagnostics, write_file(fixture, "p", wide, bytes), (TokenFormat)format, &file))
                continue;
            TokenPart whole = token_file_whole(&file);
            assert_true(token_part_check_ids(fixture->diagnostics, &whole, INT64_C(1) << 32));
            token_file_close(&file);
        }
}

static TokenFile open_counting(Fixture *fixture, int count) {
    uint16_t *tokens = calloc((size_t)count, 2);
    for (int i = 0; i < count; i++) tokens[i] = (uint16_t)i;
    TokenFile file;
    assert_true(token_file_open(fixture->diagnostics, write_file(fixture, "count.bin", tokens, 2 * (size_t)count),
                                TOKENS_DETECT, &file));
    free(tokens);
    return file;
}

enum { ROWS = 4, TIME = 8 };

static void test_windows(void **state) {
    Fixture *fixture = *state;
    TokenFile file = open_counting(fixture, 1000);
    TokenPart train, valid;
    token_file_split(&file, 0.1, &train, &valid);
    assert_true(train.begin == 0 && train.end == 900 && valid.begin == 900 && valid.end == 1000);
    int32_t tokens[ROWS * TIME], targets[ROWS * TIME], again[ROWS * TIME], more[2 * TIME];
    int64_t lowest = 1000, highest = 0;
    bool seen_first = false, seen_last = false;
    for (int64_t step = 0; step < 2000; step++) {
        assert_true(token_batch(fixture->diagnostics, &train, 42, step, 0, ROWS, TIME, 1000, tokens, targets));
        for (int row = 0; row < ROWS; row++) {
            assert_int_equal(tokens[row * TIME], token_window(&train, 42, step, row, TIME));
            for (int i = 0; i < TIME; i++) {
                assert_int_equal(tokens[row * TIME + i], tokens[row * TIME] + i);
                assert_int_equal(targets[row * TIME + i], tokens[row * TIME] + i + 1);
            }
            lowest = tokens[row * TIME] < lowest ? tokens[row * TIME] : lowest;
            highest = targets[row * TIME + TIME - 1] > highest ? targets[row * TIME + TIME - 1] : highest;
        }
        seen_first |= lowest == 0;
        seen_last |= highest == 899;
        assert_true(highest <= 899);
    }
    assert_true(seen_first && seen_last);
    // A function of seed, step and row: the same again, in two halves too, and other for others.
    assert_true(token_batch(fixture->diagnostics, &train, 42, 1999, 0, ROWS, TIME, 1000, again, targets));
    assert_memory_equal(tokens, again, sizeof tokens);
    assert_true(token_batch(fixture->diagnostics, &train, 42, 1999, 2, 2, TIME, 1000, more, targets));
    assert_memory_equal(tokens + 2 * TIME, more, sizeof more);
    assert_true(token_batch(fixture->diagnostics, &train, 43, 1999, 0, ROWS, TIME, 1000, again, targets));
    assert_memory_not_equal(tokens, again, sizeof tokens);
    // The held-out part is read from its own stretch.
    assert_true(token_batch(fixture->diagnostics, &valid, 1, 0, 0, ROWS, TIME, 1000, tokens, targets));
    for (int row = 0; row < ROWS; row++) assert_true(tokens[row * TIME] >= 900);
    token_file_close(&file);
}

// Written down once: another generator of windows would make old runs impossible to repeat.
static void test_windows_are_settled(void **state) {
    (void)state;
    TokenPart part = {.begin = 0, .end = 1000000};
    assert_int_equal(token_window(&part, 1, 0, 0, 256), 594622);
    assert_int_equal(token_window(&part, 1, 1, 0, 256), 491693);
    assert_int_equal(token_window(&part, 7, 1000, 3, 256), 497384);
}

static void test_too_short(void **state) {
    Fixture *fixture = *state;
    TokenFile file = open_counting(fixture, 9);
    TokenPart part = token_file_whole(&file);
    int32_t tokens[TIME], targets[TIME];
    assert_true(token_part_check(fixture->diagnostics, &part, 9, "the training part"));
    assert_true(token_batch(fixture->diagnostics, &part, 1, 1, 0, 1, TIME, 9, tokens, targets));
    assert_int_equal(tokens[0], 0);
    assert_false(token_part_check(fixture->diagnostics, &part, 10, "the training part"));
    expect_error(fixture, "E0701", "the training part has 9 tokens, one window needs 10");
    token_file_close(&file);
}

static void test_ids(void **state) {
    Fixture *fixture = *state;
    TokenFile file = open_counting(fixture, 600);
    TokenPart part = token_file_whole(&file);
    assert_true(token_part_check_ids(fixture->diagnostics, &part, 600));
    assert_true(token_part_check_ids(fixture->diagnostics, &part, 65536));
    assert_false(token_part_check_ids(fixture->diagnostics, &part, 512));
    expect_error(fixture, "E0703", "token 512 at byte 1024 is not below the vocabulary of 512");
    int32_t tokens[TIME], targets[TIME];
    int64_t counted;
    bool marks[TIME];
    assert_false(token_sequence_batch(fixture->diagnostics, &part, 63, 1, TIME, 512, tokens, targets, marks, &counted));
    assert_false(token_sequence_batch(fixture->diagnostics, &part, 73, 1, TIME, 512, tokens, targets, marks, &counted));
    token_file_close(&file);
}

// Each token but the first is the target of exactly one window, whatever divides or does not.
static void test_every_token_once(void **state) {
    Fixture *fixture = *state;
    for (int count = 2; count < 60; count++) {
        TokenFile file = open_counting(fixture, count);
        TokenPart part = token_file_whole(&file);
        for (int time = 1; time <= TIME; time++) {
            int seen[60] = {0};
            int64_t windows = token_sequence_windows(&part, time), total = 0;
            for (int64_t first = 0; first < windows; first += ROWS) {
                int32_t tokens[ROWS * TIME], targets[ROWS * TIME];
                bool weights[ROWS * TIME];
                int64_t counted;
                assert_true(token_sequence_batch(fixture->diagnostics, &part, first, ROWS, time, count, tokens,
                                                 targets, weights, &counted));
                for (int i = 0; i < ROWS * time; i++) {
                    if (weights[i] == 0) assert_true(tokens[i] == 0 && targets[i] == 0);
                    else seen[targets[i]]++, assert_int_equal(tokens[i] + 1, targets[i]);
                    counted -= weights[i] == 1;
                    total += weights[i] == 1;
                }
                assert_int_equal(counted, 0);
            }
            assert_int_equal(total, count - 1);
            assert_int_equal(seen[0], 0);
            for (int i = 1; i < count; i++) assert_int_equal(seen[i], 1);
        }
        token_file_close(&file);
    }
    TokenPart one = {.begin = 5, .end = 6};
    assert_int_equal(token_sequence_windows(&one, 4), 0);
}

// ---- Columns ----

enum { ITEMS = 10, WIDTH = 3 };

static const char *write_columns(Fixture *fixture, int64_t label_rows) {
    static float x[ITEMS * WIDTH];
    static uint8_t label[ITEMS];
    for (int i = 0; i < ITEMS * WIDTH; i++) x[i] = (float)i;
    for (int i = 0; i < ITEMS; i++) label[i] = (uint8_t)(i % 5);
    TensorSource sources[] = {
        {.name = "x", .element = STORED_F32, .rank = 2, .shape = {ITEMS, WIDTH}, .data = x},
        {.name = "label", .element = STORED_U8, .rank = 1, .shape = {label_rows}, .data = label}};
    const char *path = arena_format(fixture->arena, "%s/columns.safetensors", fixture->folder);
    assert_true(tensor_file_write(fixture->diagnostics, path, sources, 2, NULL, 0));
    return path;
}

static const Type *make_type(Fixture *fixture, Element element, int rank, int64_t width) {
    Dimension dimensions[2] = {{.name = names_intern(fixture->ir->names, "batch"), .extent = 4},
                               {.name = names_intern(fixture->ir->names, "pixel"), .extent = width}};
    return type_make(fixture->ir, element, rank, dimensions);
}

static void test_columns(void **state) {
    Fixture *fixture = *state;
    const char *path = write_columns(fixture, ITEMS);
    ColumnRequest requests[] = {{"label", make_type(fixture, ELEMENT_I32, 1, 0), 5},
                                {"x", make_type(fixture, ELEMENT_F64, 2, WIDTH), 0}};
    ColumnSet set;
    assert_true(column_set_open(fixture->arena, fixture->diagnostics, path, requests, 2, &set));
    assert_int_equal(set.rows, ITEMS);
    int64_t rows[3] = {9, 0, 4};
    int32_t labels[3];
    double x[3 * WIDTH];
    column_gather(&set.columns[0], rows, 3, labels);
    column_gather(&set.columns[1], rows, 3, x);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(labels[i], rows[i] % 5);
        for (int k = 0; k < WIDTH; k++) assert_true(x[i * WIDTH + k] == (double)(rows[i] * WIDTH + k));
    }
    column_set_close(&set);

    requests[0].limit = 4;
    assert_false(column_set_open(fixture->arena, fixture->diagnostics, path, requests, 2, &set));
    expect_error(fixture, "E0706", "label holds 4 in row 4, it must be at least 0 and below 4");
    requests[0] = (ColumnRequest){"y", requests[0].type, 0};
    assert_false(column_set_open(fixture->arena, fixture->diagnostics, path, requests, 2, &set));
    expect_error(fixture, "E0704", "has no tensor y");
    requests[0] = (ColumnRequest){"x", make_type(fixture, ELEMENT_F32, 2, 4), 0};
    assert_false(column_set_open(fixture->arena, fixture->diagnostics, path, requests, 2, &set));
    expect_error(fixture, "E0705", "x is F32[10, 3], the model needs f32[rows, pixel=4]");
    requests[0].type = make_type(fixture, ELEMENT_I32, 2, WIDTH);
    assert_false(column_set_open(fixture->arena, fixture->diagnostics, path, requests, 2, &set));
    expect_error(fixture, "E0705", "x is F32[10, 3], the model needs i32[rows, pixel=3]");
    requests[0] = (ColumnRequest){"label", make_type(fixture, ELEMENT_I32, 1, 0), 5};
    path = write_columns(fixture, ITEMS - 1);
    assert_false(column_set_open(fixture->arena, fixture->diagnostics, path, requests, 2, &set));
    expect_error(fixture, "E0705", "label has 9 rows, x has 10");
    path = write_columns(fixture, 0);
    assert_false(column_set_open(fixture->arena, fixture->diagnostics, path, requests, 1, &set));
    expect_error(fixture, "E0701", "label has no rows");
}

// Every pass over the rows sees each once, in an order of its own.
static void test_shuffled_rows(void **state) {
    (void)state;
    for (int64_t count = 1; count < 70; count++) {
        RowPart part = {.begin = 100, .end = 100 + count};
        int64_t order[2][70], step = 0, slot = 0;
        for (int pass = 0; pass < 2; pass++) {
            int seen[70] = {0};
            for (int64_t i = 0; i < count; i++) {
                int64_t row = row_shuffled(&part, 5, step, slot, 3);
                assert_true(row >= 100 && row < 100 + count);
                seen[row - 100]++;
                order[pass][i] = row;
                if (++slot == 3) slot = 0, step++;
            }
            for (int64_t i = 0; i < count; i++) assert_int_equal(seen[i], 1);
        }
        if (count > 8) assert_memory_not_equal(order[0], order[1], sizeof *order[0] * (size_t)count);
    }
    RowPart train, valid;
    row_split(10, 0.25, &train, &valid);
    assert_true(train.end == 8 && valid.begin == 8 && valid.end == 10);
    row_split(10, 0, &train, &valid);
    assert_true(train.end == 10 && valid.begin == 10);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_formats), TEST(test_every_prefix), TEST(test_windows), TEST(test_windows_are_settled),
        TEST(test_too_short), TEST(test_ids), TEST(test_every_token_once), TEST(test_columns), TEST(test_shuffled_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
