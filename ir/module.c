// Modules: their graphs and parameters by name.
#include "ir/module.h"

#include <string.h>

Module *module_create(Ir *ir, const char *name) {
    Module *module = ARENA_NEW(ir->arena, Module);
    module->ir = ir;
    module->name = names_intern(ir->names, name);
    return module;
}

Module *module_copy(const Module *module) {
    Module *copy = ARENA_NEW(module->ir->arena, Module);
    *copy = *module;
    // Vectors of their own: pushing onto a copied one would write behind the original's end.
    copy->parameters.items = NULL, copy->parameters.count = copy->parameters.capacity = 0;
    for (size_t i = 0; i < module->parameters.count; i++)
        vector_push(module->ir->arena, &copy->parameters, module->parameters.items[i]);
    copy->groups.items = NULL, copy->groups.count = copy->groups.capacity = 0;
    for (size_t i = 0; i < module->groups.count; i++)
        vector_push(module->ir->arena, &copy->groups, module->groups.items[i]);
    copy->graphs.items = NULL, copy->graphs.count = copy->graphs.capacity = 0;
    return copy;
}

Graph *module_find_graph(const Module *module, const char *name) {
    for (size_t i = 0; i < module->graphs.count; i++)
        if (strcmp(module->graphs.items[i]->name, name) == 0) return module->graphs.items[i];
    return NULL;
}

const Parameter *module_find_parameter(const Module *module, const char *path) {
    for (size_t i = 0; i < module->parameters.count; i++)
        if (strcmp(module->parameters.items[i].path, path) == 0) return &module->parameters.items[i];
    return NULL;
}

bool module_add_graph(Module *module, Graph *graph) {
    if (module_find_graph(module, graph->name))
        return report_error(module->ir->diagnostics, NO_PLACE, "E0510", "module %s has two graphs '%s'",
                            module->name, graph->name);
    vector_push(module->ir->arena, &module->graphs, graph);
    return true;
}
