// Makes a library of generated CUDA C behind emulate.h, with the system's C++ compiler.
#ifndef CHERRY_TESTS_CUDA_COMPILE_H
#define CHERRY_TESTS_CUDA_COMPILE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Whether it compiled; the compiler says why not. The calls that -fsanitize=thread puts before every access are
// detect.h's: the linker does not see the option.
static inline int compile_emulated(const char *source, const char *library) {
    static const char form[] = "env -u LD_LIBRARY_PATH %s -std=c++17 -Og -g1 -fwrapv -fno-strict-aliasing -ffp-contract=off "
                               "-fsanitize=thread -fvisibility=hidden -w -fPIC -c -o %s.o %s && "
                               "env -u LD_LIBRARY_PATH %s -shared -o %s %s.o && rm %s.o";
    size_t bytes = sizeof form + 2 * strlen(CHERRY_CXX) + 4 * strlen(library) + strlen(source);
    char *command = malloc(bytes);
    if (!command) return 0;
    snprintf(command, bytes, form, CHERRY_CXX, library, source, CHERRY_CXX, library, library, library);
    int status = system(command);
    free(command);
    return status == 0;
}

#endif
