// cuda_compile: distinct texts, the ones that the disk has, the others through NVRTC on several threads.
// NVRTC is opened at run time, from the linker's path and from the folders where the toolkit is put.
// A cache file is a header and a cubin, named by the hash of text, architecture and NVRTC's version.
#include "codegen/cuda_nvrtc.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/thread.h"
#include "codegen/cache_folder.h"

typedef struct Nvrtc {  // the calls that are used; a result of 0 is success
    void *library;
    int (*version)(int *major, int *minor);
    int (*create)(void **program, const char *text, const char *name, int count, const char *const *headers,
                  const char *const *names);
    int (*destroy)(void **program);
    int (*compile)(void *program, int count, const char *const *options);
    int (*cubin_size)(void *program, size_t *bytes);
    int (*cubin)(void *program, char *to);
    int (*ptx_size)(void *program, size_t *bytes);
    int (*ptx)(void *program, char *to);
    int (*log_size)(void *program, size_t *bytes);
    int (*log)(void *program, char *to);
    int major, minor;
} Nvrtc;

// ---- The library ----

static const char *const libraries[] = {
    "libnvrtc.so.13",
    "libnvrtc.so.12",
    "libnvrtc.so",
    "/usr/local/cuda/lib64/libnvrtc.so.13",
    "/usr/local/cuda/lib64/libnvrtc.so.12",
    "/usr/local/cuda-13.0/lib64/libnvrtc.so.13",
    "/usr/local/cuda-12.8/lib64/libnvrtc.so.12",
    "/usr/lib/x86_64-linux-gnu/libnvrtc.so.12",
    "/usr/lib/aarch64-linux-gnu/libnvrtc.so.12",
};

static bool load_nvrtc(const char *path, Nvrtc *nvrtc) {
    *nvrtc = (Nvrtc){.library = dlopen(path, RTLD_NOW | RTLD_LOCAL)};
    if (!nvrtc->library) return false;
    const struct {
        void *at;
        const char *name;
    } calls[] = {{&nvrtc->version, "nvrtcVersion"},
                 {&nvrtc->create, "nvrtcCreateProgram"},
                 {&nvrtc->destroy, "nvrtcDestroyProgram"},
                 {&nvrtc->compile, "nvrtcCompileProgram"},
                 {&nvrtc->cubin_size, "nvrtcGetCUBINSize"},
                 {&nvrtc->cubin, "nvrtcGetCUBIN"},
                 {&nvrtc->ptx_size, "nvrtcGetPTXSize"},
                 {&nvrtc->ptx, "nvrtcGetPTX"},
                 {&nvrtc->log_size, "nvrtcGetProgramLogSize"},
                 {&nvrtc->log, "nvrtcGetProgramLog"}};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        void *call = dlsym(nvrtc->library, calls[i].name);
        if (!call) return false;
        memcpy(calls[i].at, &call, sizeof call);
    }
    return nvrtc->version(&nvrtc->major, &nvrtc->minor) == 0;
}

// NVRTC asks the linker for its builtins by name when it first compiles. In a folder that the linker does not search they
// are found if they are loaded by then.
static void load_builtins(const char *path, const Nvrtc *nvrtc) {
    char builtins[256];
    const char *name = strrchr(path, '/');
    if (!name) return;
    snprintf(builtins, sizeof builtins, "%.*s/libnvrtc-builtins.so.%d.%d", (int)(name - path), path, nvrtc->major,
             nvrtc->minor);
    dlopen(builtins, RTLD_NOW | RTLD_LOCAL);
}

// The first whose code the driver loads (CudaOptions). Without one, the version of what was passed over first, or 0, is
// left.
static bool open_nvrtc(Nvrtc *nvrtc, int driver) {
    int major = 0, minor = 0;
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        if (!load_nvrtc(libraries[i], nvrtc)) continue;
        if (!driver || nvrtc->major <= driver / 1000) {
            load_builtins(libraries[i], nvrtc);
            return true;
        }
        if (!major) major = nvrtc->major, minor = nvrtc->minor;
    }
    *nvrtc = (Nvrtc){.major = major, .minor = minor};
    return false;
}

static bool require_nvrtc(Ir *ir, Nvrtc *nvrtc, const CudaOptions *options) {
    int driver = options ? options->driver : 0;
    if (open_nvrtc(nvrtc, driver)) return true;
    if (nvrtc->major) {
        report_error(ir->diagnostics, NO_PLACE, "E0621",
                     "the NVIDIA driver is of CUDA %d.%d and loads no code of NVRTC %d.%d", driver / 1000,
                     driver % 1000 / 10, nvrtc->major, nvrtc->minor);
        report_hint(ir->diagnostics,
                    "install libnvrtc.so.%d beside it (pip install nvidia-cuda-nvrtc-cu%d, and set LD_LIBRARY_PATH to its "
                    "folder), or a driver of CUDA %d",
                    driver / 1000, driver / 1000, nvrtc->major);
        return false;
    }
    report_error(ir->diagnostics, NO_PLACE, "E0621",
                 "no NVRTC here: libnvrtc.so.13 or .12 of the CUDA toolkit");
    report_hint(ir->diagnostics,
                "install it (Debian, Ubuntu with NVIDIA's archive: apt-get install cuda-nvrtc-13-0) or set "
                "LD_LIBRARY_PATH to its folder");
    return false;
}

const char *cuda_compiler_version(Ir *ir, const char **why) {
    Nvrtc nvrtc;
    if (open_nvrtc(&nvrtc, 0)) return arena_format(ir->arena, "%d.%d", nvrtc.major, nvrtc.minor);
    *why = "libnvrtc.so.13 or .12 was not found; it comes with the CUDA toolkit (cuda-nvrtc-13-0)";
    return NULL;
}

// ---- One text ----

typedef struct Item {
    uint64_t key;
    const char *text;
    char *image;  // malloc'ed on a compile thread
    size_t image_bytes;
    int registers, spill_bytes, static_bytes, early_waits;
    const char *failure;  // malloc'ed log
    bool cached;
} Item;

typedef struct Compile {
    const Nvrtc *nvrtc;
    const char *architecture, *folder;
    Item *items;
    size_t count;
    atomic_size_t taken;  // items that some thread has begun with
} Compile;

// The largest of the numbers that stand before `words`.
static int most_before(const char *log, const char *words) {
    int most = 0;
    for (const char *at = log; (at = strstr(at, words)); at++) {
        const char *digits = at;
        while (digits > log && digits[-1] >= '0' && digits[-1] <= '9') digits--;
        int count = atoi(digits);
        if (count > most) most = count;
    }
    return most;
}

static int count_of(const char *log, const char *words) {
    int count = 0;
    for (const char *at = log; (at = strstr(at, words)); at++) count++;
    return count;
}

// The most that any function takes, in the assembler's report; how many remarks are on wgmma that is waited for: C7510,
// C7517 and others.
static void read_report(const char *log, Item *item) {
    item->registers = most_before(log, " registers");
    item->spill_bytes = most_before(log, " bytes spill");
    item->static_bytes = most_before(log, " bytes smem");
    item->early_waits = count_of(log, "(C75");
}

static char *take(void *program, int (*size)(void *, size_t *), int (*get)(void *, char *), size_t *bytes) {
    if (size(program, bytes) != 0) return NULL;
    char *data = calloc(1, *bytes + 1);
    if (data && get(program, data) != 0) {
        free(data);
        return NULL;
    }
    return data;
}

static char *with_prelude(const char *text) {
    const char *prelude = cuda_prelude();
    static const char line[] = "#line 1 \"kernel.cu\"\n";  // messages count from here
    char *source = malloc(strlen(prelude) + sizeof line + strlen(text));
    CHECK(source);
    strcpy(source, prelude);
    strcat(source, line);
    return strcat(source, text);
}

// Machine code, or PTX, of one text; NULL and the log in item->failure.
static char *compile_text(const Nvrtc *nvrtc, const char *architecture, bool ptx, Item *item, size_t *bytes) {
    char option[64];
    void *program = NULL;
    snprintf(option, sizeof option, "--gpu-architecture=%s%s", ptx ? "compute" : "sm",
             strchr(architecture, '_'));
    // Quotients and roots to 2 units in the last place, over the full range: the exact ones call subroutines,
    // round which registers spill.
    const char *options[] = {option,
                             "--std=c++17",
                             "--ptxas-options=-v",
                             "-lineinfo",
                             "--diag-suppress=177",
                             "--prec-div=false",
                             "--prec-sqrt=false"};
    char *source = with_prelude(item->text), *result = NULL;
    if (nvrtc->create(&program, source, "kernel.cu", 0, NULL, NULL) == 0) {
        bool ok = nvrtc->compile(program, sizeof options / sizeof *options, options) == 0;
        size_t log_bytes;
        char *log = take(program, nvrtc->log_size, nvrtc->log, &log_bytes);
        if (ok && log) read_report(log, item);
        if (ok)
            result = ptx ? take(program, nvrtc->ptx_size, nvrtc->ptx, bytes)
                         : take(program, nvrtc->cubin_size, nvrtc->cubin, bytes);
        if (result)
            free(log);
        else
            item->failure = log;
        nvrtc->destroy(&program);
    }
    free(source);
    return result;
}

const char *cuda_nvrtc_ptx(Ir *ir, const CudaKernel *kernel, const CudaOptions *options) {
    Nvrtc nvrtc;
    if (!require_nvrtc(ir, &nvrtc, options)) return NULL;
    Item item = {.text = kernel->text};
    size_t bytes = 0;
    char *text = compile_text(&nvrtc, options && options->architecture ? options->architecture : "sm_90",
                              true, &item, &bytes);
    if (!text) {
        report_error(ir->diagnostics, NO_PLACE, "E0622", "NVRTC refused a kernel: %s",
                     item.failure ? item.failure : "");
        free((char *)item.failure);
        return NULL;
    }
    const char *copy = arena_copy(ir->arena, text, bytes);
    free(text);
    return copy;
}

// ---- On disk: what is missing or damaged is compiled, what cannot be written is not ----

typedef struct Header {
    char magic[8];
    uint64_t checksum, bytes;
    int64_t registers, spill_bytes, static_bytes, early_waits;
} Header;

static const char magic[8] = "CHERRYH";

static void cache_path(const Compile *compile, const Item *item, char *path, size_t limit) {
    uint64_t key =
        hash_word(item->key, hash_text(hash_text(HASH_START, compile->architecture), cuda_prelude()));
    key = hash_word(key, (uint64_t)compile->nvrtc->major * 1000 + (uint64_t)compile->nvrtc->minor);
    snprintf(path, limit, "%s/%016" PRIx64 ".cubin", compile->folder, key);
}

static void cache_load(const Compile *compile, Item *item) {
    char path[4096];
    Header header;
    struct stat status;
    cache_path(compile, item, path, sizeof path);
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (file < 0) return;
    bool ok = fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == geteuid() &&
              read(file, &header, sizeof header) == (ssize_t)sizeof header &&
              memcmp(header.magic, magic, sizeof magic) == 0 &&
              header.bytes == (uint64_t)status.st_size - sizeof header;
    char *image = ok ? malloc(header.bytes + 1) : NULL;
    ok = image && read(file, image, header.bytes) == (ssize_t)header.bytes &&
         hash_bytes(HASH_START, image, header.bytes) == header.checksum;
    close(file);
    if (ok) {
        item->image = image;
        item->image_bytes = header.bytes;
        item->registers = (int)header.registers;
        item->spill_bytes = (int)header.spill_bytes;
        item->static_bytes = (int)header.static_bytes;
        item->early_waits = (int)header.early_waits;
        item->cached = true;
    } else {
        free(image);
        unlink(path);
    }
}

static void cache_store(const Compile *compile, const Item *item) {
    char path[4096], temporary[4200];
    Header header = {.bytes = item->image_bytes,
                     .registers = item->registers,
                     .spill_bytes = item->spill_bytes,
                     .static_bytes = item->static_bytes,
                     .early_waits = item->early_waits,
                     .checksum = hash_bytes(HASH_START, item->image, item->image_bytes)};
    memcpy(header.magic, magic, sizeof magic);
    cache_path(compile, item, path, sizeof path);
    snprintf(temporary, sizeof temporary, "%s.tmp-%ld", path, (long)getpid());
    int file = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) return;
    bool ok = write(file, &header, sizeof header) == (ssize_t)sizeof header &&
              write(file, item->image, item->image_bytes) == (ssize_t)item->image_bytes;
    if (close(file) != 0 || !ok || rename(temporary, path) != 0) unlink(temporary);
}

// ---- All of them ----

// Each thread takes what comes next: the text of an attention takes ten times as long as others.
static void compile_some(void *context, int thread) {
    Compile *compile = context;
    (void)thread;
    for (size_t i; (i = atomic_fetch_add(&compile->taken, 1)) < compile->count;) {
        Item *item = &compile->items[i];
        if (compile->folder) cache_load(compile, item);
        if (item->image) continue;
        item->image = compile_text(compile->nvrtc, compile->architecture, false, item, &item->image_bytes);
        if (item->image && compile->folder) cache_store(compile, item);
    }
}

static Item *find_item(Compile *compile, uint64_t key) {
    for (size_t i = 0; i < compile->count; i++)
        if (compile->items[i].key == key) return &compile->items[i];
    return NULL;
}

// Kernels that some launch outside of groups needs.
static const bool *launched_alone(const Program *program) {
    bool *alone = ARENA_ARRAY(program->ir->arena, bool, program->kernels.count + 1);
    for (uint32_t i = 0; i < program->launches.count; i++)
        if (!program_group(program, i)) alone[program->launches.items[i].kernel] = true;
    return alone;
}

static void collect(Compile *compile, Program *const *programs, size_t count, CudaStatistics *statistics) {
    for (size_t p = 0; p < count; p++) {
        const bool *alone = launched_alone(programs[p]);
        for (size_t k = 0; k < program_cuda_count(programs[p]); k++) {
            const CudaKernel *kernel = program_cuda_code(programs[p], k);
            if (k < programs[p]->kernels.count && !alone[k]) continue;
            statistics->kernels++;
            for (int i = 0; i < kernel->phase_count; i++) statistics->products += !kernel->phases[i].function;
            if (kernel->text && !find_item(compile, kernel->key))
                compile->items[compile->count++] = (Item){.key = kernel->key, .text = kernel->text};
        }
    }
}

// The kernel that an item is the text of; of a group the first.
static const Kernel *find_kernel(Program *const *programs, size_t count, uint64_t key) {
    for (size_t p = 0; p < count; p++)
        for (size_t k = 0; k < programs[p]->kernels.count; k++)
            if (programs[p]->kernels.items[k].cuda.key == key) return &programs[p]->kernels.items[k];
    for (size_t p = 0; p < count; p++)
        for (size_t g = 0; g < programs[p]->groups.count; g++) {
            const LaunchGroup *group = &programs[p]->groups.items[g];
            if (group->code.key == key) return &programs[p]->kernels.items[programs[p]->launches.items[group->first].kernel];
        }
    return NULL;
}

static bool report_refused(Ir *ir, const Kernel *kernel, const char *log) {
    // The first line of the model that it came from.
    Place place = kernel && kernel->named ? kernel->named->place : NO_PLACE;
    for (size_t i = 0; kernel && kernel->nest && i < kernel->nest->formulas.count && !place.file; i++)
        place = kernel->nest->formulas.items[i].place;
    return report_error(ir->diagnostics, place, "E0622", "NVRTC refused kernel %s: %s", kernel ? kernel->name : "",
                        log ? log : "");
}

static bool deliver(Ir *ir, Compile *compile, Program *const *programs, size_t count,
                    CudaStatistics *statistics) {
    bool ok = true;
    for (size_t i = 0; i < compile->count; i++) {
        Item *item = &compile->items[i];
        if (item->image) {
            char *copy = arena_copy(ir->arena, item->image, item->image_bytes);
            free(item->image);
            item->image = copy;
        } else if (ok) {
            ok = report_refused(ir, find_kernel(programs, count, item->key), item->failure);
        }
        free((char *)item->failure);
        statistics->cached += item->cached;
        statistics->spilling += item->spill_bytes > 0;
        if (item->registers > statistics->most_registers) statistics->most_registers = item->registers;
    }
    for (size_t p = 0; p < count; p++)
        for (size_t k = 0; k < program_cuda_count(programs[p]); k++) {
            CudaKernel *kernel = program_cuda_code(programs[p], k);
            const Item *item = kernel->text ? find_item(compile, kernel->key) : NULL;
            if (!item) continue;
            kernel->image = item->image;
            kernel->image_bytes = item->image_bytes;
            kernel->registers = item->registers;
            kernel->spill_bytes = item->spill_bytes;
            kernel->static_bytes = item->static_bytes;
            kernel->early_waits = item->early_waits;
        }
    return ok;
}

bool cuda_compile(Ir *ir, Program *const *programs, size_t count, const CudaOptions *options,
                  CudaStatistics *statistics) {
    double start = clock_seconds();
    CudaStatistics unused;
    if (!statistics) statistics = &unused;
    *statistics = (CudaStatistics){0};
    Nvrtc nvrtc;
    if (!require_nvrtc(ir, &nvrtc, options) || !cuda_generate(ir, programs, count, options)) return false;
    size_t limit = 1;
    for (size_t p = 0; p < count; p++) limit += programs[p]->kernels.count + programs[p]->launches.count / 2;
    Compile compile = {.nvrtc = &nvrtc,
                       .architecture = options && options->architecture ? options->architecture : "sm_90",
                       .folder = options && options->cache ? cache_folder(ir->arena, options->cache_folder) : NULL,
                       .items = ARENA_ARRAY(ir->arena, Item, limit)};
    collect(&compile, programs, count, statistics);
    statistics->distinct = compile.count;
    ThreadPool *pool = thread_pool_create(options ? options->threads : 0);
    thread_pool_run(pool, compile_some, &compile);
    thread_pool_destroy(pool);
    bool ok = deliver(ir, &compile, programs, count, statistics);
    statistics->seconds = clock_seconds() - start;
    return ok;
}
