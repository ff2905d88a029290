// One generation, between the engine's thread, which produces tokens, and the client's thread, which asked for it.
//
// The engine's thread puts in each token, and the frame of those whose rows are wanted: Q only, whose keys are in the
// KeyStore. The client's thread takes them out and computes the rows there, at the client's own pace. So what waits for
// a slow client is small (Q, not rows), and the engine neither sends nor computes for it.
//
// Exception: where the engine decodes on the CPU and the client keeps up, the engine's threads compute the rows before
// they begin the next token. Another thread would take a core from engine threads that wait for one another
// (GenerationLimits::engine_threads).
#pragma once

#include "base/mutex.h"
#include "server/generation/stop_text.h"

#include <attnscope/attention_view.h>
#include <attnscope/session.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace attnscope::server {

// What happens when a client reads more slowly than the model writes.
enum class Flow {
    lossless, // every answer is sent; what waits is bounded, above that the generation waits for this client
    latest,   // text is always sent; attention that was overtaken by newer attention is skipped and counted
};

struct GenerationRequest {
    std::vector<int32_t> tokens; // the whole prompt
    GenerateOptions options;     // n_predict and sampling; what serves attention is set from the fields below
    std::vector<std::string> stops;
    bool shown_stop = false; // the stop sequence is part of the text
    std::optional<AttentionRequest> attention;
    bool prompt_rows = false; // answers for the tokens of the prompt as well
    bool hidden_state = false;
    bool reuse_prefix = true; // keep the part of the context that the prompt begins with
    bool record = false;      // write a recording; the prompt is then read from its beginning
    Flow flow = Flow::lossless;
    std::string id; // the client's name for it (request_id, genkey); may be empty
};

struct GenerationEvent {
    enum class Kind {
        prompt_row, // a token of the prompt, with its frame
        token,      // a generated token, with the frame of the query that chose it
        done,       // the last event
    };
    Kind kind = Kind::done;
    int32_t token = -1;
    std::string text;                              // whole characters; may be empty for a token
    std::shared_ptr<const CapturedFrame> captured; // Q and what rows need; no keys
    const Frame* frame() const { return captured ? &captured->frame : nullptr; }
    // Set where the engine's threads computed what the request asks of the frame.
    std::optional<Result<std::optional<AttentionAnswer>>> answer;
    bool overtaken = false;          // Flow::latest: newer frames wait already; its row is accumulated, not sent
    std::vector<float> hidden_state; // (n_embd)

    void drop_rows() {
        captured.reset();
        answer.reset();
    }
};

struct GenerationSummary {
    std::string finish_reason; // "stop", "length", "context", "aborted", "stalled", "timeout", "error"
    std::string error;         // of "error", in words
    ErrorKind error_kind = ErrorKind::engine;
    std::string stop_reason; // why "stop": "eos" or "stop_sequence"
    int64_t n_prompt = 0;
    int64_t n_reused = 0; // tokens of the prompt whose keys were there already
    int64_t n_generated = 0;
    int64_t n_skipped = 0; // answers that Flow::latest skipped
    double prompt_seconds = 0, generate_seconds = 0;
    uint32_t seed = 0;
    std::string recording; // file name inside the folder of recordings; empty: none
};

// The keys of the session's context. Whoever computes rows holds the mutex meanwhile.
struct SharedKeys {
    base::Mutex mutex;
    std::unique_ptr<KeyStore> store; // its content: under the mutex
};

struct GenerationLimits {
    size_t queue_bytes = size_t(128) << 20; // frames that wait for one client
    std::chrono::seconds stall{30};         // how long a full queue is waited for before the stream is ended
    int32_t n_threads = 1;                  // compute a token's attention
    int32_t engine_threads = 0; // above 0, and on a CPU: so many of the engine's do, while the client keeps up
};

class Generation {
public:
    Generation(GenerationRequest request, GenerationLimits limits);

    const GenerationRequest request;

    // ---- the client's thread ----
    // The next event, waiting for at most `patience`; nothing when none came. After `done` nothing comes.
    std::optional<GenerationEvent> next(std::chrono::milliseconds patience);
    // What the request asks of the event's frame; nothing where it is not its turn, or Flow::latest skips it.
    Result<std::optional<AttentionAnswer>> answer(const GenerationEvent& event);
    // Somebody asked for an end: the engine stops within one token, `done` comes. From any thread.
    void cancel();
    // The client is gone: cancels, and frees what waited for it.
    void abandon();
    // Known once the `done` event was taken.
    GenerationSummary summary() const;
    // The scores that were accumulated, once `done` was taken; nothing when none were asked for. From any thread.
    std::optional<PositionScores> scores() const;
    // What was generated so far, from any thread.
    std::string text() const;
    int64_t n_reused() const;
    bool finished() const; // the engine is done with it

    // ---- the engine's thread ----
    const std::atomic<bool>& stop_flag() const { return stop_; }
    bool cancelled() const { return stop_.load(std::memory_order_relaxed); }
    bool stalled() const { return stalled_; } // ended because the client did not read
    // Before the first frame: how rows will be computed.
    Result<void> begin(std::shared_ptr<SharedKeys> keys, int64_t n_prompt, int64_t n_reused);
    // A frame with Q whose keys are in the store already; prompt: sent as an event of its own.
    void put_prompt_row(CapturedFrame frame);
    // A chosen token; `row` is the index of the frame it was chosen from, which may come later (put_row).
    // false: a stop sequence was met.
    bool put_token(int32_t token, const std::string& piece, int64_t row, std::vector<float> hidden_state);
    void put_row(CapturedFrame frame);
    void finish(GenerationSummary summary);
    // The client has not taken all yet, and the keys are needed for that.
    bool holds_keys() const;
    // Gives up a client that reads too slowly: its attention ends here, its text does not.
    void cut_off();

private:
    void enqueue(base::Lock& lock, GenerationEvent event) REQUIRES(mutex_);
    // Hands over the waiting token, if the frame that it was chosen from is here.
    void match(base::Lock& lock) REQUIRES(mutex_);
    void skip_overtaken(GenerationEvent& event) REQUIRES(mutex_);
    const GenerationLimits limits_;
    std::atomic<bool> stop_{false}, stalled_{false};

    mutable base::Mutex mutex_;
    base::Condition changed_;
    std::deque<GenerationEvent> events_ GUARDED_BY(mutex_);
    size_t frame_bytes_ GUARDED_BY(mutex_) = 0;
    // Tokens whose frame has not come yet (a GPU delivers one token late), and frames whose token has not.
    struct Waiting {
        GenerationEvent event;
        int64_t row = 0;
    };
    std::deque<Waiting> waiting_ GUARDED_BY(mutex_);
    std::shared_ptr<const CapturedFrame> row_ GUARDED_BY(mutex_);
    StopText text_ GUARDED_BY(mutex_);
    GenerationSummary summary_ GUARDED_BY(mutex_);
    bool finished_ GUARDED_BY(mutex_) = false;

    std::shared_ptr<SharedKeys> keys_ GUARDED_BY(mutex_);     // until `done` was taken
    std::optional<PositionScores> scores_ GUARDED_BY(mutex_); // from then on
    std::shared_ptr<AttentionView> view_ GUARDED_BY(mutex_);  // made by begin(); whoever computes holds the keys' mutex
    bool with_rows_ = false;                                  // of the engine's thread
    bool by_engine_ = false;                                  // its threads compute
    // Frames are computed in their order, whoever computes: the newest that was left to the client, and that it is done with.
    int64_t left_to_client_ GUARDED_BY(mutex_) = -1;
    int64_t done_by_client_ GUARDED_BY(mutex_) = -1;
};

} // namespace attnscope::server
