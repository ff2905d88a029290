#include "attach/inside/graph_inputs.h"

#include "capture/graph/cells.h"
#include "capture/graph/ggml_abi.h"
#include "capture/graph/host_attention.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <utility>

namespace attnscope::attach {

namespace {

using capture::ggml;

template <typename T> std::vector<T> read(const ggml_tensor* t, int64_t n) {
    std::vector<T> values(static_cast<size_t>(n));
    ggml().backend_tensor_get(t, values.data(), 0, values.size() * sizeof(T));
    return values;
}

} // namespace

namespace {

// The rows of the embedding matrix that are looked up for `n` tokens (0: nobody knows how many); null: this graph reads no text.
const ggml_tensor* find_embedding(ggml_cgraph* graph, int64_t n) {
    const int n_nodes = ggml().graph_n_nodes(graph);
    ggml_tensor** nodes = ggml().graph_nodes(graph);
    const bool marked = std::any_of(nodes, nodes + n_nodes, capture::is_marked);
    for (int i = 0; i < n_nodes; ++i) {
        const ggml_tensor* t = nodes[i];
        if (capture::op(t) != capture::Op::get_rows || (marked && !capture::is_marked(t))) continue;
        const ggml_tensor *matrix = capture::src(t, 0), *ids = capture::src(t, 1);
        if (!matrix || !ids || std::strncmp(capture::name(matrix), "token_embd", 10) != 0) continue;
        if (capture::type(ids) == GGML_TYPE_I32 && (n == 0 || capture::ne(ids, 0) == n)) return t;
    }
    return nullptr;
}

std::string why_none(const std::vector<capture::AttentionNode>& nodes) {
    for (const capture::AttentionNode& n : nodes) {
        if (!n.refusal.empty()) return "its attention cannot be captured: " + n.refusal;
    }
    if (std::any_of(nodes.begin(), nodes.end(), [](const capture::AttentionNode& n) { return n.graph_keys; }))
        return "it reads a text without a KV cache (an embedding model, or the encoder of a T5), which is not followed "
               "here (attnscope capture records such models; -n 0 where they write nothing)";
    return "its keys are stored in a way that is not known";
}

void describe_values(const capture::AttentionNode& n, CacheMemory& memory) {
    const capture::HostAttention at = capture::host_attention(n);
    memory.value_cell = at.v_cell;
    if (at.v_dim <= at.v_cell) return;
    memory.value_element = at.v_dim;
    memory.stream = n.cache_streams > 1 ? at.v_stream : memory.end - memory.begin;
}

std::vector<CacheMemory> caches_of(const capture::GraphAttention& found) {
    std::vector<CacheMemory> caches;
    for (size_t l = 0; l < found.nodes.size(); ++l) {
        const capture::AttentionNode& n = found.nodes[l];
        if (!n.refusal.empty() || !capture::stores_keys(n)) continue;
        const auto add = [&](const ggml_tensor* cache) {
            const auto begin = reinterpret_cast<uintptr_t>(capture::data(cache));
            CacheMemory memory;
            memory.begin = begin, memory.end = begin + capture::nbytes(cache);
            memory.layer = static_cast<int32_t>(l), memory.buffer = capture::buffer(cache);
            if (cache == n.k_cache)
                memory.cell = capture::nb(n.k, 1);
            else
                describe_values(n, memory);
            if (begin != 0) caches.push_back(memory);
        };
        add(n.k_cache);
        if (const ggml_tensor* v = capture::owner(n.v); v != n.k_cache) add(v);
    }
    return caches;
}

} // namespace

GraphInputs find_inputs(ggml_cgraph* graph) {
    GraphInputs in;
    const capture::GraphAttention found = capture::find_attention(graph);
    if (found.nodes.empty()) return in;
    const ggml_tensor* embedding = find_embedding(graph, found.n_query);
    // Of several caches the largest: those of layers with a window lose what is behind it, and get it back (a server's checkpoints) while
    // the others hold all of the text.
    const auto n_cells = [](const capture::AttentionNode& n) {
        const bool told = n.refusal.empty() && capture::stores_keys(n) && !capture::mask_is_computed(n);
        return told ? static_cast<int64_t>(capture::nbytes(n.k_cache) / capture::nb(n.k, 1)) : 0;
    };
    // Of equally large ones (a short context, or an engine that was told to keep all of the text for such layers, too) the one whose mask
    // was made first: llama.cpp makes the mask without a window before the other, and tensors of a graph lie in one piece of memory
    // in the order in which they are made.
    const auto follows_less = [&](const capture::AttentionNode& a, const capture::AttentionNode& b) {
        const int64_t cells_a = n_cells(a), cells_b = n_cells(b);
        return cells_a != cells_b ? cells_a < cells_b : std::less<const ggml_tensor*>()(b.mask, a.mask);
    };
    const auto captured = std::max_element(found.nodes.begin(), found.nodes.end(), follows_less);
    if (n_cells(*captured) == 0) {
        if (embedding) in.refusal = why_none(found.nodes);
        return in;
    }
    in.cells = captured->k_cells;
    in.copy = captured->k_copy;
    in.cell_bytes = capture::nb(captured->k, 1);
    in.mask = captured->mask;
    in.layer = static_cast<int32_t>(captured - found.nodes.begin());
    in.n_cells = n_cells(*captured);
    in.caches = caches_of(found);
    in.positions = found.positions;
    in.n = found.n_query;
    in.stream_tokens = capture::ne(captured->q, 1);
    in.first_stream = captured->first_stream;
    in.stream_cells = captured->cache_streams > 1 ? captured->stream_cells : 0;
    if (!embedding) return in;
    in.tokens = capture::src(embedding, 1);
    in.embedding = capture::data(capture::src(embedding, 0));
    in.n_vocab = static_cast<int32_t>(capture::ne(capture::src(embedding, 0), 1));
    return in;
}

std::vector<ggml_tensor*> written_views(ggml_cgraph* graph) {
    std::vector<ggml_tensor*> views;
    const int n_nodes = ggml().graph_n_nodes(graph);
    ggml_tensor** nodes = ggml().graph_nodes(graph);
    for (int i = 0; i < n_nodes; ++i) {
        const capture::Op op = capture::op(nodes[i]);
        const ggml_tensor* owner = capture::view_src(nodes[i]);
        const bool writes = op == capture::Op::rope || op == capture::Op::cpy || op == capture::Op::set_rows;
        if (writes && owner && capture::op(owner) == capture::Op::none) views.push_back(nodes[i]);
    }
    return views;
}

std::vector<int64_t> read_cells(const GraphInputs& in) {
    if (in.cells) return read<int64_t>(in.cells, in.n);
    std::vector<int64_t> cells(static_cast<size_t>(in.n));
    std::iota(cells.begin(), cells.end(), static_cast<int64_t>(capture::view_offs(in.copy) / in.cell_bytes));
    return cells;
}

GraphTokens read_tokens(const GraphInputs& in) {
    GraphTokens t;
    t.ids = read<int32_t>(in.tokens, in.n);
    if (in.positions) t.positions = read<int32_t>(in.positions, in.n);
    t.cells = read_cells(in);
    // Nearly always in host memory, and with rows for tokens that are not there: it is read where it lies, while the devices wait.
    std::vector<uint8_t> copy;
    const uint8_t* mask = capture::data(in.mask);
    if (!capture::is_host(in.mask)) {
        copy.resize(capture::nbytes(in.mask));
        ggml().backend_tensor_get(in.mask, copy.data(), 0, copy.size());
        mask = copy.data();
    }
    t.visible.reserve(size_t(in.n));
    for (int64_t i = 0; i < in.n; ++i) {
        const int64_t stream = in.stream_tokens > 0 ? i / in.stream_tokens : 0;
        const uint8_t* rows = mask + size_t(stream) * capture::nb(in.mask, 3);
        Ranges visible = capture::visible_cells(in.mask, rows, i - stream * in.stream_tokens);
        const int64_t first_cell = (in.first_stream + stream) * in.stream_cells;
        for (Range& r : visible) r = {r.begin + first_cell, r.end + first_cell};
        t.visible.push_back(std::move(visible));
    }
    return t;
}

} // namespace attnscope::attach
