// Models and entry graphs; and checking of what no entry graph uses.
#include <string.h>

#include "frontend/build.h"

// ---- Models ----

static void make_root(Builder *builder, Model *model, const char *path) {
    model->scope = scope_create(builder, NULL);
    model->instance = ARENA_NEW(builder->ir->arena, Instance);
    *model->instance = (Instance){.path = names_intern(builder->ir->names, path), .model = model, .depth = 1};
}

// A stored model puts its parameters into the module; the others are made to be checked.
Model *model_create(Builder *builder, Statement *statement, const char *path, const char *file, bool stored) {
    Model *model = ARENA_NEW(builder->ir->arena, Model);
    model->name = statement->name;
    model->statement = statement;
    model->stored = stored;
    model->file = file;
    make_root(builder, model, path);
    statement->visited = true;
    Context context = {
        .builder = builder, .scope = model->scope, .instance = model->instance, .function = statement};
    run_statements(&context, &statement->body);
    return model;
}

// ---- Entry graphs ----

static bool has_default_type(const Formal *formal) {
    return strcmp(formal->name, "supervised") == 0 || strcmp(formal->name, "tokens") == 0 ||
           strcmp(formal->name, "targets") == 0;
}

static bool default_data_type(Context *context, const Formal *formal, const Type **type) {
    bool is_mask = strcmp(formal->name, "supervised") == 0;
    Dimension dimensions[2] = {{.name = names_intern(context->builder->ir->names, "batch")},
                               {.name = names_intern(context->builder->ir->names, "time")}};
    for (int i = 0; i < 2; i++)
        if (!dimension_extent(context, dimensions[i].name, formal->place, &dimensions[i].extent))
            return false;
    *type = type_checked(context, formal->place, is_mask ? ELEMENT_BOOL : ELEMENT_I32, 2, dimensions);
    return *type != NULL;
}

bool formal_type(Context *context, const Formal *formal, const Type **type) {
    if (formal->type) return type_resolve(context, formal->type, ELEMENT_F32, type);
    if (has_default_type(formal)) return default_data_type(context, formal, type);
    REPORT(context, formal->place, "E0306", "the type of '%s' is not known", formal->name);
    HINT(context,
         "write %s: f32[batch, ...], or %s: int[batch]; or, for a model, in the train block `%s = Model from "
         "\"weights.safetensors\"`",
         formal->name, formal->name, formal->name);
    return false;
}

typedef VECTOR(Value) Values;

static bool add_data(Context *context, const Formal *formal, Scope *scope, Values *data) {
    const Type *type;
    if (!formal_type(context, formal, &type)) return false;
    Value value = graph_add_input(context->work->graph, formal->name, ROLE_DATA, type, formal->place);
    Thing thing = tensor_thing(value);
    thing.place = formal->place;
    vector_push(context->builder->ir->arena, data, value);
    scope_bind(context->builder, scope, formal->name, thing);
    return true;
}

static void order_parameters(Context *context, const Model *model, Values *order) {
    Role role = model->file ? ROLE_FROZEN : ROLE_PARAMETER;
    for (size_t i = 0; i < model->slots.count; i++) {
        Value value = graph_find_input(context->work->graph, model->slots.items[i]->path, role);
        if (!value_is_none(value)) vector_push(context->builder->ir->arena, order, value);
    }
}

// Parameters of the model, then those of its teachers, then data, then the seed.
static Graph *finish_entry(Context *context, const Model *model, const Teachers *teachers,
                           const Values *data) {
    Graph *graph = context->work->graph;
    Ir *ir = context->builder->ir;
    Values order = {0};
    order_parameters(context, model, &order);
    for (size_t i = 0; teachers && i < teachers->count; i++)
        order_parameters(context, teachers->items[i].model, &order);
    for (size_t i = 0; i < data->count; i++) vector_push(ir->arena, &order, data->items[i]);
    Value seed = graph_find_input(graph, names_intern(ir->names, "seed"), ROLE_SCALAR);
    if (!value_is_none(seed)) vector_push(ir->arena, &order, seed);
    return graph_finish(graph, order.items, (uint32_t)order.count);
}

static bool add_metric(Context *context, const char *name, Thing thing, bool is_loss, Place place) {
    Value value = thing_to_tensor(context, thing, ELEMENT_F32, place);
    if (value_is_none(value)) return false;
    const Type *type = graph_type(context->work->graph, value);
    if (type->rank != 0 || type->element != ELEMENT_F32) {
        REPORT(context, place, "E0314", "the %s must be one number, f32[]; found %s",
               is_loss ? "loss" : arena_format(context->builder->ir->arena, "metric %s", name),
               type_text(context->builder->ir, type));
        HINT(context, "write mean(...)");
        return false;
    }
    if (graph_find_output(context->work->graph, name))
        return REPORT(context, place, "E0314", "two results are called %s", name);
    graph_add_output(context->work->graph, name, value, VALUE_NONE);
    return true;
}

// The first value is the loss; further ones are metrics under their names.
static bool add_metrics(Context *context, Thing result, Place place) {
    Names *names = context->builder->ir->names;
    if (result.kind == THING_UNKNOWN) return false;
    const char *loss = names_intern(names, "loss");
    if (result.kind != THING_TUPLE) return add_metric(context, loss, result, true, place);
    bool ok = result.tuple->count > 0 || REPORT(context, place, "E0314", "the objective returns no loss");
    for (uint32_t i = 0; i < result.tuple->count; i++) {
        const char *name = i == 0 ? loss : result.tuple->names[i];
        if (!name) name = names_format(names, "metric%u", i);
        ok = add_metric(context, name, result.tuple->items[i], i == 0, place) && ok;
    }
    return ok;
}

static Thing objective_option(Context *context, const Statement *train, const Formal *formal) {
    Thing thing;
    if (train == context->builder->train && builder_setting(context, formal->name, &thing)) return thing;
    Expression *written = train_entry(train, formal->name);
    return evaluate(context, written ? written : formal->otherwise);
}

static Model *find_teacher(const Teachers *teachers, const char *name) {
    for (size_t i = 0; i < teachers->count; i++)
        if (teachers->items[i].name == name) return teachers->items[i].model;
    return NULL;
}

static bool bind_objective(Context *context, const Statement *train, Model *model, const Teachers *teachers,
                           Scope *scope, Values *data) {
    const Statement *objective = context->function;
    bool ok = true;
    if (objective->formals.count == 0 || objective->formals.items[0].otherwise)
        return REPORT(context, objective->place, "E0318", "the first argument of an objective is the model");
    scope_bind(context->builder, scope, objective->formals.items[0].name,
               (Thing){.kind = THING_MODEL, .model = model, .place = objective->formals.items[0].place});
    for (size_t i = 1; i < objective->formals.count; i++) {
        const Formal *formal = &objective->formals.items[i];
        Model *teacher = find_teacher(teachers, formal->name);
        if (formal->otherwise || teacher) {
            Thing thing = {.kind = THING_MODEL, .model = teacher};
            if (!teacher) thing = objective_option(context, train, formal);
            thing.place = formal->place;
            scope_bind(context->builder, scope, formal->name, thing);
        } else if (!add_data(context, formal, scope, data)) {
            if (train) NOTE(context, train->objective_place, "of this train block");
            ok = false;
        }
    }
    return ok;
}

static Statement *declared_objective(const Declarations *declarations, const char *name) {
    Declaration *declaration = declaration_find(declarations, name);
    bool found =
        declaration && declaration->statement && declaration->statement->kind == STATEMENT_OBJECTIVE;
    return found ? declaration->statement : NULL;
}

static Statement *find_objective(Builder *builder, const char *name, Place place) {
    Statement *objective = declared_objective(&builder->user, name);
    if (objective) return objective;
    Context context = {.builder = builder};
    REPORT(&context, place, "E0301", "'%s' is not an objective", name);
    NameList names = {0};
    for (size_t i = 0; i < builder->user.count; i++)
        if (builder->user.items[i]->statement &&
            builder->user.items[i]->statement->kind == STATEMENT_OBJECTIVE)
            vector_push(builder->ir->arena, &names, builder->user.items[i]->name);
    report_suggestion(&context, name, &names);
    return NULL;
}

// The objective that a caller asks for by name: of the prelude, or of the file.
static Statement *asked_objective(Builder *builder) {
    const char *name = names_intern(builder->ir->names, builder->options->objective);
    Statement *objective = declared_objective(&builder->prelude, name);
    // Settings of the objective that it stands in for are no mistake.
    const Statement *own =
        builder->train ? declared_objective(&builder->user, builder->train->objective) : NULL;
    for (size_t i = 0; own && i < own->formals.count; i++)
        builder_setting_text(builder, own->formals.items[i].name);
    return objective ? objective : find_objective(builder, name, NO_PLACE);
}

static Graph *build_loss(Builder *builder, Model *model, const Statement *train, Statement *objective,
                         const Teachers *teachers, const char *name, bool training) {
    Work work = {.graph = graph_create(builder->ir, names_intern(builder->ir->names, name)),
                 .site = model->name,
                 .training = training};
    Context context = {.builder = builder, .work = &work, .function = objective};
    Scope *scope = scope_create(builder, NULL);
    Values data = {0};
    Place place = train ? train->objective_place : objective->place;
    if (!bind_objective(&context, train, model, teachers, scope, &data)) return NULL;
    Thing result = run_body(&context, objective, scope, NULL, place);
    return add_metrics(&context, result, objective->place) ? finish_entry(&context, model, teachers, &data)
                                                           : NULL;
}

// The model's function `logits` as a graph of its own, or NULL where there is none or after an error.
static Graph *build_logits(Builder *builder, Model *model) {
    const char *name = names_intern(builder->ir->names, "logits");
    const Thing *function = scope_find(model->scope, name);
    if (!function || function->kind != THING_FUNCTION) return NULL;
    Statement *statement = function->callable.syntax;
    Work work = {.graph = graph_create(builder->ir, name), .site = model->name};
    Context context = {.builder = builder, .work = &work, .function = statement, .instance = model->instance};
    Scope *scope = scope_create(builder, model->scope);
    Values data = {0};
    for (size_t i = 0; i < statement->formals.count; i++) {
        const Formal *formal = &statement->formals.items[i];
        if (formal->otherwise)
            scope_bind(builder, scope, formal->name, evaluate(&context, formal->otherwise));
        else if (!add_data(&context, formal, scope, &data))
            return NULL;
    }
    Thing result = run_body(&context, statement, scope, model->instance, statement->place);
    Value value = thing_to_tensor(&context, result, ELEMENT_F32, statement->place);
    if (value_is_none(value)) return NULL;
    graph_add_output(work.graph, name, value, VALUE_NONE);
    return finish_entry(&context, model, NULL, &data);
}

bool model_build_entries(Builder *builder, Model *model, const Statement *train, bool keep) {
    bool asked = keep && builder->options && builder->options->objective;
    Statement *objective = NULL;
    Teachers teachers = {0};
    Graph *loss = NULL, *evaluation = NULL;
    if (asked)
        objective = asked_objective(builder);
    else if (train)
        objective = find_objective(builder, train->objective, train->objective_place);
    if (objective && (asked || teachers_create(builder, train, objective, keep, &teachers)))
        loss = build_loss(builder, model, train, objective, &teachers, "loss", !asked);
    if (loss) evaluation = build_loss(builder, model, train, objective, &teachers, "evaluate", false);
    Graph *logits = build_logits(builder, model);
    if (keep && loss) module_add_graph(builder->module, loss);
    if (keep && evaluation) module_add_graph(builder->module, evaluation);
    if (keep && logits) module_add_graph(builder->module, logits);
    for (size_t i = 0; i < teachers.count; i++) {
        model_check_rest(builder, teachers.items[i].model);
        teacher_check_paths(builder, &teachers.items[i], model);
    }
    return diagnostics_error_count(builder->ir->diagnostics) == 0;
}

// ---- What nothing uses ----

// Instantiates a template with what its annotations say; what they leave open is unknown.
static void check_callable(Context *context, Statement *statement, Scope *outer, Instance *instance) {
    Builder *builder = context->builder;
    Work work = {.graph = graph_create(builder->ir, statement->name), .site = statement->name};
    Context inner = *context;
    inner.work = &work;
    inner.function = statement;
    Scope *scope = scope_create(builder, outer);
    for (size_t i = 0; i < statement->formals.count; i++) {
        const Formal *formal = &statement->formals.items[i];
        bool is_name = formal->type && formal->type->element && strcmp(formal->type->element, "dim") == 0;
        bool is_open = !formal->type && !has_default_type(formal);
        const Type *type;
        Thing thing = THING_MISSING;
        if (formal->otherwise && !is_name)
            thing = evaluate(&inner, formal->otherwise);
        else if (is_name || is_open)
            thing = THING_MISSING;
        else if (formal->type ? formal_type(&inner, formal, &type) : default_data_type(&inner, formal, &type))
            thing =
                tensor_thing(graph_add_input(work.graph, formal->name, ROLE_ARGUMENT, type, formal->place));
        thing.place = formal->place;
        scope_bind(builder, scope, formal->name, thing);
    }
    run_body(&inner, statement, scope, instance, NO_PLACE);
}

void check_template(Builder *builder, Statement *statement) {
    Model *scratch = ARENA_NEW(builder->ir->arena, Model);
    scratch->name = statement->name;
    make_root(builder, scratch, "");
    Context context = {.builder = builder};
    check_callable(&context, statement, NULL, statement->kind == STATEMENT_LAYER ? scratch->instance : NULL);
}

// The functions of a model that no entry graph came through.
void model_check_rest(Builder *builder, Model *model) {
    for (size_t i = 0; i < model->scope->bindings.count; i++) {
        const Binding *binding = &model->scope->bindings.items[i];
        if (binding->thing.kind != THING_FUNCTION || binding->thing.callable.syntax->visited) continue;
        bool stored = model->stored;
        model->stored = false;  // parameters first met here belong to no entry graph
        Context context = {.builder = builder, .instance = model->instance};
        check_callable(&context, binding->thing.callable.syntax, model->scope, model->instance);
        model->stored = stored;
    }
}
