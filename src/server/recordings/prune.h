// POST /api/v1/prune, whoever generated.
#pragma once

#include <attnscope/position_scores.h>

#include <httplib.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace attnscope::server {

struct ScoredPrompt {
    std::vector<int32_t> prompt; // those of its tokens come first in what was scored
    PositionScores scores;
};

struct PruneSources {
    std::string record_dir; // of the recordings that may be named; empty: none
    int32_t n_vocab = 0;
    // Of a generation that ended, by its client's name for it; nothing where it did not accumulate.
    std::function<std::optional<ScoredPrompt>(const std::string& id)> scores;
};
void add_prune(httplib::Server& http, PruneSources sources);

} // namespace attnscope::server
