// The subcommands of `cherry`, one file each: driver/command_<name>.c.
#ifndef CHERRY_DRIVER_COMMANDS_H
#define CHERRY_DRIVER_COMMANDS_H

#include "driver/arguments.h"

extern const Command command_check, command_dump, command_opt, command_passes, command_ops, command_train,
    command_eval, command_generate, command_gradcheck, command_bench, command_explain, command_convert, command_couple;

#endif
