#include "driver/shrink.h"

enum { ROUNDS = 4 };

typedef struct Shrink {
    Arena *arena;
    FrontendOptions options;
    const char **settings;  // those given, then one for each constant
    FrontendConstant *constants;
    size_t given, constant_count;
    ShowsFault shows;
    void *context;
} Shrink;

static const char *setting(const Shrink *shrink, const FrontendConstant *constant) {
    return arena_format(shrink->arena, "%s=%.17g", constant->name, constant->value);
}

static bool try_value(Shrink *shrink, size_t index, double value) {
    FrontendConstant lower = {shrink->constants[index].name, value};
    const char *before = shrink->settings[shrink->given + index];
    shrink->settings[shrink->given + index] = setting(shrink, &lower);
    Arena *arena = arena_create();
    bool shows = shrink->shows(shrink->context, ir_create(arena), &shrink->options);
    arena_destroy(arena);
    if (shows)
        shrink->constants[index] = lower;
    else
        shrink->settings[shrink->given + index] = before;
    return shows;
}

// 1, 2, 3, ... below the present value: small numbers are tried first, and the first that fits stays.
static bool lower_constant(Shrink *shrink, size_t index) {
    double present = shrink->constants[index].value;
    if (present != (double)(int64_t)present) return false;
    for (double value = 1; value < present && value <= 8; value++)
        if (try_value(shrink, index, value)) return true;
    return false;
}

static void find_constants(Shrink *shrink, const char *path) {
    FrontendConstants found = {0};
    FrontendOptions options = shrink->options;
    options.constants = &found;
    Arena *arena = arena_create();
    frontend_load(ir_create(arena), path, &options);
    shrink->constants = ARENA_ARRAY(shrink->arena, FrontendConstant, found.count + 1);
    for (size_t i = 0; i < found.count; i++)
        shrink->constants[i] =
            (FrontendConstant){arena_format(shrink->arena, "%s", found.items[i].name), found.items[i].value};
    shrink->constant_count = found.count;
    arena_destroy(arena);
}

const char *const *shrink_settings(Arena *arena, const FrontendOptions *options, const char *path,
                                   ShowsFault shows, void *context, size_t *count) {
    Shrink shrink = {.arena = arena,
                     .options = *options,
                     .given = options->setting_count,
                     .shows = shows,
                     .context = context};
    find_constants(&shrink, path);
    shrink.settings = ARENA_ARRAY(arena, const char *, shrink.given + shrink.constant_count + 1);
    for (size_t i = 0; i < shrink.given; i++) shrink.settings[i] = options->settings[i];
    for (size_t i = 0; i < shrink.constant_count; i++)
        shrink.settings[shrink.given + i] = setting(&shrink, &shrink.constants[i]);
    shrink.options.settings = shrink.settings;
    shrink.options.setting_count = shrink.given + shrink.constant_count;
    bool changed = true;
    for (int round = 0; changed && round < ROUNDS; round++) {
        changed = false;
        for (size_t i = 0; i < shrink.constant_count; i++) changed |= lower_constant(&shrink, i);
    }
    *count = shrink.constant_count;
    return shrink.settings + shrink.given;
}
