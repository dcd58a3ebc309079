// An NVIDIA GPU: its memory, one stream, the kernels that were loaded: see device.h and device_cuda.h.
#include "runtime/device_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

bool device_check(Device *device, int status, const char *doing) {
    if (status == 0) return true;
    if (device->failed) return false;
    device->failed = true;
    const char *text = NULL;
    if (status & CUBLAS_STATUS)
        text = device->cublas.status_text(status &= ~CUBLAS_STATUS);
    else if (device->driver.error_text(status, &text) != 0)
        text = NULL;
    report_error(device->diagnostics, NO_PLACE, "E0645", "%s failed on %s: %s (%d)", doing,
                 device->name[0] ? device->name : "the GPU", text ? text : "unknown error", status);
    if (device->running && !device->careful)
        report_hint(device->diagnostics,
                    "it was in %s or what ran before; with --verify kernels run one by one, and the one that fails is named",
                    device->running);
    return false;
}

// ---- Opening ----

enum { OVERLAP_VERSION = 12040 };  // of the driver, from which on graphs keep what launches say of overlapping

static bool choose_device(Device *device) {
    CudaDriver *driver = &device->driver;
    int count = 0, major = 0, minor = 0, status = driver->initialize(0);
    if (status == 0) status = driver->version(&device->version);
    if (status == 0) status = driver->device_count(&count);
    if (status == CUDA_ERROR_NO_DEVICE || (status == 0 && count == 0)) {
        report_error(device->diagnostics, NO_PLACE, "E0642", "the NVIDIA driver finds no GPU");
        report_hint(device->diagnostics, "`nvidia-smi` lists them; CUDA_VISIBLE_DEVICES may hide them");
        return false;
    }
    if (!device_check(device, status, "starting the NVIDIA driver")) return false;
    if (!device_check(device, driver->device_get(&device->number, 0), "opening the GPU") ||
        !device_check(device, driver->device_name(device->name, (int)sizeof device->name - 1, device->number),
                      "asking for the GPU's name") ||
        !device_check(device, driver->device_attribute(&major, CUDA_DEVICE_MAJOR, device->number),
                      "asking for the GPU's architecture") ||
        !device_check(device, driver->device_attribute(&minor, CUDA_DEVICE_MINOR, device->number),
                      "asking for the GPU's architecture"))
        return false;
    snprintf(device->architecture, sizeof device->architecture, "sm_%d%d", major % 100, minor % 10);
    device->overlaps = major >= 9 && device->version >= OVERLAP_VERSION;
    if (major >= 8) return true;
    return report_error(device->diagnostics, NO_PLACE, "E0642", "%s is %s; kernels need sm_80 or later", device->name,
                        device->architecture);
}

static bool open_device(Device *device) {
    if (!cuda_driver_open(device->diagnostics, &device->driver) || !choose_device(device)) return false;
    CudaDriver *driver = &device->driver;
    if (!cublas_open(device->diagnostics, device->version, &device->cublas)) return false;
    void *context = NULL;
    if (!device_check(device, driver->context_retain(&context, device->number), "opening the GPU")) return false;
    device->context = context;
    return device_check(device, driver->context_set(context), "opening the GPU") &&
           device_check(device, driver->stream_create(&device->stream, CUDA_STREAM_NON_BLOCKING), "making a stream") &&
           device_check(device, cublas_status(device->cublas.create(&device->handle)), "starting cuBLASLt") &&
           device_allocate(device, DEVICE_WORKSPACE, &device->workspace);
}

Device *device_open(Diagnostics *diagnostics) {
    Arena *arena = arena_create();
    Device *device = ARENA_NEW(arena, Device);
    *device = (Device){.arena = arena, .diagnostics = diagnostics};
    if (open_device(device)) return device;
    device_close(device);
    return NULL;
}

void device_close(Device *device) {
    if (!device) return;
    for (size_t i = 0; i < device->modules.count; i++) device->driver.module_unload(device->modules.items[i].module);
    device_products_release(device);
    device_release(device, &device->workspace);
    if (device->handle) device->cublas.destroy(device->handle);
    if (device->stream) device->driver.stream_destroy(device->stream);
    if (device->context) device->driver.context_release(device->number);
    arena_destroy(device->arena);  // the libraries stay: they do not like to be closed
}

const char *device_name(const Device *device) { return device->name; }
const char *device_architecture(const Device *device) { return device->architecture; }
int device_driver(const Device *device) { return device->version; }

bool device_runs(const Device *device, const char *architecture) {
    char *letter;
    long number = strtol(architecture + 3, &letter, 10), own = strtol(device->architecture + 3, NULL, 10);
    if (strncmp(architecture, "sm_", 3) != 0 || number / 10 != own / 10) return false;
    return *letter == 'a' ? number == own : number <= own;
}

int64_t device_peak_bytes(const Device *device) { return device->peak; }
void device_set_careful(Device *device, bool careful) { device->careful = careful; }
bool device_works(const Device *device) { return !device->failed; }

// ---- Memory ----

enum { CODE_SHARE = 256 };  // of all memory: 0.5 GiB of an H200's

bool device_allocate(Device *device, int64_t bytes, DeviceBlock *block) {
    *block = (DeviceBlock){0};
    if (bytes <= 0) return true;
    size_t available = 0, total = 0;
    if (!device_check(device, device->driver.memory_info(&available, &total), "asking for free memory")) return false;
    // The code of kernels and libraries takes memory too, when it is first run.
    bool fits = (uint64_t)bytes + total / CODE_SHARE <= available;
    int status = fits ? device->driver.allocate(&block->address, (size_t)bytes) : CUDA_ERROR_OUT_OF_MEMORY;
    if (status == CUDA_ERROR_OUT_OF_MEMORY) {
        report_error(device->diagnostics, NO_PLACE, "E0643",
                     "this model needs %.2f GiB of memory on %s; %.2f of %.2f GiB are free", (double)bytes / (1 << 30),
                     device->name, (double)available / (1 << 30), (double)total / (1 << 30));
        report_hint(device->diagnostics, "smaller: --set batch=..., --recompute layer, --set precision=bf16");
        return false;
    }
    if (!device_check(device, status, "allocating memory")) return false;
    block->bytes = bytes;
    device->used += bytes;
    if (device->used > device->peak) device->peak = device->used;
    device_clear(device, block->address, bytes);
    return !device->failed;
}

void device_release(Device *device, DeviceBlock *block) {
    if (!block->address) return;
    device->driver.release(block->address);
    device->used -= block->bytes;
    *block = (DeviceBlock){0};
}

static void wait(Device *device) {
    if (!device->failed) device_check(device, device->driver.stream_wait(device->stream), "waiting for the GPU");
}

void device_read(Device *device, void *to, CudaAddress from, int64_t bytes) {
    if (device->failed || bytes <= 0) return;
    device_check(device, device->driver.to_host(to, from, (size_t)bytes, device->stream), "copying from the GPU");
    wait(device);
}

void device_write(Device *device, CudaAddress to, const void *from, int64_t bytes) {
    if (device->failed || bytes <= 0) return;
    device_check(device, device->driver.to_device(to, from, (size_t)bytes, device->stream), "copying to the GPU");
    wait(device);
}

void device_clear(Device *device, CudaAddress address, int64_t bytes) {
    if (device->failed || bytes <= 0) return;
    device_check(device, device->driver.set(address, 0, (size_t)bytes, device->stream), "clearing memory");
}

// ---- Kernels ----

static void *load_module(Device *device, const CudaKernel *kernel) {
    for (size_t i = 0; i < device->modules.count; i++)
        if (device->modules.items[i].key == kernel->key) return device->modules.items[i].module;
    void *module = NULL;
    if (!device_check(device, device->driver.module_load(&module, kernel->image), "loading a kernel")) return NULL;
    vector_push(device->arena, &device->modules, ((LoadedModule){kernel->key, module}));
    return module;
}

void *device_function(Device *device, const CudaKernel *kernel, const CudaPhase *phase) {
    void *module = load_module(device, kernel), *function = NULL;
    if (!module) return NULL;
    if (!device_check(device, device->driver.module_function(&function, module, phase->function), "finding a kernel"))
        return NULL;
    // 48 KB hold what a kernel declares too, which is not known here.
    if (phase->shared_bytes > 0 &&
        !device_check(device,
                      device->driver.function_attribute(function, CUDA_FUNCTION_DYNAMIC_SHARED, (int)phase->shared_bytes),
                      "giving a kernel its shared memory"))
        return NULL;
    return function;
}

// ---- What the device can do ----

enum { REPEATS = 20 };  // 30 ms of products: clocks rise on the way

// Seconds of `run`, the least of several; 0 after a failure.
static double least_seconds(Device *device, int (*run)(Device *device, void *what), void *what) {
    const CudaDriver *driver = &device->driver;
    void *begin = NULL, *end = NULL;
    double least = 0;
    if (driver->event_create(&begin, CUDA_EVENT_DEFAULT) == 0 && driver->event_create(&end, CUDA_EVENT_DEFAULT) == 0)
        for (int repeat = 0; repeat < REPEATS && !device->failed; repeat++) {
            float milliseconds = 0;
            bool good = driver->event_record(begin, device->stream) == 0 && run(device, what) == 0 &&
                        driver->event_record(end, device->stream) == 0 && driver->event_wait(end) == 0 &&
                        driver->event_milliseconds(&milliseconds, begin, end) == 0;
            if (!good) break;
            double seconds = (double)milliseconds * 1e-3;
            if (repeat > 1 && seconds > 0 && (least == 0 || seconds < least)) least = seconds;
        }
    if (begin) driver->event_destroy(begin);
    if (end) driver->event_destroy(end);
    return least;
}

typedef struct Measure {
    DeviceBlock block;
    CudaProduct shape;
    DeviceProduct *product;
    CudaAddress operands[3];
} Measure;

// Where there is room for three buffers of `bytes`.
static bool measure_allocate(Device *device, int64_t bytes, int count, Measure *measure) {
    size_t available = 0, total = 0;
    if (device->failed || device->driver.memory_info(&available, &total) != 0) return false;
    if ((uint64_t)(bytes * count) > available || !device_allocate(device, bytes * count, &measure->block)) return false;
    for (int i = 0; i < count; i++) measure->operands[i] = measure->block.address + (uint64_t)(i * bytes);
    return true;
}

enum { PATTERN = 1 << 16 };

// Fills a block with numbers of bf16 from 0.5 to 2, of both signs. Zeros would cost a GPU less power, so that it ran
// faster.
static void fill_with_numbers(Device *device, const DeviceBlock *block) {
    uint16_t *numbers = ARENA_ARRAY(device->arena, uint16_t, PATTERN);
    for (uint64_t i = 0; i < PATTERN; i++) numbers[i] = (uint16_t)(0x3f00 | (hash_word(HASH_START, i) & 0x80ff));
    int64_t filled = PATTERN * (int64_t)sizeof *numbers;
    device_write(device, block->address, numbers, filled);
    for (int64_t bytes; filled < block->bytes && !device->failed; filled += bytes) {
        bytes = filled < block->bytes - filled ? filled : block->bytes - filled;
        CudaAddress to = block->address + (uint64_t)filled;
        device_check(device, device->driver.on_device(to, block->address, (size_t)bytes, device->stream), "copying on the GPU");
    }
}

static int run_copy(Device *device, void *what) {
    const Measure *measure = what;
    return device->driver.on_device(measure->operands[0], measure->operands[1], (size_t)measure->block.bytes / 2,
                                    device->stream);
}

double device_measure_bandwidth(Device *device) {
    Measure measure = {0};
    int64_t peak = device->peak;
    if (!measure_allocate(device, 512 << 20, 2, &measure)) return 0;
    double seconds = least_seconds(device, run_copy, &measure), bytes = (double)measure.block.bytes;
    device_release(device, &measure.block);
    device->peak = peak;  // not what a model takes
    return seconds > 0 ? bytes / seconds : 0;
}

static int run_product(Device *device, void *what) {
    const Measure *measure = what;
    return device_product_run(device, measure->product, &measure->shape, measure->operands, 0);
}

double device_measure_flops(Device *device) {
    Measure measure = {0};
    int64_t peak = device->peak;
    for (int64_t n = 8192; n >= 2048; n /= 4) {
        if (!measure_allocate(device, 2 * n * n, 3, &measure)) continue;
        fill_with_numbers(device, &measure.block);
        measure.shape = (CudaProduct){.a = {0, 0}, .b = {1, 0}, .c = {CUDA_NONE, 0}, .d = {2, 0}, .bias = {CUDA_NONE, 0},
                                      .element_ab = ELEMENT_BF16, .element_d = ELEMENT_BF16, .m = n, .n = n, .k = n,
                                      .batch = 1, .lead_a = n, .lead_b = n, .lead_c = n, .lead_d = n, .alpha = 1};
        if (device_has_product(device, &measure.shape, DEVICE_ALIGNMENT))
            measure.product = device_product_create(device, &measure.shape, DEVICE_ALIGNMENT, NULL);
        double seconds = measure.product ? least_seconds(device, run_product, &measure) : 0;
        device_release(device, &measure.block);
        device->peak = peak;
        return seconds > 0 ? 2.0 * (double)n * (double)n * (double)n / seconds : 0;
    }
    return 0;
}
