// A server in front of a program: what goes through it is what the program would have got and said.
#include "raw_client.h"
#include "server/front/event_reader.h"
#include "server/front/front.h"

#include <gtest/gtest.h>
#include <httplib.h>
#include <nlohmann/json.hpp>

#include <atomic>
#include <chrono>
#include <thread>

using namespace attnscope;
using namespace attnscope::server;
using namespace attnscope::test;

namespace {

// A program behind, which says what it was asked.
class Program {
public:
    Program() {
        const auto echo = [](const httplib::Request& q, httplib::Response& a) {
            nlohmann::json headers;
            for (const auto& [name, value] : q.headers) headers[name] = value;
            a.set_content(
                nlohmann::json{{"method", q.method}, {"target", q.target}, {"body", q.body}, {"headers", headers}}.dump(
                    -1, ' ', false, nlohmann::json::error_handler_t::replace),
                "application/json");
        };
        http_.Get("/stream", [this](const httplib::Request&, httplib::Response& a) {
            a.set_header("X-Theirs", "1");
            a.set_chunked_content_provider(
                "text/event-stream",
                [this](size_t, httplib::DataSink& sink) {
                    std::this_thread::sleep_for(std::chrono::milliseconds(2));
                    const std::string text = "data: " + std::to_string(++n_events) + "\n\n";
                    if (!sink.write(text.data(), text.size())) return false;
                    if (n_events == most_events) sink.done();
                    return true;
                },
                [this](bool) { ended = true; });
        });
        http_.Get("/waits", [this](const httplib::Request& q, httplib::Response&) {
            while (!q.is_connection_closed()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
            ended = true;
        });
        http_.Get("/teapot", [](const httplib::Request&, httplib::Response& a) {
            a.status = 418;
            a.set_header("Set-Cookie", "a=1");
            a.set_header("Set-Cookie", "b=2");
            a.set_header("Access-Control-Allow-Origin", "*");
            a.set_content("short and stout", "text/plain");
        });
        http_.Get("/nothing", [](const httplib::Request&, httplib::Response& a) { a.status = 404; });
        http_.Get("/gzip", [](const httplib::Request&, httplib::Response& a) {
            a.set_header("Content-Encoding", "gzip");
            a.set_content("not really", "text/plain");
        });
        http_.Get("/empty", [](const httplib::Request&, httplib::Response& a) { a.status = 204; });
        for (const char* path : {"/echo", "/echo/.*"}) {
            http_.Get(path, echo);
            http_.Post(path, echo);
            http_.Put(path, echo);
            http_.Patch(path, echo);
            http_.Delete(path, echo);
        }
        http_.set_error_handler(
            [](const httplib::Request&, httplib::Response&) { return httplib::Server::HandlerResponse::Unhandled; });
        port = http_.bind_to_any_port("127.0.0.1");
        thread_ = std::thread([this] { http_.listen_after_bind(); });
        http_.wait_until_ready();
    }
    ~Program() {
        http_.stop();
        thread_.join();
    }
    int port = 0;
    std::atomic<int> n_events{0}, most_events{3};
    std::atomic<bool> ended{false};

private:
    httplib::Server http_;
    std::thread thread_;
};

class FrontTest : public testing::Test {
protected:
    void start(const std::function<void(FrontOptions&)>& adjust = {}) {
        FrontOptions options;
        options.server.port = 0;
        options.to.port = program.port;
        if (adjust) adjust(options);
        auto started = Front::start(options, live);
        ASSERT_TRUE(started) << started.error().message;
        front = std::move(*started);
    }
    httplib::Client client() const {
        httplib::Client c("127.0.0.1", front->port());
        c.set_path_encode(false);
        c.set_decompress(false);
        return c;
    }
    bool soon(const std::function<bool()>& what) const {
        for (int i = 0; i < 500 && !what(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
        return what();
    }
    Program program;
    LiveSequences live;
    std::unique_ptr<Front> front;
};

TEST_F(FrontTest, RequestsArriveAsTheyWereSent) {
    start();
    auto c = client();
    const httplib::Headers headers = {{"X-Mine", "yes"}, {"Authorization", "Bearer theirs"}, {"Accept", "a/b"}};
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
    const auto head = c.Head("/teapot");
    ASSERT_TRUE(head);
    EXPECT_EQ(head->status, 418);
    EXPECT_EQ(head->get_header_value("Content-Length"), "15");
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
    EXPECT_NE(answer->body.find("does not listen"), std::string::npos);
}

TEST_F(FrontTest, AttentionOfAProgramThatIsNoLlamaServerIsRefusedInWords) {
    start();
    for (const char* path : {"/completion", "/v1/completions", "/v1/chat/completions", "/api/extra/generate/stream"}) {
        const auto answer = client().Post(path, R"({"prompt":"a","attention":{"reduce":"mean"}})", "application/json");
        ASSERT_TRUE(answer);
        EXPECT_GE(answer->status, 400) << path;
        EXPECT_FALSE(answer->body.empty()) << path;
    }
    const auto wrong =
        client().Post("/completion", R"({"prompt":"a","attention":{"reduce":"nonsense"}})", "application/json");
    ASSERT_TRUE(wrong);
    EXPECT_EQ(wrong->status, 400);
    EXPECT_NE(wrong->body.find("attention.reduce"), std::string::npos);
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
