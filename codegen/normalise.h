// The form of a nest that both back ends generate code from.
#ifndef CHERRY_CODEGEN_NORMALISE_H
#define CHERRY_CODEGEN_NORMALISE_H

#include "ir/nest.h"

// The same nest, brought to a form that is easier to generate from:
// - loops of static extent 1 are gone; neighbouring loops that every access walks as one are one loop;
// - operand dimension 0 has stride 1 and takes the whole affine part of every access; one further
//   dimension for each dimension that some access gathers (affine part 0), with its stride.
// Formula and stage numbers and operands stay. nest_contraction may be asked about the result.
// Its Ir is a shadow that has only an arena, so that nest_formula_loops and the like may be called.
const Nest *normalise_nest(Arena *arena, const Nest *nest);

// Elements from iteration to iteration of one loop, for an access of a normalised nest.
static inline int64_t access_stride(const Index *index, int loop) { return index[0].affine.scale[loop]; }

// Whether a load of a normalised nest may lie outside of its operand, unless a `select` guards it.
static inline bool access_may_miss(const Formula *load) { return load->number != 0; }

// The loops that move an affine value.
static inline uint32_t affine_loops(const Affine *affine) {
    uint32_t mask = 0;
    for (int loop = 0; loop < LOOP_MAX; loop++)
        if (affine->scale[loop]) mask |= 1u << loop;
    return mask;
}

// What the formulas of a nest depend on, one entry each.
typedef struct NestAnalysis {
    uint32_t *loops;     // loops, those of gathered indices included; a stage value has none
    uint32_t *stages;    // results of reduction stages
    bool *may_miss;      // contains a load that needs its guard
    uint32_t *operands;  // operands that are loaded
} NestAnalysis;
const NestAnalysis *analyse_nest(Arena *arena, const Nest *nest);

#endif
