// Several sequences in one cache, decoded together, as servers do it: each comes out as if it were alone.
#include "capture/capture.h"
#include "models/model_make.h"
#include "support/temp_dir.h"

#include <attnscope/rows.h>

#include <gtest/gtest.h>
#include <llama-cpp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <utility>

using namespace attnscope;
using namespace attnscope::test;

namespace {

struct Way {
    bool unified;
    capture::Options::WayIn way_in;
};

// Reads the engine's own rows: by layer, one a token of the graphs in their order, (n_head, n_kv).
struct EngineRows {
    struct Row {
        int64_t n_kv = 0;
        std::vector<float> weights;
    };
    std::map<int, std::vector<Row>> layers;
    const capture::Capture* capture = nullptr; // asked and told, too, where it comes in by the callback

    static bool eval(ggml_tensor* t, bool ask, void* data) {
        auto& self = *static_cast<EngineRows*>(data);
        const bool rows = std::strncmp(t->name, "kq_soft_max-", 12) == 0;
        const ggml_backend_sched_eval_callback inner = self.capture->callback();
        if (ask) {
            const bool wanted = inner && inner(t, true, self.capture->callback_data());
            if (wanted) self.wanted = t;
            return wanted || rows;
        }
        if (rows) self.read(t);
        if (inner && self.wanted == t) return inner(t, false, self.capture->callback_data());
        return true;
    }
    void read(const ggml_tensor* t) { // (n_kv, tokens of a stream, n_head, streams)
        std::vector<float> all(size_t(ggml_nelements(t)));
        ggml_backend_tensor_get(t, all.data(), 0, ggml_nbytes(t));
        const auto n_kv = size_t(t->ne[0]), n = size_t(t->ne[1]), n_head = size_t(t->ne[2]);
        for (size_t i = 0; i < n * size_t(t->ne[3]); ++i) {
            Row row{t->ne[0], {}};
            for (size_t h = 0; h < n_head; ++h) {
                const auto from = all.begin() + static_cast<ptrdiff_t>(((i / n * n_head + h) * n + i % n) * n_kv);
                row.weights.insert(row.weights.end(), from, from + static_cast<ptrdiff_t>(n_kv));
            }
            layers[std::atoi(t->name + 12)].push_back(std::move(row));
        }
    }
    const ggml_tensor* wanted = nullptr;
};

class Sequences : public testing::TestWithParam<Way> {
protected:
    void start(bool flash) {
        const std::string path = dir_.file("model.gguf");
        ASSERT_TRUE(models::make_model(models::ModelShape{}, path));
        llama_model_params mp = llama_model_default_params();
        ggml_backend_dev_t none[] = {nullptr};
        mp.devices = none;
        model_.reset(llama_model_load_from_file(path.c_str(), mp));
        ASSERT_TRUE(model_);
        capture::Options options;
        options.way_in = GetParam().way_in;
        capture_ = capture::Capture::make(
            options,
            [this](CapturedFrame&& f) -> Result<void> {
                frames_.push_back(f.frame);
                capture_->give_back(std::move(f.frame)); // later frames are in its memory
                return {};
            },
            [this](Media&& m) -> Result<void> {
                for (const Frame& f : frames_) EXPECT_FALSE(f.sequence == m.sequence && f.index >= m.begin);
                media_.push_back(std::move(m));
                return {};
            });
        engine_.capture = capture_.get();
        llama_context_params cp = llama_context_default_params();
        cp.n_ctx = 1024;
        cp.n_batch = 64;
        cp.n_ubatch = 16; // a decode is several graphs
        cp.n_seq_max = 4;
        cp.n_threads = cp.n_threads_batch = 2;
        cp.kv_unified = GetParam().unified;
        cp.flash_attn_type = flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
        cp.cb_eval = flash ? capture_->callback() : EngineRows::eval;
        cp.cb_eval_user_data = flash ? capture_->callback_data() : &engine_;
        context_.reset(llama_init_from_model(model_.get(), cp));
        ASSERT_TRUE(context_);
        // What is proven of a token is chosen among the layers that an earlier graph had.
        decode({{3, 0}});
        llama_memory_clear(llama_get_memory(context_.get()), true);
        capture_->forget();
        frames_.clear(), engine_.layers.clear(), cells_.clear(), ids_.clear();
        next_cell_ = 0;
    }
    struct Token {
        int32_t id;
        int64_t sequence;
    };
    void decode(const std::vector<Token>& tokens, std::vector<capture::MediaTokens> media = {}) {
        llama_batch batch = llama_batch_init(static_cast<int32_t>(tokens.size()), 0, 1);
        std::vector<int32_t> ids;
        std::vector<int64_t> sequences;
        for (const Token& t : tokens) {
            const auto i = size_t(batch.n_tokens++);
            std::vector<int64_t>& cells = cells_[t.sequence];
            batch.token[i] = t.id;
            batch.pos[i] = static_cast<int32_t>(cells.size());
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = static_cast<llama_seq_id>(t.sequence);
            batch.logits[i] = 1;
            // The engine takes cells in turn: of the one cache, or of the sequence's own.
            cells.push_back(GetParam().unified ? next_cell_++ : static_cast<int64_t>(cells.size()));
            ids.push_back(t.id);
            sequences.push_back(t.sequence);
            ids_[t.sequence].push_back(t.id);
        }
        capture::Capture::Decode scope(*capture_, {.ids = ids, .sequences = sequences, .media = media});
        const int status = llama_decode(context_.get(), batch);
        llama_batch_free(batch);
        ASSERT_EQ(status, 0);
        const Result<void> r = scope.end(true);
        ASSERT_TRUE(r) << r.error().message;
    }
    // Sequence `to` begins with the first `n` tokens of `from`: all of them, where each has a stream.
    void share(int64_t from, int64_t to, size_t n) {
        llama_memory_seq_cp(llama_get_memory(context_.get()), static_cast<llama_seq_id>(from),
                            static_cast<llama_seq_id>(to), -1,
                            n == cells_[from].size() ? -1 : static_cast<llama_pos>(n));
        const auto end = static_cast<ptrdiff_t>(n);
        cells_[to].assign(cells_[from].begin(), cells_[from].begin() + end);
        ids_[to].assign(ids_[from].begin(), ids_[from].begin() + end);
        parent_[to] = {from, n};
        capture_->share({.from = from, .to = to, .n = static_cast<int64_t>(n)});
    }
    const Frame* frame(int64_t sequence, int64_t column) const {
        const auto parent = parent_.find(sequence);
        if (parent != parent_.end() && size_t(column) < parent->second.second)
            return frame(parent->second.first, column);
        for (const Frame& f : frames_) {
            if (f.sequence == sequence && f.index == column) return &f;
        }
        return nullptr;
    }
    void check_frames() {
        std::map<int64_t, int64_t> next;
        for (const auto& [sequence, parent] : parent_) next[sequence] = static_cast<int64_t>(parent.second);
        for (const Frame& f : frames_) {
            EXPECT_EQ(f.index, next[f.sequence]++) << "sequence " << f.sequence;
            EXPECT_EQ(f.token, ids_[f.sequence][size_t(f.index)]) << "sequence " << f.sequence;
            EXPECT_EQ(f.position, f.index);
            EXPECT_EQ(f.verdict, verdict_ok) << f.sequence << ":" << f.index << " " << verdict_text(f.verdict);
            ASSERT_EQ(f.visible.size(), 1u);
            EXPECT_EQ(f.visible[0], (Ranges{{0, f.index + 1}})) << f.sequence << ":" << f.index;
        }
        for (const auto& [sequence, ids] : ids_) EXPECT_EQ(next[sequence], static_cast<int64_t>(ids.size()));
    }
    // Every row of every frame against the engine's: the sequence's own cells in order of its columns, and nothing elsewhere.
    void check_rows() {
        const Geometry& g = capture_->geometry();
        double worst = 0, elsewhere = 0;
        int64_t n_rows = 0;
        for (size_t i = 0; i < frames_.size(); ++i) {
            const Frame& f = frames_[i];
            const auto n = static_cast<size_t>(f.index + 1);
            for (int32_t l = 0; l < g.n_layer(); ++l) {
                const LayerInfo& layer = g.layers[size_t(l)];
                ASSERT_TRUE(layer.captured()) << layer.absent;
                std::vector<uint8_t> keys;
                for (size_t c = 0; c < n; ++c) {
                    const Frame* of = frame(f.sequence, static_cast<int64_t>(c));
                    ASSERT_TRUE(of);
                    const uint8_t* k = of->k.data() + g.k_offset(l);
                    keys.insert(keys.end(), k, k + layer.k_bytes());
                }
                const KeyBlock block{keys.data(), 0, f.index + 1, layer.k_bytes()};
                RowsRequest request;
                request.layer = &layer;
                request.q = f.q.data() + g.q_offset(l);
                request.keys = {&block, 1};
                request.visible = f.visible[0];
                request.n_columns = f.index + 1;
                request.position = f.position;
                request.head_end = layer.n_head;
                request.batched = f.batched;
                std::vector<float> rows(size_t(layer.n_head) * n);
                ASSERT_TRUE(attention_rows(request, rows));
                const EngineRows::Row& engine = engine_.layers.at(layer.layer).at(i);
                const auto n_kv = size_t(engine.n_kv);
                for (size_t h = 0; h < size_t(layer.n_head); ++h, ++n_rows) {
                    std::vector<float> weights(engine.weights.begin() + static_cast<ptrdiff_t>(h * n_kv),
                                               engine.weights.begin() + static_cast<ptrdiff_t>((h + 1) * n_kv));
                    for (size_t c = 0; c < n; ++c) {
                        float& w = weights.at(size_t(cells_[f.sequence][c]));
                        worst = std::max(worst, std::fabs(double(w) - double(rows[h * n + c])));
                        w = 0;
                    }
                    for (const float w : weights) elsewhere = std::max(elsewhere, double(w));
                }
            }
        }
        EXPECT_GT(n_rows, 1000);
        EXPECT_LT(worst, 1e-6);
        EXPECT_EQ(elsewhere, 0.0);
        RecordProperty("rows", static_cast<int>(n_rows));
    }
    // Two prompts at once, then tokens of both in turn while a third begins, and a fourth that goes on where the first one is.
    void serve() {
        std::vector<Token> both;
        for (int32_t i = 0; i < 21; ++i) both.push_back({10 + i, 0});
        for (int32_t i = 0; i < 13; ++i) both.push_back({i < 5 ? 10 + i : 60 + i, 1}); // they begin alike
        decode(both);
        decode({{40, 1}, {41, 0}});
        std::vector<Token> mixed = {{42, 0}};
        for (int32_t i = 0; i < 19; ++i) mixed.push_back({100 + 2 * i, 2});
        mixed.push_back({43, 1});
        decode(mixed);
        decode({{44, 1}});
        share(0, 3, GetParam().unified ? 11 : cells_[0].size());
        decode({{45, 0}, {46, 1}, {47, 2}, {48, 3}});
        std::vector<Token> last;
        for (int32_t i = 0; i < 9; ++i) last.push_back({120 + i, i % 2 == 0 ? 3 : 0});
        decode(last);
        decode({{49, 2}});
        const Result<void> r = capture_->flush();
        ASSERT_TRUE(r) << r.error().message;
    }

    TempDir dir_;
    EngineRows engine_;
    llama_model_ptr model_;
    std::unique_ptr<capture::Capture> capture_; // the context calls it
    llama_context_ptr context_;
    std::vector<Frame> frames_;
    std::vector<Media> media_;
    std::map<int64_t, std::vector<int64_t>> cells_; // of each sequence's columns
    std::map<int64_t, std::vector<int32_t>> ids_;
    std::map<int64_t, std::pair<int64_t, size_t>> parent_;
    int64_t next_cell_ = 0;
};

// Its memory may have held the queries of another frame.
TEST_P(Sequences, AFrameWhoseQueriesAreNotWantedHasNone) {
    start(true);
    const auto odd = [](int64_t, int64_t index) { return index % 2 == 1; };
    serve();
    const std::vector<Frame> all = std::exchange(frames_, {});
    llama_memory_clear(llama_get_memory(context_.get()), true);
    capture_->forget();
    capture_->want({odd, {}});
    engine_.layers.clear(), cells_.clear(), ids_.clear(), parent_.clear();
    next_cell_ = 0;
    serve();
    ASSERT_EQ(frames_.size(), all.size());
    for (size_t i = 0; i < all.size(); ++i) {
        EXPECT_EQ(frames_[i].q, odd(0, all[i].index) ? all[i].q : std::vector<uint8_t>()) << i;
        EXPECT_EQ(frames_[i].k, all[i].k) << i;
    }
}

TEST_P(Sequences, RowsOfEachAreTheEnginesOwn) {
    start(false);
    if (HasFatalFailure()) return;
    serve();
    if (HasFatalFailure()) return;
    check_frames();
    check_rows();
}

TEST_P(Sequences, WithFlashAttentionEachFrameIsProven) {
    start(true);
    if (HasFatalFailure()) return;
    serve();
    if (HasFatalFailure()) return;
    check_frames();
}

TEST_P(Sequences, OneIsForgottenAndTheOthersGoOn) {
    start(true);
    if (HasFatalFailure()) return;
    decode({{10, 0}, {11, 0}, {12, 0}, {20, 1}, {21, 1}});
    ASSERT_TRUE(llama_memory_seq_rm(llama_get_memory(context_.get()), 0, 1, -1));
    capture_->forget(0, 1);
    // Its cells are free: the engine takes them again, for whoever comes.
    const std::vector<Frame> before = std::exchange(frames_, {});
    EXPECT_EQ(before.size(), 5u);
    cells_[0].resize(1), ids_[0].resize(1);
    decode({{22, 1}, {13, 0}, {23, 1}});
    ASSERT_TRUE(capture_->flush());
    ASSERT_EQ(frames_.size(), 3u);
    std::map<int64_t, std::vector<int64_t>> seen;
    for (const Frame& f : frames_) {
        seen[f.sequence].push_back(f.index);
        EXPECT_EQ(f.verdict, verdict_ok) << verdict_text(f.verdict);
        EXPECT_EQ(f.visible[0], (Ranges{{0, f.index + 1}}));
    }
    EXPECT_EQ(seen[0], (std::vector<int64_t>{1}));
    EXPECT_EQ(seen[1], (std::vector<int64_t>{2, 3}));
}

TEST_P(Sequences, MediaGetTheColumnsOfTheirPatches) {
    start(true);
    if (HasFatalFailure()) return;
    decode({{10, 0}, {11, 0}, {12, 1}});
    Media picture;
    picture.width = 640;
    // Tokens of the other sequence do not count.
    decode({{13, 1}, {14, 0}, {15, 1}, {16, 0}, {17, 0}}, {{3, 2, picture}});
    decode({{18, 0}});
    ASSERT_EQ(media_.size(), 1u);
    EXPECT_EQ(media_[0].sequence, 0);
    EXPECT_EQ(media_[0].begin, 3);
    EXPECT_EQ(media_[0].end, 5);
    EXPECT_EQ(media_[0].width, 640);
}

INSTANTIATE_TEST_SUITE_P(Ways, Sequences,
                         testing::Values(Way{true, capture::Options::WayIn::interposed},
                                         Way{false, capture::Options::WayIn::interposed},
                                         Way{true, capture::Options::WayIn::callback},
                                         Way{false, capture::Options::WayIn::callback}),
                         [](const auto& of) {
                             return std::string(of.param.unified ? "unified" : "streams") +
                                    (of.param.way_in == capture::Options::WayIn::callback ? "_callback" : "");
                         });

} // namespace
