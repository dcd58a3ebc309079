// The machine that code is generated for: this one, or one that is named.
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>
#include <string.h>

#include "codegen/cpu_llvm.h"

// LLVM's own text, copied into the arena.
static const char *take_text(Arena *arena, char *text) {
    const char *copy = arena_copy(arena, text, strlen(text));
    LLVMDisposeMessage(text);
    return copy;
}

static bool has_feature(const char *features, const char *name) {
    size_t length = strlen(name);
    for (const char *at = features; (at = strstr(at, name)); at += length)
        if (at > features && at[-1] == '+' && (at[length] == ',' || !at[length])) return true;
    return false;
}

// Which vector features a named CPU has, asked from LLVM's own tables through the names that people use.
// Levels of x86-64 and the AVX-512 machines are told apart by name; the rest counts as AVX2.
static void describe_named(CpuTarget *target, const char *cpu) {
    static const char *const wide[] = {"x86-64-v4", "skylake-avx512", "cascadelake", "cooperlake",
                                       "icelake",   "tigerlake",      "rocketlake",  "sapphirerapids",
                                       "emeraldrapids", "graniterapids", "znver4", "znver5"};
    static const char *const bf16[] = {"cooperlake", "sapphirerapids", "emeraldrapids", "graniterapids",
                                       "znver4", "znver5"};
    static const char *const narrow[] = {"x86-64", "x86-64-v2", "nehalem", "sandybridge", "btver2"};
    target->avx2 = true;
    for (size_t i = 0; i < sizeof narrow / sizeof *narrow; i++)
        if (strcmp(cpu, narrow[i]) == 0) target->avx2 = false;
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
        if (strncmp(cpu, wide[i], strlen(wide[i])) == 0) target->avx512 = true;
    for (size_t i = 0; i < sizeof bf16 / sizeof *bf16; i++)
        if (strncmp(cpu, bf16[i], strlen(bf16[i])) == 0) target->avx512_bf16 = true;
}

static void describe_host(Arena *arena, CpuTarget *target) {
    target->triple = take_text(arena, LLVMGetDefaultTargetTriple());
    target->name = take_text(arena, LLVMGetHostCPUName());
    target->features = take_text(arena, LLVMGetHostCPUFeatures());
    target->native = true;
    target->neon = strncmp(target->triple, "aarch64", 7) == 0;
    target->avx2 = has_feature(target->features, "avx2") && has_feature(target->features, "fma");
    target->avx512 = target->avx2 && has_feature(target->features, "avx512f") &&
                     has_feature(target->features, "avx512bw") &&
                     has_feature(target->features, "avx512dq") && has_feature(target->features, "avx512vl");
    target->avx512_bf16 = target->avx512 && has_feature(target->features, "avx512bf16");
}

// Multiply-add in one rounding is part of what values mean here, so every machine must have it.
static bool has_fma(const CpuTarget *target) { return target->neon || target->avx2; }

const CpuTarget *cpu_target_create(Ir *ir, const CpuOptions *options) {
    cpu_llvm_start();
    CpuTarget *target = ARENA_NEW(ir->arena, CpuTarget);
    const char *cpu = options ? options->cpu : NULL;
    if (!cpu || strcmp(cpu, "native") == 0) {
        describe_host(ir->arena, target);
    } else if (strncmp(cpu, "aarch64", 7) == 0) {
        *target = (CpuTarget){.triple = "aarch64-unknown-linux-gnu", .name = "generic", .features = "+neon",
                              .neon = true};
#ifdef __aarch64__
        target->native = true;
#endif
    } else {
        *target = (CpuTarget){.triple = "x86_64-pc-linux-gnu", .name = cpu, .features = ""};
        describe_named(target, cpu);
#ifdef __x86_64__
        target->native = true;
#endif
    }
    target->vector_bits = target->avx512 ? 512 : target->avx2 ? 256 : 128;
    target->lanes = target->vector_bits / 32;
    target->registers = target->avx512 || target->neon ? 32 : 16;
    target->masks = target->avx512;
    if (!has_fma(target)) {
        report_error(ir->diagnostics, NO_PLACE, "E0603",
                     "the CPU back end needs AVX2 with FMA, or NEON; '%s' has neither", target->name);
        return NULL;
    }
    return target;
}
