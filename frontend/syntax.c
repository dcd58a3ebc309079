// Makers of syntax nodes. Depth is limited here, so that nothing that walks the tree can run out of stack.
#include "frontend/syntax.h"

// clang-format off: the scanner's header uses the parser's types
#include "frontend/parser.h"
#include "frontend/lexer.h"
// clang-format on

static int depth_of(const Expression *expression) { return expression ? expression->depth : 0; }

static Expression *make(Parse *parse, ExpressionKind kind, Place place, int inner_depth) {
    Expression *expression = ARENA_NEW(parse->ir->arena, Expression);
    expression->kind = kind;
    expression->place = place;
    expression->depth = inner_depth + 1;
    if (expression->depth > EXPRESSION_DEPTH_MAX) {
        if (!parse->too_deep)
            report_error(parse->ir->diagnostics, place, "E0105", "expression nested more than %d deep",
                         EXPRESSION_DEPTH_MAX);
        parse->too_deep = true;
        expression->kind = EXPRESSION_NUMBER;
        expression->depth = 1;
    }
    return expression;
}

Expression *syntax_number(Parse *parse, double number, Place place) {
    Expression *expression = make(parse, EXPRESSION_NUMBER, place, 0);
    expression->number = number;
    return expression;
}

Expression *syntax_name(Parse *parse, ExpressionKind kind, const char *name, Place place) {
    Expression *expression = make(parse, kind, place, 0);
    expression->name = name;
    return expression;
}

Expression *syntax_field(Parse *parse, Expression *a, const char *name, Place place) {
    Expression *expression = make(parse, EXPRESSION_FIELD, place, depth_of(a));
    expression->a = a;
    expression->name = name;
    return expression;
}

Expression *syntax_arguments(Parse *parse, ExpressionKind kind, Expression *a, Arguments *arguments,
                             Place place) {
    int depth = depth_of(a);
    for (size_t i = 0; i < arguments->count; i++) {
        const Argument *argument = &arguments->items[i];
        if (depth_of(argument->label) > depth) depth = depth_of(argument->label);
        if (depth_of(argument->value) > depth) depth = depth_of(argument->value);
        if (depth_of(argument->end) > depth) depth = depth_of(argument->end);
    }
    Expression *expression = make(parse, kind, place, depth);
    expression->a = a;
    expression->arguments = *arguments;
    return expression;
}

Expression *syntax_negate(Parse *parse, Expression *a, Place place) {
    if (a->kind == EXPRESSION_NUMBER) return syntax_number(parse, -a->number, place);
    Expression *expression = make(parse, EXPRESSION_NEGATE, place, depth_of(a));
    expression->a = a;
    return expression;
}

Expression *syntax_binary(Parse *parse, Operator operator, Expression * a, Expression *b, Place place) {
    int depth = depth_of(a) > depth_of(b) ? depth_of(a) : depth_of(b);
    Expression *expression = make(parse, EXPRESSION_BINARY, place, depth);
    expression->operator= operator;
    expression->a = a;
    expression->b = b;
    return expression;
}

Expression *syntax_if(Parse *parse, Expression *a, Expression *b, Expression *c, Place place) {
    int depth = depth_of(a) > depth_of(b) ? depth_of(a) : depth_of(b);
    if (depth_of(c) > depth) depth = depth_of(c);
    Expression *expression = make(parse, EXPRESSION_IF, place, depth);
    expression->a = a;
    expression->b = b;
    expression->c = c;
    return expression;
}

Statement *syntax_statement(Parse *parse, StatementKind kind, const char *name, Place place) {
    Statement *statement = ARENA_NEW(parse->ir->arena, Statement);
    statement->kind = kind;
    statement->name = name;
    statement->place = place;
    statement->prelude = parse->prelude;
    return statement;
}

Place place_join(Place first, Place last) {
    if (first.line == last.line && last.column >= first.column) {
        uint32_t length = (uint32_t)last.column + last.length - first.column;
        first.length = (uint16_t)(length > UINT16_MAX ? UINT16_MAX : length);
    }
    return first;
}

bool syntax_first_mistake(Parse *parse, Place place) {
    bool first = parse->wrong_line != place.line;
    parse->wrong_line = place.line;
    return first;
}

bool syntax_parse(Parse *parse, const char *text, size_t length) {
    size_t errors = diagnostics_error_count(parse->ir->diagnostics);
    parse->line = parse->column = 1;
    yyscan_t scanner;
    if (yylex_init_extra(parse, &scanner) != 0) INTERNAL_ERROR("the scanner did not start");
    yy_scan_bytes(text, (int)length, scanner);
    yyparse(scanner, parse);
    yylex_destroy(scanner);
    return diagnostics_error_count(parse->ir->diagnostics) == errors;
}
