// The calls of libcuda and libcublasLt that are used, found at run time. Handles are opaque pointers; a result of 0
// is success. Constants are those of CUDA 12 and 13, whose interfaces are stable.
#ifndef CHERRY_RUNTIME_CUDA_LIBRARY_H
#define CHERRY_RUNTIME_CUDA_LIBRARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/diagnostics.h"

typedef uint64_t CudaAddress;  // of memory on the device

enum {
    CUDA_DEVICE_MAJOR = 75,          // attributes of devices: compute capability
    CUDA_DEVICE_MINOR = 76,
    CUDA_FUNCTION_DYNAMIC_SHARED = 8,
    CUDA_STREAM_NON_BLOCKING = 1,
    CUDA_CAPTURE_RELAXED = 2,        // libraries may load code on the way
    CUDA_EVENT_DEFAULT = 0,
    CUDA_LAUNCH_OVERLAP = 6,         // attribute of a launch: it may begin before the one in front of it ends
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NO_DEVICE = 100
};

typedef struct CudaLaunchAttribute {  // CUlaunchAttribute
    int number;
    union {
        int64_t aligned;
        int value;
        char bytes[64];
    };
} CudaLaunchAttribute;

typedef struct CudaLaunch {  // CUlaunchConfig
    unsigned grid[3], block[3], shared_bytes;
    void *stream;
    const CudaLaunchAttribute *attributes;
    unsigned attribute_count;
} CudaLaunch;

typedef struct CudaDriver {
    void *library;
    int (*initialize)(unsigned flags);
    int (*version)(int *version);
    int (*device_count)(int *count);
    int (*device_get)(int *device, int ordinal);
    int (*device_name)(char *name, int limit, int device);
    int (*device_attribute)(int *value, int attribute, int device);
    int (*context_retain)(void **context, int device);
    int (*context_release)(int device);
    int (*context_set)(void *context);
    int (*error_text)(int error, const char **text);
    int (*memory_info)(size_t *available, size_t *total);
    int (*allocate)(CudaAddress *address, size_t bytes);
    int (*release)(CudaAddress address);
    int (*allocate_host)(void **address, size_t bytes);
    int (*release_host)(void *address);
    int (*set)(CudaAddress address, unsigned char value, size_t bytes, void *stream);
    int (*to_device)(CudaAddress to, const void *from, size_t bytes, void *stream);
    int (*to_host)(void *to, CudaAddress from, size_t bytes, void *stream);
    int (*on_device)(CudaAddress to, CudaAddress from, size_t bytes, void *stream);
    int (*module_load)(void **module, const void *image);
    int (*module_unload)(void *module);
    int (*module_function)(void **function, void *module, const char *name);
    int (*function_attribute)(void *function, int attribute, int value);
    int (*launch)(const CudaLaunch *launch, void *function, void **parameters, void **extra);
    int (*stream_create)(void **stream, unsigned flags);
    int (*stream_destroy)(void *stream);
    int (*stream_wait)(void *stream);
    int (*capture_begin)(void *stream, int mode);
    int (*capture_end)(void *stream, void **graph);
    int (*graph_instantiate)(void **executable, void *graph, unsigned long long flags);
    int (*graph_launch)(void *executable, void *stream);
    int (*graph_destroy)(void *graph);
    int (*executable_destroy)(void *executable);
    int (*event_create)(void **event, unsigned flags);
    int (*event_destroy)(void *event);
    int (*event_record)(void *event, void *stream);
    int (*event_wait)(void *event);
    int (*event_milliseconds)(float *milliseconds, void *begin, void *end);
} CudaDriver;

enum {
    CUBLAS_TYPE_F32 = 0,
    CUBLAS_TYPE_BF16 = 14,
    CUBLAS_COMPUTE_F32 = 68,
    CUBLAS_TRANSPOSE = 1,
    CUBLAS_DESCRIPTION_TRANSPOSE_A = 3,
    CUBLAS_DESCRIPTION_TRANSPOSE_B = 4,
    CUBLAS_DESCRIPTION_EPILOGUE = 7,
    CUBLAS_DESCRIPTION_BIAS = 8,
    CUBLAS_DESCRIPTION_BEFORE = 11,  // what an activation is taken of, where it is kept
    CUBLAS_DESCRIPTION_BEFORE_LEAD = 12,
    CUBLAS_DESCRIPTION_BEFORE_TYPE = 22,
    CUBLAS_DESCRIPTION_BIAS_TYPE = 26,
    CUBLAS_LAYOUT_BATCH = 5,
    CUBLAS_LAYOUT_BATCH_STEP = 6,
    CUBLAS_PREFERENCE_WORKSPACE = 1,
    CUBLAS_PREFERENCE_REDUCTION = 3,  // where k is split: what the sums of its parts may be
    CUBLAS_PREFERENCE_ALIGNMENT = 5,  // of a, b, c, d: 5 to 8, bytes; else 256 is taken for granted
    CUBLAS_EPILOGUE_BIAS = 4,  // these are added up
    CUBLAS_EPILOGUE_GELU = 32,
    CUBLAS_EPILOGUE_BEFORE = 128,
    CUBLAS_REDUCTION_COMPUTE_TYPE = 2,  // as what is accumulated: f32
    // What cuBLASLt answers has this bit from device_product_run on: its numbers are not the driver's.
    CUBLAS_STATUS = 1 << 16
};

typedef struct CublasChoice {  // cublasLtMatmulHeuristicResult_t
    uint64_t algorithm[8];
    size_t workspace_bytes;
    int state;
    float waves;
    int reserved[4];
} CublasChoice;

typedef struct CublasLibrary {
    void *library;
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    size_t (*toolkit)(void);  // version of CUDA that it belongs to: 13000
    const char *(*status_text)(int status);
    int (*description_create)(void **description, int compute, int scale_type);
    int (*description_destroy)(void *description);
    int (*description_set)(void *description, int attribute, const void *value, size_t bytes);
    int (*layout_create)(void **layout, int type, uint64_t rows, uint64_t columns, int64_t lead);
    int (*layout_destroy)(void *layout);
    int (*layout_set)(void *layout, int attribute, const void *value, size_t bytes);
    int (*preference_create)(void **preference);
    int (*preference_destroy)(void *preference);
    int (*preference_set)(void *preference, int attribute, const void *value, size_t bytes);
    int (*choose)(void *handle, void *description, void *a, void *b, void *c, void *d, void *preference, int wanted,
                  CublasChoice *choices, int *found);
    int (*multiply)(void *handle, void *description, const void *alpha, CudaAddress a, void *layout_a, CudaAddress b,
                    void *layout_b, const void *beta, CudaAddress c, void *layout_c, CudaAddress d, void *layout_d,
                    const uint64_t *algorithm, CudaAddress workspace, size_t workspace_bytes, void *stream);
} CublasLibrary;

// False after reporting which library is missing (E0640) or too old (E0641), and what to install.
bool cuda_driver_open(Diagnostics *diagnostics, CudaDriver *driver);
// The first that runs on a driver of this version: of its major version or an earlier one.
bool cublas_open(Diagnostics *diagnostics, int driver, CublasLibrary *cublas);

#endif
