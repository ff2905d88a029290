// A recording as a source: keys of one layer at a time, brought into the order in which they are multiplied.
#include "attention/group_rows.h"
#include "attention/tile_keys.h"
#include "view/key_reader.h"

#include <algorithm>
#include <mutex>
#include <new>

namespace attnscope::view {

namespace {

class RecordingSource final : public AttentionSource, public KeyReader {
public:
    explicit RecordingSource(Recording& recording)
        : KeyReader(recording.info().geometry), recording_(recording), geometry_(recording.info().geometry) {
        const auto& layers = geometry_.layers;
        needs_positions_ = std::any_of(layers.begin(), layers.end(),
                                       [](const LayerInfo& l) { return l.captured() && l.by_distance(); });
    }

    const Geometry& geometry() const override { return geometry_; }
    int64_t size() const override { return recording_.info().n_frames; }
    Result<Frame> frame(int64_t index) override { return recording_.frame(index, true); }

    Result<void> prepare(int64_t n_columns) override;
    Result<LayerKeys> layer_keys(int32_t layer, Range columns, KeyBuffer& buffer) override;
    std::span<const int32_t> positions() const override { return positions_; }

private:
    Recording& recording_;
    const Geometry geometry_;      // a file that is still written may state its own later
    std::mutex reading_;           // a recording is read by one thread at a time; the others compute meanwhile
    bool needs_positions_ = false; // some layer is by_distance()
    std::vector<int32_t> positions_;
};

Result<void> RecordingSource::prepare(int64_t n_columns) {
    const auto known = static_cast<int64_t>(positions_.size());
    if (!needs_positions_ || known >= n_columns) return {};
    auto frames = recording_.frames(known, n_columns);
    if (!frames) return frames.error();
    for (const Frame& frame : *frames) positions_.push_back(frame.position);
    return {};
}

Result<LayerKeys> RecordingSource::layer_keys(int32_t layer, Range columns, KeyBuffer& buffer) try {
    const int32_t owner = geometry_.layers[static_cast<size_t>(layer)].k_layer;
    const LayerInfo& info = geometry_.layers[static_cast<size_t>(owner)];
    const size_t chunk_bytes = info.k_bytes() * static_cast<size_t>(attention::chunk_columns);
    const size_t head_bytes = dtype_row_bytes(info.k_type, info.head_dim);
    LayerKeys keys;
    keys.head_stride = head_bytes * static_cast<size_t>(attention::chunk_columns);
    if (columns.begin >= columns.end) return keys;
    Result<std::vector<uint8_t>> rows = [&] {
        const std::lock_guard lock(reading_);
        return recording_.keys(owner, columns.begin, columns.end);
    }();
    if (!rows) return rows.error();
    const int64_t first = columns.begin / attention::chunk_columns, last = (columns.end - 1) / attention::chunk_columns;
    buffer.keys.resize(static_cast<size_t>(last - first + 1) * chunk_bytes);
    buffer.chunks.assign(static_cast<size_t>(last + 1), nullptr);
    for (int64_t chunk = first; chunk <= last; ++chunk) {
        uint8_t* const to = buffer.keys.data() + static_cast<size_t>(chunk - first) * chunk_bytes;
        buffer.chunks[static_cast<size_t>(chunk)] = to;
        const int64_t begin = std::max(columns.begin, chunk * attention::chunk_columns);
        const int64_t end = std::min(columns.end, (chunk + 1) * attention::chunk_columns);
        const uint8_t* const from = rows->data() + static_cast<size_t>(begin - columns.begin) * info.k_bytes();
        for (int32_t head = 0; head < info.n_head_kv; ++head) {
            attention::put_keys(info, from + static_cast<size_t>(head) * head_bytes, info.k_bytes(),
                                begin - chunk * attention::chunk_columns, end - begin,
                                to + static_cast<size_t>(head) * keys.head_stride);
        }
    }
    keys.chunks = buffer.chunks;
    return keys;
} catch (const std::bad_alloc&) {
    return Error{ErrorKind::io, "no memory for the keys of a layer"};
}

} // namespace

} // namespace attnscope::view

namespace attnscope {

Result<std::unique_ptr<AttentionSource>> AttentionSource::of(Recording& recording) {
    if (auto ok = view::check_layers(recording.info().geometry); !ok) return ok.error();
    try {
        return std::unique_ptr<AttentionSource>(std::make_unique<view::RecordingSource>(recording));
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, "no memory for the answers of a recording"};
    }
}

} // namespace attnscope
