// Who may talk to the server: keys, hosts, origins.
#include "served_model.h"

#include <gtest/gtest.h>

using namespace attnscope;
using namespace attnscope::test;

namespace {

struct Asked {
    int status = 0;
    std::string allow_origin;
    bool allows_anything = false; // any Access-Control header at all
};

Asked ask(const ServedModel& served, const std::string& path, const httplib::Headers& headers,
          const char* method = "GET") {
    httplib::Request request;
    request.method = method;
    request.path = path;
    request.headers = headers;
    if (request.method == "POST") request.body = R"({"text":"x"})";
    auto client = served.client();
    const auto r = client.send(request);
    if (!r) return {};
    Asked out{r->status, r->get_header_value("Access-Control-Allow-Origin"), false};
    for (const auto& [key, value] : r->headers) out.allows_anything |= key.rfind("Access-Control", 0) == 0;
    return out;
}

} // namespace

TEST(Access, EveryRouteWantsTheKey) {
    ServedModel served([](server::ServerOptions& o) { o.api_keys = {"one", "two"}; });
    ASSERT_TRUE(served.ok()) << served.error();
    for (const char* path : {"/health", "/v1/models", "/api/v1/model", "/api/extra/perf", "/api/extra/version",
                             "/api/extra/generate/check", "/nothing"}) {
        EXPECT_EQ(ask(served, path, {}).status, 401) << path;
        EXPECT_EQ(ask(served, path, {{"Authorization", "Bearer on"}}).status, 401) << path;
        EXPECT_EQ(ask(served, path, {{"Authorization", "Bearer onetwo"}}).status, 401) << path;
        EXPECT_EQ(ask(served, path, {{"Authorization", "one"}}).status, 401) << path;
        EXPECT_NE(ask(served, path, {{"Authorization", "Bearer one"}}).status, 401) << path;
        EXPECT_NE(ask(served, path, {{"Authorization", "bearer one"}}).status, 401) << path; // as RFC 9110 has it
        EXPECT_NE(ask(served, path, {{"X-Api-Key", "two"}}).status, 401) << path;
    }
    for (const char* path : {"/api/v1/generate", "/api/extra/generate/stream", "/api/v1/tokenize", "/api/v1/prune",
                             "/api/extra/abort", "/apply-template", "/v1/completions"}) {
        EXPECT_EQ(ask(served, path, {}, "POST").status, 401) << path;
    }
}

TEST(Access, OnlyItsOwnNamesAreServed) {
    ServedModel served([](server::ServerOptions& o) { o.allowed_hosts = {"studio.local", "proxy.example:443"}; });
    ASSERT_TRUE(served.ok()) << served.error();
    const std::string port = ":" + std::to_string(served.port());
    for (const std::string& host :
         {"127.0.0.1" + port, "localhost" + port, "LOCALHOST" + port, "[::1]" + port, "studio.local" + port,
          std::string("studio.local"), std::string("proxy.example:443")}) {
        EXPECT_EQ(ask(served, "/health", {{"Host", host}}).status, 200) << host;
    }
    for (const std::string& host :
         {"evil.example" + port, "localhost.evil.example" + port, "127.0.0.1.evil.example" + port,
          std::string("localhost:1"), "127.0.0.2" + port, "evil.example:443" + port}) {
        EXPECT_EQ(ask(served, "/health", {{"Host", host}}).status, 403) << host;
    }
}

TEST(Access, OnlyPagesOfAllowedOriginsMayCall) {
    ServedModel served([](server::ServerOptions& o) { o.cors_origins = {"http://localhost:8080"}; });
    ASSERT_TRUE(served.ok()) << served.error();
    const std::string own = "http://127.0.0.1:" + std::to_string(served.port());
    for (const std::string& origin : {std::string("http://localhost:8080"), own}) {
        const Asked a = ask(served, "/api/v1/tokenize", {{"Origin", origin}}, "POST");
        EXPECT_EQ(a.status, 200) << origin;
        EXPECT_EQ(a.allow_origin, origin);
        EXPECT_EQ(
            ask(served, "/api/v1/tokenize", {{"Origin", origin}, {"Access-Control-Request-Method", "POST"}}, "OPTIONS")
                .status,
            204);
    }
    for (const char* origin : {"http://localhost:8081", "https://localhost:8080", "http://localhost:8080.evil.example",
                               "http://localhost", "null", "", "http://evil.example", "http://localhost:8080/"}) {
        for (const char* method : {"POST", "OPTIONS"}) {
            const Asked a = ask(served, "/api/v1/tokenize", {{"Origin", origin}}, method);
            EXPECT_EQ(a.status, 403) << method << " " << origin;
            EXPECT_FALSE(a.allows_anything) << method << " " << origin;
        }
    }
    EXPECT_FALSE(ask(served, "/health", {}).allows_anything); // no wildcard for those who say nothing
}

TEST(Access, WebSocketsAreAskedForTheirOriginToo) {
    ServedModel served([](server::ServerOptions& o) { o.cors_origins = {"http://localhost:8080"}; });
    ASSERT_TRUE(served.ok()) << served.error();
    const std::string url = "ws://127.0.0.1:" + std::to_string(served.port()) + "/api/extra/generate/stream/ws";
    httplib::ws::WebSocketClient stranger(url, {{"Origin", "http://evil.example"}}),
        page(url, {{"Origin", "http://localhost:8080"}});
    const auto refused = stranger.connect();
    EXPECT_FALSE(refused);
    EXPECT_EQ(refused.status(), 403);
    EXPECT_TRUE(page.connect());
}

TEST(Access, ApiKeysDoNotStandInTheWayOfAPreflight) {
    ServedModel served([](server::ServerOptions& o) {
        o.cors_origins = {"http://localhost:8080"};
        o.api_keys = {"secret"};
    });
    ASSERT_TRUE(served.ok()) << served.error();
    const httplib::Headers page = {{"Origin", "http://localhost:8080"}};
    EXPECT_EQ(ask(served, "/api/v1/tokenize", page, "OPTIONS").status, 204);
    const Asked refused = ask(served, "/api/v1/tokenize", page, "POST");
    EXPECT_EQ(refused.status, 401);
    EXPECT_EQ(refused.allow_origin, "http://localhost:8080"); // so that the page may read why
}
