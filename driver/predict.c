// A launch takes as long as its arithmetic and its memory need, and some more to start:
//
//   arithmetic   multiply-adds of products at the rate of a contraction, other vector instructions at that of
//                registers; longer by as much as the thread with most tasks has more than its share
//   memory       each byte that comes, at the rate of streams as long as it is since it was touched; lines come too
//                that are only written, and go back while others come; packed operands are written and read at once
//   start        all threads meet before each phase, and wait for what its first lines hold
//
// A contraction needs one after the other: it packs its operands before it multiplies, and the lines of its results
// are wanted all at once where a tile ends. What walks through memory needs both at the same time.
#include "driver/predict.h"

#include <stdlib.h>

#include "driver/cost.h"
#include "driver/expected.h"

enum { BLOCK_BYTES = 1 << 16 };  // of memory, that are in the cache together
// Some twenty lines that come from memory one after the other, 0.1 us each: code, addresses, operands.
static const double START_SECONDS = 2e-6;

// When each block of memory was last touched, on a clock of bytes that starts at 1; 0: in an earlier run, since which
// all of the program's memory was touched.
typedef struct Memory {
    const Program *program;
    const Machine *machine;
    double *touched;       // by block
    int64_t *first_block;  // by buffer; temporaries share those of their places
    int64_t block_count;
    double clock;
} Memory;

static int64_t blocks_of(int64_t bytes) { return (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES; }

static Memory memory_create(const Program *program, const Machine *machine) {
    Memory memory = {.program = program, .machine = machine, .clock = 1,
                     .block_count = blocks_of(program->arena_bytes) + 1};
    Arena *arena = program->ir->arena;
    memory.first_block = ARENA_ARRAY(arena, int64_t, program->buffers.count + 1);
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *buffer = &program->buffers.items[i];
        if (buffer->kind == BUFFER_TEMPORARY) {
            memory.first_block[i] = buffer->offset < 0 ? 0 : buffer->offset / BLOCK_BYTES;
            continue;
        }
        memory.first_block[i] = memory.block_count;
        memory.block_count += blocks_of(buffer->bytes) + 1;
    }
    memory.touched = calloc((size_t)memory.block_count, sizeof *memory.touched);
    CHECK(memory.touched);
    return memory;
}

// Of one byte that was touched so many bytes ago.
static double byte_seconds(const Machine *machine, double ago) {
    for (int i = 0; i < MACHINE_NEAR_SIZES; i++)
        if (ago <= (double)((int64_t)MACHINE_NEAR_LEAST << i)) return 1 / machine->near_bytes_per_second[i];
    return 1 / machine->far_bytes_per_second;
}

// Touches bytes of a buffer; the mean of their byte_seconds.
static double touch(Memory *memory, uint32_t buffer, int64_t offset, double bytes) {
    const Buffer *place = &memory->program->buffers.items[buffer];
    int64_t from = memory->first_block[buffer] + offset * element_bytes(place->type->element) / BLOCK_BYTES;
    int64_t end = from + blocks_of((int64_t)bytes);
    if (end > memory->block_count) end = memory->block_count;
    double seconds = 0, all = (double)memory->block_count * BLOCK_BYTES;
    for (int64_t i = from; i < end; i++) {
        double *touched = &memory->touched[i];
        seconds += byte_seconds(memory->machine, *touched > 0 ? memory->clock - *touched : all);
        *touched = memory->clock;
    }
    memory->clock += bytes;
    return end > from ? seconds / (double)(end - from) : 0;
}

static double memory_seconds(Memory *memory, const Launch *launch, const Kernel *kernel) {
    double read[NEST_OPERAND_MAX], written[NEST_OPERAND_MAX], seconds = 0;
    cost_operand_bytes(kernel, read, written);
    for (int i = 0; i < launch->operand_count; i++) {
        double brought = read[i] > written[i] ? read[i] : written[i];
        seconds += touch(memory, launch->buffers[i], launch->offsets[i], brought) * brought;
    }
    return seconds;
}

static double launch_seconds(const CpuWork *work, double memory, const Machine *machine) {
    double arithmetic = work->multiplies / machine->multiplies_per_second +
                        work->instructions / machine->instructions_per_second;
    arithmetic *= cpu_work_imbalance(work, machine->threads);
    memory += work->packed_bytes * byte_seconds(machine, work->packed_bytes);
    double both = work->multiplies > 0 ? arithmetic + memory : arithmetic > memory ? arithmetic : memory;
    return both + work->phases * (machine->barrier_seconds + START_SECONDS);
}

double predict_launches(const Program *program, const Machine *machine, double *seconds) {
    for (size_t i = 0; i < program->launches.count; i++) seconds[i] = 0;
    program = expected_program(program);
    CpuWork *works = ARENA_ARRAY(program->ir->arena, CpuWork, program->kernels.count + 1);
    if (machine->multiplies_per_second <= 0 || !cpu_program_work(program->ir, program, &machine->cpu, works)) return 0;
    Memory memory = memory_create(program, machine);
    double sum = 0;
    for (size_t i = 0; i < program->launches.count; i++) {
        const Launch *launch = &program->launches.items[i];
        double moving = memory_seconds(&memory, launch, &program->kernels.items[launch->kernel]);
        sum += seconds[i] = launch_seconds(&works[launch->kernel], moving, machine);
    }
    free(memory.touched);
    return sum;
}

// 0 where the rate is not known.
static double at_rate(double amount, double rate) { return rate > 0 ? amount / rate : 0; }

double predict_floor(const Kernel *kernel, const Machine *machine) {
    double compute = at_rate(cost_flops(kernel), machine->flops_per_second),
           memory = at_rate(cost_bytes(kernel), machine->bytes_per_second),
           coming = at_rate(cost_brought_bytes(kernel), machine->far_bytes_per_second);
    if (coming > memory) memory = coming;
    return compute > memory ? compute : memory;
}
