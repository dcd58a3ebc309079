// Finding passes, reading their options, running and checking them.
#include "passes/pass.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "passes/rewrite.h"

const Pass pass_table[] = {
#define PASS_RUN_module(function) .run_module = function
#define PASS_RUN_graph(function) .run_graph = function
#define PASS_RUN_program(function) .run_graph = NULL
#define PASS_LEVEL_module PASS_MODULE
#define PASS_LEVEL_graph PASS_GRAPH
#define PASS_LEVEL_program PASS_PROGRAM
#define PASS(name_, level_, function, options_, doc_) \
    {.name = name_,                                   \
     .level = PASS_LEVEL_##level_,                    \
     .options = options_,                             \
     .doc = doc_,                                     \
     PASS_RUN_##level_(function)},
#include "passes/passes.def"
#undef PASS
};

const uint32_t pass_count = sizeof pass_table / sizeof *pass_table;

const Pass *pass_find(const char *name) {
    for (uint32_t i = 0; i < pass_count; i++)
        if (strcmp(pass_table[i].name, name) == 0) return &pass_table[i];
    return NULL;
}

// ---- Reading requests ----

typedef struct Reader {
    Ir *ir;
    const char *at;
} Reader;

static void skip_space(Reader *reader) {
    while (isspace((unsigned char)*reader->at)) reader->at++;
}

static bool take(Reader *reader, char c) {
    skip_space(reader);
    if (*reader->at != c) return false;
    reader->at++;
    return true;
}

// Letters, digits and -_.+|* : names, numbers, words and schedules alike. NULL where there is none.
static const char *take_word(Reader *reader) {
    skip_space(reader);
    const char *start = reader->at;
    while (isalnum((unsigned char)*reader->at) || (*reader->at && strchr("-_.+|*", *reader->at)))
        reader->at++;
    if (reader->at == start) return NULL;
    return names_intern_length(reader->ir->names, start, (size_t)(reader->at - start));
}

// Finite, and exact as an integer where it is one.
static bool is_number(const char *text, double *number) {
    char *end;
    *number = strtod(text, &end);
    return *text && !*end && fabs(*number) <= 0x1p53;
}

// The declared options with their defaults: "bytes=8 mode=cheap".
static void set_defaults(Ir *ir, PassRequest *request) {
    VECTOR(PassOption) options = {0};
    Reader reader = {ir, request->pass->options};
    for (const char *name; (name = take_word(&reader));) {
        PassOption option = {.name = name};
        if (take(&reader, '=')) option.text = take_word(&reader);
        if (!option.text) INTERNAL_ERROR("pass %s: option %s has no default", request->pass->name, name);
        option.is_number = is_number(option.text, &option.number);
        vector_push(ir->arena, &options, option);
    }
    request->options = options.items;
    request->option_count = (uint32_t)options.count;
}

static PassOption *find_option(const PassRequest *request, const char *name) {
    for (uint32_t i = 0; i < request->option_count; i++)
        if (strcmp(request->options[i].name, name) == 0) return &request->options[i];
    return NULL;
}

static bool parse_option(Reader *reader, PassRequest *request) {
    Diagnostics *diagnostics = reader->ir->diagnostics;
    const Pass *pass = request->pass;
    const char *name = take_word(reader);
    const char *text = name && take(reader, '=') ? take_word(reader) : NULL;
    if (!text)
        return report_error(diagnostics, NO_PLACE, "E0502", "pass %s: expected `option=value` at `%s`",
                            pass->name, reader->at);
    PassOption *option = find_option(request, name);
    if (!option) {
        report_error(diagnostics, NO_PLACE, "E0503", "pass %s has no option %s", pass->name, name);
        report_hint(diagnostics, "options and defaults: %s", *pass->options ? pass->options : "none");
        return false;
    }
    double number = 0;
    bool numeric = is_number(text, &number);
    if (option->is_number && !numeric)
        return report_error(diagnostics, NO_PLACE, "E0504", "pass %s: %s must be a number of at most 2^53, not `%s`",
                            pass->name, name, text);
    option->text = text;
    option->number = number;
    return true;
}

static bool parse_request(Reader *reader, PassRequest *request) {
    Diagnostics *diagnostics = reader->ir->diagnostics;
    const char *name = take_word(reader);
    if (!name)
        return report_error(diagnostics, NO_PLACE, "E0502", "expected the name of a pass at `%s`",
                            reader->at);
    request->pass = pass_find(name);
    if (!request->pass) {
        report_error(diagnostics, NO_PLACE, "E0512", "there is no pass %s", name);
        const char *list = "";
        for (uint32_t i = 0; i < pass_count; i++)
            list = arena_format(reader->ir->arena, "%s%s%s", list, i ? ", " : "", pass_table[i].name);
        report_hint(diagnostics, "passes: %s", list);
        return false;
    }
    set_defaults(reader->ir, request);
    if (!take(reader, '{') || take(reader, '}')) return true;
    do {
        if (!parse_option(reader, request)) return false;
    } while (take(reader, ','));
    if (take(reader, '}')) return true;
    return report_error(diagnostics, NO_PLACE, "E0502", "pass %s: expected `,` or `}` at `%s`", name,
                        reader->at);
}

bool pass_parse(Ir *ir, const char *text, PassRequest **requests, uint32_t *count) {
    VECTOR(PassRequest) list = {0};
    Reader reader = {ir, text};
    *requests = NULL;
    *count = 0;
    skip_space(&reader);
    if (!*reader.at) return true;
    do {
        PassRequest request = {0};
        if (!parse_request(&reader, &request)) return false;
        vector_push(ir->arena, &list, request);
    } while (take(&reader, ','));
    skip_space(&reader);
    if (*reader.at)
        return report_error(ir->diagnostics, NO_PLACE, "E0502", "expected `,` between passes at `%s`",
                            reader.at);
    *requests = list.items;
    *count = (uint32_t)list.count;
    return true;
}

// ---- Options of the running pass ----

static const PassOption *option_of(const PassContext *context, const char *name) {
    const PassOption *option = context->request ? find_option(context->request, name) : NULL;
    if (!option)
        INTERNAL_ERROR("pass %s does not declare option %s",
                       context->request ? context->request->pass->name : "(none)", name);
    return option;
}

int64_t pass_integer(const PassContext *context, const char *option) {
    return (int64_t)option_of(context, option)->number;
}

double pass_number(const PassContext *context, const char *option) {
    return option_of(context, option)->number;
}

const char *pass_text(const PassContext *context, const char *option) {
    return option_of(context, option)->text;
}

int pass_choice(const PassContext *context, const char *option, const char *words) {
    const char *text = pass_text(context, option);
    Reader reader = {context->ir, words};
    int index = 0;
    for (const char *word; (word = take_word(&reader)); index++)
        if (word == text) return index;
    report_error(context->ir->diagnostics, NO_PLACE, "E0504", "pass %s: %s must be one of: %s; not `%s`",
                 context->request->pass->name, option, words, text);
    return -1;
}

bool pass_has_kernel(const PassContext *context, const char *kernel) {
    return context->has_kernel && context->has_kernel(kernel);
}

// ---- Running ----

static bool verifies(const PassContext *context) {
#ifdef __OPTIMIZE__
    return context->verify;
#else
    (void)context;
    return true;
#endif
}

Graph *pass_run_request(PassContext *context, const PassRequest *request, const Graph *graph) {
    const Pass *pass = request->pass;
    if (!pass->run_graph) {
        report_error(context->ir->diagnostics, NO_PLACE, "E0505", "pass %s does not run on a graph",
                     pass->name);
        return NULL;
    }
    const PassRequest *outer = context->request;
    context->request = request;
    Graph *result = pass->run_graph(context, graph);
    context->request = outer;
    if (result && verifies(context) && !graph_verify(result, pass->name)) return NULL;
    return result;
}

Graph *pass_run(PassContext *context, const char *text, const Graph *graph) {
    PassRequest *requests;
    uint32_t count;
    if (!graph || !pass_parse(context->ir, text, &requests, &count)) return NULL;
    if (!count) return rewrite_graph(context, graph, graph->name, NULL, NULL);
    Graph *result = NULL;
    for (uint32_t i = 0; i < count; i++) {
        result = pass_run_request(context, &requests[i], graph);
        if (!result) return NULL;
        graph = result;
    }
    return result;
}

static bool refers_to(const Graph *graph, const Graph *callee) {
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        for (uint32_t i = 0; i < node->attributes.count; i++)
            if (attribute_kind(node->attributes.items[i].key) == KIND_GRAPH &&
                node->attributes.items[i].graph == callee)
                return true;
    }
    return false;
}

static bool is_initializer(const Module *module, const Graph *graph) {
    for (size_t i = 0; i < module->parameters.count; i++)
        if (module->parameters.items[i].initialize == graph) return true;
    return false;
}

bool module_is_entry(const Module *module, const Graph *graph) {
    if (is_initializer(module, graph)) return false;
    for (size_t i = 0; i < module->graphs.count; i++)
        if (refers_to(module->graphs.items[i], graph)) return false;
    return true;
}

bool module_add_with_callees(Module *module, Graph *graph) {
    for (size_t i = 0; i < module->graphs.count; i++)
        if (module->graphs.items[i] == graph) return true;
    if (!module_add_graph(module, graph)) return false;
    for (uint32_t id = 0; id < graph->nodes.count; id++) {
        const Node *node = graph_node(graph, id);
        for (uint32_t i = 0; i < node->attributes.count; i++) {
            const Attribute *attribute = &node->attributes.items[i];
            if (attribute_kind(attribute->key) == KIND_GRAPH &&
                !module_add_with_callees(module, attribute->graph))
                return false;
        }
    }
    return true;
}

static Module *run_on_entries(PassContext *context, const PassRequest *request, const Module *module) {
    Module *result = module_copy(module);
    bool only_loss = request->pass->run_graph == differentiate;
    for (size_t i = 0; i < module->graphs.count; i++) {
        Graph *graph = module->graphs.items[i];
        if (is_initializer(module, graph) && !module_add_with_callees(result, graph)) return NULL;
        if (!module_is_entry(module, graph)) continue;
        if (!only_loss || strcmp(graph->name, "loss") == 0) graph = pass_run_request(context, request, graph);
        if (!graph || !module_add_with_callees(result, graph)) return NULL;
    }
    return result;
}

Module *pass_run_module_request(PassContext *context, const PassRequest *request, const Module *module) {
    const Module *outer = context->module;
    context->module = module;
    Module *result;
    if (request->pass->run_module) {
        context->request = request;
        result = request->pass->run_module(context, module);
        context->request = NULL;
        if (result) result->derivations.count = 0;
    } else {
        result = run_on_entries(context, request, module);
    }
    context->module = outer;
    if (result && verifies(context) && !module_verify(result, request->pass->name)) return NULL;
    return result;
}

Module *pass_run_module(PassContext *context, const char *text, const Module *module) {
    PassRequest *requests;
    uint32_t count;
    if (!module || !pass_parse(context->ir, text, &requests, &count)) return NULL;
    Module *result = module_copy(module);
    result->graphs = module->graphs;
    for (uint32_t i = 0; i < count && result; i++)
        result = pass_run_module_request(context, &requests[i], result);
    return result;
}

static bool derive_experts(PassContext *context, const Derivation *step) {
    uint32_t count = (uint32_t)step->experts.count;
    const Module **experts = ARENA_ARRAY(context->ir->arena, const Module *, count + 1);
    for (uint32_t i = 0; i < count; i++) {
        experts[i] = pass_derive(context, step->experts.items[i]);
        if (!experts[i]) return false;
    }
    context->experts = experts;
    context->expert_count = count;
    return true;
}

Module *pass_derive(PassContext *context, Module *module) {
    Module *result = module;
    for (size_t i = 0; i < module->derivations.count && result; i++) {
        const Derivation *step = &module->derivations.items[i];
        if (!derive_experts(context, step)) return NULL;
        context->place = step->place;
        result = pass_run_module(context, step->passes, result);
        if (result && step->name) result->name = step->name;
        context->experts = NULL;
        context->expert_count = 0;
        context->place = NO_PLACE;
    }
    return result;
}

const char *state_output_name(Ir *ir, Role role, const char *name) {
    if (role == ROLE_PARAMETER) return names_intern(ir->names, name);
    return names_format(ir->names, "%s.%s", role_name(role), name);
}
