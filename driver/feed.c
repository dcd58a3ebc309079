#include "driver/feed.h"

#include <math.h>
#include <string.h>

#include "driver/token_feed.h"
#include "ir/input_limit.h"
#include "runtime/data.h"
#include "runtime/memory.h"

struct Feed {
    Ir *ir;
    TokenFeed *tokens;  // or columns
    int64_t batch;
    ColumnSet columns, valid_columns;
    bool has_columns, has_valid_columns, has_valid;
    RowPart train_rows, valid_rows;
    int64_t *row_list;  // of one batch
};

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

Feed *feed_open(Ir *ir, const Module *module, const FeedOptions *options) {
    Graph *graph = module_find_graph(module, "loss");
    if (!graph) {
        report_error(ir->diagnostics, NO_PLACE, "E0907", "%s has no objective to feed", module->name);
        return NULL;
    }
    Feed *feed = ARENA_NEW(ir->arena, Feed);
    feed->ir = ir;
    if (!value_is_none(graph_find_input(graph, names_intern(ir->names, "tokens"), ROLE_DATA))) {
        feed->tokens = token_feed_open(ir, module, options);
        return feed->tokens ? feed : NULL;
    }
    if (open_columns(feed, graph, options)) return feed;
    feed_close(feed);
    return NULL;
}

void feed_close(Feed *feed) {
    if (!feed) return;
    if (feed->tokens) token_feed_close(feed->tokens);
    if (feed->has_columns) column_set_close(&feed->columns);
    if (feed->has_valid_columns) column_set_close(&feed->valid_columns);
}

bool feed_is_text(const Feed *feed) { return feed->tokens && token_feed_is_text(feed->tokens); }

bool feed_has_valid(const Feed *feed) { return feed->tokens ? token_feed_has_valid(feed->tokens) : feed->has_valid; }

int64_t feed_tokens_per_batch(const Feed *feed) {
    return feed->tokens ? token_feed_batch(feed->tokens) : feed->batch;
}

const char *feed_unit(const Feed *feed) { return feed->tokens ? "tokens" : "examples"; }

bool feed_train(Feed *feed, Runner *runner, int64_t step, int64_t micro, int64_t micro_count, int64_t seed) {
    if (feed->tokens) return token_feed_train(feed->tokens, runner, step, micro, micro_count, seed);
    for (int64_t i = 0; i < feed->batch; i++)
        feed->row_list[i] = row_shuffled(&feed->train_rows, (uint64_t)seed, step, micro * feed->batch + i,
                                         micro_count * feed->batch);
    fill_columns(feed, &feed->columns, runner, ENTRY_ACCUMULATE);
    return true;
}

static const Type *losses_type(const Runner *runner) {
    const Program *program = runner->compilation->programs[ENTRY_EVALUATE];
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *buffer = &program->buffers.items[i];
        if (buffer->kind == BUFFER_OUTPUT && strcmp(buffer->name, EXAMPLE_LOSSES) == 0) return buffer->type;
    }
    return NULL;
}

bool feed_check_valid(const Feed *feed, const Runner *runner) {
    int64_t batch = feed_tokens_per_batch(feed), rows = feed->valid_rows.end - feed->valid_rows.begin;
    int64_t held = feed->tokens ? token_feed_held(feed->tokens) : rows;
    if (held >= batch || losses_type(runner)) return true;
    const char *what = feed_unit(feed);
    report_error(feed->ir->diagnostics, NO_PLACE, "E0701",
                 "%lld %s to evaluate, and the objective has a loss for whole batches of %lld %s alone",
                 (long long)held, what, (long long)batch, what);
    report_hint(feed->ir->diagnostics,
                "--set batch=1; or cross_entropy of data in the objective, which has a loss for each");
    return false;
}

size_t objective_metrics(const Graph *graph, Metric *metrics) {
    size_t count = 0;
    for (size_t i = 0; i < graph->outputs.count && count < OBJECTIVE_METRICS_MAX; i++) {
        const Output *output = &graph->outputs.items[i];
        const Type *type = graph_type(graph, output->value);
        if (type->rank > 0 || type->element != ELEMENT_F32 || strcmp(output->name, "loss") == 0 ||
            strcmp(output->name, EXAMPLE_LOSSES) == 0)
            continue;
        metrics[count++] = (Metric){output->name, 0};
    }
    return count;
}

void evaluated_add_batch(const Runner *runner, int64_t count, Evaluated *evaluated) {
    if (!executor_output(runner->executors[ENTRY_EVALUATE], EXAMPLE_LOSSES)) {
        evaluated->loss += (double)runner_output(runner, ENTRY_EVALUATE, "loss") * (double)count;
        evaluated->tokens += count;
    }
    for (size_t i = 0; i < evaluated->metric_count; i++)
        evaluated->metrics[i].value += (double)runner_output(runner, ENTRY_EVALUATE, evaluated->metrics[i].name);
    evaluated->batches++;
}

// Adds the losses of the first `counted` rows of a batch, in ascending order, in double.
static void add_losses(const Runner *runner, int64_t batch_count, int64_t counted, Evaluated *evaluated) {
    const float *losses = executor_output(runner->executors[ENTRY_EVALUATE], EXAMPLE_LOSSES);
    if (losses) {
        int64_t count = type_count(losses_type(runner)) / batch_count * counted;  // a row may have several
        for (int64_t i = 0; i < count; i++) evaluated->loss += (double)losses[i];
        evaluated->tokens += count;
    }
    if (counted == batch_count) evaluated_add_batch(runner, counted, evaluated);
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
    evaluated->metric_count = objective_metrics(module_find_graph(runner->module, "evaluate"), evaluated->metrics);
    if (feed->tokens && !token_feed_evaluate(feed->tokens, runner, limit, evaluated)) return false;
    if (!feed->tokens) evaluate_columns(feed, runner, limit, evaluated);
    if (!feed->tokens || !losses_type(runner)) {  // nothing is told apart
        evaluated->supervised = evaluated->loss;
        evaluated->supervised_tokens = evaluated->tokens;
    }
    int64_t others = evaluated->tokens - evaluated->supervised_tokens;
    double rest = evaluated->loss - evaluated->supervised;
    evaluated->loss = evaluated->tokens ? evaluated->loss / (double)evaluated->tokens : NAN;
    evaluated->supervised =
        evaluated->supervised_tokens ? evaluated->supervised / (double)evaluated->supervised_tokens : NAN;
    evaluated->unsupervised = others ? rest / (double)others : NAN;
    if (!evaluated->batches) evaluated->metric_count = 0;
    for (size_t i = 0; i < evaluated->metric_count; i++) evaluated->metrics[i].value /= (double)evaluated->batches;
    return true;
}
