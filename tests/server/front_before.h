// A program that says what it was asked, and a front before it.
#pragma once

#include "server/front/front.h"

#include <gtest/gtest.h>
#include <httplib.h>
#include <nlohmann/json.hpp>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>

namespace attnscope::test {

class EchoProgram {
public:
    EchoProgram() {
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
        http_.Get("/slow", [](const httplib::Request& q, httplib::Response& a) {
            for (int i = 0; i < 60 && !q.is_connection_closed(); ++i)
                std::this_thread::sleep_for(std::chrono::milliseconds(10));
            a.set_content(q.is_connection_closed() ? "left" : "stayed", "text/plain");
        });
        http_.Post("/compressed", [](const httplib::Request&, httplib::Response& a) { a.status = 415; });
        http_.Get("/", [this](const httplib::Request&, httplib::Response& a) {
            if (own_page)
                a.set_content("<h1>the program's own</h1>", "text/html");
            else
                a.status = 404;
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
    ~EchoProgram() { stop(); }
    void stop() {
        http_.stop();
        if (thread_.joinable()) thread_.join();
    }
    int port = 0;
    std::atomic<int> n_events{0}, most_events{3};
    std::atomic<bool> ended{false}, own_page{false};

private:
    httplib::Server http_;
    std::thread thread_;
};

class FrontTest : public testing::Test {
protected:
    void start(const std::function<void(server::FrontOptions&)>& adjust = {}) {
        server::FrontOptions options;
        options.server.port = 0;
        options.to.port = program.port;
        if (adjust) adjust(options);
        auto started = server::Front::start(options, live);
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
    EchoProgram program;
    server::LiveSequences live;
    std::unique_ptr<server::Front> front;
};

} // namespace attnscope::test
