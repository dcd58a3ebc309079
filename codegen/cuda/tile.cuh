// Tiles: M x N sums of products in the registers of 128 threads, out of shared memory.
//
//   Tile<T, M, N>      T = bf16: tensor cores; T = float: multiply-adds. Sums are f32.
//   at[i]              sum i of this thread, which is (row(i), column(i)) of the tile
//   multiply<TURN_A, TURN_B>(a, lead_a, b, lead_b, k)
//                      adds A B: A(m, k) at a[m * lead_a + k], or at a[k * lead_a + m] where turned;
//                      B(k, n) at b[n * lead_b + k], or at b[k * lead_b + n] where turned
// M is a multiple of 32 (bf16) or 16, N of 16, and k of 16 (bf16): what is beyond the data must be zero.

enum { TILE_THREADS = 128 };

// Elements from row to row of a matrix in shared memory with `columns` of T: rows fall into different banks.
template <class T> struct Lead;
template <> struct Lead<float> {
    static __device__ constexpr int of(int columns) { return columns | 1; }
};
template <> struct Lead<bf16> {
    static __device__ constexpr int of(int columns) { return (columns + 15) / 16 * 16 + 8; }
};

template <class T, int M, int N> struct Tile;

template <int M, int N> struct Tile<float, M, N> {
    static constexpr int ROWS = M / 16, COLUMNS = N / 8, COUNT = ROWS * COLUMNS;
    float at[COUNT];
    __device__ __forceinline__ Tile() {
#pragma unroll
        for (int i = 0; i < COUNT; i++) at[i] = 0;
    }
    static __device__ __forceinline__ int row(int i) { return threadIdx.x / 8 + 16 * (i / COLUMNS); }
    static __device__ __forceinline__ int column(int i) { return threadIdx.x % 8 + 8 * (i % COLUMNS); }
    template <bool TURN_A, bool TURN_B>
    __device__ __forceinline__ void multiply(const float *a, int lead_a, const float *b, int lead_b, int k) {
        for (int j = 0; j < k; j++) {
            float x[ROWS], y[COLUMNS];
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                const int m = threadIdx.x / 8 + 16 * i;
                x[i] = TURN_A ? a[j * lead_a + m] : a[m * lead_a + j];
            }
#pragma unroll
            for (int i = 0; i < COLUMNS; i++) {
                const int n = threadIdx.x % 8 + 8 * i;
                y[i] = TURN_B ? b[j * lead_b + n] : b[n * lead_b + j];
            }
#pragma unroll
            for (int i = 0; i < COUNT; i++) at[i] = __fmaf_rn(x[i / COLUMNS], y[i % COLUMNS], at[i]);
        }
    }
};

// c += a b on the tensor cores of one warp: a 16 x 16, b 16 x 8, in the fragments of mma.m16n8k16.
DEVICE void multiply_fragments(float *c, const u32 *a, const u32 *b) {
#ifdef CHERRY_EMULATED
    emulate_mma(c, a, b);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Elements (x, k) and (x, k + 1), k even.
template <bool TURN> DEVICE u32 fragment(const bf16 *from, int lead, int x, int k) {
    if (!TURN) return *(const u32 *)(from + x * lead + k);
    return (u32)from[k * lead + x].bits | (u32)from[(k + 1) * lead + x].bits << 16;
}

// Warps stand two by two; a warp holds M / 2 x N / 2 of the tile.
template <int M, int N> struct Tile<bf16, M, N> {
    static constexpr int ROWS = M / 32, COLUMNS = N / 16, COUNT = ROWS * COLUMNS * 4;
    float at[COUNT];
    __device__ __forceinline__ Tile() {
#pragma unroll
        for (int i = 0; i < COUNT; i++) at[i] = 0;
    }
    static __device__ __forceinline__ int row(int i) {
        return threadIdx.x / 64 * (M / 2) + i / (COLUMNS * 4) * 16 + threadIdx.x % 32 / 4 + i % 4 / 2 * 8;
    }
    static __device__ __forceinline__ int column(int i) {
        return threadIdx.x / 32 % 2 * (N / 2) + i / 4 % COLUMNS * 8 + threadIdx.x % 4 * 2 + i % 2;
    }
    template <bool TURN_A, bool TURN_B>
    __device__ __forceinline__ void multiply(const bf16 *a, int lead_a, const bf16 *b, int lead_b, int k) {
        const int lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4 * 2;
        const int m = threadIdx.x / 64 * (M / 2) + group, n = threadIdx.x / 32 % 2 * (N / 2) + group;
        for (int j = pair; j < k; j += 16) {
            u32 x[ROWS][4];
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                x[i][0] = fragment<TURN_A>(a, lead_a, m + 16 * i, j);
                x[i][1] = fragment<TURN_A>(a, lead_a, m + 16 * i + 8, j);
                x[i][2] = fragment<TURN_A>(a, lead_a, m + 16 * i, j + 8);
                x[i][3] = fragment<TURN_A>(a, lead_a, m + 16 * i + 8, j + 8);
            }
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                const u32 y[2] = {fragment<TURN_B>(b, lead_b, n + 8 * c, j), fragment<TURN_B>(b, lead_b, n + 8 * c, j + 8)};
#pragma unroll
                for (int i = 0; i < ROWS; i++) multiply_fragments(at + (i * COLUMNS + c) * 4, x[i], y);
            }
        }
    }
};
