// The emulated GPU itself: what is right passes; each planted fault - a missing barrier, a bound, an alignment, a copy
// that nobody waited for - is found, and said in words.
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/cuda/compile.h"
#include "tests/cuda/launch.h"

enum { THREADS = 64, BLOCKS = 3, DYNAMIC = 512, PRODUCT_DYNAMIC = 1008 + 10240, WORDS = 1024, OPERAND = 68 };

typedef struct Fault {
    const char *name, *body, *message;  // NULL: there is none
} Fault;

// In a warpgroup, as are all whose names begin with "product": 16 x 64 ones in shared memory, a product by ones, its sums, which are 16 each.
#define TILE                                                                                     \
    "unsigned short *x = (unsigned short *)(shared_memory + 1008);\n"                            \
    "unsigned a[4] = {0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80}; float c[8][4] = {};\n"    \
    "unsigned long long b = 1ull << 62 | 64ull << 32 | 128ull << 16 | emulate_shared_address(x) / 16;\n" \
    "for (int i = me; i < 1024; i += 128) x[i] = 0x3f80;\n"
#define SHOWN TILE "emulate_show_to_products(); __syncthreads();\n"
#define PRODUCT "emulate_begin_products(); emulate_product(c, a, b);\n"
#define AWAITED PRODUCT "emulate_wait_for_products();\n"

// Layouts once more, with none of what stands in emulate.h: by the formulas of the PTX ISA ("Matrix Fragments for
// mma.m16n8k16", "Matrix Descriptor Format") and of CuTe (mma_traits_sm90_gmma.hpp: Swizzle<3,4,3> over
// ((8,m),(T,2k)):((8T,SBO),(1,T)) for rows that walk k, over ((8,n),(8,k)):((1,LBO),(8,SBO)) for rows that are k).
// Whole numbers, so that sums are exact.
#define MATRICES                                                                                          \
    "auto A = [](int row, int k) { return (float)((row * 5 + k * 3) % 7 - 3); };\n"                       \
    "auto B = [](int k, int column) { return (float)((k * 2 + column * 3) % 13 - 6); };\n"                \
    "auto half = [](float x) { return emulate_bits(x) >> 16; };\n"                                        \
    "auto sum = [&](int row, int column) {\n"                                                             \
    "    float s = 0; for (int k = 0; k < 16; k++) s += A(row, k) * B(k, column); return s;\n"            \
    "};\n"                                                                                                \
    "int group = me % 32 >> 2, in_group = me % 4;\n"
#define LEFT_FRAGMENTS(first)                                                                             \
    "unsigned a[4] = {};\n"                                                                               \
    "for (int i = 0; i < 8; i++) {\n"                                                                     \
    "    int row = i < 2 || (4 <= i && i < 6) ? group : group + 8, k = in_group * 2 + (i & 1) + (i < 4 ? 0 : 8);\n" \
    "    a[i / 2] |= half(A(" first "row, k)) << i % 2 * 16;\n"                                           \
    "}\n"
#define SUMS_HOLD(first, columns)                                                                         \
    "for (int i = 0; i < " columns " / 2; i++) {\n"                                                       \
    "    int row = " first "group + (i % 4 < 2 ? 0 : 8), column = i / 4 * 8 + in_group * 2 + (i & 1);\n"  \
    "    if (c[i / 4][i % 4] != sum(row, column)) p0[0] = -1;\n"                                          \
    "}\n"
#define TILES                                                                                             \
    "char *tile = shared_memory + 1008;\n"                                                                \
    "auto put = [&](unsigned at, float x) {\n"                                                            \
    "    at += emulate_shared_address(tile);\n"                                                           \
    "    at ^= (at >> 7 & 7) << 4;\n"                                                                     \
    "    *(unsigned short *)(tile + (at - emulate_shared_address(tile))) = half(x);\n"                    \
    "};\n"                                                                                                \
    "auto describe = [&](unsigned at, unsigned long long lead, unsigned long long stride) {\n"            \
    "    auto encode = [](unsigned long long x) { return (x & 0x3ffff) >> 4; };\n"                        \
    "    unsigned long long start = encode(emulate_shared_address(tile) + at);\n"                         \
    "    return start | encode(lead) << 16 | encode(stride) << 32 | 1ull << 62;\n"                        \
    "};\n"
#define MULTIPLIED(a, b)                                                                                  \
    "emulate_show_to_products(); __syncthreads(); emulate_begin_products();\n"                            \
    "emulate_product(c, " a ", " b "); emulate_wait_for_products();\n"

// p0: WORDS words, of which a launch may touch the first OPERAND.
static const Fault faults[] = {
    {"meet",
     "__shared__ int part[2];\n"
     "int sum = me;\n"
     "for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);\n"
     "if (me % 32 == 0) part[me / 32] = sum;\n"
     "__syncthreads();\n"
     "if (me == 0) p0[blockIdx.x] = part[0] + part[1] + __popc(7);\n"
     "unsigned odd = __ballot_sync(~0u, me % 2);\n"
     "if (__syncthreads_or(odd != 0xaaaaaaaau)) p0[blockIdx.x] = -1;\n",
     NULL},
    {"copied",
     "__shared__ __align__(16) int part[64];\n"
     "emulate_copy(part + me, p0 + 4 + me, 4, true);\n"
     "emulate_copies_arrive();\n"
     "__syncthreads();\n"
     "if (part[63 - me] != 7) p0[blockIdx.x] = -1;\n",
     NULL},
    {"warp", "__shared__ int x[64]; x[me] = me; __syncwarp(); int y = x[me ^ 1]; __syncwarp(); x[me ^ 3] = y;",
     NULL},
    {"bytes", "__shared__ char x[64]; x[me] = me; __syncthreads(); if (x[63 - me] != 63 - me) p0[0] = -1;",
     NULL},
    {"pieces",
     "int4 *x = (int4 *)shared_memory; if (me < 32) x[me] = int4{1, 2, 3, 4}; __syncthreads();\n"
     "if (((int *)x)[127 - me] != 4 - me % 4) p0[0] = -1;",
     NULL},

    {"product", SHOWN AWAITED "for (int i = 0; i < 32; i++) if (c[i / 4][i % 4] != 16) p0[0] = -1;", NULL},

    {"fragments_of_the_isa",
     MATRICES LEFT_FRAGMENTS("")
     "unsigned b[2] = {};\n"
     "for (int i = 0; i < 4; i++) b[i / 2] |= half(B(in_group * 2 + (i & 1) + (i < 2 ? 0 : 8), group)) << i % 2 * 16;\n"
     "float c[1][4] = {}; emulate_mma(c[0], a, b);\n" SUMS_HOLD("", "8"),
     NULL},
    // A's rows begin 16 of k behind the tile's, B's are at its end.
    {"product_of_rows_of_the_isa",
     MATRICES TILES
     "for (int i = me; i < 64 * 16; i += 128)\n"
     "    put(i / 16 / 8 * 1024 + i / 16 % 8 * 128 + (16 + i % 16) * 2, A(i / 16, i % 16));\n"
     "for (int i = me; i < 16 * 16; i += 128)\n"
     "    put(8192 + i / 16 / 8 * 1024 + i / 16 % 8 * 128 + i % 16 * 2, B(i % 16, i / 16));\n"
     "float c[2][4] = {};\n" MULTIPLIED("describe(32, 16, 1024)", "describe(8192, 16, 1024)")
     SUMS_HOLD("me / 32 * 16 + ", "16"),
     NULL},
    {"product_of_columns_of_the_isa",
     MATRICES TILES LEFT_FRAGMENTS("me / 32 * 16 + ")
     "for (int i = me; i < 16 * 128; i += 128)\n"
     "    put(i % 128 / 64 * 4096 + i / 128 / 8 * 1024 + i / 128 % 8 * 128 + i % 64 * 2, B(i / 128, i % 128));\n"
     "float c[16][4] = {};\n" MULTIPLIED("a", "describe(0, 4096, 1024)") SUMS_HOLD("me / 32 * 16 + ", "128"),
     NULL},
    // Sixteen products of 1.5 units of what 1 would be rounded to; with a plain sum each would count.
    {"cut_products",
     "unsigned a[4], b[2]; for (auto &x : a) x = 0x39c039c0; for (auto &x : b) x = 0x39803980;\n"
     "float c[4] = {1, -1, 0, 0x1p-24f}; emulate_mma(c, a, b);\n"
     "if (c[0] != 1 || c[1] != -1 || c[2] != 0x1.8p-20f || c[3] != 0x1.9p-20f) p0[0] = -1;\n",
     NULL},

    {"early_prefetch", "emulate_prefetch(p0 + me); emulate_wait_for_launches();", NULL},
    {"prefetch_out", "emulate_prefetch(p0 + me + 5);", "reads 1 bytes of global memory .*out of bounds"},
    {"early_read", "if (p0[me] == 99) p0[0] = 1; emulate_wait_for_launches();",
     "reads 4 bytes of global memory .*launches in front may still run"},
    {"early_leaver", "if (me != 40) emulate_wait_for_launches();", "thread 40: left without waiting for launches in front"},

    {"half_of_a_block", "if (me < 40) __syncthreads();", "part of the block waits at a barrier, part has left"},
    {"half_of_a_warp", "if (me % 2) __syncwarp();", "part of the warp waits at a shuffle, part does not"},
    {"two_barriers", "if (me < 32) __syncthreads(); else { p0[0]; __syncthreads(); }",
     "threads wait at different barriers"},
    {"two_shuffles",
     "if (me % 2) p0[me] = __shfl_xor_sync(~0u, 1, 1); else p0[me] = __shfl_xor_sync(~0u, 2, 1) + 1;",
     "lanes of the warp wait at different places"},

    {"no_barrier", "__shared__ int x[64]; x[me] = me; if (x[me ^ 32] == 99) p0[0] = 1;",
     "reads 4 bytes of shared memory .*nobody has written it"},
    {"no_barrier_after",
     "__shared__ int x[64]; x[me] = me; __syncthreads(); if (me < 32 && x[me + 32] == 99) p0[0] = 1; if (me > 31) x[me] = 1;",
     "writes 4 bytes of shared memory .*thread [0-9]* read there .*no barrier"},
    {"no_barrier_back", "__shared__ int x[64]; x[63 - me] = me; if (me > 40 && x[me] == 99) p0[0] = 1;",
     "reads 4 bytes of shared memory .*thread [0-9]* wrote there .*no barrier"},
    {"same_word", "__shared__ int x; x = 1;", "writes 4 bytes of shared memory .*thread 0 wrote there"},
    {"same_byte", "__shared__ char x[64]; x[me / 2] = 1;", "writes 1 bytes of shared memory .*thread 0 wrote"},
    {"part_of_word", "__shared__ int x[64]; if (me) ((char *)x)[me] = 1; else x[1] = 1;",
     "writes 1 bytes of shared memory .*thread 0 wrote"},
    {"many_read",
     "__shared__ int x[1]; if (me == 0) x[0] = 1; __syncthreads(); int y = x[0]; if (me == 63) x[0] = y + 1;",
     "writes 4 bytes of shared memory .*other warps read"},
    {"warp_barrier_for_block", "__shared__ int x[64]; x[me] = me; __syncwarp(); if (me > 31 && x[me - 32] == 99) p0[0] = 1;",
     "reads 4 bytes of shared memory .*thread [0-9]* wrote there"},
    {"no_warp_barrier",
     "__shared__ int x[64]; x[me] = me; __shfl_xor_sync(~0u, 1, 1); if (x[me ^ 1] == 99) p0[0] = 1;",
     "reads 4 bytes of shared memory .*thread 1 wrote there"},
    {"no_warp_barrier_after",
     "__shared__ int x[64]; x[me] = me; __syncwarp(); int y = x[me / 32 * 32]; if (me % 32 == 31) x[me - 31] = y;",
     "writes 4 bytes of shared memory .*lanes of warp 0 read"},

    {"two_blocks_write", "if (me == 0) p0[3] = 1;", "writes 4 bytes of global memory .*another block wrote"},
    {"two_blocks_read", "if (me == 0) { if (blockIdx.x == 1) p0[0] = 1; if (p0[0] == 99) p0[20] = 1; }",
     "writes 4 bytes of global memory .*another block read"},
    {"block_reads", "if (me == 0) { p0[blockIdx.x] = 1; if (blockIdx.x && p0[0] == 99) p0[9] = 1; }",
     "reads 4 bytes of global memory .*another block wrote"},
    {"global_in_block", "if (blockIdx.x == 0 && p0[me ^ 1] != -1) p0[me] = 1;",
     "writes 4 bytes of global memory .*thread 1 read|reads 4 bytes of global memory .*thread 0 wrote"},

    {"out_by_one", "if (blockIdx.x == 0) p0[me + 5] = 1;", "writes 4 bytes of global memory .*out of bounds"},
    {"out_before", "if (me == 0 && p0[-1] == 99) p0[0] = 1;", "reads 4 bytes of global memory .*out of bounds"},
    {"out_in_part", "if (me == 0 && ((int4 *)p0)[17].x == 99) p0[0] = 1;", "of global memory .*out of bounds"},
    {"out_static", "__shared__ int x[63]; x[me] = 1;", "out of bounds"},
    {"out_dynamic", "((int *)shared_memory)[me + 65] = 1;", "writes 4 bytes of shared memory .*out of bounds"},
    {"other_stack",
     "int mine[4] = {me, 1, 2, 3}; int **all = (int **)shared_memory; all[me] = mine; __syncthreads();\n"
     "if (all[me ^ 1][me % 4] == 99) p0[0] = 1;",
     "it is local to another thread"},
    {"odd_word", "if (*(int *)((char *)p0 + 2 * me) == 99) p0[0] = 1;", "not aligned"},
    {"odd_piece", "int4 x = *(int4 *)(p0 + 2 * me % 64); if (x.y == 99) p0[0] = x.x;", "reads 16 bytes .*not aligned"},
    {"odd_pack", "auto x = load_pack<4>(p0 + 1 + me); if (x.at[2] == 99) p0[0] = 1;", "not aligned"},
    {"odd_row", "__shared__ __align__(16) short x[1024]; unsigned y[4]; for (int i = me; i < 1024; i += 64) x[i] = 1; __syncthreads();\n"
     "emulate_load_fragments(y, x + 4 * me, false);", "a row of a fragment that is not aligned"},
    {"unwritten", "__shared__ int x[64]; if (me) x[me] = 1; __syncthreads(); if (x[63 - me] == 99) p0[0] = 1;",
     "nobody has written it"},
    {"unwritten_in_this_block", "__shared__ int x[64]; if (blockIdx.x == 0) x[me] = 1; if (x[me] == 99) p0[0] = 1;",
     "block .1, 0, 0., thread 0: reads 4 bytes of shared memory .*nobody has written it"},

    {"copy_not_awaited",
     "__shared__ __align__(16) int x[64]; emulate_copy(x + me, p0 + 4 + me, 4, true);\n"
     "if (x[me] == 99) p0[0] = 1; emulate_copies_arrive();",
     "reads 4 bytes of shared memory .*a copy to it is under way"},
    {"copy_not_met",
     "__shared__ __align__(16) int x[64]; emulate_copy(x + me, p0 + 4 + me, 4, true); emulate_copies_arrive();\n"
     "if (me && x[me - 1] == 99) p0[0] = 1;",
     "reads 4 bytes of shared memory .*thread 0 wrote there"},
    {"copy_over_reads",
     "__shared__ __align__(16) int x[64]; x[me] = 1; __syncthreads();\n"
     "if (me < 32 && x[me + 32] == 99) p0[0] = 1;\n"
     "if (me > 31) emulate_copy(x + me, p0 + 4 + me, 4, true); emulate_copies_arrive();",
     "writes 4 bytes of shared memory .*read there"},
    {"copy_left", "__shared__ int x[64]; emulate_copy(x + me, p0, 4, true);", "left with copies under way"},
    {"copy_odd", "__shared__ __align__(16) int x[65]; emulate_copy(x + 1, p0, 16, true);", "a copy that is not aligned"},

    {"product_unshown", TILE "__syncthreads();" AWAITED, "reads 16 bytes .*its writer has not shown it to products"},
    {"product_shown_too_early", "emulate_show_to_products();" TILE "__syncthreads();" AWAITED, "its writer has not shown it"},
    {"product_not_met", TILE "emulate_show_to_products();" AWAITED, "reads 16 bytes .*(wrote there|nobody has written)"},
    {"product_overwritten", SHOWN AWAITED "x[me] = 0;", "writes 2 bytes of shared memory .*read there"},
    {"product_not_begun", SHOWN "emulate_product(c, a, b); emulate_wait_for_products();", "a product that nothing has begun"},
    {"product_left", SHOWN PRODUCT, "left with products under way"},
    {"product_too_early", SHOWN PRODUCT "if (c[0][0] != c[0][0]) emulate_fail(\"not there yet\", me); emulate_wait_for_products();",
     "not there yet"},
    {"product_of_half", SHOWN "if (me < 64) {" AWAITED "}", "part of the warpgroup waits at a product, part does not"},
    {"products_apart", SHOWN "if (me < 64) {" AWAITED "} else {" AWAITED "}", "warps wait at different products"},
    {"product_of_rows", SHOWN "b &= ~(1ull << 62);" AWAITED, "a matrix that is not swizzled"},
};
enum { FAULTS = sizeof faults / sizeof *faults };

static const char head[] =
    "#include \"" CHERRY_SOURCE "/tests/cuda/emulate.h\"\n"
    "struct alignas(16) int4 { int x, y, z, w; };\n"
    "template <class T, int N> struct alignas(sizeof(T) * N) pack { T at[N]; };\n"
    "template <int N, class T> static __forceinline__ pack<T, N> load_pack(const T *from) { return *(const pack<T, N> *)from; }\n";

static void write_source(const char *path) {
    FILE *stream = fopen(path, "w");
    assert_non_null(stream);
    fputs(head, stream);
    for (size_t i = 0; i < FAULTS; i++) {
        const char *wait = strncmp(faults[i].name, "early", 5) == 0 ? "" : "emulate_wait_for_launches();";
        fprintf(stream, "extern \"C\" void k_%s(int *p0) {\nSHARED_MEMORY;\nint me = threadIdx.x;\n%s\n%s\n}\nEMULATE_KERNEL(k_%s)\n",
                faults[i].name, wait, faults[i].body, faults[i].name);
    }
    fclose(stream);
}

// In a process of its own: a fault ends it. Whether its last words hold `message`.
static bool is_found(void *library, const Fault *fault, const char *log) {
    char name[80], command[600];
    snprintf(name, sizeof name, "launch_k_%s", fault->name);
    void *symbol = dlsym(library, name);
    LaunchFunction launch;
    assert_non_null(symbol);
    memcpy(&launch, &symbol, sizeof launch);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (!freopen(log, "w", stderr) || setvbuf(stderr, NULL, _IONBF, 0)) _exit(3);
        int *words = aligned_alloc(64, sizeof *words * WORDS);
        for (int i = 0; i < WORDS; i++) words[i] = i < 4 ? 0 : 7;
        char *pointers[] = {(char *)words};
        EmulateSpan span = {(char *)words, (int64_t)sizeof *words * OPERAND};
        bool warpgroup = strncmp(fault->name, "product", 7) == 0;
        EmulateGrid grid = {.blocks = {BLOCKS, 1, 1},
                            .block = warpgroup ? 128 : THREADS,
                            .span_count = 1,
                            .shared_bytes = warpgroup ? PRODUCT_DYNAMIC : DYNAMIC,
                            .spans = &span};
        launch(pointers, &grid);
        bool meets = strcmp(fault->name, "meet") != 0 || (words[0] == 2019 && words[2] == 2019);
        _exit(words[0] == -1 || !meets);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!fault->message) return WIFEXITED(status) && WEXITSTATUS(status) == 0;
    snprintf(command, sizeof command, "grep -Eq '%s' %s", fault->message, log);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && system(command) == 0;
}

static void faults_are_found(void **state) {
    (void)state;
    char folder[] = "/tmp/cherry-fibers-XXXXXX", source[80], library[80], log[80], command[200];
    assert_non_null(mkdtemp(folder));
    snprintf(source, sizeof source, "%s/a.cc", folder);
    snprintf(library, sizeof library, "%s/a.so", folder);
    snprintf(log, sizeof log, "%s/log", folder);
    write_source(source);
    assert_true(compile_emulated(source, library));
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    assert_non_null(handle);
    int missed = 0;
    for (size_t i = 0; i < FAULTS; i++) {
        if (is_found(handle, &faults[i], log)) continue;
        print_message("%s: %s\n", faults[i].name, faults[i].message ? "not found" : "found what is not there");
        snprintf(command, sizeof command, "cat %s", log);
        missed += system(command) >= 0;
    }
    dlclose(handle);
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
    assert_int_equal(missed, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(faults_are_found)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
