// Products of bf16 matrices whose extents may vary: 128 x 64 sums in the registers of 128 threads, steps of 64
// along k copied while those before are multiplied. A is row-major [row][k], or [k][row] where turned; B is
// [k][column], or [column][k] where turned. What lies beyond k_end is zero; rows and columns beyond their ends
// are garbage that nobody stores. Leads and offsets are multiples of 8, k too where a row of memory walks it.
struct WideTile {
    static constexpr int M = 128, N = 64, STEP = 64, R = 2, C = N / 8, COUNT = R * C * 4;
    static constexpr int ELEMENTS = 2 * (M + N) * STEP;  // of shared memory
    float at[COUNT];
    __device__ __forceinline__ WideTile() {
#pragma unroll
        for (int i = 0; i < COUNT; i++) at[i] = 0;
    }
    static __device__ __forceinline__ int row(int i) {
        return threadIdx.x / 32 * 32 + i / (C * 4) * 16 + i % 4 / 2 * 8 + threadIdx.x % 32 / 4;
    }
    static __device__ __forceinline__ int column(int i) { return i / 4 % C * 8 + threadIdx.x % 4 * 2 + i % 2; }

    // One side's tile of SIZE rows or columns and STEP of k.
    template <bool BY_K, int SIZE> static __device__ __forceinline__ void copy(bf16 *to, const bf16 *from, i64 lead, int first, int extent, int k, int k_end) {
        if (BY_K)
            copy_rows<STEP, SIZE>(to, from + first, lead, k, k_end, (extent - first + 7) / 8 * 8);
        else
            copy_rows<SIZE, STEP>(to, from + k, lead, first, extent, k_end - k);
    }
    template <bool TURNED_A, bool TURNED_B> __device__ __forceinline__ void step(const bf16 *a, const bf16 *b) {
        const int lane = threadIdx.x % 32, m = threadIdx.x / 32 * 32;
#pragma unroll
        for (int k = 0; k < STEP; k += 16) {
            u32 x[R][4];
#pragma unroll
            for (int r = 0; r < R; r++) {
                if (TURNED_A)
                    load_fragments_turned(x[r], a + place_of<STEP>(k + lane / 16 * 8 + lane % 8, (m + 16 * r) / 8 | lane / 8 % 2));
                else
                    load_fragments(x[r], a + place_of<M>(m + 16 * r + lane % 16, k / 8 | lane / 16));
            }
#pragma unroll
            for (int c = 0; c < C; c += 2) {
                u32 y[4];
                if (TURNED_B)
                    load_fragments(y, b + place_of<N>(8 * c + lane / 16 * 8 + lane % 8, k / 8 | lane / 8 % 2));
                else
                    load_fragments_turned(y, b + place_of<STEP>(k + lane % 16, c | lane / 16));
#pragma unroll
                for (int r = 0; r < R; r++) {
                    multiply_fragments(at + (r * C + c) * 4, x[r], y);
                    multiply_fragments(at + (r * C + c + 1) * 4, x[r], y + 2);
                }
            }
        }
    }
    template <bool TURNED_A, bool TURNED_B>
    __device__ __forceinline__ void multiply(bf16 *shared, const bf16 *a, i64 lead_a, const bf16 *b, i64 lead_b, int first_row, int first_column,
                                             int row_end, int column_end, int k_end) {
        bf16 *as = shared, *bs = shared + 2 * M * STEP;
        copy<TURNED_A, M>(as, a, lead_a, first_row, row_end, 0, k_end);
        copy<!TURNED_B, N>(bs, b, lead_b, first_column, column_end, 0, k_end);
        int buffer = 0;
        for (int k = 0; k < k_end; k += STEP, buffer ^= 1) {
            wait_for_copies();
            __syncthreads();
            if (k + STEP < k_end) {
                copy<TURNED_A, M>(as + (buffer ^ 1) * M * STEP, a, lead_a, first_row, row_end, k + STEP, k_end);
                copy<!TURNED_B, N>(bs + (buffer ^ 1) * N * STEP, b, lead_b, first_column, column_end, k + STEP, k_end);
            }
            step<TURNED_A, TURNED_B>(as + buffer * M * STEP, bs + buffer * N * STEP);
        }
        wait_for_copies();
    }
};
