// Makes a library of generated CUDA C behind emulate.h, with the system's C++ compiler.
#ifndef CHERRY_TESTS_CUDA_COMPILE_H
#define CHERRY_TESTS_CUDA_COMPILE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Whether it compiled; the compiler says why not. Addresses are checked where this program checks its own.
static inline int compile_emulated(const char *source, const char *library) {
#ifdef __SANITIZE_ADDRESS__
    const char *sanitize = "-fsanitize=address";
#else
    const char *sanitize = "";
#endif
    static const char form[] = "env -u LD_LIBRARY_PATH %s -std=c++17 -Og -fwrapv -fno-strict-aliasing -ffp-contract=off "
                               "-w -fPIC -shared %s -o %s %s";
    size_t bytes = sizeof form + strlen(CHERRY_CXX) + strlen(sanitize) + strlen(library) + strlen(source);
    char *command = malloc(bytes);
    if (!command) return 0;
    snprintf(command, bytes, form, CHERRY_CXX, sanitize, library, source);
    int status = system(command);
    free(command);
    return status == 0;
}

#endif
