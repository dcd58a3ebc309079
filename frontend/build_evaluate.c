// Evaluation of expressions: numbers stay numbers, tensors become nodes of the graph under construction.
#include <math.h>
#include <string.h>

#include "frontend/build.h"

enum {
    EVALUATION_DEPTH_MAX = 1200,  // of nested expressions over all instantiations
    EVALUATION_MAX = 2000000      // of expressions in one load; GPT-2 has 3000
};

Thing number_thing(double number) { return (Thing){.kind = THING_NUMBER, .number = number}; }
Thing truth_thing(bool truth) { return (Thing){.kind = THING_NUMBER, .truth = true, .number = truth}; }
Thing name_thing(const char *name) { return (Thing){.kind = THING_NAME, .name = name}; }
Thing tensor_thing(Value value) { return (Thing){.kind = THING_TENSOR, .value = value}; }

Thing tuple_thing(Builder *builder, uint32_t count, const Thing *items, const char *const *names) {
    Tuple *tuple = ARENA_NEW(builder->ir->arena, Tuple);
    tuple->count = count;
    tuple->items = ARENA_ARRAY(builder->ir->arena, Thing, count + 1);
    tuple->names = ARENA_ARRAY(builder->ir->arena, const char *, count + 1);
    for (uint32_t i = 0; i < count; i++) {
        tuple->items[i] = items[i];
        tuple->names[i] = names ? names[i] : NULL;
    }
    return (Thing){.kind = THING_TUPLE, .tuple = tuple};
}

bool thing_is_constant(Thing thing) {
    return thing.kind != THING_TENSOR && thing.kind != THING_PARAMETER && thing.kind != THING_UNKNOWN;
}

// A number, or the extent of a dimension. Silent where the thing is unknown.
bool thing_to_number(Context *context, Thing thing, Place place, double *number) {
    if (thing.kind == THING_NUMBER) {
        *number = thing.number;
        return true;
    }
    if (thing.kind == THING_NAME && thing.name) {
        int64_t extent;
        if (!dimension_extent(context, thing.name, place, &extent)) return false;
        *number = (double)extent;
        return true;
    }
    if (thing.kind == THING_UNKNOWN) return false;
    REPORT(context, place, "E0214", "expected a constant number, found %s", thing_text(context, thing));
    if (thing.kind == THING_TENSOR && graph_type(context->work->graph, thing.value)->element == ELEMENT_BOOL)
        HINT(context, "to choose element by element write select(condition, a, b)");
    return false;
}

bool evaluate_number(Context *context, Expression *expression, double *number) {
    return thing_to_number(context, evaluate(context, expression), expression->place, number);
}

bool evaluate_integer(Context *context, Expression *expression, const char *what, int64_t *number) {
    double value;
    if (!evaluate_number(context, expression, &value)) return false;
    if (!(fabs(value) < 0x1p53) || floor(value) != value)
        return REPORT(context, expression->place, "E0215", "%s must be a whole number, found %g", what,
                      value);
    *number = (int64_t)value;
    return true;
}

// ---- Names ----

static bool special_name(Context *context, const char *name, Thing *thing) {
    if (strcmp(name, "true") == 0 || strcmp(name, "false") == 0) {
        *thing = truth_thing(name[0] == 't');
    } else if (strcmp(name, "none") == 0) {
        *thing = (Thing){.kind = THING_NONE};
    } else if (strcmp(name, "all") == 0) {
        *thing = name_thing(NULL);
    } else if (strcmp(name, "pi") == 0) {
        *thing = number_thing(3.14159265358979323846);
    } else if (strcmp(name, "depth") == 0 && context->instance) {
        *thing = number_thing((double)context->instance->depth);
    } else if (strcmp(name, "training") == 0 && context->work) {
        context->work->asked_training = true;
        *thing = truth_thing(context->work->training);
    } else if (element_from_name(name, &thing->element)) {
        thing->kind = THING_ELEMENT;
    } else {
        return false;
    }
    return true;
}

static Thing declared_thing(Context *context, Declaration *declaration) {
    Statement *statement = declaration->statement;
    Thing thing = {.kind = THING_FUNCTION, .place = statement ? statement->place : NO_PLACE};
    thing.callable.syntax = statement;
    switch (statement ? statement->kind : STATEMENT_DIM) {
        case STATEMENT_DIM:
            thing = name_thing(declaration->name);
            thing.place = statement ? statement->place : NO_PLACE;
            return thing;
        case STATEMENT_FN:
            return thing;
        case STATEMENT_LAYER:
            thing.kind = THING_LAYER;
            return thing;
        case STATEMENT_CONST:
            return declaration_thing(context, declaration);
        default:
            return THING_MISSING;
    }
}

Thing evaluate_name(Context *context, const Expression *expression) {
    const char *name = expression->name;
    const Thing *local = scope_find(context->scope, name);
    if (local && local->kind == THING_PARAMETER && context->work)
        return tensor_or_unknown(parameter_tensor(context, local->parameter, expression->place));
    if (local) return *local;
    Thing thing = THING_MISSING;
    Declaration *declaration = context_find_declaration(context, name);
    if (declaration && declaration->statement &&
        (declaration->statement->kind == STATEMENT_MODEL ||
         declaration->statement->kind == STATEMENT_OBJECTIVE)) {
        REPORT(context, expression->place, "E0216", "'%s' is %s and cannot be used here", name,
               declaration->statement->kind == STATEMENT_MODEL ? "a model" : "an objective");
        return THING_MISSING;
    }
    if (declaration) return declared_thing(context, declaration);
    if (special_name(context, name, &thing)) return thing;
    if (intrinsic_find(name)) {
        REPORT(context, expression->place, "E0216", "'%s' is a function: call it", name);
        return THING_MISSING;
    }
    report_unknown_name(context, name, expression->place);
    return THING_MISSING;
}

static bool push_name_thing(Context *context, Thing thing, Place place, NameList *names, bool *all) {
    if (thing.kind == THING_NAME && thing.name) {
        vector_push(context->builder->ir->arena, names, thing.name);
        return true;
    }
    if (thing.kind == THING_NAME && all) return *all = true;
    if (thing.kind == THING_UNKNOWN) return false;
    if (thing.kind != THING_TUPLE)
        return REPORT(context, place, "E0217", "expected the name of a dimension, found %s",
                      thing_text(context, thing));
    for (uint32_t i = 0; i < thing.tuple->count; i++)
        if (!push_name_thing(context, thing.tuple->items[i], place, names, NULL)) return false;
    return true;
}

bool evaluate_names(Context *context, const Expression *expression, NameList *names, bool *all) {
    if (expression->kind == EXPRESSION_TUPLE) {
        for (size_t i = 0; i < expression->arguments.count; i++) {
            const Argument *argument = &expression->arguments.items[i];
            if (argument->label)
                return REPORT(context, argument->place, "E0217", "expected the name of a dimension");
            if (!evaluate_names(context, argument->value, names, NULL)) return false;
        }
        return true;
    }
    if (expression->kind != EXPRESSION_NAME) {
        Expression *computed = (Expression *)expression;
        return push_name_thing(context, evaluate(context, computed), expression->place, names, all);
    }
    const Thing *local = scope_find(context->scope, expression->name);
    if (local) return push_name_thing(context, *local, expression->place, names, all);
    if (all && strcmp(expression->name, "all") == 0) return *all = true;
    const Declaration *declaration =
        context->in_prelude ? NULL : declaration_find(&context->builder->user, expression->name);
    if (declaration && declaration->statement && declaration->statement->kind != STATEMENT_DIM) {
        REPORT(context, expression->place, "E0217", "'%s' is not a dimension", expression->name);
        NOTE(context, declaration->statement->place, "declared here");
        hint_dimension(context, declaration);
        return false;
    }
    const char *name = context->in_prelude ? scope_own_name(context, expression->name) : expression->name;
    vector_push(context->builder->ir->arena, names, name);
    return true;
}

// The dimension that a label stands for: time in `rename(x, time = past)`, `x[time: 0]`.
const char *label_name(Context *context, const Expression *label) {
    NameList names = {0};
    if (label->kind != EXPRESSION_NAME) {
        REPORT(context, label->place, "E0217", "expected the name of a dimension");
        return NULL;
    }
    if (!evaluate_names(context, label, &names, NULL)) return NULL;
    if (names.count == 1) return names.items[0];
    REPORT(context, label->place, "E0217", "expected one dimension, found %zu", names.count);
    return NULL;
}

// ---- Kinds of expression ----

static Thing evaluate_if(Context *context, const Expression *expression) {
    Thing condition = evaluate(context, expression->a);
    if (condition.kind == THING_UNKNOWN) {
        evaluate(context, expression->b);
        evaluate(context, expression->c);
        return THING_MISSING;
    }
    double chosen;
    if (!thing_to_number(context, condition, expression->a->place, &chosen)) return THING_MISSING;
    return evaluate(context, chosen != 0 ? expression->b : expression->c);
}

static Thing evaluate_tuple(Context *context, const Expression *expression) {
    uint32_t count = (uint32_t)expression->arguments.count;
    Thing *items = ARENA_ARRAY(context->builder->ir->arena, Thing, count + 1);
    const char **names = ARENA_ARRAY(context->builder->ir->arena, const char *, count + 1);
    for (uint32_t i = 0; i < count; i++) {
        const Argument *argument = &expression->arguments.items[i];
        const Expression *label = argument->label ? argument->label : argument->value;
        if (argument->label && (argument->sign != '=' || label->kind != EXPRESSION_NAME)) {
            REPORT(context, argument->place, "E0218", "a tuple holds values, or name = value");
            return THING_MISSING;
        }
        if (label->kind == EXPRESSION_NAME) names[i] = label->name;
        items[i] = evaluate(context, argument->value);
    }
    return tuple_thing(context->builder, count, items, names);
}

static Thing index_range(Context *context, Value tensor, const char *name, const Argument *argument) {
    const Type *type = graph_type(context->work->graph, tensor);
    int64_t start = 0, end = type->dimensions[type_find(type, name)].extent, extent = end;
    if (argument->value && !evaluate_integer(context, argument->value, "the start of a slice", &start))
        return THING_MISSING;
    if (argument->end && !evaluate_integer(context, argument->end, "the end of a slice", &end))
        return THING_MISSING;
    if (start < 0 || end > extent || start >= end) {
        REPORT(context, argument->place, "E0219", "%lld..%lld is not a part of %s = %lld", (long long)start,
               (long long)end, name, (long long)extent);
        return THING_MISSING;
    }
    Place place = context_place(context, argument->place);
    return tensor_or_unknown(build_slice(context->work->graph, tensor, name, start, end - start, place));
}

// x[time: 3], x[time: 1..4], table[vocab: tokens].
static Thing evaluate_index(Context *context, const Expression *expression) {
    Thing base = evaluate(context, expression->a);
    for (size_t i = 0; i < expression->arguments.count; i++) {
        const Argument *argument = &expression->arguments.items[i];
        if (!argument->label || argument->sign != ':') {
            REPORT(context, argument->place, "E0220", "an index names its dimension: x[time: 0]");
            return THING_MISSING;
        }
        Value tensor = thing_to_tensor(context, base, ELEMENT_F32, expression->a->place);
        const char *name = label_name(context, argument->label);
        Thing at = argument->range ? THING_MISSING : evaluate(context, argument->value);
        if (value_is_none(tensor) || !name) return THING_MISSING;
        NameList names = {0};
        vector_push(context->builder->ir->arena, &names, name);
        if (!check_has_names(context, tensor, &names, argument->label->place)) return THING_MISSING;
        Place place = context_place(context, expression->place);
        double number;
        if (argument->range)
            base = index_range(context, tensor, name, argument);
        else if (at.kind == THING_TENSOR)
            base = tensor_or_unknown(build_gather(context->work->graph, tensor, at.value, name, place));
        else if (!thing_to_number(context, at, argument->value->place, &number))
            return THING_MISSING;
        else
            base = tensor_or_unknown(build_pick(context->work->graph, tensor, name, (int64_t)number, place));
    }
    return base;
}

static Thing evaluate_field(Context *context, const Expression *expression) {
    Thing base = evaluate(context, expression->a);
    if (base.kind == THING_UNKNOWN) return base;
    if (base.kind == THING_TUPLE) {
        for (uint32_t i = 0; i < base.tuple->count; i++)
            if (base.tuple->names[i] == expression->name) return base.tuple->items[i];
    }
    if (base.kind != THING_MODEL) {
        REPORT(context, expression->place, "E0221", "%s has no parts with names", thing_text(context, base));
        return THING_MISSING;
    }
    const Thing *part = scope_find(base.model->scope, expression->name);
    if (!part) {
        REPORT(context, expression->place, "E0222", "the model %s has no '%s'", base.model->name,
               expression->name);
        NameList names = {0};
        for (size_t i = 0; i < base.model->scope->bindings.count; i++)
            vector_push(context->builder->ir->arena, &names, base.model->scope->bindings.items[i].name);
        report_suggestion(context, expression->name, &names);
        NOTE(context, base.model->statement->place, "declared here");
        return THING_MISSING;
    }
    if (part->kind == THING_PARAMETER && context->work)
        return tensor_or_unknown(parameter_tensor(context, part->parameter, expression->place));
    return *part;
}

static Thing evaluate_binary(Context *context, const Expression *expression) {
    if (expression->operator== OPERATOR_BAR || expression->operator== OPERATOR_ARROW) {
        REPORT(context, expression->place, "E0223", "'%s' stands in a model made by average or unroll only",
               expression->operator== OPERATOR_BAR ? "|" : "->");
        return THING_MISSING;
    }
    Thing a = evaluate(context, expression->a);
    Thing b = evaluate(context, expression->b);
    return operate_binary(context, expression->operator, a, b, expression);
}

static Thing evaluate_kind(Context *context, Expression *expression) {
    switch (expression->kind) {
        case EXPRESSION_NUMBER:
            return number_thing(expression->number);
        case EXPRESSION_TEXT:
            return (Thing){.kind = THING_TEXT, .name = expression->name};
        case EXPRESSION_NAME:
            return evaluate_name(context, expression);
        case EXPRESSION_FIELD:
            return evaluate_field(context, expression);
        case EXPRESSION_CALL:
            return call_expression(context, expression);
        case EXPRESSION_INDEX:
            return evaluate_index(context, expression);
        case EXPRESSION_TUPLE:
            return evaluate_tuple(context, expression);
        case EXPRESSION_NEGATE: {
            Thing a = evaluate(context, expression->a);
            return operate_op(context, OP_neg, &a, 1, expression->place);
        }
        case EXPRESSION_BINARY:
            return evaluate_binary(context, expression);
        case EXPRESSION_IF:
            return evaluate_if(context, expression);
    }
    return THING_MISSING;
}

// Stays below the limit: the next expression reaches it, and says so.
void count_evaluations(Builder *builder, int64_t count) {
    int64_t room = EVALUATION_MAX - 1 - builder->evaluations;
    if (room > 0) builder->evaluations += count < room ? count : room;
}

static bool within_limits(Context *context, Expression *expression) {
    Builder *builder = context->builder;
    if (builder->depth > EVALUATION_DEPTH_MAX)
        return REPORT(context, expression->place, "E0105", "calls and expressions nested more than %d deep",
                      EVALUATION_DEPTH_MAX);
    if (builder->evaluations == EVALUATION_MAX)
        return REPORT(context, expression->place, "E0111",
                      "the file asks for more than %d instantiated expressions", EVALUATION_MAX);
    return builder->evaluations < EVALUATION_MAX;
}

// An expression of the user's that failed once stays silent: a template is instantiated many times.
Thing evaluate(Context *context, Expression *expression) {
    Builder *builder = context->builder;
    if (expression->failed) return THING_MISSING;
    builder->depth++;
    builder->evaluations++;
    if (!within_limits(context, expression)) {
        builder->depth--;
        expression->failed = true;
        return THING_MISSING;
    }
    size_t errors = diagnostics_error_count(builder->ir->diagnostics);
    const char *let_name = context->let_name;
    if (expression->kind != EXPRESSION_CALL) context->let_name = NULL;  // it names a direct call only
    Thing thing = evaluate_kind(context, expression);
    context->let_name = let_name;
    builder->depth--;
    if (diagnostics_error_count(builder->ir->diagnostics) != errors && !context->in_prelude)
        expression->failed = true;
    return thing;
}
