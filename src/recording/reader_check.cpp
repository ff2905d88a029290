// Is every byte of the file what was written?
#include "recording/checksum.h"
#include "recording/reader.h"
#include "recording/schema.h"

#include <fmt/format.h>

#include <algorithm>

namespace attnscope::recording {

Result<void> Reader::check(const std::function<void(double)>& progress) {
    const auto report = [&](double share) {
        if (progress) progress(share);
    };
    report(0);
    try {
        // One moment of the file for everything; a writer's log grows meanwhile.
        const Snapshot snapshot(*db_);
        if (!snapshot.began()) return snapshot.began().error();
        auto meta = read_meta();
        if (!meta) return meta.error();
        if (auto r = verify_schema(); !r) return r.error();
        if (chunk_frames_ == 0) {
            if (auto r = load_geometry(*meta); !r) return r.error();
        }
        n_texts_ = -1; // reads the texts again
        if (auto r = load_counts(*meta); !r) return r.error();

        auto verdict = db_->text("PRAGMA integrity_check(1)");
        if (!verdict) return verdict.error();
        if (*verdict != "ok") return damaged(fmt::format("SQLite's integrity check says: {}", *verdict));
        report(0.3);

        std::vector<Sealed> sealed;
        for (const Sequence& s : sequences_) {
            auto read = read_sealed(s.id);
            if (!read) return read.error();
            sealed.push_back(*read);
        }
        if (auto r = check_frames(report); !r) return r.error();
        if (auto r = check_blocks(sealed, report); !r) return r.error();
        if (auto r = check_tail(sealed); !r) return r.error();
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, fmt::format("cannot read {}: not enough memory", path_)};
    }
    report(1);
    return {};
}

Result<void> Reader::check_frames(const std::function<void(double)>& progress) {
    int64_t done = 0;
    for (const Sequence& s : sequences_) {
        for (int64_t i = s.n_shared; i < s.n_frames; ++i) {
            auto frame = read_frame({i, s.id}, true);
            if (!frame) return frame.error();
            for (const Ranges& ranges : frame->visible) {
                if (s.ended && !ranges.empty() && ranges.back().end > s.n_frames) {
                    return damaged(
                        fmt::format("table frame, row {}: it sees columns that are not there", row_number(s.id, i)));
                }
            }
            if (++done % 64 == 0) progress(0.3 + 0.4 * static_cast<double>(done) / static_cast<double>(n_frames_));
        }
    }
    auto rows = db_->integer("SELECT count(*) FROM frame");
    if (!rows) return rows.error();
    if (*rows != n_frames_)
        return damaged(fmt::format("table frame: it has {} rows where {} are due", *rows, n_frames_));
    for (size_t i = 0; i < media_.size(); ++i) {
        const Sequence& s = sequence(media_[i].sequence);
        if (s.ended && media_[i].end > s.n_frames)
            return damaged(fmt::format("table media, row {}: its columns are not there", i));
    }
    return {};
}

Result<void> Reader::check_blocks(const std::vector<Sealed>& sealed, const std::function<void(double)>& progress) {
    auto select = db_->prepare("SELECT id, checksum, data FROM k_block ORDER BY id");
    if (!select) return select.error();
    int64_t done = 0;
    for (const Sequence& s : sequences_) {
        const auto& [n_chunks, sealed_end] = sealed[size_t(s.id)];
        const int64_t unsealed = s.n_frames - sealed_end;
        if (info_.geometry.k_bytes() > 0 &&
            (unsealed >= chunk_frames_ || unsealed <= -chunk_frames_ || (s.ended ? unsealed > 0 : unsealed < 0))) {
            return damaged(
                fmt::format("table k_block: it holds {} chunks of {} frames for the {} frames of sequence {}", n_chunks,
                            chunk_frames_, s.n_own(), s.id));
        }
        for (int64_t chunk = 0; chunk < n_chunks; ++chunk) {
            const int64_t n_rows = std::min<int64_t>(chunk_frames_, s.n_own() - chunk * chunk_frames_);
            for (int32_t i = 0; i < info_.geometry.n_layer(); ++i) {
                if (!info_.geometry.owns_k(i)) continue;
                auto row = select->step();
                if (!row) return row.error();
                const int64_t id = row_number(s.id, chunk * info_.geometry.n_layer() + i);
                if (!*row || select->integer(0) != id)
                    return damaged(fmt::format("table k_block, row {}: it is missing", id));
                const auto data = select->blob(2);
                if (n_rows < 1 ||
                    data.size() != static_cast<size_t>(n_rows) * info_.geometry.layers[size_t(i)].k_bytes() ||
                    checksum(Summed::k_block, id, data) != select->integer(1)) {
                    return damaged(fmt::format("table k_block, row {}: checksum", id));
                }
            }
            done += n_rows;
            progress(0.7 + 0.3 * static_cast<double>(done) / static_cast<double>(std::max<int64_t>(n_frames_, 1)));
        }
    }
    auto row = select->step();
    if (!row) return row.error();
    if (*row) return damaged(fmt::format("table k_block, row {}: it should not be there", select->integer(0)));
    return {};
}

Result<void> Reader::check_tail(const std::vector<Sealed>& sealed) {
    const char* column = info_.format_version == 1 ? "idx" : "id";
    auto rows = db_->prepare(fmt::format("SELECT {0} FROM k_tail ORDER BY {0}", column));
    if (!rows) return rows.error();
    for (const Sequence& s : sequences_) {
        const Segment unsealed{s.id, std::min(sealed[size_t(s.id)].end, s.n_frames), s.n_frames};
        if (auto tail = read_tail(unsealed); !tail) return tail.error(); // each is there, with its checksum ...
        for (int64_t i = unsealed.begin; i < unsealed.end && info_.geometry.k_bytes() > 0; ++i) {
            auto row = rows->step();
            if (!row) return row.error();
            if (!*row || rows->integer(0) != row_number(s.id, i)) // ... and nothing else between them
                return damaged(
                    fmt::format("table k_tail, row {}: it should not be there", *row ? rows->integer(0) : 0));
        }
    }
    auto row = rows->step();
    if (!row) return row.error();
    if (*row) return damaged(fmt::format("table k_tail, row {}: it should not be there", rows->integer(0)));
    return {};
}

} // namespace attnscope::recording
