// Further models of a train block, `teacher = Dense from "dense.safetensors"`: models whose weights are read
// and never trained. They stand for arguments of the objective that have no default.
#include <string.h>

#include "frontend/build.h"

static const Formal *model_formal(const Statement *objective, const char *name) {
    for (size_t i = 1; i < objective->formals.count; i++) {
        const Formal *formal = &objective->formals.items[i];
        if (formal->name == name && !formal->otherwise && !formal->type) return formal;
    }
    return NULL;
}

static bool check_argument(Context *context, const TrainEntry *entry, const Statement *objective,
                           const Teachers *teachers) {
    if (!model_formal(objective, entry->name)) {
        REPORT(context, entry->place, "E0310", "the objective %s takes no model '%s'", objective->name,
               entry->name);
        NOTE(context, objective->place, "declared here");
        HINT(context, "an argument that stands for a model has neither a value nor a type: %s(m, %s, ...)",
             objective->name, entry->name);
        return false;
    }
    for (size_t i = 0; i < teachers->count; i++)
        if (teachers->items[i].name == entry->name)
            return REPORT(context, entry->place, "E0331", "'%s' is given twice", entry->name);
    return true;
}

static Statement *named_model(Context *context, const Expression *value) {
    if (value->kind != EXPRESSION_NAME) {
        REPORT(context, value->place, "E0330", "expected the name of a model before `from`");
        return NULL;
    }
    return model_named(context->builder, value->name, value->place);
}

static bool create(Context *context, const TrainEntry *entry, const char *file, bool stored,
                   Teachers *teachers) {
    Builder *builder = context->builder;
    Derivations unstored = {0};
    Statement *statement = named_model(context, entry->value);
    if (!statement) return false;
    const char *prefix = arena_format(builder->ir->arena, "%s.", entry->name);
    statement = derive_base(builder, statement, prefix, stored ? &builder->module->derivations : &unstored);
    if (!statement) return false;
    Model *model = model_create(builder, statement, entry->name, file, stored);
    vector_push(builder->ir->arena, teachers, ((Teacher){entry->name, model}));
    return true;
}

bool teachers_create(Builder *builder, const Statement *train, const Statement *objective, bool stored,
                     Teachers *teachers) {
    Context context = {.builder = builder};
    bool ok = true;
    for (size_t i = 0; i + 1 < train->entries.count; i++) {
        const TrainEntry *entry = &train->entries.items[i];
        const char *file = train->entries.items[i + 1].from, *set = NULL;
        if (!file || !entry->value) continue;
        if (!check_argument(&context, entry, objective, teachers)) {
            ok = false;
            continue;
        }
        if (train == builder->train) set = builder_setting_text(builder, entry->name);
        ok = create(&context, entry, set ? set : file, stored, teachers) && ok;
    }
    return ok;
}

bool teacher_check_paths(Builder *builder, const Teacher *teacher, const Model *model) {
    Context context = {.builder = builder};
    size_t length = strlen(teacher->name);
    for (size_t i = 0; i < model->slots.count; i++) {
        const ParameterSlot *slot = model->slots.items[i];
        if (strncmp(slot->path, teacher->name, length) != 0 || slot->path[length] != '.') continue;
        REPORT(&context, slot->place, "E0332", "%s could be a parameter of the further model '%s'", slot->path,
               teacher->name);
        HINT(&context, "rename the argument of the objective, or what is called '%s' in %s", teacher->name,
             model->name);
        return false;
    }
    return true;
}
