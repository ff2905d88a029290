// Rows of attention from the recorded queries and keys.
#include "recording/reader.h"
#include "recording/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <thread>

namespace attnscope::recording {

namespace {

bool touches(const Ranges& ranges, int64_t begin, int64_t end) {
    return std::any_of(ranges.begin(), ranges.end(),
                       [&](const Range& r) { return r.begin < end && begin < r.end; });
}

// Layers whose keys are in memory at once: their rows share the threads.
constexpr size_t max_keys_together = size_t(64) << 20;
// Products below which starting threads takes longer than they save.
constexpr size_t few_products = size_t(1) << 22;

std::vector<int32_t> all_or(const std::vector<int32_t>& chosen, int32_t n) {
    if (!chosen.empty()) return chosen;
    std::vector<int32_t> all(static_cast<size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    return all;
}

// Runs of consecutive heads, which one call computes together: [first, last] as places in `heads`.
std::vector<std::pair<size_t, size_t>> runs_of(const std::vector<int32_t>& heads, int32_t n_head) {
    std::vector<std::pair<size_t, size_t>> runs;
    for (size_t i = 0; i < heads.size(); ++i) {
        if (heads[i] >= n_head) continue;
        if (!runs.empty() && runs.back().second + 1 == i && heads[i] == heads[i - 1] + 1)
            runs.back().second = i;
        else
            runs.emplace_back(i, i);
    }
    return runs;
}

} // namespace

Result<std::vector<uint8_t>> Reader::keys(int32_t layer, int64_t begin, int64_t end) {
    if (layer < 0 || layer >= info_.geometry.n_layer() || !info_.geometry.owns_k(layer)) {
        return Error{ErrorKind::not_found, fmt::format("{} has no keys of layer {}", path_, layer)};
    }
    if (begin < 0 || end < begin || end > info_.n_frames) return no_such_frame(begin < 0 ? begin : end);
    try {
        const Snapshot snapshot(*db_);
        if (!snapshot.began()) return snapshot.began().error();
        auto sealed = read_sealed();
        if (!sealed) return sealed.error();
        const size_t bytes = info_.geometry.layers[size_t(layer)].k_bytes();
        const auto offset = static_cast<ptrdiff_t>(info_.geometry.k_offset(layer));
        std::vector<uint8_t> out;
        out.reserve(static_cast<size_t>(end - begin) * bytes); // less than the file: n_frames was held against its size
        std::vector<uint8_t> block;
        int64_t at = begin;
        while (at < end && at < sealed->n_frames) {
            const int64_t chunk = at / chunk_frames_;
            const int64_t first = chunk * chunk_frames_;
            const int64_t until = std::min(end, first + chunk_frames_);
            block.clear();
            if (auto r = read_block(chunk, layer, *sealed, block); !r) return r.error();
            if (static_cast<size_t>(until - first) * bytes > block.size()) {
                return damaged(fmt::format("table k_block: keys of frame {} are missing", until - 1));
            }
            out.insert(out.end(), block.begin() + (at - first) * static_cast<ptrdiff_t>(bytes),
                       block.begin() + (until - first) * static_cast<ptrdiff_t>(bytes));
            at = until;
        }
        auto tail = read_tail(at, end);
        if (!tail) return tail.error();
        const auto row = static_cast<ptrdiff_t>(info_.geometry.k_bytes());
        for (ptrdiff_t from = offset; at < end; ++at, from += row) { // no tail, no iterator: it may be empty
            out.insert(out.end(), tail->data.begin() + from, tail->data.begin() + from + static_cast<ptrdiff_t>(bytes));
        }
        return out;
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, fmt::format("cannot read {}: not enough memory", path_)};
    }
}

// The blocks that hold a visible column, and the tail. A sliding window leaves most of the file untouched.
Result<void> Reader::load_keys(int32_t layer, const Ranges& visible, const Sealed& sealed, const Tail& tail,
                               LayerKeys& keys) {
    const size_t bytes = info_.geometry.layers[size_t(layer)].k_bytes();
    keys.sealed.clear();
    keys.blocks.clear();
    const int64_t begin = visible.empty() ? 0 : visible.front().begin;
    const int64_t end = visible.empty() ? 0 : visible.back().end;
    for (int64_t chunk = begin / chunk_frames_; chunk < sealed.n_chunks && chunk * chunk_frames_ < end;
         ++chunk) {
        const int64_t first = chunk * chunk_frames_;
        if (!touches(visible, first, first + chunk_frames_)) continue;
        const size_t before = keys.sealed.size();
        if (auto r = read_block(chunk, layer, sealed, keys.sealed); !r) return r.error();
        const auto n = static_cast<int64_t>((keys.sealed.size() - before) / bytes);
        keys.blocks.push_back({nullptr, first, n, bytes});
    }
    const uint8_t* at = keys.sealed.data(); // only now that the buffer does not move any more
    for (KeyBlock& block : keys.blocks) {
        block.data = at;
        at += static_cast<size_t>(block.n) * bytes;
    }
    if (!tail.data.empty()) {
        const size_t row = info_.geometry.k_bytes();
        keys.blocks.push_back({tail.data.data() + info_.geometry.k_offset(layer), tail.first,
                               static_cast<int64_t>(tail.data.size() / row), row});
    }
    const int64_t covered = keys.blocks.empty() ? 0 : keys.blocks.back().first + keys.blocks.back().n;
    if (covered < end) return damaged(fmt::format("table k_block: keys of frame {} are missing", end - 1));
    return {};
}

Result<std::vector<int32_t>> Reader::read_positions(int64_t end) {
    const ResetOnExit reset(select_frames_);
    select_frames_.bind(1, int64_t(0)).bind(2, end);
    std::vector<int32_t> positions;
    for (int64_t i = 0; i < end; ++i) {
        auto row = select_frames_.step();
        if (!row) return row.error();
        if (!*row) return damaged(fmt::format("table frame, row {}: it is missing", i));
        int64_t q_checksum = 0;
        auto frame = frame_fields(select_frames_, i, q_checksum);
        if (!frame) return frame.error();
        positions.push_back(frame->position);
    }
    return positions;
}

// The rows of layers whose keys are in memory, on all cores.
struct RowsBatch {
    std::vector<RowsRequest> requests;
    std::vector<std::span<float>> outs;
    size_t n_products = 0;

    void add(const RowsRequest& request, std::span<float> out) {
        requests.push_back(request);
        outs.push_back(out);
        n_products += out.size() * static_cast<size_t>(request.layer->head_dim);
    }
    Result<void> compute() {
        const auto n_threads = n_products < few_products ? 1 : static_cast<int32_t>(std::thread::hardware_concurrency());
        auto done = attention_rows_parallel(requests, outs, n_threads);
        *this = {};
        return done;
    }
};

Result<FrameRows> Reader::rows(int64_t index, const RowSelection& selection) {
    if (index < 0 || index >= info_.n_frames) return no_such_frame(index);
    const Geometry& geometry = info_.geometry;
    FrameRows result;
    result.index = index;
    try {
        result.layers = all_or(selection.layers, geometry.n_layer());
        result.heads = all_or(selection.heads, geometry.max_heads());
        for (const int32_t layer : result.layers) {
            if (layer < 0 || layer >= geometry.n_layer()) {
                return Error{ErrorKind::not_found, fmt::format("{} has no layer {}", path_, layer)};
            }
        }
        for (const int32_t head : result.heads) {
            if (head < 0 || head >= geometry.max_heads()) {
                return Error{ErrorKind::not_found, fmt::format("{} has no head {}", path_, head)};
            }
        }
        const Snapshot snapshot(*db_);
        if (!snapshot.began()) return snapshot.began().error();
        auto frame = read_frame(index, true);
        if (!frame) return frame.error();
        if (frame->q.empty() && geometry.q_bytes() > 0) {
            return Error{ErrorKind::not_found,
                         fmt::format("frame {} of {} was recorded without its queries", index, path_)};
        }
        int64_t n_columns = index + 1; // more where a token sees later ones of its batch
        for (const Ranges& ranges : frame->visible) {
            if (!ranges.empty()) n_columns = std::max(n_columns, ranges.back().end);
        }
        if (n_columns > info_.n_frames) {
            if (info_.complete)
                return damaged(fmt::format("table frame, row {}: it sees columns that are not there", index));
            return Error{ErrorKind::not_found,
                         fmt::format("frame {} of {} sees frames that are not written yet", index, path_)};
        }
        const size_t n_rows = result.layers.size() * result.heads.size();
        if (n_rows > 0 && static_cast<size_t>(n_columns) > max_row_floats / n_rows) {
            return Error{ErrorKind::invalid_argument,
                         fmt::format("{} rows of {} columns are too many at once: ask for fewer layers",
                                     n_rows, n_columns)};
        }
        result.n_columns = n_columns;

        auto sealed = read_sealed();
        if (!sealed) return sealed.error();
        auto tail = read_tail(std::min(sealed->n_frames, n_columns), n_columns);
        if (!tail) return tail.error();
        std::vector<int32_t> positions;
        const bool alibi = std::any_of(result.layers.begin(), result.layers.end(), [&](int32_t i) {
            return geometry.layers[size_t(i)].captured() && geometry.layers[size_t(i)].max_bias > 0;
        });
        if (alibi) {
            auto read = read_positions(n_columns);
            if (!read) return read.error();
            positions = std::move(*read);
        }

        result.weights.assign(n_rows * static_cast<size_t>(n_columns), 0.0f);
        std::vector<LayerKeys> keys(result.layers.size());
        size_t bytes = 0; // of the keys in memory
        RowsBatch batch;
        for (size_t l = 0; l < result.layers.size(); ++l) {
            const LayerInfo& layer = geometry.layers[size_t(result.layers[l])];
            if (!layer.captured()) continue;
            const Ranges& visible = frame->visible[size_t(layer.mask_group)];
            if (auto r = load_keys(layer.k_layer, visible, *sealed, *tail, keys[l]); !r) return r.error();
            bytes += keys[l].sealed.size();
            RowsRequest request;
            request.layer = &layer;
            request.q = frame->q.data() + geometry.q_offset(result.layers[l]);
            request.keys = keys[l].blocks;
            request.visible = visible;
            request.n_columns = n_columns;
            request.position = frame->position;
            request.batched = frame->batched;
            request.positions = positions;
            for (const auto& [first, last] : runs_of(result.heads, layer.n_head)) {
                request.head_begin = result.heads[first];
                request.head_end = result.heads[last] + 1;
                const size_t from = (l * result.heads.size() + first) * static_cast<size_t>(n_columns);
                const size_t n = (last - first + 1) * static_cast<size_t>(n_columns);
                batch.add(request, std::span<float>(result.weights).subspan(from, n));
            }
            if (bytes < max_keys_together) continue;
            if (auto r = batch.compute(); !r) return r.error();
            for (size_t done = 0; done <= l; ++done)
                keys[done] = {};
            bytes = 0;
        }
        if (auto r = batch.compute(); !r) return r.error();
        return result;
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, fmt::format("cannot read {}: not enough memory", path_)};
    }
}

} // namespace attnscope::recording
