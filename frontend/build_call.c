// Calls: finding what is called, binding arguments to formals, running a body.
#include <string.h>

#include "frontend/build.h"

// ---- Binding ----

static bool is_dimension_formal(const Formal *formal) {
    return formal->type && formal->type->element && strcmp(formal->type->element, "dim") == 0;
}

static Thing names_thing(Context *context, const Expression *expression) {
    NameList names = {0};
    bool all = false;
    if (expression->kind == EXPRESSION_NAME && strcmp(expression->name, "none") == 0)
        return (Thing){.kind = THING_NONE};
    if (!evaluate_names(context, expression, &names, &all)) return THING_MISSING;
    if (all) return name_thing(NULL);
    if (names.count == 1) return name_thing(names.items[0]);
    Thing *items = ARENA_ARRAY(context->builder->ir->arena, Thing, names.count + 1);
    for (size_t i = 0; i < names.count; i++) items[i] = name_thing(names.items[i]);
    return tuple_thing(context->builder, (uint32_t)names.count, items, NULL);
}

static Thing evaluate_argument(Context *context, const Formal *formal, Expression *expression) {
    return is_dimension_formal(formal) ? names_thing(context, expression) : evaluate(context, expression);
}

static int find_formal(const Statement *callee, const char *name) {
    for (size_t i = 0; i < callee->formals.count; i++)
        if (callee->formals.items[i].name == name) return (int)i;
    return -1;
}

static bool report_unknown_option(Context *context, const Statement *callee, const Argument *argument) {
    const char *name = argument->label->kind == EXPRESSION_NAME ? argument->label->name : "(...)";
    REPORT(context, argument->place, "E0229", "%s has no option '%s'", callee->name, name);
    NameList names = {0};
    for (size_t i = 0; i < callee->formals.count; i++)
        vector_push(context->builder->ir->arena, &names, callee->formals.items[i].name);
    if (suggest(name, &names))
        report_suggestion(context, name, &names);
    else
        HINT(context, "it takes: %s", names_text(context, &names));
    if (!callee->prelude) NOTE(context, callee->place, "declared here");
    return false;
}

static bool is_part_name(const Statement *callee, const Argument *argument) {
    return callee->kind == STATEMENT_LAYER && argument->label && argument->label->kind == EXPRESSION_NAME &&
           strcmp(argument->label->name, "name") == 0 && find_formal(callee, argument->label->name) < 0;
}

// max(a, b) is of elements and max(a, over = b) along a dimension: which dimension is always said by name.
void report_unnamed(Context *context, const char *name, const Argument *argument) {
    REPORT(context, argument->place, "E0228", "names of dimensions are given by name = value");
    const Expression *value = argument->value;
    HINT(context, "write %s = %s", name, value->kind == EXPRESSION_NAME ? value->name : "...");
}

// The formal that the argument is for, or -1 after an error. `position` counts positional arguments.
static int match_argument(Context *context, const Statement *callee, const Argument *argument,
                          size_t *position) {
    if (!argument->label) {
        size_t at = (*position)++;
        if (at < callee->formals.count && is_dimension_formal(&callee->formals.items[at])) {
            report_unnamed(context, callee->formals.items[at].name, argument);
            return -1;
        }
        if (at < callee->formals.count) return (int)at;
        REPORT(context, argument->place, "E0230", "%s takes %zu argument%s at most", callee->name,
               callee->formals.count, callee->formals.count == 1 ? "" : "s");
        if (!callee->prelude) NOTE(context, callee->place, "declared here");
        return -1;
    }
    if (argument->sign != '=') {
        REPORT(context, argument->place, "E0228", "an option is written name = value");
        return -1;
    }
    int at = argument->label->kind == EXPRESSION_NAME ? find_formal(callee, argument->label->name) : -1;
    if (at < 0) report_unknown_option(context, callee, argument);
    return at;
}

static Context callee_context(const Context *context, Statement *callee, Scope *scope, Instance *instance,
                              Place place) {
    Context inner = *context;
    inner.scope = scope;
    inner.instance = instance;
    inner.function = callee;
    inner.let_name = NULL;
    inner.returned = false;
    inner.result = (Thing){.kind = THING_NONE};
    inner.in_prelude = callee->prelude;
    if (!context->in_prelude) inner.caller = place;
    scope->prelude = callee->prelude;
    return inner;
}

static bool bind_defaults(Context *inner, Statement *callee, Scope *scope, const bool *bound, Place place) {
    bool ok = true;
    for (size_t i = 0; i < callee->formals.count; i++) {
        const Formal *formal = &callee->formals.items[i];
        if (bound[i]) continue;
        Thing thing = THING_MISSING;
        if (formal->otherwise) {
            thing = evaluate_argument(inner, formal, formal->otherwise);
        } else {
            ok = report_error(inner->builder->ir->diagnostics, inner->in_prelude ? inner->caller : place,
                              "E0230", "%s needs an argument for '%s'", callee->name, formal->name);
            if (!callee->prelude) NOTE(inner, formal->place, "declared here");
        }
        thing.place = formal->place;
        scope_bind(inner->builder, scope, formal->name, thing);
    }
    return ok;
}

Scope *bind_formals(Context *context, Statement *callee, Scope *outer, const Expression *call,
                    const Thing *given, uint32_t given_count) {
    Arena *arena = context->builder->ir->arena;
    Scope *scope = scope_create(context->builder, outer);
    bool *bound = ARENA_ARRAY(arena, bool, callee->formals.count + 1);
    size_t position = given_count;
    bool ok = true;
    if (given_count > callee->formals.count) {
        REPORT(context, call ? call->place : callee->place, "E0230", "%s takes %zu argument%s, found %u",
               callee->name, callee->formals.count, callee->formals.count == 1 ? "" : "s", given_count);
        NOTE(context, callee->place, "declared here");
        return NULL;
    }
    for (size_t i = 0; i < given_count + (call ? call->arguments.count : 0); i++) {
        const Argument *argument = i < given_count ? NULL : &call->arguments.items[i - given_count];
        if (argument && is_part_name(callee, argument)) continue;
        int at = argument ? match_argument(context, callee, argument, &position) : (int)i;
        if (at >= 0 && bound[at]) {
            REPORT(context, argument->place, "E0230", "'%s' is given twice", callee->formals.items[at].name);
            at = -1;
        }
        if (at < 0) {
            ok = false;
            if (argument && !argument->label) evaluate(context, argument->value);
            continue;
        }
        const Formal *formal = &callee->formals.items[at];
        Thing thing = argument ? evaluate_argument(context, formal, argument->value) : given[i];
        Place place = argument ? argument->value->place : call ? call->place : formal->place;
        if (!is_dimension_formal(formal) &&
            !type_check_annotation(context, formal->type, thing, formal->name, place))
            ok = false;
        if (thing.kind == THING_TENSOR)
            vector_push(arena, &scope->taken, graph_type(context->work->graph, thing.value));
        bound[at] = true;
        thing.place = formal->place;
        scope_bind(context->builder, scope, formal->name, thing);
    }
    Place place = call ? call->place : callee->place;
    Context inner = callee_context(context, callee, scope, NULL, place);
    if (ok) ok = bind_defaults(&inner, callee, scope, bound, place);
    return ok ? scope : NULL;
}

// ---- Running ----

static Thing give_result(Context *inner, Statement *callee) {
    if (!inner->returned && callee->kind != STATEMENT_MODEL) {
        report_error(inner->builder->ir->diagnostics, callee->place, "E0235", "%s returns nothing",
                     callee->name);
        return THING_MISSING;
    }
    const char *what = arena_format(inner->builder->ir->arena, "the result of %s", callee->name);
    bool fits = type_check_annotation(inner, callee->type, inner->result, what, inner->result_place);
    return fits ? inner->result : THING_MISSING;
}

// Runs the body of `callee` in `scope`, whose formals are bound. `place` is the call.
Thing run_body(Context *context, Statement *callee, Scope *scope, Instance *instance, Place place) {
    if (callee->active) {
        REPORT(context, place, "E0234", "%s uses itself", callee->name);
        NOTE(context, callee->place, "declared here");
        HINT(context, "what repeats is a stack: stack trunk = %s * 8",
             callee->kind == STATEMENT_LAYER ? callee->name : "Layer");
        return THING_MISSING;
    }
    size_t errors = diagnostics_error_count(context->builder->ir->diagnostics);
    Context inner = callee_context(context, callee, scope, instance, place);
    callee->active = callee->visited = true;
    run_statements(&inner, &callee->body);
    callee->active = false;
    Thing result = give_result(&inner, callee);
    bool is_entry = place.line == callee->place.line && place.column == callee->place.column;
    if (diagnostics_error_count(context->builder->ir->diagnostics) != errors && !callee->prelude &&
        place.line && !is_entry)
        report_use(context, callee->name, place);
    return result;
}

// ---- What is called ----

static Thing function_call(Context *context, const Thing *function, const Expression *expression) {
    Statement *callee = function->callable.syntax;
    Scope *scope = bind_formals(context, callee, function->callable.scope, expression, NULL, 0);
    if (!scope) return THING_MISSING;
    if (callee->clauses.count && context->work)
        return composite_call(context, callee, scope, expression->place);
    return run_body(context, callee, scope, function->callable.instance, expression->place);
}

static void evaluate_arguments_for_errors(Context *context, const Expression *expression) {
    for (size_t i = 0; i < expression->arguments.count; i++)
        if (!expression->arguments.items[i].label) evaluate(context, expression->arguments.items[i].value);
}

// Is it run with weights that are only read?
static bool is_frozen(Thing thing) {
    const Instance *owner = NULL;
    if (thing.kind == THING_FUNCTION) owner = thing.callable.instance;
    if (thing.kind == THING_STACK) owner = thing.stack->instance;
    return owner && owner->model->file;
}

static Thing call_unfrozen(Context *context, Thing thing, const Expression *expression) {
    switch (thing.kind) {
        case THING_FUNCTION:
            return function_call(context, &thing, expression);
        case THING_LAYER:
            return layer_call(context, thing.callable.syntax, expression);
        case THING_STACK:
            return stack_call(context, thing.stack, expression);
        case THING_UNKNOWN:
            evaluate_arguments_for_errors(context, expression);
            return thing;
        default:
            REPORT(context, expression->a->place, "E0233", "%s is not a function",
                   thing_text(context, thing));
            if (thing.place.file) NOTE(context, thing.place, "declared here");
            evaluate_arguments_for_errors(context, expression);
            return THING_MISSING;
    }
}

// A model that is not trained runs as in evaluation: nothing is dropped out in it.
static Thing call_thing(Context *context, Thing thing, const Expression *expression) {
    Work *work = context->work;
    if (!work || !work->training || !is_frozen(thing)) return call_unfrozen(context, thing, expression);
    work->training = false;
    Thing result = call_unfrozen(context, thing, expression);
    work->training = true;
    return result;
}

Thing call_expression(Context *context, const Expression *expression) {
    Expression *target = expression->a;
    if (target->kind != EXPRESSION_NAME) return call_thing(context, evaluate(context, target), expression);
    const Thing *local = scope_find(context->scope, target->name);
    const Declaration *declaration = local ? NULL : context_find_declaration(context, target->name);
    if (local || declaration)
        return call_thing(context, local ? *local : evaluate_name(context, target), expression);
    const Intrinsic *intrinsic = intrinsic_find(target->name);
    if (intrinsic) return intrinsic_call(context, intrinsic, expression);
    REPORT(context, target->place, "E0201", "unknown function '%s'", target->name);
    NameList names = {0};
    gather_visible_names(context, &names);
    report_suggestion(context, target->name, &names);
    evaluate_arguments_for_errors(context, expression);
    return THING_MISSING;
}
