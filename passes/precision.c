// precision: products in bf16, all else in f32.
//
//   before: h = dot(n, w);  y = mul(h, a);  ...  dw = accumulate(gradient w, dot(n, dh))
//   after:  n' = cast n to bf16;  h = cast(cast(dot(n', cast w to bf16)) to bf16) to f32;  y = mul(h, a)
//           dw = accumulate(gradient w, dot(n', cast dh to bf16))            every other cast is to bf16
//
// What is rounded, by explicit casts that no later pass removes:
//   - the operands of dot and of composites with a kernel, but statistics; dot sums in f32 (ir/ops_contract.c), and
//     such a composite computes in f32 what it did (its operands and results are cast inside of it);
//   - the result of dot where it only is a factor or the argument of a function, forward or backward (the gradient
//     of an activation), in the backward pass also where a sum of such results is (what queries, keys and values
//     leave for a norm), and the results of such composites but statistics: they will be stored, and half the
//     bytes do; a bias that is added to such a result, of GELU too, whose argument is added to a power of itself;
//   - forward values that the backward pass reads: what is kept for it takes half the memory; and what a sum of the
//     backward pass reads that a dot reads too.
// What stays f32: parameters (a cast of one is made where it is read, as dot's packing does), gradients and
// their chains, sums and whatever is made of sums alone (statistics of norms, log-sum-exps), values that a
// maximum is taken of and what elementwise ops make of those (scores, logits, probabilities: rounding would
// change exponentials by whole factors and hide how near to 1 a probability is), the residual stream and all
// arithmetic. Requires: f32 graphs; composites that the back end lacks expanded. After `gradient` and
// `recompute`, where what is kept for the backward pass shows; before `incremental`, so that caches hold what
// is rounded. Leaves: the same inputs and outputs. Whether a forward value is rounded depends on forward
// nodes alone: with a gradient and without, and position by position, the forward values are the same.
#include <string.h>

#include "ir/op.h"
#include "passes/rewrite.h"

typedef struct Facts {  // by node of one graph
    const Graph *graph;
    bool *forward;   // something else than a gradient needs it
    bool *resident;  // an input, a sum, or made of such alone: never rounded for being kept
    bool *exponent;  // a maximum is taken of it, or of what elementwise ops make of it; or made of such by them
    bool *product;   // of the backward pass: what dots gave, added up
    bool *linear;    // a use that adds it up or hands it out; of a forward value a forward one
    bool *summed;    // the same, but for adding it to what is made of it alone: a function of one argument, like GELU
    bool *kept;      // forward, and the backward pass reads it
    bool *factor;    // of a dot: it is there in bf16
} Facts;

typedef struct Narrowed {  // a composite over rounded operands
    const Graph *function;
    uint32_t operands;  // bit mask: which are rounded
    Graph *made;
} Narrowed;

typedef struct Precision {
    const Facts *facts;           // of the graph
    VECTOR(const Facts *) known;  // of composites, each once
    VECTOR(Narrowed) narrowed;
} Precision;

static bool is_family(const Node *node, const char *family) {
    return strcmp(op_table[node->op]->family, family) == 0;
}

static bool is_pointwise(const Node *node) {
    return is_family(node, "elementwise") || is_family(node, "shape") || node_is_move(node);
}

static bool is_wide(const Graph *graph, Value value) {
    return graph_type(graph, value)->element == ELEMENT_F32;
}

// ---- Facts ----

static const Facts *find_facts(Precision *precision, const Graph *graph);

static void mark_forward(Facts *facts) {
    const Graph *graph = facts->graph;
    for (size_t i = 0; i < graph->outputs.count; i++) {
        const Output *output = &graph->outputs.items[i];
        const Node *state = value_is_none(output->replaces) ? NULL : graph_node(graph, output->replaces.node);
        if (!state || attribute_integer(state, ATTRIBUTE_role, ROLE_ARGUMENT) != ROLE_GRADIENT)
            facts->forward[output->value.node] = true;
    }
    for (size_t id = graph->nodes.count; id-- > 0;) {
        const Node *node = graph_node(graph, (uint32_t)id);
        for (uint32_t i = 0; facts->forward[id] && i < node->operand_count; i++)
            facts->forward[node->operands[i].node] = true;
    }
}

static void mark_resident(Facts *facts) {
    for (uint32_t id = 0; id < facts->graph->nodes.count; id++) {
        const Node *node = graph_node(facts->graph, id);
        bool all = is_pointwise(node) || is_family(node, "source");
        for (uint32_t i = 0; i < node->operand_count; i++) all &= facts->resident[node->operands[i].node];
        facts->resident[id] = all || is_family(node, "reduce");
    }
}

static void mark_products(Facts *facts) {
    for (uint32_t id = 0; id < facts->graph->nodes.count; id++) {
        const Node *node = graph_node(facts->graph, id);
        bool all = node->op == OP_add || node_is_move(node);
        for (uint32_t i = 0; i < node->operand_count; i++) all &= facts->product[node->operands[i].node];
        facts->product[id] = !facts->forward[id] && (all || node->op == OP_dot);
    }
}

// A dot that is a factor twice is no sum; added to something it is one, and rounding it would gain nothing.
static bool is_linear(const Node *node) {
    if (node->op == OP_dot || node->op == OP_call) return false;
    if (!is_family(node, "elementwise")) return true;
    switch (op_table[node->op]->primitive) {
        case PRIMITIVE_add:
        case PRIMITIVE_sub:
        case PRIMITIVE_neg:
        case PRIMITIVE_select:
        case PRIMITIVE_cast:
            return true;
        default:
            return false;
    }
}

// Whether a maximum is taken of operand `i`, or of what the node makes of it.
static bool is_exponent(Precision *precision, const Facts *facts, uint32_t id, uint32_t i) {
    const Node *node = graph_node(facts->graph, id);
    if (node->op == OP_max_over || node->op == OP_top_k) return true;
    if (node->op != OP_call) return is_pointwise(node) && facts->exponent[id];
    const Graph *function = attribute_graph(node, ATTRIBUTE_function);
    return find_facts(precision, function)->exponent[function->inputs.items[i]];
}

// Whether node `id` adds up its operands, or hands them on, as wide as they are.
static bool uses_wide(const Facts *facts, uint32_t id) {
    const Node *node = graph_node(facts->graph, id);
    if (node_is_move(node) || (node->op == OP_add && facts->product[id])) return facts->linear[id];
    bool summed = is_family(node, "reduce") && !facts->forward[id];  // gradients of a norm's scale and shift, f32
    return is_linear(node) && !summed;
}

// Whether elementwise ops, few of them one behind the other, make `value` of `argument` and constants.
static bool is_made_of(const Graph *graph, Value value, Value argument, int depth) {
    if (value_same(value, argument)) return true;
    const Node *node = graph_node(graph, value.node);
    if (node->op == OP_constant) return true;
    if (depth == 0 || !is_family(node, "elementwise")) return false;
    for (uint32_t i = 0; i < node->operand_count; i++)
        if (!is_made_of(graph, node->operands[i], argument, depth - 1)) return false;
    return true;
}

// Whether node `id` is a function of its operand `i` alone.
static bool is_function(const Facts *facts, uint32_t id, uint32_t i) {
    enum { DEPTH = 6 };
    return is_made_of(facts->graph, (Value){id, 0}, graph_node(facts->graph, id)->operands[i], DEPTH);
}

// What the backward pass does with a forward value says nothing about it.
static void mark_uses(Precision *precision, Facts *facts, uint32_t id) {
    const Node *node = graph_node(facts->graph, id);
    for (uint32_t i = 0; i < node->operand_count; i++) {
        uint32_t operand = node->operands[i].node;
        if (facts->forward[operand] && !facts->forward[id]) continue;
        facts->exponent[operand] |= is_exponent(precision, facts, id, i);
        facts->linear[operand] |= uses_wide(facts, id);
        facts->summed[operand] |= uses_wide(facts, id) && !is_function(facts, id, i);
    }
}

// A forward value that elementwise ops make, of the same dimensions, of what a maximum is taken of.
static void mark_exponentials(Facts *facts) {
    const Graph *graph = facts->graph;
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        for (uint32_t i = 0; is_pointwise(node) && facts->forward[id] && i < node->operand_count; i++)
            if (facts->exponent[node->operands[i].node] &&
                type_same_dimensions(node->types[0], graph_type(graph, node->operands[i])))
                facts->exponent[id] = true;
    }
}

static const Facts *find_facts(Precision *precision, const Graph *graph) {
    size_t count = graph->nodes.count;
    Arena *arena = graph->ir->arena;
    for (size_t i = 0; i < precision->known.count; i++)
        if (precision->known.items[i]->graph == graph) return precision->known.items[i];
    Facts *facts = ARENA_NEW(arena, Facts);
    *facts = (Facts){.graph = graph};
    bool **const all[] = {&facts->forward, &facts->resident, &facts->exponent, &facts->product,
                          &facts->linear,  &facts->summed,   &facts->kept,     &facts->factor};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) *all[i] = ARENA_ARRAY(arena, bool, count + 1);
    mark_forward(facts);
    mark_resident(facts);
    mark_products(facts);
    for (size_t i = 0; i < graph->outputs.count; i++)
        facts->linear[graph->outputs.items[i].value.node] = facts->summed[graph->outputs.items[i].value.node] = true;
    const bool *live = graph_live_nodes(graph);
    for (size_t id = count; id-- > 0;) {
        const Node *node = graph_node(graph, (uint32_t)id);
        if (!live[id]) continue;
        mark_uses(precision, facts, (uint32_t)id);
        for (uint32_t i = 0; i < node->operand_count; i++)
            facts->factor[node->operands[i].node] |=
                node->op == OP_dot || (node_is_move(node) && facts->factor[id]);
        for (uint32_t i = 0; !facts->forward[id] && i < node->operand_count; i++)
            facts->kept[node->operands[i].node] |= facts->forward[node->operands[i].node];
    }
    mark_exponentials(facts);
    vector_push(arena, &precision->known, facts);
    return facts;
}

// Of composites each result by itself.
static bool is_resident(Precision *precision, Value value) {
    const Graph *graph = precision->facts->graph;
    const Node *node = graph_node(graph, value.node);
    const Graph *function = node->op == OP_call ? attribute_graph(node, ATTRIBUTE_function) : NULL;
    if (!function) return precision->facts->resident[value.node];
    return find_facts(precision, function)->resident[function->outputs.items[value.result].value.node];
}

// ---- Rounding ----

// `value` of the new graph as bf16. Moves are made again behind the cast, so that a value that is moved in
// several ways is rounded and stored once; parameters and inputs are rounded where they are read.
static Value narrow(Rewrite *rewrite, Value value, Place place) {
    Graph *graph = rewrite->to;
    const Node *node = graph_node(graph, value.node);
    if (node->op == OP_cast && graph_type(graph, node->operands[0])->element == ELEMENT_BF16)
        return node->operands[0];
    Value base = value;
    while (node_is_move(graph_node(graph, base.node))) base = graph_node(graph, base.node)->operands[0];
    if (value_same(base, value) || graph_node(graph, base.node)->op == OP_input)
        return build_cast(graph, value, ELEMENT_BF16, place);
    Value operand = narrow(rewrite, node->operands[0], place);
    return value_is_none(operand) ? operand : graph_copy_node(graph, graph_node(graph, value.node), &operand);
}

static Value rounded(Rewrite *rewrite, Value value, Place place) {
    Value narrowed = narrow(rewrite, value, place);
    return value_is_none(narrowed) ? narrowed : build_cast(rewrite->to, narrowed, ELEMENT_F32, place);
}

// Whether a forward value is rounded for the backward pass. Of moves it is what they move.
static bool is_kept_narrow(Precision *precision, Value old) {
    const Facts *facts = precision->facts;
    return facts->forward[old.node] && facts->kept[old.node] && is_wide(facts->graph, old) &&
           !facts->exponent[old.node] && !is_resident(precision, old);
}

// ---- Nodes ----

static bool set_results(Rewrite *rewrite, uint32_t id, Value value) {
    for (uint32_t i = 0; i < graph_node(rewrite->from, id)->result_count; i++)
        rewrite_set(rewrite, (Value){id, i}, value_is_none(value) ? value : (Value){value.node, i});
    return true;
}

// A sum of the backward pass takes what dots take, where they take the same (the gradient of a bias and of
// the weights before it).
static bool is_summed_narrow(const Facts *facts, const Node *node, Value old) {
    return node->op == OP_sum && !facts->forward[old.node] && facts->factor[old.node] &&
           is_wide(facts->graph, old);
}

// A parameter that is added to what a dot gave, where the sum only is a factor or the argument of a function.
static bool is_bias(const Facts *facts, uint32_t id, uint32_t i) {
    const Graph *graph = facts->graph;
    const Node *node = graph_node(graph, id);
    if (node->op != OP_add || !facts->forward[id] || facts->summed[id] || facts->exponent[id]) return false;
    const Node *term = graph_node(graph, node->operands[i].node);
    while (node_is_move(term)) term = graph_node(graph, term->operands[0].node);
    return graph_node(graph, node->operands[!i].node)->op == OP_dot && is_wide(graph, node->operands[i]) &&
           term->op == OP_input && attribute_integer(term, ATTRIBUTE_role, 0) == ROLE_PARAMETER;
}

// The operands as this node sees them: backward nodes see what was kept.
static Value *operands_of(Rewrite *rewrite, uint32_t id) {
    Precision *precision = rewrite->data;
    const Node *node = graph_node(rewrite->from, id);
    Value *operands = rewrite_operands(rewrite, node);
    for (uint32_t i = 0; i < node->operand_count && !precision->facts->forward[id]; i++)
        if (is_kept_narrow(precision, node->operands[i]) ||
            is_summed_narrow(precision->facts, node, node->operands[i]))
            operands[i] = rounded(rewrite, operands[i], node->place);
    for (uint32_t i = 0; i < node->operand_count; i++)
        if (is_bias(precision->facts, id, i)) operands[i] = rounded(rewrite, operands[i], node->place);
    return operands;
}

static bool narrow_dot(Rewrite *rewrite, uint32_t id) {
    const Facts *facts = ((const Precision *)rewrite->data)->facts;
    const Node *node = graph_node(rewrite->from, id);
    Value *operands = operands_of(rewrite, id);
    for (int i = 0; i < 2; i++)
        if (!value_is_none(operands[i])) operands[i] = narrow(rewrite, operands[i], node->place);
    if (value_is_none(operands[0]) || value_is_none(operands[1])) return rewrite_fail(rewrite);
    Value value = graph_copy_node(rewrite->to, node, operands);
    bool stored = !facts->linear[id] && !facts->exponent[id];
    if (stored && !value_is_none(value)) value = rounded(rewrite, value, node->place);
    return set_results(rewrite, id, value);
}

// The function over rounded operands: it computes in f32, and rounds its results but statistics.
static Graph *narrow_function(Rewrite *rewrite, const Graph *function, uint32_t mask) {
    Precision *precision = rewrite->data;
    Ir *ir = function->ir;
    for (size_t i = 0; i < precision->narrowed.count; i++) {
        const Narrowed *known = &precision->narrowed.items[i];
        if (known->function == function && known->operands == mask) return known->made;
    }
    Graph *made = graph_create(ir, names_format(ir->names, "%s.bf16", function->name));
    const Facts *facts = find_facts(precision, function);
    Value *arguments = ARENA_ARRAY(ir->arena, Value, function->inputs.count + 1);
    Value *results = ARENA_ARRAY(ir->arena, Value, function->outputs.count + 1);
    for (size_t i = 0; i < function->inputs.count; i++) {
        const Node *input = graph_node(function, function->inputs.items[i]);
        bool narrows = mask >> i & 1;
        arguments[i] = graph_copy_input(
            made, input, narrows ? type_with_element(ir, input->types[0], ELEMENT_BF16) : input->types[0]);
        if (narrows) arguments[i] = build_cast(made, arguments[i], ELEMENT_F32, input->place);
    }
    graph_inline(made, function, arguments, results);
    for (size_t i = 0; i < function->outputs.count; i++) {
        const Output *output = &function->outputs.items[i];
        if (value_is_none(results[i])) return NULL;
        if (is_wide(function, output->value) && !facts->resident[output->value.node])
            results[i] = build_cast(made, results[i], ELEMENT_BF16, NO_PLACE);
        graph_add_output(made, output->name, results[i], VALUE_NONE);
    }
    vector_push(ir->arena, &precision->narrowed, ((Narrowed){function, mask, made}));
    return made;
}

static bool narrow_call(Rewrite *rewrite, uint32_t id) {
    Precision *precision = rewrite->data;
    const Node *node = graph_node(rewrite->from, id);
    Graph *function = attribute_graph(node, ATTRIBUTE_function);
    const Facts *inside = find_facts(precision, function);
    Value *operands = operands_of(rewrite, id);
    uint32_t mask = 0;
    for (uint32_t i = 0; i < node->operand_count && i < 32; i++) {
        Value old = node->operands[i];
        if (!is_wide(rewrite->from, old) || is_resident(precision, old) || value_is_none(operands[i]))
            continue;
        if (inside->exponent[function->inputs.items[i]]) continue;
        mask |= 1u << i;
        operands[i] = narrow(rewrite, operands[i], node->place);
    }
    if (!mask) return set_results(rewrite, id, graph_copy_node(rewrite->to, node, operands));
    Graph *narrowed = narrow_function(rewrite, function, mask);
    if (!narrowed) return rewrite_fail(rewrite);
    Attribute attributes[8];
    uint32_t count = 0;
    for (uint32_t i = 0; i < node->attributes.count; i++) {  // its gradient was for other types, and is taken
        const Attribute *attribute = &node->attributes.items[i];
        if (attribute->key == ATTRIBUTE_gradient) continue;
        CHECK(count < sizeof attributes / sizeof *attributes);
        attributes[count] = *attribute;
        if (attribute->key == ATTRIBUTE_function) attributes[count].graph = narrowed;
        count++;
    }
    Value value =
        graph_add(rewrite->to, OP_call, operands, node->operand_count, attributes, count, node->place);
    for (uint32_t i = 0; i < node->result_count; i++) {
        Value result = value_is_none(value) ? value : (Value){value.node, i};
        if (!value_is_none(value))
            result = build_cast(rewrite->to, result, node->types[i]->element, node->place);
        rewrite_set(rewrite, (Value){id, i}, result);
    }
    return true;
}

static bool narrow_node(Rewrite *rewrite, uint32_t id) {
    Precision *precision = rewrite->data;
    const Node *node = graph_node(rewrite->from, id);
    bool product = node->op == OP_dot && is_wide(rewrite->from, node->operands[0]) &&
                   is_wide(rewrite->from, node->operands[1]);
    if (product) {
        narrow_dot(rewrite, id);
    } else if (node->op == OP_call && attribute_text(node, ATTRIBUTE_kernel)) {
        narrow_call(rewrite, id);
    } else {
        const Value *operands = operands_of(rewrite, id);
        for (uint32_t i = 0; i < node->operand_count; i++)
            if (value_is_none(operands[i])) return rewrite_fail(rewrite);
        set_results(rewrite, id, graph_copy_from(rewrite->to, rewrite->from, node, operands));
    }
    // Rounded where it is made, so that nothing wider waits for the backward pass.
    if (!rewrite->failed && node->result_count == 1 && is_kept_narrow(precision, (Value){id, 0}))
        narrow(rewrite, rewrite_value(rewrite, (Value){id, 0}), node->place);
    return true;
}

Graph *set_precision(PassContext *context, const Graph *graph) {
    int compute = pass_choice(context, "compute", "f32 bf16");
    if (compute < 0) return NULL;
    if (compute == 0) return rewrite_graph(context, graph, graph->name, NULL, NULL);
    Precision precision = {0};
    precision.facts = find_facts(&precision, graph);
    return rewrite_graph(context, graph, graph->name, narrow_node, &precision);
}
