// Statements of bodies: let, return, if, const, fn; param and stack go to build_layer.c.
#include <string.h>

#include "frontend/build.h"

static bool in_kind(const Context *context, StatementKind kind) {
    return context->function && context->function->kind == kind;
}

static bool bind_let(Context *context, const char *name, Thing thing, Place place) {
    return scope_declare(context, name, thing, place);
}

static bool run_let_names(Context *context, Statement *statement) {
    Thing thing = evaluate(context, statement->value);
    uint32_t count = (uint32_t)statement->names.count;
    bool fits = thing.kind == THING_TUPLE && thing.tuple->count == count;
    if (!fits && thing.kind != THING_UNKNOWN) {
        REPORT(context, statement->value->place, "E0241", "expected a tuple of %u, found %s", count,
               thing_text(context, thing));
    }
    bool ok = true;
    for (uint32_t i = 0; i < count; i++) {
        const LetName *name = &statement->names.items[i];
        if (!bind_let(context, name->name, fits ? thing.tuple->items[i] : THING_MISSING, name->place))
            ok = false;
    }
    return ok && fits;
}

static bool run_let(Context *context, Statement *statement) {
    if (in_kind(context, STATEMENT_MODEL)) {
        REPORT(context, statement->place, "E0237", "`let` stands in a fn, a layer or an objective");
        return false;
    }
    if (statement->names.count) return run_let_names(context, statement);
    context->let_name = statement->name;
    Thing thing = evaluate(context, statement->value);
    context->let_name = NULL;
    if (!type_check_annotation(context, statement->type, thing, statement->name, statement->value->place))
        thing = THING_MISSING;
    return bind_let(context, statement->name, thing, statement->place);
}

static bool run_return(Context *context, Statement *statement) {
    if (in_kind(context, STATEMENT_MODEL)) {
        REPORT(context, statement->place, "E0237", "a model returns nothing; write a fn inside it");
        return false;
    }
    context->result = evaluate(context, statement->value);
    context->result_place = statement->value->place;
    context->returned = true;
    return true;
}

// Where the condition is not known (a template checked without a caller) both branches are looked at.
static bool run_if(Context *context, Statement *statement) {
    Thing condition = evaluate(context, statement->value);
    if (condition.kind == THING_UNKNOWN) {
        run_statements(context, &statement->body);
        bool returned = context->returned;
        context->returned = false;
        run_statements(context, &statement->otherwise);
        context->returned = context->returned && returned;
        context->result = THING_MISSING;
        return true;
    }
    double chosen;
    if (!thing_to_number(context, condition, statement->value->place, &chosen)) return false;
    return run_statements(context, chosen != 0 ? &statement->body : &statement->otherwise);
}

static bool run_fn(Context *context, Statement *statement) {
    if (statement->clauses.count) {
        REPORT(context, statement->place, "E0237", "a fn with clauses stands at file level");
        return false;
    }
    Thing thing = {.kind = THING_FUNCTION};
    thing.callable.syntax = statement;
    thing.callable.scope = context->scope;
    thing.callable.instance = context->instance;
    return scope_declare(context, statement->name, thing, statement->place);
}

static bool run_const(Context *context, Statement *statement) {
    Thing thing = evaluate(context, statement->value);
    double number;
    if (thing.kind == THING_NAME && thing.name && thing_to_number(context, thing, statement->place, &number))
        thing = number_thing(number);
    if (thing.kind == THING_TENSOR || thing.kind == THING_PARAMETER) {
        REPORT(context, statement->value->place, "E0214", "expected a constant, found a tensor");
        HINT(context, "write `let` for tensors");
        thing = THING_MISSING;
    }
    return scope_declare(context, statement->name, thing, statement->place);
}

static bool run_param(Context *context, Statement *statement) {
    if (in_kind(context, STATEMENT_LAYER) || in_kind(context, STATEMENT_MODEL))
        return declare_parameter(context, statement);
    REPORT(context, statement->place, "E0237", "`param` stands in a layer or a model");
    return false;
}

static bool run_stack(Context *context, Statement *statement) {
    if (in_kind(context, STATEMENT_MODEL)) return declare_stack(context, statement);
    REPORT(context, statement->place, "E0237", "`stack` stands in a model");
    return false;
}

static bool run_statement(Context *context, Statement *statement) {
    switch (statement->kind) {
        case STATEMENT_LET:
            return run_let(context, statement);
        case STATEMENT_RETURN:
            return run_return(context, statement);
        case STATEMENT_IF:
            return run_if(context, statement);
        case STATEMENT_FN:
            return run_fn(context, statement);
        case STATEMENT_CONST:
            return run_const(context, statement);
        case STATEMENT_PARAM:
            return run_param(context, statement);
        case STATEMENT_STACK:
            return run_stack(context, statement);
        case STATEMENT_DIM:
            REPORT(context, statement->place, "E0237", "`dim` stands at file level");
            return false;
        case STATEMENT_INCLUDE:
        case STATEMENT_LAYER:
        case STATEMENT_MODEL:
        case STATEMENT_OBJECTIVE:
        case STATEMENT_TRAIN:
            break;
    }
    REPORT(context, statement->place, "E0237", "this stands at file level");
    return false;
}

bool run_statements(Context *context, const Statements *statements) {
    bool ok = true;
    for (size_t i = 0; i < statements->count; i++) {
        if (!run_statement(context, statements->items[i])) ok = false;
        if (!context->returned) continue;
        // After `if c { return a }` the rest is for the other case; after a plain return it is a mistake.
        if (statements->items[i]->kind == STATEMENT_RETURN && i + 1 < statements->count)
            return REPORT(context, statements->items[i + 1]->place, "E0236",
                          "nothing is reached after `return`");
        break;
    }
    return ok;
}
