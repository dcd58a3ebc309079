// What runtime/cuda_library.h says of NVIDIA's interfaces, against NVIDIA's own headers where they are installed.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#if __has_include(<cuda.h>) && __has_include(<cublasLt.h>)
#include <cublasLt.h>
#include <cuda.h>
#define CUDA_ERROR_OUT_OF_MEMORY OUR_OUT_OF_MEMORY
#define CUDA_ERROR_NO_DEVICE OUR_NO_DEVICE
#include "runtime/cuda_library.h"
#undef CUDA_ERROR_OUT_OF_MEMORY
#undef CUDA_ERROR_NO_DEVICE

#define SAME(ours, theirs) _Static_assert((long long)(ours) == (long long)(theirs), #ours " is " #theirs)

SAME(CUDA_DEVICE_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
SAME(CUDA_DEVICE_MINOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
SAME(CUDA_FUNCTION_DYNAMIC_SHARED, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
SAME(CUDA_STREAM_NON_BLOCKING, CU_STREAM_NON_BLOCKING);
SAME(CUDA_CAPTURE_THREAD_LOCAL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
SAME(CUDA_EVENT_DEFAULT, CU_EVENT_DEFAULT);
SAME(CUDA_LAUNCH_OVERLAP, CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);
SAME(sizeof(CudaLaunchAttribute), sizeof(CUlaunchAttribute));
SAME(offsetof(CudaLaunchAttribute, value), offsetof(CUlaunchAttribute, value.programmaticStreamSerializationAllowed));
SAME(sizeof(CudaLaunch), sizeof(CUlaunchConfig));
SAME(offsetof(CudaLaunch, block), offsetof(CUlaunchConfig, blockDimX));
SAME(offsetof(CudaLaunch, shared_bytes), offsetof(CUlaunchConfig, sharedMemBytes));
SAME(offsetof(CudaLaunch, stream), offsetof(CUlaunchConfig, hStream));
SAME(offsetof(CudaLaunch, attributes), offsetof(CUlaunchConfig, attrs));
SAME(offsetof(CudaLaunch, attribute_count), offsetof(CUlaunchConfig, numAttrs));
SAME(OUR_OUT_OF_MEMORY, CUDA_ERROR_OUT_OF_MEMORY);
SAME(OUR_NO_DEVICE, CUDA_ERROR_NO_DEVICE);
SAME(sizeof(CudaAddress), sizeof(CUdeviceptr));

SAME(CUBLAS_TYPE_F32, CUDA_R_32F);
SAME(CUBLAS_TYPE_BF16, CUDA_R_16BF);
SAME(CUBLAS_COMPUTE_F32, CUBLAS_COMPUTE_32F);
SAME(CUBLAS_TRANSPOSE, CUBLAS_OP_T);
SAME(CUBLAS_DESCRIPTION_TRANSPOSE_A, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(CUBLAS_DESCRIPTION_TRANSPOSE_B, CUBLASLT_MATMUL_DESC_TRANSB);
SAME(CUBLAS_DESCRIPTION_EPILOGUE, CUBLASLT_MATMUL_DESC_EPILOGUE);
SAME(CUBLAS_DESCRIPTION_BIAS, CUBLASLT_MATMUL_DESC_BIAS_POINTER);
SAME(CUBLAS_DESCRIPTION_BIAS_TYPE, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE);
SAME(CUBLAS_LAYOUT_BATCH, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT);
SAME(CUBLAS_LAYOUT_BATCH_STEP, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET);
SAME(CUBLAS_PREFERENCE_WORKSPACE, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(CUBLAS_PREFERENCE_ALIGNMENT, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(CUBLAS_PREFERENCE_ALIGNMENT + 1, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
SAME(CUBLAS_PREFERENCE_ALIGNMENT + 2, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
SAME(CUBLAS_PREFERENCE_ALIGNMENT + 3, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
SAME(CUBLAS_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_BIAS);
SAME(sizeof(CublasChoice), sizeof(cublasLtMatmulHeuristicResult_t));
SAME(offsetof(CublasChoice, workspace_bytes), offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
SAME(offsetof(CublasChoice, state), offsetof(cublasLtMatmulHeuristicResult_t, state));
SAME(offsetof(CublasChoice, waves), offsetof(cublasLtMatmulHeuristicResult_t, wavesCount));

static void headers_agree(void **state) {
    (void)state;
    print_message("headers of CUDA %d.%d, checked as this was compiled\n", CUDA_VERSION / 1000, CUDA_VERSION % 1000 / 10);
}
#else
static void headers_agree(void **state) {
    (void)state;
    print_message("skipped: cuda.h and cublasLt.h are not installed\n");
    skip();
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(headers_agree)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
