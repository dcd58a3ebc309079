// Loads and stores: between elements in memory and values in register form.
#include "codegen/cpu_emit.h"

LLVMValueRef cpu_at(CpuUnit *unit, LLVMValueRef pointer, Element element, LLVMValueRef index) {
    if (LLVMIsConstant(index) && LLVMIsNull(index)) return pointer;
    return LLVMBuildGEP2(unit->builder, cpu_memory_type(unit, element, 1), pointer, &index, 1, "");
}

LLVMValueRef cpu_at_bytes(CpuUnit *unit, LLVMValueRef pointer, LLVMValueRef bytes) {
    return LLVMBuildGEP2(unit->builder, unit->i8, pointer, &bytes, 1, "");
}

static LLVMValueRef to_register(CpuUnit *unit, Element element, LLVMValueRef raw) {
    LLVMBuilderRef b = unit->builder;
    if (element == ELEMENT_BOOL) return LLVMBuildICmp(b, LLVMIntNE, raw, cpu_zero(LLVMTypeOf(raw)), "");
    if (element != ELEMENT_BF16) return raw;
    LLVMTypeRef wide = cpu_vector_of(unit->i32, cpu_lanes(raw));
    LLVMValueRef bits = LLVMBuildZExt(b, raw, wide, "");
    bits = LLVMBuildShl(b, bits, cpu_number_like(bits, 16), "");
    return LLVMBuildBitCast(b, bits, cpu_register_type(unit, element, cpu_lanes(raw)), "");
}

static LLVMValueRef to_memory(CpuUnit *unit, Element element, LLVMValueRef value) {
    LLVMBuilderRef b = unit->builder;
    int lanes = cpu_lanes(value);
    if (element == ELEMENT_BOOL) return LLVMBuildZExt(b, value, cpu_vector_of(unit->i8, lanes), "");
    if (element != ELEMENT_BF16) return value;
    LLVMValueRef bits = LLVMBuildBitCast(b, value, cpu_vector_of(unit->i32, lanes), "");
    bits = LLVMBuildLShr(b, bits, cpu_number_like(bits, 16), "");
    return LLVMBuildTrunc(b, bits, cpu_vector_of(unit->i16, lanes), "");
}

LLVMValueRef cpu_load(CpuUnit *unit, Element element, LLVMValueRef pointer, int lanes, LLVMValueRef mask) {
    LLVMTypeRef type = cpu_memory_type(unit, element, lanes);
    unsigned alignment = (unsigned)element_bytes(element);
    if (!mask || lanes == 1) {
        LLVMValueRef raw = LLVMBuildLoad2(unit->builder, type, pointer, "");
        LLVMSetAlignment(raw, alignment);
        return to_register(unit, element, raw);
    }
    LLVMValueRef arguments[] = {pointer, cpu_i32(unit, alignment), mask, cpu_zero(type)};
    LLVMTypeRef overloads[] = {type, unit->pointer};
    return to_register(unit, element, cpu_intrinsic(unit, "llvm.masked.load", overloads, 2, arguments, 4));
}

void cpu_store(CpuUnit *unit, Element element, LLVMValueRef pointer, LLVMValueRef value, LLVMValueRef mask) {
    LLVMValueRef raw = to_memory(unit, element, value);
    unsigned alignment = (unsigned)element_bytes(element);
    if (!mask || cpu_lanes(raw) == 1) {
        LLVMSetAlignment(LLVMBuildStore(unit->builder, raw, pointer), alignment);
        return;
    }
    LLVMValueRef arguments[] = {raw, pointer, cpu_i32(unit, alignment), mask};
    LLVMTypeRef overloads[] = {LLVMTypeOf(raw), unit->pointer};
    cpu_intrinsic(unit, "llvm.masked.store", overloads, 2, arguments, 4);
}

void cpu_stream(CpuUnit *unit, Element element, LLVMValueRef pointer, LLVMValueRef value) {
    LLVMValueRef raw = to_memory(unit, element, value), one = cpu_i32(unit, 1);
    LLVMValueRef store = LLVMBuildStore(unit->builder, raw, pointer);
    LLVMSetAlignment(store, (unsigned)(cpu_lanes(raw) * element_bytes(element)));
    unsigned kind = LLVMGetMDKindIDInContext(unit->context, "nontemporal", 11);
    LLVMSetMetadata(store, kind, LLVMMDNodeInContext(unit->context, &one, 1));
}

void cpu_fence(CpuUnit *unit) {
    LLVMBuildFence(unit->builder, LLVMAtomicOrderingSequentiallyConsistent, false, "");
}

void cpu_keep_order(CpuUnit *unit) {
    LLVMBuildFence(unit->builder, LLVMAtomicOrderingAcquireRelease, true, "");
}

static LLVMValueRef all_lanes(CpuUnit *unit, int lanes) {
    return LLVMConstAllOnes(LLVMVectorType(unit->i1, (unsigned)lanes));
}

LLVMValueRef cpu_gather(CpuUnit *unit, Element element, LLVMValueRef pointer, LLVMValueRef index,
                        LLVMValueRef mask) {
    int lanes = cpu_lanes(index);
    if (lanes == 1) return cpu_load(unit, element, cpu_at(unit, pointer, element, index), 1, NULL);
    LLVMTypeRef type = cpu_memory_type(unit, element, lanes);
    LLVMValueRef pointers = cpu_at(unit, pointer, element, index);
    if (cpu_lanes(pointers) == 1) pointers = cpu_splat(unit, pointers, lanes);
    LLVMValueRef arguments[] = {pointers, cpu_i32(unit, element_bytes(element)),
                                mask ? mask : all_lanes(unit, lanes), cpu_zero(type)};
    LLVMTypeRef overloads[] = {type, LLVMTypeOf(pointers)};
    return to_register(unit, element, cpu_intrinsic(unit, "llvm.masked.gather", overloads, 2, arguments, 4));
}

void cpu_scatter(CpuUnit *unit, Element element, LLVMValueRef pointer, LLVMValueRef index,
                 LLVMValueRef value, LLVMValueRef mask) {
    int lanes = cpu_lanes(index);
    if (lanes == 1) {
        cpu_store(unit, element, cpu_at(unit, pointer, element, index), value, NULL);
        return;
    }
    LLVMValueRef raw = to_memory(unit, element, value);
    LLVMValueRef pointers = cpu_at(unit, pointer, element, index);
    if (cpu_lanes(pointers) == 1) pointers = cpu_splat(unit, pointers, lanes);
    LLVMValueRef arguments[] = {raw, pointers, cpu_i32(unit, element_bytes(element)),
                                mask ? mask : all_lanes(unit, lanes)};
    LLVMTypeRef overloads[] = {LLVMTypeOf(raw), LLVMTypeOf(pointers)};
    cpu_intrinsic(unit, "llvm.masked.scatter", overloads, 2, arguments, 4);
}

// Into all caches from the second (2) or the first (3) on.
static void prefetch(CpuUnit *unit, LLVMValueRef pointer, bool write, int cache) {
    LLVMValueRef arguments[] = {pointer, cpu_i32(unit, write), cpu_i32(unit, cache), cpu_i32(unit, 1)};
    cpu_intrinsic(unit, "llvm.prefetch", &unit->pointer, 1, arguments, 4);
}

void cpu_prefetch(CpuUnit *unit, LLVMValueRef pointer, bool write) { prefetch(unit, pointer, write, 3); }
void cpu_prefetch_far(CpuUnit *unit, LLVMValueRef pointer) { prefetch(unit, pointer, false, 2); }
