// What a front says itself instead of passing a request on, and to whom.
#include "front_before.h"

using namespace attnscope;
using namespace attnscope::server;
using namespace attnscope::test;

namespace {

TEST_F(FrontTest, ACompressedBodyIsRefusedInWordsWhereAttentionMayBeAsked) {
    start();
    const httplib::Headers gzip = {{"Content-Encoding", "gzip"}};
    for (const char* path : {"/completion", "/v1/chat/completions", "/infill", "/api/v1/generate", "/compressed"}) {
        const auto answer = client().Post(path, gzip, "\x1f\x8b no matter what", "application/json");
        ASSERT_TRUE(answer) << path;
        EXPECT_EQ(answer->status, 415) << path;
        const auto body = nlohmann::json::parse(answer->body, nullptr, false);
        const bool kobold = std::string(path).rfind("/api/", 0) == 0;
        ASSERT_TRUE(body.is_object() && body.contains(kobold ? "detail" : "error")) << path << answer->body;
        EXPECT_NE(answer->body.find("Content-Encoding gzip is not supported; send the body as it is"),
                  std::string::npos);
    }
    EXPECT_EQ(client().Post("/echo", {{"Content-Encoding", "identity"}}, "a", "a/b")->status, 200);
}

// A program of which nothing is known may generate anywhere.
TEST_F(FrontTest, AttentionIsNeverLostOnTheWayToARouteThatHasNone) {
    start();
    const auto post = [&](const char* path, const std::string& body) {
        return client().Post(path, body, "application/json");
    };
    const std::string asks = R"({"prompt":"a","attention":{"reduce":"mean"}})";
    for (const std::string& body : {asks, std::string(R"({"\u0061ttention":{}})"),
                                    R"({"attention":{},"x":)" + std::string(60, '[') + std::string(60, ']') + "}",
                                    std::string(R"({"output_attentions":"per_layer"})")}) {
        const auto answer = post("/echo/chat", body);
        ASSERT_TRUE(answer);
        EXPECT_EQ(answer->status, 400) << body;
        EXPECT_NE(answer->body.find("attention is answered at /completion"), std::string::npos) << answer->body;
        for (const char* route : {"/v1/completions", "/v1/chat/completions", "/api/v1/generate",
                                  "/api/extra/generate/stream", "/api/chat", "/api/generate"})
            EXPECT_NE(answer->body.find(route), std::string::npos) << route << answer->body;
    }
    // another meaning of the word, and text that is nobody's question
    for (const char* body : {R"({"attention":"flash"})", R"({"output_attentions":false})", R"("attention":{})",
                             R"({"text":"\"attention\":{}"})", "{\"attention\":{}}\n{}"})
        EXPECT_EQ(post("/echo/chat", body)->status, 200) << body;
    // what tells only of a request is asked with its body as it is
    for (const char* path : {"/tokenize", "/v1/chat/completions/input_tokens"}) {
        const auto answer = post(path, asks);
        ASSERT_TRUE(answer);
        EXPECT_EQ(answer->status, 404); // the program's
        EXPECT_EQ(answer->get_header_value("X-Ignored-Fields"), "attention");
        EXPECT_EQ(post(path, R"({"output_attentions":"all"})")->get_header_value("X-Ignored-Fields"),
                  "output_attentions");
    }
}

TEST_F(FrontTest, ABrowserThatIsGivenTheAddressAloneComesToAPage) {
    const httplib::Headers browser = {{"Accept", "text/html,application/xhtml+xml,*/*;q=0.8"}};
    start([](FrontOptions& o) { o.page = true; });
    EXPECT_EQ(client().Get("/")->status, 404); // a script hears the program
    const auto page = client().Get("/", browser);
    ASSERT_TRUE(page);
    EXPECT_EQ(page->status, 302);
    EXPECT_EQ(page->get_header_value("Location"), "/view/");
    program.own_page = true;
    EXPECT_NE(client().Get("/", browser)->body.find("the program's own"), std::string::npos);
    start([](FrontOptions& o) {
        o.page = true;
        o.server.api_keys = {"secret"};
    });
    EXPECT_EQ(client().Get("/", browser)->get_header_value("Location"), "/view/"); // which asks for the key
    EXPECT_EQ(client().Get("/")->status, 401);
    EXPECT_EQ(client().Get("/view/")->status, 200);
    program.own_page = false;
    start([](FrontOptions& o) { o.server.api_keys = {"secret"}; }); // no page of ours
    EXPECT_EQ(client().Get("/", browser)->status, 401);
    EXPECT_EQ(client().Get("/view/")->status, 401);
}

// llama-server ended with status 139 at a million levels.
TEST_F(FrontTest, BodiesThatNestWithoutEndAreNotPassedOn) {
    start();
    const auto nested = [](size_t levels) { return std::string(levels, '[') + "\"[[\"" + std::string(levels, ']'); };
    const auto post = [&](const std::string& body) { return client().Post("/echo", body, "application/json"); };
    const auto deep = post(" {\"x\": " + nested(1'000'000) + "}");
    ASSERT_TRUE(deep);
    EXPECT_EQ(deep->status, 400);
    EXPECT_NE(deep->body.find("JSON of more than 1000 levels is not passed on"), std::string::npos) << deep->body;
    EXPECT_EQ(post("\xef\xbb\xbf" + nested(1001))->status, 400);
    for (const std::string& body : {nested(1000), "a sound: " + nested(5000)}) {
        const auto answer = post(body);
        ASSERT_TRUE(answer);
        EXPECT_EQ(answer->status, 200);
        EXPECT_EQ(nlohmann::json::parse(answer->body)["body"], body);
    }
}

TEST_F(FrontTest, AProgramThatDoesNotListenIsSaidSo) {
    start([](FrontOptions& o) { o.to.port = 1; });
    const auto answer = client().Get("/echo");
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->status, 503);
    EXPECT_EQ(answer->get_header_value("Retry-After"), "1");
    EXPECT_NE(answer->body.find("the program does not listen yet: nothing listens at 127.0.0.1:1 (--to)"),
              std::string::npos)
        << answer->body;
}

TEST_F(FrontTest, AProgramThatHasEndedIsNotWaitedForInWords) {
    start();
    EXPECT_EQ(client().Get("/echo")->status, 200);
    program.stop();
    const auto answer = client().Get("/echo");
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->status, 503);
    EXPECT_NE(answer->body.find("the program does not listen any more"), std::string::npos) << answer->body;
}

// Of a program of ours nobody said where it listens.
TEST_F(FrontTest, TheAddressOfAProgramOfOursIsNobodysConcern) {
    start([](FrontOptions& o) {
        o.to.port = 1;
        o.to.key = "secret";
    });
    const auto answer = client().Get("/echo");
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->body.find("127.0.0.1"), std::string::npos) << answer->body;
}

TEST(Upstream, WhoListensIsSeenWithoutAWord) {
    EchoProgram program;
    UpstreamAddress to;
    to.port = program.port;
    EXPECT_TRUE(is_listening(to));
    program.stop();
    EXPECT_FALSE(is_listening(to));
    to.host = "::1";
    EXPECT_EQ(to.name(), "[::1]:" + std::to_string(to.port));
}

TEST_F(FrontTest, AttentionOfAProgramThatIsNoLlamaServerIsRefusedInWords) {
    start();
    for (const char* path : {"/completion", "/v1/completions", "/v1/chat/completions", "/api/extra/generate/stream"}) {
        const auto answer = client().Post(path, R"({"prompt":"a","attention":{"reduce":"mean"}})", "application/json");
        ASSERT_TRUE(answer);
        EXPECT_GE(answer->status, 400) << path;
        const bool kobold = std::string(path).rfind("/api/", 0) == 0;
        const char* words = kobold ? "attention is answered before" : "the program behind this server is neither";
        EXPECT_NE(answer->body.find(words), std::string::npos) << path << answer->body;
    }
    const auto wrong =
        client().Post("/completion", R"({"prompt":"a","attention":{"reduce":"nonsense"}})", "application/json");
    ASSERT_TRUE(wrong);
    EXPECT_EQ(wrong->status, 400);
    EXPECT_NE(wrong->body.find("attention.reduce"), std::string::npos);
}

} // namespace
