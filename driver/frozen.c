#include "driver/frozen.h"

#include <string.h>

#include "runtime/checkpoint.h"

// The parameters of one further model under the paths that it has by itself. `prefix` is "teacher.".
static Module *further_model(const Module *module, const char *prefix) {
    Ir *ir = module->ir;
    size_t length = strlen(prefix);
    Module *model = module_create(ir, arena_format(ir->arena, "%.*s", (int)(length - 1), prefix));
    for (size_t i = 0; i < module->parameters.count; i++) {
        Parameter parameter = module->parameters.items[i];
        if (!parameter.file || strncmp(parameter.path, prefix, length) != 0) continue;
        parameter.path = names_intern(ir->names, parameter.path + length);
        parameter.file = NULL;
        vector_push(ir->arena, &model->parameters, parameter);
    }
    return model;
}

// Every model once: at the first parameter with its prefix.
static bool load(const Module *module, State *state) {
    Ir *ir = module->ir;
    VECTOR(const char *) prefixes = {0};
    bool good = true;
    for (size_t i = 0; i < module->parameters.count; i++) {
        const Parameter *parameter = &module->parameters.items[i];
        if (!parameter->file) continue;
        size_t length = strcspn(parameter->path, ".") + 1;
        const char *prefix = names_intern_length(ir->names, parameter->path, length);
        bool known = false;
        for (size_t j = 0; j < prefixes.count; j++) known |= prefixes.items[j] == prefix;
        if (known) continue;
        vector_push(ir->arena, &prefixes, prefix);
        const Module *model = further_model(module, prefix);
        good = checkpoint_load_frozen(ir->diagnostics, parameter->file, model, state, prefix) && good;
    }
    return good;
}

bool frozen_check(const Module *module) { return load(module, NULL); }
bool frozen_load(const Module *module, State *state) { return load(module, state); }
