// Command lines: each subcommand declares its options in a table; parsing and --help derive from it.
#ifndef CHERRY_DRIVER_ARGUMENTS_H
#define CHERRY_DRIVER_ARGUMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ir/ir.h"

typedef struct CommandOption {
    const char *name;   // "--steps"
    const char *value;  // "N": what the option takes; "W ...": one or more; NULL for a flag
    const char *doc;
} CommandOption;

typedef struct Arguments Arguments;

typedef struct Command {
    const char *name;
    const char *operands;  // "FILE", "" for none
    const char *summary;
    const CommandOption *options;                    // ends with a NULL name
    int (*run)(const Arguments *arguments, Ir *ir);  // exit status
} Command;

enum { EXIT_OK = 0, EXIT_USER_ERROR = 1, EXIT_USAGE = 2, EXIT_INTERNAL = 3 };

// NULL after a usage error, which is printed to stderr.
const Arguments *arguments_parse(const Command *command, int count, char **texts, Ir *ir);
void command_print_help(const Command *command);

const char *arguments_operand(const Arguments *arguments, size_t index);  // or NULL
const char *arguments_text(const Arguments *arguments, const char *option, const char *otherwise);
bool arguments_flag(const Arguments *arguments, const char *option);
// A whole number >= minimum; false after a reported error.
bool arguments_integer(const Arguments *arguments, Ir *ir, const char *option, int64_t minimum,
                       int64_t *value);
bool arguments_number(const Arguments *arguments, Ir *ir, const char *option, double minimum, double *value);
// False after a reported error: both are given, of which one would change nothing.
bool arguments_apart(const Arguments *arguments, Ir *ir, const char *option, const char *other, const char *reason);
// Every value of an option that may be repeated (--set, --weights).
const char *const *arguments_all(const Arguments *arguments, const char *option, size_t *count);

#endif
