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

// Columns: idx, token, position, kind, verdict, checksum, q_checksum, visible, witnesses, length(q).
Result<Frame> Reader::frame_fields(Statement& row, int64_t expected_index, int64_t& q_checksum) {
    const auto place = [&] { return fmt::format("table frame, row {}: ", expected_index); };
    if (row.integer(0) != expected_index) return damaged(place() + "it is missing");
    Frame frame;
    frame.index = expected_index;
    const int64_t kind = row.integer(3);
    if (!fits<int32_t>(row.integer(1)) || !fits<int32_t>(row.integer(2)) || kind < 0 || kind > 3 ||
        !fits<uint32_t>(row.integer(4))) {
        return damaged(place() + "a number is out of bounds");
    }
    frame.token = static_cast<int32_t>(row.integer(1));
    frame.position = static_cast<int32_t>(row.integer(2));
    frame.kind = static_cast<FrameKind>(kind & 1);
    frame.batched = (kind & 2) != 0;
    frame.verdict = static_cast<uint32_t>(row.integer(4));
    q_checksum = row.integer(6);
    const int64_t q_size = row.is_null(9) ? 0 : row.integer(9);
    if (q_size != 0 && q_size != static_cast<int64_t>(info_.geometry.q_bytes())) {
        return damaged(place() + fmt::format("its q has {} bytes", q_size));
    }
    const auto visible = row.blob(7);
    const auto witnesses = row.blob(8);
    if (frame_checksum(frame, static_cast<size_t>(q_size), q_checksum, visible, witnesses) !=
        row.integer(5)) {
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

Result<Frame> Reader::read_frame(int64_t index, bool with_q) {
    int64_t q_checksum = 0;
    const ResetOnExit reset(select_frame_);
    auto row = select_frame_.bind(1, index).step();
    if (!row) return row.error();
    if (!*row) return damaged(fmt::format("table frame, row {}: it is missing", index));
    const bool has_q = !select_frame_.is_null(9);
    auto frame = frame_fields(select_frame_, index, q_checksum);
    if (!frame || !with_q || !has_q) return frame;

    const ResetOnExit reset_q(select_q_);
    row = select_q_.bind(1, index).step();
    if (!row) return row.error();
    const auto q = *row ? select_q_.blob(0) : std::span<const uint8_t>();
    if (q.size() != info_.geometry.q_bytes() || checksum(Summed::q, index, q) != q_checksum) {
        return damaged(fmt::format("table frame, row {}: checksum of q", index));
    }
    frame->q.assign(q.begin(), q.end());
    return frame;
}

Result<Frame> Reader::frame(int64_t index, bool with_q, bool with_k) {
    if (index < 0 || index >= info_.n_frames) return no_such_frame(index);
    try {
        const Snapshot snapshot(*db_);
        if (!snapshot.began()) return snapshot.began().error();
        auto frame = read_frame(index, with_q);
        if (!frame || !with_k) return frame;
        auto k = read_k(index);
        if (!k) return k.error();
        frame->k = std::move(*k);
        return frame;
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, fmt::format("cannot read {}: not enough memory", path_)};
    }
}

Result<std::vector<Frame>> Reader::frames(int64_t begin, int64_t end) {
    if (begin < 0 || end < begin || end > info_.n_frames) return no_such_frame(begin < 0 ? begin : end);
    try {
        const Snapshot snapshot(*db_);
        if (!snapshot.began()) return snapshot.began().error();
        const ResetOnExit reset(select_frames_);
        select_frames_.bind(1, begin).bind(2, end);
        std::vector<Frame> frames;
        for (int64_t i = begin; i < end; ++i) {
            auto row = select_frames_.step();
            if (!row) return row.error();
            if (!*row) return damaged(fmt::format("table frame, row {}: it is missing", i));
            int64_t q_checksum = 0;
            auto frame = frame_fields(select_frames_, i, q_checksum);
            if (!frame) return frame.error();
            frames.push_back(std::move(*frame));
        }
        return frames;
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, fmt::format("cannot read {}: not enough memory", path_)};
    }
}

Result<Reader::Sealed> Reader::read_sealed() {
    const ResetOnExit reset(last_block_);
    auto row = last_block_.step();
    if (!row) return row.error();
    Sealed sealed;
    if (!*row) return sealed;
    const int64_t id = last_block_.integer(0);
    if (id < 0 || chunk_frames_ == 0)
        return damaged(fmt::format("table k_block, row {}: it should not be there", id));
    sealed.n_chunks = id / info_.geometry.n_layer() + 1;
    // n_frames counts what was there when we last looked; by now the file may have grown
    if (sealed.n_chunks > (int64_t(1) << 40))
        return damaged(fmt::format("table k_block, row {}: it should not be there", id));
    sealed.n_frames = sealed.n_chunks * chunk_frames_;
    return sealed;
}

// Appends the block of one layer to `out`. Only the last chunk of a complete recording may be short.
Result<void> Reader::read_block(int64_t chunk, int32_t layer, const Sealed& sealed,
                                std::vector<uint8_t>& out) {
    const int64_t id = chunk * info_.geometry.n_layer() + layer;
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

Result<Reader::Tail> Reader::read_tail(int64_t begin, int64_t end) {
    Tail tail;
    tail.first = begin;
    if (begin >= end || info_.geometry.k_bytes() == 0) return tail;
    if (end - begin >= chunk_frames_) return damaged("table k_block: rows are missing");
    const ResetOnExit reset(select_tail_);
    select_tail_.bind(1, begin).bind(2, end);
    for (int64_t i = begin; i < end; ++i) {
        auto row = select_tail_.step();
        if (!row) return row.error();
        if (!*row || select_tail_.integer(0) != i)
            return damaged(fmt::format("table k_tail, row {}: it is missing", i));
        const auto data = select_tail_.blob(2);
        if (data.size() != info_.geometry.k_bytes() ||
            checksum(Summed::k_tail, i, data) != select_tail_.integer(1)) {
            return damaged(fmt::format("table k_tail, row {}: checksum", i));
        }
        tail.data.insert(tail.data.end(), data.begin(), data.end());
    }
    return tail;
}

Result<std::vector<uint8_t>> Reader::read_k(int64_t index) {
    auto sealed = read_sealed();
    if (!sealed) return sealed.error();
    if (index >= sealed->n_frames) {
        auto tail = read_tail(index, index + 1);
        if (!tail) return tail.error();
        return std::move(tail->data);
    }
    std::vector<uint8_t> k;
    std::vector<uint8_t> block;
    for (int32_t i = 0; i < info_.geometry.n_layer(); ++i) {
        if (!info_.geometry.owns_k(i)) continue;
        block.clear();
        if (auto r = read_block(index / chunk_frames_, i, *sealed, block); !r) return r.error();
        const size_t bytes = info_.geometry.layers[size_t(i)].k_bytes();
        const size_t at = static_cast<size_t>(index % chunk_frames_) * bytes;
        if (at + bytes > block.size())
            return damaged(fmt::format("table k_block: frame {} is missing", index));
        k.insert(k.end(), block.begin() + static_cast<ptrdiff_t>(at),
                 block.begin() + static_cast<ptrdiff_t>(at + bytes));
    }
    return k;
}

} // namespace attnscope::recording
