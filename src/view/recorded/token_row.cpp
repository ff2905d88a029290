#include "view/recorded/token_row.h"

#include "attention/group_rows.h"
#include "attention/softmax.h"
#include "base/parallel_for.h"

#include <algorithm>
#include <condition_variable>
#include <new>

namespace attnscope::view {

namespace {

// Rows of a layer are added when all layers before it were: the order of additions is that of reduce_mean.
class Sum {
public:
    Sum(size_t n_columns, bool max, std::vector<float>& out) : max_(max), out_(out) {
        out_.assign(n_columns, 0.0f);
        if (!max_) sum_.assign(n_columns, 0.0);
    }
    // `place` is the layer's among those that are added. No rows: nothing is added, others need not wait.
    void add(size_t place, std::span<const float> rows) {
        std::unique_lock lock(mutex_);
        turn_.wait(lock, [&] { return next_ == place; });
        const size_t n = out_.size(), n_rows = n == 0 ? 0 : rows.size() / n;
        constexpr size_t tile = 1024; // columns that stay in the first-level cache while the rows pass by
        for (size_t begin = 0; begin < n; begin += tile) {
            const size_t end = std::min(n, begin + tile);
            for (size_t r = 0; r < n_rows; ++r) {
                const float* const row = rows.data() + r * n;
                if (!max_) {
                    for (size_t j = begin; j < end; ++j) sum_[j] += static_cast<double>(row[j]);
                } else if (n_added_ + r == 0) {
                    std::copy(row + begin, row + end, out_.begin() + static_cast<ptrdiff_t>(begin));
                } else { // a NaN stays: a broken row must show
                    for (size_t j = begin; j < end; ++j)
                        out_[j] = !(row[j] <= out_[j]) && out_[j] == out_[j] ? row[j] : out_[j];
                }
            }
        }
        n_added_ += n_rows;
        ++next_;
        turn_.notify_all();
    }
    void finish() {
        if (max_ || n_added_ == 0) return;
        const double share = 1.0 / static_cast<double>(n_added_);
        for (size_t j = 0; j < out_.size(); ++j) out_[j] = static_cast<float>(sum_[j] * share);
    }

private:
    const bool max_;
    std::vector<float>& out_;
    std::vector<double> sum_;
    std::mutex mutex_;
    std::condition_variable turn_;
    size_t next_ = 0, n_added_ = 0;
};

} // namespace

int64_t columns_of_rows(const Frame& frame) {
    int64_t n = frame.index + 1;
    for (const Ranges& ranges : frame.visible) {
        if (!ranges.empty()) n = std::max(n, ranges.back().end);
    }
    return n;
}

Result<void> layer_rows(const Geometry& geometry, const LayerTiles& tiles, const TokenAt& token, int32_t layer,
                        Range heads, std::span<float> out, std::span<float> lse, size_t first_chunk) {
    const LayerInfo& info = geometry.layers[static_cast<size_t>(layer)];
    const Result<RowsPlan> plan = plan_layer(info, token.frame->batched);
    if (!plan) return plan.error();
    GroupRequest r;
    r.layer = &info;
    r.plan = &*plan;
    r.q = token.q + geometry.q_offset(layer);
    r.chunks = tiles.chunks().subspan(first_chunk);
    r.visible = token.frame->visible[static_cast<size_t>(info.mask_group)];
    r.n_columns = token.n_columns;
    r.position = token.frame->position;
    r.positions = token.positions;
    r.batched = token.frame->batched;
    const SoftmaxTask task{&info, r.visible, r.n_columns, r.position, r.positions};
    thread_local GroupRows rows;
    for (auto h = static_cast<int32_t>(heads.begin); h < heads.end;) {
        r.head_begin = h;
        r.head_end = std::min(static_cast<int32_t>(heads.end), (h / plan->group + 1) * plan->group);
        r.chunk_offset = static_cast<size_t>(h / plan->group) * tiles.head_stride();
        group_dots(row_kernels(), r, rows);
        for (; h < r.head_end; ++h) {
            float* const row = rows.values.data() + static_cast<size_t>(h - r.head_begin) * rows.stride;
            const float denominator = softmax_row(row_kernels(), task, h, row);
            const auto at = static_cast<size_t>(h - heads.begin);
            std::copy_n(row, token.n_columns, out.begin() + static_cast<ptrdiff_t>(at) * token.n_columns);
            if (!lse.empty()) lse[at] = denominator;
        }
    }
    return {};
}

Result<void> reduced_row(const Geometry& geometry, RecordedKeys& keys, const TokenAt& token,
                         std::span<const LayerHeads> layers, bool max, std::vector<float>& out) try {
    Sum sum(static_cast<size_t>(token.n_columns), max, out);
    std::vector<Result<void>> status(layers.size());
    base::parallel_for_all(layers.size(), [&](size_t place) {
        const auto& [layer, heads] = layers[place];
        thread_local std::vector<float> rows;
        size_t n = 0;
        try {
            const LayerInfo& info = geometry.layers[static_cast<size_t>(layer)];
            const Result<const LayerTiles*> tiles = keys.layer(info.k_layer);
            n = static_cast<size_t>(heads.end - heads.begin) * static_cast<size_t>(token.n_columns);
            if (rows.size() < n) rows.resize(n);
            status[place] = tiles ? layer_rows(geometry, **tiles, token, layer, heads, std::span(rows).first(n))
                                  : Result<void>(tiles.error());
        } catch (const std::bad_alloc&) {
            status[place] = Error{ErrorKind::io, "there is no memory for the rows of this token"};
        }
        sum.add(place, status[place] ? std::span<const float>(rows).first(n) : std::span<const float>());
    });
    for (const Result<void>& r : status) {
        if (!r) return r;
    }
    sum.finish();
    return {};
} catch (const std::bad_alloc&) {
    return Error{ErrorKind::io, "there is no memory for the rows of this token"};
}

} // namespace attnscope::view
