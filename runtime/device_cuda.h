// The device behind device.h: memory, copies, one stream, loaded kernels, products. For runtime/ alone.
#ifndef CHERRY_RUNTIME_DEVICE_CUDA_H
#define CHERRY_RUNTIME_DEVICE_CUDA_H

#include "base/vector.h"
#include "runtime/cuda_library.h"
#include "runtime/device.h"

enum { DEVICE_ALIGNMENT = 256 };
// cuBLASLt's own, for all products in turn. 32 MiB are what NVIDIA asks for on sm_90.
enum { DEVICE_WORKSPACE = 32 << 20 };

typedef struct DeviceBlock {
    CudaAddress address;
    int64_t bytes;
} DeviceBlock;

typedef struct LoadedModule {
    uint64_t key;  // of the kernel's text
    void *module;
} LoadedModule;

struct Device {
    Arena *arena;
    Diagnostics *diagnostics;
    CudaDriver driver;
    CublasLibrary cublas;
    int number, version;               // version: of CUDA, the driver's
    void *context, *stream, *handle;  // handle: cuBLASLt's
    char name[128], architecture[16];
    DeviceBlock workspace;
    VECTOR(LoadedModule) modules;
    struct DeviceProduct *products;  // a list
    int64_t used, peak;  // bytes
    bool failed, careful;
    bool overlaps;             // a launch may begin before the one in front of it ends
    const char *running;  // the program that was last asked to run, or NULL
};

static inline int cublas_status(int status) { return status ? status | CUBLAS_STATUS : 0; }

static inline int64_t device_align(int64_t bytes) {
    return (bytes + DEVICE_ALIGNMENT - 1) & ~(int64_t)(DEVICE_ALIGNMENT - 1);
}

// True where `status` is success. Else reports E0645 once, with what was being done and what the driver or cuBLASLt
// (CUBLAS_STATUS) says, and the device has failed.
bool device_check(Device *device, int status, const char *doing);

// After a look at what is free: E0643 with both figures. Nothing for 0 bytes.
bool device_allocate(Device *device, int64_t bytes, DeviceBlock *block);
void device_release(Device *device, DeviceBlock *block);

// Waits for everything before it and is done when it returns.
void device_read(Device *device, void *to, CudaAddress from, int64_t bytes);
void device_write(Device *device, CudaAddress to, const void *from, int64_t bytes);
void device_clear(Device *device, CudaAddress address, int64_t bytes);  // in order with what runs

// A function of a kernel's image, loaded once whatever the programs that use it. NULL after an error.
void *device_function(Device *device, const CudaKernel *kernel, const CudaPhase *phase);

// ---- Products: device_cuda_product.c ----

typedef struct DeviceProduct DeviceProduct;
// The bytes, at most 256, that divide all addresses of a product.
int64_t device_product_alignment(const CudaProduct *product, const CudaAddress *operands, CudaAddress workspace);
// Descriptions and algorithms for such addresses; it lives as long as the device. NULL after an error: E0644 where
// cuBLASLt has none. `kernel` (or NULL) is named in it.
DeviceProduct *device_product_create(Device *device, const CudaProduct *product, int64_t alignment, const Kernel *kernel);
// `operands` are base addresses, `workspace` is the kernel's. Places are those of `product`: of the shape that was
// created, whatever their offsets. An algorithm that does not start is not tried again.
int device_product_run(Device *device, DeviceProduct *made, const CudaProduct *product, const CudaAddress *operands,
                       CudaAddress workspace);
void device_products_release(Device *device);

#endif
