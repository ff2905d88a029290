// attnscope attach --serve before a program that generates one text at a time, in Halo Weave's words: a conversation of ten turns, of
// which the page takes parts away, and every row bit for bit that of a recording.
#include "attach/host_output.h"
#include "models/model_store.h"
#include "support/temp_dir.h"

#include <attnscope/recording.h>

#include <gtest/gtest.h>
#include <httplib.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <csignal>
#include <cstring>
#include <functional>
#include <thread>
#include <utility>

#include <arpa/inet.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace attnscope;
using namespace attnscope::test;
using Json = nlohmann::json;

namespace {

int free_port() {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    int port = 0;
    if (bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
        getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0)
        port = ntohs(address.sin_port);
    close(fd);
    return port;
}

std::vector<float> numbers_of(const std::string& base64) {
    std::vector<uint8_t> bytes;
    uint32_t bits = 0;
    int n_bits = 0;
    const std::string letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (const char c : base64) {
        const size_t value = letters.find(c);
        if (value == std::string::npos) break;
        bits = bits << 6 | static_cast<uint32_t>(value);
        if ((n_bits += 6) < 8) continue;
        bytes.push_back(static_cast<uint8_t>(bits >> (n_bits -= 8)));
    }
    std::vector<float> out(bytes.size() / sizeof(float));
    std::memcpy(out.data(), bytes.data(), out.size() * sizeof(float));
    return out;
}

struct Told {
    std::vector<int32_t> context; // that the row is over
    Json attention;
};

class AttachServe : public testing::Test {
protected:
    void SetUp() override {
        const auto found = models::find_model("smollm2");
        if (!found) GTEST_SKIP() << found.error().message;
        const std::string port = std::to_string(free_port()), to = std::to_string(free_port());
        std::vector<std::string> argv = {ATTNSCOPE_BIN,
                                         "attach",
                                         "-q",
                                         "-o",
                                         out,
                                         "--serve",
                                         "127.0.0.1:" + port,
                                         "--to",
                                         "127.0.0.1:" + to,
                                         "--",
                                         ATTNSCOPE_KOBOLD_STAND_IN,
                                         *found,
                                         "--port",
                                         to};
        std::vector<char*> pointers;
        for (std::string& a : argv) pointers.push_back(a.data());
        pointers.push_back(nullptr);
        ASSERT_EQ(posix_spawn(&pid_, ATTNSCOPE_BIN, nullptr, nullptr, pointers.data(), environ), 0);
        client_ = std::make_unique<httplib::Client>("127.0.0.1", std::stoi(port));
        client_->set_read_timeout(120);
        for (int i = 0; i < 600; ++i) {
            const auto answer = client_->Get("/health");
            if (answer && answer->status == 200) return;
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
        }
        FAIL() << "the program does not answer";
    }
    void TearDown() override { end(); }
    void end() {
        if (pid_ <= 0) return;
        kill(pid_, SIGTERM);
        int status = 0;
        waitpid(std::exchange(pid_, 0), &status, 0);
    }
    std::vector<int32_t> tokenize(const std::string& text) {
        const auto answer = client_->Post("/api/v1/tokenize", Json{{"text", text}}.dump(), "text/plain");
        EXPECT_TRUE(answer && answer->status == 200);
        return answer ? Json::parse(answer->body)["token_ids"].get<std::vector<int32_t>>() : std::vector<int32_t>();
    }
    // Appends what is generated to `ids`.
    void generate(std::vector<int32_t>& ids, int n) {
        const Json body = {{"input_ids", ids},
                           {"max_length", n},
                           {"temperature", 0},
                           {"output_attentions", true},
                           {"request_id", "r"}};
        const auto answer = client_->Post("/api/extra/generate/stream", body.dump(), "application/json");
        ASSERT_TRUE(answer);
        ASSERT_EQ(answer->status, 200) << answer->body;
        bool done = false;
        for (size_t at = 0; (at = answer->body.find("data: ", at)) != std::string::npos; ++at) {
            const Json event =
                Json::parse(answer->body.substr(at + 6, answer->body.find('\n', at) - at - 6), nullptr, false);
            ASSERT_TRUE(event.is_object()) << answer->body.substr(at, 200);
            if (event["type"] == "done") done = true;
            ASSERT_NE(event["type"], "error") << event.dump();
            if (event["type"] != "token") continue;
            told_.push_back({ids, event["attention"]});
            ids.push_back(event["token"]["token_id"]);
        }
        EXPECT_TRUE(done);
    }
    // Whether the row is that of a line of a recording whose tokens are those.
    bool recorded(const Told& told) {
        const std::vector<float> row = numbers_of(told.attention.value("data", ""));
        const auto index = static_cast<int64_t>(told.context.size()) - 1;
        for (const std::string& path : recordings(out)) {
            auto recording = Recording::open(path);
            if (!recording) continue;
            for (const Sequence& s : (*recording)->sequences()) {
                if (s.n_frames <= index) continue;
                auto frames = (*recording)->frames(0, index + 1, s.id);
                auto rows = (*recording)->rows({index, s.id});
                if (!frames || !rows || rows->weights != row) continue;
                bool same = true;
                for (int64_t i = 0; i <= index; ++i)
                    same = same && (*frames)[static_cast<size_t>(i)].token == told.context[static_cast<size_t>(i)];
                if (same) return true;
            }
        }
        return false;
    }

    TempDir dir;
    const std::string out = dir.file("out");
    std::vector<Told> told_;
    std::unique_ptr<httplib::Client> client_;

private:
    pid_t pid_ = 0;
};

TEST_F(AttachServe, AConversationOfHaloWeavesBeforeKoboldCpp) {
    std::vector<int32_t> ids = tokenize("The capital of France is Paris, and");
    ASSERT_FALSE(ids.empty());
    for (int turn = 0; turn < 10; ++turn) {
        generate(ids, 4);
        if (HasFatalFailure()) return;
        if (turn % 3 == 2) ids.erase(ids.begin() + 2, ids.begin() + 6); // pruned
        const std::vector<int32_t> more = tokenize(" Then she said that");
        ids.insert(ids.end(), more.begin(), more.end());
        // The page sends what it shows: the text that these tokens are.
        const auto text = client_->Post("/api/v1/detokenize", Json{{"token_ids", ids}}.dump(), "application/json");
        ASSERT_TRUE(text && text->status == 200);
        ids = tokenize(Json::parse(text->body)["text"]);
    }
    end();
    ASSERT_GE(told_.size(), 30u);
    for (const Told& told : told_) {
        ASSERT_TRUE(told.attention.is_object() && !told.attention.contains("error")) << told.attention.dump();
        EXPECT_EQ(told.attention["index"], told.context.size() - 1);
        EXPECT_TRUE(recorded(told)) << told.context.size();
    }
}

TEST_F(AttachServe, WhatAsksForNoAttentionIsTheProgramsOwn) {
    const Json body = {{"prompt", "The capital of France is"}, {"max_length", 3}};
    const auto answer = client_->Post("/api/extra/generate/stream", body.dump(), "application/json");
    ASSERT_TRUE(answer);
    EXPECT_NE(answer->body.find("\"finish_reason\":\"length\""), std::string::npos) << answer->body;
    EXPECT_EQ(answer->body.find("attention"), std::string::npos);
    const Json other = {{"input_ids", {1, 2}}, {"prompt", ""}, {"output_hidden_states", true}};
    EXPECT_EQ(client_->Post("/api/extra/generate/stream", other.dump(), "application/json")->status, 501);
}

} // namespace
