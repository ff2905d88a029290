// Who wants to know what programs decode while they do, beside the recordings.
#pragma once

#include "attach/wire/messages.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace attnscope::attach {

// A line of a program, in a recording.
struct SequenceRecorded {
    uint32_t stream = 0;
    int64_t line = 0;     // the program's number
    std::string path;     // of the file; empty: it is not recorded
    int64_t sequence = 0; // in it
    std::string why_not;
};

// The model of a stream, where its file was found. Its functions: from any thread, as long as somebody holds them.
struct StreamModel {
    std::string path;
    std::function<std::vector<int32_t>(const std::string& text)> tokens; // of a prompt
    std::function<std::string(int32_t token)> said;                      // what a token adds to a text
};

// Called on the one thread that reads what programs tell, in the order in which each program tells it: every call returns
// soon. `program` numbers the programs of one run.
class FrameListener {
public:
    // The text of a token id; from any thread, as long as somebody holds it. Empty: the vocabulary is unknown.
    using Piece = std::function<std::string(int32_t token)>;
    virtual ~FrameListener() = default;
    virtual void stream_begins(uint64_t program, const StreamBegin& stream, const Piece& piece) = 0;
    // Soon after its stream has begun.
    virtual void model_known(uint64_t program, uint32_t stream, const StreamModel& model) {
        (void)program;
        (void)stream;
        (void)model;
    }
    virtual void sequence_begins(uint64_t program, const SequenceBegin& sequence) = 0;
    // Where its frames are recorded from the next one on: after its beginning, again where that changes, and where it ends early.
    // Nothing is told where nothing is recorded. A frame is told before it is written.
    virtual void sequence_recorded(uint64_t program, const SequenceRecorded& where) {
        (void)program;
        (void)where;
    }
    virtual void frame(uint64_t program, const FrameMessage& frame) = 0;
    // Of layers on devices: so many frames of tokens that were computed are still to come.
    virtual void frames_due(uint64_t program, const FramesDue& due) = 0;
    virtual void stream_ends(uint64_t program, uint32_t stream) = 0;
    virtual void program_ends(uint64_t program) = 0;
    // A signal to end was passed on to the program, which may go on with what it has in hand.
    virtual void asked_to_end() {}
    // Everything that any program had told was taken. Returns when it is time to look again: when one of the descriptors `calls` can be
    // read (negative ones never can), and after `most` at the latest.
    virtual void all_taken(std::chrono::milliseconds most, std::span<const int> calls) = 0;
};

} // namespace attnscope::attach
