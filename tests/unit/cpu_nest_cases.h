// Loop nests of every kind, for the tests that run generated code.
#ifndef CHERRY_TESTS_CPU_NEST_CASES_H
#define CHERRY_TESTS_CPU_NEST_CASES_H

#include "tests/nest_case.h"

static const Case nest_cases[] = {
    {.name = "elementwise", .text =
     "nest elementwise {\n  outer batch=3, time=5, embed=37\n  parallel batch, time, embed\n"
     "  operand 0: read f32 [3:185, 5:37, 37:1]\n  operand 1: read f32 [37:1]\n"
     "  operand 2: write f32 [3:185, 5:37, 37:1]\n"
     "  stage 0: store @2[batch, time, embed] { mul(add(@0[batch, time, embed], @1[embed]), 0.5:f32) }\n}\n"},
    {.name = "long elementwise",
     .text = "nest long {\n  outer n=100003\n  parallel n\n  operand 0: read f32 [100003:1]\n"
             "  operand 1: write f32 [100003:1]\n  stage 0: store @1[n] { add(@0[n], 1:f32) }\n}\n"},
    {.name = "softmax",
     .text = "nest softmax {\n  outer row=7\n  inner past=100\n  parallel row\n"
             "  operand 0: read f32 [7:100, 100:1]\n  operand 1: write f32 [7:100, 100:1]\n"
             "  stage 0: max over past { @0[row, past] }\n  let v0 = exp(sub(@0[row, past], stage 0))\n"
             "  stage 1: sum over past { v0 }\n  stage 2: store over past @1[row, past] { div(v0, stage 1) }\n}\n"},
    {.name = "rms_norm",
     .text = "nest rms_norm {\n  outer batch=2, time=3\n  inner embed=512\n  parallel batch, time\n"
             "  operand 0: read f32 [2:1536, 3:512, 512:1]\n  operand 1: write f32 [2:1536, 3:512, 512:1]\n"
             "  let v0 = @0[batch, time, embed]\n"
             "  stage 0: sum over embed { mul(v0, v0) }\n"
             "  let v1 = rsqrt(add(mul(stage 0, 0.001953125:f32), 1e-6:f32))\n"
             "  stage 1: store over embed @1[batch, time, embed] { mul(v0, v1) }\n}\n"},
    {.name = "column sum",
     .text = "nest columns {\n  outer embed=131\n  inner batch=5, time=9\n  parallel embed\n"
             "  operand 0: read f32 [5:1179, 9:131, 131:1]\n  operand 1: update f32 [131:1]\n"
             "  stage 0: sum over batch, time { @0[batch, time, embed] }\n"
             "  stage 1: add @1[embed] { stage 0 }\n}\n"},
    // With all tasks together: in steps of many vectors, of few, and a rest.
    {.name = "sums over rows, many columns", .tolerance = 1e-4,
     .text = "nest columns {\n  outer c=700\n  inner r=300\n  parallel c\n  operand 0: read f32 [300:700, 700:1]\n"
             "  operand 1: read f32 [300:1]\n  operand 2: write f32 [700:1]\n"
             "  stage 0: sum over r { mul(@0[r, c], @1[r]) }\n  stage 1: store @2[c] { stage 0 }\n}\n"},
    {.name = "sums over rows, columns counted at run time", .tolerance = 1e-4, .bounds = {600},
     .text = "nest columns {\n  outer c<=700:n@2\n  inner r=300\n  parallel c\n  operand 0: read f32 [300:700, 700:1]\n"
             "  operand 1: write f32 [700:1]\n  operand 2: read i64 []\n"
             "  stage 0: sum over r { @0[r, c] }\n  stage 1: store @1[c] { stage 0 }\n}\n"},
    // What rows of a block add up to: of a GPU's warps, of rows that stay in shared memory, and in order.
    {.name = "folded rows", .tolerance = 1e-4,
     .text = "nest folded {\n  outer block=3, row=8\n  inner embed=48\n  parallel block\n"
             "  operand 0: read f32 [24:48, 48:1]\n  operand 1: read f32 [24:48, 48:1]\n"
             "  operand 2: read f32 [24:1]\n  operand 3: write f32 [24:48, 48:1]\n"
             "  operand 4: update f32 [3:48, 48:1]\n  operand 5: update f32 [3:48, 48:1]\n"
             "  let v0 = mul(@0[8*block + row, embed], @1[8*block + row, embed])\n"
             "  stage 0: sum over embed { v0 }\n"
             "  stage 1: store over embed @3[8*block + row, embed] { mul(stage 0, v0) }\n"
             "  let v1 = eq(index(row), 0:i32)\n"
             "  stage 2: store over embed @4[block, embed] { add(select(v1, 0:f32, @4[block, embed]), "
             "mul(v0, @2[8*block + row])) }\n"
             "  stage 3: store over embed @5[block, embed] { add(select(v1, 0:f32, @5[block, embed]), "
             "@1[8*block + row, embed]) }\n}\n"},
    {.name = "folded rows that stay", .tolerance = 1e-4,
     .text = "nest folded {\n  outer block=256, row=8\n  inner embed=322\n  parallel block\n"
             "  operand 0: read f32 [2048:322, 322:1]\n  operand 1: read f32 [2048:322, 322:1]\n"
             "  operand 2: read f32 [2048:1]\n  operand 3: write f32 [2048:322, 322:1]\n"
             "  operand 4: update f32 [256:322, 322:1]\n  operand 5: update f32 [256:322, 322:1]\n"
             "  let v0 = mul(@0[8*block + row, embed], @1[8*block + row, embed])\n"
             "  stage 0: sum over embed { v0 }\n"
             "  stage 1: store over embed @3[8*block + row, embed] { mul(stage 0, v0) }\n"
             "  let v1 = eq(index(row), 0:i32)\n"
             "  stage 2: store over embed @4[block, embed] { add(select(v1, 0:f32, @4[block, embed]), "
             "mul(v0, @2[8*block + row])) }\n"
             "  stage 3: store over embed @5[block, embed] { add(select(v1, 0:f32, @5[block, embed]), "
             "@1[8*block + row, embed]) }\n}\n"},
    {.name = "folded rows in order", .tolerance = 1e-4,
     .text = "nest folded {\n  outer block=3, row=5\n  inner embed=48\n  parallel block\n"
             "  operand 0: read f32 [15:48, 48:1]\n  operand 1: read f32 [15:48, 48:1]\n"
             "  operand 2: read f32 [15:1]\n  operand 3: write f32 [15:48, 48:1]\n"
             "  operand 4: update f32 [3:48, 48:1]\n  operand 5: update f32 [3:48, 48:1]\n"
             "  let v0 = mul(@0[5*block + row, embed], @1[5*block + row, embed])\n"
             "  stage 0: sum over embed { v0 }\n"
             "  stage 1: store over embed @3[5*block + row, embed] { mul(stage 0, v0) }\n"
             "  let v1 = eq(index(row), 0:i32)\n"
             "  stage 2: store over embed @4[block, embed] { add(select(v1, 0:f32, @4[block, embed]), "
             "mul(v0, @2[5*block + row])) }\n"
             "  stage 3: store over embed @5[block, embed] { add(select(v1, 0:f32, @5[block, embed]), "
             "@1[5*block + row, embed]) }\n}\n"},
    {.name = "short rows",
     .text = "nest short {\n  outer n=50\n  inner k=4\n  parallel n\n  operand 0: read f32 [50:4, 4:1]\n"
             "  operand 1: write f32 [50:1]\n  stage 0: sum over k { @0[n, k] }\n"
             "  stage 1: store @1[n] { stage 0 }\n}\n"},
    {.name = "whole sum",
     .text = "nest whole {\n  inner a=17, b=33\n  operand 0: read f32 [17:33, 33:1]\n"
             "  operand 1: write f32 []\n  stage 0: sum over a, b { @0[a, b] }\n"
             "  stage 1: store @1[] { stage 0 }\n}\n", .tolerance = 1e-5},
    {.name = "sums of one",
     .text = "nest once {\n  outer n=4096\n  inner batch=1\n  parallel n\n  operand 0: read f32 [1:4096, 4096:1]\n"
             "  operand 1: update f32 [4096:1]\n  operand 2: write bf16 [4096:1]\n"
             "  stage 0: sum over batch { @0[batch, n] }\n  stage 1: max over batch { mul(@0[batch, n], 0.5:f32) }\n"
             "  stage 2: add @1[n] { stage 0 }\n  stage 3: store @2[n] { cast bf16(add(stage 0, stage 1)) }\n}\n"},
    {.name = "two sums",
     .text = "nest two {\n  outer row=9\n  inner k=77\n  parallel row\n  operand 0: read f32 [9:77, 77:1]\n"
             "  operand 1: read f32 [77:1]\n  operand 2: write f32 [9:77, 77:1]\n"
             "  stage 0: sum over k { mul(@0[row, k], @1[k]) }\n  stage 1: max over k { @0[row, k] }\n"
             "  stage 2: sum over k { @0[row, k] }\n"
             "  stage 3: store over k @2[row, k] { add(mul(@0[row, k], stage 0), sub(stage 1, stage 2)) }\n}\n",
     .tolerance = 1e-5},
    {.name = "reversed",
     .text = "nest reversed {\n  outer a=5, b=43\n  parallel a, b\n  operand 0: read f32 [5:43, 43:-1]\n"
             "  operand 1: write f32 [5:43, 43:1]\n  stage 0: store @1[a, b] { @0[a, b] }\n}\n"},
    {.name = "reversed store",
     .text = "nest reversed2 {\n  outer a=5, b=43\n  parallel a, b\n  operand 0: read f32 [5:43, 43:1]\n"
             "  operand 1: write f32 [5:43, 43:-1]\n  stage 0: store @1[a, b] { @0[a, b] }\n}\n"},
    {.name = "strided",
     .text = "nest strided {\n  outer a=5, b=43\n  parallel a, b\n  operand 0: read f32 [5:86, 43:2]\n"
             "  operand 1: write f32 [5:43, 43:1]\n  stage 0: store @1[a, b] { @0[a, b] }\n}\n"},
    {.name = "strided both",
     .text = "nest strided2 {\n  outer a=5, b=43\n  parallel a, b\n  operand 0: read f32 [5:86, 43:2]\n"
             "  operand 1: write f32 [5:129, 43:3]\n  stage 0: store @1[a, b] { @0[a, b] }\n}\n"},
    {.name = "transposed",
     .text = "nest transposed {\n  outer a=19, b=43\n  parallel a, b\n  operand 0: read f32 [19:1, 43:19]\n"
             "  operand 1: write f32 [19:43, 43:1]\n  stage 0: store @1[a, b] { @0[a, b] }\n}\n"},
    {.name = "shifted",
     .text = "nest shifted {\n  outer a=5, b=43\n  parallel a, b\n  operand 0: read f32 [5:43, 43:1]\n"
             "  operand 1: write f32 [5:43, 43:1]\n"
             "  stage 0: store @1[a, b] { select(le(2:i32, index(b)), @0[a, {sub(index(b), 2:i32)}], 0:f32) }\n}\n"},
    {.name = "padded rows",
     .text = "nest padded {\n  outer a=9, b=20\n  parallel a, b\n  operand 0: read f32 [4:20, 20:1]\n"
             "  operand 1: write f32 [9:20, 20:1]\n"
             "  stage 0: store @1[a, b] { select(and(le(3:i32, index(a)), lt(index(a), 7:i32)), "
             "@0[{sub(index(a), 3:i32)}, b], 0:f32) }\n}\n"},
    {.name = "gather rows",
     .text = "nest gather {\n  outer token=11, embed=50\n  parallel token, embed\n  operand 0: read f32 [30:50, 50:1]\n"
             "  operand 1: read i32 [11:1]\n  operand 2: write f32 [11:50, 50:1]\n"
             "  stage 0: store @2[token, embed] { @0[{@1[token]}, embed] }\n}\n", .limit = 30},
    {.name = "gather elements",
     .text = "nest gather1 {\n  outer row=5, n=39\n  parallel row, n\n  operand 0: read f32 [5:30, 30:1]\n"
             "  operand 1: read i32 [5:39, 39:1]\n  operand 2: write f32 [5:39, 39:1]\n"
             "  stage 0: store @2[row, n] { @0[row, {@1[row, n]}] }\n}\n", .limit = 30},
    {.name = "gather guarded",
     .text = "nest gather2 {\n  outer n=39\n  parallel n\n  operand 0: read f32 [30:1]\n"
             "  operand 1: read i64 [39:1]\n  operand 2: write f32 [39:1]\n  let v0 = @1[n]\n"
             "  stage 0: store @2[n] { select(lt(v0, 30:i64), @0[{v0}], -1:f32) }\n}\n", .limit = 300000000},
    {.name = "scatter add",
     .text = "nest scatter {\n  outer token=40, embed=50\n  parallel embed\n  operand 0: update f32 [30:50, 50:1]\n"
             "  operand 1: read i32 [40:1]\n  operand 2: read f32 [40:50, 50:1]\n"
             "  stage 0: add @0[{@1[token]}, embed] { @2[token, embed] }\n}\n", .limit = 30},
    // Rows that tokens meet from far apart; times that are none, in every batch.
    {.name = "scatter add far", .tolerance = 1e-5, .bounds = {290},
     .text = "nest scatter {\n  outer batch=2, time<=300:n@3, embed=260\n  parallel embed\n"
             "  operand 0: update f32 [97:260, 260:1]\n  operand 1: read i32 [2:300, 300:1]\n"
             "  operand 2: read f32 [2:78000, 300:260, 260:1]\n  operand 3: read i64 []\n"
             "  stage 0: add @0[{@1[batch, time]}, embed] { @2[batch, time, embed] }\n}\n", .limit = 97},
    {.name = "scatter add elements",
     .text = "nest scatter1 {\n  outer row=40\n  operand 0: update f32 [30:1]\n"
             "  operand 1: read i32 [40:1]\n  operand 2: read f32 [40:1]\n"
             "  stage 0: add @0[{@1[row]}] { @2[row] }\n}\n", .limit = 30},
    {.name = "bounded elementwise",
     .text = "nest bounded {\n  outer time<=37:length@0, embed=21\n  parallel time, embed\n  operand 0: read i64 []\n"
             "  operand 1: read f32 [37:21, 21:1]\n  operand 2: write f32 [37:21, 21:1]\n"
             "  stage 0: store @2[time, embed] { exp(@1[time, embed]) }\n}\n", .bounds = {29}},
    {.name = "bounded vector",
     .text = "nest bounded1 {\n  outer time<=370:length@0\n  parallel time\n  operand 0: read i64 []\n"
             "  operand 1: read f32 [370:1]\n  operand 2: write f32 [370:1]\n"
             "  stage 0: store @2[time] { exp(@1[time]) }\n}\n", .bounds = {129}},
    {.name = "bounded empty",
     .text = "nest bounded0 {\n  outer time<=370:length@0\n  parallel time\n  operand 0: read i64 []\n"
             "  operand 1: read f32 [370:1]\n  operand 2: write f32 [370:1]\n"
             "  stage 0: store @2[time] { exp(@1[time]) }\n}\n", .bounds = {0}},
    {.name = "bounded softmax",
     .text = "nest softmax {\n  outer row=7\n  inner past<=200:length@2\n  parallel row\n"
             "  operand 0: read f32 [7:200, 200:1]\n  operand 1: write f32 [7:200, 200:1]\n"
             "  operand 2: read i64 []\n"
             "  stage 0: max over past { @0[row, past] }\n  let v0 = exp(sub(@0[row, past], stage 0))\n"
             "  stage 1: sum over past { v0 }\n  stage 2: store over past @1[row, past] { div(v0, stage 1) }\n}\n",
     .bounds = {100}},
    {.name = "bounded columns",
     .text = "nest columns {\n  outer embed=131\n  inner time<=60:length@2\n  parallel embed\n"
             "  operand 0: read f32 [60:131, 131:1]\n  operand 1: update f32 [131:1]\n  operand 2: read i64 []\n"
             "  stage 0: sum over time { @0[time, embed] }\n  stage 1: add @1[embed] { stage 0 }\n}\n",
     .bounds = {41}},
    {.name = "bits",
     .text = "nest bits {\n  outer n=45\n  parallel n\n  operand 0: read i32 [45:1]\n  operand 1: read i32 [45:1]\n"
             "  operand 2: write i32 [45:1]\n  let v0 = xor(@0[n], shl(@1[n], 5:i32))\n"
             "  stage 0: store @2[n] { sub(or(and(v0, 65535:i32), shr(v0, 3:i32)), mul(v0, 2654435:i32)) }\n}\n"},
    {.name = "division",
     .text = "nest division {\n  outer n=45\n  parallel n\n  operand 0: read i32 [45:1]\n  operand 1: read i32 [45:1]\n"
             "  operand 2: write i32 [45:1]\n  let v0 = sub(rem(@1[n], 7:i32), 3:i32)\n"
             "  stage 0: store @2[n] { add(div(@0[n], v0), rem(@0[n], v0)) }\n}\n"},
    {.name = "wide integers",
     .text = "nest wide {\n  outer n=45\n  parallel n\n  operand 0: read i64 [45:1]\n  operand 1: read i32 [45:1]\n"
             "  operand 2: write i64 [45:1]\n  let v0 = mul(@0[n], cast i64(@1[n]))\n"
             "  stage 0: store @2[n] { max(abs(v0), sub(shr(v0, 60:i64), neg(@0[n]))) }\n}\n"},
    {.name = "casts",
     .text = "nest casts {\n  outer n=45\n  parallel n\n  operand 0: read f32 [45:1]\n  operand 1: read bool [45:1]\n"
             "  operand 2: write i32 [45:1]\n  operand 3: write f64 [45:1]\n  operand 4: write bool [45:1]\n"
             "  operand 5: write i64 [45:1]\n"
             "  stage 0: store @2[n] { cast i32(mul(@0[n], 1000:f32)) }\n"
             "  stage 1: store @3[n] { add(cast f64(@0[n]), cast f64(@1[n])) }\n"
             "  stage 2: store @4[n] { xor(@1[n], lt(@0[n], 0:f32)) }\n"
             "  stage 3: store @5[n] { select(not(@1[n]), cast i64(floor(mul(@0[n], 9:f32))), cast i64(@1[n])) }\n}\n"},
    {.name = "half precision",
     .text = "nest half {\n  outer row=3\n  inner n=77\n  parallel row\n  operand 0: read bf16 [3:77, 77:1]\n"
             "  operand 1: write bf16 [3:77, 77:1]\n  operand 2: write f32 [3:1]\n"
             "  stage 0: sum over n { cast f32(@0[row, n]) }\n  stage 1: store @2[row] { stage 0 }\n"
             "  stage 2: store over n @1[row, n] { mul(@0[row, n], cast bf16(stage 0)) }\n}\n"},
    {.name = "doubles",
     .text = "nest doubles {\n  outer row=3\n  inner n=77\n  parallel row\n  operand 0: read f64 [3:77, 77:1]\n"
             "  operand 1: write f64 [3:77, 77:1]\n  stage 0: sum over n { exp(@0[row, n]) }\n"
             "  stage 1: store over n @1[row, n] { div(tanh(@0[row, n]), stage 0) }\n}\n", .tolerance = 1e-14},
    {.name = "integer sums",
     .text = "nest counts {\n  outer row=3\n  inner n=77\n  parallel row\n  operand 0: read i32 [3:77, 77:1]\n"
             "  operand 1: write i32 [3:1]\n  operand 2: write i32 [3:1]\n  stage 0: sum over n { @0[row, n] }\n"
             "  stage 1: max over n { @0[row, n] }\n  stage 2: store @1[row] { stage 0 }\n"
             "  stage 3: store @2[row] { stage 1 }\n}\n"},
    {.name = "product without rows",
     .text = "nest matvec {\n  outer n=75\n  inner k=60\n  parallel n\n  operand 0: read f32 [60:1]\n"
             "  operand 1: read f32 [60:75, 75:1]\n  operand 2: write f32 [75:1]\n"
             "  stage 0: sum over k { mul(@0[k], @1[k, n]) }\n  stage 1: store @2[n] { stage 0 }\n}\n",
     .tolerance = 1e-5},
    {.name = "index values",
     .text = "nest index {\n  outer a=5, b=43\n  parallel a, b\n  operand 0: write f32 [5:43, 43:1]\n"
             "  stage 0: store @0[a, b] { cast f32(add(index(43*a + b), mul(index(b), 3:i32))) }\n}\n"},
    {.name = "sum of indices",  // known as the code is made, more than one vector of them
     .text = "nest index_sum {\n  inner n=33\n  operand 0: write f32 []\n  operand 1: write f32 []\n"
             "  stage 0: sum over n { cast f32(le(9:i32, index(n))) }\n  stage 1: max over n { cast f32(index(n)) }\n"
             "  stage 2: store @0[] { stage 0 }\n  stage 3: store @1[] { stage 1 }\n}\n"},
    {.name = "sequential store",
     .text = "nest last {\n  outer a=5, b=43\n  parallel b\n  operand 0: read f32 [5:43, 43:1]\n"
             "  operand 1: update f32 [43:1]\n  stage 0: add @1[b] { @0[a, b] }\n}\n"},
    {.name = "rotary",
     .text = "nest rotary {\n  outer time=6, heads=3, half=2, pair=24\n  parallel time, heads, half, pair\n"
             "  operand 0: read f32 [6:144, 3:48, 24:1]\n  operand 1: read f32 [6:144, 3:48, 24:1]\n"
             "  operand 2: write f32 [6:144, 3:48, 2:24, 24:1]\n"
             "  let v0 = exp(mul(cast f32(index(pair)), -0.3:f32))\n"
             "  let v1 = mul(cast f32(index(time)), v0)\n"
             "  let v2 = select(eq(index(half), 0:i32), -1:f32, 1:f32)\n"
             "  stage 0: store @2[time, heads, half, pair] { add(mul(@0[time, heads, pair], cos(v1)), "
             "mul(mul(v2, @1[time, heads, pair]), sin(v1))) }\n}\n"},
};
enum { NEST_CASES = sizeof nest_cases / sizeof *nest_cases };

#endif
