// What generated kernels stand on: types, exact conversions, wide loads, folds over warps and blocks.
// It needs no header of the toolkit. Where CHERRY_EMULATED is defined, a header before this text plays the
// GPU on a processor (tests/cuda/emulate.h).
#ifndef CHERRY_EMULATED
#define SHARED_MEMORY extern __shared__ __align__(16) char shared_memory[]
#endif

typedef unsigned char u8;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

#define DEVICE static __device__ __forceinline__
#define ALL_LANES 0xffffffffu

// Which block of its launch a kernel is that runs within a group.
struct Block {
    u32 x, y;
};

struct bf16 {
    unsigned short bits;
};

// Launches overlap where the runtime says so: the next one may begin while this one runs, and nothing is read or written
// before the one that came before is done. Every launch waits: that the one in front is done says so of all before it.
DEVICE void begin_launch() {
#ifdef CHERRY_EMULATED
    emulate_wait_for_launches();
#elif __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Brings what lies at an address into the second cache. It reads nothing, so it may stand before begin_launch, while what
// will be read is still written, or beside a launch that leaves the memory idle.
template <class T> DEVICE void prefetch(const T *at) {
#ifdef CHERRY_EMULATED
    emulate_prefetch(at);
#else
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
#endif
}

// ---- Conversions ----

DEVICE float infinity() { return __int_as_float(0x7f800000); }
DEVICE float not_a_number() { return __int_as_float(0x7fc00000); }

DEVICE float widen(bf16 x) { return __int_as_float((i32)((u32)x.bits << 16)); }

// To the nearest, ties to even.
DEVICE bf16 narrow(float x) {
    bf16 result;
#ifdef CHERRY_EMULATED
    u32 bits = (u32)__float_as_int(x);
    result.bits = x != x ? 0x7fff : (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#else
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
#endif
    return result;
}

// A bf16 number in a float: what an operation on bf16 gives.
DEVICE float round_bf16(float x) { return widen(narrow(x)); }

// Values in registers: bf16 is a float, all else is itself.
DEVICE float value_of(bf16 x) { return widen(x); }
template <class T> DEVICE T value_of(T x) { return x; }
template <class T, class V> DEVICE void put(T &to, V value) { to = (T)value; }
DEVICE void put(bf16 &to, float value) { to = narrow(value); }

// Toward zero; NaN is 0, what is too large saturates and then wraps to the width.
DEVICE i64 to_i64(double x) {
    return x != x ? 0 : x >= 9223372036854775808.0 ? 0x7fffffffffffffffll : x < -9223372036854775808.0 ? -0x7fffffffffffffffll - 1 : (i64)x;
}
DEVICE i64 to_i64(float x) {
    return x != x ? 0 : x >= 9223372036854775808.0f ? 0x7fffffffffffffffll : x < -9223372036854775808.0f ? -0x7fffffffffffffffll - 1 : (i64)x;
}
template <class T> DEVICE i32 to_i32(T x) { return (i32)to_i64(x); }

// ---- Arithmetic that wraps, division that never traps ----

DEVICE i32 add(i32 a, i32 b) { return (i32)((u32)a + (u32)b); }
DEVICE i32 sub(i32 a, i32 b) { return (i32)((u32)a - (u32)b); }
DEVICE i32 mul(i32 a, i32 b) { return (i32)((u32)a * (u32)b); }
DEVICE i64 add(i64 a, i64 b) { return (i64)((u64)a + (u64)b); }
DEVICE i64 sub(i64 a, i64 b) { return (i64)((u64)a - (u64)b); }
DEVICE i64 mul(i64 a, i64 b) { return (i64)((u64)a * (u64)b); }
template <class T> DEVICE T quotient(T a, T b) { return b == 0 ? 0 : b == -1 ? sub((T)0, a) : a / b; }
template <class T> DEVICE T remainder_of(T a, T b) { return b == 0 || b == -1 ? 0 : a % b; }
DEVICE i32 shift_left(i32 a, i32 b) { return (i32)((u32)a << (b & 31)); }
DEVICE i64 shift_left(i64 a, i64 b) { return (i64)((u64)a << (b & 63)); }
DEVICE i32 shift_right(i32 a, i32 b) { return (i32)((u32)a >> (b & 31)); }
DEVICE i64 shift_right(i64 a, i64 b) { return (i64)((u64)a >> (b & 63)); }
template <class T> DEVICE T larger(T a, T b) { return a < b ? b : a; }
template <class T> DEVICE T smaller(T a, T b) { return b < a ? b : a; }

// ---- Wide access: N elements at an address that is a multiple of their bytes, at most 16 ----

template <class T, int N> struct alignas(sizeof(T) * N) pack {
    T at[N];
};
template <int N, class T> DEVICE pack<T, N> load_pack(const T *from) { return *(const pack<T, N> *)from; }
template <int N, class T> DEVICE void store_pack(T *to, const pack<T, N> &value) { *(pack<T, N> *)to = value; }

// ---- Folds: always in the same order, so that results are the same from run to run ----

struct Sum {
    template <class T> static __device__ __forceinline__ T start() { return 0; }
    template <class T> static __device__ __forceinline__ T of(T a, T b) { return a + b; }
};
struct Max {  // of floats; NaN stays
    template <class T> static __device__ __forceinline__ T start() { return (T)-infinity(); }
    template <class T> static __device__ __forceinline__ T of(T a, T b) { return b > a || b != b ? b : a; }
};
struct MaxInteger {
    template <class T> static __device__ __forceinline__ T start() { return (T)((u64)1 << (sizeof(T) * 8 - 1)); }
    template <class T> static __device__ __forceinline__ T of(T a, T b) { return b > a ? b : a; }
};

// Over the lanes of a warp; every lane has the result.
template <class Fold, class T> DEVICE T fold_warp(T value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value = Fold::of(value, __shfl_xor_sync(ALL_LANES, value, step));
    return value;
}

// Over all threads of a block of THREADS; every thread has the result.
template <class Fold, int THREADS, class T> DEVICE T fold_block(T value) {
    __shared__ T part[THREADS / 32];
    value = fold_warp<Fold>(value);
    __syncthreads();  // the folds before have been read
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = value;
    __syncthreads();
    const int lane = threadIdx.x % 32;
    return fold_warp<Fold>(lane < THREADS / 32 ? part[lane] : Fold::template start<T>());
}

// Over the LANES threads of a block that share threadIdx.x % 32; each of them has the result.
template <class Fold, int LANES, class T> DEVICE T fold_columns(T value) {
    __shared__ T part[LANES][32];
    const int column = threadIdx.x % 32;
    __syncthreads();
    part[threadIdx.x / 32][column] = value;
    __syncthreads();
    value = part[0][column];
#pragma unroll
    for (int lane = 1; lane < LANES; lane++) value = Fold::of(value, part[lane][column]);
    return value;
}

template <class Fold, int N, class T> DEVICE void start_packs(T (&values)[N]) {
#pragma unroll
    for (int e = 0; e < N; e++) values[e] = Fold::template start<T>();
}

// Over the threads of a block of 256 that share threadIdx.x % WIDTH, N values at once; each of them has the results.
template <class Fold, int WIDTH, int N, class T> DEVICE void fold_packs(T (&values)[N]) {
    __shared__ T part[8][WIDTH][N];
    const int column = threadIdx.x % WIDTH;
#pragma unroll
    for (int e = 0; e < N; e++)
#pragma unroll
        for (int step = 16; step >= WIDTH; step /= 2)
            values[e] = Fold::of(values[e], __shfl_xor_sync(ALL_LANES, values[e], step));
    __syncthreads();
    if (threadIdx.x % 32 < WIDTH)
#pragma unroll
        for (int e = 0; e < N; e++) part[threadIdx.x / 32][column][e] = values[e];
    __syncthreads();
#pragma unroll
    for (int e = 0; e < N; e++) {
        values[e] = part[0][column][e];
#pragma unroll
        for (int warp = 1; warp < 8; warp++) values[e] = Fold::of(values[e], part[warp][column][e]);
    }
}

// The same of one value.
template <class Fold, int WIDTH, class T> DEVICE T fold_pack(T value) {
    T values[1] = {value};
    fold_packs<Fold, WIDTH>(values);
    return values[0];
}
