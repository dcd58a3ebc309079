// Token files: opening, windows for training, sequences for evaluation. See data.h.
#include "runtime/data.h"

#include <string.h>

#include "runtime/random.h"

enum { LLMC_HEADER = 1024, LLMC_MAGIC_16 = 20240520, LLMC_MAGIC_32 = 20240801 };

bool token_format_parse(const char *text, TokenFormat *format) {
    static const char *const names[] = {[TOKENS_DETECT] = "detect", [TOKENS_BYTES] = "bytes", [TOKENS_U16] = "u16",
                                        [TOKENS_U32] = "u32", [TOKENS_LLMC] = "llmc", [TOKENS_TSV] = "tsv",
                                        [TOKENS_PAIRS] = "pairs"};
    for (int i = 0; i <= TOKENS_PAIRS; i++) {
        *format = (TokenFormat)i;
        if (strcmp(text, names[i]) == 0) return true;
    }
    return false;
}

// ---- Opening ----

static uint32_t header_word(const FileMap *map, int index) {
    uint32_t word;
    memcpy(&word, map->data + 4 * index, sizeof word);
    return word;
}

static bool has_llmc_header(const FileMap *map) {
    if (map->bytes < LLMC_HEADER) return false;
    return header_word(map, 0) == LLMC_MAGIC_16 || header_word(map, 0) == LLMC_MAGIC_32;
}

static TokenFormat detect(const TokenFile *file) {
    if (has_llmc_header(&file->map)) return TOKENS_LLMC;
    size_t length = strlen(file->path);
    return length > 4 && strcmp(file->path + length - 4, ".bin") == 0 ? TOKENS_U16 : TOKENS_BYTES;
}

static bool open_llmc(Diagnostics *diagnostics, TokenFile *file) {
    if (!has_llmc_header(&file->map))
        return report_error(diagnostics, NO_PLACE, "E0702", "%s has no llm.c header (magic %d or %d)", file->path,
                            LLMC_MAGIC_16, LLMC_MAGIC_32);
    bool narrow = header_word(&file->map, 0) == LLMC_MAGIC_16;
    uint32_t version = header_word(&file->map, 1), expected = narrow ? 1 : 7;
    if (version != expected)
        return report_error(diagnostics, NO_PLACE, "E0702", "%s has version %u of the llm.c format, %u is known",
                            file->path, version, expected);
    file->width = narrow ? 2 : 4;
    file->header_bytes = LLMC_HEADER;
    file->count = header_word(&file->map, 2);
    int64_t bytes = (int64_t)file->map.bytes - LLMC_HEADER;
    if (file->count * file->width != bytes)
        return report_error(diagnostics, NO_PLACE, "E0702", "%s should hold %lld tokens of %d bytes and holds %lld bytes",
                            file->path, (long long)file->count, file->width, (long long)bytes);
    return true;
}

static bool open_raw(Diagnostics *diagnostics, TokenFile *file) {
    file->width = file->format == TOKENS_BYTES ? 1 : file->format == TOKENS_U16 ? 2 : 4;
    file->count = (int64_t)file->map.bytes / file->width;
    if ((int64_t)file->map.bytes % file->width == 0) return true;
    return report_error(diagnostics, NO_PLACE, "E0702", "%s has %zu bytes, no multiple of the %d that a token takes",
                        file->path, file->map.bytes, file->width);
}

bool token_file_open(Diagnostics *diagnostics, const char *path, TokenFormat format, TokenFile *file) {
    *file = (TokenFile){.path = path};
    if (!file_map(diagnostics, path, &file->map)) return false;
    file->format = format == TOKENS_DETECT ? detect(file) : format;
    bool good = file->format == TOKENS_LLMC ? open_llmc(diagnostics, file) : open_raw(diagnostics, file);
    if (good && file->count) file->tokens = file->map.data + file->header_bytes;
    if (good && file->count == 0) good = report_error(diagnostics, NO_PLACE, "E0701", "%s holds no tokens", path);
    if (!good) token_file_close(file);
    return good;
}

void token_file_close(TokenFile *file) {
    file_unmap(&file->map);
    memory_release(&file->made);
    memory_release(&file->made_marks);
    file->tokens = file->marks = NULL;
}

bool token_file_detect(Diagnostics *diagnostics, const char *path, TokenFormat *format) {
    TokenFile file = {.path = path};
    if (!file_map(diagnostics, path, &file.map)) return false;
    *format = detect(&file);
    token_file_close(&file);
    return true;
}

// ---- Parts ----

// Where the held-out part of `count` items begins.
static int64_t split_point(int64_t count, double fraction) {
    if (!(fraction > 0)) return count;
    if (fraction >= 1) return 0;
    return count - (int64_t)((double)count * fraction);
}

void token_file_split(const TokenFile *file, double fraction, TokenPart *train, TokenPart *valid) {
    int64_t point = split_point(file->count, fraction);
    *train = (TokenPart){.file = file, .begin = 0, .end = point};
    *valid = (TokenPart){.file = file, .begin = point, .end = file->count};
}

TokenPart token_file_whole(const TokenFile *file) { return (TokenPart){.file = file, .end = file->count}; }

bool token_part_check(Diagnostics *diagnostics, const TokenPart *part, int64_t tokens, const char *what) {
    int64_t count = part->end - part->begin;
    if (count >= tokens) return true;
    return report_error(diagnostics, NO_PLACE, "E0701", "%s: %s has %lld tokens, one window needs %lld",
                        part->file->path, what, (long long)count, (long long)tokens);
}

static bool report_id(Diagnostics *diagnostics, const TokenFile *file, int64_t index, int64_t vocabulary) {
    if (!file->map.data)
        return report_error(diagnostics, NO_PLACE, "E0703",
                            "%s: token number %lld is %u, which is not below the vocabulary of %lld", file->path,
                            (long long)index + 1, token_at(file, index), (long long)vocabulary);
    return report_error(diagnostics, NO_PLACE, "E0703", "%s: token %u at byte %lld is not below the vocabulary of %lld",
                        file->path, token_at(file, index), (long long)(file->header_bytes + index * file->width),
                        (long long)vocabulary);
}

bool token_part_check_ids(Diagnostics *diagnostics, const TokenPart *part, int64_t vocabulary) {
    const TokenFile *file = part->file;
    if (file->width < 4 && vocabulary >= INT64_C(1) << (8 * file->width)) return true;
    for (int64_t i = part->begin; i < part->end; i++)
        if (token_at(file, i) >= vocabulary) return report_id(diagnostics, file, i, vocabulary);
    return true;
}

// ---- Windows ----

int64_t token_window(const TokenPart *part, uint64_t seed, int64_t step, int64_t row, int64_t span) {
    CHECK(part->end - part->begin > span);
    uint64_t key = random_bits(seed, STREAM_WINDOWS, (uint64_t)step);
    return part->begin + random_below(hash_word(key, (uint64_t)row), part->end - part->begin - span);
}

int64_t token_sequence_windows(const TokenPart *part, int64_t time) {
    int64_t targets = part->end - part->begin - 1;
    return targets > 0 ? (targets + time - 1) / time : 0;
}

int64_t token_window_targets(const TokenPart *part, int64_t start, int64_t time) {
    int64_t targets = part->end - 1 - start;
    return targets < 0 ? 0 : targets > time ? time : targets;
}

// Reads the `count` tokens from `start` on into the reader's room, after checking each.
static bool read_window(Diagnostics *diagnostics, const TokenReader *reader, const TokenFile *file, int64_t start,
                        int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        uint32_t token = token_at(file, start + i);
        if (token >= reader->vocabulary || token > INT32_MAX)
            return report_id(diagnostics, file, start + i, reader->vocabulary);
        reader->ids[i] = (int32_t)token;
        reader->marks[i] = file->marks ? file->marks[start + i] : 1;
    }
    return true;
}

// Fisher and Yates, from the end.
static void shuffle_window(const TokenReader *reader, int64_t start, int64_t count) {
    uint64_t key = random_bits(0, STREAM_SHUFFLE, (uint64_t)start);
    for (int64_t i = count - 1; i > 0; i--) {
        int64_t other = random_below(hash_word(key, (uint64_t)i), i + 1);
        int32_t id = reader->ids[i];
        unsigned char mark = reader->marks[i];
        reader->ids[i] = reader->ids[other];
        reader->marks[i] = reader->marks[other];
        reader->ids[other] = id;
        reader->marks[other] = mark;
    }
}

bool token_read_row(Diagnostics *diagnostics, const TokenReader *reader, const TokenPart *part, int64_t start,
                    int64_t row) {
    int64_t time = reader->time, left = part->end - start, wanted = time + reader->reach;
    int64_t count = left < 0 ? 0 : left < wanted ? left : wanted;
    if (!read_window(diagnostics, reader, part->file, start, count)) return false;
    if (reader->shuffle) shuffle_window(reader, start, count);
    for (size_t c = 0; c < reader->count; c++) {
        const TokenColumn *column = &reader->columns[c];
        int64_t filled = count - (column->by > 1 ? column->by : 1);
        filled = filled < 0 ? 0 : filled > time ? time : filled;
        for (int64_t i = 0; i < time; i++) {
            int64_t from = i + column->by, to = row * time + i;
            if (column->ids) column->ids[to] = i < filled ? reader->ids[from] : 0;
            if (column->marks) column->marks[to] = i < filled && reader->marks[from];
        }
    }
    return true;
}

// ---- Rows of columns ----

void row_split(int64_t rows, double fraction, RowPart *train, RowPart *valid) {
    int64_t point = split_point(rows, fraction);
    *train = (RowPart){.begin = 0, .end = point};
    *valid = (RowPart){.begin = point, .end = rows};
}

int64_t row_shuffled(const RowPart *part, uint64_t seed, int64_t step, int64_t slot, int64_t slots_per_step) {
    int64_t count = part->end - part->begin;
    CHECK(count > 0);
    int64_t position = step * slots_per_step + slot;
    uint64_t key = random_bits(seed, STREAM_ROWS, (uint64_t)(position / count));
    return part->begin + random_permutation(key, count, position % count);
}
