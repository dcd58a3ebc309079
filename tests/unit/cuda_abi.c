// What runtime/cuda_library.h says of NVIDIA's interfaces, against NVIDIA's own headers where they are installed.
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"

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
SAME(CUDA_CAPTURE_RELAXED, CU_STREAM_CAPTURE_MODE_RELAXED);
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
SAME(CUBLAS_DESCRIPTION_BEFORE, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER);
SAME(CUBLAS_DESCRIPTION_BEFORE_LEAD, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD);
SAME(CUBLAS_DESCRIPTION_BEFORE_TYPE, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE);
SAME(CUBLAS_EPILOGUE_BIAS | CUBLAS_EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU_BIAS);
SAME(CUBLAS_EPILOGUE_GELU | CUBLAS_EPILOGUE_BEFORE, CUBLASLT_EPILOGUE_GELU_AUX);
SAME(CUBLAS_EPILOGUE_BIAS | CUBLAS_EPILOGUE_GELU | CUBLAS_EPILOGUE_BEFORE, CUBLASLT_EPILOGUE_GELU_AUX_BIAS);
SAME(CUBLAS_LAYOUT_BATCH, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT);
SAME(CUBLAS_LAYOUT_BATCH_STEP, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET);
SAME(CUBLAS_PREFERENCE_WORKSPACE, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(CUBLAS_PREFERENCE_REDUCTION, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
SAME(CUBLAS_REDUCTION_COMPUTE_TYPE, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
SAME(CUBLAS_PREFERENCE_ALIGNMENT, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(CUBLAS_PREFERENCE_ALIGNMENT + 1, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
SAME(CUBLAS_PREFERENCE_ALIGNMENT + 2, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
SAME(CUBLAS_PREFERENCE_ALIGNMENT + 3, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
SAME(CUBLAS_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_BIAS);
SAME(sizeof(CublasChoice), sizeof(cublasLtMatmulHeuristicResult_t));
SAME(offsetof(CublasChoice, algorithm), offsetof(cublasLtMatmulHeuristicResult_t, algo));
SAME(offsetof(CublasChoice, workspace_bytes), offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
SAME(offsetof(CublasChoice, state), offsetof(cublasLtMatmulHeuristicResult_t, state));
SAME(sizeof((CublasChoice){0}.algorithm), sizeof(cublasLtMatmulAlgo_t));
SAME(offsetof(CublasChoice, waves), offsetof(cublasLtMatmulHeuristicResult_t, wavesCount));

extern const char *const cuda_call_names[];  // tests/cuda/calls.cc, which holds their arguments against the headers

// A call whose newer form takes the same: it came with CUDA 12.8, and its older name stays.
static bool is_known_older(const char *name) { return strcmp(name, "cuEventElapsedTime_v2") == 0; }

static void headers_agree(void **state) {
    (void)state;
    print_message("headers of CUDA %d.%d, checked as this was compiled\n", CUDA_VERSION / 1000, CUDA_VERSION % 1000 / 10);
    Arena *arena = arena_create();
    size_t length;
    const char *source = file_read(arena, diagnostics_create(arena), CHERRY_SOURCE "/runtime/cuda_library.c", &length);
    assert_non_null(source);
    for (const char *const *name = cuda_call_names; *name; name++)
        if (!strstr(source, arena_format(arena, "\"%s\"", *name)) && !is_known_older(*name))
            fail_msg("%s is what the header calls, and is not looked up", *name);
    arena_destroy(arena);
}
#else
#include "runtime/cuda_library.h"

static void headers_agree(void **state) {
    (void)state;
    print_message("skipped: cuda.h and cublasLt.h are not installed\n");
    skip();
}
#endif

// cuBLASLt takes every description without a GPU: attributes are known and as wide as they are set.
static void library_takes_attributes(void **state) {
    (void)state;
    Arena *arena = arena_create();
    CublasLibrary cublas;
    if (!cublas_open(diagnostics_create(arena), INT_MAX, &cublas)) {
        arena_destroy(arena);
        print_message("skipped: cuBLASLt is not installed\n");
        skip();
    }
    void *description = NULL, *layout = NULL, *preference = NULL;
    int32_t transpose = CUBLAS_TRANSPOSE, type = CUBLAS_TYPE_BF16, batch = 3;
    int32_t epilogue = CUBLAS_EPILOGUE_BIAS | CUBLAS_EPILOGUE_GELU | CUBLAS_EPILOGUE_BEFORE;
    int64_t step = 1 << 20, lead = 72;
    uint64_t bias = 256, before = 512, workspace = 32 << 20;
    uint32_t alignment = 16, reduction = CUBLAS_REDUCTION_COMPUTE_TYPE;
    assert_int_equal(cublas.description_create(&description, CUBLAS_COMPUTE_F32, CUBLAS_TYPE_F32), 0);
    assert_int_equal(cublas.description_set(description, CUBLAS_DESCRIPTION_TRANSPOSE_A, &transpose, sizeof transpose), 0);
    assert_int_equal(cublas.description_set(description, CUBLAS_DESCRIPTION_TRANSPOSE_B, &transpose, sizeof transpose), 0);
    assert_int_equal(cublas.description_set(description, CUBLAS_DESCRIPTION_EPILOGUE, &epilogue, sizeof epilogue), 0);
    assert_int_equal(cublas.description_set(description, CUBLAS_DESCRIPTION_BIAS, &bias, sizeof bias), 0);
    assert_int_equal(cublas.description_set(description, CUBLAS_DESCRIPTION_BIAS_TYPE, &type, sizeof type), 0);
    assert_int_equal(cublas.description_set(description, CUBLAS_DESCRIPTION_BEFORE, &before, sizeof before), 0);
    assert_int_equal(cublas.description_set(description, CUBLAS_DESCRIPTION_BEFORE_LEAD, &lead, sizeof lead), 0);
    assert_int_equal(cublas.description_set(description, CUBLAS_DESCRIPTION_BEFORE_TYPE, &type, sizeof type), 0);
    assert_int_equal(cublas.layout_create(&layout, CUBLAS_TYPE_BF16, 64, 32, 72), 0);
    assert_int_equal(cublas.layout_set(layout, CUBLAS_LAYOUT_BATCH, &batch, sizeof batch), 0);
    assert_int_equal(cublas.layout_set(layout, CUBLAS_LAYOUT_BATCH_STEP, &step, sizeof step), 0);
    assert_int_equal(cublas.preference_create(&preference), 0);
    assert_int_equal(cublas.preference_set(preference, CUBLAS_PREFERENCE_WORKSPACE, &workspace, sizeof workspace), 0);
    assert_int_equal(cublas.preference_set(preference, CUBLAS_PREFERENCE_REDUCTION, &reduction, sizeof reduction), 0);
    for (int side = 0; side < 4; side++)
        assert_int_equal(
            cublas.preference_set(preference, CUBLAS_PREFERENCE_ALIGNMENT + side, &alignment, sizeof alignment), 0);
    assert_int_not_equal(cublas.layout_set(layout, CUBLAS_LAYOUT_BATCH_STEP, &batch, sizeof batch), 0);  // it does look
    assert_non_null(cublas.status_text(15));
    assert_in_range(cublas.toolkit(), 12000, 19999);
    cublas.preference_destroy(preference);
    cublas.layout_destroy(layout);
    cublas.description_destroy(description);
    arena_destroy(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(headers_agree), cmocka_unit_test(library_takes_attributes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
