#include "recording/layout.h"
#include "recording/schema.h"

#include <algorithm>
#include <vector>

namespace attnscope::recording {

namespace {

// Bytes of file that a row of a rowid table takes when many rows of its size are appended. A row that does
// not fit a leaf page keeps a part there and continues on overflow pages of its own
// (https://sqlite.org/fileformat2.html, "B-tree Cell Format"); what remains of a leaf after as many rows as
// fit is lost, as is the end of the last overflow page.
double row_cost(int64_t payload, int64_t page) {
    const int64_t max_local = page - 35;
    const int64_t min_local = (page - 12) * 32 / 255 - 23;
    const int64_t overflow_bytes = page - 4;
    int64_t local = payload;
    int64_t overflow_pages = 0;
    if (payload > max_local) {
        local = min_local + (payload - min_local) % overflow_bytes;
        if (local > max_local) local = min_local;
        overflow_pages = (payload - local + overflow_bytes - 1) / overflow_bytes;
    }
    constexpr int64_t cell_overhead = 13; // lengths, row number, first overflow page, pointer to the cell
    const int64_t rows_per_leaf = std::max<int64_t>(1, (page - 8) / (local + cell_overhead));
    return static_cast<double>(page) * (static_cast<double>(overflow_pages) + 1.0 / static_cast<double>(rows_per_leaf));
}

constexpr int64_t frame_fields = 80; // a frame row without q: its record header, numbers, visibility, a witness or two
constexpr int64_t block_fields = 18;

} // namespace

double layout_cost(const Geometry& geometry, const Layout& layout) {
    double cost = row_cost(frame_fields + static_cast<int64_t>(geometry.q_bytes()), layout.page_bytes);
    for (int32_t i = 0; i < geometry.n_layer(); ++i) {
        if (!geometry.owns_k(i)) continue;
        const auto keys = static_cast<int64_t>(geometry.layers[size_t(i)].k_bytes()) * layout.chunk_frames;
        cost += row_cost(block_fields + keys, layout.page_bytes) / layout.chunk_frames;
    }
    return cost;
}

Layout choose_layout(const Geometry& geometry) {
    // The keys of a chunk are held in memory until it is full, and the tail is read as a whole: keep both
    // small.
    constexpr size_t chunk_bytes = size_t(16) << 20;
    std::vector<Layout> candidates;
    for (const int32_t frames : {64, 96, 128, 48, 32, 16}) {
        const bool fits = geometry.k_bytes() * static_cast<size_t>(frames) <= chunk_bytes;
        if (!fits && frames != 16) continue;
        for (const int32_t page : {32768, 16384, 8192, 4096}) candidates.push_back({page, frames});
    }
    double least = layout_cost(geometry, candidates.front());
    for (const Layout& l : candidates) least = std::min(least, layout_cost(geometry, l));
    const auto good = [&](const Layout& l) { return layout_cost(geometry, l) <= least * 1.02; };
    Layout best{0, 0};
    for (const Layout& l : candidates) {
        if (good(l) && l.page_bytes > best.page_bytes) best = l;
    }
    return best;
}

} // namespace attnscope::recording
