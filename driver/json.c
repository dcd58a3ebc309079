#include "driver/json.h"

#include <stdio.h>
#include <stdlib.h>

void json_print(cJSON *json) {
    char *text = cJSON_PrintUnformatted(json);
    puts(text);
    free(text);
    cJSON_Delete(json);
}
