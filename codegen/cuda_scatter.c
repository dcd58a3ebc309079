// Sums into gathered rows, without atomics: the gradient of an embedding.
//
//   for token (in order): p0[p1[token], embed] += ...      ->   k_a: links of tokens, k_b: a block for each token
//
// A thread of k_a looks at all tokens: whether an earlier one meets its token's row, and which is the next that does. A
// block of k_b whose row was met by an earlier token has nothing to do; any other owns its row and adds all tokens that
// meet it, from link to link, in ascending order, so that the bits are those of one thread.
#include "codegen/cuda_plan.h"

enum { BLOCK = 256, COMPARED = 16 };  // tokens that a thread compares in one go

typedef struct Scatter {
    CudaUnit *unit;
    const Nest *nest;
    const Stage *stage;
    int sequential[LOOP_MAX], sequential_count;  // the tokens
    int spread[LOOP_MAX], spread_count;          // the elements of a row
    int gathered;                                // dimension of the index
} Scatter;

static bool recognise(CudaUnit *unit, Scatter *scatter) {
    const Nest *nest = scatter->nest;
    const Stage *stage = &nest->stages[0];
    if (nest->stage_count != 1 || stage->kind != STAGE_ADD || stage->inner) return false;
    uint32_t sequential = 0;
    for (int loop = 0; loop < nest->outer_count; loop++) {
        if (nest->parallel >> loop & 1) {
            scatter->spread[scatter->spread_count++] = loop;
        } else {
            scatter->sequential[scatter->sequential_count++] = loop;
            sequential |= 1u << loop;
        }
    }
    const NestAnalysis *analysis = analyse_nest(unit->arena, nest);
    int count = 0;
    for (int d = 1; d < nest->operands[stage->operand].rank; d++) {
        if (stage->index[d].gathered == FORMULA_NONE) continue;
        if (analysis->loops[stage->index[d].gathered] & ~sequential) return false;
        scatter->gathered = d;
        count++;
    }
    // Two tokens meet where their index is the same, and nowhere else.
    bool apart = !(affine_loops(&stage->index[0].affine) & sequential);
    bool reads_itself = analysis->operands[stage->formula] >> stage->operand & 1;
    scatter->stage = stage;
    return count == 1 && apart && !reads_itself && scatter->sequential_count &&
           cuda_points(nest, sequential) < INT32_MAX;
}

// Declares `name`, the row of token `number`; -1 where there is none.
static void emit_row(const Scatter *scatter, const CudaScope *scope, const char *number, const char *name) {
    CudaUnit *unit = scatter->unit;
    uint32_t gathered = scatter->stage->index[scatter->gathered].gathered;
    cuda_line(unit, "%s %s = -1;", cuda_register_type(scatter->nest->formulas.items[gathered].element), name);
    cuda_open(unit, "if (%s < tokens)", number);
    CudaScope *inner = cuda_inner_scope((CudaScope *)scope);
    cuda_split_index(inner, number, scatter->sequential, scatter->sequential_count);
    const char *test = "";
    for (int i = 1; i < scatter->sequential_count; i++)
        if (scatter->nest->loops[scatter->sequential[i]].bound_operand != UINT32_MAX)
            test = cuda_text(unit, "%s%s%s < %s", test, *test ? " && " : "", inner->loop[scatter->sequential[i]],
                             cuda_extent(inner, scatter->sequential[i]));
    if (*test) cuda_open(unit, "if (%s)", test);
    cuda_line(unit, "%s = %s;", name, cuda_formula(inner, gathered));
    if (*test) cuda_close(unit);
    cuda_close(unit);
}

static const char *token_count(CudaScope *scope, const Scatter *scatter) {
    int64_t below = 1;
    for (int i = 1; i < scatter->sequential_count; i++)
        below *= scatter->nest->loops[scatter->sequential[i]].dimension.extent;
    const char *first = cuda_extent(scope, scatter->sequential[0]);
    return below == 1 ? first : cuda_text(scatter->unit, "%s * %lld", first, (long long)below);
}

static CudaScope *begin(const Scatter *scatter, const char *suffix, int64_t blocks, CudaPhase **phase) {
    CudaUnit *unit = scatter->unit;
    *phase = cuda_begin_function(unit, suffix, BLOCK);
    (*phase)->grid[0] = blocks;
    CudaScope *scope = cuda_scope(unit, unit->kernel->nest, scatter->nest, analyse_nest(unit->arena, scatter->nest));
    cuda_declare_bounds(scope);
    cuda_note_place(unit, scatter->stage->place);
    cuda_line(unit, "const int tokens = %s;", token_count(scope, scatter));
    return scope;
}

// The link of a token is the next one of its row, or `tokens`; its complement where an earlier one meets the row.
static void emit_links(const Scatter *scatter, int64_t tokens) {
    CudaUnit *unit = scatter->unit;
    CudaPhase *phase;
    CudaScope *scope = begin(scatter, "_a", cuda_divide_up(tokens, BLOCK), &phase);
    uint32_t gathered = scatter->stage->index[scatter->gathered].gathered;
    cuda_line(unit, "const int token = (int)blockIdx.x * %d + (int)threadIdx.x;", BLOCK);
    emit_row(scatter, scope, "token", "row");
    cuda_line(unit, "__shared__ __align__(16) %s rows[%d];",
              cuda_register_type(scatter->nest->formulas.items[gathered].element), BLOCK);
    cuda_line(unit, "bool met = row < 0;");
    cuda_line(unit, "int next = tokens;");
    cuda_open(unit, "for (int start = 0; start < tokens; start += %d)", BLOCK);
    cuda_line(unit, "const int j = start + (int)threadIdx.x;");
    emit_row(scatter, scope, "j", "other");
    cuda_line(unit, "__syncthreads();");
    cuda_line(unit, "rows[threadIdx.x] = other;");
    cuda_line(unit, "__syncthreads();");
    fprintf(unit->stream, "#pragma unroll %d\n", COMPARED);
    cuda_open(unit, "for (int i = 0; i < %d; i++)", BLOCK);
    cuda_line(unit, "const bool same = rows[i] == row;");
    cuda_line(unit, "met = met || (same && start + i < token);");
    cuda_line(unit, "next = same && start + i > token ? smaller(next, start + i) : next;");
    cuda_close(unit);
    cuda_close(unit);
    cuda_line(unit, "if (token < tokens) ((int *)workspace)[token] = met ? ~next : next;");
    cuda_close(unit);
}

static void emit_sums(const Scatter *scatter, CudaScope *scope, int64_t points) {
    CudaUnit *unit = scatter->unit;
    const char *type = cuda_register_type(scatter->stage->element);
    cuda_line(unit, "const int point = (int)blockIdx.y * %d + (int)threadIdx.x;", BLOCK);
    cuda_line(unit, "if (point >= %lld) return;", (long long)points);
    CudaScope *row = cuda_inner_scope(scope);
    cuda_split_index(row, "point", scatter->spread, scatter->spread_count);
    for (int i = 0; i < scatter->spread_count; i++)
        if (scatter->nest->loops[scatter->spread[i]].bound_operand != UINT32_MAX)
            cuda_line(unit, "if (%s >= %s) return;", row->loop[scatter->spread[i]],
                      cuda_extent(row, scatter->spread[i]));
    row->value[scatter->stage->index[scatter->gathered].gathered] = "row";
    const char *element = cuda_element(row, scatter->stage->operand, scatter->stage->index);
    cuda_line(unit, "%s sum = value_of(%s);", type, element);
    cuda_open(unit, "for (int other = token; other < tokens;)");
    cuda_line(unit, "const int link = links[other];");
    CudaScope *token = cuda_inner_scope(row);
    token->value[scatter->stage->index[scatter->gathered].gathered] = NULL;
    cuda_split_index(token, "other", scatter->sequential, scatter->sequential_count);
    const char *round = scatter->stage->element == ELEMENT_BF16 ? "round_bf16" : "";
    const char *value = cuda_formula(token, scatter->stage->formula);
    cuda_line(unit, "sum = %s(sum + %s);", round, value);
    cuda_line(unit, "other = link < 0 ? ~link : link;");
    cuda_close(unit);
    cuda_line(unit, "put(%s, sum);", element);
}

bool cuda_scatter_emit(CudaUnit *unit, const Nest *nest, bool *taken) {
    Scatter scatter = {.unit = unit, .nest = nest};
    *taken = recognise(unit, &scatter);
    if (!*taken) return true;
    int64_t points = 1, tokens = 1;
    for (int i = 0; i < scatter.spread_count; i++) points *= nest->loops[scatter.spread[i]].dimension.extent;
    for (int i = 0; i < scatter.sequential_count; i++)
        tokens *= nest->loops[scatter.sequential[i]].dimension.extent;
    emit_links(&scatter, tokens);
    CudaPhase *phase;
    CudaScope *scope = begin(&scatter, "_b", tokens, &phase);
    phase->grid[1] = cuda_divide_up(points, BLOCK);
    cuda_line(unit, "const int token = (int)blockIdx.x;");
    cuda_line(unit, "const int *links = (const int *)workspace;");
    cuda_line(unit, "if (token >= tokens || links[token] < 0) return;");
    emit_row(&scatter, scope, "token", "row");
    emit_sums(&scatter, scope, points);
    cuda_close(unit);
    unit->out->workspace_bytes = tokens * (int64_t)sizeof(int32_t);
    return true;
}
