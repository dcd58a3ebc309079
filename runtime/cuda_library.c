// Finds the calls of NVIDIA's libraries: see cuda_library.h.
#include "runtime/cuda_library.h"

#include <dlfcn.h>
#include <string.h>

typedef struct Call {
    void *at;
    const char *name;
} Call;

static void *open_library(const char *path) { return dlopen(path, RTLD_NOW | RTLD_LOCAL); }

static bool find_calls(Diagnostics *diagnostics, void *library, const char *name, const Call *calls, size_t count) {
    for (size_t i = 0; i < count; i++) {
        void *call = dlsym(library, calls[i].name);
        if (!call)
            return report_error(diagnostics, NO_PLACE, "E0641", "%s has no %s: it is too old; 12.0 is needed", name,
                                calls[i].name);
        memcpy(calls[i].at, &call, sizeof call);
    }
    return true;
}

bool cuda_driver_open(Diagnostics *diagnostics, CudaDriver *driver) {
    static const char *const paths[] = {"libcuda.so.1", "/usr/local/nvidia/lib64/libcuda.so.1",  // of containers
                                        "/usr/lib/wsl/lib/libcuda.so.1"};
    *driver = (CudaDriver){0};
    for (size_t i = 0; i < sizeof paths / sizeof *paths && !driver->library; i++)
        driver->library = open_library(paths[i]);
    if (!driver->library) {
        report_error(diagnostics, NO_PLACE, "E0640", "no NVIDIA driver here: libcuda.so.1 was not found");
        report_hint(diagnostics, "install it (Debian: apt-get install nvidia-driver; Ubuntu: ubuntu-drivers install), or "
                                 "use --device cpu");
        return false;
    }
    const Call calls[] = {{&driver->initialize, "cuInit"},
                          {&driver->version, "cuDriverGetVersion"},
                          {&driver->device_count, "cuDeviceGetCount"},
                          {&driver->device_get, "cuDeviceGet"},
                          {&driver->device_name, "cuDeviceGetName"},
                          {&driver->device_attribute, "cuDeviceGetAttribute"},
                          {&driver->context_retain, "cuDevicePrimaryCtxRetain"},
                          {&driver->context_release, "cuDevicePrimaryCtxRelease_v2"},
                          {&driver->context_set, "cuCtxSetCurrent"},
                          {&driver->error_text, "cuGetErrorString"},
                          {&driver->memory_info, "cuMemGetInfo_v2"},
                          {&driver->allocate, "cuMemAlloc_v2"},
                          {&driver->release, "cuMemFree_v2"},
                          {&driver->allocate_host, "cuMemAllocHost_v2"},
                          {&driver->release_host, "cuMemFreeHost"},
                          {&driver->set, "cuMemsetD8Async"},
                          {&driver->to_device, "cuMemcpyHtoDAsync_v2"},
                          {&driver->to_host, "cuMemcpyDtoHAsync_v2"},
                          {&driver->on_device, "cuMemcpyDtoDAsync_v2"},
                          {&driver->module_load, "cuModuleLoadData"},
                          {&driver->module_unload, "cuModuleUnload"},
                          {&driver->module_function, "cuModuleGetFunction"},
                          {&driver->function_attribute, "cuFuncSetAttribute"},
                          {&driver->launch, "cuLaunchKernelEx"},
                          {&driver->stream_create, "cuStreamCreate"},
                          {&driver->stream_destroy, "cuStreamDestroy_v2"},
                          {&driver->stream_wait, "cuStreamSynchronize"},
                          {&driver->capture_begin, "cuStreamBeginCapture_v2"},
                          {&driver->capture_end, "cuStreamEndCapture"},
                          {&driver->graph_instantiate, "cuGraphInstantiateWithFlags"},
                          {&driver->graph_launch, "cuGraphLaunch"},
                          {&driver->graph_destroy, "cuGraphDestroy"},
                          {&driver->executable_destroy, "cuGraphExecDestroy"},
                          {&driver->event_create, "cuEventCreate"},
                          {&driver->event_destroy, "cuEventDestroy_v2"},
                          {&driver->event_record, "cuEventRecord"},
                          {&driver->event_wait, "cuEventSynchronize"},
                          {&driver->event_milliseconds, "cuEventElapsedTime"}};
    return find_calls(diagnostics, driver->library, "the NVIDIA driver", calls, sizeof calls / sizeof *calls);
}

static bool find_cublas_calls(Diagnostics *diagnostics, CublasLibrary *cublas) {
    const Call calls[] = {{&cublas->create, "cublasLtCreate"},
                          {&cublas->destroy, "cublasLtDestroy"},
                          {&cublas->toolkit, "cublasLtGetCudartVersion"},
                          {&cublas->status_text, "cublasLtGetStatusString"},
                          {&cublas->description_create, "cublasLtMatmulDescCreate"},
                          {&cublas->description_destroy, "cublasLtMatmulDescDestroy"},
                          {&cublas->description_set, "cublasLtMatmulDescSetAttribute"},
                          {&cublas->layout_create, "cublasLtMatrixLayoutCreate"},
                          {&cublas->layout_destroy, "cublasLtMatrixLayoutDestroy"},
                          {&cublas->layout_set, "cublasLtMatrixLayoutSetAttribute"},
                          {&cublas->preference_create, "cublasLtMatmulPreferenceCreate"},
                          {&cublas->preference_destroy, "cublasLtMatmulPreferenceDestroy"},
                          {&cublas->preference_set, "cublasLtMatmulPreferenceSetAttribute"},
                          {&cublas->choose, "cublasLtMatmulAlgoGetHeuristic"},
                          {&cublas->multiply, "cublasLtMatmul"}};
    return find_calls(diagnostics, cublas->library, "cuBLASLt", calls, sizeof calls / sizeof *calls);
}

// `newer`: the version of what was passed over first, or 0.
static bool report_no_cublas(Diagnostics *diagnostics, int driver, int newer) {
    if (newer) {
        report_error(diagnostics, NO_PLACE, "E0640",
                     "the NVIDIA driver is of CUDA %d.%d and does not run cuBLASLt of CUDA %d", driver / 1000,
                     driver % 1000 / 10, newer / 1000);
        report_hint(diagnostics,
                    "install libcublasLt.so.%d beside it (pip install nvidia-cublas-cu%d, and set LD_LIBRARY_PATH to its "
                    "folder), or a driver of CUDA %d",
                    driver / 1000, driver / 1000, newer / 1000);
        return false;
    }
    report_error(diagnostics, NO_PLACE, "E0640", "no cuBLASLt here: libcublasLt.so.13 or .12 of the CUDA toolkit");
    report_hint(diagnostics,
                "install it (Debian, Ubuntu with NVIDIA's archive: apt-get install libcublas-13-0) or set "
                "LD_LIBRARY_PATH to its folder");
    return false;
}

bool cublas_open(Diagnostics *diagnostics, int driver, CublasLibrary *cublas) {
    static const char *const paths[] = {
        "libcublasLt.so.13",
        "libcublasLt.so.12",
        "/usr/local/cuda/lib64/libcublasLt.so.13",
        "/usr/local/cuda/lib64/libcublasLt.so.12",
        "/usr/local/cuda-13.0/lib64/libcublasLt.so.13",
        "/usr/local/cuda-12.8/lib64/libcublasLt.so.12",
        "/usr/lib/x86_64-linux-gnu/libcublasLt.so.12",
        "/usr/lib/aarch64-linux-gnu/libcublasLt.so.12",
    };
    int newer = 0;
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        *cublas = (CublasLibrary){.library = open_library(paths[i])};
        if (!cublas->library) continue;
        if (!find_cublas_calls(diagnostics, cublas)) return false;
        if ((int)cublas->toolkit() / 1000 <= driver / 1000) return true;
        if (!newer) newer = (int)cublas->toolkit();
    }
    return report_no_cublas(diagnostics, driver, newer);
}
