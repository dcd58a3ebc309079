// Device: a GPU that programs run on. NULL stands for the host's own processors everywhere.
// libcuda and libcublasLt are opened here, at run time; nothing of CUDA's headers is needed to build.
#ifndef CHERRY_RUNTIME_DEVICE_H
#define CHERRY_RUNTIME_DEVICE_H

#include "ir/program.h"

typedef struct Device Device;

// The first NVIDIA GPU. NULL after reporting what is missing and what to install (E0640 to E0642).
Device *device_open(Diagnostics *diagnostics);
void device_close(Device *device);

const char *device_name(const Device *device);          // "NVIDIA H200"
const char *device_architecture(const Device *device);  // "sm_90": what kernels are compiled for
int device_driver(const Device *device);                // version of CUDA that its driver has: 12080
// Whether machine code for an architecture runs on it: code for its generation up to it; for "sm_90a" on sm_90 alone.
bool device_runs(const Device *device, const char *architecture);
int64_t device_peak_bytes(const Device *device);        // the most that was allocated at once

// False once anything failed: a kernel, a copy, the device itself. It was reported then, with the kernel's name
// and line where they are known; whatever runs afterwards does nothing.
bool device_works(const Device *device);

// Whether every launch is waited for, so that one that fails is named: of each program's first run it is anyway.
void device_set_careful(Device *device, bool careful);

// Whether cuBLASLt has an algorithm for a product whose operands lie on multiples of `alignment` bytes.
bool device_has_product(Device *device, const CudaProduct *product, int64_t alignment);

// Multiply-adds of an 8192-cubed product of bf16 (2048 where memory is short), FLOP/s; copying on the device,
// bytes read and written a second. 0 where it cannot be measured.
double device_measure_flops(Device *device);
double device_measure_bandwidth(Device *device);

#endif
