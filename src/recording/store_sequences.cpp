// Rows of the tables sequence and media.
#include "recording/checksum.h"
#include "recording/schema.h"
#include "recording/store.h"

namespace attnscope::recording {

Result<void> Store::put_sequence(const Sequence& sequence) {
    if (auto r = open_transaction(); !r) return r.error();
    if (static_cast<size_t>(sequence.id) == lines_.size()) lines_.emplace_back();
    Line& line = lines_[size_t(sequence.id)];
    line.sequence = sequence;
    line.sequence.n_frames = sequence.n_shared;
    line.changed = true;
    uncommitted_bytes_ += sequence.label.size();
    return {};
}

Result<void> Store::end_sequence(int64_t id, const std::string& reason) {
    if (auto r = open_transaction(); !r) return r.error();
    Line& line = lines_[size_t(id)];
    if (auto r = seal_rest(line); !r) return r.error();
    line.sequence.ended = true;
    line.sequence.end_reason = reason;
    line.changed = true;
    uncommitted_bytes_ += reason.size();
    return {};
}

Result<void> Store::put_media(const Media& media) {
    if (auto r = open_transaction(); !r) return r.error();
    insert_media_.bind(1, n_media_)
        .bind(2, media.sequence)
        .bind(3, media.begin)
        .bind(4, media.end)
        .bind(5, int64_t(media.kind))
        .bind(6, int64_t(media.width))
        .bind(7, int64_t(media.height))
        .bind(8, int64_t(media.n_patch_x))
        .bind(9, int64_t(media.n_patch_y))
        .bind(10, media_checksum(n_media_, media))
        .bind(11, std::string_view(media.name))
        .bind(12, std::string_view(media.sha256));
    if (auto r = insert_media_.run(); !r) return with_rollback(r.error());
    ++n_media_;
    uncommitted_bytes_ += media.name.size() + media.sha256.size();
    return {};
}

// The rows of sequences that changed: their numbers of frames are as of the same commit as the frames.
Result<void> Store::put_lines() {
    for (Line& line : lines_) {
        if (!line.changed) continue;
        const Sequence& s = line.sequence;
        insert_sequence_.bind(1, s.id)
            .bind(2, s.parent)
            .bind(3, s.n_shared)
            .bind(4, s.n_own())
            .bind(5, s.keys_of)
            .bind(6, int64_t(s.geometry))
            .bind(7, int64_t(s.ended))
            .bind(8, sequence_checksum(s))
            .bind(9, std::string_view(s.label))
            .bind(10, std::string_view(s.end_reason));
        if (auto r = insert_sequence_.run(); !r) return r.error();
        line.changed = false;
    }
    return {};
}

} // namespace attnscope::recording
