#include "server/generation/generation.h"

#include <algorithm>
#include <utility>

namespace attnscope::server {

namespace {

size_t weight(const GenerationEvent& event) {
    const bool values = event.answer && *event.answer && **event.answer;
    return (event.captured ? event.captured->frame.q.size() : 0) + event.hidden_state.size() * sizeof(float) +
           (values ? (**event.answer)->values.size() * sizeof(float) : 0);
}

} // namespace

Generation::Generation(GenerationRequest r, GenerationLimits limits)
    : request(std::move(r)), limits_(limits), text_(request.stops, request.shown_stop) {}

// ---- the client's thread --------------------------------------------------------------------------------------

std::optional<GenerationEvent> Generation::next(std::chrono::milliseconds patience) {
    base::Lock lock(mutex_);
    const auto until = std::chrono::steady_clock::now() + patience;
    while (events_.empty()) {
        if (changed_.wait_until(lock, until) == std::cv_status::timeout && events_.empty()) return std::nullopt;
    }
    GenerationEvent event = std::move(events_.front());
    events_.pop_front();
    frame_bytes_ -= weight(event);
    if (request.flow == Flow::latest && event.frame()) skip_overtaken(event);
    changed_.notify_all();
    if (event.kind == GenerationEvent::Kind::done) {
        if (view_ && !request.attention->accumulate.empty()) scores_ = view_->scores();
        view_.reset();
        keys_.reset(); // the engine may cut the context again
    }
    return event;
}

void Generation::skip_overtaken(GenerationEvent& event) {
    const bool newer = std::any_of(events_.begin(), events_.end(), [](const auto& e) { return e.frame() != nullptr; });
    if (!newer) return;
    ++summary_.n_skipped;
    event.overtaken = true;
    if (request.attention->accumulate.empty()) event.drop_rows();
}

Result<std::optional<AttentionAnswer>> Generation::answer(const GenerationEvent& event) {
    if (event.answer) {
        if (*event.answer && event.overtaken) return std::optional<AttentionAnswer>();
        return *event.answer;
    }
    std::shared_ptr<SharedKeys> keys;
    std::shared_ptr<AttentionView> view;
    {
        const base::Lock lock(mutex_);
        keys = keys_;
        view = view_;
    }
    if (!view || !event.captured || !keys) return std::optional<AttentionAnswer>();
    Result<std::optional<AttentionAnswer>> answer = [&] {
        const base::Lock lock(keys->mutex);
        return view->next(event.captured->frame, event.captured->mean);
    }();
    {
        const base::Lock lock(mutex_);
        done_by_client_ = event.frame()->index;
    }
    if (answer && event.overtaken) return std::optional<AttentionAnswer>();
    return answer;
}

void Generation::cancel() {
    {
        const base::Lock lock(mutex_); // or the engine could miss it between looking and waiting
        stop_ = true;
    }
    changed_.notify_all();
}

void Generation::abandon() {
    cancel();
    const base::Lock lock(mutex_);
    events_.clear();
    frame_bytes_ = 0;
    view_.reset();
    keys_.reset();
}

GenerationSummary Generation::summary() const {
    const base::Lock lock(mutex_);
    return summary_;
}

std::optional<PositionScores> Generation::scores() const {
    const base::Lock lock(mutex_);
    return scores_;
}

std::string Generation::text() const {
    const base::Lock lock(mutex_);
    return text_.shown();
}

int64_t Generation::n_reused() const {
    const base::Lock lock(mutex_);
    return summary_.n_reused;
}

bool Generation::finished() const {
    const base::Lock lock(mutex_);
    return finished_;
}

// ---- the engine's thread --------------------------------------------------------------------------------------

Result<void> Generation::begin(std::shared_ptr<SharedKeys> keys, int64_t n_prompt, int64_t n_reused) {
    const base::Lock lock(mutex_);
    summary_.n_prompt = n_prompt;
    summary_.n_reused = n_reused;
    if (!request.attention) return {};
    const base::Lock keys_lock(keys->mutex);
    ViewOptions options;
    options.n_prompt = n_prompt;
    options.mean_is_selected = true; // GenerationQueue asks for them
    options.n_threads = limits_.n_threads;
    const std::vector<LayerInfo>& layers = keys->store->geometry().layers;
    const bool on_cpu = std::none_of(layers.begin(), layers.end(), [](const LayerInfo& l) { return l.on_device; });
    by_engine_ = limits_.engine_threads > 0 && on_cpu;
    options.engine_threads = by_engine_ ? limits_.engine_threads : 0;
    auto view = AttentionView::create(*keys->store, *request.attention, options);
    if (!view) return view.error();
    view_ = std::move(*view);
    keys_ = std::move(keys);
    with_rows_ = true;
    return {};
}

void Generation::enqueue(base::Lock& lock, GenerationEvent event) {
    const size_t more = weight(event);
    if (request.flow == Flow::latest) {
        for (auto e = events_.begin(); e != events_.end() && frame_bytes_ + more > limits_.queue_bytes; ++e) {
            frame_bytes_ -= weight(*e);
            if (e->frame()) ++summary_.n_skipped;
            e->drop_rows();
            e->hidden_state.clear();
        }
    } else if (more > 0) {
        const auto until = std::chrono::steady_clock::now() + limits_.stall;
        bool waits = true;
        while (!stop_ && frame_bytes_ != 0 && frame_bytes_ + more > limits_.queue_bytes) {
            if (!waits) {
                stalled_ = stop_ = true;
                break;
            }
            waits = changed_.wait_until(lock, until) != std::cv_status::timeout;
        }
    }
    frame_bytes_ += more;
    if (event.frame() && !event.answer) left_to_client_ = event.frame()->index;
    events_.push_back(std::move(event));
    changed_.notify_all();
}

void Generation::put_prompt_row(CapturedFrame frame) {
    base::Lock lock(mutex_);
    GenerationEvent event;
    event.kind = GenerationEvent::Kind::prompt_row;
    event.token = frame.frame.token;
    event.captured = std::make_shared<CapturedFrame>(std::move(frame));
    enqueue(lock, std::move(event));
}

bool Generation::put_token(int32_t token, const std::string& piece, int64_t row, std::vector<float> hidden_state) {
    base::Lock lock(mutex_);
    GenerationEvent event;
    event.kind = GenerationEvent::Kind::token;
    event.token = token;
    event.text = text_.add(piece);
    event.hidden_state = std::move(hidden_state);
    const bool stopped = text_.stopped();
    if (with_rows_) {
        waiting_.push_back({std::move(event), row});
        match(lock);
    } else {
        enqueue(lock, std::move(event));
    }
    return !stopped;
}

void Generation::put_row(CapturedFrame frame) {
    base::Lock lock(mutex_);
    row_ = std::make_shared<CapturedFrame>(std::move(frame));
    match(lock);
}

void Generation::match(base::Lock& lock) {
    if (waiting_.empty() || !row_ || row_->frame.index != waiting_.front().row) return;
    GenerationEvent event = std::move(waiting_.front().event);
    waiting_.pop_front();
    event.captured = std::exchange(row_, nullptr);
    if (by_engine_ && events_.empty() && done_by_client_ >= left_to_client_ && view_ && keys_) {
        const std::shared_ptr<SharedKeys> keys = keys_;
        const std::shared_ptr<AttentionView> view = view_;
        mutex_.unlock();
        {
            const base::Lock keys_lock(keys->mutex);
            event.answer = view->next(event.captured->frame, event.captured->mean);
        }
        mutex_.lock();
    }
    enqueue(lock, std::move(event));
}

void Generation::finish(GenerationSummary summary) {
    base::Lock lock(mutex_);
    // The last token of the prompt was kept for the first generated token; there was none.
    if (row_ && row_->frame.kind == FrameKind::prompt && request.prompt_rows) {
        GenerationEvent event;
        event.kind = GenerationEvent::Kind::prompt_row;
        event.token = row_->frame.token;
        event.captured = std::exchange(row_, nullptr);
        enqueue(lock, std::move(event));
    }
    while (!waiting_.empty()) {
        enqueue(lock, std::move(waiting_.front().event));
        waiting_.pop_front();
    }
    GenerationEvent last;
    last.text = text_.finish();
    summary.n_skipped = summary_.n_skipped;
    summary_ = std::move(summary);
    finished_ = true;
    enqueue(lock, std::move(last));
}

bool Generation::holds_keys() const {
    const base::Lock lock(mutex_);
    return keys_ != nullptr;
}

void Generation::cut_off() {
    const base::Lock lock(mutex_);
    stalled_ = true;
    keys_.reset();
    for (GenerationEvent& e : events_) {
        frame_bytes_ -= weight(e);
        e.drop_rows();
        e.hidden_state.clear();
    }
    summary_.finish_reason = "stalled";
}

} // namespace attnscope::server
