// Which sequences a recording holds, and how each of them begins: what a page offers to choose from. From any thread.
#pragma once

#include "base/mutex.h"

#include <attnscope/recording.h>

#include <nlohmann/json.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace attnscope::server {

class SequenceList {
public:
    // Opens nothing before it is asked.
    explicit SequenceList(std::string path) : path_(std::move(path)) {}

    struct Counts {
        int64_t n_sequences = 0;
        int64_t n_frames = 0; // of all sequences, each once
    };
    // As all below: of a file that is still being written as it is now.
    Result<Counts> counts();
    // not_found, in words, where there is no such sequence.
    Result<void> check(int64_t sequence);
    // One object a sequence, by number. "words": of its own part (glances.h), in base64; none where it has none.
    Result<nlohmann::json> json();

private:
    Result<void> look() REQUIRES(mutex_);
    const std::string& words_of(const Sequence& sequence) REQUIRES(mutex_);

    const std::string path_;
    base::Mutex mutex_;
    std::unique_ptr<Recording> recording_ GUARDED_BY(mutex_);
    struct Words {
        std::string base64;
        int64_t n_frames = -1; // of the sequence, when they were looked for
    };
    std::vector<Words> words_ GUARDED_BY(mutex_); // by number, as far as they were asked for
};

} // namespace attnscope::server
