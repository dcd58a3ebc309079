// The cases: small odd extents, other orders, broadcast and batch dimensions, extremes. Expected numbers
// come from outside: worked by hand, or by another program.
// clang-format off: a table, one case a line
#include "tests/op_cases.h"

#define CASE(op_, name_, operands_, attributes_, values_, result_, expected_) \
    {.op = OP_##op_,                                                          \
     .name = name_,                                                           \
     .operands = operands_,                                                   \
     .attributes = attributes_,                                               \
     .values = values_,                                                       \
     .result = result_,                                                       \
     .expected = expected_},
#define FLAGGED(flags_, op_, name_, operands_, attributes_, values_, result_, expected_) \
    {.op = OP_##op_,                                                                     \
     .name = name_,                                                                      \
     .operands = operands_,                                                              \
     .attributes = attributes_,                                                          \
     .values = values_,                                                                  \
     .result = result_,                                                                  \
     .expected = expected_,                                                              \
     .flags = flags_},

// A unary op over floats: `values` and `extremes` are points of its domain.
#define UNARY(op_, values_, expected_, extremes_)                                                          \
    CASE(op_, "points", "f32[a=3]", "", values_, "f32[a=3]", expected_)                                   \
    CASE(op_, "double", "f64[a=3, b=1, c=5]", "", "0.3..2.7", "f64[a=3, b=1, c=5]", NULL)                 \
    CASE(op_, "bounded", "f32[a=3, time<=8:length]", "", "0.3..2.7", "f32[a=3, time<=8:length]", NULL)    \
    FLAGGED(CASE_EXTREME, op_, "extreme", "f32[a=4]", "", extremes_, "f32[a=4]", NULL)

// A binary op over floats whose operands agree, are broadcast on either side, or stand in another order.
#define BINARY(op_, f32, f64, left, right, expected_)                                                      \
    CASE(op_, "points", "f32[a=3]; f32[a=3]", "", left ";" right, f32 "[a=3]", expected_)                 \
    CASE(op_, "right", "f32[a=3, b=5]; f32[b=5]", "", "0.3..2.7; 0.3..2.7", f32 "[a=3, b=5]", NULL)       \
    CASE(op_, "left", "f32[b=5]; f32[a=3, b=5, c=2]", "", "0.3..2.7; 0.3..2.7", f32 "[a=3, b=5, c=2]",    \
         NULL)                                                                                             \
    CASE(op_, "order", "f64[a=3, b=5]; f64[b=5, a=3]", "", "0.3..2.7; 0.3..2.7", f64 "[a=3, b=5]", NULL)  \
    CASE(op_, "scalar", "f32[a=3]; f32[]", "", "; [1.25]", f32 "[a=3]", NULL)                             \
    CASE(op_, "bounded", "f32[time<=8:length, a=3]; f32[time<=8:length]", "", "0.3..2.7; 0.3..2.7",       \
         f32 "[time<=8:length, a=3]", NULL)                                                                \
    FLAGGED(CASE_EXTREME | CASE_NO_DIFFERENCES, op_, "extreme", "f32[a=4]; f32[a=4]", "",                 \
            "[-100 100 0 100]; [100 -100 100 100]", f32 "[a=4]", NULL)

// A binary op over integers.
#define INTEGER(op_, element, left, right, expected_)                                                      \
    CASE(op_, "points", element "[a=4]; " element "[a=4]", "", left ";" right, element "[a=4]", expected_) \
    CASE(op_, "broadcast", element "[a=3, b=5]; " element "[a=3]", "", "0..9; 1..4", element "[a=3, b=5]", NULL)

const OpCase op_cases[] = {
    CASE(input, "float", "f32[a=2, b=3]", "", "", "f32[a=2, b=3]", NULL)
    CASE(input, "bounded", "i32[time<=8:length]", "", "", "i32[time<=8:length]", NULL)
    CASE(constant, "float", "", "value=1.5, element=f32", "", "f32[]", "1.5")
    CASE(constant, "integer", "", "value=-7, element=i64", "", "i64[]", "-7")
    CASE(constant, "bool", "", "value=1, element=bool", "", "bool[]", "1")
    CASE(index, "static", "", "dimensions=(time=5)", "", "i32[time=5]", "0 1 2 3 4")
    CASE(index, "one", "", "dimensions=(a=1)", "", "i32[a=1]", "0")
    CASE(random, "vector", "i64[]", "dimensions=(a=2, b=3), site=trunk_w_0_1", "[7]", "f32[a=2, b=3]",
         "0.21086853742599487 0.15908044576644897 0.31491684913635254 0.2548447251319885 0.13664138317108154 "
         "0.8983927369117737")
    CASE(random, "negative", "i64[]", "dimensions=(a=3), site=drop", "[-3]", "f32[a=3]",
         "0.6979357004165649 0.08487606048583984 0.12787556648254395")
    CASE(random, "large", "i64[]", "dimensions=(a=3), site=drop", "[8589934597]", "f32[a=3]",
         "0.9214069247245789 0.9427709579467773 0.5852071046829224")

    BINARY(add, "f32", "f64", "[1 -2 0.5]", "[0.25 5 -1]", "1.25 3 -0.5")
    CASE(add, "wraps", "i32[a=2]; i32[a=2]", "", "[2147483647 -5]; [1 3]", "i32[a=2]", "-2147483648 -2")
    BINARY(sub, "f32", "f64", "[1 -2 0.5]", "[0.25 5 -1]", "0.75 -7 1.5")
    BINARY(mul, "f32", "f64", "[1 -2 0.5]", "[0.25 5 -1]", "0.25 -10 -0.5")
    CASE(mul, "wraps", "i32[a=2]; i32[a=2]", "", "[65536 -5]; [65537 3]", "i32[a=2]", "65536 -15")
    BINARY(div, "f32", "f64", "[1 -2 0.5]", "[0.25 5 -1]", "4 -0.4 -0.5")
    CASE(div, "integers", "i32[a=5]; i32[a=5]", "", "[7 -7 7 5 -2147483648]; [2 2 -2 0 -1]", "i32[a=5]",
         "3 -3 -3 0 -2147483648")
    INTEGER(rem, "i32", "[7 -7 7 5]", "[3 3 -3 0]", "1 -1 1 0")
    BINARY(max, "f32", "f64", "[1 -2 0.5]", "[0.25 5 -1]", "1 5 0.5")
    FLAGGED(CASE_NO_DIFFERENCES, max, "equal", "f32[a=2]; f32[a=2]", "", "[1 2]; [1 2]", "f32[a=2]", "1 2")
    BINARY(min, "f32", "f64", "[1 -2 0.5]", "[0.25 5 -1]", "0.25 -2 -1")
    UNARY(neg, "[0 1 -2.5]", "0 -1 2.5", "[-100 0 100 1]")
    CASE(abs, "points", "f32[a=3]", "", "[0.5 1 -2.5]", "f32[a=3]", "0.5 1 2.5")
    CASE(abs, "order", "f64[a=3, b=5]", "", "", "f64[a=3, b=5]", NULL)
    FLAGGED(CASE_EXTREME | CASE_NO_DIFFERENCES, abs, "extreme", "f32[a=3]", "", "[0 -100 100]", "f32[a=3]",
            "0 100 100")
    UNARY(floor, "[0.5 1.25 -2.5]", "0 1 -3", "[-100.5 0.5 99.5 1.5]")
    BINARY(lt, "bool", "bool", "[1 -2 0.5]", "[1 5 -1]", "0 1 0")
    BINARY(le, "bool", "bool", "[1 -2 0.5]", "[1 5 -1]", "1 1 0")
    BINARY(eq, "bool", "bool", "[1 -2 0.5]", "[1 5 -1]", "1 0 0")
    BINARY(ne, "bool", "bool", "[1 -2 0.5]", "[1 5 -1]", "0 1 1")
    CASE(lt, "integers", "i32[a=3]; i32[]", "", "[1 2 3]; [2]", "bool[a=3]", "1 0 0")
    INTEGER(and, "i32", "[12 -1 5 0]", "[10 7 2 1]", "8 7 0 0")
    CASE(and, "bool", "bool[a=4]; bool[a=4]", "", "[0 0 1 1]; [0 1 0 1]", "bool[a=4]", "0 0 0 1")
    INTEGER(or, "i32", "[12 -1 5 0]", "[10 7 2 1]", "14 -1 7 1")
    CASE(or, "bool", "bool[a=4]; bool[a=4]", "", "[0 0 1 1]; [0 1 0 1]", "bool[a=4]", "0 1 1 1")
    INTEGER(xor, "i32", "[12 -1 5 0]", "[10 7 2 1]", "6 -8 7 1")
    CASE(xor, "bool", "bool[a=4]; bool[a=4]", "", "[0 0 1 1]; [0 1 0 1]", "bool[a=4]", "0 1 1 0")
    CASE(not, "points", "bool[a=2]", "", "[0 1]", "bool[a=2]", "1 0")
    CASE(not, "matrix", "bool[a=3, b=5]", "", "", "bool[a=3, b=5]", NULL)
    INTEGER(shl, "i32", "[1 3 -1 1]", "[4 31 1 0]", "16 -2147483648 -2 1")
    CASE(shl, "wide", "i64[a=2]; i32[]", "", "[1 3]; [40]", "i64[a=2]", "1099511627776 3298534883328")
    INTEGER(shr, "i32", "[16 -1 -1 1]", "[4 31 1 0]", "1 1 2147483647 1")
    CASE(shr, "wide", "i64[a=2]; i32[]", "", "[1099511627776 -1]; [40]", "i64[a=2]", "1 16777215")
    CASE(select, "points", "bool[a=3]; f32[a=3]; f32[a=3]", "", "[1 0 1]; [1 2 3]; [4 5 6]", "f32[a=3]",
         "1 5 3")
    CASE(select, "broadcast", "bool[a=3]; f32[]; f32[b=2, a=3]", "", "", "f32[b=2, a=3]", NULL)
    CASE(select, "condition", "bool[b=2, a=3]; f32[a=3]; f32[]", "", "", "f32[b=2, a=3]", NULL)
    CASE(select, "integers", "bool[a=3]; i32[]; i32[a=3]", "", "[1 0 1]; [9]; [4 5 6]", "i32[a=3]", "9 5 9")
    UNARY(exp, "[0 1 -1]", "1 2.718281828459045 0.36787944117144233", "[-100 0 80 -1000]")
    UNARY(log, "[1 2 0.5]", "0 0.6931471805599453 -0.6931471805599453", "[100 1e-30 1e30 1]")
    UNARY(sin, "[0 1 -2]", "0 0.8414709848078965 -0.9092974268256817", "[-100 0 100 1000]")
    UNARY(cos, "[0 1 -2]", "1 0.5403023058681398 -0.4161468365471424", "[-100 0 100 1000]")
    UNARY(tanh, "[0 1 -2]", "0 0.7615941559557649 -0.9640275800758169", "[-100 0 100 1e-6]")
    UNARY(erf, "[0 1 -2]", "0 0.8427007929497149 -0.9953222650189527", "[-100 0 100 1e-6]")
    UNARY(sqrt, "[1 2 0.25]", "1 1.4142135623730951 0.5", "[100 1e-12 1e12 1]")
    UNARY(rsqrt, "[1 2 0.25]", "1 0.7071067811865475 2", "[100 1e-6 1e12 1]")
    CASE(cast, "float", "f32[a=3]", "element=f64", "[1.5 -2 0]", "f64[a=3]", "1.5 -2 0")
    CASE(cast, "truncates", "f32[a=4]", "element=i32", "[1.9 -1.9 0.5 -0.5]", "i32[a=4]", "1 -1 0 0")
    CASE(cast, "bool", "f32[a=3]", "element=bool", "[1.5 0 -0.25]", "bool[a=3]", "1 0 1")
    CASE(cast, "from bool", "bool[a=2, b=2]", "element=f32", "[1 0 0 1]", "f32[a=2, b=2]", "1 0 0 1")
    CASE(cast, "wraps", "i64[a=2]", "element=i32", "[4294967297 -1]", "i32[a=2]", "1 -1")

    CASE(dot, "matrix", "f32[row=2, k=3]; f32[k=3, column=2]", "over=(k)", "[1 2 3 4 5 6]; [1 0 2 -1 3 1]",
         "f32[row=2, column=2]", "14 1 32 1")
    CASE(dot, "transposed", "f32[k=5, row=3]; f32[column=2, k=5]", "over=(k)", "", "f32[row=3, column=2]", NULL)
    CASE(dot, "batched", "f32[batch=2, row=3, k=5]; f32[k=5, batch=2, column=7]", "over=(k)", "",
         "f32[batch=2, row=3, column=7]", NULL)
    CASE(dot, "two", "f64[row=3, heads=2, key=5]; f64[heads=2, key=5, embed=3]", "over=(heads, key)", "",
         "f64[row=3, embed=3]", NULL)
    CASE(dot, "other order", "f32[row=3, a=2, b=5]; f32[b=5, column=3, a=2]", "over=(b, a)", "",
         "f32[row=3, column=3]", NULL)
    CASE(dot, "vector", "f32[k=4]; f32[k=4]", "over=(k)", "[1 2 3 4]; [2 -1 0.5 1]", "f32[]", "5.5")
    CASE(dot, "row sums", "f32[row=3, k=4]; f32[row=3, k=4]", "over=(k)", "", "f32[row=3]", NULL)
    CASE(dot, "free between", "f32[a=2, batch=3, k=4]; f32[k=4, batch=3]", "over=(k)", "", "f32[a=2, batch=3]",
         NULL)
    CASE(dot, "outer", "f32[a=2]; f32[b=3]", "over=()", "[1 2]; [3 4 5]", "f32[a=2, b=3]", "3 4 5 6 8 10")
    CASE(dot, "bounded rows", "f32[time<=8:length, k=5]; f32[k=5, b=2]", "over=(k)", "", "f32[time<=8:length, b=2]",
         NULL)
    CASE(dot, "bounded sum", "f32[time<=8:length, a=3]; f32[time<=8:length, b=2]", "over=(time)", "",
         "f32[a=3, b=2]", NULL)
    CASE(dot, "bf16", "bf16[row=3, k=5]; bf16[k=5, column=2]", "over=(k)", "[1 2 -1]; [0.5 1 2]",
         "f32[row=3, column=2]", NULL)
    CASE(sum, "one", "f32[a=2, b=3]", "over=(b)", "[1 2 3 4 5 6]", "f32[a=2]", "6 15")
    CASE(sum, "front", "f32[a=2, b=3]", "over=(a)", "[1 2 3 4 5 6]", "f32[b=3]", "5 7 9")
    CASE(sum, "all", "f64[a=3, b=5, c=2]", "over=(c, a, b)", "", "f64[]", NULL)
    CASE(sum, "none", "f32[a=3]", "over=()", "", "f32[a=3]", NULL)
    CASE(sum, "integers", "i32[a=3, b=2]", "over=(a)", "[1 2 3 4 5 6]", "i32[b=2]", "9 12")
    CASE(sum, "bounded", "f32[a=3, time<=8:length]", "over=(time)", "", "f32[a=3]", NULL)
    CASE(sum, "bf16", "bf16[a=2, b=2]", "over=(b)", "[1 2 3 4]", "bf16[a=2]", "3 7")
    CASE(max_over, "one", "f32[a=2, b=3]", "over=(b)", "[1 -2 3 -4 -5 -6]", "f32[a=2]", "3 -4")
    CASE(max_over, "two", "f64[a=3, b=5, c=2]", "over=(a, c)", "", "f64[b=5]", NULL)
    CASE(max_over, "integers", "i32[a=3]", "over=(a)", "[-3 -1 -2]", "i32[]", "-1")
    CASE(max_over, "bounded", "f32[a=3, time<=8:length]", "over=(time)", "", "f32[a=3]", NULL)
    FLAGGED(CASE_EXTREME | CASE_NO_DIFFERENCES, max_over, "equal", "f32[a=2, b=4]", "over=(b)",
            "[1 1 0 1 100 -100 0 100]", "f32[a=2]", "1 100")
    CASE(top_k, "two", "f32[a=2, b=4]", "along=b, count=2", "[1 4 2 3 -1 -4 -2 -3]",
         "f32[a=2, b=2]; i32[a=2, b=2]", "4 3 -1 -2 1 3 0 2")
    CASE(top_k, "front", "f64[b=7, a=3]", "along=b, count=3", "", "f64[b=3, a=3]; i32[b=3, a=3]", NULL)
    CASE(top_k, "many", "f32[b=11, a=2]", "along=b, count=9", "", "f32[b=9, a=2]; i32[b=9, a=2]", NULL)
    CASE(top_k, "all", "f32[b=13]", "along=b, count=13", "", "f32[b=13]; i32[b=13]", NULL)
    FLAGGED(CASE_EXTREME | CASE_NO_DIFFERENCES, top_k, "ties", "f32[b=5]", "along=b, count=3", "[2 7 7 2 7]",
            "f32[b=3]; i32[b=3]", "7 7 7 1 2 4")
    FLAGGED(CASE_EXTREME | CASE_NO_DIFFERENCES, top_k, "ties of many", "f32[b=9]", "along=b, count=9",
            "[2 7 7 2 7 7 7 7 7]", "f32[b=9]; i32[b=9]", "7 7 7 7 7 7 7 2 2 1 2 4 5 6 7 8 0 3")
    CASE(top_k, "a great part", "f32[b=50, a=2]", "along=b, count=40", "", "f32[b=40, a=2]; i32[b=40, a=2]", NULL)

    CASE(rename, "one", "f32[a=2, b=3]", "from=(a), to=(c)", "[1 2 3 4 5 6]", "f32[c=2, b=3]", "1 2 3 4 5 6")
    CASE(rename, "swap", "f32[a=2, b=3]", "from=(a, b), to=(b, a)", "", "f32[b=2, a=3]", NULL)
    CASE(rename, "bounded", "f32[time<=8:length, b=3]", "from=(time), to=(past)", "", "f32[past<=8:length, b=3]",
         NULL)
    CASE(split, "middle", "f32[a=2, b=6, c=3]", "along=b, into=(x=2, y=3)", "", "f32[a=2, x=2, y=3, c=3]", NULL)
    CASE(split, "vector", "f32[a=6]", "along=a, into=(x=3, y=2)", "[1 2 3 4 5 6]", "f32[x=3, y=2]",
         "1 2 3 4 5 6")
    CASE(split, "three", "i32[a=12]", "along=a, into=(x=2, a=3, y=2)", "0..99", "i32[x=2, a=3, y=2]", NULL)
    CASE(merge, "adjacent", "f32[a=2, b=3, c=5]", "from=(b, c), along=d", "", "f32[a=2, d=15]", NULL)
    CASE(merge, "apart", "f32[a=2, b=3, c=5]", "from=(a, c), along=d", "", "f32[d=10, b=3]", NULL)
    CASE(merge, "turned", "f32[a=2, b=3]", "from=(b, a), along=a", "[1 2 3 4 5 6]", "f32[a=6]", "1 4 2 5 3 6")
    CASE(merge, "ones", "f32[a=1, b=3, c=1]", "from=(c, b, a), along=d", "", "f32[d=3]", NULL)
    CASE(transpose, "matrix", "f32[a=2, b=3]", "order=(b, a)", "[1 2 3 4 5 6]", "f32[b=3, a=2]", "1 4 2 5 3 6")
    CASE(transpose, "turn", "f64[a=2, b=3, c=5]", "order=(c, a, b)", "", "f64[c=5, a=2, b=3]", NULL)
    CASE(broadcast, "front", "f32[b=3]", "dimensions=(a=2)", "[1 2 3]", "f32[a=2, b=3]", "1 2 3 1 2 3")
    CASE(broadcast, "scalar", "f32[]", "dimensions=(a=2, b=3)", "", "f32[a=2, b=3]", NULL)
    CASE(broadcast, "bounded", "f32[time<=8:length]", "dimensions=(a=2)", "", "f32[a=2, time<=8:length]", NULL)
    CASE(slice, "middle", "f32[a=2, b=5]", "along=b, start=1, count=3", "[0 1 2 3 4 5 6 7 8 9]", "f32[a=2, b=3]",
         "1 2 3 6 7 8")
    CASE(slice, "front", "f64[a=5, b=3]", "along=a, start=0, count=2", "", "f64[a=2, b=3]", NULL)
    CASE(pick, "last", "f32[a=2, b=3]", "along=b, at=2", "[1 2 3 4 5 6]", "f32[a=2]", "3 6")
    CASE(pick, "front", "f32[layer=3, a=2, b=5]", "along=layer, at=1", "", "f32[a=2, b=5]", NULL)
    CASE(reverse, "vector", "f32[a=3]", "along=a", "[1 2 3]", "f32[a=3]", "3 2 1")
    CASE(reverse, "front", "f64[a=3, b=5]", "along=a", "", "f64[a=3, b=5]", NULL)
    CASE(shift, "forth", "f32[a=2, b=4]", "along=b, by=1", "[1 2 3 4 5 6 7 8]", "f32[a=2, b=4]",
         "0 1 2 3 0 5 6 7")
    CASE(shift, "back", "f32[a=4, b=3]", "along=a, by=-2", "", "f32[a=4, b=3]", NULL)
    CASE(shift, "out", "f32[a=4]", "along=a, by=-9", "", "f32[a=4]", "0 0 0 0")
    CASE(shift, "none", "f32[a=4]", "along=a, by=0", "", "f32[a=4]", NULL)
    FLAGGED(CASE_NO_GRADIENT, shift, "bounded", "f32[time<=8:length, b=3]", "along=time, by=2", "",
            "f32[time<=8:length, b=3]", NULL)
    CASE(pad, "both", "f32[a=2, b=2]", "along=b, start=1, count=4", "[1 2 3 4]", "f32[a=2, b=4]",
         "0 1 2 0 0 3 4 0")
    CASE(pad, "front", "f64[a=3, b=2]", "along=a, start=2, count=5", "", "f64[a=5, b=2]", NULL)
    CASE(concat, "two", "f32[a=2, b=1]; f32[a=2, b=2]", "along=b", "[1 2]; [3 4 5 6]", "f32[a=2, b=3]",
         "1 3 4 2 5 6")
    CASE(concat, "order", "f32[a=2, b=3]; f32[b=3, a=5]; f32[a=1, b=3]", "along=a", "", "f32[a=8, b=3]", NULL)
    CASE(concat, "one", "f32[a=3]", "along=a", "", "f32[a=3]", NULL)

    CASE(gather, "rows", "f32[vocab=3, embed=2]; i32[tokens=4]", "along=vocab", "[1 2 3 4 5 6]; [2 0 2 1]",
         "f32[tokens=4, embed=2]", "5 6 1 2 5 6 3 4")
    CASE(gather, "matrix", "f64[embed=3, vocab=5]; i32[batch=2, time=3]", "along=vocab", "; 0..5",
         "f64[batch=2, time=3, embed=3]", NULL)
    CASE(gather, "batched", "f32[time=3, batch=2, vocab=5]; i32[batch=2, time=3]", "along=vocab", "; 0..5",
         "f32[batch=2, time=3]", NULL)
    CASE(gather, "own name", "f32[a=2, b=5]; i32[a=2, b=3]", "along=b", "; 0..5", "f32[a=2, b=3]", NULL)
    CASE(gather, "bounded", "f32[vocab=5, embed=3]; i32[time<=8:length]", "along=vocab", "; 0..5",
         "f32[time<=8:length, embed=3]", NULL)
    CASE(gather, "scalar", "f32[vocab=5, embed=3]; i32[]", "along=vocab", "; [4]", "f32[embed=3]", NULL)
    CASE(scatter_add, "rows", "f32[vocab=3, embed=2]; i32[tokens=4]; f32[tokens=4, embed=2]", "along=vocab",
         "[0 0 1 1 0 0]; [2 0 2 1]; [1 2 3 4 5 6 7 8]", "f32[vocab=3, embed=2]", "3 4 8 9 6 8")
    CASE(scatter_add, "matrix", "f32[embed=3, vocab=5]; i32[batch=2, time=3]; f32[embed=3, batch=2, time=3]",
         "along=vocab", "; 0..5;", "f32[embed=3, vocab=5]", NULL)
    CASE(scatter_add, "batched", "f32[batch=2, vocab=5]; i32[time=3, batch=2]; f32[batch=2, time=3]", "along=vocab",
         "; 0..5;", "f32[batch=2, vocab=5]", NULL)
    CASE(scatter_add, "own name", "f32[a=2, b=5]; i32[a=2, b=3]; f32[a=2, b=3]", "along=b", "; 0..5;",
         "f32[a=2, b=5]", NULL)
    CASE(scatter, "rows", "f32[vocab=4, embed=2]; i32[tokens=2]; f32[tokens=2, embed=2]", "along=vocab",
         "[9 9 9 9 9 9 9 9]; [2 0]; [1 2 3 4]", "f32[vocab=4, embed=2]", "3 4 9 9 1 2 9 9")
    CASE(scatter, "columns", "f64[a=3, b=5]; i32[c=4]; f64[a=3, c=4]", "along=b", "; [4 0 3 1];", "f64[a=3, b=5]",
         NULL)
    CASE(compact, "some", "bool[rows=6]", "along=kept, name=kept", "[0 1 1 0 0 1]", "i32[kept<=6:kept]; i64[]", "1 2 5 3")
    CASE(compact, "none", "bool[rows=3]", "along=rows, name=n", "[0 0 0]", "i32[rows<=3:n]; i64[]", "0")
    CASE(compact, "all", "bool[rows=3]", "along=rows, name=n", "[1 1 1]", "i32[rows<=3:n]; i64[]", "0 1 2 3")
    CASE(compact, "part", "bool[rows=6]", "along=rows, name=n, start=1, count=2", "[0 1 1 0 1 1]",
         "i32[rows<=2:n]; i64[]", "2 4 2")
    CASE(compact, "last part", "bool[rows=6]", "along=rows, name=n, start=2, count=3", "[0 1 1 0 0 1]",
         "i32[rows<=3:n]; i64[]", "5 1")
    CASE(compact, "beyond", "bool[rows=6]", "along=rows, name=n, start=4, count=2", "[0 1 1 0 0 1]",
         "i32[rows<=2:n]; i64[]", "0")
    CASE(accumulate, "same", "f32[a=3]; f32[a=3]", "", "[1 2 3]; [10 20 30]", "f32[a=3]", "11 22 33")
    CASE(accumulate, "order", "f32[a=3, b=5]; f32[b=5, a=3]", "", "", "f32[a=3, b=5]", NULL)
    CASE(accumulate, "broadcast", "f32[a=3, b=5]; f32[b=5]", "", "", "f32[a=3, b=5]", NULL)
    CASE(accumulate, "at", "f32[layer=3, a=2]; f32[a=2]", "along=layer, at=1", "[1 2 3 4 5 6]; [10 20]",
         "f32[layer=3, a=2]", "1 2 13 24 5 6")
    CASE(accumulate, "at last", "f32[a=2, b=5, layer=3]; f32[b=5, a=2]", "along=layer, at=2", "",
         "f32[a=2, b=5, layer=3]", NULL)

    CASE(stop_gradient, "vector", "f32[a=3]", "", "[1 2 3]", "f32[a=3]", "1 2 3")
    CASE(stop_gradient, "integers", "i32[a=3, b=2]", "", "", "i32[a=3, b=2]", NULL)
    {.op = OP_call, .name = "scaled difference", .operands = "f32[a=3]; f32[a=3]", .values = "[1 2 3]; [3 2 0]",
     .result = "f32[a=3]; f32[]", .expected = "-2 0 3 1", .build = op_case_call},
    {.op = OP_call, .name = "nested", .operands = "f32[a=3]; f32[a=3]", .values = "[1 2 3]; [3 2 0]",
     .result = "f32[a=3]; f32[]", .expected = "-2 0 3 1", .build = op_case_call_nested},
    {.op = OP_stack, .name = "three entries", .operands = "f32[a=2]; f32[a=2]; f32[layer=2, a=2]; f32[row=2]",
     .values = "[1 2]; [0.5 1]; [2 3 10 100]; [1 -1]", .result = "f32[a=2]",
     // x = (x + 0.5|1) * w[layer] * g[row], for (layer, row) = (0, 0), (1, 1), (0, 1)
     .expected = "69 2997", .build = op_case_stack},
    {.op = OP_stack, .name = "core entered and left",
     .operands = "f32[a=2]; f32[a=2]; f32[layer=2, a=2]; f32[row=2]",
     .values = "[1 2]; [0.5 1]; [2 3 10 100]; [1 -1]", .result = "f32[a=2]",
     // x1 = (x0 + 0.5|1) * w[0]; then y = (x1 + r + 0.5|1) * w[1], x2 = y * r + x1, r = g[1] = -1
     .expected = "-22 -891", .build = op_case_stack_core},
    {.op = OP_stack, .name = "no entry", .operands = "f32[a=2]; f32[a=2]; f32[layer=2, a=2]; f32[row=2]",
     .values = "[1 2]; [0.5 1]; [2 3 10 100]; [1 -1]", .result = "f32[a=2]", .expected = "1 2",
     .build = op_case_stack_empty},
};

const int op_case_count = (int)(sizeof op_cases / sizeof op_cases[0]);
