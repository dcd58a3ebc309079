// Models made from models: `average(M.trunk, layers -> 6)`, `unroll(M.trunk, 1 | 4 * rounds | 1)`,
// `fuse((A, B), route = soft)`. What a file says becomes the text of a module pass; the pass does the work and
// checks the numbers.
#include <string.h>

#include "frontend/build.h"

typedef struct Derive {
    Builder *builder;
    const Expression *call;
    const char *prefix;  // of the model's parameters: "" or "teacher."
    Derivation *step;
    Statement *source;  // the model that the step starts from
} Derive;

enum { CHAIN_MAX = 64, EXPERTS_DEPTH = 8 };

#define FORMAT(derive, ...) arena_format((derive)->builder->ir->arena, __VA_ARGS__)

static bool wrong(const Derive *derive, Place place, const char *text, const char *hint) {
    Context context = {.builder = derive->builder};
    REPORT(&context, place, "E0319", "%s", text);
    if (hint) HINT(&context, "%s", hint);
    return false;
}

// ---- Arguments ----

static const Argument *positional(const Derive *derive, size_t index) {
    for (size_t i = 0; i < derive->call->arguments.count; i++) {
        const Argument *argument = &derive->call->arguments.items[i];
        if (!argument->label && index-- == 0) return argument;
    }
    return NULL;
}

static const char *label_of(const Argument *argument) {
    if (!argument->label) return NULL;
    return argument->label->kind == EXPRESSION_NAME && argument->sign == '=' ? argument->label->name : "?";
}

// Positional arguments are at most `count`, labels are among `known` ("method groups").
static bool check_arguments(const Derive *derive, size_t count, const char *known, const char *usage) {
    if (positional(derive, count))
        return wrong(derive, positional(derive, count)->place, "one argument too many", usage);
    for (size_t i = 0; i < derive->call->arguments.count; i++) {
        const Argument *argument = &derive->call->arguments.items[i];
        const char *label = label_of(argument);
        if (!label) continue;
        const char *at = strstr(known, label);
        size_t length = strlen(label);
        bool whole = at && (at == known || at[-1] == ' ') && (!at[length] || at[length] == ' ');
        if (!whole)
            return wrong(derive, argument->place,
                         FORMAT(derive, "%s knows no option '%s'", derive->call->a->name, label), usage);
    }
    return true;
}

static bool whole_number(const Derive *derive, Expression *expression, const char *what, int64_t *number) {
    Context context = {.builder = derive->builder};
    return evaluate_integer(&context, expression, what, number);
}

// An option's value as a pass reads it: a word, a number, or (a, b) joined by `joint`.
static const char *option_text(const Derive *derive, Expression *value, const char *joint) {
    if (value->kind == EXPRESSION_TUPLE) {
        const char *text = "";
        for (size_t i = 0; i < value->arguments.count; i++) {
            const Argument *item = &value->arguments.items[i];
            const char *part = item->label ? NULL : option_text(derive, item->value, joint);
            if (!part) return NULL;
            text = FORMAT(derive, "%s%s%s", text, i ? joint : "", part);
        }
        return text;
    }
    Context context = {.builder = derive->builder};
    bool named = value->kind == EXPRESSION_NAME && !declaration_find(&derive->builder->user, value->name);
    if (named && strcmp(value->name, "true") != 0 && strcmp(value->name, "false") != 0) return value->name;
    double number;
    return evaluate_number(&context, value, &number) ? FORMAT(derive, "%.17g", number) : NULL;
}

// route = top_k(2)
static bool add_route(Derive *derive, const Expression *route) {
    int64_t count;
    bool one = route->arguments.count == 1 && !route->arguments.items[0].label;
    if (route->a->kind != EXPRESSION_NAME || strcmp(route->a->name, "top_k") != 0 || !one)
        return wrong(derive, route->place, "expected a route", "write route = soft, or route = top_k(2)");
    if (!whole_number(derive, route->arguments.items[0].value, "the number of experts", &count)) return false;
    derive->step->passes =
        FORMAT(derive, "%s, route=top_k, k=%lld", derive->step->passes, (long long)count);
    return true;
}

// Appends the call's options to the text of the pass, under their own names.
static bool add_options(Derive *derive, const char *joint) {
    for (size_t i = 0; i < derive->call->arguments.count; i++) {
        const Argument *argument = &derive->call->arguments.items[i];
        if (!argument->label) continue;
        if (argument->value->kind == EXPRESSION_CALL && strcmp(label_of(argument), "route") == 0) {
            if (!add_route(derive, argument->value)) return false;
            continue;
        }
        const char *text = option_text(derive, argument->value, joint);
        if (!text) return false;
        derive->step->passes = FORMAT(derive, "%s, %s=%s", derive->step->passes, label_of(argument), text);
    }
    return true;
}

// ---- What there is ----

static bool read_average(Derive *derive) {
    const char *usage = "write average(M.trunk, layers -> 6), with method, groups, weights where wanted";
    const Argument *count = positional(derive, 1);
    if (!check_arguments(derive, 2, "method groups weights", usage)) return false;
    if (count) {
        const Expression *arrow = count->value;
        if (arrow->kind != EXPRESSION_BINARY || arrow->operator!= OPERATOR_ARROW || arrow->a->kind !=
                                                    EXPRESSION_NAME || strcmp(arrow->a->name, "layers") != 0)
            return wrong(derive, count->place, "expected how many layers stay", usage);
        int64_t layers;
        if (!whole_number(derive, arrow->b, "the number of layers", &layers)) return false;
        if (layers < 1) return wrong(derive, arrow->b->place, "a stack has one layer or more", usage);
        derive->step->passes = FORMAT(derive, "%s, to=%lld", derive->step->passes, (long long)layers);
    }
    return add_options(derive, "|");
}

// 1 | 4 * rounds | 1
static const char *schedule_text(const Derive *derive, Expression *expression) {
    if (expression->kind == EXPRESSION_BINARY && expression->operator== OPERATOR_BAR) {
        const char *a = schedule_text(derive, expression->a), *b = schedule_text(derive, expression->b);
        return a && b ? FORMAT(derive, "%s|%s", a, b) : NULL;
    }
    int64_t layers, times = 1;
    bool repeated = expression->kind == EXPRESSION_BINARY && expression->operator== OPERATOR_MUL;
    if (!whole_number(derive, repeated ? expression->a : expression, "a number of layers", &layers) ||
        (repeated && !whole_number(derive, expression->b, "a number of iterations", &times)))
        return NULL;
    return FORMAT(derive, repeated ? "%lld*%lld" : "%lld", (long long)layers, (long long)times);
}

static bool read_unroll(Derive *derive) {
    const char *usage = "write unroll(M.trunk, 1 | 4 * rounds | 1, learn = (gate, step))";
    const Argument *schedule = positional(derive, 1);
    if (!check_arguments(derive, 2, "learn start rank rows backprop recompute", usage)) return false;
    if (!schedule) return wrong(derive, derive->call->place, "expected a schedule", usage);
    const char *text = schedule_text(derive, schedule->value);
    if (!text) return false;
    derive->step->passes = FORMAT(derive, "%s, schedule=%s", derive->step->passes, text);
    return add_options(derive, "+");
}

static bool read_heads(Derive *derive) {
    const char *usage = "write add_heads(M.trunk, 2), with kind, weight, of, start where wanted";
    const Argument *count = positional(derive, 1);
    int64_t heads;
    if (!check_arguments(derive, 2, "kind weight of start", usage)) return false;
    if (!count) return wrong(derive, derive->call->place, "expected how many heads", usage);
    if (!whole_number(derive, count->value, "the number of heads", &heads)) return false;
    derive->step->passes = FORMAT(derive, "%s, count=%lld", derive->step->passes, (long long)heads);
    return add_options(derive, "|");
}
static bool read_fuse(Derive *derive);

static const struct Kind {
    const char *name, *pass;
    bool (*read)(Derive *derive);
    bool of_models;  // starts from models, not from the stack of one
} kinds[] = {
    {"average", "average-layers", read_average, false},
    {"unroll", "unroll-recurrent", read_unroll, false},
    {"add_heads", "add-heads", read_heads, false},
    {"fuse", "fuse-experts", read_fuse, true},
};

// ---- Chains ----

static const struct Kind *find_kind(const Expression *value) {
    if (value->kind != EXPRESSION_CALL || value->a->kind != EXPRESSION_NAME) return NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].name, value->a->name) == 0) return &kinds[i];
    return NULL;
}

Statement *model_named(Builder *builder, const char *name, Place place) {
    Declaration *declaration = declaration_find(&builder->user, name);
    if (declaration && declaration->statement && declaration->statement->kind == STATEMENT_MODEL)
        return declaration->statement;
    Context context = {.builder = builder};
    REPORT(&context, place, "E0301", "there is no model '%s'", name);
    NameList names = {0};
    for (size_t i = 0; i < builder->user.count; i++)
        if (builder->user.items[i]->statement && builder->user.items[i]->statement->kind == STATEMENT_MODEL)
            vector_push(builder->ir->arena, &names, builder->user.items[i]->name);
    report_suggestion(&context, name, &names);
    return NULL;
}

// ---- Experts ----

// The model that an argument of fuse names.
static Statement *expert_named(const Derive *derive, const Argument *argument) {
    const Expression *name = argument->label ? NULL : argument->value;
    if (name && name->kind == EXPRESSION_NAME) return model_named(derive->builder, name->name, name->place);
    wrong(derive, argument->place, "expected the name of a model", "write fuse((A, B), route = soft)");
    return NULL;
}

// (A, B): the chain goes on at A; the others are modules of their own, with steps of their own.
static bool read_experts(Derive *derive, const Expression *experts) {
    Builder *builder = derive->builder;
    size_t count = experts->arguments.count;
    derive->source = expert_named(derive, &experts->arguments.items[0]);
    bool good = derive->source != NULL;
    if (builder->experts_depth > EXPERTS_DEPTH)
        return wrong(derive, derive->call->place, "a model is made from itself", NULL);
    builder->experts_depth++;
    for (size_t i = 1; i < count && good; i++) {
        Statement *statement = expert_named(derive, &experts->arguments.items[i]);
        Module *module = statement ? build_module(builder, statement, NULL) : NULL;
        if (module) vector_push(builder->ir->arena, &derive->step->experts, module);
        good = module != NULL;
    }
    builder->experts_depth--;
    return good;
}

static bool read_fuse(Derive *derive) {
    const char *usage = "write fuse((A, B), route = soft), or top_k(1); also share, balance, read";
    const Argument *experts = positional(derive, 0);
    if (!check_arguments(derive, 1, "route read share balance", usage)) return false;
    if (!experts || experts->value->kind != EXPRESSION_TUPLE || experts->value->arguments.count < 2)
        return wrong(derive, experts ? experts->place : derive->call->place, "expected two models or more",
                     usage);
    if (*derive->prefix)
        return wrong(derive, derive->call->place, "a fused model cannot be a teacher", NULL);
    size_t count = experts->value->arguments.count;
    derive->step->passes = FORMAT(derive, "fuse-experts{count=%zu", count);
    return read_experts(derive, experts->value) && add_options(derive, "+");
}

// `M.trunk`: the model that the step starts from; the stack's name goes into the pass.
static bool read_source(Derive *derive, const struct Kind *kind) {
    const Argument *first = positional(derive, 0);
    const Expression *field = first ? first->value : NULL;
    if (!field || field->kind != EXPRESSION_FIELD || field->a->kind != EXPRESSION_NAME) {
        return wrong(derive, first ? first->place : derive->call->place, "expected the stack of a model",
                     FORMAT(derive, "write %s(Model.trunk, ...)", kind->name));
    }
    derive->step->passes = FORMAT(derive, "%s{stack=%s%s", kind->pass, derive->prefix, field->name);
    derive->source = model_named(derive->builder, field->a->name, field->a->place);
    return derive->source != NULL;
}

// Where the file says `M.trunk`, M goes back to a block with such a stack.
typedef struct StackName {
    const char *name;
    Place place;
} StackName;

static bool declares_stack(const Statements *body, const char *name, NameList *names, Arena *arena) {
    bool found = false;
    for (size_t i = 0; i < body->count; i++) {
        const Statement *statement = body->items[i];
        if (statement->kind == STATEMENT_STACK) vector_push(arena, names, statement->name);
        found |= statement->kind == STATEMENT_STACK && statement->name == name;
        if (statement->kind == STATEMENT_IF) {
            found |= declares_stack(&statement->body, name, names, arena);
            found |= declares_stack(&statement->otherwise, name, names, arena);
        }
    }
    return found;
}

static bool check_stack_name(Builder *builder, const Statement *model, const StackName *stack) {
    NameList names = {0};
    if (declares_stack(&model->body, stack->name, &names, builder->ir->arena)) return true;
    Context context = {.builder = builder};
    REPORT(&context, stack->place, "E0301", "the model %s has no stack '%s'", model->name, stack->name);
    NOTE(&context, model->place, "declared here");
    report_suggestion(&context, stack->name, &names);
    return false;
}

Statement *derive_base(Builder *builder, Statement *statement, const char *prefix, Derivations *steps) {
    Derivations reversed = {0};
    VECTOR(StackName) stacks = {0};
    Ir *ir = builder->ir;
    for (int length = 0; statement->value; length++) {
        const struct Kind *kind = find_kind(statement->value);
        Derivation step = {.name = *prefix ? NULL : statement->name, .place = statement->value->place};
        Derive derive = {builder, statement->value, prefix, &step, NULL};
        statement->visited = true;
        if (!kind) {
            wrong(&derive, statement->value->place,
                  "a model is a block, or made by average, unroll, add_heads or fuse", NULL);
            return NULL;
        }
        if (length == CHAIN_MAX) {
            wrong(&derive, statement->place,
                  FORMAT(&derive, "the model %s is made from itself", statement->name), NULL);
            return NULL;
        }
        if ((!kind->of_models && !read_source(&derive, kind)) || !kind->read(&derive)) return NULL;
        const Expression *field = positional(&derive, 0)->value;
        if (!kind->of_models) vector_push(ir->arena, &stacks, ((StackName){field->name, field->place}));
        step.passes = FORMAT(&derive, "%s}", step.passes);
        vector_push(ir->arena, &reversed, step);
        statement = derive.source;
    }
    for (size_t i = 0; i < stacks.count; i++)
        if (!check_stack_name(builder, statement, &stacks.items[i])) return NULL;
    for (size_t i = reversed.count; i-- > 0;) vector_push(ir->arena, steps, reversed.items[i]);
    return statement;
}
