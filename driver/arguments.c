#include "driver/arguments.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/vector.h"

typedef struct Given {
    const CommandOption *option;
    const char *value;  // NULL for a flag
} Given;

struct Arguments {
    Arena *arena;
    VECTOR(Given) given;
    VECTOR(const char *) operands;
};

// Options that every command understands.
static const CommandOption common_options[] = {
    {"--help", NULL, "this text"},
    {NULL, NULL, NULL},
};

static const CommandOption *find_in(const CommandOption *options, const char *text, size_t length) {
    for (; options->name; options++)
        if (strlen(options->name) == length && strncmp(options->name, text, length) == 0) return options;
    return NULL;
}

static const CommandOption *find_option(const Command *command, const char *text, size_t length) {
    const CommandOption *option = find_in(command->options, text, length);
    return option ? option : find_in(common_options, text, length);
}

// "W ...": every word up to the next option is a value.
static bool takes_several(const CommandOption *option) {
    size_t length = option->value ? strlen(option->value) : 0;
    return length > 3 && strcmp(option->value + length - 3, "...") == 0;
}

static size_t operand_limit(const Command *command) {
    size_t count = 0;
    for (const char *word = command->operands; *word; word++)
        if (word[0] != ' ' && word[0] != '[' &&
            (word == command->operands || word[-1] == ' ' || word[-1] == '['))
            count++;
    return count;
}

static bool operand_required(const Command *command) {
    return *command->operands && *command->operands != '[';
}

const Arguments *arguments_parse(const Command *command, int count, char **texts, Ir *ir) {
    Arguments *arguments = ARENA_NEW(ir->arena, Arguments);
    arguments->arena = ir->arena;
    for (int i = 0; i < count; i++) {
        const char *text = texts[i];
        if (strncmp(text, "--", 2) != 0) {
            vector_push(ir->arena, &arguments->operands, text);
            continue;
        }
        size_t length = strcspn(text, "=");
        const CommandOption *option = find_option(command, text, length);
        if (!option) {
            fprintf(stderr, "cherry %s: unknown option %.*s; see cherry %s --help\n", command->name,
                    (int)length, text, command->name);
            return NULL;
        }
        Given given = {option, NULL};
        if (option->value && text[length] == '=') {
            given.value = text + length + 1;
        } else if (option->value) {
            if (++i == count) {
                fprintf(stderr, "cherry %s: %s needs a value: %s\n", command->name, option->name,
                        option->value);
                return NULL;
            }
            given.value = texts[i];
        } else if (text[length] == '=') {
            fprintf(stderr, "cherry %s: %s takes no value\n", command->name, option->name);
            return NULL;
        }
        vector_push(ir->arena, &arguments->given, given);
        while (takes_several(option) && i + 1 < count && strncmp(texts[i + 1], "--", 2) != 0)
            vector_push(ir->arena, &arguments->given, ((Given){option, texts[++i]}));
    }
    if (arguments_flag(arguments, "--help")) return arguments;
    if (arguments->operands.count > operand_limit(command) ||
        (operand_required(command) && arguments->operands.count == 0)) {
        fprintf(stderr, "usage: cherry %s %s [options]; see cherry %s --help\n", command->name,
                command->operands, command->name);
        return NULL;
    }
    return arguments;
}

void command_print_help(const Command *command) {
    printf("cherry %s%s%s: %s\n", command->name, *command->operands ? " " : "", command->operands,
           command->summary);
    const CommandOption *tables[] = {command->options, common_options};
    for (int table = 0; table < 2; table++)
        for (const CommandOption *option = tables[table]; option->name; option++) {
            char head[64];
            snprintf(head, sizeof head, "%s%s%s", option->name, option->value ? " " : "",
                     option->value ? option->value : "");
            printf("  %-24s %s\n", head, option->doc);
        }
}

const char *arguments_operand(const Arguments *arguments, size_t index) {
    return index < arguments->operands.count ? arguments->operands.items[index] : NULL;
}

static const Given *find_given(const Arguments *arguments, const char *option) {
    const Given *found = NULL;  // the last one wins
    for (size_t i = 0; i < arguments->given.count; i++)
        if (strcmp(arguments->given.items[i].option->name, option) == 0) found = &arguments->given.items[i];
    return found;
}

const char *arguments_text(const Arguments *arguments, const char *option, const char *otherwise) {
    const Given *given = find_given(arguments, option);
    return given ? given->value : otherwise;
}

bool arguments_flag(const Arguments *arguments, const char *option) {
    return find_given(arguments, option) != NULL;
}

bool arguments_integer(const Arguments *arguments, Ir *ir, const char *option, int64_t minimum,
                       int64_t *value) {
    const char *text = arguments_text(arguments, option, NULL);
    if (!text) return true;
    char *end;
    errno = 0;
    long long parsed = strtoll(text, &end, 10);
    if (errno || end == text || *end || parsed < minimum)
        return report_error(ir->diagnostics, NO_PLACE, "E0901",
                            "%s wants a whole number of at least %lld, not '%s'", option, (long long)minimum,
                            text);
    *value = parsed;
    return true;
}

bool arguments_number(const Arguments *arguments, Ir *ir, const char *option, double minimum, double *value) {
    const char *text = arguments_text(arguments, option, NULL);
    if (!text) return true;
    char *end;
    double parsed = strtod(text, &end);
    if (end == text || *end || !isfinite(parsed) || parsed < minimum)
        return report_error(ir->diagnostics, NO_PLACE, "E0901", "%s wants a number of at least %g, not '%s'",
                            option, minimum, text);
    *value = parsed;
    return true;
}

bool arguments_apart(const Arguments *arguments, Ir *ir, const char *option, const char *other, const char *reason) {
    if (!arguments_flag(arguments, option) || !arguments_flag(arguments, other)) return true;
    return report_error(ir->diagnostics, NO_PLACE, "E0901", "%s and %s do not go together: %s", option, other, reason);
}

const char *const *arguments_all(const Arguments *arguments, const char *option, size_t *count) {
    const char **values = ARENA_ARRAY(arguments->arena, const char *, arguments->given.count + 1);
    *count = 0;
    for (size_t i = 0; i < arguments->given.count; i++)
        if (strcmp(arguments->given.items[i].option->name, option) == 0)
            values[(*count)++] = arguments->given.items[i].value;
    return values;
}
