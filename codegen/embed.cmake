# Writes ${OUTPUT}: a C file with the text that stands before every generated CUDA kernel.
set(bytes "")
foreach(name prelude tile fragment warpgroup product attention attention_wide)
  file(READ ${SOURCE}/codegen/cuda/${name}.cuh hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," part "${hex}")
  string(APPEND bytes "${part}0x0a,")
endforeach()
file(WRITE ${OUTPUT}
  "// Made by codegen/embed.cmake.\n"
  "extern const char cuda_prelude_text[];\nconst char cuda_prelude_text[] = {${bytes}0};\n")
