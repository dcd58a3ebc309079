// cherry opt: runs passes on a .cherry file or on IR text and prints the IR.
#include <string.h>

#include "base/file.h"
#include "driver/commands.h"
#include "driver/session.h"
#include "passes/pass.h"
#include "passes/prove.h"

// IR text when the name ends in .ir, else the language.
static Module *load(const Arguments *arguments, Ir *ir) {
    const char *path = arguments_operand(arguments, 0);
    size_t length = strlen(path), bytes;
    if (length < 3 || strcmp(path + length - 3, ".ir") != 0) return session_load(arguments, ir, arguments_flag(arguments, "--prove"));
    char *text = file_read(ir->arena, ir->diagnostics, path, &bytes);
    if (!text) return NULL;
    diagnostics_add_source(ir->diagnostics, path, text);
    return module_read(ir, path, text);
}

// --prove: the module before and after each pass, in the reference evaluator.
static Module *prove(const Arguments *arguments, PassContext *context, const char *passes, const Module *module) {
    int64_t seed = 1;
    double tolerance = 1e-9;
    if (!arguments_integer(arguments, context->ir, "--seed", 0, &seed)) return NULL;
    Module *proved = prove_passes(context, passes, module, (uint64_t)seed, tolerance);
    if (proved) printf("# %s: same values before and after every pass (to %g, seed %lld)\n", module->name, tolerance, (long long)seed);
    return proved;
}

static int run(const Arguments *arguments, Ir *ir) {
    bool wants_proof = arguments_flag(arguments, "--prove");
    Module *module = load(arguments, ir);
    if (!module) return EXIT_USER_ERROR;
    PassContext context = {.ir = ir, .module = module, .verify = true, .has_kernel = cpu_has_kernel};
    const char *passes = arguments_text(arguments, "--passes", "");
    module = wants_proof ? prove(arguments, &context, passes, module) : pass_run_module(&context, passes, module);
    if (!module) return EXIT_USER_ERROR;
    if (!wants_proof) module_print(module, stdout);
    return EXIT_OK;
}

static const CommandOption options[] = {
    {"--passes", "LIST", "passes with options, e.g. \"expand-stacks, gradient\"; see cherry passes"},
    {"--prove", NULL, "run the module before and after each pass in the reference evaluator and compare"},
    {"--seed", "N", "of the random inputs of --prove (default 1)"},
    MODEL_OPTIONS,
    {NULL, NULL, NULL}};

const Command command_opt = {"opt", "FILE", "run passes on a .cherry or .ir file, print the IR", options, run};
