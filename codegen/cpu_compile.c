// From programs to machine code in memory: equal kernels of all programs are compiled once, in batches of
// some ten a module, by threads that each have their own LLVM context; functions that kernels share are defined
// by the first module that asks (cpu_helper.h); the objects are linked by LLJIT.
#include <inttypes.h>
#include <llvm-c/LLJIT.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/hash.h"
#include "base/thread.h"
#include "codegen/cpu_cache.h"
#include "codegen/cpu_helper.h"

enum { BATCH_MAX = 16 };

struct CpuCode {
    LLVMOrcLLJITRef jit;
    CpuStatistics statistics;
};

// ---- Which kernels ----

static void collect(CpuCompile *compile, Program *const *programs, size_t count) {
    size_t kernels = 0;
    for (size_t p = 0; p < count; p++) kernels += programs[p]->kernels.count;
    compile->items = ARENA_ARRAY(compile->ir->arena, CpuItem, kernels + 1);
    for (compile->table_size = 16; compile->table_size < 2 * kernels;) compile->table_size *= 2;
    compile->table = ARENA_ARRAY(compile->ir->arena, uint32_t, compile->table_size);
    for (size_t p = 0; p < count; p++)
        for (size_t k = 0; k < programs[p]->kernels.count; k++) {
            Kernel kernel = programs[p]->kernels.items[k];
            kernel.hash = cpu_kernel_key(&kernel);
            size_t slot = cpu_compile_slot(compile, kernel.hash);
            if (compile->table[slot]) continue;
            compile->items[compile->item_count++] = (CpuItem){.kernel = kernel};
            compile->table[slot] = (uint32_t)compile->item_count;
        }
    compile->statistics.kernels = kernels;
    compile->statistics.distinct = compile->item_count;
}

// ---- One batch, on a compile thread ----

static bool emit_batch(CpuCompile *compile, CpuUnit *unit, CpuBatch *batch) {
    unit->bundle = compile->bundle;
    unit->helpers = compile->helpers;
    for (size_t i = 0; i < batch->count; i++) {
        CpuItem *item = batch->items[i];
        if (!cpu_emit_kernel(unit, &item->kernel, &item->code)) return false;
        item->bundle = compile->bundle;
    }
    if (compile->verify && !cpu_llvm_verify(unit)) return false;
    if (unit->sanitize && !unit->sanitize(unit)) return false;
    batch->object = cpu_llvm_emit(unit, false);
    return batch->object != NULL;
}

static void compile_batch(CpuCompile *compile, CpuBatch *batch) {
    Arena *arena = arena_create();
    const char *failure = NULL;
    CpuUnit *unit = cpu_unit_create(arena, compile->target, compile->sanitize, &failure);
    if (unit && !emit_batch(compile, unit, batch)) {
        failure = unit->failure ? unit->failure : "no reason given";
        batch->failure_place = unit->failure_place;
    }
    if (failure) snprintf(batch->failure, sizeof batch->failure, "%s", failure);
    cpu_unit_destroy(unit);
    arena_destroy(arena);
}

static void compile_thread(void *context, int thread) {
    (void)thread;
    CpuCompile *compile = context;
    for (;;) {
        size_t next = atomic_fetch_add(&compile->next_batch, 1);
        if (next >= compile->batch_count) return;
        compile_batch(compile, &compile->batches[next]);
    }
}

static void make_batches(CpuCompile *compile, int threads) {
    size_t missing = 0;
    for (size_t i = 0; i < compile->item_count; i++) missing += !compile->items[i].found;
    size_t size = missing / (4 * (size_t)threads);
    size = size < 1 ? 1 : size > BATCH_MAX ? BATCH_MAX : size;
    compile->batches = ARENA_ARRAY(compile->ir->arena, CpuBatch, missing + 1);
    compile->bundle = compile->target_key;
    CpuBatch *batch = NULL;
    for (size_t i = 0; i < compile->item_count; i++) {
        if (compile->items[i].found) continue;
        if (!batch || batch->count == size) {
            batch = &compile->batches[compile->batch_count++];
            batch->items = ARENA_ARRAY(compile->ir->arena, CpuItem *, size);
        }
        batch->items[batch->count++] = &compile->items[i];
        compile->bundle = hash_word(compile->bundle, compile->items[i].kernel.hash);
    }
}

static bool compile_all(CpuCompile *compile, int threads) {
    if (threads <= 0) threads = thread_available_processors();
    make_batches(compile, threads);
    if ((size_t)threads > compile->batch_count) threads = (int)compile->batch_count;
    if (threads > 0) {
        ThreadPool *pool = thread_pool_create(threads);
        compile->helpers = cpu_helpers_create(compile->ir->arena);
        thread_pool_run(pool, compile_thread, compile);
        cpu_helpers_destroy(compile->helpers);
        thread_pool_destroy(pool);
    }
    bool ok = true;
    for (size_t i = 0; i < compile->batch_count; i++) {
        CpuBatch *batch = &compile->batches[i];
        if (!batch->failure[0]) continue;
        ok = report_error(compile->ir->diagnostics, batch->failure_place, "E0602", "code generation: %s",
                          batch->failure);
    }
    return ok;
}

// ---- Linking ----

static bool check_jit(Ir *ir, LLVMErrorRef error, const char *what) {
    if (!error) return true;
    char *message = LLVMGetErrorMessage(error);
    report_error(ir->diagnostics, NO_PLACE, "E0604", "%s: %s", what, message);
    LLVMDisposeErrorMessage(message);
    return false;
}

static bool start_jit(Ir *ir, CpuCode *code) {
    if (!check_jit(ir, LLVMOrcCreateLLJIT(&code->jit, NULL), "starting LLVM's linker")) return false;
    LLVMOrcDefinitionGeneratorRef process;
    char prefix = LLVMOrcLLJITGetGlobalPrefix(code->jit);
    LLVMErrorRef error = LLVMOrcCreateDynamicLibrarySearchGeneratorForProcess(&process, prefix, NULL, NULL);
    if (!check_jit(ir, error, "symbols of this process")) return false;
    LLVMOrcJITDylibAddGenerator(LLVMOrcLLJITGetMainJITDylib(code->jit), process);
    return true;
}

// The linker takes the buffer over.
static bool add_object(Ir *ir, CpuCode *code, LLVMMemoryBufferRef object) {
    code->statistics.object_bytes += LLVMGetBufferSize(object);
    LLVMOrcJITDylibRef library = LLVMOrcLLJITGetMainJITDylib(code->jit);
    return check_jit(ir, LLVMOrcLLJITAddObjectFile(code->jit, library, object), "adding object code");
}

static bool link_item(Ir *ir, CpuCode *code, CpuItem *item) {
    for (int phase = 0; phase < item->code.phase_count; phase++) {
        char symbol[64];
        snprintf(symbol, sizeof symbol, "cherry_%016" PRIx64 "_%016" PRIx64 "_%d", item->kernel.hash, item->bundle,
                 phase);
        LLVMOrcExecutorAddress address = 0;
        if (!check_jit(ir, LLVMOrcLLJITLookup(code->jit, &address, symbol), "linking")) return false;
        item->code.functions[phase] = (CpuFunction)(uintptr_t)address;
    }
    return true;
}

static bool link_all(CpuCompile *compile, CpuCode *code) {
    Ir *ir = compile->ir;
    if (!start_jit(ir, code)) return false;
    while (compile->cached_objects.count)
        if (!add_object(ir, code, compile->cached_objects.items[--compile->cached_objects.count])) return false;
    for (size_t i = 0; i < compile->batch_count; i++) {
        LLVMMemoryBufferRef object = compile->batches[i].object;
        compile->batches[i].object = NULL;
        if (!add_object(ir, code, object)) return false;
    }
    for (size_t i = 0; i < compile->item_count; i++)
        if (!link_item(ir, code, &compile->items[i])) return false;
    return true;
}

static void fill_kernels(CpuCompile *compile, Program *const *programs, size_t count) {
    for (size_t p = 0; p < count; p++)
        for (size_t k = 0; k < programs[p]->kernels.count; k++) {
            Kernel *kernel = &programs[p]->kernels.items[k];
            kernel->cpu = cpu_compile_find(compile, cpu_kernel_key(kernel))->code;
        }
}

// Those that no linker took over.
static void drop_objects(CpuCompile *compile) {
    for (size_t i = 0; i < compile->batch_count; i++)
        if (compile->batches[i].object) LLVMDisposeMemoryBuffer(compile->batches[i].object);
    for (size_t i = 0; i < compile->cached_objects.count; i++)
        LLVMDisposeMemoryBuffer(compile->cached_objects.items[i]);
}

CpuCode *cpu_compile(Ir *ir, Program *const *programs, size_t count, const CpuOptions *options) {
    static const CpuOptions defaults;
    if (!options) options = &defaults;
    double start = clock_seconds();
    const CpuTarget *target = cpu_target_create(ir, options);
    if (!target) return NULL;
    if (!target->native) {
        report_error(ir->diagnostics, NO_PLACE, "E0605", "code for '%s' cannot run on this machine", target->name);
        return NULL;
    }
    CpuCompile compile = {.ir = ir, .target = target, .sanitize = options->sanitize,
                          .target_key = cpu_target_key(target, options->sanitize != NULL),
                          .cache_folder = cpu_cache_folder(ir->arena, options)};
#ifndef NDEBUG
    compile.verify = true;
#endif
    CpuCode *code = calloc(1, sizeof *code);
    CHECK(code);
    collect(&compile, programs, count);
    cpu_cache_load(&compile);
    bool ok = compile_all(&compile, options->threads);
    if (ok) cpu_cache_store(&compile);
    ok = ok && link_all(&compile, code);
    drop_objects(&compile);
    if (!ok) {
        cpu_code_destroy(code);
        return NULL;
    }
    fill_kernels(&compile, programs, count);
    compile.statistics.object_bytes = code->statistics.object_bytes;
    code->statistics = compile.statistics;
    code->statistics.seconds = clock_seconds() - start;
    return code;
}

void cpu_code_destroy(CpuCode *code) {
    if (!code) return;
    if (code->jit) LLVMConsumeError(LLVMOrcDisposeLLJIT(code->jit));
    free(code);
}

CpuStatistics cpu_code_statistics(const CpuCode *code) { return code->statistics; }
