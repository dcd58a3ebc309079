# Writes ${OUTPUT}: a C file with the texts that travel inside the binary, by name. The prelude is
# "prelude.cherry", the files of models/std are "std/NAME.cherry".
file(GLOB std_files RELATIVE ${SOURCE}/models ${SOURCE}/models/std/*.cherry)
list(SORT std_files)
set(names "")
set(texts "")
set(count 0)
foreach(name prelude.cherry ${std_files})
  if(name STREQUAL "prelude.cherry")
    set(path ${SOURCE}/frontend/prelude.cherry)
  else()
    set(path ${SOURCE}/models/${name})
  endif()
  # By bytes: no quoting to get wrong, no limit on the length of a literal.
  file(READ ${path} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(APPEND texts "static const char text${count}[] = {${bytes}0};\n")
  string(APPEND names "    \"${name}\",\n")
  string(APPEND pointers "    text${count},\n")
  math(EXPR count "${count} + 1")
endforeach()
file(WRITE ${OUTPUT}
  "// Made by frontend/embed.cmake.\n#include <stddef.h>\n\n${texts}\n"
  "extern const char *const embedded_names[], *const embedded_texts[];\nextern const size_t embedded_count;\n"
  "const char *const embedded_names[] = {\n${names}};\n"
  "const char *const embedded_texts[] = {\n${pointers}};\n"
  "const size_t embedded_count = ${count};\n")
