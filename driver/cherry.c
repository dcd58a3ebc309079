// The command line. Subcommands live in driver/command_<name>.c; exit and stderr belong to this file.
#include "include/cherry.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "driver/commands.h"

static const Command *const commands[] = {
    &command_check, &command_dump,     &command_opt,     &command_passes,    &command_ops,   &command_train,
    &command_eval,  &command_generate, &command_convert, &command_gradcheck, &command_bench, &command_explain,
    &command_couple,
};

enum { COMMAND_COUNT = sizeof commands / sizeof *commands };

static void print_usage(FILE *stream) {
    fprintf(stream, "cherry %s: trains language models described in a small language\n\n", CHERRY_VERSION);
    for (int i = 0; i < COMMAND_COUNT; i++) {
        char head[48];
        snprintf(head, sizeof head, "%s %s", commands[i]->name, commands[i]->operands);
        fprintf(stream, "  cherry %-22s %s\n", head, commands[i]->summary);
    }
    fprintf(stream, "\ncherry COMMAND --help tells a command's options.\n");
}

static const Command *find_command(const char *name) {
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    return NULL;
}

static void on_abort(int signal_number) {
    (void)signal_number;
    _exit(EXIT_INTERNAL);
}

static int run_command(const Command *command, int count, char **texts) {
    Arena *arena = arena_create();
    Ir *ir = ir_create(arena);
    int status = EXIT_USAGE;
    const Arguments *arguments = arguments_parse(command, count, texts, ir);
    if (arguments && arguments_flag(arguments, "--help")) {
        command_print_help(command);
        status = EXIT_OK;
    } else if (arguments) {
        status = command->run(arguments, ir);
        fflush(stdout);
        diagnostics_print(ir->diagnostics, 0, stderr);
        if (status == EXIT_OK && diagnostics_error_count(ir->diagnostics)) status = EXIT_USER_ERROR;
    }
    arena_destroy(arena);
    return status;
}

int main(int count, char **texts) {
    signal(SIGABRT, on_abort);
    if (count < 2) {
        print_usage(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(texts[1], "--version") == 0) {
        printf("cherry %s\n", CHERRY_VERSION);
        return EXIT_OK;
    }
    if (strcmp(texts[1], "--help") == 0 || strcmp(texts[1], "help") == 0) {
        print_usage(stdout);
        return EXIT_OK;
    }
    const Command *command = find_command(texts[1]);
    if (!command) {
        fprintf(stderr, "cherry: unknown command '%s'; see cherry --help\n", texts[1]);
        return EXIT_USAGE;
    }
    int status = run_command(command, count - 2, texts + 2);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "cherry: error: cannot write to standard output: %s\n", strerror(errno));
        status = status ? status : EXIT_USER_ERROR;
    }
    return status;
}
