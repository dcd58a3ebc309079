// Runs a fuzz target without libFuzzer: every file of the folders given, then COUNT mutations of them, the
// same in every run. What was being run when the target died is left in crash-TARGET.
//   fuzz_language COUNT FOLDER...
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fcntl.h>

#include "tests/fuzz/fuzz.h"

enum { SEED_MAX = 32 << 10, INPUT_MAX = 64 << 10, SEEDS_MAX = 4096 };

typedef struct Seed {
    uint8_t *data;
    size_t size;
} Seed;

static Seed seeds[SEEDS_MAX];
static size_t seed_count;
static uint8_t input[INPUT_MAX];
static size_t input_size;
static char crash_path[4096];

static void on_crash(int signal_number) {
    int file = open(crash_path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    if (file >= 0 && write(file, input, input_size) >= 0) close(file);
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static uint64_t next_random(void) {
    static uint64_t state = 1;
    uint64_t x = (state += UINT64_C(0x9e3779b97f4a7c15));
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static size_t below(size_t limit) { return limit ? (size_t)(next_random() % limit) : 0; }

static void add_seed(const char *path) {
    struct stat status;
    FILE *file = stat(path, &status) == 0 && S_ISREG(status.st_mode) && status.st_size <= SEED_MAX ? fopen(path, "rb") : NULL;
    if (!file || seed_count == SEEDS_MAX) return;
    Seed *seed = &seeds[seed_count++];
    seed->data = malloc((size_t)status.st_size + 1);
    seed->size = fread(seed->data, 1, (size_t)status.st_size, file);
    fclose(file);
}

static void add_folder(const char *folder) {
    struct dirent **entries;
    int count = scandir(folder, &entries, NULL, alphasort);  // sorted: the same mutations everywhere
    for (int i = 0; i < count; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        add_seed(path);
        free(entries[i]);
    }
    if (count >= 0) free(entries);
}

static void run(void) { LLVMFuzzerTestOneInput(input, input_size); }

static void take(const Seed *seed) {
    if (seed->size) memcpy(input, seed->data, seed->size);
    input_size = seed->size;
}

// Moves what is behind `at + remove` to make room for `insert` bytes; false where the input would grow too large.
static int replace(size_t at, size_t removed, size_t inserted) {
    if (input_size - removed + inserted > INPUT_MAX) return 0;
    memmove(input + at + inserted, input + at + removed, input_size - at - removed);
    input_size = input_size - removed + inserted;
    return 1;
}

static void insert_text(const char *text) {
    size_t length = strlen(text), at = below(input_size + 1);
    if (replace(at, 0, length)) memcpy(input + at, text, length);
}

static void mutate(void) {
    static const char *const words[] = {"0", "-1", "1e30", "9223372036854775808", "(", ")", "[", "{", "}", ",", "=", "%0",
                                        "%99999", "\"", "#", "\\", "\n", " ", "@f", "4294967295", "0.0", "..", "*", ":"};
    size_t at = below(input_size), length = 1 + below(16);
    const Seed *other = &seeds[below(seed_count)];
    if (length > input_size - at) length = input_size - at;
    switch (below(8)) {
        case 0: if (input_size) input[at] ^= (uint8_t)(1u << below(8)); break;
        case 1: if (input_size) input[at] = (uint8_t)next_random(); break;
        case 2: replace(at, length, 0); break;
        case 3: insert_text(words[below(sizeof words / sizeof *words)]); break;
        case 4: if (replace(at, 0, length)) memcpy(input + at, input + at + length, length); break;
        case 5:  // a piece of another seed
            if (other->size) {
                size_t from = below(other->size), piece = 1 + below(200);
                if (piece > other->size - from) piece = other->size - from;
                if (replace(at, 0, piece)) memcpy(input + at, other->data + from, piece);
            }
            break;
        case 6: input_size = at; break;
        default:  // a run of bytes moves elsewhere
            if (length) {
                uint8_t piece[16];
                memcpy(piece, input + at, length);
                replace(at, length, 0);
                size_t to = below(input_size + 1);
                if (replace(to, 0, length)) memcpy(input + to, piece, length);
            }
    }
}

int main(int count, char **texts) {
    if (count < 3) {
        fprintf(stderr, "%s COUNT FOLDER...\n", texts[0]);
        return 2;
    }
    snprintf(crash_path, sizeof crash_path, "crash-%s", strrchr(texts[0], '/') ? strrchr(texts[0], '/') + 1 : texts[0]);
    signal(SIGSEGV, on_crash);
    signal(SIGABRT, on_crash);
    signal(SIGFPE, on_crash);
    signal(SIGBUS, on_crash);
    for (int i = 2; i < count; i++) add_folder(texts[i]);
    if (!seed_count) {
        fprintf(stderr, "no seeds\n");
        return 1;
    }
    for (size_t i = 0; i < seed_count; i++) {
        take(&seeds[i]);
        run();
    }
    long mutations = strtol(texts[1], NULL, 10);
    for (long i = 0; i < mutations; i++) {
        take(&seeds[below(seed_count)]);
        for (size_t n = 1 + below(6); n-- > 0;) mutate();
        run();
    }
    printf("%zu seeds, %ld mutations\n", seed_count, mutations);
    return 0;
}
