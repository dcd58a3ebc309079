// The process's peak resident memory.
#ifndef CHERRY_DRIVER_PROCESS_MEMORY_H
#define CHERRY_DRIVER_PROCESS_MEMORY_H

#include <stdint.h>

int64_t process_peak_bytes(void);  // VmHWM; 0 where the system does not tell

#endif
