// A program on a GPU: launches with every address resolved, run one by one at first, then replayed as one graph.
//
// Inputs are written by the host to plain memory; a run copies them to one of two pinned blocks and from there to the
// device, in order with what runs, so that the host prepares the next run while this one goes on. It waits only for the
// run before the last.
#include <string.h>

#include "runtime/device_cuda.h"
#include "runtime/executor_calls.h"

typedef struct Step {
    const Launch *launch;    // of a group the first
    const Kernel *kernel;
    const LaunchGroup *group;  // or NULL
    const CudaPhase *phase;
    void *function;  // or
    DeviceProduct *product;
    CudaAddress *operands;   // with the launch's offsets, then the workspace
    void **parameters;       // of the function: addresses of `operands`
} Step;

enum { SLOTS = 2, RESULT_BYTES = 8 };

typedef struct CudaExecutor {
    Executor base;
    Arena *arena;
    const Program *program;
    State *state;
    Device *device;
    DeviceBlock exchange;      // inputs, then outputs
    MemoryBlock host;          // the inputs for the host
    char *outputs;             // the outputs, pinned
    int64_t input_bytes, exchange_bytes;
    char *pinned[SLOTS];       // of the inputs
    void *copied[SLOTS];       // events: the copy from a pinned block is done
    char *results[SLOTS];      // pinned: rank-0 outputs of the last two runs, RESULT_BYTES each, in the order of the buffers
    void *finished[SLOTS];     // events: they have been copied there
    CudaAddress *addresses;    // of each of the program's buffers
    int64_t *places;           // of inputs and outputs in `exchange`, else -1
    Step *steps;
    size_t step_count;
    uint64_t runs;
    bool stale;                // outputs on the device are newer than on the host
    void *graph;
    bool graphless;            // none could be made
} CudaExecutor;

static bool check(CudaExecutor *executor, int status, const char *doing) {
    return device_check(executor->device, status, doing);
}

// ---- Buffers ----

static void place_exchange(CudaExecutor *executor, BufferKind kind) {
    for (size_t i = 0; i < executor->program->buffers.count; i++) {
        const Buffer *buffer = &executor->program->buffers.items[i];
        if (buffer->kind != kind) continue;
        executor->places[i] = executor->exchange_bytes;
        executor->exchange_bytes += device_align(buffer->bytes);
    }
}

static bool is_result(const Buffer *buffer) { return buffer->kind == BUFFER_OUTPUT && buffer->type->rank == 0; }

static int64_t count_results(const CudaExecutor *executor) {
    int64_t count = 0;
    for (size_t i = 0; i < executor->program->buffers.count; i++) count += is_result(&executor->program->buffers.items[i]);
    return count;
}

// Memory of the host that the GPU copies to and from by itself.
static bool allocate_host(CudaExecutor *executor, int64_t bytes, char **block) {
    void *memory = NULL;
    int status = bytes ? executor->device->driver.allocate_host(&memory, (size_t)bytes) : 0;
    *block = memory;
    return check(executor, status, "allocating pinned memory");
}

// And an event that says when it has.
static bool allocate_pinned(CudaExecutor *executor, int64_t bytes, char **block, void **event) {
    return check(executor, executor->device->driver.event_create(event, CUDA_EVENT_DEFAULT), "making an event") &&
           allocate_host(executor, bytes, block);
}

static bool allocate_exchange(CudaExecutor *executor) {
    Device *device = executor->device;
    for (size_t i = 0; i < executor->program->buffers.count; i++) executor->places[i] = -1;
    place_exchange(executor, BUFFER_INPUT);
    executor->input_bytes = executor->exchange_bytes;
    place_exchange(executor, BUFFER_OUTPUT);
    int64_t output_bytes = executor->exchange_bytes - executor->input_bytes;
    if (!memory_allocate(device->diagnostics, executor->input_bytes, "inputs", &executor->host) ||
        !allocate_host(executor, output_bytes, &executor->outputs) ||
        !device_allocate(device, executor->exchange_bytes, &executor->exchange))
        return false;
    for (int i = 0; i < SLOTS; i++)
        if (!allocate_pinned(executor, executor->input_bytes, &executor->pinned[i], &executor->copied[i]) ||
            !allocate_pinned(executor, count_results(executor) * RESULT_BYTES, &executor->results[i], &executor->finished[i]))
            return false;
    return true;
}

static void resolve_buffers(CudaExecutor *executor) {
    const Program *program = executor->program;
    CHECK(program->arena_bytes <= state_arena_bytes(executor->state));
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *buffer = &program->buffers.items[i];
        if (executor->places[i] >= 0) {
            executor->addresses[i] = executor->exchange.address + (uint64_t)executor->places[i];
        } else if (buffer->kind == BUFFER_STATE) {
            const StateBuffer *found = state_find(executor->state, buffer->name, buffer->role);
            if (!found || found->bytes != buffer->bytes)
                INTERNAL_ERROR("program %s was not in the list that its state was created from: %s %s", program->name,
                               role_name(buffer->role), buffer->name);
            executor->addresses[i] = found->address;
        } else if (buffer->offset >= 0) {
            CHECK(buffer->offset + buffer->bytes <= program->arena_bytes);
            executor->addresses[i] = state_arena_address(executor->state) + (uint64_t)buffer->offset;
        }  // else: fusing left it without a use, and planning without a place
    }
}

// ---- Launches ----

static CudaAddress *resolve_operands(CudaExecutor *executor, const Launch *launch, const Kernel *kernel) {
    const Program *program = executor->program;
    CudaAddress *operands = ARENA_ARRAY(executor->arena, CudaAddress, launch->operand_count + 1);
    for (int i = 0; i < launch->operand_count; i++) {
        const Buffer *buffer = &program->buffers.items[launch->buffers[i]];
        CudaAddress address = executor->addresses[launch->buffers[i]];
        if (!address && buffer->bytes)
            INTERNAL_ERROR("kernel %s uses a buffer without a place: %s", kernel->name, buffer->name);
        operands[i] = address + (uint64_t)(launch->offsets[i] * element_bytes(buffer->type->element));
    }
    if (kernel->cuda.workspace_bytes > 0) {
        CHECK(launch->workspaces[0] != UINT32_MAX);
        CHECK(program->buffers.items[launch->workspaces[0]].bytes >= kernel->cuda.workspace_bytes);
        operands[launch->operand_count] = executor->addresses[launch->workspaces[0]];
    }
    return operands;
}

static bool resolve_launch(CudaExecutor *executor, const Launch *launch) {
    const Kernel *kernel = &executor->program->kernels.items[launch->kernel];
    CudaAddress *operands = resolve_operands(executor, launch, kernel);
    void **parameters = ARENA_ARRAY(executor->arena, void *, launch->operand_count + 1);
    for (int i = 0; i <= launch->operand_count; i++) parameters[i] = &operands[i];
    if (kernel->cuda.phase_count < 1) INTERNAL_ERROR("kernel %s is not compiled", kernel->name);
    for (int i = launch->packed[0] ? 1 : 0; i < kernel->cuda.phase_count; i++) {
        const CudaPhase *phase = &kernel->cuda.phases[i];
        Step *step = &executor->steps[executor->step_count++];
        *step = (Step){.launch = launch, .kernel = kernel, .phase = phase, .operands = operands, .parameters = parameters};
        CudaAddress workspace = operands[launch->operand_count];
        if (phase->function)
            step->function = device_function(executor->device, &kernel->cuda, phase);
        else
            step->product = device_product_create(
                executor->device, &phase->product, device_product_alignment(&phase->product, operands, workspace), kernel);
        if (!step->function && !step->product) return false;
    }
    return true;
}

static bool resolve_group(CudaExecutor *executor, const LaunchGroup *group) {
    const Program *program = executor->program;
    const Launch *first = &program->launches.items[group->first];
    size_t count = 0;
    for (uint32_t i = 0; i < group->count; i++) count += (size_t)first[i].operand_count + 1;
    void **parameters = ARENA_ARRAY(executor->arena, void *, count);
    count = 0;
    for (uint32_t i = 0; i < group->count; i++) {
        CudaAddress *operands = resolve_operands(executor, &first[i], &program->kernels.items[first[i].kernel]);
        for (int o = 0; o <= first[i].operand_count; o++) parameters[count++] = &operands[o];
    }
    for (int i = 0; i < group->code.phase_count; i++) {
        const CudaPhase *phase = &group->code.phases[i];
        Step *step = &executor->steps[executor->step_count++];
        *step = (Step){.launch = first, .kernel = &program->kernels.items[first->kernel], .group = group, .phase = phase,
                       .parameters = parameters, .function = device_function(executor->device, &group->code, phase)};
        if (!step->function) return false;
    }
    return true;
}

static bool resolve_launches(CudaExecutor *executor) {
    const Program *program = executor->program;
    size_t phases = 0;
    for (size_t i = 0; i < program->launches.count; i++)
        phases += (size_t)program->kernels.items[program->launches.items[i].kernel].cuda.phase_count;
    executor->steps = ARENA_ARRAY(executor->arena, Step, phases + 1);
    for (uint32_t i = 0; i < program->launches.count; i++) {
        const LaunchGroup *group = program_group(program, i);
        if (!(group ? resolve_group(executor, group) : resolve_launch(executor, &program->launches.items[i]))) return false;
        if (group) i += group->count - 1;
    }
    executor->base.phase_count = (int64_t)executor->step_count;
    return true;
}

static int launch_step(const CudaExecutor *executor, const Step *step) {
    Device *device = executor->device;
    const CudaPhase *phase = step->phase;
    if (step->product)
        return device_product_run(device, step->product, &phase->product, step->operands,
                                  step->operands[step->launch->operand_count]);
    if (phase->grid[0] * phase->grid[1] * phase->grid[2] == 0) return 0;
    const CudaLaunchAttribute overlap = {.number = CUDA_LAUNCH_OVERLAP, .value = 1};
    const CudaLaunch launch = {.grid = {(unsigned)phase->grid[0], (unsigned)phase->grid[1], (unsigned)phase->grid[2]},
                               .block = {(unsigned)phase->block, 1, 1},
                               .shared_bytes = (unsigned)phase->shared_bytes,
                               .stream = device->stream,
                               .attributes = &overlap,
                               .attribute_count = device->overlaps};
    return device->driver.launch(&launch, step->function, step->parameters, NULL);
}

// ---- Running ----

static const char *step_name(const CudaExecutor *executor, const Step *step) {
    Place place = step->launch->place;
    const char *name = step->kernel->name, *program = executor->program->name;
    if (step->group) name = arena_format(executor->arena, "%s, with %u more,", name, (unsigned)step->group->count - 1);
    return place.file ? arena_format(executor->arena, "kernel %s of %s (%s:%u)", name, program, place.file, place.line)
                      : arena_format(executor->arena, "kernel %s of %s", name, program);
}

// One after the other, with a look at each: a kernel that fails is named.
static void run_steps(CudaExecutor *executor) {
    Device *device = executor->device;
    for (size_t i = 0; i < executor->step_count && !device->failed; i++) {
        const Step *step = &executor->steps[i];
        int status = launch_step(executor, step);
        if (status == 0) status = device->driver.stream_wait(device->stream);
        if (status != 0) check(executor, status, step_name(executor, step));
    }
}

static int launch_steps(const CudaExecutor *executor) {
    int status = 0;
    for (size_t i = 0; i < executor->step_count && status == 0; i++)
        status = launch_step(executor, &executor->steps[i]);
    return status;
}

static int make_graph(CudaExecutor *executor) {
    const CudaDriver *driver = &executor->device->driver;
    void *stream = executor->device->stream, *graph = NULL, *executable = NULL;
    int status = driver->capture_begin(stream, CUDA_CAPTURE_RELAXED);
    if (status != 0) return status;
    status = launch_steps(executor);
    int ended = driver->capture_end(stream, &graph);
    if (status == 0) status = ended;
    if (status == 0) status = driver->graph_instantiate(&executable, graph, 0);
    if (status == 0) executor->graph = executable;
    if (graph) driver->graph_destroy(graph);
    return status;
}

// A driver that makes no graph of launches that overlap makes one of others; without any, programs run all the same.
static void capture(CudaExecutor *executor) {
    Device *device = executor->device;
    if (make_graph(executor) == 0) return;
    bool overlapped = device->overlaps;
    device->overlaps = false;
    if (overlapped && make_graph(executor) == 0) return;
    executor->graphless = true;
}

static void copy_inputs(CudaExecutor *executor) {
    const CudaDriver *driver = &executor->device->driver;
    void *stream = executor->device->stream;
    size_t slot = executor->runs % SLOTS, bytes = (size_t)executor->input_bytes;
    if (!bytes) return;
    if (executor->runs >= SLOTS && !check(executor, driver->event_wait(executor->copied[slot]), "waiting for a copy")) return;
    memcpy(executor->pinned[slot], executor->host.data, bytes);
    if (check(executor, driver->to_device(executor->exchange.address, executor->pinned[slot], bytes, stream),
              "copying inputs to the GPU"))
        check(executor, driver->event_record(executor->copied[slot], stream), "recording an event");
}

static void copy_results(CudaExecutor *executor) {
    Device *device = executor->device;
    size_t slot = executor->runs % SLOTS, number = 0;
    for (size_t i = 0; i < executor->program->buffers.count && !device->failed; i++) {
        const Buffer *buffer = &executor->program->buffers.items[i];
        if (!is_result(buffer)) continue;
        char *to = executor->results[slot] + RESULT_BYTES * number++;
        check(executor, device->driver.to_host(to, executor->addresses[i], (size_t)buffer->bytes, device->stream),
              "copying from the GPU");
    }
    if (!device->failed) check(executor, device->driver.event_record(executor->finished[slot], device->stream), "recording an event");
}

static void run(Executor *base) {
    CudaExecutor *executor = (CudaExecutor *)base;
    Device *device = executor->device;
    if (device->failed) return;
    copy_inputs(executor);
    if (device->failed) return;
    if (executor->runs == 0 || device->careful) {
        run_steps(executor);
    } else {
        device->running = executor->program->name;
        if (!executor->graph && !executor->graphless) capture(executor);
        if (executor->graph)
            check(executor, device->driver.graph_launch(executor->graph, device->stream), "starting a graph");
        else
            check(executor, launch_steps(executor), "starting kernels");
    }
    copy_results(executor);
    executor->runs++;
    executor->stale = true;
}

// Of a group each launch is said to have taken its blocks' share.
static void add_seconds(const CudaExecutor *executor, const Step *step, double seconds, double *seconds_per_launch) {
    const Program *program = executor->program;
    size_t launch = (size_t)(step->launch - program->launches.items), count = step->group ? step->group->count : 1;
    for (size_t i = launch; i < launch + count; i++) {
        const CudaPhase *own = &program->kernels.items[program->launches.items[i].kernel].cuda.phases[0];
        double share = step->group ? (double)(own->grid[0] * own->grid[1]) / (double)step->group->code.phases[0].grid[0] : 1;
        seconds_per_launch[i] += seconds * share;
    }
}

// Events round each launch. What an event costs is in it: some microseconds.
static void run_timed(Executor *base, double *seconds_per_launch) {
    CudaExecutor *executor = (CudaExecutor *)base;
    const CudaDriver *driver = &executor->device->driver;
    void *stream = executor->device->stream;
    size_t count = executor->step_count;
    void **events = ARENA_ARRAY(executor->arena, void *, count + 1);
    copy_inputs(executor);
    for (size_t i = 0; i <= count && !executor->device->failed; i++) {
        if (!check(executor, driver->event_create(&events[i], CUDA_EVENT_DEFAULT), "making an event")) break;
        check(executor, driver->event_record(events[i], stream), "recording an event");
        if (i < count) check(executor, launch_step(executor, &executor->steps[i]), executor->program->name);
    }
    if (!executor->device->failed) check(executor, driver->stream_wait(stream), executor->program->name);
    for (size_t i = 0; i < count && !executor->device->failed; i++) {
        float milliseconds = 0;
        check(executor, driver->event_milliseconds(&milliseconds, events[i], events[i + 1]), "reading the clock");
        add_seconds(executor, &executor->steps[i], (double)milliseconds * 1e-3, seconds_per_launch);
    }
    for (size_t i = 0; i <= count; i++)
        if (events[i]) driver->event_destroy(events[i]);
    copy_results(executor);
    executor->runs++;
    executor->stale = true;
}

static int64_t find_place(const CudaExecutor *executor, const char *name, BufferKind kind) {
    for (size_t i = 0; i < executor->program->buffers.count; i++) {
        const Buffer *buffer = &executor->program->buffers.items[i];
        if (buffer->kind == kind && strcmp(buffer->name, name) == 0) return executor->places[i];
    }
    return -1;
}

static void *input(Executor *base, const char *name) {
    CudaExecutor *executor = (CudaExecutor *)base;
    int64_t place = find_place(executor, name, BUFFER_INPUT);
    return place < 0 ? NULL : executor->host.data + place;
}

// After a failure outputs are no numbers.
static const void *output(Executor *base, const char *name) {
    CudaExecutor *executor = (CudaExecutor *)base;
    int64_t place = find_place(executor, name, BUFFER_OUTPUT);
    if (place < 0) return NULL;
    if (executor->stale) {
        int64_t bytes = executor->exchange_bytes - executor->input_bytes;
        CudaAddress from = executor->exchange.address + (uint64_t)executor->input_bytes;
        device_read(executor->device, executor->outputs, from, bytes);
        if (executor->device->failed) memset(executor->outputs, 0xff, (size_t)bytes);
        executor->stale = false;
    }
    return executor->outputs + place - executor->input_bytes;
}

static const void *scalar(Executor *base, const char *name, int runs_ago) {
    CudaExecutor *executor = (CudaExecutor *)base;
    Device *device = executor->device;
    size_t number = 0;
    CHECK(device->failed || (runs_ago < SLOTS && executor->runs > (uint64_t)runs_ago));
    size_t slot = device->failed ? 0 : (executor->runs - 1 - (uint64_t)runs_ago) % SLOTS;
    for (size_t i = 0; i < executor->program->buffers.count; i++) {
        const Buffer *buffer = &executor->program->buffers.items[i];
        if (!is_result(buffer)) continue;
        char *at = executor->results[slot] + RESULT_BYTES * number++;
        if (strcmp(buffer->name, name) != 0) continue;
        if (!device->failed) check(executor, device->driver.event_wait(executor->finished[slot]), "waiting for the GPU");
        if (device->failed) memset(at, 0xff, RESULT_BYTES);  // no number
        return at;
    }
    return NULL;
}

static void destroy(Executor *base) {
    CudaExecutor *executor = (CudaExecutor *)base;
    const CudaDriver *driver = &executor->device->driver;
    driver->stream_wait(executor->device->stream);
    if (executor->graph) driver->executable_destroy(executor->graph);
    for (int i = 0; i < SLOTS; i++) {
        if (executor->pinned[i]) driver->release_host(executor->pinned[i]);
        if (executor->copied[i]) driver->event_destroy(executor->copied[i]);
        if (executor->results[i]) driver->release_host(executor->results[i]);
        if (executor->finished[i]) driver->event_destroy(executor->finished[i]);
    }
    if (executor->outputs) driver->release_host(executor->outputs);
    device_release(executor->device, &executor->exchange);
    memory_release(&executor->host);
    arena_destroy(executor->arena);
}

Executor *executor_create_cuda(Diagnostics *diagnostics, const Program *program, State *state) {
    static const ExecutorCalls calls = {destroy, input, output, scalar, run, run_timed};
    (void)diagnostics;  // the device's own
    Arena *arena = arena_create();
    CudaExecutor *executor = ARENA_NEW(arena, CudaExecutor);
    *executor = (CudaExecutor){.base = {.calls = &calls, .runs_ahead = true}, .arena = arena, .program = program, .state = state,
                               .device = state_device(state)};
    executor->addresses = ARENA_ARRAY(arena, CudaAddress, program->buffers.count + 1);
    executor->places = ARENA_ARRAY(arena, int64_t, program->buffers.count + 1);
    if (allocate_exchange(executor)) {
        resolve_buffers(executor);
        if (resolve_launches(executor)) return &executor->base;
    }
    destroy(&executor->base);
    return NULL;
}
