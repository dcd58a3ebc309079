// simplify: rules over views (rename, split, merge, transpose, broadcast, slice, ...) and over sums of
// broadcasts. Two views in a row become one, a view that changes nothing goes.
#include "passes/simplify.h"

static const Node *inner_node(const Match *match) {
    return graph_node(match->graph, match->operands[0].node);
}
static const Type *operand_type(const Match *match) { return graph_type(match->graph, match->operands[0]); }
static const char *along_of(const Node *node) { return attribute_text(node, ATTRIBUTE_along); }
static int64_t start_of(const Node *node) { return attribute_integer(node, ATTRIBUTE_start, 0); }

// The same type means the same view, for ops that can only keep or change the type.
static bool keeps_type(const Match *match) { return operand_type(match) == match->node->types[0]; }

static const char *renamed(const Node *node, const char *name) {
    const Attribute *from = attribute_find(node, ATTRIBUTE_from), *to = attribute_find(node, ATTRIBUTE_to);
    for (uint32_t i = 0; i < from->count; i++)
        if (from->names[i] == name) return to->names[i];
    return name;
}

static Value rename_to(const Match *match, Value value, const char *const *from, const char *const *to,
                       uint32_t count) {
    if (count == 0) return value;
    Attribute attributes[2] = {{.key = ATTRIBUTE_from, .count = count, .names = from},
                               {.key = ATTRIBUTE_to, .count = count, .names = to}};
    return graph_add(match->graph, OP_rename, &value, 1, attributes, 2, match->node->place);
}

// What is renamed after it was repeated may be renamed before.
static Value rename_before_broadcast(const Match *match, const Node *broadcast) {
    const Attribute *added = attribute_find(broadcast, ATTRIBUTE_dimensions);
    const Type *type = graph_type(match->graph, broadcast->operands[0]);
    const char *from[RANK_MAX], *to[RANK_MAX];
    Dimension dimensions[RANK_MAX];
    uint32_t count = 0;
    for (int i = 0; i < type->rank; i++) {
        from[count] = type->dimensions[i].name;
        to[count] = renamed(match->node, from[count]);
        if (from[count] != to[count]) count++;
    }
    for (uint32_t i = 0; i < added->count; i++) {
        dimensions[i] = added->dimensions[i];
        dimensions[i].name = renamed(match->node, dimensions[i].name);
    }
    Value value = rename_to(match, broadcast->operands[0], from, to, count);
    return build_broadcast(match->graph, value, dimensions, added->count, match->node->place);
}

Value simplify_rename(const Match *match) {
    if (keeps_type(match)) return match->operands[0];
    const Node *inner = inner_node(match);
    if (inner->op == OP_broadcast) return rename_before_broadcast(match, inner);
    if (inner->op != OP_rename) return VALUE_NONE;
    const Type *type = graph_type(match->graph, inner->operands[0]);
    const char *from[RANK_MAX], *to[RANK_MAX];
    uint32_t count = 0;
    for (int i = 0; i < type->rank; i++) {
        const char *name = renamed(match->node, renamed(inner, type->dimensions[i].name));
        if (name == type->dimensions[i].name) continue;
        from[count] = type->dimensions[i].name;
        to[count++] = name;
    }
    return rename_to(match, inner->operands[0], from, to, count);
}

Value simplify_transpose(const Match *match) {
    if (keeps_type(match)) return match->operands[0];
    const Node *inner = inner_node(match);
    if (inner->op == OP_transpose) return graph_copy_node(match->graph, match->node, inner->operands);
    if (inner->op != OP_dot || match->uses[match->node->operands[0].node] != 1) return VALUE_NONE;
    // The result of a dot has the dimensions of its first operand in front.
    Value value = graph_copy_node(match->graph, inner, (Value[]){inner->operands[1], inner->operands[0]});
    return graph_type(match->graph, value) == match->node->types[0] ? value : VALUE_NONE;
}

Value simplify_broadcast(const Match *match) {
    const Attribute *outer = attribute_find(match->node, ATTRIBUTE_dimensions);
    if (outer->count == 0) return match->operands[0];
    const Node *inner = inner_node(match);
    if (inner->op != OP_broadcast) return VALUE_NONE;
    const Attribute *added = attribute_find(inner, ATTRIBUTE_dimensions);
    Dimension dimensions[RANK_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < outer->count; i++) dimensions[count++] = outer->dimensions[i];
    for (uint32_t i = 0; i < added->count; i++) dimensions[count++] = added->dimensions[i];
    return build_broadcast(match->graph, inner->operands[0], dimensions, count, match->node->place);
}

// One view undoes the other up to names.
static Value rename_all(const Match *match, Value value) {
    const Type *from = graph_type(match->graph, value), *to = match->node->types[0];
    if (from->rank != to->rank) return VALUE_NONE;
    const char *old_names[RANK_MAX], *new_names[RANK_MAX];
    uint32_t count = 0;
    for (int i = 0; i < from->rank; i++) {
        const Dimension *a = &from->dimensions[i], *b = &to->dimensions[i];
        if (a->extent != b->extent || a->bound != b->bound) return VALUE_NONE;
        if (a->name == b->name) continue;
        old_names[count] = a->name;
        new_names[count++] = b->name;
    }
    return rename_to(match, value, old_names, new_names, count);
}

Value simplify_split(const Match *match) {
    const Node *inner = inner_node(match);
    if (inner->op != OP_merge || along_of(inner) != along_of(match->node)) return VALUE_NONE;
    const Attribute *merged = attribute_find(inner, ATTRIBUTE_from);
    if (merged->count != attribute_find(match->node, ATTRIBUTE_into)->count) return VALUE_NONE;
    return rename_all(match, inner->operands[0]);
}

Value simplify_merge(const Match *match) {
    const Node *inner = inner_node(match);
    if (inner->op != OP_split) return VALUE_NONE;
    const Attribute *parts = attribute_find(inner, ATTRIBUTE_into);
    const Attribute *merged = attribute_find(match->node, ATTRIBUTE_from);
    if (parts->count != merged->count) return VALUE_NONE;
    for (uint32_t i = 0; i < parts->count; i++)
        if (parts->dimensions[i].name != merged->names[i]) return VALUE_NONE;
    return rename_all(match, inner->operands[0]);
}

// The operand of a concat that holds all of [start, start + count), and where it begins.
static Value find_part(const Match *match, const Node *concat, const char *along, int64_t start,
                       int64_t count, int64_t *begin) {
    *begin = 0;
    for (uint32_t i = 0; i < concat->operand_count; i++) {
        const Type *type = graph_type(match->graph, concat->operands[i]);
        int64_t extent = type->dimensions[type_find(type, along)].extent;
        if (start >= *begin && start + count <= *begin + extent) return concat->operands[i];
        *begin += extent;
    }
    return VALUE_NONE;
}

Value simplify_slice(const Match *match) {
    if (keeps_type(match)) return match->operands[0];
    const Node *inner = inner_node(match);
    const char *along = along_of(match->node);
    Place place = match->node->place;
    int64_t start = start_of(match->node), count = attribute_integer(match->node, ATTRIBUTE_count, 0), begin;
    if (inner->op == OP_slice && along_of(inner) == along)
        return build_slice(match->graph, inner->operands[0], along, start_of(inner) + start, count, place);
    if (inner->op != OP_concat || along_of(inner) != along) return VALUE_NONE;
    Value part = find_part(match, inner, along, start, count, &begin);
    return value_is_none(part) ? part : build_slice(match->graph, part, along, start - begin, count, place);
}

// What is picked from gathered rows is gathered from what is picked: of stored layers, one instead of all.
static Value pick_before_gather(const Match *match, const char *along, int64_t at) {
    const Node *gather = inner_node(match);
    if (gather->op == OP_transpose) gather = graph_node(match->graph, gather->operands[0].node);
    if (gather->op != OP_gather || along_of(gather) == along ||
        type_find(graph_type(match->graph, gather->operands[1]), along) >= 0)
        return VALUE_NONE;
    Place place = match->node->place;
    Value table = build_pick(match->graph, gather->operands[0], along, at, place);
    Value value = graph_copy_node(match->graph, gather, (Value[]){table, gather->operands[1]});
    return graph_type(match->graph, value) == match->node->types[0] ? value : VALUE_NONE;
}

Value simplify_pick(const Match *match) {
    const Node *inner = inner_node(match);
    const char *along = along_of(match->node);
    Place place = match->node->place;
    int64_t at = attribute_integer(match->node, ATTRIBUTE_at, 0), begin;
    if (inner->op == OP_slice && along_of(inner) == along)
        return build_pick(match->graph, inner->operands[0], along, start_of(inner) + at, place);
    if (inner->op == OP_concat && along_of(inner) == along) {
        Value part = find_part(match, inner, along, at, 1, &begin);
        return build_pick(match->graph, part, along, at - begin, place);
    }
    if (inner->op == OP_gather || inner->op == OP_transpose) return pick_before_gather(match, along, at);
    if (inner->op != OP_broadcast) return VALUE_NONE;
    const Attribute *added = attribute_find(inner, ATTRIBUTE_dimensions);
    Dimension kept[RANK_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < added->count; i++)
        if (added->dimensions[i].name != along) kept[count++] = added->dimensions[i];
    if (count == added->count) return VALUE_NONE;
    return count ? build_broadcast(match->graph, inner->operands[0], kept, count, place) : inner->operands[0];
}

Value simplify_reverse(const Match *match) {
    const Node *inner = inner_node(match);
    return inner->op == OP_reverse && along_of(inner) == along_of(match->node) ? inner->operands[0]
                                                                               : VALUE_NONE;
}

Value simplify_shift(const Match *match) {
    return attribute_integer(match->node, ATTRIBUTE_by, 0) == 0 ? match->operands[0] : VALUE_NONE;
}

Value simplify_pad(const Match *match) { return keeps_type(match) ? match->operands[0] : VALUE_NONE; }

Value simplify_concat(const Match *match) {
    return match->node->operand_count == 1 ? match->operands[0] : VALUE_NONE;
}

// Over nothing: the value. Over dimensions that a broadcast added: max keeps the value, sum takes it as
// often as they have indices.
Value simplify_reduction(const Match *match) {
    Graph *graph = match->graph;
    const Attribute *over = attribute_find(match->node, ATTRIBUTE_over);
    if (over->count == 0) return match->operands[0];
    const Node *inner = inner_node(match);
    if (inner->op != OP_broadcast) return VALUE_NONE;
    const Attribute *added = attribute_find(inner, ATTRIBUTE_dimensions);
    Dimension kept[RANK_MAX];
    const char *left[RANK_MAX];
    uint32_t kept_count = 0, left_count = 0;
    double times = 1;
    for (uint32_t i = 0; i < added->count; i++) {
        bool reduced = false;
        for (uint32_t j = 0; j < over->count; j++) reduced |= over->names[j] == added->dimensions[i].name;
        if (reduced && added->dimensions[i].bound) return VALUE_NONE;
        if (reduced) times *= (double)added->dimensions[i].extent;
        else kept[kept_count++] = added->dimensions[i];
    }
    if (kept_count == added->count) return VALUE_NONE;
    const Type *source = graph_type(graph, inner->operands[0]);
    for (uint32_t j = 0; j < over->count; j++)
        if (type_find(source, over->names[j]) >= 0) left[left_count++] = over->names[j];
    Place place = match->node->place;
    Value value = inner->operands[0];
    if (kept_count) value = build_broadcast(graph, value, kept, kept_count, place);
    if (left_count) value = build_reduce(graph, match->node->op, value, left, left_count, place);
    if (match->node->op == OP_sum && times != 1) {
        Value factor = build_constant(graph, match->node->types[0]->element, times, place);
        value = build_binary(graph, OP_mul, value, factor, place);
    }
    return graph_type(graph, value) == match->node->types[0] ? value : VALUE_NONE;
}
