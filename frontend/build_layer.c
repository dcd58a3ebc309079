// Parameters, stacks, and layers used inside layers.
#include <ctype.h>
#include <string.h>

#include "frontend/build.h"

enum { STACK_LAYERS_MAX = 65536 };

static const char *path_join(Context *context, const char *path, const char *name) {
    return *path ? names_format(context->builder->ir->names, "%s.%s", path, name) : name;
}

// ---- Parameters ----

// Initial values see constants and dimensions, no tensors: those belong to another graph.
static Scope *constant_scope(Context *context) {
    Scope *copy = scope_create(context->builder, NULL);
    const Scope *chain[16];
    int count = 0;
    for (const Scope *scope = context->scope; scope && count < 16; scope = scope->outer)
        chain[count++] = scope;
    while (count-- > 0)
        for (size_t i = 0; i < chain[count]->bindings.count; i++) {
            const Binding *binding = &chain[count]->bindings.items[i];
            if (binding->thing.kind != THING_TENSOR && binding->thing.kind != THING_PARAMETER)
                scope_bind(context->builder, copy, binding->name, binding->thing);
        }
    return copy;
}

static Graph *build_initialize(Context *context, const Statement *statement, const ParameterSlot *slot) {
    Builder *builder = context->builder;
    Work work = {
        .graph = graph_create(builder->ir, names_format(builder->ir->names, "%s.initialize", slot->path)),
        .initialize = slot->stored,
        .site = slot->path};
    Context inner = *context;
    inner.work = &work;
    inner.scope = constant_scope(context);
    Place place = statement->value->place;
    Thing thing = evaluate(&inner, statement->value);
    if (thing.kind == THING_UNKNOWN) return NULL;
    if (statement->random && thing.kind != THING_TENSOR) {
        REPORT(context, place, "E0307", "expected a distribution after '~', found %s",
               thing_text(&inner, thing));
        HINT(context, "write `~ normal(0.02)`, `~ uniform(-1, 1)`, or `= 0`");
        return NULL;
    }
    Value value = thing_to_tensor(&inner, thing, slot->stored->element, place);
    if (!value_is_none(value)) value = build_cast(work.graph, value, slot->stored->element, place);
    if (!value_is_none(value)) value = build_expand(work.graph, value, slot->stored, place);
    if (value_is_none(value)) return NULL;
    graph_add_output(work.graph, names_intern(builder->ir->names, "value"), value, VALUE_NONE);
    Value seed = work_seed(&inner, place);
    return graph_finish(work.graph, &seed, 1);
}

static const Type *stacked_type(Context *context, const Type *type, const Stack *stack, Place place) {
    if (!stack) return type;
    Dimension dimensions[RANK_MAX + 1] = {
        {.name = names_intern(context->builder->ir->names, "layer"), .extent = stack->layers}};
    memcpy(dimensions + 1, type->dimensions, sizeof(Dimension) * (size_t)type->rank);
    return type_checked(context, place, type->element, type->rank + 1, dimensions);
}

static ParameterSlot *find_slot(Model *model, const char *path) {
    for (size_t i = 0; i < model->slots.count; i++)
        if (model->slots.items[i]->path == path) return model->slots.items[i];
    return NULL;
}

static ParameterSlot *make_slot(Context *context, const Statement *statement, const char *path) {
    Builder *builder = context->builder;
    Stack *stack = context->instance->stack;
    ParameterSlot *slot = ARENA_NEW(builder->ir->arena, ParameterSlot);
    *slot = (ParameterSlot){.path = path, .inner = path, .stack = stack, .place = statement->place};
    Model *model = context->instance->model;
    slot->frozen = model->file != NULL;
    if (stack) slot->inner = names_intern(builder->ir->names, path + strlen(stack->instance->path) + 1);
    if (!type_resolve(context, statement->type, ELEMENT_F32, &slot->type)) return NULL;
    slot->stored = stacked_type(context, slot->type, stack, statement->place);
    if (!slot->stored) return NULL;
    Graph *initialize = statement->value ? build_initialize(context, statement, slot) : NULL;
    vector_push(builder->ir->arena, &model->slots, slot);
    if (initialize && model->stored)
        vector_push(builder->ir->arena, &builder->module->parameters,
                    ((Parameter){.path = path,
                                 .type = slot->stored,
                                 .declared_rank = slot->type->rank,
                                 .initialize = slot->frozen ? NULL : initialize,
                                 .file = model->file,
                                 .place = statement->place}));
    return slot;
}

bool declare_parameter(Context *context, Statement *statement) {
    if (!context->instance) {
        REPORT(context, statement->place, "E0237", "`param` stands in a layer or a model");
        return false;
    }
    const char *path = path_join(context, context->instance->path, statement->name);
    ParameterSlot *slot = find_slot(context->instance->model, path);
    if (slot && (slot->place.line != statement->place.line || slot->place.column != statement->place.column ||
                 slot->place.file != statement->place.file)) {
        REPORT(context, statement->place, "E0240", "there are two parameters '%s'", path);
        NOTE(context, slot->place, "the other one");
        return false;
    }
    if (!slot) slot = make_slot(context, statement, path);
    Thing thing = slot ? (Thing){.kind = THING_PARAMETER, .parameter = slot} : THING_MISSING;
    return scope_declare(context, statement->name, thing, statement->place) && slot;
}

static Value stored_parameter(Graph *graph, const ParameterSlot *slot) {
    Role role = slot->frozen ? ROLE_FROZEN : ROLE_PARAMETER;
    Value value = graph_find_input(graph, slot->path, role);
    if (!value_is_none(value)) return value;
    return graph_add_input(graph, slot->path, role, slot->stored, slot->place);
}

Value parameter_tensor(Context *context, const ParameterSlot *slot, Place place) {
    Work *work = context->work;
    if (work->initialize || slot->stack != work->stack) {
        REPORT(context, place, "E0305", "the parameter %s is out of reach here", slot->path);
        NOTE(context, slot->place, "declared here");
        return VALUE_NONE;
    }
    if (!work->body) return stored_parameter(work->graph, slot);
    Value value = graph_find_input(work->graph, slot->inner, ROLE_ARGUMENT);
    if (!value_is_none(value)) return value;
    vector_push(context->builder->ir->arena, &work->body->parameters, slot);
    return graph_add_input(work->graph, slot->inner, ROLE_ARGUMENT, slot->type, slot->place);
}

// ---- Layers inside layers ----

static const char *part_name(Context *context, const Statement *layer, const Expression *expression) {
    for (size_t i = 0; i < expression->arguments.count; i++) {
        const Argument *argument = &expression->arguments.items[i];
        if (argument->label && argument->label->kind == EXPRESSION_NAME &&
            strcmp(argument->label->name, "name") == 0) {
            if (argument->value->kind == EXPRESSION_NAME) return argument->value->name;
            REPORT(context, argument->place, "E0308", "a layer's name is one word: name = attn");
            return NULL;
        }
    }
    if (context->let_name) return context->let_name;
    char *name = arena_copy(context->builder->ir->arena, layer->name, strlen(layer->name));
    for (char *at = name; *at; at++) *at = (char)tolower((unsigned char)*at);
    return names_intern(context->builder->ir->names, name);
}

static Instance *part_instance(Context *context, const Statement *layer, const Expression *expression) {
    const char *name = part_name(context, layer, expression);
    if (!name) return NULL;
    Instance *owner = context->instance;
    for (size_t i = 0; i < owner->parts.count; i++) {
        const Part *part = &owner->parts.items[i];
        if (part->name != name) continue;
        if (part->use == expression) return part->instance;
        REPORT(context, expression->place, "E0308", "two layers are called '%s'", name);
        NOTE(context, part->use->place, "the other one");
        HINT(context, "write %s(..., name = ...) or `let name = %s(...)`", layer->name, layer->name);
        return NULL;
    }
    Instance *instance = ARENA_NEW(context->builder->ir->arena, Instance);
    instance->path = path_join(context, owner->path, name);
    instance->model = owner->model;
    instance->stack = owner->stack;
    instance->depth = owner->depth;
    vector_push(context->builder->ir->arena, &owner->parts, ((Part){name, expression, instance}));
    return instance;
}

Thing layer_call(Context *context, Statement *layer, const Expression *expression) {
    if (!context->instance || !context->work) {
        REPORT(context, expression->place, "E0309", "a layer is used inside a layer or a model");
        return THING_MISSING;
    }
    Instance *instance = part_instance(context, layer, expression);
    Scope *scope = bind_formals(context, layer, NULL, expression, NULL, 0);
    if (!instance || !scope) return THING_MISSING;
    return run_body(context, layer, scope, instance, expression->place);
}

// ---- Stacks ----

static Statement *find_layer(Context *context, const Expression *expression) {
    if (expression->kind != EXPRESSION_NAME) {
        REPORT(context, expression->place, "E0302", "expected a layer: stack trunk = Block * 12");
        return NULL;
    }
    Declaration *declaration = context_find_declaration(context, expression->name);
    if (declaration && declaration->statement && declaration->statement->kind == STATEMENT_LAYER)
        return declaration->statement;
    REPORT(context, expression->place, "E0301", "'%s' is not a layer", expression->name);
    if (declaration && declaration->statement) NOTE(context, declaration->statement->place, "declared here");
    NameList names = {0};
    for (size_t i = 0; i < context->builder->user.count; i++) {
        const Declaration *other = context->builder->user.items[i];
        if (other->statement && other->statement->kind == STATEMENT_LAYER)
            vector_push(context->builder->ir->arena, &names, other->name);
    }
    report_suggestion(context, expression->name, &names);
    return NULL;
}

bool declare_stack(Context *context, Statement *statement) {
    Expression *value = statement->value;
    Builder *builder = context->builder;
    scope_declare(context, statement->name, THING_MISSING, statement->place);
    bool repeated = value->kind == EXPRESSION_BINARY && value->operator== OPERATOR_MUL;
    if (!repeated)
        return REPORT(context, value->place, "E0302", "expected a layer and its count: stack %s = Block * 12",
                      statement->name);
    const Expression *options = value->a->kind == EXPRESSION_CALL ? value->a : NULL;
    Statement *layer = find_layer(context, options ? options->a : value->a);
    int64_t layers;
    if (!evaluate_integer(context, value->b, "the number of layers", &layers) || !layer) return false;
    if (layers < 1 || layers > STACK_LAYERS_MAX)
        return REPORT(context, value->b->place, "E0303", "a stack has 1 to %d layers, found %lld",
                      STACK_LAYERS_MAX, (long long)layers);
    Stack *stack = ARENA_NEW(builder->ir->arena, Stack);
    stack->name = statement->name;
    stack->statement = statement;
    stack->layer = layer;
    stack->options = options;
    stack->scope = context->scope;
    stack->layers = layers;
    stack->place = statement->place;
    stack->instance = ARENA_NEW(builder->ir->arena, Instance);
    stack->instance->path = path_join(context, context->instance->path, statement->name);
    stack->instance->model = context->instance->model;
    stack->instance->stack = stack;
    stack->instance->depth = layers;
    scope_bind(builder, context->scope, statement->name,
               (Thing){.kind = THING_STACK, .stack = stack, .place = statement->place});
    return true;
}

static Body *find_body(const Stack *stack, const Work *work, const Type **types, uint32_t count) {
    for (size_t i = 0; i < stack->bodies.count; i++) {
        Body *body = stack->bodies.items[i];
        if (body->type_count != count || (body->asked_training && body->training != work->training)) continue;
        if (memcmp(body->types, types, sizeof *types * count) == 0) return body;
    }
    return NULL;
}

// The results of a layer carry on as its first inputs, so their types must be the same.
static bool add_carried(Context *context, Body *body, const Stack *stack, Thing result, Place place) {
    Graph *graph = context->work->graph;
    uint32_t count = result.kind == THING_TUPLE ? result.tuple->count : 1;
    if (result.kind == THING_UNKNOWN) return false;
    if (count == 0 || count > body->type_count)
        return REPORT(context, place, "E0311", "the layer %s takes %u inputs and returns %u values",
                      stack->layer->name, body->type_count, count);
    for (uint32_t i = 0; i < count; i++) {
        Thing item = result.kind == THING_TUPLE ? result.tuple->items[i] : result;
        Value value = thing_to_tensor(context, item, body->types[i]->element, place);
        if (value_is_none(value)) return false;
        const Type *found = graph_type(graph, value), *wanted = body->types[i];
        if (found->element != wanted->element || found->rank != wanted->rank ||
            !type_contains(wanted, found)) {
            REPORT(context, place, "E0311", "a layer of a stack returns what it takes: expected %s, found %s",
                   type_text(graph->ir, wanted), type_text(graph->ir, found));
            NOTE(context, graph_node(graph, value.node)->place, "returned by %s", stack->layer->name);
            return false;
        }
        value = build_expand(graph, value, wanted, place);
        graph_add_output(graph, stack->layer->formals.items[i].name, value, VALUE_NONE);
    }
    body->carried = count;
    body->invariant = body->type_count - count;
    return true;
}

static void finish_body(Context *context, Body *body, const Thing *inputs) {
    Graph *graph = context->work->graph;
    VECTOR(Value) order = {0};
    Arena *arena = context->builder->ir->arena;
    for (uint32_t i = 0; i < body->type_count; i++) vector_push(arena, &order, inputs[i].value);
    if (body->needs_seed) vector_push(arena, &order, work_seed(context, NO_PLACE));
    for (size_t i = 0; i < body->parameters.count; i++)
        vector_push(arena, &order, graph_find_input(graph, body->parameters.items[i]->inner, ROLE_ARGUMENT));
    body->graph = graph_finish(graph, order.items, (uint32_t)order.count);
    vector_push(arena, &context->builder->graphs, body->graph);
}

static Body *build_body(Context *context, Stack *stack, const Type **types, uint32_t count, Place place) {
    Builder *builder = context->builder;
    Body *body = ARENA_NEW(builder->ir->arena, Body);
    body->training = context->work->training;
    body->types = types;
    body->type_count = count;
    vector_push(builder->ir->arena, &stack->bodies, body);
    const char *name = names_format(builder->ir->names, "%s.body", stack->instance->path);
    if (stack->bodies.count > 1)
        name = names_format(builder->ir->names, "%s.body.%zu", stack->instance->path, stack->bodies.count);
    Work work = {.graph = graph_create(builder->ir, name),
                 .stack = stack,
                 .body = body,
                 .site = stack->instance->path,
                 .training = context->work->training};
    Context inner = *context;
    inner.work = &work;
    inner.scope = stack->scope;
    Thing *inputs = ARENA_ARRAY(builder->ir->arena, Thing, count + 1);
    for (uint32_t i = 0; i < count && i < stack->layer->formals.count; i++) {
        const Formal *formal = &stack->layer->formals.items[i];
        inputs[i] =
            tensor_thing(graph_add_input(work.graph, formal->name, ROLE_ARGUMENT, types[i], formal->place));
    }
    Scope *scope = bind_formals(&inner, stack->layer, NULL, stack->options, inputs, count);
    if (!scope) return body;
    Thing result = run_body(&inner, stack->layer, scope, stack->instance, place);
    body->asked_training = work.asked_training;
    if (add_carried(&inner, body, stack, result, place)) finish_body(&inner, body, inputs);
    return body;
}

static const StackEntry *straight_order(Context *context, const Stack *stack) {
    StackEntry *entries = ARENA_ARRAY(context->builder->ir->arena, StackEntry, stack->layers);
    for (int64_t i = 0; i < stack->layers; i++) entries[i] = (StackEntry){.layer = (int32_t)i, .row = -1};
    return entries;
}

static Thing add_stack(Context *context, Stack *stack, const Body *body, const Value *arguments,
                       Place place) {
    Arena *arena = context->builder->ir->arena;
    VECTOR(Value) operands = {0};
    for (uint32_t i = 0; i < body->type_count; i++) vector_push(arena, &operands, arguments[i]);
    if (body->needs_seed) vector_push(arena, &operands, work_seed(context, place));
    for (size_t i = 0; i < body->parameters.count; i++)
        vector_push(arena, &operands, stored_parameter(context->work->graph, body->parameters.items[i]));
    Attribute attributes[] = {
        {.key = ATTRIBUTE_name, .text = stack->instance->path},
        {.key = ATTRIBUTE_body, .graph = body->graph},
        {.key = ATTRIBUTE_carried, .integer = body->carried},
        {.key = ATTRIBUTE_invariant, .integer = body->invariant + (body->needs_seed ? 1 : 0)},
        {.key = ATTRIBUTE_entries,
         .entries = straight_order(context, stack),
         .count = (uint32_t)stack->layers}};
    Value value = graph_add(context->work->graph, OP_stack, operands.items, (uint32_t)operands.count,
                            attributes, 5, context_place(context, place));
    if (value_is_none(value)) return THING_MISSING;
    if (body->carried == 1) return tensor_thing(value);
    Thing *items = ARENA_ARRAY(arena, Thing, body->carried);
    for (uint32_t i = 0; i < body->carried; i++) items[i] = tensor_thing((Value){value.node, i});
    return tuple_thing(context->builder, body->carried, items, NULL);
}

Thing stack_call(Context *context, Stack *stack, const Expression *expression) {
    uint32_t count = (uint32_t)expression->arguments.count;
    Arena *arena = context->builder->ir->arena;
    const Type **types = ARENA_ARRAY(arena, const Type *, count + 1);
    Value *values = ARENA_ARRAY(arena, Value, count + 1);
    bool ok = true;
    stack->used = true;
    if (count == 0)
        ok = REPORT(context, expression->place, "E0230", "the stack %s needs its input", stack->name);
    for (uint32_t i = 0; i < count; i++) {
        const Argument *argument = &expression->arguments.items[i];
        if (argument->label) {
            REPORT(context, argument->place, "E0229", "options of a layer stand where the stack is declared");
            NOTE(context, stack->place, "declared here");
            return THING_MISSING;
        }
        values[i] =
            thing_to_tensor(context, evaluate(context, argument->value), ELEMENT_F32, argument->place);
        if (value_is_none(values[i]))
            ok = false;
        else
            types[i] = graph_type(context->work->graph, values[i]);
    }
    if (!ok) return THING_MISSING;
    if (context->work->stack) {
        REPORT(context, expression->place, "E0304", "a stack inside a stack is not supported");
        return THING_MISSING;
    }
    Body *body = find_body(stack, context->work, types, count);
    if (!body) body = build_body(context, stack, types, count, expression->place);
    if (body->asked_training) context->work->asked_training = true;
    return body->graph ? add_stack(context, stack, body, values, expression->place) : THING_MISSING;
}
