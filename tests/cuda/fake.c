// An NVIDIA GPU that is not there: libcuda and cuBLASLt, with NVRTC (fake_nvrtc.c) one library, for tests of the runtime.
// Memory is the host's; "machine code" is the CUDA C itself, which the system's C++ compiler makes runnable behind emulate.h;
// products are plain loops; a graph is a list of what was captured.
//
// What goes wrong is said by variables: CHERRY_FAKE_MEMORY (MiB, 256), CHERRY_FAKE_ARCHITECTURE (90),
// CHERRY_FAKE_FAIL=NAME,N (the Nth launch of a kernel whose name has NAME in it fails, and everything after it),
// CHERRY_FAKE_NVRTC_FAIL; CHERRY_FAKE_REFUSE=bias|all (products that cuBLASLt has nothing for), CHERRY_FAKE_BROKEN=N (of its
// algorithms the first N do not start), CHERRY_FAKE_GRAPHS=plain|none (graphs of launches that do not overlap; no graphs).
// Compiled kernels are kept in $XDG_CACHE_HOME.
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/cuda/compile.h"
#include "runtime/cuda_library.h"
#include "tests/cuda/launch.h"

enum { NOT_SUPPORTED = 15 };  // of cuBLASLt
enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, NOT_FOUND = 500, NOT_READY = 600, LAUNCH_FAILED = 719 };
enum { ARGUMENTS_MAX = 512, GRAPH_MAX = 4096, KERNELS_MAX = 4096, BLOCKS_MAX = 256 };
#define KERNEL_TEXT "#line 1 \"kernel.cu\"\n"  // ends the prelude

#define EXPORT __attribute__((visibility("default")))

// ---- Errors ----

static int failed;  // everything after it fails too

static int status_now(int status) { return failed ? failed : status; }

static const char *variable(const char *name, const char *otherwise) {
    const char *text = getenv(name);
    return text && *text ? text : otherwise;
}

static int complain(const char *what) {
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
static int architecture(void) { return atoi(variable("CHERRY_FAKE_ARCHITECTURE", "90")); }
EXPORT int cuDriverGetVersion(int *version) {
    *version = 13000;
    return OK;
}
EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute == 75 ? architecture() / 10 : attribute == 76 ? architecture() % 10 : 0;
    return OK;
}
EXPORT int cuDevicePrimaryCtxRetain(void **context, int device) {
    (void)device;
    *context = &failed;
    return OK;
}
EXPORT int cuDevicePrimaryCtxRelease_v2(int device) { return device; }
EXPORT int cuCtxSetCurrent(void *context) { return context ? OK : INVALID; }

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
    for (int i = 0; i < BLOCKS_MAX; i++)
        if (blocks[i].data && (uint64_t)(uintptr_t)blocks[i].data == address) {
            free(blocks[i].data);
            used -= blocks[i].bytes;
            blocks[i] = (Block){0};
            return OK;
        }
    return complain("freed what was not allocated");
}

EXPORT int cuMemAllocHost_v2(void **address, size_t bytes) {
    return (*address = aligned_alloc(256, (bytes + 255) & ~(size_t)255)) ? OK : NO_MEMORY;
}
EXPORT int cuMemFreeHost(void *address) {
    free(address);
    return OK;
}

static char *device_bytes(uint64_t address, size_t bytes) {
    char *at = (char *)(uintptr_t)address;
    for (int i = 0; i < BLOCKS_MAX; i++)
        if (blocks[i].data && at >= blocks[i].data && at + bytes <= blocks[i].data + blocks[i].bytes) return at;
    complain("a copy outside of the device's memory");
    return NULL;
}

EXPORT int cuMemsetD8Async(uint64_t address, unsigned char value, size_t bytes, void *stream) {
    (void)stream;
    memset(device_bytes(address, bytes), value, bytes);
    return status_now(OK);
}
EXPORT int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    (void)stream;
    memcpy(device_bytes(to, bytes), from, bytes);
    return status_now(OK);
}
EXPORT int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    (void)stream;
    memcpy(to, device_bytes(from, bytes), bytes);
    return status_now(OK);
}
EXPORT int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    (void)stream;
    memcpy(device_bytes(to, bytes), device_bytes(from, bytes), bytes);
    return status_now(OK);
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

// ---- Products ----

typedef struct Description {
    int32_t transpose_a, transpose_b, epilogue, bias_type;
    uint64_t bias;
} Description;
typedef struct Layout {
    int type;
    int64_t rows, columns, lead, step;
    int32_t batch;
} Layout;
typedef struct Preference {
    uint64_t workspace;
    uint32_t alignment[4];
} Preference;
typedef struct Product {
    Description description;
    Layout a_layout, b_layout, c_layout, d_layout;
    float alpha, beta;
    uint64_t a, b, c, d;
} Product;

EXPORT int cublasLtCreate(void **handle) {
    *handle = &used;
    return OK;
}
EXPORT const char *cublasLtGetStatusString(int status) { return status == NOT_SUPPORTED ? "not supported" : "invalid value"; }
EXPORT int cublasLtDestroy(void *handle) { return handle ? OK : INVALID; }
EXPORT int cublasLtMatmulDescCreate(void **description, int compute, int scale) {
    if (compute != 68 || scale != 0) return INVALID;
    *description = calloc(1, sizeof(Description));
    ((Description *)*description)->epilogue = 1;
    return OK;
}
EXPORT int cublasLtMatmulDescDestroy(void *description) {
    free(description);
    return OK;
}
EXPORT int cublasLtMatmulDescSetAttribute(void *of, int attribute, const void *value, size_t bytes) {
    Description *description = of;
    void *at = attribute == 3   ? (void *)&description->transpose_a
               : attribute == 4 ? (void *)&description->transpose_b
               : attribute == 7 ? (void *)&description->epilogue
               : attribute == 8 ? (void *)&description->bias
               : attribute == 26 ? (void *)&description->bias_type
                                 : NULL;
    if (!at || bytes != (attribute == 8 ? 8 : 4)) return INVALID;
    memcpy(at, value, bytes);
    return OK;
}
EXPORT int cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t columns, int64_t lead) {
    if ((type != 0 && type != 14) || lead < (int64_t)rows) return INVALID;
    Layout *made = *layout = calloc(1, sizeof *made);
    *made = (Layout){.type = type, .rows = (int64_t)rows, .columns = (int64_t)columns, .lead = lead, .batch = 1};
    return OK;
}
EXPORT int cublasLtMatrixLayoutDestroy(void *layout) {
    free(layout);
    return OK;
}
EXPORT int cublasLtMatrixLayoutSetAttribute(void *of, int attribute, const void *value, size_t bytes) {
    Layout *layout = of;
    if (attribute == 5 && bytes == 4) memcpy(&layout->batch, value, bytes);
    else if (attribute == 6 && bytes == 8) memcpy(&layout->step, value, bytes);
    else return INVALID;
    return OK;
}
EXPORT int cublasLtMatmulPreferenceCreate(void **preference) {
    Preference *made = *preference = calloc(1, sizeof *made);
    for (int i = 0; i < 4; i++) made->alignment[i] = 256;
    return OK;
}
EXPORT int cublasLtMatmulPreferenceDestroy(void *preference) {
    free(preference);
    return OK;
}
EXPORT int cublasLtMatmulPreferenceSetAttribute(void *of, int attribute, const void *value, size_t bytes) {
    Preference *preference = of;
    if (attribute == 1 && bytes == 8) memcpy(&preference->workspace, value, bytes);
    else if (attribute >= 5 && attribute <= 8 && bytes == 4) memcpy(&preference->alignment[attribute - 5], value, bytes);
    else return INVALID;
    return OK;
}

enum { ALGORITHMS = 3 };  // of which the second is for other devices

typedef struct Choice {
    uint64_t algorithm[8];  // alignment; number
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
} Choice;

EXPORT int cublasLtMatmulAlgoGetHeuristic(void *handle, void *of, void *a, void *b, void *c, void *d, void *preference,
                                          int wanted, Choice *choices, int *found) {
    const Description *description = of;
    const Layout *la = a, *lb = b, *lc = c, *ld = d;
    int64_t m = description->transpose_a ? la->columns : la->rows, ka = description->transpose_a ? la->rows : la->columns;
    int64_t n = description->transpose_b ? lb->rows : lb->columns, kb = description->transpose_b ? lb->columns : lb->rows;
    if (!handle || wanted < 1 || ka != kb || ld->rows != m || ld->columns != n || lc->rows != m || lc->columns != n ||
        la->type != lb->type || lc->type != ld->type || la->batch != ld->batch || lb->batch != ld->batch)
        return INVALID;
    const char *refused = variable("CHERRY_FAKE_REFUSE", "");
    *found = 0;
    if (strcmp(refused, "all") == 0 || (strcmp(refused, "bias") == 0 && description->epilogue == 4)) return NOT_SUPPORTED;
    *found = wanted < ALGORITHMS ? wanted : ALGORITHMS;
    memset(choices, 0, sizeof *choices * (size_t)*found);
    for (int i = 0; i < *found; i++) {
        choices[i].algorithm[0] = ((Preference *)preference)->alignment[0];
        choices[i].algorithm[1] = (uint64_t)i;
        choices[i].state = i == 1 ? NOT_SUPPORTED : OK;
    }
    return OK;
}

static float read_number(int type, const char *base, int64_t at) {
    if (type == 0) return ((const float *)base)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)base)[at] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void write_number(int type, char *base, int64_t at, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (type == 0) ((float *)base)[at] = value;
    else ((uint16_t *)base)[at] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The last element that a matrix reaches.
static size_t reach(const Layout *layout) {
    int64_t last = (layout->batch - 1) * layout->step + (layout->columns - 1) * layout->lead + layout->rows;
    return (size_t)last * (layout->type == 0 ? 4 : 2);
}

static void multiply(const Product *p) {
    const Description *how = &p->description;
    if (how->epilogue == 4 && how->bias % 16) complain("a bias that is not aligned to 16 bytes");
    int64_t k_extent = how->transpose_a ? p->a_layout.rows : p->a_layout.columns;
    if (p->d_layout.rows * p->d_layout.columns * k_extent >= 1ll << 32) {  // of a benchmark: nobody looks
        const char *last = device_bytes(p->a, reach(&p->a_layout)) + reach(&p->a_layout) - 2;
        if (!last[0] && !last[1]) complain("a benchmark of zeros: GPUs are faster with them");
        return;
    }
    const char *a = device_bytes(p->a, reach(&p->a_layout)), *b = device_bytes(p->b, reach(&p->b_layout)),
               *c = device_bytes(p->c, reach(&p->c_layout));
    char *d = device_bytes(p->d, reach(&p->d_layout));
    for (int64_t batch = 0; batch < p->d_layout.batch; batch++)
        for (int64_t j = 0; j < p->d_layout.columns; j++)
            for (int64_t i = 0; i < p->d_layout.rows; i++) {
                double sum = 0;
                for (int64_t k = 0; k < k_extent; k++) {
                    int64_t at_a = how->transpose_a ? i * p->a_layout.lead + k : k * p->a_layout.lead + i;
                    int64_t at_b = how->transpose_b ? k * p->b_layout.lead + j : j * p->b_layout.lead + k;
                    sum += (double)read_number(p->a_layout.type, a, batch * p->a_layout.step + at_a) *
                           (double)read_number(p->b_layout.type, b, batch * p->b_layout.step + at_b);
                }
                sum *= (double)p->alpha;
                int64_t at_c = batch * p->c_layout.step + j * p->c_layout.lead + i;
                if (p->beta != 0) sum += (double)p->beta * (double)read_number(p->c_layout.type, c, at_c);
                if (how->epilogue == 4) sum += (double)read_number(how->bias_type, (char *)(uintptr_t)how->bias, i);
                write_number(p->d_layout.type, d, batch * p->d_layout.step + j * p->d_layout.lead + i, (float)sum);
            }
}

// ---- Launches, and graphs of them ----

typedef struct Recorded {
    Kernel *kernel;  // or
    Product *product;
    char *pointers[ARGUMENTS_MAX];
    EmulateGrid grid;
} Recorded;
typedef struct Graph {
    Recorded *items;
    size_t count;
    bool overlaps;
} Graph;
static Graph *capturing;

// The Nth launch of a kernel by name, as CHERRY_FAKE_FAIL says.
static bool should_fail(const char *name) {
    static int seen;
    const char *text = getenv("CHERRY_FAKE_FAIL"), *comma = text ? strchr(text, ',') : NULL;
    if (!comma) return false;
    char wanted[200];
    snprintf(wanted, sizeof wanted, "%.*s", (int)(comma - text), text);
    return strstr(name, wanted) && ++seen == atoi(comma + 1);
}

static void launch(const Recorded *recorded) {
    EmulateSpan spans[BLOCKS_MAX];
    EmulateGrid grid = recorded->grid;
    grid.spans = spans;
    for (int i = 0; i < BLOCKS_MAX; i++)
        if (blocks[i].data) spans[grid.span_count++] = (EmulateSpan){blocks[i].data, (int64_t)blocks[i].bytes};
    recorded->kernel->launch(recorded->pointers, &grid);
}

static void play(const Recorded *recorded) {
    if (failed) return;
    if (recorded->product) {
        multiply(recorded->product);
        return;
    }
    if (should_fail(recorded->kernel->name)) failed = LAUNCH_FAILED;
    else launch(recorded);
}

static void record(const Recorded *recorded) {
    if (!capturing) {
        play(recorded);
        return;
    }
    capturing->items = realloc(capturing->items, sizeof *capturing->items * (capturing->count + 1));
    capturing->items[capturing->count++] = *recorded;
}

EXPORT int cuLaunchKernelEx(const CudaLaunch *launch, void *function, void **parameters, void **extra) {
    Kernel *kernel = function;
    const unsigned *grid = launch->grid, *block = launch->block;
    if (failed) return failed;
    if (!launch->stream || extra || !grid[0] || !grid[1] || !grid[2] || grid[1] > 65535 || grid[2] > 65535 ||
        block[0] > 1024 || block[1] != 1 || block[2] != 1 || (int)launch->shared_bytes > kernel->shared_limit)
        return INVALID;
    const CudaLaunchAttribute *overlap = launch->attributes;
    bool may_overlap = architecture() >= 90, overlaps = launch->attribute_count;
    if (overlaps != may_overlap && !(may_overlap && getenv("CHERRY_FAKE_GRAPHS"))) return INVALID;
    if (capturing) capturing->overlaps |= overlaps;
    if (overlaps && (overlap->number != CUDA_LAUNCH_OVERLAP || overlap->value != 1)) return INVALID;
    if (!kernel->launch) compile_kernels();
    Recorded recorded = {
        .kernel = kernel,
        .grid = {.blocks = {grid[0], grid[1], grid[2]}, .block = (int)block[0], .shared_bytes = launch->shared_bytes}};
    if (kernel->arguments > ARGUMENTS_MAX) complain("too many arguments");
    for (int i = 0; i < kernel->arguments; i++) memcpy(&recorded.pointers[i], parameters[i], sizeof(void *));
    record(&recorded);
    return OK;  // as on a GPU: a kernel's failure shows when it is waited for
}

EXPORT int cublasLtMatmul(void *handle, void *description, const void *alpha, uint64_t a, void *a_layout, uint64_t b,
                          void *b_layout, const void *beta, uint64_t c, void *c_layout, uint64_t d, void *d_layout,
                          const uint64_t *algorithm, uint64_t workspace, size_t workspace_bytes, void *stream) {
    if (failed) return failed;
    if (!handle || !stream || (a | b | c | d) % algorithm[0] || algorithm[1] == 1) return INVALID;
    if ((int)algorithm[1] < atoi(variable("CHERRY_FAKE_BROKEN", "0"))) return NOT_SUPPORTED;
    device_bytes(workspace, workspace_bytes);
    Product *product = calloc(1, sizeof *product);
    *product = (Product){*(Description *)description, *(Layout *)a_layout, *(Layout *)b_layout, *(Layout *)c_layout,
                         *(Layout *)d_layout, *(const float *)alpha, *(const float *)beta, a, b, c, d};
    record(&(Recorded){.product = product});
    if (!capturing) free(product);
    return OK;
}

EXPORT int cuStreamCreate(void **stream, unsigned flags) {
    (void)flags;
    *stream = &kernel_count;
    return OK;
}
EXPORT int cuStreamDestroy_v2(void *stream) { return stream ? OK : INVALID; }
EXPORT int cuStreamSynchronize(void *stream) {
    if (!stream || capturing) return INVALID;
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
    copy->items = malloc(sizeof *copy->items * (graph->count + 1));
    if (graph->count) memcpy(copy->items, graph->items, sizeof *copy->items * graph->count);
    return status_now(OK);
}
EXPORT int cuGraphLaunch(void *executable, void *stream) {
    const Graph *graph = executable;
    if (!graph || !stream) return INVALID;
    for (size_t i = 0; i < graph->count; i++) play(&graph->items[i]);
    return OK;
}
EXPORT int cuGraphDestroy(void *of) {
    Graph *graph = of;
    free(graph->items);
    free(graph);
    return OK;
}
EXPORT int cuGraphExecDestroy(void *of) {
    Graph *graph = of;
    for (size_t i = 0; i < graph->count; i++) free(graph->items[i].product);
    return cuGraphDestroy(of);
}

// ---- Events ----

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

EXPORT int cuEventCreate(void **event, unsigned flags) {
    (void)flags;
    *event = calloc(1, sizeof(double));
    return status_now(OK);
}
EXPORT int cuEventDestroy_v2(void *event) {
    free(event);
    return OK;
}
EXPORT int cuEventRecord(void *event, void *stream) {
    *(double *)event = now();
    return stream ? status_now(OK) : INVALID;
}
EXPORT int cuEventSynchronize(void *event) { return event ? status_now(OK) : INVALID; }
EXPORT int cuEventElapsedTime(float *milliseconds, void *begin, void *end) {
    if (*(double *)begin == 0 || *(double *)end == 0) return NOT_READY;
    *milliseconds = (float)((*(double *)end - *(double *)begin) * 1e3);
    return status_now(OK);
}
