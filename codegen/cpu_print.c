// The generated code of a program as text, each kernel headed by the source lines that it came from.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/cpu_llvm.h"

typedef struct Lines {
    Place items[64];
    int count;
} Lines;

static void add_line(Lines *lines, Place place) {
    if (!place.file) return;
    for (int i = 0; i < lines->count; i++)
        if (lines->items[i].line == place.line && strcmp(lines->items[i].file, place.file) == 0) return;
    if (lines->count < 64) lines->items[lines->count++] = place;
}

static int by_line(const void *a, const void *b) {
    const Place *x = a, *y = b;
    int file = strcmp(x->file, y->file);
    return file ? file : (x->line > y->line) - (x->line < y->line);
}

static void print_header(const Kernel *kernel, const CpuKernel *code, const char *comment, FILE *stream) {
    Lines lines = {.count = 0};
    if (kernel->named) add_line(&lines, kernel->named->place);
    if (kernel->nest) {
        add_line(&lines, kernel->nest->place);
        for (size_t i = 0; i < kernel->nest->formulas.count; i++)
            add_line(&lines, kernel->nest->formulas.items[i].place);
        for (int s = 0; s < kernel->nest->stage_count; s++) add_line(&lines, kernel->nest->stages[s].place);
    }
    qsort(lines.items, (size_t)lines.count, sizeof *lines.items, by_line);
    fprintf(stream, "%s kernel %s: ", comment, kernel->name);
    for (int phase = 0; phase < code->phase_count; phase++)
        fprintf(stream, "%s%" PRId64, phase ? " + " : "", code->tasks[phase]);
    fprintf(stream, " tasks\n");
    for (int i = 0; i < lines.count; i++)
        fprintf(stream, "%s from %s:%u\n", comment, lines.items[i].file, (unsigned)lines.items[i].line);
}

static bool print_kernel(Ir *ir, Arena *arena, const CpuTarget *target, const CpuOptions *options,
                         const Kernel *kernel, bool assembly, FILE *stream) {
    const char *failure = NULL;
    CpuUnit *unit = cpu_unit_create(arena, target, options ? options->sanitize : NULL, &failure);
    if (!unit) return report_error(ir->diagnostics, NO_PLACE, "E0602", "code generation: %s", failure);
    CpuKernel code;
    bool ok = cpu_emit_kernel(unit, kernel, &code) && cpu_llvm_verify(unit);
    if (ok) print_header(kernel, &code, assembly ? "#" : ";", stream);
    if (ok && assembly) {
        LLVMMemoryBufferRef text = cpu_llvm_emit(unit, true);
        ok = text != NULL;
        if (ok) fwrite(LLVMGetBufferStart(text), 1, LLVMGetBufferSize(text), stream);
        if (ok) LLVMDisposeMemoryBuffer(text);
    } else if (ok) {
        char *text = LLVMPrintModuleToString(unit->module);
        fputs(text, stream);
        LLVMDisposeMessage(text);
    }
    if (!ok) report_error(ir->diagnostics, unit->failure_place, "E0602", "code generation: %s", unit->failure);
    fputc('\n', stream);
    cpu_unit_destroy(unit);
    return ok;
}

bool cpu_print(Ir *ir, const Program *program, const CpuOptions *options, bool assembly, FILE *stream) {
    const CpuTarget *target = cpu_target_create(ir, options);
    if (!target) return false;
    for (size_t k = 0; k < program->kernels.count; k++) {
        Arena *arena = arena_create();
        Kernel kernel = program->kernels.items[k];
        kernel.hash = cpu_kernel_key(&kernel);
        bool ok = print_kernel(ir, arena, target, options, &kernel, assembly, stream);
        arena_destroy(arena);
        if (!ok) return false;
    }
    return true;
}
