// cherry check: parses, checks and verifies a file; says what training it would take. Allocates nothing.
#include "driver/commands.h"
#include "driver/cost.h"
#include "driver/json.h"
#include "driver/predict.h"
#include "driver/setup.h"
#include "passes/program_passes.h"

enum { TRAINING_ENTRIES = 1u << ENTRY_ACCUMULATE | 1u << ENTRY_UPDATE };

// Counted from the programs and their graphs (driver/cost.h); tests/unit/cost.c holds FLOPs against a formula.
typedef struct Summary {
    int64_t parameters, active_parameters, frozen_parameters, stored_layers, effective_layers;
    double flops_per_token, training_bytes, recomputed_bytes, predicted_step_seconds;
} Summary;

// How many stored layers a stack reads, at least.
static int64_t layers_read(const Node *node) {
    const Attribute *entries = attribute_find(node, ATTRIBUTE_entries);
    int64_t stored = 0;
    for (uint32_t i = 0; entries && i < entries->count; i++)
        if (entries->entries[i].layer >= stored) stored = entries->entries[i].layer + 1;
    return stored;
}

// The same of all nodes before `id` that run the same stack: heads share one.
static int64_t layers_known(const Graph *graph, uint32_t id) {
    const char *name = attribute_text(graph_node(graph, id), ATTRIBUTE_name);
    int64_t known = 0;
    for (uint32_t other = 0; other < id && name; other++) {
        const Node *node = graph_node(graph, other);
        if (node->op != OP_stack || attribute_text(node, ATTRIBUTE_name) != name) continue;
        if (layers_read(node) > known) known = layers_read(node);
    }
    return known;
}

// A stack whose weights are those of a further model.
static bool is_frozen(const Graph *graph, const Node *stack) {
    const Node *last = graph_node(graph, stack->operands[stack->operand_count - 1].node);
    return last->op == OP_input && attribute_integer(last, ATTRIBUTE_role, 0) == ROLE_FROZEN;
}

static void count_layers(const Module *module, Summary *summary) {
    for (size_t i = 0; i < module->graphs.count; i++) {
        const Graph *graph = module->graphs.items[i];
        if (graph != module_find_graph(module, "loss") &&
            (module_find_graph(module, "loss") || graph != module_find_graph(module, "logits")))
            continue;
        for (uint32_t id = 0; id < graph->nodes.count; id++) {
            const Node *node = graph_node(graph, id);
            if (node->op != OP_stack || is_frozen(graph, node)) continue;
            int64_t stored = layers_read(node), known = layers_known(graph, id);
            if (stored > known) summary->stored_layers += stored - known;
            summary->effective_layers += attribute_find(node, ATTRIBUTE_entries)->count;
        }
    }
}

// Bytes that training holds: state, and the larger arena of the two programs. Negative after errors.
static double training_bytes(Compilation *compilation) {
    Program *accumulate = compilation->programs[ENTRY_ACCUMULATE],
            *update = compilation->programs[ENTRY_UPDATE];
    if (!plan_memory(accumulate) || !plan_memory(update)) return -1;
    const Program *programs[] = {accumulate, update};
    int64_t arena =
        accumulate->arena_bytes > update->arena_bytes ? accumulate->arena_bytes : update->arena_bytes;
    return (double)(cost_state_bytes(programs, 2) + arena);
}

static double predicted_seconds(const Program *program, const Machine *machine) {
    return predict_launches(program, machine, ARENA_ARRAY(program->ir->arena, double, program->launches.count + 1));
}

static bool summarise(const Arguments *arguments, Ir *ir, const Module *module, Summary *summary) {
    CompileOptions options;
    if (!setup_options(arguments, ir, &options)) return false;
    summary->parameters = module_parameter_count(module, false);
    summary->frozen_parameters = module_parameter_count(module, true);
    summary->active_parameters = module_active_count(module);
    count_layers(module, summary);
    if (!module->has_training) return true;
    Compilation *compilation =
        compile_programs(ir, module, TRAINING_ENTRIES, &options);
    if (!compilation) return false;
    summary->training_bytes = training_bytes(compilation);
    CompileOptions by_layer = options;
    by_layer.recompute = "layer";
    Compilation *recomputed = compile_programs(ir, module, TRAINING_ENTRIES, &by_layer);
    if (!recomputed) return false;
    summary->recomputed_bytes = training_bytes(recomputed);
    if (summary->training_bytes < 0 || summary->recomputed_bytes < 0) return false;
    const Training *training = &module->training;
    summary->flops_per_token =
        cost_model_flops(module_find_graph(module, "loss")) / (double)(training->batch * training->time);
    int threads = setup_threads(arguments, ir);
    if (!threads) return false;
    if (options.cuda) return true;  // speed is the CPU's
    Machine machine = machine_measure(ir, threads, module_precision(module), &options.cpu);
    summary->predicted_step_seconds =
        predicted_seconds(compilation->programs[ENTRY_ACCUMULATE], &machine) * (double)training->accumulate +
        predicted_seconds(compilation->programs[ENTRY_UPDATE], &machine);
    return true;
}

static void print_json(const Summary *summary) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "parameters", (double)summary->parameters);
    if (summary->active_parameters != summary->parameters)
        cJSON_AddNumberToObject(json, "active_parameters", (double)summary->active_parameters);
    if (summary->frozen_parameters)
        cJSON_AddNumberToObject(json, "frozen_parameters", (double)summary->frozen_parameters);
    cJSON_AddNumberToObject(json, "stored_layers", (double)summary->stored_layers);
    cJSON_AddNumberToObject(json, "effective_layers", (double)summary->effective_layers);
    cJSON_AddNumberToObject(json, "flops_per_token", summary->flops_per_token);
    cJSON_AddNumberToObject(json, "training_bytes", summary->training_bytes);
    cJSON_AddNumberToObject(json, "training_bytes_recomputed", summary->recomputed_bytes);
    cJSON_AddNumberToObject(json, "predicted_step_seconds", summary->predicted_step_seconds);
    json_print(json);
}

static void print_text(const Module *module, const Summary *summary) {
    printf("model              %s\n", module->name);
    printf("parameters         %lld\n", (long long)summary->parameters);
    if (summary->active_parameters != summary->parameters)
        printf("  active           %lld for each token\n", (long long)summary->active_parameters);
    if (summary->frozen_parameters)
        printf("of further models  %lld, read and not trained\n", (long long)summary->frozen_parameters);
    printf("layers             %lld stored, %lld effective\n", (long long)summary->stored_layers,
           (long long)summary->effective_layers);
    if (!module->has_training) return;
    printf("precision          %s\n", element_name(module_precision(module)));
    printf("FLOPs per token    %.4g (forward and backward)\n", summary->flops_per_token);
    printf("memory to train    %.1f MiB\n", summary->training_bytes / (1 << 20));
    printf("  recomputed       %.1f MiB (--recompute layer)\n", summary->recomputed_bytes / (1 << 20));
    if (summary->predicted_step_seconds > 0) printf("predicted step     %.4f s\n", summary->predicted_step_seconds);
}

static int run(const Arguments *arguments, Ir *ir) {
    Module *module = setup_load(arguments, ir, false);
    Summary summary = {0};
    if (!module || !module_verify(module, "the front end") || !summarise(arguments, ir, module, &summary))
        return EXIT_USER_ERROR;
    if (arguments_flag(arguments, "--json"))
        print_json(&summary);
    else
        print_text(module, &summary);
    return EXIT_OK;
}

static const CommandOption options[] = {
    {"--json", NULL, "one JSON object"}, MODEL_OPTIONS, COMPILE_OPTIONS, {NULL, NULL, NULL}};

const Command command_check = {"check", "FILE",
                               "parse, check and verify; parameters, FLOPs, memory, step time", options, run};
