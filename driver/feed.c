#include "driver/feed.h"

#include <math.h>
#include <string.h>

#include "driver/input_limit.h"
#include "runtime/data.h"
#include "runtime/memory.h"

struct Feed {
    Ir *ir;
    const Module *module;
    int64_t batch, time;  // of the programs' inputs
    bool tokens;          // token files; else columns
    int64_t vocabulary;
    TokenFile data_file, valid_file;
    bool has_data_file, has_valid_file, has_valid;
    TokenPart train, valid;
    ColumnSet columns, valid_columns;
    bool has_columns, has_valid_columns;
    RowPart train_rows, valid_rows;
    int64_t *row_list;  // of one batch
    int32_t *spare;     // room for one batch of targets that the model does not want, else NULL
};

static const Type *input_type(const Graph *graph, const char *name) {
    Ir *ir = graph->ir;
    Value input = graph_find_input(graph, names_intern(ir->names, name), ROLE_DATA);
    return value_is_none(input) ? NULL : graph_type(graph, input);
}

static int64_t limit_of(const Graph *graph, const char *name) {
    return input_limit(graph, graph_find_input(graph, names_intern(graph->ir->names, name), ROLE_DATA));
}

// ---- Token files ----

// The objective's data must be what a token file can give.
static bool check_token_inputs(const Graph *graph) {
    bool good = true;
    for (size_t i = 0; i < graph->inputs.count; i++) {
        const Node *node = graph_node(graph, graph->inputs.items[i]);
        const char *name = attribute_text(node, ATTRIBUTE_name);
        if (attribute_integer(node, ATTRIBUTE_role, 0) != ROLE_DATA) continue;
        if (strcmp(name, "tokens") != 0 && strcmp(name, "targets") != 0 && strcmp(name, "supervised") != 0)
            good = report_error(graph->ir->diagnostics, node->place, "E0908",
                                "the objective wants '%s', which a token file does not hold", name);
    }
    return good;
}

static bool open_tokens(Feed *feed, const Graph *graph, const FeedOptions *options) {
    Diagnostics *diagnostics = feed->ir->diagnostics;
    TokenFormat format;
    if (!token_format_parse(options->format ? options->format : "detect", &format))
        return report_error(diagnostics, NO_PLACE, "E0901",
                            "--format wants detect, bytes, u16, u32 or llmc, not '%s'", options->format);
    if (!check_token_inputs(graph)) return false;
    const Type *type = input_type(graph, "tokens");
    if (type->rank != 2 || type->element != ELEMENT_I32)
        return report_error(diagnostics, NO_PLACE, "E0908", "tokens must be i32[batch, time], not %s",
                            type_text(feed->ir, type));
    feed->batch = type->dimensions[0].extent;
    feed->time = type->dimensions[1].extent;
    int64_t tokens = limit_of(graph, "tokens"),
            targets = input_type(graph, "targets") ? limit_of(graph, "targets") : INT64_MAX;
    feed->vocabulary = tokens < targets ? tokens : targets;
    int64_t batch_bytes = feed->batch * feed->time * (int64_t)sizeof *feed->spare;
    if (!memory_check(diagnostics, batch_bytes, "one batch of tokens")) return false;
    if (!input_type(graph, "targets")) feed->spare = arena_allocate(feed->ir->arena, (size_t)batch_bytes);
    if (!token_file_open(diagnostics, options->data, format, &feed->data_file)) return false;
    feed->has_data_file = true;
    feed->train = token_file_whole(&feed->data_file);
    if (options->evaluate_all) {
        feed->valid = feed->train;
        feed->has_valid = true;
    } else if (options->valid) {
        if (!token_file_open(diagnostics, options->valid, format, &feed->valid_file)) return false;
        feed->has_valid_file = feed->has_valid = true;
        feed->valid = token_file_whole(&feed->valid_file);
    } else if (options->fraction > 0) {
        token_file_split(&feed->data_file, options->fraction, &feed->train, &feed->valid);
        feed->has_valid = feed->valid.end - feed->valid.begin > 1;
    }
    bool good =
        options->evaluate_all || (token_part_check(diagnostics, &feed->train, feed->time, "training data") &&
                                  token_part_check_ids(diagnostics, &feed->train, feed->vocabulary));
    if (good && feed->has_valid) good = token_part_check_ids(diagnostics, &feed->valid, feed->vocabulary);
    if (good && options->evaluate_all && feed->valid.end - feed->valid.begin < 2)
        good = report_error(diagnostics, NO_PLACE, "E0701", "%s holds no token to predict", options->data);
    return good;
}

// ---- Columns ----

static bool open_column_set(Feed *feed, const Graph *graph, const char *path, ColumnSet *set) {
    ColumnRequest *requests = ARENA_ARRAY(feed->ir->arena, ColumnRequest, graph->inputs.count);
    size_t count = 0;
    for (size_t i = 0; i < graph->inputs.count; i++) {
        Value input = {graph->inputs.items[i], 0};
        const Node *node = graph_node(graph, input.node);
        if (attribute_integer(node, ATTRIBUTE_role, 0) != ROLE_DATA) continue;
        int64_t limit = input_limit(graph, input);
        requests[count++] = (ColumnRequest){.name = attribute_text(node, ATTRIBUTE_name),
                                            .type = node->types[0],
                                            .limit = limit == INT64_MAX ? 0 : limit};
        feed->batch = node->types[0]->rank ? node->types[0]->dimensions[0].extent : 1;
    }
    feed->time = 1;
    return column_set_open(feed->ir->arena, feed->ir->diagnostics, path, requests, count, set);
}

static bool open_columns(Feed *feed, const Graph *graph, const FeedOptions *options) {
    if (!open_column_set(feed, graph, options->data, &feed->columns)) return false;
    feed->has_columns = true;
    feed->train_rows = (RowPart){0, feed->columns.rows};
    if (options->evaluate_all) {
        feed->valid_rows = feed->train_rows;
        feed->has_valid = true;
    } else if (options->valid) {
        if (!open_column_set(feed, graph, options->valid, &feed->valid_columns)) return false;
        feed->has_valid_columns = feed->has_valid = true;
        feed->valid_rows = (RowPart){0, feed->valid_columns.rows};
    } else if (options->fraction > 0) {
        row_split(feed->columns.rows, options->fraction, &feed->train_rows, &feed->valid_rows);
        feed->has_valid = feed->valid_rows.end > feed->valid_rows.begin;
    }
    int64_t list_bytes = feed->batch * (int64_t)sizeof *feed->row_list;
    if (!memory_check(feed->ir->diagnostics, list_bytes, "one batch of rows")) return false;
    feed->row_list = arena_allocate(feed->ir->arena, (size_t)list_bytes);
    return true;
}

static void fill_columns(Feed *feed, const ColumnSet *set, Runner *runner, Entry entry) {
    for (size_t i = 0; i < set->count; i++) {
        void *input = executor_input(runner->executors[entry], set->columns[i].name);
        if (input) column_gather(&set->columns[i], feed->row_list, feed->batch, input);
    }
}

// ---- Both ----

// Plain text says nothing of which tokens carry meaning: all are supervised.
static void supervise_all(Runner *runner, Entry entry, int64_t count) {
    void *supervised = executor_input(runner->executors[entry], "supervised");
    if (supervised) memset(supervised, 1, (size_t)count);
}

Feed *feed_open(Ir *ir, const Module *module, const FeedOptions *options) {
    Graph *graph = module_find_graph(module, "loss");
    if (!graph) {
        report_error(ir->diagnostics, NO_PLACE, "E0907", "%s has no objective to feed", module->name);
        return NULL;
    }
    Feed *feed = ARENA_NEW(ir->arena, Feed);
    feed->ir = ir;
    feed->module = module;
    feed->tokens = input_type(graph, "tokens") != NULL;
    bool good = feed->tokens ? open_tokens(feed, graph, options) : open_columns(feed, graph, options);
    if (good) return feed;
    feed_close(feed);
    return NULL;
}

void feed_close(Feed *feed) {
    if (!feed) return;
    if (feed->has_data_file) token_file_close(&feed->data_file);
    if (feed->has_valid_file) token_file_close(&feed->valid_file);
    if (feed->has_columns) column_set_close(&feed->columns);
    if (feed->has_valid_columns) column_set_close(&feed->valid_columns);
}

bool feed_has_valid(const Feed *feed) { return feed->has_valid; }
int64_t feed_tokens_per_batch(const Feed *feed) { return feed->batch * feed->time; }

bool feed_train(Feed *feed, Runner *runner, int64_t step, int64_t micro, int64_t micro_count, int64_t seed) {
    if (!feed->tokens) {
        for (int64_t i = 0; i < feed->batch; i++)
            feed->row_list[i] = row_shuffled(&feed->train_rows, (uint64_t)seed, step, micro * feed->batch + i,
                                             micro_count * feed->batch);
        fill_columns(feed, &feed->columns, runner, ENTRY_ACCUMULATE);
        return true;
    }
    Executor *executor = runner->executors[ENTRY_ACCUMULATE];
    int32_t *targets = executor_input(executor, "targets");
    supervise_all(runner, ENTRY_ACCUMULATE, feed->batch * feed->time);
    return token_batch(feed->ir->diagnostics, &feed->train, (uint64_t)seed, step, micro * feed->batch,
                       feed->batch, feed->time, feed->vocabulary, executor_input(executor, "tokens"),
                       targets ? targets : feed->spare);
}

// Adds the losses of the first `counted` examples of a batch, in ascending order, in double.
static void add_losses(const Runner *runner, int64_t batch_count, int64_t counted, Evaluated *evaluated) {
    const float *losses = executor_output(runner->executors[ENTRY_EVALUATE], "losses");
    if (losses) {
        for (int64_t i = 0; i < counted; i++) evaluated->loss += (double)losses[i];
        evaluated->tokens += counted;
    } else if (counted == batch_count) {  // no loss of single examples: whole batches only
        evaluated->loss += (double)runner_output(runner, ENTRY_EVALUATE, "loss") * (double)counted;
        evaluated->tokens += counted;
    }
}

static bool evaluate_tokens(Feed *feed, Runner *runner, int64_t limit, Evaluated *evaluated) {
    Executor *executor = runner->executors[ENTRY_EVALUATE];
    int32_t *tokens = executor_input(executor, "tokens"), *targets = executor_input(executor, "targets");
    supervise_all(runner, ENTRY_EVALUATE, feed->batch * feed->time);
    int64_t windows = token_sequence_windows(&feed->valid, feed->time);
    for (int64_t first = 0, done = 0; first < windows && (!limit || done < limit);
         first += feed->batch, done++) {
        int64_t counted = 0;
        if (!token_sequence_batch(feed->ir->diagnostics, &feed->valid, first, feed->batch, feed->time,
                                  feed->vocabulary, tokens, targets ? targets : feed->spare, NULL, &counted))
            return false;
        runner_run(runner, ENTRY_EVALUATE);
        // Only the end of the data is padded, so what counts comes first.
        add_losses(runner, feed->batch * feed->time, counted, evaluated);
    }
    return true;
}

static void evaluate_columns(Feed *feed, Runner *runner, int64_t limit, Evaluated *evaluated) {
    const RowPart *rows = &feed->valid_rows;
    for (int64_t first = rows->begin, done = 0; first < rows->end && (!limit || done < limit);
         first += feed->batch, done++) {
        int64_t counted = rows->end - first < feed->batch ? rows->end - first : feed->batch;
        for (int64_t i = 0; i < feed->batch; i++) feed->row_list[i] = first + (i < counted ? i : 0);
        fill_columns(feed, feed->has_valid_columns ? &feed->valid_columns : &feed->columns, runner,
                     ENTRY_EVALUATE);
        runner_run(runner, ENTRY_EVALUATE);
        add_losses(runner, feed->batch, counted, evaluated);
    }
}

bool feed_evaluate(Feed *feed, Runner *runner, int64_t limit, Evaluated *evaluated) {
    *evaluated = (Evaluated){0};
    if (feed->tokens && !evaluate_tokens(feed, runner, limit, evaluated)) return false;
    if (!feed->tokens) evaluate_columns(feed, runner, limit, evaluated);
    evaluated->loss = evaluated->tokens ? evaluated->loss / (double)evaluated->tokens : NAN;
    return true;
}
