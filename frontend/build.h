// The builder: it runs the syntax tree over typed values and writes graphs while it does so. A function
// or a layer is a template; each use instantiates it with the types it is given. Numbers, names of
// dimensions and choices are known at this time and leave no trace in a graph.
#ifndef CHERRY_FRONTEND_BUILD_H
#define CHERRY_FRONTEND_BUILD_H

#include "frontend/frontend.h"
#include "frontend/syntax.h"

typedef struct Builder Builder;
typedef struct Scope Scope;
typedef struct Context Context;
typedef struct Work Work;
typedef struct Instance Instance;
typedef struct Stack Stack;
typedef struct Model Model;
typedef struct Thing Thing;

// ---- Things: what an expression can be ----

typedef enum ThingKind {
    THING_UNKNOWN,  // an error was reported, or the type is not known here: absorbs everything silently
    THING_NONE,     // `none`: an argument that was not given
    THING_TENSOR,   // a value of the graph under construction
    THING_NUMBER,   // a constant; `truth` marks true and false
    THING_NAME,     // the name of a dimension; `all` where name is NULL
    THING_ELEMENT,  // f32, i32, ...
    THING_TEXT,
    THING_TUPLE,
    THING_PARAMETER,  // becomes a tensor where it is used
    THING_FUNCTION,   // fn with the scope it was written in
    THING_LAYER,
    THING_STACK,
    THING_MODEL
} ThingKind;

typedef struct Tuple {
    uint32_t count;
    Thing *items;
    const char **names;  // each may be NULL
} Tuple;

struct Thing {
    ThingKind kind;
    bool truth;
    Place place;  // where it was declared, where there is such a place
    union {
        Value value;
        double number;
        const char *name;
        Element element;
        const Tuple *tuple;
        const struct ParameterSlot *parameter;
        Stack *stack;
        Model *model;
        struct {
            Statement *syntax;
            Scope *scope;        // of a fn inside a model or a layer; NULL at file level
            Instance *instance;  // whose parameters that scope declares
        } callable;
    };
};

#define THING_MISSING ((Thing){.kind = THING_UNKNOWN})

typedef struct Binding {
    const char *name;
    Thing thing;
} Binding;

struct Scope {
    Scope *outer;
    VECTOR(Binding) bindings;
    bool prelude;                // names that mean nothing here are names of its own
    VECTOR(const Type *) taken;  // prelude: types whose dimension names those must avoid
};

// ---- Owners of parameters ----

// One use of a layer or a model, by path. Entered again for each graph that is built.
struct Instance {
    const char *path;  // "" for the model, "trunk", "trunk.attn"; "teacher" for a further model
    Model *model;      // whose parameters are declared here
    Stack *stack;      // the stack it is in, or NULL
    int64_t depth;     // what `depth` means inside
    VECTOR(struct Part) parts;
};
typedef struct Part {  // a layer used inside, and where: two uses need two names
    const char *name;
    const Expression *use;
    Instance *instance;
} Part;

typedef struct ParameterSlot {
    const char *path;
    const char *inner;  // path inside the body of its stack
    Stack *stack;
    bool frozen;         // of a model that is not trained
    const Type *type;    // without `layer`
    const Type *stored;  // as in Parameter
    Place place;
} ParameterSlot;

typedef struct Body {  // a stack's layer, built for given operand types
    Graph *graph;
    uint32_t carried, invariant;  // invariant: without the seed
    bool needs_seed;
    bool training, asked_training;
    VECTOR(const ParameterSlot *) parameters;
    const Type **types;  // of the operands
    uint32_t type_count;
} Body;

struct Stack {
    const char *name;
    Statement *statement, *layer;
    const Expression *options;  // the call that fixes the layer's constants, or NULL
    Scope *scope;               // where those are evaluated
    int64_t layers;
    Instance *instance;
    VECTOR(Body *) bodies;
    bool used;
    Place place;
};

struct Model {
    const char *name;
    Statement *statement;
    Scope *scope;
    Instance *instance;
    VECTOR(ParameterSlot *) slots;
    const char *file;  // of a further model of a train block: its weights; NULL: this one is trained
    bool stored;       // its parameters go into the module
};

typedef struct Teacher {  // a further model of a train block
    const char *name;     // the objective's argument
    Model *model;
} Teacher;
typedef VECTOR(Teacher) Teachers;

// ---- The state of one load ----

typedef struct Setting {
    const char *name, *text;
    bool used;
} Setting;

typedef enum DeclarationState { DECLARATION_NEW, DECLARATION_ACTIVE, DECLARATION_DONE } DeclarationState;

typedef struct Declaration {
    const char *name;
    Statement *statement;  // NULL: batch and time where the file does not declare them
    DeclarationState state;
    Thing thing;  // of dim and const, once it is DONE; an extent is thing.number
} Declaration;
typedef VECTOR(Declaration *) Declarations;

// One meaning of a composite that stays a call.
typedef struct Composite {
    const Statement *statement;
    const Type **types;
    uint32_t type_count;
    const Option *options;
    uint32_t option_count;
    Graph *function, *gradient;
    const char *kernel;
    int64_t evaluations;  // that making it took: passes copy its graphs for each use, so each counts them
} Composite;

struct Builder {
    Ir *ir;
    const FrontendOptions *options;
    Declarations user, prelude;
    Statements trains, conditions;  // conditions: `if` at file level
    VECTOR(Setting) settings;
    VECTOR(Composite *) composites;
    VECTOR(Graph *) graphs;  // bodies and composites, in the order they were made
    Module *module;
    const Statement *train;  // the chosen train block, or NULL
    int depth;               // of nested evaluation
    int experts_depth;       // of modules inside modules
    int64_t evaluations;     // so far: a chain of doubling functions would never end
    bool muted;              // the last error was told before
};

// The graph under construction.
struct Work {
    Graph *graph;
    Stack *stack;  // it is a body of this stack
    Body *body;
    const Type *initialize;  // it makes a parameter of this type
    const char *site;        // path in front of the sites of random numbers
    int sites;
    bool training, asked_training;
};

// What surrounds an expression. Copied on entering a function; small.
struct Context {
    Builder *builder;
    Work *work;  // NULL: only constants
    Scope *scope;
    Instance *instance;    // NULL in functions at file level
    Statement *function;   // the innermost fn, layer, model or objective
    const char *let_name;  // of the `let` whose right side is being evaluated
    bool in_prelude;
    Place caller;  // in the prelude: where the user called into it
    bool returned;
    Thing result;
    Place result_place;
};

// ---- build_report.c ----
Place context_place(const Context *context, Place place);
// Errors, notes and hints of the builder. An error that was told already, word for word and at the same
// place, is left out together with its notes and hints: templates are instantiated many times.
__attribute__((format(printf, 4, 5))) bool build_error(const Context *context, Place place, const char *code,
                                                       const char *format, ...);
#define REPORT(context, place, code, ...) \
    build_error(context, context_place(context, place), code, __VA_ARGS__)
#define NOTE(context, place, ...)        \
    ((context)->builder->muted ? (void)0 \
                               : report_note((context)->builder->ir->diagnostics, place, __VA_ARGS__))
#define HINT(context, ...) \
    ((context)->builder->muted ? (void)0 : report_hint((context)->builder->ir->diagnostics, __VA_ARGS__))

typedef VECTOR(const char *) NameList;
// The candidate nearest to `name`, or NULL where none is near.
// Says which use of a template an error came from; only the innermost few are told.
void report_use(const Context *context, const char *name, Place place);
const char *suggest(const char *name, const NameList *candidates);
void hint_dimension(const Context *context, const Declaration *found);  // found where a dimension was wanted
void report_suggestion(const Context *context, const char *name, const NameList *candidates);
void report_unknown_name(const Context *context, const char *name, Place place);
const char *thing_text(const Context *context, Thing thing);  // "f32[batch=8]", "the number 3", ...
const char *names_text(const Context *context, const NameList *names);

// ---- build_scope.c ----
Scope *scope_create(Builder *builder, Scope *outer);
void scope_bind(Builder *builder, Scope *scope, const char *name, Thing thing);
const Thing *scope_find(const Scope *scope, const char *name);  // through the outer scopes
// Binds a name that the user wrote; reports a second declaration in the same scope.
bool scope_declare(Context *context, const char *name, Thing thing, Place place);
Declaration *declaration_find(const Declarations *declarations, const char *name);
// A declaration visible from here: of the file, or of the prelude.
Declaration *context_find_declaration(const Context *context, const char *name);
Thing declaration_thing(Context *context, Declaration *declaration);
bool dimension_extent(Context *context, const char *name, Place place, int64_t *extent);
bool builder_setting(Context *context, const char *name, Thing *thing);
const char *builder_setting_text(Builder *builder, const char *name);  // as written, or NULL
void builder_note_setting(Context *context, const char *name);
void gather_visible_names(const Context *context, NameList *names);
// In the prelude, the dimension name that `name` stands for: one that no tensor argument has.
const char *scope_own_name(const Context *context, const char *name);

// ---- build_type.c ----
bool type_resolve(Context *context, const TypeSyntax *syntax, Element otherwise, const Type **type);
const Type *type_checked(Context *context, Place place, Element element, int rank,
                         const Dimension *dimensions);
bool type_check_annotation(Context *context, const TypeSyntax *syntax, Thing thing, const char *name,
                           Place place);
bool element_from_name(const char *name, Element *element);

// ---- build_evaluate.c ----
Thing evaluate(Context *context, Expression *expression);
void count_evaluations(Builder *builder, int64_t count);
Thing evaluate_name(Context *context, const Expression *expression);
bool evaluate_number(Context *context, Expression *expression, double *number);
bool evaluate_integer(Context *context, Expression *expression, const char *what, int64_t *number);
// Dimension names of `over = ...`: bare names count even where they are declared nowhere.
bool evaluate_names(Context *context, const Expression *expression, NameList *names, bool *all);
bool thing_is_constant(Thing thing);
bool thing_to_number(Context *context, Thing thing, Place place, double *number);
Thing number_thing(double number);
Thing truth_thing(bool truth);
Thing name_thing(const char *name);
Thing tensor_thing(Value value);
Thing tuple_thing(Builder *builder, uint32_t count, const Thing *items, const char *const *names);

// ---- build_operate.c ----
Thing operate_binary(Context *context, Operator operator, Thing a, Thing b, const Expression *expression);
Thing operate_op(Context *context, Op op, const Thing *operands, uint32_t count, Place place);
// The tensor that a thing is; a number becomes a constant of `element`. VALUE_NONE after an error, or
// without one where the thing is unknown.
Value thing_to_tensor(Context *context, Thing thing, Element element, Place place);
Thing tensor_or_unknown(Value value);

// ---- build_intrinsic.c, build_intrinsic_shape.c ----
typedef struct Call {
    const Expression *expression;
    Place place;
} Call;
typedef struct Intrinsic {
    const char *name;
    int least, most;     // positional arguments; most -1: any number
    const char *labels;  // options it knows, separated by spaces; "*": any
    Thing (*run)(Context *context, const Call *call);
    const char *doc;
} Intrinsic;
const Intrinsic *intrinsic_find(const char *name);
Thing intrinsic_call(Context *context, const Intrinsic *intrinsic, const Expression *expression);
void intrinsic_gather_names(Builder *builder, NameList *names);
#define INTRINSIC(name, least, most, labels, doc) Thing intrinsic_##name(Context *context, const Call *call);
#include "frontend/intrinsics.def"
#undef INTRINSIC
const Argument *call_argument(const Call *call, int index);        // positional, or NULL
const Argument *call_option(const Call *call, const char *label);  // or NULL
Value call_tensor(Context *context, const Call *call, int index);
bool call_names(Context *context, const Call *call, const char *label, NameList *names, bool *all);
const char *call_name(Context *context, const Call *call, const char *label);  // exactly one, or NULL
bool check_has_names(Context *context, Value value, const NameList *names, Place place);
const char *label_name(Context *context, const Expression *label);
Thing random_values(Context *context, const Type *type, Place place);

// ---- build_call.c ----
Thing call_expression(Context *context, const Expression *expression);
// An argument that stands for names of dimensions is written without its own name, `name`: E0228.
void report_unnamed(Context *context, const char *name, const Argument *argument);
// Binds the arguments to the formals of `callee` in a new scope. `given` tensors come first.
Scope *bind_formals(Context *context, Statement *callee, Scope *outer, const Expression *call,
                    const Thing *given, uint32_t given_count);
Thing run_body(Context *context, Statement *callee, Scope *scope, Instance *instance, Place place);
bool run_statements(Context *context, const Statements *statements);
void check_template(Builder *builder, Statement *statement);

// ---- build_composite.c ----
Thing composite_call(Context *context, Statement *statement, Scope *scope, Place place);

// ---- build_layer.c ----
bool declare_parameter(Context *context, Statement *statement);
Value parameter_tensor(Context *context, const ParameterSlot *slot, Place place);
bool declare_stack(Context *context, Statement *statement);
Thing stack_call(Context *context, Stack *stack, const Expression *expression);
Thing layer_call(Context *context, Statement *layer, const Expression *expression);

// ---- build_model.c ----
// `path` stands in front of its parameters' paths; `file`, not NULL: it is read from there, not trained.
Model *model_create(Builder *builder, Statement *statement, const char *path, const char *file, bool stored);
bool model_build_entries(Builder *builder, Model *model, const Statement *train, bool keep);
void model_check_rest(Builder *builder, Model *model);
// A tensor input of the kind that an annotated formal describes.
bool formal_type(Context *context, const Formal *formal, const Type **type);

// ---- build_derive.c ----
// A model of the file; NULL after error E0301.
Statement *model_named(Builder *builder, const char *name, Place place);
// The block that a model goes back to (itself, where it is one), and the steps from there, in order.
// `prefix` stands in front of the names of its stacks. NULL after errors.
Statement *derive_base(Builder *builder, Statement *statement, const char *prefix, Derivations *steps);

// ---- build_teacher.c ----
// The further models that a train block names, `teacher = Dense from "dense.safetensors"`, for the arguments
// of `objective`. Where they are stored, their derivations go to the module. False after errors.
bool teachers_create(Builder *builder, const Statement *train, const Statement *objective, bool stored,
                     Teachers *teachers);
// No parameter of the trained model is called as if it were the teacher's.
bool teacher_check_paths(Builder *builder, const Teacher *teacher, const Model *model);

// ---- frontend.c ----
// The module of a model: that of the block it goes back to, with the steps from there. The block in `model`,
// where that is not NULL. NULL after errors.
Module *build_module(Builder *builder, Statement *statement, Model **model);

// ---- build_train.c ----
bool train_read(Builder *builder, const Statement *train, Training *training);
// What an entry of the chosen train block says about `name`: batch, time, an option of the objective.
Expression *train_entry(const Statement *train, const char *name);
bool train_knows(const char *name);
void train_names(Arena *arena, NameList *names);  // for suggestions

// ---- build_graph.c ----
// A copy with the given inputs in this order, and only the nodes that outputs need.
Graph *graph_finish(const Graph *graph, const Value *inputs, uint32_t count);
Value work_seed(Context *context, Place place);

// ---- load.c ----
// Reads and parses a file with its includes into declarations. False after errors.
bool load_files(Builder *builder, const char *path);
bool load_conditions(Builder *builder);  // decides every `if` at file level
bool load_prelude(Builder *builder);

#endif
