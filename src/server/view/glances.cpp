#include "server/view/glances.h"

#include "server/view/first_words.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include <sys/stat.h>

namespace attnscope::server {

namespace {

// A user's turn is looked for in so many tokens before a text's end: behind it is the answer.
constexpr int64_t most_tokens = 2048, first_tokens = 64;
constexpr size_t most_bytes = 160;

std::string state_of(const std::string& path) {
    std::string out;
    for (const char* end : {"", "-wal"}) {
        struct stat info {};
        if (stat((path + end).c_str(), &info) != 0) info = {};
        out += fmt::format("{}/{}.{} ", info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
    }
    return out;
}

// llama-server decodes a token that begins a text and one that ends it, and takes them back.
bool is_warm_up(Recording& recording) {
    if (recording.sequences().size() != 1 || recording.sequences()[0].n_frames != 2) return false;
    const Result<std::vector<Frame>> frames = recording.frames(0, 2);
    return frames && std::all_of(frames->begin(), frames->end(), [&](const Frame& frame) {
               return frame.kind != FrameKind::generated && is_mark(recording.token_text(frame.token));
           });
}

} // namespace

std::string words_of_sequence(Recording& recording, const Sequence& sequence, int64_t begin) {
    const auto text_of = [&](int64_t from, int64_t to) {
        std::string text;
        const Result<std::vector<Frame>> frames = recording.frames(from, to, sequence.id); // of damage the views tell
        for (size_t i = 0; frames && i < frames->size(); ++i) text += recording.token_text((*frames)[i].token);
        return text;
    };
    const int64_t end = sequence.n_frames;
    const std::optional<std::string> turn = last_turn(text_of(std::max(begin, end - most_tokens), end));
    std::string words = turn ? *turn : without_marks(text_of(begin, std::min(end, begin + first_tokens)));
    words.resize(std::min(words.size(), most_bytes));
    return words;
}

Glance glance_at(Recording& recording) {
    Glance out;
    out.warm_up = is_warm_up(recording);
    out.words = words_of_sequence(recording, recording.sequences()[0], 0);
    return out;
}

Glance Glances::List::of(const std::string& path) {
    const std::string state = state_of(path);
    Glance before;
    {
        const base::Lock lock(all_.mutex_);
        if (const auto seen = all_.seen_.find(path); seen != all_.seen_.end()) {
            if (seen->second.state == state) return seen->second.glance;
            before = seen->second.glance;
        }
    }
    if (std::chrono::steady_clock::now() > until_) return before;
    if (Result<std::unique_ptr<Recording>> opened = Recording::open(path)) before = glance_at(**opened);
    const base::Lock lock(all_.mutex_);
    if (all_.seen_.size() >= most) all_.seen_.clear();
    all_.seen_[path] = {state, before};
    return before;
}

} // namespace attnscope::server
