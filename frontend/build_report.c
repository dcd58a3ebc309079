// Messages of the builder: where they point, how things are called in them, and what may have been meant.
#include <string.h>

#include "frontend/build.h"

// Inside the prelude a mistake is the caller's: the message points at the call.
Place context_place(const Context *context, Place place) {
    return context->in_prelude && context->caller.file ? context->caller : place;
}

bool build_error(const Context *context, Place place, const char *code, const char *format, ...) {
    Diagnostics *diagnostics = context->builder->ir->diagnostics;
    va_list arguments;
    va_start(arguments, format);
    const char *text = arena_format_list(context->builder->ir->arena, format, arguments);
    va_end(arguments);
    context->builder->muted = false;
    for (size_t i = 0; i < diagnostics_count(diagnostics); i++) {
        const Message *message = diagnostics_message(diagnostics, i);
        if (message->code && strcmp(message->code, code) == 0 && message->place.file == place.file &&
            message->place.line == place.line && message->place.column == place.column &&
            strcmp(message->text, text) == 0)
            context->builder->muted = true;
    }
    return context->builder->muted ? false : report_error(diagnostics, place, code, "%s", text);
}

void report_use(const Context *context, const char *name, Place place) {
    enum { TOLD = 8 };
    const Diagnostics *diagnostics = context->builder->ir->diagnostics;
    size_t count = diagnostics_count(diagnostics), after = 0;
    while (after < count && diagnostics_message(diagnostics, count - 1 - after)->severity != SEVERITY_ERROR)
        after++;
    if (after < TOLD) NOTE(context, context_place(context, place), "in %s, used here", name);
}

// Edit distance with transpositions; only the last three rows are kept.
static int edit_distance(const char *a, const char *b) {
    enum { LENGTH_MAX = 63 };
    int rows[3][LENGTH_MAX + 1];
    int length_a = (int)strlen(a), length_b = (int)strlen(b);
    if (length_a > LENGTH_MAX || length_b > LENGTH_MAX) return LENGTH_MAX;
    for (int j = 0; j <= length_b; j++) rows[0][j] = j;
    for (int i = 1; i <= length_a; i++) {
        int *row = rows[i % 3], *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= length_b; j++) {
            int best = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < best) best = above[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && above2[j - 2] + 1 < best)
                best = above2[j - 2] + 1;
            row[j] = best;
        }
    }
    return rows[length_a % 3][length_b];
}

const char *suggest(const char *name, const NameList *candidates) {
    int length = (int)strlen(name), best = length <= 3 ? 2 : length <= 7 ? 3 : 4;  // exclusive
    const char *found = NULL;
    for (size_t i = 0; i < candidates->count; i++) {
        int distance = edit_distance(name, candidates->items[i]);
        if (distance == 0 || distance >= best) continue;
        best = distance;
        found = candidates->items[i];
    }
    return found;
}

void report_suggestion(const Context *context, const char *name, const NameList *candidates) {
    const char *found = suggest(name, candidates);
    if (found) HINT(context, "did you mean '%s'?", found);
}

void hint_dimension(const Context *context, const Declaration *found) {
    if (found->statement->kind == STATEMENT_CONST)
        HINT(context, "declare it by `dim %s`: a dimension is a number too", found->name);
}

void report_unknown_name(const Context *context, const char *name, Place place) {
    REPORT(context, place, "E0201", "unknown name '%s'", name);
    NameList names = {0};
    gather_visible_names(context, &names);
    report_suggestion(context, name, &names);
}

const char *names_text(const Context *context, const NameList *names) {
    const char *text = "";
    for (size_t i = 0; i < names->count; i++)
        text = arena_format(context->builder->ir->arena, "%s%s%s", text, i ? ", " : "", names->items[i]);
    return text;
}

const char *thing_text(const Context *context, Thing thing) {
    Arena *arena = context->builder->ir->arena;
    switch (thing.kind) {
        case THING_UNKNOWN:
            return "something unknown";
        case THING_NONE:
            return "none";
        case THING_TENSOR:
            return type_text(context->builder->ir, graph_type(context->work->graph, thing.value));
        case THING_NUMBER:
            if (thing.truth) return thing.number != 0 ? "the constant true" : "the constant false";
            return arena_format(arena, "the number %g", thing.number);
        case THING_NAME:
            return thing.name ? arena_format(arena, "the dimension %s", thing.name) : "all dimensions";
        case THING_ELEMENT:
            return arena_format(arena, "the element type %s", element_name(thing.element));
        case THING_TEXT:
            return arena_format(arena, "the text \"%s\"", thing.name);
        case THING_TUPLE:
            return arena_format(arena, "a tuple of %u", thing.tuple->count);
        case THING_PARAMETER:
            return arena_format(arena, "the parameter %s", thing.parameter->path);
        case THING_FUNCTION:
            return arena_format(arena, "the function %s", thing.callable.syntax->name);
        case THING_LAYER:
            return arena_format(arena, "the layer %s", thing.callable.syntax->name);
        case THING_STACK:
            return arena_format(arena, "the stack %s", thing.stack->name);
        case THING_MODEL:
            return arena_format(arena, "the model %s", thing.model->name);
    }
    return "";
}
