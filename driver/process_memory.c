#include "driver/process_memory.h"

#include <stdio.h>

int64_t process_peak_bytes(void) {
    FILE *status = fopen("/proc/self/status", "r");
    if (!status) return 0;
    char line[256];
    long long kilobytes = 0;
    while (fgets(line, sizeof line, status))
        if (sscanf(line, "VmHWM: %lld kB", &kilobytes) == 1) break;
    fclose(status);
    return (int64_t)kilobytes * 1024;
}
