#include "base/cores.h"
#include "base/version.h"
#include "engine/engine_log.h"
#include "engine/rpc_servers.h"
#include "engine/session_impl.h"
#include "gguf/gguf_check.h"
#include "models/model_identity.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <sstream>

namespace attnscope {

Result<std::unique_ptr<Session>> Session::open(const SessionOptions& options) {
    auto session = std::make_unique<engine::SessionImpl>(options);
    if (Result<void> loaded = session->load(); !loaded) return loaded.error();
    return std::unique_ptr<Session>(std::move(session));
}

namespace engine {

namespace {

Result<ggml_type> cache_type(const std::string& name) {
    for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0, DType::q4_1, DType::q5_0,
                             DType::q5_1, DType::iq4_nl}) {
        if (name == dtype_name(type)) return static_cast<ggml_type>(type);
    }
    return Error{ErrorKind::invalid_argument,
                 "unknown cache type '" + name + "'; use f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1 or iq4_nl"};
}

// The devices of "CUDA0,CUDA1", with a null behind them; just the null for "none"; empty for an empty list.
Result<std::vector<ggml_backend_dev_t>> named_devices(const std::string& names) {
    std::vector<ggml_backend_dev_t> devices;
    std::stringstream list(names);
    std::string name;
    while (std::getline(list, name, ',')) {
        if (name == "none") continue;
        ggml_backend_dev_t device = ggml_backend_dev_by_name(name.c_str());
        if (!device) {
            std::string known;
            for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
                known += (i ? ", " : "") + std::string(ggml_backend_dev_name(ggml_backend_dev_get(i)));
            }
            return Error{ErrorKind::invalid_argument, "no device " + name + "; there are " + known};
        }
        devices.push_back(device);
    }
    if (!names.empty()) devices.push_back(nullptr);
    return devices;
}

constexpr int32_t context_step = 256; // llama.cpp makes contexts of whole multiples of it (llama_context's constructor)

std::string engine_said(const std::string& what) {
    const std::string complaint = take_engine_complaint();
    return complaint.empty() ? what : what + " (llama.cpp says: " + complaint + ")";
}

} // namespace

Result<void> SessionImpl::load() {
    set_engine_log(options_.quiet);
    static std::once_flag once;
    std::call_once(once, [] { llama_backend_init(); });

    // llama.cpp aborts the process on some damaged files: they must not reach it.
    Result<gguf::GgufSummary> summary = gguf::check_gguf(options_.model_path);
    if (!summary) return summary.error();
    generates_ = summary->no_text_reason.empty();
    whole_texts_ = summary->reads_whole_texts;
    encodes_ = summary->encoder_decoder && options_.encoder_decoder && !options_.only_read;
    if (!generates_ && !encodes_ && !(options_.only_read && summary->reads_texts)) {
        const char* hint = summary->encoder_decoder
                               ? " (attnscope capture records how it reads a text and what it writes)"
                           : summary->reads_texts ? " (attnscope capture -n 0 records how it reads a text)"
                                                  : "";
        return Error{ErrorKind::unsupported,
                     options_.model_path + " does not generate text: " + summary->no_text_reason + hint};
    }
    if (options_.capture && !summary->has_attention) {
        return Error{ErrorKind::unsupported,
                     options_.model_path + " has no attention to capture: its layers are recurrent"};
    }
    Result<ModelIdentity> identity = models::model_identity(options_.model_path, *summary);
    if (!identity) return identity.error();
    identity_ = std::move(*identity);
    if (options_.n_ctx < 0 || options_.n_batch <= 0) {
        return Error{ErrorKind::invalid_argument, "the context and batch sizes must be positive"};
    }
    if (!options_.rpc_servers.empty()) {
        if (Result<void> r = add_rpc_servers(options_.rpc_servers); !r) return r;
    }
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = options_.n_gpu_layers;
    Result<std::vector<ggml_backend_dev_t>> devices = named_devices(options_.devices);
    if (!devices) return devices.error();
    if (!devices->empty()) params.devices = devices->data(); // ends with a null
    take_engine_complaint();
    model_.reset(llama_model_load_from_file(options_.model_path.c_str(), params));
    if (!model_) return Error{ErrorKind::engine, engine_said(options_.model_path + " could not be loaded")};
    vocab_ = llama_model_get_vocab(model_.get());
    n_vocab_ = llama_vocab_n_tokens(vocab_);
    if (generates_ && (!llama_model_has_decoder(model_.get()) || llama_model_has_encoder(model_.get()))) {
        return Error{ErrorKind::unsupported,
                     options_.model_path +
                         " is an encoder or embedding model: it does not generate text token by token"};
    }

    char buffer[256] = {};
    llama_model_desc(model_.get(), buffer, sizeof buffer);
    identity_.description = buffer;

    if (!options_.capture) return open_context(Entry::automatic);
    if (options_.entry != Entry::callback) {
        if (Result<void> r = open_context(Entry::interposed); !r) return r;
        Result<bool> reached = warm_up();
        if (!reached) return reached.error();
        if (*reached) return {};
        if (options_.entry == Entry::interposed) {
            return Error{ErrorKind::unsupported,
                         "llama.cpp is linked so that its calls pass attnscope by; link attnscope "
                         "before ggml as a shared library, or use the callback entry"};
        }
    }
    if (Result<void> r = open_context(Entry::callback); !r) return r;
    Result<bool> reached = warm_up();
    if (!reached) return reached.error();
    if (!*reached) return Error{ErrorKind::unsupported, "no attention was found in the graph of this model"};
    return {};
}

namespace {
// Elements of a head's key.
int32_t key_length(const llama_model& model) {
    char arch[64] = {}, value[32] = {};
    llama_model_meta_val_str(&model, "general.architecture", arch, sizeof arch);
    if (llama_model_meta_val_str(&model, fmt::format("{}.attention.key_length", arch).c_str(), value, sizeof value) > 0)
        return std::atoi(value);
    const int32_t n_head = llama_model_n_head(&model);
    return n_head > 0 ? llama_model_n_embd(&model) / n_head : 0;
}
} // namespace

Result<void> SessionImpl::open_context(Entry entry) {
    Result<ggml_type> k = cache_type(options_.cache_type_k), v = cache_type(options_.cache_type_v);
    if (!k) return k.error();
    if (!v) return v.error();
    // A decoder with a bias by distance has no flash attention, and llama.cpp then transposes the blocks of a quantised V as if they
    // were elements: it writes behind the memory of the copy (build_attn_mha; ggml_compute_forward_dup_bytes).
    if (encodes_ && ggml_is_quantized(*v)) {
        return Error{ErrorKind::unsupported,
                     fmt::format("llama.cpp cannot compute the decoder of {} with a V cache of type {} (use -ctv f16)",
                                 options_.model_path, options_.cache_type_v)};
    }
    // ... and such blocks of its K as heads that end inside of one: what comes of it is no number (NaN, or a wrong one).
    if (const int32_t head = encodes_ ? key_length(*model_) : 0; head > 0 && head % ggml_blck_size(*k) != 0) {
        return Error{
            ErrorKind::unsupported,
            fmt::format(
                "llama.cpp cannot compute the decoder of {}, whose heads have {} elements, with a K cache of type {} "
                "(use -ctk f16)",
                options_.model_path, head, options_.cache_type_k)};
    }
    context_.reset();
    capture_.reset();

    llama_context_params params = llama_context_default_params();
    int32_t n_ctx = options_.n_ctx, n_batch = options_.n_batch;
    if (whole_texts_) {                   // in one batch, or llama.cpp aborts
        constexpr int32_t most = 1 << 24; // its square is the size of a mask
        const int32_t trained = std::clamp(llama_model_n_ctx_train(model_.get()), 1, most);
        // as many as the engine makes of them: a text may fill the context that there is
        n_ctx = n_batch = n_ctx > 0 ? std::min(GGML_PAD(std::min(n_ctx, most), context_step), trained) : trained;
    }
    params.n_ctx = static_cast<uint32_t>(n_ctx);
    params.n_batch = params.n_ubatch = static_cast<uint32_t>(n_ctx > 0 ? std::min(n_batch, n_ctx) : n_batch);
    params.n_seq_max = 1;
    const auto cores = static_cast<int32_t>(base::n_cores());
    params.n_threads = params.n_threads_batch = options_.n_threads > 0 ? options_.n_threads : cores;
    params.flash_attn_type = options_.flash_attention == FlashAttention::on    ? LLAMA_FLASH_ATTN_TYPE_ENABLED
                             : options_.flash_attention == FlashAttention::off ? LLAMA_FLASH_ATTN_TYPE_DISABLED
                                                                               : LLAMA_FLASH_ATTN_TYPE_AUTO;
    params.type_k = *k;
    params.type_v = *v;
    params.swa_full = false;
    params.no_perf = true;

    entry_ = entry;
    if (options_.capture) {
        capture::Options capture;
        capture.way_in =
            entry == Entry::callback ? capture::Options::WayIn::callback : capture::Options::WayIn::interposed;
        capture.prove = options_.witness;
        capture.mean_threads = options_.device_mean ? params.n_threads : 0;
        capture_ =
            capture::Capture::make(capture, [this](CapturedFrame&& frame) { return hand_over(std::move(frame)); });
        params.cb_eval = capture_->callback();
        params.cb_eval_user_data = capture_->callback_data();
    }
    take_engine_complaint();
    context_.reset(llama_init_from_model(model_.get(), params));
    if (!context_) {
        return Error{ErrorKind::engine,
                     engine_said(fmt::format("llama.cpp could not make a context of {} positions", options_.n_ctx))};
    }
    return {};
}

// Decodes one token as llama.cpp's own tools do before they start: it brings the weights into memory, and here it also
// tells the geometry before the first real token.
Result<bool> SessionImpl::warm_up() {
    const int32_t token = std::max(llama_vocab_bos(vocab_), 0);
    Result<void> decoded = encodes_ ? encode({&token, 1}) : decode({&token, 1}, FrameKind::prompt, false);
    if (decoded) decoded = capture_->flush();
    if (!capture_->reached()) return false;
    if (!decoded) return decoded.error();
    reset();
    const std::vector<LayerInfo>& layers = geometry().layers;
    const bool any = std::any_of(layers.begin(), layers.end(), [](const LayerInfo& l) { return l.captured(); });
    if (!any) {
        std::string reason = "no attention was found in its graph";
        if (!layers.empty()) reason = layers.front().absent;
        return Error{ErrorKind::unsupported, "no layer of " + options_.model_path + " can be captured: " + reason};
    }
    return true;
}

void SessionImpl::reset() {
    llama_memory_clear(llama_get_memory(context_.get()), true);
    n_past_ = n_encoded_ = 0;
    if (capture_) capture_->forget();
}

int64_t SessionImpl::truncate(int64_t n) {
    if (n >= n_past_) return n_past_;
    if (n > 0 && !encodes_) {
        llama_memory_t memory = llama_get_memory(context_.get());
        // A sliding window must still hold all that token n will see.
        const int64_t window = llama_model_n_swa(model_.get());
        const bool held = llama_memory_seq_pos_min(memory, 0) <= (window > 0 ? std::max<int64_t>(0, n - window) : 0);
        if (held && llama_memory_seq_rm(memory, 0, static_cast<llama_pos>(n), -1)) {
            n_past_ = n;
            if (capture_) capture_->forget(0, n);
            return n;
        }
    }
    reset();
    return 0;
}

RecordingInfo SessionImpl::recording_info() const {
    RecordingInfo info;
    info.model = identity_;
    info.writer = base::program();
    info.engine = fmt::format("llama.cpp {} (ggml {})", llama_version(), ggml_version());
    info.entry = entry_name(entry_);
    info.geometry = geometry();
    // As they were typed: 0.95, not the nearest float's 0.949999988.
    const auto typed = [](float x) { return std::stod(fmt::format("{:.6g}", x)); };
    nlohmann::json settings = {
        {"ctx_size", n_ctx()},
        {"ubatch_size", llama_n_ubatch(context_.get())},
        {"threads", options_.n_threads},
        {"flash_attn", flash_attention_name(options_.flash_attention)},
        {"cache_type_k", options_.cache_type_k},
        {"cache_type_v", options_.cache_type_v},
        {"n_gpu_layers", options_.n_gpu_layers},
        {"device", options_.devices},
        {"rpc", options_.rpc_servers},
    };
    if (sampling_) {
        settings.update({{"temp", typed(sampling_->temperature)},
                         {"top_k", sampling_->top_k},
                         {"top_p", typed(sampling_->top_p)},
                         {"min_p", typed(sampling_->min_p)},
                         {"repeat_penalty", typed(sampling_->repeat_penalty)},
                         {"repeat_last_n", sampling_->repeat_last_n},
                         {"typical_p", typed(sampling_->typical_p)},
                         {"presence_penalty", typed(sampling_->presence_penalty)},
                         {"frequency_penalty", typed(sampling_->frequency_penalty)},
                         {"dynatemp_range", typed(sampling_->dynatemp_range)},
                         {"dynatemp_exponent", typed(sampling_->dynatemp_exponent)},
                         {"xtc_probability", typed(sampling_->xtc_probability)},
                         {"xtc_threshold", typed(sampling_->xtc_threshold)},
                         {"dry_multiplier", typed(sampling_->dry_multiplier)},
                         {"dry_base", typed(sampling_->dry_base)},
                         {"dry_allowed_length", sampling_->dry_allowed_length},
                         {"dry_penalty_last_n", sampling_->dry_penalty_last_n},
                         {"mirostat", sampling_->mirostat},
                         {"mirostat_tau", typed(sampling_->mirostat_tau)},
                         {"mirostat_eta", typed(sampling_->mirostat_eta)},
                         {"seed", seed_}});
    }
    info.settings_json = settings.dump();
    return info;
}

} // namespace engine
} // namespace attnscope
