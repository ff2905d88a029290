// A program that uses ggml as llama.cpp did before July 2025, and as its forks do: keys are copied into cells one behind the other,
// a mask is given as f32 and converted, every graph is built and allocated anew. No model file: its weights are made here.
//
//   attach_old_host N_PREDICT FLASH(0|1) [reuse|moved|grown|apart]
//
// reuse: a graph of one token is built once and its copies are moved to the next cell (with flash attention). moved: the same, and between
// two tokens the caches get other memory, into which that graph's views are moved. grown: the same, and its views show more cells from some
// token on. apart: of a prompt each key goes to the second next cell, as in no program. Prints the tokens that were decoded.
#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr int64_t head_dim = 32, n_head = 2, n_head_kv = 1, n_embd = 64, n_vocab = 96, n_cells = 64;
constexpr int n_layer = 2;
constexpr size_t es = 2; // f16
bool apart = false;

struct Layer {
    ggml_tensor *q, *k, *v, *o, *cache_k, *cache_v;
};

struct Model {
    ggml_backend_t cpu = ggml_backend_cpu_init();
    ggml_context* ctx = ggml_init({64 * ggml_tensor_overhead(), nullptr, true});
    ggml_tensor* embd = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_embd, n_vocab);
    ggml_tensor* output = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_embd, n_vocab);
    std::vector<Layer> layers;
    ggml_backend_sched_t sched = nullptr;

    Model() {
        ggml_set_name(embd, "token_embd.weight");
        for (int i = 0; i < n_layer; ++i) {
            Layer l{};
            l.q = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_embd, n_head * head_dim);
            l.k = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_embd, n_head_kv * head_dim);
            l.v = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_embd, n_head_kv * head_dim);
            l.o = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_head * head_dim, n_embd);
            l.cache_k = ggml_new_tensor_1d(ctx, GGML_TYPE_F16, n_head_kv * head_dim * n_cells);
            l.cache_v = ggml_new_tensor_1d(ctx, GGML_TYPE_F16, n_head_kv * head_dim * n_cells);
            ggml_set_name(l.cache_k, ("cache_k_l" + std::to_string(i)).c_str());
            ggml_set_name(l.cache_v, ("cache_v_l" + std::to_string(i)).c_str());
            layers.push_back(l);
        }
        ggml_backend_buffer_t memory = ggml_backend_alloc_ctx_tensors(ctx, cpu);
        ggml_backend_buffer_clear(memory, 0);
        uint32_t state = 1;
        for (ggml_tensor* t = ggml_get_first_tensor(ctx); t; t = ggml_get_next_tensor(ctx, t)) {
            if (t->type != GGML_TYPE_F32) continue;
            std::vector<float> values(static_cast<size_t>(ggml_nelements(t)));
            for (float& v : values) {
                state = state * 1664525u + 1013904223u;
                v = (static_cast<float>(state >> 8) / 16777216.0F - 0.5F) * 0.4F;
            }
            ggml_backend_tensor_set(t, values.data(), 0, values.size() * sizeof(float));
        }
        sched = ggml_backend_sched_new(&cpu, nullptr, 1, 2048, false, true);
    }
};

ggml_tensor* attention(ggml_context* c, ggml_cgraph* graph, const Layer& l, ggml_tensor* in, ggml_tensor* positions,
                       ggml_tensor* mask, int64_t head, bool flash) {
    const int64_t n = in->ne[1], row = n_head_kv * head_dim;
    ggml_tensor* q = ggml_reshape_3d(c, ggml_mul_mat(c, l.q, in), head_dim, n_head, n);
    ggml_tensor* k = ggml_reshape_3d(c, ggml_mul_mat(c, l.k, in), head_dim, n_head_kv, n);
    ggml_tensor* v = ggml_mul_mat(c, l.v, in);
    q = ggml_rope(c, q, positions, head_dim, 0);
    k = ggml_rope(c, k, positions, head_dim, 0);
    const auto at = static_cast<size_t>(head);
    ggml_tensor* keys = apart && n > 1 ? ggml_view_2d(c, l.cache_k, row, n, 2 * size_t(row) * es, at * size_t(row) * es)
                                       : ggml_view_1d(c, l.cache_k, n * row, at * size_t(row) * es);
    ggml_build_forward_expand(graph, ggml_cpy(c, k, keys));
    ggml_tensor* to = flash ? ggml_view_1d(c, l.cache_v, n * row, at * size_t(row) * es)
                            : ggml_view_2d(c, l.cache_v, n, row, n_cells * es, at * es);
    ggml_build_forward_expand(graph, ggml_cpy(c, flash ? v : ggml_transpose(c, v), to));
    q = ggml_permute(c, q, 0, 2, 1, 3);
    k = ggml_view_3d(c, l.cache_k, head_dim, n_cells, n_head_kv, size_t(row) * es, head_dim * es, 0);
    const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
    ggml_tensor* out = nullptr;
    if (flash) {
        v = ggml_view_3d(c, l.cache_v, head_dim, n_cells, n_head_kv, size_t(row) * es, head_dim * es, 0);
        out = ggml_flash_attn_ext(c, q, k, v, ggml_cast(c, mask, GGML_TYPE_F16), scale, 0, 0);
        out = ggml_reshape_2d(c, out, n_head * head_dim, n);
    } else {
        ggml_tensor* weights = ggml_soft_max_ext(c, ggml_mul_mat(c, k, q), mask, scale, 0);
        v = ggml_view_3d(c, l.cache_v, n_cells, head_dim, n_head_kv, n_cells * es, n_cells * es * head_dim, 0);
        out = ggml_permute(c, ggml_mul_mat(c, v, weights), 0, 2, 1, 3);
        out = ggml_cont_2d(c, out, n_head * head_dim, n);
    }
    return ggml_add(c, in, ggml_mul_mat(c, l.o, out));
}

struct Graph {
    ggml_context* ctx = nullptr;
    ggml_cgraph* graph = nullptr;
    ggml_tensor *ids = nullptr, *positions = nullptr, *mask = nullptr, *logits = nullptr;
    int64_t n = 0, cells = n_cells;
};

Graph build(Model& m, int64_t n, int64_t head, bool flash) {
    Graph g;
    g.n = n;
    g.ctx = ggml_init({512 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true});
    g.graph = ggml_new_graph(g.ctx);
    g.ids = ggml_new_tensor_1d(g.ctx, GGML_TYPE_I32, n);
    g.positions = ggml_new_tensor_1d(g.ctx, GGML_TYPE_I32, n);
    g.mask = ggml_new_tensor_2d(g.ctx, GGML_TYPE_F32, n_cells, n);
    for (ggml_tensor* t : {g.ids, g.positions, g.mask}) ggml_set_input(t);
    ggml_tensor* x = ggml_get_rows(g.ctx, m.embd, g.ids);
    for (const Layer& l : m.layers) {
        x = attention(g.ctx, g.graph, l, ggml_rms_norm(g.ctx, x, 1e-5F), g.positions, g.mask, head, flash);
    }
    g.logits = ggml_mul_mat(g.ctx, m.output, ggml_rms_norm(g.ctx, x, 1e-5F));
    ggml_set_output(g.logits);
    ggml_build_forward_expand(g.graph, g.logits);
    return g;
}

void move_copies(const Graph& g, int64_t head) {
    for (int i = 0; i < ggml_graph_n_nodes(g.graph); ++i) {
        ggml_tensor* t = ggml_graph_node(g.graph, i);
        if (t->op != GGML_OP_CPY || !t->view_src) continue;
        for (ggml_tensor* view : {t, t->src[1]}) {
            view->view_offs = size_t(head) * n_head_kv * head_dim * es;
            view->data = static_cast<char*>(view->view_src->data) + view->view_offs;
        }
    }
}

// Other memory for the caches, with what is in them; nothing good is left where they were.
void move_caches(Model& m, const Graph& g) {
    const size_t bytes = ggml_nbytes(m.layers[0].cache_k);
    ggml_backend_buffer_t memory = ggml_backend_alloc_buffer(m.cpu, 2 * n_layer * bytes);
    char* to = static_cast<char*>(ggml_backend_buffer_get_base(memory));
    for (const Layer& l : m.layers) {
        for (ggml_tensor* cache : {l.cache_k, l.cache_v}) {
            std::memcpy(to, cache->data, bytes);
            std::memset(cache->data, 0x3c, bytes);
            cache->data = to, cache->buffer = memory;
            to += bytes;
        }
    }
    const auto follow = [&](ggml_tensor* t) {
        if (!t || !t->view_src || t->view_src->buffer != memory) return;
        t->data = static_cast<char*>(t->view_src->data) + t->view_offs, t->buffer = memory;
    };
    for (int i = 0; i < ggml_graph_n_nodes(g.graph); ++i) {
        ggml_tensor* t = ggml_graph_node(g.graph, i);
        follow(t);
        for (ggml_tensor* from : t->src) follow(from);
    }
}

// How many cells the attentions of a graph of one token look at.
void show_cells(Graph& g, int64_t n) {
    const auto first_row = [n](ggml_tensor* mask) {
        mask->ne[0] = n;
        mask->nb[1] = mask->nb[2] = mask->nb[3] = size_t(n) * mask->nb[0];
    };
    g.cells = n;
    for (int i = 0; i < ggml_graph_n_nodes(g.graph); ++i) {
        ggml_tensor* t = ggml_graph_node(g.graph, i);
        if (t->op != GGML_OP_FLASH_ATTN_EXT) continue;
        t->src[1]->ne[1] = t->src[2]->ne[1] = n;
        first_row(t->src[3]);
    }
    first_row(g.mask);
}

// The next token; -1: the graph failed.
int decode(Model& m, Graph& g, const std::vector<int32_t>& tokens, int64_t head, bool flash, const std::string& way) {
    const bool reuse = way == "reuse" || way == "moved" || way == "grown";
    const auto n = static_cast<int64_t>(tokens.size());
    if (reuse && g.n == n) {
        move_copies(g, head);
    } else {
        if (g.ctx) ggml_free(g.ctx);
        g = build(m, n, head, flash);
        ggml_backend_sched_reset(m.sched);
        if (!ggml_backend_sched_alloc_graph(m.sched, g.graph)) return -1;
    }
    if (way == "moved" && head == 12) move_caches(m, g);
    if (way == "grown" && n == 1) show_cells(g, head < 16 ? 16 : n_cells);
    std::vector<int32_t> where(tokens.size());
    std::vector<float> seen(size_t(g.cells * n), -INFINITY), out(size_t(n_vocab * n));
    for (int64_t i = 0; i < n; ++i) {
        where[size_t(i)] = static_cast<int32_t>(head + i);
        std::fill_n(seen.begin() + i * g.cells, head + i + 1, 0.0F);
    }
    ggml_backend_tensor_set(g.ids, tokens.data(), 0, tokens.size() * 4);
    ggml_backend_tensor_set(g.positions, where.data(), 0, where.size() * 4);
    ggml_backend_tensor_set(g.mask, seen.data(), 0, seen.size() * 4);
    const bool good = ggml_backend_sched_graph_compute(m.sched, g.graph) == GGML_STATUS_SUCCESS;
    ggml_backend_tensor_get(g.logits, out.data(), 0, out.size() * 4);
    const auto last = out.end() - n_vocab;
    return good ? static_cast<int>(std::max_element(last, out.end()) - last) : -1;
}

} // namespace

int main(int argc, char** argv) {
    if (argc < 3) return 2;
    Model model;
    Graph graph;
    const bool flash = std::atoi(argv[2]) != 0;
    const std::string way = argc > 3 ? argv[3] : "";
    apart = way == "apart";
    std::vector<int32_t> batch = {11, 27, 3, 91, 45};
    int64_t head = 0;
    for (int left = std::atoi(argv[1]);; --left) {
        for (const int32_t t : batch) std::printf("%d ", t);
        const int next = decode(model, graph, batch, head, flash, way);
        if (next < 0) return 1;
        head += static_cast<int64_t>(batch.size());
        if (left <= 0) break;
        batch.assign(1, next);
    }
    std::printf("\n");
    ggml_backend_sched_free(model.sched);
    return 0;
}
