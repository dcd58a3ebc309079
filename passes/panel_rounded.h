// The order of rounded copies of parameters: panel_rounded.c.
#ifndef CHERRY_PASSES_PANEL_ROUNDED_H
#define CHERRY_PASSES_PANEL_ROUNDED_H

#include "ir/graph.h"

// `value`, a parameter as it was written, in the order of `type`, its copy as the pass panel-rounded left it.
Value panel_order(Graph *graph, Value value, const Type *type);

#endif
