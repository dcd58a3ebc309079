// cherry check: parses, checks and verifies a file; says what training it would take. Allocates nothing.
#include "driver/commands.h"
#include "driver/cost.h"
#include "driver/json.h"
#include "driver/setup.h"
#include "passes/program_passes.h"

enum { TRAINING_ENTRIES = 1u << ENTRY_ACCUMULATE | 1u << ENTRY_UPDATE };

// Counted from the programs; the closed forms that tests check are in docs/measurements.md.
typedef struct Summary {
    int64_t parameters, active_parameters, stored_layers, effective_layers;
    double flops_per_token, training_bytes, recomputed_bytes, predicted_step_seconds;
} Summary;

static void count_layers(const Module *module, Summary *summary) {
    for (size_t i = 0; i < module->graphs.count; i++) {
        const Graph *graph = module->graphs.items[i];
        if (graph != module_find_graph(module, "loss") &&
            (module_find_graph(module, "loss") || graph != module_find_graph(module, "logits")))
            continue;
        for (size_t id = 0; id < graph->nodes.count; id++) {
            const Attribute *entries = attribute_find(&graph->nodes.items[id], ATTRIBUTE_entries);
            if (!entries) continue;
            int64_t stored = 0;
            for (uint32_t entry = 0; entry < entries->count; entry++)
                if (entries->entries[entry].layer >= stored) stored = entries->entries[entry].layer + 1;
            summary->stored_layers += stored;
            summary->effective_layers += entries->count;
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

static bool summarise(const Arguments *arguments, Ir *ir, const Module *module, Summary *summary) {
    CompileOptions options;
    if (!setup_options(arguments, ir, module, &options)) return false;
    summary->parameters = module_parameter_count(module);
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
    Machine machine = machine_measure(ir, threads, options.cpu.cpu);
    if (machine.flops_per_second > 0)
        summary->predicted_step_seconds =
            cost_predict_seconds(compilation->programs[ENTRY_ACCUMULATE], &machine) *
                (double)training->accumulate +
            cost_predict_seconds(compilation->programs[ENTRY_UPDATE], &machine);
    return true;
}

static void print_json(const Summary *summary) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "parameters", (double)summary->parameters);
    if (summary->active_parameters != summary->parameters)
        cJSON_AddNumberToObject(json, "active_parameters", (double)summary->active_parameters);
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
    printf("layers             %lld stored, %lld effective\n", (long long)summary->stored_layers,
           (long long)summary->effective_layers);
    if (!module->has_training) return;
    printf("FLOPs per token    %.4g (forward and backward)\n", summary->flops_per_token);
    printf("memory to train    %.1f MiB\n", summary->training_bytes / (1 << 20));
    printf("  recomputed       %.1f MiB (--recompute layer)\n", summary->recomputed_bytes / (1 << 20));
    printf("predicted step     %.4f s\n", summary->predicted_step_seconds);
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
