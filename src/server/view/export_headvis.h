// The static files of HeadVis (transformer-circuits.pub/2026/headvis): its page shows a folder of them without a server.
#pragma once

#include <attnscope/error.h>
#include <attnscope/recording.h>

#include "view/recorded/tensors.h"

#include <cstdint>
#include <string>

namespace attnscope::server {

struct HeadvisSummary {
    int64_t n_tokens = 0;
    int64_t n_heads = 0;
    int64_t n_sequences = 0;
};

constexpr int64_t headvis_window = 512; // tokens of one sequence
constexpr int64_t headvis_keys = 8;     // of a row that are kept, ...
constexpr double headvis_least = 0.005; // ... and none smaller: what HeadVis's own pipeline advises

// `folder` (their data/) is created; one that exists must be empty. A recording is cut into windows of headvis_window tokens, each a
// sequence: rows of a window keep what they read inside it. Metrics are those of `attnscope view` under HeadVis's names.
Result<HeadvisSummary> export_headvis(Recording& recording, const std::string& folder,
                                      const view::Progress& progress = {});

} // namespace attnscope::server
