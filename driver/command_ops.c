// cherry ops: the table of ops.
#include <stdio.h>
#include <string.h>

#include "driver/commands.h"
#include "ir/op.h"

static int run(const Arguments *arguments, Ir *ir) {
    (void)arguments, (void)ir;
    const char *family = "";
    for (int op = 0; op < OP_COUNT; op++) {
        const OpDefinition *definition = op_table[op];
        if (strcmp(family, definition->family) != 0)
            printf("%s%s\n", *family ? "\n" : "", definition->family);
        family = definition->family;
        printf("  %-14s %s", definition->name, definition->doc);
        if (definition->no_gradient) printf(" (no gradient: %s)", definition->no_gradient);
        putchar('\n');
    }
    return EXIT_OK;
}

static const CommandOption options[] = {{NULL, NULL, NULL}};

const Command command_ops = {"ops", "", "the ops of the IR", options, run};
