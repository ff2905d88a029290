#include "view/recorded/tensors.h"

#include "base/parallel_for.h"
#include "view/recorded/blocks.h"

#include <attnscope/rows.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>

namespace attnscope::view {

namespace {

constexpr int64_t progress_every = 64; // frames

} // namespace

Result<std::shared_ptr<const RecordedTensors>> RecordedTensors::load(Recording& recording, size_t most_bytes,
                                                                     const Progress& progress) {
    const RecordingInfo& info = recording.info();
    const size_t each = info.geometry.q_bytes() + info.geometry.k_bytes();
    if (each > 0 && static_cast<size_t>(info.n_frames) > most_bytes / each) {
        return Error{
            ErrorKind::unsupported,
            fmt::format("queries and keys of {} tokens take {} MB, more than the {} MB that may be held in memory",
                        info.n_frames, (each * static_cast<size_t>(info.n_frames)) >> 20, most_bytes >> 20)};
    }
    try {
        std::shared_ptr<RecordedTensors> made(new RecordedTensors);
        if (Result<void> r = made->read(recording, progress); !r) return r.error();
        return std::shared_ptr<const RecordedTensors>(std::move(made));
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, "there is no memory for the queries and keys of this recording"};
    }
}

Result<void> RecordedTensors::read(Recording& recording, const Progress& progress) {
    const RecordingInfo& info = recording.info();
    geometry_ = info.geometry;
    const int64_t n = info.n_frames;
    const size_t q_bytes = geometry_.q_bytes();
    frames_.resize(static_cast<size_t>(n));
    positions_.assign(static_cast<size_t>(n), 0);
    n_columns_.assign(static_cast<size_t>(n), 0);
    has_q_.assign(static_cast<size_t>(n), 0);
    q_.assign(static_cast<size_t>(n) * q_bytes, 0);
    k_.resize(geometry_.layers.size());
    const auto hurt = [&](const Error& error) {
        if (damage_.empty()) damage_ = error.message;
    };
    for (int64_t i = 0; i < n; ++i) {
        const auto at = static_cast<size_t>(i);
        if (progress && i % progress_every == 0 && !progress(0.7 * double(i) / double(n)))
            return Error{ErrorKind::io, "stopped before it was done"};
        Result<Frame> frame = recording.frame(i, true, false);
        n_columns_[at] = i + 1;
        positions_[at] = static_cast<int32_t>(i);
        if (!frame) {
            hurt(frame.error());
            frames_[at].index = i;
            frames_[at].verdict = verdict_checksum;
            continue;
        }
        frames_[at] = std::move(*frame);
        Frame& f = frames_[at];
        positions_[at] = f.position;
        for (const Ranges& ranges : f.visible) {
            if (!ranges.empty()) n_columns_[at] = std::max(n_columns_[at], ranges.back().end);
        }
        if (f.q.size() == q_bytes && q_bytes > 0 && n_columns_[at] <= n) {
            std::copy(f.q.begin(), f.q.end(), q_.begin() + static_cast<ptrdiff_t>(at * q_bytes));
            has_q_[at] = 1;
        }
        f.q = {};
    }
    for (int32_t l = 0; l < geometry_.n_layer(); ++l) {
        if (progress && !progress(0.7 + 0.3 * l / geometry_.n_layer()))
            return Error{ErrorKind::io, "stopped before it was done"};
        if (!geometry_.owns_k(l)) continue;
        Result<std::vector<uint8_t>> keys = recording.keys(l, 0, n);
        if (keys)
            k_[static_cast<size_t>(l)] = std::move(*keys);
        else
            hurt(keys.error());
    }
    for (int32_t i = 0; i < geometry_.n_layer() * geometry_.max_heads(); ++i)
        denominators_.push_back(std::make_unique<Denominators>());
    return {};
}

bool RecordedTensors::has_layer(int32_t layer) const {
    if (layer < 0 || layer >= geometry_.n_layer()) return false;
    const LayerInfo& info = geometry_.layers[static_cast<size_t>(layer)];
    return info.captured() &&
           k_[static_cast<size_t>(info.k_layer)].size() == static_cast<size_t>(size()) * info.k_bytes() && size() > 0;
}

size_t RecordedTensors::bytes() const {
    size_t sum = q_.size();
    for (const auto& k : k_) sum += k.size();
    return sum;
}

std::vector<int32_t> RecordedTensors::layers_of(const Selection& s) const {
    std::vector<int32_t> layers;
    for (int32_t l = 0; l < geometry_.n_layer(); ++l) {
        const Range heads = heads_of(s, l);
        if ((s.layer < 0 || s.layer == l) && has_layer(l) && heads.begin < heads.end) layers.push_back(l);
    }
    return layers;
}

Range RecordedTensors::heads_of(const Selection& s, int32_t layer) const {
    const int64_t n = geometry_.layers[static_cast<size_t>(layer)].n_head;
    if (s.head < 0) return {0, n};
    return {std::min<int64_t>(s.head, n), std::min<int64_t>(int64_t(s.head) + 1, n)};
}

int64_t RecordedTensors::n_rows(const Selection& s) const {
    int64_t n = 0;
    for (const int32_t l : layers_of(s)) n += heads_of(s, l).end - heads_of(s, l).begin;
    return n;
}

Result<void> RecordedTensors::check(const Selection& s) const {
    if (s.layer >= geometry_.n_layer())
        return Error{ErrorKind::invalid_argument, fmt::format("there is no layer {}", s.layer)};
    if (s.head >= geometry_.max_heads())
        return Error{ErrorKind::invalid_argument, fmt::format("there is no head {}", s.head)};
    if (n_rows(s) > 0) return {};
    const std::string absent = s.layer >= 0 ? geometry_.layers[static_cast<size_t>(s.layer)].absent : "";
    return Error{ErrorKind::not_found, !absent.empty()   ? fmt::format("layer {} has no rows: {}", s.layer, absent)
                                       : damage_.empty() ? "no row of that layer and head exists"
                                                         : damage_};
}

Result<void> RecordedTensors::rows(int64_t i, int32_t layer, Range heads, std::span<float> out,
                                   std::span<float> lse) const {
    const LayerInfo& info = geometry_.layers[static_cast<size_t>(layer)];
    const Frame& f = frame(i);
    const std::vector<uint8_t>& keys = k_[static_cast<size_t>(info.k_layer)];
    const KeyBlock block{keys.data(), 0, size(), info.k_bytes()};
    RowsRequest request;
    request.layer = &info;
    request.q = q_.data() + static_cast<size_t>(i) * geometry_.q_bytes() + geometry_.q_offset(layer);
    request.keys = {&block, 1};
    request.visible = f.visible[static_cast<size_t>(info.mask_group)];
    request.n_columns = n_columns(i);
    request.position = f.position;
    request.positions = std::span<const int32_t>(positions_).first(static_cast<size_t>(n_columns(i)));
    request.batched = f.batched;
    request.head_begin = static_cast<int32_t>(heads.begin);
    request.head_end = static_cast<int32_t>(heads.end);
    return attention_rows(request, out, lse);
}

Result<void> RecordedTensors::part(int64_t i, int32_t layer, Range heads, Range part, std::span<const float> lse,
                                   std::span<float> out) const {
    const LayerInfo& info = geometry_.layers[static_cast<size_t>(layer)];
    const Frame& f = frame(i);
    const auto width = static_cast<size_t>(part.end - part.begin);
    std::fill(out.begin(), out.end(), 0.0f);
    // Columns are counted from the beginning of the part, so that what is written is no wider than it.
    Ranges visible;
    for (const Range& r : f.visible[static_cast<size_t>(info.mask_group)]) {
        const Range cut{std::max(r.begin, part.begin) - part.begin, std::min(r.end, part.end) - part.begin};
        if (cut.begin < cut.end) visible.push_back(cut);
    }
    if (visible.empty()) return {};
    const std::vector<uint8_t>& keys = k_[static_cast<size_t>(info.k_layer)];
    const KeyBlock block{keys.data() + static_cast<size_t>(part.begin) * info.k_bytes(), 0, part.end - part.begin,
                         info.k_bytes()};
    RowsRequest request;
    request.layer = &info;
    request.q = q_.data() + static_cast<size_t>(i) * geometry_.q_bytes() + geometry_.q_offset(layer);
    request.keys = {&block, 1};
    request.visible = visible;
    request.n_columns = part.end - part.begin;
    request.position = f.position;
    request.positions = std::span<const int32_t>(positions_).subspan(static_cast<size_t>(part.begin), width);
    request.batched = f.batched;
    request.head_begin = static_cast<int32_t>(heads.begin);
    request.head_end = static_cast<int32_t>(heads.end);
    std::vector<float> of_part(static_cast<size_t>(heads.end - heads.begin));
    if (Result<void> r = attention_rows(request, out, of_part); !r) return r;
    for (size_t h = 0; h < of_part.size(); ++h) { // exp(s) over the part's denominator becomes exp(s) over the row's
        const float scale = std::exp(of_part[h] - lse[h]);
        for (float& w : out.subspan(h * width, width)) w *= scale;
    }
    return {};
}

Result<void> RecordedTensors::reduced(int64_t i, const Selection& s, std::vector<float>& out) const {
    if (!has_rows(i)) {
        return Error{ErrorKind::not_found, damage_.empty() ? fmt::format("token {} was recorded without its queries", i)
                                                           : fmt::format("token {} has no rows: {}", i, damage_)};
    }
    const auto n = static_cast<size_t>(n_columns(i));
    const std::vector<int32_t> layers = layers_of(s);
    std::vector<float> all(static_cast<size_t>(n_rows(s)) * n);
    std::vector<size_t> first(layers.size());
    for (size_t l = 0, at = 0; l < layers.size(); ++l) {
        first[l] = at;
        at += static_cast<size_t>(heads_of(s, layers[l]).end - heads_of(s, layers[l]).begin);
    }
    std::vector<Result<void>> status(layers.size());
    base::parallel_for_all(layers.size(), [&](size_t l) {
        const Range heads = heads_of(s, layers[l]);
        status[l] = rows(i, layers[l], heads,
                         std::span(all).subspan(first[l] * n, static_cast<size_t>(heads.end - heads.begin) * n));
    });
    for (const Result<void>& r : status) {
        if (!r) return r;
    }
    out.resize(n);
    if (s.max)
        reduce_max(all, n_columns(i), out);
    else
        reduce_mean(all, n_columns(i), out);
    return {};
}

namespace {

// log of the sum of exp(score) of row i, from its parts: a weight is exp(score - max) * factor of its part.
double denominator(const BlockRows& rows, size_t i, size_t n) {
    const BlockRows::Part* best = nullptr;
    float factor = 0;
    for (size_t p = 0; p < rows.pieces.size(); ++p) {
        const BlockRows::Part& part = rows.parts[p * n + i];
        if (part.n_seen == 0 || (best && !(part.max > best->max))) continue;
        best = &part;
        factor = rows.factors[p * n + i];
    }
    return best ? double(best->max) - std::log(double(factor)) : std::numeric_limits<double>::quiet_NaN();
}

} // namespace

Result<std::span<const double>> RecordedTensors::denominators(int32_t layer, int32_t head) const {
    Denominators& d = *denominators_[static_cast<size_t>(layer) * static_cast<size_t>(geometry_.max_heads()) +
                                     static_cast<size_t>(head)];
    std::call_once(d.once, [&] {
        d.values.assign(static_cast<size_t>(size()), std::numeric_limits<double>::quiet_NaN());
        const auto alone = [&](int64_t i) { // where rows are computed as a whole, their parts are not known
            std::vector<float> row(static_cast<size_t>(n_columns(i)));
            float lse = std::numeric_limits<float>::quiet_NaN();
            (void)rows(i, layer, {head, head + 1}, row, {&lse, 1});
            d.values[static_cast<size_t>(i)] = double(lse);
        };
        d.status = each_block(*this, layer, {head, head + 1}, {0, size()},
                              [&](int32_t, int64_t first, size_t n, const BlockRows& block) {
                                  for (size_t i = 0; i < n; ++i) {
                                      if (block.has_parts)
                                          d.values[static_cast<size_t>(first) + i] = denominator(block, i, n);
                                      else
                                          alone(first + static_cast<int64_t>(i));
                                  }
                              });
        d.ready = true;
    });
    if (!d.status) return d.status.error();
    return std::span<const double>(d.values);
}

bool RecordedTensors::has_denominators(const Selection& s) const {
    for (const int32_t layer : layers_of(s)) {
        const Range heads = heads_of(s, layer);
        for (int64_t h = heads.begin; h < heads.end; ++h) {
            if (!denominators_[static_cast<size_t>(layer) * static_cast<size_t>(geometry_.max_heads()) +
                               static_cast<size_t>(h)]
                     ->ready) {
                return false;
            }
        }
    }
    return true;
}

Result<void> RecordedTensors::prepare_denominators(const Selection& s, const Progress& progress) const {
    int64_t done = 0;
    for (const int32_t layer : layers_of(s)) {
        const Range heads = heads_of(s, layer);
        for (int64_t h = heads.begin; h < heads.end; ++h) {
            if (progress && !progress(double(done++) / double(n_rows(s))))
                return Error{ErrorKind::io, "stopped before it was done"};
            if (const auto d = denominators(layer, static_cast<int32_t>(h)); !d) return d.error();
        }
    }
    return {};
}

} // namespace attnscope::view
