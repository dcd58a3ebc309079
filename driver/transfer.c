#include "driver/transfer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/checkpoint.h"

// ---- Which checkpoint is whose ----

typedef struct Search {
    const char *const *paths;
    size_t count, used;
    TransferSource *found;
    size_t found_count;
} Search;

static bool holds(const Module *module, const char *path, bool *known) {
    Ir *ir = module->ir;
    const char *structure = checkpoint_metadata(ir->arena, ir->diagnostics, path, "structure");
    *known = structure != NULL;
    return structure && strtoull(structure, NULL, 16) == checkpoint_structure(module);
}

// A file that does not say what it holds is taken for the first model of the chain.
static bool search(Search *search_, const Module *module) {
    Ir *ir = module->ir;
    if (search_->used == search_->count)
        return report_error(
            ir->diagnostics, NO_PLACE, "E0920",
            "there are more models to read than the %zu checkpoints given: none is left for %s",
            search_->count, module->name);
    const char *path = search_->paths[search_->used];
    bool known, leaf = !module->transfer || holds(module, path, &known);
    if (leaf) {
        search_->found[search_->found_count] =
            (TransferSource){path, module, names_format(ir->names, "%zu.", search_->found_count)};
        search_->found_count++;
        search_->used++;
        return true;
    }
    for (size_t i = 0; i < module->sources.count; i++)
        if (!search(search_, module->sources.items[i])) return false;
    return true;
}

TransferSource *transfer_find_sources(const Module *target, const char *const *paths, size_t count) {
    Ir *ir = target->ir;
    Search found = {
        .paths = paths, .count = count, .found = ARENA_ARRAY(ir->arena, TransferSource, count + 1)};
    size_t errors = diagnostics_error_count(ir->diagnostics);
    for (size_t i = 0; i < count; i++) {  // unreadable files are told first
        bool known;
        holds(target, paths[i], &known);
    }
    if (diagnostics_error_count(ir->diagnostics) != errors || !search(&found, target)) return NULL;
    if (found.used == count) return found.found;
    report_error(ir->diagnostics, NO_PLACE, "E0920", "%zu checkpoints for %s, which is made of %zu", count,
                 target->name, found.used);
    return NULL;
}

// ---- One graph ----

typedef struct Compose {
    Graph *graph;
    const TransferSource *sources;
    size_t next;  // source
    Value seed;
} Compose;

// Values of all trained parameters of a module, in their order.
static Value *compose(Compose *composition, const Module *module);

static Value leaf_input(Compose *composition, const TransferSource *source, const Parameter *parameter) {
    Graph *graph = composition->graph;
    const char *name = names_format(graph->ir->names, "%s%s", source->prefix, parameter->path);
    return graph_add_input(graph, name, ROLE_FROZEN, parameter->type, parameter->place);
}

static Value *compose_leaf(Compose *composition, const Module *module) {
    const TransferSource *source = &composition->sources[composition->next++];
    Value *values = ARENA_ARRAY(module->ir->arena, Value, module->parameters.count + 1);
    for (size_t i = 0; i < module->parameters.count; i++)
        if (!module->parameters.items[i].file)
            values[i] = leaf_input(composition, source, &module->parameters.items[i]);
    return values;
}

static Value find_value(const Module *module, const Value *values, const char *path) {
    for (size_t i = 0; i < module->parameters.count; i++)
        if (strcmp(module->parameters.items[i].path, path) == 0) return values[i];
    INTERNAL_ERROR("model %s has no parameter %s", module->name, path);
}

// "1.trunk.wq" of several sources, "trunk.wq" of one.
static Value transfer_argument(Compose *composition, const Module *module, Value *const *sources,
                               const Node *input) {
    const char *name = attribute_text(input, ATTRIBUTE_name);
    if (attribute_integer(input, ATTRIBUTE_role, 0) == ROLE_SCALAR) {
        if (value_is_none(composition->seed))
            composition->seed =
                graph_add_input(composition->graph, name, ROLE_SCALAR, input->types[0], NO_PLACE);
        return composition->seed;
    }
    char *path = (char *)(uintptr_t)name;
    size_t source = module->sources.count > 1 ? (size_t)strtoull(name, &path, 10) : 0;
    return find_value(module->sources.items[source], sources[source], path + (module->sources.count > 1));
}

static Value *compose(Compose *composition, const Module *module) {
    Arena *arena = module->ir->arena;
    if (composition->sources[composition->next].module == module) return compose_leaf(composition, module);
    const Graph *transfer = module->transfer;
    Value **sources = ARENA_ARRAY(arena, Value *, module->sources.count + 1);
    for (size_t i = 0; i < module->sources.count; i++)
        sources[i] = compose(composition, module->sources.items[i]);
    Value *arguments = ARENA_ARRAY(arena, Value, transfer->inputs.count + 1);
    Value *results = ARENA_ARRAY(arena, Value, transfer->outputs.count + 1);
    for (size_t i = 0; i < transfer->inputs.count; i++)
        arguments[i] =
            transfer_argument(composition, module, sources, graph_node(transfer, transfer->inputs.items[i]));
    graph_inline(composition->graph, transfer, arguments, results);
    Value *values = ARENA_ARRAY(arena, Value, module->parameters.count + 1);
    for (size_t i = 0; i < module->parameters.count; i++)
        for (size_t j = 0; j < transfer->outputs.count; j++)
            if (strcmp(transfer->outputs.items[j].name, module->parameters.items[i].path) == 0)
                values[i] = results[j];
    return values;
}

Graph *transfer_graph(const Module *target, const TransferSource *sources, size_t count) {
    Ir *ir = target->ir;
    (void)count;
    Compose composition = {.graph = graph_create(ir, names_intern(ir->names, "transfer")),
                           .sources = sources,
                           .seed = VALUE_NONE};
    Graph *graph = composition.graph;
    Value *values = compose(&composition, target);
    for (size_t i = 0; i < target->parameters.count; i++) {
        const Parameter *parameter = &target->parameters.items[i];
        if (parameter->file) continue;
        Value storage =
            graph_add_input(graph, parameter->path, ROLE_PARAMETER, parameter->type, parameter->place);
        graph_add_output(graph, parameter->path, values[i], storage);
    }
    return graph;
}
