// A llama.cpp session whose attention is captured: load, tokenise, decode, sample.
#pragma once

#include <attnscope/error.h>
#include <attnscope/recording.h>
#include <attnscope/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace attnscope {

enum class FlashAttention { automatic, on, off };
enum class Entry { automatic, interposed, callback };  // how the tap gets in; automatic: interposed where it works

struct SessionOptions {
    std::string model_path;
    int32_t n_ctx = 4096;
    int32_t n_batch = 512;     // tokens the engine computes at once while reading a prompt (n_ubatch is the same)
    int32_t n_threads = 0;     // 0: the number of cores
    int32_t n_gpu_layers = -1; // as llama.cpp's -ngl; -1: all that fit
    std::string devices;       // as llama.cpp's -dev: "CUDA0,CUDA1" or "none"; empty: all there are
    std::string rpc_servers;   // as llama.cpp's --rpc: "host:port,host:port"; trusted networks only. Empty: none
    FlashAttention flash_attention = FlashAttention::automatic;
    std::string cache_type_k = "f16";  // f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, iq4_nl
    std::string cache_type_v = "f16";
    Entry entry = Entry::automatic;
    bool capture = true;       // false: the plain run, the tap is not even looked at
    bool witness = true;
    bool device_mean = false;  // let a GPU compute Frame::mean of tokens decoded one by one (CUDA, f16 keys, all layers on
                               // one GPU; elsewhere Frame::mean stays empty)
    bool quiet = true;         // drop llama.cpp's own log
};

struct SamplingOptions {
    float temperature = 0.8f;  // 0: greedy
    int32_t top_k = 40;
    float top_p = 0.95f;
    float min_p = 0.05f;
    float repeat_penalty = 1.0f;
    int32_t repeat_last_n = 64;
    uint32_t seed = 0xFFFFFFFF;  // all ones: a random one
};

// Which rows of the prompt keep their Q: all, the last n, or none (keys are always kept).
struct PromptRows {
    int64_t last = INT64_MAX;
};

struct GenerateOptions {
    int32_t n_predict = 128;     // -1: until the model stops or the context is full
    SamplingOptions sampling;
    PromptRows prompt_rows;
    bool ignore_eos = false;
    const std::atomic<bool>* stop = nullptr;  // set from any thread: ends after the current token
};

struct GenerateResult {
    int64_t n_prompt = 0;
    int64_t n_generated = 0;
    std::string finish_reason;  // "eos", "length", "context", "stopped"
    double prompt_seconds = 0;
    double generate_seconds = 0;
    double sink_seconds = 0;    // spent inside the sink, of which waiting for a full queue is the part that hurts
};

// Receives frames, in order of index, on the thread that calls generate(). Returning an error ends the generation. The
// frame of a token comes after its text; from a GPU some tokens later still. All have come when generate() returns.
using FrameSink = std::function<Result<void>(Frame&&)>;
// Receives the text of each generated token as it is chosen; return false to stop.
using TextSink = std::function<bool(int32_t token, const std::string& piece)>;

class Session {
public:
    // Checks the file (a GGUF from a stranger is refused in a sentence), loads it and prepares a context.
    static Result<std::unique_ptr<Session>> open(const SessionOptions& options);
    virtual ~Session() = default;

    virtual Result<std::vector<int32_t>> tokenize(const std::string& text, bool add_special, bool parse_special) = 0;
    virtual std::string piece(int32_t token) const = 0;
    // The user's message in the model's own chat template, ready to tokenise with parse_special.
    virtual Result<std::string> chat_prompt(const std::string& user_message) = 0;

    // Reads `tokens` after what the context holds already, then generates. The last generated token is read too, so
    // that every generated token has its frame. Frame indices continue over calls.
    virtual Result<GenerateResult> generate(std::span<const int32_t> tokens, const GenerateOptions& options,
                                            const FrameSink& frames, const TextSink& text = {}) = 0;

    virtual const Geometry& geometry() const = 0;   // empty until the first token was decoded
    virtual RecordingInfo recording_info() const = 0;  // identity and settings for a RecordingWriter
    virtual int32_t n_ctx() const = 0;
    virtual int32_t n_vocab() const = 0;
    virtual Entry entry() const = 0;                // what automatic became
    virtual void reset() = 0;                       // empties the context; frame indices start at 0 again
};

} // namespace attnscope
