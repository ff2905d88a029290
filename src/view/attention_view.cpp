#include "view/crew.h"
#include "view/key_store.h"
#include "view/selection.h"

#include <attnscope/attention_view.h>
#include <attnscope/rows.h>

#include <algorithm>
#include <cmath>
#include <new>
#include <string>

namespace attnscope::view {

namespace {

constexpr size_t max_answer_floats = size_t(1) << 31;

double sum_of(std::span<const float> x) {
    double sum = 0;
    for (const float v : x)
        sum += static_cast<double>(v);
    return sum;
}

float lookback_ratio(std::span<const float> row, int64_t n_prompt) {
    const size_t prompt = static_cast<size_t>(std::clamp<int64_t>(n_prompt, 0, static_cast<int64_t>(row.size())));
    const size_t rest = row.size() - prompt;
    const double context = prompt ? sum_of(row.first(prompt)) / static_cast<double>(prompt) : 0.0;
    const double generated = rest ? sum_of(row.subspan(prompt)) / static_cast<double>(rest) : 0.0;
    return context + generated == 0 ? 0.0f : static_cast<float>(context / (context + generated));
}

std::unique_ptr<Crew> make_crew(const ViewOptions& options, int32_t n_layers) {
    if (options.engine_threads > 0) return engine_crew(options.engine_threads);
    return own_crew(std::min(options.n_threads, n_layers));
}

class View final : public AttentionView {
public:
    View(const ChunkedKeys& keys, AttentionRequest request, const ViewOptions& options)
        : keys_(keys), request_(std::move(request)), options_(options),
          selection_(select_rows(request_, keys.geometry())), scores_(request_.window_rows),
          crew_(make_crew(options, static_cast<int32_t>(selection_.layers.size()))),
          scratch_(static_cast<size_t>(crew_->size())) {}

    Result<AttentionAnswer> answer(const Frame& frame) override;
    Result<std::optional<AttentionAnswer>> next(const Frame& frame) override;
    const AttentionRequest& request() const override { return request_; }
    PositionScores& scores() override { return scores_; }

private:
    Result<int64_t> columns_of(const Frame& frame) const;
    Result<AttentionAnswer> compute(const Frame& frame, bool answering, bool accumulating);
    void compute_layer(const Frame& frame, size_t place, GroupRows& scratch, AttentionAnswer* answer);
    void take_row(std::span<const float> row, size_t layer, size_t head, AttentionAnswer& answer) const;
    void finish(AttentionAnswer& answer);
    void mean_over_layers();

    bool wants_mean() const { return is_of_mean(request_.reduce); }
    std::span<float> layer_row(std::vector<float>& rows, size_t place) const {
        const auto n = static_cast<size_t>(n_columns_);
        return std::span<float>(rows).subspan(place * n, n);
    }

    const ChunkedKeys& keys_;
    const AttentionRequest request_;
    const ViewOptions options_;
    const Selection selection_;
    PositionScores scores_;
    int64_t n_seen_ = 0; // frames that came to next()
    const std::unique_ptr<Crew> crew_;
    std::vector<GroupRows> scratch_; // one a member of the crew

    // of the frame in hand
    int64_t n_columns_ = 0;
    int64_t first_column_ = 0; // of the window
    bool summing_ = false;
    std::vector<float> layer_sum_; // (layers, n_columns): sum over the layer's rows
    std::vector<float> layer_max_; // (layers, n_columns)
    std::vector<double> sum_;      // (n_columns)
    std::vector<float> mean_;      // (n_columns): over all selected rows
};

// Width of the frame's rows, as in Recording::rows. Frames may come from anywhere: group_rows checks nothing.
Result<int64_t> View::columns_of(const Frame& frame) const {
    const Geometry& geometry = keys_.geometry();
    const std::string name = "frame " + std::to_string(frame.index);
    if (frame.index < 0 || frame.visible.size() != static_cast<size_t>(geometry.n_mask_groups))
        return Error{ErrorKind::invalid_argument, name + " is not a frame of this session"};
    if (frame.q.size() != geometry.q_bytes()) {
        if (frame.q.empty()) return Error{ErrorKind::not_found, name + " was captured without its queries"};
        return Error{ErrorKind::invalid_argument, name + " has queries of another size than this model's"};
    }
    int64_t n_columns = frame.index + 1;
    for (const Ranges& ranges : frame.visible) {
        int64_t seen = 0;
        for (const Range& r : ranges) {
            if (r.begin < seen || r.end < r.begin)
                return Error{ErrorKind::invalid_argument, name + " sees columns that are out of order"};
            seen = r.end;
        }
        n_columns = std::max(n_columns, seen);
    }
    if (n_columns > keys_.size()) {
        return Error{ErrorKind::not_found, name + " sees " + std::to_string(n_columns) + " columns, but the keys of " +
                                               std::to_string(keys_.size()) + " are held"};
    }
    return n_columns;
}

// One row of the selection, complete.
void View::take_row(std::span<const float> row, size_t layer, size_t head, AttentionAnswer& answer) const {
    const size_t i = layer * static_cast<size_t>(selection_.n_heads) + head;
    switch (request_.reduce) {
    case Reduce::none: {
        const std::span<const float> shown = row.subspan(static_cast<size_t>(first_column_));
        std::copy(shown.begin(), shown.end(), answer.values.data() + i * shown.size());
        return;
    }
    case Reduce::lookback_ratio:
        answer.values[i] = lookback_ratio(row, options_.n_prompt);
        return;
    case Reduce::entropy:
        answer.values[i] = static_cast<float>(row_entropy(row));
        return;
    case Reduce::first_share:
        answer.values[i] = static_cast<float>(row_first_share(row));
        return;
    case Reduce::mean:
    case Reduce::max:
    case Reduce::per_layer:
    case Reduce::top_k:
    case Reduce::spans:
        return; // from the sums and maxima of layers
    }
}

void View::compute_layer(const Frame& frame, size_t place, GroupRows& scratch, AttentionAnswer* answer) {
    const LayerWork& work = selection_.layers[place];
    if (work.n_rows == 0) return;
    const Geometry& geometry = keys_.geometry();
    const LayerInfo& layer = geometry.layers[static_cast<size_t>(work.layer)];
    const RowKernels& kernels = row_kernels();
    const bool maximum = answer != nullptr && request_.reduce == Reduce::max;

    GroupRequest group;
    group.layer = &layer;
    group.plan = &keys_.plan(work.layer, frame.batched).value();
    group.q = frame.q.data() + geometry.q_offset(work.layer);
    group.chunks = keys_.chunks();
    group.visible = frame.visible[static_cast<size_t>(layer.mask_group)];
    group.n_columns = n_columns_;
    group.position = frame.position;
    group.positions = keys_.positions();
    group.batched = frame.batched;
    group.any_order = wants_mean(); // rows are members of a sum only

    bool first = true;
    for (const HeadRun& run : work.runs) {
        group.chunk_offset = keys_.offset(work.layer, run.kv_head);
        group.head_begin = run.begin;
        group.head_end = run.end;
        group_rows(kernels, group, scratch);
        for (int32_t h = 0; h < run.end - run.begin; ++h, first = false) {
            const std::span<const float> row(scratch.row(h), static_cast<size_t>(n_columns_));
            if (summing_) {
                float* sum = layer_row(layer_sum_, place).data();
                if (first) std::copy(row.begin(), row.end(), sum);
                else kernels.add(sum, row.data(), n_columns_);
            }
            if (maximum) {
                float* max = layer_row(layer_max_, place).data();
                if (first) std::copy(row.begin(), row.end(), max);
                else kernels.largest(max, row.data(), n_columns_);
            }
            if (answer) take_row(row, place, static_cast<size_t>(run.place + h), *answer);
        }
    }
}

// Sums of a layer are float32, of some dozen numbers; those of layers are added in float64.
void View::mean_over_layers() {
    sum_.assign(static_cast<size_t>(n_columns_), 0.0);
    for (size_t place = 0; place < selection_.layers.size(); ++place) {
        if (selection_.layers[place].n_rows == 0) continue;
        const float* row = layer_row(layer_sum_, place).data();
        for (size_t j = 0; j < sum_.size(); ++j)
            sum_[j] += static_cast<double>(row[j]);
    }
    const double share = selection_.n_rows ? 1.0 / static_cast<double>(selection_.n_rows) : 0.0;
    mean_.resize(sum_.size());
    for (size_t j = 0; j < sum_.size(); ++j)
        mean_[j] = static_cast<float>(sum_[j] * share);
}

// What is made of all rows together.
void View::finish(AttentionAnswer& answer) {
    const auto first = static_cast<size_t>(first_column_);
    const std::span<const float> mean = mean_;
    switch (request_.reduce) {
    case Reduce::mean:
        std::copy(mean.begin() + first_column_, mean.end(), answer.values.begin());
        return;
    case Reduce::per_layer: {
        const size_t width = static_cast<size_t>(n_columns_) - first;
        for (size_t place = 0; place < selection_.layers.size(); ++place) {
            const int32_t n_rows = selection_.layers[place].n_rows;
            if (n_rows == 0) continue;
            const std::span<const float> sum = layer_row(layer_sum_, place).subspan(first);
            const double share = 1.0 / static_cast<double>(n_rows);
            std::transform(sum.begin(), sum.end(), answer.values.data() + place * width,
                           [&](float s) { return static_cast<float>(static_cast<double>(s) * share); });
        }
        return;
    }
    case Reduce::max: {
        bool begun = false;
        for (size_t place = 0; place < selection_.layers.size(); ++place) {
            if (selection_.layers[place].n_rows == 0) continue;
            const std::span<const float> row = layer_row(layer_max_, place).subspan(first);
            if (begun) row_kernels().largest(answer.values.data(), row.data(), static_cast<int64_t>(row.size()));
            else std::copy(row.begin(), row.end(), answer.values.begin());
            begun = true;
        }
        return;
    }
    case Reduce::top_k: {
        const auto best = row_top_k(mean.subspan(first), static_cast<size_t>(request_.top_k));
        for (const ColumnWeight& w : best) {
            answer.columns.push_back(w.column + first_column_);
            answer.values.push_back(w.weight);
        }
        answer.shape = {static_cast<int64_t>(best.size())};
        return;
    }
    case Reduce::spans:
        for (size_t s = 0; s < request_.spans.size(); ++s) {
            const int64_t begin = std::min(request_.spans[s].begin, n_columns_);
            const int64_t end = std::min(request_.spans[s].end, n_columns_);
            answer.values[s] = static_cast<float>(
                sum_of(mean.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin))));
        }
        return;
    case Reduce::none:
    case Reduce::lookback_ratio:
    case Reduce::entropy:
    case Reduce::first_share:
        return; // row by row
    }
}

Result<AttentionAnswer> View::compute(const Frame& frame, bool answering, bool accumulating) {
    auto columns = columns_of(frame);
    if (!columns) return columns.error();
    n_columns_ = *columns;
    first_column_ = request_.window > 0 ? std::max<int64_t>(0, n_columns_ - request_.window) : 0;
    const auto n_layers = static_cast<int64_t>(selection_.layers.size());
    const int64_t width = n_columns_ - first_column_;

    AttentionAnswer answer;
    answer.index = frame.index;
    answer.reduce = request_.reduce;
    answer.n_columns = n_columns_;
    answer.first_column = first_column_;
    switch (request_.reduce) {
    case Reduce::none:
        answer.shape = {n_layers, selection_.n_heads, width};
        break;
    case Reduce::mean:
    case Reduce::max:
        answer.shape = {width};
        break;
    case Reduce::per_layer:
        answer.shape = {n_layers, width};
        break;
    case Reduce::top_k:
        answer.shape = {0};
        break;
    case Reduce::spans:
        answer.shape = {static_cast<int64_t>(request_.spans.size())};
        break;
    case Reduce::lookback_ratio:
    case Reduce::entropy:
    case Reduce::first_share:
        answer.shape = {n_layers, selection_.n_heads};
        break;
    }
    size_t n_values = 1;
    for (const int64_t extent : answer.shape)
        n_values *= static_cast<size_t>(extent); // a model's rows times a context: far below 2^64
    if (n_values > max_answer_floats || static_cast<size_t>(n_layers * n_columns_) > max_answer_floats)
        return Error{ErrorKind::invalid_argument, "an answer of " + std::to_string(n_values) +
                                                      " numbers is too large: ask for fewer layers or heads"};
    try {
        if (answering) answer.values.assign(n_values, 0.0f);
        const bool mean = accumulating || (answering && wants_mean());
        // A GPU may have computed it beside the model already.
        const bool given = mean && frame.mean.size() == static_cast<size_t>(n_columns_) &&
                           (options_.mean_is_selected || selection_.n_rows == keys_.geometry().n_rows()) && (!answering || wants_mean());
        if (given) {
            mean_ = frame.mean;
            if (answering) finish(answer);
            return answer;
        }
        summing_ = mean || (answering && request_.reduce == Reduce::per_layer);
        const auto n_sums = static_cast<size_t>(n_layers * n_columns_);
        if (summing_ && layer_sum_.size() < n_sums) layer_sum_.resize(n_sums);
        if (answering && request_.reduce == Reduce::max && layer_max_.size() < n_sums) layer_max_.resize(n_sums);
        for (GroupRows& scratch : scratch_) // here, so that no thread of the crew has to allocate
            reserve_group_rows(scratch, selection_.max_run, selection_.max_head_dim, n_columns_);
        keys_.settle();
        crew_->run(selection_.layers.size(), [&](size_t place, int32_t member) {
            compute_layer(frame, place, scratch_[static_cast<size_t>(member)], answering ? &answer : nullptr);
        });
        if (mean) mean_over_layers();
        if (answering) finish(answer);
        return answer;
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, "no memory for the attention of frame " + std::to_string(frame.index)};
    }
}

Result<AttentionAnswer> View::answer(const Frame& frame) {
    return compute(frame, true, false);
}

Result<std::optional<AttentionAnswer>> View::next(const Frame& frame) {
    const bool due = n_seen_ % request_.every == 0;
    const bool accumulating = !request_.accumulate.empty();
    if (!due && !accumulating) {
        ++n_seen_;
        return std::optional<AttentionAnswer>();
    }
    auto answer = compute(frame, due, accumulating);
    if (!answer) return answer.error();
    ++n_seen_;
    if (accumulating) scores_.add(mean_);
    if (!due) return std::optional<AttentionAnswer>();
    return std::optional<AttentionAnswer>(std::move(*answer));
}

} // namespace

} // namespace attnscope::view

namespace attnscope {

Result<std::unique_ptr<AttentionView>> AttentionView::create(const KeyStore& keys, const AttentionRequest& request,
                                                             const ViewOptions& options) {
    // There is one kind of store; the public type hides how it lies in memory.
    const auto* chunked = dynamic_cast<const view::ChunkedKeys*>(&keys);
    if (!chunked) return Error{ErrorKind::invalid_argument, "the keys are not of KeyStore::create"};
    if (auto ok = check_request(request, keys.geometry()); !ok) return ok.error();
    for (const view::LayerWork& work : view::select_rows(request, keys.geometry()).layers) {
        if (work.n_rows == 0) continue;
        const auto& plan = chunked->plan(work.layer, false); // a batch differs in the way, not in whether there is one
        if (!plan) {
            const int32_t number = keys.geometry().layers[static_cast<size_t>(work.layer)].layer;
            return Error{plan.error().kind, "layer " + std::to_string(number) + ": " + plan.error().message};
        }
    }
    try {
        return std::unique_ptr<AttentionView>(std::make_unique<view::View>(*chunked, request, options));
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, "no memory for live attention"};
    }
}

} // namespace attnscope
