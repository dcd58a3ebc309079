// Object code on disk, by kernel. See cpu_cache.c.
#ifndef CHERRY_CODEGEN_CPU_CACHE_H
#define CHERRY_CODEGEN_CPU_CACHE_H

#include "codegen/cpu_compile.h"

// The folder of the options, made where it is missing; NULL: no cache.
const char *cpu_cache_folder(Arena *arena, const CpuOptions *options);

void cpu_cache_load(CpuCompile *compile);   // marks items as found and collects their objects
void cpu_cache_store(CpuCompile *compile);  // what was compiled, as one bundle

#endif
