// Grammars that take as much time as they get: who sends them waits, and nobody else.
#include "raw_client.h"
#include "served_model.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

using namespace attnscope;
using namespace attnscope::test;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

namespace {

// a0 can be begun in 2^n ways, all of which the engine follows: seconds of processor time, until its limit.
std::string ambiguous_rules(int n) {
    std::string rules;
    for (int i = 0; i < n; ++i) {
        const std::string next = "a" + std::to_string(i + 1);
        rules += "a" + std::to_string(i) + " ::= " + next + " | " + next + " \"x\"\n";
    }
    return rules + "a" + std::to_string(n) + " ::= \"y\"\n";
}

const std::string slow_to_begin = "root ::= a0\n" + ambiguous_rules(60);
const std::string slow_later = "root ::= \"zqzqzqzqzq\" a0\n" + ambiguous_rules(12); // its beginning costs nothing

double seconds_since(Clock::time_point begun) {
    return std::chrono::duration<double>(Clock::now() - begun).count();
}

// Processes that this one has started and that have not ended.
size_t n_children() {
    size_t n = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
        std::ifstream status(entry.path() / "stat");
        std::string pid, name, state, parent;
        if (status >> pid >> name >> state >> parent) n += parent == std::to_string(getpid());
    }
    return n;
}

bool within(double seconds, const std::function<bool()>& holds) {
    const auto begun = Clock::now();
    while (!holds()) {
        if (seconds_since(begun) > seconds) return false;
        std::this_thread::sleep_for(milliseconds(5));
    }
    return true;
}

std::string post_of(const ServedModel& served, const std::string& path, const Json& body) {
    const std::string text = body.dump();
    return "POST " + path + " HTTP/1.1\r\nHost: 127.0.0.1:" + std::to_string(served.port()) +
           "\r\nContent-Length: " + std::to_string(text.size()) + "\r\n\r\n" + text;
}

// What an ordinary request takes now.
double ordinary(const ServedModel& served) {
    const auto begun = Clock::now();
    served.post("/v1/completions", {{"prompt", "Hi"}, {"max_tokens", 1}, {"temperature", 0}});
    return seconds_since(begun);
}

} // namespace

TEST(HostileGrammars, WhoLeavesWhileOneIsTriedOutTakesItsChildAlong) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    for (const char* path : {"/v1/completions", "/completion", "/api/v1/generate", "/api/extra/generate/stream"}) {
        RawClient client(served.port());
        ASSERT_TRUE(client.say(post_of(served, path, {{"prompt", "Hi"}, {"grammar", slow_to_begin}})));
        ASSERT_TRUE(within(10, [] { return n_children() > 0; })) << path;
        std::this_thread::sleep_for(milliseconds(400)); // it is known to take long by now
        client.close();
        const auto begun = Clock::now();
        EXPECT_TRUE(within(30, [] { return n_children() == 0; })) << path;
        EXPECT_LT(seconds_since(begun), 1.5) << path;
    }
}

TEST(HostileGrammars, WhoLeavesInMidGenerationFreesTheQueue) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    for (const bool stream : {false, true}) {
        RawClient client(served.port());
        ASSERT_TRUE(client.say(
            post_of(served, "/v1/completions", {{"prompt", "Hi"}, {"grammar", slow_later}, {"stream", stream}})));
        ASSERT_TRUE(within(10, [&] { return served.get("/slots")[0]["is_processing"].get<bool>(); })) << client.hear();
        std::this_thread::sleep_for(milliseconds(300)); // the engine's thread waits for the grammar
        ASSERT_TRUE(served.get("/slots")[0]["is_processing"].get<bool>());
        client.close();
        EXPECT_LT(ordinary(served), 2.0) << "streamed: " << stream;
        EXPECT_TRUE(within(1, [] { return n_children() == 0; }));
    }
}

TEST(HostileGrammars, OnesThatAreTriedOutHoldNoOtherRequestUp) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    std::vector<std::future<int>> hostile;
    for (int i = 0; i < 6; ++i) {
        hostile.push_back(std::async(std::launch::async, [&] {
            return served.status("/v1/completions", Json{{"prompt", "Hi"}, {"grammar", slow_to_begin}}.dump());
        }));
    }
    ASSERT_TRUE(within(10, [] { return n_children() > 0; }));
    const double plain = ordinary(served);
    const auto begun = Clock::now();
    const Json good = served.post("/v1/completions", {{"prompt", "Hi"}, {"grammar", "root ::= \" yes\" | \" no\""}});
    const double with_grammar = seconds_since(begun);
    EXPECT_FALSE(good.is_null());
    EXPECT_LT(plain, 3.0);
    // six times a quarter of a second of processor time, two at once, before it; one of them alone may go on beside it
    EXPECT_LT(with_grammar, 6.0);
    std::printf("beside six grammars that are tried out: %.2f s a plain request, %.2f s one with a grammar\n", plain,
                with_grammar);
    const auto rest = Clock::now();
    for (auto& one : hostile) EXPECT_EQ(one.get(), 400);
    std::printf("the six were refused after %.1f s more\n", seconds_since(rest));
}

TEST(HostileGrammars, ServersThatStopDoNotWaitForThem) {
    auto served = std::make_unique<ServedModel>(Served::real);
    ASSERT_TRUE(served->ok()) << served->error();
    RawClient tried(served->port()), running(served->port());
    ASSERT_TRUE(running.say(post_of(*served, "/completion", {{"prompt", "Hi"}, {"grammar", slow_later}})));
    ASSERT_TRUE(within(10, [&] { return served->get("/slots")[0]["is_processing"].get<bool>(); }));
    ASSERT_TRUE(tried.say(post_of(*served, "/completion", {{"prompt", "Hi"}, {"grammar", slow_to_begin}})));
    std::this_thread::sleep_for(milliseconds(400));
    ASSERT_EQ(n_children(), 2u);
    const auto begun = Clock::now();
    served.reset();
    EXPECT_LT(seconds_since(begun), 3.0); // clients that keep their connection are cut off after two
    EXPECT_EQ(n_children(), 0u);
}
