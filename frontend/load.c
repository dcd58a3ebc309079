// Files: the prelude, the user's file and what it includes, as one list of declarations.
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "frontend/build.h"

// build/frontend/embedded.c: the prelude and models/std.
extern const char *const embedded_names[], *const embedded_texts[];
extern const size_t embedded_count;

typedef struct Include {
    const char *path, *real;  // as shown, and to compare
    Place place;
} Include;

typedef struct Loader {
    Builder *builder;
    const char *root;  // real path of the top file's folder
    VECTOR(const char *) done;
    VECTOR(Include) active;
} Loader;

static const char *embedded_text(const char *name) {
    for (size_t i = 0; i < embedded_count; i++)
        if (strcmp(embedded_names[i], name) == 0) return embedded_texts[i];
    return NULL;
}

// ---- Declarations ----

static bool declare(Builder *builder, Declarations *declarations, Statement *statement) {
    Declaration *other = declaration_find(declarations, statement->name);
    if (other) {
        report_error(builder->ir->diagnostics, statement->place, "E0202", "'%s' is declared twice",
                     statement->name);
        report_note(builder->ir->diagnostics, other->statement->place, "declared here before");
        return false;
    }
    Declaration *declaration = ARENA_NEW(builder->ir->arena, Declaration);
    declaration->name = statement->name;
    declaration->statement = statement;
    vector_push(builder->ir->arena, declarations, declaration);
    return true;
}

static bool report_misplaced(Builder *builder, const Statement *statement) {
    const char *what = statement->kind == STATEMENT_PARAM   ? "`param` stands in a layer or a model"
                       : statement->kind == STATEMENT_STACK ? "`stack` stands in a model"
                       : statement->kind == STATEMENT_INCLUDE
                           ? "`include` stands outside of all blocks"
                           : "this stands in a fn, a layer or an objective";
    return report_error(builder->ir->diagnostics, statement->place, "E0237", "%s", what);
}

static bool declare_train(Builder *builder, Statement *statement) {
    for (size_t i = 0; i < builder->trains.count; i++) {
        if (builder->trains.items[i]->name != statement->name) continue;
        report_error(builder->ir->diagnostics, statement->place, "E0202", "two train blocks are called '%s'",
                     statement->name);
        report_note(builder->ir->diagnostics, builder->trains.items[i]->place, "declared here before");
        report_hint(builder->ir->diagnostics, "write `train %s with %s as name`", statement->model,
                    statement->objective);
        return false;
    }
    vector_push(builder->ir->arena, &builder->trains, statement);
    return true;
}

// Everything but includes, and conditions, which are decided once all files are known.
static bool declare_one(Builder *builder, Declarations *declarations, Statement *statement) {
    switch (statement->kind) {
        case STATEMENT_DIM:
        case STATEMENT_CONST:
        case STATEMENT_FN:
        case STATEMENT_LAYER:
        case STATEMENT_MODEL:
        case STATEMENT_OBJECTIVE:
            return declare(builder, declarations, statement);
        case STATEMENT_TRAIN:
            return declare_train(builder, statement);
        default:
            return report_misplaced(builder, statement);
    }
}

static bool decide_condition(Builder *builder, Statement *statement) {
    Context context = {.builder = builder};
    double chosen;
    bool ok = true;
    if (!evaluate_number(&context, statement->value, &chosen)) return false;
    const Statements *branch = chosen != 0 ? &statement->body : &statement->otherwise;
    for (size_t i = 0; i < branch->count; i++) {
        Statement *inner = branch->items[i];
        if (!(inner->kind == STATEMENT_IF ? decide_condition(builder, inner)
                                          : declare_one(builder, &builder->user, inner)))
            ok = false;
    }
    return ok;
}

// ---- Files ----

static bool load_text(Loader *loader, const char *path, const char *text, size_t length);

static bool parse_text(Builder *builder, const char *path, const char *text, size_t length, bool prelude,
                       Statements *statements) {
    diagnostics_add_source(builder->ir->diagnostics, path, text);
    if (length > INT_MAX / 2)
        return report_error(builder->ir->diagnostics, (Place){.file = path}, "E0110",
                            "the file is too large");
    if (strncmp(text, "\xef\xbb\xbf", 3) == 0) text += 3, length -= 3;  // a byte order mark
    Parse parse = {.ir = builder->ir, .file = path, .prelude = prelude};
    bool ok = syntax_parse(&parse, text, length);
    *statements = parse.statements;
    return ok;
}

static bool is_inside(const char *real, const char *root) {
    size_t length = strlen(root);
    return strncmp(real, root, length) == 0 && (real[length] == '/' || strcmp(root, "/") == 0);
}

static const char *real_path(Arena *arena, const char *path) {
    char buffer[PATH_MAX];
    return realpath(path, buffer) ? arena_copy(arena, buffer, strlen(buffer)) : NULL;
}

static bool report_cycle(Loader *loader, const char *path, Place place) {
    Diagnostics *diagnostics = loader->builder->ir->diagnostics;
    report_error(diagnostics, place, "E0109", "'%s' includes itself", path);
    for (size_t i = 1; i < loader->active.count; i++)
        report_note(diagnostics, loader->active.items[i].place, "%s is included here",
                    loader->active.items[i].path);
    return false;
}

static bool load_once(Loader *loader, const char *path, const char *real, const char *text, size_t length,
                      Place place) {
    Arena *arena = loader->builder->ir->arena;
    for (size_t i = 0; i < loader->active.count; i++)
        if (strcmp(loader->active.items[i].real, real) == 0) return report_cycle(loader, path, place);
    for (size_t i = 0; i < loader->done.count; i++)
        if (strcmp(loader->done.items[i], real) == 0) return true;
    vector_push(arena, &loader->done, real);
    vector_push(arena, &loader->active, ((Include){path, real, place}));
    if (!text) text = file_read(arena, loader->builder->ir->diagnostics, path, &length);
    bool ok = text && load_text(loader, path, text, length);
    loader->active.count--;
    return ok;
}

// a/./b/../c -> a/c; leading parts that cannot be removed stay.
static const char *tidy_path(Arena *arena, const char *path) {
    char *tidy = arena_copy(arena, path, strlen(path));
    size_t start = *path == '/', length = start;  // what is kept so far
    for (const char *at = path + start; *at;) {
        size_t part = strcspn(at, "/"), last = length;
        while (last > start && tidy[last - 1] != '/') last--;
        bool after_up = length - last == 2 && strncmp(tidy + last, "..", 2) == 0;
        if (part == 2 && strncmp(at, "..", 2) == 0 && length > start && !after_up) {
            length = last > start ? last - 1 : start;
        } else if (part && !(part == 1 && *at == '.')) {
            if (length > start) tidy[length++] = '/';
            memcpy(tidy + length, at, part);
            length += part;
        }
        at += part + (at[part] == '/');
    }
    tidy[length] = 0;
    return tidy;
}

static bool load_include(Loader *loader, const Statement *statement) {
    Ir *ir = loader->builder->ir;
    const char *name = statement->name, *from = vector_last(&loader->active).path;
    if (*name == '/' || *name == 0)
        return report_error(ir->diagnostics, statement->place, "E0107",
                            "an include names a file relative to this one");
    bool from_embedded = strncmp(vector_last(&loader->active).real, "std/", 4) == 0;
    const char *folder = file_folder(ir->arena, from);
    const char *path = strcmp(folder, ".") == 0 ? name : arena_format(ir->arena, "%s/%s", folder, name);
    const char *real_folder =
        from_embedded ? NULL : file_folder(ir->arena, vector_last(&loader->active).real);
    const char *meant =
        real_folder ? tidy_path(ir->arena, arena_format(ir->arena, "%s/%s", real_folder, name)) : NULL;
    const char *real = from_embedded ? NULL : real_path(ir->arena, path);
    if ((meant && !is_inside(meant, loader->root)) || (real && !is_inside(real, loader->root)))
        return report_error(ir->diagnostics, statement->place, "E0107",
                            "'%s' lies outside of the model's folder", name);
    if (real) return load_once(loader, tidy_path(ir->arena, path), real, NULL, 0, statement->place);
    const char *std = strncmp(name, "std/", 4) == 0 ? name : arena_format(ir->arena, "std/%s", name);
    bool wants_std = std == name || from_embedded;
    const char *text = wants_std ? embedded_text(std) : NULL;
    if (text) return load_once(loader, std, std, text, strlen(text), statement->place);
    report_error(ir->diagnostics, statement->place, "E0108", "there is no file '%s'", name);
    if (wants_std)
        for (size_t i = 0; i < embedded_count; i++)
            if (strncmp(embedded_names[i], "std/", 4) == 0)
                report_hint(ir->diagnostics, "there is %s", embedded_names[i]);
    return false;
}

static bool load_text(Loader *loader, const char *path, const char *text, size_t length) {
    Builder *builder = loader->builder;
    Statements statements = {0};
    bool ok = parse_text(builder, path, text, length, false, &statements);
    for (size_t i = 0; i < statements.count; i++) {
        Statement *statement = statements.items[i];
        if (statement->kind == STATEMENT_INCLUDE)
            ok = load_include(loader, statement) && ok;
        else if (statement->kind == STATEMENT_IF)
            vector_push(builder->ir->arena, &builder->conditions, statement);
        else
            declare_one(builder, &builder->user, statement);  // a mistake here does not hide others
    }
    return ok;
}

// batch and time exist in every file; a train block or --set gives their extents.
static void declare_implicit(Builder *builder, const char *name) {
    name = names_intern(builder->ir->names, name);
    if (declaration_find(&builder->user, name)) return;
    Declaration *declaration = ARENA_NEW(builder->ir->arena, Declaration);
    declaration->name = name;
    vector_push(builder->ir->arena, &builder->user, declaration);
}

bool load_files(Builder *builder, const char *path) {
    Ir *ir = builder->ir;
    Loader loader = {.builder = builder};
    size_t length;
    const char *text = file_read(ir->arena, ir->diagnostics, path, &length);
    if (!text) return false;
    const char *real = real_path(ir->arena, path);
    loader.root = real_path(ir->arena, file_folder(ir->arena, path));
    if (!real || !loader.root)
        return report_error(ir->diagnostics, (Place){.file = path}, "E0108", "the path does not resolve");
    if (!load_once(&loader, arena_copy(ir->arena, path, strlen(path)), real, text, length, NO_PLACE))
        return false;
    declare_implicit(builder, "batch");
    declare_implicit(builder, "time");
    return true;
}

bool load_conditions(Builder *builder) {
    bool ok = true;
    for (size_t i = 0; i < builder->conditions.count; i++)
        ok = decide_condition(builder, builder->conditions.items[i]) && ok;
    return ok;
}

bool load_prelude(Builder *builder) {
    const char *text = embedded_text("prelude.cherry");
    CHECK(text);
    Statements statements = {0};
    if (!parse_text(builder, "prelude.cherry", text, strlen(text), true, &statements)) return false;
    for (size_t i = 0; i < statements.count; i++)
        if (!declare_one(builder, &builder->prelude, statements.items[i])) return false;
    return true;
}
