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

        auto sealed = read_sealed();
        if (!sealed) return sealed.error();
        if (auto r = check_frames(*sealed, report); !r) return r.error();
        if (auto r = check_blocks(*sealed, report); !r) return r.error();
        if (auto r = check_tail(*sealed); !r) return r.error();
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, fmt::format("cannot read {}: not enough memory", path_)};
    }
    report(1);
    return {};
}

Result<void> Reader::check_frames(const Sealed& sealed, const std::function<void(double)>& progress) {
    const int64_t n = info_.n_frames;
    for (int64_t i = 0; i < n; ++i) {
        auto frame = read_frame(i, true);
        if (!frame) return frame.error();
        for (const Ranges& ranges : frame->visible) {
            if (info_.complete && !ranges.empty() && ranges.back().end > n) {
                return damaged(fmt::format("table frame, row {}: it sees columns that are not there", i));
            }
        }
        if (i % 64 == 0) progress(0.3 + 0.4 * static_cast<double>(i) / static_cast<double>(n));
    }
    if (info_.geometry.k_bytes() == 0) return {};
    const int64_t unsealed = n - sealed.n_frames;
    if (unsealed >= chunk_frames_ || (info_.complete ? unsealed > 0 : unsealed < 0) ||
        unsealed <= -chunk_frames_) {
        return damaged(fmt::format("table k_block: it holds {} chunks of {} frames for {} frames",
                                   sealed.n_chunks, chunk_frames_, n));
    }
    return {};
}

Result<void> Reader::check_blocks(const Sealed& sealed, const std::function<void(double)>& progress) {
    auto select = db_->prepare("SELECT id, checksum, data FROM k_block ORDER BY id");
    if (!select) return select.error();
    for (int64_t chunk = 0; chunk < sealed.n_chunks; ++chunk) {
        const int64_t n_rows = std::min<int64_t>(chunk_frames_, info_.n_frames - chunk * chunk_frames_);
        for (int32_t i = 0; i < info_.geometry.n_layer(); ++i) {
            if (!info_.geometry.owns_k(i)) continue;
            auto row = select->step();
            if (!row) return row.error();
            const int64_t id = chunk * info_.geometry.n_layer() + i;
            if (!*row || select->integer(0) != id)
                return damaged(fmt::format("table k_block, row {}: it is missing", id));
            const auto data = select->blob(2);
            if (data.size() != static_cast<size_t>(n_rows) * info_.geometry.layers[size_t(i)].k_bytes() ||
                checksum(Summed::k_block, id, data) != select->integer(1)) {
                return damaged(fmt::format("table k_block, row {}: checksum", id));
            }
        }
        progress(0.7 + 0.3 * static_cast<double>(chunk) / static_cast<double>(sealed.n_chunks));
    }
    auto row = select->step();
    if (!row) return row.error();
    if (*row)
        return damaged(fmt::format("table k_block, row {}: it should not be there", select->integer(0)));
    return {};
}

Result<void> Reader::check_tail(const Sealed& sealed) {
    const int64_t begin = std::min(sealed.n_frames, info_.n_frames);
    if (auto tail = read_tail(begin, info_.n_frames); !tail) return tail.error();
    auto others = db_->prepare("SELECT idx FROM k_tail WHERE idx < ? OR idx >= ? LIMIT 1");
    if (!others) return others.error();
    auto row = others->bind(1, begin).bind(2, info_.n_frames).step();
    if (!row) return row.error();
    if (*row) return damaged(fmt::format("table k_tail, row {}: it should not be there", others->integer(0)));
    return {};
}

} // namespace attnscope::recording
