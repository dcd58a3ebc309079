// Products of a warpgroup, four warps: tensor cores take tiles out of shared memory by themselves (wgmma of the PTX ISA;
// sm_90a alone). Tiles as in fragment.cuh, from multiples of SWIZZLE_BYTES on: their layout is that of its 128-byte swizzle.
// S::multiply(sums, a, b) is the instruction, sums[C][4] += A B, 64 rows x 8 C columns over 16 of k, where A is a
// description or four registers; B is one, turned where A is in registers. It names every register, so that
// cuda_attention.c writes one for each C.

enum { SWIZZLE_BYTES = 8 * PANEL * 2 };  // eight rows of a panel

DEVICE u32 shared_address(const void *at) {
#ifdef CHERRY_EMULATED
    return emulate_shared_address(at);
#else
    return (u32)__cvta_generic_to_shared(at);
#endif
}

// A matrix whose rows, eight of them in SWIZZLE_BYTES, are rows or columns of the product and walk k (then nothing reads
// `panel_bytes`, 16 by custom); or, turned, are k and walk columns, of which a panel of `panel_bytes` has 64.
DEVICE u64 describe(const bf16 *at, int panel_bytes) {
    return (u64)1 << 62 | (u64)(SWIZZLE_BYTES / 16) << 32 | (u64)(panel_bytes / 16) << 16 | (shared_address(at) / 16 & 0x3fff);
}

// What this thread wrote to shared memory is for products behind the next barrier.
DEVICE void show_to_products() {
#ifdef CHERRY_EMULATED
    emulate_show_to_products();
#else
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Nothing that is done with these registers before, or is to be after, moves to the other side.
DEVICE void hold(float &x) {
#ifndef CHERRY_EMULATED
    asm volatile("" : "+f"(x)::"memory");
#endif
}
DEVICE void hold(u32 &x) {
#ifndef CHERRY_EMULATED
    asm volatile("" : "+r"(x)::"memory");
#endif
}
template <class T, int R, int C> DEVICE void hold(T (&x)[R][C][4]) {
#pragma unroll
    for (int i = 0; i < R * C * 4; i++) hold(x[i / 4 / C][i / 4 % C][i % 4]);
}

DEVICE void begin_products() {
#ifdef CHERRY_EMULATED
    emulate_begin_products();
#else
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
DEVICE void wait_for_products() {  // all
#ifdef CHERRY_EMULATED
    emulate_wait_for_products();
#else
    asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
#endif
}

// ---- Whichever products S has ----

template <class S> DEVICE bf16 *first_tile(char *memory) {
    if constexpr (!S::WARPGROUPS) return (bf16 *)memory;
    return (bf16 *)(memory + (SWIZZLE_BYTES - shared_address(memory) % SWIZZLE_BYTES) % SWIZZLE_BYTES);
}

template <class S> DEVICE void wait_for_copies() {
    wait_for_copies();
    if constexpr (S::WARPGROUPS) show_to_products();
}

// multiply_rows and multiply_left of fragment.cuh, which may run on until finish_products, of what they write and what is in
// registers. Others may be started meanwhile.
template <class S, int K, int R, int C> DEVICE void start_rows(float (&sums)[R][C][4], const bf16 *a, const bf16 *b) {
    if constexpr (!S::WARPGROUPS) {
        multiply_rows<K>(sums, a, b);
    } else {
        hold(sums);
        begin_products();
#pragma unroll
        for (int k = 0; k < K; k += 16)
#pragma unroll
            for (int r = 0; r < R; r++) {
                const bf16 *left = a + columns_on<64 * R>(64 * r * PANEL, k), *right = b + columns_on<8 * C>(0, k);
                S::multiply(sums[r], describe(left, 16), describe(right, 16));
            }
    }
}

template <class S, int R, int J, int F> DEVICE void start_left(float (&sums)[R][F][4], u32 (&left)[R][J][4], const bf16 *b) {
    if constexpr (!S::WARPGROUPS) {
        multiply_left(sums, left, b);
    } else {
        hold(sums);
        hold(left);
        begin_products();
#pragma unroll
        for (int j = 0; j < J; j++)
#pragma unroll
            for (int r = 0; r < R; r++) S::multiply(sums[r], left[r][j], describe(b + 16 * j * PANEL, 16 * J * PANEL * 2));
    }
}

template <class S, class... Registers> DEVICE void finish_products(Registers &...registers) {
    if constexpr (S::WARPGROUPS) {
        wait_for_products();
        (hold(registers), ...);
    }
}
