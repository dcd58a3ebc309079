// Train blocks: constants only. Every entry may also be given by --set.
#include <stddef.h>
#include <string.h>

#include "frontend/build.h"

typedef enum EntryKind { ENTRY_NUMBER, ENTRY_INTEGER, ENTRY_ELEMENT } EntryKind;

typedef struct EntryField {
    const char *name;
    EntryKind kind;
    size_t offset;
    double least, most;
} EntryField;

#define FIELD(name, kind, member, least, most) \
    { name, kind, offsetof(Training, member), least, most }
static const EntryField entry_fields[] = {
    FIELD("rate", ENTRY_NUMBER, rate, 0, 1e6),
    FIELD("beta1", ENTRY_NUMBER, beta1, 0, 0.999999),  // of 1, nothing would ever be corrected
    FIELD("beta2", ENTRY_NUMBER, beta2, 0, 0.999999),
    FIELD("epsilon", ENTRY_NUMBER, epsilon, 0, 1),
    FIELD("decay", ENTRY_NUMBER, decay, 0, 1e3),
    FIELD("clip", ENTRY_NUMBER, clip, 0, 1e9),
    FIELD("momentum", ENTRY_NUMBER, momentum, 0, 1),
    FIELD("decay_rank", ENTRY_INTEGER, decay_rank, 0, RANK_MAX + 1),
    FIELD("warmup", ENTRY_INTEGER, warmup, 0, 0x1p40),
    FIELD("final_rate", ENTRY_NUMBER, final_rate, 0, 1e6),
    FIELD("steps", ENTRY_INTEGER, steps, 0, 0x1p40),
    FIELD("batch", ENTRY_INTEGER, batch, 1, 0x1p40),
    FIELD("time", ENTRY_INTEGER, time, 1, 0x1p40),
    FIELD("accumulate", ENTRY_INTEGER, accumulate, 1, 0x1p20),
    FIELD("precision", ENTRY_ELEMENT, precision, 0, 0),
    FIELD("evaluate_every", ENTRY_INTEGER, evaluate_every, 0, 0x1p40),
    FIELD("sample_every", ENTRY_INTEGER, sample_every, 0, 0x1p40),
    FIELD("save_every", ENTRY_INTEGER, save_every, 0, 0x1p40),
    FIELD("seed", ENTRY_INTEGER, seed, 0, 0x1p53),
};
enum { ENTRY_FIELD_COUNT = sizeof entry_fields / sizeof *entry_fields };

static const EntryField *find_field(const char *name) {
    for (int i = 0; i < ENTRY_FIELD_COUNT; i++)
        if (strcmp(entry_fields[i].name, name) == 0) return &entry_fields[i];
    return NULL;
}

// Those that are read as dimensions.
static bool is_dimension_field(const EntryField *field) {
    return field->offset == offsetof(Training, batch) || field->offset == offsetof(Training, time);
}

bool train_knows(const char *name) {
    return find_field(name) || strcmp(name, "optimizer") == 0 || strcmp(name, "schedule") == 0;
}

void train_names(Arena *arena, NameList *names) {
    for (int i = 0; i < ENTRY_FIELD_COUNT; i++) vector_push(arena, names, entry_fields[i].name);
    vector_push(arena, names, "optimizer");
}

Expression *train_entry(const Statement *train, const char *name) {
    for (size_t i = train ? train->entries.count : 0; i-- > 0;) {
        const TrainEntry *entry = &train->entries.items[i];
        if (entry->name == name && entry->value) return entry->value;
    }
    return NULL;
}

// ---- Fields ----

// A value without a place comes from the command line.
static const char *origin(Place place) { return place.file ? "" : "--set: "; }

static bool set_number(Context *context, const EntryField *field, Training *training, double number,
                       Place place) {
    char *at = (char *)training + field->offset;
    if (!(number >= field->least && number <= field->most))
        return REPORT(context, place, "E0312", "%s%s must be from %g to %g, found %g", origin(place),
                      field->name, field->least, field->most, number);
    if (field->kind == ENTRY_NUMBER) {
        *(double *)at = number;
        return true;
    }
    if ((double)(int64_t)number != number)
        return REPORT(context, place, "E0312", "%s%s must be a whole number, found %g", origin(place),
                      field->name, number);
    if (field->offset == offsetof(Training, decay_rank))
        training->decay_rank = (int)number;
    else
        *(int64_t *)at = (int64_t)number;
    return true;
}

static bool set_field(Context *context, const EntryField *field, Training *training, Thing thing,
                      Place place) {
    double number;
    if (field->kind != ENTRY_ELEMENT)
        return thing_to_number(context, thing, place, &number) &&
               set_number(context, field, training, number, place);
    if (thing.kind == THING_UNKNOWN) return false;
    if (thing.kind != THING_ELEMENT || (thing.element != ELEMENT_F32 && thing.element != ELEMENT_BF16))
        return REPORT(context, place, "E0312", "%sprecision is f32 or bf16, found %s", origin(place),
                      thing_text(context, thing));
    training->precision = thing.element;
    return true;
}

static bool set_betas(Context *context, Training *training, Expression *expression) {
    Thing thing = evaluate(context, expression);
    if (thing.kind == THING_UNKNOWN) return false;
    if (thing.kind != THING_TUPLE || thing.tuple->count != 2)
        return REPORT(context, expression->place, "E0312", "betas are two numbers: (0.9, 0.95)");
    return set_field(context, find_field("beta1"), training, thing.tuple->items[0], expression->place) &&
           set_field(context, find_field("beta2"), training, thing.tuple->items[1], expression->place);
}

// `known`: what it takes instead; NULL: whatever a train block does.
static bool report_unknown_entry(Context *context, const char *name, const char *what, const char *const *known,
                                 Place place) {
    NameList names = {0};
    Arena *arena = context->builder->ir->arena;
    REPORT(context, place, "E0313", "%s knows no '%s'", what, name);
    for (; known && *known; known++) vector_push(arena, &names, *known);
    if (!names.count) train_names(arena, &names);
    vector_push(arena, &names, "betas");
    if (suggest(name, &names)) report_suggestion(context, name, &names);
    else if (known) HINT(context, "it takes: %s", names_text(context, &names));
    return false;
}

// ---- optimizer adamw(...), rate warmup(...), cosine(...) ----

static bool read_optimizer(Context *context, const TrainEntry *entry, Training *training) {
    static const char *const adamw[] = {"rate",  "beta1", "beta2",      "epsilon",
                                        "decay", "clip",  "decay_rank", NULL};
    static const char *const sgd[] = {"rate", "momentum", "decay", "clip", "decay_rank", NULL};
    bool is_adamw = strcmp(entry->kind, "adamw") == 0, ok = true;
    if (!is_adamw && strcmp(entry->kind, "sgd") != 0) {
        REPORT(context, entry->kind_place, "E0313", "%sunknown optimizer '%s'", origin(entry->kind_place),
               entry->kind);
        HINT(context, "there are adamw and sgd");
        return false;
    }
    training->optimizer = is_adamw ? OPTIMIZER_ADAMW : OPTIMIZER_SGD;
    for (size_t i = 0; i < entry->arguments.count; i++) {
        const Argument *argument = &entry->arguments.items[i];
        const char *name =
            argument->label && argument->label->kind == EXPRESSION_NAME ? argument->label->name : "?";
        const char *const *options = is_adamw ? adamw : sgd, *const *known = options;
        while (*known && strcmp(*known, name) != 0) known++;
        if (is_adamw && strcmp(name, "betas") == 0)
            ok = set_betas(context, training, argument->value) && ok;
        else if (!*known || argument->sign != '=')
            ok = report_unknown_entry(context, name, entry->kind, options, argument->place);
        else
            ok = set_field(context, find_field(name), training, evaluate(context, argument->value),
                           argument->place) &&
                 ok;
    }
    return ok;
}

static bool read_schedule(Context *context, const TrainEntry *entry, Training *training) {
    const char *kind = entry->kind;
    size_t count = entry->arguments.count;
    const Argument *first = count ? &entry->arguments.items[0] : NULL;
    if (strcmp(kind, "constant") == 0) {
        training->schedule = RATE_CONSTANT;
        return count == 0 || REPORT(context, first->place, "E0313", "constant takes nothing");
    }
    if (strcmp(kind, "warmup") == 0) {
        if (count != 1 || first->label)
            return REPORT(context, entry->kind_place, "E0313", "write warmup(100): a number of steps");
        return set_field(context, find_field("warmup"), training, evaluate(context, first->value),
                         first->place);
    }
    bool cosine = strcmp(kind, "cosine") == 0;
    if (!cosine && strcmp(kind, "linear") != 0) {
        REPORT(context, entry->kind_place, "E0313", "%sunknown schedule '%s'", origin(entry->kind_place),
               kind);
        HINT(context, "there are warmup, constant, cosine and linear");
        return false;
    }
    training->schedule = cosine ? RATE_COSINE : RATE_LINEAR;
    if (count == 0) return true;
    if (count != 1 || !first->label || first->label->kind != EXPRESSION_NAME ||
        strcmp(first->label->name, "to") != 0)
        return REPORT(context, entry->kind_place, "E0313", "write %s(to = 3e-5)", kind);
    return set_field(context, find_field("final_rate"), training, evaluate(context, first->value),
                     first->place);
}

static bool declared_model(const Builder *builder, const char *name) {
    const Declaration *declaration = declaration_find(&builder->user, name);
    return declaration && declaration->statement && declaration->statement->kind == STATEMENT_MODEL;
}

// Entries with a value: fields and options of the objective.
static bool read_value(Context *context, const Statement *objective, const TrainEntry *entry,
                       Training *training) {
    if (strcmp(entry->name, "betas") == 0) return set_betas(context, training, entry->value);
    const EntryField *field = find_field(entry->name);
    if (field && is_dimension_field(field)) return true;
    if (field)
        return set_field(context, field, training, evaluate(context, entry->value), entry->value->place);
    for (size_t i = 0; objective && i < objective->formals.count; i++) {
        const Formal *formal = &objective->formals.items[i];
        if (formal->name == entry->name && formal->otherwise) return true;  // read with the objective
    }
    report_unknown_entry(context, entry->name, "a train block", NULL, entry->place);
    if (entry->value->kind == EXPRESSION_NAME && declared_model(context->builder, entry->value->name))
        HINT(context, "a further model is read from a file: %s = %s from \"weights.safetensors\"",
             entry->name, entry->value->name);
    return false;
}

static bool read_entries(Context *context, const Statement *train, const Statement *objective,
                         Training *training) {
    bool ok = true;
    const char *group = NULL;
    for (size_t i = 0; i < train->entries.count; i++) {
        const TrainEntry *entry = &train->entries.items[i];
        bool has_file = i + 1 < train->entries.count && train->entries.items[i + 1].from;
        if (entry->from && (i == 0 || !train->entries.items[i - 1].value))
            ok = REPORT(context, entry->place, "E0330",
                        "`from` follows a model: teacher = Dense from \"dense.safetensors\"");
        if (entry->from || has_file) continue;  // a further model: build_teacher.c
        if (entry->value) {
            ok = read_value(context, objective, entry, training) && ok;
            continue;
        }
        if (entry->name) group = entry->name;
        if (group && strcmp(group, "optimizer") == 0 && entry->name)
            ok = read_optimizer(context, entry, training) && ok;
        else if (group && strcmp(group, "rate") == 0)
            ok = read_schedule(context, entry, training) && ok;
        else
            ok = report_unknown_entry(context, entry->name ? entry->name : entry->kind, "a train block", NULL,
                                      entry->place);
    }
    return ok;
}

static bool apply_settings(Context *context, Training *training) {
    bool ok = true;
    for (int i = 0; i < ENTRY_FIELD_COUNT; i++) {
        Thing thing;
        const char *name = names_intern(context->builder->ir->names, entry_fields[i].name);
        if (is_dimension_field(&entry_fields[i]) || !builder_setting(context, name, &thing)) continue;
        if (set_field(context, &entry_fields[i], training, thing, NO_PLACE)) continue;
        builder_note_setting(context, name);
        ok = false;
    }
    Thing thing;
    if (builder_setting(context, names_intern(context->builder->ir->names, "optimizer"), &thing)) {
        TrainEntry entry = {.name = "optimizer", .kind = thing.kind == THING_NAME ? thing.name : "?"};
        ok = read_optimizer(context, &entry, training) && ok;
    }
    if (builder_setting(context, names_intern(context->builder->ir->names, "schedule"), &thing)) {
        TrainEntry entry = {.name = "rate", .kind = thing.kind == THING_NAME ? thing.name : "?"};
        ok = read_schedule(context, &entry, training) && ok;
    }
    return ok;
}

// What has no such number, where an entry would change nothing; NULL: it counts.
static const char *without_field(const Training *training, const char *name) {
    static const char *const adamw[] = {"beta1", "beta2", "betas", "epsilon"};
    bool is_adamw = training->optimizer == OPTIMIZER_ADAMW;
    if (is_adamw && strcmp(name, "momentum") == 0) return "adamw";
    for (size_t i = 0; !is_adamw && i < sizeof adamw / sizeof *adamw; i++)
        if (strcmp(name, adamw[i]) == 0) return "sgd";
    return training->schedule == RATE_CONSTANT && strcmp(name, "final_rate") == 0 ? "a constant rate" : NULL;
}

// The optimizer and the schedule may themselves be set: entries of the file are for those of the file.
static bool check_counts(Context *context, const Statement *train, const Training *training, bool settings) {
    bool ok = true;
    for (size_t i = 0; i < train->entries.count && !settings; i++) {
        const TrainEntry *entry = &train->entries.items[i];
        const char *lacks = entry->name && entry->value ? without_field(training, entry->name) : NULL;
        if (lacks) ok = REPORT(context, entry->place, "E0313", "%s has no %s", lacks, entry->name);
    }
    for (int i = 0; i < ENTRY_FIELD_COUNT && settings; i++) {
        Thing thing;
        const char *name = names_intern(context->builder->ir->names, entry_fields[i].name);
        const char *lacks = without_field(training, name);
        if (lacks && builder_setting(context, name, &thing))
            ok = REPORT(context, NO_PLACE, "E0313", "--set: %s has no %s", lacks, name);
    }
    return ok;
}

// Settings belong to the chosen block alone. A constant final rate is a tenth of the rate where none is
// given.
bool train_read(Builder *builder, const Statement *train, Training *training) {
    Context context = {.builder = builder};
    const char *batch = names_intern(builder->ir->names, "batch"),
               *time = names_intern(builder->ir->names, "time");
    *training = (Training){.name = train->name,
                           .rate = 1e-3,
                           .beta1 = 0.9,
                           .beta2 = 0.95,
                           .epsilon = 1e-8,
                           .decay_rank = 2,
                           .steps = 1000,
                           .accumulate = 1,
                           .precision = builder->options && builder->options->narrow ? ELEMENT_BF16 : ELEMENT_F32,
                           .final_rate = -1,
                           .seed = 1,
                           .place = train->place};
    Declaration *objective = declaration_find(&builder->user, train->objective);
    bool ok = read_entries(&context, train, objective ? objective->statement : NULL, training);
    ok = check_counts(&context, train, training, false) && ok;
    if (train == builder->train)
        ok = apply_settings(&context, training) && check_counts(&context, train, training, true) && ok;
    if (training->final_rate < 0)
        training->final_rate = training->schedule == RATE_CONSTANT ? training->rate : training->rate / 10;
    return dimension_extent(&context, batch, train->place, &training->batch) &&
           dimension_extent(&context, time, train->place, &training->time) && ok;
}
