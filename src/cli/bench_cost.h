// What capturing costs at one context length: two contexts of one model, one plain, one capturing everything to disk,
// decode in turns in one process. docs/performance.md says why it is measured this way.
#pragma once

#include "cli/paired_ratio.h"

#include <attnscope/error.h>
#include <attnscope/session.h>

#include <cstdint>
#include <span>
#include <string>

namespace attnscope::cli {

struct CostOptions {
    SessionOptions session;
    GenerateOptions generate;
    int pairs = 0;      // a plain and a capturing turn each; even
    int tokens = 1;     // of a turn
    int prompts = 0;    // times that each reads the prompt, in turns; 0: once, and the ratio is that of one run
    std::string folder; // where the recording is written, and removed again
    // the prompts of `prompts` are captured, but not recorded: a disk may be slower than a GPU reads
    bool drop_prompts = false;
    bool control = false; // the second context is plain as well: what is measured then is the measurement
};

struct Cost {
    int32_t context = 0;                   // positions before the first pair
    double plain_ms = 0, capturing_ms = 0; // medians, a token
    Spread ratio;                          // capturing over plain, of the time that the caller of generate() waits
    double writer_ms = 0;                  // processor time of the recording's own thread, a token
    // Of the time from the prompt's begin to the choice of the first token; behind one another when CostOptions::prompts is 0.
    Spread prompt_ratio;
    double prompt_ms = 0;           // of the plain run
    double prompt_frames_ratio = 0; // the same until the frames of the prompt and of one more token have all come
    int64_t file_bytes = 0;
    int64_t memory_bytes = 0; // that the capturing session, with its writer, holds more than the plain one
    int64_t device_bytes = 0; // the same, on GPUs
    int64_t growth_bytes = 0; // of the whole process over the pairs

    // As if every moment of the writer had stopped the model, which is what happens on a machine without an idle core.
    double writer_share() const { return plain_ms > 0 ? writer_ms / plain_ms : 0; }
    double at_most() const { return ratio.median + writer_share(); }
    double at_most_sure() const { return ratio.sure_high + writer_share(); }
};

// `prompt` fills the context; its length is the context length.
Result<Cost> measure_cost(const CostOptions& options, std::span<const int32_t> prompt);

} // namespace attnscope::cli
