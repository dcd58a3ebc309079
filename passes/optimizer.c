// optimizer: the step that turns gradients into new parameters.
//
//   before: module with parameters and a train block
//   after:  also graph update(parameters, gradients, moments; rate: f32[], step: i64[],
//           gradient_scale: f32[]) -> parameters', moments', gradients' = 0, gradient_norm
//           without gradients', where the train block has one micro-batch a step: `accumulate` stores them
//
// Requires: a train block. Leaves: every state output replaces its input, element by element, so all is in
// place. Semantics are PyTorch's: clip_grad_norm_ over all parameters (norm after gradient_scale; factor
// clip / (norm + 1e-6), at most 1), then AdamW (decoupled decay, bias correction, epsilon outside the root)
// or SGD (decay added to the gradient, momentum without dampening). Parameters of a declared rank below
// decay_rank do not decay. `step` starts at 1. What no gradient reaches (stop_gradient stands before every use)
// has no step: it stays as it is, without moments.
#include <math.h>

#include "passes/pass.h"

typedef struct Step {
    Graph *graph;
    const Training *training;
    Place place;
    Value rate, factor;              // factor: gradient_scale times the clipping factor
    Value correction1, correction2;  // 1 - beta^step
} Step;

static Value number(const Step *step, double value) {
    return build_constant(step->graph, ELEMENT_F32, value, step->place);
}
static Value binary(const Step *step, Op op, Value a, Value b) {
    return build_binary(step->graph, op, a, b, step->place);
}
static Value unary(const Step *step, Op op, Value a) { return build_unary(step->graph, op, a, step->place); }

// 1 - beta^count in f32, to a few units in the last place. y = count * log(beta) < 0; where |y| is small
// 1 - exp(y) would cancel, so there: -y (1 + y/2 (1 + y/3 (1 + y/4 (1 + y/5)))), error below y^5/720.
static Value bias_correction(const Step *step, Value count, double beta) {
    if (beta <= 0) return number(step, 1);
    Value y = binary(step, OP_mul, count, number(step, log(beta)));
    Value series = number(step, 1);
    for (int n = 5; n >= 2; n--) {
        Value term = binary(step, OP_mul, binary(step, OP_mul, y, number(step, 1.0 / n)), series);
        series = binary(step, OP_add, number(step, 1), term);
    }
    series = binary(step, OP_mul, unary(step, OP_neg, y), series);
    Value direct = binary(step, OP_sub, number(step, 1), unary(step, OP_exp, y));
    Value is_small = binary(step, OP_lt, number(step, -0.1), y);
    return build_select(step->graph, is_small, series, direct, step->place);
}

static Value sum_of_squares(const Step *step, Value gradient) {
    const Type *type = graph_type(step->graph, gradient);
    const char *over[RANK_MAX];
    for (int i = 0; i < type->rank; i++) over[i] = type->dimensions[i].name;
    Value square = binary(step, OP_mul, gradient, gradient);
    return type->rank ? build_reduce(step->graph, OP_sum, square, over, (uint32_t)type->rank, step->place)
                      : square;
}

static Value gradient_norm(const Step *step, const Module *module, const Value *gradients, Value scale) {
    Value total = number(step, 0);
    for (size_t i = 0; i < module->parameters.count; i++) {
        Value squares = sum_of_squares(step, gradients[i]);
        total = i ? binary(step, OP_add, total, squares) : squares;
    }
    return binary(step, OP_mul, unary(step, OP_sqrt, total), scale);
}

static Value state_input(const Step *step, const Parameter *parameter, Role role) {
    const Type *type = type_with_element(step->graph->ir, parameter->type, ELEMENT_F32);
    return graph_add_input(step->graph, parameter->path, role,
                           role == ROLE_PARAMETER ? parameter->type : type, parameter->place);
}

static void state_output(const Step *step, Value value, Value replaces) {
    const Node *input = graph_node(step->graph, replaces.node);
    Role role = (Role)attribute_integer(input, ATTRIBUTE_role, ROLE_ARGUMENT);
    const char *name = state_output_name(step->graph->ir, role, attribute_text(input, ATTRIBUTE_name));
    value = build_cast(step->graph, value, input->types[0]->element, step->place);
    graph_add_output(step->graph, name, value, replaces);
}

// old + (new - old) * (1 - beta), as one multiply and add a side: beta * old + (1 - beta) * new.
static Value decaying_mean(const Step *step, Value old, Value new, double beta) {
    return binary(step, OP_add, binary(step, OP_mul, old, number(step, beta)),
                  binary(step, OP_mul, new, number(step, 1 - beta)));
}

static void adamw(const Step *step, const Parameter *parameter, Value value, Value gradient) {
    const Training *training = step->training;
    Value moment1 = state_input(step, parameter, ROLE_MOMENT1);
    Value moment2 = state_input(step, parameter, ROLE_MOMENT2);
    Value g = binary(step, OP_mul, gradient, step->factor);
    Value m = decaying_mean(step, moment1, g, training->beta1);
    Value v = decaying_mean(step, moment2, binary(step, OP_mul, g, g), training->beta2);
    Value root = binary(step, OP_div, unary(step, OP_sqrt, v), unary(step, OP_sqrt, step->correction2));
    Value denominator = binary(step, OP_add, root, number(step, training->epsilon));
    Value size = binary(step, OP_div, step->rate, step->correction1);
    Value change = binary(step, OP_div, binary(step, OP_mul, m, size), denominator);
    Value kept = value;
    if (training->decay > 0 && parameter->declared_rank >= training->decay_rank) {
        Value loss = binary(step, OP_mul, step->rate, number(step, training->decay));
        kept = binary(step, OP_mul, value, binary(step, OP_sub, number(step, 1), loss));
    }
    state_output(step, binary(step, OP_sub, kept, change), value);
    state_output(step, m, moment1);
    state_output(step, v, moment2);
}

static void sgd(const Step *step, const Parameter *parameter, Value value, Value gradient) {
    const Training *training = step->training;
    Value g = binary(step, OP_mul, gradient, step->factor);
    if (training->decay > 0 && parameter->declared_rank >= training->decay_rank)
        g = binary(step, OP_add, g, binary(step, OP_mul, value, number(step, training->decay)));
    Value moment = VALUE_NONE;
    if (training->momentum > 0) {
        moment = state_input(step, parameter, ROLE_MOMENT1);
        g = binary(step, OP_add, binary(step, OP_mul, moment, number(step, training->momentum)), g);
    }
    state_output(step, binary(step, OP_sub, value, binary(step, OP_mul, g, step->rate)), value);
    if (!value_is_none(moment)) state_output(step, g, moment);
}

static Value scalar_input(const Step *step, const char *name, Element element) {
    Ir *ir = step->graph->ir;
    return graph_add_input(step->graph, names_intern(ir->names, name), ROLE_SCALAR, type_scalar(ir, element),
                           step->place);
}

static Graph *update_graph(const Module *module) {
    Ir *ir = module->ir;
    size_t count = module->parameters.count;
    const Parameter *parameters = module->parameters.items;
    Step step = {.graph = graph_create(ir, names_intern(ir->names, "update")),
                 .training = &module->training,
                 .place = module->training.place};
    Value *values = ARENA_ARRAY(ir->arena, Value, count + 1),
          *gradients = ARENA_ARRAY(ir->arena, Value, count + 1);
    for (size_t i = 0; i < count; i++) values[i] = state_input(&step, &parameters[i], ROLE_PARAMETER);
    for (size_t i = 0; i < count; i++) gradients[i] = state_input(&step, &parameters[i], ROLE_GRADIENT);
    step.rate = scalar_input(&step, "rate", ELEMENT_F32);
    Value steps = build_cast(step.graph, scalar_input(&step, "step", ELEMENT_I64), ELEMENT_F32, step.place);
    step.factor = scalar_input(&step, "gradient_scale", ELEMENT_F32);
    Value norm = gradient_norm(&step, module, gradients, step.factor);
    if (module->training.clip > 0) {
        Value room = binary(&step, OP_div, number(&step, module->training.clip),
                            binary(&step, OP_add, norm, number(&step, 1e-6)));
        step.factor = binary(&step, OP_mul, step.factor, binary(&step, OP_min, room, number(&step, 1)));
    }
    if (module->training.optimizer == OPTIMIZER_ADAMW) {
        step.correction1 = bias_correction(&step, steps, module->training.beta1);
        step.correction2 = bias_correction(&step, steps, module->training.beta2);
    }
    for (size_t i = 0; i < count; i++) {
        if (module->training.optimizer == OPTIMIZER_ADAMW)
            adamw(&step, &parameters[i], values[i], gradients[i]);
        else
            sgd(&step, &parameters[i], values[i], gradients[i]);
        if (!training_sums_gradients(&module->training)) continue;
        Value zero =
            build_expand(step.graph, number(&step, 0), graph_type(step.graph, gradients[i]), step.place);
        state_output(&step, zero, gradients[i]);
    }
    graph_add_output(step.graph, names_intern(ir->names, "gradient_norm"), norm, VALUE_NONE);
    return step.graph;
}

// ---- What is trained ----

static bool gives_floats(const Node *node) {
    for (uint32_t i = 0; i < node->result_count; i++)
        if (element_is_float(node->types[i]->element)) return true;
    return false;
}

// reached[id], where the results of some nodes are reached: whether a gradient of those may reach the node. Of a
// stack or a composite without a gradient of its own, what one result hands on to an operand counts for all.
static void mark_reached(const Graph *graph, bool *reached) {
    for (uint32_t id = (uint32_t)graph->nodes.count; id-- > 0;) {
        const Node *node = graph_node(graph, id);
        if (!reached[id] || node->op == OP_stop_gradient || !gives_floats(node)) continue;
        const Graph *inner = attribute_graph(node, node->op == OP_stack ? ATTRIBUTE_body : ATTRIBUTE_function);
        if (attribute_graph(node, ATTRIBUTE_gradient)) inner = NULL;
        bool *inside = ARENA_ARRAY(graph->ir->arena, bool, inner ? inner->nodes.count : 1);
        for (size_t i = 0; inner && i < inner->outputs.count; i++) inside[inner->outputs.items[i].value.node] = true;
        if (inner) mark_reached(inner, inside);
        for (uint32_t i = 0; i < node->operand_count; i++) {
            bool passes = !inner || i >= inner->inputs.count || inside[inner->inputs.items[i]];
            if (passes && element_is_float(graph_type(graph, node->operands[i])->element))
                reached[node->operands[i].node] = true;
        }
    }
}

// The parameters that a step moves: not those of further models, nor those that no gradient reaches.
static Module trained_part(const Module *module) {
    Module trained = *module;
    trained.parameters.items = ARENA_ARRAY(module->ir->arena, Parameter, module->parameters.count + 1);
    trained.parameters.count = 0;
    const Graph *loss = module_find_graph(module, "loss");
    const Output *output = loss ? graph_find_output(loss, "loss") : NULL;
    bool *reached = ARENA_ARRAY(module->ir->arena, bool, loss ? loss->nodes.count : 1);
    if (output) {
        reached[output->value.node] = true;
        mark_reached(loss, reached);
    }
    for (size_t i = 0; i < module->parameters.count; i++) {
        const Parameter *parameter = &module->parameters.items[i];
        Value input = output ? graph_find_input(loss, parameter->path, ROLE_PARAMETER) : VALUE_NONE;
        if (!parameter->file && (value_is_none(input) || reached[input.node]))
            trained.parameters.items[trained.parameters.count++] = *parameter;
    }
    return trained;
}

Module *build_optimizer(PassContext *context, const Module *module) {
    if (!module->has_training) {
        report_error(context->ir->diagnostics, NO_PLACE, "E0511", "optimizer: %s has no train block",
                     module->name);
        return NULL;
    }
    Module *result = module_copy(module);
    Module trained = trained_part(module);
    Graph *update = update_graph(&trained);
    for (size_t i = 0; i < module->graphs.count; i++)
        if (!module_add_graph(result, module->graphs.items[i])) return NULL;
    return module_add_graph(result, update) ? result : NULL;
}
