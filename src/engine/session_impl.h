// The session behind include/attnscope/session.h.
#pragma once

#include "capture/tap.h"
#include "capture/proof/judge.h"

#include <attnscope/session.h>

#include <llama-cpp.h>

#include <deque>
#include <optional>

namespace attnscope::engine {

class SessionImpl : public Session {
public:
    explicit SessionImpl(SessionOptions options) : options_(std::move(options)) {}
    Result<void> load();

    Result<std::vector<int32_t>> tokenize(const std::string& text, bool add_special, bool parse_special) const override;
    std::string piece(int32_t token) const override;
    using Session::chat_prompt;
    Result<std::string> chat_prompt(std::span<const ChatMessage> messages) const override;
    ModelInfo model_info() const override;
    Result<GenerateResult> generate(std::span<const int32_t> tokens, const GenerateOptions& options,
                                    const FrameSink& frames, const TextSink& text) override;
    const Geometry& geometry() const override { return geometry_; }
    RecordingInfo recording_info() const override;
    int32_t n_ctx() const override { return static_cast<int32_t>(llama_n_ctx(context_.get())); }
    int32_t n_vocab() const override { return n_vocab_; }
    Entry entry() const override { return entry_; }
    void reset() override;
    int64_t n_past() const override { return n_past_; }
    int64_t truncate(int64_t n) override;

    llama_context* context() { return context_.get(); }
    capture::Tap* tap() { return tap_.get(); }

private:
    Result<void> open_context(Entry entry);
    Result<bool> warm_up(); // false: the tap was passed by
    // Decodes one batch; its frames are in pending_ afterwards, or, from a device, after the next one or flush().
    Result<void> decode(std::span<const int32_t> tokens, FrameKind kind, bool want_logits);
    // Gives the frames that have arrived to the sink.
    Result<void> hand_over(const FrameSink& sink, double& seconds);
    // Waits for the frames of everything decoded, and hands them over.
    Result<void> hand_over_all(const FrameSink& sink, double& seconds);

    SessionOptions options_;
    llama_model_ptr model_;
    llama_context_ptr context_;
    const llama_vocab* vocab_ = nullptr;
    int32_t n_vocab_ = 0;
    ModelIdentity identity_;
    Entry entry_ = Entry::automatic;
    std::unique_ptr<capture::Tap> tap_;
    capture::GraphTap* graph_tap_ = nullptr; // tap_, when the way in is the interposed one
    std::optional<capture::Judge> judge_;
    Geometry geometry_;
    std::vector<Frame> pending_;
    struct Decoded {
        int32_t token = -1;
        FrameKind kind = FrameKind::prompt;
    };
    std::deque<Decoded> awaiting_; // tokens decoded whose frames were not handed over yet
    int64_t n_past_ = 0;
    uint32_t seed_ = 0;
    SamplingOptions sampling_;
};

} // namespace attnscope::engine
