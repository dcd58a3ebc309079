// The gradients come from `accumulate`, run twice: with the mask and with its complement. Layers are untied,
// so that each run of a shared layer has a gradient of its own; their sum is the gradient of the shared
// layer.
#include "driver/coupling.h"

#include <math.h>
#include <string.h>

#include "driver/transfer.h"
#include "passes/module_pass.h"
#include "runtime/checkpoint.h"
#include "runtime/memory.h"

typedef struct LayoutStack {
    const char *name;
    const Graph *graph;
    const Node *node;  // as the model has it, tied
    const StackEntry *entries;
    uint32_t count;
    int64_t layers;
    size_t first_layer, rows, first_entry;  // figures; rows SIZE_MAX: it has none
} LayoutStack;

typedef struct CouplingLayout {
    VECTOR(LayoutStack) stacks;
    MemoryBlock kept;  // the supervised gradients, parameter by parameter
} CouplingLayout;

// ---- Figures ----

void coupling_add(CouplingFigure *figure, const float *supervised, const float *unsupervised, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        double s = (double)supervised[i], u = (double)unsupervised[i];
        figure->supervised += s * s;
        figure->unsupervised += u * u;
        figure->both += s * u;
    }
}

double coupling_close(CouplingFigure *figure) {
    double norms = sqrt(figure->supervised) * sqrt(figure->unsupervised);
    double gamma = norms > 0 ? figure->both / norms : (double)NAN;
    if (isfinite(gamma)) {
        double difference = gamma - figure->mean;
        figure->mean += difference / (double)++figure->count;
        figure->squares += difference * (gamma - figure->mean);
    }
    figure->supervised = figure->unsupervised = figure->both = 0;
    return gamma;
}

double coupling_deviation(const CouplingFigure *figure) {
    return figure->count > 1 ? sqrt(figure->squares / (double)(figure->count - 1)) : (double)NAN;
}

// ---- Layout ----

static void find_stacks(CouplingLayout *layout, const Graph *graph) {
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        if (node->op != OP_stack) continue;
        const Attribute *entries = attribute_find(node, ATTRIBUTE_entries);
        LayoutStack stack = {.name = attribute_text(node, ATTRIBUTE_name),
                             .graph = graph,
                             .node = node,
                             .entries = entries->entries,
                             .count = entries->count,
                             .layers = stack_layers(graph, node)};
        bool known = false;  // a stack may be used twice: its runs are then those of both
        for (size_t i = 0; i < layout->stacks.count; i++) known |= layout->stacks.items[i].name == stack.name;
        if (!known) vector_push(graph->ir->arena, &layout->stacks, stack);
    }
}

static size_t add_figure(Coupling *coupling, CouplingFigure figure) {
    vector_push(coupling->runner->ir->arena, &coupling->figures, figure);
    return coupling->figures.count - 1;
}

static bool has_rows(const LayoutStack *stack) {
    for (uint32_t i = stack_first_stacked(stack->node); i < stack->node->operand_count; i++)
        if (strcmp(graph_type(stack->graph, stack->node->operands[i])->dimensions[0].name, "layer") != 0)
            return true;
    return false;
}

// The stack whose parameter is called `path`, or NULL.
static const LayoutStack *stack_of(const CouplingLayout *layout, const char *path) {
    for (size_t i = 0; i < layout->stacks.count; i++) {
        const LayoutStack *stack = &layout->stacks.items[i];
        size_t length = strlen(stack->name);
        if (strncmp(path, stack->name, length) == 0 && path[length] == '.') return stack;
    }
    return NULL;
}

static void make_figures(Coupling *coupling) {
    CouplingLayout *layout = coupling->layout;
    const State *state = coupling->runner->state;
    for (int part = COUPLING_WHOLE; part <= COUPLING_STACKS; part++)
        add_figure(coupling, (CouplingFigure){.part = (CouplingPart)part});
    for (size_t i = 0; i < state_count(state); i++) {
        const StateBuffer *buffer = state_buffer(state, i);
        if (buffer->role == ROLE_GRADIENT && !stack_of(layout, buffer->name))
            add_figure(coupling, (CouplingFigure){.part = COUPLING_PARAMETER, .name = buffer->name});
    }
    for (size_t s = 0; s < layout->stacks.count; s++) {
        LayoutStack *stack = &layout->stacks.items[s];
        stack->first_layer = coupling->figures.count;
        stack->rows = SIZE_MAX;
        for (int32_t i = 0; i < stack->layers; i++)
            add_figure(coupling, (CouplingFigure){.part = COUPLING_LAYER, .name = stack->name, .layer = i});
        if (has_rows(stack))
            stack->rows = add_figure(coupling, (CouplingFigure){.part = COUPLING_ROWS, .name = stack->name});
    }
    for (size_t s = 0; s < layout->stacks.count; s++) {
        LayoutStack *stack = &layout->stacks.items[s];
        stack->first_entry = coupling->figures.count;
        for (uint32_t i = 0; i < stack->count; i++)
            add_figure(coupling, (CouplingFigure){.part = COUPLING_ITERATION,
                                                  .name = stack->name,
                                                  .layer = stack->entries[i].layer,
                                                  .entry = (int32_t)i,
                                                  .iteration = stack->entries[i].iteration});
    }
}

static const Module *untie(Ir *ir, const Module *module, const CouplingLayout *layout) {
    PassContext context = {.ir = ir, .module = module, .has_kernel = cpu_has_kernel};
    for (size_t i = 0; i < layout->stacks.count && module; i++) {
        const LayoutStack *stack = &layout->stacks.items[i];
        if (stack_is_straight(stack->graph, stack->node)) continue;
        PassRequest *request;
        uint32_t count;
        if (!pass_parse(ir, arena_format(ir->arena, "untie-layers{stack=%s}", stack->name), &request, &count))
            return NULL;
        module = pass_run_module_request(&context, request, module);
    }
    return module;
}

static int64_t gradient_bytes(const Coupling *coupling) {
    int64_t bytes = 0;
    for (size_t i = 0; i < state_count(coupling->runner->state); i++)
        if (state_buffer(coupling->runner->state, i)->role == ROLE_GRADIENT)
            bytes += state_buffer(coupling->runner->state, i)->bytes;
    return bytes;
}

static bool start(Coupling *coupling, const TransferSource *source) {
    Runner *runner = coupling->runner;
    Diagnostics *diagnostics = runner->ir->diagnostics;
    if (!memory_allocate(diagnostics, gradient_bytes(coupling), "a second gradient",
                         &coupling->layout->kept) ||
        !checkpoint_load_frozen(diagnostics, source->path, source->module, runner->state, source->prefix))
        return false;
    runner_set_integer(runner, ENTRY_TRANSFER, "seed", 1);
    runner_run(runner, ENTRY_TRANSFER);
    runner_set_float(runner, ENTRY_ACCUMULATE, "loss_scale", 1);
    runner_set_integer(runner, ENTRY_ACCUMULATE, "seed", 1);
    return true;
}

Coupling *coupling_create(Ir *ir, const Module *module, const char *weights, const CompileOptions *options,
                          int threads) {
    TransferSource source = {.path = weights, .module = module, .prefix = names_intern(ir->names, "0.")};
    if (!checkpoint_load_frozen(ir->diagnostics, weights, module, NULL, source.prefix)) return NULL;
    Coupling *coupling = ARENA_NEW(ir->arena, Coupling);
    coupling->layout = ARENA_NEW(ir->arena, CouplingLayout);
    find_stacks(coupling->layout, module_find_graph(module, "loss"));
    const Module *untied = untie(ir, module, coupling->layout);
    if (!untied) return NULL;
    CompileOptions with_transfer = *options;
    with_transfer.transfer = transfer_graph(untied, &source, 1);
    coupling->runner =
        runner_create(ir, untied, 1u << ENTRY_TRANSFER | 1u << ENTRY_ACCUMULATE, &with_transfer, threads);
    if (coupling->runner && start(coupling, &source)) {
        make_figures(coupling);
        return coupling;
    }
    coupling_destroy(coupling);
    return NULL;
}

void coupling_destroy(Coupling *coupling) {
    if (!coupling) return;
    memory_release(&coupling->layout->kept);
    runner_destroy(coupling->runner);
}

// ---- One batch ----

// The gradients of the mean loss where `supervised` says.
static void run(Coupling *coupling) {
    state_clear(coupling->runner->state, ROLE_GRADIENT);
    runner_run(coupling->runner, ENTRY_ACCUMULATE);
    state_download(coupling->runner->state, ROLE_GRADIENT);
}

static void keep(Coupling *coupling) {
    const State *state = coupling->runner->state;
    char *to = coupling->layout->kept.data;
    for (size_t i = 0; i < state_count(state); i++) {
        const StateBuffer *buffer = state_buffer(state, i);
        if (buffer->role != ROLE_GRADIENT) continue;
        memcpy(to, buffer->data, (size_t)buffer->bytes);
        to += buffer->bytes;
    }
}

static void add_sums(CouplingFigure *to, const CouplingFigure *from) {
    to->supervised += from->supervised;
    to->unsupervised += from->unsupervised;
    to->both += from->both;
}

// One element of a shared layer: the sum over the runs of the layer.
static void add_tied(CouplingFigure *figure, const LayoutStack *stack, int64_t layer, const float *supervised,
                     const float *unsupervised, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        double s = 0, u = 0;
        for (uint32_t entry = 0; entry < stack->count; entry++) {
            if (stack->entries[entry].layer != layer) continue;
            s += (double)supervised[entry * count + i];
            u += (double)unsupervised[entry * count + i];
        }
        figure->supervised += s * s;
        figure->unsupervised += u * u;
        figure->both += s * u;
    }
}

static void add_stored(Coupling *coupling, const LayoutStack *stack, const float *supervised,
                       const float *unsupervised, int64_t elements) {
    CouplingFigure *figures = coupling->figures.items;
    int64_t count = elements / stack->count;
    for (int64_t layer = 0; layer < stack->layers; layer++) {
        CouplingFigure sums = {0};
        add_tied(&sums, stack, layer, supervised, unsupervised, count);
        add_sums(&figures[stack->first_layer + (size_t)layer], &sums);
        add_sums(&figures[COUPLING_STACKS], &sums);
        add_sums(&figures[COUPLING_WHOLE], &sums);
    }
    for (int64_t entry = 0; entry < stack->count; entry++)
        coupling_add(&figures[stack->first_entry + (size_t)entry], supervised + entry * count,
                     unsupervised + entry * count, count);
}

static void add_parameter(Coupling *coupling, const StateBuffer *buffer, const float *supervised) {
    const float *unsupervised = (const float *)(const void *)buffer->data;
    const LayoutStack *stack = stack_of(coupling->layout, buffer->name);
    int64_t count = type_count(buffer->type);
    CouplingFigure *figures = coupling->figures.items, sums = {0};
    if (stack && stack_stores(stack->graph, stack->node, buffer->name)) {
        add_stored(coupling, stack, supervised, unsupervised, count);
        return;
    }
    coupling_add(&sums, supervised, unsupervised, count);
    add_sums(&figures[COUPLING_WHOLE], &sums);
    add_sums(&figures[stack ? COUPLING_STACKS : COUPLING_OUTSIDE], &sums);
    if (stack && stack->rows != SIZE_MAX) add_sums(&figures[stack->rows], &sums);
    for (size_t i = 0; i < coupling->figures.count; i++)
        if (figures[i].part == COUPLING_PARAMETER && strcmp(figures[i].name, buffer->name) == 0)
            add_sums(&figures[i], &sums);
}

void coupling_measure(Coupling *coupling) {
    Runner *runner = coupling->runner;
    const Graph *graph = module_find_graph(runner->module, "loss");
    Value input = graph_find_input(graph, names_intern(runner->ir->names, "supervised"), ROLE_DATA);
    bool *mask = executor_input(runner->executors[ENTRY_ACCUMULATE], "supervised");
    int64_t count = type_count(graph_type(graph, input)), chosen = 0;
    for (int64_t i = 0; i < count; i++) chosen += mask[i];
    coupling->batches++;
    coupling->supervised += (double)chosen;
    coupling->positions += (double)count;
    if (chosen == 0 || chosen == count) {
        coupling->skipped++;
        return;
    }
    run(coupling);
    keep(coupling);
    for (int64_t i = 0; i < count; i++) mask[i] = !mask[i];
    run(coupling);
    const char *kept = coupling->layout->kept.data;
    for (size_t i = 0; i < state_count(runner->state); i++) {
        const StateBuffer *buffer = state_buffer(runner->state, i);
        if (buffer->role != ROLE_GRADIENT) continue;
        add_parameter(coupling, buffer, (const float *)(const void *)kept);
        kept += buffer->bytes;
    }
    for (size_t i = 0; i < coupling->figures.count; i++) coupling_close(&coupling->figures.items[i]);
}
