// A llama.cpp session whose attention is captured: load, tokenise, decode, sample.
#pragma once

#include <attnscope/error.h>
#include <attnscope/recording.h>
#include <attnscope/row_selection.h>
#include <attnscope/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace attnscope {

enum class FlashAttention { automatic, on, off };
const char* flash_attention_name(FlashAttention flash); // "auto", "on", "off", as llama.cpp's -fa
Result<FlashAttention> flash_attention_from_name(std::string_view name);

enum class Entry { automatic, interposed, callback }; // how the tap gets in; automatic: interposed where it works
const char* entry_name(Entry entry);                  // "auto", "interposed", "callback"
Result<Entry> entry_from_name(std::string_view name);

struct SessionOptions {
    std::string model_path = {};
    int32_t n_ctx = 4096;
    int32_t n_batch = 512;        // tokens the engine computes at once while reading a prompt (n_ubatch is the same)
    int32_t n_threads = 0;        // 0: the number of cores
    int32_t n_gpu_layers = -1;    // as llama.cpp's -ngl; -1: all that fit
    std::string devices = {};     // as llama.cpp's -dev: "CUDA0,CUDA1" or "none"; empty: all there are
    std::string rpc_servers = {}; // as llama.cpp's --rpc: "host:port,host:port"; trusted networks only. Empty: none
    FlashAttention flash_attention = FlashAttention::automatic;
    std::string cache_type_k = "f16"; // f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, iq4_nl
    std::string cache_type_v = "f16";
    Entry entry = Entry::automatic;
    bool capture = true; // false: the plain run, the tap is not even looked at
    bool witness = true;
    // take models that do not generate text, too (embeddings, encoders, diffusion): generate() then reads one text, with n_predict 0
    bool only_read = false;
    // take models that read a text with an encoder and write with a decoder (T5), too: generate() then takes one text, the
    // context's first; the decoder begins with a token of the model's own, which is a frame of the prompt
    bool encoder_decoder = false;
    // let whatever decodes compute CapturedFrame::mean of tokens decoded one by one, where all layers lie on GPUs or
    // all on the CPU (no ALiBi, no RPC, no Entry::callback; elsewhere it stays empty). On CUDA a kernel of ours for f16
    // keys of 64, 128 or 256 elements, else ggml's own operations; on a CPU the engine's threads, inside the graph
    // (docs/performance.md)
    bool device_mean = false;
    bool quiet = true; // drop llama.cpp's own log
};

struct SamplingOptions {
    float temperature = 0.8f; // 0: greedy
    int32_t top_k = 40;
    float top_p = 0.95f;
    float min_p = 0.05f;
    float repeat_penalty = 1.0f;
    int32_t repeat_last_n = 64;
    uint32_t seed = 0xFFFFFFFF; // all ones: a random one
    float typical_p = 1.0f;     // 1: off
    float presence_penalty = 0;
    float frequency_penalty = 0;
    float dynatemp_range = 0; // temperature +- this, by entropy; 0: off
    float dynatemp_exponent = 1;
    float xtc_probability = 0; // 0: off
    float xtc_threshold = 0.1f;
    float dry_multiplier = 0; // 0: off
    float dry_base = 1.75f;
    int32_t dry_allowed_length = 2;
    int32_t dry_penalty_last_n = 1024; // how far back repetition counts
    int32_t mirostat = 0;              // 0: off; 1, 2: version; replaces top-k, top-p, ...
    float mirostat_tau = 5;
    float mirostat_eta = 0.1f;
    std::vector<std::pair<int32_t, float>> logit_bias = {}; // token id, addend; -infinity forbids the token
};

// Which rows of the prompt keep their Q: all, the last n, or none (keys are always kept).
struct PromptRows {
    int64_t last = INT64_MAX;
};

struct GenerateOptions {
    int32_t n_predict = 128; // -1: until the model stops or the context is full
    SamplingOptions sampling = {};
    PromptRows prompt_rows = {};
    bool ignore_eos = false;
    const std::atomic<bool>* stop = nullptr;             // set from any thread: ends after the current token
    bool device_mean = true;                             // where SessionOptions::device_mean allows it
    RowSelection mean_rows = {};                         // that CapturedFrame::mean is of, as in AttentionRequest
    std::function<bool(int64_t index)> mean_wanted = {}; // frames that CapturedFrame::mean is wanted of; empty: all
    bool keep_rows = true;                               // false: frames of generated tokens come without Q
    // false: the last generated token is not read; it has no frame, and the context lacks it
    bool read_last = true;
    // Receives the hidden state that each generated token was chosen from, (n_embd) after the final norm, before `text`
    // gets the token. The last token of the prompt is then decoded alone.
    std::function<void(std::span<const float>)> hidden_state = {};
};

struct GenerateResult {
    int64_t n_prompt = 0;
    int64_t n_generated = 0;
    std::string finish_reason; // "eos", "length", "context", "stopped"
    // What a recording of it says as Sequence::end_reason: nothing, unless somebody ended it before its own end.
    const char* end_reason() const { return finish_reason == "stopped" ? "interrupted" : ""; }
    double prompt_seconds = 0;
    double generate_seconds = 0;
    uint32_t seed = 0;       // the one in use, also when a random one was asked for
    double sink_seconds = 0; // spent inside the sink, of which waiting for a full queue is the part that hurts
};

// Receives frames, in order of index, on the thread that calls generate(). Returning an error ends the generation. The
// frame of a token comes after its text; from a GPU some tokens later still. All have come when generate() returns.
// A function of (Frame&&) will do where the mean is not wanted.
using FrameSink = std::function<Result<void>(CapturedFrame&&)>;
// Receives the text of each generated token as it is chosen; return false to stop.
using TextSink = std::function<bool(int32_t token, const std::string& piece)>;

struct ChatMessage {
    std::string role; // "system", "user", "assistant", or what else the template knows
    std::string content;
};

// What the model's file says of the model. -1: there is no such token.
struct ModelInfo {
    std::string name; // general.name, or the file's name without ending
    int32_t n_layer = 0;
    int32_t n_head = 0;
    int32_t n_head_kv = 0;
    int32_t n_embd = 0;
    int32_t n_ctx_train = 0;
    int32_t bos = -1, eos = -1, eot = -1;
    float rope_freq_base = 0;
    float rope_freq_scale = 0;
    std::string chat_template; // empty: none
};

// Asked every 50 ms of somebody for whom something takes long, on the thread that waits: true ends it, with an error. Empty: never.
using GivenUp = std::function<bool()>;

// One thread at a time, except for tokenize(), piece(), chat_prompt(), model_info(), n_ctx() and n_vocab(): they only read the model,
// and may be called from any thread while another generates.
class Session {
public:
    // Checks the file (a GGUF from a stranger is refused in a sentence), loads it and prepares a context.
    static Result<std::unique_ptr<Session>> open(const SessionOptions& options);
    virtual ~Session() = default;

    virtual Result<std::vector<int32_t>> tokenize(const std::string& text, bool add_special,
                                                  bool parse_special) const = 0;
    virtual std::string piece(int32_t token) const = 0;
    // The messages in the model's own chat template, the assistant's turn begun (a last message of the assistant: continued),
    // ready to tokenise with add_special and parse_special. A model without a template gets ChatML, as in llama-server. The
    // template is a program of the model's: it runs in a child process with limits. invalid_argument: it refuses the messages.
    virtual Result<std::string> chat_prompt(std::span<const ChatMessage> messages) const = 0;
    // The same of a JSON object as OpenAI's chat API takes it: messages, tools, tool_choice, chat_template_kwargs,
    // reasoning_effort, add_generation_prompt, continue_final_message.
    virtual Result<std::string> chat_prompt_json(const std::string& request, const GivenUp& given_up = {}) const = 0;
    Result<std::string> chat_prompt(const std::string& user_message) const {
        const ChatMessage message{"user", user_message};
        return chat_prompt({&message, 1});
    }
    virtual ModelInfo model_info() const = 0;

    // Reads `tokens` after what the context holds already, then generates. The last generated token is read too, so
    // that every generated token has its frame (GenerateOptions::read_last). Frame indices continue over calls.
    virtual Result<GenerateResult> generate(std::span<const int32_t> tokens, const GenerateOptions& options,
                                            const FrameSink& frames, const TextSink& text = {}) = 0;

    virtual const Geometry& geometry() const = 0; // known from open() on; empty with SessionOptions::capture off
    // Identity and settings for a RecordingWriter. Those of sampling, and the seed, are the latest generate()'s, from its
    // first frame on; before any they are left out. SessionRecorder asks at the right moment.
    virtual RecordingInfo recording_info() const = 0;
    virtual int32_t n_ctx() const = 0;
    virtual int32_t n_vocab() const = 0;
    virtual Entry entry() const = 0;    // what automatic became
    virtual void reset() = 0;           // empties the context; frame indices start at 0 again
    virtual int64_t n_past() const = 0; // tokens that the context holds
    // Forgets all but the first `n` tokens of the context, so that generate() goes on after them; frames of the kept
    // tokens stay valid columns. Returns how many are kept: n, or 0 where the model's memory cannot be cut there
    // (recurrent layers, a sliding window that has moved past n).
    virtual int64_t truncate(int64_t n) = 0;
};

} // namespace attnscope
