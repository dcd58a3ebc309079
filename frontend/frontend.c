// frontend_load: the whole front end as one list of steps.
#include "frontend/frontend.h"

#include <string.h>

#include "frontend/build.h"
#include "ir/index_range.h"

// ---- Settings ----

static bool read_settings(Builder *builder) {
    const FrontendOptions *options = builder->options;
    bool ok = true;
    for (size_t i = 0; options && i < options->setting_count; i++) {
        const char *text = options->settings[i], *equals = strchr(text, '=');
        if (!equals || equals == text || !equals[1]) {
            ok = report_error(builder->ir->diagnostics, NO_PLACE, "E0317", "--set %s: expected name=value",
                              text);
            continue;
        }
        const char *name = names_intern_length(builder->ir->names, text, (size_t)(equals - text));
        vector_push(builder->ir->arena, &builder->settings, ((Setting){.name = name, .text = equals + 1}));
    }
    return ok;
}

// A setting that nothing asked for is a mistake.
static void check_settings(Builder *builder) {
    for (size_t i = 0; i < builder->settings.count; i++) {
        const char *name = builder->settings.items[i].name;
        bool used = false;
        for (size_t j = 0; j < builder->settings.count; j++)
            if (builder->settings.items[j].name == name && builder->settings.items[j].used) used = true;
        if (used) continue;
        report_error(builder->ir->diagnostics, NO_PLACE, "E0316",
                     "--set %s: nothing in the file has that name", name);
        NameList names = {0};
        for (size_t j = 0; j < builder->user.count; j++)
            vector_push(builder->ir->arena, &names, builder->user.items[j]->name);
        if (builder->train) train_names(builder->ir->arena, &names);
        Context context = {.builder = builder};
        if (strcmp(name, "betas") == 0)
            report_hint(builder->ir->diagnostics, "its numbers are set one by one: beta1 and beta2");
        else if (strcmp(name, "to") == 0)
            report_hint(builder->ir->diagnostics, "what a schedule goes to is set as final_rate");
        else
            report_suggestion(&context, name, &names);
        if (train_knows(name) && !builder->train)
            report_hint(builder->ir->diagnostics, "it belongs to a train block, and none applies");
    }
}

// ---- What is built ----

static void gather_declared(Builder *builder, StatementKind kind, NameList *names) {
    for (size_t i = 0; i < builder->user.count; i++)
        if (builder->user.items[i]->statement && builder->user.items[i]->statement->kind == kind)
            vector_push(builder->ir->arena, names, builder->user.items[i]->name);
}

static bool report_missing(Builder *builder, const char *what, const char *name, const NameList *names,
                           Place place) {
    Context context = {.builder = builder};
    report_error(builder->ir->diagnostics, place, "E0301", "there is no %s '%s'", what, name);
    if (suggest(name, names))
        report_suggestion(&context, name, names);
    else if (names->count)
        report_hint(builder->ir->diagnostics, "there is: %s", names_text(&context, names));
    return false;
}

static Statement *find_model(Builder *builder, const char *name, Place place) {
    Declaration *declaration = declaration_find(&builder->user, name);
    if (declaration && declaration->statement && declaration->statement->kind == STATEMENT_MODEL)
        return declaration->statement;
    NameList names = {0};
    gather_declared(builder, STATEMENT_MODEL, &names);
    report_missing(builder, "model", name, &names, place);
    return NULL;
}

// Before the conditions of the file are decided and after: they may depend on the block's batch and time.
static void choose_train(Builder *builder) {
    const FrontendOptions *options = builder->options;
    for (size_t i = 0; i < builder->trains.count && !builder->train && !(options && options->model); i++)
        if (!options || !options->train || strcmp(builder->trains.items[i]->name, options->train) == 0)
            builder->train = builder->trains.items[i];
}

static bool check_train_option(Builder *builder) {
    const FrontendOptions *options = builder->options;
    if (!options || !options->train || options->model || builder->train) return true;
    NameList names = {0};
    for (size_t i = 0; i < builder->trains.count; i++)
        vector_push(builder->ir->arena, &names, builder->trains.items[i]->name);
    return report_missing(builder, "train block", options->train, &names, NO_PLACE);
}

static Statement *choose_model(Builder *builder) {
    const FrontendOptions *options = builder->options;
    if (options && options->model)
        return find_model(builder, names_intern(builder->ir->names, options->model), NO_PLACE);
    if (builder->train) return find_model(builder, builder->train->model, builder->train->model_place);
    for (size_t i = 0; i < builder->user.count; i++)
        if (builder->user.items[i]->statement && builder->user.items[i]->statement->kind == STATEMENT_MODEL)
            return builder->user.items[i]->statement;
    report_error(builder->ir->diagnostics, NO_PLACE, "E0315", "the file declares no model");
    return NULL;
}

// A model of the file in every way that leads to it, as far as the file alone tells.
static Model *check_model(Builder *builder, Statement *statement) {
    Derivations steps = {0};
    statement = derive_base(builder, statement, "", &steps);
    return statement ? model_create(builder, statement, "", NULL, false) : NULL;
}

// With graphs of its own, though another module may be under construction.
Module *build_module(Builder *builder, Statement *statement, Model **model) {
    Builder outer = *builder;
    Module *module = module_create(builder->ir, statement->name);
    builder->module = module;
    builder->graphs.items = NULL;
    builder->graphs.count = builder->graphs.capacity = 0;
    builder->composites.items = NULL;
    builder->composites.count = builder->composites.capacity = 0;
    statement = derive_base(builder, statement, "", &module->derivations);
    Model *block = NULL;
    if (statement) {
        module->name = statement->name;
        if (builder->train) module->has_training = train_read(builder, builder->train, &module->training);
        block = model_create(builder, statement, "", NULL, true);
    }
    if (block) model_build_entries(builder, block, builder->train, true);
    for (size_t i = 0; block && i < builder->graphs.count; i++)
        module_add_graph(module, builder->graphs.items[i]);
    if (model) *model = block;
    builder->module = outer.module;
    builder->graphs = outer.graphs;
    builder->composites = outer.composites;
    return block ? module : NULL;
}

// ---- What is only checked ----

static void check_trains(Builder *builder) {
    for (size_t i = 0; i < builder->trains.count; i++) {
        const Statement *train = builder->trains.items[i];
        if (train == builder->train) continue;
        Training training;
        train_read(builder, train, &training);
        Statement *statement = find_model(builder, train->model, train->model_place);
        Model *model = statement ? check_model(builder, statement) : NULL;
        if (model) model_build_entries(builder, model, train, false);
    }
}

static void check_declarations(Builder *builder) {
    Context context = {.builder = builder};
    for (size_t i = 0; i < builder->user.count; i++) {
        Declaration *declaration = builder->user.items[i];
        Statement *statement = declaration->statement;
        StatementKind kind = statement ? statement->kind : STATEMENT_DIM;
        if (kind == STATEMENT_DIM || kind == STATEMENT_CONST) {
            if (!statement || statement->value) declaration_thing(&context, declaration);
        } else if (kind == STATEMENT_MODEL && !statement->visited) {
            Model *model = check_model(builder, statement);
            if (model) model_build_entries(builder, model, NULL, false);
            if (model) model_check_rest(builder, model);
        }
    }
    for (size_t i = 0; i < builder->user.count; i++) {
        Statement *statement = builder->user.items[i]->statement;
        if (statement && !statement->visited &&
            (statement->kind == STATEMENT_FN || statement->kind == STATEMENT_LAYER ||
             statement->kind == STATEMENT_OBJECTIVE))
            check_template(builder, statement);
    }
}

static void list_constants(Builder *builder, FrontendConstants *constants) {
    for (size_t i = 0; i < builder->user.count; i++) {
        const Declaration *declaration = builder->user.items[i];
        const Statement *statement = declaration->statement;
        bool written = statement && statement->value && statement->value->kind == EXPRESSION_NUMBER;
        bool numeric = declaration->state == DECLARATION_DONE && declaration->thing.kind == THING_NUMBER;
        if ((!statement || written) && numeric)
            vector_push(builder->ir->arena, constants, ((FrontendConstant){declaration->name, declaration->thing.number}));
    }
}

Module *frontend_load(Ir *ir, const char *path, const FrontendOptions *options) {
    Builder *builder = ARENA_NEW(ir->arena, Builder);
    builder->ir = ir;
    builder->options = options;
    size_t errors = diagnostics_error_count(ir->diagnostics);
    if (!read_settings(builder) || !load_prelude(builder) || !load_files(builder, path)) return NULL;
    choose_train(builder);
    if (!load_conditions(builder)) return NULL;
    choose_train(builder);
    if (!check_train_option(builder)) return NULL;
    Statement *statement = choose_model(builder);
    if (!statement) return NULL;
    Model *model;
    builder->module = build_module(builder, statement, &model);
    if (model) model_check_rest(builder, model);
    check_trains(builder);
    check_declarations(builder);
    if (diagnostics_error_count(ir->diagnostics) == errors) check_settings(builder);
    if (diagnostics_error_count(ir->diagnostics) == errors) module_check_indices(builder->module);
    if (options && options->constants) list_constants(builder, options->constants);
    return diagnostics_error_count(ir->diagnostics) == errors ? builder->module : NULL;
}
