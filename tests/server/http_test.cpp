// HTTP itself: what comes before any dialect is spoken.
#include "raw_client.h"
#include "served_model.h"

#include <gtest/gtest.h>

#include <mutex>
#include <string>
#include <vector>

using namespace attnscope;
using namespace attnscope::test;

namespace {

std::string request_of(const ServedModel& served, const std::string& line, const std::string& body = {},
                       const std::string& more = {}) {
    std::string out = line + "\r\nHost: 127.0.0.1:" + std::to_string(served.port()) + "\r\n" + more;
    if (!body.empty()) out += "Content-Length: " + std::to_string(body.size()) + "\r\n";
    return out + "\r\n" + body;
}

bool holds(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

} // namespace

TEST(Http, RequestsThatComeTogetherAreAllAnswered) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    RawClient client(served.port());
    const std::string body = R"({"text":"Hello there"})";
    std::string all;
    for (int i = 0; i < 20; ++i) {
        all += request_of(served, "GET /health HTTP/1.1");
        all += request_of(served, "POST /api/v1/tokenize HTTP/1.1", body);
    }
    all += request_of(served, "GET /api/extra/version HTTP/1.1", "", "Connection: close\r\n");
    ASSERT_TRUE(client.say(all));
    const std::string heard = client.hear("HTTP/1.1 200 OK", 41) + client.hear();
    size_t n = 0;
    for (size_t at = heard.find("HTTP/1.1 200 OK"); at != std::string::npos; at = heard.find("HTTP/1.1 200 OK", at + 1))
        ++n;
    EXPECT_EQ(n, 41u);
    EXPECT_LT(heard.find(R"({"status":"ok"})"), heard.find(R"("tokens":[)")); // in their order
    EXPECT_TRUE(holds(heard.substr(heard.rfind("HTTP/1.1 200 OK")), R"("result":"KoboldCpp")"));
}

TEST(Http, AnAnswerThatSaysCloseIsTheLast) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    RawClient client(served.port());
    ASSERT_TRUE(client.say(request_of(served, "POST /api/v1/tokenize HTTP/1.1", "{nonsense") +
                           request_of(served, "GET /health HTTP/1.1")));
    const std::string heard = client.hear();
    EXPECT_TRUE(holds(heard, "400 Bad Request") && holds(heard, "Connection: close")) << heard;
    EXPECT_FALSE(holds(heard, R"({"status":"ok"})")) << heard;
}

TEST(Http, Version10IsSpokenToInItsOwnWay) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    RawClient probe(served.port());
    ASSERT_TRUE(probe.say("GET /health HTTP/1.0\r\n\r\n")); // it need not name a host
    EXPECT_TRUE(holds(probe.hear(), R"({"status":"ok"})"));
    RawClient nameless(served.port());
    ASSERT_TRUE(nameless.say("GET /health HTTP/1.1\r\n\r\n"));
    EXPECT_TRUE(holds(nameless.hear(), "must name one Host"));
    RawClient reader(served.port());
    ASSERT_TRUE(reader.say(request_of(served, "POST /api/extra/generate/stream HTTP/1.0",
                                      R"({"prompt":"Hi","max_length":3,"temperature":0,"ban_eos_token":true})",
                                      "Connection: keep-alive\r\n")));
    const std::string heard = reader.hear(); // to the end of the connection
    EXPECT_FALSE(holds(heard, "chunked")) << heard;
    const size_t body = heard.find("\r\n\r\n");
    ASSERT_NE(body, std::string::npos);
    EXPECT_EQ(heard.compare(body + 4, 21, "event: message\ndata: "), 0) << heard;
    EXPECT_TRUE(holds(heard.substr(heard.rfind("data: ")), R"("finish_reason":"length")")) << heard;
    EXPECT_TRUE(heard.ends_with("}\n\n")) << heard;
}

TEST(Http, WhatIsWrongWithABodyIsSaidAndWhere) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    const std::vector<std::pair<std::string, std::string>> bodies = {
        {R"({"prompt":"caf\ud83d e","max_length":1})",
         "line 1, column 21: syntax error while parsing value - invalid string: "
         "surrogate"},
        {R"({"prompt":"a","max_length":1,})", "(byte 30, at the end of "},
        {"{'prompt':'a'}", "line 1, column 2: "},
        {"{\"prompt\":\n\"caf\xE9\"}",
         "line 2, column 6: syntax error while parsing value - invalid string: ill-formed UTF-8"},
        {"\x1f\x8b\x08\x01\x02", "compressed (gzip)"},
        {std::string("\xff\xfe{\0", 4), "UTF-16"},
        {"{\"prompt\":\"a\"} trailing", "line 1, column 18: "}};
    for (const auto& [body, part] : bodies) {
        Json answer;
        EXPECT_EQ(served.status("/api/v1/generate", body, &answer), 400) << body;
        ASSERT_TRUE(answer.is_object()) << body;
        EXPECT_TRUE(holds(answer["detail"]["msg"], part)) << answer.dump();
    }
    auto client = served.client();
    const auto packed =
        client.Post("/api/v1/generate", {{"Content-Encoding", "gzip"}}, "\x1f\x8b\x08", "application/json");
    ASSERT_TRUE(packed);
    EXPECT_EQ(packed->status, 415);
    EXPECT_TRUE(holds(packed->body, "Content-Encoding gzip is not supported")) << packed->body;
}

// curl -d calls a body a form, and some call it multipart or plain text.
TEST(Http, BodiesAreReadWhateverTheyAreCalled) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    const std::string body =
        Json{{"prompt", "Hi"}, {"max_length", 1}, {"note", std::string(100000, 'a') + "&b=%41+"}}.dump();
    for (const char* type :
         {"application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", "-"}) {
        const auto answer = served.client().Post("/api/v1/generate", body, type);
        ASSERT_TRUE(answer) << type;
        EXPECT_EQ(answer->status, 200) << type << ": " << answer->body;
        EXPECT_EQ(answer->get_header_value("X-Ignored-Fields"), "note") << type;
    }
}

TEST(Http, APortIsOneServers) {
    ServedModel first;
    ASSERT_TRUE(first.ok()) << first.error();
    const ServedModel second([&](server::ServerOptions& o) { o.port = first.port(); });
    EXPECT_FALSE(second.ok());
    EXPECT_NE(second.error().find("the port is in use"), std::string::npos) << second.error();
}

TEST(Http, RequestsAndRefusalsLeaveALine) {
    std::mutex mutex;
    std::vector<std::string> lines;
    {
        ServedModel served([&](server::ServerOptions& o) {
            o.log_requests = true;
            o.log = [&](const std::string& line) {
                const std::lock_guard lock(mutex);
                lines.push_back(line);
            };
        });
        ASSERT_TRUE(served.ok()) << served.error();
        served.get("/health");
        auto client = served.client();
        for (int i = 0; i < 3; ++i) {
            const auto a = client.Get("/health", httplib::Headers{{"Host", "box:8080"}});
            ASSERT_TRUE(a);
            EXPECT_TRUE(holds(a->body, "--allow-host box:8080")) << a->body;
            const auto b = client.Get("/health", httplib::Headers{{"Origin", "http://localhost:8080"}});
            ASSERT_TRUE(b);
            EXPECT_TRUE(holds(b->body, "--cors-origin http://localhost:8080")) << b->body;
        }
        client.Get("/a\n2026 forged?key=secret");
    }
    int asked = 0, hosts = 0, origins = 0;
    for (const std::string& line : lines) {
        asked += line.ends_with(" GET /health 200 15 bytes");
        hosts += holds(line, "refused: the Host box:8080 is not served; to serve it start with --allow-host box:8080");
        origins += holds(line, "refused: pages of the origin http://localhost:8080 may not call");
        EXPECT_FALSE(holds(line, "\n") || holds(line, "secret")) << line;
    }
    EXPECT_EQ(asked, 1);
    EXPECT_EQ(hosts, 1); // told once, however often they ask
    EXPECT_EQ(origins, 1);
    EXPECT_EQ(lines.size(), 2u + 8u);
}

TEST(Http, AllowedPagesMaySendTheHeadersThatTheyAskFor) {
    ServedModel served([](server::ServerOptions& o) { o.cors_origins = {"http://localhost:8080"}; });
    ASSERT_TRUE(served.ok()) << served.error();
    auto client = served.client();
    const auto preflight = [&](const std::string& asked) {
        const auto a = client.Options("/api/v1/generate", {{"Origin", "http://localhost:8080"},
                                                           {"Access-Control-Request-Method", "POST"},
                                                           {"Access-Control-Request-Headers", asked}});
        return a && a->status == 204 ? a->get_header_value("Access-Control-Allow-Headers") : std::string();
    };
    EXPECT_TRUE(holds(preflight("authorization,x-stainless-lang,x-stainless-retry-count"), "x-stainless-retry-count"));
    EXPECT_FALSE(holds(preflight("x-a;b"), "x-a"));
}
