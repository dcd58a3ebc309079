// share-packed: who packs, who reads what was packed, how long it lives, and when it is packed again.
#include "tests/unit/fuse_test.h"

enum { KEY = 7, BYTES = 1 << 20 };

static Ir *ir;
static Graph *g;
static Program *program;
static uint32_t w;  // buffer

// launches: a = x * w, b = tanh(a), c = b * w, d = tanh(c), e = d * w, sum
static int setup(void **state) {
    (void)state;
    ir = ir_create(arena_create());
    g = graph_create(ir, test_name(ir, "test"));
    const Type *type = test_type(ir, ELEMENT_F32, "i", 64, NULL);
    Value x = test_input(g, "x", ROLE_DATA, type), weight = test_input(g, "w", ROLE_PARAMETER, type);
    for (int i = 0; i < 3; i++) x = fuse_mul(g, i ? fuse_one(g, OP_tanh, x) : x, weight);
    fuse_output(g, "out", fuse_sum(g, x, "i"));
    program = fuse_test_lower(g, NULL);
    assert_int_equal(program->launches.count, 6);
    Kernel *kernel = &program->kernels.items[program->launches.items[0].kernel];
    kernel->cpu.workspace_bytes[0] = BYTES;
    kernel->cpu.packed_key[0] = KEY;
    kernel->cpu.pack_count = 1;
    w = program_find_buffer(program, test_name(ir, "w"), ROLE_PARAMETER);
    const Launch *launch = &program->launches.items[0];
    while (launch->buffers[kernel->cpu.packed_operand[0]] != w) kernel->cpu.packed_operand[0]++;
    return 0;
}

static int teardown(void **state) {
    (void)state;
    arena_destroy(ir->arena);
    return 0;
}

static const Launch *launch(int number) { return &program->launches.items[number]; }

static void expect_packed(bool second, bool third) {
    assert_true(share_packed(program) && plan_memory(program));
    assert_false(launch(0)->packed[0]);
    assert_int_equal(launch(2)->packed[0], second);
    assert_int_equal(launch(4)->packed[0], third);
    assert_int_equal(launch(0)->workspaces[0] == launch(2)->workspaces[0], second);
    assert_int_equal(launch(2)->workspaces[0] == launch(4)->workspaces[0], third);
    assert_true(program_verify(program));
}

static void packs_once(void **state) {
    (void)state;
    expect_packed(true, true);
    const Buffer *workspace = &program->buffers.items[launch(0)->workspaces[0]];
    assert_int_equal(workspace->first, 0);
    assert_int_equal(workspace->last, 4);
    assert_int_equal(workspace->bytes, BYTES);
}

static void writing_makes_stale(void **state) {
    (void)state;
    Launch *third = &program->launches.items[3];
    uint32_t made = UINT32_MAX;
    for (int o = 0; o < third->operand_count; o++) {
        if (!launch_writes(program, third, o)) continue;
        made = third->buffers[o];
        third->buffers[o] = w;
    }
    Launch *fourth = &program->launches.items[4];
    for (int o = 0; o < fourth->operand_count; o++)
        if (fourth->buffers[o] == made) fourth->buffers[o] = w;
    expect_packed(true, false);
}

static void other_places_are_other_operands(void **state) {
    (void)state;
    Kernel *kernel = &program->kernels.items[launch(0)->kernel];
    kernel->cpu.packed_operand[0] = 1 - kernel->cpu.packed_operand[0];
    expect_packed(false, false);
}

// Between the launches as much is live as at them: both would be a third more than the limit.
static void room_is_limited(void **state) {
    (void)state;
    program->kernels.items[launch(1)->kernel].cpu.workspace_bytes[0] = BYTES;
    expect_packed(false, false);
}

// Where packing is optional, it gets a workspace only to be shared, and only where there is room for it.
static void optional_packing_needs_company(void **state) {
    (void)state;
    Kernel *kernel = &program->kernels.items[launch(0)->kernel];
    kernel->cpu.pack_optional[0] = true;
    assert_true(share_packed(program) && plan_memory(program));  // no room
    for (int i = 0; i < 6; i += 2) assert_true(launch(i)->workspaces[0] == UINT32_MAX && !launch(i)->packed[0]);
    program->kernels.items[launch(1)->kernel].cpu.workspace_bytes[0] = 32 * BYTES;
    expect_packed(true, true);
    assert_true(launch(0)->workspaces[0] != UINT32_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(packs_once, setup, teardown),
        cmocka_unit_test_setup_teardown(writing_makes_stale, setup, teardown),
        cmocka_unit_test_setup_teardown(other_places_are_other_operands, setup, teardown),
        cmocka_unit_test_setup_teardown(room_is_limited, setup, teardown),
        cmocka_unit_test_setup_teardown(optional_packing_needs_company, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
