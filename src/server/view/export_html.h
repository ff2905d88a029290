// The page and a recording as one file that opens from a disk. docs/view.md describes its parts.
#pragma once

#include <attnscope/error.h>
#include <attnscope/recording.h>

#include "view/recorded/tensors.h"

#include <cstddef>
#include <cstdint>
#include <string>

namespace attnscope::server {

struct HtmlOptions {
    size_t bytes =
        5'000'000; // what the file may take; of a long recording, what remains for single heads is at least 3 MB
    view::Progress progress; // may be empty
};

struct HtmlSummary {
    int64_t n_tokens = 0;
    int64_t n_heads = 0;
    size_t bytes = 0;
    double least = 0;      // smaller weights of single heads were left out
    double kept_share = 0; // of the weight of all rows that was kept
};

constexpr int64_t most_html_tokens = 4096;

// unsupported above most_html_tokens, or where the binary has no page; io as files are.
Result<HtmlSummary> export_html(Recording& recording, const std::string& name, const std::string& path,
                                const HtmlOptions& options = {});

} // namespace attnscope::server
