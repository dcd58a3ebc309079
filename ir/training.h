// The settings of a `train` block by name, for printing and reading.
#ifndef CHERRY_IR_TRAINING_H
#define CHERRY_IR_TRAINING_H

#include "ir/module.h"

typedef enum Setting {
#define SETTING(field, kind) SETTING_##field,
#include "ir/training.def"
#undef SETTING
    SETTING_COUNT
} Setting;

const char *setting_name(Setting setting);
const char *setting_text(Arena *arena, const Training *training, Setting setting);

// `word` is the value's bare name where it has one, else NULL and `number` holds it; a whole number also
// in `whole`, when `is_whole`. False where the value is not one of this setting's.
bool setting_store(Training *training, Setting setting, const char *word, double number, bool is_whole,
                   int64_t whole);

#endif
