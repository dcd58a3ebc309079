// cherry opt: runs passes on a .cherry file or on IR text and prints the IR.
#include <string.h>

#include "base/file.h"
#include "driver/commands.h"
#include "driver/setup.h"
#include "driver/shrink.h"
#include "passes/pass.h"
#include "passes/prove.h"

static bool is_ir_text(const char *path) {
    size_t length = strlen(path);
    return length >= 3 && strcmp(path + length - 3, ".ir") == 0;
}

// IR text when the name ends in .ir, else the language.
static Module *load(const Arguments *arguments, Ir *ir) {
    const char *path = arguments_operand(arguments, 0);
    size_t bytes;
    if (!is_ir_text(path)) return setup_load(arguments, ir, arguments_flag(arguments, "--prove"));
    char *text = file_read(ir->arena, ir->diagnostics, path, &bytes);
    if (!text) return NULL;
    diagnostics_add_source(ir->diagnostics, path, text);
    return module_read(ir, path, text);
}

// ---- --prove: the module before and after each pass, in the reference evaluator ----

typedef struct Proof {
    const char *path;
    const char *passes;
    int64_t seed;
    double tolerance;
} Proof;

static Module *prove(Ir *ir, const Proof *proof, const Module *module) {
    PassContext context = {.ir = ir, .module = module, .verify = true, .has_kernel = cpu_has_kernel};
    return prove_passes(&context, proof->passes, module, (uint64_t)proof->seed, proof->tolerance);
}

// Values that differ (E0516) or gradients that are wrong (E0517), and no other error.
static bool only_faults(const Ir *ir) {
    for (size_t i = 0; i < diagnostics_count(ir->diagnostics); i++) {
        const Message *message = diagnostics_message(ir->diagnostics, i);
        bool is_fault =
            message->code && (strcmp(message->code, "E0516") == 0 || strcmp(message->code, "E0517") == 0);
        if (message->severity == SEVERITY_ERROR && !is_fault) return false;
    }
    return true;
}

static bool shows_fault(void *data, Ir *ir, const FrontendOptions *options) {
    const Proof *proof = data;
    Module *module = derive_module(ir, frontend_load(ir, proof->path, options));
    return module && !prove(ir, proof, module) && only_faults(ir);
}

static void hint_smallest(const Arguments *arguments, Ir *ir, Proof *proof) {
    size_t count, given_count;
    FrontendOptions options = {.train = arguments_text(arguments, "--train", NULL),
                               .model = arguments_text(arguments, "--model", NULL),
                               .small = true};
    options.settings = arguments_all(arguments, "--set", &given_count);
    options.setting_count = given_count;
    const char *const *settings =
        shrink_settings(ir->arena, &options, proof->path, shows_fault, proof, &count);
    const char *text = "";
    for (size_t i = 0; i < count; i++) text = arena_format(ir->arena, "%s --set %s", text, settings[i]);
    report_hint(ir->diagnostics, "the smallest that shows it: cherry opt %s --prove --passes=\"%s\"%s",
                proof->path, proof->passes, text);
}

static bool prove_and_report(const Arguments *arguments, Ir *ir, const Module *module) {
    Proof proof = {arguments_operand(arguments, 0), arguments_text(arguments, "--passes", ""), 1, 1e-9};
    if (!arguments_integer(arguments, ir, "--seed", 0, &proof.seed)) return false;
    if (prove(ir, &proof, module)) {
        printf("# %s: same values before and after every pass (to %g, seed %lld)\n", module->name,
               proof.tolerance, (long long)proof.seed);
        return true;
    }
    if (!is_ir_text(proof.path) && only_faults(ir)) hint_smallest(arguments, ir, &proof);
    return false;
}

static int run(const Arguments *arguments, Ir *ir) {
    bool proves = arguments_flag(arguments, "--prove");
    if (proves ? !arguments_flag(arguments, "--passes") : arguments_flag(arguments, "--seed")) {
        report_error(ir->diagnostics, NO_PLACE, "E0914", proves ? "--prove needs --passes LIST" : "--seed needs --prove");
        return EXIT_USER_ERROR;
    }
    Module *module = load(arguments, ir);
    if (!module) return EXIT_USER_ERROR;
    if (proves)
        return prove_and_report(arguments, ir, module) ? EXIT_OK : EXIT_USER_ERROR;
    PassContext context = {.ir = ir, .module = module, .verify = true, .has_kernel = cpu_has_kernel};
    module = pass_run_module(&context, arguments_text(arguments, "--passes", ""), module);
    if (!module) return EXIT_USER_ERROR;
    module_print(module, stdout);
    return EXIT_OK;
}

static const CommandOption options[] = {
    {"--passes", "LIST", "passes with options, e.g. \"expand-stacks, gradient\"; see cherry passes"},
    {"--prove", NULL, "run the module before and after each pass in the reference evaluator and compare"},
    {"--seed", "N", "of the random inputs of --prove (default 1)"},
    MODEL_OPTIONS,
    {NULL, NULL, NULL}};

const Command command_opt = {"opt", "FILE", "run passes on a .cherry or .ir file, print the IR", options,
                             run};
