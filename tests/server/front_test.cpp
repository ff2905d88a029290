// A server in front of a program: what goes through it is what the program would have got and said.
#include "front_before.h"
#include "raw_client.h"
#include "server/front/event_reader.h"

#include <nlohmann/json.hpp>

#include <mutex>

using namespace attnscope;
using namespace attnscope::server;
using namespace attnscope::test;

namespace {

TEST_F(FrontTest, RequestsArriveAsTheyWereSent) {
    start();
    auto c = client();
    const httplib::Headers headers = {
        {"X-Mine", "yes"},    {"Authorization", "Bearer theirs"},      {"Accept", "a/b"},
        {"X-Hop", "of ours"}, {"Connection", "close, X-Other, X-Hop"}, {"X-Hop-2", "yes"}};
    for (const char* method : {"GET", "POST", "PUT", "PATCH", "DELETE"}) {
        httplib::Request request;
        request.method = method;
        request.path = "/echo/a%20b%2Fc/?q=%C3%A4&r=1+2";
        request.headers = headers;
        if (request.method != "GET") {
            request.body = "a=1&b=\xff\x00\x01";
            request.set_header("Content-Type", "application/x-www-form-urlencoded");
        }
        const auto answer = c.send(request);
        ASSERT_TRUE(answer) << method;
        ASSERT_EQ(answer->status, 200) << method << answer->body;
        const auto echo = nlohmann::json::parse(answer->body, nullptr, false);
        ASSERT_TRUE(echo.is_object()) << answer->body;
        EXPECT_EQ(echo["method"], method);
        EXPECT_EQ(echo["target"], request.path);
        EXPECT_EQ(echo["headers"]["X-Mine"], "yes");
        EXPECT_EQ(echo["headers"]["Authorization"], "Bearer theirs");
        EXPECT_EQ(echo["headers"]["Accept"], "a/b");
        EXPECT_FALSE(echo["headers"].contains("X-Hop")) << "of one connection";
        EXPECT_EQ(echo["headers"]["X-Hop-2"], "yes");
        if (request.method != "GET") {
            EXPECT_EQ(echo["headers"]["Content-Type"], "application/x-www-form-urlencoded");
        }
    }
    // Bodies of forms with parts stay bytes, too; a large one needs no patience.
    std::string large(3 << 20, 'x');
    const auto parts = c.Post("/echo", "--b\r\n\r\n" + large + "\r\n--b--\r\n", "multipart/form-data; boundary=b");
    ASSERT_TRUE(parts);
    EXPECT_EQ(parts->status, 200);
    EXPECT_NE(parts->body.find("boundary=b"), std::string::npos);
}

TEST_F(FrontTest, AnswersComeBackAsTheyWere) {
    start();
    auto c = client();
    const auto teapot = c.Get("/teapot");
    ASSERT_TRUE(teapot);
    EXPECT_EQ(teapot->status, 418);
    EXPECT_EQ(teapot->body, "short and stout");
    EXPECT_EQ(teapot->get_header_value("Content-Type"), "text/plain");
    EXPECT_EQ(teapot->get_header_value_count("Content-Type"), 1u);
    EXPECT_EQ(teapot->get_header_value_count("Set-Cookie"), 2u);
    EXPECT_EQ(teapot->get_header_value_count("Access-Control-Allow-Origin"), 0u); // who may call is for us to say
    const auto nothing = c.Get("/nothing");
    ASSERT_TRUE(nothing);
    EXPECT_EQ(nothing->status, 404);
    EXPECT_EQ(nothing->body, "");
    const auto packed = c.Get("/gzip");
    ASSERT_TRUE(packed);
    EXPECT_EQ(packed->body, "not really");
    EXPECT_EQ(packed->get_header_value("Content-Encoding"), "gzip");
    const auto empty = c.Get("/empty");
    ASSERT_TRUE(empty);
    EXPECT_EQ(empty->status, 204);
    EXPECT_FALSE(empty->has_header("Content-Length")); // it cannot have a body
    const auto head = c.Head("/teapot");
    ASSERT_TRUE(head);
    EXPECT_EQ(head->status, 418);
    EXPECT_EQ(head->get_header_value("Content-Length"), "15");
    const auto unknown = c.Head("/stream");
    ASSERT_TRUE(unknown);
    EXPECT_FALSE(unknown->has_header("Content-Length")) << unknown->get_header_value("Content-Length");
}

TEST_F(FrontTest, StreamsComeEventByEvent) {
    start();
    auto c = client();
    std::string all;
    const auto answer = c.Get("/stream", [&](const char* data, size_t n) {
        all.append(data, n);
        return true;
    });
    ASSERT_TRUE(answer);
    EXPECT_EQ(all, "data: 1\n\ndata: 2\n\ndata: 3\n\n");
    EXPECT_EQ(answer->get_header_value("X-Theirs"), "1");
    // HTTP/1.0 knows no chunks.
    program.n_events = 0;
    RawClient old(front->port());
    ASSERT_TRUE(old.say("GET /stream HTTP/1.0\r\n\r\n"));
    const std::string heard = old.hear();
    EXPECT_NE(heard.find("data: 1\n\ndata: 2\n\ndata: 3\n\n"), std::string::npos) << heard;
}

TEST_F(FrontTest, AClientThatLeavesEndsTheProgramsAnswer) {
    start();
    program.most_events = 1 << 30;
    auto c = client();
    int n = 0;
    (void)c.Get("/stream", [&](const char*, size_t) { return ++n < 3; });
    EXPECT_TRUE(soon([&] { return program.ended.load(); }));
    // Also where the program has not begun to answer.
    program.ended = false;
    RawClient raw(front->port());
    ASSERT_TRUE(raw.say("GET /waits HTTP/1.1\r\nHost: 127.0.0.1:" + std::to_string(front->port()) + "\r\n\r\n"));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    raw.close();
    EXPECT_TRUE(soon([&] { return program.ended.load(); }));
}

// The system tells of both alike that nothing comes from them any more.
TEST_F(FrontTest, AClientThatSaysNoMoreIsAnsweredAndOneThatLeavesAtOnceIsNot) {
    start();
    const std::string host = " HTTP/1.1\r\nHost: 127.0.0.1:" + std::to_string(front->port()) + "\r\n\r\n";
    for (const char* path : {"/slow", "/stream", "/teapot"}) {
        program.n_events = 0;
        program.most_events = 200;
        RawClient client(front->port());
        ASSERT_TRUE(client.say(std::string("GET ") + path + host));
        client.finish();
        const std::string heard = client.hear();
        const char* const end = path == std::string("/slow")     ? "stayed"
                                : path == std::string("/stream") ? "data: 200\n\n"
                                                                 : "short and stout";
        EXPECT_NE(heard.find(end), std::string::npos) << path << ": " << heard;
    }
    RawClient old(front->port());
    ASSERT_TRUE(old.say("GET /slow HTTP/1.0\r\n\r\n"));
    old.finish();
    const std::string heard = old.hear();
    EXPECT_EQ(heard.rfind("HTTP/1.1 200", 0), 0u) << heard;
    EXPECT_NE(heard.find("stayed"), std::string::npos) << heard;
    // requests that come together, the last one's end behind them
    RawClient many(front->port());
    ASSERT_TRUE(many.say("GET /slow" + host + "GET /teapot" + host + "GET /slow" + host));
    many.finish();
    const std::string all = many.hear();
    EXPECT_EQ(all.rfind("HTTP/1.1 200", 0), 0u) << all;
    EXPECT_NE(all.find("stayedHTTP/1.1 418"), std::string::npos) << all;
    program.ended = false;
    RawClient leaves(front->port());
    ASSERT_TRUE(leaves.say("GET /waits" + host));
    leaves.close();
    EXPECT_TRUE(soon([&] { return program.ended.load(); }));
    // one that has read some of its answer
    program.ended = false;
    program.n_events = 0;
    program.most_events = 1 << 30;
    RawClient reads(front->port());
    ASSERT_TRUE(reads.say("GET /stream" + host));
    reads.finish();
    EXPECT_NE(reads.hear("data: 3\n").find("data: 3\n"), std::string::npos);
    reads.close();
    EXPECT_TRUE(soon([&] { return program.ended.load(); }));
}

TEST_F(FrontTest, TheLogTellsHowMuchWasPassedOn) {
    std::mutex mutex;
    std::string log;
    start([&](FrontOptions& o) {
        o.server.log_requests = true;
        o.server.log = [&](const std::string& line) {
            const std::lock_guard lock(mutex);
            log += line + "\n";
        };
    });
    for (const char* path : {"/teapot", "/stream", "/empty"}) EXPECT_TRUE(client().Get(path)) << path;
    EXPECT_TRUE(client().Head("/teapot"));
    front.reset();
    for (const char* line : {" GET /teapot 418 15 bytes\n", " GET /stream 200 stream\n", " GET /empty 204 0 bytes\n",
                             " HEAD /teapot 418 0 bytes\n"})
        EXPECT_NE(log.find(line), std::string::npos) << line << log;
}

TEST_F(FrontTest, OnlyWhoMayCallReachesTheProgram) {
    start([](FrontOptions& o) {
        o.server.api_keys = {"secret"};
        o.server.cors_origins = {"http://localhost:8080"};
    });
    auto c = client();
    EXPECT_EQ(c.Get("/echo")->status, 401);
    const httplib::Headers key = {{"X-Api-Key", "secret"}};
    EXPECT_EQ(c.Get("/echo", key)->status, 200);
    httplib::Headers stranger = key;
    stranger.emplace("Origin", "http://evil.example");
    EXPECT_EQ(c.Get("/echo", stranger)->status, 403);
    httplib::Headers page = key;
    page.emplace("Origin", "http://localhost:8080");
    const auto allowed = c.Get("/echo", page);
    ASSERT_TRUE(allowed);
    EXPECT_EQ(allowed->get_header_value("Access-Control-Allow-Origin"), "http://localhost:8080");
    EXPECT_EQ(nlohmann::json::parse(allowed->body)["headers"].count("Origin"), 0u);
    httplib::Headers rebound = key;
    rebound.emplace("Host", "evil.example");
    EXPECT_NE(c.Get("/echo", rebound)->status, 200);
}

TEST(EventReader, FindsEventsHoweverBytesAreCut) {
    const std::string all = "data: a\n\nevent: x\r\ndata: b\r\ndata: c\r\n\r\n: comment\n\ndata:d\n\nrest";
    for (size_t step = 1; step <= all.size(); ++step) {
        EventReader reader;
        std::vector<std::string> data;
        std::string text;
        for (size_t at = 0; at < all.size(); at += step) {
            ASSERT_TRUE(reader.add(std::string_view(all).substr(at, step)));
            while (const auto event = reader.next()) {
                data.push_back(event->data);
                text += event->text;
            }
        }
        EXPECT_EQ(data, (std::vector<std::string>{"a", "b\nc", "", "d"})) << step;
        EXPECT_EQ(text + reader.rest(), all) << step;
    }
    EventReader small(8);
    EXPECT_FALSE(small.add("data: 0123456789"));
}

} // namespace
