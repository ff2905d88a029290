#include "view/recorded/tensors.h"

#include "base/parallel_for.h"
#include "recording/missing_rows.h"
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
                                                                     const Progress& progress, const Held& held) {
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
        if (Result<void> r = made->read(recording, held, progress); !r) return r.error();
        return std::shared_ptr<const RecordedTensors>(std::move(made));
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, "there is no memory for the queries and keys of this recording"};
    }
}

Result<void> RecordedTensors::read(Recording& recording, const Held& held, const Progress& progress) {
    const RecordingInfo& info = recording.info();
    geometry_ = info.geometry;
    const int64_t n = info.n_frames;
    const size_t q_bytes = geometry_.q_bytes();
    frames_.resize(static_cast<size_t>(n));
    positions_.assign(static_cast<size_t>(n), 0);
    n_columns_.assign(static_cast<size_t>(n), 0);
    has_q_.assign(static_cast<size_t>(n), 0);
    q_.assign(static_cast<size_t>(n) * q_bytes, 0);
    keys_ = held.keys;
    courtesy_ = held.courtesy;
    if (!keys_) { // all of them are read below, while `recording` is there
        keys_ = std::make_shared<RecordedKeys>(geometry_, n, [&recording](int32_t layer, int64_t begin, int64_t end) {
            return recording.keys(layer, begin, end);
        });
    }
    const auto hurt = [&](const Error& error) {
        if (damage_.empty()) damage_ = error.message;
    };
    for (int64_t i = 0; i < n; ++i) {
        const auto at = static_cast<size_t>(i);
        if (progress && i % progress_every == 0 && !progress(0.7 * double(i) / double(n)))
            return Error{ErrorKind::io, "stopped before it was done"};
        if (held.previous && i < held.previous->size() && held.previous->has_rows(i)) {
            frames_[at] = held.previous->frame(i);
            positions_[at] = frames_[at].position;
            n_columns_[at] = held.previous->n_columns(i);
            std::copy_n(held.previous->at(i).q, q_bytes, q_.begin() + static_cast<ptrdiff_t>(at * q_bytes));
            has_q_[at] = 1;
            continue;
        }
        Result<Frame> frame = recording.frame(i, true, false);
        n_columns_[at] = i + 1; // where nothing is known of it
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
        n_columns_[at] = columns_of_rows(f);
        if (f.q.size() == q_bytes && q_bytes > 0 && n_columns_[at] <= n) {
            std::copy(f.q.begin(), f.q.end(), q_.begin() + static_cast<ptrdiff_t>(at * q_bytes));
            has_q_[at] = 1;
        }
        f.q = {};
    }
    look_around();
    for (int32_t l = 0; l < geometry_.n_layer(); ++l) {
        if (progress && !progress(0.7 + 0.3 * l / geometry_.n_layer()))
            return Error{ErrorKind::io, "stopped before it was done"};
        if (!geometry_.owns_k(l)) continue;
        if (const Result<const LayerTiles*> keys = keys_->layer(l); !keys) hurt(keys.error());
    }
    for (int32_t i = 0; i < geometry_.n_layer() * geometry_.max_heads(); ++i)
        denominators_.push_back(std::make_unique<Denominators>());
    for (size_t i = 0; held.previous && i < denominators_.size(); ++i) {
        const Denominators& before = *held.previous->denominators_[i];
        if (before.ready && before.status) denominators_[i]->before = before.values;
    }
    return {};
}

void RecordedTensors::look_around() {
    int64_t seen = 0;
    seen_from_before_.clear();
    for (int64_t i = 0; i < size(); ++i) {
        seen_from_before_.push_back(seen);
        seen = std::max(seen, n_columns(i));
    }
    decoder_ = 0; // the text is first
    while (decoder_ < size() && !recording::is_of_decoder(geometry_, frame(decoder_).visible)) ++decoder_;
}

bool RecordedTensors::has_layer(int32_t layer) const {
    if (layer < 0 || layer >= geometry_.n_layer()) return false;
    const LayerInfo& info = geometry_.layers[static_cast<size_t>(layer)];
    return info.captured() && keys_->there(info.k_layer) != nullptr && keys_->size() == size() && size() > 0;
}

Range RecordedTensors::tokens_of(int32_t layer) const {
    const LayerRole role = geometry_.layers[static_cast<size_t>(layer)].role;
    if (role == LayerRole::every) return {0, size()};
    return role == LayerRole::encoder ? Range{0, decoder_} : Range{decoder_, size()};
}

Range RecordedTensors::columns_of(int32_t layer) const {
    const LayerRole role = geometry_.layers[static_cast<size_t>(layer)].role;
    if (role == LayerRole::every) return {0, size()};
    return role == LayerRole::decoder ? Range{decoder_, size()} : Range{0, decoder_};
}

Range RecordedTensors::unseen_by(const Selection& s) const {
    Range seen{size(), 0};
    for (const int32_t l : layers_of(s)) {
        const Range columns = columns_of(l);
        if (columns.begin >= columns.end) continue;
        seen = {std::min(seen.begin, columns.begin), std::max(seen.end, columns.end)};
    }
    if (seen.begin >= seen.end) return {0, size()};
    return seen.begin > 0 ? Range{0, seen.begin} : Range{seen.end, size()};
}

int64_t RecordedTensors::row_that_tells_of(int64_t i) const {
    if (seen_from_before_[static_cast<size_t>(i)] > i || n_columns(i) > i + 1) return i;
    // what a decoder begins with is the model's own, and the row before it the encoder's
    return i == decoder_ ? -1 : i - 1;
}

size_t RecordedTensors::bytes() const {
    return q_.size() + keys_->bytes();
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

int64_t RecordedTensors::n_rows(const Selection& s, int64_t i) const {
    int64_t n = 0;
    for (const int32_t l : layers_of(s)) n += has_rows(i, l) ? heads_of(s, l).end - heads_of(s, l).begin : 0;
    return n;
}

Result<void> RecordedTensors::check(const Selection& s) const {
    if (s.layer >= geometry_.n_layer())
        return Error{ErrorKind::invalid_argument,
                     fmt::format("there is no layer {}; the recording has {}", s.layer, geometry_.n_layer())};
    if (s.head >= geometry_.max_heads())
        return Error{ErrorKind::invalid_argument,
                     fmt::format("there is no head {}; the recording has {}", s.head, geometry_.max_heads())};
    if (n_rows(s) > 0) return {};
    const std::string absent = s.layer >= 0 ? geometry_.layers[static_cast<size_t>(s.layer)].absent : "";
    return Error{ErrorKind::not_found, !absent.empty()   ? fmt::format("layer {} has no rows: {}", s.layer, absent)
                                       : damage_.empty() ? "no row of that layer and head exists"
                                                         : damage_};
}

Result<void> RecordedTensors::rows(int64_t i, int32_t layer, Range heads, std::span<float> out,
                                   std::span<float> lse) const {
    return layer_rows(geometry_, tiles(layer), at(i), layer, heads, out, lse);
}

Result<void> RecordedTensors::part(int64_t i, int32_t layer, Range heads, Range part, std::span<const float> lse,
                                   std::span<float> out) const {
    const LayerInfo& info = geometry_.layers[static_cast<size_t>(layer)];
    const auto width = static_cast<size_t>(part.end - part.begin);
    std::fill(out.begin(), out.end(), 0.0f);
    // Columns are counted from the beginning of the part's first chunk, so that what is written is not much wider than it.
    const int64_t base = part.begin / attention::chunk_columns * attention::chunk_columns;
    Frame cut;
    cut.index = i;
    cut.position = frame(i).position;
    cut.batched = frame(i).batched;
    cut.visible.resize(frame(i).visible.size());
    Ranges& visible = cut.visible[static_cast<size_t>(info.mask_group)];
    for (const Range& r : frame(i).visible[static_cast<size_t>(info.mask_group)]) {
        const Range both{std::max(r.begin, part.begin) - base, std::min(r.end, part.end) - base};
        if (both.begin < both.end) visible.push_back(both);
    }
    if (visible.empty()) return {};
    const TokenAt token{&cut, at(i).q, part.end - base,
                        std::span(positions_).subspan(static_cast<size_t>(base), static_cast<size_t>(part.end - base))};
    const auto n_heads = static_cast<size_t>(heads.end - heads.begin), n = static_cast<size_t>(token.n_columns);
    std::vector<float> rows(n_heads * n), of_part(n_heads);
    if (Result<void> r = layer_rows(geometry_, tiles(layer), token, layer, heads, rows, of_part,
                                    static_cast<size_t>(base / attention::chunk_columns));
        !r) {
        return r;
    }
    for (size_t h = 0; h < n_heads; ++h) { // exp(s) over the part's denominator becomes exp(s) over the row's
        const float scale = std::exp(of_part[h] - lse[h]);
        const float* const row = rows.data() + h * n + (n - width);
        for (size_t j = 0; j < width; ++j) out[h * width + j] = row[j] * scale;
    }
    return {};
}

namespace {

RowSelection rows_of(const Selection& s) {
    RowSelection rows;
    if (s.layer >= 0) rows.layers.push_back(s.layer);
    if (s.head >= 0) rows.heads.push_back(s.head);
    return rows;
}

} // namespace

std::string RecordedTensors::why_no_row(int64_t i, const Selection& s) const {
    if (!has_rows(i)) {
        return damage_.empty() ? fmt::format("token {} was recorded without its queries", i)
                               : fmt::format("token {} has no rows: {}", i, damage_);
    }
    if (n_rows(s, i) > 0) return {};
    std::string why = recording::why_no_rows(geometry_, rows_of(s), i, frame(i).visible);
    if (!why.empty()) return why;
    return damage_.empty() ? "no row of that layer and head exists" : damage_; // its keys could not be read
}

std::string RecordedTensors::why_unseen(int64_t i, const Selection& s) const {
    const Range unseen = unseen_by(s);
    if (i < unseen.begin || i >= unseen.end) return {};
    return recording::why_not_seen(geometry_, rows_of(s), i, i >= decoder_);
}

Result<void> RecordedTensors::reduced(int64_t i, const Selection& s, std::vector<float>& out) const {
    if (std::string why = why_no_row(i, s); !why.empty()) return Error{ErrorKind::not_found, std::move(why)};
    std::vector<LayerHeads> layers;
    for (const int32_t l : layers_of(s)) {
        if (has_rows(i, l)) layers.push_back({l, heads_of(s, l)});
    }
    return reduced_row(geometry_, *keys_, at(i), layers, s.max, out);
}

Result<std::span<const double>> RecordedTensors::denominators(int32_t layer, int32_t head) const {
    Denominators& d = denominators_of(layer, head);
    std::call_once(d.once, [&] {
        d.values = std::move(d.before);
        d.values.resize(static_cast<size_t>(size()), std::numeric_limits<double>::quiet_NaN());
        int64_t first_new = 0;
        while (first_new < size() && (!has_rows(first_new) || !std::isnan(d.values[static_cast<size_t>(first_new)])))
            ++first_new;
        const auto alone = [&](int64_t i) { // where rows are computed as a whole, their parts are not known
            std::vector<float> row(static_cast<size_t>(n_columns(i)));
            float lse = std::numeric_limits<float>::quiet_NaN();
            (void)rows(i, layer, {head, head + 1}, row, {&lse, 1});
            d.values[static_cast<size_t>(i)] = double(lse);
        };
        d.status = each_block(*this, layer, {head, head + 1}, {first_new, size()},
                              [&](int32_t, int64_t first, size_t n, const attention::BlockRows& block) {
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

void RecordedTensors::offer_denominators(int32_t layer, int32_t head, std::vector<double> values) const {
    Denominators& d = denominators_of(layer, head);
    std::call_once(d.once, [&] {
        d.values = std::move(values);
        d.ready = true;
    });
}

bool RecordedTensors::has_denominators(const Selection& s) const {
    for (const int32_t layer : layers_of(s)) {
        const Range heads = heads_of(s, layer);
        for (int64_t h = heads.begin; h < heads.end; ++h) {
            if (!denominators_of(layer, static_cast<int32_t>(h)).ready) return false;
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
