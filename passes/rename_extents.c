// Extents that a graph computes, in a second copy of its nodes: names of their own.
//
//   before: %5 = compact %4 {name = "selected"};  %6 = gather ... : f32[selected<=10:selected]
//   after:  %7 = compact %8 {name = "selected.head1"};  %9 = gather ... : f32[selected<=10:selected.head1]
#include "passes/rewrite.h"

typedef struct Renaming {
    const Graph *from;
    const bool *own;
    const char *suffix;
} Renaming;

static const char *with_suffix(const Renaming *renaming, const char *name) {
    return names_format(renaming->from->ir->names, "%s%s", name, renaming->suffix);
}

// Bounded by an extent that the copied nodes compute? Then *to is the copy's own.
static bool renames_bound(const Renaming *renaming, const Dimension *dimension, Dimension *to) {
    *to = *dimension;
    if (!dimension->bound) return false;
    Value bound = graph_find_bound(renaming->from, dimension->bound);
    if (value_is_none(bound) || graph_node(renaming->from, bound.node)->op != OP_compact) return false;
    if (renaming->own && !renaming->own[bound.node]) return false;
    to->bound = with_suffix(renaming, dimension->bound);
    return true;
}

// A composite over such dimensions, for the copy.
static Graph *rename_callee(const Renaming *renaming, Graph *callee) {
    Dimension map[RANK_MAX];
    uint32_t count = 0;
    for (size_t i = 0; i < callee->inputs.count; i++) {
        const Type *type = graph_node(callee, callee->inputs.items[i])->types[0];
        for (int d = 0; d < type->rank; d++) {
            bool known = false;
            for (uint32_t m = 0; m < count; m++) known |= map[m].name == type->dimensions[d].name;
            if (!known && count < RANK_MAX)
                count += renames_bound(renaming, &type->dimensions[d], &map[count]);
        }
    }
    return count ? graph_retype(callee, with_suffix(renaming, callee->name), map, count) : callee;
}

Attribute rename_extents(const Graph *from, const bool *own, const char *suffix, const Node *node,
                         Attribute attribute) {
    Renaming renaming = {from, own, suffix};
    if (attribute.key == ATTRIBUTE_name && node->op == OP_compact) {
        attribute.text = with_suffix(&renaming, attribute.text);
    } else if (attribute_kind(attribute.key) == KIND_DIMENSIONS) {
        Dimension *dimensions = ARENA_ARRAY(from->ir->arena, Dimension, attribute.count);
        for (uint32_t i = 0; i < attribute.count; i++)
            renames_bound(&renaming, &attribute.dimensions[i], &dimensions[i]);
        attribute.dimensions = dimensions;
    } else if (attribute_kind(attribute.key) == KIND_GRAPH) {
        attribute.graph = rename_callee(&renaming, attribute.graph);
    }
    return attribute;
}
