// Keys of a sequence: in blocks, in the tail, and with its ancestors.
#include "recording/checksum.h"
#include "recording/reader.h"
#include "recording/schema.h"

#include <fmt/format.h>

#include <algorithm>

namespace attnscope::recording {

namespace {

bool touches(const Ranges& ranges, int64_t begin, int64_t end) {
    return std::any_of(ranges.begin(), ranges.end(), [&](const Range& r) { return r.begin < end && begin < r.end; });
}

} // namespace

Result<Reader::Sealed> Reader::read_sealed(int64_t sequence_id) {
    auto last = last_row(last_block_, sequence_id);
    if (!last) return last.error();
    Sealed sealed;
    sealed.end = sequence(sequence_id).n_shared;
    if (*last < 0) return sealed;
    if (chunk_frames_ == 0)
        return damaged(fmt::format("table k_block, row {}: it should not be there", row_number(sequence_id, *last)));
    // a sequence's n_frames counts what was there when we last looked; by now the file may have grown
    sealed.n_chunks = *last / info_.geometry.n_layer() + 1;
    sealed.end += sealed.n_chunks * chunk_frames_;
    return sealed;
}

// Appends the block of one layer to `out`. Only the last chunk of a sequence that has ended may be short.
Result<void> Reader::read_block(int64_t sequence_id, int64_t chunk, int32_t layer, const Sealed& sealed,
                                std::vector<uint8_t>& out) {
    const int64_t id = row_number(sequence_id, chunk * info_.geometry.n_layer() + layer);
    const size_t row_bytes = info_.geometry.layers[size_t(layer)].k_bytes();
    const ResetOnExit reset(select_block_);
    auto row = select_block_.bind(1, id).step();
    if (!row) return row.error();
    if (!*row) return damaged(fmt::format("table k_block, row {}: it is missing", id));
    const auto data = select_block_.blob(1);
    const bool last = chunk + 1 == sealed.n_chunks;
    const size_t full = row_bytes * static_cast<size_t>(chunk_frames_);
    if (checksum(Summed::k_block, id, data) != select_block_.integer(0)) {
        return damaged(fmt::format("table k_block, row {}: checksum", id));
    }
    if (data.empty() || data.size() % row_bytes != 0 || data.size() > full || (data.size() < full && !last)) {
        return damaged(fmt::format("table k_block, row {}: it has {} bytes", id, data.size()));
    }
    out.insert(out.end(), data.begin(), data.end());
    return {};
}

Result<Reader::Tail> Reader::read_tail(const Segment& unsealed) {
    Tail tail;
    tail.first = unsealed.begin;
    if (unsealed.begin >= unsealed.end || info_.geometry.k_bytes() == 0) return tail;
    if (unsealed.end - unsealed.begin >= chunk_frames_) return damaged("table k_block: rows are missing");
    const ResetOnExit reset(select_tail_);
    select_tail_.bind(1, row_number(unsealed.sequence, unsealed.begin))
        .bind(2, row_number(unsealed.sequence, unsealed.end));
    for (int64_t i = unsealed.begin; i < unsealed.end; ++i) {
        auto row = select_tail_.step();
        if (!row) return row.error();
        const int64_t id = row_number(unsealed.sequence, i);
        if (!*row || select_tail_.integer(0) != id)
            return damaged(fmt::format("table k_tail, row {}: it is missing", id));
        const auto data = select_tail_.blob(2);
        if (data.size() != info_.geometry.k_bytes() || checksum(Summed::k_tail, id, data) != select_tail_.integer(1)) {
            return damaged(fmt::format("table k_tail, row {}: checksum", id));
        }
        tail.data.insert(tail.data.end(), data.begin(), data.end());
    }
    return tail;
}

Result<std::vector<uint8_t>> Reader::read_k(const FramePlace& place) {
    auto sealed = read_sealed(place.sequence);
    if (!sealed) return sealed.error();
    if (place.index >= sealed->end) {
        auto tail = read_tail({place.sequence, place.index, place.index + 1});
        if (!tail) return tail.error();
        return std::move(tail->data);
    }
    const int64_t own = place.index - sequence(place.sequence).n_shared;
    std::vector<uint8_t> k;
    std::vector<uint8_t> block;
    for (int32_t i = 0; i < info_.geometry.n_layer(); ++i) {
        if (!info_.geometry.owns_k(i)) continue;
        block.clear();
        if (auto r = read_block(place.sequence, own / chunk_frames_, i, *sealed, block); !r) return r.error();
        const size_t bytes = info_.geometry.layers[size_t(i)].k_bytes();
        const size_t at = static_cast<size_t>(own % chunk_frames_) * bytes;
        if (at + bytes > block.size())
            return damaged(fmt::format("table k_block: frame {} is missing", row_number(place.sequence, place.index)));
        k.insert(k.end(), block.begin() + static_cast<ptrdiff_t>(at),
                 block.begin() + static_cast<ptrdiff_t>(at + bytes));
    }
    return k;
}

Result<void> Reader::append_keys(int32_t layer, const Segment& segment, std::vector<uint8_t>& out) {
    auto sealed = read_sealed(segment.sequence);
    if (!sealed) return sealed.error();
    const size_t bytes = info_.geometry.layers[size_t(layer)].k_bytes();
    const int64_t base = sequence(segment.sequence).n_shared;
    std::vector<uint8_t> block;
    int64_t at = segment.begin;
    while (at < segment.end && at < sealed->end) {
        const int64_t chunk = (at - base) / chunk_frames_;
        const int64_t first = base + chunk * chunk_frames_;
        const int64_t until = std::min(segment.end, first + chunk_frames_);
        block.clear();
        if (auto r = read_block(segment.sequence, chunk, layer, *sealed, block); !r) return r.error();
        if (static_cast<size_t>(until - first) * bytes > block.size()) {
            return damaged(
                fmt::format("table k_block: keys of frame {} are missing", row_number(segment.sequence, until - 1)));
        }
        out.insert(out.end(), block.begin() + (at - first) * static_cast<ptrdiff_t>(bytes),
                   block.begin() + (until - first) * static_cast<ptrdiff_t>(bytes));
        at = until;
    }
    auto tail = read_tail({segment.sequence, at, segment.end});
    if (!tail) return tail.error();
    const auto row = static_cast<ptrdiff_t>(info_.geometry.k_bytes());
    const auto offset = static_cast<ptrdiff_t>(info_.geometry.k_offset(layer));
    for (ptrdiff_t from = offset; at < segment.end; ++at, from += row) { // no tail, no iterator: it may be empty
        out.insert(out.end(), tail->data.begin() + from, tail->data.begin() + from + static_cast<ptrdiff_t>(bytes));
    }
    return {};
}

Result<std::vector<uint8_t>> Reader::keys(int32_t layer, int64_t begin, int64_t end, int64_t sequence_id) {
    if (layer < 0 || layer >= info_.geometry.n_layer() || !info_.geometry.owns_k(layer)) {
        return Error{ErrorKind::not_found, fmt::format("{} has no keys of layer {}", path_, layer)};
    }
    try {
        auto found = segments(sequence_id, begin, end);
        if (!found) return found.error();
        const Snapshot snapshot(*db_);
        if (!snapshot.began()) return snapshot.began().error();
        std::vector<uint8_t> out;
        // less than the file: the number of frames was held against its size
        out.reserve(static_cast<size_t>(end - begin) * info_.geometry.layers[size_t(layer)].k_bytes());
        for (const Segment& segment : *found) {
            if (auto r = append_keys(layer, segment, out); !r) return r.error();
        }
        return out;
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, fmt::format("cannot read {}: not enough memory", path_)};
    }
}

Result<std::vector<Reader::SegmentKeys>> Reader::find_keys(int64_t sequence_id, int64_t end) {
    auto found = segments(sequence_id, 0, end);
    if (!found) return found.error();
    std::vector<SegmentKeys> where;
    for (const Segment& segment : *found) {
        auto sealed = read_sealed(segment.sequence);
        if (!sealed) return sealed.error();
        auto tail =
            read_tail({segment.sequence, std::max(segment.begin, std::min(sealed->end, segment.end)), segment.end});
        if (!tail) return tail.error();
        where.push_back({segment, *sealed, std::move(*tail)});
    }
    return where;
}

// The blocks that hold a visible column, and the tails. A sliding window leaves most of the file untouched.
Result<void> Reader::load_keys(int32_t layer, const Ranges& visible, const std::vector<SegmentKeys>& where,
                               LayerKeys& keys) {
    const size_t bytes = info_.geometry.layers[size_t(layer)].k_bytes();
    const size_t row = info_.geometry.k_bytes();
    keys.sealed.clear();
    keys.blocks.clear();
    for (const auto& [segment, sealed, tail] : where) {
        const int64_t base = sequence(segment.sequence).n_shared;
        const int64_t begin = visible.empty() ? segment.end : std::max(segment.begin, visible.front().begin);
        const int64_t end = visible.empty() ? segment.begin : std::min(segment.end, visible.back().end);
        for (int64_t chunk = (begin - base) / chunk_frames_; chunk < sealed.n_chunks; ++chunk) {
            const int64_t first = base + chunk * chunk_frames_;
            if (first >= end) break;
            // the sequence may go on behind the place where another one left it
            const int64_t n = std::min<int64_t>(chunk_frames_, segment.end - first);
            if (!touches(visible, first, first + n)) continue;
            const size_t before = keys.sealed.size();
            if (auto r = read_block(segment.sequence, chunk, layer, sealed, keys.sealed); !r) return r.error();
            if ((keys.sealed.size() - before) / bytes < static_cast<size_t>(n)) {
                return damaged(fmt::format("table k_block: keys of frame {} are missing",
                                           row_number(segment.sequence, first + n - 1)));
            }
            keys.sealed.resize(before + static_cast<size_t>(n) * bytes);
            keys.blocks.push_back({nullptr, first, n, bytes});
        }
        if (!tail.data.empty()) {
            keys.blocks.push_back({tail.data.data() + info_.geometry.k_offset(layer), tail.first,
                                   static_cast<int64_t>(tail.data.size() / row), row});
        }
    }
    const uint8_t* at = keys.sealed.data(); // only now that the buffer does not move any more
    for (KeyBlock& block : keys.blocks) {
        if (block.data) continue;
        block.data = at;
        at += static_cast<size_t>(block.n) * bytes;
    }
    return {};
}

} // namespace attnscope::recording
