// Training settings by table: ir/training.def.
#include "ir/training.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "ir/text.h"

typedef enum SettingKind {
    SETTING_REAL,
    SETTING_WHOLE,
    SETTING_RANK,
    SETTING_OPTIMIZER,
    SETTING_SCHEDULE,
    SETTING_PRECISION
} SettingKind;

static const struct {
    const char *name;
    SettingKind kind;
    size_t offset;
} setting_table[SETTING_COUNT] = {
#define SETTING(field, kind) [SETTING_##field] = {#field, SETTING_##kind, offsetof(Training, field)},
#include "ir/training.def"
#undef SETTING
};

static const char *const optimizer_names[] = {[OPTIMIZER_ADAMW] = "adamw", [OPTIMIZER_SGD] = "sgd"};
static const char *const schedule_names[] = {
    [RATE_CONSTANT] = "constant", [RATE_COSINE] = "cosine", [RATE_LINEAR] = "linear"};

const char *setting_name(Setting setting) { return setting_table[setting].name; }

const char *setting_text(Arena *arena, const Training *training, Setting setting) {
    const void *field = (const char *)training + setting_table[setting].offset;
    switch (setting_table[setting].kind) {
        case SETTING_REAL:
            return text_number(arena, *(const double *)field);
        case SETTING_WHOLE:
            return arena_format(arena, "%" PRId64, *(const int64_t *)field);
        case SETTING_RANK:
            return arena_format(arena, "%d", *(const int *)field);
        case SETTING_OPTIMIZER:
            return optimizer_names[*(const OptimizerKind *)field];
        case SETTING_SCHEDULE:
            return schedule_names[*(const RateKind *)field];
        case SETTING_PRECISION:
            return element_name(*(const Element *)field);
    }
    INTERNAL_ERROR("setting %d has no kind", (int)setting);
}

static int find_word(const char *const *words, int count, const char *word) {
    for (int i = 0; i < count && word; i++)
        if (strcmp(words[i], word) == 0) return i;
    return -1;
}

bool setting_store(Training *training, Setting setting, const char *word, double number, bool is_whole,
                   int64_t whole) {
    void *field = (char *)training + setting_table[setting].offset;
    switch (setting_table[setting].kind) {
        case SETTING_REAL:
            if (!word) *(double *)field = number;
            return !word;
        case SETTING_WHOLE:
            if (is_whole) *(int64_t *)field = whole;
            return is_whole;
        case SETTING_RANK:
            if (is_whole && whole >= 0 && whole <= RANK_MAX) *(int *)field = (int)whole;
            return is_whole && whole >= 0 && whole <= RANK_MAX;
        case SETTING_OPTIMIZER: {
            int at = find_word(optimizer_names, 2, word);
            if (at >= 0) *(OptimizerKind *)field = (OptimizerKind)at;
            return at >= 0;
        }
        case SETTING_SCHEDULE: {
            int at = find_word(schedule_names, 3, word);
            if (at >= 0) *(RateKind *)field = (RateKind)at;
            return at >= 0;
        }
        case SETTING_PRECISION:
            return word && element_parse(word, (Element *)field);
    }
    return false;
}
