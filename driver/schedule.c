#include "driver/schedule.h"

#include <math.h>

double schedule_rate(const Training *training, int64_t step) {
    if (step < training->warmup) return training->rate * (double)(step + 1) / (double)(training->warmup + 1);
    int64_t length = training->steps - training->warmup;
    double share = length > 0 ? (double)(step - training->warmup) / (double)length : 1;
    if (share > 1) share = 1;
    double span = training->rate - training->final_rate;
    switch (training->schedule) {
        case RATE_COSINE:
            return training->final_rate + 0.5 * (1 + cos(3.14159265358979323846 * share)) * span;
        case RATE_LINEAR:
            return training->rate - share * span;
        case RATE_CONSTANT:
            break;
    }
    return training->rate;
}
