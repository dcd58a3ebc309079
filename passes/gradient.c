// gradient: reverse-mode differentiation of `loss`.
//
//   before: inputs parameter w, data x; output loss = f(w, x)
//   after:  also input gradient w, scalar loss_scale; loss as before, and
//           gradient.w = accumulate(accumulate(gradient w, c1), c2), replacing gradient w
//           with start=zero: accumulate(accumulate(0, c1), c2), whatever gradient w holds
//
// Requires: an output `loss` of type f32[]; stacks expanded.
// Leaves: the forward nodes first, in their order, then the backward ones. Each parameter's gradient is
// one chain that starts at its ROLE_GRADIENT input or at zeros, a contribution a link, in the order in which the
// backward pass makes them: accumulate for the whole tensor, accumulate {along, at} for a pick of it,
// scatter_add for a gather from it. So a layer that runs eight times, a tied table and accumulation over
// micro-batches need no buffer beyond the gradient itself. The cotangent of the loss is loss_scale.
// A composite with a gradient clause is differentiated by it, one without by its meaning.
#include "ir/op.h"
#include "passes/rewrite.h"

typedef struct Chain {  // of one parameter
    Value parameter, input, value;
} Chain;

typedef enum Start { START_STATE, START_ZERO } Start;

typedef struct Backward {
    PassContext *context;
    Graph *graph;
    uint32_t forward_count;  // nodes that were there before the backward pass
    bool *needs;             // by forward node: a parameter flows into it
    bool *live;              // by forward node: it flows into the loss
    uint32_t *slots;         // first cotangent of each forward node
    Value *cotangents;
    Chain *chains;           // by number of the parameter input
    uint32_t chain_count;
    uint32_t *chain_of;      // by forward node: chain number + 1, 0 for all but parameters
} Backward;

static bool contribute(Backward *backward, Value operand, Value cotangent, Place place);

static bool carries_gradient(const Type *type) { return element_is_float(type->element); }

// ---- Before: composites without a gradient clause give way to their meaning ----

static bool inline_underived(Rewrite *rewrite, uint32_t id) {
    const Node *node = graph_node(rewrite->from, id);
    if (node->op != OP_call || attribute_graph(node, ATTRIBUTE_gradient)) return false;
    Value *results = ARENA_ARRAY(rewrite->to->ir->arena, Value, node->result_count);
    if (!rewrite_splice(rewrite, attribute_graph(node, ATTRIBUTE_function), rewrite_operands(rewrite, node),
                        results))
        return true;
    for (uint32_t i = 0; i < node->result_count; i++) rewrite_set(rewrite, (Value){id, i}, results[i]);
    return true;
}

// ---- Which nodes matter ----

static void mark_needs(Backward *backward) {
    for (uint32_t id = 0; id < backward->forward_count; id++) {
        const Node *node = graph_node(backward->graph, id);
        backward->needs[id] = backward->chain_of[id] != 0;
        if (node->op == OP_stop_gradient) continue;
        for (uint32_t i = 0; i < node->operand_count; i++) {
            Value operand = node->operands[i];
            if (backward->needs[operand.node] && carries_gradient(graph_type(backward->graph, operand)))
                backward->needs[id] = true;
        }
    }
}

static void mark_live(Backward *backward, Value loss) {
    backward->live[loss.node] = true;
    for (uint32_t id = backward->forward_count; id-- > 0;) {
        const Node *node = graph_node(backward->graph, id);
        for (uint32_t i = 0; backward->live[id] && i < node->operand_count; i++)
            backward->live[node->operands[i].node] = true;
    }
}

static void make_slots(Backward *backward) {
    Arena *arena = backward->graph->ir->arena;
    uint32_t slot = 0;
    backward->slots = ARENA_ARRAY(arena, uint32_t, backward->forward_count);
    for (uint32_t id = 0; id < backward->forward_count; id++) {
        backward->slots[id] = slot;
        slot += graph_node(backward->graph, id)->result_count;
    }
    backward->cotangents = ARENA_ARRAY(arena, Value, slot + 1);
    for (uint32_t i = 0; i < slot; i++) backward->cotangents[i] = VALUE_NONE;
}

// Zeros of the parameter alone: two chains that begin alike must not be one node, as each takes over what it began with.
static Value own_zeros(Graph *graph, Value input) {
    const Node *node = graph_node(graph, input.node);
    Attribute attributes[] = {{.key = ATTRIBUTE_value, .number = 0},
                              {.key = ATTRIBUTE_element, .integer = ELEMENT_F32},
                              {.key = ATTRIBUTE_site, .text = attribute_text(node, ATTRIBUTE_name)}};
    Value zero = graph_add(graph, OP_constant, NULL, 0, attributes, 3, node->place);
    return value_is_none(zero) ? zero : build_expand(graph, zero, node->types[0], node->place);
}

static bool make_chains(Backward *backward, Start start) {
    Graph *graph = backward->graph;
    backward->chain_of = ARENA_ARRAY(graph->ir->arena, uint32_t, graph->nodes.count);
    backward->chains = ARENA_ARRAY(graph->ir->arena, Chain, graph->inputs.count + 1);
    size_t input_count = graph->inputs.count;
    for (size_t i = 0; i < input_count; i++) {
        uint32_t id = graph->inputs.items[i];
        const Node *node = graph_node(graph, id);
        if (attribute_integer(node, ATTRIBUTE_role, ROLE_ARGUMENT) != ROLE_PARAMETER) continue;
        if (!carries_gradient(node->types[0])) continue;
        Value input = graph_add_input(graph, attribute_text(node, ATTRIBUTE_name), ROLE_GRADIENT,
                                      type_with_element(graph->ir, node->types[0], ELEMENT_F32), node->place);
        if (value_is_none(input)) return false;
        Value value = start == START_ZERO ? own_zeros(graph, input) : input;
        if (value_is_none(value)) return false;
        backward->chains[backward->chain_count++] = (Chain){{id, 0}, input, value};
        backward->chain_of[id] = backward->chain_count;
    }
    return true;
}

// ---- Contributions ----

// `cotangent` with exactly the dimensions of `type`, and its element type.
static Value fit(Graph *graph, Value cotangent, const Type *type, Place place) {
    cotangent = build_reduce_to(graph, cotangent, type, place);
    if (!value_is_none(cotangent)) cotangent = build_expand(graph, cotangent, type, place);
    return value_is_none(cotangent) ? cotangent : build_cast(graph, cotangent, type->element, place);
}

// A parameter seen through ops that move or convert its elements: contributions go on to the parameter
// one by one instead of being summed on the way.
static bool is_parameter_view(const Backward *backward, Value value) {
    for (;;) {
        const Node *node = graph_node(backward->graph, value.node);
        switch (node->op) {
        case OP_input: return backward->chain_of[value.node] != 0;
        case OP_cast: case OP_pick: case OP_rename: case OP_split: case OP_merge: case OP_transpose:
        case OP_broadcast: value = node->operands[0]; break;
        default: return false;
        }
    }
}

static bool add_to_chain(Backward *backward, Value operand, Value cotangent, Place place) {
    Graph *graph = backward->graph;
    const Node *node = graph_node(graph, operand.node);
    bool picked = node->op == OP_pick;
    Chain *chain = &backward->chains[backward->chain_of[picked ? node->operands[0].node : operand.node] - 1];
    cotangent = build_cast(graph, cotangent, ELEMENT_F32, place);
    if (value_is_none(cotangent)) return false;
    chain->value = picked ? build_accumulate_at(graph, chain->value, cotangent,
                                                attribute_text(node, ATTRIBUTE_along),
                                                attribute_integer(node, ATTRIBUTE_at, 0), place)
                          : build_accumulate(graph, chain->value, cotangent, place);
    return !value_is_none(chain->value);
}

static bool ends_in_chain(const Backward *backward, Value operand) {
    const Node *node = graph_node(backward->graph, operand.node);
    return backward->chain_of[operand.node] ||
           (node->op == OP_pick && backward->chain_of[node->operands[0].node]);
}

// Calls the op's own rule and hands its operands' cotangents on.
static bool apply_rule(Backward *backward, Value self, const Value *cotangents) {
    Graph *graph = backward->graph;
    const Node *node = graph_node(graph, self.node);
    const OpDefinition *definition = op_table[node->op];
    if (!definition->gradient)
        return report_error(graph->ir->diagnostics, node->place, "E0507",
                            "%s has no gradient: %s", definition->name, definition->no_gradient);
    Value *operands = ARENA_ARRAY(graph->ir->arena, Value, node->operand_count + 1);
    for (uint32_t i = 0; i < node->operand_count; i++) operands[i] = VALUE_NONE;
    Gradient gradient = {graph, node, {self.node, 0}, cotangents, operands};
    if (!definition->gradient(&gradient)) return false;
    for (uint32_t i = 0; i < node->operand_count; i++)
        if (!contribute(backward, node->operands[i], operands[i], node->place)) return false;
    return true;
}

static bool contribute(Backward *backward, Value operand, Value cotangent, Place place) {
    Graph *graph = backward->graph;
    if (value_is_none(cotangent) || !backward->needs[operand.node]) return true;
    const Type *type = graph_type(graph, operand);
    if (!carries_gradient(type)) return true;
    cotangent = fit(graph, cotangent, type, place);
    if (value_is_none(cotangent)) return false;
    if (ends_in_chain(backward, operand)) return add_to_chain(backward, operand, cotangent, place);
    if (is_parameter_view(backward, operand)) return apply_rule(backward, operand, &cotangent);
    Value *sum = &backward->cotangents[backward->slots[operand.node] + operand.result];
    *sum = value_is_none(*sum) ? cotangent : build_binary(graph, OP_add, *sum, cotangent, place);
    return !value_is_none(*sum);
}

// ---- Nodes with rules of their own here ----

// table[along: indices] with the table a whole parameter: its gradient is scattered into, not built.
static bool gather_from_parameter(Backward *backward, uint32_t id, Value cotangent) {
    Graph *graph = backward->graph;
    const Node *node = graph_node(graph, id);
    Chain *chain = &backward->chains[backward->chain_of[node->operands[0].node] - 1];
    cotangent = build_cast(graph, cotangent, ELEMENT_F32, node->place);
    if (value_is_none(cotangent)) return false;
    chain->value = build_scatter_add(graph, chain->value, node->operands[1], cotangent,
                                     attribute_text(node, ATTRIBUTE_along), node->place);
    return !value_is_none(chain->value);
}

static bool has_call(const Graph *graph) {
    for (uint32_t id = 0; id < graph->nodes.count; id++)
        if (graph_node(graph, id)->op == OP_call) return true;
    return false;
}

// The gradient clause over (operands, results, cotangents): spliced where it is written with composites of
// its own, which may have kernels; else a call of it.
static bool call_gradient_graph(Backward *backward, const Node *node, const Value *arguments,
                                Value *results) {
    Graph *graph = backward->graph;
    Graph *rule = attribute_graph(node, ATTRIBUTE_gradient);
    uint32_t argument_count = node->operand_count + 2 * node->result_count;
    if (rule->inputs.count != argument_count)
        return report_error(
            graph->ir->diagnostics, node->place, "E0508",
            "the gradient %s takes %zu values; a composite of %u operands and %u results gives %u",
            rule->name, rule->inputs.count, node->operand_count, node->result_count, argument_count);
    if (has_call(rule)) {
        graph_inline(graph, rule, arguments, results);
        return true;
    }
    Attribute function = {.key = ATTRIBUTE_function, .graph = rule};
    Value value = graph_add(graph, OP_call, arguments, argument_count, &function, 1, node->place);
    for (uint32_t i = 0; i < rule->outputs.count; i++) results[i] = (Value){value.node, i};
    return !value_is_none(value);
}

static bool differentiate_call(Backward *backward, uint32_t id, const Value *cotangents) {
    Graph *graph = backward->graph;
    const Node *node = graph_node(graph, id);
    const Graph *rule = attribute_graph(node, ATTRIBUTE_gradient);
    Arena *arena = graph->ir->arena;
    uint32_t operands = node->operand_count, results = node->result_count, floats = 0;
    Value *arguments = ARENA_ARRAY(arena, Value, operands + 2 * results);
    for (uint32_t i = 0; i < operands; i++) {
        arguments[i] = node->operands[i];
        if (carries_gradient(graph_type(graph, node->operands[i]))) floats++;
    }
    for (uint32_t i = 0; i < results; i++) {
        arguments[operands + i] = (Value){id, i};
        Value cotangent = cotangents[i];
        if (value_is_none(cotangent)) {
            cotangent = build_constant(graph, node->types[i]->element, 0, node->place);
            cotangent = build_expand(graph, cotangent, node->types[i], node->place);
        }
        arguments[operands + results + i] = cotangent;
    }
    bool all = rule->outputs.count == operands;  // else: those of the float operands alone
    if (!all && rule->outputs.count != floats)
        return report_error(
            graph->ir->diagnostics, node->place, "E0508",
            "the gradient %s gives %zu values; expected one for each of %u operands of floats", rule->name,
            rule->outputs.count, floats);
    Value *out = ARENA_ARRAY(arena, Value, rule->outputs.count + 1);
    if (!call_gradient_graph(backward, node, arguments, out)) return false;
    for (uint32_t i = 0, next = 0; i < operands; i++) {
        if (!all && !carries_gradient(graph_type(graph, node->operands[i]))) continue;
        if (!contribute(backward, node->operands[i], out[next++], node->place)) return false;
    }
    return true;
}

// Picks of one value that are several, as of layers that are stacked: their cotangents go into one sum in place,
// not into a sum of their own each. It starts at zeros that are made of the value, so that no other sum can
// be the same node.
static bool accumulate_pick(Backward *backward, const Node *node, Value cotangent, bool *done) {
    Graph *graph = backward->graph;
    Place place = node->place;
    Value operand = node->operands[0];
    *done = false;
    if (node->op != OP_pick || !backward->needs[operand.node] || is_parameter_view(backward, operand)) return true;
    uint32_t picks = 0;
    for (uint32_t id = operand.node; id < backward->forward_count && picks < 2; id++)
        picks += graph_node(graph, id)->op == OP_pick && value_same(graph_node(graph, id)->operands[0], operand);
    if (picks < 2) return true;
    Value *sum = &backward->cotangents[backward->slots[operand.node] + operand.result];
    Value none = build_constant(graph, graph_type(graph, operand)->element, 0, place);
    Value start = build_binary(graph, OP_mul, operand, none, place), root = value_is_none(*sum) ? start : *sum;
    while (graph_node(graph, root.node)->op == OP_accumulate) root = graph_node(graph, root.node)->operands[0];
    *done = value_same(root, start);
    if (!*done) return true;
    *sum = build_accumulate_at(graph, value_is_none(*sum) ? start : *sum, cotangent,
                               attribute_text(node, ATTRIBUTE_along),
                               attribute_integer(node, ATTRIBUTE_at, 0), place);
    return !value_is_none(*sum);
}

static bool differentiate_node(Backward *backward, uint32_t id) {
    Graph *graph = backward->graph;
    const Node *node = graph_node(graph, id);
    const Value *cotangents = &backward->cotangents[backward->slots[id]];
    bool any = false;
    for (uint32_t i = 0; i < node->result_count; i++) any |= !value_is_none(cotangents[i]);
    if (!any) return true;
    if (node->op == OP_stack)
        return report_error(graph->ir->diagnostics, node->place, "E0505",
                            "gradient: this stack must be expanded first (run expand-stacks)");
    if (node->op == OP_call) return differentiate_call(backward, id, cotangents);
    if (node->op == OP_gather && backward->chain_of[node->operands[0].node])
        return gather_from_parameter(backward, id, cotangents[0]);
    bool done;
    if (!accumulate_pick(backward, node, cotangents[0], &done)) return false;
    if (done) return true;
    return apply_rule(backward, (Value){id, 0}, cotangents);
}

// ---- The pass ----

static bool run_backward(Backward *backward, Value loss, Place place) {
    Graph *graph = backward->graph;
    backward->forward_count = (uint32_t)graph->nodes.count;
    backward->needs = ARENA_ARRAY(graph->ir->arena, bool, backward->forward_count);
    backward->live = ARENA_ARRAY(graph->ir->arena, bool, backward->forward_count);
    mark_needs(backward);
    mark_live(backward, loss);
    make_slots(backward);
    Value scale = graph_add_input(graph, names_intern(graph->ir->names, "loss_scale"), ROLE_SCALAR,
                                  type_scalar(graph->ir, ELEMENT_F32), place);
    if (value_is_none(scale)) return false;
    backward->cotangents[backward->slots[loss.node] + loss.result] = scale;
    for (uint32_t id = backward->forward_count; id-- > 0;)
        if (backward->needs[id] && backward->live[id] && !differentiate_node(backward, id)) return false;
    return true;
}

static void add_gradient_outputs(Backward *backward) {
    Graph *graph = backward->graph;
    for (uint32_t i = 0; i < backward->chain_count; i++) {
        const Chain *chain = &backward->chains[i];
        const Node *node = graph_node(graph, chain->parameter.node);
        const char *name = attribute_text(node, ATTRIBUTE_name);
        if (!backward->live[chain->parameter.node])
            report_warning(graph->ir->diagnostics, node->place, "E0509",
                           "parameter %s has no part in the loss: its gradient stays zero", name);
        graph_add_output(graph, state_output_name(graph->ir, ROLE_GRADIENT, name), chain->value,
                         chain->input);
    }
}

Graph *differentiate(PassContext *context, const Graph *graph) {
    Ir *ir = context->ir;
    int start = pass_choice(context, "start", "state zero");
    if (start < 0) return NULL;
    const Output *output = graph_find_output(graph, "loss");
    const Type *type = output ? graph_type(graph, output->value) : NULL;
    if (!output || type->rank != 0 || type->element != ELEMENT_F32) {
        report_error(ir->diagnostics, NO_PLACE, "E0515", "gradient: graph %s needs an output loss: f32[]; %s",
                     graph->name,
                     output ? arena_format(ir->arena, "its loss is %s", type_text(ir, type)) : "it has none");
        return NULL;
    }
    Place place = graph_node(graph, output->value.node)->place;
    Graph *forward =
        rewrite_graph(context, graph, names_intern(ir->names, "accumulate"), inline_underived, NULL);
    if (!forward) return NULL;
    Backward backward = {.context = context, .graph = forward};
    Value loss = graph_find_output(forward, "loss")->value;
    if (!make_chains(&backward, (Start)start)) return NULL;
    // The gradient inputs stand after the forward nodes; those of the backward pass follow.
    uint32_t *chain_of = ARENA_ARRAY(ir->arena, uint32_t, forward->nodes.count);
    for (uint32_t i = 0; i < backward.chain_count; i++) chain_of[backward.chains[i].parameter.node] = i + 1;
    backward.chain_of = chain_of;
    if (!run_backward(&backward, loss, place)) return NULL;
    add_gradient_outputs(&backward);
    return rewrite_graph(context, forward, forward->name, NULL, NULL);  // drops what nothing needs
}
