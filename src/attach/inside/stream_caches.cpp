// What lies in the cells of a context's caches when it was not a graph of text that stored it there.
#include "attach/inside/stream.h"

#include <algorithm>
#include <utility>

namespace attnscope::attach {

namespace {

// Of several readings that which goes on from what the cell before holds. A guess, which Lines puts right where a token is placed.
std::optional<KnownToken> likeliest(const std::vector<KnownToken>& tokens, const std::optional<KnownToken>& before,
                                    const Lines& lines) {
    if (tokens.empty()) return std::nullopt;
    const auto goes_on = std::find_if(tokens.rbegin(), tokens.rend(), [&](const KnownToken& t) {
        return before && before->index + 1 == t.index && lines.owner(t.line, before->index) == before->line;
    });
    return goes_on == tokens.rend() ? tokens.back() : *goes_on;
}

} // namespace

int32_t Stream::group() const {
    const std::vector<LayerInfo>& layers = capture_->geometry().layers;
    return size_t(inputs_.layer) < layers.size() ? layers[size_t(inputs_.layer)].mask_group : 0;
}

// Their geometry is known, and those whose keys are.
void Stream::know_caches() {
    const Geometry& geometry = capture_->geometry();
    telling_ = telling_layers(geometry);
    contents_.assign(telling_.size(), {});
    unread_.assign(telling_.size(), {});
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
        uint64_t all = 0;
        for (const KeyPlace& p : t.all) all = CacheContents::with_key(all, {frame.k.data() + p.at, p.bytes});
        contents_[g].remember({frame.k.data() + t.at, t.bytes}, all, {frame.sequence, frame.index, frame.position});
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

void Stream::after_write(uintptr_t begin, uintptr_t end, Leaves leaves) {
    const std::lock_guard lock(mutex_);
    if (!on_ || !begun_) return;
    try {
        look_at(begin, end, leaves);
    } catch (const std::exception& e) {
        stop("capturing failed: ", e.what());
    }
}

int64_t Stream::look_at(uintptr_t begin, uintptr_t end, Leaves leaves) {
    std::vector<CacheMemory> hit;
    {
        const std::lock_guard lock(caches_mutex_);
        for (const CacheMemory& c : caches_) {
            if (begin < c.end && end > c.begin) hit.push_back(c);
        }
    }
    int64_t n_known = 0;
    for (const CacheMemory& c : hit) {
        const uintptr_t first = std::max(begin, c.begin), last = std::min(end, c.end);
        if (lies_on_devices(capture_->geometry().layers[size_t(c.layer)].mask_group))
            note_written(c, first, last, leaves);
        else if (c.cell > 0)
            n_known += look_at(c, first, last);
    }
    return n_known;
}

int64_t Stream::look_at(const CacheMemory& cache, uintptr_t begin, uintptr_t end) {
    const LayerInfo& layer = capture_->geometry().layers[size_t(cache.layer)];
    const int32_t g = layer.mask_group;
    if (size_t(g) >= telling_.size() || telling_[size_t(g)].layer != cache.layer) return 0;
    int64_t n_known = 0;
    std::optional<KnownToken> token; // of the cell before
    const auto first = static_cast<int64_t>((begin - cache.begin) / cache.cell);
    const auto last = static_cast<int64_t>((end - cache.begin + cache.cell - 1) / cache.cell);
    for (int64_t cell = first; cell < last; ++cell) {
        if (cache.begin + size_t(cell) * cache.cell + telling_[size_t(g)].bytes > cache.end) break;
        token = likeliest(content_of(cache, cell), token, lines_);
        if (g == group()) {
            if (token)
                lines_.restore_cell(cell, token->line, token->index, token->position);
            else
                lines_.forget_cell(cell);
        }
        capture_->know_cell(g, cell, token ? token->index : -1, token ? token->position : 0);
        n_known += token.has_value();
    }
    return n_known;
}

// Those of a device lie in mirrors, which hold what was written there once it was read back.
const uint8_t* Stream::key_at(const CacheMemory& cache, int64_t cell, size_t bytes) const {
    const size_t at = size_t(cell) * cache.cell;
    if (cell < 0 || cache.begin + at + bytes > cache.end) return nullptr;
    if (!capture_->geometry().layers[size_t(cache.layer)].on_device)
        return reinterpret_cast<const uint8_t*>(cache.begin + at);
    const uint8_t* mirror = capture_->mirrored_keys(cache.layer);
    return mirror ? mirror + at : nullptr;
}

// Of a cell of a telling layer's cache.
std::vector<KnownToken> Stream::content_of(const CacheMemory& cache, int64_t cell) const {
    const auto g = size_t(capture_->geometry().layers[size_t(cache.layer)].mask_group);
    const uint8_t* key = key_at(cache, cell, telling_[g].bytes);
    if (!key) return {};
    return contents_[g].find({key, telling_[g].bytes}, [&] { return all_keys(g, cell); });
}

std::optional<CacheMemory> Stream::telling_cache() const {
    const auto g = size_t(group());
    if (g >= telling_.size()) return std::nullopt;
    const std::lock_guard lock(caches_mutex_);
    const auto found = std::find_if(caches_.begin(), caches_.end(),
                                    [&](const CacheMemory& c) { return c.layer == telling_[g].layer && c.cell > 0; });
    return found == caches_.end() ? std::nullopt : std::optional(*found);
}

std::vector<KnownToken> Stream::CellReadings::of(int64_t cell) const {
    const std::optional<CacheMemory> cache = stream_.telling_cache();
    return cache ? stream_.content_of(*cache, cell) : std::vector<KnownToken>();
}

bool Stream::CellReadings::holds(int64_t cell, int64_t line, int64_t index) const {
    const auto g = size_t(stream_.group());
    return g < stream_.contents_.size() && stream_.contents_[g].holds(stream_.all_keys(g, cell), line, index);
}

// Whoever writes a cell's keys writes those of the deepest layer last, which is when they are asked for.
uint64_t Stream::all_keys(size_t group, int64_t cell) const {
    uint64_t all = 0;
    const std::lock_guard lock(caches_mutex_);
    for (const KeyPlace& p : telling_[group].all) {
        const auto c = std::find_if(caches_.begin(), caches_.end(),
                                    [&](const CacheMemory& m) { return m.layer == p.layer && m.cell > 0; });
        const uint8_t* key = c == caches_.end() ? nullptr : key_at(*c, cell, p.bytes);
        if (!key) return 0;
        all = CacheContents::with_key(all, {key, p.bytes});
    }
    return all;
}

void Stream::look_before(const GraphTokens& tokens, size_t i, bool& looked) {
    if (!begun_ || looked) return;
    const std::optional<CacheMemory> ours = telling_cache();
    if (!ours) return;
    const int32_t position = tokens.positions.empty() ? static_cast<int32_t>(tokens.cells[i]) : tokens.positions[i];
    const Lines::Predecessor before = lines_.predecessor(position, tokens.cells[i], tokens.visible[i]);
    const auto is_stored_here = [&](int64_t cell) {
        return std::find(tokens.cells.begin(), tokens.cells.end(), cell) != tokens.cells.end();
    };
    if (!before.unknown && before.cell == Lines::none) return;
    if (!before.unknown && (i > 0 && tokens.cells[i - 1] == before.cell ? true : is_stored_here(before.cell))) return;
    if (!before.unknown && before.index + 1 == lines_.length(before.line)) {
        // The key of a deep layer is made of all that was before it: while it is there, so is that.
        if (CellReadings(*this).holds(before.cell, before.line, before.index)) return;
    }
    looked = true; // once a graph
    std::vector<CacheMemory> caches;
    {
        const std::lock_guard lock(caches_mutex_);
        caches = caches_;
    }
    std::erase_if(caches, [](const CacheMemory& c) { return c.cell == 0; });
    for (const CacheMemory& c : caches) {
        const auto n_cells = static_cast<int64_t>((c.end - c.begin) / c.cell);
        for (int64_t cell = 0; cell < n_cells; ++cell) {
            const uintptr_t begin = c.begin + size_t(cell) * c.cell;
            if (c.layer != ours->layer || !is_stored_here(cell)) look_at(c, begin, begin + 1);
        }
    }
}

bool Stream::has_begun() {
    const std::lock_guard lock(mutex_);
    return begun_;
}

bool Stream::rest() {
    const std::lock_guard lock(mutex_);
    graph_ = nullptr; // gone with its scheduler
    written_.clear();
    if (!on_) return false;
    bring_frames();
    rested_.clear();
    try {
        // Of a device nobody looks whether the cells hold what they did.
        if (on_ && begun_ && writes_ == Writes::told && !frames_are_late()) {
            const std::lock_guard caches_lock(caches_mutex_);
            for (const CacheMemory& c : caches_) {
                const int32_t g = capture_->geometry().layers[size_t(c.layer)].mask_group;
                if (c.cell > 0 && telling_[size_t(g)].layer == c.layer) rested_.emplace_back(c, known_cells(c));
            }
        }
    } catch (const std::exception& e) {
        stop("capturing failed: ", e.what());
    }
    if (on_ && rested_.empty()) stop("");
    return on_;
}

std::vector<uint64_t> Stream::known_cells(const CacheMemory& cache) const {
    const auto g = size_t(capture_->geometry().layers[size_t(cache.layer)].mask_group);
    std::vector<uint64_t> cells((cache.end - cache.begin) / cache.cell);
    for (size_t i = 0; i < cells.size(); ++i) {
        const auto* key = reinterpret_cast<const uint8_t*>(cache.begin + i * cache.cell);
        cells[i] = contents_[g].known_as({key, telling_[g].bytes});
    }
    return cells;
}

bool Stream::rests_on(const std::vector<CacheMemory>& caches) const {
    const std::lock_guard lock(caches_mutex_);
    return std::all_of(caches_.begin(), caches_.end(), [&](const CacheMemory& c) {
        return std::find(caches.begin(), caches.end(), c) != caches.end();
    });
}

// What has been written meanwhile, by whomever, and what another context has made of memory that was freed and given out again, has
// other bytes. Where they are the same the cell holds what it did; the same text read again may have other bytes in other layers.
bool Stream::wake() {
    const std::lock_guard lock(mutex_);
    if (!on_) return false;
    try {
        int64_t n_known = 0;
        for (const auto& [cache, before] : rested_) {
            const std::vector<uint64_t> now = known_cells(cache);
            for (size_t i = 0; i < now.size(); ++i) {
                const uintptr_t at = cache.begin + i * cache.cell;
                n_known += now[i] != 0 && now[i] == before[i] ? 1 : look_at(cache, at, at + 1);
            }
        }
        rested_.clear();
        if (n_known > 0) return true;
        stop("");
    } catch (const std::exception& e) {
        stop("capturing failed: ", e.what());
    }
    return false;
}

bool Stream::loses(const void* buffer) {
    const std::lock_guard lock(caches_mutex_);
    const bool lost =
        std::any_of(caches_.begin(), caches_.end(), [&](const CacheMemory& c) { return c.buffer == buffer; });
    if (lost) caches_.clear();
    return lost;
}

void Stream::forget_cells(const std::vector<int64_t>& cells) {
    for (const int64_t cell : cells) {
        if (cell < 0 || cell >= inputs_.n_cells) continue;
        lines_.forget_cell(cell);
        capture_->know_cell(group(), cell, -1, 0);
    }
}

} // namespace attnscope::attach
