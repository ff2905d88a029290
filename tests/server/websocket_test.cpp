// The binary stream over a WebSocket.
#include "served_model.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>

using namespace attnscope;
using namespace attnscope::test;

namespace {

class Socket {
public:
    explicit Socket(const ServedModel& served, const httplib::Headers& headers = {})
        : client_("ws://127.0.0.1:" + std::to_string(served.port()) + "/api/extra/generate/stream/ws", headers) {
        client_.set_read_timeout(60);
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
    std::string binary() {
        std::string message;
        EXPECT_EQ(client_.read(message), httplib::ws::Binary);
        return message;
    }
    void close() { client_.close(); }

private:
    httplib::ws::WebSocketClient client_;
    bool open_ = false;
};

Json asking(Json more = Json::object()) {
    Json body = {{"prompt", long_text(10)},
                 {"max_length", 6},
                 {"temperature", 0},
                 {"ban_eos_token", true},
                 {"output_attentions", true}};
    body.update(more);
    return body;
}

} // namespace

TEST(WebSocket, RowsAreThoseOfTheRecordingBitForBit) {
    TempDir dir;
    ServedModel served([&](server::ServerOptions& o) { o.record_dir = dir.path().string(); });
    ASSERT_TRUE(served.ok()) << served.error();
    Socket socket(served);
    ASSERT_TRUE(socket.open());
    ASSERT_TRUE(socket.say(asking({{"record", true}, {"output_hidden_states", true}})));
    std::vector<std::pair<Json, std::string>> tokens;
    Json event = socket.json();
    for (; event.value("type", "") == "token"; event = socket.json()) {
        ASSERT_EQ(event["binary"], Json::array({"attention", "hidden_state"}));
        tokens.emplace_back(event["attention"], socket.binary());
        EXPECT_EQ(socket.binary().size(), ServedModel::n_embd * sizeof(float));
        EXPECT_TRUE(event["token_id"].is_number_integer());
        EXPECT_TRUE(event["text"].is_string());
    }
    ASSERT_EQ(event["type"], "done") << event.dump();
    EXPECT_EQ(event["finish_reason"], "length");
    ASSERT_EQ(tokens.size(), 6u);
    auto recording = Recording::open(dir.file(event["recording"]));
    ASSERT_TRUE(recording) << recording.error().message;
    for (const auto& [attention, bytes] : tokens) {
        EXPECT_EQ(attention["bytes"], bytes.size());
        const auto rows = (*recording)->rows(attention["index"].get<int64_t>());
        ASSERT_TRUE(rows);
        ASSERT_EQ(rows->weights.size() * sizeof(float), bytes.size());
        EXPECT_EQ(std::memcmp(rows->weights.data(), bytes.data(), bytes.size()), 0);
    }
}

TEST(WebSocket, SmallerFormsStayNearTheRows) {
    ServedModel served;
    ASSERT_TRUE(served.ok()) << served.error();
    Socket socket(served);
    ASSERT_TRUE(socket.open());
    std::vector<std::vector<float>> values;
    for (const char* format : {"f32", "f16", "u8"}) {
        ASSERT_TRUE(
            socket.say(asking({{"max_length", 1}, {"cache_prompt", false}, {"attention", {{"format", format}}}})));
        const Json event = socket.json();
        ASSERT_EQ(event["type"], "token") << event.dump();
        const std::string bytes = socket.binary();
        const size_t n = ServedModel::n_rows * event["attention"]["context_length"].get<size_t>();
        const auto form = attention_format_from_name(format);
        ASSERT_TRUE(form);
        auto decoded = decode_values({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, n,
                                     event["attention"]["context_length"].get<int64_t>(), *form);
        ASSERT_TRUE(decoded) << decoded.error().message;
        values.push_back(std::move(*decoded));
        EXPECT_EQ(socket.json()["type"], "done");
    }
    for (size_t i = 0; i < values[0].size(); ++i) {
        ASSERT_NEAR(double(values[1][i]), double(values[0][i]), 1e-3);
        ASSERT_NEAR(double(values[2][i]), double(values[0][i]), 1.0 / 255 + 1e-6);
    }
}

TEST(WebSocket, AbortEndsTheGenerationAndAnotherMayFollow) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    Socket socket(served);
    ASSERT_TRUE(socket.open());
    ASSERT_TRUE(socket.say({{"prompt", "Once upon a time"}, {"max_length", 900}, {"ban_eos_token", true}}));
    EXPECT_EQ(socket.json()["type"], "token");
    ASSERT_TRUE(socket.say({{"type", "abort"}}));
    Json event;
    do {
        event = socket.json();
    } while (event.value("type", "") == "token");
    EXPECT_EQ(event["type"], "done");
    EXPECT_EQ(event["finish_reason"], "aborted");
    ASSERT_TRUE(socket.say({{"prompt", "Again"}, {"max_length", 2}, {"ban_eos_token", true}}));
    EXPECT_EQ(socket.json()["type"], "token");
    EXPECT_EQ(socket.json()["type"], "token");
    EXPECT_EQ(socket.json()["type"], "done");
}

TEST(WebSocket, ClosingItStopsTheGeneration) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    {
        Socket socket(served);
        ASSERT_TRUE(socket.open());
        ASSERT_TRUE(socket.say(asking({{"max_length", 900}})));
        EXPECT_EQ(socket.json()["type"], "token");
        socket.binary();
    }
    EXPECT_TRUE(served.idle_within(10));
    EXPECT_LT(served.get("/api/extra/perf")["last_token_count"].get<int>(), 200);
}

TEST(WebSocket, AReaderThatWantsTheLatestIsToldWhatItMissed) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    Socket socket(served);
    ASSERT_TRUE(socket.open());
    // Frames large enough to fill the socket's own buffers soon.
    ASSERT_TRUE(socket.say({{"prompt", long_text(35)},
                            {"max_length", 100},
                            {"ban_eos_token", true},
                            {"attention", {{"flow", "latest"}}}}));
    int n_tokens = 0, n_rows = 0;
    Json event = socket.json();
    for (; event.value("type", "") == "token"; event = socket.json()) {
        ++n_tokens;
        if (!event["binary"].empty()) {
            ++n_rows;
            socket.binary();
        }
        if (n_tokens == 1) {
            EXPECT_TRUE(served.idle_within(60)); // reads nothing until all is generated
        }
    }
    EXPECT_EQ(event["type"], "done") << event.dump();
    EXPECT_EQ(n_tokens, 100); // text is never skipped
    EXPECT_GT(event["skipped"].get<int>(), 0);
    EXPECT_EQ(event["skipped"].get<int>() + n_rows, 100);
}

TEST(WebSocket, AClientThatDoesNotReadIsGivenUpAndToldSo) {
    ServedModel served(
        [](server::ServerOptions& o) {
            o.stream_memory = size_t(1) << 20;
            o.stall = std::chrono::seconds(1);
        },
        1024, Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    Socket socket(served);
    ASSERT_TRUE(socket.open());
    ASSERT_TRUE(socket.say(
        {{"prompt", long_text(35)}, {"max_length", 250}, {"ban_eos_token", true}, {"output_attentions", true}}));
    Json event = socket.json();
    ASSERT_EQ(event["type"], "token") << event.dump();
    socket.binary();
    EXPECT_TRUE(served.idle_within(60)); // others have their turn
    EXPECT_LT(served.get("/api/extra/perf")["last_token_count"].get<int>(), 250);
    int n = 1;
    for (event = socket.json(); event.value("type", "") == "token"; event = socket.json()) {
        ++n;
        if (!event["binary"].empty()) socket.binary();
    }
    EXPECT_EQ(event["type"], "done") << event.dump();
    EXPECT_EQ(event["finish_reason"], "stalled");
    EXPECT_EQ(event["total_tokens"], n);
}

TEST(WebSocket, BadMessagesAreRefusedInWords) {
    ServedModel served([](server::ServerOptions& o) { o.api_keys = {"secret"}; });
    ASSERT_TRUE(served.ok()) << served.error();
    {
        Socket socket(served); // a browser cannot send headers: the key comes in the first message
        ASSERT_TRUE(socket.open());
        ASSERT_TRUE(socket.say({{"prompt", "x"}, {"max_length", 1}}));
        EXPECT_EQ(socket.json()["status"], 401);
        EXPECT_TRUE(socket.json().is_null());
    }
    Socket socket(served);
    ASSERT_TRUE(socket.open());
    ASSERT_TRUE(socket.say({{"api_key", "secret"}, {"prompt", "x"}, {"max_length", -5}}));
    EXPECT_EQ(socket.json()["status"], 400);
    ASSERT_TRUE(socket.say({{"prompt", "x"}, {"max_length", 1}, {"ban_eos_token", true}}));
    EXPECT_EQ(socket.json()["type"], "token");
}
