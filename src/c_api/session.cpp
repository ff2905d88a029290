#include "c_api/status.h"

#include <attnscope/session_recorder.h>

#include <memory>

using namespace attnscope;
using c_api::check_struct;
using c_api::guarded;

struct attnscope_session {
    std::unique_ptr<Session> session;
};

namespace {

attnscope_session_params session_defaults() {
    const SessionOptions defaults;
    attnscope_session_params params = {};
    params.n_ctx = defaults.n_ctx;
    params.n_batch = defaults.n_batch;
    params.n_threads = defaults.n_threads;
    params.n_gpu_layers = defaults.n_gpu_layers;
    params.flash_attn = -1;
    params.cache_type_k = "f16";
    params.cache_type_v = "f16";
    return params;
}

attnscope_generate_params generate_defaults() {
    const GenerateOptions defaults;
    attnscope_generate_params params = {};
    params.n_predict = defaults.n_predict;
    params.temperature = defaults.sampling.temperature;
    params.seed = defaults.sampling.seed;
    return params;
}

} // namespace

attnscope_status attnscope_session_default_params(attnscope_session_params* params) {
    return guarded([&]() -> Result<void> {
        if (Result<void> r = check_struct(params, "attnscope_session_params"); !r) return r;
        c_api::give(params, session_defaults());
        return {};
    });
}

attnscope_status attnscope_session_open(const attnscope_session_params* given, attnscope_session** out) {
    return guarded([&]() -> Result<void> {
        if (Result<void> r = check_struct(given, "attnscope_session_params"); !r) return r;
        const attnscope_session_params params = c_api::taken(given, session_defaults());
        if (!out || !params.model_path)
            return Error{ErrorKind::invalid_argument, "model_path or the place for the session is NULL"};
        SessionOptions options;
        options.model_path = params.model_path;
        options.n_ctx = params.n_ctx;
        options.n_batch = params.n_batch;
        options.n_threads = params.n_threads;
        options.n_gpu_layers = params.n_gpu_layers;
        options.flash_attention = params.flash_attn < 0    ? FlashAttention::automatic
                                  : params.flash_attn == 0 ? FlashAttention::off
                                                           : FlashAttention::on;
        if (params.cache_type_k) options.cache_type_k = params.cache_type_k;
        if (params.cache_type_v) options.cache_type_v = params.cache_type_v;
        auto opened = Session::open(options);
        if (!opened) return opened.error();
        auto handle = std::make_unique<attnscope_session>();
        handle->session = std::move(*opened);
        *out = handle.release();
        return {};
    });
}

void attnscope_session_free(attnscope_session* session) {
    delete session;
}

attnscope_status attnscope_generate_default_params(attnscope_generate_params* params) {
    return guarded([&]() -> Result<void> {
        if (Result<void> r = check_struct(params, "attnscope_generate_params"); !r) return r;
        c_api::give(params, generate_defaults());
        return {};
    });
}

attnscope_status attnscope_session_record(attnscope_session* handle, const char* prompt,
                                          const attnscope_generate_params* given, const char* recording_path) {
    return guarded([&]() -> Result<void> {
        if (Result<void> r = check_struct(given, "attnscope_generate_params"); !r) return r;
        const attnscope_generate_params params = c_api::taken(given, generate_defaults());
        if (!handle || !prompt || !recording_path) {
            return Error{ErrorKind::invalid_argument, "the session, the prompt or the path of the recording is NULL"};
        }
        Session& session = *handle->session;
        std::string text = prompt;
        if (params.chat) {
            Result<std::string> in_template = session.chat_prompt(text);
            if (!in_template) return in_template.error();
            text = std::move(*in_template);
        }
        Result<std::vector<int32_t>> tokens = session.tokenize(text, true, true);
        if (!tokens) return tokens.error();
        session.reset();
        SessionRecorder recorder(session, recording_path);
        GenerateOptions options;
        options.n_predict = params.n_predict;
        options.sampling.temperature = params.temperature;
        options.sampling.seed = params.seed;
        const TextSink on_text = [&](int32_t token, const std::string& piece) {
            return !params.text || params.text(params.user_data, token, piece.data(), piece.size()) == 0;
        };
        const auto result = session.generate(
            *tokens, options, [&](Frame&& frame) { return recorder.push(std::move(frame)); }, on_text);
        if (!result) return result.error();
        return recorder.close(result->end_reason());
    });
}
