// Where the time of a training step goes: what its launches cost and took, by kernel or by source line.
#ifndef CHERRY_DRIVER_PROFILE_H
#define CHERRY_DRIVER_PROFILE_H

#include "base/vector.h"
#include "driver/cost.h"
#include "driver/runner.h"

typedef struct ProfileRow {
    const Kernel *kernel;  // NULL: all kernels of the line
    Place place;
    double flops, bytes, floor, predicted, measured;  // of all launches; times in seconds
    int64_t launches;
} ProfileRow;

typedef struct Profile {
    Machine machine;
    VECTOR(ProfileRow) rows;  // slowest first
    ProfileRow sum;
    double least_bytes;  // see cost_program_least_bytes
    // By entry point (ENTRY_ACCUMULATE, ENTRY_UPDATE): of the last repeat, when it began, and seconds by
    // launch.
    double began[ENTRY_COUNT], *seconds[ENTRY_COUNT];
} Profile;

// The runner has accumulate and update and valid inputs for both; `warm`: it has run before. A step is
// `accumulate` runs of the first and one of the second.
Profile profile_measure(Runner *runner, int repeats, bool warm, int64_t accumulate,
                        bool by_kernel);
const char *profile_row_name(Arena *arena, const ProfileRow *row);  // "file:line" or "kernel:line"
void profile_print(Arena *arena, const Profile *profile);

#endif
