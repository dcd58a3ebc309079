// Intrinsics that arrange elements, make them, or ask about them.
#include <string.h>

#include "frontend/build.h"

// ---- Views ----

// The one labelled argument of rename, split and merge.
static const Argument *only_option(Context *context, const Call *call, const char *usage) {
    const Arguments *arguments = &call->expression->arguments;
    const Argument *found = NULL;
    for (size_t i = 0; i < arguments->count; i++) {
        if (!arguments->items[i].label) continue;
        if (found) {
            REPORT(context, arguments->items[i].place, "E0229", "one dimension at a time: %s", usage);
            return NULL;
        }
        found = &arguments->items[i];
    }
    if (!found) REPORT(context, call->place, "E0227", "expected %s", usage);
    return found;
}

Thing intrinsic_rename(Context *context, const Call *call) {
    Value value = call_tensor(context, call, 0);
    if (value_is_none(value)) return THING_MISSING;
    NameList from = {0}, to = {0};
    Arena *arena = context->builder->ir->arena;
    for (size_t i = 0; i < call->expression->arguments.count; i++) {
        const Argument *argument = &call->expression->arguments.items[i];
        if (!argument->label) continue;
        const char *old = label_name(context, argument->label);
        const char *fresh = old ? label_name(context, argument->value) : NULL;
        if (!fresh) return THING_MISSING;
        vector_push(arena, &from, old);
        vector_push(arena, &to, fresh);
    }
    if (!check_has_names(context, value, &from, call->place)) return THING_MISSING;
    Attribute attributes[] = {{.key = ATTRIBUTE_from, .names = from.items, .count = (uint32_t)from.count},
                              {.key = ATTRIBUTE_to, .names = to.items, .count = (uint32_t)to.count}};
    return tensor_or_unknown(
        graph_add(context->work->graph, OP_rename, &value, 1, attributes, 2, call->place));
}

typedef struct Parts {
    Dimension items[RANK_MAX];
    uint32_t count;
    int unknown;  // index of the part without extent, or -1
} Parts;

static bool add_part(Context *context, const Argument *argument, Parts *parts) {
    const Expression *label = argument->label ? argument->label : argument->value;
    if (argument->label && argument->sign != ':')
        return REPORT(context, argument->place, "E0218", "a part is written name, or name: extent");
    if (parts->count == RANK_MAX)
        return REPORT(context, argument->place, "E0206", "at most %d parts", RANK_MAX);
    const char *name = label_name(context, label);
    if (!name) return false;
    int64_t extent = 0;
    const Declaration *declaration = declaration_find(&context->builder->user, name);
    bool declared = declaration && (!declaration->statement || declaration->statement->kind == STATEMENT_DIM);
    if (argument->label) {
        if (!evaluate_integer(context, argument->value, "an extent", &extent)) return false;
        if (extent < 1)
            return REPORT(context, argument->place, "E0204", "an extent is at least 1, found %lld",
                          (long long)extent);
    } else if (declared && !context->in_prelude) {
        if (!dimension_extent(context, name, label->place, &extent)) return false;
    } else if (parts->unknown >= 0) {
        return REPORT(context, argument->place, "E0231", "only one part can be left without an extent");
    } else {
        parts->unknown = (int)parts->count;
    }
    parts->items[parts->count++] = (Dimension){name, extent, NULL};
    return true;
}

// The part without extent takes what the others leave.
static bool infer_part(Context *context, Parts *parts, int64_t whole, const char *name, Place place) {
    if (parts->unknown < 0) return true;
    int64_t known = 1;
    for (uint32_t i = 0; i < parts->count; i++) {
        if ((int)i == parts->unknown) continue;
        if (parts->items[i].extent > whole / known)
            known = whole + 1;  // does not divide
        else
            known *= parts->items[i].extent;
    }
    if (known > whole || whole % known != 0)
        return REPORT(context, place, "E0231", "%s = %lld does not split into parts of these extents", name,
                      (long long)whole);
    parts->items[parts->unknown].extent = whole / known;
    return true;
}

Thing intrinsic_split(Context *context, const Call *call) {
    Value value = call_tensor(context, call, 0);
    const Argument *option = only_option(context, call, "split(x, key = (half: 2, pair))");
    const char *along = option ? label_name(context, option->label) : NULL;
    if (!along || value_is_none(value)) return THING_MISSING;
    NameList names = {0};
    vector_push(context->builder->ir->arena, &names, along);
    if (!check_has_names(context, value, &names, option->label->place)) return THING_MISSING;
    Parts parts = {.unknown = -1};
    const Expression *tuple = option->value;
    if (tuple->kind != EXPRESSION_TUPLE) {
        REPORT(context, tuple->place, "E0218", "the parts are a tuple: split(x, key = (half: 2, pair))");
        return THING_MISSING;
    }
    for (size_t i = 0; i < tuple->arguments.count; i++)
        if (!add_part(context, &tuple->arguments.items[i], &parts)) return THING_MISSING;
    const Type *type = graph_type(context->work->graph, value);
    int64_t whole = type->dimensions[type_find(type, along)].extent;
    if (!infer_part(context, &parts, whole, along, tuple->place)) return THING_MISSING;
    return tensor_or_unknown(
        build_split(context->work->graph, value, along, parts.items, parts.count, call->place));
}

Thing intrinsic_merge(Context *context, const Call *call) {
    Value value = call_tensor(context, call, 0);
    const Argument *option = only_option(context, call, "merge(x, (heads, key) = embed)");
    if (!option || value_is_none(value)) return THING_MISSING;
    NameList from = {0};
    if (!evaluate_names(context, option->label, &from, NULL)) return THING_MISSING;
    const char *to = label_name(context, option->value);
    if (!to || !check_has_names(context, value, &from, option->label->place)) return THING_MISSING;
    return tensor_or_unknown(
        build_merge(context->work->graph, value, from.items, (uint32_t)from.count, to, call->place));
}

static Value transpose_like(Context *context, Value value, const Type *like, Place place) {
    const char *order[RANK_MAX];
    for (int i = 0; i < like->rank; i++) order[i] = like->dimensions[i].name;
    const Type *type = graph_type(context->work->graph, value);
    if (type_same_dimensions(type, like)) return value;
    return build_transpose(context->work->graph, value, order, (uint32_t)like->rank, place);
}

Thing intrinsic_transpose(Context *context, const Call *call) {
    Value value = call_tensor(context, call, 0);
    if (value_is_none(value)) return THING_MISSING;
    const Argument *option = call_option(call, "like");
    if (option) {
        Value like = thing_to_tensor(context, evaluate(context, option->value), ELEMENT_F32, option->place);
        if (value_is_none(like)) return THING_MISSING;
        const Type *type = graph_type(context->work->graph, like);
        return tensor_or_unknown(transpose_like(context, value, type, call->place));
    }
    NameList order = {0};
    if (!call_names(context, call, "order", &order, NULL)) return THING_MISSING;
    return tensor_or_unknown(
        build_transpose(context->work->graph, value, order.items, (uint32_t)order.count, call->place));
}

Thing intrinsic_broadcast(Context *context, const Call *call) {
    Value value = call_tensor(context, call, 0);
    if (value_is_none(value)) return THING_MISSING;
    Graph *graph = context->work->graph;
    const Argument *option = call_option(call, "like");
    if (option) {
        Value like = thing_to_tensor(context, evaluate(context, option->value), ELEMENT_F32, option->place);
        if (value_is_none(like)) return THING_MISSING;
        return tensor_or_unknown(build_expand(graph, value, graph_type(graph, like), call->place));
    }
    NameList over = {0};
    if (!call_names(context, call, "over", &over, NULL)) return THING_MISSING;
    Dimension dimensions[RANK_MAX];
    uint32_t count = 0;
    for (; count < over.count && count < RANK_MAX; count++) {
        int64_t extent;
        if (!dimension_extent(context, over.items[count], call_option(call, "over")->place, &extent)) {
            HINT(context, "broadcast(a, like = x) repeats along the dimensions of a tensor x");
            return THING_MISSING;
        }
        dimensions[count] = (Dimension){over.items[count], extent, NULL};
    }
    return tensor_or_unknown(build_broadcast(graph, value, dimensions, count, call->place));
}

// Integer options of an op along one dimension.
static Thing along_op(Context *context, const Call *call, Op op, const char *const *labels,
                      const AttributeKey *keys, int count) {
    Value value = call_tensor(context, call, 0);
    const char *along = call_name(context, call, "along");
    if (!along || value_is_none(value)) return THING_MISSING;
    Attribute attributes[4] = {{.key = ATTRIBUTE_along, .text = along}};
    for (int i = 0; i < count; i++) {
        const Argument *option = call_option(call, labels[i]);
        int64_t number;
        if (!option) {
            REPORT(context, call->place, "E0227", "%s needs `%s = ...`", call->expression->a->name,
                   labels[i]);
            return THING_MISSING;
        }
        if (!evaluate_integer(context, option->value, labels[i], &number)) return THING_MISSING;
        attributes[i + 1] = (Attribute){.key = keys[i], .integer = number};
    }
    NameList names = {0};
    vector_push(context->builder->ir->arena, &names, along);
    if (!check_has_names(context, value, &names, call_option(call, "along")->place)) return THING_MISSING;
    return tensor_or_unknown(
        graph_add(context->work->graph, op, &value, 1, attributes, (uint32_t)count + 1, call->place));
}

#define LABELS(...) \
    (const char *const[]) { __VA_ARGS__ }
#define KEYS(...) \
    (const AttributeKey[]) { __VA_ARGS__ }

Thing intrinsic_slice(Context *context, const Call *call) {
    return along_op(context, call, OP_slice, LABELS("start", "count"), KEYS(ATTRIBUTE_start, ATTRIBUTE_count),
                    2);
}
Thing intrinsic_pad(Context *context, const Call *call) {
    return along_op(context, call, OP_pad, LABELS("start", "count"), KEYS(ATTRIBUTE_start, ATTRIBUTE_count),
                    2);
}
Thing intrinsic_pick(Context *context, const Call *call) {
    return along_op(context, call, OP_pick, LABELS("at"), KEYS(ATTRIBUTE_at), 1);
}
Thing intrinsic_shift(Context *context, const Call *call) {
    return along_op(context, call, OP_shift, LABELS("by"), KEYS(ATTRIBUTE_by), 1);
}
Thing intrinsic_reverse(Context *context, const Call *call) {
    return along_op(context, call, OP_reverse, NULL, NULL, 0);
}

Thing intrinsic_concat(Context *context, const Call *call) {
    const char *along = call_name(context, call, "along");
    VECTOR(Value) values = {0};
    for (int i = 0; call_argument(call, i); i++) {
        Value value = call_tensor(context, call, i);
        if (value_is_none(value)) return THING_MISSING;
        vector_push(context->builder->ir->arena, &values, value);
    }
    if (!along) return THING_MISSING;
    Attribute attribute = {.key = ATTRIBUTE_along, .text = along};
    return tensor_or_unknown(graph_add(context->work->graph, OP_concat, values.items, (uint32_t)values.count,
                                       &attribute, 1, call->place));
}

// ---- Sources ----

// The extent of a dimension: from a tensor that has it, from the parameter being initialised, or declared.
static bool find_dimension(Context *context, const Call *call, const char *name, Dimension *dimension) {
    const Argument *option = call_option(call, "of");
    const Type *type = context->work->initialize;
    if (option) {
        Value of = thing_to_tensor(context, evaluate(context, option->value), ELEMENT_F32, option->place);
        if (value_is_none(of)) return false;
        NameList names = {0};
        vector_push(context->builder->ir->arena, &names, name);
        if (!check_has_names(context, of, &names, option->place)) return false;
        type = graph_type(context->work->graph, of);
    }
    int at = type ? type_find(type, name) : -1;
    if (at >= 0) {
        *dimension = type->dimensions[at];
        return true;
    }
    *dimension = (Dimension){.name = name};
    return dimension_extent(context, name, call->place, &dimension->extent);
}

// In an initial value the result has all dimensions of the parameter, so that formulas over several
// dimensions need no broadcasts.
Thing intrinsic_index(Context *context, const Call *call) {
    const char *name = label_name(context, call_argument(call, 0)->value);
    Dimension dimension;
    if (!name) return THING_MISSING;
    if (!context->work) {
        REPORT(context, call->place, "E0226", "only constants can stand here");
        return THING_MISSING;
    }
    if (!find_dimension(context, call, name, &dimension)) {
        if (!call_option(call, "of")) HINT(context, "index(%s, of = x) counts along a tensor x that has it", name);
        return THING_MISSING;
    }
    Graph *graph = context->work->graph;
    Value value = build_index(graph, dimension, call->place);
    const Type *type = context->work->initialize;
    if (type && !value_is_none(value) && type_find(type, name) >= 0)
        value = build_expand(graph, value, type_with_element(graph->ir, type, ELEMENT_I32), call->place);
    return tensor_or_unknown(value);
}

// Sites are numbered in the order of the text: the first bears the bare path.
Thing random_values(Context *context, const Type *type, Place place) {
    Work *work = context->work;
    Names *names = context->builder->ir->names;
    const char *site = work->sites == 0 ? names_intern(names, work->site)
                                        : names_format(names, "%s.%d", work->site, work->sites);
    Value seed = work_seed(context, place);
    work->sites++;
    Attribute attributes[] = {
        {.key = ATTRIBUTE_dimensions, .dimensions = type->dimensions, .count = (uint32_t)type->rank},
        {.key = ATTRIBUTE_site, .text = site}};
    return tensor_or_unknown(graph_add(work->graph, OP_random, &seed, 1, attributes, 2, place));
}

Thing intrinsic_random(Context *context, const Call *call) {
    const Argument *option = call_option(call, "like");
    Thing like = option ? evaluate(context, option->value) : (Thing){.kind = THING_NONE};
    if (like.kind == THING_UNKNOWN) return THING_MISSING;
    if (like.kind == THING_TENSOR)
        return random_values(context, graph_type(context->work->graph, like.value), call->place);
    if (context->work && context->work->initialize)
        return random_values(context, context->work->initialize, call->place);
    REPORT(context, call->place, "E0232", "random numbers need a shape: write `like = x`");
    return THING_MISSING;
}

// ---- Questions ----

Thing intrinsic_size(Context *context, const Call *call) {
    Value value = call_tensor(context, call, 0);
    NameList over = {0};
    bool all = false;
    if (value_is_none(value) || !call_names(context, call, "over", &over, &all)) return THING_MISSING;
    const Type *type = graph_type(context->work->graph, value);
    if (all) return number_thing((double)type_count(type));
    if (!check_has_names(context, value, &over, call_option(call, "over")->place)) return THING_MISSING;
    double count = 1;
    for (size_t i = 0; i < over.count; i++)
        count *= (double)type->dimensions[type_find(type, over.items[i])].extent;
    return number_thing(count);
}

// Collects what `without` excludes: names, and the dimensions of tensors.
static bool gather_excluded(Context *context, const Expression *expression, NameList *excluded) {
    if (expression->kind == EXPRESSION_TUPLE) {
        for (size_t i = 0; i < expression->arguments.count; i++)
            if (!gather_excluded(context, expression->arguments.items[i].value, excluded)) return false;
        return true;
    }
    const Thing *local =
        expression->kind == EXPRESSION_NAME ? scope_find(context->scope, expression->name) : NULL;
    if (!local || (local->kind != THING_TENSOR && local->kind != THING_PARAMETER))
        return evaluate_names(context, expression, excluded, NULL);
    Thing thing = evaluate_name(context, expression);
    if (thing.kind != THING_TENSOR) return false;
    const Type *type = graph_type(context->work->graph, thing.value);
    for (int i = 0; i < type->rank; i++)
        vector_push(context->builder->ir->arena, excluded, type->dimensions[i].name);
    return true;
}

Thing intrinsic_names(Context *context, const Call *call) {
    Value value = call_tensor(context, call, 0);
    const Argument *option = call_option(call, "without");
    NameList excluded = {0};
    if (value_is_none(value) || (option && !gather_excluded(context, option->value, &excluded)))
        return THING_MISSING;
    const Type *type = graph_type(context->work->graph, value);
    Thing names[RANK_MAX];
    uint32_t count = 0;
    for (int i = 0; i < type->rank; i++) {
        bool is_excluded = false;
        for (size_t j = 0; j < excluded.count; j++)
            if (excluded.items[j] == type->dimensions[i].name) is_excluded = true;
        if (!is_excluded) names[count++] = name_thing(type->dimensions[i].name);
    }
    return tuple_thing(context->builder, count, names, NULL);
}

Thing intrinsic_element(Context *context, const Call *call) {
    Value value = call_tensor(context, call, 0);
    if (value_is_none(value)) return THING_MISSING;
    return (Thing){.kind = THING_ELEMENT, .element = graph_type(context->work->graph, value)->element};
}

Thing intrinsic_is_tensor(Context *context, const Call *call) {
    Thing thing = evaluate(context, call_argument(call, 0)->value);
    if (thing.kind == THING_UNKNOWN) return THING_MISSING;
    return truth_thing(thing.kind == THING_TENSOR);
}
