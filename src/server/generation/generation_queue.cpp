#include "server/generation/generation_queue.h"

#include "server/recordings/generation_recorder.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <span>
#include <utility>

namespace attnscope::server {

namespace {

constexpr size_t most_ended = 16;  // generations that can still be asked for after their end
constexpr size_t most_lagging = 4; // contexts of ended generations kept for clients that have not read all

// What the engine is asked for. The first `kept` tokens of the prompt are in its context already.
GenerateOptions engine_options(Generation& generation, int64_t kept) {
    const GenerationRequest& request = generation.request;
    const bool rows = request.attention.has_value();
    GenerateOptions o = request.options;
    o.stop = &generation.stop_flag();
    o.keep_rows = rows || request.record;
    // a client's rows are of the queries that chose tokens: nobody asks for the last token's
    o.read_last = request.record;
    o.prompt_rows.last = request.record || request.prompt_rows ? INT64_MAX : rows ? 1 : 0;
    o.device_mean = rows && needs_mean(*request.attention);
    if (rows && request.attention->every > 1 && request.attention->accumulate.empty()) {
        const int64_t first = request.prompt_rows
                                  ? kept
                                  : static_cast<int64_t>(request.tokens.size()) - 1; // the first frame that is answered
        o.mean_wanted = [first, every = request.attention->every](int64_t index) {
            return (index - first) % every == 0;
        };
    }
    if (rows) o.mean_rows = request.attention->rows;
    return o;
}

// How a generation ended: `result`, or the first `failure`.
void tell_end(GenerationSummary& summary, const Generation& generation, const Result<GenerateResult>& result,
              const std::optional<Error>& failure, bool late) {
    if (failure) {
        summary.finish_reason = "error";
        summary.error = failure->message;
        summary.error_kind = failure->kind;
    } else if (result->finish_reason == "stopped") {
        summary.finish_reason = late                     ? "timeout"
                                : generation.stalled()   ? "stalled"
                                : generation.cancelled() ? "aborted"
                                                         : "stop";
        if (summary.finish_reason == "stop") summary.stop_reason = "stop_sequence";
    } else if (result->finish_reason == "eos") {
        summary.finish_reason = "stop";
        summary.stop_reason = "eos";
    } else {
        summary.finish_reason = result->finish_reason;
    }
}

} // namespace

GenerationQueue::GenerationQueue(Session& session, QueueOptions options)
    : session_(session), options_(std::move(options)) {
    forget_context();
    thread_ = std::thread([this] { work(); });
}

GenerationQueue::~GenerationQueue() {
    close();
    thread_.join();
}

void GenerationQueue::close() {
    const base::Lock lock(mutex_);
    closing_ = true;
    if (running_) running_->cancel();
    for (const auto& g : waiting_) g->cancel();
    drop_cancelled();
    changed_.notify_all();
}

std::shared_ptr<Generation> GenerationQueue::submit(GenerationRequest request) {
    const base::Lock lock(mutex_);
    drop_cancelled();
    if (closing_ || waiting_.size() >= options_.max_waiting) return nullptr;
    waiting_.push_back(std::make_shared<Generation>(std::move(request), options_.limits));
    changed_.notify_all();
    return waiting_.back();
}

std::shared_ptr<Generation> GenerationQueue::find(const std::string& id) const {
    const base::Lock lock(mutex_);
    if (id.empty()) return running_ ? running_ : ended_.empty() ? nullptr : ended_.back();
    for (auto g = waiting_.rbegin(); g != waiting_.rend(); ++g) {
        if ((*g)->request.id == id) return *g;
    }
    if (running_ && running_->request.id == id) return running_;
    for (auto g = ended_.rbegin(); g != ended_.rend(); ++g) {
        if ((*g)->request.id == id) return *g;
    }
    return nullptr;
}

bool GenerationQueue::cancel(const std::string& id) {
    const base::Lock lock(mutex_);
    bool any = false;
    const auto end = [&](const std::shared_ptr<Generation>& g) {
        if (!g || g->finished() || (!id.empty() && g->request.id != id)) return;
        g->cancel();
        any = true;
    };
    end(running_);
    if (!id.empty()) std::for_each(waiting_.begin(), waiting_.end(), end);
    drop_cancelled();
    return any;
}

void GenerationQueue::drop_cancelled() {
    std::erase_if(waiting_, [](const auto& g) {
        if (!g->cancelled()) return false;
        GenerationSummary summary;
        summary.finish_reason = "aborted";
        g->finish(std::move(summary));
        return true;
    });
}

EngineCounters GenerationQueue::counters() const {
    const base::Lock lock(mutex_);
    EngineCounters counters = counters_;
    counters.n_waiting = waiting_.size();
    counters.busy = running_ != nullptr;
    return counters;
}

void GenerationQueue::work() {
    base::Lock lock(mutex_);
    while (true) {
        while (!closing_ && waiting_.empty()) changed_.wait(lock);
        if (waiting_.empty()) return; // closing
        running_ = std::move(waiting_.front());
        waiting_.pop_front();
        const auto generation = running_;
        lock.unlock();
        GenerationSummary summary = run(*generation);
        lock.lock();
        ++counters_.n_generations;
        counters_.last = summary;
        running_.reset();
        ended_.push_back(generation);
        if (ended_.size() > most_ended) {
            if (ended_.front()->holds_keys()) ended_.front()->cut_off();
            ended_.pop_front();
        }
        // Last, so that whoever hears of the end finds it counted.
        lock.unlock();
        generation->finish(std::move(summary));
        lock.lock();
    }
}

void GenerationQueue::forget_context() {
    session_.reset();
    context_.clear();
    if (keys_ && keys_.use_count() == 1) {
        const base::Lock lock(keys_->mutex);
        keys_->store->truncate(0);
        return;
    }
    // Some client still reads rows of this context: it keeps the keys, we begin with new ones.
    auto keys = std::make_shared<SharedKeys>();
    if (auto store = KeyStore::create(session_.geometry(), session_.n_ctx())) keys->store = std::move(*store);
    keys_ = std::move(keys);
}

Result<void> GenerationQueue::copy_keys(int64_t n) {
    auto keys = std::make_shared<SharedKeys>();
    {
        const base::Lock lock(keys_->mutex);
        Result<std::unique_ptr<KeyStore>> copied = keys_->store->copy(n);
        if (!copied) return copied.error();
        keys->store = std::move(*copied);
    }
    keys_ = std::move(keys);
    return {};
}

void GenerationQueue::make_room() {
    std::vector<std::shared_ptr<Generation>> lagging;
    {
        const base::Lock lock(mutex_);
        std::copy_if(ended_.begin(), ended_.end(), std::back_inserter(lagging),
                     [](const auto& g) { return g->holds_keys(); });
    }
    for (size_t i = 0; i + most_lagging < lagging.size() + 1; ++i) lagging[i]->cut_off();
}

int64_t GenerationQueue::keep_prefix(const GenerationRequest& request) {
    int64_t common = 0;
    if (request.reuse_prefix && !request.record) {
        // The last token of the prompt is always read: what comes next is chosen from it.
        const size_t most = std::min(context_.size(), request.tokens.size() - 1);
        while (size_t(common) < most && context_[size_t(common)] == request.tokens[size_t(common)]) ++common;
    }
    const auto held = static_cast<int64_t>(context_.size());
    if (common < held && keys_.use_count() > 1) {
        make_room();
        if (Result<void> r = copy_keys(common); !r || common == 0) {
            forget_context();
            return 0;
        }
    }
    const int64_t kept = common < held ? session_.truncate(common) : held;
    const base::Lock lock(keys_->mutex);
    keys_->store->truncate(kept);
    context_.resize(size_t(kept));
    return kept;
}

GenerationSummary GenerationQueue::run(Generation& generation) {
    const GenerationRequest& request = generation.request;
    GenerationSummary summary;
    if (generation.cancelled() || !keys_->store) {
        summary.finish_reason = generation.cancelled() ? "aborted" : "error";
        summary.error = generation.cancelled() ? "" : "there is no memory for the keys";
        return summary;
    }
    const auto n_prompt = static_cast<int64_t>(request.tokens.size());
    const int64_t kept = keep_prefix(request);
    summary.n_prompt = n_prompt;
    summary.n_reused = kept;
    if (Result<void> r = generation.begin(keys_, n_prompt, kept); !r) {
        summary.finish_reason = "error";
        summary.error = r.error().message;
        return summary;
    }

    GenerateOptions o = engine_options(generation, kept);
    const bool rows = request.attention.has_value();
    std::vector<float> hidden_state;
    if (request.hidden_state)
        o.hidden_state = [&](std::span<const float> h) { hidden_state.assign(h.begin(), h.end()); };

    std::unique_ptr<GenerationRecorder> recorder;
    if (request.record) recorder = std::make_unique<GenerationRecorder>(options_.record_dir, n_recordings_++);
    const auto start = std::chrono::steady_clock::now();
    bool late = false;
    std::optional<Error> failure; // the first
    const auto check = [&](const Result<void>& r) {
        if (!r && !failure) failure = r.error();
    };
    const auto watch = [&] {
        late =
            late || (options_.time_limit.count() > 0 && std::chrono::steady_clock::now() - start > options_.time_limit);
        if (failure || late) generation.cancel();
    };
    // Frames are never refused, so that the context and our picture of it stay one; what fails is told at the end.
    const auto on_frame = [&](CapturedFrame&& captured) -> Result<void> {
        Frame& frame = captured.frame;
        {
            const base::Lock lock(keys_->mutex);
            check(keys_->store->append(frame));
        }
        context_.push_back(frame.token);
        if (recorder && !failure) check(recorder->push(frame, session_));
        watch();
        if (!rows || frame.q.empty()) return {};
        std::vector<uint8_t>().swap(frame.k);
        if (frame.kind == FrameKind::generated || frame.index == n_prompt - 1) {
            generation.put_row(std::move(captured));
        } else if (request.prompt_rows) {
            generation.put_prompt_row(std::move(captured));
        }
        return {};
    };
    int64_t n_chosen = 0;
    std::vector<int32_t> chosen; // where no frame tells of a token that it was read
    const auto on_text = [&](int32_t token, const std::string& piece) {
        if (!options_.frames) {
            chosen.push_back(token);
            watch();
        }
        const int64_t row = n_prompt - 1 + n_chosen++;
        return generation.put_token(token, piece, row, std::exchange(hidden_state, {}));
    };
    const auto rest = std::span(request.tokens).subspan(size_t(kept));
    Result<GenerateResult> result = session_.generate(rest, o, on_frame, on_text);
    if (!options_.frames && result) {
        context_.insert(context_.end(), rest.begin(), rest.end());
        context_.insert(context_.end(), chosen.begin(), chosen.end());
        context_.resize(std::min(context_.size(), size_t(session_.n_past()))); // a prompt may have been left half read
    }

    if (recorder) {
        Result<std::string> name = recorder->close();
        if (name) summary.recording = *name;
        if (!name && !failure) failure = name.error();
    }
    summary.n_generated = n_chosen;
    if (result) {
        summary.prompt_seconds = result->prompt_seconds;
        summary.generate_seconds = result->generate_seconds;
        summary.seed = result->seed;
    }
    if (!result && !failure) failure = result.error();
    tell_end(summary, generation, result, failure, late);
    // The context is used again only where it is known.
    if (failure || session_.n_past() != static_cast<int64_t>(context_.size())) forget_context();
    return summary;
}

} // namespace attnscope::server
