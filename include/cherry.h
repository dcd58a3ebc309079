// The public header of libcherry. The command line is its first user.
#ifndef CHERRY_H
#define CHERRY_H

#define CHERRY_VERSION "0.1.0"

#include "driver/compile.h"

#endif
