// The options that every verb with a model has, under llama.cpp's names.
#pragma once

#include <attnscope/session.h>

#include <CLI/CLI.hpp>

#include <memory>
#include <string>
#include <vector>

namespace attnscope::cli {

struct SessionFlags {
    SessionOptions session;
    GenerateOptions generate;
    std::string flash_attention = "auto";
    std::string entry = "auto";
    std::string prompt_rows = "all";
    int32_t batch_size = 2048; // llama.cpp's n_batch: what is computed at once is never more
    bool verbose = false;
};

void add_model_flags(CLI::App& app, SessionFlags& flags);
void add_sampling_flags(CLI::App& app, SessionFlags& flags);
// Puts the words into the options; finds the model by name. Errors speak of the option.
Result<void> resolve(SessionFlags& flags);

// "3", "0,4-7": sorted numbers. Empty text: empty list, which means all.
Result<std::vector<int32_t>> parse_selection(const std::string& option, const std::string& text);

// A whole file, at most `limit` bytes.
Result<std::string> read_text_file(const std::string& path, size_t limit = size_t(64) << 20);
// Token ids from a file: a JSON array, or numbers with white space or commas between.
Result<std::vector<int32_t>> read_token_file(const std::string& path);

} // namespace attnscope::cli
