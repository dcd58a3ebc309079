// Supervised sets: see supervision.h. Those of tables come with the table (text_table.c).
#include "runtime/supervision.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/random.h"

static bool parse_share(Diagnostics *diagnostics, const char *text, Supervision *supervision) {
    char *end = NULL;
    if (supervision->text) supervision->share = strtod(supervision->text, &end);
    if (end && end != supervision->text && !*end && supervision->share >= 0 && supervision->share <= 1)
        return true;
    return report_error(diagnostics, NO_PLACE, "E0931",
                        "--supervise %s: expected a share from 0 to 1, as in random:0.15", text);
}

bool supervision_parse(Diagnostics *diagnostics, const char *text, Supervision *supervision) {
    static const char *const names[] = {"all", "spans", "answers", "mask", "random", "rare"};
    size_t length = strcspn(text, ":");
    *supervision = (Supervision){.text = text[length] ? text + length + 1 : NULL};
    int kind = -1;
    for (int i = 0; i < 6; i++)
        if (strlen(names[i]) == length && strncmp(names[i], text, length) == 0) kind = i;
    bool takes_nothing = kind == SUPERVISE_ALL || kind == SUPERVISE_ANSWERS;
    bool empty = supervision->text && !*supervision->text;
    if (kind < 0 || empty || (takes_nothing && supervision->text) ||
        (kind == SUPERVISE_MASK && !supervision->text))
        return report_error(
            diagnostics, NO_PLACE, "E0931",
            "--supervise wants all, spans, spans:KIND,KIND, answers, mask:FILE, random:P or rare:P, not '%s'",
            text);
    supervision->kind = (SupervisionKind)kind;
    if (kind == SUPERVISE_RANDOM || kind == SUPERVISE_RARE)
        return parse_share(diagnostics, text, supervision);
    return true;
}

static bool new_marks(Diagnostics *diagnostics, TokenFile *file) {
    if (!memory_allocate(diagnostics, file->count, file->path, &file->made_marks)) return false;
    file->marks = (const unsigned char *)file->made_marks.data;
    return true;
}

// `list`: "FILE", or "FILE,FILE" with another for held-out data.
static bool read_mask(Diagnostics *diagnostics, const char *list, bool held_out, TokenFile *file) {
    FileMap map;
    char path[4096];
    size_t first = strcspn(list, ",");
    const char *second = list[first] && held_out ? list + first + 1 : NULL;
    snprintf(path, sizeof path, "%.*s", second ? 4000 : (int)(first < 4000 ? first : 4000),
             second ? second : list);
    if (!file_map(diagnostics, path, &map)) return false;
    unsigned char *marks = (unsigned char *)file->made_marks.data;
    bool good = (int64_t)map.bytes == file->count ||
                report_error(diagnostics, NO_PLACE, "E0727",
                             "%s has %zu bytes, one for each of the %lld tokens of %s is wanted", path,
                             map.bytes, (long long)file->count, file->path);
    for (int64_t i = 0; good && i < file->count; i++) {
        unsigned char byte = map.data[i];
        marks[i] = byte == 1 || byte == '1';
        if (!marks[i] && byte != 0 && byte != '0')
            good = report_error(diagnostics, NO_PLACE, "E0727", "%s: byte %lld is %u, neither 0 nor 1", path,
                                (long long)i, byte);
    }
    file_unmap(&map);
    return good;
}

static void mark_random(double share, uint64_t seed, TokenFile *file) {
    unsigned char *marks = (unsigned char *)file->made_marks.data;
    for (int64_t i = 0; i < file->count; i++)
        marks[i] = (double)(random_bits(seed, STREAM_SUPERVISION, (uint64_t)i) >> 11) * 0x1p-53 < share;
}

typedef struct Kind {
    uint32_t id;
    int64_t count;
} Kind;

static int compare_kinds(const void *a, const void *b) {
    const Kind *x = a, *y = b;
    if (x->count != y->count) return x->count < y->count ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static bool mark_rare(Diagnostics *diagnostics, double share, const TokenFile *counted, TokenFile *file) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < counted->count; i++)
        if (token_at(counted, i) > largest) largest = token_at(counted, i);
    MemoryBlock block;
    int64_t kinds = (int64_t)largest + 1;
    if (!memory_allocate(diagnostics, kinds * (int64_t)(sizeof(Kind) + 1), "token counts", &block))
        return false;
    Kind *table = (Kind *)(void *)block.data;
    unsigned char *rare = (unsigned char *)(table + kinds), *marks = (unsigned char *)file->made_marks.data;
    for (int64_t i = 0; i < kinds; i++) table[i].id = (uint32_t)i;
    for (int64_t i = 0; i < counted->count; i++) table[token_at(counted, i)].count++;
    qsort(table, (size_t)kinds, sizeof *table, compare_kinds);
    double room = share * (double)counted->count;
    for (int64_t i = 0; i < kinds && (double)table[i].count <= 2 * room;
         i++) {  // nearer with it than without
        room -= (double)table[i].count;
        rare[table[i].id] = 1;
    }
    for (int64_t i = 0; i < file->count; i++) {
        uint32_t id = token_at(file, i);
        marks[i] = id > largest || rare[id];  // what was never seen is rarest of all
    }
    memory_release(&block);
    return true;
}

bool supervision_mark(Diagnostics *diagnostics, const Supervision *supervision, const TokenFile *counted,
                      uint64_t seed, TokenFile *file) {
    switch (supervision->kind) {
        case SUPERVISE_MASK:
            return new_marks(diagnostics, file) &&
                   read_mask(diagnostics, supervision->text, counted != file, file);
        case SUPERVISE_RANDOM:
            if (!new_marks(diagnostics, file)) return false;
            mark_random(supervision->share, seed, file);
            return true;
        case SUPERVISE_RARE:
            return new_marks(diagnostics, file) && mark_rare(diagnostics, supervision->share, counted, file);
        default:
            return true;
    }
}
