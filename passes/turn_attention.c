// turn-attention: queries are turned by rotary positions where attention loads them, their gradients and those of keys
// turned back where attention's gradient stores them.
//
//   before: h = split(cast x to f32);  q = merge(cast(h * cos + reverse(h) * sign * sin))        k is turned alike
//           o, lse = call(q, k, v, ...) {kernel = attention}
//           d_q, d_k, d_v = call(q, k, v, ...) {kernel = attention_gradient}
//           d = split(cast d_q to f32);  d_x = merge(cast(d * cos + reverse(d * sin * sign)))    and so from d_k
//   after:  o, lse, q = call(x, k, v, ..., cos, sin) {kernel = attention_turned}
//           d_x, d_y, d_v = call(q, k, v, ..., cos, sin) {kernel = attention_gradient_turned}
//
// `rope` of the prelude turns features that lie half a row apart by an angle of the position, and what flows back to it
// turns the other way. A launch that only turns rows walks through memory for it; these kernels have them at hand, once
// each, and compute while memory is idle. Keys stay: every block of queries would turn them again.
// Requires: a flat graph behind `precision`, without dead nodes. Leaves: calls whose functions say all that they do,
// roundings too, so that no bit of a result changes. Where the back end lacks a kernel, extents of the tables vary, or
// not both gradients are turned, by the same tables and read by nothing else, that stays as it was.
#include <string.h>

#include "ir/op.h"
#include "passes/simplify.h"

enum {
    INPUTS = 4,    // of attention
    RESULTS = 2,
    GRADIENT_INPUTS = 8,
    GRADIENT_RESULTS = 3,
    TABLES = 2,    // cos, sin
    CHAIN = 12     // nodes between a gradient and its merge, at most
};

typedef struct Turn {      // of one value
    bool back;             // of a gradient, whose chain nothing else may read
    uint32_t merge;        // the node that puts the halves together again; 0: none
    Value from;            // what is turned, as attention takes or leaves it
    Value table[TABLES];   // [along, pair], f32
    const char *key, *along, *half, *pair;
    uint32_t chain[CHAIN], count;  // nodes between
} Turn;

typedef struct Turned {  // a function and what it is with turns by tables of a type
    const Graph *function;
    const Type *table;
    Graph *made;
} Turned;

typedef struct Turns {
    const Graph *graph;
    const uint32_t *uses;
    Turn *queries;          // by node: of a call's queries; without a merge: they are left alone
    Turn (*gradients)[2];   // by node: of d_q and d_k of a call
    bool *gone;             // by node: between a call and its merge
    VECTOR(Turned) known;
} Turns;

// ---- What is turned ----

static const char *option_name(const Node *call, const char *name) {
    const Attribute *options = attribute_find(call, ATTRIBUTE_options);
    for (uint32_t i = 0; options && i < options->count; i++)
        if (strcmp(options->options[i].name, name) == 0) return options->options[i].text;
    return NULL;
}

// The node that gives a value of the chain, where it is an `op` and, in a gradient's, so often read; NULL: it is not.
static const Node *enter(const Turns *turns, Turn *turn, Value value, Op op, uint32_t readers) {
    const Node *node = graph_node(turns->graph, value.node);
    if (node->op != op || turn->count == CHAIN || (turn->back && turns->uses[value.node] != readers)) return NULL;
    turn->chain[turn->count++] = value.node;
    return node;
}

// The factors of a product, behind the first `count`; more than `most`: too many.
static int find_factors(const Turns *turns, Turn *turn, Value value, Value *factors, int count, int most) {
    if (count > most) return count;
    const Node *product = enter(turns, turn, value, OP_mul, 1);
    if (product) {
        count = find_factors(turns, turn, product->operands[0], factors, count, most);
        return find_factors(turns, turn, product->operands[1], factors, count, most);
    }
    if (count < most) factors[count] = value;
    return count + 1;
}

static bool is_number(const Graph *graph, Value value, double number) {
    double found;
    return simplify_constant(graph, value, &found) && found == number;
}

// 2 i - 1: of the first half -1, of the second 1.
static bool is_sign(const Graph *graph, Value value, const char *half) {
    const Type *type = graph_type(graph, value);
    if (type->rank != 1 || type->dimensions[0].name != half) return false;
    const Node *cast = graph_node(graph, value.node);
    const Node *minus = cast->op == OP_cast ? graph_node(graph, cast->operands[0].node) : cast;
    if (minus->op != OP_sub || !is_number(graph, minus->operands[1], 1)) return false;
    const Node *twice = graph_node(graph, minus->operands[0].node);
    if (twice->op != OP_mul) return false;
    for (int i = 0; i < 2; i++)
        if (is_number(graph, twice->operands[i], 2) && graph_node(graph, twice->operands[1 - i].node)->op == OP_index)
            return true;
    return false;
}

// The operand of what puts one half in the place of the other; VALUE_NONE: it does not.
static Value reversed(const Turns *turns, Turn *turn, Value value) {
    const Node *reverse = enter(turns, turn, value, OP_reverse, 1);
    bool halves = reverse && attribute_text(reverse, ATTRIBUTE_along) == turn->half;
    return halves ? reverse->operands[0] : VALUE_NONE;
}

// Whether the tables fit the halves of a row.
static bool find_halves(const Turns *turns, Turn *turn, Value halves) {
    const Node *split = enter(turns, turn, halves, OP_split, 2);
    if (!split || attribute_text(split, ATTRIBUTE_along) != turn->key) return false;
    const Dimension *into = attribute_find(split, ATTRIBUTE_into)->dimensions;
    const Type *table = graph_type(turns->graph, turn->table[0]);
    int pair = type_find(table, turn->pair);
    if (table != graph_type(turns->graph, turn->table[1]) || table->element != ELEMENT_F32 || table->rank != 2 ||
        pair < 0 || into[0].name != turn->half || into[0].extent != 2 ||
        table->dimensions[pair].extent != into[1].extent || table->dimensions[1 - pair].bound)
        return false;
    turn->along = table->dimensions[1 - pair].name;
    turn->from = split->operands[0];
    return true;
}

// kept = halves * cos;  crossed = reverse(halves) * sign * sin, or back reverse(halves * sin * sign): in any order.
static bool find_tables(const Turns *turns, Turn *turn, Value kept, Value crossed) {
    const Graph *graph = turns->graph;
    Value a[2], b[3], halves = VALUE_NONE;
    if (turn->back) crossed = reversed(turns, turn, crossed);
    if (value_is_none(crossed) || find_factors(turns, turn, kept, a, 0, 2) != 2 ||
        find_factors(turns, turn, crossed, b, 0, 3) != 3)
        return false;
    for (int i = 0; i < 2; i++) {
        if (graph_node(graph, a[i].node)->op != OP_split) continue;
        halves = a[i];
        turn->table[0] = a[1 - i];
    }
    int signs = 0, others = 0;
    for (int i = 0; i < 3; i++) {
        Value same = turn->back ? b[i] : reversed(turns, turn, b[i]);
        if (is_sign(graph, b[i], turn->half)) signs++;
        else if (!value_same(same, halves)) turn->table[1] = b[i], others++;
    }
    return signs == 1 && others == 1 && !value_is_none(halves) && find_halves(turns, turn, halves);
}

// What the merge turns: *turn->from, in f32.
static bool find_turn(const Turns *turns, Turn *turn) {
    const Node *merge = graph_node(turns->graph, turn->merge);
    const Attribute *from = merge->op == OP_merge ? attribute_find(merge, ATTRIBUTE_from) : NULL;
    Turn start = *turn;
    for (int kept = 0; from && from->count == 2 && kept < 2; kept++) {
        *turn = start;
        turn->half = from->names[0], turn->pair = from->names[1];
        turn->key = attribute_text(merge, ATTRIBUTE_along);
        const Node *cast = enter(turns, turn, merge->operands[0], OP_cast, 1);
        const Node *sum = enter(turns, turn, cast ? cast->operands[0] : merge->operands[0], OP_add, 1);
        if (sum && find_tables(turns, turn, sum->operands[kept], sum->operands[1 - kept])) return true;
    }
    return false;
}

static bool is_call(const Node *node, const char *name, uint32_t operands, uint32_t results) {
    const char *kernel = node->op == OP_call ? attribute_text(node, ATTRIBUTE_kernel) : NULL;
    return kernel && strcmp(kernel, name) == 0 && node->operand_count == operands && node->result_count == results;
}

// ---- Queries ----

// Notes what turns the queries of a call.
static void match_queries(Turns *turns, uint32_t id) {
    const Graph *graph = turns->graph;
    const Node *call = graph_node(graph, id);
    if (!is_call(call, "attention", INPUTS, RESULTS)) return;
    Turn turn = {.merge = call->operands[0].node};
    if (!find_turn(turns, &turn) || turn.key != option_name(call, "over") || turn.along != option_name(call, "along"))
        return;
    const Type *type = graph_type(graph, call->operands[0]);
    const Node *cast = graph_node(graph, turn.from.node);
    if (type->element != ELEMENT_F32 && cast->op == OP_cast) turn.from = cast->operands[0];
    if (graph_type(graph, turn.from) == type) turns->queries[id] = turn;
}

// ---- Gradients ----

// From what is turned back to the gradient, over the one cast to f32 and the name that keys have in attention.
static bool find_gradient(const Turns *turns, Turn *turn) {
    const Graph *graph = turns->graph;
    const char *past = turn->along;
    int casts = 0;
    for (const Node *node; (node = graph_node(graph, turn->from.node))->op == OP_cast || node->op == OP_rename;) {
        if (!enter(turns, turn, turn->from, node->op, 1)) return false;
        if (node->op == OP_rename) {
            const Attribute *from = attribute_find(node, ATTRIBUTE_from), *to = attribute_find(node, ATTRIBUTE_to);
            if (past != turn->along || from->count != 1 || to->names[0] != turn->along) return false;
            past = from->names[0];
        }
        casts += node->op == OP_cast;
        turn->from = node->operands[0];
    }
    const Node *call = graph_node(graph, turn->from.node);
    if (!is_call(call, "attention_gradient", GRADIENT_INPUTS, GRADIENT_RESULTS) || turn->from.result > 1) return false;
    Element element = graph_type(graph, turn->from)->element;
    return casts == (element != ELEMENT_F32) && element == graph_node(graph, turn->merge)->types[0]->element &&
           turn->key == option_name(call, "over") && turn->along == option_name(call, "along") &&
           past == option_name(call, turn->from.result ? "past" : "along");
}

// Notes what a merge turns back, if it does.
static void match_gradient(Turns *turns, uint32_t id) {
    Turn turn = {.back = true, .merge = id};
    if (find_turn(turns, &turn) && find_gradient(turns, &turn))
        turns->gradients[turn.from.node][turn.from.result] = turn;
}

static uint32_t count_readers(const Graph *graph, Value value) {
    uint32_t count = 0;
    for (uint32_t id = value.node; id < graph->nodes.count; id++)
        for (uint32_t i = 0; i < graph_node(graph, id)->operand_count; i++)
            count += value_same(graph_node(graph, id)->operands[i], value);
    for (size_t i = 0; i < graph->outputs.count; i++) count += value_same(graph->outputs.items[i].value, value);
    return count;
}

// Both are turned, by tables that are there when the call runs, and nothing reads them as they were.
static bool are_turned(const Graph *graph, uint32_t call, const Turn *turn) {
    for (int i = 0; i < 2; i++)
        if (!turn[i].merge || !value_same(turn[0].table[i], turn[1].table[i]) || turn->table[i].node >= call ||
            count_readers(graph, turn[i].from) != 1)
            return false;
    return true;
}

// ---- Functions ----

// What find_turn finds.
static Value build_turn(Graph *graph, Value x, const Turn *turn, const Value *tables) {
    Element element = graph_type(graph, x)->element;
    const Type *table = graph_type(graph, tables[0]);
    Dimension half = {turn->half, 2, NULL}, into[] = {half, table->dimensions[type_find(table, turn->pair)]};
    Value halves = build_split(graph, build_cast(graph, x, ELEMENT_F32, NO_PLACE), turn->key, into, 2, NO_PLACE);
    Value twice = build_binary(graph, OP_mul, build_constant(graph, ELEMENT_I32, 2, NO_PLACE),
                               build_index(graph, half, NO_PLACE), NO_PLACE);
    Value sign = build_binary(graph, OP_sub, twice, build_constant(graph, ELEMENT_I32, 1, NO_PLACE), NO_PLACE);
    sign = build_cast(graph, sign, ELEMENT_F32, NO_PLACE);
    Attribute along = {.key = ATTRIBUTE_along, .text = turn->half};
    Value crossed = turn->back ? build_binary(graph, OP_mul, halves, tables[1], NO_PLACE)
                               : graph_add(graph, OP_reverse, &halves, 1, &along, 1, NO_PLACE);
    crossed = build_binary(graph, OP_mul, crossed, sign, NO_PLACE);
    crossed = turn->back ? graph_add(graph, OP_reverse, &crossed, 1, &along, 1, NO_PLACE)
                         : build_binary(graph, OP_mul, crossed, tables[1], NO_PLACE);
    Value kept = build_binary(graph, OP_mul, halves, tables[0], NO_PLACE);
    Value sum = build_cast(graph, build_binary(graph, OP_add, kept, crossed, NO_PLACE), element, NO_PLACE);
    return build_merge(graph, sum, (const char *[]){turn->half, turn->pair}, 2, turn->key, NO_PLACE);
}

// The function of a call with its queries, or its first two results, turned by two more operands.
static Graph *build_function(const Node *call, const Turn *turn, const Type *table) {
    const Graph *function = attribute_graph(call, ATTRIBUTE_function);
    Ir *ir = function->ir;
    const char *along = turn->along, *past = option_name(call, "past");
    Graph *made = graph_create(ir, names_format(ir->names, "%s.turned", function->name));
    Value arguments[GRADIENT_INPUTS], tables[TABLES], results[GRADIENT_RESULTS], queries = VALUE_NONE;
    for (uint32_t i = 0; i < call->operand_count; i++) {
        const Node *input = graph_node(function, function->inputs.items[i]);
        arguments[i] = graph_copy_input(made, input, input->types[0]);
    }
    for (int i = 0; i < TABLES; i++)
        tables[i] = graph_add_input(made, names_intern(ir->names, i ? "sin" : "cos"), ROLE_ARGUMENT, table, NO_PLACE);
    if (!turn->back) queries = arguments[0] = build_turn(made, arguments[0], turn, tables);
    graph_inline(made, function, arguments, results);
    if (turn->back) {
        results[0] = build_turn(made, results[0], turn, tables);
        Value d_k = build_turn(made, build_rename(made, results[1], past, along, NO_PLACE), turn, tables);
        results[1] = build_rename(made, d_k, along, past, NO_PLACE);
    }
    for (size_t i = 0; i < function->outputs.count; i++)
        graph_add_output(made, function->outputs.items[i].name, results[i], VALUE_NONE);
    if (!turn->back) graph_add_output(made, names_intern(ir->names, "turned"), queries, VALUE_NONE);
    return made;
}

// The same, made once.
static Graph *turned_function(Turns *turns, const Node *call, const Turn *turn) {
    const Graph *function = attribute_graph(call, ATTRIBUTE_function);
    const Type *table = graph_type(turns->graph, turn->table[0]);
    for (size_t i = 0; i < turns->known.count; i++)
        if (turns->known.items[i].function == function && turns->known.items[i].table == table)
            return turns->known.items[i].made;
    Graph *made = build_function(call, turn, table);
    vector_push(function->ir->arena, &turns->known, ((Turned){function, table, made}));
    return made;
}

// ---- The graph ----

// A call like `call` of the kernel `name`, with the tables behind its operands, which may start with another.
static Value add_call(Rewrite *rewrite, const Node *call, const Turn *turn, const char *name) {
    Ir *ir = rewrite->to->ir;
    Value operands[GRADIENT_INPUTS + TABLES];
    uint32_t inputs = call->operand_count, count = 0;
    for (uint32_t i = 0; i < inputs; i++) operands[i] = rewrite_value(rewrite, call->operands[i]);
    if (!turn->back) operands[0] = rewrite_value(rewrite, turn->from);
    for (uint32_t i = 0; i < TABLES; i++) operands[inputs + i] = rewrite_value(rewrite, turn->table[i]);
    Attribute *attributes = ARENA_ARRAY(ir->arena, Attribute, call->attributes.count);
    for (uint32_t i = 0; i < call->attributes.count; i++) {
        Attribute attribute = call->attributes.items[i];
        if (attribute.key == ATTRIBUTE_gradient) continue;  // of other operands, and taken
        if (attribute.key == ATTRIBUTE_function) attribute.graph = turned_function(rewrite->data, call, turn);
        if (attribute.key == ATTRIBUTE_kernel) attribute.text = names_intern(ir->names, name);
        attributes[count++] = attribute;
    }
    Value value = graph_add(rewrite->to, OP_call, operands, inputs + TABLES, attributes, count, call->place);
    if (value_is_none(value)) rewrite_fail(rewrite);
    return value;
}

static bool turn_node(Rewrite *rewrite, uint32_t id) {
    const Turns *turns = rewrite->data;
    const Node *call = graph_node(rewrite->from, id);
    const Turn *queries = &turns->queries[id], *gradients = turns->gradients[id];
    if (turns->gone[id]) return true;
    if (!queries->merge && !gradients->merge) return false;
    Value value = queries->merge ? add_call(rewrite, call, queries, "attention_turned")
                                 : add_call(rewrite, call, gradients, "attention_gradient_turned");
    if (rewrite->failed) return true;
    for (uint32_t r = 0; r < call->result_count; r++) rewrite_set(rewrite, (Value){id, r}, (Value){value.node, r});
    if (queries->merge) {  // whoever reads them from here on
        rewrite_set(rewrite, (Value){queries->merge, 0}, (Value){value.node, RESULTS});
        return true;
    }
    Value d_k = {value.node, 1};
    d_k = build_rename(rewrite->to, d_k, option_name(call, "past"), gradients->along, call->place);
    rewrite_set(rewrite, (Value){gradients[0].merge, 0}, value);
    rewrite_set(rewrite, (Value){gradients[1].merge, 0}, d_k);
    return true;
}

static void find_turns(PassContext *context, Turns *turns) {
    const Graph *graph = turns->graph;
    bool queries = pass_has_kernel(context, "attention_turned"),
         gradients = pass_has_kernel(context, "attention_gradient_turned");
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        if (queries) match_queries(turns, id);
        if (gradients && graph_node(graph, id)->op == OP_merge) match_gradient(turns, id);
    }
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        Turn *turn = turns->gradients[id];
        if (!are_turned(graph, id, turn)) turn->merge = 0;
        for (int i = 0; i < 2 && turn->merge; i++)
            for (uint32_t c = 0; c < turn[i].count; c++) turns->gone[turn[i].chain[c]] = true;
    }
}

Graph *turn_attention(PassContext *context, const Graph *graph) {
    size_t count = graph->nodes.count;
    Arena *arena = graph->ir->arena;
    Turns turns = {.graph = graph,
                   .uses = graph_uses(graph),
                   .queries = ARENA_ARRAY(arena, Turn, count + 1),
                   .gradients = (Turn(*)[2])ARENA_ARRAY(arena, Turn, 2 * count + 1),
                   .gone = ARENA_ARRAY(arena, bool, count + 1)};
    find_turns(context, &turns);
    return rewrite_graph(context, graph, graph->name, turn_node, &turns);
}
