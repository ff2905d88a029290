// What lies in the cells of a context's caches when it was not a graph of text that stored it there.
#include "attach/inside/stream.h"

#include <algorithm>
#include <utility>

namespace attnscope::attach {

int32_t Stream::group() const {
    const std::vector<LayerInfo>& layers = capture_->geometry().layers;
    return size_t(inputs_.layer) < layers.size() ? layers[size_t(inputs_.layer)].mask_group : 0;
}

// Their geometry is known, and those whose keys are.
void Stream::know_caches() {
    const Geometry& geometry = capture_->geometry();
    telling_ = telling_layers(geometry);
    contents_.assign(telling_.size(), {});
    std::vector<CacheMemory> caches = inputs_.caches;
    std::erase_if(caches, [&](const CacheMemory& c) {
        return c.layer >= geometry.n_layer() || !geometry.layers[size_t(c.layer)].captured();
    });
    const std::lock_guard lock(caches_mutex_);
    caches_ = std::move(caches);
}

void Stream::remember(const Frame& frame) {
    for (size_t g = 0; g < telling_.size(); ++g) {
        const TellingLayer& t = telling_[g];
        if (t.layer < 0 || frame.k.size() < t.at + t.bytes) continue;
        contents_[g].remember({frame.k.data() + t.at, t.bytes}, {frame.sequence, frame.index, frame.position});
    }
}

bool Stream::has_cache_at(uintptr_t begin, uintptr_t end) const {
    const std::lock_guard lock(caches_mutex_);
    return std::any_of(caches_.begin(), caches_.end(),
                       [&](const CacheMemory& c) { return begin < c.end && end > c.begin; });
}

// Proofs under way read what is about to be overwritten.
void Stream::before_write() {
    const std::lock_guard lock(mutex_);
    if (!on_ || !capture_) return;
    try {
        if (Result<void> r = capture_->flush(); !r) stop(r.error().message.c_str());
    } catch (const std::exception& e) {
        stop("capturing failed: ", e.what());
    }
}

void Stream::after_write(uintptr_t begin, uintptr_t end) {
    const std::lock_guard lock(mutex_);
    if (!on_ || !begun_) return;
    try {
        look_at(begin, end);
    } catch (const std::exception& e) {
        stop("capturing failed: ", e.what());
    }
}

void Stream::look_at(uintptr_t begin, uintptr_t end) {
    std::vector<CacheMemory> hit;
    {
        const std::lock_guard lock(caches_mutex_);
        for (const CacheMemory& c : caches_) {
            if (c.cell > 0 && begin < c.end && end > c.begin) hit.push_back(c);
        }
    }
    for (const CacheMemory& c : hit) look_at(c, std::max(begin, c.begin), std::min(end, c.end));
}

void Stream::look_at(const CacheMemory& cache, uintptr_t begin, uintptr_t end) {
    const LayerInfo& layer = capture_->geometry().layers[size_t(cache.layer)];
    const int32_t g = layer.mask_group;
    if (size_t(g) >= telling_.size() || telling_[size_t(g)].layer != cache.layer) return;
    const auto first = static_cast<int64_t>((begin - cache.begin) / cache.cell);
    const auto last = static_cast<int64_t>((end - cache.begin + cache.cell - 1) / cache.cell);
    for (int64_t cell = first; cell < last; ++cell) {
        if (cache.begin + size_t(cell) * cache.cell + telling_[size_t(g)].bytes > cache.end) return;
        std::optional<KnownToken> token;
        // A device's bytes are not looked at, and its keys and values lie in mirrors that know nothing of what somebody else writes.
        if (!layer.on_device) token = content_of(cache, cell);
        if (g == group()) {
            if (token)
                lines_.restore_cell(cell, token->line, token->index, token->position);
            else
                lines_.forget_cell(cell);
        }
        capture_->know_cell(g, cell, token ? token->index : -1, token ? token->position : 0);
    }
}

// Of a cell of a telling layer's cache, in host memory.
std::optional<KnownToken> Stream::content_of(const CacheMemory& cache, int64_t cell) const {
    const auto g = size_t(capture_->geometry().layers[size_t(cache.layer)].mask_group);
    const uintptr_t at = cache.begin + size_t(cell) * cache.cell;
    if (at + telling_[g].bytes > cache.end) return std::nullopt;
    return contents_[g].find({reinterpret_cast<const uint8_t*>(at), telling_[g].bytes});
}

void Stream::look_before(const GraphTokens& tokens, size_t i, bool& looked) {
    if (!begun_ || looked) return;
    const auto at = size_t(group());
    const int32_t telling = at < telling_.size() ? telling_[at].layer : -1;
    std::vector<CacheMemory> caches;
    {
        const std::lock_guard lock(caches_mutex_);
        caches = caches_;
    }
    std::erase_if(caches, [](const CacheMemory& c) { return c.cell == 0; });
    const auto ours =
        std::find_if(caches.begin(), caches.end(), [&](const CacheMemory& c) { return c.layer == telling; });
    if (ours == caches.end()) return;
    const int32_t position = tokens.positions.empty() ? static_cast<int32_t>(tokens.cells[i]) : tokens.positions[i];
    const Lines::Predecessor before = lines_.predecessor(position, tokens.cells[i], tokens.visible[i]);
    const auto is_stored_here = [&](int64_t cell) {
        return std::find(tokens.cells.begin(), tokens.cells.end(), cell) != tokens.cells.end();
    };
    if (!before.unknown && before.cell == Lines::none) return;
    if (!before.unknown && (i > 0 && tokens.cells[i - 1] == before.cell ? true : is_stored_here(before.cell))) return;
    if (!before.unknown && before.index + 1 == lines_.length(before.line)) {
        // The key of a deep layer is made of all that was before it: while it is there, so is that.
        const std::optional<KnownToken> there = content_of(*ours, before.cell);
        if (there && there->line == before.line && there->index == before.index) return;
    }
    looked = true; // once a graph
    for (const CacheMemory& c : caches) {
        const auto n_cells = static_cast<int64_t>((c.end - c.begin) / c.cell);
        for (int64_t cell = 0; cell < n_cells; ++cell) {
            const uintptr_t begin = c.begin + size_t(cell) * c.cell;
            if (c.layer != telling || !is_stored_here(cell)) look_at(c, begin, begin + 1);
        }
    }
}

void Stream::forget_cells(const std::vector<int64_t>& cells) {
    for (const int64_t cell : cells) {
        if (cell < 0 || cell >= inputs_.n_cells) continue;
        lines_.forget_cell(cell);
        capture_->know_cell(group(), cell, -1, 0);
    }
}

} // namespace attnscope::attach
