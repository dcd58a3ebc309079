// What fuzz targets share. A target is one file with LLVMFuzzerTestOneInput; libFuzzer drives it where the tree
// is configured with -DCHERRY_FUZZ=ON (needs clang), tests/fuzz/replay.c in every other build.
//   cmake -S . -B build-fuzz -G Ninja -DCMAKE_C_COMPILER=clang-19 -DCHERRY_FUZZ=ON && ninja -C build-fuzz
//   build-fuzz/tests/fuzz_language -max_total_time=300 -max_len=4096 NEW tests/fuzz/corpus/language models
#ifndef CHERRY_TESTS_FUZZ_H
#define CHERRY_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// A path under which the bytes can be opened as a regular file, until the next call.
const char *fuzz_file(const uint8_t *data, size_t size);

#endif
