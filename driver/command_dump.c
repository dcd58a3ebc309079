// cherry dump: the IR of an entry point at a stage of the pipeline, as text, LLVM IR, assembly or CUDA C.
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/thread.h"
#include "codegen/cuda.h"
#include "driver/commands.h"
#include "driver/cost.h"
#include "driver/cuda_budget.h"
#include "driver/graph_dot.h"
#include "driver/setup.h"
#include "passes/program_passes.h"

typedef struct Dump {
    Ir *ir;
    const char *stage;  // print this stage; NULL: not asked for
    Entry entry;
    bool found, dot;
    const char *folder;  // write every stage that changed something
    FILE *index;
    int number;
    size_t last_size;
    char *last_text;
    double started;
} Dump;

static void print_stage(const Dump *dump, const Graph *graph, const Program *program, FILE *stream) {
    if (program)
        program_print(program, stream);
    else if (dump->dot)
        graph_print_dot(graph, stream);
    else
        graph_print(graph, stream);
}

// --all: NN-entry-pass.ir where something changed, and a line of index.json for each stage.
static void write_stage(Dump *dump, Entry entry, const char *stage, const Graph *graph,
                        const Program *program) {
    double now = clock_seconds();
    char *text = NULL;
    size_t size = 0;
    FILE *memory = open_memstream(&text, &size);
    print_stage(dump, graph, program, memory);
    fclose(memory);
    bool changed = !dump->last_text || size != dump->last_size || memcmp(text, dump->last_text, size) != 0;
    int number = dump->number++;
    if (changed) {
        const char *path =
            arena_format(dump->ir->arena, "%s/%02d-%s-%s.ir", dump->folder, number, entry_name(entry), stage);
        FileWriter *writer = file_create(dump->ir->diagnostics, path);
        if (writer && file_write(writer, text, size)) file_commit(writer);
    }
    fprintf(dump->index,
            "%s\n  {\"number\": %d, \"entry\": \"%s\", \"stage\": \"%s\", \"changed\": %s, \"milliseconds\": "
            "%.2f, ",
            number ? "," : "", number, entry_name(entry), stage, changed ? "true" : "false",
            (now - dump->started) * 1e3);
    if (program)
        fprintf(
            dump->index,
            "\"launches\": %zu, \"kernels\": %zu, \"flops\": %.0f, \"bytes\": %.0f, \"arena_bytes\": %lld}",
            program->launches.count, program->kernels.count, cost_program_flops(program),
            cost_program_bytes(program), (long long)program->arena_bytes);
    else
        fprintf(dump->index, "\"nodes\": %zu}", graph->nodes.count);
    free(dump->last_text);
    dump->last_text = text;
    dump->last_size = size;
    dump->started = clock_seconds();
}

// "fuse-loss" names the stage "fuse-loss", and "incremental" the stage "incremental{chunk=...}".
static bool stage_matches(const char *stage, const char *wanted) {
    size_t length = strlen(wanted);
    return strncmp(stage, wanted, length) == 0 && (stage[length] == 0 || stage[length] == '{');
}

static void on_stage(void *data, Entry entry, const char *stage, const Graph *graph, const Program *program) {
    Dump *dump = data;
    if (entry != dump->entry) return;
    const char *name = arena_copy(dump->ir->arena, stage, strcspn(stage, "{"));
    if (dump->folder) {
        write_stage(dump, entry, name, graph, program);
    } else if (dump->stage && stage_matches(stage, dump->stage) && !dump->found) {
        if (dump->dot && program)
            report_error(dump->ir->diagnostics, NO_PLACE, "E0906", "--format dot shows graphs, which %s leaves none of", name);
        else
            print_stage(dump, graph, program, stdout);
        // A pass that runs twice (simplify) shows its first result; --all shows each.
        dump->found = true;
    }
}

static bool open_index(Dump *dump) {
    if (!file_make_folder(dump->ir->diagnostics, dump->folder)) return false;
    const char *path = arena_format(dump->ir->arena, "%s/index.json", dump->folder);
    dump->index = fopen(path, "w");
    if (!dump->index) return report_error(dump->ir->diagnostics, NO_PLACE, "E0905", "cannot write %s", path);
    fputc('[', dump->index);
    return true;
}

// The words of --at; --after takes the name of a pass.
static const char *stage_of(const char *at) {
    static const struct {
        const char *at, *stage;
    } names[] = {{"module", "module"}, {"graph", "dead"}, {"nests", "lower"}, {"program", "plan-memory"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i].at, at) == 0) return names[i].stage;
    return NULL;
}

// Formats of code, and of what is planned for it; text and dot show a stage.
static bool is_code(const char *format) { return strcmp(format, "text") != 0 && strcmp(format, "dot") != 0; }

static bool choose_format(const Arguments *arguments, Ir *ir, const char *format) {
    static const char *const formats[] = {"text", "dot", "llvm", "asm", "cuda", "ptx", "cubin", "budget"},
                             *const stages[] = {"--at", "--after", "--all"};
    size_t known = 0, count = sizeof formats / sizeof *formats;
    while (known < count && strcmp(formats[known], format) != 0) known++;
    if (known == count)
        return report_error(ir->diagnostics, NO_PLACE, "E0906",
                            "no format '%s'; there are: text, dot, llvm, asm, cuda, ptx, cubin, budget", format);
    const char *asked = NULL;
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
        if (!arguments_text(arguments, stages[i], NULL)) continue;
        if (is_code(format))
            return report_error(ir->diagnostics, NO_PLACE, "E0906", "--format %s shows a whole entry point, %s a stage of it",
                                format, stages[i]);
        if (asked)
            return report_error(ir->diagnostics, NO_PLACE, "E0906", "%s and %s: give one of them", asked, stages[i]);
        asked = stages[i];
    }
    return true;
}

static bool choose(const Arguments *arguments, Ir *ir, Dump *dump) {
    const char *at = arguments_text(arguments, "--at", "graph"), *format = arguments_text(arguments, "--format", "text"),
               *name = arguments_text(arguments, "--entry", "accumulate");
    if (!choose_format(arguments, ir, format)) return false;
    dump->stage = arguments_text(arguments, "--after", NULL);
    dump->folder = arguments_text(arguments, "--all", NULL);
    dump->dot = strcmp(format, "dot") == 0;
    if (!dump->stage) dump->stage = stage_of(at);
    if (!dump->stage)
        return report_error(ir->diagnostics, NO_PLACE, "E0906",
                            "no stage '%s'; there are: module, graph, nests, program", at);
    if (!entry_parse(name, &dump->entry))
        return report_error(ir->diagnostics, NO_PLACE, "E0906",
                            "no entry point '%s'; there are: initialize, accumulate, update, evaluate, "
                            "prefill, decode, draft, round",
                            name);
    return true;
}

// With what the entry point is compiled: generation reads rounded copies, and on a GPU a step, which updates them;
// `round` makes what decoding reads.
static uint32_t wanted_entries(Entry entry, bool cuda) {
    uint32_t generation = 1u << ENTRY_PREFILL | 1u << ENTRY_DECODE | 1u << ENTRY_DRAFT, bit = 1u << entry,
             step = 1u << ENTRY_ACCUMULATE | 1u << ENTRY_UPDATE;
    if (entry == ENTRY_ROUND) return bit | 1u << ENTRY_DECODE;
    if (cuda && (bit & step)) return step | 1u << ENTRY_ROUND;
    return bit & generation ? bit | 1u << ENTRY_ROUND : bit;
}

static bool is_cuda(const char *format) {
    return strcmp(format, "cuda") == 0 || strcmp(format, "ptx") == 0 || strcmp(format, "cubin") == 0 ||
           strcmp(format, "budget") == 0;
}

static bool print_code(Ir *ir, Program *program, const CompileOptions *options, const char *format) {
    if (strcmp(format, "budget") == 0) return cuda_budget_print(ir, program, stdout);
    CudaOptions cuda = {.architecture = options->architecture};
    if (is_cuda(format)) return cuda_print(ir, program, &cuda, format, stdout);
    return cpu_print(ir, program, &options->cpu, strcmp(format, "asm") == 0, stdout);
}

static int run(const Arguments *arguments, Ir *ir) {
    Dump dump = {.ir = ir, .started = clock_seconds()};
    Observer observer = {on_stage, &dump};
    CompileOptions options;
    const char *format = arguments_text(arguments, "--format", "text");
    if (!choose(arguments, ir, &dump)) return EXIT_USER_ERROR;
    Module *module = setup_load(arguments, ir, false);
    if (!module || !setup_options(arguments, ir, &options)) return EXIT_USER_ERROR;
    setup_context(&options, module->training.time ? module->training.time : 256);
    bool code = is_code(format);
    if (code) options.cuda = is_cuda(format);
    if (!code) options.observer = &observer;
    if (dump.folder && !open_index(&dump)) return EXIT_USER_ERROR;
    if (!code && !dump.folder && !arguments_text(arguments, "--after", NULL) &&
        strcmp(dump.stage, "module") == 0) {
        if (!dump.dot) module_print(module, stdout);
        return !dump.dot || report_error(ir->diagnostics, NO_PLACE, "E0906", "--format dot shows a graph, not a module")
                   ? EXIT_OK : EXIT_USER_ERROR;
    }
    Entry entry = dump.entry;
    Compilation *compilation = compile_programs(ir, module, wanted_entries(entry, options.cuda), &options);
    if (compilation && !compilation->programs[entry]) {
        report_error(ir->diagnostics, NO_PLACE, "E0902", "model %s has nothing to %s", module->name, entry_name(entry));
        compilation = NULL;
    }
    if (compilation && code && !print_code(ir, compilation->programs[entry], &options, format))
        return EXIT_USER_ERROR;
    // The plan is shown without the kernels' workspaces, which only code generation knows.
    if (compilation && !code && plan_memory(compilation->programs[entry]))
        on_stage(&dump, entry, "plan-memory", NULL, compilation->programs[entry]);
    if (dump.index) {
        fputs("\n]\n", dump.index);
        fclose(dump.index);
        free(dump.last_text);
    }
    if (compilation && !code && !dump.folder && !dump.found)
        report_error(ir->diagnostics, NO_PLACE, "E0906", "no pass '%s' runs for %s; see cherry passes",
                     dump.stage, entry_name(entry));
    return diagnostics_error_count(ir->diagnostics) ? EXIT_USER_ERROR : EXIT_OK;
}

static const CommandOption options[] = {
    {"--at", "STAGE", "module, graph (default), nests or program"},
    {"--after", "PASS", "after a pass, by name"},
    {"--all", "DIR", "every stage that changed something, as DIR/NN-entry-pass.ir, and index.json"},
    {"--entry", "NAME", "initialize, accumulate (default), update, evaluate, prefill, decode, draft or round"},
    {"--format", "FORMAT", "text (default), dot, llvm, asm, cuda, ptx, cubin or budget (floors on a GPU)"},
    MODEL_OPTIONS,
    COMPILE_OPTIONS,
    {NULL, NULL, NULL}};

const Command command_dump = {"dump", "FILE", "print the IR of an entry point at any stage", options, run};
