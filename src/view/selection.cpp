#include "view/selection.h"

#include "base/chosen_or_all.h"

#include <algorithm>

namespace attnscope::view {

int64_t rows_of_token(const SelectedRows& selection, const Geometry& geometry, const std::vector<Ranges>& visible) {
    int64_t n = 0;
    for (const LayerWork& work : selection.layers) {
        if (work.n_rows > 0 && has_rows(geometry.layers[static_cast<size_t>(work.layer)], visible)) n += work.n_rows;
    }
    return n;
}

SelectedRows select_rows(const RowSelection& rows, const Geometry& geometry) {
    const std::vector<int32_t> heads = base::chosen_or_all(rows.heads, geometry.max_heads());
    SelectedRows selection;
    selection.n_heads = static_cast<int32_t>(heads.size());
    for (const int32_t i : base::chosen_or_all(rows.layers, geometry.n_layer())) {
        const LayerInfo& layer = geometry.layers[static_cast<size_t>(i)];
        LayerWork work;
        work.layer = i;
        for (size_t place = 0; layer.captured() && place < heads.size(); ++place) {
            const int32_t h = heads[place];
            if (h >= layer.n_head) continue;
            const int32_t kv_head = h / (layer.n_head / layer.n_head_kv);
            HeadRun* const last = work.runs.empty() ? nullptr : &work.runs.back();
            const bool goes_on = last && last->kv_head == kv_head && last->end == h &&
                                 last->place + (last->end - last->begin) == static_cast<int32_t>(place);
            if (goes_on)
                ++last->end;
            else
                work.runs.push_back({h, h + 1, kv_head, static_cast<int32_t>(place)});
            ++work.n_rows;
        }
        for (const HeadRun& run : work.runs) selection.max_run = std::max(selection.max_run, run.end - run.begin);
        if (work.n_rows > 0) selection.max_head_dim = std::max(selection.max_head_dim, layer.head_dim);
        selection.n_rows += work.n_rows;
        selection.layers.push_back(std::move(work));
    }
    return selection;
}

} // namespace attnscope::view
