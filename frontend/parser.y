/* Grammar of .cherry files: no conflicts, no globals. Where a construct may stand is checked later,
   so that `param` in the wrong place gets a message that says so. */
%code requires {
#include "frontend/syntax.h"
#ifndef YY_TYPEDEF_YY_SCANNER_T
#define YY_TYPEDEF_YY_SCANNER_T
typedef void *yyscan_t;
#endif
}
%code {
#include <string.h>

#include "frontend/build.h"
#include "frontend/lexer.h"

/* The stacks never grow, so the parser asks nobody for memory; this is deep enough for every program
   within the limits of syntax.h. */
#define YYINITDEPTH 1500
#define YYMAXDEPTH 1500

#define YYLLOC_DEFAULT(current, rhs, count) \
    do { \
        if (count) \
            (current) = place_join(YYRHSLOC(rhs, 1), YYRHSLOC(rhs, count)); \
        else \
            (current) = YYRHSLOC(rhs, 0); \
    } while (0)

static void yyerror(const Place *place, yyscan_t scanner, Parse *parse, const char *message);
static Statement *block_statement(Parse *parse, StatementKind kind, const char *name, Place place,
                                  Statements *body);
static void push_result(Parse *parse, Statements *statements, Expression *value);
static Statements *push_all(Parse *parse, Statements *statements, const Statements *further);
static void expect_word(Parse *parse, const char *word, const char *expected, Place place);
static void share_initialisers(Parse *parse, Statements *declared, Place place);

#define ARENA (parse->ir->arena)
/* A vector of the given type in the arena: semantic values are pointers. */
#define EMPTY(T) ARENA_NEW(ARENA, T)
}

%define api.pure full
%define api.location.type {Place}
%define parse.error custom
%define parse.lac full
%locations
%lex-param {yyscan_t scanner}
%parse-param {yyscan_t scanner} {Parse *parse}

%union {
    double number;
    const char *name;
    Expression *expression;
    Argument argument;
    Arguments *arguments;
    Statement *statement;
    Statements *statements;
    DimensionSyntax dimension;
    DimensionSyntaxes *dimensions;
    TypeSyntax *type;
    Formal formal;
    Formals *formals;
    Clauses *clauses;
    TrainEntry *entry;
    TrainEntries *entries;
    LetNames *names;
}

%token <name> NAME "name" TEXT "quoted text" DIM "dim" LAYER "layer"
%token <number> NUMBER "number"
%token CONST "const" INCLUDE "include" FN "fn" MODEL "model" OBJECTIVE "objective" TRAIN "train"
%token PARAM "param" LET "let" STACK "stack" RETURN "return" IF "if" THEN "then" ELSE "else"
%token EQ "==" NE "!=" LE "<=" GE ">=" ARROW "->" DOTS ".."
%token YYEOF 0 "end of file"

%type <statements> statements block constants dims declarations else_part body
%type <statement> statement constant dim_declaration declaration if_statement
%type <expression> expression postfix primary
%type <argument> argument index
%type <arguments> arguments argument_list indices
%type <dimensions> dimensions dimension_list
%type <dimension> dimension
%type <type> type result optional_dimensions let_type
%type <formals> formals formal_list
%type <formal> formal
%type <clauses> clauses clause_list
%type <entries> entries
%type <entry> entry
%type <names> let_names
%type <name> train_name

%left '|'
%left "->"
%precedence "else"
%left "==" "!="
%left '<' '>' "<=" ">="
%left '+' '-'
%left '*' '/'
%precedence NEGATE

%%

file:
    statements { parse->statements = *$1; }
  | file '}' statements {
        /* left over from a head that was not understood, or one too many */
        if (!yynerrs) report_error(parse->ir->diagnostics, @2, "E0104", "unexpected '}'");
        yynerrs++;
    }

statements:
    %empty { $$ = EMPTY(Statements); }
  | statements statement { $$ = $1; vector_push(ARENA, $$, $2); }
  | statements DIM dims { $$ = push_all(parse, $1, $3); }
  | statements CONST constants { $$ = push_all(parse, $1, $3); }
  | statements PARAM declarations {
        share_initialisers(parse, $3, @3);
        $$ = push_all(parse, $1, $3);
    }
  | statements error { $$ = $1; }

block:
    '{' statements '}' { $$ = $2; }

statement:
    INCLUDE TEXT { $$ = syntax_statement(parse, STATEMENT_INCLUDE, $2, @2); }
  | FN NAME '(' formals ')' result clauses body {
        $$ = block_statement(parse, STATEMENT_FN, $2, @2, $8);
        $$->formals = *$4;
        $$->type = $6;
        $$->clauses = *$7;
    }
  | LAYER NAME '(' formals ')' result block {
        $$ = block_statement(parse, STATEMENT_LAYER, $2, @2, $7);
        $$->formals = *$4;
        $$->type = $6;
    }
  | LAYER NAME error block { $$ = block_statement(parse, STATEMENT_LAYER, $2, @2, $4); }
  | MODEL NAME block { $$ = block_statement(parse, STATEMENT_MODEL, $2, @2, $3); }
  | MODEL NAME '=' expression {
        $$ = syntax_statement(parse, STATEMENT_MODEL, $2, @2);
        $$->value = $4;
    }
  | MODEL NAME error block { $$ = block_statement(parse, STATEMENT_MODEL, $2, @2, $4); }
  | OBJECTIVE NAME '(' formals ')' body {
        $$ = block_statement(parse, STATEMENT_OBJECTIVE, $2, @2, $6);
        $$->formals = *$4;
    }
  | TRAIN NAME NAME NAME train_name '{' entries '}' {
        expect_word(parse, $3, "with", @3);
        $$ = syntax_statement(parse, STATEMENT_TRAIN, $5 ? $5 : $2, $5 ? @5 : @2);
        $$->model = $2;
        $$->model_place = @2;
        $$->objective = $4;
        $$->objective_place = @4;
        $$->entries = *$7;
    }
  | TRAIN error '{' entries '}' { $$ = syntax_statement(parse, STATEMENT_TRAIN, "", @1); }
  | if_statement
  | LET NAME let_type '=' expression {
        $$ = syntax_statement(parse, STATEMENT_LET, $2, @2);
        $$->type = $3;
        $$->value = $5;
    }
  | LET '(' let_names ')' '=' expression {
        $$ = syntax_statement(parse, STATEMENT_LET, NULL, @1);
        $$->names = *$3;
        $$->value = $6;
    }
  | STACK NAME '=' expression {
        $$ = syntax_statement(parse, STATEMENT_STACK, $2, @2);
        $$->value = $4;
    }
  | RETURN expression {
        $$ = syntax_statement(parse, STATEMENT_RETURN, NULL, @1);
        $$->value = $2;
    }

if_statement:
    IF expression block else_part {
        $$ = block_statement(parse, STATEMENT_IF, NULL, @1, $3);
        $$->value = $2;
        $$->otherwise = *$4;
    }

else_part:
    %empty { $$ = EMPTY(Statements); }
  | ELSE block { $$ = $2; }
  | ELSE if_statement { $$ = EMPTY(Statements); vector_push(ARENA, $$, $2); }

body:
    block
  | '=' expression { $$ = EMPTY(Statements); push_result(parse, $$, $2); }

dims:
    dim_declaration { $$ = EMPTY(Statements); vector_push(ARENA, $$, $1); }
  | dims ',' dim_declaration { $$ = $1; vector_push(ARENA, $$, $3); }

dim_declaration:
    NAME { $$ = syntax_statement(parse, STATEMENT_DIM, $1, @1); }
  | NAME '=' expression { $$ = syntax_statement(parse, STATEMENT_DIM, $1, @1); $$->value = $3; }

constants:
    constant { $$ = EMPTY(Statements); vector_push(ARENA, $$, $1); }
  | constants ',' constant { $$ = $1; vector_push(ARENA, $$, $3); }

constant:
    NAME '=' expression { $$ = syntax_statement(parse, STATEMENT_CONST, $1, @1); $$->value = $3; }

declarations:
    declaration { $$ = EMPTY(Statements); vector_push(ARENA, $$, $1); }
  | declarations ',' declaration { $$ = $1; vector_push(ARENA, $$, $3); }

declaration:
    NAME optional_dimensions {
        $$ = syntax_statement(parse, STATEMENT_PARAM, $1, @1);
        $$->type = $2;
    }
  | NAME optional_dimensions '=' expression {
        $$ = syntax_statement(parse, STATEMENT_PARAM, $1, @1);
        $$->type = $2;
        $$->value = $4;
    }
  | NAME optional_dimensions '~' expression {
        $$ = syntax_statement(parse, STATEMENT_PARAM, $1, @1);
        $$->type = $2;
        $$->value = $4;
        $$->random = true;
    }

let_type:
    optional_dimensions
  | ':' type { $$ = $2; }

optional_dimensions:
    %empty { $$ = NULL; }
  | dimensions {
        $$ = ARENA_NEW(ARENA, TypeSyntax);
        $$->has_dimensions = true;
        $$->dimensions = *$1;
        $$->place = @1;
    }

let_names:
    NAME { $$ = EMPTY(LetNames); vector_push(ARENA, $$, ((LetName){$1, @1})); }
  | let_names ',' NAME { $$ = $1; vector_push(ARENA, $$, ((LetName){$3, @3})); }

formals:
    %empty { $$ = EMPTY(Formals); }
  | formal_list
  | formal_list ','

formal_list:
    formal { $$ = EMPTY(Formals); vector_push(ARENA, $$, $1); }
  | formal_list ',' formal { $$ = $1; vector_push(ARENA, $$, $3); }

formal:
    NAME optional_dimensions { $$ = (Formal){$1, $2, NULL, @1}; }
  | NAME ':' type { $$ = (Formal){$1, $3, NULL, @1}; }
  | NAME '=' expression { $$ = (Formal){$1, NULL, $3, @1}; }
  | NAME ':' type '=' expression { $$ = (Formal){$1, $3, $5, @1}; }

result:
    %empty { $$ = NULL; }
  | "->" type { $$ = $2; }

type:
    NAME { $$ = ARENA_NEW(ARENA, TypeSyntax); $$->element = $1; $$->place = @1; }
  | DIM { $$ = ARENA_NEW(ARENA, TypeSyntax); $$->element = $1; $$->place = @1; }
  | NAME dimensions {
        $$ = ARENA_NEW(ARENA, TypeSyntax);
        $$->element = $1;
        $$->has_dimensions = true;
        $$->dimensions = *$2;
        $$->place = @$;
    }
  | dimensions {
        $$ = ARENA_NEW(ARENA, TypeSyntax);
        $$->has_dimensions = true;
        $$->dimensions = *$1;
        $$->place = @1;
    }

dimensions:
    '[' ']' { $$ = EMPTY(DimensionSyntaxes); }
  | '[' dimension_list ']' { $$ = $2; }

dimension_list:
    dimension { $$ = EMPTY(DimensionSyntaxes); vector_push(ARENA, $$, $1); }
  | dimension_list ',' dimension { $$ = $1; vector_push(ARENA, $$, $3); }

dimension:
    NAME { $$ = (DimensionSyntax){$1, NULL, @1}; }
  | NAME ':' expression { $$ = (DimensionSyntax){$1, $3, @1}; }

clauses:
    %empty { $$ = EMPTY(Clauses); }
  | NAME clause_list { expect_word(parse, $1, "with", @1); $$ = $2; }

clause_list:
    NAME '=' NAME { $$ = EMPTY(Clauses); vector_push(ARENA, $$, ((Clause){$1, $3, @1, @3})); }
  | clause_list ',' NAME '=' NAME { $$ = $1; vector_push(ARENA, $$, ((Clause){$3, $5, @3, @5})); }

train_name:
    %empty { $$ = NULL; }
  | NAME NAME { expect_word(parse, $1, "as", @1); $$ = $2; @$ = @2; }

entries:
    %empty { $$ = EMPTY(TrainEntries); }
  | entries entry { $$ = $1; vector_push(ARENA, $$, *$2); }
  | entries ',' { $$ = $1; }
  | entries error { $$ = $1; }

entry:
    NAME '=' expression {
        $$ = EMPTY(TrainEntry);
        *$$ = (TrainEntry){.name = $1, .value = $3, .place = @1, .kind_place = @3};
    }
  | NAME NAME '(' arguments ')' {
        $$ = EMPTY(TrainEntry);
        *$$ = (TrainEntry){.name = $1, .kind = $2, .arguments = *$4, .place = @1, .kind_place = @2};
    }
  | NAME '(' arguments ')' {
        $$ = EMPTY(TrainEntry);
        *$$ = (TrainEntry){.kind = $1, .arguments = *$3, .place = @1, .kind_place = @1};
    }
  | NAME TEXT { /* belongs to the `name = Model` before it */
        expect_word(parse, $1, "from", @1);
        $$ = EMPTY(TrainEntry);
        *$$ = (TrainEntry){.from = $2, .place = @1, .kind_place = @2};
    }

expression:
    postfix
  | expression '+' expression { $$ = syntax_binary(parse, OPERATOR_ADD, $1, $3, @$); }
  | expression '-' expression { $$ = syntax_binary(parse, OPERATOR_SUB, $1, $3, @$); }
  | expression '*' expression { $$ = syntax_binary(parse, OPERATOR_MUL, $1, $3, @$); }
  | expression '/' expression { $$ = syntax_binary(parse, OPERATOR_DIV, $1, $3, @$); }
  | expression "==" expression { $$ = syntax_binary(parse, OPERATOR_EQ, $1, $3, @$); }
  | expression "!=" expression { $$ = syntax_binary(parse, OPERATOR_NE, $1, $3, @$); }
  | expression '<' expression { $$ = syntax_binary(parse, OPERATOR_LT, $1, $3, @$); }
  | expression "<=" expression { $$ = syntax_binary(parse, OPERATOR_LE, $1, $3, @$); }
  | expression '>' expression { $$ = syntax_binary(parse, OPERATOR_GT, $1, $3, @$); }
  | expression ">=" expression { $$ = syntax_binary(parse, OPERATOR_GE, $1, $3, @$); }
  | expression '|' expression { $$ = syntax_binary(parse, OPERATOR_BAR, $1, $3, @$); }
  | expression "->" expression { $$ = syntax_binary(parse, OPERATOR_ARROW, $1, $3, @$); }
  | '-' expression %prec NEGATE { $$ = syntax_negate(parse, $2, @$); }
  | IF expression THEN expression ELSE expression { $$ = syntax_if(parse, $2, $4, $6, @$); }

postfix:
    primary
  | postfix '(' arguments ')' { $$ = syntax_arguments(parse, EXPRESSION_CALL, $1, $3, @$); }
  | postfix '[' indices ']' { $$ = syntax_arguments(parse, EXPRESSION_INDEX, $1, $3, @$); }
  | postfix '.' NAME { $$ = syntax_field(parse, $1, $3, @$); }

primary:
    NUMBER { $$ = syntax_number(parse, $1, @1); }
  | TEXT { $$ = syntax_name(parse, EXPRESSION_TEXT, $1, @1); }
  | NAME { $$ = syntax_name(parse, EXPRESSION_NAME, $1, @1); }
  | LAYER { $$ = syntax_name(parse, EXPRESSION_NAME, $1, @1); }
  | '(' argument_list ')' {
        /* one plain value is itself, anything else a tuple */
        if ($2->count == 1 && !$2->items[0].label)
            $$ = $2->items[0].value;
        else
            $$ = syntax_arguments(parse, EXPRESSION_TUPLE, NULL, $2, @$);
    }
  | '(' argument_list ',' ')' { $$ = syntax_arguments(parse, EXPRESSION_TUPLE, NULL, $2, @$); }

arguments:
    %empty { $$ = EMPTY(Arguments); }
  | argument_list
  | argument_list ','

argument_list:
    argument { $$ = EMPTY(Arguments); vector_push(ARENA, $$, $1); }
  | argument_list ',' argument { $$ = $1; vector_push(ARENA, $$, $3); }

argument:
    expression { $$ = (Argument){.value = $1, .place = @1}; }
  | expression '=' expression { $$ = (Argument){.label = $1, .sign = '=', .value = $3, .place = @$}; }
  | expression ':' expression { $$ = (Argument){.label = $1, .sign = ':', .value = $3, .place = @$}; }

indices:
    index { $$ = EMPTY(Arguments); vector_push(ARENA, $$, $1); }
  | indices ',' index { $$ = $1; vector_push(ARENA, $$, $3); }

index:
    argument
  | expression ':' expression ".." {
        $$ = (Argument){.label = $1, .sign = ':', .value = $3, .range = true, .place = @$};
    }
  | expression ':' ".." expression {
        $$ = (Argument){.label = $1, .sign = ':', .end = $4, .range = true, .place = @$};
    }
  | expression ':' expression ".." expression {
        $$ = (Argument){.label = $1, .sign = ':', .value = $3, .end = $5, .range = true, .place = @$};
    }

%%

/* Runs out of its own stack only: syntax errors go through yyreport_syntax_error. */
static void yyerror(const Place *place, yyscan_t scanner, Parse *parse, const char *message) {
    (void)scanner;
    (void)message;
    if (!parse->too_deep) report_error(parse->ir->diagnostics, *place, "E0105", "nested too deeply");
    parse->too_deep = true;
}

/* 'x' for marks and reserved words, plain words for classes of tokens. */
static const char *token_text(Parse *parse, yysymbol_kind_t token) {
    const char *name = yysymbol_name(token);
    bool is_class = token == YYSYMBOL_NAME || token == YYSYMBOL_NUMBER || token == YYSYMBOL_TEXT ||
                    token == YYSYMBOL_YYEOF;
    return is_class || name[0] == '\'' ? name : arena_format(ARENA, "'%s'", name);
}

static bool continues_value(yysymbol_kind_t token) {
    switch (token) {
        case YYSYMBOL_EQ: case YYSYMBOL_NE: case YYSYMBOL_LE: case YYSYMBOL_GE: case YYSYMBOL_ARROW:
        case YYSYMBOL_DOTS: return true;
        default: return strchr("+-*/<>|.[(~", yysymbol_name(token)[1]) && yysymbol_name(token)[0] == '\'';
    }
}

static bool expects_statement(const yypcontext_t *context) {
    yysymbol_kind_t expected[YYNTOKENS];
    int count = yypcontext_expected_tokens(context, expected, YYNTOKENS);
    for (int i = 0; i < count; i++)
        if (expected[i] == YYSYMBOL_LET) return true;
    return false;
}

/* What could stand here, in few words: operators are left out after a value. */
static const char *expected_text(Parse *parse, const yypcontext_t *context) {
    enum { SHOWN = 4 };
    yysymbol_kind_t expected[YYNTOKENS];
    const char *list = "";
    int count = yypcontext_expected_tokens(context, expected, YYNTOKENS), shown = 0;
    bool value = false;
    for (int i = 0; i < count; i++) value |= expected[i] == YYSYMBOL_NUMBER;
    if (expects_statement(context)) return "";
    if (value) return ", expected a value";
    for (int i = 0; i < count; i++) {
        if (count > SHOWN && continues_value(expected[i])) continue;
        const char *joint = shown ? " or " : ", expected ";
        list = arena_format(ARENA, "%s%s%s", list, joint, token_text(parse, expected[i]));
        if (++shown > SHOWN) return "";
    }
    return list;
}

/* Where a statement was to begin: a word of these that is misspelt, or what may have been meant. */
static void hint_statement(Parse *parse, yysymbol_kind_t token, const char *text) {
    static const char *const words[] = {"dim", "const", "include", "fn", "layer", "model", "objective", "train",
                                        "param", "stack", "let", "return"};
    NameList names = {0};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) vector_push(ARENA, &names, words[i]);
    const char *found = token == YYSYMBOL_NAME ? suggest(text, &names) : NULL;
    Diagnostics *diagnostics = parse->ir->diagnostics;
    if (found) report_hint(diagnostics, "did you mean '%s'?", found);
    else if (token == YYSYMBOL_NAME)
        report_hint(diagnostics, "`let %s = ...` names a value, `return` gives it back", text);
    else if (strcmp(text, "/") == 0) report_hint(diagnostics, "a comment begins with #");
}

static int yyreport_syntax_error(const yypcontext_t *context, yyscan_t scanner, Parse *parse) {
    if (parse->too_deep || !syntax_first_mistake(parse, *yypcontext_location(context))) return 0;
    yysymbol_kind_t token = yypcontext_token(context);
    const char *found = token == YYSYMBOL_YYEMPTY ? "text" : token_text(parse, token);
    const char *expected = expected_text(parse, context), *text = yyget_text(scanner);
    report_error(parse->ir->diagnostics, *yypcontext_location(context), "E0104", "unexpected %s%s", found, expected);
    if (expects_statement(context)) hint_statement(parse, token, text);
    return 0;
}

static Statement *block_statement(Parse *parse, StatementKind kind, const char *name, Place place,
                                  Statements *body) {
    Statement *statement = syntax_statement(parse, kind, name, place);
    statement->body = *body;
    return statement;
}

static void push_result(Parse *parse, Statements *statements, Expression *value) {
    Statement *statement = syntax_statement(parse, STATEMENT_RETURN, NULL, value->place);
    statement->value = value;
    vector_push(ARENA, statements, statement);
}

static Statements *push_all(Parse *parse, Statements *statements, const Statements *further) {
    for (size_t i = 0; i < further->count; i++) vector_push(ARENA, statements, further->items[i]);
    return statements;
}

/* Words that mean something in one position only are not reserved; they are checked here. */
static void expect_word(Parse *parse, const char *word, const char *expected, Place place) {
    if (strcmp(word, expected) != 0)
        report_error(parse->ir->diagnostics, place, "E0104", "unexpected '%s', expected '%s'", word,
                     expected);
}

/* `param a[x], b[y] = 1`: a declaration without a value takes that of the next one that has it. */
static void share_initialisers(Parse *parse, Statements *declared, Place place) {
    const Statement *last = vector_last(declared);
    if (!last->value) {
        Diagnostics *diagnostics = parse->ir->diagnostics;
        report_error(diagnostics, place, "E0106", "parameter '%s' has no initial value", last->name);
        report_hint(diagnostics, "write `param %s[...] ~ normal(0.02)` or `= 1`", last->name);
        return;
    }
    for (size_t i = declared->count - 1; i-- > 0;) {
        Statement *statement = declared->items[i];
        if (statement->value) continue;
        statement->value = declared->items[i + 1]->value;
        statement->random = declared->items[i + 1]->random;
    }
}
