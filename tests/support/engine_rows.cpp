#include "support/engine_rows.h"

#include <attnscope/rows.h>

#include <ggml-backend.h>
#include <llama-cpp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <set>

namespace attnscope::test {

namespace {

struct Reader {
    std::map<std::string, std::vector<int64_t>> cells_of; // cache tensor name -> cells of the new keys
    std::map<int, std::vector<int64_t>> position_of;      // layer -> cell -> position
    size_t first = 0;                                     // token index of the batch
    size_t n = 0;
    std::vector<EngineToken> batch;

    static bool eval(ggml_tensor* t, bool ask, void* data) {
        auto* r = static_cast<Reader*>(data);
        if (ask) {
            return is_store(t) || std::strncmp(t->name, "kq_soft_max-", 12) == 0;
        }
        if (!is_store(t)) {
            r->read(t);
            return true;
        }
        // Its memory is used again as soon as its last reader has run.
        std::vector<int64_t>& cells = r->cells_of[t->view_src->name];
        cells.resize(size_t(t->src[1]->ne[0]));
        ggml_backend_tensor_get(t->src[1], cells.data(), 0, cells.size() * sizeof(int64_t));
        return true;
    }

    static bool is_store(const ggml_tensor* t) {
        return t->op == GGML_OP_SET_ROWS && t->view_src && t->view_src->op == GGML_OP_NONE &&
               t->src[1]->type == GGML_TYPE_I64;
    }

    void read(ggml_tensor* t) {
        const int layer = std::atoi(t->name + 12);
        // kq_soft_max <- (scale, tanh ...) <- MUL_MAT(K, Q): K's owner is the cache
        ggml_tensor* s = t->src[0];
        while (s->op != GGML_OP_MUL_MAT) s = s->src[0];
        const ggml_tensor* keys = s->src[0]->view_src ? s->src[0]->view_src : s->src[0];
        const bool stored = cells_of.count(keys->name) != 0;
        // an encoder's: column i is token i of the batch
        const bool of_batch = cells_of.empty() && keys->op != GGML_OP_NONE && t->ne[0] == static_cast<int64_t>(n);
        if (!stored && !of_batch) return; // nothing of ours to compare it with
        std::vector<int64_t> cells(n);
        std::iota(cells.begin(), cells.end(), int64_t{0});
        if (stored) cells = cells_of.at(keys->name);
        auto& positions = position_of[layer];
        positions.resize(size_t(t->ne[0]) > positions.size() ? size_t(t->ne[0]) : positions.size(), -1);
        for (size_t i = 0; i < n; ++i) positions[size_t(cells[i])] = static_cast<int64_t>(first + i);
        std::vector<float> all(size_t(ggml_nelements(t)));
        ggml_backend_tensor_get(t, all.data(), 0, ggml_nbytes(t));
        const int64_t n_kv = t->ne[0], n_query = t->ne[1], n_head = t->ne[2];
        for (size_t i = 0; i < n; ++i) {
            EngineToken& token = batch[i];
            token.n_columns = static_cast<int64_t>(first + n);
            auto& out = token.layers[layer];
            out.n_head = n_head;
            out.weights.assign(size_t(n_head * token.n_columns), 0);
            for (int64_t h = 0; h < n_head; ++h) {
                const float* row = all.data() + size_t((h * n_query + static_cast<int64_t>(i)) * n_kv);
                for (int64_t c = 0; c < n_kv; ++c) {
                    const int64_t p = positions[size_t(c)];
                    if (p < 0 || p >= token.n_columns) {
                        out.padding = std::max(out.padding, std::fabs(row[c]));
                    } else {
                        out.weights[size_t(h * token.n_columns + p)] = row[c];
                    }
                }
            }
        }
    }
};

} // namespace

std::string engine_rows(const SessionOptions& o, const std::vector<int32_t>& tokens, size_t n_prompt,
                        const std::function<bool(size_t)>& want, const EngineCallback& callback) {
    llama_model_params mp = llama_model_default_params();
    mp.n_gpu_layers = o.n_gpu_layers;
    llama_model_ptr model(llama_model_load_from_file(o.model_path.c_str(), mp));
    if (!model) return "cannot load " + o.model_path;
    Reader reader;
    llama_context_params p = llama_context_default_params();
    p.n_ctx = static_cast<uint32_t>(o.n_ctx);
    p.n_batch = p.n_ubatch = static_cast<uint32_t>(o.only_read ? o.n_ctx : std::min(o.n_batch, o.n_ctx));
    p.n_seq_max = 1;
    if (o.n_threads > 0) p.n_threads = p.n_threads_batch = o.n_threads;
    p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    p.swa_full = false;
    for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0, DType::q4_1, DType::q5_0,
                             DType::q5_1, DType::iq4_nl}) {
        if (o.cache_type_k == dtype_name(type)) p.type_k = static_cast<ggml_type>(type);
        if (o.cache_type_v == dtype_name(type)) p.type_v = static_cast<ggml_type>(type);
    }
    p.cb_eval = Reader::eval;
    p.cb_eval_user_data = &reader;
    llama_context_ptr context(llama_init_from_model(model.get(), p));
    if (!context) return "cannot make a context";
    for (size_t at = 0; at < tokens.size();) {
        const size_t n = at < n_prompt ? std::min<size_t>(p.n_batch, n_prompt - at) : 1;
        reader.first = at;
        reader.n = n;
        reader.batch.assign(n, {});
        llama_batch batch = llama_batch_get_one(const_cast<int32_t*>(tokens.data() + at), static_cast<int32_t>(n));
        const bool encodes = llama_model_has_encoder(model.get());
        if ((encodes ? llama_encode : llama_decode)(context.get(), batch) != 0)
            return "decode failed at " + std::to_string(at);
        for (size_t i = 0; i < n; ++i) {
            if (want(at + i)) callback(at + i, reader.batch[i]);
        }
        at += n;
    }
    return {};
}

std::vector<int32_t> prompt_tokens(Session& session, size_t n) {
    const std::string passage =
        "The lighthouse keeper wrote every evening in a leather book. On Monday the sea was calm and nine "
        "ships passed. "
        "On Tuesday a storm broke the lamp, and he mended it with wire and a piece of his own window. "
        "\"Light,\" he wrote, \"is a promise: 1, 2, 3 flashes and then the dark.\" def promise(n): return [i "
        "* i for i in "
        "range(n)] # nobody on the ships ever knew his name, and he liked it that way.\n";
    std::vector<int32_t> tokens;
    bool first = true;
    while (tokens.size() < n) {
        auto part = session.tokenize(passage, first, false);
        if (!part || part->empty()) break;
        tokens.insert(tokens.end(), part->begin(), part->end());
        first = false;
    }
    tokens.resize(n, 0);
    return tokens;
}

RowsDifference compare_with_engine(const SessionOptions& options, const std::vector<int32_t>& given, int n_predict,
                                   const std::function<bool(size_t)>& want) {
    RowsDifference d;
    auto opened = Session::open(options);
    if (!opened) {
        d.error = opened.error().message;
        return d;
    }
    Session& session = **opened;
    const std::vector<int32_t>& prompt = given;
    std::vector<int32_t> tokens = prompt;
    std::vector<Frame> frames;
    std::vector<std::vector<float>> means;
    GenerateOptions go;
    go.n_predict = n_predict;
    go.ignore_eos = true;
    go.sampling.seed = 42;
    auto result = session.generate(prompt, go,
                                   [&](CapturedFrame&& f) -> Result<void> {
                                       if (f.frame.kind == FrameKind::generated) tokens.push_back(f.frame.token);
                                       frames.push_back(std::move(f.frame));
                                       means.push_back(std::move(f.mean));
                                       return {};
                                   },
                                   {});
    if (!result) {
        d.error = result.error().message;
        return d;
    }
    const Geometry& g = session.geometry();
    std::set<std::pair<int, int>> pairs;
    for (const Frame& f : frames) {
        if (f.verdict != verdict_ok) ++d.not_ok;
        for (const Witness& w : f.witnesses) {
            pairs.insert({w.layer, w.head});
            d.max_witness = std::max(d.max_witness, static_cast<double>(w.error) / static_cast<double>(w.tolerance));
        }
    }
    d.witnessed = static_cast<int64_t>(pairs.size());
    d.pairs = g.n_rows();
    if (options.flash_attention == FlashAttention::on) return d;

    std::vector<int32_t> positions(frames.size());
    for (size_t i = 0; i < frames.size(); ++i) positions[i] = frames[i].position;
    d.error = engine_rows(options, tokens, prompt.size(), want, [&](size_t index, const EngineToken& engine) {
        ++d.tokens;
        const Frame& f = frames[index];
        int64_t n = static_cast<int64_t>(index) + 1; // more where it sees later ones
        for (const Ranges& seen : f.visible) n = std::max(n, seen.empty() ? 0 : seen.back().end);
        std::vector<double> mean(static_cast<size_t>(n), 0.0);
        for (int32_t l = 0; l < g.n_layer(); ++l) {
            const LayerInfo& info = g.layers[size_t(l)];
            if (!info.captured()) continue;
            const auto found = engine.layers.find(info.layer);
            if (found == engine.layers.end()) {
                d.error = "the engine has no rows of layer " + std::to_string(info.layer);
                return;
            }
            const auto& theirs = found->second;
            std::vector<KeyBlock> keys;
            for (int64_t j = 0; j < n; ++j) {
                keys.push_back({frames[size_t(j)].k.data() + g.k_offset(info.k_layer), j, 1, info.k_bytes()});
            }
            RowsRequest r;
            r.layer = &info;
            r.q = f.q.data() + g.q_offset(l);
            r.keys = keys;
            r.visible = f.visible[size_t(info.mask_group)];
            r.n_columns = n;
            r.position = f.position;
            r.batched = f.batched;
            r.positions = std::span(positions).first(size_t(n));
            r.head_end = info.n_head;
            std::vector<float> rows(size_t(info.n_head * n));
            if (auto ok = attention_rows(r, rows); !ok) {
                d.error = ok.error().message;
                return;
            }
            d.max_padding = std::max(d.max_padding, static_cast<double>(theirs.padding));
            for (int32_t h = 0; h < info.n_head; ++h) {
                ++d.rows;
                double sum = 0;
                const float* row = theirs.weights.data() + h * engine.n_columns;
                for (int64_t j = 0; j < n; ++j) {
                    const auto ours = static_cast<double>(rows[size_t(h * n + j)]);
                    mean[size_t(j)] += ours / static_cast<double>(g.n_rows());
                    sum += ours;
                    d.max_difference = std::max(d.max_difference, std::fabs(ours - static_cast<double>(row[j])));
                }
                for (int64_t j = n; j < engine.n_columns; ++j)
                    d.max_padding = std::max(d.max_padding, static_cast<double>(std::fabs(row[j])));
                if (info.sinks.empty()) d.max_sum_error = std::max(d.max_sum_error, std::fabs(sum - 1));
            }
            d.max_column = std::max(d.max_column, n);
        }
        const std::vector<float>& by_engine = means[index];
        if (by_engine.empty()) return;
        ++d.means;
        for (size_t j = 0; j <= index; ++j)
            d.max_mean = std::max(d.max_mean, std::fabs(static_cast<double>(by_engine[j]) - mean[j]));
    });
    return d;
}

} // namespace attnscope::test
