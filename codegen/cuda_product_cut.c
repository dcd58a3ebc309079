// Products of bf16 whose extents along memory are no multiples of 8, cut in two.
//
//   D[6144, 50257] = A B     ->  D[, 0..50256] = A B[, 0..50256],       D[, 50256] = A B[, 50256]
//   D = A[6144, 50257] B + C ->  D = A[, 0..50256] B[0..50256, ] + C,   D = A[, 50256] B[50256, ] + D
//   D[50257, 768] = A' B     ->  D[0..50256, ] = A[, 0..50256]' B,      D[50256, ] = A[, 50256]' B
//
// cuBLASLt's fast kernels (those of sm_90 for one) ask that of each extent that lies along memory in A, B or D,
// beside rows and addresses that are multiples of 16 bytes. The rest reads a side or D once more: of a long extent that
// is little. Sums over k are rounded once, so D is f32 where k is cut: in the workspace, if need be. A product stays
// whole where cutting would not do: where rows are not aligned or a short extent is odd.
#include "codegen/cuda_product.h"

enum { PIECE = 8, PIECE_BYTES = 16 };
enum { LONG_EXTENT = 512 };  // rows of temporaries are aligned from there on (pad-rows)

static bool is_aligned(const CudaUnit *unit, const CudaProduct *p) {
    int64_t sides = p->lead_a | p->lead_b | p->step_a | p->step_b, results = p->lead_d | p->step_d;
    if (p->c.operand != CUDA_NONE) results |= p->lead_c | p->step_c;
    return sides % PIECE == 0 && results * element_bytes(p->element_d) % PIECE_BYTES == 0 &&
           cuda_product_alignment(unit, p) % PIECE_BYTES == 0;
}

// What the fast kernels take of an extent; 0: cutting does not make it theirs.
static int64_t take_pieces(int64_t extent, bool along_memory) {
    if (!along_memory || extent % PIECE == 0) return extent;
    return extent < LONG_EXTENT ? 0 : extent - extent % PIECE;
}

// What a product is behind so many rows, columns and steps.
static CudaProduct part_behind(const CudaProduct *p, int64_t rows, int64_t columns, int64_t steps) {
    CudaProduct rest = *p;
    rest.m -= rows;
    rest.n -= columns;
    rest.k -= steps;
    rest.a.offset += rows * (p->turned_a ? 1 : p->lead_a) + steps * (p->turned_a ? p->lead_a : 1);
    rest.b.offset += steps * (p->turned_b ? 1 : p->lead_b) + columns * (p->turned_b ? p->lead_b : 1);
    rest.c.offset += rows * p->lead_c + columns;
    rest.d.offset += rows * p->lead_d + columns;
    rest.bias.offset += columns;
    rest.before.offset += rows * p->lead_before + columns;
    if (steps == 0) return rest;
    rest.bias.operand = CUDA_NONE;
    rest.c = rest.d;
    rest.lead_c = p->lead_d;
    rest.step_c = p->step_d;
    rest.beta = 1;
    return rest;
}

static void add_phase(CudaUnit *unit, const CudaProduct *product) {
    CHECK(unit->out->phase_count < CUDA_PHASE_MAX);
    unit->out->phases[unit->out->phase_count++] = (CudaPhase){.product = *product};
}

// The largest part that the fast kernels could take, in place of the whole product; the whole, where there is none.
static CudaProduct main_part(const CudaUnit *unit, const CudaProduct *p) {
    int64_t m = take_pieces(p->m, p->turned_a), n = take_pieces(p->n, true),
            k = take_pieces(p->k, !p->turned_a || p->turned_b);
    CudaProduct main = *p;
    if (p->element_ab != ELEMENT_BF16 || m == 0 || n == 0 || k == 0 || !is_aligned(unit, p)) return main;
    if (k < p->k && p->element_d != ELEMENT_F32) return main;
    main.m = m;
    main.n = n;
    main.k = k;
    return main;
}

void cuda_product_use_workspace(CudaProduct *product, int64_t at, Element element) {
    product->c = product->bias = (CudaPlace){.operand = CUDA_NONE};
    product->element_d = element;
    product->d = (CudaPlace){CUDA_WORKSPACE, at / element_bytes(element)};
    product->lead_d = product->n;
    product->step_d = product->m * product->n;
    product->alpha = 1;
    product->beta = 0;
    product->activation = CUDA_LINEAR;
}

bool cuda_product_wants_f32(const CudaUnit *unit, const CudaProduct *product) {
    CudaProduct sums = *product;
    cuda_product_use_workspace(&sums, 0, ELEMENT_F32);
    return main_part(unit, &sums).k < product->k;
}

void cuda_product_add_phases(CudaUnit *unit, const CudaProduct *p) {
    CudaProduct main = main_part(unit, p);
    add_phase(unit, &main);
    if (main.n < p->n) {
        CudaProduct columns = part_behind(p, 0, main.n, 0);
        add_phase(unit, &columns);
    }
    if (main.m < p->m) {
        CudaProduct rows = part_behind(p, main.m, 0, 0);
        rows.n = main.n;
        add_phase(unit, &rows);
    }
    if (main.k < p->k) {
        CudaProduct steps = part_behind(p, 0, 0, main.k);
        steps.m = main.m;
        steps.n = main.n;
        add_phase(unit, &steps);
    }
}
