#include "driver/trainer.h"

#include <math.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "driver/cost.h"
#include "driver/frozen.h"
#include "driver/schedule.h"
#include "driver/tokenizer.h"
#include "runtime/checkpoint.h"
#include "runtime/metrics.h"

// Of a line of metrics.jsonl: those of every step, of an evaluation, of the objective.
enum {
    STEP_METRICS = 4,
    EVALUATION_METRICS = 3,
    VALID_METRICS_MAX = EVALUATION_METRICS + OBJECTIVE_METRICS_MAX,
    METRICS_MAX = STEP_METRICS + OBJECTIVE_METRICS_MAX + VALID_METRICS_MAX
};

typedef struct Trainer {
    Runner *runner;
    Feed *feed;
    Generator *generator;
    const TrainerOptions *options;
    const Training *training;
    MetricsFile *metrics;
    int lock;  // of the folder, -1 before it is there
    RunPosition position;
    const char *checkpoint_path, *weights_path;
    double flops_per_step;
    double started;  // of the stretch that tokens per second are measured over
    int64_t started_step;
    double pause;  // seconds of that stretch that were not training
    bool ahead;          // a step is asked for before the last one's results are read
    bool waiting;        // for those of the last step
    int64_t last_step;   // whose results these are
    double last_loss, last_rate, last_norm;
    Evaluated last_valid;  // of this step; loss NAN: none
    Metric objective[OBJECTIVE_METRICS_MAX];  // further outputs of the loss, of this step
    size_t objective_count;
    const char *valid_names[OBJECTIVE_METRICS_MAX];  // of an evaluation's metrics in metrics.jsonl
} Trainer;

static sigset_t interruptions(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    return set;
}

void trainer_hold_interruptions(void) {
    sigset_t set = interruptions();
    sigprocmask(SIG_BLOCK, &set, NULL);
}

static bool interrupted(void) {
    sigset_t set = interruptions();
    struct timespec now = {0, 0};
    return sigtimedwait(&set, NULL, &now) > 0;
}

// ---- Saving ----

static bool save(Trainer *trainer) {
    Diagnostics *diagnostics = trainer->runner->ir->diagnostics;
    return checkpoint_save(diagnostics, trainer->checkpoint_path, trainer->runner->module,
                           trainer->runner->state, &trainer->position, NULL, 0) &&
           checkpoint_save_weights(diagnostics, trainer->weights_path, trainer->runner->module,
                                   trainer->runner->state, &trainer->position);
}

static bool lock_folder(Trainer *trainer) {
    if (trainer->lock < 0) trainer->lock = file_lock_folder(trainer->runner->ir->diagnostics, trainer->options->folder);
    return trainer->lock >= 0;
}

static bool load_start(Trainer *trainer) {
    const TrainerOptions *options = trainer->options;
    const Runner *runner = trainer->runner;
    Diagnostics *diagnostics = runner->ir->diagnostics;
    if (!options->allow_new)
        return checkpoint_load_weights(diagnostics, options->weights, runner->module, runner->state);
    size_t absent;
    if (!checkpoint_load_known(diagnostics, options->weights, runner->module, runner->state, &absent)) return false;
    fprintf(options->progress, "%zu tensors that %s lacks start as the model says\n", absent, options->weights);
    return true;
}

static bool open_run(Trainer *trainer) {
    Ir *ir = trainer->runner->ir;
    const TrainerOptions *options = trainer->options;
    const char *metrics_path = arena_format(ir->arena, "%s/metrics.jsonl", options->folder);
    trainer->checkpoint_path = arena_format(ir->arena, "%s/checkpoint.safetensors", options->folder);
    trainer->weights_path = arena_format(ir->arena, "%s/model.safetensors", options->folder);
    trainer->position = (RunPosition){.seed = trainer->training->seed, .best_loss = INFINITY};
    trainer->position.tokenizer = feed_is_text(trainer->feed) || options->tokenizer->file ? options->tokenizer->name : NULL;
    // A run that goes on reads what another may be writing.
    if (options->resume && file_exists(trainer->checkpoint_path) && !lock_folder(trainer)) return false;
    bool found = file_exists(trainer->checkpoint_path);
    if (found && !options->resume) {
        report_error(ir->diagnostics, NO_PLACE, "E0912", "%s holds a run already", options->folder);
        report_hint(ir->diagnostics, "--resume continues it, --out names another folder");
        return false;
    }
    if (options->resume && !found)
        return report_error(ir->diagnostics, NO_PLACE, "E0912", "nothing to resume: there is no %s",
                            trainer->checkpoint_path);
    if (found && !checkpoint_load(ir->diagnostics, trainer->checkpoint_path, trainer->runner->module,
                                  trainer->runner->state, &trainer->position))
        return false;
    if (!frozen_load(trainer->runner->module, trainer->runner->state)) return false;
    if (!found) runner_initialize(trainer->runner, trainer->position.seed);
    if (!found && options->weights && !load_start(trainer)) return false;
    runner_round(trainer->runner);
    // Only now, when nothing else can be wrong, does the run leave a trace.
    if (!file_make_folder(ir->diagnostics, options->folder) || !lock_folder(trainer) ||
        !tokenizer_keep(ir, options->tokenizer, options->folder))
        return false;
    trainer->metrics = metrics_open(ir->diagnostics, metrics_path, found ? trainer->position.step : -1);
    return trainer->metrics != NULL;
}

// ---- One step ----

typedef VECTOR(const char *) LineNames;

// A line of metrics.jsonl has one value of a name: `name` is of `metric`, which `graph` gives.
static bool take_name(const Graph *graph, LineNames *taken, const char *metric, const char *name) {
    for (size_t i = 0; i < taken->count; i++)
        if (strcmp(taken->items[i], name) == 0)
            return report_error(graph->ir->diagnostics,
                                graph_node(graph, graph_find_output(graph, metric)->value.node)->place, "E0916",
                                "the metric '%s' would give lines of metrics.jsonl a second '%s'", metric, name);
    vector_push(graph->ir->arena, taken, name);
    return true;
}

// The numbers that the objective gives beside the loss, in training and in evaluations.
static bool find_metrics(Trainer *trainer) {
    static const char *const every_run[] = {"step",       "rate",             "gradient_norm",     "tokens_per_second",
                                            "valid_loss", "valid_supervised", "valid_unsupervised"};
    Ir *ir = trainer->runner->ir;
    const Graph *training = module_find_graph(trainer->runner->module, "loss");
    const Graph *evaluation = module_find_graph(trainer->runner->module, "evaluate");
    LineNames taken = {0};
    for (size_t i = 0; i < sizeof every_run / sizeof *every_run; i++) vector_push(ir->arena, &taken, every_run[i]);
    Metric valid[OBJECTIVE_METRICS_MAX];
    size_t valid_count = objective_metrics(evaluation, valid);
    for (size_t i = 0; i < valid_count; i++) {
        trainer->valid_names[i] = names_format(ir->names, "valid_%s", valid[i].name);
        if (!take_name(evaluation, &taken, valid[i].name, trainer->valid_names[i])) return false;
    }
    trainer->objective_count = objective_metrics(training, trainer->objective);
    for (size_t i = 0; i < trainer->objective_count; i++)
        if (!take_name(training, &taken, trainer->objective[i].name, trainer->objective[i].name)) return false;
    return true;
}

// Adds a micro-batch's loss and metrics to those of the step: of the last run, or of the one before.
static void add_results(Trainer *trainer, int runs_ago) {
    double share = 1.0 / (double)trainer->training->accumulate;
    trainer->last_loss += share * (double)runner_scalar(trainer->runner, ENTRY_ACCUMULATE, "loss", runs_ago);
    for (size_t i = 0; i < trainer->objective_count; i++)
        trainer->objective[i].value +=
            share * (double)runner_scalar(trainer->runner, ENTRY_ACCUMULATE, trainer->objective[i].name, runs_ago);
}

static void clear_results(Trainer *trainer) {
    trainer->last_loss = 0;
    for (size_t i = 0; i < trainer->objective_count; i++) trainer->objective[i].value = 0;
}

// Asks for the gradients of one micro-batch; they accumulate in the state.
static bool run_micro(Trainer *trainer, int64_t micro) {
    const Training *training = trainer->training;
    Runner *runner = trainer->runner;
    int64_t step = trainer->position.step, start = trainer->position.seed;
    if (!feed_train(trainer->feed, runner, step, micro, training->accumulate, start)) return false;
    uint64_t seed = hash_word(hash_word(hash_word(HASH_START, (uint64_t)start), (uint64_t)step), (uint64_t)micro);
    runner_set_integer(runner, ENTRY_ACCUMULATE, "seed", (int64_t)(seed >> 1));
    runner_set_float(runner, ENTRY_ACCUMULATE, "loss_scale", (float)(1.0 / (double)training->accumulate));
    runner_run(runner, ENTRY_ACCUMULATE);
    return true;
}

static bool check_finite(const Trainer *trainer, const char *what, double number, int64_t step) {
    if (!runner_works(trainer->runner)) return false;
    if (isfinite(number)) return true;
    return report_error(trainer->runner->ir->diagnostics, NO_PLACE, "E0913",
                        "the %s of step %lld is not a finite number; the last checkpoint is untouched", what,
                        (long long)step);
}

// Reads what the last step gave. `runs_ago`: 1 where the next one's gradients were asked for already.
static bool finish_step(Trainer *trainer, int runs_ago) {
    if (!trainer->waiting) return true;
    trainer->waiting = false;
    if (trainer->ahead) {
        clear_results(trainer);
        add_results(trainer, runs_ago);
    }
    trainer->last_norm = (double)runner_scalar(trainer->runner, ENTRY_UPDATE, "gradient_norm", 0);
    // Weights that such a gradient moved are lost, and the next loss would say so too late for what is saved now.
    return check_finite(trainer, "loss", trainer->last_loss, trainer->last_step) &&
           check_finite(trainer, "gradient's norm", trainer->last_norm, trainer->last_step);
}

static void update(Trainer *trainer) {
    Runner *runner = trainer->runner;
    trainer->last_rate = schedule_rate(trainer->training, trainer->position.step);
    runner_set_float(runner, ENTRY_UPDATE, "rate", (float)trainer->last_rate);
    runner_set_float(runner, ENTRY_UPDATE, "gradient_scale", 1);
    runner_set_integer(runner, ENTRY_UPDATE, "step", trainer->position.step + 1);
    runner_run(runner, ENTRY_UPDATE);
    trainer->position.step++;
    trainer->position.tokens += trainer->training->accumulate * feed_tokens_per_batch(trainer->feed);
    trainer->last_step = trainer->position.step;
    trainer->waiting = true;
}

// A step whose loss is looked at before the weights change.
static bool step(Trainer *trainer) {
    clear_results(trainer);
    for (int64_t micro = 0; micro < trainer->training->accumulate; micro++) {
        if (!run_micro(trainer, micro)) return false;
        add_results(trainer, 0);
    }
    if (!check_finite(trainer, "loss", trainer->last_loss, trainer->position.step + 1)) return false;
    update(trainer);
    return true;
}

static void report(Trainer *trainer);

// A step that is asked for while the one before it still runs: the GPU does not wait for the host. A loss that is no
// number is found a step late; nothing was saved meanwhile.
static bool step_ahead(Trainer *trainer) {
    bool pending = trainer->waiting;
    if (!run_micro(trainer, 0) || !finish_step(trainer, 1)) return false;
    trainer->last_valid.loss = NAN;
    if (pending) report(trainer);
    update(trainer);
    return true;
}

// ---- Now and then ----

static bool due(const Trainer *trainer, int64_t every) {
    return every > 0 &&
           (trainer->position.step % every == 0 || trainer->position.step == trainer->training->steps);
}

static bool evaluate(Trainer *trainer) {
    Evaluated evaluated;
    bool last = trainer->position.step == trainer->training->steps;
    runner_round(trainer->runner);  // updates write the copies that a step reads
    if (!feed_evaluate(trainer->feed, trainer->runner, last ? 0 : trainer->options->evaluate_batches,
                       &evaluated))
        return false;
    trainer->last_valid = evaluated;
    if (evaluated.loss < trainer->position.best_loss) {
        trainer->position.best_loss = evaluated.loss;
        trainer->position.best_step = trainer->position.step;
    }
    return true;
}

static bool sample(Trainer *trainer) {
    const TrainerOptions *options = trainer->options;
    Sampling sampling = *options->sampling;
    sampling.seed += (uint64_t)trainer->position.step;
    fprintf(options->progress, "%ssample after step %lld: ", options->terminal ? "\n" : "",
            (long long)trainer->position.step);
    return generator_run(trainer->generator, options->prompt, strlen(options->prompt), 120, &sampling,
                         options->progress);
}

// Of the last evaluation; how many. Where all tokens are of one kind they are the loss itself.
static size_t evaluation_metrics(const Trainer *trainer, Metric *metrics) {
    const Evaluated *valid = &trainer->last_valid;
    if (isnan(valid->loss)) return 0;
    size_t count = 0;
    metrics[count++] = (Metric){"valid_loss", valid->loss};
    if (!isnan(valid->supervised) && !isnan(valid->unsupervised)) {
        metrics[count++] = (Metric){"valid_supervised", valid->supervised};
        metrics[count++] = (Metric){"valid_unsupervised", valid->unsupervised};
    }
    for (size_t i = 0; i < valid->metric_count; i++)
        metrics[count++] = (Metric){trainer->valid_names[i], valid->metrics[i].value};
    return count;
}

static void report(Trainer *trainer) {
    const Training *training = trainer->training;
    int64_t step = trainer->last_step, steps = step - trainer->started_step;
    double rate = trainer->last_rate, gradient_norm = trainer->last_norm;
    double seconds = clock_seconds() - trainer->started - trainer->pause, per_step = seconds / (double)steps;
    double speed = (double)(training->accumulate * feed_tokens_per_batch(trainer->feed)) / per_step;
    Metric metrics[METRICS_MAX] = {{"loss", trainer->last_loss},
                                   {"rate", rate},
                                   {"gradient_norm", gradient_norm},
                                   {"tokens_per_second", speed}};
    size_t count = STEP_METRICS;
    memcpy(metrics + count, trainer->objective, trainer->objective_count * sizeof *metrics);
    count += trainer->objective_count;
    count += evaluation_metrics(trainer, metrics + count);
    metrics_write(trainer->metrics, step, metrics, count);
    bool last = step == training->steps;
    // A log wants a line now and then, a terminal a line that moves.
    int64_t every = training->steps > 50 ? training->steps / 50 : 1;
    if (!trainer->options->terminal && !last && isnan(trainer->last_valid.loss) &&
        step % every != 0)
        return;
    double peak = trainer->options->peak_flops;
    Progress progress = {.step = step,
                         .steps = training->steps,
                         .loss = trainer->last_loss,
                         .valid_loss = trainer->last_valid.loss,
                         .rate = rate,
                         .gradient_norm = gradient_norm,
                         .tokens_per_second = speed,
                         .unit = feed_unit(trainer->feed),
                         .peak_share = peak > 0 ? trainer->flops_per_step / per_step / peak : NAN,
                         .seconds_left = per_step * (double)(training->steps - step)};
    progress_print(trainer->options->progress, trainer->options->terminal, &progress, last);
}

static bool now_and_then(Trainer *trainer) {
    const Training *training = trainer->training;
    double start = clock_seconds();
    trainer->last_valid.loss = NAN;
    bool sampled = trainer->generator && due(trainer, training->sample_every);
    if (feed_has_valid(trainer->feed) && due(trainer, training->evaluate_every) && !evaluate(trainer))
        return false;
    trainer->pause += clock_seconds() - start;
    report(trainer);
    start = clock_seconds();
    if (sampled && !sample(trainer)) return false;
    if (due(trainer, training->save_every) && !save(trainer)) return false;
    trainer->pause += clock_seconds() - start;
    return true;
}

// Before the first step of this call, for a curve that starts where the weights do.
static bool first_evaluation(Trainer *trainer) {
    double start = clock_seconds();
    if (!evaluate(trainer)) return false;
    fprintf(trainer->options->progress, "step %lld  valid %.4f\n", (long long)trainer->position.step,
            trainer->last_valid.loss);
    Metric metrics[VALID_METRICS_MAX];
    metrics_write(trainer->metrics, trainer->position.step, metrics, evaluation_metrics(trainer, metrics));
    trainer->pause += clock_seconds() - start;
    return true;
}

// Whether something behind this step wants its results, or its weights.
static bool settles(const Trainer *trainer, bool stop) {
    const Training *training = trainer->training;
    return stop || !trainer->ahead || trainer->position.step == training->steps ||
           (feed_has_valid(trainer->feed) && due(trainer, training->evaluate_every)) ||
           (trainer->generator && due(trainer, training->sample_every)) || due(trainer, training->save_every);
}

static bool loop(Trainer *trainer) {
    trainer->started = clock_seconds();
    trainer->started_step = trainer->position.step;
    if (trainer->options->evaluate_first && feed_has_valid(trainer->feed) && !first_evaluation(trainer))
        return false;
    while (trainer->position.step < trainer->training->steps) {
        if (!(trainer->ahead ? step_ahead(trainer) : step(trainer))) return false;
        bool stop = interrupted();
        if (settles(trainer, stop) && (!finish_step(trainer, 0) || !now_and_then(trainer))) return false;
        if (stop) {
            fprintf(trainer->options->progress, "\ninterrupted after step %lld; saving to %s\n",
                    (long long)trainer->position.step, trainer->options->folder);
            break;
        }
    }
    return save(trainer);
}

bool trainer_run(Runner *runner, Feed *feed, Generator *generator, const TrainerOptions *options) {
    Trainer trainer = {.runner = runner,
                       .feed = feed,
                       .generator = generator,
                       .options = options,
                       .training = &runner->module->training,
                       .lock = -1,
                       .last_valid = {.loss = NAN}};
    trainer.flops_per_step =
        cost_model_flops(module_find_graph(runner->module, "loss")) * (double)trainer.training->accumulate;
    trainer.ahead = trainer.training->accumulate == 1 && executor_runs_ahead(runner->executors[ENTRY_ACCUMULATE]);
    bool evaluates = runner->executors[ENTRY_EVALUATE];
    bool good = (!evaluates || feed_check_valid(feed, runner)) && find_metrics(&trainer) && open_run(&trainer) &&
                loop(&trainer);
    if (trainer.metrics) metrics_close(trainer.metrics);
    if (trainer.lock >= 0) close(trainer.lock);
    return good;
}
