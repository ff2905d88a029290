#include "recording/checksum.h"
#include "recording/codec.h"
#include "recording/reader.h"
#include "recording/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace attnscope::recording {

namespace {

template <typename T> bool fits(int64_t value) {
    return value >= static_cast<int64_t>(std::numeric_limits<T>::min()) &&
           value <= static_cast<int64_t>(std::numeric_limits<T>::max());
}

} // namespace

// Columns: id, token, position, kind, batched, verdict, checksum, q_checksum, visible, witnesses, length(q).
Result<Frame> Reader::frame_fields(Statement& row, const FramePlace& expected, int64_t& q_checksum) {
    const int64_t id = row_number(expected.sequence, expected.index);
    const auto place = [&] { return fmt::format("table frame, row {}: ", id); };
    if (row.integer(0) != id) return damaged(place() + "it is missing");
    Frame frame;
    frame.sequence = expected.sequence;
    frame.index = expected.index;
    int64_t kind = row.integer(3);
    int64_t batched = row.integer(4);
    if (info_.format_version == 1) {
        batched = kind >> 1;
        kind &= 1;
    }
    if (!fits<int32_t>(row.integer(1)) || !fits<int32_t>(row.integer(2)) || kind < 0 || kind > 1 || batched < 0 ||
        batched > 1 || !fits<uint32_t>(row.integer(5))) {
        return damaged(place() + "a number is out of bounds");
    }
    frame.token = static_cast<int32_t>(row.integer(1));
    frame.position = static_cast<int32_t>(row.integer(2));
    frame.kind = static_cast<FrameKind>(kind);
    frame.batched = batched == 1;
    frame.verdict = static_cast<uint32_t>(row.integer(5));
    q_checksum = row.integer(7);
    const int64_t q_size = row.is_null(10) ? 0 : row.integer(10);
    if (q_size != 0 && q_size != static_cast<int64_t>(info_.geometry.q_bytes()) &&
        q_size != static_cast<int64_t>(narrow_q_bytes(info_.geometry))) {
        return damaged(place() + fmt::format("its q has {} bytes", q_size));
    }
    const auto visible = row.blob(8);
    const auto witnesses = row.blob(9);
    if (frame_checksum(frame, static_cast<size_t>(q_size), q_checksum, visible, witnesses, info_.format_version) !=
        row.integer(6)) {
        return damaged(place() + "checksum");
    }
    auto ranges = decode_visible(visible, info_.geometry.n_mask_groups);
    if (!ranges) return damaged(place() + "what it sees is not readable");
    frame.visible = std::move(*ranges);
    auto proofs = decode_witnesses(witnesses, info_.geometry);
    if (!proofs) return damaged(place() + "its witnesses are not readable");
    frame.witnesses = std::move(*proofs);
    return frame;
}

Result<Frame> Reader::read_frame(const FramePlace& place, bool with_q) {
    const int64_t id = row_number(place.sequence, place.index);
    int64_t q_checksum = 0;
    const ResetOnExit reset(select_frame_);
    auto row = select_frame_.bind(1, id).step();
    if (!row) return row.error();
    if (!*row) return damaged(fmt::format("table frame, row {}: it is missing", id));
    const bool has_q = !select_frame_.is_null(10);
    auto frame = frame_fields(select_frame_, place, q_checksum);
    if (!frame || !with_q || !has_q) return frame;

    const ResetOnExit reset_q(select_q_);
    row = select_q_.bind(1, id).step();
    if (!row) return row.error();
    const auto q = *row ? select_q_.blob(0) : std::span<const uint8_t>();
    const bool narrow = q.size() == narrow_q_bytes(info_.geometry) && q.size() != info_.geometry.q_bytes();
    if ((!narrow && q.size() != info_.geometry.q_bytes()) || checksum(Summed::q, id, q) != q_checksum) {
        return damaged(fmt::format("table frame, row {}: checksum of q", id));
    }
    if (narrow)
        frame->q = widen_q(info_.geometry, q);
    else
        frame->q.assign(q.begin(), q.end());
    return frame;
}

Result<Frame> Reader::frame(FramePlace place, bool with_q, bool with_k) {
    try {
        auto held = owner(place);
        if (!held) return held.error();
        const FramePlace there{place.index, held->sequence};
        const Snapshot snapshot(*db_);
        if (!snapshot.began()) return snapshot.began().error();
        auto frame = read_frame(there, with_q);
        if (!frame || !with_k) return frame;
        auto k = read_k(there);
        if (!k) return k.error();
        frame->k = std::move(*k);
        return frame;
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, fmt::format("cannot read {}: not enough memory", path_)};
    }
}

Result<std::vector<Frame>> Reader::frames(int64_t begin, int64_t end, int64_t sequence) {
    try {
        const Snapshot snapshot(*db_);
        if (!snapshot.began()) return snapshot.began().error();
        std::vector<Frame> frames;
        auto r = each_frame(sequence, begin, end, [&](Frame&& frame) { frames.push_back(std::move(frame)); });
        if (!r) return r.error();
        return frames;
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, fmt::format("cannot read {}: not enough memory", path_)};
    }
}

Result<std::vector<int32_t>> Reader::read_positions(int64_t sequence, int64_t end) {
    std::vector<int32_t> positions;
    auto r = each_frame(sequence, 0, end, [&](Frame&& frame) { positions.push_back(frame.position); });
    if (!r) return r.error();
    return positions;
}

template <typename Each>
Result<void> Reader::each_frame(int64_t sequence, int64_t begin, int64_t end, const Each& each) {
    auto found = segments(sequence, begin, end);
    if (!found) return found.error();
    for (const Segment& segment : *found) {
        const ResetOnExit reset(select_frames_);
        select_frames_.bind(1, row_number(segment.sequence, segment.begin))
            .bind(2, row_number(segment.sequence, segment.end));
        for (int64_t i = segment.begin; i < segment.end; ++i) {
            auto row = select_frames_.step();
            if (!row) return row.error();
            if (!*row)
                return damaged(fmt::format("table frame, row {}: it is missing", row_number(segment.sequence, i)));
            int64_t q_checksum = 0;
            auto frame = frame_fields(select_frames_, {i, segment.sequence}, q_checksum);
            if (!frame) return frame.error();
            each(std::move(*frame));
        }
    }
    return {};
}

} // namespace attnscope::recording
