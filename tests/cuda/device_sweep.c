// Every op case and every kind of nest on a real GPU, through the runtime, against the reference evaluator.
//
//   device_sweep [--filter TEXT,...] [--json FILE] [--one-process]
//
// Twice: with products left to cuBLASLt, and those cases again with generated tiles. Each program runs launch by launch,
// then as a captured graph and then timed; all must give the same bits. A kernel that takes the device with it (a bad address, no
// end) is one failed case: cases run in a child process, and the next one goes on behind it. NVRTC starts the driver, and a
// driver that was started does not work in children: they compile for themselves, the second one from the disk. Tools that
// watch one process ask for --one-process. Status: 0 all equal, 1 not, 2 no device here.
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "codegen/cuda.h"
#include "driver/json.h"
#include "passes/program_passes.h"
#include "runtime/executor.h"
#include "tests/case_sweep.h"

enum { CASE_SECONDS = 20 };

typedef enum Outcome { NOT_RUN, STARTED, EQUAL, DIFFERENT, FAILED } Outcome;
static const char *const outcome_names[] = {"not run", "ended the process", "equal", "different", "failed"};

// Shared with the children.
typedef struct Shared {
    bool opened;
    char name[128], architecture[16];
    struct {
        Outcome outcome;
        int64_t wrong;  // elements
        int signal;     // that ended the child
    } results[];
} Shared;

typedef struct Sweep {
    Arena *arena;
    Ir *ir;
    CaseSweep library, tiles;
    SweepCase *cases;  // of both, in this order
    size_t count;
    Shared *shared;
    const char *filter, *json;
    bool one_process;
} Sweep;

// ---- One case ----

typedef struct Run {
    Ir *ir;
    Device *device;
    bool good;
} Run;

static void write_buffers(const Program *program, State *state, Executor *executor, char *const *buffers) {
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *buffer = &program->buffers.items[i];
        void *to = NULL;
        if (buffer->kind == BUFFER_INPUT) to = executor_input(executor, buffer->name);
        if (buffer->kind == BUFFER_STATE) to = state_data(state, buffer->name, buffer->role);
        if (to) memcpy(to, buffers[i], (size_t)buffer->bytes);
    }
    state_upload(state, ROLE_PARAMETER);
}

static void read_buffers(const Program *program, State *state, Executor *executor, char *const *buffers) {
    state_download(state, ROLE_PARAMETER);
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *buffer = &program->buffers.items[i];
        const void *from = NULL;
        if (buffer->kind == BUFFER_OUTPUT)
            from = buffer->type->rank ? executor_output(executor, buffer->name) : executor_scalar(executor, buffer->name, 0);
        if (buffer->kind == BUFFER_STATE) from = state_data(state, buffer->name, buffer->role);
        if (from) memcpy(buffers[i], from, (size_t)buffer->bytes);
    }
}

// The second run is a graph. It starts from the same inputs as the first.
static bool repeat(const Program *program, State *state, Executor *executor, char *const *first, char *const *buffers,
                   bool timed) {
    double *seconds = calloc(program->launches.count + 1, sizeof *seconds);
    CHECK(seconds);
    write_buffers(program, state, executor, buffers);
    if (timed) executor_run_timed(executor, seconds);
    else executor_run(executor);
    free(seconds);
    read_buffers(program, state, executor, buffers);
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *buffer = &program->buffers.items[i];
        if (buffer->kind == BUFFER_TEMPORARY || memcmp(first[i], buffers[i], (size_t)buffer->bytes) == 0) continue;
        fprintf(stderr, "%s: %s has other bits when the program %s\n", program->name, buffer->name,
                timed ? "is timed" : "runs as a graph");
        return false;
    }
    return true;
}

// Of what lies outside of the arena: planning adds buffers to those that a case knows.
static char **copy_buffers(const Program *program, char *const *buffers) {
    char **copy = calloc(program->buffers.count + 1, sizeof *copy);
    CHECK(copy);
    for (size_t i = 0; i < program->buffers.count; i++) {
        if (program->buffers.items[i].kind == BUFFER_TEMPORARY) continue;
        copy[i] = malloc((size_t)program->buffers.items[i].bytes + 1);
        CHECK(copy[i]);
        memcpy(copy[i], buffers[i], (size_t)program->buffers.items[i].bytes);
    }
    return copy;
}

static void free_buffers(const Program *program, char **buffers) {
    for (size_t i = 0; i < program->buffers.count; i++) free(buffers[i]);
    free(buffers);
}

static bool run_thrice(const Program *program, State *state, Executor *executor, char *const *buffers) {
    char **first = copy_buffers(program, buffers), **timed = copy_buffers(program, buffers);
    write_buffers(program, state, executor, first);
    executor_run(executor);
    read_buffers(program, state, executor, first);
    bool good = repeat(program, state, executor, first, buffers, false);
    good = good && repeat(program, state, executor, first, timed, true);
    free_buffers(program, first);
    free_buffers(program, timed);
    return good;
}

static void run_on_device(void *context, const Program *program, char *const *buffers) {
    Run *run = context;
    Program *programs[] = {(Program *)program};
    State *state = state_create_on(run->device, run->ir->diagnostics, programs, 1);
    Executor *executor = state ? executor_create(run->ir->diagnostics, program, state, NULL) : NULL;
    run->good = executor && run_thrice(program, state, executor, buffers) && device_works(run->device);
    if (executor) executor_destroy(executor);
    if (state) state_destroy(state);
}

// False where the device is lost.
static bool run_case(Sweep *sweep, Device *device, size_t index) {
    const SweepCase *sweep_case = &sweep->cases[index];
    Run run = {.ir = sweep->ir, .device = device};
    size_t messages = diagnostics_count(sweep->ir->diagnostics);
    int64_t wrong = sweep_case_run(sweep_case, device_name(device), run_on_device, &run);
    diagnostics_print(sweep->ir->diagnostics, messages, stderr);
    sweep->shared->results[index].wrong = wrong;
    sweep->shared->results[index].outcome = !run.good || wrong < 0 ? FAILED : wrong ? DIFFERENT : EQUAL;
    return device_works(device);
}

// ---- Programs ----

static bool has_product(const Program *program) {
    for (size_t k = 0; k < program->kernels.count; k++)
        for (int p = 0; p < program->kernels.items[k].cuda.phase_count; p++)
            if (!program->kernels.items[k].cuda.phases[p].function) return true;
    return false;
}

// Of the second round the cases that the first leaves to the library.
static void keep_products(Sweep *sweep) {
    CudaOptions options = {.architecture = sweep->shared->architecture};
    size_t kept = 0;
    for (size_t i = 0; i < sweep->tiles.count; i++) {
        Program *program = sweep->library.programs[i];
        if (cuda_generate(sweep->ir, &program, 1, &options) && !has_product(program)) continue;
        SweepCase *tile = &sweep->tiles.cases[kept];
        *tile = sweep->tiles.cases[i];
        tile->name = arena_format(sweep->arena, "%s (tiles)", tile->name);
        sweep->tiles.programs[kept++] = tile->program;
    }
    sweep->tiles.count = kept;
}

static void list_cases(Sweep *sweep) {
    keep_products(sweep);
    sweep->cases = ARENA_ARRAY(sweep->arena, SweepCase, sweep->library.count + sweep->tiles.count + 1);
    for (size_t i = 0; i < sweep->library.count; i++) sweep->cases[sweep->count++] = sweep->library.cases[i];
    for (size_t i = 0; i < sweep->tiles.count; i++) sweep->cases[sweep->count++] = sweep->tiles.cases[i];
}

static bool library_has(void *device, const CudaProduct *product, int64_t alignment) {
    return device_has_product(device, product, alignment);
}

// All at once; where that fails each alone, so that the others run. What does not compile has failed; `first` is the number
// of the first of them.
static void compile(Sweep *sweep, Device *device, CaseSweep *cases, size_t first, bool no_library) {
    CudaOptions options = {.architecture = device_architecture(device), .driver = device_driver(device), .cache = true,
                           .no_library = no_library, .has_product = library_has, .library = device};
    CudaStatistics statistics;
    bool good = cuda_compile(sweep->ir, cases->programs, cases->count, &options, &statistics);
    if (good)
        printf("%zu kernels for %s, %zu of them from the cache, %.1f s\n", statistics.distinct,
               options.architecture, statistics.cached, statistics.seconds);
    for (size_t i = 0; i < cases->count; i++) {
        bool compiled = good || cuda_compile(sweep->ir, &cases->programs[i], 1, &options, &statistics);
        if (!compiled || !plan_memory(cases->programs[i])) sweep->shared->results[first + i].outcome = FAILED;
    }
}

static void compile_all(Sweep *sweep, Device *device) {
    size_t messages = diagnostics_count(sweep->ir->diagnostics);
    compile(sweep, device, &sweep->library, 0, false);
    compile(sweep, device, &sweep->tiles, sweep->library.count, true);
    diagnostics_print(sweep->ir->diagnostics, messages, stderr);
    fflush(stdout);
}

// ---- The process that runs cases ----

static Device *open_device(Sweep *sweep) {
    Device *device = device_open(sweep->ir->diagnostics);
    if (!device) {
        diagnostics_print(sweep->ir->diagnostics, 0, stderr);
        return NULL;
    }
    Shared *shared = sweep->shared;
    shared->opened = true;
    snprintf(shared->name, sizeof shared->name, "%s", device_name(device));
    snprintf(shared->architecture, sizeof shared->architecture, "%s", device_architecture(device));
    return device;
}

static void look_at_device(Sweep *sweep) {
    Device *device = open_device(sweep);
    if (device) device_close(device);
}

static void run_remaining(Sweep *sweep) {
    Device *device = open_device(sweep);
    bool works = device;
    if (works) compile_all(sweep, device);
    for (size_t i = 0; i < sweep->count && works; i++) {
        if (sweep->shared->results[i].outcome != NOT_RUN) continue;
        sweep->shared->results[i].outcome = STARTED;
        if (!sweep->one_process) alarm(CASE_SECONDS);
        works = run_case(sweep, device, i);
    }
    alarm(0);
    if (works) device_close(device);
}

// Runs `work` in a child. The signal that ended it, 0: none.
static int in_child(Sweep *sweep, void (*work)(Sweep *sweep)) {
    if (sweep->one_process) {
        work(sweep);
        return 0;
    }
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        work(sweep);
        fflush(NULL);
        _exit(0);
    }
    while (waitpid(child, &status, 0) < 0) CHECK(errno == EINTR);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static size_t count_outcomes(const Sweep *sweep, Outcome outcome) {
    size_t count = 0;
    for (size_t i = 0; i < sweep->count; i++) count += sweep->shared->results[i].outcome == outcome;
    return count;
}

// ---- Results ----

static cJSON *failures(const Sweep *sweep) {
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < sweep->count; i++) {
        Outcome outcome = sweep->shared->results[i].outcome;
        if (outcome == EQUAL) continue;
        cJSON *failure = cJSON_CreateObject();
        cJSON_AddStringToObject(failure, "name", sweep->cases[i].name);
        cJSON_AddStringToObject(failure, "outcome", outcome_names[outcome]);
        cJSON_AddNumberToObject(failure, "elements", (double)sweep->shared->results[i].wrong);
        cJSON_AddNumberToObject(failure, "signal", sweep->shared->results[i].signal);
        cJSON_AddItemToArray(list, failure);
    }
    return list;
}

static bool write_json(const Sweep *sweep, double seconds) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "device", sweep->shared->name);
    cJSON_AddStringToObject(json, "architecture", sweep->shared->architecture);
    cJSON_AddNumberToObject(json, "cases", (double)sweep->count);
    cJSON_AddNumberToObject(json, "equal", (double)count_outcomes(sweep, EQUAL));
    cJSON_AddNumberToObject(json, "ops_covered", sweep->library.covered);
    cJSON_AddNumberToObject(json, "ops_lowered", sweep->library.lowered);
    cJSON_AddNumberToObject(json, "seconds", seconds);
    cJSON_AddItemToObject(json, "failures", failures(sweep));
    char *text = cJSON_Print(json);
    FILE *stream = fopen(sweep->json, "w");
    bool good = stream && fprintf(stream, "%s\n", text) > 0;
    if (stream) good &= fclose(stream) == 0;
    if (!good) fprintf(stderr, "%s: %s\n", sweep->json, strerror(errno));
    free(text);
    cJSON_Delete(json);
    return good;
}

// ---- All cases ----

// Until every case has run, or a child gets no further. What is known is written behind each child, for a run may be cut
// short; false where it cannot be.
static bool run_all(Sweep *sweep, double start) {
    size_t left = count_outcomes(sweep, NOT_RUN), before;
    bool written = true;
    do {
        before = left;
        int number = in_child(sweep, run_remaining);
        for (size_t i = 0; i < sweep->count; i++) {
            if (sweep->shared->results[i].outcome != STARTED || sweep->shared->results[i].signal) continue;
            sweep->shared->results[i].signal = number ? number : -1;
            fprintf(stderr, "%s: %s\n", sweep->cases[i].name, number ? strsignal(number) : "the process left");
        }
        left = count_outcomes(sweep, NOT_RUN);
        if (sweep->json) written = write_json(sweep, clock_seconds() - start);
    } while (left && left < before && !sweep->one_process);
    return written;
}

static bool report(const Sweep *sweep, double seconds) {
    size_t equal = count_outcomes(sweep, EQUAL);
    int covered = sweep->library.covered, lowered = sweep->library.lowered;
    for (size_t i = 0; i < sweep->count; i++)
        if (sweep->shared->results[i].outcome != EQUAL)
            printf("FAILED %s: %s\n", sweep->cases[i].name, outcome_names[sweep->shared->results[i].outcome]);
    printf("%s: %zu of %zu cases equal the reference, %zu are repeated with tiles for products; "
           "%d of %d ops that are lowered = %d %%; %.1f s\n",
           sweep->shared->name, equal, sweep->count, sweep->tiles.count, covered, lowered, covered * 100 / lowered, seconds);
    return equal == sweep->count && equal > 0 && (sweep->filter || covered == lowered);
}

static int run(Sweep *sweep) {
    double start = clock_seconds();
    if (!case_sweep_create(sweep->ir, sweep->filter, cuda_has_kernel, &sweep->library) ||
        !case_sweep_create(sweep->ir, sweep->filter, cuda_has_kernel, &sweep->tiles))
        return 1;
    size_t bytes = sizeof(Shared) + 2 * sweep->library.count * sizeof sweep->shared->results[0];
    sweep->shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(sweep->shared != MAP_FAILED);
    in_child(sweep, look_at_device);
    if (!sweep->shared->opened) return 2;
    list_cases(sweep);
    bool written = run_all(sweep, start);
    return report(sweep, clock_seconds() - start) && written ? 0 : 1;
}

int main(int argc, char **argv) {
    Sweep sweep = {.arena = arena_create()};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--one-process") == 0) sweep.one_process = true;
        else if (strcmp(argv[i], "--filter") == 0 && i + 1 < argc) sweep.filter = argv[++i];
        else if (strcmp(argv[i], "--json") == 0 && i + 1 < argc) sweep.json = argv[++i];
        else {
            fprintf(stderr, "usage: device_sweep [--filter TEXT,...] [--json FILE] [--one-process]\n");
            return 1;
        }
    }
    sweep.ir = ir_create(sweep.arena);
    int status = run(&sweep);
    arena_destroy(sweep.arena);
    return status;
}
