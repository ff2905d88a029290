#include "attach/inside/watched_context.h"

#include "attach/inside/graph_walk.h"
#include "attach/inside/operations.h"
#include "attach/inside/structure_probe.h"
#include "attach/inside/structures.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <mutex>

namespace attnscope::attach {

namespace {

// Numbers of operations are added to the table while contexts come up: one of them reads or writes it at a time.
std::mutex table_mutex;

bool is_leaf(const ggml_tensor* t) {
    return capture::tensor_field<uint32_t>(t, tensor_layout.op) == 0;
}

// As ggml computes MUL with one row: each product is rounded once, whatever the kernel.
void multiply(const ggml_tensor* t) {
    const ggml_tensor* norm = capture::src(t, 0);
    const auto* weight = reinterpret_cast<const float*>(capture::data(capture::src(t, 1)));
    const auto* from = reinterpret_cast<const float*>(capture::data(norm));
    auto* to = reinterpret_cast<float*>(capture::data(t));
    const auto width = size_t(capture::ne(t, 0));
    const auto n_rows = width == 0 ? 0 : size_t(capture::nelements(t)) / width;
    for (size_t row = 0; row < n_rows; ++row) {
        for (size_t i = 0; i < width; ++i) to[row * width + i] = from[row * width + i] * weight[i];
    }
}

ggml_status has_run(ggml_backend_sched_t, ggml_cgraph*) {
    return GGML_STATUS_SUCCESS;
}

} // namespace

WatchedContext::~WatchedContext() {
    end_stream(key());
}

void WatchedContext::begin_graph() {
    // Some graphs only show how much memory they would need, and some move what a cache holds.
    constexpr int most_without = 4;
    if (!closed_ && ++n_without_ == most_without && !ever_closed_)
        tell_of_back_end(holder_,
                         "nothing is captured of a context: its graphs have no multiplication with the weights of "
                         "a last norm, behind layers that keep keys, by which they could be followed");
    asked_.clear();
    closed_ = false;
    ours_ = nullptr;
}

bool WatchedContext::is_behind_all_layers(const ggml_tensor* op) const {
    if (reads_structures()) return is_last_norm(op) && std::any_of(asked_.begin(), asked_.end(), stores_keys_of_layer);
    CarefulBytes memory;
    return looks_like_last_norm(op, memory) && std::any_of(asked_.begin(), asked_.end(), [&](const ggml_tensor* t) {
               return looks_like_stored_keys(t, memory);
           });
}

// Layers behind what we took for the last norm would be missing without a word.
void WatchedContext::look_behind(const ggml_tensor* op) {
    if (!ours_ || off_ || !stores_keys_of_layer(op) || std::find(asked_.begin(), asked_.end(), op) != asked_.end())
        return;
    off_ = true;
    if (const std::shared_ptr<Stream> stream = stream_of_back_end(holder_, key(), nullptr))
        stream->end("nothing is captured of a context: layers lie behind what seemed to be its last norm");
}

bool WatchedContext::computes(const ggml_tensor* op, size_t n_functions) noexcept {
    try {
        if (is_leaf(op)) {
            if (!asked_.empty()) begin_graph();
            return false;
        }
        if (closed_) look_behind(op);
        if (closed_ || off_) return op == ours_;
        auto* operation = const_cast<ggml_tensor*>(op);
        if (asked_.size() >= most_tensors) asked_.clear();
        asked_.push_back(operation);
        if (!is_behind_all_layers(op)) return false;
        closed_ = ever_closed_ = true;
        if (take(operation, n_functions)) ours_ = operation;
    } catch (const std::exception& e) {
        off_ = true;
        std::fprintf(stderr, "attnscope: %s; nothing is captured of a context\n", e.what());
    }
    return op == ours_;
}

bool WatchedContext::take(ggml_tensor* last_norm, size_t n_functions) {
    const std::lock_guard lock(table_mutex);
    if (CarefulBytes memory; !reads_structures() && keeps_keys_nowhere(asked_, memory)) return false;
    const auto probe = [&] { return probe_structures(holder_, asked_, n_functions); };
    const std::shared_ptr<Stream> stream = stream_of_back_end(holder_, key(), probe);
    if (!stream || !is_last_norm(last_norm)) return false;
    PlainBytes bytes;
    graph_.nodes = walk(asked_, tensor_layout, bytes);
    const std::string unknown = find_operations(graph_.nodes, capture::foreign_ggml().ops);
    if (!unknown.empty()) {
        off_ = true;
        stream->end("nothing is captured of a context: " + unknown);
        return false;
    }
    std::erase_if(graph_.nodes, is_leaf);
    stream->before_alloc(key(), graph_.as_graph());
    if (!stream->waits_for(graph_.as_graph())) return false;
    if (keep_inputs(graph_.as_graph())) return true;
    off_ = true;
    stream->end("nothing is captured of a context: no memory for what its graph is given");
    return false;
}

// What the graph is given lies in memory that the scheduler uses again as soon as nobody in the graph reads it. Not in ours.
bool WatchedContext::keep_inputs(ggml_cgraph* graph) {
    const GraphInputs in = find_inputs(graph);
    std::vector<ggml_tensor*> wanted;
    const auto want = [&](ggml_tensor* tensor) {
        ggml_tensor* t = capture::owner(tensor);
        if (!t || capture::op(t) != capture::Op::none || capture::buffer(t) || capture::data(t)) return;
        if (std::find(wanted.begin(), wanted.end(), t) == wanted.end()) wanted.push_back(t);
    };
    want(in.tokens);
    want(in.positions);
    for (const capture::AttentionNode& n : capture::find_attention(graph).nodes) {
        if (!n.refusal.empty()) continue;
        want(n.mask);
        want(n.k_cells);
    }
    const ggml_backend_buffer_type_t memory = capture::ggml().backend_dev_buffer_type(
        capture::ggml().backend_dev_by_type(static_cast<enum ggml_backend_dev_type>(capture::ggml().device_type_cpu)));
    const size_t align = std::max<size_t>(capture::ggml().backend_buft_get_alignment(memory), 64);
    const auto padded = [&](const ggml_tensor* t) { return (capture::nbytes(t) + align - 1) / align * align; };
    size_t bytes = 0;
    for (const ggml_tensor* t : wanted) bytes += padded(t);
    if (bytes == 0) return true;
    if (!inputs_ || capture::ggml().backend_buffer_get_size(inputs_.get()) < bytes) {
        inputs_.reset();
        inputs_.reset(capture::ggml().backend_buft_alloc_buffer(memory, bytes));
        if (!inputs_) return false;
    }
    auto* at = static_cast<uint8_t*>(capture::ggml().backend_buffer_get_base(inputs_.get()));
    for (ggml_tensor* t : wanted) {
        capture::ggml().backend_tensor_alloc(inputs_.get(), t, at);
        at += padded(t);
    }
    return true;
}

bool WatchedContext::compute() noexcept {
    if (!ours_) return false;
    multiply(ours_);
    try {
        const std::lock_guard lock(table_mutex);
        const std::shared_ptr<Stream> stream = stream_of_back_end(holder_, key(), nullptr);
        if (stream) stream->compute(key(), graph_.as_graph(), has_run);
    } catch (const std::exception& e) {
        off_ = true;
        std::fprintf(stderr, "attnscope: %s; nothing is captured of a context\n", e.what());
    }
    return true;
}

} // namespace attnscope::attach
