// Keys of kernels: hashes of all that generated code depends on. They name symbols and cache files, so
// they must be the same in every process: types count by their text, never by their address.
#include <sys/stat.h>

#include "base/hash.h"
#include "codegen/cpu_llvm.h"

// What generated the code: this very program. Any rebuild gets new keys, so that no version number has to
// be remembered when a generator changes.
static uint64_t generator_key(void) {
    struct stat status;
    if (stat("/proc/self/exe", &status) != 0) return 0;
    uint64_t hash = hash_word(HASH_START, (uint64_t)status.st_size);
    hash = hash_word(hash, (uint64_t)status.st_mtim.tv_sec);
    return hash_word(hash, (uint64_t)status.st_mtim.tv_nsec);
}

static uint64_t type_key(uint64_t hash, const Type *type) {
    hash = hash_word(hash, (uint64_t)type->element << 8 | (uint64_t)type->rank);
    for (int d = 0; d < type->rank; d++) {
        hash = hash_text(hash, type->dimensions[d].name);
        hash = hash_word(hash, (uint64_t)type->dimensions[d].extent);
        hash = hash_text(hash, type->dimensions[d].bound);
    }
    return hash;
}

static uint64_t named_key(const NamedKernel *named) {
    uint64_t hash = hash_word(hash_text(HASH_START, named->name), (uint64_t)named->output_start);
    for (uint32_t i = 0; i < named->option_count; i++) {
        const Option *option = &named->options[i];
        hash = hash_text(hash_text(hash, option->name), option->text);
        if (!option->text) hash = hash_bytes(hash, &option->number, sizeof option->number);
    }
    for (int i = 0; i < named->operand_count; i++) {
        hash = type_key(hash, named->types[i]);
        hash = hash_bytes(hash, named->strides[i], sizeof(int64_t) * (size_t)named->types[i]->rank);
    }
    return hash;
}

uint64_t cpu_kernel_key(const Kernel *kernel) {
    return kernel->nest ? hash_word(1, nest_hash(kernel->nest)) : hash_word(2, named_key(kernel->named));
}

uint64_t cpu_target_key(const CpuTarget *target, bool sanitize) {
    Arena *arena = arena_create();
    uint64_t hash = hash_text(generator_key(), cpu_llvm_version(arena));
    hash = hash_text(hash_text(hash_text(hash, target->triple), target->name), target->features);
    arena_destroy(arena);
    return hash_word(hash, sanitize);
}
