// Is this recording true? What was proven while it was captured is checked against what lies in the file.
#pragma once

#include <attnscope/error.h>
#include <attnscope/recording.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace attnscope {

struct VerifyOptions {
    // Frames whose proven rows are computed again from the recorded Q and K; spread evenly. -1: all of them.
    int64_t proofs = 2000;
    bool file_check = true; // checksums and structure of the whole file first
    // What is done now, and how much of everything is done, 0 to 1: it never falls. May be empty.
    std::function<void(const char* step, double fraction)> progress = {};
};

struct FrameVerdict {
    int64_t sequence = 0;
    int64_t index = 0;
    uint32_t verdict = 0;         // VerdictBits: those recorded and those found now
    float worst_error = 0;        // of its witnesses ...
    float worst_tolerance = 0;    // ... the one closest to its tolerance
    double fingerprint_error = 0; // largest relative difference; 0 where none was computed again
    bool proven_again = false;
};

struct VerifyReport {
    bool good = false;     // every frame ok, and the file whole
    bool complete = false; // the recording was closed
    std::string damage;    // what is wrong with the file; empty: nothing
    int64_t n_frames = 0;  // of all sequences, each once
    int64_t n_ok = 0;
    int64_t n_witnesses = 0;
    int64_t n_proven_again = 0;  // witnesses whose row was computed from the file
    int64_t pairs_witnessed = 0; // distinct (layer, head)
    int64_t pairs = 0;
    double worst_ratio = 0; // largest error / tolerance
    double worst_fingerprint = 0;
    std::vector<FrameVerdict> frames; // sequence after sequence
    std::vector<std::string> absent;  // "layer 3: recurrent" for each layer without capture
};

// Reads the whole recording once. Memory: one frame, one layer's keys, some bytes a frame, and of each witness that is proven
// again (of `proofs` frames) one head's query and the ranges that it sees.
// Errors only when the file cannot be read at all; damage found on the way is part of the report.
Result<VerifyReport> verify_recording(Recording& recording, const VerifyOptions& options = {});

} // namespace attnscope
