// Predicted times on a machine that is made up: what they are made of, exactly.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "codegen/cpu.h"
#include "driver/predict.h"

enum { TILE_ROWS = 8, TALL_ROWS = 14, LANES = 16 };  // of the machine

static Arena *arena;
static Ir *ir;

static int setup(void **state) {
    (void)state;
    arena = arena_create();
    ir = ir_create(arena);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    arena_destroy(arena);
    return 0;
}

static Machine machine(void) {
    return (Machine){.threads = 2, .flops_per_second = 200e9, .far_bytes_per_second = 50e9,
                     .instructions_per_second = 7e9, .multiplies_per_second = 6e9, .barrier_seconds = 1e-7,
                     .near_bytes_per_second = {200e9, 180e9, 160e9, 140e9, 60e9}, .cpu = {.cpu = "znver4"}};
}

static Machine boundless(void) {  // in memory and in all that is not multiplied
    Machine given = machine();
    given.instructions_per_second = given.far_bytes_per_second = 1e18;
    for (int i = 0; i < MACHINE_NEAR_SIZES; i++) given.near_bytes_per_second[i] = 1e18;
    return given;
}

static uint32_t buffer(Program *program, const char *name, int64_t count) {
    Dimension dimension = {names_intern(ir->names, "n"), count, NULL};
    const Type *type = type_make(ir, ELEMENT_F32, 1, &dimension);
    return program_add_buffer(program, (Buffer){.kind = BUFFER_STATE, .role = ROLE_PARAMETER, .name = name,
                                                .type = type, .bytes = type_bytes(type), .offset = -1});
}

static Launch launch_of(Program *program, const char *text) {
    const Nest *nest = nest_read(ir, "test", text);
    assert_non_null(nest);
    return (Launch){.kernel = program_add_nest(program, nest), .operand_count = 3, .workspaces = NO_WORKSPACES};
}

static Program *contraction(int64_t rows, int64_t columns, int64_t depth) {
    typedef long long L;
    L r = rows, c = columns, k = depth;
    Program *program = program_create(ir, "contraction");
    Launch launch = launch_of(
        program, arena_format(arena,
                              "nest dot {\n  outer r=%lld, c=%lld\n  inner k=%lld\n  parallel r, c\n"
                              "  operand 0: read f32 [%lld:%lld, %lld:1]\n  operand 1: read f32 [%lld:%lld, %lld:1]\n"
                              "  operand 2: write f32 [%lld:%lld, %lld:1]\n"
                              "  stage 0: sum over k { mul(@0[r, k], @1[k, c]) }\n"
                              "  stage 1: store @2[r, c] { stage 0 }\n}\n",
                              r, c, k, r, k, k, k, c, c, r, c, c));
    launch.buffers[0] = buffer(program, "a", rows * depth);
    launch.buffers[1] = buffer(program, "b", depth * columns);
    launch.buffers[2] = buffer(program, "c", rows * columns);
    vector_push(arena, &program->launches, launch);
    return program;
}

// x + y into z, `times` times.
static Program *addition(int64_t count, int times) {
    typedef long long L;
    Program *program = program_create(ir, "addition");
    Launch launch = launch_of(
        program, arena_format(arena,
                              "nest add {\n  outer n=%lld\n  parallel n\n  operand 0: read f32 [%lld:1]\n"
                              "  operand 1: read f32 [%lld:1]\n  operand 2: write f32 [%lld:1]\n"
                              "  stage 0: store @2[n] { add(@0[n], @1[n]) }\n}\n",
                              (L)count, (L)count, (L)count, (L)count));
    launch.buffers[0] = buffer(program, "x", count);
    launch.buffers[1] = buffer(program, "y", count);
    launch.buffers[2] = buffer(program, "z", count);
    for (int i = 0; i < times; i++) vector_push(arena, &program->launches, launch);
    return program;
}

static CpuWork work_of(const Program *program) {
    CpuWork work;
    assert_true(cpu_program_work(ir, program, &(CpuOptions){.cpu = "znver4"}, &work));
    return work;
}

static double seconds_of(const Program *program, Machine given) {
    double seconds[8];
    assert_true(program->launches.count <= 8);
    return predict_launches(program, &given, seconds);
}

static void near(double found, double expected) {
    if (!(found > 0.999 * expected && found < 1.001 * expected)) fail_msg("found %g, expected %g", found, expected);
}

static void test_whole_tiles(void **state) {
    (void)state;
    for (int64_t rows = TILE_ROWS + 1; rows <= 2 * TILE_ROWS; rows++) {
        int64_t computed = rows <= TALL_ROWS ? rows : 2 * ((rows + 1) / 2);  // one tile, or cut evenly
        near(work_of(contraction(rows, 64, 32)).multiplies, (double)(computed * 64 / LANES * 32));
    }
    for (int64_t columns = LANES + 1; columns <= 2 * LANES; columns++)
        near(work_of(contraction(64, columns, 32)).multiplies, 64 * 2 * 32);
}

static void test_longer_where_larger(void **state) {
    (void)state;
    static const int64_t extents[] = {1, 7, 8, 9, 64, 100, 512, 1000};
    for (int larger = 0; larger < 3; larger++) {
        double before = 0;
        for (size_t i = 0; i < sizeof extents / sizeof *extents; i++) {
            int64_t size[] = {256, 256, 256};
            size[larger] = extents[i] * 8;
            double seconds = seconds_of(contraction(size[0], size[1], size[2]), machine());
            assert_true(seconds > before);
            before = seconds;
        }
    }
    assert_true(seconds_of(addition(2000, 1), machine()) > seconds_of(addition(1000, 1), machine()));
}

// Three arrays that no cache holds come from memory, the one that is written too; that it goes back costs nothing.
static void test_bytes_from_memory(void **state) {
    (void)state;
    enum { COUNT = 16 << 20 };
    double bytes = 3.0 * COUNT * 4;
    near(seconds_of(addition(COUNT, 1), machine()), bytes / 50e9);
    Machine slower = machine();
    slower.far_bytes_per_second /= 2;
    near(seconds_of(addition(COUNT, 1), slower), bytes / 25e9);
    Machine faster = machine();  // in all that does not matter here
    faster.multiplies_per_second *= 2, faster.instructions_per_second *= 2, faster.near_bytes_per_second[0] *= 2;
    near(seconds_of(addition(COUNT, 1), faster), bytes / 50e9);
}

// The rate is that of streams as long as it is since the bytes were touched: the whole program where it fits, else
// three operands of 4 MiB.
static void test_bytes_from_caches(void **state) {
    (void)state;
    enum { COUNT = 1 << 20 };
    Machine given = machine();
    given.instructions_per_second = 1e18;
    double bytes = 3.0 * COUNT * 4, start = 2.1e-6;
    near(seconds_of(addition(COUNT, 1), given) - start, bytes / 140e9);
    Program *program = addition(COUNT, 2);
    buffer(program, "other", 64 << 20);
    double seconds[2];
    predict_launches(program, &given, seconds);
    near(seconds[0] - start, bytes / 50e9);
    near(seconds[1] - start, bytes / 140e9);
    given.near_bytes_per_second[3] = 70e9;
    predict_launches(program, &given, seconds);
    near(seconds[1] - start, bytes / 70e9);
}

// The lines of a sum of two arrays come as theirs do, unless they are so many that they pass by the caches; a product is
// bound by its FLOPs.
static void test_floors(void **state) {
    (void)state;
    enum { COUNT = 1 << 20 };
    Machine given = machine();
    given.bytes_per_second = 80e9;
    const Kernel *sum = &addition(COUNT, 1)->kernels.items[0], *large = &addition(4 * COUNT, 1)->kernels.items[0];
    near(predict_floor(sum, &given), 3.0 * COUNT * 4 / 50e9);
    near(predict_floor(large, &given), 2.0 * 4 * COUNT * 4 / 50e9);
    given.bytes_per_second = 60e9;
    near(predict_floor(large, &given), 3.0 * 4 * COUNT * 4 / 60e9);
    given.far_bytes_per_second = 0;
    near(predict_floor(sum, &given), 3.0 * COUNT * 4 / 60e9);
    near(predict_floor(&contraction(512, 512, 512)->kernels.items[0], &given), 2.0 * 512 * 512 * 512 / 200e9);
}

static void test_multiplies(void **state) {
    (void)state;
    Machine given = boundless();
    Program *program = contraction(1024, 512, 512);
    double multiplies = 1024.0 * 512 * 512 / LANES, starts = 2.1e-6 * work_of(program).phases;
    near(seconds_of(program, given) - starts, multiplies / 6e9);
    given.multiplies_per_second /= 2;
    near(seconds_of(program, given) - starts, multiplies / 3e9);
}

// One thread works where there is one task, and all share many.
static void test_shares(void **state) {
    (void)state;
    assert_true(cpu_work_imbalance(&(CpuWork){.tasks = 1}, 2) == 2);
    assert_true(cpu_work_imbalance(&(CpuWork){.tasks = 3}, 2) == 4.0 / 3);
    assert_true(cpu_work_imbalance(&(CpuWork){.tasks = 64}, 2) == 1);
    Machine one = boundless(), two = boundless();
    one.threads = 1;
    Program *small = contraction(8, 16, 4096);
    assert_true(work_of(small).tasks == 1);
    near((seconds_of(small, two) - 2.1e-6) / (seconds_of(small, one) - 2.1e-6), 2);
}

static Program *attention(const char *name, int64_t heads, int64_t time, int64_t key, bool causal) {
    Option *options = ARENA_ARRAY(arena, Option, 4);
    static const char *const texts[] = {"over", "key", "along", "time", "past", "past"};
    for (int i = 0; i < 3; i++)
        options[i] = (Option){.name = texts[2 * i], .text = names_intern(ir->names, texts[2 * i + 1])};
    options[3] = (Option){.name = "causal", .number = causal};
    Dimension q[] = {{names_intern(ir->names, "heads"), heads, NULL}, {names_intern(ir->names, "time"), time, NULL},
                     {names_intern(ir->names, "key"), key, NULL}};
    Dimension k[] = {q[0], {names_intern(ir->names, "past"), time, NULL}, q[2]};
    const Type *queries = type_make(ir, ELEMENT_F32, 3, q), *keys = type_make(ir, ELEMENT_F32, 3, k);
    const Type *lse = type_make(ir, ELEMENT_F32, 2, q), *positions = type_make(ir, ELEMENT_I32, 1, q + 1);
    NamedKernel *named = ARENA_NEW(arena, NamedKernel);
    *named = (NamedKernel){.name = name, .options = options, .option_count = 4, .operand_count = 6, .output_start = 4,
                           .types = {queries, keys, keys, positions, queries, lse}};
    if (strcmp(name, "attention_gradient") == 0)
        *named = (NamedKernel){.name = name, .options = options, .option_count = 4, .operand_count = 11,
                               .output_start = 8,
                               .types = {queries, keys, keys, positions, queries, lse, queries, lse, queries, keys,
                                         keys}};
    for (int i = 0; i < named->operand_count; i++)
        for (int d = named->types[i]->rank - 1, stride = 1; d >= 0; d--) {
            named->strides[i][d] = stride;
            stride *= (int)named->types[i]->dimensions[d].extent;
        }
    Program *program = program_create(ir, "attention");
    program_add_named(program, named);
    return program;
}

// Two products of all pairs, five backward; causality leaves half of them and what whole blocks have beyond it.
static void test_attention(void **state) {
    (void)state;
    double pairs = 4.0 * 1024 * 1024;
    CpuWork all = work_of(attention("attention", 4, 1024, 64, false));
    near(all.multiplies, pairs * 2 * 64 / LANES);
    CpuWork causal = work_of(attention("attention", 4, 1024, 64, true));
    assert_true(causal.multiplies > 0.5 * all.multiplies && causal.multiplies < 0.53 * all.multiplies);
    assert_true(causal.tasks == 16);
    CpuWork gradient = work_of(attention("attention_gradient", 4, 1024, 64, true));
    near(gradient.multiplies, 2.5 * causal.multiplies);
    assert_true(gradient.tasks == 4);
}

// Rows that a count bounds are as many as that is expected to be; without expectation, all there may be.
static void test_expected_rows(void **state) {
    (void)state;
    Program *program = program_create(ir, "bounded");
    Launch launch = launch_of(program, "nest dot {\n  outer r<=1024:rows@3, c=256\n  inner k=128\n  parallel r, c\n"
                                       "  operand 0: read f32 [1024:128, 128:1]\n  operand 1: read f32 [128:256, 256:1]\n"
                                       "  operand 2: write f32 [1024:256, 256:1]\n  operand 3: read i64 []\n"
                                       "  stage 0: sum over k { mul(@0[r, k], @1[k, c]) }\n"
                                       "  stage 1: store @2[r, c] { stage 0 }\n}\n");
    launch.operand_count = 4;
    launch.buffers[0] = buffer(program, "a", 1024 * 128);
    launch.buffers[1] = buffer(program, "b", 128 * 256);
    launch.buffers[2] = buffer(program, "c", 1024 * 256);
    launch.buffers[3] = program_add_buffer(program, (Buffer){.kind = BUFFER_TEMPORARY, .role = ROLE_SCALAR, .name = "rows",
                                                             .type = type_scalar(ir, ELEMENT_I64), .bytes = 8});
    vector_push(arena, &program->launches, launch);
    near(seconds_of(program, machine()), seconds_of(contraction(1024, 256, 128), machine()));
    program->buffers.items[launch.buffers[3]].expected = 512;
    near(seconds_of(program, machine()), seconds_of(contraction(512, 256, 128), machine()));
}

static void test_unknown(void **state) {
    (void)state;
    assert_true(seconds_of(addition(1000, 2), (Machine){.name = "a GPU", .flops_per_second = 1e15}) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_tiles),       cmocka_unit_test(test_longer_where_larger),
        cmocka_unit_test(test_bytes_from_memory), cmocka_unit_test(test_bytes_from_caches),
        cmocka_unit_test(test_floors),
        cmocka_unit_test(test_multiplies),        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_attention),         cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_expected_rows),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
