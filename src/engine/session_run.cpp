#include "engine/engine_log.h"
#include "engine/hidden_states.h"
#include "engine/sampler.h"
#include "engine/session_impl.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <exception>

namespace attnscope::engine {

namespace {

double now_seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

} // namespace

Result<void> SessionImpl::decode(std::span<const int32_t> tokens, FrameKind kind, bool want_logits) {
    // llama_batch_get_one does not write to the tokens.
    llama_batch batch = llama_batch_get_one(const_cast<int32_t*>(tokens.data()), static_cast<int32_t>(tokens.size()));
    std::vector<int8_t> logits;
    if (tokens.size() > 1 && !want_logits) {
        logits.assign(tokens.size(), 0);
        batch.logits = logits.data();
    }
    take_engine_complaint();
    int32_t status = 0;
    {
        const capture::HookScope scope(graph_tap_);
        status = llama_decode(context_.get(), batch);
    }
    if (tap_) tap_->end_decode();
    if (status == 1) return Error{ErrorKind::engine, "the context is full; give a larger -c"};
    if (status != 0) {
        const std::string complaint = take_engine_complaint();
        return Error{ErrorKind::engine, fmt::format("llama.cpp failed to decode at position {} (status {}){}", n_past_, status,
                                                    complaint.empty() ? "" : ": " + complaint)};
    }
    if (tap_ && !tap_->error().empty()) {
        return Error{ErrorKind::engine, fmt::format("the capture failed at position {}: {}", n_past_, tap_->error())};
    }
    n_past_ += static_cast<int64_t>(tokens.size());
    if (options_.capture) {
        for (const int32_t token : tokens) awaiting_.push_back({token, kind});
    }
    return {};
}

Result<void> SessionImpl::hand_over(const FrameSink& sink, double& seconds) {
    if (pending_.size() > awaiting_.size()) {
        return Error{ErrorKind::engine, fmt::format("{} tokens gave {} frames", awaiting_.size(), pending_.size())};
    }
    for (Frame& frame : pending_) {
        frame.token = awaiting_.front().token;
        frame.kind = awaiting_.front().kind;
        awaiting_.pop_front();
    }
    if (!sink) pending_.clear();
    for (Frame& frame : pending_) {
        const double start = now_seconds();
        if (Result<void> r = sink(std::move(frame)); !r) return r;
        seconds += now_seconds() - start;
    }
    pending_.clear();
    return {};
}

Result<void> SessionImpl::hand_over_all(const FrameSink& sink, double& seconds) {
    if (tap_) tap_->flush();
    if (tap_ && !tap_->error().empty()) {
        return Error{ErrorKind::engine, fmt::format("the capture failed at position {}: {}", n_past_, tap_->error())};
    }
    if (Result<void> r = hand_over(sink, seconds); !r) return r;
    if (!awaiting_.empty()) {
        return Error{ErrorKind::engine, fmt::format("{} tokens gave no frame", awaiting_.size())};
    }
    return {};
}

Result<GenerateResult> SessionImpl::generate(std::span<const int32_t> tokens, const GenerateOptions& o,
                                             const FrameSink& frames, const TextSink& text) {
    GenerateResult result;
    result.n_prompt = static_cast<int64_t>(tokens.size());
    if (tokens.empty() && n_past_ == 0) {
        return Error{ErrorKind::invalid_argument, "the prompt is empty; give at least one token"};
    }
    for (size_t i = 0; i < tokens.size(); ++i) {
        if (tokens[i] < 0 || tokens[i] >= n_vocab_) {
            return Error{ErrorKind::invalid_argument, fmt::format("token id {} (number {} of the prompt) is outside the "
                                                                  "model's vocabulary of {}", tokens[i], i, n_vocab_)};
        }
    }
    if (n_past_ + result.n_prompt > n_ctx()) {
        return Error{ErrorKind::invalid_argument,
                     fmt::format("the prompt has {} tokens and the context holds {}{}; give a larger -c or a shorter prompt",
                                 result.n_prompt, n_ctx(), n_past_ ? fmt::format(", {} of them in use", n_past_) : "")};
    }
    sampling_ = o.sampling;
    llama_sampler_ptr sampler = make_sampler(o.sampling, vocab_, &seed_);
    result.seed = seed_;
    const auto stopped = [&] { return o.stop && o.stop->load(std::memory_order_relaxed); };
    if (tap_) tap_->flush(); // of a generation that failed
    pending_.clear();
    awaiting_.clear();
    if (tap_) {
        const int64_t first_kept = n_past_ + result.n_prompt - std::min(o.prompt_rows.last, result.n_prompt);
        const int64_t prompt_end = n_past_ + result.n_prompt;
        tap_->collector.keep_q = [first_kept, prompt_end, keep_rows = o.keep_rows](int64_t i) {
            return i >= prompt_end ? keep_rows : i >= first_kept;
        };
        tap_->device_mean = options_.device_mean && o.device_mean;
        tap_->mean_layers = o.mean_layers;
        tap_->mean_heads = o.mean_heads;
        tap_->mean_wanted = o.mean_wanted;
    }

    // Of a token that could not be decoded there is no frame; those before it are as good as ever.
    const auto failed = [&](const Error& error) {
        if (tap_) tap_->flush();
        if (!tap_ || tap_->error().empty()) (void)hand_over(frames, result.sink_seconds);
        return error;
    };

    double start = now_seconds();
    const auto batch = static_cast<size_t>(llama_n_batch(context_.get()));
    const HiddenStates hidden(context_.get(), o.hidden_state);
    for (size_t at = 0, n = 0; at < tokens.size(); at += n) {
        if (stopped()) {
            result.finish_reason = "stopped";
            if (Result<void> r = hand_over_all(frames, result.sink_seconds); !r) return r.error();
            return result;
        }
        n = std::min(batch, hidden.fit(tokens.size() - at));
        const auto part = tokens.subspan(at, n);
        hidden.enable(at + n == tokens.size());
        if (Result<void> r = decode(part, FrameKind::prompt, at + part.size() == tokens.size()); !r) return failed(r.error());
        if (Result<void> r = hand_over(frames, result.sink_seconds); !r) return r.error();
    }
    for (const int32_t token : tokens) llama_sampler_accept(sampler.get(), token);
    result.prompt_seconds = now_seconds() - start;
    start = now_seconds();
    result.finish_reason = "length";
    while (o.n_predict < 0 || result.n_generated < o.n_predict) {
        if (stopped()) {
            result.finish_reason = "stopped";
            break;
        }
        if (n_past_ >= n_ctx()) {
            result.finish_reason = "context";
            break;
        }
        const int32_t token = llama_sampler_sample(sampler.get(), context_.get(), -1);
        if (!o.ignore_eos && llama_vocab_is_eog(vocab_, token)) {
            result.finish_reason = "eos";
            break;
        }
        hidden.deliver();
        const bool go_on = !text || text(token, piece(token));
        ++result.n_generated;
        const bool last = !go_on || result.n_generated == o.n_predict || stopped();
        if (!last || o.read_last) {
            if (Result<void> r = decode({&token, 1}, FrameKind::generated, true); !r) return failed(r.error());
            if (Result<void> r = hand_over(frames, result.sink_seconds); !r) return r.error();
        }
        if (!go_on) {
            result.finish_reason = "stopped";
            break;
        }
    }
    if (Result<void> r = hand_over_all(frames, result.sink_seconds); !r) return r.error();
    result.generate_seconds = now_seconds() - start;
    return result;
}

} // namespace attnscope::engine
