// Contractions: C[batch, row, column] = sum over k of a * b, then the nest's other stages on each sum.
#ifndef CHERRY_CODEGEN_CUDA_CONTRACT_H
#define CHERRY_CODEGEN_CUDA_CONTRACT_H

#include "codegen/cuda_plan.h"

typedef struct CudaLoops {  // some loops walked as one, slowest first; bounded ones before others
    int loop[LOOP_MAX], count;
    int64_t extent;  // product, at capacity
} CudaLoops;

typedef struct CudaContraction {
    const Nest *original, *nest;  // nest: normalised
    uint32_t value_a, value_b;  // formulas: what is multiplied, casts applied; a has the rows, b the columns
    const Formula *a, *b;       // the loads under those casts
    bool half_a, half_b;        // every value is a bf16 number
    CudaLoops batch, row, column, k;
    bool bounded;  // some loop is
} CudaContraction;

// Describes the contraction for cuBLASLt: one product straight into the result, or into the workspace with a
// kernel for the other stages behind it. False where the form does not fit.
bool cuda_product_emit(CudaUnit *unit, const CudaContraction *contraction);

// The same operands for a generated kernel of wide tiles (product.cuh), which extents may bound: copies them
// where it must. False, and nothing emitted, where rows of memory are not whole pieces of 16 bytes.
bool cuda_wide_operands(CudaUnit *unit, const CudaContraction *contraction, CudaProduct *product);

#endif
