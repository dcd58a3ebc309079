// Lowering rules of the shape ops, which have a file of their own.
#ifndef CHERRY_IR_OPS_SHAPE_H
#define CHERRY_IR_OPS_SHAPE_H

#include "ir/op.h"

bool rename_lower(Lowering *lowering);
bool split_lower(Lowering *lowering);
bool merge_lower(Lowering *lowering);
bool by_name_lower(Lowering *lowering);  // transpose, broadcast
bool slice_lower(Lowering *lowering);
bool pick_lower(Lowering *lowering);
bool reverse_lower(Lowering *lowering);
bool shift_lower(Lowering *lowering);
bool pad_lower(Lowering *lowering);
bool concat_lower(Lowering *lowering);

#endif
