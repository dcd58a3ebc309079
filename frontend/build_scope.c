// Names: scopes, declarations of the file and of the prelude, constants and extents on demand.
#include <stdlib.h>
#include <string.h>

#include "frontend/build.h"

Scope *scope_create(Builder *builder, Scope *outer) {
    Scope *scope = ARENA_NEW(builder->ir->arena, Scope);
    scope->outer = outer;
    return scope;
}

void scope_bind(Builder *builder, Scope *scope, const char *name, Thing thing) {
    vector_push(builder->ir->arena, &scope->bindings, ((Binding){name, thing}));
}

static const Thing *find_here(const Scope *scope, const char *name) {
    for (size_t i = scope->bindings.count; i-- > 0;)
        if (scope->bindings.items[i].name == name) return &scope->bindings.items[i].thing;
    return NULL;
}

const Thing *scope_find(const Scope *scope, const char *name) {
    for (; scope; scope = scope->outer) {
        const Thing *thing = find_here(scope, name);
        if (thing) return thing;
    }
    return NULL;
}

bool scope_declare(Context *context, const char *name, Thing thing, Place place) {
    thing.place = place;
    const Thing *other = find_here(context->scope, name);
    if (other && (other->place.line != place.line || other->place.column != place.column ||
                  other->place.file != place.file)) {
        REPORT(context, place, "E0202", "'%s' is declared twice", name);
        NOTE(context, other->place, "declared here before");
        return false;
    }
    scope_bind(context->builder, context->scope, name, thing);
    return true;
}

Declaration *declaration_find(const Declarations *declarations, const char *name) {
    for (size_t i = 0; i < declarations->count; i++)
        if (declarations->items[i]->name == name) return declarations->items[i];
    return NULL;
}

Declaration *context_find_declaration(const Context *context, const char *name) {
    Declaration *found = NULL;
    if (!context->in_prelude) found = declaration_find(&context->builder->user, name);
    return found ? found : declaration_find(&context->builder->prelude, name);
}

// ---- Settings, constants, extents ----

const char *builder_setting_text(Builder *builder, const char *name) {
    for (size_t i = builder->settings.count; i-- > 0;) {
        if (builder->settings.items[i].name != name) continue;
        builder->settings.items[i].used = true;
        return builder->settings.items[i].text;
    }
    return NULL;
}

// The value that --set gives to `name`.
bool builder_setting(Context *context, const char *name, Thing *thing) {
    const char *text = builder_setting_text(context->builder, name);
    if (!text) return false;
    char *end;
    double number = strtod(text, &end);
    if (end != text && *end == 0) {
        *thing = number_thing(number);
    } else if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0) {
        *thing = truth_thing(text[0] == 't');
    } else if (element_from_name(text, &thing->element)) {
        thing->kind = THING_ELEMENT;
    } else {
        *thing = name_thing(names_intern(context->builder->ir->names, text));
    }
    return true;
}

// After an error in a value: where it is from, if not from the file.
void builder_note_setting(Context *context, const char *name) {
    Builder *builder = context->builder;
    for (size_t i = builder->settings.count; i-- > 0;) {
        const Setting *setting = &builder->settings.items[i];
        if (setting->name != name) continue;
        report_note(builder->ir->diagnostics, NO_PLACE, "the value is that of --set %s=%s", name, setting->text);
        return;
    }
}

static bool is_extent(double number) {
    return number >= 1 && number < 0x1p47 && (double)(int64_t)number == number;
}

// The context for constants at file level: no graph, no local names.
static Context file_context(const Context *context) {
    return (Context){
        .builder = context->builder, .in_prelude = context->in_prelude, .caller = context->caller};
}

// With the option `small`: what an extent written as a number becomes. Even extents stay even, for halves.
static double small_extent(const char *name, double extent) {
    double limit = strcmp(name, "batch") == 0  ? 2
                   : strcmp(name, "time") == 0 ? 6
                   : (int64_t)extent % 2       ? 7
                                               : 8;
    return extent < limit ? extent : limit;
}

static Thing evaluate_declaration(Context *context, Declaration *declaration) {
    const char *name = declaration->name;
    const Statement *statement = declaration->statement;
    bool is_dimension = !statement || statement->kind == STATEMENT_DIM;
    Expression *written = is_dimension ? train_entry(context->builder->train, name) : NULL;
    if (!written && statement) written = statement->value;
    Place place = written ? written->place : statement ? statement->place : NO_PLACE;
    Context constants = file_context(context);
    Thing thing = THING_MISSING;
    bool is_set = builder_setting(context, name, &thing);
    if (!is_set && written)
        thing = evaluate(&constants, written);
    else if (!is_set && strcmp(name, "batch") == 0)
        thing = number_thing(1);
    else if (!is_set && strcmp(name, "time") == 0)
        thing = number_thing(16);
    else if (!is_set)
        report_error(context->builder->ir->diagnostics, place, "E0204", "dimension '%s' has no extent", name);
    if (thing.kind == THING_NAME && thing.name &&
        (is_dimension || declaration_find(&constants.builder->user, thing.name))) {
        double extent;
        if (!thing_to_number(&constants, thing, place, &extent)) {
            if (is_set) builder_note_setting(context, name);
            return THING_MISSING;
        }
        thing = number_thing(extent);
    }
    if (is_dimension && thing.kind != THING_UNKNOWN &&
        (thing.kind != THING_NUMBER || !is_extent(thing.number))) {
        report_error(context->builder->ir->diagnostics, place, "E0204",
                     "dimension '%s' needs a whole number from 1 to 2^47 as its extent, found %s%s", name,
                     thing_text(context, thing), is_set ? " (from --set)" : "");
        return THING_MISSING;
    }
    const FrontendOptions *options = context->builder->options;
    bool is_literal = !written || written->kind == EXPRESSION_NUMBER;
    if (is_dimension && is_literal && !is_set && options && options->small)
        thing.number = small_extent(name, thing.number);
    return thing;
}

// The value of a dim (its extent) or of a const. Each is evaluated once, when it is first needed.
Thing declaration_thing(Context *context, Declaration *declaration) {
    if (declaration->state == DECLARATION_DONE) return declaration->thing;
    Place place = declaration->statement ? declaration->statement->place : NO_PLACE;
    if (declaration->state == DECLARATION_ACTIVE) {
        report_error(context->builder->ir->diagnostics, place, "E0205", "'%s' is defined by itself",
                     declaration->name);
        return THING_MISSING;
    }
    declaration->state = DECLARATION_ACTIVE;
    declaration->thing = evaluate_declaration(context, declaration);
    declaration->thing.place = place;
    declaration->state = DECLARATION_DONE;
    return declaration->thing;
}

bool dimension_extent(Context *context, const char *name, Place place, int64_t *extent) {
    Declaration *declaration = declaration_find(&context->builder->user, name);
    if (!declaration || (declaration->statement && declaration->statement->kind != STATEMENT_DIM)) {
        REPORT(context, place, "E0203", "unknown dimension '%s'", name);
        if (declaration) NOTE(context, declaration->statement->place, "'%s' is something else", name);
        if (declaration) hint_dimension(context, declaration);
        NameList names = {0};
        for (size_t i = 0; i < context->builder->user.count; i++) {
            Declaration *other = context->builder->user.items[i];
            if (!other->statement || other->statement->kind == STATEMENT_DIM)
                vector_push(context->builder->ir->arena, &names, other->name);
        }
        report_suggestion(context, name, &names);
        return false;
    }
    Thing thing = declaration_thing(context, declaration);
    if (thing.kind != THING_NUMBER) return false;
    *extent = (int64_t)thing.number;
    return true;
}

// ---- What is visible ----

void gather_visible_names(const Context *context, NameList *names) {
    Arena *arena = context->builder->ir->arena;
    for (const Scope *scope = context->scope; scope; scope = scope->outer)
        for (size_t i = 0; i < scope->bindings.count; i++)
            vector_push(arena, names, scope->bindings.items[i].name);
    for (size_t i = 0; i < context->builder->user.count && !context->in_prelude; i++)
        vector_push(arena, names, context->builder->user.items[i]->name);
    for (size_t i = 0; i < context->builder->prelude.count; i++)
        vector_push(arena, names, context->builder->prelude.items[i]->name);
    intrinsic_gather_names(context->builder, names);
}

static bool is_taken(const Scope *scope, const char *name) {
    for (size_t i = 0; i < scope->taken.count; i++)
        if (type_find(scope->taken.items[i], name) >= 0) return true;
    return false;
}

const char *scope_own_name(const Context *context, const char *name) {
    const Scope *scope = context->scope;
    while (scope && !scope->prelude) scope = scope->outer;
    if (!scope) return name;
    const char *own = name;
    for (int i = 2; is_taken(scope, own); i++)
        own = names_format(context->builder->ir->names, "%s%d", name, i);
    return own;
}
