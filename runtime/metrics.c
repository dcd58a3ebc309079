// Metrics and progress: see metrics.h.
#include "runtime/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

struct MetricsFile {
    Diagnostics *diagnostics;
    char *path;
    int descriptor;
    bool failed;
};

// ---- The file ----

// Where the lines to be kept end: before the first with a later step, or before a line without an end.
static int64_t kept_bytes(const FileMap *map, int64_t last_step) {
    const char *start = (const char *)map->data, *end = start + map->bytes;
    static const char key[] = "{\"step\": ";
    for (const char *line = start; line < end;) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        if (!newline) return line - start;
        char head[48] = {0};
        size_t length = (size_t)(newline - line);
        memcpy(head, line, length < sizeof head - 1 ? length : sizeof head - 1);
        if (strncmp(head, key, sizeof key - 1) == 0 && strtoll(head + sizeof key - 1, NULL, 10) > last_step)
            return line - start;
        line = newline + 1;
    }
    return (int64_t)map->bytes;
}

static bool fail(MetricsFile *metrics, const char *what) {
    if (!metrics->failed)
        report_error(metrics->diagnostics, NO_PLACE, "E0951", "cannot %s %s: %s", what, metrics->path, strerror(errno));
    metrics->failed = true;
    return false;
}

MetricsFile *metrics_open(Diagnostics *diagnostics, const char *path, int64_t last_step) {
    FileMap map = {0};
    if (last_step >= 0 && file_exists(path) && !file_map(diagnostics, path, &map)) return NULL;
    int64_t kept = last_step >= 0 ? kept_bytes(&map, last_step) : 0;
    file_unmap(&map);
    MetricsFile *metrics = calloc(1, sizeof *metrics);
    CHECK(metrics);
    *metrics = (MetricsFile){.diagnostics = diagnostics, .path = strdup(path)};
    CHECK(metrics->path);
    metrics->descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    bool good = metrics->descriptor >= 0 || fail(metrics, "create");
    if (good && ftruncate(metrics->descriptor, kept) < 0 && errno != EINVAL) good = fail(metrics, "shorten");
    if (good) return metrics;
    metrics_close(metrics);
    return NULL;
}

bool metrics_write(MetricsFile *metrics, int64_t step, const Metric *values, size_t count) {
    char *line = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&line, &length);
    CHECK(stream);
    fprintf(stream, "{\"step\": %" PRId64, step);
    for (size_t i = 0; i < count; i++) {
        if (isfinite(values[i].value)) fprintf(stream, ", \"%s\": %.9g", values[i].name, values[i].value);
        else fprintf(stream, ", \"%s\": null", values[i].name);
    }
    fputs("}\n", stream);
    CHECK(fclose(stream) == 0 && line);
    bool good = !metrics->failed;
    for (size_t done = 0; good && done < length;) {
        ssize_t put = write(metrics->descriptor, line + done, length - done);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) good = fail(metrics, "write");
        else done += (size_t)put;
    }
    free(line);
    return good;
}

void metrics_close(MetricsFile *metrics) {
    if (!metrics) return;
    if (metrics->descriptor >= 0) close(metrics->descriptor);
    free(metrics->path);
    free(metrics);
}

// ---- The progress line ----

void duration_format(double seconds, char text[32]) {
    if (!(seconds >= 0) || seconds > 1e9) {
        snprintf(text, 32, "?");
        return;
    }
    long long whole = (long long)(seconds + 0.5);
    int hours = (int)(whole / 3600), minutes = (int)(whole / 60 % 60), rest = (int)(whole % 60);
    if (hours) snprintf(text, 32, "%d:%02d:%02d", hours, minutes, rest);
    else snprintf(text, 32, "%d:%02d", minutes, rest);
}

void quantity_format(double value, char text[32]) {
    static const char *const suffixes[] = {"", "k", "M", "G", "T", "P", "E"};
    int unit = 0;
    while (fabs(value) >= 999.5 && unit < 6) {
        value /= 1000;
        unit++;
    }
    int digits = unit == 0 || fabs(value) >= 99.95 ? 0 : fabs(value) >= 9.995 ? 1 : 2;
    snprintf(text, 32, "%.*f%s", digits, value, suffixes[unit]);
}

__attribute__((format(printf, 2, 3))) static void append(char text[PROGRESS_TEXT], const char *format, ...) {
    size_t length = strlen(text);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + length, PROGRESS_TEXT - length, format, arguments);
    va_end(arguments);
}

void progress_format(const Progress *progress, char text[PROGRESS_TEXT]) {
    char number[32], total[32];
    snprintf(total, sizeof total, "%" PRId64, progress->steps);
    text[0] = 0;
    append(text, "step %*" PRId64 "/%s", (int)strlen(total), progress->step, total);
    // A loss that has become NaN or infinite must be seen, so it is shown where it was measured.
    append(text, "  loss %.4f", progress->loss);
    if (!isnan(progress->valid_loss)) append(text, "  valid %.4f", progress->valid_loss);
    if (!isnan(progress->rate)) append(text, "  rate %.1e", progress->rate);
    if (!isnan(progress->gradient_norm)) append(text, "  norm %.2f", progress->gradient_norm);
    if (!isnan(progress->tokens_per_second)) {
        quantity_format(progress->tokens_per_second, number);
        append(text, "  %s %s/s", number, progress->unit);
    }
    if (!isnan(progress->peak_share)) append(text, "  %.0f%% of peak", 100 * progress->peak_share);
    if (!isnan(progress->seconds_left)) {
        duration_format(progress->seconds_left, number);
        append(text, "  %s left", number);
    }
}

void progress_print(FILE *stream, bool terminal, const Progress *progress, bool last) {
    char text[PROGRESS_TEXT];
    progress_format(progress, text);
    if (terminal) fprintf(stream, "\r%s\x1b[K%s", text, last ? "\n" : "");
    else fprintf(stream, "%s\n", text);
    fflush(stream);
}
