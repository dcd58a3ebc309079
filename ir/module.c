// Modules: their graphs and parameters by name.
#include "ir/module.h"

#include <string.h>

Module *module_create(Ir *ir, const char *name) {
    Module *module = ARENA_NEW(ir->arena, Module);
    module->ir = ir;
    module->name = names_intern(ir->names, name);
    return module;
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
