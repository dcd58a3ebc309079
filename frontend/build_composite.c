// Composites that stay calls: a fn with `with gradient = ..., kernel = ...`. Its meaning is a graph of its
// own, one for each combination of argument types and constants.
#include <string.h>

#include "frontend/build.h"

typedef struct Split {  // a call's arguments: tensors, and constants by name
    VECTOR(Value) operands;
    VECTOR(const Type *) types;
    VECTOR(const char *) names;  // of the operands
    VECTOR(Option) options;
} Split;

static const char *joined_names(Context *context, const Tuple *tuple) {
    const char *text = "";
    for (uint32_t i = 0; i < tuple->count; i++)
        text = arena_format(
            context->builder->ir->arena, "%s%s%s", text, i ? "," : "",
            tuple->items[i].kind == THING_NAME && tuple->items[i].name ? tuple->items[i].name : "?");
    return names_intern(context->builder->ir->names, text);
}

static bool split_argument(Context *context, const Formal *formal, Thing thing, Split *split) {
    Arena *arena = context->builder->ir->arena;
    Option option = {.name = formal->name};
    switch (thing.kind) {
        case THING_TENSOR:
            vector_push(arena, &split->operands, thing.value);
            vector_push(arena, &split->types, graph_type(context->work->graph, thing.value));
            vector_push(arena, &split->names, formal->name);
            return true;
        case THING_NUMBER:
            option.number = thing.number;
            break;
        case THING_NAME:
            option.text = thing.name ? thing.name : names_intern(context->builder->ir->names, "all");
            break;
        case THING_TUPLE:
            option.text = joined_names(context, thing.tuple);
            break;
        case THING_NONE:
            return true;
        case THING_UNKNOWN:
            return false;
        default:
            return REPORT(context, formal->place, "E0239", "'%s' cannot be passed to a composite",
                          thing_text(context, thing));
    }
    vector_push(arena, &split->options, option);
    return true;
}

static bool same_options(const Composite *composite, const Split *split) {
    if (composite->option_count != split->options.count) return false;
    for (uint32_t i = 0; i < composite->option_count; i++) {
        const Option *a = &composite->options[i], *b = &split->options.items[i];
        if (a->name != b->name || a->text != b->text || a->number != b->number) return false;
    }
    return true;
}

static Composite *find_composite(Builder *builder, const Statement *statement, const Split *split) {
    for (size_t i = 0; i < builder->composites.count; i++) {
        Composite *composite = builder->composites.items[i];
        if (composite->statement != statement || composite->type_count != split->types.count ||
            !same_options(composite, split))
            continue;
        bool same = true;
        for (uint32_t j = 0; j < composite->type_count; j++)
            if (composite->types[j] != split->types.items[j]) same = false;
        if (same) return composite;
    }
    return NULL;
}

// ---- Graphs ----

// Adds the results of a body as outputs; false after an error.
static bool add_outputs(Context *context, Thing result, const Statement *statement, Place place) {
    Graph *graph = context->work->graph;
    Names *names = context->builder->ir->names;
    if (result.kind == THING_UNKNOWN) return false;
    uint32_t count = result.kind == THING_TUPLE ? result.tuple->count : 1;
    for (uint32_t i = 0; i < count; i++) {
        Thing item = result.kind == THING_TUPLE ? result.tuple->items[i] : result;
        const char *name = result.kind == THING_TUPLE ? result.tuple->names[i] : NULL;
        if (!name) name = names_format(names, count == 1 ? "result" : "result%u", i + 1);
        Value value = thing_to_tensor(context, item, ELEMENT_F32, place);
        if (value_is_none(value)) return false;
        if (graph_find_output(graph, name))
            return REPORT(context, place, "E0239", "%s returns two values called %s", statement->name, name);
        graph_add_output(graph, name, value, VALUE_NONE);
    }
    return true;
}

static Graph *finish(Context *context, const Split *split_inputs) {
    if (!value_is_none(graph_find_input(context->work->graph,
                                        names_intern(context->builder->ir->names, "seed"), ROLE_SCALAR))) {
        REPORT(context, context->caller, "E0239",
               "a fn with a gradient or a kernel cannot draw random numbers");
        return NULL;
    }
    return graph_finish(context->work->graph, split_inputs->operands.items,
                        (uint32_t)split_inputs->operands.count);
}

// Inputs of a composite's graph, bound in `scope` under their names.
static void add_inputs(Context *context, const Split *split, Scope *scope, Split *inner) {
    Arena *arena = context->builder->ir->arena;
    for (size_t i = 0; i < split->types.count; i++) {
        Value value = graph_add_input(context->work->graph, split->names.items[i], ROLE_ARGUMENT,
                                      split->types.items[i], context->caller);
        vector_push(arena, &inner->operands, value);
        vector_push(arena, &scope->taken, split->types.items[i]);
        scope_bind(context->builder, scope, split->names.items[i], tensor_thing(value));
    }
}

static Graph *build_function(Context *context, Statement *statement, const Scope *arguments,
                             const Split *split, const char *name, Place place) {
    Work work = {.graph = graph_create(context->builder->ir, name), .site = name};
    Context inner = *context;
    inner.work = &work;
    inner.caller = context_place(context, place);
    Scope *scope = scope_create(context->builder, NULL);
    for (size_t i = 0; i < arguments->bindings.count; i++)
        if (arguments->bindings.items[i].thing.kind != THING_TENSOR)
            scope_bind(context->builder, scope, arguments->bindings.items[i].name,
                       arguments->bindings.items[i].thing);
    Split inputs = {0};
    add_inputs(&inner, split, scope, &inputs);
    Thing result = run_body(&inner, statement, scope, NULL, place);
    if (!add_outputs(&inner, result, statement, place)) return NULL;
    return finish(&inner, &inputs);
}

static Statement *clause_function(Context *context, const Clause *clause) {
    Declaration *declaration = context_find_declaration(context, clause->value);
    if (!declaration && context->in_prelude)
        declaration = declaration_find(&context->builder->prelude, clause->value);
    if (declaration && declaration->statement && declaration->statement->kind == STATEMENT_FN)
        return declaration->statement;
    report_error(context->builder->ir->diagnostics, clause->value_place, "E0201", "unknown function '%s'",
                 clause->value);
    return NULL;
}

// What a formal of the gradient stands for: an operand, a result, a cotangent, or an option of the composite.
static bool bind_gradient_formal(Context *context, const Formal *formal, const Scope *inputs,
                                 const Scope *arguments, Scope *scope) {
    const Thing *thing = scope_find(inputs, formal->name);
    if (!thing) thing = scope_find(arguments, formal->name);
    Thing bound = thing ? *thing : formal->otherwise ? evaluate(context, formal->otherwise) : THING_MISSING;
    if (!thing && !formal->otherwise)
        return report_error(context->builder->ir->diagnostics, formal->place, "E0239",
                            "'%s' is no operand, no result, no cotangent d_... and no option of the function",
                            formal->name);
    scope_bind(context->builder, scope, formal->name, bound);
    return true;
}

// (operands, results, cotangents) -> cotangents of the operands, by the fn that the clause names.
static Graph *build_gradient(Context *context, const Clause *clause, const Scope *arguments,
                             const Split *split, const Graph *function, Place place) {
    Statement *statement = clause_function(context, clause);
    if (!statement) return NULL;
    Builder *builder = context->builder;
    Arena *arena = builder->ir->arena;
    const char *name = names_format(builder->ir->names, "%s.gradient", function->name);
    Work work = {.graph = graph_create(builder->ir, name), .site = name};
    Context inner = *context;
    inner.work = &work;
    inner.caller = context_place(context, place);
    Split all = {0};
    for (size_t i = 0; i < split->types.count; i++) {
        vector_push(arena, &all.types, split->types.items[i]);
        vector_push(arena, &all.names, split->names.items[i]);
    }
    for (int cotangent = 0; cotangent < 2; cotangent++)
        for (size_t i = 0; i < function->outputs.count; i++) {
            const Output *output = &function->outputs.items[i];
            vector_push(arena, &all.types, graph_type(function, output->value));
            vector_push(arena, &all.names,
                        cotangent ? names_format(builder->ir->names, "d_%s", output->name) : output->name);
        }
    Scope *inputs = scope_create(builder, NULL), *scope = scope_create(builder, NULL);
    Split values = {0};
    add_inputs(&inner, &all, inputs, &values);
    scope->prelude = statement->prelude;
    scope->taken.items = inputs->taken.items;
    scope->taken.count = inputs->taken.count;
    for (size_t i = 0; i < statement->formals.count; i++)
        if (!bind_gradient_formal(&inner, &statement->formals.items[i], inputs, arguments, scope))
            return NULL;
    Thing result = statement->clauses.count ? composite_call(&inner, statement, scope, place)
                                            : run_body(&inner, statement, scope, NULL, place);
    if (!add_outputs(&inner, result, statement, place)) return NULL;
    return finish(&inner, &values);
}

static Composite *make_composite(Context *context, Statement *statement, const Scope *scope,
                                 const Split *split, Place place) {
    Builder *builder = context->builder;
    Arena *arena = builder->ir->arena;
    int number = 1;
    for (size_t i = 0; i < builder->composites.count; i++)
        if (builder->composites.items[i]->statement == statement) number++;
    Composite *composite = ARENA_NEW(arena, Composite);
    *composite = (Composite){.statement = statement,
                             .types = split->types.items,
                             .type_count = (uint32_t)split->types.count,
                             .options = split->options.items,
                             .option_count = (uint32_t)split->options.count};
    vector_push(arena, &builder->composites, composite);
    int64_t evaluations = builder->evaluations;
    const char *name = names_format(builder->ir->names, "%s.%d", statement->name, number);
    composite->function = build_function(context, statement, scope, split, name, place);
    if (!composite->function) return composite;
    vector_push(arena, &builder->graphs, composite->function);
    for (size_t i = 0; i < statement->clauses.count; i++) {
        const Clause *clause = &statement->clauses.items[i];
        if (strcmp(clause->name, "kernel") == 0) {
            composite->kernel = clause->value;
        } else if (strcmp(clause->name, "gradient") == 0) {
            composite->gradient = build_gradient(context, clause, scope, split, composite->function, place);
            if (composite->gradient) vector_push(arena, &builder->graphs, composite->gradient);
        } else {
            report_error(builder->ir->diagnostics, clause->place, "E0229", "unknown clause '%s'",
                         clause->name);
            report_hint(builder->ir->diagnostics, "a fn knows `gradient` and `kernel`");
        }
    }
    composite->evaluations = builder->evaluations - evaluations;
    return composite;
}

Thing composite_call(Context *context, Statement *statement, Scope *scope, Place place) {
    Split split = {0};
    for (size_t i = 0; i < statement->formals.count; i++) {
        const Formal *formal = &statement->formals.items[i];
        const Thing *thing = scope_find(scope, formal->name);
        if (!thing || !split_argument(context, formal, *thing, &split)) return THING_MISSING;
    }
    Composite *composite = find_composite(context->builder, statement, &split);
    if (composite) count_evaluations(context->builder, composite->evaluations);
    else composite = make_composite(context, statement, scope, &split, place);
    if (!composite->function) return THING_MISSING;
    Attribute attributes[4] = {{.key = ATTRIBUTE_function, .graph = composite->function}};
    uint32_t count = 1;
    if (composite->gradient)
        attributes[count++] = (Attribute){.key = ATTRIBUTE_gradient, .graph = composite->gradient};
    if (composite->kernel)
        attributes[count++] = (Attribute){.key = ATTRIBUTE_kernel, .text = composite->kernel};
    if (composite->option_count)
        attributes[count++] = (Attribute){
            .key = ATTRIBUTE_options, .options = composite->options, .count = composite->option_count};
    Value value = graph_add(context->work->graph, OP_call, split.operands.items,
                            (uint32_t)split.operands.count, attributes, count, context_place(context, place));
    if (value_is_none(value)) return THING_MISSING;
    uint32_t results = (uint32_t)composite->function->outputs.count;
    if (results == 1) return tensor_thing(value);
    Thing *items = ARENA_ARRAY(context->builder->ir->arena, Thing, results);
    const char **names = ARENA_ARRAY(context->builder->ir->arena, const char *, results);
    for (uint32_t i = 0; i < results; i++) {
        items[i] = tensor_thing((Value){value.node, i});
        names[i] = composite->function->outputs.items[i].name;
    }
    return tuple_thing(context->builder, results, items, names);
}
