// Compilation: the whole pipeline from a module to machine code, one list (driver/compile.c).
#ifndef CHERRY_DRIVER_COMPILE_H
#define CHERRY_DRIVER_COMPILE_H

#include "codegen/cpu.h"
#include "frontend/frontend.h"
#include "ir/module.h"
#include "ir/program.h"

// Entry points of a model. They share one state.
typedef enum Entry {
    ENTRY_INITIALIZE,  // (seed) -> parameters
    ENTRY_ACCUMULATE,  // (data, loss_scale) -> loss, gradients += d loss
    ENTRY_UPDATE,      // (rate, step) -> parameters, moments, rounded copies; gradients = 0
    ENTRY_EVALUATE,    // (data) -> loss, EXAMPLE_LOSSES where there are such
    ENTRY_PREFILL,     // (tokens[batch, chunk], position, length, row) -> logits[batch, 1, vocab], of `row`; caches
    ENTRY_DECODE,      // (tokens[batch, 1], position, length) -> logits, caches
    ENTRY_DRAFT,       // (tokens[batch, 1 + heads], position, length) -> logits, draft1, ..., caches
    ENTRY_ROUND,       // () -> rounded copies of parameters, which others read
    ENTRY_TRANSFER,    // (weights of other models, seed) -> parameters
    ENTRY_COUNT
} Entry;

#define EXAMPLE_LOSSES "loss.examples"  // an output that no metric of an objective can be called

const char *entry_name(Entry entry);
bool entry_parse(const char *text, Entry *entry);

// Called after every step of the pipeline, for dumps; exactly one of graph and program is set.
typedef struct Observer {
    void (*stage)(void *data, Entry entry, const char *stage, const Graph *graph, const Program *program);
    void *data;
} Observer;

typedef struct CompileOptions {
    CpuOptions cpu;
    bool cuda;               // for a GPU
    const char *architecture;  // of it: "sm_90"; NULL: that
    int driver;                // of it, as in CudaOptions
    // What its library takes: CudaOptions' `has_product` and `library`.
    bool (*has_product)(void *library, const CudaProduct *product, int64_t alignment);
    void *library;
    const char *recompute;   // "layer": whole layers; else options of the pass; NULL: its default
    int64_t chunk, context;  // of prefill and decode
    int64_t sequences;       // batch of prefill and decode
    const Graph *transfer;   // what ENTRY_TRANSFER computes
    bool verify;             // the IR after every pass
    const Observer *observer;
} CompileOptions;

typedef struct Compilation {
    Ir *ir;
    const Module *module;
    Program *programs[ENTRY_COUNT];  // NULL: not asked for
    CpuCode *code;                   // NULL before compile_code, and for a GPU
    size_t kernels, cached;          // different ones; found on disk
    double pass_seconds, code_seconds, machine_seconds;  // code: machine code and memory plans
} Compilation;

// What its products are made in: bf16 where its train block asks for it (passes/precision.c).
Element module_precision(const Module *module);

// Runs the passes for the entries in `entries` (bits 1 << Entry). With ENTRY_DRAFT among them prefill and
// decode come from the graph `draft` too, so that they fill the caches of the heads. With ENTRY_ROUND these, and on a
// GPU gradients and evaluation, read rounded copies of the parameters that products take in bf16; where there are
// none it gets no program. ENTRY_UPDATE keeps those true that ENTRY_ACCUMULATE reads, compiled with it.
// NULL after errors.
Compilation *compile_programs(Ir *ir, const Module *module, uint32_t entries, const CompileOptions *options);
// Machine code and memory plan for all programs of the compilation.
bool compile_code(Compilation *compilation, const CompileOptions *options);
void compilation_destroy(Compilation *compilation);

#endif
