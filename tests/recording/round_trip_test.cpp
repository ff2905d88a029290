#include "support/temp_dir.h"
#include "synthetic.h"

#include <attnscope/rows.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sqlite3.h>

#include <cstring>
#include <filesystem>
#include <functional>

using namespace attnscope;
using namespace attnscope::test;

namespace {

void expect_same_geometry(const Geometry& a, const Geometry& b) {
    ASSERT_EQ(a.n_layer(), b.n_layer());
    EXPECT_EQ(a.n_mask_groups, b.n_mask_groups);
    for (size_t i = 0; i < a.layers.size(); ++i) {
        const LayerInfo &x = a.layers[i], &y = b.layers[i];
        EXPECT_EQ(x.layer, y.layer);
        EXPECT_EQ(x.n_head, y.n_head);
        EXPECT_EQ(x.n_head_kv, y.n_head_kv);
        EXPECT_EQ(x.head_dim, y.head_dim);
        EXPECT_EQ(x.head_dim_v, y.head_dim_v);
        EXPECT_EQ(x.q_type, y.q_type);
        EXPECT_EQ(x.k_type, y.k_type);
        EXPECT_EQ(x.key_source, y.key_source);
        EXPECT_EQ(x.k_layer, y.k_layer);
        EXPECT_EQ(x.mask_group, y.mask_group);
        EXPECT_EQ(x.scale, y.scale);
        EXPECT_EQ(x.softcap, y.softcap);
        EXPECT_EQ(x.post_scale, y.post_scale);
        EXPECT_EQ(x.on_device, y.on_device);
        EXPECT_EQ(x.max_bias, y.max_bias);
        EXPECT_EQ(x.sinks, y.sinks);
        EXPECT_EQ(x.bias, y.bias);
        EXPECT_EQ(x.bias_reach, y.bias_reach);
        EXPECT_EQ(x.absent, y.absent);
    }
}

void expect_frames(Recording& recording, const Geometry& geometry, int64_t n) {
    ASSERT_EQ(recording.info().n_frames, n);
    for (int64_t i = 0; i < n; ++i) {
        auto frame = recording.frame(i, true, true);
        ASSERT_TRUE(frame) << frame.error().message;
        ASSERT_TRUE(same_frame(*frame, make_frame(geometry, i))) << "frame " << i;
    }
    auto headers = recording.frames(0, n);
    ASSERT_TRUE(headers) << headers.error().message;
    for (int64_t i = 0; i < n; ++i) ASSERT_TRUE(same_header((*headers)[size_t(i)], make_frame(geometry, i)));
    for (int32_t layer = 0; layer < geometry.n_layer(); ++layer) {
        auto keys = recording.keys(layer, n / 3, n);
        if (!geometry.owns_k(layer)) {
            EXPECT_FALSE(keys);
            continue;
        }
        ASSERT_TRUE(keys) << keys.error().message;
        std::vector<uint8_t> expected;
        for (int64_t i = n / 3; i < n; ++i) {
            const Frame frame = make_frame(geometry, i);
            const auto from = frame.k.begin() + static_cast<ptrdiff_t>(geometry.k_offset(layer));
            expected.insert(expected.end(), from,
                            from + static_cast<ptrdiff_t>(geometry.layers[size_t(layer)].k_bytes()));
        }
        EXPECT_EQ(*keys, expected);
    }
}

class RoundTrip : public ::testing::TestWithParam<std::pair<std::string, Geometry>> {};

} // namespace

TEST_P(RoundTrip, KeepsEveryBitOfEveryFrame) {
    const TempDir dir;
    const Geometry& geometry = GetParam().second;
    for (const int64_t n : {0, 1, 63, 64, 65, 200}) {
        const std::string path = dir.file(std::to_string(n).append(".attn"));
        write_recording(path, geometry, n);
        auto recording = Recording::open(path);
        ASSERT_TRUE(recording) << recording.error().message;
        EXPECT_TRUE((*recording)->info().complete);
        expect_same_geometry((*recording)->info().geometry, geometry);
        expect_frames(**recording, geometry, n);
        auto checked = (*recording)->check();
        EXPECT_TRUE(checked) << checked.error().message;
    }
    // one file each, nothing beside it
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 6);
}

INSTANTIATE_TEST_SUITE_P(
    Geometries, RoundTrip,
    ::testing::Values(std::pair{"uniform", uniform_geometry({})}, std::pair{"mixed", mixed_geometry()},
                      std::pair{"f32", uniform_geometry({.q_type = DType::f32, .k_type = DType::f32})},
                      std::pair{"bf16", uniform_geometry({.n_layer = 3, .head_dim = 80, .k_type = DType::bf16})},
                      std::pair{"q4_0", uniform_geometry({.n_layer = 5, .n_head_kv = 1, .k_type = DType::q4_0})},
                      std::pair{"one", uniform_geometry({.n_layer = 1, .n_head = 1, .n_head_kv = 1, .head_dim = 8})},
                      std::pair{"large",
                                uniform_geometry({.n_layer = 2, .n_head = 64, .n_head_kv = 8, .head_dim = 256})}),
    [](const auto& param) { return param.param.first; });

TEST(Recording, KeepsWhoWroteWhat) {
    const TempDir dir;
    write_recording(dir.file("a.attn"), mixed_geometry(), 100);
    auto recording = Recording::open(dir.file("a.attn"));
    ASSERT_TRUE(recording) << recording.error().message;
    const RecordingInfo& info = (*recording)->info();
    const RecordingInfo expected = make_info();
    EXPECT_EQ(info.format_version, 2);
    EXPECT_EQ(info.created, expected.created);
    EXPECT_EQ(info.writer, expected.writer);
    EXPECT_EQ(info.engine, expected.engine);
    EXPECT_EQ(info.entry, expected.entry);
    EXPECT_EQ(info.model.path, expected.model.path);
    EXPECT_EQ(info.model.file_bytes, expected.model.file_bytes);
    EXPECT_EQ(info.model.n_vocab, expected.model.n_vocab);
    EXPECT_EQ(info.settings_json, expected.settings_json);
    EXPECT_EQ(info.notice, "");
    EXPECT_EQ((*recording)->token_text(3), " p3");
    EXPECT_EQ((*recording)->token_text(7), piece_of(7)); // half a character
    EXPECT_EQ((*recording)->token_text(12345), "");
    const auto texts = nlohmann::json::parse(info.text_json);
    EXPECT_EQ(texts.at("3"), " p3");
    EXPECT_TRUE(texts.contains("7"));
}

TEST(Recording, KeepsRulesOfEncoders) {
    const TempDir dir;
    Geometry geometry = uniform_geometry({.n_layer = 3});
    geometry.n_mask_groups = 3; // a sparse layer has one of its own
    geometry.layers[1].key_source = KeySource::graph;
    geometry.layers[1].mask_group = 1;
    geometry.layers[2].bias = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, -1e9f};
    geometry.layers[2].bias_reach = 1;
    geometry.layers[2].mask_group = 2;
    write_recording(dir.file("a.attn"), geometry, 30);
    auto recording = Recording::open(dir.file("a.attn"));
    ASSERT_TRUE(recording) << recording.error().message;
    expect_same_geometry((*recording)->info().geometry, geometry);
    EXPECT_TRUE((*recording)->check());
    const std::vector<int32_t> plain{0, 1}, biased{2};
    EXPECT_TRUE((*recording)->rows(25, {.layers = plain}));
    const auto rows = (*recording)->rows(25, {.layers = biased});
    ASSERT_TRUE(rows) << rows.error().message;
    EXPECT_EQ(rows->n_columns, 26);

    for (const auto& change : std::vector<std::function<void(LayerInfo&)>>{
             [](LayerInfo& l) { l.bias_reach = 2; }, [](LayerInfo& l) { l.bias.pop_back(); },
             [](LayerInfo& l) { l.key_source = KeySource::sequence; },
             [](LayerInfo& l) { l.key_source = KeySource(7); }}) {
        Geometry wrong = geometry;
        change(wrong.layers[2]);
        auto writer = RecordingWriter::create(dir.file("b.attn"), make_info(), {.overwrite = true});
        ASSERT_TRUE(writer);
        EXPECT_FALSE((*writer)->begin(wrong));
    }
}

// Queries in float32 that are numbers of f16, as of tokens decoded alone, lie in half the bytes; nothing is lost of others.
TEST(Recording, KeepsQueriesThatAreOfHalfPrecisionInHalf) {
    const TempDir dir;
    Geometry geometry = uniform_geometry({.n_layer = 2});
    for (LayerInfo& l : geometry.layers) l.q_type = DType::f32;
    geometry.layers[1].k_type = DType::f32; // of this one all bytes are kept
    const size_t half = geometry.layers[0].q_bytes() / 2;
    auto writer = RecordingWriter::create(dir.file("a.attn"), make_info(), {});
    ASSERT_TRUE(writer) << writer.error().message;
    ASSERT_TRUE((*writer)->begin(geometry));
    std::vector<std::vector<uint8_t>> queries;
    for (int64_t i = 0; i < 4; ++i) {
        Frame f = make_frame(geometry, i);
        f.q.resize(geometry.q_bytes());
        std::vector<float> q(geometry.q_bytes() / sizeof(float));
        for (size_t j = 0; j < q.size(); ++j)
            q[j] = i < 2 ? 0.1f * float(j) + float(i) : 0.25f * float(j % 64) - float(i);
        std::memcpy(f.q.data(), q.data(), f.q.size());
        queries.push_back(f.q);
        ASSERT_TRUE((*writer)->push(std::move(f)));
    }
    ASSERT_TRUE((*writer)->close());
    auto recording = Recording::open(dir.file("a.attn"));
    ASSERT_TRUE(recording) << recording.error().message;
    expect_same_geometry((*recording)->info().geometry, geometry);
    EXPECT_TRUE((*recording)->check());
    for (int64_t i = 0; i < 4; ++i) {
        const auto frame = (*recording)->frame(i, true);
        ASSERT_TRUE(frame) << frame.error().message;
        EXPECT_EQ(frame->q, queries[size_t(i)]) << i;
    }
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open_v2(dir.file("a.attn").c_str(), &db, SQLITE_OPEN_READONLY, nullptr), SQLITE_OK);
    sqlite3_stmt* sizes = nullptr;
    ASSERT_EQ(sqlite3_prepare_v2(db, "SELECT length(q) FROM frame ORDER BY id", -1, &sizes, nullptr), SQLITE_OK);
    for (int64_t i = 0; i < 4; ++i) {
        ASSERT_EQ(sqlite3_step(sizes), SQLITE_ROW);
        EXPECT_EQ(size_t(sqlite3_column_int64(sizes, 0)), geometry.q_bytes() - (i < 2 ? 0 : half)) << i;
    }
    sqlite3_finalize(sizes);
    sqlite3_close(db);
}

TEST(Recording, RowsAreThoseOfTheMathematics) {
    const TempDir dir;
    const Geometry geometry = mixed_geometry();
    const int64_t n = 150;
    write_recording(dir.file("a.attn"), geometry, n);
    auto recording = Recording::open(dir.file("a.attn"));
    ASSERT_TRUE(recording) << recording.error().message;
    std::vector<Frame> frames;
    std::vector<int32_t> positions;
    for (int64_t i = 0; i < n; ++i) {
        frames.push_back(make_frame(geometry, i));
        positions.push_back(frames.back().position);
    }
    for (const int64_t index : {int64_t(0), int64_t(63), int64_t(64), n - 1}) {
        auto all = (*recording)->rows(index);
        ASSERT_TRUE(all) << all.error().message;
        ASSERT_EQ(all->n_columns, index + 1);
        ASSERT_EQ(all->layers.size(), size_t(geometry.n_layer()));
        ASSERT_EQ(all->heads.size(), size_t(geometry.max_heads()));
        for (int32_t l = 0; l < geometry.n_layer(); ++l) {
            const LayerInfo& layer = geometry.layers[size_t(l)];
            std::vector<float> expected(size_t(geometry.max_heads()) * size_t(index + 1));
            if (layer.captured()) {
                std::vector<KeyBlock> keys;
                for (int64_t j = 0; j <= index; ++j) {
                    keys.push_back({frames[size_t(j)].k.data() + geometry.k_offset(layer.k_layer), j, 1, 0});
                }
                RowsRequest request;
                request.layer = &layer;
                request.q = frames[size_t(index)].q.data() + geometry.q_offset(l);
                request.keys = keys;
                request.visible = frames[size_t(index)].visible[size_t(layer.mask_group)];
                request.n_columns = index + 1;
                request.position = frames[size_t(index)].position;
                request.positions = positions;
                request.head_end = layer.n_head;
                ASSERT_TRUE(attention_rows(request,
                                           std::span<float>(expected).first(size_t(layer.n_head) * size_t(index + 1))));
            }
            const auto from = all->weights.begin() + ptrdiff_t(size_t(l) * expected.size());
            EXPECT_TRUE(std::equal(expected.begin(), expected.end(), from)) << "frame " << index << " layer " << l;
        }
        const std::vector<int32_t> layers{5, 2};
        const std::vector<int32_t> heads{5, 1, 2};
        auto some = (*recording)->rows(index, {layers, heads});
        ASSERT_TRUE(some) << some.error().message;
        const auto columns = size_t(index + 1);
        for (size_t l = 0; l < 2; ++l) {
            for (size_t h = 0; h < 3; ++h) {
                const float* a = some->weights.data() + (l * 3 + h) * columns;
                const float* b =
                    all->weights.data() + (size_t(layers[l]) * all->heads.size() + size_t(heads[h])) * columns;
                EXPECT_TRUE(std::equal(a, a + columns, b));
            }
        }
    }
    auto without = (*recording)->rows(1); // recorded without its queries
    ASSERT_FALSE(without);
    EXPECT_EQ(without.error().kind, ErrorKind::not_found);
    EXPECT_FALSE((*recording)->rows(n));
    EXPECT_FALSE((*recording)->rows(-1));
    const std::vector<int32_t> bad{99};
    EXPECT_FALSE((*recording)->rows(0, {bad, {}}));
    EXPECT_FALSE((*recording)->rows(0, {{}, bad}));
}

TEST(Recording, TakesLittleMoreThanItsQueriesAndKeys) {
    const TempDir dir;
    for (const Geometry& geometry : {smollm2_geometry(), qwen_7b_geometry()}) {
        const std::string path = dir.file("s.attn");
        const int64_t n = 500;
        auto writer = RecordingWriter::create(path, make_info(), {.overwrite = true});
        ASSERT_TRUE(writer) << writer.error().message;
        ASSERT_TRUE((*writer)->begin(geometry));
        for (int64_t i = 0; i < n; ++i) {
            Frame frame = make_frame(geometry, i);
            frame.q.resize(geometry.q_bytes());
            ASSERT_TRUE((*writer)->push(std::move(frame)));
        }
        ASSERT_TRUE((*writer)->close());
        const auto data = static_cast<double>(n) * static_cast<double>(geometry.q_bytes() + geometry.k_bytes());
        const double ratio = static_cast<double>(std::filesystem::file_size(path)) / data;
        RecordProperty("ratio", std::to_string(ratio));
        std::printf("file / (Q and K) = %.4f\n", ratio);
        EXPECT_LE(ratio, 1.05);
        EXPECT_GE(ratio, 1.0);
    }
}
