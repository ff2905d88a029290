#include "server/view/sequence_list.h"

#include "server/http/event_stream.h"

#include <fmt/format.h>

#include <algorithm>

namespace attnscope::server {

namespace {

// A chat's template says the same at the beginning of every line: what tells two apart comes behind it.
constexpr int64_t most_tokens = 24;
constexpr size_t most_bytes = 160;

} // namespace

Result<void> SequenceList::look() {
    if (!recording_) {
        Result<std::unique_ptr<Recording>> opened = Recording::open(path_);
        if (!opened) return opened.error();
        recording_ = std::move(*opened);
        return {};
    }
    return recording_->info().complete ? Result<void>() : recording_->refresh();
}

Result<SequenceList::Counts> SequenceList::counts() {
    const base::Lock lock(mutex_);
    if (Result<void> r = look(); !r) return r.error();
    Counts out;
    out.n_sequences = static_cast<int64_t>(recording_->sequences().size());
    for (const Sequence& s : recording_->sequences()) out.n_frames += s.n_own();
    return out;
}

Result<void> SequenceList::check(int64_t sequence) {
    const base::Lock lock(mutex_);
    if (Result<void> r = look(); !r) return r;
    const auto n = static_cast<int64_t>(recording_->sequences().size());
    if (sequence >= 0 && sequence < n) return {};
    return Error{ErrorKind::not_found,
                 n == 1 ? fmt::format("there is no sequence {}; the recording has one, 0", sequence)
                        : fmt::format("there is no sequence {}; the recording has {}, 0 to {}", sequence, n, n - 1)};
}

const std::string& SequenceList::words_of(const Sequence& s) {
    Words& words = words_[static_cast<size_t>(s.id)];
    if (words.final) return words.base64;
    std::string bytes;
    const int64_t end = std::min(s.n_frames, s.n_shared + most_tokens);
    // Of frames that are damaged the views tell: here they have no words.
    const Result<std::vector<Frame>> frames = recording_->frames(s.n_shared, end, s.id);
    for (size_t i = 0; frames && i < frames->size() && bytes.size() < most_bytes; ++i)
        bytes += recording_->token_text((*frames)[i].token);
    bytes.resize(std::min(bytes.size(), most_bytes));
    words.base64 = base64(bytes.data(), bytes.size());
    words.final = s.ended || recording_->info().complete || s.n_own() >= most_tokens || bytes.size() == most_bytes;
    return words.base64;
}

Result<nlohmann::json> SequenceList::json() {
    const base::Lock lock(mutex_);
    if (Result<void> r = look(); !r) return r.error();
    words_.resize(recording_->sequences().size());
    nlohmann::json list = nlohmann::json::array();
    for (const Sequence& s : recording_->sequences()) {
        list.push_back({{"id", s.id},
                        {"parent", s.parent},
                        {"n_shared", s.n_shared},
                        {"n_tokens", s.n_frames},
                        {"label", s.label},
                        {"words", words_of(s)}});
    }
    return nlohmann::json{{"sequences", std::move(list)}};
}

} // namespace attnscope::server
