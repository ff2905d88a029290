// Attention in front of llama-server, which is here a stand-in that decodes random queries and keys: what it is asked, what comes back,
// and that each row is the one of the token beside it.
#include "server/front/front.h"
#include "view/live_model.h"

#include <attnscope/attention_request.h>

#include <gtest/gtest.h>
#include <httplib.h>
#include <nlohmann/json.hpp>

#include <atomic>
#include <mutex>
#include <thread>

using namespace attnscope;
using namespace attnscope::server;
using namespace attnscope::test;
using Json = nlohmann::json;

namespace {

constexpr ContextId context{1, 0};

class LlamaStandIn {
public:
    explicit LlamaStandIn(LiveSequences& live) : live_(live) {
        live_.context_begins(context, LiveModel({}, 0).geometry(),
                             [](int32_t t) { return std::string(1, static_cast<char>(t)); });
        const auto say = [](httplib::Response& a, const Json& body) { a.set_content(body.dump(), "application/json"); };
        http_.Get("/slots", [say](const auto&, auto& a) {
            say(a, Json::array({{{"id", 0}, {"is_processing", true}}, {{"id", 1}, {"is_processing", false}}}));
        });
        http_.Post("/tokenize", [say](const httplib::Request& q, httplib::Response& a) {
            const Json content = Json::parse(q.body)["content"];
            Json tokens = content;
            if (content.is_string()) {
                tokens = Json::array();
                for (const char c : content.get<std::string>()) tokens.push_back(static_cast<int>(c));
            }
            say(a, {{"tokens", tokens}});
        });
        http_.Post("/apply-template", [say](const httplib::Request& q, httplib::Response& a) {
            say(a, {{"prompt", "<" + Json::parse(q.body)["messages"][0]["content"].get<std::string>() + ">"}});
        });
        http_.Post("/completion", [this, say](const httplib::Request& q, httplib::Response& a) {
            const Json body = Json::parse(q.body);
            const std::vector<int32_t> tokens = decode(body, body["prompt"]);
            std::string events;
            for (size_t i = 0; i < tokens.size(); ++i) {
                if (i == skipped_token) continue; // half a character
                events += "data: " +
                          Json{{"index", 0},
                               {"content", "x"},
                               {"tokens", {tokens[i]}},
                               {"stop", false},
                               {"tokens_predicted", i + 1}}
                              .dump() +
                          "\n\n";
            }
            const Json last = {{"content", ""},
                               {"tokens", body["stream"] == true ? Json::array() : Json(tokens)},
                               {"stop", true},
                               {"tokens_predicted", tokens.size()},
                               {"stop_type", "limit"}};
            if (body["stream"] != true) return say(a, last);
            a.set_content(events + "data: " + last.dump() + "\n\n", "text/event-stream");
        });
        http_.Post("/v1/chat/completions", [this, say](const httplib::Request& q, httplib::Response& a) {
            const Json body = Json::parse(q.body);
            const std::vector<int32_t> tokens =
                decode(body, "<" + body["messages"][0]["content"].get<std::string>() + ">");
            const auto chunk = [](Json delta, Json reason) {
                return Json{{"choices", {{{"delta", delta}, {"finish_reason", reason}}}},
                            {"id", "chat"},
                            {"object", "chat.completion.chunk"}};
            };
            if (body["stream"] != true) {
                return say(a, {{"choices", Json::array()}, {"usage", {{"completion_tokens", tokens.size()}}}});
            }
            std::string events = "data: " + chunk({{"role", "assistant"}}, nullptr).dump() + "\n\n";
            for (size_t i = 0; i < tokens.size(); ++i) {
                Json one = chunk({{"content", "x"}}, nullptr);
                if (body.value("timings_per_token", false)) one["timings"] = {{"predicted_n", i + 1}};
                events += "data: " + one.dump() + "\n\n";
            }
            Json last = chunk(Json::object(), "length");
            last["timings"] = {{"predicted_n", tokens.size()}};
            a.set_content(events + "data: " + last.dump() + "\n\ndata: [DONE]\n\n", "text/event-stream");
        });
        port = http_.bind_to_any_port("127.0.0.1");
        thread_ = std::thread([this] { http_.listen_after_bind(); });
        reader_ = std::thread([this] {
            while (!done_) live_.all_taken(std::chrono::milliseconds(1));
        });
        http_.wait_until_ready();
    }
    ~LlamaStandIn() {
        http_.stop();
        thread_.join();
        done_ = true;
        reader_.join();
    }
    Json last_body() const {
        const std::lock_guard lock(mutex_);
        return last_;
    }
    // Rows of the token at `index` of the latest line.
    std::vector<float> rows(size_t index) const {
        const std::lock_guard lock(mutex_);
        return index < rows_.size() ? rows_[index] : std::vector<float>();
    }
    int port = 0;
    std::atomic<size_t> skipped_token{SIZE_MAX};
    std::atomic<bool> wrong_slot{false};

private:
    std::vector<int32_t> decode(const Json& body, const Json& prompt) {
        const std::lock_guard lock(mutex_);
        last_ = body;
        std::vector<int32_t> line;
        if (prompt.is_string())
            for (const char c : prompt.get<std::string>()) line.push_back(c);
        else
            line = prompt.get<std::vector<int32_t>>();
        std::vector<int32_t> generated;
        for (int i = 0; i < body.value("n_predict", body.value("max_tokens", 3)); ++i) generated.push_back(1000 + i);
        const int32_t slot = body.value("id_slot", -1);
        line.insert(line.end(), generated.begin(), generated.end() - 1); // the last one is never decoded
        LiveModel model({}, static_cast<uint32_t>(n_lines_));
        live_.line_begins({context, n_lines_}, -1, 0);
        rows_.clear();
        for (const int32_t token : line) {
            Frame frame = model.next();
            frame.sequence = n_lines_;
            frame.token = token;
            rows_.push_back(model.rows(frame));
            live_.frame(context, wrong_slot ? 1 - slot : slot, frame);
        }
        ++n_lines_;
        return generated;
    }

    LiveSequences& live_;
    httplib::Server http_;
    std::thread thread_, reader_;
    std::atomic<bool> done_{false};
    mutable std::mutex mutex_;
    Json last_;
    std::vector<std::vector<float>> rows_;
    int64_t n_lines_ = 0;
};

class LlamaFront : public testing::Test {
protected:
    LlamaFront() {
        FrontOptions options;
        options.server.port = 0;
        options.to.port = program.port;
        options.patience = std::chrono::milliseconds(500);
        auto started = Front::start(options, live);
        if (started) front = std::move(*started);
    }
    std::string post(const std::string& path, const Json& body, int status = 200) {
        httplib::Client client("127.0.0.1", front->port());
        const auto answer = client.Post(path, body.dump(), "application/json");
        EXPECT_TRUE(answer && answer->status == status) << (answer ? answer->body : std::string("no answer"));
        return answer ? answer->body : std::string();
    }
    static std::vector<Json> events(const std::string& text) {
        std::vector<Json> out;
        for (size_t at = 0; (at = text.find("data: ", at)) != std::string::npos; ++at) {
            const std::string data = text.substr(at + 6, text.find('\n', at) - at - 6);
            if (data != "[DONE]") out.push_back(Json::parse(data));
        }
        return out;
    }
    // The rows of an answer that is the rows of the token at `index`.
    void expect_row(const Json& attention, size_t index) {
        ASSERT_TRUE(attention.is_object() && attention.contains("data")) << attention.dump();
        EXPECT_EQ(attention["index"], index);
        EXPECT_EQ(decoded(attention["data"]), program.rows(index));
    }
    static std::vector<float> decoded(const std::string& base64) {
        std::vector<uint8_t> bytes;
        uint32_t bits = 0;
        int n_bits = 0;
        const std::string letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for (const char c : base64) {
            const size_t value = letters.find(c);
            if (value == std::string::npos) break;
            bits = bits << 6 | static_cast<uint32_t>(value);
            if ((n_bits += 6) < 8) continue;
            bytes.push_back(static_cast<uint8_t>(bits >> (n_bits -= 8)));
        }
        return decode_values(bytes, bytes.size() / 4, 1, AttentionFormat::f32).value();
    }
    LiveSequences live;
    LlamaStandIn program{live};
    std::unique_ptr<Front> front;
};

TEST_F(LlamaFront, EachEventOfAStreamHasTheRowsOfItsToken) {
    const auto all = events(post(
        "/completion",
        {{"prompt", "abc"}, {"n_predict", 4}, {"stream", true}, {"attention", Json::object()}, {"temperature", 0.5}}));
    ASSERT_EQ(all.size(), 5u);
    for (size_t i = 0; i < 4; ++i) expect_row(all[i]["attention"], 2 + i);
    EXPECT_EQ(all[4]["summary"]["reused"], 0);
    const Json sent = program.last_body();
    EXPECT_EQ(sent["id_slot"], 1); // the one at rest
    EXPECT_FALSE(sent.contains("attention"));
    EXPECT_EQ(sent["temperature"], 0.5);
    EXPECT_EQ(sent["return_tokens"], true);
}

TEST_F(LlamaFront, ATokenWithoutAnEventHasOneOfItsOwn) {
    program.skipped_token = 1;
    const auto all = events(
        post("/completion", {{"prompt", "abc"}, {"n_predict", 3}, {"stream", true}, {"attention", Json::object()}}));
    ASSERT_EQ(all.size(), 4u);
    for (size_t i = 0; i < 3; ++i) expect_row(all[i]["attention"], 2 + i);
    EXPECT_EQ(all[1]["content"], "");
}

TEST_F(LlamaFront, AWholeAnswerHasAllRowsAndThoseOfThePrompt) {
    const Json all =
        Json::parse(post("/completion", {{"prompt", {97, 98, 99, 100}},
                                         {"n_predict", 3},
                                         {"attention", {{"prompt_rows", true}, {"accumulate", "total"}}}}));
    ASSERT_EQ(all["attention"].size(), 3u);
    ASSERT_EQ(all["prompt_attention"].size(), 3u);
    for (size_t i = 0; i < 3; ++i) expect_row(all["attention"][i], 3 + i);
    for (size_t i = 0; i < 3; ++i) expect_row(all["prompt_attention"][i], i);
    EXPECT_EQ(all["scores"]["rows"], 6);
    EXPECT_EQ(all["tokens"], Json::array()); // nobody asked for them
}

TEST_F(LlamaFront, ChatsAreCountedByTimingsThatNobodySees) {
    const Json body = {{"messages", {{{"role", "user"}, {"content", "hi"}}}},
                       {"max_tokens", 3},
                       {"stream", true},
                       {"attention", Json::object()}};
    const std::string text = post("/v1/chat/completions", body);
    const auto all = events(text);
    ASSERT_EQ(all.size(), 5u);
    EXPECT_FALSE(all[0].contains("attention"));
    for (size_t i = 0; i < 3; ++i) {
        expect_row(all[1 + i]["attention"], 3 + i);
        EXPECT_FALSE(all[1 + i].contains("timings"));
    }
    EXPECT_TRUE(all[4].contains("timings"));
    EXPECT_NE(text.find("data: [DONE]"), std::string::npos);
    Json whole = body;
    whole["stream"] = false;
    const Json answer = Json::parse(post("/v1/chat/completions", whole));
    ASSERT_EQ(answer["attention"].size(), 3u);
    for (size_t i = 0; i < 3; ++i) expect_row(answer["attention"][i], 3 + i);
}

TEST_F(LlamaFront, WhatASlotOfAnotherRequestDecodedIsAnError) {
    program.wrong_slot = true;
    const auto all = events(
        post("/completion", {{"prompt", "abc"}, {"n_predict", 2}, {"stream", true}, {"attention", Json::object()}}));
    ASSERT_EQ(all.size(), 3u);
    for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(all[i]["attention"].contains("error"));
}

TEST_F(LlamaFront, WithoutAttentionARequestGoesOnAsItIs) {
    const Json body = {{"prompt", "abc"}, {"n_predict", 2}, {"stream", true}};
    for (const Json& event : events(post("/completion", body))) EXPECT_FALSE(event.contains("attention"));
    EXPECT_EQ(program.last_body(), body);
}

TEST_F(LlamaFront, WhatHasNoAttentionIsRefusedInWords) {
    const Json attention = {{"reduce", "mean"}};
    post("/completion", {{"prompt", {"a", "b"}}, {"attention", attention}}, 400);
    post("/completion", {{"prompt", {{"prompt_string", "a"}, {"multimodal_data", {"x"}}}}, {"attention", attention}},
         400);
    post("/v1/completions", {{"prompt", "a"}, {"n", 2}, {"attention", attention}}, 400);
    post("/completion", {{"prompt", "a"}, {"attention", {{"layers", {99}}}}}, 400);
    post("/completion", {{"prompt", "a"}, {"attention", {{"nonsense", 1}}}}, 400);
    post("/infill", {{"prompt", "a"}, {"attention", attention}}, 400);
    post("/v1/chat/completions",
         {{"messages", {{{"role", "user"}, {"content", {{{"type", "image_url"}}}}}}}, {"attention", attention}}, 400);
}

TEST_F(LlamaFront, HaloWeavesStreamIsACompletion) {
    const Json body = {{"input_ids", {97, 98, 99}},
                       {"max_length", 3},
                       {"temperature", 0},
                       {"output_attentions", true},
                       {"request_id", "r"}};
    program.skipped_token = 1; // its id is known when the next one was decoded
    const auto all = events(post("/api/extra/generate/stream", body));
    ASSERT_EQ(all.size(), 4u);
    for (size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(all[i]["type"], "token");
        EXPECT_EQ(all[i]["token"]["token_id"], 1000 + i);
        EXPECT_EQ(all[i]["request_id"], "r");
        expect_row(all[i]["attention"], 2 + i);
    }
    EXPECT_EQ(all[3]["type"], "done");
    EXPECT_EQ(all[3]["total_tokens"], 3);
    EXPECT_EQ(all[3]["finish_reason"], "length");
    EXPECT_EQ(program.last_body()["n_predict"], 3);
    EXPECT_EQ(program.last_body()["top_k"], 100);
}

} // namespace
