// What the commands that compile share: options of the command line, loading, machine words.
#ifndef CHERRY_DRIVER_SETUP_H
#define CHERRY_DRIVER_SETUP_H

#include "driver/arguments.h"
#include "driver/compile.h"
#include "driver/feed.h"

// Rows for the option tables of commands.
#define MODEL_OPTIONS                                                                               \
    {"--train", "NAME", "the train block to use (default: the first)"},                             \
        {"--model", "NAME", "a model instead of a train block"}, {                                  \
        "--set", "NAME=VALUE", "another value for a dim, a const or a train entry; may be repeated" \
    }
#define COMPILE_OPTIONS                                                                       \
    {"--device", "cpu|cuda", "where to run (default: cpu)"},                                  \
        {"--cpu", "NAME", "target processor (default: this one; x86-64-v3 for AVX2)"},        \
        {"--gpu", "NAME", "target GPU (default: the one there, else sm_90; sm_90a: also what sm_90 alone has)"}, \
        {"--threads", "N", "threads to run on (default: all processors)"},                    \
        {"--no-cache", NULL, "compile everything anew, leave the object cache alone"},        \
        {"--recompute", "HOW",                                                                \
         "layer, or options of the pass recompute: mode=none, cheap, elementwise (default)"}, \
    {                                                                                         \
        "--verify", NULL, "check the rules of the IR after every pass"                        \
    }

#define SUPERVISION_OPTIONS                                                                              \
    {"--supervise", "SET", "which targets count: all (default), spans[:KIND,KIND], answers, mask:FILE, " \
                           "random:P, rare:P"},                                                          \
    {                                                                                                    \
        "--shuffle-tokens", NULL, "the tokens of each window change places: a control"                   \
    }

// Parses, checks and builds the operand FILE; NULL after errors. `small`: with every dim a handful, for
// what runs the reference evaluator.
Module *setup_load(const Arguments *arguments, Ir *ir, bool small);
// Runs what makes the chosen model of the one that its file describes (average, unroll, ...). NULL after
// errors.
Module *derive_module(Ir *ir, Module *module);
// Compile options from the command line; false after errors (an unknown device, for one).
bool setup_options(const Arguments *arguments, Ir *ir, CompileOptions *options);
// What generation with room for `context` tokens compiles: a prompt is read in chunks that fit.
void setup_context(CompileOptions *options, int64_t context);
// --threads, or all processors.
int setup_threads(const Arguments *arguments, Ir *ir);

// --supervise, --shuffle-tokens, --share; false after an error.
bool supervision_options(const Arguments *arguments, Ir *ir, FeedOptions *feed);

// Of the model itself, or, frozen, of the further models of its train block.
int64_t module_parameter_count(const Module *module, bool frozen);
// Those that one token uses: of experts among which top_k chooses, as many as it chooses.
int64_t module_active_count(const Module *module);

#endif
