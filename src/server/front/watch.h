// Finds the line of text that a program decodes for one request, and hands its frames to whoever asked.
//
// A line is known by three things together: the slot that the request was pinned to (where the program's cache tells slots apart),
// the tokens of its whole prompt, and the time: it was decoded after the request was sent. Two that fit are one too many: then there
// is an error, never a row of somebody else's.
#pragma once

#include "server/front/live_sequences.h"

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace attnscope::server {

struct WatchOptions {
    int32_t slot = -1;                      // -1: any
    std::string model_file;                 // LiveSequences::Model; empty: any
    std::vector<int32_t> prompt;            // all of it; not empty
    bool keep_frames = true;                // false: only which line it is
    bool prompt_rows = false;               // the frames of the prompt are wanted, too
    bool latest = false;                    // of a frame that waits when a newer one comes only the keys are wanted
    size_t frame_bytes = size_t(128) << 20; // of frames that wait for whoever asked: of more the rows are errors
    std::chrono::milliseconds patience{5000};
};

// Belongs to the thread that asked.
class Watch {
public:
    // `live` outlives it.
    Watch(LiveSequences& live, WatchOptions options);
    ~Watch();
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;

    // Before the request is sent: what was decoded until now is none of it.
    Result<void> begin();
    // The answer is whole: what is taken from now on is none of it. From any thread.
    void close();
    struct Found {
        LineId line;
        int64_t n_reused = 0; // columns of the prompt that were there when the request began
        // Of the columns after them, but for the last one of the prompt; where they are wanted. Null: there was no room.
        std::vector<std::shared_ptr<const Frame>> prompt;
    };
    // What the program has said of its answer until now. Of several lines that fit otherwise those do not that contradict it.
    struct Told {
        std::vector<int32_t> tokens; // the first of those generated, as far as they are known
        int64_t n = -1;              // all of them, where the answer is whole
    };
    // Once the program has said that it generated something.
    Result<Found> find(const Told& told);
    // The line that it is now, after find().
    Result<LineId> line() const;
    // How many frames from the prompt's last one on have come; 0 before find().
    int64_t arrived();
    // The frame whose query chose generated token `n`: 0, 1, ... in turn, each after the program has said that it generated it.
    // `before`: the token generated before that, where it is known.
    Result<std::shared_ptr<const Frame>> frame(int64_t n, std::optional<int32_t> before);

private:
    friend class LiveSequences;
    // The rest under the mutex of live_.
    void on_frame(LineId line, int32_t slot, const Frame& frame, std::shared_ptr<const Frame>& shared);
    void on_end(ContextId context);

    struct Kept {
        int32_t token = -1;
        std::shared_ptr<const Frame> frame; // null: not wanted, or there was no room
    };
    // Columns of a line that came one after the other, all of the prompt.
    struct Run {
        LineId line;
        int32_t slot = -1;
        int64_t first = 0, next = 0;
        std::deque<Kept> frames;
    };
    // A line whose prompt is that of the request.
    struct Candidate {
        LineId line; // changes where others go on from the same place, too
        int32_t slot = -1;
        int64_t n_reused = 0;
        int64_t first = 0, next = 0; // columns of `frames`
        std::deque<Kept> prompt, frames;
        int64_t taken_back = -1; // from this column on something else went on in its slot
        bool over = false;       // its slot went on with something else
        bool ambiguous = false;  // two go on from it, and nothing tells which of them is ours
    };
    Kept keep(const Frame& frame, bool wanted, std::shared_ptr<const Frame>& shared);
    void add(Candidate& candidate, const Frame& frame, std::shared_ptr<const Frame>& shared);
    bool go_on(Candidate& candidate, LineId line, int32_t slot, const Frame& frame);
    static bool contradicts(const Candidate& candidate, const Told& told);
    void add_to_run(LineId line, int32_t slot, const Frame& frame, std::shared_ptr<const Frame>& shared);
    Error lost(const char* why) const;

    LiveSequences& live_;
    const WatchOptions options_;
    const int64_t n_prompt_;
    base::Condition changed_;
    bool told_apart_ = false; // the cache tells slots apart
    bool closed_ = false;     // the answer is whole
    bool found_ = false;      // the candidate: whatever fits later is another request's
    bool ended_ = false;      // the context of the candidate did
    bool lost_one_ = false;   // a token that was generated has no frame
    std::deque<Run> runs_;
    std::deque<Candidate> candidates_;
    size_t bytes_ = 0;
};

} // namespace attnscope::server
