// What a program tells its parent. Writer and reader of each message stand beside each other: they change together.
//
//   uint32 Kind | fields, as in the functions below
#pragma once

#include "attach/wire/bytes.h"

#include <attnscope/types.h>

#include <optional>
#include <string>
#include <variant>

namespace attnscope::attach {

// Of programs and parents of one build; others are refused.
constexpr uint32_t wire_version = 4;

// First in every ring.
struct Hello {
    int64_t pid = 0;
    std::string program; // path of the executable
    std::string library; // the object that called ggml's scheduler first
    std::string engine;  // "ggml 0.25.1", or that it tells no version
    std::string hook;    // how we came between: "interposed", "import slots"
};
// Something that a person should know: why nothing is captured, what was lost.
struct Notice {
    std::string text;
};
// A context of the program computes attention. `stream` numbers them in a program.
struct StreamBegin {
    uint32_t stream = 0;
    int32_t n_vocab = 0;            // rows of the embedding matrix; 0: not seen
    std::vector<std::string> files; // GGUF files that the program has open now
    Geometry geometry;
};
// A line of text begins in a stream.
struct SequenceBegin {
    uint32_t stream = 0;
    int64_t id = 0, parent = -1, n_shared = 0;
};
// No token of this sequence comes any more.
struct SequenceEnd {
    uint32_t stream = 0;
    int64_t id = 0;
    std::string reason; // empty: its own choice
};
struct FrameMessage {
    uint32_t stream = 0;
    // Which stream of a cache that has several holds it: of servers, the number of their slot. -1: the cache has one, for all.
    int32_t cache_stream = -1;
    Frame frame;
};
// Of layers on devices frames come some tokens late: so many of this stream will have come, from its beginning on, with those of what is
// computed now. Told after every graph, before the program can tell anybody what it computed, and again with less where some will
// never come. Frames may overtake it, and it them.
struct FramesDue {
    uint32_t stream = 0;
    int64_t n = 0;
};
struct StreamEnd {
    uint32_t stream = 0;
    std::string reason; // empty: its context was freed
};

using Message =
    std::variant<Hello, Notice, StreamBegin, SequenceBegin, SequenceEnd, FrameMessage, StreamEnd, FramesDue>;

void write_message(const Message& message, ByteWriter& to);
// Nothing: these bytes are no message.
std::optional<Message> read_message(std::span<const uint8_t> bytes);

} // namespace attnscope::attach
