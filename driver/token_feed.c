#include "driver/token_feed.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/input_limit.h"
#include "runtime/supervision.h"
#include "runtime/text_table.h"

enum { COLUMN_LIMIT = 64 };

// The inputs of one entry point, and what each takes from a window.
typedef struct Inputs {
    const char *names[COLUMN_LIMIT];
    TokenColumn columns[COLUMN_LIMIT + 1];
    size_t count;
    int64_t reach;
} Inputs;

struct TokenFeed {
    Ir *ir;
    const FeedOptions *options;
    const Tokenizer *tokenizer;
    Supervision supervision;
    int64_t batch, time, vocabulary;
    int64_t supervised_rows;  // of a batch; the others count for nothing
    TokenFile data_file, valid_file;
    bool has_data_file, has_valid_file, has_valid;
    TokenPart train, valid;
    Inputs train_inputs, valid_inputs;
    TokenReader reader;
    bool *marks;  // [batch, time] of an evaluation
};

// ---- Inputs ----

static const Type *input_type(const Graph *graph, const char *name) {
    Value input = graph_find_input(graph, names_intern(graph->ir->names, name), ROLE_DATA);
    return value_is_none(input) ? NULL : graph_type(graph, input);
}

static bool has_base(const char *name, const char *base) {
    size_t length = strlen(base);
    return strncmp(name, base, length) == 0 && (!name[length] || name[length] == '.');
}

// The objective's data must be what a stream of tokens can give: tokens, the targets after them, which of those
// count; and each of them some positions further on (attribute `by`).
static bool find_inputs(const Graph *graph, Inputs *inputs) {
    bool good = true;
    for (size_t i = 0; i < graph->inputs.count; i++) {
        const Node *node = graph_node(graph, graph->inputs.items[i]);
        const char *name = attribute_text(node, ATTRIBUTE_name);
        if (attribute_integer(node, ATTRIBUTE_role, 0) != ROLE_DATA) continue;
        bool tokens = has_base(name, "tokens");
        if ((!tokens && !has_base(name, "targets") && !has_base(name, "supervised")) || inputs->count == COLUMN_LIMIT) {
            good = report_error(graph->ir->diagnostics, node->place, "E0908",
                                "the objective wants '%s', which a token file does not hold", name);
            continue;
        }
        int64_t by = attribute_integer(node, ATTRIBUTE_by, 0) + (tokens ? 0 : 1);
        if (by > inputs->reach) inputs->reach = by;
        inputs->names[inputs->count] = name;
        inputs->columns[inputs->count++].by = by;
    }
    if (inputs->reach < 1) inputs->reach = 1;
    return good;
}

// The reader for one entry point: pointers into the inputs of its program.
static TokenReader *bind_inputs(TokenFeed *feed, Inputs *inputs, const Runner *runner, Entry entry) {
    for (size_t i = 0; i < inputs->count; i++) {
        void *data = executor_input(runner->executors[entry], inputs->names[i]);
        bool is_mask = has_base(inputs->names[i], "supervised");
        inputs->columns[i].ids = is_mask ? NULL : data;
        inputs->columns[i].marks = is_mask ? data : NULL;
    }
    feed->reader.columns = inputs->columns;
    feed->reader.count = inputs->count;
    feed->reader.reach = inputs->reach;
    return &feed->reader;
}

// ---- Opening ----

static bool choose_format(const TokenFeed *feed, const char *path, TokenFormat *format) {
    Diagnostics *diagnostics = feed->ir->diagnostics;
    const char *name = feed->options->format ? feed->options->format : "detect";
    if (!token_format_parse(name, format))
        return report_error(diagnostics, NO_PLACE, "E0901",
                            "--format wants detect, bytes, u16, u32, llmc, tsv or pairs, not '%s'", name);
    TokenFormat wanted = feed->supervision.kind == SUPERVISE_SPANS     ? TOKENS_TSV
                         : feed->supervision.kind == SUPERVISE_ANSWERS ? TOKENS_PAIRS
                                                                       : TOKENS_DETECT;
    if (wanted != TOKENS_DETECT && *format != TOKENS_DETECT && *format != wanted)
        return report_error(diagnostics, NO_PLACE, "E0931", "--supervise %s wants a table, not --format %s",
                            feed->options->supervise, name);
    if (wanted != TOKENS_DETECT) *format = wanted;
    if (*format == TOKENS_DETECT && !token_file_detect(diagnostics, path, format)) return false;
    if (*format == TOKENS_BYTES && feed->tokenizer != &tokenizer_bytes) *format = TOKENS_LINES;
    return true;
}

// `counted`: the stream whose counts say what is rare.
static bool open_stream(TokenFeed *feed, const char *path, const TokenFile *counted, TokenFile *file) {
    Diagnostics *diagnostics = feed->ir->diagnostics;
    TokenFormat format;
    if (!choose_format(feed, path, &format)) return false;
    bool is_table = format == TOKENS_TSV || format == TOKENS_PAIRS || format == TOKENS_LINES;
    TextOptions options = {.format = format, .tokenizer = feed->tokenizer};
    options.kinds = feed->supervision.text;
    options.marks = feed->supervision.kind == SUPERVISE_SPANS     ? TEXT_MARKS_SPANS
                    : feed->supervision.kind == SUPERVISE_ANSWERS ? TEXT_MARKS_ANSWERS
                                                                  : TEXT_MARKS_NONE;
    if (is_table && feed->tokenizer->vocabulary > feed->vocabulary)
        return report_error(diagnostics, NO_PLACE, "E0722", "the tokenizer has %lld tokens, the model's vocabulary is %lld",
                            (long long)feed->tokenizer->vocabulary, (long long)feed->vocabulary);
    if (is_table ? !text_table_open(diagnostics, path, &options, file)
                 : !token_file_open(diagnostics, path, format, file))
        return false;
    if (supervision_mark(diagnostics, &feed->supervision, counted ? counted : file, feed->options->seed, file))
        return true;
    token_file_close(file);
    return false;
}

static bool open_parts(TokenFeed *feed) {
    const FeedOptions *options = feed->options;
    if (!open_stream(feed, options->data, NULL, &feed->data_file)) return false;
    feed->has_data_file = true;
    feed->train = token_file_whole(&feed->data_file);
    if (options->evaluate_all) {
        feed->valid = feed->train;
        feed->has_valid = true;
    } else if (options->valid) {
        if (!open_stream(feed, options->valid, &feed->data_file, &feed->valid_file)) return false;
        feed->has_valid_file = feed->has_valid = true;
        feed->valid = token_file_whole(&feed->valid_file);
    } else if (options->fraction > 0) {
        token_file_split(&feed->data_file, options->fraction, &feed->train, &feed->valid);
        feed->has_valid = feed->valid.end - feed->valid.begin > 1;
    }
    return true;
}

static bool check_parts(const TokenFeed *feed) {
    Diagnostics *diagnostics = feed->ir->diagnostics;
    int64_t span = feed->time + feed->train_inputs.reach;
    bool good = feed->options->evaluate_all ||
                (token_part_check(diagnostics, &feed->train, span, "training data") &&
                 token_part_check_ids(diagnostics, &feed->train, feed->vocabulary));
    if (good && feed->has_valid) good = token_part_check_ids(diagnostics, &feed->valid, feed->vocabulary);
    if (good && feed->options->evaluate_all && feed->valid.end - feed->valid.begin < 2)
        good = report_error(diagnostics, NO_PLACE, "E0701", "%s holds no token to predict", feed->options->data);
    return good;
}

static int64_t limit_of(const Graph *graph, const char *name) {
    return input_limit(graph, graph_find_input(graph, names_intern(graph->ir->names, name), ROLE_DATA));
}

static bool prepare(TokenFeed *feed, const Module *module) {
    Ir *ir = feed->ir;
    Graph *loss = module_find_graph(module, "loss"), *evaluation = module_find_graph(module, "evaluate");
    const Type *type = input_type(loss, "tokens");
    if (!supervision_parse(ir->diagnostics, feed->options->supervise ? feed->options->supervise : "all",
                           &feed->supervision) ||
        !find_inputs(loss, &feed->train_inputs) ||
        (evaluation && !find_inputs(evaluation, &feed->valid_inputs)))
        return false;
    if (type->rank != 2 || type->element != ELEMENT_I32)
        return report_error(ir->diagnostics, NO_PLACE, "E0908", "tokens must be i32[batch, time], not %s",
                            type_text(ir, type));
    if (feed->supervision.kind != SUPERVISE_ALL && !input_type(loss, "supervised"))
        report_warning(ir->diagnostics, NO_PLACE, "E0934",
                       "--supervise %s: the objective has no input 'supervised'; the set is only used for reports",
                       feed->options->supervise);
    feed->batch = type->dimensions[0].extent;
    feed->time = type->dimensions[1].extent;
    double share = feed->options->share > 0 ? feed->options->share : 1;
    feed->supervised_rows = (int64_t)ceil(share * (double)feed->batch - 1e-9);
    int64_t tokens = limit_of(loss, "tokens"),
            targets = input_type(loss, "targets") ? limit_of(loss, "targets") : INT64_MAX;
    feed->vocabulary = tokens < targets ? tokens : targets;
    int64_t reach = feed->train_inputs.reach, room;
    if (feed->valid_inputs.reach > reach) reach = feed->valid_inputs.reach;
    room = feed->time + reach;
    if (!memory_check(ir->diagnostics, feed->batch * feed->time * 4, "one batch of tokens")) return false;
    feed->marks = ARENA_ARRAY(ir->arena, bool, feed->batch * feed->time);
    feed->reader = (TokenReader){.time = feed->time, .vocabulary = feed->vocabulary, .shuffle = feed->options->shuffle};
    feed->reader.ids = ARENA_ARRAY(ir->arena, int32_t, room);
    feed->reader.marks = ARENA_ARRAY(ir->arena, unsigned char, room);
    return true;
}

TokenFeed *token_feed_open(Ir *ir, const Module *module, const FeedOptions *options) {
    TokenFeed *feed = ARENA_NEW(ir->arena, TokenFeed);
    FeedOptions *kept = ARENA_NEW(ir->arena, FeedOptions);
    *kept = *options;
    *feed = (TokenFeed){.ir = ir, .options = kept};
    feed->tokenizer = options->tokenizer ? options->tokenizer : &tokenizer_bytes;
    if (prepare(feed, module) && open_parts(feed) && check_parts(feed)) return feed;
    token_feed_close(feed);
    return NULL;
}

void token_feed_close(TokenFeed *feed) {
    if (feed->has_data_file) token_file_close(&feed->data_file);
    if (feed->has_valid_file) token_file_close(&feed->valid_file);
}

bool token_feed_is_text(const TokenFeed *feed) {
    return feed->data_file.format == TOKENS_BYTES || feed->data_file.format >= TOKENS_TSV;
}

bool token_feed_has_valid(const TokenFeed *feed) { return feed->has_valid; }
int64_t token_feed_batch(const TokenFeed *feed) { return feed->batch * feed->time; }
int64_t token_feed_held(const TokenFeed *feed) { return feed->valid.end - feed->valid.begin - 1; }

// ---- Training ----

// Only the first rows of a batch count where the share of sequences says so.
static void drop_rows(const TokenFeed *feed, const TokenReader *reader) {
    int64_t kept = feed->supervised_rows * feed->time, all = feed->batch * feed->time;
    for (size_t i = 0; i < reader->count && kept < all; i++)
        if (reader->columns[i].marks) memset(reader->columns[i].marks + kept, 0, (size_t)(all - kept));
}

bool token_feed_train(TokenFeed *feed, Runner *runner, int64_t step, int64_t micro, int64_t micro_count,
                      int64_t seed) {
    (void)micro_count;
    TokenReader *reader = bind_inputs(feed, &feed->train_inputs, runner, ENTRY_ACCUMULATE);
    int64_t span = feed->time + reader->reach - 1;
    for (int64_t row = 0; row < feed->batch; row++) {
        int64_t start = token_window(&feed->train, (uint64_t)seed, step, micro * feed->batch + row, span);
        if (!token_read_row(feed->ir->diagnostics, reader, &feed->train, start, row)) return false;
    }
    drop_rows(feed, reader);
    return true;
}

// ---- Evaluation ----

// Adds the losses of the targets that there are, in ascending order, in double.
static void add_losses(TokenFeed *feed, const Runner *runner, const int64_t *targets, Evaluated *evaluated) {
    const float *losses = executor_output(runner->executors[ENTRY_EVALUATE], EXAMPLE_LOSSES);
    int64_t counted = 0;
    for (int64_t row = 0; row < feed->batch; row++) {
        counted += targets[row];
        for (int64_t i = 0; i < targets[row] && losses; i++) {
            double loss = (double)losses[row * feed->time + i];
            evaluated->loss += loss;
            if (!feed->marks[row * feed->time + i]) continue;
            evaluated->supervised += loss;
            evaluated->supervised_tokens++;
        }
    }
    if (losses) evaluated->tokens += counted;
    if (counted == feed->batch * feed->time) evaluated_add_batch(runner, counted, evaluated);
}

bool token_feed_evaluate(TokenFeed *feed, Runner *runner, int64_t limit, Evaluated *evaluated) {
    TokenReader *reader = bind_inputs(feed, &feed->valid_inputs, runner, ENTRY_EVALUATE);
    reader->columns[reader->count++] = (TokenColumn){.by = 1, .marks = feed->marks};
    int64_t *targets = ARENA_ARRAY(feed->ir->arena, int64_t, feed->batch);
    int64_t windows = token_sequence_windows(&feed->valid, feed->time);
    for (int64_t first = 0, done = 0; first < windows && (!limit || done < limit); first += feed->batch, done++) {
        for (int64_t row = 0; row < feed->batch; row++) {
            int64_t start = feed->valid.begin + (first + row) * feed->time;
            targets[row] = token_window_targets(&feed->valid, start, feed->time);
            if (!token_read_row(feed->ir->diagnostics, reader, &feed->valid, start, row)) return false;
        }
        runner_run(runner, ENTRY_EVALUATE);
        add_losses(feed, runner, targets, evaluated);
    }
    return true;
}
