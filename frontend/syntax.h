// The syntax tree: what the parser makes and the builder reads. Nodes live in the arena and are not
// changed after parsing, except for the `failed` marks that keep one mistake from being told twice.
#ifndef CHERRY_FRONTEND_SYNTAX_H
#define CHERRY_FRONTEND_SYNTAX_H

#include "base/vector.h"
#include "ir/ir.h"

enum { EXPRESSION_DEPTH_MAX = 400, BRACKET_DEPTH_MAX = 100 };

typedef struct Expression Expression;
typedef struct Statement Statement;

typedef enum ExpressionKind {
    EXPRESSION_NUMBER,  // number
    EXPRESSION_TEXT,    // name holds the text
    EXPRESSION_NAME,    // name
    EXPRESSION_FIELD,   // a.name
    EXPRESSION_CALL,    // a(arguments)
    EXPRESSION_INDEX,   // a[arguments]
    EXPRESSION_TUPLE,   // (arguments)
    EXPRESSION_NEGATE,  // -a
    EXPRESSION_BINARY,  // a operator b
    EXPRESSION_IF       // if a then b else c
} ExpressionKind;

typedef enum Operator {
    OPERATOR_ADD,
    OPERATOR_SUB,
    OPERATOR_MUL,
    OPERATOR_DIV,
    OPERATOR_EQ,
    OPERATOR_NE,
    OPERATOR_LT,
    OPERATOR_LE,
    OPERATOR_GT,
    OPERATOR_GE,
    OPERATOR_BAR,   // a | b: parts of a schedule
    OPERATOR_ARROW  // a -> b: a new count
} Operator;

// One entry between parentheses or brackets: value, label = value, label: value; between brackets also label: from..end.
typedef struct Argument {
    Expression *label;  // NULL where there is none
    char sign;          // '=' or ':', 0 without a label
    Expression *value;  // NULL in `[label: ..end]`
    Expression *end;
    bool range;  // there was a `..`
    Place place;
} Argument;
typedef VECTOR(Argument) Arguments;

struct Expression {
    ExpressionKind kind;
    Operator operator;
    int depth;
    bool failed;  // an error inside was reported already
    double number;
    const char *name;
    Expression *a, *b, *c;
    Arguments arguments;
    Place place;
};

// [name, name: extent]
typedef struct DimensionSyntax {
    const char *name;
    Expression *extent;  // NULL: the extent of the dim of that name
    Place place;
} DimensionSyntax;
typedef VECTOR(DimensionSyntax) DimensionSyntaxes;

typedef struct TypeSyntax {
    const char *element;  // "int", "bool", "f32", ..., "dim"; NULL: any float
    bool has_dimensions;
    DimensionSyntaxes dimensions;
    Place place;
} TypeSyntax;

typedef struct Formal {
    const char *name;
    TypeSyntax *type;       // NULL: any
    Expression *otherwise;  // default value, NULL: required
    Place place;
} Formal;
typedef VECTOR(Formal) Formals;

// name = value after `with` in a function's head.
typedef struct Clause {
    const char *name, *value;
    Place place, value_place;
} Clause;
typedef VECTOR(Clause) Clauses;

typedef enum StatementKind {
    STATEMENT_DIM,        // name, value
    STATEMENT_CONST,      // name, value
    STATEMENT_INCLUDE,    // name = the path as written
    STATEMENT_FN,         // name, formals, result, clauses, body
    STATEMENT_LAYER,      // name, formals, result, body
    STATEMENT_MODEL,      // name, body; or value: a model made from others
    STATEMENT_OBJECTIVE,  // name, formals, body
    STATEMENT_TRAIN,      // name (of the block), model, objective, entries
    STATEMENT_IF,         // value = the condition, body, otherwise
    STATEMENT_PARAM,      // name, type, value, random: written with ~
    STATEMENT_LET,        // names or name, type, value
    STATEMENT_STACK,      // name, value
    STATEMENT_RETURN      // value
} StatementKind;

typedef VECTOR(Statement *) Statements;

// One entry of a train block: `name = value`, `name kind(arguments)`, or, belonging to the entry before
// it, a further `kind(arguments)` or `from "file"`.
typedef struct TrainEntry {
    const char *name, *kind;
    Expression *value;
    const char *from;  // name = Model from "file"
    Arguments arguments;
    Place place, kind_place;
} TrainEntry;
typedef VECTOR(TrainEntry) TrainEntries;

typedef struct LetName {
    const char *name;
    Place place;
} LetName;
typedef VECTOR(LetName) LetNames;

struct Statement {
    StatementKind kind;
    Place place;  // of the name, or of the keyword where there is none
    const char *name;
    Expression *value;
    TypeSyntax *type;  // of param, let; result of fn and layer
    Formals formals;
    Clauses clauses;
    Statements body, otherwise;
    LetNames names;  // of `let (a, b) = ...`
    const char *model, *objective;
    Place model_place, objective_place;
    TrainEntries entries;
    bool random;
    bool prelude;          // written in the prelude: errors inside are the caller's
    bool visited, active;  // builder: instantiated at least once; being instantiated now
};

// What the scanner and the parser share for one file.
typedef struct Parse {
    Ir *ir;
    const char *file;
    bool prelude;
    Statements statements;
    uint32_t line, column;
    int brackets;   // how many ( [ { are open
    bool too_deep;  // reported; the rest of the file is not read
    uint32_t wrong_line;  // the last one of which a mistake of its text was reported
} Parse;

Expression *syntax_number(Parse *parse, double number, Place place);
Expression *syntax_name(Parse *parse, ExpressionKind kind, const char *name, Place place);
Expression *syntax_field(Parse *parse, Expression *a, const char *name, Place place);
Expression *syntax_arguments(Parse *parse, ExpressionKind kind, Expression *a, Arguments *arguments,
                             Place place);
Expression *syntax_negate(Parse *parse, Expression *a, Place place);
Expression *syntax_binary(Parse *parse, Operator operator, Expression * a, Expression *b, Place place);
Expression *syntax_if(Parse *parse, Expression *a, Expression *b, Expression *c, Place place);
Statement *syntax_statement(Parse *parse, StatementKind kind, const char *name, Place place);

// From the first place to the last, on the line of the first.
Place place_join(Place first, Place last);

// Whether no mistake of its text was reported of this line yet: those behind one are mostly its consequences.
bool syntax_first_mistake(Parse *parse, Place place);

// Parses one text into `parse->statements`. Reports every mistake, of the text one a line; false after any.
bool syntax_parse(Parse *parse, const char *text, size_t length);

#endif
