#include "attention/group_rows.h"
#include "base/cores.h"
#include "recording/missing_rows.h"
#include "view/crew.h"
#include "view/key_reader.h"
#include "view/reductions.h"
#include "view/selection.h"
#include "view/tile_sums.h"

#include <attnscope/attention_view.h>
#include <attnscope/rows.h>

#include <algorithm>
#include <mutex>
#include <new>
#include <string>

namespace attnscope::view {

namespace {

constexpr int64_t max_mean_numbers = int64_t(1) << 24; // of the mean rows of a batch of tokens

std::unique_ptr<Crew> make_crew(const ViewOptions& options) {
    if (options.engine_threads > 0) return engine_crew(options.engine_threads);
    const auto n_threads = options.n_threads > 0 ? options.n_threads : static_cast<int32_t>(base::n_cores());
    return own_crew(n_threads);
}

// One thread's memory for a token's layers.
struct LayerScratch {
    attention::GroupRows rows;
    KeyBuffer keys;
};

class View final : public AttentionView {
public:
    View(AttentionSource& source, KeyReader& keys, AttentionRequest request, const ViewOptions& options)
        : source_(source), keys_(keys), request_(std::move(request)), options_(options),
          selection_(select_rows(request_.rows, source.geometry())), scores_(request_.window_rows),
          crew_(make_crew(options)), scratch_(static_cast<size_t>(crew_->size())) {}

    Result<AttentionAnswer> answer(const Frame& frame, std::span<const float> mean) override;
    Result<AttentionAnswer> answer(int64_t index) override;
    Result<std::optional<AttentionAnswer>> next(const Frame& frame, std::span<const float> mean) override;
    Result<void> each(Range tokens, const std::function<Result<void>(AttentionAnswer&&)>& sink) override;
    const AttentionRequest& request() const override { return request_; }
    PositionScores& scores() override { return scores_; }

private:
    Result<void> each_mean(Range tokens, const std::function<Result<void>(AttentionAnswer&&)>& sink);
    struct Wanted { // of a frame
        bool answering = true;
        bool accumulating = false;
    };
    Result<AttentionAnswer> compute(const Frame& frame, std::span<const float> given_mean, Wanted wanted);
    Result<void> compute_rows(const Frame& frame, AttentionAnswer* answer);
    Result<void> compute_layer(const Frame& frame, size_t place, LayerScratch& scratch, AttentionAnswer* answer);
    void finish(AttentionAnswer& answer);
    void mean_over_layers(double share);
    // Does the token take no part in the selected layers that there are (an encoder's, and it is the decoder's)?
    bool passes_by(const std::vector<Ranges>& visible) const {
        const Geometry& geometry = source_.geometry();
        return selection_.n_rows > 0 && visible.size() == static_cast<size_t>(geometry.n_mask_groups) &&
               rows_of_token(selection_, geometry, visible) == 0;
    }
    // What each row of a token weighs in the mean of all.
    double row_share(const std::vector<Ranges>& visible) const {
        const int64_t n = rows_of_token(selection_, source_.geometry(), visible);
        return n > 0 ? 1.0 / static_cast<double>(n) : 0.0;
    }

    bool wants_mean() const { return is_of_mean(request_.reduce); }
    std::span<float> layer_row(std::vector<float>& rows, size_t place) const {
        const auto n = static_cast<size_t>(n_columns_);
        return std::span<float>(rows).subspan(place * n, n);
    }

    AttentionSource& source_;
    KeyReader& keys_;
    const AttentionRequest request_;
    const ViewOptions options_;
    const SelectedRows selection_;
    PositionScores scores_;
    int64_t n_seen_ = 0; // frames that came to next()
    const std::unique_ptr<Crew> crew_;
    std::vector<LayerScratch> scratch_; // one a member of the crew

    // of the frame in hand
    int64_t n_columns_ = 0;
    bool summing_ = false;
    std::vector<float> layer_sum_; // (layers, n_columns): sum over the layer's rows
    std::vector<float> layer_max_; // (layers, n_columns)
    std::vector<double> sum_;      // (n_columns)
    std::vector<float> mean_;      // (n_columns): over all selected rows
};

Result<void> View::compute_layer(const Frame& frame, size_t place, LayerScratch& scratch, AttentionAnswer* answer) {
    const LayerWork& work = selection_.layers[place];
    if (work.n_rows == 0) return {};
    const Geometry& geometry = source_.geometry();
    const LayerInfo& layer = geometry.layers[static_cast<size_t>(work.layer)];
    const attention::RowKernels& kernels = attention::row_kernels();
    const bool maximum = answer != nullptr && request_.reduce == Reduce::max;

    const Ranges& visible = frame.visible[static_cast<size_t>(layer.mask_group)];
    const Range seen = visible.empty() ? Range{} : Range{visible.front().begin, visible.back().end};
    auto keys = keys_.layer_keys(work.layer, seen, scratch.keys);
    if (!keys) return keys.error();
    attention::GroupRequest group;
    group.layer = &layer;
    group.plan = &keys_.plan(work.layer, frame.batched).value();
    group.q = frame.q.data() + geometry.q_offset(work.layer);
    group.chunks = keys->chunks;
    group.visible = visible;
    group.n_columns = n_columns_;
    group.position = frame.position;
    group.positions = keys_.positions();
    group.batched = frame.batched;
    group.any_order = wants_mean(); // rows are members of a sum only

    bool first = true;
    for (const HeadRun& run : work.runs) {
        group.chunk_offset = keys->of_head(run.kv_head);
        group.head_begin = run.begin;
        group.head_end = run.end;
        attention::group_rows(kernels, group, scratch.rows);
        for (int32_t h = 0; h < run.end - run.begin; ++h, first = false) {
            const std::span<const float> row(scratch.rows.row(h), static_cast<size_t>(n_columns_));
            if (summing_) {
                float* sum = layer_row(layer_sum_, place).data();
                if (first)
                    std::copy(row.begin(), row.end(), sum);
                else
                    kernels.add(sum, row.data(), n_columns_);
            }
            if (maximum) {
                float* max = layer_row(layer_max_, place).data();
                if (first)
                    std::copy(row.begin(), row.end(), max);
                else
                    kernels.largest(max, row.data(), n_columns_);
            }
            if (answer) take_row(request_, options_.n_prompt, row, place, static_cast<size_t>(run.place + h), *answer);
        }
    }
    return {};
}

// Sums of a layer are float32, of some dozen numbers; those of layers are added in float64.
void View::mean_over_layers(double share) {
    sum_.assign(static_cast<size_t>(n_columns_), 0.0);
    for (size_t place = 0; place < selection_.layers.size(); ++place) {
        if (selection_.layers[place].n_rows == 0) continue;
        const float* row = layer_row(layer_sum_, place).data();
        for (size_t j = 0; j < sum_.size(); ++j) sum_[j] += static_cast<double>(row[j]);
    }
    mean_.resize(sum_.size());
    for (size_t j = 0; j < sum_.size(); ++j) mean_[j] = static_cast<float>(sum_[j] * share);
}

// What is made of all rows together.
void View::finish(AttentionAnswer& answer) {
    const auto first = static_cast<size_t>(answer.first_column);
    bool begun = false;
    for (size_t place = 0; place < selection_.layers.size(); ++place) {
        const int32_t n_rows = selection_.layers[place].n_rows;
        if (n_rows == 0) continue;
        if (request_.reduce == Reduce::per_layer) {
            const std::span<const float> sum = layer_row(layer_sum_, place).subspan(first);
            const double share = 1.0 / static_cast<double>(n_rows);
            std::transform(sum.begin(), sum.end(), answer.values.data() + place * sum.size(),
                           [&](float s) { return static_cast<float>(static_cast<double>(s) * share); });
        } else if (request_.reduce == Reduce::max) {
            const std::span<const float> row = layer_row(layer_max_, place).subspan(first);
            if (begun)
                attention::row_kernels().largest(answer.values.data(), row.data(), static_cast<int64_t>(row.size()));
            else
                std::copy(row.begin(), row.end(), answer.values.begin());
            begun = true;
        }
    }
    if (wants_mean()) take_mean(request_, mean_, answer);
}

// The rows, layer by layer, into what `answer` and the sums want of them.
Result<void> View::compute_rows(const Frame& frame, AttentionAnswer* answer) {
    for (LayerScratch& scratch : scratch_) // here, so that no thread of the crew has to allocate
        attention::reserve_group_rows(scratch.rows, selection_.max_run, selection_.max_head_dim, n_columns_);
    if (auto ok = keys_.prepare(n_columns_); !ok) return ok;
    std::mutex failing;
    Result<void> done;
    crew_->run(selection_.layers.size(), [&](size_t place, int32_t member) {
        auto ok = compute_layer(frame, place, scratch_[static_cast<size_t>(member)], answer);
        if (ok) return;
        const std::lock_guard lock(failing);
        done = std::move(ok);
    });
    return done;
}

Result<AttentionAnswer> View::compute(const Frame& frame, std::span<const float> given_mean, Wanted wanted) {
    const auto [answering, accumulating] = wanted;
    auto columns = columns_of(frame, source_);
    if (!columns) return columns.error();
    n_columns_ = *columns;
    if (passes_by(frame.visible)) {
        return Error{ErrorKind::not_found,
                     recording::why_no_rows(source_.geometry(), request_.rows, frame.index, frame.visible)};
    }
    auto answer = start_answer(request_, selection_, frame.index, n_columns_);
    if (!answer) return answer;
    try {
        if (answering) answer->values.assign(n_values(*answer), 0.0f);
        const bool mean = accumulating || (answering && wants_mean());
        // A GPU may have computed it beside the model already.
        const bool given = mean && given_mean.size() == static_cast<size_t>(n_columns_) &&
                           (options_.mean_is_selected || selection_.n_rows == source_.geometry().n_rows()) &&
                           (!answering || wants_mean());
        if (given) {
            mean_.assign(given_mean.begin(), given_mean.end());
            if (answering) take_mean(request_, mean_, *answer);
            return answer;
        }
        summing_ = mean || (answering && request_.reduce == Reduce::per_layer);
        const size_t n_sums = selection_.layers.size() * static_cast<size_t>(n_columns_);
        if (summing_ && layer_sum_.size() < n_sums) layer_sum_.resize(n_sums);
        if (answering && request_.reduce == Reduce::max && layer_max_.size() < n_sums) layer_max_.resize(n_sums);
        if (auto ok = compute_rows(frame, answering ? &*answer : nullptr); !ok) return ok.error();
        if (mean) mean_over_layers(row_share(frame.visible));
        if (answering) finish(*answer);
        return answer;
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, "no memory for the attention of frame " + std::to_string(frame.index)};
    }
}

Result<AttentionAnswer> View::answer(const Frame& frame, std::span<const float> mean) {
    return compute(frame, mean, {});
}

Result<AttentionAnswer> View::answer(int64_t index) {
    auto frame = source_.frame(index);
    if (!frame) return frame.error();
    return compute(*frame, {}, {});
}

Result<std::optional<AttentionAnswer>> View::next(const Frame& frame, std::span<const float> mean) {
    if (passes_by(frame.visible)) return std::optional<AttentionAnswer>();
    const bool due = n_seen_ % request_.every == 0;
    const bool accumulating = !request_.accumulate.empty();
    if (!due && !accumulating) {
        ++n_seen_;
        return std::optional<AttentionAnswer>();
    }
    auto answer = compute(frame, mean, {.answering = due, .accumulating = accumulating});
    if (!answer) return answer.error();
    ++n_seen_;
    if (accumulating) scores_.add(mean_);
    if (!due) return std::optional<AttentionAnswer>();
    return std::optional<AttentionAnswer>(std::move(*answer));
}

// Answers that are made of the mean alone: mean rows of a batch of tokens at once.
Result<void> View::each_mean(Range tokens, const std::function<Result<void>(AttentionAnswer&&)>& sink) {
    for (int64_t at = tokens.begin; at < tokens.end;) {
        auto batch = load_tokens(source_, selection_, at, tokens.end,
                                 std::max<int64_t>(1, max_mean_numbers / std::max<int64_t>(1, tokens.end)));
        if (!batch) return batch.error();
        at = batch->end;
        if (batch->tokens.empty()) continue;
        const Tiling rows{{batch->tokens.front().index, batch->end}, {0, batch->n_columns}, 1, 1};
        TileSums sums(rows, selection_, false, TileValue::share, crew_->size());
        sums.start_batch(*batch);
        if (auto done = compute_batch(source_, keys_, selection_, *batch, false, *crew_, sums); !done) return done;
        for (const TokenBatch::Token& token : batch->tokens) {
            if (passes_by(token.visible)) continue;
            const double share = row_share(token.visible);
            const auto sum = sums.plane(0).subspan(static_cast<size_t>(rows.line_of(token.index) * batch->n_columns));
            mean_.resize(static_cast<size_t>(token.n_columns));
            std::transform(sum.begin(), sum.begin() + token.n_columns, mean_.begin(),
                           [&](double x) { return static_cast<float>(x * share); });
            if (!request_.accumulate.empty()) scores_.add(mean_);
            if (n_seen_++ % request_.every != 0) continue;
            auto answer = start_answer(request_, selection_, token.index, token.n_columns);
            if (!answer) return answer.error();
            take_mean(request_, mean_, *answer);
            if (auto ok = sink(std::move(*answer)); !ok) return ok;
        }
    }
    return {};
}

Result<void> View::each(Range tokens, const std::function<Result<void>(AttentionAnswer&&)>& sink) try {
    if (wants_mean()) return each_mean(tokens, sink);
    for (int64_t index = tokens.begin; index < tokens.end; ++index) {
        auto frame = source_.frame(index);
        if (!frame) return frame.error();
        if (frame->q.empty()) continue;
        auto answer = next(*frame, {});
        if (!answer) return answer.error();
        if (!*answer) continue;
        if (auto ok = sink(std::move(**answer)); !ok) return ok;
    }
    return {};
} catch (const std::bad_alloc&) {
    return Error{ErrorKind::io, "no memory for the attention of many tokens"};
}

} // namespace

} // namespace attnscope::view

namespace attnscope {

Result<std::unique_ptr<AttentionView>> AttentionView::create(AttentionSource& source, const AttentionRequest& request,
                                                             const ViewOptions& options) {
    view::KeyReader* const keys = view::key_reader(source); // the public type hides how keys lie in memory
    if (!keys) return Error{ErrorKind::invalid_argument, "the source is neither a KeyStore nor of AttentionSource::of"};
    if (auto ok = check_request(request, source.geometry()); !ok) return ok.error();
    if (auto ok = view::check_plans(*keys, source.geometry(), request.rows); !ok) return ok.error();
    try {
        return std::unique_ptr<AttentionView>(std::make_unique<view::View>(source, *keys, request, options));
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, "no memory for answers"};
    }
}

} // namespace attnscope
