// Cells of caches on devices that were written by somebody who is no graph: nothing is known of them, and their bytes are read when a token
// sees them. That a text is put back costs then what reading it costs, and where nothing is, nothing is done.
#include "attach/inside/stream.h"

#include <algorithm>

namespace attnscope::attach {

bool Stream::lies_on_devices(int32_t group) const {
    const std::vector<LayerInfo>& layers = capture_->geometry().layers;
    return std::any_of(layers.begin(), layers.end(),
                       [&](const LayerInfo& l) { return l.captured() && l.mask_group == group && l.on_device; });
}

// Keys of all layers, and values, are written one after another: the first of them are news.
void Stream::note_written(const CacheMemory& cache, uintptr_t begin, uintptr_t end, Leaves leaves) {
    const int32_t g = capture_->geometry().layers[size_t(cache.layer)].mask_group;
    if (size_t(g) >= unread_.size()) return;
    for (const Range& cells : cells_at(cache, begin, end)) {
        if (leaves == Leaves::nothing)
            unread_[size_t(g)].remove(cells);
        else if (!unread_[size_t(g)].add(cells))
            continue;
        for (int64_t cell = cells.begin; cell < cells.end; ++cell) {
            if (g == group()) lines_.forget_cell(cell);
            capture_->know_cell(g, cell, -1, 0);
        }
    }
}

// Those that the graph's tokens see; of caches whose masks nobody looks at here (a window's, which are small) all.
std::vector<Ranges> Stream::unread_cells(const GraphTokens& tokens) {
    std::vector<Ranges> cells(unread_.size());
    for (size_t g = 0; g < unread_.size(); ++g) {
        if (static_cast<int32_t>(g) != group()) {
            cells[g] = unread_[g].ranges();
            continue;
        }
        for (const int64_t stored : tokens.cells) unread_[g].remove({stored, stored + 1});
        CellSet seen;
        for (const Ranges& visible : tokens.visible) {
            for (const Range& r : unread_[g].both(visible)) seen.add(r);
        }
        cells[g] = seen.ranges();
    }
    return cells;
}

void Stream::read_unread(ggml_backend_sched_t sched, const GraphTokens& tokens) {
    const auto none = [](const auto& cells) { return cells.empty(); };
    if (std::all_of(unread_.begin(), unread_.end(), none)) return;
    const std::vector<Ranges> wanted = unread_cells(tokens);
    if (std::all_of(wanted.begin(), wanted.end(), none)) return;
    bring_frames(); // proofs look at what is about to be read
    if (!on_) return;
    bool good = true;
    for (size_t g = 0; g < wanted.size(); ++g)
        good = (wanted[g].empty() || capture_->read_back(sched, static_cast<int32_t>(g), wanted[g])) && good;
    std::vector<CacheMemory> caches;
    {
        const std::lock_guard lock(caches_mutex_);
        caches = caches_;
    }
    for (size_t g = 0; g < wanted.size(); ++g) {
        const auto telling = std::find_if(caches.begin(), caches.end(), [&](const CacheMemory& c) {
            return c.layer == telling_[g].layer && c.cell > 0;
        });
        for (const Range& r : wanted[g]) {
            unread_[g].remove(r);
            if (!good || telling == caches.end()) continue;
            look_at(*telling, telling->begin + size_t(r.begin) * telling->cell,
                    telling->begin + size_t(r.end) * telling->cell);
        }
    }
}

} // namespace attnscope::attach
