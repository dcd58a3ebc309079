// An NVIDIA GPU that is not there: libcuda, with its stream (fake_stream.c), cuBLASLt (fake_cublas.c) and NVRTC (fake_nvrtc.c)
// one library, for tests of the runtime. Memory is the host's; "machine code" is the CUDA C itself, which the system's C++
// compiler makes runnable behind emulate.h; products are plain loops; a graph is a list of what was captured.
//
// What goes wrong is said by variables: CHERRY_FAKE_MEMORY (MiB, 256), CHERRY_FAKE_ARCHITECTURE (90), CHERRY_FAKE_DRIVER
// (13000), CHERRY_FAKE_NVRTC and CHERRY_FAKE_CUBLAS (13: all versions of CUDA),
// CHERRY_FAKE_FAIL=NAME,N (the Nth launch of a kernel whose name has NAME in it fails, and everything after it),
// CHERRY_FAKE_NVRTC_FAIL; CHERRY_FAKE_REFUSE=bias|all (products that cuBLASLt has nothing for), CHERRY_FAKE_BROKEN=N (of its
// algorithms the first N do not start), CHERRY_FAKE_GRAPHS=plain|none (graphs of launches that do not overlap; no graphs).
// Compiled kernels are kept in $XDG_CACHE_HOME.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/cuda_library.h"
#include "tests/cuda/compile.h"
#include "tests/cuda/fake.h"
#include "tests/cuda/launch.h"

enum { ARGUMENTS_MAX = 512, KERNELS_MAX = 4096, BLOCKS_MAX = 256 };
#define KERNEL_TEXT "#line 1 \"kernel.cu\"\n"  // ends the prelude

// ---- Errors ----

int fake_failed;
_Thread_local bool fake_current;

const char *variable(const char *name, const char *otherwise) {
    const char *text = getenv(name);
    return text && *text ? text : otherwise;
}

int complain(const char *what) {
    fprintf(stderr, "fake GPU: %s\n", what);
    abort();
}

EXPORT int cuGetErrorString(int error, const char **text) {
    *text = error == LAUNCH_FAILED ? "unspecified launch failure" : error == NO_MEMORY ? "out of memory" : "error";
    return OK;
}

// ---- Device ----

// A process that was forked from one that started the driver cannot use it.
EXPORT int cuInit(unsigned flags) {
    static pid_t starter;
    if (starter && starter != getpid()) return NOT_INITIALIZED;
    starter = getpid();
    return (int)flags;
}
EXPORT int cuDeviceGetCount(int *count) {
    *count = getenv("CHERRY_FAKE_NO_DEVICE") ? 0 : 1;
    return OK;
}
EXPORT int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return OK;
}
EXPORT int cuDeviceGetName(char *name, int limit, int device) {
    snprintf(name, (size_t)limit, "fake GPU %d", device);
    return OK;
}
static int driver(void) { return atoi(variable("CHERRY_FAKE_DRIVER", "13000")); }
static int architecture(void) { return atoi(variable("CHERRY_FAKE_ARCHITECTURE", "90")); }
EXPORT int cuDriverGetVersion(int *version) {
    *version = driver();
    return OK;
}
EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute == 75 ? architecture() / 10 : attribute == 76 ? architecture() % 10 : 0;
    return OK;
}
EXPORT int cuDevicePrimaryCtxRetain(void **context, int device) {
    (void)device;
    *context = &fake_failed;
    return OK;
}
EXPORT int cuDevicePrimaryCtxRelease_v2(int device) {
    fake_current = false;
    return device;
}
EXPORT int cuCtxSetCurrent(void *context) {
    fake_current = context;
    return context ? OK : INVALID;
}

// ---- Memory ----

typedef struct Block {
    char *data;
    size_t bytes;
} Block;
static Block blocks[BLOCKS_MAX];
static size_t used;

static size_t memory_size(void) { return (size_t)atol(variable("CHERRY_FAKE_MEMORY", "256")) << 20; }

EXPORT int cuMemGetInfo_v2(size_t *available, size_t *total) {
    *total = memory_size();
    *available = *total - used;
    return status_now(OK);
}

EXPORT int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    if (!fake_current) return NO_CONTEXT;
    if (used + bytes > memory_size()) return NO_MEMORY;
    for (int i = 0; i < BLOCKS_MAX; i++) {
        if (blocks[i].data) continue;
        blocks[i] = (Block){aligned_alloc(256, (bytes + 255) & ~(size_t)255), bytes};
        memset(blocks[i].data, 0xa5, bytes);
        used += bytes;
        *address = (uint64_t)(uintptr_t)blocks[i].data;
        return status_now(OK);
    }
    return complain("too many blocks");
}

EXPORT int cuMemFree_v2(uint64_t address) {
    stream_wait();
    for (int i = 0; i < BLOCKS_MAX; i++)
        if (blocks[i].data && (uint64_t)(uintptr_t)blocks[i].data == address) {
            free(blocks[i].data);
            used -= blocks[i].bytes;
            blocks[i] = (Block){0};
            return OK;
        }
    return complain("freed what was not allocated");
}

char *device_bytes(uint64_t address, size_t bytes) {
    char *at = (char *)(uintptr_t)address;
    for (int i = 0; i < BLOCKS_MAX; i++)
        if (blocks[i].data && at >= blocks[i].data && at + bytes <= blocks[i].data + blocks[i].bytes) return at;
    complain("a copy outside of the device's memory");
    return NULL;
}

// ---- Kernels ----

typedef struct Kernel {
    char *name;
    size_t module;
    LaunchFunction launch;
    int arguments, shared_limit;
} Kernel;
static char *texts[KERNELS_MAX];  // of modules: what stands behind the prelude
static char *prelude;
static size_t module_count, compiled_modules, kernel_count;
static Kernel kernels[KERNELS_MAX];

EXPORT int cuModuleLoadData(void **module, const void *image) {
    const char *text = strstr(image, KERNEL_TEXT);
    if (!text || module_count == KERNELS_MAX) return complain("not an image of the fake NVRTC");
    if (!prelude) prelude = strndup(image, (size_t)(text - (const char *)image));
    texts[module_count++] = strdup(text + strlen(KERNEL_TEXT));
    *module = &texts[module_count - 1];
    return status_now(OK);
}
EXPORT int cuModuleUnload(void *module) {
    (void)module;
    return OK;
}

EXPORT int cuModuleGetFunction(void **function, void *module, const char *name) {
    size_t number = (size_t)((char **)module - texts);
    if (!strstr(texts[number], name)) return NOT_FOUND;
    for (size_t i = 0; i < kernel_count; i++)
        if (kernels[i].module == number && strcmp(kernels[i].name, name) == 0) {
            *function = &kernels[i];
            return OK;
        }
    kernels[kernel_count] = (Kernel){.name = strdup(name), .module = number, .shared_limit = 48 << 10};
    *function = &kernels[kernel_count++];
    return status_now(OK);
}

EXPORT int cuFuncSetAttribute(void *function, int attribute, int value) {
    if (attribute != 8 || value > 227 << 10) return INVALID;
    ((Kernel *)function)->shared_limit = value;
    return OK;
}

static uint64_t hash_of(uint64_t hash, const char *text) {
    for (; *text; text++) hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
    return hash;
}

static void write_source(const char *path) {
    FILE *stream = fopen(path, "w");
    if (!stream) complain("cannot write the source of kernels");
    fprintf(stream, "#include \"%s/tests/cuda/emulate.h\"\n%s", CHERRY_SOURCE, prelude);
    fprintf(stream, "template <class... A> constexpr int arguments(void (*)(A...)) { return (int)sizeof...(A); }\n");
    for (size_t m = compiled_modules; m < module_count; m++) fprintf(stream, "%s\n", texts[m]);
    for (size_t k = 0; k < kernel_count; k++)
        if (!kernels[k].launch)
            fprintf(stream, "EMULATE_KERNEL(%s)\nextern \"C\" { EMULATE_VISIBLE int arguments_%s = arguments(%s); }\n", kernels[k].name,
                    kernels[k].name, kernels[k].name);
    fclose(stream);
}

// One library of all kernels that were loaded since the last time.
static void compile_kernels(void) {
    uint64_t hash = hash_of(0xcbf29ce484222325u, prelude);
    char source[1100], library[1100], made[1150];
    for (size_t m = compiled_modules; m < module_count; m++) hash = hash_of(hash, texts[m]);
    for (size_t k = 0; k < kernel_count; k++)
        if (!kernels[k].launch) hash = hash_of(hash, kernels[k].name);
    const char *folder = variable("XDG_CACHE_HOME", "/tmp");
    snprintf(source, sizeof source, "%.1000s/fake-%ld.cc", folder, (long)getpid());
    snprintf(library, sizeof library, "%.1000s/fake-%016llx.so", folder, (unsigned long long)hash);
    if (access(library, R_OK) != 0) {
        write_source(source);
        snprintf(made, sizeof made, "%s.%ld", library, (long)getpid());
        if (!compile_emulated(source, made) || rename(made, library) != 0) complain("kernels do not compile");
        unlink(source);
    }
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!handle) complain(dlerror());
    for (size_t k = 0; k < kernel_count; k++) {
        char name[300];
        if (kernels[k].launch) continue;
        snprintf(name, sizeof name, "launch_%s", kernels[k].name);
        void *symbol = dlsym(handle, name);
        memcpy(&kernels[k].launch, &symbol, sizeof symbol);
        snprintf(name, sizeof name, "arguments_%s", kernels[k].name);
        const int *arguments = dlsym(handle, name);
        if (!symbol || !arguments) complain(name);
        kernels[k].arguments = *arguments;
    }
    compiled_modules = module_count;
}

// ---- Launches, and graphs of them ----

typedef struct Step {
    void (*run)(void *what);
    void *what;
} Step;
typedef struct Graph {
    Step *steps;
    size_t count;
    bool overlaps;
} Graph;
static Graph *capturing;

bool is_capturing(void) { return capturing; }

void record(void (*run)(void *what), void *what) {
    if (!capturing) {
        stream_add(run, what, true);
        return;
    }
    capturing->steps = realloc(capturing->steps, sizeof *capturing->steps * (capturing->count + 1));
    capturing->steps[capturing->count++] = (Step){run, what};
}

typedef struct Recorded {
    Kernel *kernel;
    char *pointers[ARGUMENTS_MAX];
    EmulateGrid grid;
} Recorded;

// The Nth launch of a kernel by name, as CHERRY_FAKE_FAIL says.
static bool should_fail(const char *name) {
    static int seen;
    const char *text = getenv("CHERRY_FAKE_FAIL"), *comma = text ? strchr(text, ',') : NULL;
    if (!comma) return false;
    char wanted[200];
    snprintf(wanted, sizeof wanted, "%.*s", (int)(comma - text), text);
    return strstr(name, wanted) && ++seen == atoi(comma + 1);
}

static void launch(void *what) {
    const Recorded *recorded = what;
    EmulateSpan spans[BLOCKS_MAX];
    EmulateGrid grid = recorded->grid;
    grid.spans = spans;
    if (!fake_failed && should_fail(recorded->kernel->name)) fake_failed = LAUNCH_FAILED;
    if (fake_failed) return;
    for (int i = 0; i < BLOCKS_MAX; i++)
        if (blocks[i].data) spans[grid.span_count++] = (EmulateSpan){blocks[i].data, (int64_t)blocks[i].bytes};
    recorded->kernel->launch(recorded->pointers, &grid);
}

EXPORT int cuLaunchKernelEx(const CudaLaunch *how, void *function, void **parameters, void **extra) {
    Kernel *kernel = function;
    const unsigned *grid = how->grid, *block = how->block;
    if (status_now(OK) != OK) return status_now(OK);
    if (!how->stream || extra || !grid[0] || !grid[1] || !grid[2] || grid[1] > 65535 || grid[2] > 65535 ||
        block[0] > 1024 || block[1] != 1 || block[2] != 1 || (int)how->shared_bytes > kernel->shared_limit)
        return INVALID;
    const CudaLaunchAttribute *overlap = how->attributes;
    bool may_overlap = architecture() >= 90 && driver() >= 12040, overlaps = how->attribute_count;
    if (overlaps != may_overlap && !(may_overlap && getenv("CHERRY_FAKE_GRAPHS"))) return INVALID;
    if (capturing) capturing->overlaps |= overlaps;
    if (overlaps && (overlap->number != CUDA_LAUNCH_OVERLAP || overlap->value != 1)) return INVALID;
    if (!kernel->launch) compile_kernels();
    Recorded *recorded = malloc(sizeof *recorded);
    *recorded = (Recorded){
        .kernel = kernel,
        .grid = {.blocks = {grid[0], grid[1], grid[2]}, .block = (int)block[0], .shared_bytes = how->shared_bytes}};
    if (kernel->arguments > ARGUMENTS_MAX) complain("too many arguments");
    for (int i = 0; i < kernel->arguments; i++) memcpy(&recorded->pointers[i], parameters[i], sizeof(void *));
    record(launch, recorded);
    return OK;  // as on a GPU: a kernel's failure shows when it is waited for
}

EXPORT int cuStreamSynchronize(void *stream) {
    if (!stream || capturing) return INVALID;
    stream_wait();
    return status_now(OK);
}
EXPORT int cuStreamBeginCapture_v2(void *stream, int mode) {
    if (!stream || capturing || mode != 2) return INVALID;
    capturing = calloc(1, sizeof *capturing);
    return status_now(OK);
}
EXPORT int cuStreamEndCapture(void *stream, void **graph) {
    if (!stream || !capturing) return INVALID;
    *graph = capturing;
    capturing = NULL;
    return status_now(OK);
}
EXPORT int cuGraphInstantiateWithFlags(void **executable, void *of, unsigned long long flags) {
    const Graph *graph = of;
    const char *graphs = variable("CHERRY_FAKE_GRAPHS", "all");
    if (strcmp(graphs, "none") == 0 || (strcmp(graphs, "plain") == 0 && graph->overlaps)) return INVALID;
    Graph *copy = *executable = calloc(1, sizeof *copy);
    (void)flags;
    copy->count = graph->count;
    copy->steps = malloc(sizeof *copy->steps * (graph->count + 1));
    if (graph->count) memcpy(copy->steps, graph->steps, sizeof *copy->steps * graph->count);
    return status_now(OK);
}
EXPORT int cuGraphLaunch(void *executable, void *stream) {
    const Graph *graph = executable;
    if (!graph || !stream) return INVALID;
    for (size_t i = 0; i < graph->count; i++) stream_add(graph->steps[i].run, graph->steps[i].what, false);
    return fake_current ? OK : NO_CONTEXT;
}
EXPORT int cuGraphDestroy(void *of) {
    Graph *graph = of;
    free(graph->steps);
    free(graph);
    return OK;
}
EXPORT int cuGraphExecDestroy(void *of) {
    Graph *graph = of;
    stream_wait();
    for (size_t i = 0; i < graph->count; i++) free(graph->steps[i].what);
    return cuGraphDestroy(of);
}
