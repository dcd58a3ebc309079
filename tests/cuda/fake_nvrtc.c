// NVRTC that is not there: a program's text is its "machine code", which fake.c makes runnable.
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/fake.h"

int cuInit(unsigned flags);

typedef struct Source {
    char *text, *log;
} Source;

EXPORT int nvrtcVersion(int *major, int *minor) {
    *major = atoi(variable("CHERRY_FAKE_NVRTC", "13"));
    *minor = 99;  // of no real one: what is kept on disk under it is never machine code
    return OK;
}
EXPORT int nvrtcCreateProgram(void **program, const char *text, const char *name, int count, const char *const *headers,
                              const char *const *names) {
    (void)name, (void)headers, (void)names;
    Source *source = *program = calloc(1, sizeof *source);
    source->text = strdup(text);
    return count;
}
EXPORT int nvrtcDestroyProgram(void **program) {
    Source *source = *program;
    free(source->text);
    free(source->log);
    free(source);
    return OK;
}
EXPORT int nvrtcCompileProgram(void *program, int count, const char *const *options) {
    Source *source = program;
    cuInit(0);  // as NVRTC 13 does, whatever comes of it
    bool wrong = getenv("CHERRY_FAKE_NVRTC_FAIL") || count < 1 || !strstr(options[0], "--gpu-architecture=sm_");
    source->log = strdup(wrong ? "kernel.cu(3): error: told to fail" : "Used 32 registers");
    return wrong ? 6 : OK;
}
static int text_size(const char *text, size_t *bytes) {
    *bytes = strlen(text) + 1;
    return OK;
}
EXPORT int nvrtcGetCUBINSize(void *program, size_t *bytes) { return text_size(((Source *)program)->text, bytes); }
EXPORT int nvrtcGetPTXSize(void *program, size_t *bytes) { return text_size(((Source *)program)->text, bytes); }
EXPORT int nvrtcGetProgramLogSize(void *program, size_t *bytes) { return text_size(((Source *)program)->log, bytes); }
EXPORT int nvrtcGetCUBIN(void *program, char *to) { return strcpy(to, ((Source *)program)->text) ? OK : INVALID; }
EXPORT int nvrtcGetPTX(void *program, char *to) { return nvrtcGetCUBIN(program, to); }
EXPORT int nvrtcGetProgramLog(void *program, char *to) { return strcpy(to, ((Source *)program)->log) ? OK : INVALID; }
