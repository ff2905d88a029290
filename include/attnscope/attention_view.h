// What a request asks of each token, answered from a source of keys: the memory of a running session, or a recording
// (attention_source.h).
//
//   auto keys = KeyStore::create((*session)->geometry(), (*session)->n_ctx()); // once the geometry is known
//   auto view = AttentionView::create(**keys, {.reduce = Reduce::mean});       // one a generation; `keys` outlives it
//   auto result = (*session)->generate(tokens, {}, [&](Frame&& frame) -> Result<void> {
//       if (auto r = (*keys)->append(frame); !r) return r;                     // every frame, also of the prompt
//       if (frame.q.empty()) return {};
//       auto answer = (*view)->next(frame);
//       return answer ? Result<void>() : answer.error();
//   });
//
// The same of a recording:
//
//   auto recording = Recording::open("sky.attn");
//   auto source = AttentionSource::of(**recording); // has a name: a view does not keep its source alive
//   auto view = AttentionView::create(**source, {.reduce = Reduce::mean});
//   auto done = (*view)->each({0, (*source)->size()}, [](AttentionAnswer&& answer) -> Result<void> {
//       return answer.values.empty() ? Error{ErrorKind::not_found, "nothing"} : Result<void>();
//   });
//
// The keys stay when the next request continues the same context; truncate() cuts them when the context is cut.
#pragma once

#include <attnscope/attention_request.h>
#include <attnscope/attention_source.h>
#include <attnscope/error.h>
#include <attnscope/position_scores.h>
#include <attnscope/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

namespace attnscope {

// The keys of frames 0 .. size() - 1 of a session. It keeps no queries. Memory: k_bytes() of the geometry for each of them, rounded up to whole chunks of
// 256 frames, never more than for n_ctx frames; taken as it is needed. Belongs to one thread.
class KeyStore : public AttentionSource {
public:
    // invalid_argument when the geometry makes no sense or n_ctx is not positive.
    static Result<std::unique_ptr<KeyStore>> create(const Geometry& geometry, int64_t n_ctx);

    // frame.index must be size(). invalid_argument otherwise, when the keys have the wrong size, or when n_ctx frames
    // are held already; io when there is no memory. On an error nothing changes.
    virtual Result<void> append(const Frame& frame) = 0;
    // Forgets the keys of frames n and later. Memory is kept for reuse.
    virtual void truncate(int64_t n) = 0;
    // The keys of frames 0 .. min(n, size()) - 1, for any thread and whatever happens to this store. Whole chunks are held
    // once for both. io when there is no memory.
    virtual Result<std::unique_ptr<KeyStore>> copy(int64_t n) const = 0;
    virtual size_t bytes() const = 0; // memory of the chunks; beside them, keys of at most 16 frames wait for theirs
};

struct ViewOptions {
    int64_t n_prompt = 0; // columns [0, n_prompt) are the prompt, the others generated (lookback_ratio)
    // the mean given is of the request's layers and heads (GenerateOptions), not of all rows
    bool mean_is_selected = false;
    int32_t n_threads = 1; // threads that compute an answer, the caller's among them; 0: as many as the machine has
    // Above 0, instead: as many of ggml's. Meant for the thread that decodes on a CPU with so many (TextSink is called there): they
    // are the engine's own then, and wait for its next graph anyway. Elsewhere ggml starts them for each answer.
    int32_t engine_threads = 0;
};

// Answers one request. Belongs to the thread of its source, which must outlive it.
class AttentionView {
public:
    // invalid_argument as check_request; unsupported as attention_rows.
    static Result<std::unique_ptr<AttentionView>> create(AttentionSource& source, const AttentionRequest& request,
                                                         const ViewOptions& options = {});
    virtual ~AttentionView() = default;

    // What the request asks of this frame, whatever `every` says; nothing is accumulated. Where the mean
    // of all rows is given (CapturedFrame::mean) and nothing but that mean is needed, it is taken as it is.
    // Errors: not_found when the frame has no Q or no row in the selected layers (LayerRole), or sees frames that are not in the source
    // yet (of a batch whose tokens see later ones: answer it after all was appended); invalid_argument when it is not a frame of this
    // source; damaged and io as Recording; io when there is no memory.
    virtual Result<AttentionAnswer> answer(const Frame& frame, std::span<const float> mean = {}) = 0;
    // The same of a frame that the source has: not_found also as AttentionSource::frame.
    virtual Result<AttentionAnswer> answer(int64_t index) = 0;
    // The next frame of the generation: accumulates it, and answers it if it is its turn. Frames in order of index; where
    // the context was cut, scores of columns from there on are forgotten by scores().truncate().
    virtual Result<std::optional<AttentionAnswer>> next(const Frame& frame, std::span<const float> mean = {}) = 0;
    // next() for each of the source's frames in `tokens` that has its queries and rows, in order; `sink` gets the answers that are due, and
    // its first error ends it. Keys are read once for a block of tokens where the mean is all that is needed.
    virtual Result<void> each(Range tokens, const std::function<Result<void>(AttentionAnswer&&)>& sink) = 0;

    virtual const AttentionRequest& request() const = 0;
    virtual PositionScores& scores() = 0; // what was accumulated; empty unless request().accumulate asks for something
};

} // namespace attnscope
