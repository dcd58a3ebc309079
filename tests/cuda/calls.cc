// The calls of runtime/cuda_library.h against NVIDIA's prototypes: as many arguments, each as wide and of its kind.
// Compiled where NVIDIA's headers are installed; the names of the symbols are for unit/cuda_abi to look up.
#include <cublasLt.h>
#include <cuda.h>

#include <type_traits>

#define CUDA_ERROR_OUT_OF_MEMORY OUR_OUT_OF_MEMORY
#define CUDA_ERROR_NO_DEVICE OUR_NO_DEVICE
extern "C" {
#include "runtime/cuda_library.h"
}

template <class A, class B> constexpr bool alike() {
    return sizeof(A) == sizeof(B) && std::is_floating_point<A>::value == std::is_floating_point<B>::value;
}
template <class R, class... A, class S, class... B> constexpr bool alike_calls(R (*)(A...), S (*)(B...)) {
    if constexpr (sizeof...(A) == sizeof...(B)) return alike<R, S>() && (alike<A, B>() && ...);
    return false;
}

#define NAME_OF(name) #name
#define CALL(library, ours, theirs)                                                                       \
    static_assert(alike_calls(decltype(library::ours)(nullptr), decltype (&theirs)(nullptr)), #theirs);
#define CALLS(DRIVER, CUBLAS)                                                                             \
    DRIVER(initialize, cuInit)                                                                            \
    DRIVER(version, cuDriverGetVersion)                                                                   \
    DRIVER(device_count, cuDeviceGetCount)                                                                \
    DRIVER(device_get, cuDeviceGet)                                                                       \
    DRIVER(device_name, cuDeviceGetName)                                                                  \
    DRIVER(device_attribute, cuDeviceGetAttribute)                                                        \
    DRIVER(context_retain, cuDevicePrimaryCtxRetain)                                                      \
    DRIVER(context_release, cuDevicePrimaryCtxRelease)                                                    \
    DRIVER(context_set, cuCtxSetCurrent)                                                                  \
    DRIVER(error_text, cuGetErrorString)                                                                  \
    DRIVER(memory_info, cuMemGetInfo)                                                                     \
    DRIVER(allocate, cuMemAlloc)                                                                          \
    DRIVER(release, cuMemFree)                                                                            \
    DRIVER(allocate_host, cuMemAllocHost)                                                                 \
    DRIVER(release_host, cuMemFreeHost)                                                                   \
    DRIVER(set, cuMemsetD8Async)                                                                          \
    DRIVER(to_device, cuMemcpyHtoDAsync)                                                                  \
    DRIVER(to_host, cuMemcpyDtoHAsync)                                                                    \
    DRIVER(on_device, cuMemcpyDtoDAsync)                                                                  \
    DRIVER(module_load, cuModuleLoadData)                                                                 \
    DRIVER(module_unload, cuModuleUnload)                                                                 \
    DRIVER(module_function, cuModuleGetFunction)                                                          \
    DRIVER(function_attribute, cuFuncSetAttribute)                                                        \
    DRIVER(launch, cuLaunchKernelEx)                                                                      \
    DRIVER(stream_create, cuStreamCreate)                                                                 \
    DRIVER(stream_destroy, cuStreamDestroy)                                                               \
    DRIVER(stream_wait, cuStreamSynchronize)                                                              \
    DRIVER(capture_begin, cuStreamBeginCapture)                                                           \
    DRIVER(capture_end, cuStreamEndCapture)                                                               \
    DRIVER(graph_instantiate, cuGraphInstantiateWithFlags)                                                \
    DRIVER(graph_launch, cuGraphLaunch)                                                                   \
    DRIVER(graph_destroy, cuGraphDestroy)                                                                 \
    DRIVER(executable_destroy, cuGraphExecDestroy)                                                        \
    DRIVER(event_create, cuEventCreate)                                                                   \
    DRIVER(event_destroy, cuEventDestroy)                                                                 \
    DRIVER(event_record, cuEventRecord)                                                                   \
    DRIVER(event_wait, cuEventSynchronize)                                                                \
    DRIVER(event_milliseconds, cuEventElapsedTime)                                                        \
    CUBLAS(create, cublasLtCreate)                                                                        \
    CUBLAS(destroy, cublasLtDestroy)                                                                      \
    CUBLAS(toolkit, cublasLtGetCudartVersion)                                                             \
    CUBLAS(status_text, cublasLtGetStatusString)                                                          \
    CUBLAS(description_create, cublasLtMatmulDescCreate)                                                  \
    CUBLAS(description_destroy, cublasLtMatmulDescDestroy)                                                \
    CUBLAS(description_set, cublasLtMatmulDescSetAttribute)                                               \
    CUBLAS(layout_create, cublasLtMatrixLayoutCreate)                                                     \
    CUBLAS(layout_destroy, cublasLtMatrixLayoutDestroy)                                                   \
    CUBLAS(layout_set, cublasLtMatrixLayoutSetAttribute)                                                  \
    CUBLAS(preference_create, cublasLtMatmulPreferenceCreate)                                             \
    CUBLAS(preference_destroy, cublasLtMatmulPreferenceDestroy)                                           \
    CUBLAS(preference_set, cublasLtMatmulPreferenceSetAttribute)                                          \
    CUBLAS(choose, cublasLtMatmulAlgoGetHeuristic)                                                        \
    CUBLAS(multiply, cublasLtMatmul)

#define DRIVER_CALL(ours, theirs) CALL(CudaDriver, ours, theirs)
#define CUBLAS_CALL(ours, theirs) CALL(CublasLibrary, ours, theirs)
CALLS(DRIVER_CALL, CUBLAS_CALL)

// Each structure is its library and the calls above.
#define ONE(ours, theirs) +1
#define NONE(ours, theirs)
static_assert(sizeof(CudaDriver) == sizeof(void *) * (1 CALLS(ONE, NONE)), "a call of the driver is not checked");
static_assert(sizeof(CublasLibrary) == sizeof(void *) * (1 CALLS(NONE, ONE)), "a call of cuBLASLt is not checked");

// What the header makes of each name: cuMemAlloc is cuMemAlloc_v2.
#define NAME(ours, theirs) NAME_OF(theirs),
extern "C" const char *const cuda_call_names[] = {CALLS(NAME, NAME) nullptr};
