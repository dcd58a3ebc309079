// cherry explain: what each source line costs: FLOPs, bytes, predicted and measured time.
#include "driver/commands.h"
#include "driver/profile.h"
#include "driver/sample_inputs.h"
#include "driver/setup.h"

static bool explain(const Arguments *arguments, Ir *ir, const Module *module) {
    enum { REPEATS = 5 };
    CompileOptions options;
    int threads = setup_threads(arguments, ir);
    if (!threads || !setup_options(arguments, ir, &options)) return false;
    if (!module->has_training)
        return report_error(ir->diagnostics, NO_PLACE, "E0907", "explain needs a train block");
    uint32_t entries = 1u << ENTRY_INITIALIZE | 1u << ENTRY_ACCUMULATE | 1u << ENTRY_UPDATE;
    Runner *runner = runner_create(ir, module, entries, &options, threads);
    if (!runner) return false;
    runner_initialize(runner, module->training.seed);
    sample_inputs(runner, ENTRY_ACCUMULATE, "loss");
    runner_set_float(runner, ENTRY_ACCUMULATE, "loss_scale", 1);
    runner_set_integer(runner, ENTRY_UPDATE, "step", 1);
    Profile profile =
        profile_measure(runner, REPEATS, false, 1, arguments_flag(arguments, "--kernels"));
    profile_print(ir->arena, &profile);
    runner_destroy(runner);
    return true;
}

static int run(const Arguments *arguments, Ir *ir) {
    Module *module = setup_load(arguments, ir, false);
    return module && explain(arguments, ir, module) ? EXIT_OK : EXIT_USER_ERROR;
}

static const CommandOption options[] = {
    {"--kernels", NULL, "a line for each kernel: launches, name, source line"},
    MODEL_OPTIONS,
    COMPILE_OPTIONS,
    {NULL, NULL, NULL}};

const Command command_explain = {"explain", "FILE", "what each source line of a training step costs", options,
                                 run};
