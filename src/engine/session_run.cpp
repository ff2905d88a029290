#include "engine/engine_log.h"
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

// Where frames go, while alive.
class FramesTo {
public:
    FramesTo(const FrameSink*& place, const FrameSink& sink) : place_(place) { place = &sink; }
    ~FramesTo() { place_ = nullptr; }
    FramesTo(const FramesTo&) = delete;
    FramesTo& operator=(const FramesTo&) = delete;

private:
    const FrameSink*& place_;
};

} // namespace

Result<void> SessionImpl::hand_over(CapturedFrame&& frame) {
    if (!frames_ || !*frames_) return {};
    const double start = now_seconds();
    Result<void> r = (*frames_)(std::move(frame));
    sink_seconds_ += now_seconds() - start;
    if (!r) frames_ = nullptr; // it ends the generation
    return r;
}

Result<void> SessionImpl::decode(std::span<const int32_t> tokens, FrameKind kind, bool want_logits,
                                 capture::ModelPart part) {
    // llama_batch_get_one does not write to the tokens.
    llama_batch batch = llama_batch_get_one(const_cast<int32_t*>(tokens.data()), static_cast<int32_t>(tokens.size()));
    std::vector<int8_t> logits;
    if (tokens.size() > 1 && !want_logits) {
        logits.assign(tokens.size(), 0);
        batch.logits = logits.data();
    }
    take_engine_complaint();
    std::vector<int32_t> positions; // a decoder's begin anew
    for (size_t i = 0; part == capture::ModelPart::decoder && i < tokens.size(); ++i)
        positions.push_back(static_cast<int32_t>(n_past_ - n_encoded_ + static_cast<int64_t>(i)));
    std::optional<capture::Capture::Decode> capturing;
    if (capture_)
        capturing.emplace(*capture_,
                          capture::Tokens{.ids = tokens, .positions = positions, .kind = kind, .part = part});
    const bool encodes = llama_model_has_encoder(model_.get()) && part != capture::ModelPart::decoder;
    const int32_t status = encodes ? llama_encode(context_.get(), batch) : llama_decode(context_.get(), batch);
    const Result<void> captured = capturing ? capturing->end(status == 0) : Result<void>();
    if (status == 1) return Error{ErrorKind::engine, "the context is full; give a larger -c"};
    if (status != 0) {
        const std::string complaint = take_engine_complaint();
        return Error{ErrorKind::engine, fmt::format("llama.cpp failed to decode at position {} (status {}){}", n_past_,
                                                    status, complaint.empty() ? "" : ": " + complaint)};
    }
    n_past_ += static_cast<int64_t>(tokens.size());
    return captured;
}

// As llama.cpp's tools do: a model that names no token to begin with begins with that of a text.
int32_t SessionImpl::decoder_start() const {
    const int32_t token = llama_model_decoder_start_token(model_.get());
    return token >= 0 && token < n_vocab_ ? token : std::max(llama_vocab_bos(vocab_), 0);
}

Result<void> SessionImpl::encode(std::span<const int32_t> tokens) {
    if (Result<void> r = decode(tokens, FrameKind::prompt, false, capture::ModelPart::encoder); !r) return r;
    n_encoded_ = n_past_;
    const int32_t first = decoder_start();
    return decode({&first, 1}, FrameKind::prompt, true, capture::ModelPart::decoder);
}

// What only models that do not generate are asked.
Result<void> SessionImpl::can_read(size_t n_tokens, const GenerateOptions& o) const {
    if (!generates_ && !encodes_ && o.n_predict != 0)
        return Error{ErrorKind::invalid_argument, "the model does not generate text; ask for 0 tokens (-n 0)"};
    if (!whole_texts_) return {};
    if (n_past_ > 0)
        return Error{ErrorKind::invalid_argument, "the model reads each text as a whole; reset the session before it"};
    const int64_t most = std::min<int64_t>(llama_n_ubatch(context_.get()), llama_model_n_ctx_train(model_.get()));
    if (static_cast<int64_t>(n_tokens) <= most) return {};
    return Error{ErrorKind::invalid_argument,
                 fmt::format("the text has {} tokens; the model reads it at once, at most {} of them{}", n_tokens, most,
                             most < llama_model_n_ctx_train(model_.get()) ? "; give a larger -c" : "")};
}

Result<GenerateResult> SessionImpl::generate(std::span<const int32_t> tokens, const GenerateOptions& o,
                                             const FrameSink& frames, const TextSink& text) {
    GenerateResult result;
    result.n_prompt = static_cast<int64_t>(tokens.size());
    if (tokens.empty() && n_past_ == 0) {
        return Error{ErrorKind::invalid_argument, "the prompt is empty; give at least one token"};
    }
    if (o.n_predict < -1) {
        return Error{
            ErrorKind::invalid_argument,
            fmt::format("{} tokens cannot be generated; -1 goes on until the model stops or the context is full",
                        o.n_predict)};
    }
    if (Result<void> r = can_read(tokens.size(), o); !r) return r.error();
    for (size_t i = 0; i < tokens.size(); ++i) {
        if (tokens[i] < 0 || tokens[i] >= n_vocab_) {
            return Error{ErrorKind::invalid_argument,
                         fmt::format("token id {} (number {} of the prompt) is outside the "
                                     "model's vocabulary of {}",
                                     tokens[i], i, n_vocab_)};
        }
    }
    if (n_past_ + result.n_prompt > n_ctx()) {
        return Error{
            ErrorKind::invalid_argument,
            fmt::format("the prompt has {} tokens and the context holds {}{}; give a larger -c or a shorter prompt",
                        result.n_prompt, n_ctx(), n_past_ ? fmt::format(", {} of them in use", n_past_) : "")};
    }
    if (encodes_) ++result.n_prompt; // what the decoder begins with
    sampling_ = o.sampling;
    const llama_sampler_ptr sampler = make_sampler(o.sampling, vocab_, &seed_);
    result.seed = seed_;
    if (capture_) capture_->want(wanted(o, result.n_prompt));
    sink_seconds_ = 0;
    double begun = 0;
    {
        const FramesTo to(frames_, frames);
        Result<void> ran = run(tokens, o, text, sampler.get(), result, begun);
        // Of a token that could not be decoded there is no frame; those before it are as good as ever.
        if (Result<void> flushed = capture_ ? capture_->flush() : Result<void>(); ran && !flushed) ran = flushed;
        if (!ran) return ran.error();
    }
    if (begun > 0) result.generate_seconds = now_seconds() - begun;
    result.sink_seconds = sink_seconds_;
    return result;
}

capture::Wanted SessionImpl::wanted(const GenerateOptions& o, int64_t n_prompt) const {
    capture::Wanted wanted;
    const int64_t prompt_end = n_past_ + n_prompt;
    const int64_t first_kept = prompt_end - std::min(o.prompt_rows.last, n_prompt);
    wanted.queries = [first_kept, prompt_end, keep_rows = o.keep_rows](int64_t, int64_t i) {
        return i >= prompt_end ? keep_rows : i >= first_kept;
    };
    if (options_.device_mean && o.device_mean) wanted.mean = capture::MeanRequest{o.mean_rows, {}};
    if (wanted.mean && o.mean_wanted) wanted.mean->of = [of = o.mean_wanted](int64_t, int64_t i) { return of(i); };
    return wanted;
}

Result<bool> SessionImpl::read_prompt(std::span<const int32_t> tokens, const GenerateOptions& o,
                                      const HiddenStates& hidden, llama_sampler* sampler) {
    const auto stopped = [&] { return o.stop && o.stop->load(std::memory_order_relaxed); };
    if (encodes_) {
        if (stopped()) return false;
        hidden.enable(true);
        if (Result<void> r = encode(tokens); !r) return r.error();
        llama_sampler_accept(sampler, decoder_start()); // what the decoder goes on from; the text is the encoder's
        return true;
    }
    const auto batch = static_cast<size_t>(llama_n_batch(context_.get()));
    for (size_t at = 0, n = 0; at < tokens.size(); at += n) {
        if (stopped()) return false;
        n = std::min(batch, hidden.fit(tokens.size() - at));
        const auto part = tokens.subspan(at, n);
        hidden.enable(at + n == tokens.size());
        if (Result<void> r = decode(part, FrameKind::prompt, at + part.size() == tokens.size()); !r) return r.error();
    }
    for (const int32_t token : tokens) llama_sampler_accept(sampler, token); // repetition counts the prompt
    return true;
}

Result<void> SessionImpl::run(std::span<const int32_t> tokens, const GenerateOptions& o, const TextSink& text,
                              llama_sampler* sampler, GenerateResult& result, double& begun) {
    const auto stopped = [&] { return o.stop && o.stop->load(std::memory_order_relaxed); };
    const double start = now_seconds();
    const HiddenStates hidden(context_.get(), o.hidden_state);
    result.finish_reason = "stopped";
    const Result<bool> read = read_prompt(tokens, o, hidden, sampler);
    if (!read) return read.error();
    if (!*read) return {};
    begun = now_seconds();
    result.prompt_seconds = begun - start;
    while (o.n_predict < 0 || result.n_generated < o.n_predict) {
        if (stopped()) return {};
        if (n_past_ - n_encoded_ >= n_ctx()) {
            result.finish_reason = "context";
            return {};
        }
        const int32_t token = llama_sampler_sample(sampler, context_.get(), -1);
        if (!o.ignore_eos && llama_vocab_is_eog(vocab_, token)) {
            result.finish_reason = "eos";
            return {};
        }
        hidden.deliver();
        const bool go_on = !text || text(token, piece(token));
        ++result.n_generated;
        const bool last = !go_on || result.n_generated == o.n_predict || stopped();
        if (!last || o.read_last) {
            if (Result<void> r = decode_next(token); !r) return r;
        }
        if (!go_on) return {};
    }
    result.finish_reason = "length";
    return {};
}

} // namespace attnscope::engine
