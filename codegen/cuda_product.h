// Contractions as products for cuBLASLt, inside the back end: matrices, what the library does behind a product, parts.
#ifndef CHERRY_CODEGEN_CUDA_PRODUCT_H
#define CHERRY_CODEGEN_CUDA_PRODUCT_H

#include "codegen/cuda_contract.h"

// ---- Matrices: cuda_product_matrix.c ----

typedef struct CudaWalk {
    int64_t stride;
    bool regular;
} CudaWalk;

// The stride with which an access walks several loops as one.
CudaWalk cuda_walk(const Nest *nest, const CudaLoops *loops, const Index *index);
// A matrix: `down` from row to row, `across` from column to column. True where one of them is 1.
bool cuda_as_matrix(CudaWalk down, CudaWalk across, CudaWalk batch, const CudaLoops *rows, const CudaLoops *columns,
                    bool *turned, int64_t *lead, int64_t *step);

// Bytes that every launch of the kernel aligns all matrices of a product to, at most those of a buffer.
int64_t cuda_product_alignment(const CudaUnit *unit, const CudaProduct *product);

// ---- Behind the product: cuda_product_epilogue.c. `product` has its operands; it is changed where this is true. ----

// Whether the first store is the product with a factor, a bias or a matrix added.
bool cuda_product_describe_epilogue(const CudaUnit *unit, const CudaContraction *contraction, CudaProduct *product);
// Whether all stores together are an activation of such a product and, where it is wanted, what it is taken of.
bool cuda_product_describe_activation(const CudaUnit *unit, const CudaContraction *contraction, CudaProduct *product);

// ---- Parts: cuda_product_cut.c ----

// Adds the product as a phase, or as several, the largest one first.
void cuda_product_add_phases(CudaUnit *unit, const CudaProduct *product);
// Whether it would be several that add up the same sums, if these were f32 in the workspace.
bool cuda_product_wants_f32(const CudaUnit *unit, const CudaProduct *product);
// Has the product leave nothing but its sums, so many bytes into the workspace.
void cuda_product_use_workspace(CudaProduct *product, int64_t at, Element element);

#endif
