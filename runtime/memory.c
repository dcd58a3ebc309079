// Memory from the system: see memory.h.
#include "runtime/memory.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20 };

// The number after `key` in a file of "key value" lines (after the start, where key is ""); -1: none.
static int64_t read_number(const char *path, const char *key) {
    FILE *stream = fopen(path, "re");
    if (!stream) return -1;
    char line[256];
    long long number = -1;
    size_t length = strlen(key);
    while (number < 0 && fgets(line, sizeof line, stream))
        if (strncmp(line, key, length) == 0 && sscanf(line + length, "%lld", &number) != 1) break;
    fclose(stream);
    return number;
}

int64_t memory_available(void) {
    int64_t kilobytes = read_number("/proc/meminfo", "MemAvailable:");
    int64_t available = kilobytes < 0 ? INT64_MAX : kilobytes * 1024;
    int64_t limit = read_number("/sys/fs/cgroup/memory.max", "");  // "max" reads as none
    int64_t used = read_number("/sys/fs/cgroup/memory.current", "");
    int64_t cached = read_number("/sys/fs/cgroup/memory.stat", "inactive_file ");
    if (limit >= 0 && used >= 0) {
        int64_t left = limit - used + (cached > 0 ? cached : 0);
        if (left < available) available = left > 0 ? left : 0;
    }
    return available;
}

bool memory_check(Diagnostics *diagnostics, int64_t bytes, const char *what) {
    int64_t available = memory_available();
    if (bytes <= available) return true;
    return report_error(diagnostics, NO_PLACE, "E0952", "%s needs %.2f GiB of memory, %.2f GiB are available", what,
                        (double)bytes / (1 << 30), (double)available / (1 << 30));
}

bool memory_allocate(Diagnostics *diagnostics, int64_t bytes, const char *what, MemoryBlock *block) {
    *block = (MemoryBlock){0};
    return (bytes <= 0 || memory_check(diagnostics, bytes, what)) && memory_reserve(diagnostics, bytes, what, block);
}

bool memory_reserve(Diagnostics *diagnostics, int64_t bytes, const char *what, MemoryBlock *block) {
    *block = (MemoryBlock){0};
    if (bytes <= 0) return true;
    int64_t slack = bytes >= HUGE_PAGE ? HUGE_PAGE : 0;
    void *mapping = mmap(NULL, (size_t)(bytes + slack), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED)
        return report_error(diagnostics, NO_PLACE, "E0952", "cannot get %.2f GiB of memory for %s: %s",
                            (double)bytes / (1 << 30), what, strerror(errno));
    uintptr_t start = (uintptr_t)mapping;
    if (slack) start = (start + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1);
    *block = (MemoryBlock){.data = (char *)start, .bytes = bytes, .mapping = mapping, .mapping_bytes = bytes + slack};
    if (slack) (void)madvise(block->data, (size_t)bytes, MADV_HUGEPAGE);  // speed only
    return true;
}

void memory_release(MemoryBlock *block) {
    if (block->mapping) munmap(block->mapping, (size_t)block->mapping_bytes);
    *block = (MemoryBlock){0};
}
