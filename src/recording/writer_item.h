// What travels to the writer's thread, and where the store puts it.
#pragma once

#include "recording/store.h"

#include <cstdint>
#include <string>
#include <utility>
#include <variant>

namespace attnscope::recording {

struct Text {
    int32_t token = 0;
    std::string piece;
};
struct EndOfSequence {
    int64_t id = 0;
    std::string reason;
};

// What travels to the writer's thread.
struct Item {
    std::variant<Frame, Text, Sequence, EndOfSequence, Media> what;
    size_t bytes = 0; // of memory, roughly
};

inline Result<void> put_into(Store& store, Frame&& frame) {
    return store.put(std::move(frame));
}
inline Result<void> put_into(Store& store, Text&& text) {
    return store.put_text(text.token, text.piece);
}
inline Result<void> put_into(Store& store, Sequence&& sequence) {
    return store.put_sequence(sequence);
}
inline Result<void> put_into(Store& store, EndOfSequence&& end) {
    return store.end_sequence(end.id, end.reason);
}
inline Result<void> put_into(Store& store, Media&& media) {
    return store.put_media(media);
}

inline size_t memory_of(const Frame& frame) {
    size_t n = sizeof(Item) + frame.q.size() + frame.k.size() + frame.witnesses.size() * sizeof(Witness);
    for (const Ranges& ranges : frame.visible) n += ranges.size() * sizeof(Range);
    return n;
}

} // namespace attnscope::recording
