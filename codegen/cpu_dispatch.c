// Which generator makes the code of a kernel: the rows of cpu_generators.def, else the general one.
#include <string.h>

#include "codegen/cpu.h"
#include "codegen/cpu_emit.h"

typedef struct NestGenerator {
    bool (*supports)(const CpuTarget *target, const Nest *nest);
    bool (*emit)(CpuUnit *unit, const Kernel *kernel, CpuKernel *out);
} NestGenerator;

typedef struct NamedGenerator {
    const char *kernel;
    bool (*emit)(CpuUnit *unit, const Kernel *kernel, CpuKernel *out);
    bool composites;  // may ask for it
} NamedGenerator;

static const NestGenerator nest_generators[] = {
#define CPU_NEST_GENERATOR(name) {name##_supports, name##_emit},
#define CPU_NAMED_GENERATOR(kernel, function, composites)
#include "codegen/cpu_generators.def"
#undef CPU_NEST_GENERATOR
#undef CPU_NAMED_GENERATOR
    {NULL, cpu_nest_emit}};

static const NamedGenerator named_generators[] = {
#define CPU_NEST_GENERATOR(name)
#define CPU_NAMED_GENERATOR(kernel, function, composites) {#kernel, function, composites},
#include "codegen/cpu_generators.def"
#undef CPU_NEST_GENERATOR
#undef CPU_NAMED_GENERATOR
    {NULL, NULL, false}};

static const NamedGenerator *find_named(const char *name) {
    const NamedGenerator *row = named_generators;
    while (row->kernel && strcmp(row->kernel, name) != 0) row++;
    return row->kernel ? row : NULL;
}

bool cpu_has_kernel(const char *name) {
    const NamedGenerator *row = find_named(name);
    return row && row->composites;
}

bool cpu_emit_kernel(CpuUnit *unit, const Kernel *kernel, CpuKernel *out) {
    *out = (CpuKernel){0};
    if (kernel->named) {
        const NamedGenerator *row = find_named(kernel->named->name);
        if (!row) return cpu_fail(unit, kernel->named->place, "no CPU code for kernel %s", kernel->named->name);
        return row->emit(unit, kernel, out);
    }
    const NestGenerator *row = nest_generators;
    while (row->supports && !row->supports(unit->target, kernel->nest)) row++;
    return row->emit(unit, kernel, out);
}
