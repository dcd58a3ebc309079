// A GPU on one processor, for tests: generated CUDA C behind this header is C++.
//
// The threads of a block are fibers: each runs until it meets a barrier, where the next one goes on. A warp
// meets at shuffles and ballots, four at products of warpgroups, a block at __syncthreads. Threads that wait at different barriers, or for one
// that has left, are found and named. Shared memory is static: blocks run one after the other. Every access is held
// against the rules of detect.h.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utility>

#include "launch.h"

#define CHERRY_EMULATED 1
#define __global__
#define __device__
// The TLS holds nothing else; gaps show what goes beyond a variable.
#define __shared__ static thread_local __attribute__((aligned(256)))
#define __forceinline__ inline __attribute__((always_inline))  // GCC does not see that a call stores what it returns
#define __launch_bounds__(threads)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define SHARED_MEMORY char *shared_memory = emulate_shared

struct dim3 {
    unsigned x, y, z;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;
// Dynamic shared memory begins on a multiple of 16, no more.
enum { EMULATE_DYNAMIC = 16, EMULATE_SHARED = 256 << 10 };
alignas(1024) static char emulate_memory[EMULATE_DYNAMIC + EMULATE_SHARED];
static char *const emulate_shared = emulate_memory + EMULATE_DYNAMIC;

// ---- Fibers ----

enum { EMULATE_THREADS = 1024, EMULATE_STACK = 32 << 10 };
enum EmulateWait { RUNNING, AT_EXCHANGE, AT_WARP, AT_GROUP, AT_BLOCK, LEFT };

struct Fiber {
    void *stack_pointer;
    EmulateWait wait;
    void *caller;  // of the barrier
};
static Fiber emulate_fibers[EMULATE_THREADS];
static void *emulate_scheduler;
alignas(64) static char emulate_stacks[EMULATE_THREADS][EMULATE_STACK];
static void (*emulate_body)(void *);
static void *emulate_argument;
static const char *emulate_kernel;
static int emulate_copy_count[EMULATE_THREADS];  // under way
static int emulate_product_count[EMULATE_THREADS];

// Saves what a call must keep on this stack, and goes on with another.
#if defined(__x86_64__)
asm(R"(
.text
emulate_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
enum { EMULATE_SAVED = 6 };
#elif defined(__aarch64__)
asm(R"(
.text
emulate_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
)");
#else
#error "no fibers for this processor"
#endif
extern "C" void emulate_switch(void **save, void *go) asm("emulate_switch");

[[noreturn]] static void emulate_fail(const char *what, unsigned thread);
#include "detect.h"
#include "accumulate.h"

EMULATE_QUIET static void emulate_yield(EmulateWait wait, void *caller) {
    unsigned me = threadIdx.x;
    emulate_fibers[me].wait = wait;
    emulate_fibers[me].caller = caller;
    emulate_switch(&emulate_fibers[me].stack_pointer, emulate_scheduler);
    threadIdx.x = me;
}

EMULATE_QUIET static void emulate_enter() {
    emulate_body(emulate_argument);
    if (!emulate_waited[threadIdx.x]) emulate_fail("left without waiting for launches in front", threadIdx.x);
    if (emulate_copy_count[threadIdx.x]) emulate_fail("left with copies under way", threadIdx.x);
    if (emulate_product_count[threadIdx.x]) emulate_fail("left with products under way", threadIdx.x);
    emulate_yield(LEFT, NULL);
    abort();
}

EMULATE_QUIET static void emulate_start(unsigned thread) {
    char *top = emulate_stacks[thread] + EMULATE_STACK;
    emulate_waited[thread] = false;
#if defined(__x86_64__)
    void **frame = (void **)(top - 64);  // the entry finds its stack as after a call
    frame[0] = (void *)emulate_enter;
    emulate_fibers[thread] = {frame - EMULATE_SAVED, RUNNING};
    memset(frame - EMULATE_SAVED, 0, EMULATE_SAVED * sizeof(void *));
    frame[1] = NULL;
#else
    void **frame = (void **)(top - 160);
    memset(frame, 0, 160);
    frame[11] = (void *)emulate_enter;  // x30
    emulate_fibers[thread] = {frame, RUNNING};
#endif
}

[[noreturn]] EMULATE_QUIET static void emulate_fail(const char *what, unsigned thread) {
    fprintf(stderr, "%s, block (%u, %u, %u), thread %u: %s\n", emulate_kernel, blockIdx.x, blockIdx.y, blockIdx.z, thread, what);
    abort();
}

// Lets go the warpgroups that have met at a product; whether there is one.
EMULATE_QUIET static bool emulate_release_groups() {
    bool any = false;
    for (unsigned g = 0; g < blockDim.x; g += 128) {
        unsigned waiting = 0, same = 0;
        for (unsigned t = g; t < g + 128 && t < blockDim.x; t++) {
            waiting += emulate_fibers[t].wait == AT_GROUP;
            same += emulate_fibers[t].caller == emulate_fibers[g].caller;
        }
        if (!waiting) continue;
        if (waiting != 128) emulate_fail("part of the warpgroup waits at a product, part does not", g);
        if (same != 128) emulate_fail("warps wait at different products", g);
        for (unsigned t = g; t < g + 128; t++) emulate_fibers[t].wait = RUNNING;
        any = true;
    }
    return any;
}

// Lets go whoever waits at a barrier that all have reached. False when all have left.
EMULATE_QUIET static bool emulate_release() {
    unsigned at_block = 0, at_warp = 0, left = 0, count = blockDim.x;
    for (unsigned w = 0; w < count; w += 32) {
        unsigned waiting = 0, same = 0;
        for (unsigned t = w; t < w + 32; t++) {
            waiting += emulate_fibers[t].wait == AT_WARP || emulate_fibers[t].wait == AT_EXCHANGE;
            same += emulate_fibers[t].caller == emulate_fibers[w].caller;
            at_block += emulate_fibers[t].wait == AT_BLOCK;
            left += emulate_fibers[t].wait == LEFT;
        }
        at_warp += waiting;
        if (!waiting) continue;
        if (waiting != 32) emulate_fail("part of the warp waits at a shuffle, part does not", w);
        if (same != 32) emulate_fail("lanes of the warp wait at different places", w);
        emulate_warp_epoch[w / 32] += emulate_fibers[w].wait == AT_WARP;
        for (unsigned t = w; t < w + 32; t++) emulate_fibers[t].wait = RUNNING;
    }
    if (left == count) return false;
    if (at_warp || emulate_release_groups()) return true;
    if (at_block != count) emulate_fail("part of the block waits at a barrier, part has left", 0);
    for (unsigned t = 0; t < count; t++) {
        if (emulate_fibers[t].caller != emulate_fibers[0].caller) emulate_fail("threads wait at different barriers", t);
        emulate_fibers[t].wait = RUNNING;
    }
    emulate_epoch++;
    return true;
}

EMULATE_QUIET static void emulate_block() {
    emulate_block_epoch = ++emulate_epoch;
    for (unsigned t = 0; t < blockDim.x; t++) emulate_start(t);
    do
        for (unsigned t = 0; t < blockDim.x; t++) {
            if (emulate_fibers[t].wait != RUNNING) continue;
            threadIdx.x = t;
            emulate_in_kernel = true;
            emulate_switch(&emulate_scheduler, emulate_fibers[t].stack_pointer);
            emulate_in_kernel = false;
        }
    while (emulate_release());
}

// ---- What threads do together ----

#define EMULATE_MEETING EMULATE_QUIET __attribute__((noinline)) static

EMULATE_MEETING void emulate_wait_for_launches() { emulate_waited[threadIdx.x] = true; }
// It reads nothing, and so waits for nothing; but of what is no operand a GPU may have no page.
EMULATE_MEETING void emulate_prefetch(const void *at) {
    unsigned place = (unsigned)((char *)__builtin_return_address(0) - emulate_image);
    if (!emulate_find((const char *)at)) emulate_report((const char *)at, 1, false, place, "out of bounds");
}
EMULATE_MEETING void __syncthreads() { emulate_yield(AT_BLOCK, __builtin_return_address(0)); }
EMULATE_MEETING void __syncwarp() { emulate_yield(AT_WARP, __builtin_return_address(0)); }

// Every lane's value of this exchange; the other buffer is the next one's.
template <class T> EMULATE_QUIET static const T *emulate_exchange(T value, void *caller) {
    static T values[2][EMULATE_THREADS];
    static unsigned char turn[EMULATE_THREADS];
    T *now = values[turn[threadIdx.x] ^= 1] + threadIdx.x / 32 * 32;
    now[threadIdx.x % 32] = value;
    emulate_yield(AT_EXCHANGE, caller);
    return now;
}

template <class T> EMULATE_MEETING T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulate_exchange(value, __builtin_return_address(0))[(threadIdx.x % 32) ^ mask];
}
EMULATE_MEETING unsigned __ballot_sync(unsigned, bool value) {
    const bool *all = emulate_exchange(value, __builtin_return_address(0));
    unsigned bits = 0;
    for (int i = 0; i < 32; i++) bits |= (unsigned)all[i] << i;
    return bits;
}
EMULATE_MEETING int __syncthreads_or(int value) {
    static int any[2];
    static unsigned char turn[EMULATE_THREADS];
    void *caller = __builtin_return_address(0);
    int *now = &any[turn[threadIdx.x] ^= 1];
    *now = 0;
    emulate_yield(AT_BLOCK, caller);
    *now |= value;
    emulate_yield(AT_BLOCK, caller);
    int result = *now;
    emulate_yield(AT_BLOCK, caller);
    return result;
}

// ---- Copies that arrive late ----

// A copy lands when its thread waits for it; until then the place holds NaN, so that a forgotten wait or barrier
// shows in the result. A thread that leaves with copies under way is an error.
struct EmulateCopy {
    void *to;
    const void *from;
    int bytes;
};
enum { EMULATE_COPIES = 1024 };
static EmulateCopy emulate_copies[EMULATE_THREADS][EMULATE_COPIES];
EMULATE_MEETING void emulate_copy(void *to, const void *from, int bytes, bool inside) {
    int &count = emulate_copy_count[threadIdx.x];
    if ((uintptr_t)to % bytes || (uintptr_t)from % bytes) emulate_fail("a copy that is not aligned", threadIdx.x);
    if (count == EMULATE_COPIES) emulate_fail("too many copies under way", threadIdx.x);
    void *caller = __builtin_return_address(0);
    emulate_access(to, bytes, true, bytes, caller, START_COPY);
    if (inside) emulate_access(from, bytes, false, bytes, caller, PLAIN);
    memset(to, 0xff, bytes);
    emulate_copies[threadIdx.x][count++] = {to, inside ? from : NULL, bytes};
}
EMULATE_MEETING void emulate_copies_arrive() {
    void *caller = __builtin_return_address(0);
    int &count = emulate_copy_count[threadIdx.x];
    for (int i = 0; i < count; i++) {
        EmulateCopy *copy = &emulate_copies[threadIdx.x][i];
        emulate_access(copy->to, copy->bytes, true, copy->bytes, caller, END_COPY);
        if (copy->from) emulate_access(copy->from, copy->bytes, false, copy->bytes, caller, PLAIN);
        if (copy->from)
            memcpy(copy->to, copy->from, copy->bytes);
        else
            memset(copy->to, 0, copy->bytes);
    }
    count = 0;
}

// ldmatrix.x4: lane l's pointer is row l % 8 of matrix l / 8.
struct EmulateRow {
    unsigned short at[8];
};
EMULATE_MEETING void emulate_load_fragments(unsigned *x, const void *row, bool turned) {
    EmulateRow mine;
    if ((uintptr_t)row % 16) emulate_fail("a row of a fragment that is not aligned", threadIdx.x);
    emulate_access(row, sizeof mine, false, sizeof mine, __builtin_return_address(0), PLAIN);
    memcpy(&mine, row, sizeof mine);
    const EmulateRow *rows = emulate_exchange(mine, __builtin_return_address(0));
    unsigned group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4 * 2;
    for (int i = 0; i < 4; i++) {
        const EmulateRow *matrix = rows + 8 * i;
        unsigned low = turned ? matrix[pair].at[group] : matrix[group].at[pair];
        unsigned high = turned ? matrix[pair + 1].at[group] : matrix[group].at[pair + 1];
        x[i] = low | high << 16;
    }
}

static inline float emulate_widen(unsigned bits) {
    bits <<= 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

struct EmulateFragments {
    unsigned a[4], b[2];
};
// mma.m16n8k16: lane 4 g + t holds a (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8), b (2t, g), (2t + 8, g), pairs along k.
EMULATE_MEETING void emulate_mma(float *c, const unsigned *a, const unsigned *b) {
    EmulateFragments mine;
    memcpy(mine.a, a, sizeof mine.a);
    memcpy(mine.b, b, sizeof mine.b);
    const EmulateFragments *all = emulate_exchange(mine, __builtin_return_address(0));
    unsigned group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4;
    for (int e = 0; e < 4; e++) {
        unsigned row = group + e / 2 * 8, column = pair * 2 + e % 2;
        float products[EMULATE_STEP];
        for (unsigned k = 0; k < EMULATE_STEP; k++) {
            unsigned x = all[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2] >> (k % 2 * 16) & 0xffff;
            unsigned y = all[column * 4 + k % 8 / 2].b[k / 8] >> (k % 2 * 16) & 0xffff;
            products[k] = emulate_widen(x) * emulate_widen(y);
        }
        c[e] = emulate_accumulate(c[e], products);
    }
}

// ---- Products of warpgroups ----

// Sums arrive when their thread waits for them; until then they are NaN. Tensor cores read shared memory beside the threads:
// what is written is there for them when its writer has shown it, and a barrier follows.
struct EmulateProduct {
    float *sums, values[256];
    int count;
};
enum { EMULATE_PRODUCTS = 4 };
static EmulateProduct emulate_products[128][EMULATE_PRODUCTS];
static bool emulate_products_begun[128];

EMULATE_MEETING void emulate_show_to_products() { emulate_shown[threadIdx.x]++; }
EMULATE_MEETING void emulate_begin_products() {
    if (threadIdx.x >= 128) emulate_fail("a second warpgroup", threadIdx.x);
    emulate_products_begun[threadIdx.x] = true;
}
EMULATE_MEETING void emulate_wait_for_products() {
    for (int i = 0; i < emulate_product_count[threadIdx.x]; i++) {
        EmulateProduct *product = &emulate_products[threadIdx.x][i];
        memcpy(product->sums, product->values, product->count * sizeof(float));
    }
    emulate_product_count[threadIdx.x] = 0;
    emulate_products_begun[threadIdx.x] = false;
}

static inline unsigned emulate_shared_address(const void *at) { return (unsigned)((const char *)at - emulate_memory); }

// The piece of 16 bytes where eight of a described matrix begin: of row `row` from column 8 `piece` on.
EMULATE_QUIET static const unsigned short *emulate_piece(unsigned long long matrix, unsigned row, unsigned piece) {
    unsigned start = (matrix & 0x3fff) * 16, panel = (matrix >> 16 & 0x3fff) * 16, rows = (matrix >> 32 & 0x3fff) * 16;
    if (matrix >> 62 != 1 || matrix >> 49 & 7) emulate_fail("a matrix that is not swizzled by 128 bytes", threadIdx.x);
    unsigned address = start + row / 8 * rows + row % 8 * 128 + piece / 8 * panel + piece % 8 * 16;
    return (const unsigned short *)(emulate_memory + (address ^ (address >> 7 & 7) << 4));
}

// Where this product's sums are kept, under way from now on.
EMULATE_QUIET static EmulateProduct *emulate_start_product(float *sums, int count) {
    int &products = emulate_product_count[threadIdx.x];
    if (!emulate_products_begun[threadIdx.x]) emulate_fail("a product that nothing has begun", threadIdx.x);
    for (int i = 0; i < products; i++)
        if (emulate_products[threadIdx.x][i].sums == sums) return &emulate_products[threadIdx.x][i];
    if (products == EMULATE_PRODUCTS) emulate_fail("too many products under way", threadIdx.x);
    EmulateProduct *product = &emulate_products[threadIdx.x][products++];
    product->sums = sums;
    product->count = count;
    memcpy(product->values, sums, count * sizeof(float));
    memset(sums, 0xff, count * sizeof(float));
    return product;
}

// wgmma.m64nNk16: a warp has 16 rows of A and of the sums, in the fragments of mma.m16n8k16.
EMULATE_QUIET static void emulate_product_of(float *sums, int columns, const unsigned *a, unsigned long long b, bool turned, void *caller) {
    EmulateFragments mine;
    memcpy(mine.a, a, sizeof mine.a);
    const EmulateFragments *all = emulate_exchange(mine, caller);
    emulate_yield(AT_GROUP, caller);
    unsigned group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4;
    for (int piece = threadIdx.x % 32; piece < 2 * columns; piece += 32)  // each warp reads all of B
        emulate_access(turned ? emulate_piece(b, piece % 16, piece / 16) : emulate_piece(b, piece / 2, piece % 2), 16, false, 16, caller, OF_PRODUCT);
    EmulateProduct *product = emulate_start_product(sums, columns / 2);
    for (int i = 0; i < columns / 2; i++) {
        unsigned row = group + i % 4 / 2 * 8, column = i / 4 * 8 + pair * 2 + i % 2;
        float products[EMULATE_STEP];
        for (unsigned k = 0; k < EMULATE_STEP; k++) {
            unsigned x = all[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2] >> (k % 2 * 16) & 0xffff;
            unsigned y = turned ? emulate_piece(b, k, column / 8)[column % 8] : emulate_piece(b, column, k / 8)[k % 8];
            products[k] = emulate_widen(x) * emulate_widen(y);
        }
        product->values[i] = emulate_accumulate(product->values[i], products);
    }
}
template <int C> EMULATE_MEETING void emulate_product(float (&sums)[C][4], const unsigned (&a)[4], unsigned long long b) {
    emulate_product_of(&sums[0][0], 8 * C, a, b, true, __builtin_return_address(0));
}
template <int C> EMULATE_MEETING void emulate_product(float (&sums)[C][4], unsigned long long a, unsigned long long b) {
    void *caller = __builtin_return_address(0);
    unsigned lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16, fragment[4];
    emulate_access(emulate_piece(a, row + lane / 2, lane % 2), 16, false, 16, caller, OF_PRODUCT);
    for (int i = 0; i < 4; i++) {
        const unsigned short *piece = emulate_piece(a, row + lane / 4 + i % 2 * 8, i / 2) + lane % 4 * 2;
        fragment[i] = piece[0] | (unsigned)piece[1] << 16;
    }
    emulate_product_of(&sums[0][0], 8 * C, fragment, b, false, caller);
}

// ---- Scalars ----

static inline float __int_as_float(int bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static inline int __float_as_int(float value) {
    int bits;
    memcpy(&bits, &value, 4);
    return bits;
}
static inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
static inline int __ffs(int bits) { return __builtin_ffs(bits); }
static inline float __fmaf_rn(float a, float b, float c) { return a * b + c; }
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }

// ---- Launches ----

template <class... A> struct EmulateCall {
    void (*kernel)(A...);
    char *const *pointers;
};
template <class... A, size_t... I> EMULATE_QUIET static void emulate_invoke(void (*kernel)(A...), char *const *pointers, std::index_sequence<I...>) {
    kernel((A)pointers[I]...);
}
template <class... A> EMULATE_QUIET static void emulate_thread(void *argument) {
    auto call = (EmulateCall<A...> *)argument;
    emulate_invoke(call->kernel, call->pointers, std::index_sequence_for<A...>());
}
template <class... A>
EMULATE_QUIET static void emulate_launch(const char *name, void (*kernel)(A...), char *const *pointers, const EmulateGrid *grid) {
    EmulateCall<A...> call = {kernel, pointers};
    emulate_kernel = name;
    emulate_body = emulate_thread<A...>;
    emulate_argument = &call;
    blockDim = {(unsigned)grid->block, 1, 1};
    gridDim = {(unsigned)grid->blocks[0], (unsigned)grid->blocks[1], (unsigned)grid->blocks[2]};
    emulate_begin_launch(grid->shared_bytes, grid->spans, grid->span_count);
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) emulate_block();
}

// All else is hidden (compile.h): a library's variables are its own where another one has the same kernel.
#define EMULATE_VISIBLE __attribute__((visibility("default")))

// Makes a kernel callable by name: launch_NAME(pointers, grid).
#define EMULATE_KERNEL(name)                                                                          \
    extern "C" EMULATE_VISIBLE void launch_##name(char *const *pointers, const EmulateGrid *grid) {   \
        emulate_launch(#name, name, pointers, grid);                                                  \
    }
