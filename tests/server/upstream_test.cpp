// A program's answer that is sent on from the thread that reads it.
#include "server/front/upstream.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <new>
#include <string>
#include <thread>

using namespace attnscope;
using attnscope::server::Upstream;
using attnscope::server::UpstreamAddress;

namespace {

class UpstreamPass : public testing::Test {
protected:
    void SetUp() override {
        program.Get("/pieces", [](const httplib::Request&, httplib::Response& response) {
            response.set_chunked_content_provider("text/plain", [](size_t, httplib::DataSink& sink) {
                for (int i = 0; i < 20; ++i) {
                    if (!sink.write("piece", 5)) return false;
                    std::this_thread::sleep_for(std::chrono::milliseconds(5));
                }
                sink.done();
                return true;
            });
        });
        address.port = program.bind_to_any_port("127.0.0.1");
        listens = std::thread([this] { program.listen_after_bind(); });
        program.wait_until_ready();
    }
    void TearDown() override {
        program.stop();
        listens.join();
    }
    std::unique_ptr<Upstream> asked() const {
        httplib::Request request;
        request.method = "GET", request.path = "/pieces";
        auto upstream = std::make_unique<Upstream>(address, std::move(request));
        return upstream->head([] { return false; }) ? std::move(upstream) : nullptr;
    }
    httplib::Server program;
    UpstreamAddress address;
    std::thread listens;
};

TEST_F(UpstreamPass, BringsAllOfTheBody) {
    const auto upstream = asked();
    ASSERT_TRUE(upstream);
    std::string all;
    const Result<void> passed =
        upstream->pass([&](const char* data, size_t n) { return all.append(data, n), true; }, [] { return false; });
    EXPECT_TRUE(passed.ok());
    EXPECT_EQ(all.size(), 100u);
}

// Whether it says no or throws, on whichever thread that is.
TEST_F(UpstreamPass, EndsWhereItCannotBeSentOn) {
    for (const bool throws : {false, true}) {
        const auto upstream = asked();
        ASSERT_TRUE(upstream);
        size_t n_calls = 0;
        const auto begin = std::chrono::steady_clock::now();
        const Result<void> passed = upstream->pass(
            [&](const char*, size_t) {
                if (++n_calls < 5) return true;
                if (throws) throw std::bad_alloc();
                return false;
            },
            [] { return false; });
        EXPECT_FALSE(passed.ok()) << throws;
        EXPECT_EQ(n_calls, 5u);
        EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
    }
}

} // namespace
