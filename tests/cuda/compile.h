// Makes a library of generated CUDA C behind emulate.h, with the system's C++ compiler.
#ifndef CHERRY_TESTS_CUDA_COMPILE_H
#define CHERRY_TESTS_CUDA_COMPILE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Whether it compiled; the compiler says why not. The calls of -fsanitize=thread are detect.h's: the linker does
// not see it. Where this program checks addresses, the kernels do that instead.
static inline int compile_emulated(const char *source, const char *library) {
#ifdef __SANITIZE_ADDRESS__
    const char *sanitize = "-fsanitize=address", *link = sanitize;
#else
    const char *sanitize = "-fsanitize=thread -DEMULATE_DETECTS=1 -g1", *link = "";
#endif
    static const char form[] = "env -u LD_LIBRARY_PATH %s -std=c++17 -Og -fwrapv -fno-strict-aliasing -ffp-contract=off "
                               "-w -fPIC %s -c -o %s.o %s && env -u LD_LIBRARY_PATH %s -shared %s -o %s %s.o && rm %s.o";
    size_t bytes = sizeof form + 2 * strlen(CHERRY_CXX) + strlen(sanitize) + strlen(link) + 4 * strlen(library) + strlen(source);
    char *command = malloc(bytes);
    if (!command) return 0;
    snprintf(command, bytes, form, CHERRY_CXX, sanitize, library, source, CHERRY_CXX, link, library, library, library);
    int status = system(command);
    free(command);
    return status == 0;
}

#endif
