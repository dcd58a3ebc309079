// AddressSanitizer inside generated code. In a file of its own: whatever does not call it carries none of LLVM's passes.
#include <llvm-c/Transforms/PassBuilder.h>

#include "codegen/cpu_llvm.h"

static bool run_passes(CpuUnit *unit, const char *passes) {
    LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
    LLVMErrorRef error = LLVMRunPasses(unit->module, passes, unit->machine, options);
    LLVMDisposePassBuilderOptions(options);
    if (!error) return true;
    char *message = LLVMGetErrorMessage(error);
    cpu_fail(unit, NO_PLACE, "LLVM pass: %s", message);
    LLVMDisposeErrorMessage(message);
    return false;
}

// The pass adds a constructor that would register globals of ours, of which there are none; objects with
// constructors cannot be linked side by side.
bool cpu_sanitize(CpuUnit *unit) {
    if (!run_passes(unit, "asan")) return false;
    LLVMValueRef list = LLVMGetNamedGlobal(unit->module, "llvm.global_ctors");
    if (list) LLVMDeleteGlobal(list);
    LLVMValueRef constructor = LLVMGetNamedFunction(unit->module, "asan.module_ctor");
    if (constructor) LLVMDeleteFunction(constructor);
    return true;
}
