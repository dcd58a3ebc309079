#include "driver/setup.h"

#include <stdlib.h>
#include <string.h>

#include "base/thread.h"
#include "codegen/cuda.h"
#include "passes/pass.h"

// A kernel that no back end has may be meant for one to come; more often its name is misspelt.
static void warn_of_unknown_kernels(Ir *ir, const Module *module) {
    const char *told = NULL;
    for (size_t g = 0; g < module->graphs.count; g++) {
        const Graph *graph = module->graphs.items[g];
        for (uint32_t id = 0; id < graph->nodes.count; id++) {
            const Node *node = graph_node(graph, id);
            const char *kernel = node->op == OP_call ? attribute_text(node, ATTRIBUTE_kernel) : NULL;
            if (!kernel || kernel == told || cpu_has_kernel(kernel) || cuda_has_kernel(kernel)) continue;
            report_warning(ir->diagnostics, node->place, "E0518",
                           "no back end has a kernel '%s': what is computed is what the function says", kernel);
            told = kernel;
        }
    }
}

Module *setup_load(const Arguments *arguments, Ir *ir, bool small) {
    FrontendOptions options = {.train = arguments_text(arguments, "--train", NULL),
                               .model = arguments_text(arguments, "--model", NULL),
                               .small = small};
    if (!arguments_apart(arguments, ir, "--train", "--model", "a train block names its model")) return NULL;
    options.settings = arguments_all(arguments, "--set", &options.setting_count);
    options.narrow = !small && strcmp(arguments_text(arguments, "--device", "cpu"), "cuda") == 0;
    Module *module = frontend_load(ir, arguments_operand(arguments, 0), &options);
    if (module) warn_of_unknown_kernels(ir, module);
    return derive_module(ir, module);
}

Module *derive_module(Ir *ir, Module *module) {
    PassContext context = {.ir = ir, .module = module, .has_kernel = cpu_has_kernel};
    return module ? pass_derive(&context, module) : NULL;
}

int setup_threads(const Arguments *arguments, Ir *ir) {
    int64_t threads = thread_available_processors();
    if (!arguments_integer(arguments, ir, "--threads", 1, &threads)) return 0;
    if (threads > 1024) {
        report_error(ir->diagnostics, NO_PLACE, "E0901", "--threads wants at most 1024, not %lld",
                     (long long)threads);
        return 0;
    }
    return (int)threads;
}

// sm_80 and later; a letter behind the number stands for what this architecture alone has, or its family.
static bool names_gpu(const char *name) {
    char *end;
    if (strncmp(name, "sm_", 3) != 0 || name[3] < '1' || name[3] > '9') return false;
    long number = strtol(name + 3, &end, 10);
    bool letter = (*end == 'a' && number >= 90) || (*end == 'f' && number >= 100);
    return number >= 80 && number <= 999 && (!*end || (letter && !end[1]));
}

// --device, and what code is made for.
static bool read_target(const Arguments *arguments, Ir *ir, CompileOptions *options) {
    const char *device = arguments_text(arguments, "--device", "cpu");
    options->cuda = strcmp(device, "cuda") == 0;
    options->cpu.cpu = arguments_text(arguments, "--cpu", NULL);
    options->architecture = arguments_text(arguments, "--gpu", NULL);
    if (!options->cuda && strcmp(device, "cpu") != 0)
        return report_error(ir->diagnostics, NO_PLACE, "E0903", "unknown device '%s'; there are: cpu, cuda", device);
    if (options->cuda ? options->cpu.cpu : options->architecture)
        return report_error(ir->diagnostics, NO_PLACE, "E0903", "%s",
                            options->cuda ? "--cpu is for --device cpu" : "--gpu is for --device cuda");
    return !options->architecture || names_gpu(options->architecture) ||
           report_error(ir->diagnostics, NO_PLACE, "E0903", "no GPU is called '%s'; sm_80, sm_90, sm_90a are, say",
                        options->architecture);
}

bool setup_options(const Arguments *arguments, Ir *ir, CompileOptions *options) {
    const char *recompute = arguments_text(arguments, "--recompute", NULL);
    if (recompute && strcmp(recompute, "layer") != 0 && !strchr(recompute, '='))
        return report_error(ir->diagnostics, NO_PLACE, "E0901",
                            "--recompute wants layer or options of the pass recompute, such as mode=none, not '%s'", recompute);
    *options = (CompileOptions){
        .cpu = {.cache = !arguments_flag(arguments, "--no-cache")},
        .recompute = recompute,
        .sequences = 1,
        .verify = arguments_flag(arguments, "--verify"),
    };
    return read_target(arguments, ir, options);
}

void setup_context(CompileOptions *options, int64_t context) {
    enum { PREFILL_CHUNK = 32 };
    options->context = context;
    options->chunk = context < PREFILL_CHUNK ? context : PREFILL_CHUNK;
}

bool supervision_options(const Arguments *arguments, Ir *ir, FeedOptions *feed) {
    feed->supervise = arguments_text(arguments, "--supervise", NULL);
    feed->shuffle = arguments_flag(arguments, "--shuffle-tokens");
    feed->share = 1;
    if (!arguments_number(arguments, ir, "--share", 0, &feed->share)) return false;
    if (feed->share > 0 && feed->share <= 1) return true;
    return report_error(ir->diagnostics, NO_PLACE, "E0901", "--share wants a share above 0, at most 1");
}

int64_t module_parameter_count(const Module *module, bool frozen) {
    int64_t count = 0;
    for (size_t i = 0; i < module->parameters.count; i++)
        if ((module->parameters.items[i].file != NULL) == frozen)
            count += type_count(module->parameters.items[i].type);
    return count;
}

// ---- Active parameters ----

static bool is_data(const Node *node) {
    return node->op == OP_input && attribute_integer(node, ATTRIBUTE_role, ROLE_ARGUMENT) == ROLE_DATA;
}

// Whether a graph, or the layers of a stack, takes single indices of `along` out of what has `extent` of them, and not
// those that the data name (tokens; the targets of a composite such as the loss).
static bool takes_single(const Graph *graph, const char *along, int64_t extent) {
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        bool takes = node->op == OP_pick || node->op == OP_gather;
        const char *name = takes ? attribute_text(node, ATTRIBUTE_along) : NULL;
        if (node->op == OP_gather && is_data(graph_node(graph, node->operands[1].node))) name = NULL;
        const Type *type = name ? graph_type(graph, node->operands[0]) : NULL;
        if (name && strcmp(name, along) == 0 && type->dimensions[type_find(type, name)].extent == extent)
            return true;
        for (uint32_t i = 0; node->op != OP_call && i < node->attributes.count; i++)
            if (attribute_kind(node->attributes.items[i].key) == KIND_GRAPH &&
                takes_single(node->attributes.items[i].graph, along, extent))
                return true;
    }
    return false;
}

// The first choice of `count` among the `extent` experts along a dimension that parameters have, or NULL.
static const Node *find_choice(const Graph *graph, const Graph *whole) {
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id), *found = NULL;
        if (node->op == OP_top_k) {
            const Type *type = graph_type(graph, node->operands[0]);
            const char *along = attribute_text(node, ATTRIBUTE_along);
            if (takes_single(whole, along, type->dimensions[type_find(type, along)].extent)) return node;
        }
        for (uint32_t i = 0; i < node->attributes.count && !found; i++)
            if (attribute_kind(node->attributes.items[i].key) == KIND_GRAPH)
                found = find_choice(node->attributes.items[i].graph, whole);
        if (found) return found;
    }
    return NULL;
}

int64_t module_active_count(const Module *module) {
    const Graph *graph = module_find_graph(module, "loss");
    if (!graph) graph = module_find_graph(module, "logits");
    const Node *choice = graph ? find_choice(graph, graph) : NULL;
    int64_t count = 0;
    for (size_t i = 0; i < module->parameters.count; i++) {
        if (module->parameters.items[i].file) continue;
        const Type *type = module->parameters.items[i].type;
        int at = choice ? type_find(type, attribute_text(choice, ATTRIBUTE_along)) : -1;
        if (at == type->rank - 1) at = -1;  // of the router, which scores all
        int64_t all = type_count(type);
        count += at < 0 ? all
                        : all / type->dimensions[at].extent * attribute_integer(choice, ATTRIBUTE_count, 0);
    }
    return count;
}
