// Safetensors files: 8 bytes of header length (little endian), a JSON header, the tensors' bytes.
//   {"__metadata__": {"key": "value"}, "trunk.0.wq": {"dtype": "F32", "shape": [256, 4, 64],
//    "data_offsets": [0, 262144]}}
// Reading trusts nothing: a file that breaks the format is an error (E0805), never a crash.
#ifndef CHERRY_RUNTIME_SAFETENSORS_H
#define CHERRY_RUNTIME_SAFETENSORS_H

#include "base/file.h"
#include "ir/type.h"

typedef enum StoredElement {
    STORED_BOOL,
    STORED_U8,
    STORED_I8,
    STORED_U16,
    STORED_I16,
    STORED_U32,
    STORED_I32,
    STORED_U64,
    STORED_I64,
    STORED_F16,
    STORED_BF16,
    STORED_F32,
    STORED_F64,
    STORED_F8_E4M3,  // known by size only: not converted
    STORED_F8_E5M2,
    STORED_COUNT
} StoredElement;

const char *stored_name(StoredElement element);  // "F32"
int stored_bytes(StoredElement element);
StoredElement stored_from_element(Element element);

typedef struct StoredTensor {
    const char *name;
    StoredElement element;
    int rank;
    const int64_t *shape;
    int64_t count;               // elements
    const unsigned char *data;   // in the mapping; aligned by chance only
} StoredTensor;

typedef struct StoredText {
    const char *key, *value;
} StoredText;

typedef struct TensorFile {
    const char *path;
    FileMap map;
    StoredTensor *tensors;       // in the order of their data
    size_t tensor_count;
    StoredText *metadata;
    size_t metadata_count;
    uint32_t *table;             // name -> tensor, open addressing
    size_t table_size;
} TensorFile;

// Maps the file and checks all of it but the values. NULL after reporting an error.
// The tables live in `arena`, tensor data until tensor_file_close.
TensorFile *tensor_file_open(Arena *arena, Diagnostics *diagnostics, const char *path);
void tensor_file_close(TensorFile *file);

const StoredTensor *tensor_file_find(const TensorFile *file, const char *name);    // or NULL
const char *tensor_file_metadata(const TensorFile *file, const char *key);         // or NULL

// "F32[256, 4, 64]"
const char *stored_text(Arena *arena, const StoredTensor *tensor);

// Whether every value of `from` has a meaning as `to`: floats to floats, integers and bool to integers
// and bool, integers to floats.
bool stored_convertible(StoredElement from, Element to);

// Elements [first, first + count) as `to`, row-major. F16, BF16 and F32 to F64 are exact; to BF16 and
// F32 rounds to nearest even (F64 to BF16 by way of F32); integers wrap.
void stored_convert(const StoredTensor *tensor, int64_t first, int64_t count, Element to, void *result);

// A tensor to be written: `count` of `rank` dimensions from memory, row-major.
typedef struct TensorSource {
    const char *name;
    StoredElement element;
    int rank;
    int64_t shape[RANK_MAX];
    const void *data;
} TensorSource;

// Replaces `path` atomically. Names must be distinct (E0808). The tensors are stored in this order,
// the first on a multiple of 64 bytes.
bool tensor_file_write(Diagnostics *diagnostics, const char *path, const TensorSource *tensors, size_t tensor_count,
                       const StoredText *metadata, size_t metadata_count);

#endif
