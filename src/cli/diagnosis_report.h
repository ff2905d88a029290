// A diagnosis as text, JSON and HTML.
#pragma once

#include <attnscope/diagnose.h>

#include <nlohmann/json.hpp>

#include <string>

namespace attnscope::cli {

// For a terminal of 80 columns. Runs of equal tokens become one line unless `all`.
std::string diagnosis_text(const Diagnosis& diagnosis, bool all);
nlohmann::json diagnosis_json(const Diagnosis& diagnosis);
std::string diagnosis_html(const Diagnosis& diagnosis); // one file: no scripts, nothing loaded

// Tokens [begin, end) that look alike: same kind, distinct layers, repetition and padding.
struct TokenRun {
    size_t begin = 0;
    size_t end = 0;
};
std::vector<TokenRun> token_runs(const Diagnosis& diagnosis, bool all);

} // namespace attnscope::cli
