// Programs: kernels without duplicates, buffers, printing, and the rules that every pass keeps.
// Codes: E0411.
#include "ir/program.h"

#include <string.h>

#include "base/hash.h"

Program *program_create(Ir *ir, const char *name) {
    Program *program = ARENA_NEW(ir->arena, Program);
    program->ir = ir;
    program->name = name;
    return program;
}

uint32_t program_add_buffer(Program *program, Buffer buffer) {
    vector_push(program->ir->arena, &program->buffers, buffer);
    return (uint32_t)program->buffers.count - 1;
}

uint32_t program_find_buffer(const Program *program, const char *name, Role role) {
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *buffer = &program->buffers.items[i];
        bool has_role = buffer->kind == BUFFER_STATE || buffer->kind == BUFFER_INPUT ||
                        (buffer->kind == BUFFER_TEMPORARY && buffer->role == ROLE_SCALAR);
        if (has_role && buffer->role == role && buffer->name == name) return (uint32_t)i;
    }
    return UINT32_MAX;
}

static uint32_t add_nest(Program *program, const Nest *nest, bool copies) {
    uint64_t hash = nest_hash(nest);
    for (size_t i = 0; i < program->kernels.count; i++) {
        const Kernel *kernel = &program->kernels.items[i];
        if (kernel->hash == hash && kernel->nest && nest_equal(kernel->nest, nest)) return (uint32_t)i;
    }
    if (copies) nest = nest_copy(program->ir, nest);
    vector_push(program->ir->arena, &program->kernels,
                ((Kernel){.name = nest->name, .hash = hash, .nest = nest}));
    return (uint32_t)program->kernels.count - 1;
}

int64_t kernel_workspace_bytes(const Kernel *kernel, int number) {
    if (kernel->cuda.phase_count) return number == 0 ? kernel->cuda.workspace_bytes : 0;
    return kernel->cpu.workspace_bytes[number];
}

KernelPack kernel_pack(const Kernel *kernel, int phase) {
    const CpuKernel *cpu = &kernel->cpu;
    const CudaKernel *cuda = &kernel->cuda;
    if (cuda->phase_count)
        return phase == 0 ? (KernelPack){.key = cuda->packed_key, .operand = cuda->packed_operand} : (KernelPack){0};
    if (phase >= cpu->pack_count) return (KernelPack){0};
    return (KernelPack){cpu->packed_key[phase], cpu->packed_operand[phase], cpu->pack_optional[phase]};
}

size_t program_cuda_count(const Program *program) { return program->kernels.count + program->groups.count; }

CudaKernel *program_cuda_code(const Program *program, size_t number) {
    size_t kernels = program->kernels.count;
    return number < kernels ? &program->kernels.items[number].cuda : &program->groups.items[number - kernels].code;
}

const LaunchGroup *program_group(const Program *program, uint32_t launch) {
    size_t low = 0, high = program->groups.count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const LaunchGroup *group = &program->groups.items[middle];
        if (launch >= group->first && launch < group->first + group->count) return group;
        if (launch < group->first) high = middle;
        else low = middle + 1;
    }
    return NULL;
}

uint32_t program_add_nest(Program *program, const Nest *nest) { return add_nest(program, nest, false); }
uint32_t program_keep_nest(Program *program, const Nest *nest) { return add_nest(program, nest, true); }

static uint64_t named_hash(const NamedKernel *named) {
    uint64_t hash = hash_word(hash_text(HASH_START, named->name), (uint64_t)named->output_start);
    for (uint32_t i = 0; i < named->option_count; i++) {
        const Option *option = &named->options[i];
        hash = hash_text(hash_text(hash, option->name), option->text);
        if (!option->text) hash = hash_bytes(hash, &option->number, sizeof option->number);
    }
    for (int i = 0; i < named->operand_count; i++) {
        hash = hash_word(hash, (uint64_t)(uintptr_t)named->types[i]);  // interned
        hash = hash_bytes(hash, named->strides[i], sizeof(int64_t) * (size_t)named->types[i]->rank);
    }
    return hash;
}

static bool named_equal(const NamedKernel *a, const NamedKernel *b) {
    if (a->name != b->name || a->operand_count != b->operand_count || a->output_start != b->output_start ||
        a->option_count != b->option_count)
        return false;
    for (uint32_t i = 0; i < a->option_count; i++) {
        const Option *x = &a->options[i], *y = &b->options[i];
        if (x->name != y->name || x->text != y->text) return false;
        if (!x->text && memcmp(&x->number, &y->number, sizeof x->number) != 0) return false;
    }
    for (int i = 0; i < a->operand_count; i++)
        if (a->types[i] != b->types[i] ||
            memcmp(a->strides[i], b->strides[i], sizeof(int64_t) * (size_t)a->types[i]->rank) != 0)
            return false;
    return true;
}

uint32_t program_add_named(Program *program, const NamedKernel *named) {
    uint64_t hash = named_hash(named);
    for (size_t i = 0; i < program->kernels.count; i++) {
        const Kernel *kernel = &program->kernels.items[i];
        if (kernel->hash == hash && kernel->named && named_equal(kernel->named, named)) return (uint32_t)i;
    }
    vector_push(program->ir->arena, &program->kernels,
                ((Kernel){.name = named->name, .hash = hash, .named = named}));
    return (uint32_t)program->kernels.count - 1;
}

void program_drop_unused_kernels(Program *program) {
    size_t count = program->kernels.count, kept = 0;
    uint32_t *number = ARENA_ARRAY(program->ir->arena, uint32_t, count + 1);
    for (size_t i = 0; i < program->launches.count; i++) number[program->launches.items[i].kernel] = 1;
    for (size_t i = 0; i < count; i++) {
        if (!number[i]) continue;
        program->kernels.items[kept] = program->kernels.items[i];
        number[i] = (uint32_t)kept++;
    }
    program->kernels.count = kept;
    for (size_t i = 0; i < program->launches.count; i++)
        program->launches.items[i].kernel = number[program->launches.items[i].kernel];
}

bool launch_reads(const Program *program, const Launch *launch, int operand) {
    const Kernel *kernel = &program->kernels.items[launch->kernel];
    return kernel->nest ? kernel->nest->operands[operand].reads : operand < kernel->named->output_start;
}

bool launch_writes(const Program *program, const Launch *launch, int operand) {
    const Kernel *kernel = &program->kernels.items[launch->kernel];
    return kernel->nest ? kernel->nest->operands[operand].writes : operand >= kernel->named->output_start;
}

// ---- Printing ----

static void print_buffer(const Program *program, uint32_t number, FILE *stream) {
    static const char *const kinds[] = {[BUFFER_STATE] = "state",
                                        [BUFFER_INPUT] = "input",
                                        [BUFFER_OUTPUT] = "output",
                                        [BUFFER_TEMPORARY] = "temporary"};
    const Buffer *buffer = &program->buffers.items[number];
    fprintf(stream, "  buffer %u: %s", number, kinds[buffer->kind]);
    if (buffer->kind == BUFFER_STATE || buffer->kind == BUFFER_INPUT)
        fprintf(stream, " %s", role_name(buffer->role));
    fprintf(stream, " \"%s\" %s", buffer->name ? buffer->name : "", type_text(program->ir, buffer->type));
    if (buffer->kind == BUFFER_TEMPORARY && buffer->offset >= 0)
        fprintf(stream, " at %lld, launches %d to %d", (long long)buffer->offset, buffer->first,
                buffer->last);
    if (buffer->expected) fprintf(stream, ", expected %lld", (long long)buffer->expected);
    fprintf(stream, "\n");
}

static void print_named(const Program *program, const NamedKernel *named, FILE *stream) {
    fprintf(stream, "kernel %s {\n", named->name);
    for (uint32_t i = 0; i < named->option_count; i++) {
        const Option *option = &named->options[i];
        if (option->text)
            fprintf(stream, "  option %s = %s\n", option->name, option->text);
        else
            fprintf(stream, "  option %s = %.17g\n", option->name, option->number);
    }
    for (int i = 0; i < named->operand_count; i++) {
        fprintf(stream, "  operand %d: %s %s strides", i, i < named->output_start ? "read" : "write",
                type_text(program->ir, named->types[i]));
        for (int d = 0; d < named->types[i]->rank; d++)
            fprintf(stream, " %lld", (long long)named->strides[i][d]);
        fprintf(stream, "\n");
    }
    fprintf(stream, "}\n");
}

static void print_launch(const Program *program, size_t number, FILE *stream) {
    const Launch *launch = &program->launches.items[number];
    fprintf(stream, "  launch %zu: kernel %u %s(", number, launch->kernel,
            program->kernels.items[launch->kernel].name);
    for (int i = 0; i < launch->operand_count; i++) {
        fprintf(stream, "%s%u", i ? ", " : "", launch->buffers[i]);
        if (launch->offsets[i]) fprintf(stream, "+%lld", (long long)launch->offsets[i]);
    }
    fprintf(stream, ")");
    for (int i = 0; i < WORKSPACE_MAX; i++)
        if (launch->workspaces[i] != UINT32_MAX)
            fprintf(stream, " workspace %u%s", launch->workspaces[i], launch->packed[i] ? " packed" : "");
    if (launch->place.file) fprintf(stream, "  # line %u", launch->place.line);
    fprintf(stream, "\n");
}

void program_print(const Program *program, FILE *stream) {
    fprintf(stream, "program %s {\n", program->name);
    for (size_t i = 0; i < program->buffers.count; i++) print_buffer(program, (uint32_t)i, stream);
    for (size_t i = 0; i < program->launches.count; i++) print_launch(program, i, stream);
    if (program->arena_bytes || program->live_bytes)
        fprintf(stream, "  arena %lld bytes, live %lld bytes\n", (long long)program->arena_bytes,
                (long long)program->live_bytes);
    fprintf(stream, "}\n");
    for (size_t i = 0; i < program->kernels.count; i++) {
        fprintf(stream, "# kernel %zu\n", i);
        if (program->kernels.items[i].nest)
            nest_print(program->kernels.items[i].nest, stream);
        else
            print_named(program, program->kernels.items[i].named, stream);
    }
}

// ---- Verifying ----

static bool broken(const Program *program, size_t launch, const char *text) {
    return report_error(program->ir->diagnostics, program->launches.items[launch].place, "E0411",
                        "program %s, launch %zu: %s", program->name, launch, text);
}

// The operand lies inside its buffer.
static bool operand_fits(const Program *program, const Launch *launch, int operand) {
    const Kernel *kernel = &program->kernels.items[launch->kernel];
    const Buffer *buffer = &program->buffers.items[launch->buffers[operand]];
    int64_t low = launch->offsets[operand], high = low;
    int rank = kernel->nest ? kernel->nest->operands[operand].rank : kernel->named->types[operand]->rank;
    Element element =
        kernel->nest ? kernel->nest->operands[operand].element : kernel->named->types[operand]->element;
    for (int d = 0; d < rank; d++) {
        int64_t extent = kernel->nest ? kernel->nest->operands[operand].extent[d]
                                      : kernel->named->types[operand]->dimensions[d].extent;
        int64_t stride =
            kernel->nest ? kernel->nest->operands[operand].stride[d] : kernel->named->strides[operand][d];
        int64_t last = (extent - 1) * stride;
        *(last < 0 ? &low : &high) += last;
    }
    return low >= 0 && high < type_count(buffer->type) && element == buffer->type->element;
}

static bool verify_launch(const Program *program, size_t number, bool *written) {
    const Launch *launch = &program->launches.items[number];
    if (launch->kernel >= program->kernels.count) return broken(program, number, "no such kernel");
    const Kernel *kernel = &program->kernels.items[launch->kernel];
    int count = kernel->nest ? kernel->nest->operand_count : kernel->named->operand_count;
    if (launch->operand_count != count)
        return broken(program, number, "another number of operands than its kernel");
    for (int i = 0; i < count; i++) {
        if (launch->buffers[i] >= program->buffers.count) return broken(program, number, "no such buffer");
        const Buffer *buffer = &program->buffers.items[launch->buffers[i]];
        if (!operand_fits(program, launch, i))
            return broken(program, number, "an operand outside its buffer");
        if (launch_writes(program, launch, i) && buffer->kind == BUFFER_INPUT)
            return broken(program, number, "writes to an input");
        bool holds =
            buffer->kind == BUFFER_INPUT || buffer->kind == BUFFER_STATE || written[launch->buffers[i]];
        if (launch_reads(program, launch, i) && !launch_writes(program, launch, i) && !holds)
            return broken(
                program, number,
                arena_format(program->ir->arena, "reads buffer %u before it is written", launch->buffers[i]));
    }
    for (int i = 0; i < count; i++)
        if (launch_writes(program, launch, i)) written[launch->buffers[i]] = true;
    return true;
}

// Two planned temporaries that are live together must not share storage. They may where one dies in
// the launch that makes the other, in the same place: an elementwise launch that works in place.
static bool verify_storage(const Program *program) {
    for (size_t i = 0; i < program->buffers.count; i++) {
        const Buffer *a = &program->buffers.items[i];
        if (a->kind != BUFFER_TEMPORARY || a->offset < 0 || a->bytes == 0) continue;
        for (size_t j = 0; j < i; j++) {
            const Buffer *b = &program->buffers.items[j];
            if (b->kind != BUFFER_TEMPORARY || b->offset < 0 || b->bytes == 0) continue;
            if (a->offset + a->bytes <= b->offset || b->offset + b->bytes <= a->offset) continue;
            if (a->last < b->first || b->last < a->first) continue;
            if (a->offset == b->offset && (a->last == b->first || b->last == a->first)) continue;
            return report_error(program->ir->diagnostics, NO_PLACE, "E0411",
                                "program %s: buffers %zu and %zu are live together in one place",
                                program->name, j, i);
        }
    }
    return true;
}

bool program_verify(const Program *program) {
    bool *written = ARENA_ARRAY(program->ir->arena, bool, program->buffers.count + 1);
    for (size_t i = 0; i < program->kernels.count; i++) {
        const Kernel *kernel = &program->kernels.items[i];
        if (kernel->nest && !nest_verify(program->ir, kernel->nest)) return false;
    }
    for (size_t i = 0; i < program->launches.count; i++)
        if (!verify_launch(program, i, written)) return false;
    for (size_t i = 0; i < program->buffers.count; i++)
        if (program->buffers.items[i].kind == BUFFER_OUTPUT && !written[i])
            return report_error(program->ir->diagnostics, NO_PLACE, "E0411",
                                "program %s: output %s is never written", program->name,
                                program->buffers.items[i].name);
    return program->buffers.count > 4000 || verify_storage(program);
}

// ---- Named kernels ----

const Option *named_kernel_option(const NamedKernel *named, const char *name) {
    for (uint32_t i = 0; i < named->option_count; i++)
        if (strcmp(named->options[i].name, name) == 0) return &named->options[i];
    return NULL;
}

double named_kernel_number(const NamedKernel *named, const char *name) {
    const Option *option = named_kernel_option(named, name);
    return option && !option->text ? option->number : 0;
}

int named_kernel_dimension(const Type *type, const char *name) {
    for (int d = 0; d < type->rank; d++)
        if (name && strcmp(type->dimensions[d].name, name) == 0) return d;
    return -1;
}

int64_t named_kernel_stride(const NamedKernel *named, int operand, const char *name) {
    int d = named_kernel_dimension(named->types[operand], name);
    return d < 0 ? 0 : named->strides[operand][d];
}

// The dimension that both have with different extents, or -1.
static int extent_apart(const Type *a, const Type *b) {
    for (int d = 0; d < a->rank; d++) {
        int at = named_kernel_dimension(b, a->dimensions[d].name);
        if (at >= 0 && a->dimensions[d].extent != b->dimensions[at].extent) return d;
    }
    return -1;
}

// As the composite calls it.
static const char *operand_name(const NamedKernel *named, int operand) {
    const Graph *meaning = named->meaning;
    if (!meaning) return "an operand";
    if (operand >= named->output_start) return meaning->outputs.items[operand - named->output_start].name;
    return attribute_text(graph_node(meaning, meaning->inputs.items[operand]), ATTRIBUTE_name);
}

static bool element_fits(char letter, Element element) {
    if (letter == 'i') return element == ELEMENT_I32;
    return element == ELEMENT_F32 || (letter == 'x' && element == ELEMENT_BF16);
}

const char *named_kernel_misfit(Arena *arena, const NamedKernel *named, const char *elements, int sized) {
    int inputs = (int)strcspn(elements, ":"), results = (int)strlen(elements) - inputs - 1;
    int start = named->output_start, count = named->operand_count;
    if (start < inputs || count - start != results)
        return arena_format(arena, "takes %d operands and gives %d results, found %d and %d", inputs, results, start,
                            count - start);
    for (int i = 0; i < count; i++) {
        char letter = i < inputs ? elements[i] : i < start ? 0 : elements[i - start + inputs + 1];
        if (letter && !element_fits(letter, named->types[i]->element))
            return arena_format(arena, "%s %s as %s, found %s", i < start ? "takes" : "gives", operand_name(named, i),
                                letter == 'i' ? "i32" : letter == 's' ? "f32" : "f32 or bf16",
                                element_name(named->types[i]->element));
        for (int j = 0; j < i; j++) {
            bool both = (i < sized || i >= start) && (j < sized || j >= start);
            int apart = both ? extent_apart(named->types[i], named->types[j]) : -1;
            if (apart >= 0)
                return arena_format(arena, "wants one extent of %s, found %lld in %s and another in %s",
                                    named->types[i]->dimensions[apart].name,
                                    (long long)named->types[i]->dimensions[apart].extent, operand_name(named, i),
                                    operand_name(named, j));
        }
    }
    return NULL;
}

uint32_t named_kernel_extent(const NamedKernel *named, int regular, const char *bound) {
    const char *seen[NEST_OPERAND_MAX * RANK_MAX];
    int count = 0;
    for (int i = 0; bound && i < regular; i++)
        for (int d = 0; d < named->types[i]->rank; d++) {
            const char *other = named->types[i]->dimensions[d].bound;
            bool known = !other;
            for (int s = 0; s < count && !known; s++) known = strcmp(seen[s], other) == 0;
            if (!known) seen[count++] = other;
        }
    for (int s = 0; s < count; s++)
        if (strcmp(seen[s], bound) == 0 && regular + s < named->output_start) return (uint32_t)(regular + s);
    return UINT32_MAX;
}
