// Random choices, tokens and their printing, metrics and the progress line.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "runtime/metrics.h"
#include "runtime/random.h"
#include "runtime/tokens.h"

// ---- Random ----

// Expected values from a Python model of the definition in random.h (arbitrary precision integers).
static void test_bits_are_settled(void **state) {
    (void)state;
    assert_true(random_bits(0, 0, 0) == UINT64_C(0x80abe802ac1e182e));
    assert_true(random_bits(42, 1, 7) == UINT64_C(0x2c71c475b9e61a94));
    assert_true(random_uniform(42, 3, 0) == 0x1.014ee842dcbcbp-1);
}

static void test_uniform(void **state) {
    (void)state;
    int counts[10] = {0};
    for (uint64_t i = 0; i < 100000; i++) {
        double u = random_uniform(1, 2, i);
        assert_true(u >= 0 && u < 1);
        counts[(int)(u * 10)]++;
        assert_true(random_below(random_bits(1, 3, i), 7) < 7);
    }
    for (int i = 0; i < 10; i++) assert_true(abs(counts[i] - 10000) < 500);
    assert_int_equal(random_below(UINT64_MAX, INT64_MAX), INT64_MAX - 1);
    assert_int_equal(random_below(UINT64_MAX, 1), 0);
}

static void test_large_permutation(void **state) {
    (void)state;
    enum { COUNT = 5000 };
    static bool seen[COUNT];
    int64_t moved = 0;
    for (int64_t i = 0; i < COUNT; i++) {
        int64_t to = random_permutation(3, COUNT, i);
        assert_true(to >= 0 && to < COUNT && !seen[to]);
        seen[to] = true;
        moved += llabs(to - i);
    }
    assert_true(llabs(moved / COUNT - COUNT / 3) < COUNT / 20);  // mean distance of a random one
    int64_t huge = INT64_C(1) << 50;
    int64_t to = random_permutation(3, huge, huge - 1);
    assert_true(to >= 0 && to < huge);
}

enum { VOCABULARY = 6 };
static const float logits[VOCABULARY] = {0, 2, 1, 2, -1, -INFINITY};

static void expect_shares(Sampling sampling, const double *shares) {
    enum { DRAWS = 40000 };
    int counts[VOCABULARY] = {0};
    int32_t order[VOCABULARY];
    for (uint64_t i = 0; i < DRAWS; i++) counts[random_sample(&sampling, i, logits, VOCABULARY, order)]++;
    for (int i = 0; i < VOCABULARY; i++) {
        if (shares[i] == 0) assert_int_equal(counts[i], 0);
        else assert_true(fabs((double)counts[i] / DRAWS - shares[i]) < 0.01);
    }
}

static void test_sampling(void **state) {
    (void)state;
    int32_t order[VOCABULARY];
    Sampling sampling = {.temperature = 0, .seed = 9};
    assert_int_equal(random_sample(&sampling, 0, logits, VOCABULARY, order), 1);
    double e = exp(1), sum = 1 + 2 * e * e + e + 1 / e;
    sampling.temperature = 1;
    expect_shares(sampling, (double[]){1 / sum, e * e / sum, e / sum, e * e / sum, 1 / e / sum, 0});
    sampling.top_k = 3;
    sum = 2 * e * e + e;
    expect_shares(sampling, (double[]){0, e * e / sum, e / sum, e * e / sum, 0, 0});
    sampling.top_k = 1;
    expect_shares(sampling, (double[]){0, 1, 0, 0, 0, 0});
    sampling.top_k = 0, sampling.top_p = 0.5;  // each of the best two has 0.39
    expect_shares(sampling, (double[]){0, 0.5, 0, 0.5, 0, 0});
    sampling.top_p = 0.1;
    expect_shares(sampling, (double[]){0, 1, 0, 0, 0, 0});
    sampling.top_k = 3, sampling.top_p = 0.9;  // 0.42 + 0.42 is below 0.9
    expect_shares(sampling, (double[]){0, e * e / sum, e / sum, e * e / sum, 0, 0});
    sampling.top_p = 0.8;
    expect_shares(sampling, (double[]){0, 0.5, 0, 0.5, 0, 0});
    sampling = (Sampling){.temperature = 0.01, .seed = 9};
    expect_shares(sampling, (double[]){0, 0.5, 0, 0.5, 0, 0});
    sampling.temperature = 1e6;
    expect_shares(sampling, (double[]){0.2, 0.2, 0.2, 0.2, 0.2, 0});
}

static void test_sampling_extremes(void **state) {
    (void)state;
    int32_t order[4];
    Sampling sampling = {.temperature = 1};
    assert_int_equal(random_sample(&sampling, 0, (float[]){NAN, -INFINITY, NAN}, 3, order), -1);
    assert_int_equal(random_sample(&sampling, 0, (float[]){NAN, 1, NAN}, 3, order), 1);
    assert_int_equal(random_sample(&sampling, 0, (float[]){0, INFINITY, 3}, 3, order), 1);
    assert_int_equal(random_sample(&sampling, 0, (float[]){3e38f, -3e38f, 0}, 3, order), 0);
    assert_int_equal(random_sample(&sampling, 0, (float[]){5}, 1, order), 0);
    sampling.top_k = 99;
    sampling.top_p = 0.99;
    for (uint64_t i = 0; i < 100; i++) {
        int64_t token = random_sample(&sampling, i, (float[]){1, 1, 1, 1}, 4, order);
        assert_true(token >= 0 && token < 4);
        assert_int_equal(token, random_sample(&sampling, i, (float[]){1, 1, 1, 1}, 4, order));
    }
}

// The race with every time computed, in the order of the candidates.
static int64_t sample_plainly(const Sampling *sampling, uint64_t position, const float *values, int64_t count) {
    int64_t best = -1, chosen = -1;
    double least = INFINITY;
    for (int64_t i = 0; i < count; i++)
        if (values[i] > -INFINITY && (best < 0 || values[i] > values[best])) best = i;
    if (best < 0 || sampling->temperature == 0) return best;
    uint64_t key = random_bits(sampling->seed, STREAM_SAMPLING, position);
    for (int64_t i = 0; i < count; i++) {
        if (!(values[i] > -INFINITY)) continue;
        double share = exp(((double)values[i] - (double)values[best]) / sampling->temperature);
        double arrival = -log1p(-(double)(hash_word(key, (uint64_t)i) >> 11) * 0x1p-53) / share;
        if (arrival < least) least = arrival, chosen = i;
    }
    return chosen;
}

// What is left out of the race would not have won it; nor does a best one hide among lanes.
static void test_sampling_large(void **state) {
    (void)state;
    enum { MOST = 5003 };
    static float values[MOST];
    static int32_t order[MOST];
    for (uint64_t i = 0; i < 400; i++) {
        int64_t count = i % 4 ? MOST : (int64_t)(1 + i % 77);
        double spread = i % 3 ? 4 : 0.01;
        for (int64_t j = 0; j < count; j++)
            values[j] = (float)(spread * log(random_uniform(i, 1, (uint64_t)j) + 1e-3) * (j % 2 ? -1 : 1));
        if (i % 5 == 0) values[count / 2] = NAN, values[count / 3] = -INFINITY, values[count - 1] = values[0];
        Sampling sampling = {.temperature = i % 7 ? 0.8 : 0, .seed = i};
        assert_int_equal(random_sample(&sampling, i, values, count, order), sample_plainly(&sampling, i, values, count));
    }
}

// ---- Tokens ----

static void test_bytes(void **state) {
    (void)state;
    int32_t ids[4];
    assert_int_equal(tokenizer_encode(&tokenizer_bytes, "a\xff\0", 3, ids, 4), 3);
    assert_true(ids[0] == 'a' && ids[1] == 255 && ids[2] == 0);
    assert_int_equal(tokenizer_encode(&tokenizer_bytes, "abcdef", 6, ids, 2), 6);
    char byte;
    assert_int_equal(tokenizer_bytes.decode(&tokenizer_bytes, &(int32_t){255}, 1, &byte), 1);
    assert_int_equal((unsigned char)byte, 255);
    assert_int_equal(tokenizer_bytes.decode(&tokenizer_bytes, &(int32_t){256}, 1, &byte), 0);
    assert_int_equal(tokenizer_bytes.decode(&tokenizer_bytes, &(int32_t){-1}, 1, &byte), 0);
}

#define BAD "\xef\xbf\xbd"

// The same text whether the bytes come at once or one at a time.
static void expect_stream(const char *bytes, size_t length, const char *expected) {
    char whole[256], parts[256];
    TextStream stream = {0};
    size_t at = text_stream_push(&stream, bytes, length, whole);
    text_stream_end(&stream, whole + at);
    assert_string_equal(whole, expected);
    at = 0;
    for (size_t i = 0; i < length; i++) at += text_stream_push(&stream, bytes + i, 1, parts + at);
    text_stream_end(&stream, parts + at);
    assert_string_equal(parts, expected);
}

static void test_text_stream(void **state) {
    (void)state;
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        {"plain\n\ttext", "plain\n\ttext"},
        {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x8d\x92", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x8d\x92"},
        {"\xc3", BAD}, {"\xe2\x82", BAD}, {"\xf0\x9f\x8d", BAD},
        {"\xe2\x82x", BAD "x"}, {"\xe2\xe2\x82\xac", BAD "\xe2\x82\xac"}, {"\x80\xbf", BAD BAD},
        {"\xc0\x80", BAD BAD}, {"\xed\xa0\x80", BAD BAD BAD}, {"\xf4\x90\x80\x80", BAD BAD BAD BAD}, {"\xff\xfe", BAD BAD},
        {"\xe0\x80\x80", BAD BAD BAD}, {"\x1b[31mred", BAD "[31mred"}, {"\x7f\r", BAD BAD}, {"\xc2\x9b" "1m", BAD "1m"},
        {"\xc2\xa0", "\xc2\xa0"}, {"\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_stream(cases[i].bytes, strlen(cases[i].bytes), cases[i].text);
    expect_stream("a\0b", 3, "a" BAD "b");
    // A character shows as soon as it is whole.
    char text[16];
    TextStream stream = {0};
    assert_int_equal(text_stream_push(&stream, "\xe2\x82", 2, text), 0);
    assert_int_equal(text_stream_push(&stream, "\xac", 1, text), 3);
    // The room is enough for the worst.
    char bytes[100], *room = malloc(TEXT_STREAM_ROOM(sizeof bytes));
    memset(bytes, 0xff, sizeof bytes);
    assert_true(text_stream_push(&stream, bytes, sizeof bytes, room) < TEXT_STREAM_ROOM(sizeof bytes));
    free(room);
}

// ---- Metrics ----

static void expect_file(const char *path, const char *expected) {
    Arena *arena = arena_create();
    size_t length;
    const char *text = file_read(arena, diagnostics_create(arena), path, &length);
    assert_non_null(text);
    assert_string_equal(text, expected);
    arena_destroy(arena);
}

static void test_metrics(void **state) {
    (void)state;
    char path[] = "/tmp/cherry-metrics-XXXXXX";
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    Arena *arena = arena_create();
    Diagnostics *diagnostics = diagnostics_create(arena);
    MetricsFile *metrics = metrics_open(diagnostics, path, -1);
    assert_non_null(metrics);
    assert_true(metrics_write(metrics, 1, (Metric[]){{"loss", 3.25}, {"rate", 3e-4}}, 2));
    assert_true(metrics_write(metrics, 2, (Metric[]){{"loss", (double)NAN}, {"valid_loss", 1.0 / 3}}, 2));
    assert_true(metrics_write(metrics, 10, NULL, 0));
    metrics_close(metrics);
    const char *first = "{\"step\": 1, \"loss\": 3.25, \"rate\": 0.0003}\n";
    const char *second = "{\"step\": 2, \"loss\": null, \"valid_loss\": 0.333333333}\n";
    expect_file(path, arena_format(arena, "%s%s{\"step\": 10}\n", first, second));

    // A run that was killed in the middle of a line and resumes from step 2.
    assert_int_equal(lseek(descriptor, 0, SEEK_END) > 0, 1);
    assert_int_equal(write(descriptor, "{\"step\": 1", 10), 10);
    metrics = metrics_open(diagnostics, path, 10);
    assert_true(metrics_write(metrics, 11, NULL, 0));
    metrics_close(metrics);
    expect_file(path, arena_format(arena, "%s%s{\"step\": 10}\n{\"step\": 11}\n", first, second));
    metrics = metrics_open(diagnostics, path, 2);
    assert_true(metrics_write(metrics, 3, NULL, 0));
    metrics_close(metrics);
    expect_file(path, arena_format(arena, "%s%s{\"step\": 3}\n", first, second));
    metrics_close(metrics_open(diagnostics, path, 0));
    expect_file(path, "");
    assert_int_equal(diagnostics_count(diagnostics), 0);
    close(descriptor);
    unlink(path);

    assert_null(metrics_open(diagnostics, "/no/such/folder/metrics.jsonl", -1));
    assert_non_null(strstr(diagnostics_message(diagnostics, 0)->text, "/no/such/folder/metrics.jsonl: No such file"));
    metrics = metrics_open(diagnostics, "/dev/full", -1);
    assert_non_null(metrics);
    assert_false(metrics_write(metrics, 1, NULL, 0));
    assert_false(metrics_write(metrics, 2, NULL, 0));
    assert_int_equal(diagnostics_error_count(diagnostics), 2);  // the full disk is reported once
    metrics_close(metrics);
    arena_destroy(arena);
}

static void test_progress(void **state) {
    (void)state;
    char text[PROGRESS_TEXT], number[32];
    Progress progress = {.step = 20, .steps = 500, .loss = 3.41234, .valid_loss = (double)NAN, .rate = 3e-4,
                         .gradient_norm = 1.5, .tokens_per_second = 12345, .unit = "tokens", .peak_share = 0.42, .seconds_left = 83};
    progress_format(&progress, text);
    assert_string_equal(text, "step  20/500  loss 3.4123  rate 3.0e-04  norm 1.50  12.3k tokens/s  42% of peak  1:23 left");
    double nan = (double)NAN;
    progress = (Progress){.step = 1, .steps = 5, .loss = nan, .valid_loss = 2, .rate = nan, .gradient_norm = nan,
                          .tokens_per_second = nan, .peak_share = nan, .seconds_left = nan};
    progress_format(&progress, text);
    assert_string_equal(text, "step 1/5  loss nan  valid 2.0000");
    static const struct {
        double value;
        const char *text;
    } quantities[] = {{0, "0"}, {950, "950"}, {999.6, "1.00k"}, {12345, "12.3k"}, {123456, "123k"}, {4.56e6, "4.56M"},
                      {1.2e9, "1.20G"}, {99960, "100k"}}, durations[] = {{3, "0:03"}, {123, "2:03"}, {3723, "1:02:03"},
                      {59.6, "1:00"}, {-1, "?"}, {1e12, "?"}};
    for (size_t i = 0; i < sizeof quantities / sizeof *quantities; i++) {
        quantity_format(quantities[i].value, number);
        assert_string_equal(number, quantities[i].text);
    }
    for (size_t i = 0; i < sizeof durations / sizeof *durations; i++) {
        duration_format(durations[i].value, number);
        assert_string_equal(number, durations[i].text);
    }
    char *written = NULL;
    size_t length;
    FILE *stream = open_memstream(&written, &length);
    progress_print(stream, true, &progress, false);
    progress_print(stream, true, &progress, true);
    progress_print(stream, false, &progress, false);
    fclose(stream);
    assert_string_equal(written, "\rstep 1/5  loss nan  valid 2.0000\x1b[K\rstep 1/5  loss nan  valid 2.0000\x1b[K\n"
                                 "step 1/5  loss nan  valid 2.0000\n");
    free(written);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits_are_settled), cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_large_permutation), cmocka_unit_test(test_sampling),
        cmocka_unit_test(test_sampling_extremes), cmocka_unit_test(test_sampling_large), cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_text_stream), cmocka_unit_test(test_metrics), cmocka_unit_test(test_progress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
