// Clients that leave, and clients that are slow: what it costs the others.
#include "raw_client.h"
#include "served_model.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

using namespace attnscope;
using namespace attnscope::test;

TEST(Leaving, AClosedConnectionEndsAnAnswerThatIsNotStreamed) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    const std::string body = Json{
        {"prompt", "Once upon a time"},
        {"max_length", 900},
        {"ban_eos_token", true},
        {"request_id", "leaves"}}.dump();
    RawClient client(served.port());
    ASSERT_TRUE(client.say("POST /api/v1/generate HTTP/1.1\r\nHost: 127.0.0.1:" + std::to_string(served.port()) +
                           "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body));
    std::string seen;
    const auto look = [&] {
        const Json told = served.post("/api/extra/generate/check", {{"genkey", "leaves"}});
        return told["results"][0]["text"].get<std::string>();
    };
    for (int i = 0; i < 2000 && seen.empty(); ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        seen = look();
    }
    ASSERT_FALSE(seen.empty());
    client.close();
    const size_t at_close = look().size();
    ASSERT_TRUE(served.idle_within(60));
    // some tokens for what was under way between looking and closing
    EXPECT_LT(look().size(), at_close + 200);
    EXPECT_LT(served.get("/api/extra/perf")["last_token_count"].get<int>(), 600);
}

// It looks like one that left, whenever the end of what it says comes.
TEST(Leaving, AClientThatOnlyEndsWhatItSendsIsAnswered) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    const std::string body = Json{{"prompt", "ab"}, {"max_length", 40}, {"ban_eos_token", true}}.dump();
    for (int round = 0; round < 10; ++round) {
        for (const char* path : {"/api/extra/generate/stream", "/api/v1/generate"}) {
            for (const char* version : {"1.1", "1.0"}) {
                RawClient client(served.port());
                ASSERT_TRUE(client.say(std::string("POST ") + path + " HTTP/" + version +
                                       "\r\nHost: 127.0.0.1:" + std::to_string(served.port()) +
                                       "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body));
                if (round % 2 == 1) std::this_thread::sleep_for(std::chrono::milliseconds(3)); // its answer has begun
                client.finish();
                const std::string heard = client.hear();
                EXPECT_NE(heard.find("\"finish_reason\":\"length\""), std::string::npos)
                    << round << path << version << heard;
            }
        }
    }
}

TEST(Leaving, ASlowReaderTakesThePrefixFromNobody) {
    ServedModel served({}, 2048, Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    const std::string text = long_text(40);
    const Json asked = {{"prompt", text + "And then"},
                        {"max_length", 24},
                        {"temperature", 0},
                        {"ban_eos_token", true},
                        {"output_attentions", true}};
    const auto rows = [&](const Json& events) {
        std::vector<std::vector<float>> out;
        for (const Json& e : events)
            if (e.contains("attention")) out.push_back(values_of(e["attention"]));
        return out;
    };
    const std::string route = "/api/extra/generate/stream";
    (void)served.events(route, asked);
    // From here on the prompt is there but for its last token, which is decoded alone: keys, and rows, are the same bits.
    const auto want = rows(Json(served.events(route, asked)));
    ASSERT_EQ(want.size(), 24u);
    std::vector<Json> slow;
    int64_t cached = -1, n_prompt = 0;
    served.stream(route, asked, [&](const Json& e) {
        slow.push_back(e);
        if (slow.size() != 1) return true;
        // It has 15 MB more to read, more than sockets hold, and another asks for the same beginning.
        EXPECT_TRUE(served.idle_within(60));
        const Json other = served.post(
            "/api/v1/generate",
            {{"prompt", text + "But now"}, {"max_length", 4}, {"temperature", 0}, {"attention", {{"reduce", "mean"}}}});
        cached = other["reused"];
        n_prompt = other["results"][0]["prompt_tokens"];
        return true;
    });
    EXPECT_GT(cached, n_prompt - 8);
    EXPECT_EQ(rows(Json(slow)), want); // its own rows are still of its own keys
}
