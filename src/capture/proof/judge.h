// The verdict of a frame, while frames arrive in order.
#pragma once

#include "capture/collector.h"

#include <attnscope/types.h>

#include <cstdint>
#include <map>
#include <span>
#include <vector>

namespace attnscope::capture {

// What a frame's queries and keys say alone. Independent of other frames: may be computed on any thread.
capture::FrameFacts inspect(const Geometry& geometry, const Frame& frame);

// Remembers the previous frame of each sequence, to notice when it comes again. Not thread-safe.
class Judge {
public:
    explicit Judge(const Geometry& geometry) : geometry_(geometry) {}
    // Sets frame.verdict from its data and witnesses.
    void judge(Frame& frame) { judge(frame, inspect(geometry_, frame)); }
    void judge(Frame& frame, capture::FrameFacts facts);
    // Frames that follow each other; those without facts are inspected, many of them on several threads.
    void judge(std::span<Frame> frames, std::vector<capture::FrameFacts> facts = {});

private:
    const Geometry& geometry_;
    std::map<int64_t, std::vector<uint64_t>> previous_; // hashes, by sequence
};

// True when `n` elements of the type at `data` hold no NaN and no infinity. For block types the scales are looked at.
bool all_finite(DType type, const uint8_t* data, int64_t n);

// What the witnesses of a frame say: verdict bits.
uint32_t judge_witnesses(const Geometry& geometry, const Frame& frame);

} // namespace attnscope::capture
