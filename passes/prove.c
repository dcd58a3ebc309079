// Proofs by example: the graphs of a pass in the reference evaluator. See passes/prove.h.
#include "passes/prove.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

// ---- Inputs ----

// The least extent that any op of the graph, or of what it calls, indexes: all indices must be below.
static int64_t index_limit(const Graph *graph, int64_t limit) {
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        if (node->op == OP_gather || node->op == OP_scatter || node->op == OP_scatter_add) {
            const Type *table = graph_type(graph, node->operands[0]);
            int64_t extent =
                table->dimensions[type_find(table, attribute_text(node, ATTRIBUTE_along))].extent;
            if (extent < limit) limit = extent;
        }
        for (uint32_t i = 0; i < node->attributes.count; i++)
            if (attribute_kind(node->attributes.items[i].key) == KIND_GRAPH)
                limit = index_limit(node->attributes.items[i].graph, limit);
    }
    return limit;
}

// The extent that a scalar gives to the dimensions it bounds: their least capacity. 0: it bounds none.
static int64_t bounded_extent(const Graph *graph, const char *name) {
    int64_t extent = 0;
    for (uint32_t id = 0; id < graph->nodes.count; id++)
        for (uint32_t r = 0; r < graph_node(graph, id)->result_count; r++) {
            const Type *type = graph_node(graph, id)->types[r];
            for (int i = 0; i < type->rank; i++)
                if (type->dimensions[i].bound && strcmp(type->dimensions[i].bound, name) == 0 &&
                    (!extent || type->dimensions[i].extent < extent))
                    extent = type->dimensions[i].extent;
        }
    return extent;
}

// Bounded dimensions at the extent that their scalar gets.
static const Type *resolved(Arena *arena, const Graph *graph, const Type *type) {
    Type *result = ARENA_NEW(arena, Type);
    *result = *type;
    for (int i = 0; i < type->rank; i++) {
        if (!type->dimensions[i].bound) continue;
        result->dimensions[i].extent = bounded_extent(graph, type->dimensions[i].bound);
        result->dimensions[i].bound = NULL;
    }
    return result;
}

static double random_unit(uint64_t seed, uint64_t position) {
    return (double)(hash_word(seed, position) >> 11) * 0x1p-53;
}

static double scalar_value(const Graph *graph, const Node *node) {
    const char *name = attribute_text(node, ATTRIBUTE_name);
    if (element_is_float(node->types[0]->element)) return 0.5;
    if (strcmp(name, "position") == 0) return 0;
    int64_t extent = bounded_extent(graph, name);
    return extent ? (double)extent : 1;
}

static void fill(const Graph *graph, const Node *node, uint64_t seed, int64_t limit, const Tensor *tensor) {
    Role role = (Role)attribute_integer(node, ATTRIBUTE_role, ROLE_ARGUMENT);
    Element element = node->types[0]->element;
    seed = hash_word(hash_text(seed, attribute_text(node, ATTRIBUTE_name)), (uint64_t)role);
    int64_t count = type_count(tensor->type);
    for (int64_t i = 0; i < count; i++) {
        double unit = random_unit(seed, (uint64_t)i);
        double *to = &tensor->data[i];
        if (role == ROLE_SCALAR)
            *to = scalar_value(graph, node);
        else if (element == ELEMENT_BOOL)
            *to = unit < 0.5 ? 0 : 1;
        else if (element_is_integer(element))
            *to = floor(unit * (double)limit);
        else
            *to = role == ROLE_MOMENT2 ? unit : 2 * unit - 1;
    }
}

Tensor *prove_inputs(Arena *arena, const Graph *graph, uint64_t seed) {
    Tensor *inputs = ARENA_ARRAY(arena, Tensor, graph->inputs.count + 1);
    int64_t limit = index_limit(graph, 8);
    for (size_t i = 0; i < graph->inputs.count; i++) {
        const Node *node = graph_node(graph, graph->inputs.items[i]);
        inputs[i] = tensor_create(arena, resolved(arena, graph, node->types[0]));
        fill(graph, node, seed, limit, &inputs[i]);
    }
    return inputs;
}

static size_t find_input(const Graph *graph, const char *name, Role role) {
    Value value = graph_find_input(graph, name, role);
    for (size_t i = 0; i < graph->inputs.count; i++)
        if (graph->inputs.items[i] == value.node) return i;
    return graph->inputs.count;
}

// Inputs of `graph`, those that `from` has too being the same tensors.
static Tensor *carry_inputs(Arena *arena, const Graph *graph, uint64_t seed, const Graph *from,
                            const Tensor *tensors) {
    Tensor *inputs = prove_inputs(arena, graph, seed);
    for (size_t i = 0; i < graph->inputs.count; i++) {
        const Node *node = graph_node(graph, graph->inputs.items[i]);
        size_t at = find_input(from, attribute_text(node, ATTRIBUTE_name),
                               (Role)attribute_integer(node, ATTRIBUTE_role, ROLE_ARGUMENT));
        if (at < from->inputs.count && type_count(tensors[at].type) == type_count(inputs[i].type))
            inputs[i] = tensors[at];
    }
    return inputs;
}

static Tensor *run(Arena *arena, const Graph *graph, const Tensor *inputs) {
    Tensor *outputs = ARENA_ARRAY(arena, Tensor, graph->outputs.count + 1);
    return evaluate_graph(arena, graph, inputs, outputs) ? outputs : NULL;
}

static size_t find_output(const Graph *graph, const char *name) {
    for (size_t i = 0; i < graph->outputs.count; i++)
        if (strcmp(graph->outputs.items[i].name, name) == 0) return i;
    return graph->outputs.count;
}

// ---- Before and after ----

static bool same_output(const char *pass, const Graph *before, const char *name, const Tensor *a,
                        const Tensor *b, double tolerance) {
    Diagnostics *diagnostics = before->ir->diagnostics;
    Place place = graph_node(before, graph_find_output(before, name)->value.node)->place;
    if (!type_same_dimensions(a->type, b->type))
        return report_error(diagnostics, place, "E0516", "%s changed the type of output %s", pass, name);
    for (int64_t i = 0; i < type_count(a->type); i++) {
        double x = a->data[i], y = b->data[i];
        if (fabs(x - y) <= tolerance * (1 + fabs(x)) || (isnan(x) && isnan(y)) || x == y) continue;
        return report_error(diagnostics, place, "E0516",
                            "%s changed output %s: element %lld was %.9g and is %.9g", pass, name,
                            (long long)i, x, y);
    }
    return true;
}

static bool same_outputs(const char *pass, const Graph *before, const Graph *after, const Tensor *expected,
                         const Tensor *found, double tolerance) {
    for (size_t i = 0; i < before->outputs.count; i++) {
        const char *name = before->outputs.items[i].name;
        size_t at = find_output(after, name);
        if (at == after->outputs.count)
            return report_error(before->ir->diagnostics, NO_PLACE, "E0516", "%s dropped output %s", pass,
                                name);
        if (!same_output(pass, before, name, &expected[i], &found[at], tolerance)) return false;
    }
    return true;
}

bool prove_same(const char *pass, const Graph *before, const Graph *after, uint64_t seed, double tolerance) {
    Arena *arena = arena_create();  // tensors are many and need not outlive the proof
    Tensor *inputs = prove_inputs(arena, before, seed);
    const Tensor *expected = run(arena, before, inputs);
    const Tensor *found =
        expected ? run(arena, after, carry_inputs(arena, after, seed, before, inputs)) : NULL;
    bool same = expected && found && same_outputs(pass, before, after, expected, found, tolerance);
    arena_destroy(arena);
    return same;
}

// ---- Gradients ----

typedef struct Slopes {
    Arena *arena;
    const Graph *loss;
    Tensor *inputs;
    size_t output;
    Held held;  // what gradients take as given
    double tolerance, worst;
    int64_t samples;
} Slopes;

static bool run_loss(Slopes *slopes, double *loss) {
    Arena *arena = arena_create();
    Tensor *outputs = ARENA_ARRAY(arena, Tensor, slopes->loss->outputs.count + 1);
    bool good = evaluate_holding(arena, slopes->loss, slopes->inputs, outputs, &slopes->held);
    if (good) *loss = outputs[slopes->output].data[0];
    arena_destroy(arena);
    return good;
}

static bool loss_at(Slopes *slopes, size_t input, int64_t element, double value, double *loss) {
    double *at = &slopes->inputs[input].data[element], before = *at;
    *at = value;
    bool good = run_loss(slopes, loss);
    *at = before;
    return good;
}

// `start`: what the gradient input held.
static bool check_parameter(Slopes *slopes, size_t input, const Tensor *gradient, const Tensor *start,
                            double scale) {
    const Node *node = graph_node(slopes->loss, slopes->loss->inputs.items[input]);
    int64_t count = type_count(node->types[0]);
    int64_t stride = slopes->samples > 0 && count > slopes->samples ? count / slopes->samples : 1;
    for (int64_t i = 0; i < count; i += stride) {
        double at = slopes->inputs[input].data[i], step = 1e-5, above, below;
        if (!loss_at(slopes, input, i, at + step, &above) || !loss_at(slopes, input, i, at - step, &below))
            return false;
        double slope = scale * (above - below) / (2 * step), found = gradient->data[i] - start->data[i];
        double error = fabs(slope - found) / (1 + fabs(slope));
        if (!(error <= slopes->worst)) slopes->worst = error;
        if (error <= slopes->tolerance) continue;
        return report_error(slopes->loss->ir->diagnostics, node->place, "E0517",
                            "gradient of %s: element %lld is %.9g, the slope there is %.9g",
                            attribute_text(node, ATTRIBUTE_name), (long long)i, found, slope);
    }
    return true;
}

static bool check_gradients(Slopes *slopes, const Graph *accumulate, uint64_t seed) {
    const Graph *loss = slopes->loss;
    Tensor *inputs = carry_inputs(slopes->arena, accumulate, seed, loss, slopes->inputs);
    const Tensor *outputs = run(slopes->arena, accumulate, inputs);
    if (!outputs) return false;
    size_t scale = find_input(accumulate, "loss_scale", ROLE_SCALAR);
    for (size_t i = 0; i < loss->inputs.count; i++) {
        const Node *node = graph_node(loss, loss->inputs.items[i]);
        if (attribute_integer(node, ATTRIBUTE_role, ROLE_ARGUMENT) != ROLE_PARAMETER) continue;
        const char *name = attribute_text(node, ATTRIBUTE_name);
        size_t output = find_output(accumulate, state_output_name(loss->ir, ROLE_GRADIENT, name));
        size_t start = find_input(accumulate, name, ROLE_GRADIENT);
        if (output == accumulate->outputs.count || start == accumulate->inputs.count)
            return report_error(loss->ir->diagnostics, node->place, "E0517", "graph %s has no gradient of %s",
                                accumulate->name, name);
        if (!check_parameter(slopes, i, &outputs[output], &inputs[start],
                             scale < accumulate->inputs.count ? inputs[scale].data[0] : 1))
            return false;
    }
    return true;
}

bool prove_gradients(const Graph *loss, const Graph *accumulate, uint64_t seed, int64_t samples,
                     double tolerance, double *worst) {
    size_t output = find_output(loss, "loss");
    if (output == loss->outputs.count)
        return report_error(loss->ir->diagnostics, NO_PLACE, "E0515", "graph %s has no output loss",
                            loss->name);
    Slopes slopes = {
        .arena = arena_create(), .loss = loss, .output = output, .tolerance = tolerance, .samples = samples};
    slopes.inputs = prove_inputs(slopes.arena, loss, seed);
    slopes.held.arena = slopes.arena;
    double here;
    bool right = run_loss(&slopes, &here) && check_gradients(&slopes, accumulate, seed);
    if (worst) *worst = slopes.worst;
    arena_destroy(slopes.arena);
    return right;
}

// ---- Modules ----

enum { GRADIENT_SAMPLES = 24 };  // of each parameter

static bool prove_entry(const char *pass, const Graph *before, const Module *after, uint64_t seed,
                        double tolerance) {
    Graph *same = module_find_graph(after, before->name);
    if (same) return same == before || prove_same(pass, before, same, seed, tolerance);
    Graph *accumulate = module_find_graph(after, "accumulate");
    if (strcmp(before->name, "loss") != 0 || !accumulate) return true;  // made into something of another kind
    return prove_same(pass, before, accumulate, seed, tolerance) &&
           prove_gradients(before, accumulate, seed, GRADIENT_SAMPLES, 1e-5, NULL);
}

// ---- Module passes: another model, with the weights that its transfer gives it ----

// Options with which a pass makes a model of the same values.
static const struct Proof {
    const char *pass, *option, *value;
} proofs[] = {
    {"average-layers", "to", "0"},
    {"average-layers", "groups", "none"},
    {"average-layers", "method", "stepwise"},
    {"average-layers", "weights", "none"},
    {"unroll-recurrent", "start", "skip"},
    {"add-heads", "weight", "0"},
    {"unroll-recurrent", "learn", "gate+step+adapter"},
    {"fuse-experts", "balance", "0"},
};

static PassRequest *proof_request(PassContext *context, const PassRequest *request) {
    Arena *arena = context->ir->arena;
    PassRequest *proof = ARENA_NEW(arena, PassRequest);
    *proof = *request;
    proof->options = ARENA_ARRAY(arena, PassOption, request->option_count + 1);
    for (uint32_t i = 0; i < request->option_count; i++) {
        proof->options[i] = request->options[i];
        for (size_t p = 0; p < sizeof proofs / sizeof *proofs; p++)
            if (strcmp(proofs[p].pass, request->pass->name) == 0 &&
                strcmp(proofs[p].option, request->options[i].name) == 0) {
                proof->options[i].text = names_intern(context->ir->names, proofs[p].value);
                proof->options[i].number = strtod(proofs[p].value, NULL);
            }
    }
    return proof;
}

// The parameters of `after` from those of `before`.
static bool transfer_inputs(Arena *arena, const Module *result, const Graph *before, const Tensor *inputs,
                            const Graph *after, Tensor *after_inputs, uint64_t seed) {
    const Graph *transfer = result->transfer;
    Tensor *given = prove_inputs(arena, transfer, seed);
    for (size_t i = 0; i < transfer->inputs.count; i++) {
        const Node *node = graph_node(transfer, transfer->inputs.items[i]);
        const char *name = attribute_text(node, ATTRIBUTE_name), *path = name;
        bool numbered = result->sources.count > 1 &&
                        attribute_integer(node, ATTRIBUTE_role, ROLE_ARGUMENT) == ROLE_FROZEN;
        if (numbered) path = strchr(name, '.') + 1;  // all are the one module
        size_t at = find_input(before, path, ROLE_PARAMETER);
        if (at < before->inputs.count) given[i] = inputs[at];
    }
    const Tensor *made = run(arena, transfer, given);
    for (size_t i = 0; made && i < after->inputs.count; i++) {
        const Node *node = graph_node(after, after->inputs.items[i]);
        if (attribute_integer(node, ATTRIBUTE_role, ROLE_ARGUMENT) != ROLE_PARAMETER) continue;
        size_t at = find_output(transfer, attribute_text(node, ATTRIBUTE_name));
        if (at < transfer->outputs.count) after_inputs[i] = made[at];
    }
    return made != NULL;
}

static bool prove_transferred(const char *pass, const Graph *before, const Module *result, uint64_t seed,
                              double tolerance) {
    const Graph *after = module_find_graph(result, before->name);
    if (!after)
        return report_error(before->ir->diagnostics, NO_PLACE, "E0516", "%s dropped graph %s", pass,
                            before->name);
    Arena *arena = arena_create();
    Tensor *inputs = prove_inputs(arena, before, seed);
    Tensor *after_inputs = carry_inputs(arena, after, seed, before, inputs);
    const Tensor *expected = run(arena, before, inputs), *found = NULL;
    if (expected && transfer_inputs(arena, result, before, inputs, after, after_inputs, seed))
        found = run(arena, after, after_inputs);
    bool same = found && same_outputs(pass, before, after, expected, found, tolerance);
    arena_destroy(arena);
    return same;
}

// The pass with the options under which it keeps every value. Of an expert or a head random numbers are its own, so that
// with dropout it is evaluation that is held against evaluation.
static bool prove_module_pass(PassContext *context, const PassRequest *request, const Module *module,
                              uint64_t seed, double tolerance) {
    const Module *result = pass_run_module_request(context, proof_request(context, request), module);
    for (size_t g = 0; result && g < module->graphs.count; g++)
        if (module_is_entry(module, module->graphs.items[g]) && !graph_draws_random(module->graphs.items[g]) &&
            !prove_transferred(request->pass->name, module->graphs.items[g], result, seed, tolerance))
            return false;
    return result != NULL;
}

static bool prove_graphs(const PassRequest *request, const Module *before, const Module *after, uint64_t seed,
                         double tolerance) {
    for (size_t g = 0; g < before->graphs.count; g++)
        if (module_is_entry(before, before->graphs.items[g]) &&
            !prove_entry(request->pass->name, before->graphs.items[g], after, seed, tolerance))
            return false;
    return true;
}

Module *prove_passes(PassContext *context, const char *passes, const Module *module, uint64_t seed,
                     double tolerance) {
    PassRequest *requests;
    uint32_t count;
    if (!pass_parse(context->ir, passes, &requests, &count)) return NULL;
    Module *result = NULL;
    for (uint32_t i = 0; i < count; i++) {
        result = pass_run_module_request(context, &requests[i], module);
        if (!result) return NULL;
        bool transferred = result->transfer && result->transfer != module->transfer;
        if (transferred ? !prove_module_pass(context, &requests[i], module, seed, tolerance)
                        : !prove_graphs(&requests[i], module, result, seed, tolerance))
            return NULL;
        module = result;
    }
    return result;
}
