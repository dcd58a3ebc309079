// Metrics: one JSON object a line, appended and flushed; and the progress line of a run. Formatting
// only: what is measured is the driver's business.
#ifndef CHERRY_RUNTIME_METRICS_H
#define CHERRY_RUNTIME_METRICS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/diagnostics.h"

typedef struct MetricsFile MetricsFile;

typedef struct Metric {
    const char *name;
    double value;  // not finite: written as null
} Metric;

// Opens for appending. Lines whose "step" is above `last_step`, and a last line that was cut off, are
// dropped first: -1 starts anew, a resumed run gives the step that it resumes from. E0951 on failure.
MetricsFile *metrics_open(Diagnostics *diagnostics, const char *path, int64_t last_step);

// {"step": 12, "loss": 3.25}; one write, so a killed run leaves whole lines. Numbers have 9 significant
// digits. False after reporting an error, once: later calls are silent.
bool metrics_write(MetricsFile *metrics, int64_t step, const Metric *values, size_t count);
void metrics_close(MetricsFile *metrics);

// What a progress line shows; a NAN is left out.
typedef struct Progress {
    int64_t step, steps;
    double loss;               // always shown
    double valid_loss, rate, gradient_norm;
    double tokens_per_second;
    const char *unit;          // "tokens", or what is counted in their place
    double peak_share;         // of the machine's peak, 0 .. 1
    double seconds_left;
} Progress;

enum { PROGRESS_TEXT = 256 };

// "step   120/500  loss 3.4123  valid 3.5021  rate 3.0e-04  12.3k tokens/s  42% of peak  1:23 left"
void progress_format(const Progress *progress, char text[PROGRESS_TEXT]);

// On a terminal the line replaces the one before; elsewhere each is a line of its own. `last` ends it.
void progress_print(FILE *stream, bool terminal, const Progress *progress, bool last);

// "1:02:03", "2:03", "0:03"
void duration_format(double seconds, char text[32]);

// "950", "12.3k", "4.56M", "1.20G"
void quantity_format(double value, char text[32]);

#endif
