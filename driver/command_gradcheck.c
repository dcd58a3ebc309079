// cherry gradcheck: gradients of a model against finite differences in the reference evaluator (double
// precision), and the back end's loss and gradients against the reference. The model is built small (every
// dim at most 8), so that a whole check takes seconds.
// Rounding has no derivative: with precision = bf16 it is the unrounded gradients that are held against differences,
// the back end's against the reference's of the very graph that it runs, and that graph's against the unrounded.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "driver/commands.h"
#include "driver/runner.h"
#include "driver/setup.h"
#include "ir/evaluate.h"
#include "ir/input_limit.h"
#include "passes/pass.h"

static const double difference_limit = 1e-5;  // of analytic against numeric directional derivatives
static const double backend_limit = 1e-4;     // of f32 against the reference
// Attention rounds its weights and the gradients of scores where the machine multiplies bf16, at other places than any
// reference could; a sum that lies between two bf16 numbers may round the other way. So it may be as far off again as
// all other rounding moves a gradient.
static const double rounded_limit = 2e-2;     // of bf16 against the reference, or
static const double rounded_share = 2;        // so many times what rounding moves the reference itself
static const double precision_limit = 0.05;   // of rounded against unrounded gradients
static const double step_size = 1e-5;
static const double smallest_share = 1e-3;    // a parameter's gradient less than this of all is measured against that
static const char shrunk_hint[] =
    "gradcheck makes every dim at most 8; those that --set gives, or with --full all, stay as they are";

// The loss graph and its gradient graph, with one set of inputs for both.
typedef struct Problem {
    Ir *ir;
    const Module *module;
    const Graph *loss;      // parameters and data -> loss
    const Graph *gradient;  // also gradients
    Tensor *loss_inputs, *gradient_inputs;
    Held *held;  // what gradients take as given
} Problem;

static double uniform(uint64_t seed, uint64_t counter) {
    return (double)(hash_word(hash_word(HASH_START, seed), counter) >> 11) * 0x1p-52 - 1;
}

static void fill_data(const Graph *graph, Value input, Tensor tensor, uint64_t seed) {
    int64_t limit = input_limit(graph, input);
    Element element = tensor.type->element;
    for (int64_t i = 0; i < type_count(tensor.type); i++) {
        double value = uniform(seed, (uint64_t)i);
        if (element == ELEMENT_BOOL) value = value > 0;
        if (element_is_integer(element))
            value = floor((value + 1) / 2 * (double)(limit < (1 << 30) ? limit : 2));
        tensor.data[i] = value;
    }
}

// Parameters as the model starts them, moved a little so that nothing is exactly zero or one.
static bool fill_parameter(const Problem *problem, const Node *node, Tensor tensor, uint64_t seed) {
    const Parameter *parameter = module_find_parameter(problem->module, attribute_text(node, ATTRIBUTE_name));
    Tensor seed_tensor = tensor_create(problem->ir->arena, type_scalar(problem->ir, ELEMENT_I64)), first;
    seed_tensor.data[0] = (double)seed;
    if (!parameter->initialize) {  // read from a file that need not be there
        for (int64_t i = 0; i < type_count(tensor.type); i++)
            tensor.data[i] = 0.2 * uniform(seed, (uint64_t)i);
        return true;
    }
    if (!evaluate_graph(problem->ir->arena, parameter->initialize, &seed_tensor, &first)) return false;
    for (int64_t i = 0; i < type_count(tensor.type); i++)
        tensor.data[i] = first.data[i] + 0.05 * uniform(seed + 1, (uint64_t)i);
    return true;
}

static bool fill_inputs(const Problem *problem, const Graph *graph, Tensor **tensors) {
    *tensors = ARENA_ARRAY(problem->ir->arena, Tensor, graph->inputs.count);
    for (size_t i = 0; i < graph->inputs.count; i++) {
        Value input = {graph->inputs.items[i], 0};
        const Node *node = graph_node(graph, input.node);
        const char *name = attribute_text(node, ATTRIBUTE_name);
        Role role = (Role)attribute_integer(node, ATTRIBUTE_role, 0);
        Tensor tensor = (*tensors)[i] = tensor_create(problem->ir->arena, node->types[0]);
        uint64_t seed = hash_text(HASH_START, name);  // equal names get equal values in both graphs
        if (role == ROLE_DATA) fill_data(graph, input, tensor, seed);
        if (role == ROLE_SCALAR) tensor.data[0] = 1;
        bool weight = role == ROLE_PARAMETER || role == ROLE_FROZEN;
        if (weight && !fill_parameter(problem, node, tensor, seed >> 12)) return false;
    }
    return true;
}

static bool prepare(Problem *problem) {
    Ir *ir = problem->ir;
    PassContext context = {.ir = ir, .module = problem->module, .verify = true};
    const Graph *loss = module_find_graph(problem->module, "loss");
    if (!loss)
        return report_error(ir->diagnostics, NO_PLACE, "E0907", "%s has no objective to differentiate",
                            problem->module->name);
    problem->loss = pass_run(&context, "expand-stacks", loss);
    problem->gradient = pass_run(&context, "gradient", problem->loss);
    return problem->gradient && fill_inputs(problem, problem->loss, &problem->loss_inputs) &&
           fill_inputs(problem, problem->gradient, &problem->gradient_inputs);
}

static size_t output_index(const Graph *graph, const char *name) {
    for (size_t i = 0; i < graph->outputs.count; i++)
        if (strcmp(graph->outputs.items[i].name, name) == 0) return i;
    return SIZE_MAX;
}

static size_t input_index(const Graph *graph, const char *name, Role role) {
    Value value = graph_find_input(graph, name, role);
    for (size_t i = 0; i < graph->inputs.count; i++)
        if (graph->inputs.items[i] == value.node) return i;
    return SIZE_MAX;
}

static bool loss_at(const Problem *problem, double *loss) {
    Arena *arena = arena_create();
    Tensor *outputs = ARENA_ARRAY(arena, Tensor, problem->loss->outputs.count);
    bool good = evaluate_holding(arena, problem->loss, problem->loss_inputs, outputs, problem->held);
    if (good) *loss = outputs[output_index(problem->loss, "loss")].data[0];
    arena_destroy(arena);
    return good;
}

// Moves one parameter along a fixed random direction and returns the central difference of the loss.
static bool difference(const Problem *problem, Tensor parameter, uint64_t seed, double *derivative) {
    int64_t count = type_count(parameter.type);
    double plus, minus;
    for (int64_t i = 0; i < count; i++) parameter.data[i] += step_size * uniform(seed, (uint64_t)i);
    bool good = loss_at(problem, &plus);
    for (int64_t i = 0; i < count; i++) parameter.data[i] -= 2 * step_size * uniform(seed, (uint64_t)i);
    good = good && loss_at(problem, &minus);
    for (int64_t i = 0; i < count; i++) parameter.data[i] += step_size * uniform(seed, (uint64_t)i);
    if (good) *derivative = (plus - minus) / (2 * step_size);
    return good;
}

static double norm(const double *values, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += values[i] * values[i];
    return sqrt(sum);
}

static bool is_zero(Tensor tensor) {
    for (int64_t i = 0; i < type_count(tensor.type); i++)
        if (tensor.data[i] != 0) return false;
    return true;
}

static Tensor gradient_of(const Problem *problem, const Graph *graph, const Tensor *outputs, const Parameter *parameter) {
    return outputs[output_index(graph, state_output_name(problem->ir, ROLE_GRADIENT, parameter->path))];
}

// What counts as nothing: some gradients are sums that cancel (of a bias of keys, or of all keys where a token sees but
// itself), and of those rounding leaves anything.
static double smallest_norm(const Problem *problem, const Graph *graph, const Tensor *outputs, double share) {
    double sum = 0;
    for (size_t p = 0; p < problem->module->parameters.count; p++) {
        const Parameter *parameter = &problem->module->parameters.items[p];
        if (parameter->file) continue;
        sum += pow(norm(gradient_of(problem, graph, outputs, parameter).data, type_count(parameter->type)), 2);
    }
    return fmax(1e-6, share * sqrt(sum));
}

// The relative error of <gradient, direction>, measured against the size that such a product can have.
static bool check_parameter(const Problem *problem, const Parameter *parameter, const Tensor *gradients,
                            double smallest, double *error) {
    const Tensor gradient = gradient_of(problem, problem->gradient, gradients, parameter);
    Tensor value = problem->loss_inputs[input_index(problem->loss, parameter->path, ROLE_PARAMETER)];
    uint64_t seed = hash_text(HASH_START + 1, parameter->path);
    int64_t count = type_count(value.type);
    double numeric = 0, analytic = 0;
    for (int64_t i = 0; i < count; i++) analytic += gradient.data[i] * uniform(seed, (uint64_t)i);
    if (!difference(problem, value, seed, &numeric)) return false;
    double scale = fmax(norm(gradient.data, count), smallest) / sqrt(3);  // what a uniform direction gives on average
    *error = fabs(analytic - numeric) / scale;
    return true;
}

// Loss and gradients of one computation: relative distances, of the gradients the worst parameter's.
typedef struct Distance {
    double loss, gradients;
} Distance;

// Of `outputs` of `graph` from what `found` says, which is NULL for what it lacks.
static Distance distance_of(const Problem *problem, const Graph *graph, const Tensor *outputs, double loss,
                            const double *(*found)(void *data, const char *path), void *data) {
    double expected = outputs[output_index(graph, "loss")].data[0];
    Distance distance = {.loss = fabs(loss - expected) / fmax(fabs(expected), 1e-3)};
    double share = module_precision(problem->module) == ELEMENT_BF16 ? 0.02 : smallest_share;
    double smallest = smallest_norm(problem, graph, outputs, share);
    for (size_t p = 0; p < problem->module->parameters.count; p++) {
        const Parameter *parameter = &problem->module->parameters.items[p];
        if (parameter->file) continue;
        Tensor tensor = gradient_of(problem, graph, outputs, parameter);
        const double *got = found(data, parameter->path);
        if (!got) continue;
        int64_t count = type_count(parameter->type);
        double sum = 0, scale = norm(tensor.data, count);
        for (int64_t i = 0; i < count; i++) sum += pow(got[i] - tensor.data[i], 2);
        double error = sqrt(sum) / fmax(scale, smallest);
        if (!(error <= distance.gradients)) distance.gradients = error;
    }
    return distance;
}

typedef struct Outputs {
    Ir *ir;
    const Graph *graph;
    const Tensor *tensors;
} Outputs;

static const double *gradient_in_outputs(void *data, const char *path) {
    const Outputs *outputs = data;
    return outputs->tensors[output_index(outputs->graph, state_output_name(outputs->ir, ROLE_GRADIENT, path))].data;
}

static const double *gradient_in_runner(void *data, const char *path) {
    const Runner *runner = data;
    const StateBuffer *buffer = state_find(runner->state, path, ROLE_GRADIENT);
    if (!buffer) return NULL;
    Tensor tensor = tensor_create(runner->ir->arena, buffer->type);
    state_download(runner->state, ROLE_GRADIENT);
    tensor_load(tensor, buffer->data);
    return tensor.data;
}

// Keeps the graph that the back end's program is made of.
static void keep_graph(void *data, Entry entry, const char *stage, const Graph *graph, const Program *program) {
    (void)stage, (void)program;
    if (graph && entry == ENTRY_ACCUMULATE) *(const Graph **)data = graph;
}

static Runner *start_backend(const Arguments *arguments, const Problem *problem, const Graph **final) {
    CompileOptions options;
    Observer observer = {.stage = keep_graph, .data = final};
    int threads = setup_threads(arguments, problem->ir);
    if (!threads || !setup_options(arguments, problem->ir, &options)) return NULL;
    options.verify = true;
    options.observer = &observer;
    return runner_create(problem->ir, problem->module, 1u << ENTRY_ACCUMULATE, &options, threads);
}

static void run_backend(Runner *runner, const Problem *problem) {
    const Graph *graph = problem->gradient;
    for (size_t i = 0; i < graph->inputs.count; i++) {
        const Node *node = graph_node(graph, graph->inputs.items[i]);
        Role role = (Role)attribute_integer(node, ATTRIBUTE_role, 0);
        const char *name = attribute_text(node, ATTRIBUTE_name);
        void *data = role_is_state(role) ? state_data(runner->state, name, role)
                                         : executor_input(runner->executors[ENTRY_ACCUMULATE], name);
        if (data) tensor_store(problem->gradient_inputs[i], data);
    }
    for (int role = 0; role < ROLE_COUNT; role++)
        if (role_is_state((Role)role)) state_upload(runner->state, (Role)role);
    runner_run(runner, ENTRY_ACCUMULATE);
}

static bool judge(Ir *ir, const char *what, double error, double limit) {
    if (error <= limit) return true;
    return report_error(ir->diagnostics, NO_PLACE, "E0915", "%s is off by %.3g, the limit is %.0e", what,
                        error, limit);
}

// `exact`: what the reference says without rounding.
static bool check_backend(const Arguments *arguments, const Problem *problem, const Tensor *exact) {
    Ir *ir = problem->ir;
    const Graph *final = NULL;
    Runner *runner = start_backend(arguments, problem, &final);
    if (!runner) return false;
    run_backend(runner, problem);
    double loss = runner_output(runner, ENTRY_ACCUMULATE, "loss"), loss_limit = backend_limit, limit = backend_limit;
    Outputs reference = {ir, problem->gradient, exact};
    bool good = true;
    if (module_precision(problem->module) == ELEMENT_BF16) {
        Tensor *inputs, *outputs = ARENA_ARRAY(ir->arena, Tensor, final->outputs.count);
        good = fill_inputs(problem, final, &inputs) && evaluate_graph(ir->arena, final, inputs, outputs);
        if (!good) {
            runner_destroy(runner);
            return false;
        }
        reference = (Outputs){ir, final, outputs};
        Distance rounding = distance_of(problem, problem->gradient, exact, outputs[output_index(final, "loss")].data[0],
                                        gradient_in_outputs, &reference);
        printf("bf16 against f32: loss %.2g, gradients %.2g\n", rounding.loss, rounding.gradients);
        good = judge(ir, "the worst of the rounded gradients", rounding.gradients, precision_limit);
        loss_limit = rounded_limit;
        limit = fmax(rounded_limit, rounded_share * fmin(rounding.gradients, precision_limit));
    }
    const char *name = runner->device ? "cuda" : "cpu";
    Distance found = distance_of(problem, reference.graph, reference.tensors, loss, gradient_in_runner, runner);
    printf("%s against the reference: loss %.2g, gradients %.2g\n", name, found.loss, found.gradients);
    good &= runner_works(runner);
    good &= judge(ir, arena_format(ir->arena, "the loss (%s)", name), found.loss, loss_limit);
    good &= judge(ir, arena_format(ir->arena, "the worst of the gradients (%s)", name), found.gradients, limit);
    runner_destroy(runner);
    return good;
}

static bool check(const Arguments *arguments, Problem *problem) {
    Ir *ir = problem->ir;
    Tensor *outputs = ARENA_ARRAY(ir->arena, Tensor, problem->gradient->outputs.count);
    if (!evaluate_graph(ir->arena, problem->gradient, problem->gradient_inputs, outputs)) return false;
    bool good = true;
    size_t checked = 0;
    Held held = {.arena = ir->arena};
    problem->held = &held;
    double here;
    if (!loss_at(problem, &here)) return false;
    double worst = 0, error = 0, smallest = smallest_norm(problem, problem->gradient, outputs, smallest_share);
    size_t zeros = 0;
    for (size_t i = 0; i < problem->module->parameters.count; i++) {
        const Parameter *parameter = &problem->module->parameters.items[i];
        if (parameter->file) continue;
        checked++;
        zeros += is_zero(gradient_of(problem, problem->gradient, outputs, parameter));
        if (!check_parameter(problem, parameter, outputs, smallest, &error)) return false;
        good &= judge(ir, arena_format(ir->arena, "the gradient of %s", parameter->path), error,
                      difference_limit);
        if (error > worst) worst = error;
    }
    if (checked && zeros == checked) {
        report_error(ir->diagnostics, NO_PLACE, "E0915", "all gradients are zero: nothing was checked");
        if (!arguments_flag(arguments, "--full")) report_hint(ir->diagnostics, "%s", shrunk_hint);
        return false;
    }
    printf("gradients of %zu parameters against finite differences: worst %.2g%s\n", checked, worst,
           zeros ? arena_format(ir->arena, " (%zu zero)", zeros) : "");
    return check_backend(arguments, problem, outputs) && good;
}

// A size that the file counts on, such as the index of a slice.
static bool loads_whole(const Arguments *arguments) {
    Arena *arena = arena_create();
    bool loads = setup_load(arguments, ir_create(arena), false) != NULL;
    arena_destroy(arena);
    return loads;
}

static int run(const Arguments *arguments, Ir *ir) {
    bool full = arguments_flag(arguments, "--full");
    Module *module = setup_load(arguments, ir, !full);
    if (!module && !full && loads_whole(arguments))
        report_hint(ir->diagnostics, "the model as it is written has no such fault: %s", shrunk_hint);
    Problem problem = {.ir = ir, .module = module};
    return module && prepare(&problem) && check(arguments, &problem) ? EXIT_OK : EXIT_USER_ERROR;
}

static const CommandOption options[] = {{"--full", NULL, "the model at its own size, not shrunk (slow)"},
                                        MODEL_OPTIONS,
                                        COMPILE_OPTIONS,
                                        {NULL, NULL, NULL}};

const Command command_gradcheck = {
    "gradcheck", "FILE", "gradients against finite differences, back end against reference", options, run};
