// The WebSocket of Halo Weave's stream before llama-server.
#include "llama_stand_in.h"

#include <gtest/gtest.h>

#include <cstring>

using namespace attnscope;
using namespace attnscope::server;
using namespace attnscope::test;

namespace {

class Socket {
public:
    explicit Socket(int port) : client_("ws://127.0.0.1:" + std::to_string(port) + "/api/extra/generate/stream/ws") {
        client_.set_read_timeout(10);
        open_ = static_cast<bool>(client_.connect());
    }
    bool open() const { return open_; }
    bool say(const Json& message) { return client_.send(message.dump()); }
    // The next JSON frame; null when the connection ended.
    Json json() {
        std::string message;
        if (client_.read(message) != httplib::ws::Text) return {};
        return Json::parse(message, nullptr, false);
    }
    std::vector<float> floats() {
        std::string message;
        EXPECT_EQ(client_.read(message), httplib::ws::Binary);
        std::vector<float> out(message.size() / sizeof(float));
        std::memcpy(out.data(), message.data(), out.size() * sizeof(float));
        return out;
    }
    void close() { client_.close(); }

private:
    httplib::ws::WebSocketClient client_;
    bool open_ = false;
};

class SocketBeforeLlama : public BeforeLlama {
protected:
    SocketBeforeLlama() {}
};

class SocketWithKey : public BeforeLlama {
protected:
    SocketWithKey() : BeforeLlama([](FrontOptions& o) { o.server.api_keys = {"secret"}; }) {}
};

TEST_F(SocketBeforeLlama, RowsComeAsTheyAreAndAnotherRequestMayFollow) {
    Socket socket(front->port());
    ASSERT_TRUE(socket.open());
    for (int round = 0; round < 2; ++round) {
        ASSERT_TRUE(socket.say({{"prompt", "abc"},
                                {"max_length", 3},
                                {"request_id", "r"},
                                {"nonsense", 1},
                                {"attention", {{"prompt_rows", true}, {"accumulate", "last"}}}}));
        for (size_t i = 0; i < 2; ++i) {
            const Json event = socket.json();
            EXPECT_EQ(event["type"], "prompt") << event.dump();
            EXPECT_EQ(event["token_id"], 97 + i);
            EXPECT_EQ(socket.floats(), program.rows(i));
        }
        for (size_t i = 0; i < 3; ++i) {
            const Json event = socket.json();
            ASSERT_EQ(event["type"], "token") << event.dump();
            EXPECT_EQ(event["token_id"], 1000 + i);
            EXPECT_EQ(event["text"], "x");
            EXPECT_EQ(event["request_id"], "r");
            ASSERT_EQ(event["binary"], Json::array({"attention"}));
            EXPECT_EQ(event["attention"]["index"], 2 + i);
            const std::vector<float> row = socket.floats();
            EXPECT_EQ(event["attention"]["bytes"], row.size() * sizeof(float));
            EXPECT_EQ(row, program.rows(2 + i));
        }
        const Json done = socket.json();
        EXPECT_EQ(done["type"], "done") << done.dump();
        EXPECT_EQ(done["finish_reason"], "length");
        EXPECT_EQ(done["total_tokens"], 3);
        EXPECT_EQ(done["scores"]["rows"], 5);
        EXPECT_EQ(done["ignored_fields"], Json::array({"nonsense"}));
    }
    ASSERT_TRUE(socket.say({{"prompt", "abc"}, {"max_length", 1}}));
    const Json bare = socket.json();
    EXPECT_EQ(bare["type"], "token");
    EXPECT_EQ(bare["binary"], Json::array());
    EXPECT_TRUE(bare["attention"].is_null());
    EXPECT_EQ(socket.json()["type"], "done");
}

TEST_F(SocketBeforeLlama, WhyThereAreNoRowsIsSaid) {
    program.wrong_slot = true;
    Socket socket(front->port());
    ASSERT_TRUE(socket.say({{"prompt", "abc"}, {"max_length", 1}, {"output_attentions", true}}));
    const Json event = socket.json();
    EXPECT_EQ(event["binary"], Json::array());
    EXPECT_TRUE(event["attention"].contains("error")) << event.dump();
    EXPECT_EQ(socket.json()["type"], "done");
}

TEST_F(SocketBeforeLlama, AbortEndsTheAnswerAndAnotherMayFollow) {
    program.pace_ms = 20;
    Socket socket(front->port());
    ASSERT_TRUE(socket.say({{"prompt", "abc"}, {"max_length", 60}}));
    EXPECT_EQ(socket.json()["type"], "token");
    ASSERT_TRUE(socket.say({{"type", "abort"}}));
    Json event;
    int n = 1;
    do {
        event = socket.json();
        n += event.value("type", "") == "token";
    } while (event.value("type", "") == "token");
    EXPECT_EQ(event["type"], "done") << event.dump();
    EXPECT_EQ(event["finish_reason"], "aborted");
    EXPECT_EQ(event["total_tokens"], n);
    EXPECT_LT(n, 60);
    EXPECT_TRUE(soon([&] { return program.broke_off.load(); }));
    program.pace_ms = 0;
    ASSERT_TRUE(socket.say({{"prompt", "abc"}, {"max_length", 1}}));
    EXPECT_EQ(socket.json()["type"], "token");
    EXPECT_EQ(socket.json()["type"], "done");
}

// One answer at a time: which request was refused has to be told beside the answer that goes on.
TEST_F(SocketBeforeLlama, ASecondRequestBesideARunningOneIsRefusedByItsName) {
    program.pace_ms = 20;
    Socket socket(front->port());
    ASSERT_TRUE(socket.say({{"prompt", "abc"}, {"max_length", 20}, {"request_id", "first"}}));
    EXPECT_EQ(socket.json()["request_id"], "first");
    ASSERT_TRUE(socket.say({{"prompt", "abc"}, {"max_length", 2}, {"request_id", "second"}}));
    int n = 1, n_refused = 0;
    Json event = socket.json();
    for (; event.value("type", "") == "token" || event.value("type", "") == "error"; event = socket.json()) {
        const bool refused = event["type"] == "error";
        EXPECT_EQ(event["request_id"], refused ? "second" : "first") << event.dump();
        if (refused) {
            EXPECT_EQ(event["status"], 400);
        }
        n += !refused;
        n_refused += refused;
    }
    EXPECT_EQ(event["type"], "done") << event.dump();
    EXPECT_EQ(event["request_id"], "first");
    EXPECT_EQ(n, 20);
    EXPECT_EQ(n_refused, 1);
    program.pace_ms = 0;
    program.breaks = true; // an answer that fails names its request, too
    ASSERT_TRUE(socket.say({{"prompt", "abc"}, {"max_length", 1}, {"request_id", "third"}}));
    EXPECT_EQ(socket.json()["type"], "token");
    EXPECT_EQ(socket.json()["request_id"], "third");
}

TEST_F(SocketBeforeLlama, ClosingItEndsTheAnswer) {
    program.pace_ms = 20;
    {
        Socket socket(front->port());
        ASSERT_TRUE(socket.say({{"prompt", "abc"}, {"max_length", 60}, {"output_attentions", true}}));
        EXPECT_EQ(socket.json()["type"], "token");
        socket.floats();
    }
    EXPECT_TRUE(soon([&] { return program.broke_off.load(); }));
}

TEST_F(SocketBeforeLlama, AnAnswerThatBreaksOffIsAnError) {
    program.breaks = true;
    Socket socket(front->port());
    ASSERT_TRUE(socket.say({{"prompt", "abc"}, {"max_length", 1}}));
    EXPECT_EQ(socket.json()["type"], "token");
    const Json event = socket.json();
    EXPECT_EQ(event["type"], "error");
    EXPECT_EQ(event["status"], 500);
}

TEST_F(SocketWithKey, BadMessagesAreRefusedInWords) {
    {
        Socket socket(front->port()); // a browser cannot send headers: the key comes in the first message
        ASSERT_TRUE(socket.open());
        ASSERT_TRUE(socket.say({{"prompt", "x"}, {"max_length", 1}}));
        EXPECT_EQ(socket.json()["status"], 401);
        EXPECT_TRUE(socket.json().is_null());
    }
    Socket socket(front->port());
    ASSERT_TRUE(socket.open());
    ASSERT_TRUE(socket.say({{"api_key", "secret"}, {"prompt", "x"}, {"max_length", -5}}));
    EXPECT_EQ(socket.json()["status"], 400);
    ASSERT_TRUE(socket.say({{"prompt", "x"}, {"max_length", 1}}));
    EXPECT_EQ(socket.json()["type"], "token");
}

} // namespace
