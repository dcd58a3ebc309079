// The emulated GPU itself: shuffles, ballots and barriers meet, and threads that miss each other are found.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char source[] =
    "#include \"tests/cuda/emulate.h\"\n"
    "extern \"C\" void meet(int *p0) {\n"
    "    __shared__ int part[2];\n"
    "    int sum = threadIdx.x;\n"
    "    for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);\n"
    "    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;\n"
    "    __syncthreads();\n"
    "    if (threadIdx.x == 0) p0[blockIdx.x] = part[0] + part[1] + __popc(7);\n"
    "    unsigned odd = __ballot_sync(~0u, threadIdx.x % 2);\n"
    "    if (__syncthreads_or(odd != 0xaaaaaaaau)) p0[blockIdx.x] = -1;\n"
    "}\n"
    "extern \"C\" void part(int *p0) { if (threadIdx.x < 40) __syncthreads(); }\n"
    "extern \"C\" void half(int *p0) { if (threadIdx.x % 2) __syncwarp(); }\n"
    "extern \"C\" void copy(int *p0) {\n"
    "    __shared__ __attribute__((aligned(16))) int part[64];\n"
    "    emulate_copy(part + threadIdx.x, p0 + 4 + threadIdx.x, 4, true);\n"
    "    if (p0[3] != 1) emulate_copies_arrive();\n"
    "    if (p0[3] != 2) __syncthreads();\n"
    "    if (part[63 - threadIdx.x] != 7) p0[0] = -1;\n"
    "    emulate_copies_arrive();\n"
    "}\n"
    "extern \"C\" void late(int *p0) { __shared__ int part[64]; emulate_copy(part + threadIdx.x, p0, 4, "
    "true); }\n"
    "EMULATE_KERNEL(copy) EMULATE_KERNEL(late) EMULATE_KERNEL(meet) EMULATE_KERNEL(part) "
    "EMULATE_KERNEL(half)\n"
    "int main(int, char **arguments) {\n"
    "    int out[3] = {0};\n"
    "    char *pointers[] = {(char *)out};\n"
    "    int64_t grid[] = {3, 1, 1};\n"
    "    int numbers[68] = {0, 0, 0, arguments[1][1] - '0'};\n"
    "    for (int i = 4; i < 68; i++) numbers[i] = 7;\n"
    "    char *copied[] = {(char *)numbers};\n"
    "    if (arguments[1][0] == 'c') launch_copy(copied, grid, 64);\n"
    "    if (arguments[1][0] == 'l') launch_late(copied, grid, 64);\n"
    "    if (numbers[0] == -1) return 2;\n"
    "    if (arguments[1][0] == 'p') launch_part(pointers, grid, 64);\n"
    "    if (arguments[1][0] == 'h') launch_half(pointers, grid, 64);\n"
    "    launch_meet(pointers, grid, 64);\n"
    "    return out[0] == 2019 && out[2] == 2019 ? 0 : 1;\n"
    "}\n";

static int run(const char *folder, const char *what, const char *message) {
    char command[256];
    snprintf(command, sizeof command, "%s/a %s 2>%s/log", folder, what, folder);
    int status = system(command);
    if (message) {
        snprintf(command, sizeof command, "grep -q '%s' %s/log", message, folder);
        assert_int_equal(system(command), 0);
    }
    return status;
}

static void threads_meet(void **state) {
    (void)state;
    char folder[] = "/tmp/cherry-fibers-XXXXXX", text[512];
    assert_non_null(mkdtemp(folder));
    snprintf(text, sizeof text, "%s/a.cc", folder);
    FILE *stream = fopen(text, "w");
    assert_non_null(stream);
    fputs(source, stream);
    fclose(stream);
    snprintf(text, sizeof text, "%s -std=c++17 -O1 -w -I%s -o %s/a %s/a.cc", CHERRY_CXX, CHERRY_SOURCE,
             folder, folder);
    assert_int_equal(system(text), 0);
    assert_int_equal(run(folder, "meet", NULL), 0);
    assert_int_not_equal(run(folder, "part", "part of the block waits at a barrier, part has left"), 0);
    assert_int_not_equal(run(folder, "half", "part of the warp waits at a shuffle, part does not"), 0);
    assert_int_equal(run(folder, "c0", NULL), 0);
    assert_int_not_equal(run(folder, "c1", NULL), 0);  // read before the wait
    assert_int_not_equal(run(folder, "c2", NULL), 0);  // waited for its own copies alone
    assert_int_not_equal(run(folder, "late", "left with copies under way"), 0);
    snprintf(text, sizeof text, "rm -r %s", folder);
    assert_int_equal(system(text), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(threads_meet)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
