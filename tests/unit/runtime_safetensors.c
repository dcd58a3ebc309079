// Safetensors: round trips, conversions, and files that break the format in every way we could think of.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "runtime/safetensors.h"

typedef struct Fixture {
    Arena *arena;
    Diagnostics *diagnostics;
    char *folder, *path;
} Fixture;

static int set_up(void **state) {
    Fixture *fixture = calloc(1, sizeof *fixture);
    fixture->arena = arena_create();
    fixture->diagnostics = diagnostics_create(fixture->arena);
    fixture->folder = arena_format(fixture->arena, "/tmp/cherry-tensors-XXXXXX");
    *state = fixture;
    if (!mkdtemp(fixture->folder)) return -1;
    fixture->path = arena_format(fixture->arena, "%s/t.safetensors", fixture->folder);
    return 0;
}

static int tear_down(void **state) {
    Fixture *fixture = *state;
    unlink(fixture->path);
    int status = rmdir(fixture->folder);
    arena_destroy(fixture->arena);
    free(fixture);
    return status;
}

static void write_raw(Fixture *fixture, const void *data, size_t bytes) {
    FILE *stream = fopen(fixture->path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(data, 1, bytes, stream), bytes);
    assert_int_equal(fclose(stream), 0);
}

// Header text and a number of data bytes, in the frame of the format.
static void write_framed(Fixture *fixture, const char *header, size_t data_bytes) {
    size_t length = strlen(header), bytes = 8 + length + data_bytes;
    unsigned char *file = calloc(1, bytes + 1);
    for (int i = 0; i < 8; i++) file[i] = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(file + 8, header, length);
    write_raw(fixture, file, bytes);
    free(file);
}

static TensorFile *open_file(Fixture *fixture) {
    return tensor_file_open(fixture->arena, fixture->diagnostics, fixture->path);
}

static void expect_broken(Fixture *fixture, const char *header, size_t data_bytes, const char *message) {
    write_framed(fixture, header, data_bytes);
    size_t before = diagnostics_count(fixture->diagnostics);
    TensorFile *file = open_file(fixture);
    if (file) fail_msg("accepted: %s", header);
    assert_int_equal(diagnostics_count(fixture->diagnostics), before + 1);
    const Message *last = diagnostics_message(fixture->diagnostics, before);
    assert_string_equal(last->code, "E0805");
    if (!strstr(last->text, message)) fail_msg("'%s' lacks '%s'", last->text, message);
}

static void test_round_trip(void **state) {
    Fixture *fixture = *state;
    float weights[6] = {1, -2, 0.5f, 3e38f, -0.0f, 1e-40f};
    int64_t ids[2] = {INT64_MIN, INT64_MAX};
    uint8_t flag = 1;
    TensorSource sources[] = {
        {.name = "trunk.0.wq", .element = STORED_F32, .rank = 2, .shape = {2, 3}, .data = weights},
        {.name = "odd \"name\"\\\n\x01\xc3\xa9", .element = STORED_BOOL, .rank = 0, .data = &flag},
        {.name = "ids", .element = STORED_I64, .rank = 1, .shape = {2}, .data = ids},
        {.name = "empty", .element = STORED_F64, .rank = 2, .shape = {0, 7}, .data = ids},
    };
    StoredText texts[] = {{"model", "Dense"}, {"quote\"", "tab\t\\"}};
    assert_true(tensor_file_write(fixture->diagnostics, fixture->path, sources, 4, texts, 2));
    TensorFile *file = open_file(fixture);
    assert_non_null(file);
    assert_int_equal(file->tensor_count, 4);
    assert_string_equal(tensor_file_metadata(file, "model"), "Dense");
    assert_string_equal(tensor_file_metadata(file, "quote\""), "tab\t\\");
    assert_null(tensor_file_metadata(file, "step"));
    for (int i = 0; i < 4; i++) {
        const StoredTensor *tensor = tensor_file_find(file, sources[i].name);
        assert_non_null(tensor);
        assert_int_equal(tensor->element, sources[i].element);
        assert_int_equal(tensor->rank, sources[i].rank);
        for (int k = 0; k < tensor->rank; k++) assert_int_equal(tensor->shape[k], sources[i].shape[k]);
        assert_memory_equal(tensor->data, sources[i].data, (size_t)(tensor->count * stored_bytes(tensor->element)));
    }
    assert_int_equal((file->tensors[0].data - file->map.data) % 64, 0);
    assert_null(tensor_file_find(file, "trunk.1.wq"));
    assert_string_equal(stored_text(fixture->arena, tensor_file_find(file, "trunk.0.wq")), "F32[2, 3]");
    tensor_file_close(file);
}

// A file that the reference implementation (safetensors 0.8.0 for Python) wrote.
static void test_reference_file(void **state) {
    Fixture *fixture = *state;
    static const char bytes[] =
        "\xc8\0\0\0\0\0\0\0{\"__metadata__\":{\"model\":\"Dense\"},"
        "\"n\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]},"
        "\"b\":{\"dtype\":\"F16\",\"shape\":[1,2],\"data_offsets\":[16,20]}}  "
        "\xf9\xff\xff\xff\xff\xff\xff\xff\0\0\x80>\0\0@@\0>\0\xc0";
    write_raw(fixture, bytes, sizeof bytes - 1);
    TensorFile *file = open_file(fixture);
    assert_non_null(file);
    int64_t n;
    float a[2], b[2];
    stored_convert(tensor_file_find(file, "n"), 0, 1, ELEMENT_I64, &n);
    stored_convert(tensor_file_find(file, "a"), 0, 2, ELEMENT_F32, a);
    stored_convert(tensor_file_find(file, "b"), 0, 2, ELEMENT_F32, b);
    assert_true(n == -7 && a[0] == 0.25f && a[1] == 3 && b[0] == 1.5f && b[1] == -2);
    assert_string_equal(tensor_file_metadata(file, "model"), "Dense");
    tensor_file_close(file);
}

static void test_no_tensors(void **state) {
    Fixture *fixture = *state;
    assert_true(tensor_file_write(fixture->diagnostics, fixture->path, NULL, 0, NULL, 0));
    TensorFile *file = open_file(fixture);
    assert_non_null(file);
    assert_int_equal(file->tensor_count, 0);
    assert_null(tensor_file_find(file, ""));
    tensor_file_close(file);
}

static void test_duplicate_names_are_not_written(void **state) {
    Fixture *fixture = *state;
    TensorSource twice[] = {{.name = "a", .element = STORED_U8, .data = ""}, {.name = "a", .element = STORED_U8, .data = ""}};
    assert_false(tensor_file_write(fixture->diagnostics, fixture->path, twice, 2, NULL, 0));
    assert_string_equal(diagnostics_message(fixture->diagnostics, 0)->code, "E0808");
    assert_false(file_exists(fixture->path));
}

static double convert_one(StoredElement from, const void *bits, Element to) {
    union {
        int64_t wide;
        int32_t narrow;
        uint16_t brain;
        float single;
        double twice;
    } room = {0};
    StoredTensor tensor = {.element = from, .count = 1, .data = bits};
    stored_convert(&tensor, 0, 1, to, &room);
    switch (to) {
        case ELEMENT_F32: return (double)room.single;
        case ELEMENT_F64: return room.twice;
        case ELEMENT_I32: return room.narrow;
        case ELEMENT_I64: return (double)room.wide;
        default: return room.brain;
    }
}

static void test_conversions(void **state) {
    (void)state;
    static const struct {
        uint16_t bits;
        double value;
    } halves[] = {{0x3c00, 1}, {0xc000, -2}, {0x7bff, 65504}, {0x0400, 0x1p-14}, {0x0001, 0x1p-24},
                  {0x03ff, 0x1.ff8p-15}, {0x3555, 0.333251953125}, {0x7c00, INFINITY}, {0xfc00, -INFINITY}};
    for (size_t i = 0; i < sizeof halves / sizeof *halves; i++) {
        assert_true(convert_one(STORED_F16, &halves[i].bits, ELEMENT_F32) == halves[i].value);
        assert_true(convert_one(STORED_F16, &halves[i].bits, ELEMENT_F64) == halves[i].value);
    }
    assert_true(isnan(convert_one(STORED_F16, &(uint16_t){0x7e01}, ELEMENT_F32)));
    assert_true(signbit(convert_one(STORED_F16, &(uint16_t){0x8000}, ELEMENT_F32)));
    assert_true(convert_one(STORED_BF16, &(uint16_t){0x3fc0}, ELEMENT_F32) == 1.5);
    assert_true(convert_one(STORED_F64, &(double){0.1}, ELEMENT_F32) == (double)0.1f);
    assert_true(convert_one(STORED_U8, &(uint8_t){200}, ELEMENT_I32) == 200);
    assert_true(convert_one(STORED_I8, &(int8_t){-3}, ELEMENT_F32) == -3);
    assert_true(convert_one(STORED_I16, &(int16_t){-300}, ELEMENT_I64) == -300);
    assert_true(convert_one(STORED_U32, &(uint32_t){4000000000u}, ELEMENT_F64) == 4e9);
    assert_true(convert_one(STORED_U64, &(uint64_t){UINT64_MAX}, ELEMENT_F64) == 0x1p64);
    // Round to nearest, ties to even; NaN stays NaN. The expected bits are written out.
    static const struct {
        uint32_t from;
        uint16_t to;
    } brains[] = {{0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f808001, 0x3f81}, {0x3f818000, 0x3f82},
                  {0x7f7fffff, 0x7f80}, {0x7f800000, 0x7f80}, {0x80000000, 0x8000}};
    for (size_t i = 0; i < sizeof brains / sizeof *brains; i++)
        assert_true(convert_one(STORED_F32, &brains[i].from, ELEMENT_BF16) == brains[i].to);
    assert_true(((int)convert_one(STORED_F32, &(uint32_t){0x7f800001}, ELEMENT_BF16) & 0x7f) != 0);
    uint8_t flags[3] = {0, 1, 77}, out[3];
    StoredTensor tensor = {.element = STORED_BOOL, .count = 3, .data = flags};
    stored_convert(&tensor, 0, 3, ELEMENT_BOOL, out);
    assert_memory_equal(out, "\0\1\1", 3);
    assert_false(stored_convertible(STORED_F32, ELEMENT_I32));
    assert_false(stored_convertible(STORED_F8_E4M3, ELEMENT_F32));
    assert_true(stored_convertible(STORED_U8, ELEMENT_F32));
}

#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"

static void test_broken_headers(void **state) {
    Fixture *fixture = *state;
    write_framed(fixture, "{" A "}", 8);
    TensorFile *file = open_file(fixture);
    assert_non_null(file);
    tensor_file_close(file);
    static const struct {
        const char *header;
        size_t data_bytes;
        const char *message;
    } cases[] = {
        {"", 0, "does not begin with {"},
        {"[1]", 0, "does not begin with {"},
        {"{" A, 8, "not valid JSON"},
        {"{" A "} x", 8, "goes on after"},
        {"{" A "," A "}", 8, "begins at byte 0 of the data, 8 expected"},
        {"{" A ",\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[8,8]}}", 8, "two tensors called a"},
        {"{" A "}", 4, "cut short"},
        {"{" A "}", 9, "1 bytes of data belong to no tensor"},
        {"{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}", 8, "begins at byte 4"},
        {"{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[9,10]}}", 10, "begins at byte 9"},
        {"{\"a\":{\"dtype\":\"F33\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "unknown dtype F33"},
        {"{\"a\":{\"dtype\":7,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "no dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "no dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "no shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]}}", 8, "no shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2.5],\"data_offsets\":[0,8]}}", 8, "no whole number"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "no whole number"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[\"2\"],\"data_offsets\":[0,8]}}", 8, "no whole number"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1e300],\"data_offsets\":[0,8]}}", 8, "no whole number"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, "too large"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,2147483648,2],\"data_offsets\":[0,0]}}", 0, "too large"},
        {"{\"a\":{\"dtype\":\"F64\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0, "no whole number"},
        {"{\"a\":{\"dtype\":\"F64\",\"shape\":[4503599627370496,512],\"data_offsets\":[0,0]}}", 0, "lies in 0 bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, "a is F32[3] and lies in 8 bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, "cut short or damaged"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8, "no two data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8, "no two data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, "no two data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":{}}}", 8, "no two data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,1e999]}}", 8, "no two data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,null]}}", 8, "no two data_offsets"},
        {"{\"a\":[]}", 0, "is not an object"},
        {"{\"a\":null}", 0, "is not an object"},
        {"{\"__metadata__\":[]}", 0, "not one object"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "not one object"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "other than text"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"
         "\"data_offsets\":[0,1]}}", 1, "more than 32 dimensions"},
        {"{\"\x1b[31m\":{\"dtype\":\"\x1b[0m\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "tensor ?[31m has the unknown dtype ?[0m"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_broken(fixture, cases[i].header, cases[i].data_bytes, cases[i].message);
}

static void test_lengths_that_lie(void **state) {
    Fixture *fixture = *state;
    static const uint64_t lengths[] = {0, 1, 9, 1u << 20, UINT64_C(1) << 40, INT64_MAX, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        unsigned char file[16] = "________{}      ";
        memcpy(file, &lengths[i], 8);
        write_raw(fixture, file, sizeof file);
        assert_null(open_file(fixture));
    }
    write_raw(fixture, "", 0);
    assert_null(open_file(fixture));
    write_raw(fixture, "\2\0\0\0\0\0\0", 7);
    assert_null(open_file(fixture));
}

// Deep nesting and endless lists must end in an error, soon and without the memory of the machine.
static void test_large_headers(void **state) {
    Fixture *fixture = *state;
    static const char *const fillers[] = {"{\"a\":", "[", "{\"a\":[", "\"a\","};
    for (size_t i = 0; i < sizeof fillers / sizeof *fillers; i++) {
        size_t unit = strlen(fillers[i]), count = (2u << 20) / unit;
        char *header = arena_allocate(fixture->arena, unit * count + 8);
        strcpy(header, "{\"x\":[");
        for (size_t k = 0; k < count - 2; k++) memcpy(header + 6 + k * unit, fillers[i], unit);
        expect_broken(fixture, header, 0, "JSON");
    }
    size_t bytes = 30u << 20;
    char *header = malloc(bytes + 1);
    memset(header, ',', bytes);
    header[0] = '{';
    header[bytes] = 0;
    expect_broken(fixture, header, 0, "more than 4194304 values");
    free(header);
    header = malloc((40u << 20) + 1);
    memset(header, ' ', 40u << 20);
    header[0] = '{';
    header[40u << 20] = 0;
    expect_broken(fixture, header, 0, "header has 41943040 bytes");
    free(header);
}

static size_t write_sample(Fixture *fixture, unsigned char **bytes) {
    static const float weights[12] = {1, 2, 3};
    TensorSource sources[] = {
        {.name = "trunk.0.wq", .element = STORED_F32, .rank = 2, .shape = {3, 2}, .data = weights},
        {.name = "trunk.1.wq", .element = STORED_BF16, .rank = 2, .shape = {3, 2}, .data = weights},
        {.name = "g", .element = STORED_I64, .rank = 1, .shape = {3}, .data = weights},
    };
    StoredText text = {"model", "Dense"};
    assert_true(tensor_file_write(fixture->diagnostics, fixture->path, sources, 3, &text, 1));
    size_t length = 0;
    *bytes = (unsigned char *)file_read(fixture->arena, fixture->diagnostics, fixture->path, &length);
    return length;
}

// Whatever is accepted can be read whole (AddressSanitizer watches).
static bool try_bytes(Fixture *fixture, const unsigned char *bytes, size_t length) {
    write_raw(fixture, bytes, length);
    Arena *arena = arena_create();
    Diagnostics *diagnostics = diagnostics_create(arena);
    TensorFile *file = tensor_file_open(arena, diagnostics, fixture->path);
    assert_true(!file == (diagnostics_error_count(diagnostics) > 0));
    uint64_t hash = HASH_START;
    for (size_t i = 0; file && i < file->tensor_count; i++) {
        const StoredTensor *tensor = &file->tensors[i];
        hash = hash_bytes(hash, tensor->data, (size_t)(tensor->count * stored_bytes(tensor->element)));
        assert_ptr_equal(tensor_file_find(file, tensor->name), tensor);
        stored_text(arena, tensor);
    }
    assert_true(hash != 0);
    bool accepted = file != NULL;
    tensor_file_close(file);
    arena_destroy(arena);
    return accepted;
}

static void test_every_prefix(void **state) {
    Fixture *fixture = *state;
    unsigned char *bytes;
    size_t length = write_sample(fixture, &bytes);
    assert_true(try_bytes(fixture, bytes, length));
    for (size_t i = 0; i < length; i++) assert_false(try_bytes(fixture, bytes, i));
}

static void test_every_bit(void **state) {
    Fixture *fixture = *state;
    unsigned char *bytes;
    size_t length = write_sample(fixture, &bytes), accepted = 0;
    size_t header = 8 + (size_t)bytes[0] + ((size_t)bytes[1] << 8);
    assert_true(header < length);
    for (size_t i = 0; i < header * 8; i++) {
        bytes[i / 8] ^= (unsigned char)(1 << i % 8);
        accepted += try_bytes(fixture, bytes, length);
        bytes[i / 8] ^= (unsigned char)(1 << i % 8);
    }
    assert_true(accepted > 0 && accepted < header * 8 / 2);  // letters of names and texts may change
    uint64_t counter = 0;
    for (int round = 0; round < 3000; round++) {  // several bytes at once, anywhere
        unsigned char saved[4096];
        memcpy(saved, bytes, length);
        for (int k = 0; k < 1 + round % 4; k++) {
            uint64_t random = hash_word(99, counter++);
            bytes[random % header] = (unsigned char)"{}[]\",:0123456789eE.-+ \\un\x00\xff"[(random >> 32) % 29];
        }
        try_bytes(fixture, bytes, length);
        memcpy(bytes, saved, length);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_round_trip),       TEST(test_reference_file), TEST(test_no_tensors),        TEST(test_duplicate_names_are_not_written),
        TEST(test_conversions),      TEST(test_broken_headers),    TEST(test_lengths_that_lie),
        TEST(test_large_headers),    TEST(test_every_prefix),      TEST(test_every_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
