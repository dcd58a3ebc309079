// turn-gradients: the gradients of attention's queries and keys are turned back where they are made.
//
//   before: d_q, d_k, d_v = call(q, k, v, ...) {kernel = attention_gradient}
//           h = split(cast d_q to f32);  d_x = merge(cast(h * cos + reverse(h * sin * sign)))    and so from d_k
//   after:  d_x, d_y, d_v = call(q, k, v, ..., cos, sin) {kernel = attention_gradient_turned}
//
// Rotary positions (`rope` of the prelude) turn features that lie half a row apart by an angle of the position, and
// what flows back to them turns the other way. The kernel has both features of a pair in registers as it stores them;
// a launch that only turns them walks through memory for it.
// Requires: a flat graph without dead nodes, behind `precision`. Leaves: calls whose function says all that they do,
// roundings too, so that no bit of a result changes. Where the back end lacks the kernel, extents vary, or d_q and d_k
// are not both turned by the same tables and read by nothing else, all stays as it was.
#include <string.h>

#include "ir/op.h"
#include "passes/simplify.h"

enum { OPERANDS = 8, RESULTS = 3, CHAIN = 12 };  // of the gradient; nodes between it and the merge, at most

typedef struct Turn {  // of one gradient
    uint32_t merge;    // the node that puts the halves together again; 0: none
    Value from;        // d_q or d_k as attention leaves it
    Value cos, sin;    // [along, pair], f32
    const char *half, *pair;
    uint32_t chain[CHAIN], count;  // nodes between
} Turn;

typedef struct Turned {  // a function and what it is with its results turned back by tables of a type
    const Graph *function;
    const Type *table;
    Graph *made;
} Turned;

typedef struct Turns {
    const Graph *graph;
    const uint32_t *uses;
    Turn (*of_call)[2];  // by node: of d_q and d_k; without a merge: that one is left alone
    bool *gone;          // by node: between a call and its merge
    VECTOR(Turned) known;
} Turns;

// ---- What is turned ----

static const char *option_name(const Node *call, const char *name) {
    const Attribute *options = attribute_find(call, ATTRIBUTE_options);
    for (uint32_t i = 0; options && i < options->count; i++)
        if (strcmp(options->options[i].name, name) == 0) return options->options[i].text;
    return NULL;
}

// The node that gives a value of the chain, where it is an `op` and so often read; NULL: it is not.
static const Node *enter(const Turns *turns, Turn *turn, Value value, Op op, uint32_t readers) {
    const Node *node = graph_node(turns->graph, value.node);
    if (node->op != op || turns->uses[value.node] != readers || turn->count == CHAIN) return NULL;
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

// From what is turned back to the gradient, over the one cast to f32 and the name that keys have in attention.
static bool find_gradient(const Turns *turns, Turn *turn, Value value, const char *key, const char *along) {
    const Graph *graph = turns->graph;
    const char *past = along;
    int casts = 0;
    for (const Node *node; (node = graph_node(graph, value.node))->op == OP_cast || node->op == OP_rename;) {
        if (!enter(turns, turn, value, node->op, 1)) return false;
        if (node->op == OP_rename) {
            const Attribute *from = attribute_find(node, ATTRIBUTE_from), *to = attribute_find(node, ATTRIBUTE_to);
            if (past != along || from->count != 1 || to->names[0] != along) return false;
            past = from->names[0];
        }
        casts += node->op == OP_cast;
        value = node->operands[0];
    }
    turn->from = value;
    const Node *call = graph_node(graph, value.node);
    const char *kernel = call->op == OP_call ? attribute_text(call, ATTRIBUTE_kernel) : NULL;
    if (!kernel || strcmp(kernel, "attention_gradient") != 0 || call->operand_count != OPERANDS ||
        call->result_count != RESULTS || value.result > 1)
        return false;
    Element element = graph_type(graph, value)->element;
    return casts == (element != ELEMENT_F32) && element == graph_node(graph, turn->merge)->types[0]->element &&
           key == option_name(call, "over") && along == option_name(call, "along") &&
           past == option_name(call, value.result ? "past" : "along");
}

// Whether the tables fit the halves, which are a gradient's.
static bool find_halves(const Turns *turns, Turn *turn, Value halves, const char *key) {
    const Node *split = enter(turns, turn, halves, OP_split, 2);
    if (!split || attribute_text(split, ATTRIBUTE_along) != key) return false;
    const Dimension *into = attribute_find(split, ATTRIBUTE_into)->dimensions;
    const Type *table = graph_type(turns->graph, turn->cos);
    int pair = type_find(table, turn->pair);
    if (table != graph_type(turns->graph, turn->sin) || table->element != ELEMENT_F32 || table->rank != 2 || pair < 0 ||
        into[0].name != turn->half || into[0].extent != 2 || table->dimensions[pair].extent != into[1].extent)
        return false;
    const Dimension *along = &table->dimensions[1 - pair];
    return !along->bound && find_gradient(turns, turn, split->operands[0], key, along->name);
}

// kept = halves * cos, crossed = reverse(halves * sin * sign), each product in any order.
static bool find_tables(const Turns *turns, Turn *turn, Value kept, Value crossed, const char *key) {
    const Graph *graph = turns->graph;
    Value a[2], b[3], halves = VALUE_NONE;
    const Node *reverse = enter(turns, turn, crossed, OP_reverse, 1);
    if (!reverse || attribute_text(reverse, ATTRIBUTE_along) != turn->half ||
        find_factors(turns, turn, kept, a, 0, 2) != 2 || find_factors(turns, turn, reverse->operands[0], b, 0, 3) != 3)
        return false;
    for (int i = 0; i < 2; i++) {
        if (graph_node(graph, a[i].node)->op != OP_split) continue;
        halves = a[i];
        turn->cos = a[1 - i];
    }
    int signs = 0, others = 0;
    for (int i = 0; i < 3; i++) {
        if (is_sign(graph, b[i], turn->half)) signs++;
        else if (!value_same(b[i], halves)) turn->sin = b[i], others++;
    }
    return signs == 1 && others == 1 && find_halves(turns, turn, halves, key);
}

// Notes what the merge turns back, if it does.
static void match_turn(Turns *turns, uint32_t id) {
    const Node *merge = graph_node(turns->graph, id);
    const Attribute *from = attribute_find(merge, ATTRIBUTE_from);
    for (int kept = 0; kept < 2 && from->count == 2; kept++) {
        Turn turn = {.merge = id, .half = from->names[0], .pair = from->names[1]};
        const Node *cast = enter(turns, &turn, merge->operands[0], OP_cast, 1);
        const Node *sum = enter(turns, &turn, cast ? cast->operands[0] : merge->operands[0], OP_add, 1);
        const char *key = attribute_text(merge, ATTRIBUTE_along);
        if (!sum || !find_tables(turns, &turn, sum->operands[kept], sum->operands[1 - kept], key)) continue;
        turns->of_call[turn.from.node][turn.from.result] = turn;
        return;
    }
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
static bool is_turned(const Graph *graph, uint32_t call, const Turn *turn) {
    for (int i = 0; i < 2; i++)
        if (!turn[i].merge || count_readers(graph, turn[i].from) != 1) return false;
    return value_same(turn[0].cos, turn[1].cos) && value_same(turn[0].sin, turn[1].sin) && turn->cos.node < call &&
           turn->sin.node < call;
}

// ---- The function ----

static Value turn_back(Graph *graph, Value x, const Turn *turn, const char *key, Value cos, Value sin) {
    Element element = graph_type(graph, x)->element;
    const Type *table = graph_type(graph, cos);
    Dimension half = {turn->half, 2, NULL}, into[] = {half, table->dimensions[type_find(table, turn->pair)]};
    Value halves = build_split(graph, build_cast(graph, x, ELEMENT_F32, NO_PLACE), key, into, 2, NO_PLACE);
    Value twice = build_binary(graph, OP_mul, build_constant(graph, ELEMENT_I32, 2, NO_PLACE),
                               build_index(graph, half, NO_PLACE), NO_PLACE);
    Value sign = build_binary(graph, OP_sub, twice, build_constant(graph, ELEMENT_I32, 1, NO_PLACE), NO_PLACE);
    Value crossed = build_binary(graph, OP_mul, build_binary(graph, OP_mul, halves, sin, NO_PLACE),
                                 build_cast(graph, sign, ELEMENT_F32, NO_PLACE), NO_PLACE);
    Attribute along = {.key = ATTRIBUTE_along, .text = turn->half};
    crossed = graph_add(graph, OP_reverse, &crossed, 1, &along, 1, NO_PLACE);
    Value sum = build_binary(graph, OP_add, build_binary(graph, OP_mul, halves, cos, NO_PLACE), crossed, NO_PLACE);
    return build_merge(graph, build_cast(graph, sum, element, NO_PLACE), (const char *[]){turn->half, turn->pair}, 2,
                       key, NO_PLACE);
}

// The gradient's function with its first two results turned back by two more operands.
static Graph *turned_function(Turns *turns, const Node *call, const Turn *turn, const Type *table) {
    const Graph *function = attribute_graph(call, ATTRIBUTE_function);
    for (size_t i = 0; i < turns->known.count; i++)
        if (turns->known.items[i].function == function && turns->known.items[i].table == table)
            return turns->known.items[i].made;
    Ir *ir = function->ir;
    const char *key = option_name(call, "over"), *along = option_name(call, "along"), *past = option_name(call, "past");
    Graph *made = graph_create(ir, names_format(ir->names, "%s.turned", function->name));
    Value arguments[OPERANDS + 2], results[RESULTS];
    for (int i = 0; i < OPERANDS; i++) {
        const Node *input = graph_node(function, function->inputs.items[i]);
        arguments[i] = graph_copy_input(made, input, input->types[0]);
    }
    for (int i = 0; i < 2; i++)
        arguments[OPERANDS + i] =
            graph_add_input(made, names_intern(ir->names, i ? "sin" : "cos"), ROLE_ARGUMENT, table, NO_PLACE);
    graph_inline(made, function, arguments, results);
    results[1] = build_rename(made, results[1], past, along, NO_PLACE);
    for (int i = 0; i < 2; i++)
        results[i] = turn_back(made, results[i], turn, key, arguments[OPERANDS], arguments[OPERANDS + 1]);
    results[1] = build_rename(made, results[1], along, past, NO_PLACE);
    for (int i = 0; i < RESULTS; i++) graph_add_output(made, function->outputs.items[i].name, results[i], VALUE_NONE);
    vector_push(ir->arena, &turns->known, ((Turned){function, table, made}));
    return made;
}

// ---- The graph ----

static bool turn_call(Rewrite *rewrite, uint32_t id, const Turn *turn) {
    const Node *call = graph_node(rewrite->from, id);
    Ir *ir = rewrite->to->ir;
    Value operands[OPERANDS + 2];
    for (int i = 0; i < OPERANDS; i++) operands[i] = rewrite_value(rewrite, call->operands[i]);
    operands[OPERANDS] = rewrite_value(rewrite, turn->cos);
    operands[OPERANDS + 1] = rewrite_value(rewrite, turn->sin);
    Graph *function = turned_function(rewrite->data, call, turn, graph_type(rewrite->from, turn->cos));
    Attribute *attributes = ARENA_ARRAY(ir->arena, Attribute, call->attributes.count);
    for (uint32_t i = 0; i < call->attributes.count; i++) {
        attributes[i] = call->attributes.items[i];
        if (attributes[i].key == ATTRIBUTE_function) attributes[i].graph = function;
        if (attributes[i].key == ATTRIBUTE_kernel)
            attributes[i].text = names_intern(ir->names, "attention_gradient_turned");
    }
    Value value =
        graph_add(rewrite->to, OP_call, operands, OPERANDS + 2, attributes, call->attributes.count, call->place);
    if (value_is_none(value)) return rewrite_fail(rewrite);
    for (uint32_t r = 0; r < RESULTS; r++) rewrite_set(rewrite, (Value){id, r}, (Value){value.node, r});
    Value d_k = build_rename(rewrite->to, (Value){value.node, 1}, option_name(call, "past"), option_name(call, "along"),
                             call->place);
    rewrite_set(rewrite, (Value){turn[0].merge, 0}, value);
    rewrite_set(rewrite, (Value){turn[1].merge, 0}, d_k);
    return true;
}

static bool turn_node(Rewrite *rewrite, uint32_t id) {
    const Turns *turns = rewrite->data;
    if (turns->gone[id]) return true;
    return turns->of_call[id][0].merge && turn_call(rewrite, id, turns->of_call[id]);
}

Graph *turn_gradients(PassContext *context, const Graph *graph) {
    size_t count = graph->nodes.count;
    Arena *arena = graph->ir->arena;
    Turns turns = {.graph = graph,
                   .uses = graph_uses(graph),
                   .of_call = (Turn(*)[2])ARENA_ARRAY(arena, Turn, 2 * count + 1),
                   .gone = ARENA_ARRAY(arena, bool, count + 1)};
    for (uint32_t id = 0; id < count && pass_has_kernel(context, "attention_gradient_turned"); id++)
        if (graph_node(graph, id)->op == OP_merge) match_turn(&turns, id);
    for (uint32_t id = 0; id < count; id++) {
        Turn *turn = turns.of_call[id];
        if (!is_turned(graph, id, turn)) turn->merge = 0;
        for (int i = 0; i < 2 && turn->merge; i++)
            for (uint32_t c = 0; c < turn[i].count; c++) turns.gone[turn[i].chain[c]] = true;
    }
    return rewrite_graph(context, graph, graph->name, turn_node, &turns);
}
