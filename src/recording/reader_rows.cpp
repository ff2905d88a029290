// Rows of attention from the recorded queries and keys.
#include "base/chosen_or_all.h"
#include "base/cores.h"
#include "recording/reader.h"
#include "recording/schema.h"

#include <fmt/format.h>

#include <algorithm>

namespace attnscope::recording {

namespace {

// Layers whose keys are in memory at once: their rows share the threads.
constexpr size_t max_keys_together = size_t(64) << 20;
// Products below which starting threads takes longer than they save.
constexpr size_t few_products = size_t(1) << 22;

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
        const auto n_threads = n_products < few_products ? 1 : static_cast<int32_t>(base::n_cores());
        auto done = attention_rows_parallel(requests, outs, n_threads);
        *this = {};
        return done;
    }
};

Result<void> Reader::check_selected(const FrameRows& rows) const {
    const Geometry& geometry = info_.geometry;
    for (const int32_t layer : rows.layers) {
        if (layer < 0 || layer >= geometry.n_layer())
            return Error{ErrorKind::not_found, fmt::format("{} has no layer {}", path_, layer)};
    }
    for (const int32_t head : rows.heads) {
        if (head < 0 || head >= geometry.max_heads())
            return Error{ErrorKind::not_found, fmt::format("{} has no head {}", path_, head)};
    }
    return {};
}

Result<int64_t> Reader::columns_seen(const Frame& frame, FramePlace place) const {
    int64_t n_columns = place.index + 1; // more where a token sees later ones of its batch
    for (const Ranges& ranges : frame.visible) {
        if (!ranges.empty()) n_columns = std::max(n_columns, ranges.back().end);
    }
    if (n_columns <= sequence(place.sequence).n_frames) return n_columns;
    if (sequence(place.sequence).ended)
        return damaged(fmt::format("table frame, row {}: it sees columns that are not there",
                                   row_number(place.sequence, place.index)));
    return Error{ErrorKind::not_found,
                 fmt::format("frame {} of {} sees frames that are not written yet", place.index, path_)};
}

Result<FrameRows> Reader::rows(FramePlace place, const RowSelection& selection) {
    const int64_t index = place.index;
    const Geometry& geometry = info_.geometry;
    FrameRows result;
    result.index = index;
    try {
        auto held = owner(place);
        if (!held) return held.error();
        const int64_t id = held->sequence; // what the frame sees are columns of the sequence that holds it
        result.layers = base::chosen_or_all(selection.layers, geometry.n_layer());
        result.heads = base::chosen_or_all(selection.heads, geometry.max_heads());
        if (auto there = check_selected(result); !there) return there.error();
        const Snapshot snapshot(*db_);
        if (!snapshot.began()) return snapshot.began().error();
        auto frame = read_frame({index, id}, true);
        if (!frame) return frame.error();
        if (frame->q.empty() && geometry.q_bytes() > 0) {
            return Error{ErrorKind::not_found,
                         fmt::format("token {} of {} was recorded without its queries: --prompt-rows left them out",
                                     index, path_)};
        }
        auto width = columns_seen(*frame, {index, id});
        if (!width) return width.error();
        const int64_t n_columns = *width;
        const size_t n_rows = result.layers.size() * result.heads.size();
        if (n_rows > 0 && static_cast<size_t>(n_columns) > max_row_floats / n_rows) {
            return Error{
                ErrorKind::invalid_argument,
                fmt::format("{} rows of {} columns are too many at once: ask for fewer layers", n_rows, n_columns)};
        }
        result.n_columns = n_columns;

        auto where = find_keys(id, n_columns);
        if (!where) return where.error();
        std::vector<int32_t> positions;
        const bool needs_positions = std::any_of(result.layers.begin(), result.layers.end(), [&](int32_t i) {
            return geometry.layers[size_t(i)].captured() && geometry.layers[size_t(i)].by_distance();
        });
        if (needs_positions) {
            auto read = read_positions(id, n_columns);
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
            if (auto r = load_keys(layer.k_layer, visible, *where, keys[l]); !r) return r.error();
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
            for (size_t done = 0; done <= l; ++done) keys[done] = {};
            bytes = 0;
        }
        if (auto r = batch.compute(); !r) return r.error();
        return result;
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, fmt::format("cannot read {}: not enough memory", path_)};
    }
}

} // namespace attnscope::recording
