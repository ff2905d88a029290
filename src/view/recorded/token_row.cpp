#include "view/recorded/token_row.h"

#include "attention/group_rows.h"
#include "attention/softmax.h"
#include "base/parallel_for.h"

#include <algorithm>
#include <condition_variable>
#include <new>

namespace attnscope::view {

namespace {

// Rows are added when all rows before them were: the order of additions is that of reduce_mean.
class Sum {
public:
    Sum(size_t n_columns, bool max, std::vector<float>& out) : max_(max), out_(out) {
        out_.assign(n_columns, 0.0f);
        if (!max_) sum_.assign(n_columns, 0.0);
    }
    // `place` counts the calls, whose order is waited for. `rows`: n_rows, `stride` floats apart.
    void add(size_t place, const float* rows, size_t n_rows, size_t stride) {
        std::unique_lock lock(mutex_);
        turn_.wait(lock, [&] { return next_ == place; });
        const size_t n = out_.size();
        constexpr size_t tile = 1024; // columns that stay in the first-level cache while the rows pass by
        for (size_t begin = 0; begin < n; begin += tile) {
            const size_t end = std::min(n, begin + tile);
            for (size_t r = 0; r < n_rows; ++r) {
                const float* const row = rows + r * stride;
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

namespace {

// Rows of the heads [begin, end) that share a KV head, in `rows`. `each` gets (head, its row, the logarithm of its denominator).
template <class Each>
void group_of_rows(const LayerInfo& info, const attention::RowsPlan& plan, const LayerTiles& tiles,
                   const TokenAt& token, const uint8_t* q, Range heads, size_t first_chunk, attention::GroupRows& rows,
                   const Each& each) {
    attention::GroupRequest r;
    r.layer = &info;
    r.plan = &plan;
    r.q = q;
    r.chunks = tiles.chunks().subspan(first_chunk);
    r.visible = token.frame->visible[static_cast<size_t>(info.mask_group)];
    r.n_columns = token.n_columns;
    r.position = token.frame->position;
    r.positions = token.positions;
    r.batched = token.frame->batched;
    r.head_begin = static_cast<int32_t>(heads.begin);
    r.head_end = static_cast<int32_t>(heads.end);
    r.chunk_offset = static_cast<size_t>(r.head_begin / plan.group) * tiles.head_stride();
    attention::group_dots(attention::row_kernels(), r, rows);
    const attention::SoftmaxTask task{&info, r.visible, r.n_columns, r.position, r.positions};
    for (int32_t h = r.head_begin; h < r.head_end; ++h) {
        float* const row = rows.values.data() + static_cast<size_t>(h - r.head_begin) * rows.stride;
        each(h, row, attention::softmax_row(attention::row_kernels(), task, h, row));
    }
}

// Heads from `begin` on that share its KV head.
int64_t group_end(const attention::RowsPlan& plan, Range heads, int64_t begin) {
    return std::min(heads.end, (begin / plan.group + 1) * plan.group);
}

} // namespace

Result<void> layer_rows(const Geometry& geometry, const LayerTiles& tiles, const TokenAt& token, int32_t layer,
                        Range heads, std::span<float> out, std::span<float> lse, size_t first_chunk) {
    const LayerInfo& info = geometry.layers[static_cast<size_t>(layer)];
    const Result<attention::RowsPlan> plan = attention::plan_layer(info, token.frame->batched);
    if (!plan) return plan.error();
    thread_local attention::GroupRows rows;
    for (int64_t h = heads.begin; h < heads.end;) {
        const Range group{h, group_end(*plan, heads, h)};
        group_of_rows(info, *plan, tiles, token, token.q + geometry.q_offset(layer), group, first_chunk, rows,
                      [&](int32_t head, const float* row, float denominator) {
                          const auto at = static_cast<size_t>(head - heads.begin);
                          std::copy_n(row, token.n_columns, out.begin() + static_cast<ptrdiff_t>(at) * token.n_columns);
                          if (!lse.empty()) lse[at] = denominator;
                      });
        h = group.end;
    }
    return {};
}

Result<void> reduced_row(const Geometry& geometry, RecordedKeys& keys, const TokenAt& token,
                         std::span<const LayerHeads> layers, bool max, std::vector<float>& out) try {
    struct Group {
        size_t layer; // its place in `plans`
        Range heads;
    };
    std::vector<attention::RowsPlan> plans;
    std::vector<Group> groups;
    for (const LayerHeads& l : layers) {
        Result<attention::RowsPlan> plan =
            attention::plan_layer(geometry.layers[static_cast<size_t>(l.layer)], token.frame->batched);
        if (!plan) return plan.error();
        for (int64_t h = l.heads.begin; h < l.heads.end; h = group_end(*plan, l.heads, h))
            groups.push_back({plans.size(), {h, group_end(*plan, l.heads, h)}});
        plans.push_back(std::move(*plan));
    }
    Sum sum(static_cast<size_t>(token.n_columns), max, out);
    std::vector<Result<void>> status(groups.size());
    base::parallel_for_all(groups.size(), [&](size_t place) {
        const Group& group = groups[place];
        const int32_t layer = layers[group.layer].layer;
        const LayerInfo& info = geometry.layers[static_cast<size_t>(layer)];
        thread_local attention::GroupRows rows;
        try {
            const Result<const LayerTiles*> tiles = keys.layer(info.k_layer);
            if (tiles) {
                group_of_rows(info, plans[group.layer], **tiles, token, token.q + geometry.q_offset(layer), group.heads,
                              0, rows, [](int32_t, const float*, float) {});
            } else {
                status[place] = tiles.error();
            }
        } catch (const std::bad_alloc&) {
            status[place] = Error{ErrorKind::io, "there is no memory for the rows of this token"};
        }
        const auto n = static_cast<size_t>(group.heads.end - group.heads.begin);
        sum.add(place, rows.values.data(), status[place] ? n : 0, rows.stride); // in any case: others wait for it
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
