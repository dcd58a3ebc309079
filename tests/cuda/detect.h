// Finds races, accesses out of bounds and what is read before it is written, on the emulated GPU.
//
// Kernels are compiled with -fsanitize=thread, and the calls that this puts before every access end here, not in
// libtsan. Each byte of shared memory and of a launch's operands has a cell: who wrote it last and who has read it
// since, and when; a word has one as long as nobody looks at less of it. The order that holds between two accesses is that of CUDA:
//   threads of a block   __syncthreads; lanes of a warp also __syncwarp. Shuffles, ballots and tensor cores make
//                        lanes meet but promise nothing about memory
//   blocks               none, in one launch; launches come one after the other for threads that have waited for it
// `epoch` counts barriers of blocks over all launches and never goes back, so that cells need no clearing.
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/mman.h>

#define EMULATE_QUIET __attribute__((no_sanitize("thread")))
#pragma GCC push_options
#pragma GCC optimize("O2")

struct EmulateCell {
    unsigned write_epoch, write_warp, write_place;
    unsigned first_read, read_epoch, read_warp, read_place;  // first: of this launch
    unsigned shown;  // how often its writer had shown products what it wrote
    unsigned short writer, reader;
};
// Of a stretch of memory. Where `split` is of this time, the bytes of a word have cells of their own.
struct EmulateRegion {
    char *begin, *end, *first;  // first: `begin` down to a whole word
    EmulateCell *words, *bytes;
    unsigned *split;
};
enum { LANES_READ = 0x400, MANY_READ = 0x800, UNDER_WAY = 0x8000 };  // LANES_READ + warp; of writer: a copy

static unsigned emulate_epoch = 1, emulate_launch_epoch = 1, emulate_block_epoch = 1;
static unsigned emulate_warp_epoch[EMULATE_THREADS / 32];  // counts __syncwarp
static unsigned emulate_shown[EMULATE_THREADS];            // counts fence.proxy.async
static bool emulate_waited[EMULATE_THREADS];               // griddepcontrol.wait

enum { EMULATE_REGIONS = 512 };
static EmulateRegion emulate_regions[EMULATE_REGIONS], emulate_dynamic, emulate_static;
static int emulate_region_count, emulate_last_region;
static char *emulate_image, *emulate_image_end;  // of this library
static thread_local volatile char emulate_first_static;  // is in its TLS, and so are all __shared__ variables
static int64_t emulate_object[1 << 14][2];       // begin and end of each in the TLS
static int emulate_object_count;
static bool emulate_in_kernel;

// ---- Saying what ----

// FUNCTION at FILE:LINE.
EMULATE_QUIET static const char *emulate_line(unsigned place) {
    static char lines[2][600];
    static int turn;
    char *line = lines[turn ^= 1], command[600];
    Dl_info info;
    snprintf(line, sizeof lines[0], "+0x%x", place);
    if (!place || !dladdr(emulate_image, &info)) return line;
    snprintf(command, sizeof command, "env -u LD_LIBRARY_PATH addr2line -Cfips -e %s 0x%x 2>/dev/null", info.dli_fname, place - 1);
    FILE *stream = popen(command, "r");
    if (!stream) return line;
    char text[600];
    if (fgets(text, sizeof text, stream)) {
        text[strcspn(text, "\n")] = 0;
        snprintf(line, sizeof lines[0], "%s", text);
    }
    pclose(stream);
    return line;
}

static bool emulate_is_shared(const char *at) {
    return (at >= emulate_dynamic.begin && at < emulate_dynamic.begin + EMULATE_SHARED) ||
           (at >= emulate_static.begin && at < emulate_static.end);
}

[[noreturn]] EMULATE_QUIET static void emulate_report(const char *at, int bytes, bool write, unsigned place, const char *what) {
    static char text[1600];
    snprintf(text, sizeof text, "%s %d bytes of %s memory at %s: %s", write ? "writes" : "reads", bytes,
             emulate_is_shared(at) ? "shared" : "global", emulate_line(place), what);
    emulate_fail(text, threadIdx.x);
}

[[noreturn]] EMULATE_QUIET static void emulate_race(const char *at, int bytes, bool write, unsigned place, const char *did, unsigned who,
                                                    unsigned epoch, unsigned other_place) {
    static char text[1000], name[40];
    if (epoch < emulate_block_epoch) snprintf(name, sizeof name, "another block");
    else if (who & MANY_READ) snprintf(name, sizeof name, "other warps");
    else if (who & LANES_READ) snprintf(name, sizeof name, "lanes of warp %u", who & 31);
    else snprintf(name, sizeof name, "thread %u", who);
    snprintf(text, sizeof text, "%s %s there at %s, and no barrier stands between", name, did, emulate_line(other_place));
    emulate_report(at, bytes, write, place, text);
}

// ---- Cells ----

// Whether nothing orders what `who` did before what this thread does. Before `since` nothing counts.
EMULATE_QUIET static inline bool emulate_unordered(unsigned epoch, unsigned warp_epoch, unsigned who, unsigned since) {
    unsigned me = threadIdx.x, warp = me / 32;
    if (epoch < since) return false;
    if (epoch < emulate_block_epoch) return true;
    if (epoch < emulate_epoch || who == me) return false;
    if (who & MANY_READ) return true;
    if ((who & LANES_READ ? who & 31 : who / 32) != warp) return true;
    return warp_epoch == emulate_warp_epoch[warp];
}

EMULATE_QUIET static inline void emulate_note_read(EmulateCell *cell, unsigned since, unsigned place) {
    unsigned me = threadIdx.x, warp = me / 32, lanes = LANES_READ | warp;
    if (cell->first_read < since) cell->first_read = emulate_epoch;
    if (cell->read_epoch != emulate_epoch) {
        cell->reader = me;
    } else if (cell->reader != me && cell->reader != MANY_READ) {
        unsigned before = cell->reader & LANES_READ ? cell->reader & 31 : cell->reader / 32;
        if (before != warp) cell->reader = MANY_READ;
        else cell->reader = cell->read_warp == emulate_warp_epoch[warp] ? lanes : me;
    }
    cell->read_epoch = emulate_epoch;
    cell->read_warp = emulate_warp_epoch[warp];
    cell->read_place = place;
}

enum EmulateHow { PLAIN, START_COPY, END_COPY, OF_PRODUCT };

EMULATE_QUIET static inline void emulate_touch(EmulateCell *cell, const char *at, int bytes, bool write, unsigned place, EmulateHow how, bool shared,
                                               unsigned since) {
    if (cell->write_epoch >= since && cell->writer & UNDER_WAY && how != END_COPY) emulate_report(at, bytes, write, place, "a copy to it is under way");
    if (emulate_unordered(cell->write_epoch, cell->write_warp, cell->writer & ~UNDER_WAY, since))
        emulate_race(at, bytes, write, place, "wrote", cell->writer & ~UNDER_WAY, cell->write_epoch, cell->write_place);
    if (!write) {
        if (shared && cell->write_epoch < since) emulate_report(at, bytes, write, place, "nobody has written it");
        if (how == OF_PRODUCT && cell->shown == emulate_shown[cell->writer])
            emulate_report(at, bytes, write, place, "its writer has not shown it to products");
        emulate_note_read(cell, since, place);
        return;
    }
    if (cell->first_read >= since && cell->first_read < emulate_block_epoch)
        emulate_race(at, bytes, write, place, "read", 0, cell->first_read, cell->read_place);
    if (emulate_unordered(cell->read_epoch, cell->read_warp, cell->reader, since))
        emulate_race(at, bytes, write, place, "read", cell->reader, cell->read_epoch, cell->read_place);
    cell->write_epoch = emulate_epoch;
    cell->write_warp = emulate_warp_epoch[threadIdx.x / 32];
    cell->shown = emulate_shown[threadIdx.x];
    cell->writer = threadIdx.x | (how == START_COPY ? UNDER_WAY : 0);
    cell->read_epoch = 0;  // who reads from here on finds the write
    cell->write_place = place;
}

// Whether what a read would find is known: in this time others have read it too, so nobody wrote it.
EMULATE_QUIET static inline bool emulate_known(const EmulateCell *cell) {
    unsigned me = threadIdx.x, warp = me / 32;
    if (cell->read_epoch != emulate_epoch) return false;
    if (cell->reader == MANY_READ) return true;
    return cell->read_warp == emulate_warp_epoch[warp] && (cell->reader == me || cell->reader == (LANES_READ | warp));
}

EMULATE_QUIET static inline void emulate_touch_all(const EmulateRegion *region, const char *at, int bytes, bool write, unsigned place, EmulateHow how, bool shared) {
    unsigned since = shared ? emulate_block_epoch : emulate_launch_epoch;
    for (size_t i = at - region->first, end = i + bytes; i < end;) {
        EmulateCell *word = region->words + i / 4, *part = region->bytes + i / 4 * 4;
        if (region->split[i / 4] < since && i % 4 == 0 && end - i >= 4) {
            if (write || how == OF_PRODUCT || !emulate_known(word)) emulate_touch(word, at, bytes, write, place, how, shared, since);
            i += 4;
            continue;
        }
        if (region->split[i / 4] < since) {
            part[0] = part[1] = part[2] = part[3] = *word;
            region->split[i / 4] = emulate_epoch;
        }
        part += i % 4;
        if (write || how == OF_PRODUCT || !emulate_known(part)) emulate_touch(part, at, bytes, write, place, how, shared, since);
        i++;
    }
}

// ---- Places ----

EMULATE_QUIET static const EmulateRegion *emulate_find(const char *at) {
    const EmulateRegion *last = &emulate_regions[emulate_last_region];
    if (at >= last->begin && at < last->end) return last;
    for (int i = 0; i < emulate_region_count; i++)
        if (at >= emulate_regions[i].begin && at < emulate_regions[i].end) {
            emulate_last_region = i;
            return &emulate_regions[i];
        }
    return NULL;
}

// Whether [begin, end) of the TLS lies in one variable.
EMULATE_QUIET static bool emulate_in_object(int64_t begin, int64_t end) {
    int low = 0, high = emulate_object_count;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (emulate_object[middle][0] <= begin) low = middle;
        else high = middle;
    }
    return emulate_object_count && begin >= emulate_object[low][0] && end <= emulate_object[low][1];
}

EMULATE_QUIET static inline void emulate_access(const void *address, int bytes, bool write, int alignment, void *caller, EmulateHow how) {
    const char *at = (const char *)address;
    bool dynamic = (size_t)(at - emulate_shared) < EMULATE_SHARED;
    if (!emulate_in_kernel || (size_t)(at - emulate_stacks[threadIdx.x]) < EMULATE_STACK) return;
    unsigned place = (unsigned)((char *)caller - emulate_image);
    if (!dynamic && at >= emulate_image && at < emulate_image_end) {  // constants, and what the emulation keeps
        if ((size_t)(at - emulate_stacks[0]) < sizeof emulate_stacks) emulate_report(at, bytes, write, place, "it is local to another thread");
        return;
    }
    const EmulateRegion *region = dynamic ? &emulate_dynamic : &emulate_static;
    bool shared = dynamic || (at >= region->begin && at < region->end);
    if (!shared) region = emulate_find(at);
    if (!region || at + bytes > region->end) emulate_report(at, bytes, write, place, "out of bounds");
    if (!shared && !emulate_waited[threadIdx.x]) emulate_report(at, bytes, write, place, "launches in front may still run");
    if (shared && !dynamic && !emulate_in_object(at - region->begin, at - region->begin + bytes))
        emulate_report(at, bytes, write, place, "out of bounds");
    if ((uintptr_t)at % alignment) emulate_report(at, bytes, write, place, "not aligned");
    emulate_touch_all(region, at, bytes, write, place, how, shared);
}

// ---- Launches ----

EMULATE_QUIET static int emulate_by_begin(const void *a, const void *b) {
    const int64_t *x = (const int64_t *)a, *y = (const int64_t *)b;
    return (*x > *y) - (*x < *y);
}

// The variables in the TLS, from the library's own table of symbols.
EMULATE_QUIET static void emulate_read_objects(const char *path) {
    FILE *stream = fopen(path, "rb");
    if (!stream) return;
    fseek(stream, 0, SEEK_END);
    long size = ftell(stream);
    char *file = (char *)malloc(size + 1);
    rewind(stream);
    if (fread(file, 1, size, stream) != (size_t)size) size = 0;
    fclose(stream);
    const ElfW(Ehdr) *head = (const ElfW(Ehdr) *)file;
    const ElfW(Shdr) *sections = (const ElfW(Shdr) *)(file + head->e_shoff);
    for (int s = 0; size && s < head->e_shnum; s++) {
        if (sections[s].sh_type != SHT_SYMTAB) continue;
        const ElfW(Sym) *symbols = (const ElfW(Sym) *)(file + sections[s].sh_offset);
        for (size_t i = 0; i < sections[s].sh_size / sizeof *symbols; i++) {
            if (ELF64_ST_TYPE(symbols[i].st_info) != STT_TLS || !symbols[i].st_size) continue;
            if (emulate_object_count == 1 << 14) emulate_fail("too many shared variables", 0);
            emulate_object[emulate_object_count][0] = symbols[i].st_value;
            emulate_object[emulate_object_count++][1] = symbols[i].st_value + symbols[i].st_size;
        }
    }
    qsort(emulate_object, emulate_object_count, sizeof emulate_object[0], emulate_by_begin);
    free(file);
}

EMULATE_QUIET static int emulate_find_image(dl_phdr_info *info, size_t, void *) {
    bool found = false;
    char *base = (char *)info->dlpi_addr;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type != PT_LOAD) continue;
        char *begin = base + part->p_vaddr, *end = begin + part->p_memsz, *mine = (char *)&emulate_epoch;
        found |= mine >= begin && mine < end;
    }
    for (int i = 0; found && i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type == PT_LOAD) emulate_image_end = base + part->p_vaddr + part->p_memsz;
        if (part->p_type == PT_TLS) emulate_static.begin = (char *)info->dlpi_tls_data, emulate_static.end = emulate_static.begin + part->p_memsz;
    }
    if (found) emulate_image = base;
    return found;
}

// Three arrays for all words; what is not touched takes no memory.
static EmulateCell *emulate_words, *emulate_bytes;
static unsigned *emulate_split;
static size_t emulate_word_count;  // taken
enum : size_t { EMULATE_WORDS = (size_t)1 << 29 };

EMULATE_QUIET static void *emulate_map(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) emulate_fail("no address space for cells", 0);
    return memory;
}

EMULATE_QUIET static EmulateRegion emulate_region(char *begin, char *end) {
    char *first = begin - (uintptr_t)begin % 4;
    if (!emulate_words) {
        emulate_words = (EmulateCell *)emulate_map(EMULATE_WORDS * sizeof(EmulateCell));
        emulate_bytes = (EmulateCell *)emulate_map(4 * EMULATE_WORDS * sizeof(EmulateCell));
        emulate_split = (unsigned *)emulate_map(EMULATE_WORDS * sizeof(unsigned));
    }
    size_t at = emulate_word_count;
    emulate_word_count += (end - first + 3) / 4;
    if (emulate_word_count > EMULATE_WORDS) emulate_fail("too few cells", 0);
    return {begin, end, first, emulate_words + at, emulate_bytes + 4 * at, emulate_split + at};
}

// The spans may overlap. Cells of launches before are of another time: they need no clearing.
EMULATE_QUIET static void emulate_begin_launch(int64_t shared_bytes, const EmulateSpan *spans, int count) {
    if (!emulate_image) {
        Dl_info info;
        emulate_first_static = 1;  // the TLS is there now
        dl_iterate_phdr(emulate_find_image, NULL);
        if (dladdr((void *)&emulate_epoch, &info)) emulate_read_objects(info.dli_fname);
        emulate_dynamic = emulate_region(emulate_shared, emulate_shared + EMULATE_SHARED);
        emulate_static = emulate_region(emulate_static.begin, emulate_static.end);
    }
    if (shared_bytes > (int64_t)EMULATE_SHARED || count > EMULATE_REGIONS) emulate_fail("too much memory", 0);
    static EmulateSpan sorted[EMULATE_REGIONS];
    size_t before = emulate_word_count;
    memcpy(sorted, spans, sizeof *spans * count);
    qsort(sorted, count, sizeof *sorted, emulate_by_begin);
    emulate_dynamic.end = emulate_shared + shared_bytes;
    emulate_region_count = emulate_last_region = 0;
    for (int i = 0; i < count; i++) {
        char *begin = sorted[i].begin, *end = begin + sorted[i].bytes;
        EmulateRegion *last = &emulate_regions[emulate_region_count - 1];
        if (emulate_region_count && begin <= last->end) last->end = end > last->end ? end : last->end;
        else emulate_regions[emulate_region_count++] = {begin, end};
    }
    for (int i = 0; i < emulate_region_count; i++)
        emulate_regions[i] = emulate_region(emulate_regions[i].begin, emulate_regions[i].end);
    emulate_word_count = before;
    emulate_launch_epoch = emulate_block_epoch = ++emulate_epoch;
}

// ---- What the compiler calls ----

#define EMULATE_HOOKS(bytes)                                                                                                   \
    EMULATE_HOOK(__tsan_read##bytes, bytes, false, bytes)                                                                      \
    EMULATE_HOOK(__tsan_write##bytes, bytes, true, bytes)                                                                      \
    EMULATE_HOOK(__tsan_unaligned_read##bytes, bytes, false, 1)                                                                \
    EMULATE_HOOK(__tsan_unaligned_write##bytes, bytes, true, 1)
#define EMULATE_HOOK(name, bytes, write, alignment)                                                                            \
    extern "C" EMULATE_QUIET void name(void *at) {                                                                             \
        emulate_access(at, bytes, write, alignment, __builtin_return_address(0), PLAIN);                                       \
    }
EMULATE_HOOKS(1)
EMULATE_HOOKS(2)
EMULATE_HOOKS(4)
EMULATE_HOOKS(8)
EMULATE_HOOKS(16)
extern "C" {
EMULATE_QUIET void __tsan_read_range(void *at, size_t bytes) { emulate_access(at, (int)bytes, false, 1, __builtin_return_address(0), PLAIN); }
EMULATE_QUIET void __tsan_write_range(void *at, size_t bytes) { emulate_access(at, (int)bytes, true, 1, __builtin_return_address(0), PLAIN); }
EMULATE_QUIET void __tsan_init() {}
EMULATE_QUIET void __tsan_func_entry(void *) {}
EMULATE_QUIET void __tsan_func_exit() {}
}
#pragma GCC pop_options
