#include "driver/compile.h"

#include <string.h>

#include "base/thread.h"
#include "codegen/cuda.h"
#include "passes/panel_rounded.h"
#include "passes/pass.h"
#include "passes/program_passes.h"

#define FOR(entry) (1u << ENTRY_##entry)
#define TRAINING (FOR(ACCUMULATE) | FOR(UPDATE))
#define GENERATION (FOR(PREFILL) | FOR(DECODE) | FOR(DRAFT))
#define EVERY (FOR(INITIALIZE) | TRAINING | FOR(EVALUATE) | GENERATION | FOR(ROUND) | FOR(TRANSFER))

// The pipeline of graph passes: which, for which entry points, in which order.
static const struct Step {
    const char *passes;
    uint32_t entries;
} pipeline[] = {
    {"expand-stacks", EVERY},
    {"precision", GENERATION},  // caches hold what is rounded
    {"incremental{chunk=$chunk, context=$context, batch=$batch}", GENERATION},
    {"one-row", FOR(PREFILL)},
    {"keep-rounded", GENERATION},
    {"panel-rounded", GENERATION},
    {"simplify", EVERY},
    {"select-supervision", FOR(ACCUMULATE)},
    {"gradient", FOR(ACCUMULATE)},
    {"fuse-loss", FOR(ACCUMULATE) | FOR(EVALUATE)},
    {"expand-calls", EVERY},
    {"simplify", EVERY},
    {"recompute", FOR(ACCUMULATE)},
    {"precision", FOR(ACCUMULATE) | FOR(EVALUATE)},
    {"keep-rounded", FOR(ACCUMULATE) | FOR(EVALUATE)},
    {"share", EVERY},
    {"join-products", GENERATION},
    {"turn-attention", FOR(ACCUMULATE) | FOR(EVALUATE)},
    {"dead", EVERY},
};

static const char *const entry_names[ENTRY_COUNT] = {
    [ENTRY_INITIALIZE] = "initialize", [ENTRY_ACCUMULATE] = "accumulate", [ENTRY_UPDATE] = "update",
    [ENTRY_EVALUATE] = "evaluate",     [ENTRY_PREFILL] = "prefill",       [ENTRY_DECODE] = "decode",
    [ENTRY_DRAFT] = "draft",           [ENTRY_ROUND] = "round",           [ENTRY_TRANSFER] = "transfer",
};

const char *entry_name(Entry entry) { return entry_names[entry]; }

bool entry_parse(const char *text, Entry *entry) {
    for (int i = 0; i < ENTRY_COUNT; i++)
        if (strcmp(text, entry_names[i]) == 0) {
            *entry = (Entry)i;
            return true;
        }
    return false;
}

// (seed) -> every parameter's first value, in the parameter's own storage.
static Graph *build_initialize(Ir *ir, const Module *module) {
    Graph *graph = graph_create(ir, "initialize");
    Value seed = graph_add_input(graph, names_intern(ir->names, "seed"), ROLE_SCALAR,
                                 type_scalar(ir, ELEMENT_I64), NO_PLACE);
    for (size_t i = 0; i < module->parameters.count; i++) {
        const Parameter *parameter = &module->parameters.items[i];
        if (!parameter->initialize) continue;  // its value comes from a file
        Value storage =
            graph_add_input(graph, parameter->path, ROLE_PARAMETER, parameter->type, parameter->place);
        Value value;
        graph_inline(graph, parameter->initialize, &seed, &value);
        if (value_is_none(value)) return NULL;
        graph_add_output(graph, parameter->path, value, storage);
    }
    return graph;
}

typedef VECTOR(const Buffer *) Copies;

// The rounded copies of parameters that a program reads, but those that are there.
static void find_copies(Arena *arena, const Program *program, Copies *copies) {
    for (size_t i = 0; program && i < program->buffers.count; i++) {
        const Buffer *copy = &program->buffers.items[i];
        bool wanted = copy->kind == BUFFER_STATE && copy->role == ROLE_ROUNDED;
        for (size_t j = 0; j < copies->count; j++) wanted &= strcmp(copies->items[j]->name, copy->name) != 0;
        if (wanted) vector_push(arena, copies, copy);
    }
}

// Output: the parameter's copy is true to this value of it.
static void add_copy(Graph *graph, const Buffer *copy, Value parameter) {
    Value rounded = graph_add_input(graph, copy->name, ROLE_ROUNDED, copy->type, NO_PLACE);
    Value value = build_cast(graph, parameter, ELEMENT_BF16, graph_node(graph, parameter.node)->place);
    graph_add_output(graph, state_output_name(graph->ir, ROLE_ROUNDED, copy->name),
                     panel_order(graph, value, copy->type), rounded);
}

// () -> the copies of parameters that other programs read rounded. Without nodes: there are none.
static Graph *build_round(const Compilation *compilation) {
    Graph *graph = graph_create(compilation->ir, "round");
    Copies copies = {0};
    for (int entry = 0; entry < ENTRY_COUNT; entry++)
        find_copies(graph->ir->arena, compilation->programs[entry], &copies);
    for (size_t i = 0; i < copies.count; i++) {
        const Buffer *copy = copies.items[i];
        const Type *type = module_find_parameter(compilation->module, copy->name)->type;
        add_copy(graph, copy, graph_add_input(graph, copy->name, ROLE_PARAMETER, type, NO_PLACE));
    }
    return graph;
}

// The next step finds the copies that it reads as true as the parameters.
static void add_updated_copies(const Compilation *compilation, Graph *update) {
    Copies copies = {0};
    find_copies(update->ir->arena, compilation->programs[ENTRY_ACCUMULATE], &copies);
    for (size_t i = 0; i < copies.count; i++) {
        const Output *updated = graph_find_output(update, copies.items[i]->name);
        if (updated) add_copy(update, copies.items[i], updated->value);  // else the parameter stays as it is
    }
}

// A cross entropy of data that are there to be predicted, one loss for each: not of a head's, nor of `tokens`, which
// the model has seen.
static bool gives_example_losses(const Graph *graph, const Node *node) {
    const Graph *callee = node->op == OP_call ? attribute_graph(node, ATTRIBUTE_function) : NULL;
    if (!callee || strncmp(callee->name, "cross_entropy_core", 18) != 0 || node->operand_count < 2) return false;
    const Node *targets = graph_node(graph, node->operands[1].node);
    return targets->op == OP_input && attribute_integer(targets, ATTRIBUTE_role, 0) == ROLE_DATA &&
           !attribute_find(targets, ATTRIBUTE_by) && strcmp(attribute_text(targets, ATTRIBUTE_name), "tokens") != 0 &&
           type_same_dimensions(node->types[0], targets->types[0]);
}

// Evaluation counts every token once, also where the last batch is padded: the losses of single examples
// become an output, of the first cross entropy that has them.
static void add_example_losses(Graph *graph) {
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        if (!gives_example_losses(graph, graph_node(graph, id))) continue;
        graph_add_output(graph, EXAMPLE_LOSSES, (Value){id, 0}, VALUE_NONE);
        return;
    }
}

// The module graph that an entry point starts from.
static Graph *entry_source(PassContext *context, const Compilation *compilation, Entry entry, uint32_t entries,
                           const CompileOptions *options) {
    Ir *ir = context->ir;
    const Module *module = compilation->module;
    const char *name = entries & FOR(DRAFT) ? "draft" : "logits";  // the heads have caches to be filled
    switch (entry) {
        case ENTRY_INITIALIZE:
            return build_initialize(ir, module);
        case ENTRY_ROUND:
            return build_round(compilation);
        case ENTRY_TRANSFER:
            return graph_retype(options->transfer, options->transfer->name, NULL, 0);
        case ENTRY_ACCUMULATE:
            name = "loss";
            break;
        case ENTRY_EVALUATE:
            name = "evaluate";
            break;
        case ENTRY_UPDATE:
            name = "update";
            break;
        default:
            break;
    }
    if (entry == ENTRY_UPDATE) {
        module = pass_run_module(context, "optimizer", module);
        if (!module) return NULL;
    }
    Graph *graph = module_find_graph(module, name);
    if (!graph)
        report_error(ir->diagnostics, NO_PLACE, "E0902", "model %s has no '%s' to %s with", module->name,
                     name, GENERATION & 1u << entry ? "generate" : entry_names[entry]);
    if (graph && entry == ENTRY_EVALUATE) add_example_losses(graph);
    if (graph && entry == ENTRY_UPDATE) add_updated_copies(compilation, graph);
    return graph;
}

Element module_precision(const Module *module) {
    return module->has_training && module->training.precision == ELEMENT_BF16 ? ELEMENT_BF16 : ELEMENT_F32;
}

// How many positions an entry point of generation runs at once: `draft` the last token and one a head.
static int64_t entry_chunk(Entry entry, const Graph *graph, const CompileOptions *options) {
    if (entry == ENTRY_DRAFT) return (int64_t)graph->outputs.count;
    return entry == ENTRY_DECODE ? 1 : options->chunk;
}

// Fills the $words of a step and adds the options that the caller or the model chose; NULL: it has nothing to do.
static const char *step_text(const Graph *graph, const char *passes, Entry entry, const Module *module,
                             const CompileOptions *options) {
    Ir *ir = graph->ir;
    if (strcmp(passes, "precision") == 0)
        return module_precision(module) == ELEMENT_BF16 ? "precision{compute=bf16}" : NULL;
    if (strncmp(passes, "incremental", 11) == 0)
        return arena_format(ir->arena, "incremental{chunk=%lld, context=%lld, batch=%lld}",
                            (long long)entry_chunk(entry, graph, options), (long long)options->context,
                            (long long)options->sequences);
    if (strcmp(passes, "gradient") == 0)
        return module->has_training && !training_sums_gradients(&module->training) ? "gradient{start=zero}" : passes;
    bool by_layer = options->recompute && strcmp(options->recompute, "layer") == 0;
    // A processor packs what a step multiplies, and rounds on the way.
    bool trains = (1u << entry & (FOR(ACCUMULATE) | FOR(EVALUATE))) != 0;
    if (strcmp(passes, "keep-rounded") == 0 && trains && !options->cuda) return NULL;
    // A GPU's library takes matrices as they are written.
    if (strcmp(passes, "panel-rounded") == 0 && options->cuda) return NULL;
    // On a GPU a chunk of the loss is thousands of rows: every one reads and writes the head's gradient.
    if (strcmp(passes, "fuse-loss") == 0 && options->cuda) return "fuse-loss{bytes=1342177280}";
    if (strcmp(passes, "expand-stacks") == 0 && by_layer) return "expand-stacks{recompute=all}";
    if (strcmp(passes, "recompute") == 0 && options->recompute && !by_layer)
        return arena_format(ir->arena, "recompute{%s}", options->recompute);
    // A GPU has room for what is written for a product anyway; what it lacks is time on its memory.
    if (strcmp(passes, "recompute") == 0 && options->cuda && !by_layer) return "recompute{factors=kept}";
    return passes;
}

static void observe(const CompileOptions *options, Entry entry, const char *stage, const Graph *graph,
                    const Program *program) {
    if (options->observer) options->observer->stage(options->observer->data, entry, stage, graph, program);
}

static Program *compile_entry(PassContext *context, const Compilation *compilation, Entry entry, uint32_t entries,
                              const CompileOptions *options) {
    Graph *graph = entry_source(context, compilation, entry, entries, options);
    if (!graph) return NULL;
    observe(options, entry, "module", graph, NULL);
    for (size_t i = 0; i < sizeof pipeline / sizeof *pipeline; i++) {
        if (!(pipeline[i].entries & (1u << entry))) continue;
        if (strcmp(pipeline[i].passes, "keep-rounded") == 0 && !(entries & FOR(ROUND))) continue;
        const char *text = step_text(graph, pipeline[i].passes, entry, compilation->module, options);
        if (!text) continue;
        graph = pass_run(context, text, graph);
        if (!graph) return NULL;
        observe(options, entry, pipeline[i].passes, graph, NULL);
    }
    Program *program = lower_graph(graph, context->has_kernel);
    if (!program) return NULL;
    program->name = entry_names[entry];
    observe(options, entry, "lower", NULL, program);
    if (!fuse_program(program, options->cuda)) return NULL;
    observe(options, entry, "fuse", NULL, program);
    if (options->cuda && !pad_rows(program)) return NULL;
    if (!order_program(program)) return NULL;
    observe(options, entry, "order", NULL, program);
    return program;
}

Compilation *compile_programs(Ir *ir, const Module *module, uint32_t entries, const CompileOptions *options) {
    double start = clock_seconds();
    Compilation *compilation = ARENA_NEW(ir->arena, Compilation);
    compilation->ir = ir;
    compilation->module = module;
    PassContext context = {
        .ir = ir, .module = module, .verify = options->verify,
        .has_kernel = options->cuda ? cuda_has_kernel : cpu_has_kernel};
    for (int entry = 0; entry < ENTRY_COUNT; entry++) {
        if (!(entries & (1u << entry))) continue;
        Program *program = compile_entry(&context, compilation, (Entry)entry, entries, options);
        if (!program) return NULL;
        if (entry != ENTRY_ROUND || program->launches.count) compilation->programs[entry] = program;
    }
    compilation->pass_seconds = clock_seconds() - start;
    return compilation;
}

// Machine code of all kernels.
static bool generate(Compilation *compilation, Program *const *programs, size_t count, const CompileOptions *options) {
    if (options->cuda) {
        CudaOptions cuda = {.architecture = options->architecture, .driver = options->driver,
                            .cache = options->cpu.cache, .has_product = options->has_product,
                            .library = options->library};
        CudaStatistics statistics;
        if (!cuda_compile(compilation->ir, programs, count, &cuda, &statistics)) return false;
        compilation->kernels = statistics.distinct;
        compilation->cached = statistics.cached;
        compilation->machine_seconds = statistics.seconds;
        return true;
    }
    compilation->code = cpu_compile(compilation->ir, programs, count, &options->cpu);
    if (!compilation->code) return false;
    CpuStatistics statistics = cpu_code_statistics(compilation->code);
    compilation->kernels = statistics.distinct;
    compilation->cached = statistics.cached;
    compilation->machine_seconds = statistics.seconds;
    return true;
}

bool compile_code(Compilation *compilation, const CompileOptions *options) {
    double start = clock_seconds();
    Program *programs[ENTRY_COUNT];
    size_t count = 0;
    for (int entry = 0; entry < ENTRY_COUNT; entry++)
        if (compilation->programs[entry]) programs[count++] = compilation->programs[entry];
    if (!generate(compilation, programs, count, options)) return false;
    // The plan comes after the code: only then are the kernels' workspaces known.
    for (int entry = 0; entry < ENTRY_COUNT; entry++) {
        Program *program = compilation->programs[entry];
        if (!program) continue;
        if (!share_packed(program) || !plan_memory(program)) return false;
        observe(options, (Entry)entry, "plan-memory", NULL, program);
    }
    compilation->code_seconds = clock_seconds() - start;
    return true;
}

void compilation_destroy(Compilation *compilation) {
    if (compilation && compilation->code) cpu_code_destroy(compilation->code);
}
