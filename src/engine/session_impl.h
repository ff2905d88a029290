// The session behind include/attnscope/session.h.
#pragma once

#include "capture/capture.h"
#include "engine/hidden_states.h"

#include <attnscope/session.h>

#include <llama-cpp.h>

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
    Result<std::string> chat_prompt_json(const std::string& request, const GivenUp& given_up) const override;
    ModelInfo model_info() const override;
    Result<GenerateResult> generate(std::span<const int32_t> tokens, const GenerateOptions& options,
                                    const FrameSink& frames, const TextSink& text) override;
    const Geometry& geometry() const override { return capture_ ? capture_->geometry() : no_geometry_; }
    RecordingInfo recording_info() const override;
    int32_t n_ctx() const override { return static_cast<int32_t>(llama_n_ctx(context_.get())); }
    int32_t n_vocab() const override { return n_vocab_; }
    Entry entry() const override { return entry_; }
    void reset() override;
    int64_t n_past() const override { return n_past_; }
    int64_t truncate(int64_t n) override;

    llama_context* context() { return context_.get(); }

private:
    Result<void> open_context(Entry entry);
    Result<bool> warm_up(); // false: the capture was passed by
    Result<void> decode(std::span<const int32_t> tokens, FrameKind kind, bool want_logits,
                        capture::ModelPart part = capture::ModelPart::whole);
    Result<void> decode_next(int32_t token) {
        return decode({&token, 1}, FrameKind::generated, true,
                      encodes_ ? capture::ModelPart::decoder : capture::ModelPart::whole);
    }
    // The text with the encoder, then the decoder's first token.
    Result<void> encode(std::span<const int32_t> tokens);
    int32_t decoder_start() const;
    // Reads the prompt. False: it was stopped.
    Result<bool> read_prompt(std::span<const int32_t> tokens, const GenerateOptions& options,
                             const HiddenStates& hidden, llama_sampler* sampler);
    // Reads the tokens and generates. `begun`: when the first token was chosen; unchanged where it came to none.
    Result<void> run(std::span<const int32_t> tokens, const GenerateOptions& options, const TextSink& text,
                     llama_sampler* sampler, GenerateResult& result, double& begun);
    capture::Wanted wanted(const GenerateOptions& options, int64_t n_prompt) const;
    Result<void> can_read(size_t n_tokens, const GenerateOptions& options) const;
    Result<void> hand_over(CapturedFrame&& frame);

    SessionOptions options_;
    llama_model_ptr model_;
    llama_context_ptr context_;
    const llama_vocab* vocab_ = nullptr;
    int32_t n_vocab_ = 0;
    bool generates_ = true;
    bool whole_texts_ = false; // read at once: every token sees all others
    bool encodes_ = false;     // an encoder reads the text, and a decoder writes
    ModelIdentity identity_;
    Entry entry_ = Entry::automatic;
    std::unique_ptr<capture::Capture> capture_; // null: SessionOptions::capture is off
    Geometry no_geometry_;
    // of the generation that runs, until it fails; frames that come otherwise are dropped
    const FrameSink* frames_ = nullptr;
    double sink_seconds_ = 0;
    int64_t n_past_ = 0;
    int64_t n_encoded_ = 0; // of them: what the encoder read
    uint32_t seed_ = 0;
    std::optional<SamplingOptions> sampling_; // of the latest generate()
};

} // namespace attnscope::engine
