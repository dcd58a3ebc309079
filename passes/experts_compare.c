// fuse-experts: are two models the same but for the values of their weights?
#include <string.h>

#include "ir/attributes.h"
#include "ir/entries.h"
#include "passes/experts.h"

typedef struct Comparison {
    PassContext *context;
    const Module *a, *b;
} Comparison;

static bool differ(const Comparison *comparison, Place a, Place b, const char *text) {
    PassContext *context = comparison->context;
    Diagnostics *diagnostics = context->ir->diagnostics;
    report_error(diagnostics, context->place, "E0545", "experts %s and %s differ: %s", comparison->a->name,
                 comparison->b->name, text);
    if (a.file) report_note(diagnostics, a, "this is in %s", comparison->a->name);
    if (b.file) report_note(diagnostics, b, "this is in %s", comparison->b->name);
    return false;
}

#define TEXT(...) arena_format(comparison->context->ir->arena, __VA_ARGS__)

// ---- Parameters ----

static bool same_parameter(const Comparison *comparison, const Parameter *a, const Parameter *b) {
    Ir *ir = comparison->context->ir;
    if (a->type != b->type)
        return differ(comparison, a->place, b->place,
                      TEXT("parameter %s is %s in one and %s in the other", a->path, type_text(ir, a->type),
                           type_text(ir, b->type)));
    return a->declared_rank == b->declared_rank ||
           differ(comparison, a->place, b->place,
                  TEXT("parameter %s is declared with %d dimensions in one and %d in the other", a->path,
                       a->declared_rank, b->declared_rank));
}

// Does `b` have all parameters of `a`?
static bool has_all(const Comparison *comparison, const Module *a, const Module *b) {
    for (size_t i = 0; i < a->parameters.count; i++) {
        const Parameter *parameter = &a->parameters.items[i];
        if (module_find_parameter(b, parameter->path)) continue;
        bool first = a == comparison->a;
        return differ(comparison, first ? parameter->place : NO_PLACE, first ? NO_PLACE : parameter->place,
                      TEXT("parameter %s is in %s alone", parameter->path, a->name));
    }
    return true;
}

static bool same_parameters(const Comparison *comparison) {
    const Module *a = comparison->a, *b = comparison->b;
    if (!has_all(comparison, a, b) || !has_all(comparison, b, a)) return false;
    for (size_t i = 0; i < a->parameters.count; i++) {
        const Parameter *one = &a->parameters.items[i], *other = &b->parameters.items[i];
        if (strcmp(one->path, other->path) != 0)
            return differ(comparison, one->place, other->place,
                          TEXT("where one has parameter %s, the other has %s", one->path, other->path));
        if (!same_parameter(comparison, one, other)) return false;
    }
    return true;
}

// ---- Graphs ----

static const char *value_text(const Comparison *comparison, const Attribute *attribute) {
    switch (attribute_kind(attribute->key)) {
        case KIND_INTEGER:
            return TEXT("%lld", (long long)attribute->integer);
        case KIND_NUMBER:
            return TEXT("%.9g", attribute->number);
        case KIND_TEXT:
        case KIND_NAME:
            return attribute->text;
        case KIND_ELEMENT:
            return element_name((Element)attribute->integer);
        case KIND_ENTRIES:
            return entries_text(comparison->context->ir->arena, attribute->entries, attribute->count);
        default:
            return NULL;
    }
}

static bool same_graph(const Comparison *comparison, const Graph *a, const Graph *b);

static bool same_attribute(const Comparison *comparison, const Node *node, const Attribute *a,
                           const Attribute *b, const Node *other) {
    if (a->key == b->key && a->key == ATTRIBUTE_site) return true;  // names the model
    if (a->key == b->key && attribute_kind(a->key) == KIND_GRAPH)
        return same_graph(comparison, a->graph, b->graph);
    if (attribute_same(a, b)) return true;
    const char *name = attribute_name(a->key), *here = value_text(comparison, a),
               *there = a->key == b->key ? value_text(comparison, b) : NULL;
    return differ(
        comparison, node->place, other->place,
        here && there
            ? TEXT("%s has %s = %s in one and %s in the other", op_name(node->op), name, here, there)
            : TEXT("%s has another %s in one than in the other", op_name(node->op), name));
}

static bool same_node(const Comparison *comparison, const Node *a, const Node *b) {
    if (a->op != b->op)
        return differ(comparison, a->place, b->place,
                      TEXT("where one computes %s, the other computes %s", op_name(a->op), op_name(b->op)));
    bool same = a->operand_count == b->operand_count && a->attributes.count == b->attributes.count;
    for (uint32_t i = 0; same && i < a->operand_count; i++) same = value_same(a->operands[i], b->operands[i]);
    if (!same) return differ(comparison, a->place, b->place, TEXT("%s of other operands", op_name(a->op)));
    for (uint32_t i = 0; i < a->attributes.count; i++)
        if (!same_attribute(comparison, a, &a->attributes.items[i], &b->attributes.items[i], b)) return false;
    if (a->op == OP_input && a->types[0] != b->types[0])
        return differ(comparison, a->place, b->place,
                      TEXT("%s is %s in one and %s in the other", attribute_text(a, ATTRIBUTE_name),
                           type_text(comparison->context->ir, a->types[0]),
                           type_text(comparison->context->ir, b->types[0])));
    return true;
}

static bool same_graph(const Comparison *comparison, const Graph *a, const Graph *b) {
    if (a == b) return true;
    size_t count = a->nodes.count < b->nodes.count ? a->nodes.count : b->nodes.count;
    for (uint32_t id = 0; id < count; id++)
        if (!same_node(comparison, graph_node(a, id), graph_node(b, id))) return false;
    bool same = a->nodes.count == b->nodes.count && a->outputs.count == b->outputs.count;
    for (size_t i = 0; same && i < a->outputs.count; i++)
        same = value_same(a->outputs.items[i].value, b->outputs.items[i].value);
    return same || differ(comparison, NO_PLACE, NO_PLACE,
                          TEXT("graph %s computes more in one than in the other", a->name));
}

bool experts_alike(PassContext *context, const Module *a, const Module *b) {
    Comparison comparison = {context, a, b};
    if (!same_parameters(&comparison)) return false;
    for (size_t i = 0; i < a->graphs.count; i++) {
        const Graph *graph = a->graphs.items[i], *other = module_find_graph(b, graph->name);
        if (!module_is_entry(a, graph)) continue;
        if (!other)
            return differ(&comparison, context->place, NO_PLACE,
                          arena_format(context->ir->arena, "graph %s is in one alone", graph->name));
        if (!same_graph(&comparison, graph, other)) return false;
    }
    return true;
}
