// The one C++ file: SentencePiece's library behind runtime/sentencepiece_shim.h. Nothing is thrown across.
#include "runtime/sentencepiece_shim.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <vector>

struct SentencePiece {
    sentencepiece::SentencePieceProcessor processor;
    int64_t longest = 1;
};

static std::string text_of(const SentencePiece *model, const std::vector<int> &ids) {
    std::string text;
    model->processor.Decode(ids, &text).IgnoreError();
    return text;
}

// The text of a token depends on its neighbours, but never exceeds its piece and its text alone by more than
// the replacement characters of a byte that is no whole character.
static int64_t longest_text(const SentencePiece *model) {
    size_t longest = 8;
    for (int id = 0; id < model->processor.GetPieceSize(); id++)
        longest = std::max({longest, model->processor.IdToPiece(id).size(), text_of(model, {id}).size() + 1});
    return static_cast<int64_t>(longest);
}

SentencePiece *sentencepiece_load(const void *bytes, size_t count, char *error, size_t error_room) {
    try {
        auto model = std::make_unique<SentencePiece>();
        std::string serialized(static_cast<const char *>(bytes), count);
        auto status = model->processor.LoadFromSerializedProto(serialized);
        if (!status.ok()) {
            std::snprintf(error, error_room, "%s", status.ToString().c_str());
            return nullptr;
        }
        model->longest = longest_text(model.get());
        return model.release();
    } catch (const std::exception &problem) {
        std::snprintf(error, error_room, "%s", problem.what());
        return nullptr;
    }
}

void sentencepiece_destroy(SentencePiece *model) { delete model; }

int64_t sentencepiece_vocabulary(const SentencePiece *model) { return model->processor.GetPieceSize(); }

int32_t sentencepiece_separator(const SentencePiece *model) {
    const auto &processor = model->processor;
    if (processor.eos_id() >= 0) return processor.eos_id();
    for (const char *piece : {"\n", "<0x0A>"})
        if (int id = processor.PieceToId(piece); id != processor.unk_id()) return id;
    return -1;
}

int64_t sentencepiece_longest(const SentencePiece *model) { return model->longest; }

void sentencepiece_encode(const SentencePiece *model, const char *line, size_t length, TokenSink *sink,
                          void *context) {
    const auto &processor = model->processor;
    const auto text = processor.EncodeAsImmutableProto(absl::string_view(line, length));
    const int count = static_cast<int>(text.pieces_size());
    for (int i = 0; i < count; i++) {
        const auto piece = text.pieces(i);
        const int id = static_cast<int>(piece.id());
        uint32_t end = piece.end();
        // Of a character in bytes only the last byte has a range: it is that of all of them.
        for (int last = i + 1; end == piece.begin() && processor.IsByte(id) && last < count &&
                               processor.IsByte(static_cast<int>(text.pieces(last).id()));
             last++)
            end = text.pieces(last).end();
        sink(context, id, piece.begin(), end);
    }
}

size_t sentencepiece_decode(const SentencePiece *model, const int32_t *ids, int64_t count, char *text,
                            size_t room) {
    std::vector<int> known;
    for (int64_t i = 0; i < count; i++)
        if (ids[i] >= 0 && ids[i] < model->processor.GetPieceSize()) known.push_back(ids[i]);
    const std::string decoded = text_of(model, known);
    const size_t length = std::min(decoded.size(), room);
    std::memcpy(text, decoded.data(), length);
    return length;
}
