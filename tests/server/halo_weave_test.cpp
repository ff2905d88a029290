// The cycle of Halo Weave: model, tokens, a stream with attention, pruning by input_ids, another stream.
#include "served_model.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <thread>

using namespace attnscope;
using namespace attnscope::test;

namespace {

const char* stream_path = "/api/extra/generate/stream";

Json asking(const Json& ids, int n, Json more = Json::object()) {
    Json body = {{"input_ids", ids},          {"max_length", n},    {"temperature", 0},
                 {"output_attentions", true}, {"request_id", "r1"}, {"ban_eos_token", true}};
    body.update(more);
    return body;
}

std::vector<Json> tokens_of(const std::vector<Json>& events) {
    std::vector<Json> tokens;
    for (const Json& e : events) {
        if (e.value("type", "") == "token") tokens.push_back(e);
    }
    return tokens;
}

// Rows of an answer against the recording's row of the same frame, bit for bit.
void expect_recorded(Recording& recording, const Json& attention, const std::vector<float>& values) {
    const auto rows = recording.rows(attention["index"].get<int64_t>());
    ASSERT_TRUE(rows) << rows.error().message;
    ASSERT_EQ(rows->n_columns, attention["context_length"].get<int64_t>());
    ASSERT_EQ(rows->weights.size(), values.size());
    EXPECT_EQ(std::memcmp(rows->weights.data(), values.data(), values.size() * sizeof(float)), 0);
}

} // namespace

TEST(HaloWeave, TheModelIsDescribed) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    const Json m = served.get("/api/v1/model");
    EXPECT_EQ(m["num_layers"], ServedModel::n_layer);
    EXPECT_EQ(m["num_attention_heads"], ServedModel::n_head);
    EXPECT_EQ(m["num_key_value_heads"], 2);
    EXPECT_EQ(m["embedding_size"], ServedModel::n_embd);
    EXPECT_EQ(m["vocab_size"], ServedModel::n_vocab);
    EXPECT_EQ(m["max_context_length"], 1024);
    EXPECT_EQ(m["max_trained_context"], 4096);
    EXPECT_EQ(m["eos_token_id"], 2);
    EXPECT_GT(m["rope_freq_base"].get<double>(), 1000);
    EXPECT_EQ(m["rope_freq_scale"], 1.0);
    for (const char* key : {"result", "model_name"}) EXPECT_TRUE(m[key].is_string()) << key;
    for (const char* key : {"bos_token_id", "eot_token_id"}) EXPECT_TRUE(m[key].is_number_integer()) << key;
}

TEST(HaloWeave, TextBecomesTokensAndTextAgain) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    const std::string text = "Hello, how are you? \xC3\xA9t\xC3\xA9";
    // The client sends JSON as text/plain, which needs no preflight.
    const auto r = served.client().Post("/api/v1/tokenize",
                                        Json({{"text", text}, {"add_special_tokens", false}}).dump(), "text/plain");
    ASSERT_TRUE(r && r->status == 200);
    const Json tokens = Json::parse(r->body);
    ASSERT_EQ(tokens["token_count"], tokens["token_ids"].size());
    ASSERT_EQ(tokens["tokens"].size(), tokens["token_ids"].size());
    EXPECT_GT(tokens["token_count"].get<int>(), 5);
    for (size_t i = 0; i < tokens["tokens"].size(); ++i)
        EXPECT_EQ(tokens["tokens"][i]["token_id"], tokens["token_ids"][i]);
    EXPECT_EQ(tokens["tokens"][0]["text"], "Hello");
    EXPECT_EQ(served.post("/api/v1/detokenize", {{"token_ids", tokens["token_ids"]}})["text"], text);
}

TEST(HaloWeave, PartsOfACharacterComeWithTheirBytes) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    const std::string character = "\xE6\xAD\xAA"; // no token of this vocabulary holds it
    const Json tokens = served.post("/api/v1/tokenize", {{"text", character}, {"add_special_tokens", false}})["tokens"];
    ASSERT_GT(tokens.size(), 1u);
    std::string bytes;
    for (const Json& token : tokens) {
        ASSERT_TRUE(token.contains("bytes")) << tokens.dump();
        for (const int byte : token["bytes"]) bytes += static_cast<char>(byte);
    }
    EXPECT_EQ(bytes, character);
    EXPECT_FALSE(served.post("/api/v1/tokenize", {{"text", "Hello"}})["tokens"][0].contains("bytes"));
}

TEST(HaloWeave, EveryTokenBringsTheRowsItWasChosenFrom) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    const Json ids = served.post("/api/v1/tokenize", {{"text", "The capital of France is"}})["token_ids"];
    const auto events = served.events(stream_path, asking(ids, 6, {{"output_hidden_states", true}}));
    const auto tokens = tokens_of(events);
    ASSERT_EQ(tokens.size(), 6u);
    for (size_t i = 0; i < tokens.size(); ++i) {
        const Json& t = tokens[i];
        EXPECT_TRUE(t["token"]["token_id"].is_number_integer());
        EXPECT_TRUE(t["token"]["text"].is_string());
        EXPECT_EQ(t["request_id"], "r1");
        const Json& a = t["attention"];
        ASSERT_TRUE(a.is_object()) << t.dump().substr(0, 300);
        const size_t n = ids.size() + i; // the first token's row is that of the prompt's last
        EXPECT_EQ(a["format"], "per_layer");
        EXPECT_EQ(a["shape"], Json::array({ServedModel::n_layer, ServedModel::n_head, n}));
        EXPECT_EQ(a["context_length"], n);
        EXPECT_EQ(a["encoding"], "base64");
        EXPECT_EQ(a["dtype"], "float32");
        EXPECT_EQ(a["verdict"], "ok"); // proven against the engine's own output
        const auto values = values_of(a);
        ASSERT_EQ(values.size(), ServedModel::n_rows * n);
        for (size_t row = 0; row < ServedModel::n_rows; ++row) {
            double sum = 0;
            for (size_t j = 0; j < n; ++j) sum += double(values[row * n + j]);
            ASSERT_NEAR(sum, 1, 1e-5) << "token " << i << " row " << row;
        }
        const Json& h = t["hidden_state"];
        EXPECT_EQ(h["shape"], Json::array({ServedModel::n_embd}));
        EXPECT_EQ(values_of(h).size(), ServedModel::n_embd);
    }
    const Json& done = events.back();
    EXPECT_EQ(done["type"], "done");
    EXPECT_EQ(done["finish_reason"], "length");
    EXPECT_EQ(done["total_tokens"], 6);
    EXPECT_EQ(done["request_id"], "r1");
}

TEST(HaloWeave, AggregatedIsTheMeanOfAllRows) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    const Json ids = served.post("/api/v1/tokenize", {{"text", long_text(12)}})["token_ids"];
    const auto whole = tokens_of(served.events(stream_path, asking(ids, 3)));
    const auto mean = tokens_of(
        served.events(stream_path, asking(ids, 3, {{"attention_format", "aggregated"}, {"cache_prompt", false}})));
    ASSERT_EQ(whole.size(), 3u);
    ASSERT_EQ(mean.size(), 3u);
    for (size_t t = 0; t < 3; ++t) {
        const auto rows = values_of(whole[t]["attention"]), m = values_of(mean[t]["attention"]);
        const size_t n = ids.size() + t;
        EXPECT_EQ(mean[t]["attention"]["format"], "aggregated");
        ASSERT_EQ(m.size(), n);
        for (size_t j = 0; j < n; ++j) {
            double sum = 0;
            for (size_t r = 0; r < ServedModel::n_rows; ++r) sum += double(rows[r * n + j]);
            ASSERT_NEAR(double(m[j]), sum / ServedModel::n_rows, 2e-6);
        }
    }
}

TEST(HaloWeave, RowsOverSseAreThoseOfTheRecordingBitForBit) {
    TempDir dir;
    ServedModel served([&](server::ServerOptions& o) { o.record_dir = dir.path().string(); });
    ASSERT_TRUE(served.ok()) << served.error();
    const Json ids = served.post("/api/v1/tokenize", {{"text", long_text(20)}})["token_ids"];
    const auto events =
        served.events(stream_path, asking(ids, 8, {{"record", true}, {"attention", {{"prompt_rows", true}}}}));
    ASSERT_TRUE(events.back()["recording"].is_string()) << events.back().dump();
    auto recording = Recording::open(dir.file(events.back()["recording"]));
    ASSERT_TRUE(recording) << recording.error().message;
    EXPECT_TRUE((*recording)->info().complete);
    EXPECT_EQ((*recording)->info().n_frames, int64_t(ids.size()) + 8);
    size_t n = 0;
    for (const Json& e : events) {
        if (!e.contains("attention")) continue;
        EXPECT_EQ(e["attention"]["index"].get<size_t>(), n); // prompt rows, then the generated tokens': none is missing
        expect_recorded(**recording, e["attention"], values_of(e["attention"]));
        ++n;
    }
    EXPECT_EQ(n, ids.size() + 7); // the last prompt row belongs to the first generated token
}

TEST(HaloWeave, APrunedConversationReusesWhatItHasInCommon) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    Json ids = served.post("/api/v1/tokenize", {{"text", long_text(20)}})["token_ids"];
    const auto first = served.events(stream_path, asking(ids, 4));
    EXPECT_EQ(tokens_of(first)[0]["attention"]["reused"], 0);
    // The same again: all but the last token of the prompt is there, and the answer is the same.
    const auto again = served.events(stream_path, asking(ids, 4));
    EXPECT_EQ(tokens_of(again)[0]["attention"]["reused"], ids.size() - 1);
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(tokens_of(again)[i]["token"], tokens_of(first)[i]["token"]);
    // Pruned in the middle: reused up to there.
    Json pruned = Json::array();
    for (size_t i = 0; i < ids.size(); ++i) {
        if (i < 100 || i >= 140) pruned.push_back(ids[i]);
    }
    const auto third = served.events(stream_path, asking(pruned, 4));
    const auto tokens = tokens_of(third);
    EXPECT_EQ(tokens[0]["attention"]["reused"], 100);
    EXPECT_EQ(third.back()["reused"], 100);
    // Rows over keys of which some were kept: all columns are there.
    const auto values = values_of(tokens[0]["attention"]);
    const size_t n = pruned.size();
    ASSERT_EQ(values.size(), ServedModel::n_rows * n);
    double sum = 0;
    for (const float x : values) sum += double(x);
    EXPECT_NEAR(sum, ServedModel::n_rows, 1e-3);
    const auto fresh = tokens_of(served.events(stream_path, asking(pruned, 4, {{"cache_prompt", false}})));
    EXPECT_EQ(fresh[0]["attention"]["reused"], 0);
    const auto expected = values_of(fresh[0]["attention"]);
    ASSERT_EQ(expected.size(), values.size());
    // other batches, other rounding
    for (size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(double(values[i]), double(expected[i]), 0.02);
}

TEST(HaloWeave, TokensAreCountedWhileAGenerationRuns) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    int asked = 0;
    served.stream(stream_path, asking({1, 2, 3}, 40), [&](const Json& e) {
        if (e["type"] == "token" && asked < 5) {
            const auto start = std::chrono::steady_clock::now();
            EXPECT_GT(served.post("/api/v1/tokenize", {{"text", "while it runs"}})["token_count"].get<int>(), 1);
            EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
            ++asked;
        }
        return true;
    });
    EXPECT_EQ(asked, 5);
}

TEST(HaloWeave, ReductionsComeAsAsked) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    const std::string text = "Anna keeps bees in Oslo. Boris bakes bread in Lisbon. Who bakes bread?";
    const auto ask = [&](const Json& attention) {
        const Json body = {{"prompt", text},        {"max_length", 5},           {"temperature", 0},
                           {"ban_eos_token", true}, {"output_attentions", true}, {"attention", attention}};
        return served.events(stream_path, body);
    };
    auto events = ask({{"reduce", "top_k"}, {"top_k", 3}});
    EXPECT_EQ(events[0]["attention"]["shape"], Json::array({3}));
    EXPECT_EQ(events[0]["attention"]["columns"].size(), 3u);
    events = ask({{"reduce", "spans"}, {"spans", {{{"characters", {0, 24}}}, {{"characters", {25, 53}}}, {0, 2}}}});
    const auto sums = values_of(events[0]["attention"]);
    ASSERT_EQ(sums.size(), 3u);
    for (const float s : sums) EXPECT_TRUE(s > 0 && s < 1) << s;
    events = ask({{"reduce", "entropy"}, {"layers", {0, 2}}, {"heads", 3}});
    EXPECT_EQ(events[0]["attention"]["shape"], Json::array({2, 1}));
    events = ask({{"reduce", "mean"}, {"every", 2}, {"format", "u8"}});
    EXPECT_TRUE(events[0]["attention"].is_object());
    EXPECT_EQ(events[0]["attention"]["dtype"], "uint8");
    EXPECT_TRUE(events[1]["attention"].is_null());
    EXPECT_TRUE(events[2]["attention"].is_object());
    events = ask({{"reduce", "first_share"}, {"accumulate", {"total", "brightness"}}});
    const Json& scores = events.back()["scores"];
    EXPECT_EQ(scores["rows"], 5);
    double total = 0;
    for (const Json& s : scores["total"]) total += s.get<double>();
    EXPECT_NEAR(total, 5, 1e-3);
    EXPECT_EQ(scores["brightness"].size(), scores["total"].size());
}

TEST(HaloWeave, AClientThatGoesAwayStopsItsGeneration) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    served.stream(stream_path, asking({1, 2, 3}, 900), [&](const Json&) { return false; });
    EXPECT_TRUE(served.idle_within(5));
    EXPECT_LT(served.get("/api/extra/perf")["last_token_count"].get<int>(), 100);
    // And what the next one gets is right.
    EXPECT_EQ(tokens_of(served.events(stream_path, asking({1, 2, 3}, 4))).size(), 4u);
}

TEST(HaloWeave, AClientThatReadsSlowlyLosesNothingAndHoldsNobodyUp) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    const Json ids = served.post("/api/v1/tokenize", {{"text", long_text(15)}})["token_ids"];
    std::vector<int64_t> indices;
    double other_seconds = 0;
    bool asked = false;
    served.stream(stream_path, asking(ids, 60), [&](const Json& e) {
        if (e["type"] != "token") return true;
        indices.push_back(e["attention"]["index"].get<int64_t>());
        const auto values = values_of(e["attention"]);
        double sum = 0;
        for (const float x : values) sum += double(x);
        EXPECT_NEAR(sum, 270,
                    1e-3); // 30 layers of 9 heads; also where another generation has replaced the context meanwhile
        if (!asked) {
            asked = true;
            const auto start = std::chrono::steady_clock::now();
            served.post("/api/v1/generate", {{"prompt", "Another conversation"}, {"max_length", 5}});
            other_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(60));
        return true;
    });
    ASSERT_EQ(indices.size(), 60u);
    for (size_t i = 0; i < 60; ++i) EXPECT_EQ(indices[i], int64_t(ids.size() - 1 + i));
    EXPECT_GT(other_seconds, 0);
}
