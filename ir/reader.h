// What the parts of the IR text reader share: read.c reads modules, read_graph.c the graphs,
// read_attributes.c the attributes of a node.
//
// Grammar (docs/ir.md shows an example):
//   text      = [ "module" name ] { training | parameter | transfer | graph }
//   training  = "training" [ name ] "{" { setting "=" (number | name) } "}" [ place ]
//   parameter = "parameter" name ":" type "rank" number [ "initialize" @graph ] [ "from" text ] [ place ]
//   transfer  = "transfer" @graph
//   graph     = "graph" @name "{" { node } [ "inputs" %value { "," %value } ] { output } "}"
//   node      = %number "=" op [ %value { "," %value } ] [ "{" attribute { "," attribute } "}" ]
//               [ ":" type { "," type } ] [ place ]
//   output    = "output" name "=" %value [ "replaces" %value ]
//   type      = element "[" [ dimension { "," dimension } ] "]"
//   dimension = name ( "=" number | "<=" number ":" name )
#ifndef CHERRY_IR_READER_H
#define CHERRY_IR_READER_H

#include "ir/entries.h"
#include "ir/module.h"
#include "ir/pointer_map.h"
#include "ir/read_lexer.h"

// A mention of one graph in another.
typedef struct Reference {
    const char *name;
    Place place;
    uint32_t source;  // filled in once all graphs are known
} Reference;

// A graph of the text: where it stands, and what it needs first.
typedef struct GraphSource {
    const char *name;
    Place place;
    Lexer body;  // at the token behind "{"
    VECTOR(Reference) references;
    enum { SOURCE_NEW, SOURCE_OPEN, SOURCE_DONE } state;
    int depth;     // of calls below it
    Graph *graph;  // NULL: not read yet, or after errors
} GraphSource;

typedef struct Reader {
    Ir *ir;
    Lexer lexer;
    Module *module;
    VECTOR(GraphSource) sources;
    PointerMap by_name;  // of sources
    EntryList entries;   // of the stack that is being read
} Reader;

// All return false after reporting an error at the current token.
bool reader_error(const Reader *reader, const char *expected);
bool reader_sign(Reader *reader, char sign);
bool reader_name(Reader *reader, const char *what, const char **name);  // bare or quoted
bool reader_integer(Reader *reader, const char *what, int64_t low, int64_t high, int64_t *integer);
bool reader_dimension(Reader *reader, Dimension *dimension);
bool reader_type(Reader *reader, const Type **type);
void reader_place(Reader *reader, Place *place);  // where there is one
bool reader_attributes(Reader *reader, Attribute *attributes, uint32_t *count);

// The graph of `source`, all of whose references are read. NULL after errors.
Graph *reader_graph(Reader *reader, const GraphSource *source);

#endif
