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

// BF16_DOT: products of bf16 pairs take no longer than multiply-adds of f32, so twice the work gets done. Measured on
// Emerald Rapids they take four times as long: half the work, and widened to f32 products are faster there.
typedef enum Width { NARROW, AVX2, AVX512, AVX512_BF16, AVX512_BF16_DOT } Width;

// The processors that --cpu names, as LLVM spells them: LLVM prints to stderr or aborts when it is asked for
// a name that it does not know, and its C API has no question for what a name stands for.
static const struct NamedCpu {
    const char *name;
    Width width;
} named_cpus[] = {
    {"x86-64", NARROW},
    {"x86-64-v2", NARROW},
    {"nehalem", NARROW},
    {"sandybridge", NARROW},
    {"x86-64-v3", AVX2},
    {"haswell", AVX2},
    {"broadwell", AVX2},
    {"skylake", AVX2},
    {"alderlake", AVX2},
    {"raptorlake", AVX2},
    {"meteorlake", AVX2},
    {"arrowlake", AVX2},
    {"lunarlake", AVX2},
    {"sierraforest", AVX2},
    {"znver1", AVX2},
    {"znver2", AVX2},
    {"znver3", AVX2},
    {"x86-64-v4", AVX512},
    {"skylake-avx512", AVX512},
    {"cascadelake", AVX512},
    {"icelake-client", AVX512},
    {"icelake-server", AVX512},
    {"tigerlake", AVX512},
    {"rocketlake", AVX512},
    {"cooperlake", AVX512_BF16_DOT},
    {"sapphirerapids", AVX512_BF16},
    {"emeraldrapids", AVX512_BF16},
    {"graniterapids", AVX512_BF16},
    {"znver4", AVX512_BF16_DOT},
    {"znver5", AVX512_BF16_DOT},
};
enum { NAMED_CPUS = sizeof named_cpus / sizeof *named_cpus };

static bool report_unknown(Ir *ir, const char *cpu) {
    report_error(ir->diagnostics, NO_PLACE, "E0606", "--cpu '%.80s' is not known", cpu);
    const char *names = "native, aarch64";
    for (int i = 0; i < NAMED_CPUS; i++)
        if (named_cpus[i].width != NARROW) names = arena_format(ir->arena, "%s, %s", names, named_cpus[i].name);
    report_hint(ir->diagnostics, "there are: %s", names);
    return false;
}

static bool describe_named(Ir *ir, CpuTarget *target, const char *cpu) {
    int at = 0;
    while (at < NAMED_CPUS && strcmp(named_cpus[at].name, cpu) != 0) at++;
    if (at == NAMED_CPUS) return report_unknown(ir, cpu);
    Width width = named_cpus[at].width;
    *target = (CpuTarget){.triple = "x86_64-pc-linux-gnu", .name = named_cpus[at].name, .features = "",
                          .avx2 = width >= AVX2, .avx512 = width >= AVX512, .avx512_bf16 = width >= AVX512_BF16,
                          .bf16_dot = width >= AVX512_BF16_DOT};
    return true;
}

// By name, as no feature says it.
static bool has_fast_dot(const char *name) {
    for (int i = 0; i < NAMED_CPUS; i++)
        if (strcmp(named_cpus[i].name, name) == 0) return named_cpus[i].width >= AVX512_BF16_DOT;
    return strncmp(name, "znver", 5) == 0;
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
    target->bf16_dot = target->avx512_bf16 && has_fast_dot(target->name);
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
        if (!describe_named(ir, target, cpu)) return NULL;
#ifdef __x86_64__
        CpuTarget host = {0};
        describe_host(ir->arena, &host);
        target->native = (host.avx2 || !target->avx2) && (host.avx512 || !target->avx512) &&
                         (host.avx512_bf16 || !target->avx512_bf16);
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
