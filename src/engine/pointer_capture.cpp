#include "engine/pointer_capture.h"

#include "base/cores.h"
#include "capture/graph/hook.h"
#include "engine/engine_log.h"
#include "engine/sampler.h"
#include "gguf/gguf_check.h"

#include <ggml-backend.h>
#include <llama-cpp.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <set>

namespace attnscope {

namespace {

// Remembers tensors by name while the graph is there, as a callback in the graph's construction would.
class RememberPointers : public capture::GraphHook {
public:
    void before_alloc(ggml_backend_sched_t, ggml_cgraph* graph) override {
        tensors.clear();
        for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
            ggml_tensor* t = ggml_graph_node(graph, i);
            if (std::strncmp(t->name, "kq_soft_max", 11) == 0) tensors.push_back(t);
        }
    }
    void before_compute(ggml_backend_sched_t, ggml_cgraph*) override {}
    void after_compute(ggml_backend_sched_t, ggml_cgraph*, bool) override {}

    std::vector<ggml_tensor*> tensors;
};

std::string piece_of(const llama_vocab* vocab, int32_t token) {
    char text[256];
    const int32_t n = llama_token_to_piece(vocab, token, text, sizeof text, 0, true);
    return {text, static_cast<size_t>(n > 0 ? n : 0)};
}

} // namespace

Result<PointerCaptureResult> capture_pointers(const PointerCaptureOptions& o,
                                              const std::function<Result<void>(const PointerToken&)>& sink) {
    const Result<gguf::GgufSummary> summary = gguf::check_gguf(o.session.model_path);
    if (!summary) return summary.error();
    engine::set_engine_log(o.session.quiet);
    llama_model_params mp = llama_model_default_params();
    mp.n_gpu_layers = o.session.n_gpu_layers;
    const llama_model_ptr model(llama_model_load_from_file(o.session.model_path.c_str(), mp));
    if (!model) return Error{ErrorKind::engine, o.session.model_path + " could not be loaded"};
    const llama_vocab* vocab = llama_model_get_vocab(model.get());
    llama_context_params cp = llama_context_default_params();
    cp.n_ctx = static_cast<uint32_t>(o.session.n_ctx);
    cp.n_batch = cp.n_ubatch = static_cast<uint32_t>(std::min(o.session.n_batch, o.session.n_ctx));
    cp.n_seq_max = 1;
    cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    const auto cores = static_cast<int32_t>(base::n_cores());
    cp.n_threads = cp.n_threads_batch = o.session.n_threads > 0 ? o.session.n_threads : cores;
    const llama_context_ptr context(llama_init_from_model(model.get(), cp));
    if (!context) return Error{ErrorKind::engine, "llama.cpp could not make a context"};
    PointerCaptureResult result;
    const llama_sampler_ptr sampler = engine::make_sampler(o.sampling, vocab, &result.seed);
    RememberPointers hook;
    const auto start = std::chrono::steady_clock::now();
    const auto decode = [&](const int32_t* tokens, size_t n) {
        const capture::HookScope scope(&hook);
        return llama_decode(context.get(),
                            llama_batch_get_one(const_cast<int32_t*>(tokens), static_cast<int32_t>(n))) == 0;
    };
    for (size_t at = 0; at < o.prompt.size(); at += cp.n_batch) {
        if (!decode(o.prompt.data() + at, std::min<size_t>(cp.n_batch, o.prompt.size() - at))) {
            return Error{ErrorKind::engine, "llama.cpp failed to read the prompt"};
        }
    }
    auto n_context = static_cast<int64_t>(o.prompt.size());
    std::vector<float> values, tensor;
    for (int32_t i = 0; i < o.n_predict && n_context < o.session.n_ctx; ++i) {
        if (o.stop && o.stop->load()) break;
        const int32_t token = llama_sampler_sample(sampler.get(), context.get(), -1);
        if (!decode(&token, 1)) return Error{ErrorKind::engine, "llama.cpp failed to decode"};
        ++n_context;
        if (o.wait) llama_synchronize(context.get());
        if (hook.tensors.empty()) {
            return Error{ErrorKind::unsupported,
                         "no tensor named kq_soft_max was seen: either the model has no attention, or "
                         "llama.cpp is linked so that its calls pass attnscope by"};
        }
        PointerToken out;
        out.token = token;
        out.text = piece_of(vocab, token);
        out.n_layer = static_cast<int32_t>(hook.tensors.size());
        out.n_head = static_cast<int32_t>(hook.tensors.front()->ne[2]);
        out.n_context = n_context;
        values.clear();
        std::set<const void*> addresses;
        for (ggml_tensor* t : hook.tensors) {
            addresses.insert(t->data);
            tensor.resize(static_cast<size_t>(ggml_nelements(t)));
            result.on_gpu = result.on_gpu || !ggml_backend_buffer_is_host(t->buffer);
            ggml_backend_tensor_get(t, tensor.data(), 0, ggml_nbytes(t));
            for (int64_t h = 0; h < t->ne[2]; ++h) { // the padding behind the context was cut off, as it should be
                const float* row = tensor.data() + h * t->ne[1] * t->ne[0];
                values.insert(values.end(), row, row + std::min(n_context, t->ne[0]));
                values.resize(values.size() + static_cast<size_t>(std::max<int64_t>(0, n_context - t->ne[0])), 0.0f);
            }
        }
        result.n_tensors = out.n_layer;
        result.n_addresses = std::max(result.n_addresses, static_cast<int32_t>(addresses.size()));
        out.values = values;
        if (Result<void> r = sink(out); !r) return r.error();
        result.generated.push_back(token);
    }
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return result;
}

} // namespace attnscope
