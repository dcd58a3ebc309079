// Rates come from generated kernels that run like those of a model: a contraction, and an update of three arrays by a
// fourth, as optimizers do, over as much memory as fits into a cache and over more.
#include "driver/machine.h"

#include <math.h>
#include <string.h>

#include "base/median.h"
#include "base/thread.h"
#include "driver/predict.h"
#include "passes/program_passes.h"
#include "runtime/executor.h"
#include "runtime/memory.h"
#include "runtime/state.h"

enum {
    ROUNDS = 9,  // of all measurements in turn; medians count, as others who use the machine come and go
    BARRIERS = 100,
    PRODUCT_ROWS = 1024, PRODUCT_COLUMNS = 512, PRODUCT_DEPTH = 512,  // as in a model of some size
    STREAM_ARRAYS = 4,
    STREAM_COUNT = 1 << 16,                                // elements of an array that one launch takes
    STREAM_BYTES = STREAM_ARRAYS * STREAM_COUNT * 4,       // of a launch: 1 MiB
    STREAM_LEAST = MACHINE_NEAR_LEAST / STREAM_BYTES,      // launches
    STREAM_SIZES = MACHINE_NEAR_SIZES + 1,                 // the last one is for memory
    STREAM_MOST = STREAM_LEAST << (STREAM_SIZES - 1),
    PRODUCT = 0, STREAM = 1, PROGRAMS = STREAM + STREAM_SIZES
};
static const double STREAM_MOVED = 7.0 / 4;  // reads of all arrays and writes of three, by the bytes that come

// ---- Programs ----

static const char *product_text(Arena *arena, Element precision) {
    int rows = PRODUCT_ROWS, columns = PRODUCT_COLUMNS, depth = PRODUCT_DEPTH;
    bool narrow = precision == ELEMENT_BF16;
    const char *a = narrow ? "cast f32(@0[r, k])" : "@0[r, k]";
    const char *b = narrow ? "cast f32(cast bf16(@1[k, c]))" : "@1[k, c]";
    return arena_format(arena,
                        "nest dot {\n  outer r=%d, c=%d\n  inner k=%d\n  parallel r, c\n"
                        "  operand 0: read %s [%d:%d, %d:1]\n  operand 1: read f32 [%d:%d, %d:1]\n"
                        "  operand 2: write f32 [%d:%d, %d:1]\n"
                        "  stage 0: sum over k { mul(%s, %s) }\n  stage 1: store @2[r, c] { stage 0 }\n}\n",
                        rows, columns, depth, element_name(precision), rows, depth, depth, depth, columns, columns,
                        rows, columns, columns, a, b);
}

static const char *stream_text(Arena *arena) {
    int n = STREAM_COUNT;
    return arena_format(arena,
                        "nest update {\n  outer n=%d\n  parallel n\n"
                        "  operand 0: read f32 [%d:1]\n  operand 1: update f32 [%d:1]\n"
                        "  operand 2: update f32 [%d:1]\n  operand 3: update f32 [%d:1]\n"
                        "  stage 0: store @1[n] { add(@1[n], @0[n]) }\n"
                        "  stage 1: store @2[n] { add(@2[n], mul(@0[n], @0[n])) }\n"
                        "  stage 2: store @3[n] { sub(@3[n], @1[n]) }\n}\n",
                        n, n, n, n, n);
}

static uint32_t add_kernel(Program *program, const char *text) {
    Nest *nest = nest_read(program->ir, program->name, text);
    CHECK(nest);
    return program_add_nest(program, nest);
}

static uint32_t add_buffer(Program *program, const char *name, Element element, int64_t count) {
    Dimension dimension = {names_intern(program->ir->names, "n"), count, NULL};
    const Type *type = type_make(program->ir, element, 1, &dimension);
    return program_add_buffer(program, (Buffer){.kind = BUFFER_STATE, .role = ROLE_PARAMETER, .name = name,
                                                .type = type, .bytes = type_bytes(type), .offset = -1});
}

static Program *product_program(Ir *ir, Element precision) {
    Program *program = program_create(ir, "product");
    Launch launch = {.kernel = add_kernel(program, product_text(ir->arena, precision)), .operand_count = 3,
                     .workspaces = NO_WORKSPACES};
    launch.buffers[0] = add_buffer(program, "a", precision, (int64_t)PRODUCT_ROWS * PRODUCT_DEPTH);
    launch.buffers[1] = add_buffer(program, "b", ELEMENT_F32, (int64_t)PRODUCT_DEPTH * PRODUCT_COLUMNS);
    launch.buffers[2] = add_buffer(program, "c", ELEMENT_F32, (int64_t)PRODUCT_ROWS * PRODUCT_COLUMNS);
    vector_push(ir->arena, &program->launches, launch);
    return program;
}

static Program *stream_program(Ir *ir, int launches) {
    Program *program = program_create(ir, "stream");
    uint32_t kernel = add_kernel(program, stream_text(ir->arena));
    uint32_t buffer = add_buffer(program, "stream", ELEMENT_F32, (int64_t)STREAM_MOST * STREAM_BYTES / 4);
    for (int i = 0; i < launches; i++) {
        Launch launch = {.kernel = kernel, .operand_count = STREAM_ARRAYS, .workspaces = NO_WORKSPACES};
        for (int array = 0; array < STREAM_ARRAYS; array++) {
            launch.buffers[array] = buffer;
            launch.offsets[array] = ((int64_t)i * STREAM_ARRAYS + array) * STREAM_COUNT;
        }
        vector_push(ir->arena, &program->launches, launch);
    }
    return program;
}

// ---- What runs them ----

typedef struct Trial {
    ThreadPool *pool;
    CpuCode *code;
    State *state;
    Executor *executors[PROGRAMS];
    const Program *product;
} Trial;

static bool trial_create(Ir *ir, int threads, Element precision, const CpuOptions *options, Trial *trial) {
    *trial = (Trial){.pool = thread_pool_create(threads)};
    Program *programs[PROGRAMS] = {[PRODUCT] = product_program(ir, precision)};
    for (int i = 0; i < STREAM_SIZES; i++) programs[STREAM + i] = stream_program(ir, STREAM_LEAST << i);
    trial->product = programs[PRODUCT];
    trial->code = cpu_compile(ir, programs, PROGRAMS, options);
    if (!trial->code) return false;
    for (int i = 0; i < PROGRAMS; i++)
        if (!plan_memory(programs[i])) return false;
    trial->state = state_create(ir->diagnostics, programs, PROGRAMS);
    if (!trial->state) return false;
    for (int i = 0; i < PROGRAMS; i++) {
        trial->executors[i] = executor_create(ir->diagnostics, programs[i], trial->state, trial->pool);
        if (!trial->executors[i]) return false;
    }
    for (size_t i = 0; i < state_count(trial->state); i++) {  // numbers near 0.01, in memory of their own
        const StateBuffer *buffer = state_buffer(trial->state, i);
        memset(buffer->data, 0x3c, (size_t)buffer->bytes);
    }
    return true;
}

static void trial_destroy(Trial *trial) {
    for (int i = 0; i < PROGRAMS; i++)
        if (trial->executors[i]) executor_destroy(trial->executors[i]);
    if (trial->state) state_destroy(trial->state);
    cpu_code_destroy(trial->code);
    thread_pool_destroy(trial->pool);
}

// ---- Measurements ----

static void meet(void *context, int thread) {
    for (int i = 0; i < BARRIERS; i++) thread_pool_barrier(context, thread);
}

static double barriers_seconds(ThreadPool *pool) {
    double start = clock_seconds();
    thread_pool_run(pool, meet, pool);
    return clock_seconds() - start;
}

// Of a second run: the first one leaves in the caches what stays there.
static double run_seconds(const Trial *trial, int program) {
    executor_run(trial->executors[program]);
    double start = clock_seconds();
    executor_run(trial->executors[program]);
    return clock_seconds() - start;
}

typedef struct Seconds {
    double barriers[ROUNDS], programs[PROGRAMS][ROUNDS];
} Seconds;

static void set_memory(Machine *machine, Seconds *seconds) {
    for (int i = 0; i < STREAM_SIZES; i++) {
        double bytes = (double)STREAM_BYTES * (STREAM_LEAST << i);
        double *rate = i < MACHINE_NEAR_SIZES ? &machine->near_bytes_per_second[i] : &machine->far_bytes_per_second;
        *rate = bytes / median(seconds->programs[STREAM + i], ROUNDS);
    }
    machine->bytes_per_second = STREAM_MOVED * machine->far_bytes_per_second;
}

// The rate that makes the contraction's predicted time the measured one.
static void set_multiplies(Machine *machine, const Program *product, double seconds) {
    CpuWork work;
    double rest;
    machine->multiplies_per_second = INFINITY;
    predict_launches(product, machine, &rest);
    if (!cpu_program_work(product->ir, product, &machine->cpu, &work)) seconds = 0;
    machine->multiplies_per_second =
        seconds > rest ? work.multiplies * cpu_work_imbalance(&work, machine->threads) / (seconds - rest) : 0;
    if (machine->instructions_per_second < machine->multiplies_per_second)  // someone disturbed the first measurement
        machine->instructions_per_second = machine->multiplies_per_second;
}

Machine machine_measure(Ir *ir, int threads, Element precision, const CpuOptions *options) {
    if (threads <= 0) threads = thread_available_processors();
    Machine machine = {.threads = threads, .cpu = *options};
    machine.cpu.threads = 1;
    machine.flops_per_second = cpu_measure_peak(ir, threads, precision, &machine.cpu);
    if (machine.flops_per_second <= 0 || memory_available() < 2ll * STREAM_MOST * STREAM_BYTES) return machine;
    machine.instructions_per_second =
        machine.flops_per_second / cpu_peak_instruction_flops(ir, precision, &machine.cpu);
    Trial trial;
    Seconds seconds;
    if (trial_create(ir, threads, precision, &machine.cpu, &trial)) {
        for (int round = 0; round < ROUNDS; round++) {
            for (int i = 0; i < PROGRAMS; i++) seconds.programs[i][round] = run_seconds(&trial, i);
            seconds.barriers[round] = barriers_seconds(trial.pool);
        }
        machine.barrier_seconds = median(seconds.barriers, ROUNDS) / BARRIERS;
        set_memory(&machine, &seconds);
        set_multiplies(&machine, trial.product, median(seconds.programs[PRODUCT], ROUNDS));
    }
    trial_destroy(&trial);
    return machine;
}
