// How a request and its answer are framed, which method a route takes, and what a client is told of either.
#include "front_before.h"
#include "raw_client.h"
#include "served_model.h"
#include "server/view/view_server.h"
#include "support/temp_dir.h"

#include <string>
#include <vector>

using namespace attnscope;
using namespace attnscope::test;

namespace {

std::string request_to(int port, const std::string& line, const std::string& headers = {},
                       const std::string& body = {}) {
    return line + "\r\nHost: 127.0.0.1:" + std::to_string(port) + "\r\n" + headers + "\r\n" + body;
}

// Until the connection is closed.
std::string said_to(int port, const std::string& request) {
    RawClient client(port);
    return client.say(request) ? client.hear() : std::string();
}

size_t count(const std::string& text, const std::string& part) {
    size_t n = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
    return n;
}

bool holds(const std::string& text, const std::string& part) {
    return count(text, part) > 0;
}

} // namespace

TEST(HttpFraming, WhatBecomesOfTheConnectionIsSaidOnce) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    const int port = served.port();
    const std::string stream = R"({"prompt":"Hi","max_length":2,"temperature":0,"ban_eos_token":true})";
    const std::string length = "Content-Length: " + std::to_string(stream.size()) + "\r\n";
    const std::string keep = "Connection: keep-alive\r\n", close = "Connection: close\r\n";
    for (const std::string& request :
         {request_to(port, "POST /api/extra/generate/stream HTTP/1.0", keep + length, stream),
          request_to(port, "POST /api/extra/generate/stream HTTP/1.0", length, stream),
          request_to(port, "GET /health HTTP/1.0"), request_to(port, "GET /health HTTP/1.1", close),
          request_to(port, "GET /nothing HTTP/1.0", keep), request_to(port, "GET /nothing HTTP/1.1", close)}) {
        const std::string heard = said_to(port, request);
        const std::string head = heard.substr(0, heard.find("\r\n\r\n"));
        EXPECT_EQ(count(head, "\r\nConnection: "), 1u) << request << heard;
        EXPECT_TRUE(holds(head, "\r\nConnection: close")) << request << heard;
        EXPECT_FALSE(holds(head, "Keep-Alive")) << request << heard;
    }
    // One that keeps it hears so: whoever speaks HTTP/1.0 would take it for closed otherwise.
    RawClient old(port);
    ASSERT_TRUE(old.say(request_to(port, "GET /health HTTP/1.0", keep)));
    const std::string first = old.hear("\"ok\"}");
    EXPECT_EQ(count(first, "\r\nConnection: keep-alive"), 1u) << first;
    EXPECT_EQ(count(first, "\r\nConnection: "), 1u) << first;
    ASSERT_TRUE(old.say(request_to(port, "GET /health HTTP/1.0")));
    EXPECT_TRUE(holds(old.hear("\"ok\"}"), "200 OK"));
}

TEST(HttpFraming, ThePageAloneSaysItOnceToo) {
    TempDir dir;
    server::ServerOptions options;
    options.port = 0;
    const auto page = server::ViewServer::watch(dir.path().string(), options);
    ASSERT_TRUE(page) << page.error().message;
    const int port = (*page)->port();
    for (const std::string& request :
         {request_to(port, "GET /view/ HTTP/1.0"), request_to(port, "HEAD /view/ HTTP/1.1", "Connection: close\r\n"),
          request_to(port, "GET /index.html HTTP/1.0"), request_to(port, "GET /nothing HTTP/1.1")}) {
        const std::string heard = said_to(port, request);
        const std::string head = heard.substr(0, heard.find("\r\n\r\n"));
        EXPECT_EQ(count(head, "\r\nConnection: close"), 1u) << request << heard;
        EXPECT_FALSE(holds(head, "Keep-Alive")) << request << heard;
    }
}

// A coding that is not undone would leave other bytes than the client means; one whose end is not known, the next request's.
TEST(HttpFraming, TransferCodingsButChunkedAreRefusedInWords) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    const int port = served.port();
    const auto said = [&](const std::string& headers, const std::string& body) {
        return said_to(port,
                       request_to(port, "POST /api/v1/tokenize HTTP/1.1", headers + "Connection: close\r\n", body));
    };
    const std::string body = "d\r\n{\"text\":\"Hi\"}\r\n0\r\n\r\n";
    for (const char* coding : {"chunked", "Chunked", "CHUNKED"})
        EXPECT_TRUE(holds(said(std::string("Transfer-Encoding: ") + coding + "\r\n", body), "200 OK")) << coding;
    for (const char* coding : {"gzip, chunked", "chunked, chunked", "deflate,chunked", "identity, chunked"}) {
        const std::string heard = said(std::string("Transfer-Encoding: ") + coding + "\r\n", body);
        EXPECT_TRUE(holds(heard, "501 Not Implemented")) << heard;
        EXPECT_TRUE(holds(heard, "Transfer-Encoding " + std::string(coding) + " is not supported")) << heard;
    }
    EXPECT_TRUE(holds(said("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", body), "501 "));
    for (const char* coding : {"gzip", "chunked, gzip", "identity"}) {
        const std::string heard = said(std::string("Transfer-Encoding: ") + coding + "\r\n", "no matter what");
        EXPECT_TRUE(holds(heard, "400 Bad Request")) << heard;
        EXPECT_TRUE(holds(heard, "Transfer-Encoding " + std::string(coding) + " does not say where the body ends"))
            << heard;
    }
    const std::string both = said("Transfer-Encoding: chunked\r\nContent-Length: 23\r\n", body);
    EXPECT_TRUE(holds(both, "400 Bad Request")) << both;
    EXPECT_TRUE(holds(both, "both Transfer-Encoding and Content-Length")) << both;
}

TEST(HttpFraming, AWrongMethodIsNoMissingRoute) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    const auto ask = [&](const char* method, const char* path) {
        httplib::Request request;
        request.method = method;
        request.path = path;
        if (request.method != "GET") request.body = R"({"attention":{}})";
        auto client = served.client();
        const auto answer = client.send(request);
        EXPECT_TRUE(answer) << method << path;
        return answer ? *answer : httplib::Response();
    };
    struct Wrong {
        const char *method, *path, *allow;
    };
    for (const Wrong& wrong : {Wrong{"GET", "/api/v1/generate", "POST"}, Wrong{"PUT", "/api/latest/generate/", "POST"},
                               Wrong{"DELETE", "/api/v1/model", "GET, HEAD"}, Wrong{"POST", "/health", "GET, HEAD"},
                               Wrong{"PATCH", "/api/extra/generate/check", "GET, HEAD, POST"}}) {
        const httplib::Response answer = ask(wrong.method, wrong.path);
        EXPECT_EQ(answer.status, 405) << wrong.path << answer.body;
        EXPECT_EQ(answer.get_header_value("Allow"), wrong.allow) << wrong.path;
        EXPECT_TRUE(holds(answer.body, std::string(wrong.method) + " is no method of ")) << answer.body;
    }
    for (const char* method : {"GET", "POST", "PUT", "PATCH", "DELETE"}) {
        const httplib::Response answer = ask(method, "/completion");
        EXPECT_EQ(answer.status, 404) << method;
        EXPECT_TRUE(holds(answer.body, "is not answered with --in-process")) << method << answer.body;
    }
    EXPECT_EQ(ask("GET", "/api/v1/generat").status, 404);
    const httplib::Response socket = ask("GET", "/api/extra/generate/stream/ws");
    EXPECT_EQ(socket.status, 426) << socket.body;
    EXPECT_EQ(socket.get_header_value("Upgrade"), "websocket");
}

TEST(HttpFraming, HeadIsAnsweredAsGetIs) {
    ServedModel served([](server::ServerOptions& o) { o.api_keys = {"secret"}; });
    ASSERT_TRUE(served.ok()) << served.error();
    auto client = served.client();
    const httplib::Headers browser = {{"Accept", "Text/HTML"}}, key = {{"X-Api-Key", "secret"}};
    for (const char* path : {"/", "/index.html"}) {
        const auto page = client.Head(path, browser);
        ASSERT_TRUE(page) << path;
        EXPECT_EQ(page->status, 302) << path; // the page asks for the key
        EXPECT_EQ(page->get_header_value("Location"), "/view/") << path;
        const auto got = client.Get(path, key), head = client.Head(path, key);
        ASSERT_TRUE(got && head) << path;
        EXPECT_EQ(got->status, 200) << path;
        EXPECT_EQ(head->status, 200) << path;
        EXPECT_EQ(head->body, "") << path;
        EXPECT_EQ(head->get_header_value("Content-Length"), std::to_string(got->body.size())) << path;
    }
    for (const char* path : {"/view/", "/view/viewer.js", "/view/viewer.css", "/view/index.html"})
        EXPECT_EQ(client.Head(path)->status, 200) << path;
    EXPECT_EQ(client.Head("/api/v1/model")->status, 401);
}

class FrontFraming : public FrontTest {};

TEST_F(FrontFraming, AWrongMethodIsNamedAndNotTheRoute) {
    start();
    const auto ask = [&](const char* method, const char* path, const std::string& body) {
        httplib::Request request;
        request.method = method;
        request.path = path;
        request.body = body;
        const auto answer = client().send(request);
        EXPECT_TRUE(answer) << method << path;
        return answer ? *answer : httplib::Response();
    };
    const std::string asks = R"({"prompt":"a","attention":{"reduce":"mean"}})";
    for (const char* path :
         {"/completion", "/completions", "/v1/completions", "/v1/chat/completions", "/chat/completions", "/completion/",
          "/api/v1/generate", "/api/latest/generate", "/api/extra/generate/stream", "/api/chat", "/api/generate"}) {
        for (const char* method : {"PUT", "PATCH", "DELETE"}) {
            const httplib::Response answer = ask(method, path, asks);
            EXPECT_EQ(answer.status, 405) << method << path << answer.body;
            EXPECT_EQ(answer.get_header_value("Allow"), "POST") << method << path;
            EXPECT_TRUE(holds(answer.body, std::string(method) + " is no method of ")) << answer.body;
            EXPECT_FALSE(holds(answer.body, "not here")) << answer.body;
        }
        EXPECT_EQ(ask("PUT", path, "{}").status, 404) << path; // the program's own
        EXPECT_EQ(ask("GET", path, "").status, 404) << path;
    }
    // GET may have a body, too
    const std::string heard =
        said_to(front->port(),
                request_to(front->port(), "GET /completion HTTP/1.1",
                           "Connection: close\r\nContent-Length: " + std::to_string(asks.size()) + "\r\n", asks));
    EXPECT_TRUE(holds(heard, "405 Method Not Allowed")) << heard;
    EXPECT_TRUE(holds(heard, "GET is no method of /completion, which takes POST")) << heard;
    EXPECT_TRUE(holds(ask("PUT", "/echo/chat", asks).body, "attention is answered at"));
}

TEST_F(FrontFraming, ABodyInAnotherCodingDoesNotReachTheProgram) {
    start();
    const std::string body = "3\r\nabc\r\n0\r\n\r\n";
    const auto said = [&](const char* coding) {
        return said_to(front->port(),
                       request_to(front->port(), "POST /echo HTTP/1.1",
                                  std::string("Transfer-Encoding: ") + coding + "\r\nConnection: close\r\n", body));
    };
    EXPECT_TRUE(holds(said("chunked"), R"("body":"abc")")) << said("chunked");
    EXPECT_TRUE(holds(said("gzip, chunked"), "501 ")) << said("gzip, chunked");
    EXPECT_TRUE(holds(said("gzip"), "400 ")) << said("gzip");
}

TEST_F(FrontFraming, HeadLeadsABrowserWhereGetDoes) {
    start([](server::FrontOptions& o) { o.page = true; });
    for (const char* accept : {"text/html", "Text/HTML", "application/xml, TEXT/HTML;q=0.9"}) {
        const httplib::Headers browser = {{"Accept", accept}};
        for (const char* path : {"/", "/index.html"}) {
            for (const auto& answer : {client().Get(path, browser), client().Head(path, browser)}) {
                ASSERT_TRUE(answer) << path;
                EXPECT_EQ(answer->status, 302) << path << accept;
                EXPECT_EQ(answer->get_header_value("Location"), "/view/") << path << accept;
            }
        }
    }
    EXPECT_EQ(client().Head("/")->status, 404); // a script hears the program
    EXPECT_EQ(client().Get("/index.html", httplib::Headers{{"Accept", "*/*"}})->status, 404);
    EXPECT_EQ(client().Get("/", httplib::Headers{{"Accept", "text/html;q=0, application/json"}})->status, 404);
    program.own_page = true;
    const auto own = client().Head("/", httplib::Headers{{"Accept", "text/html"}});
    EXPECT_EQ(own->status, 200);
    EXPECT_EQ(own->body, "");
}
