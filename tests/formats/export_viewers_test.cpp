// What `attnscope export --to headvis|bertviz|circuitsvis|attnview` writes, read back as those programs read it: shapes, texts, and
// every weight against the recording's own rows and `attnscope show`.
#include "recording/synthetic.h"
#include "support/shell.h"
#include "support/temp_dir.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>

using namespace attnscope;
using namespace attnscope::test;
using Json = nlohmann::json;

namespace {

// What the program prints; its exit code must be `code`.
std::string run(const std::string& arguments, int code = 0) {
    const Answer answer = shell("'" ATTNSCOPE_BIN "' " + arguments + " 2>/dev/null");
    EXPECT_EQ(answer.code, code) << arguments;
    return answer.output;
}

std::string bytes_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// JSON holds characters: the bytes of one that lies in two tokens become U+FFFD.
std::string shown_text(const std::string& piece) {
    return Json::parse(Json(piece).dump(-1, ' ', false, Json::error_handler_t::replace)).get<std::string>();
}

class ExportViewers : public ::testing::Test {
protected:
    void record(const Geometry& geometry, int64_t n, bool all_queries = true) {
        write_recording(path_, geometry, n, {}, all_queries);
        auto opened = Recording::open(path_);
        ASSERT_TRUE(opened) << opened.error().message;
        recording_ = std::move(*opened);
    }
    // Row of one token, layer and head, as wide as the recording; zeros where there is none.
    std::vector<float> row(int64_t token, int32_t layer, int32_t head) {
        std::vector<float> out(static_cast<size_t>(recording_->info().n_frames), 0.0f);
        const auto rows = recording_->rows(token, {{layer}, {head}});
        if (rows) std::copy(rows->weights.begin(), rows->weights.end(), out.begin());
        return out;
    }
    // The same as the program shows it.
    std::vector<float> shown(int64_t token, int32_t layer, int32_t head) {
        const Json json = Json::parse(
            run(fmt::format("show '{}' --json --values --token {} --layer {} --head {}", path_, token, layer, head)));
        return json["values"].get<std::vector<float>>();
    }
    std::vector<std::string> texts() {
        std::vector<std::string> out;
        for (int64_t i = 0; i < recording_->info().n_frames; ++i)
            out.push_back(shown_text(recording_->token_text(recording_->frame(i)->token)));
        return out;
    }

    TempDir dir_;
    std::string path_ = dir_.file("x.attn");
    std::unique_ptr<Recording> recording_;
};

TEST_F(ExportViewers, BertVizGetsATensorALayer) {
    record(mixed_geometry(), 30);
    const std::string out = dir_.file("x.safetensors");
    run(fmt::format("export '{}' --to bertviz -o '{}'", path_, out), 2); // one layer has six heads, the others four
    run(fmt::format("export '{}' --to bertviz --layer 0,1 --head 0-3 -o '{}'", path_, out), 2); // one has no attention
    constexpr int32_t n_heads = 4;
    run(fmt::format("export '{}' --to bertviz --head 0-3 -o '{}'", path_, out));
    const std::string file = bytes_of(out);
    ASSERT_GT(file.size(), 8u);
    uint64_t n_header = 0;
    std::memcpy(&n_header, file.data(), 8);
    const Json header = Json::parse(file.substr(8, n_header));
    EXPECT_EQ(Json::parse(header["__metadata__"]["tokens"].get<std::string>()).get<std::vector<std::string>>(),
              texts());
    const Geometry& geometry = recording_->info().geometry;
    const auto n = recording_->info().n_frames;
    size_t n_tensors = 0;
    for (int32_t l = 0; l < geometry.n_layer(); ++l) {
        const std::string name = fmt::format("attention.{:03}", l);
        ASSERT_EQ(header.contains(name), geometry.layers[size_t(l)].captured()) << name;
        if (!header.contains(name)) continue;
        ++n_tensors;
        EXPECT_EQ(header[name]["dtype"], "F32");
        EXPECT_EQ(header[name]["shape"], (Json{1, n_heads, n, n}));
        const auto begin = header[name]["data_offsets"][0].get<size_t>();
        std::vector<float> weights(size_t(n_heads * n * n));
        ASSERT_EQ(header[name]["data_offsets"][1].get<size_t>() - begin, weights.size() * sizeof(float));
        ASSERT_LE(8 + n_header + begin + weights.size() * sizeof(float), file.size());
        std::memcpy(weights.data(), file.data() + 8 + n_header + begin, weights.size() * sizeof(float));
        for (int32_t h = 0; h < n_heads; ++h) {
            for (int64_t i = 0; i < n; ++i) {
                const auto from = weights.begin() + (h * n + i) * n;
                ASSERT_EQ(std::vector<float>(from, from + n), row(i, l, h)) << name << " head " << h << " token " << i;
            }
        }
    }
    EXPECT_GT(n_tensors, 2u);
}

// Rows of zeros would be drawn as tokens that look at nothing.
TEST_F(ExportViewers, ATokenWithoutItsQueriesHasNoPlaceInASquare) {
    record(uniform_geometry({.n_layer = 2}), 30, false);
    run(fmt::format("export '{}' --to bertviz -o '{}'", path_, dir_.file("x")), 2);
    for (const char* viewer : {"circuitsvis", "attnview"})
        run(fmt::format("export '{}' --to {} --layer 1 -o '{}'", path_, viewer, dir_.file("x")), 2);
    EXPECT_FALSE(std::filesystem::exists(dir_.file("x")));
}

TEST_F(ExportViewers, CircuitsVisAndAttnviewGetOneLayer) {
    record(uniform_geometry({.n_layer = 3}), 30);
    run(fmt::format("export '{}' --to circuitsvis -o '{}'", path_, dir_.file("all.json")), 2); // which layer?
    for (const char* viewer : {"circuitsvis", "attnview"}) {
        const std::string out = dir_.file(std::string(viewer) + ".json");
        run(fmt::format("export '{}' --to {} --layer 1 -o '{}'", path_, viewer, out));
        const Json json = Json::parse(bytes_of(out));
        EXPECT_EQ(json["tokens"].get<std::vector<std::string>>(), texts());
        ASSERT_EQ(json["attention"].size(), 4u);
        for (int32_t h = 0; h < 4; ++h) {
            ASSERT_EQ(json["attention"][size_t(h)].size(), 30u);
            for (int64_t i = 0; i < 30; ++i) {
                const auto got = json["attention"][size_t(h)][size_t(i)].get<std::vector<double>>();
                const auto expected = row(i, 1, h);
                ASSERT_EQ(got.size(), expected.size());
                for (size_t j = 0; j < got.size(); ++j) // 6 digits are written
                    ASSERT_NEAR(got[j], double(expected[j]), 5.001e-6 * double(expected[j])) << i << " " << j;
            }
        }
        for (const int64_t i : {int64_t(25), int64_t(29)}) {
            const auto got = json["attention"][2][size_t(i)].get<std::vector<double>>();
            const auto expected = shown(i, 1, 2);
            ASSERT_LE(expected.size(), got.size());
            for (size_t j = 0; j < expected.size(); ++j)
                EXPECT_NEAR(got[j], double(expected[j]), 6e-6 * double(expected[j]));
        }
    }
}

TEST_F(ExportViewers, HeadVisGetsItsFolder) {
    record(uniform_geometry({.n_layer = 2}), 600, false); // more than one of its sequences of 512
    const std::filesystem::path out = dir_.path() / "data";
    run(fmt::format("export '{}' --to headvis -o '{}'", path_, out.string()));
    const Json config = Json::parse(bytes_of(out / "config.json")),
               scatter = Json::parse(bytes_of(out / "scatter_data.json"));
    ASSERT_EQ(config["heads"].size(), 8u);
    EXPECT_EQ(config["n_layers"], 2);
    EXPECT_EQ(config["n_heads"], 4);
    ASSERT_EQ(scatter.size(), 8u);
    for (const Json& metric : config["metrics"]) EXPECT_TRUE(scatter[0].contains(metric)) << metric;
    const auto all = texts();
    for (size_t at = 0; at < 8; ++at) {
        const auto layer = config["heads"][at][0].get<int32_t>(), head = config["heads"][at][1].get<int32_t>();
        EXPECT_EQ(scatter[at]["layer"], layer);
        EXPECT_EQ(scatter[at]["head"], head);
        const Json file = Json::parse(bytes_of(out / "heads" / fmt::format("L{}H{}.json", layer, head)));
        ASSERT_EQ(file["sequences"].size(), 2u);
        std::vector<std::vector<std::pair<int64_t, double>>> kept(600); // of each token: column, weight
        for (const Json& sequence : file["sequences"]) {
            const auto first = sequence["sequence_id"].get<int64_t>() * 512,
                       length = sequence["seq_len"].get<int64_t>();
            ASSERT_EQ(length, first == 0 ? 512 : 88);
            for (int64_t i = 0; i < length; ++i) ASSERT_EQ(sequence["tokens"][size_t(i)], all[size_t(first + i)]);
            ASSERT_EQ(sequence["attention_indices"].size(), sequence["attention_values"].size());
            for (size_t k = 0; k < sequence["attention_indices"].size(); ++k) {
                const auto flat = sequence["attention_indices"][k].get<int64_t>();
                kept[size_t(first + flat / length)].emplace_back(first + flat % length,
                                                                 sequence["attention_values"][k].get<double>());
            }
        }
        double self = 0;
        int64_t n = 0;
        for (int64_t i = 0; i < 600; ++i) {
            if (recording_->frame(i, true)->q.empty()) continue;
            const auto weights = row(i, layer, head);
            if (i > 0) {
                self += double(weights[size_t(i)]);
                ++n;
            }
            // the 8 largest of its window from 0.005 on
            std::vector<double> expected;
            for (int64_t j = i / 512 * 512; j <= i; ++j) {
                if (weights[size_t(j)] >= 0.005f) expected.push_back(double(weights[size_t(j)]));
            }
            std::sort(expected.rbegin(), expected.rend());
            expected.resize(std::min<size_t>(expected.size(), 8));
            ASSERT_NEAR(double(kept[size_t(i)].size()), double(expected.size()), 1); // one may lie at the bound
            for (const auto& [j, weight] : kept[size_t(i)])                          // four decimals
                ASSERT_NEAR(weight, double(weights[size_t(j)]), 5.5e-5) << "token " << i << " column " << j;
            if (!expected.empty() && !kept[size_t(i)].empty()) {
                const auto largest = std::max_element(kept[size_t(i)].begin(), kept[size_t(i)].end(),
                                                      [](const auto& a, const auto& b) { return a.second < b.second; });
                ASSERT_NEAR(largest->second, expected[0], 5.5e-5);
            }
        }
        EXPECT_NEAR(scatter[at]["self_attention_score"].get<double>(), self / double(n), 5.5e-5);
    }
    run(fmt::format("export '{}' --to headvis -o '{}'", path_, out.string()), 2); // it is there already
}

} // namespace
