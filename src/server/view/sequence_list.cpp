#include "server/view/sequence_list.h"

#include "server/http/event_stream.h"
#include "server/view/glances.h"

#include <fmt/format.h>

namespace attnscope::server {

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
    if (words.n_frames == s.n_frames) return words.base64;
    const std::string bytes = words_of_sequence(*recording_, s, s.n_shared);
    words.base64 = base64(bytes.data(), bytes.size());
    words.n_frames = s.n_frames;
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
