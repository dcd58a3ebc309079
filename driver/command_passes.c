// cherry passes: the table of passes, in pipeline order.
#include <stdio.h>

#include "driver/commands.h"
#include "passes/pass.h"

static int run(const Arguments *arguments, Ir *ir) {
    (void)arguments, (void)ir;
    static const char *const level[] = {
        [PASS_MODULE] = "module", [PASS_GRAPH] = "graph", [PASS_PROGRAM] = "program"};
    for (uint32_t i = 0; i < pass_count; i++) {
        const Pass *pass = &pass_table[i];
        printf("%-14s %-8s %s\n", pass->name, level[pass->level], pass->doc);
        if (*pass->options) printf("%-14s %-8s options: %s\n", "", "", pass->options);
    }
    return EXIT_OK;
}

static const CommandOption options[] = {{NULL, NULL, NULL}};

const Command command_passes = {"passes", "", "the passes, in pipeline order", options, run};
