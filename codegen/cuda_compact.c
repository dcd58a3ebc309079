// The kernel `compact`: the positions where a mask is true, and how many. One block: the place of a position
// depends on all before it, and there are thousands of them, not millions.
#include "codegen/cuda_emit.h"

enum { MASK, INDICES, COUNT };  // operands
enum { BLOCK = 1024 };

bool cuda_compact_emit(CudaUnit *unit) {
    const NamedKernel *named = unit->kernel->named;
    cuda_begin_function(unit, "", BLOCK);
    cuda_note_place(unit, named->place);
    cuda_line(unit, "__shared__ int words[%d];", BLOCK / 32);
    cuda_line(unit, "const int lane = threadIdx.x %% 32, warp = threadIdx.x / 32;");
    cuda_line(unit, "int number = %d;  // of the first true position of this round",
              -(int)named->options[0].number);
    long long rows = (long long)named->types[MASK]->dimensions[0].extent;
    long long capacity = (long long)named->types[INDICES]->dimensions[0].extent;
    cuda_open(unit, "for (int start = 0; start < %lld; start += %d)", rows, BLOCK);
    cuda_line(unit, "const int at = start + (int)threadIdx.x;");
    cuda_line(unit, "const bool set = at < %lld && p%d[at * %lldll];", rows, MASK,
              (long long)named->strides[MASK][0]);
    cuda_line(unit, "const u32 found = __ballot_sync(ALL_LANES, set);");
    cuda_line(unit, "if (lane == 0) words[warp] = __popc(found);");
    cuda_line(unit, "__syncthreads();");
    cuda_line(unit, "int before = 0, all = 0;");
    cuda_open(unit, "for (int i = 0; i < %d; i++)", BLOCK / 32);
    cuda_line(unit, "if (i < warp) before += words[i];");
    cuda_line(unit, "all += words[i];");
    cuda_close(unit);
    cuda_line(unit, "const int place = number + before + __popc(found & ((1u << lane) - 1));");
    cuda_line(unit, "if (set && place >= 0 && place < %lld) p%d[place * %lldll] = at;", capacity, INDICES,
              (long long)named->strides[INDICES][0]);
    cuda_line(unit, "number += all;");
    cuda_line(unit, "__syncthreads();");
    cuda_close(unit);
    cuda_line(unit, "if (threadIdx.x == 0) p%d[0] = number < 0 ? 0 : number > %lld ? %lld : number;", COUNT,
              capacity, capacity);
    cuda_close(unit);
    return true;
}
