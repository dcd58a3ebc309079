// What a warp does with tiles of bf16 in shared memory: copies that run beside the arithmetic, fragments for
// tensor cores, products that stay in registers.
//
//   a tile of ROWS rows lies in panels of 64 columns, row behind row; the pieces of 16 bytes of a panel's row are
//   permuted by its number, so that eight rows at one column fall into different banks
//   float sums[R][C][4]   64 R rows x 8 C columns of four warps: [r][c][e] is row 64 r + warp_row() + e / 2 * 8 + lane / 4,
//                         column 8 c + lane % 4 * 2 + e % 2
//   u32 left[R][C / 2][4] the same as left operand of the next product, rounded to bf16

DEVICE int warp_row() { return threadIdx.x / 32 * 16; }

// ---- Copies from global to shared memory. They have arrived after wait_for_copies and a barrier. ----

// 16 bytes, both aligned to 16; zeros where not `inside`.
DEVICE void copy_wide(bf16 *to, const bf16 *from, bool inside) {
#ifdef CHERRY_EMULATED
    emulate_copy(to, from, 16, inside);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from), "r"(inside ? 16 : 0) : "memory");
#endif
}
// 4 bytes.
template <class T> DEVICE void copy_word(T *to, const T *from, bool inside) {
#ifdef CHERRY_EMULATED
    emulate_copy(to, from, 4, inside);
#else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from), "r"(inside ? 4 : 0) : "memory");
#endif
}
DEVICE void wait_for_copies() {  // of this thread, all
#ifdef CHERRY_EMULATED
    emulate_copies_arrive();
#else
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// ---- Fragments ----

// Four matrices of 8 x 8: lane l gives the address of row l % 8 of matrix l / 8, and has of each the elements
// (l / 4, l % 4 * 2 + {0, 1}); turned: (l % 4 * 2 + {0, 1}, l / 4).
DEVICE void load_fragments(u32 *x, const bf16 *row) {
#ifdef CHERRY_EMULATED
    emulate_load_fragments(x, row, false);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"((u32)__cvta_generic_to_shared(row)) : "memory");
#endif
}
DEVICE void load_fragments_turned(u32 *x, const bf16 *row) {
#ifdef CHERRY_EMULATED
    emulate_load_fragments(x, row, true);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"((u32)__cvta_generic_to_shared(row)) : "memory");
#endif
}

// Two bf16 numbers in a word, `low` at the lower address.
DEVICE u32 narrow_pair(float low, float high) {
#ifdef CHERRY_EMULATED
    return (u32)narrow(low).bits | (u32)narrow(high).bits << 16;
#else
    u32 result;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
#endif
}

DEVICE float power_of_two(float x) {  // to 2 units in the last place
#ifdef CHERRY_EMULATED
    return exp2f(x);
#else
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#endif
}

template <int R, int C> DEVICE void clear_sums(float (&sums)[R][C][4]) {
#pragma unroll
    for (int i = 0; i < R * C * 4; i++) sums[i / 4 / C][i / 4 % C][i % 4] = 0;
}

template <int R, int C> DEVICE void as_left(u32 (&left)[R][C / 2][4], const float (&sums)[R][C][4]) {
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int c = 0; c < C; c++) {
            left[r][c / 2][c % 2 * 2] = narrow_pair(sums[r][c][0], sums[r][c][1]);
            left[r][c / 2][c % 2 * 2 + 1] = narrow_pair(sums[r][c][2], sums[r][c][3]);
        }
}

// ---- Tiles ----

DEVICE constexpr int pitch_of(int columns) { return (columns + 63) / 64 * 64; }  // elements of a row in all panels

enum { PANEL = 64 };

// Where piece `piece` of 8 elements of a row lies; the one eight rows on lies 8 * PANEL elements further.
template <int ROWS> DEVICE int place_of(int row, int piece) { return piece / 8 * (ROWS * PANEL) + row * PANEL + ((piece ^ row) & 7) * 8; }

// The place `columns` on, a multiple of 16, from one in the first 16 columns.
template <int ROWS> DEVICE int columns_on(int place, int columns) { return (place ^ columns % PANEL) + columns / PANEL * (ROWS * PANEL); }

// Starts to copy rows [first, first + ROWS) x COLUMNS, whole panels; zeros beyond `limit` and `columns`, a multiple of 8. Of
// what is not inside nothing is read, whatever its address.
template <int ROWS, int COLUMNS> DEVICE void copy_rows(bf16 *to, const bf16 *from, i64 stride, int first, int limit, int columns) {
    constexpr int PIECES = COLUMNS / 8, STEP = TILE_THREADS / PIECES;
    static_assert(TILE_THREADS % PIECES == 0 && STEP % 8 == 0 && ROWS % STEP == 0, "a thread's copies are constants apart");
    const int row = threadIdx.x / PIECES, piece = threadIdx.x % PIECES;
    const bool wanted = piece * 8 < columns;
    to += place_of<ROWS>(row, piece);
    from += (first + row) * stride + piece * 8;
#pragma unroll
    for (int i = 0; i < ROWS; i += STEP) copy_wide(to + i * PANEL, from + i * stride, wanted && first + row + i < limit);
}

// sums += A B': A rows [0, 64 R) of `a`, B rows [0, 8 C) of `b`, K columns of both.
template <int K, int R, int C> DEVICE void multiply_rows(float (&sums)[R][C][4], const bf16 *a, const bf16 *b) {
    const int lane = threadIdx.x % 32;
    const int at_a = place_of<64 * R>(warp_row() + lane % 16, lane / 16), at_b = place_of<8 * C>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll 4
    for (int k = 0; k < K; k += 16) {  // of 128, unrolled further, loads ahead would take the registers of the sums
        u32 x[R][4];
#pragma unroll
        for (int r = 0; r < R; r++) load_fragments(x[r], a + columns_on<64 * R>(at_a, k) + 64 * r * PANEL);
#pragma unroll
        for (int c = 0; c < C; c += 2) {
            u32 y[4];
            load_fragments(y, b + columns_on<8 * C>(at_b, k) + 8 * c * PANEL);
#pragma unroll
            for (int r = 0; r < R; r++) {
                multiply_fragments(sums[r][c], x[r], y);
                multiply_fragments(sums[r][c + 1], x[r], y + 2);
            }
        }
    }
}

// sums += left B: B rows [0, 16 J) of `b`, F columns of 8.
template <int R, int J, int F> DEVICE void multiply_left(float (&sums)[R][F][4], const u32 (&left)[R][J][4], const bf16 *b) {
    const int at = place_of<16 * J>(threadIdx.x % 16, threadIdx.x % 32 / 16);
#pragma unroll
    for (int j = 0; j < J; j++)
#pragma unroll
        for (int f = 0; f < F; f += 2) {
            u32 y[4];
            load_fragments_turned(y, b + columns_on<16 * J>(at, 8 * f) + 16 * j * PANEL);
#pragma unroll
            for (int r = 0; r < R; r++) {
                multiply_fragments(sums[r][f], left[r][j], y);
                multiply_fragments(sums[r][f + 1], left[r][j], y + 2);
            }
        }
}

// Writes the sums to rows from `first` on, those below `limit`, and `columns`; two neighbours at once.
template <int R, int F> DEVICE void store_sums(bf16 *to, i64 stride, const float (&sums)[R][F][4], const float (&factor)[R][2], int first, int limit, int columns) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < R * 2; i++) {
        const int row = first + i / 2 * 64 + warp_row() + i % 2 * 8 + lane / 4;
        if (row >= limit) continue;
#pragma unroll
        for (int f = 0; f < F; f++) {
            const float *pair = sums[i / 2][f] + i % 2 * 2;
            if (f * 8 < columns) *(u32 *)(to + row * stride + f * 8 + lane % 4 * 2) = narrow_pair(pair[0] * factor[i / 2][i % 2], pair[1] * factor[i / 2][i % 2]);
        }
    }
}
