#include "codegen/cpu_helper.h"

#include <pthread.h>
#include <string.h>

struct CpuHelpers {
    pthread_mutex_t mutex;
    Arena *arena;
    VECTOR(const char *) names;  // some ten
};

CpuHelpers *cpu_helpers_create(Arena *arena) {
    CpuHelpers *helpers = ARENA_NEW(arena, CpuHelpers);
    *helpers = (CpuHelpers){.arena = arena};
    CHECK(pthread_mutex_init(&helpers->mutex, NULL) == 0);
    return helpers;
}

void cpu_helpers_destroy(CpuHelpers *helpers) { pthread_mutex_destroy(&helpers->mutex); }

// The first to ask for a name defines it.
static bool claim(CpuHelpers *helpers, const char *name) {
    bool found = false;
    pthread_mutex_lock(&helpers->mutex);
    for (size_t i = 0; i < helpers->names.count && !found; i++) found = strcmp(helpers->names.items[i], name) == 0;
    if (!found) vector_push(helpers->arena, &helpers->names, arena_copy(helpers->arena, name, strlen(name)));
    pthread_mutex_unlock(&helpers->mutex);
    return !found;
}

CpuHelper cpu_helper_begin(CpuUnit *unit, const char *name, LLVMTypeRef type) {
    CpuHelper helper = {.function = LLVMGetNamedFunction(unit->module, name)};
    if (helper.function) return helper;
    helper.function = LLVMAddFunction(unit->module, name, type);
    cpu_function_attributes(unit, helper.function);
    if (unit->helpers && !claim(unit->helpers, name)) return helper;
    // Weak: what was compiled at another time may define it too.
    LLVMSetLinkage(helper.function, unit->helpers ? LLVMWeakODRLinkage : LLVMInternalLinkage);
    helper.before = LLVMGetInsertBlock(unit->builder);
    helper.fresh = true;
    LLVMBasicBlockRef entry = LLVMAppendBasicBlockInContext(unit->context, helper.function, "entry");
    LLVMSetCurrentDebugLocation2(unit->builder, NULL);
    LLVMPositionBuilderAtEnd(unit->builder, entry);
    return helper;
}

void cpu_helper_end(CpuUnit *unit, CpuHelper *helper) {
    LLVMBuildRetVoid(unit->builder);
    if (helper->before) LLVMPositionBuilderAtEnd(unit->builder, helper->before);
}

void cpu_helper_call(CpuUnit *unit, LLVMValueRef function, LLVMValueRef *arguments, unsigned count) {
    LLVMBuildCall2(unit->builder, LLVMGlobalGetValueType(function), function, arguments, count, "");
}
