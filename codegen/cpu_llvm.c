// What differs between LLVM versions or needs its global registries: target set-up, intrinsics by name,
// attributes, code emission. The only other places that name LLVM's own types are the emission files.
#include "codegen/cpu_llvm.h"

#include <llvm-c/Analysis.h>
#include <llvm-c/Support.h>
#include <llvm-c/Target.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>

// LLVM's target registry and its command line are process-wide; both are set once.
static void start_llvm(void) {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
    LLVMInitializeX86AsmParser();
    LLVMInitializeAArch64TargetInfo();
    LLVMInitializeAArch64Target();
    LLVMInitializeAArch64TargetMC();
    LLVMInitializeAArch64AsmPrinter();
    LLVMInitializeAArch64AsmParser();
    // Loops are emitted in the form that they shall keep; strength reduction only costs time.
    static const char *const arguments[] = {"cherry", "-disable-lsr"};
    LLVMParseCommandLineOptions(2, arguments, "");
}

void cpu_llvm_start(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start_llvm);
}

const char *cpu_llvm_version(Arena *arena) {
    unsigned major, minor, patch;
    LLVMGetVersion(&major, &minor, &patch);
    return arena_format(arena, "%u.%u.%u", major, minor, patch);
}

LLVMTargetMachineRef cpu_llvm_machine(const CpuTarget *target, const char **failure) {
    LLVMTargetRef description;
    char *message = NULL;
    if (LLVMGetTargetFromTriple(target->triple, &description, &message)) {
        *failure = "LLVM was built without this machine's instruction set";
        LLVMDisposeMessage(message);
        return NULL;
    }
    LLVMTargetMachineRef machine =
        LLVMCreateTargetMachine(description, target->triple, target->name, target->features,
                                LLVMCodeGenLevelDefault, LLVMRelocPIC, LLVMCodeModelDefault);
    if (!machine) *failure = "LLVM cannot make a target machine";
    return machine;
}

// ---- A module ----

CpuUnit *cpu_unit_create(Arena *arena, const CpuTarget *target, CpuSanitize sanitize, const char **failure) {
    LLVMTargetMachineRef machine = cpu_llvm_machine(target, failure);
    if (!machine) return NULL;
    CpuUnit *unit = ARENA_NEW(arena, CpuUnit);
    *unit = (CpuUnit){.arena = arena, .target = target, .sanitize = sanitize, .machine = machine};
    LLVMContextRef context = unit->context = LLVMContextCreate();
    unit->module = LLVMModuleCreateWithNameInContext("cherry", context);
    unit->builder = LLVMCreateBuilderInContext(context);
    LLVMSetTarget(unit->module, target->triple);
    LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(machine);
    LLVMSetModuleDataLayout(unit->module, layout);
    LLVMDisposeTargetData(layout);
    unit->void_type = LLVMVoidTypeInContext(context);
    unit->i1 = LLVMInt1TypeInContext(context);
    unit->i8 = LLVMInt8TypeInContext(context);
    unit->i16 = LLVMInt16TypeInContext(context);
    unit->i32 = LLVMInt32TypeInContext(context);
    unit->i64 = LLVMInt64TypeInContext(context);
    unit->f32 = LLVMFloatTypeInContext(context);
    unit->f64 = LLVMDoubleTypeInContext(context);
    unit->pointer = LLVMPointerTypeInContext(context, 0);
    LLVMTypeRef parameters[] = {unit->pointer, unit->pointer, unit->pointer, unit->i64, unit->i64};
    unit->function_type = LLVMFunctionType(unit->void_type, parameters, 5, false);
    return unit;
}

void cpu_unit_destroy(CpuUnit *unit) {
    if (!unit) return;
    LLVMDisposeBuilder(unit->builder);
    LLVMDisposeModule(unit->module);
    LLVMContextDispose(unit->context);
    LLVMDisposeTargetMachine(unit->machine);
}

bool cpu_fail(CpuUnit *unit, Place place, const char *format, ...) {
    if (unit->failure) return false;
    va_list arguments;
    va_start(arguments, format);
    unit->failure = arena_format_list(unit->arena, format, arguments);
    va_end(arguments);
    unit->failure_place = place;
    return false;
}

// ---- What it is made of ----

LLVMValueRef cpu_intrinsic(CpuUnit *unit, const char *name, const LLVMTypeRef *overloads,
                           unsigned overload_count, const LLVMValueRef *arguments,
                           unsigned argument_count) {
    unsigned id = LLVMLookupIntrinsicID(name, strlen(name));
    if (!id) INTERNAL_ERROR("this LLVM has no intrinsic %s", name);
    LLVMTypeRef *types = (LLVMTypeRef *)overloads;
    LLVMValueRef function = LLVMGetIntrinsicDeclaration(unit->module, id, types, overload_count);
    LLVMTypeRef type = LLVMIntrinsicGetType(unit->context, id, types, overload_count);
    return LLVMBuildCall2(unit->builder, type, function, (LLVMValueRef *)arguments, argument_count, "");
}

bool cpu_llvm_has_intrinsic(const char *name) { return LLVMLookupIntrinsicID(name, strlen(name)) != 0; }

// Unknown attributes have kind 0, which crashes when it is used: an attribute that this LLVM lacks is
// left out.
void cpu_llvm_attribute(CpuUnit *unit, LLVMValueRef function, unsigned place, const char *name) {
    unsigned kind = LLVMGetEnumAttributeKindForName(name, strlen(name));
    if (!kind) return;
    LLVMAddAttributeAtIndex(function, place, LLVMCreateEnumAttribute(unit->context, kind, 0));
}

void cpu_llvm_text_attribute(CpuUnit *unit, LLVMValueRef function, const char *name, const char *value) {
    LLVMAttributeRef attribute = LLVMCreateStringAttribute(unit->context, name, (unsigned)strlen(name),
                                                           value, (unsigned)strlen(value));
    LLVMAddAttributeAtIndex(function, (LLVMAttributeIndex)LLVMAttributeFunctionIndex, attribute);
}

// ---- What becomes of it ----

bool cpu_llvm_verify(CpuUnit *unit) {
    char *message = NULL;
    bool broken = LLVMVerifyModule(unit->module, LLVMReturnStatusAction, &message);
    if (broken) cpu_fail(unit, NO_PLACE, "LLVM rejects the generated module: %s", message);
    LLVMDisposeMessage(message);
    return !broken;
}

LLVMMemoryBufferRef cpu_llvm_emit(CpuUnit *unit, bool assembly) {
    char *message = NULL;
    LLVMMemoryBufferRef buffer = NULL;
    LLVMCodeGenFileType kind = assembly ? LLVMAssemblyFile : LLVMObjectFile;
    if (LLVMTargetMachineEmitToMemoryBuffer(unit->machine, unit->module, kind, &message, &buffer)) {
        cpu_fail(unit, NO_PLACE, "LLVM: %s", message);
        LLVMDisposeMessage(message);
        return NULL;
    }
    return buffer;
}
