#include "driver/setup.h"

#include <string.h>

#include "base/thread.h"
#include "passes/pass.h"

Module *setup_load(const Arguments *arguments, Ir *ir, bool small) {
    FrontendOptions options = {.train = arguments_text(arguments, "--train", NULL),
                               .model = arguments_text(arguments, "--model", NULL),
                               .small = small};
    options.settings = arguments_all(arguments, "--set", &options.setting_count);
    return derive_module(ir, frontend_load(ir, arguments_operand(arguments, 0), &options));
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

bool setup_options(const Arguments *arguments, Ir *ir, const Module *module, CompileOptions *options) {
    const char *device = arguments_text(arguments, "--device", "cpu");
    if (strcmp(device, "cpu") != 0) {
        if (strcmp(device, "cuda") == 0)
            return report_error(ir->diagnostics, NO_PLACE, "E0903",
                                "this build has no CUDA back end yet; use --device cpu");
        return report_error(ir->diagnostics, NO_PLACE, "E0903", "unknown device '%s'; there are: cpu, cuda",
                            device);
    }
    if (module->has_training && module->training.precision != ELEMENT_F32)
        return report_error(ir->diagnostics, module->training.place, "E0904",
                            "precision %s cannot be trained on the CPU yet; use precision = f32",
                            element_name(module->training.precision));
    *options = (CompileOptions){
        .cpu = {.cpu = arguments_text(arguments, "--cpu", NULL),
                .cache = !arguments_flag(arguments, "--no-cache")},
        .recompute = arguments_text(arguments, "--recompute", NULL),
        .chunk = 32,
        .sequences = 1,
        .verify = arguments_flag(arguments, "--verify"),
    };
    return true;
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
