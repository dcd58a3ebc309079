// NVRTC, opened at run time: text to machine code.
#ifndef CHERRY_CODEGEN_CUDA_NVRTC_H
#define CHERRY_CODEGEN_CUDA_NVRTC_H

#include "codegen/cuda.h"

// PTX of one kernel, in ir->arena; NULL after an error.
const char *cuda_nvrtc_ptx(Ir *ir, const CudaKernel *kernel, const CudaOptions *options);

#endif
