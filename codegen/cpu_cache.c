// Object code on disk. One file, a bundle, holds what was compiled together, so that all that its objects call is
// there; every kernel of it has a hard link to it under its own name, so a kernel is found whatever it was compiled
// with. The cache never fails: what is missing, damaged or of another version is compiled again, and what cannot
// be written is not.
//
// File: Header, an Entry per kernel, the size of each object, the objects. The checksum covers everything behind it.
#include "codegen/cpu_cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "codegen/cache_folder.h"

enum { FOLDER_LIMIT = 256 << 20 };  // bytes of files; the oldest go first

typedef struct Header {
    char magic[8];
    uint64_t checksum;
    uint64_t target_key, bundle;
    uint64_t entries, objects;
} Header;

typedef struct Entry {
    uint64_t kernel;
    int64_t phase_count, pack_count, tasks[PHASE_MAX], scratch_bytes, workspace_bytes[WORKSPACE_MAX];
    uint64_t packed_key[WORKSPACE_MAX];
    int32_t packed_operand[WORKSPACE_MAX];
    int64_t pack_optional[WORKSPACE_MAX];
} Entry;

static const char magic[8] = "CHERRY5";

// ---- Where ----

const char *cpu_cache_folder(Arena *arena, const CpuOptions *options) {
    return options->cache ? cache_folder(arena, options->cache_folder) : NULL;
}

static const char *entry_path(Arena *arena, const CpuCompile *compile, uint64_t kernel) {
    return arena_format(arena, "%s/%016" PRIx64 "-%016" PRIx64 ".o", compile->cache_folder,
                        kernel, compile->target_key);
}

// ---- Reading ----

static char *read_whole(Arena *arena, const char *path, size_t *length) {
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (file < 0) return NULL;
    struct stat status;
    char *data = NULL;
    if (fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == geteuid()) {
        *length = (size_t)status.st_size;
        data = arena_allocate(arena, *length + 1);
        size_t got = 0;
        for (ssize_t n; got < *length && (n = read(file, data + got, *length - got)) > 0;) got += (size_t)n;
        if (got != *length) data = NULL;
    }
    close(file);
    return data;
}

static uint64_t checksum(const char *data, size_t length) {
    size_t skipped = offsetof(Header, checksum) + sizeof(uint64_t);
    return hash_bytes(HASH_START, data + skipped, length - skipped);
}

static uint64_t object_size(const char *sizes, uint64_t number) {
    uint64_t size;
    memcpy(&size, sizes + number * sizeof size, sizeof size);
    return size;
}

static bool is_sound(const CpuCompile *compile, const char *data, size_t length) {
    Header header;
    if (!data || length < sizeof header) return false;
    memcpy(&header, data, sizeof header);
    if (memcmp(header.magic, magic, sizeof magic) != 0 || header.target_key != compile->target_key) return false;
    if (header.checksum != checksum(data, length)) return false;
    size_t left = length - sizeof header;
    if (header.entries > left / sizeof(Entry)) return false;
    left -= header.entries * sizeof(Entry);
    if (header.objects > left / sizeof(uint64_t)) return false;
    const char *sizes = data + length - left;
    left -= header.objects * sizeof(uint64_t);
    for (uint64_t i = 0; i < header.objects; i++) {
        if (object_size(sizes, i) > left) return false;
        left -= object_size(sizes, i);
    }
    return left == 0;
}

static void take_entry(CpuCompile *compile, const Entry *entry, uint64_t bundle) {
    CpuItem *item = cpu_compile_find(compile, entry->kernel);
    if (!item || item->found) return;
    item->found = true;
    item->bundle = bundle;
    item->code.phase_count = (int)entry->phase_count;
    memcpy(item->code.tasks, entry->tasks, sizeof entry->tasks);
    item->code.scratch_bytes = entry->scratch_bytes;
    item->code.pack_count = (int)entry->pack_count;
    memcpy(item->code.workspace_bytes, entry->workspace_bytes, sizeof entry->workspace_bytes);
    memcpy(item->code.packed_operand, entry->packed_operand, sizeof entry->packed_operand);
    for (int i = 0; i < WORKSPACE_MAX; i++) item->code.pack_optional[i] = entry->pack_optional[i] != 0;
    memcpy(item->code.packed_key, entry->packed_key, sizeof entry->packed_key);
}

static void take_file(CpuCompile *compile, const char *data) {
    Header header;
    memcpy(&header, data, sizeof header);
    for (uint64_t i = 0; i < header.entries; i++) {
        Entry entry;
        memcpy(&entry, data + sizeof header + i * sizeof entry, sizeof entry);
        take_entry(compile, &entry, header.bundle);
    }
    const char *sizes = data + sizeof header + header.entries * sizeof(Entry);
    const char *object = sizes + header.objects * sizeof(uint64_t);
    for (uint64_t i = 0; i < header.objects; i++) {
        uint64_t size = object_size(sizes, i);
        LLVMMemoryBufferRef buffer = LLVMCreateMemoryBufferWithMemoryRangeCopy(object, size, "cached");
        vector_push(compile->ir->arena, &compile->cached_objects, buffer);
        object += size;
    }
}

void cpu_cache_load(CpuCompile *compile) {
    if (!compile->cache_folder) return;
    Arena *arena = arena_create();
    for (size_t i = 0; i < compile->item_count; i++) {
        if (compile->items[i].found) continue;
        const char *path = entry_path(arena, compile, compile->items[i].kernel.hash);
        size_t length = 0;
        char *data = read_whole(arena, path, &length);
        if (is_sound(compile, data, length)) take_file(compile, data);
        if (data && !compile->items[i].found) unlink(path);  // damaged, or not what its name says
    }
    arena_destroy(arena);
    for (size_t i = 0; i < compile->item_count; i++) compile->statistics.cached += compile->items[i].found;
}

// ---- Writing ----

static Entry entry_of(const CpuItem *item) {
    const CpuKernel *code = &item->code;
    Entry entry = {.kernel = item->kernel.hash, .phase_count = code->phase_count,
                   .pack_count = code->pack_count, .scratch_bytes = code->scratch_bytes};
    memcpy(entry.tasks, code->tasks, sizeof entry.tasks);
    memcpy(entry.workspace_bytes, code->workspace_bytes, sizeof entry.workspace_bytes);
    memcpy(entry.packed_operand, code->packed_operand, sizeof entry.packed_operand);
    for (int w = 0; w < WORKSPACE_MAX; w++) entry.pack_optional[w] = code->pack_optional[w];
    memcpy(entry.packed_key, code->packed_key, sizeof entry.packed_key);
    return entry;
}

static char *pack(Arena *arena, const CpuCompile *compile, size_t *length) {
    Header header = {.target_key = compile->target_key, .bundle = compile->bundle, .objects = compile->batch_count};
    memcpy(header.magic, magic, sizeof magic);
    *length = sizeof header;
    for (size_t b = 0; b < compile->batch_count; b++) {
        header.entries += compile->batches[b].count;
        *length += sizeof(uint64_t) + LLVMGetBufferSize(compile->batches[b].object);
    }
    *length += header.entries * sizeof(Entry);
    char *data = arena_allocate(arena, *length), *entries = data + sizeof header;
    char *sizes = entries + header.entries * sizeof(Entry), *object = sizes + header.objects * sizeof(uint64_t);
    for (size_t b = 0; b < compile->batch_count; b++) {
        const CpuBatch *batch = &compile->batches[b];
        for (size_t i = 0; i < batch->count; i++, entries += sizeof(Entry)) {
            Entry entry = entry_of(batch->items[i]);
            memcpy(entries, &entry, sizeof entry);
        }
        uint64_t size = LLVMGetBufferSize(batch->object);
        memcpy(sizes + b * sizeof size, &size, sizeof size);
        memcpy(object, LLVMGetBufferStart(batch->object), size);
        object += size;
    }
    memcpy(data, &header, sizeof header);
    header.checksum = checksum(data, *length);
    memcpy(data, &header, sizeof header);
    return data;
}

static bool write_whole(const char *path, const char *data, size_t length) {
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) return false;
    size_t done = 0;
    for (ssize_t n; done < length && (n = write(file, data + done, length - done)) > 0;) done += (size_t)n;
    return close(file) == 0 && done == length;
}

static void store_bundle(Arena *arena, const CpuCompile *compile) {
    size_t length;
    const char *data = pack(arena, compile, &length);
    const char *temporary = arena_format(arena, "%s/%016" PRIx64 ".tmp-%ld", compile->cache_folder,
                                         compile->bundle, (long)getpid());
    bool good = write_whole(temporary, data, length);
    for (size_t b = 0; b < compile->batch_count; b++)
        for (size_t i = 0; i < compile->batches[b].count && good; i++) {
            const char *path = entry_path(arena, compile, compile->batches[b].items[i]->kernel.hash);
            // Another process may have been first: its file is as good.
            good = link(temporary, path) == 0 || access(path, F_OK) == 0;
        }
    unlink(temporary);
}

typedef struct Aged {
    char name[64];
    int64_t time, bytes;
} Aged;

static int by_age(const void *a, const void *b) {
    const Aged *x = a, *y = b;
    return (x->time > y->time) - (x->time < y->time);
}

// Each link counts for its share of the file.
static void bound_folder(Arena *arena, const char *folder) {
    VECTOR(Aged) files = {0};
    int64_t total = 0;
    DIR *directory = opendir(folder);
    if (!directory) return;
    for (struct dirent *item; (item = readdir(directory));) {
        struct stat status;
        Aged aged = {.time = 0};
        if (strlen(item->d_name) >= sizeof aged.name || item->d_name[0] == '.') continue;
        if (fstatat(dirfd(directory), item->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
        if (!S_ISREG(status.st_mode) || !strstr(item->d_name, ".o")) continue;
        strcpy(aged.name, item->d_name);
        aged.time = status.st_mtime;
        aged.bytes = (int64_t)status.st_size / (int64_t)(status.st_nlink ? status.st_nlink : 1);
        total += aged.bytes;
        vector_push(arena, &files, aged);
    }
    if (total > FOLDER_LIMIT) {
        qsort(files.items, files.count, sizeof *files.items, by_age);
        for (size_t i = 0; i < files.count && total > FOLDER_LIMIT / 4 * 3; i++) {
            unlinkat(dirfd(directory), files.items[i].name, 0);
            total -= files.items[i].bytes;
        }
    }
    closedir(directory);
}

void cpu_cache_store(CpuCompile *compile) {
    if (!compile->cache_folder || !compile->batch_count) return;
    Arena *arena = arena_create();
    store_bundle(arena, compile);
    bound_folder(arena, compile->cache_folder);
    arena_destroy(arena);
}
