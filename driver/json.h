// JSON on standard output.
#ifndef CHERRY_DRIVER_JSON_H
#define CHERRY_DRIVER_JSON_H

#include <cjson/cJSON.h>

void json_print(cJSON *json);  // one line; frees it

#endif
