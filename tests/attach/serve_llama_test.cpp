// attnscope attach --serve before the llama-server of the pinned sources, in KoboldCPP's and Halo Weave's words: every row bit for bit
// that of the recording whose name the answer tells.
#include "attach/served_program.h"
#include "server/raw_client.h"
#include "support/temp_dir.h"

#include <attnscope/recording.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <thread>

using namespace attnscope;
using namespace attnscope::test;
using Json = nlohmann::json;

namespace {

class ServeLlama : public testing::Test {
protected:
    void SetUp() override {
        if (!std::filesystem::exists(ATTNSCOPE_LLAMA_SERVER))
            GTEST_SKIP() << "the sources' llama-server is not built: " << ATTNSCOPE_LLAMA_SERVER;
        const std::string model = dir.file("tiny.gguf");
        ASSERT_EQ(std::system((ATTNSCOPE_BIN " models make --layers 3 -o " + model + " > /dev/null").c_str()), 0);
        served_ = std::make_unique<ServedProgram>(std::vector<std::string>{"-o", out}, [&](const std::string& port) {
            return std::vector<std::string>{
                ATTNSCOPE_LLAMA_SERVER, "-m", model, "--port", port, "-np", "2", "-c", "1024", "-t", "1",
                "--no-kv-unified"};
        });
        ASSERT_TRUE(served_->ok()) << "the program does not answer";
    }
    std::string post(const std::string& path, const Json& body, int status = 200) {
        const auto answer = served_->client().Post(path, body.dump(), "application/json");
        EXPECT_TRUE(answer && answer->status == status) << path << (answer ? answer->body : std::string("no answer"));
        return answer ? answer->body : std::string();
    }
    static std::vector<Json> events(const std::string& text) {
        std::vector<Json> out;
        for (size_t at = 0; (at = text.find("data: ", at)) != std::string::npos; ++at) {
            const std::string data = text.substr(at + 6, text.find('\n', at) - at - 6);
            if (data != "[DONE]") out.push_back(Json::parse(data));
        }
        return out;
    }
    struct Told {
        int64_t index = -1;
        std::vector<float> row;
    };
    void take(const Json& attention) {
        ASSERT_TRUE(attention.is_object() && attention.contains("data")) << attention.dump();
        rows_.push_back({attention["index"], numbers_of(attention["data"])});
    }
    // The rows that were told since are those of the line that `end` names, which begins with `prompt` and has the generated `tokens`.
    void expect_recorded(const Json& end, const std::vector<int32_t>& prompt, const std::vector<int32_t>& tokens) {
        ASSERT_TRUE(end.contains("recording")) << end.dump();
        auto recording = Recording::open(out + "/" + end["recording"].get<std::string>());
        ASSERT_TRUE(recording) << recording.error().message;
        const int64_t line = end["sequence"];
        const auto n = static_cast<int64_t>(prompt.size() + tokens.size()) - 1; // the last one was not decoded
        auto frames = (*recording)->frames(0, n, line);
        ASSERT_TRUE(frames) << frames.error().message;
        for (size_t i = 0; i < prompt.size(); ++i) EXPECT_EQ((*frames)[i].token, prompt[i]) << i;
        for (size_t i = 0; i + 1 < tokens.size(); ++i) EXPECT_EQ((*frames)[prompt.size() + i].token, tokens[i]) << i;
        ASSERT_EQ(rows_.size(), tokens.size());
        for (size_t i = 0; i < rows_.size(); ++i) {
            EXPECT_EQ(rows_[i].index, static_cast<int64_t>(prompt.size() + i) - 1);
            auto rows = (*recording)->rows({rows_[i].index, line});
            ASSERT_TRUE(rows) << rows.error().message;
            EXPECT_EQ(rows->weights, rows_[i].row) << i;
        }
        rows_.clear();
    }
    // What is written while the program runs is there a moment later.
    void end() { served_->end(); }

    TempDir dir;
    const std::string out = dir.file("out");
    std::vector<Told> rows_;
    std::unique_ptr<ServedProgram> served_;
};

TEST_F(ServeLlama, RowsAreThoseOfTheRecordingThatTheAnswerNames) {
    const std::string text = "A text of which others are made.";
    const auto prompt =
        Json::parse(post("/api/extra/tokencount", {{"prompt", text}}))["ids"].get<std::vector<int32_t>>();
    struct Answer {
        Json end;
        std::vector<int32_t> tokens;
        std::vector<Told> rows;
    };
    std::map<std::string, Answer> all;
    for (const char* kind : {"first", "again"}) { // the second time most of the prompt is there already
        Answer& a = all[kind];
        for (const Json& event : events(post("/api/extra/generate/stream", {{"prompt", text},
                                                                            {"max_length", 12},
                                                                            {"ban_eos_token", true},
                                                                            {"output_attentions", true},
                                                                            {"record", true}}))) {
            if (event["type"] == "done") a.end = event;
            if (event["type"] != "token") continue;
            a.tokens.push_back(event["token"]["token_id"]);
            take(event["attention"]);
        }
        a.rows = std::exchange(rows_, {});
    }
    EXPECT_EQ(all["first"].end["reused"], 0);
    EXPECT_GT(all["again"].end["reused"], 0);

    Answer& whole = all["whole"];
    const Json body = {{"prompt", text}, {"n_predict", 12},       {"ignore_eos", true},
                       {"record", true}, {"return_tokens", true}, {"attention", Json::object()}};
    whole.end = Json::parse(post("/completion", body));
    whole.tokens = whole.end["tokens"].get<std::vector<int32_t>>();
    for (const Json& row : whole.end["attention"]) take(row);
    whole.rows = std::exchange(rows_, {});

    Answer& socket = all["socket"];
    httplib::ws::WebSocketClient client("ws://127.0.0.1:" + std::to_string(served_->port()) +
                                        "/api/extra/generate/stream/ws");
    client.set_read_timeout(60);
    ASSERT_TRUE(client.connect());
    ASSERT_TRUE(client.send(Json{
        {"prompt", text}, {"max_length", 12}, {"ban_eos_token", true}, {"record", true}, {"output_attentions", true}}
                                .dump()));
    for (std::string message; client.read(message) == httplib::ws::Text;) {
        const Json event = Json::parse(message);
        if (event["type"] != "token") {
            socket.end = event;
            break;
        }
        socket.tokens.push_back(event["token_id"]);
        ASSERT_EQ(client.read(message), httplib::ws::Binary);
        std::vector<float> row(message.size() / sizeof(float));
        std::memcpy(row.data(), message.data(), message.size());
        socket.rows.push_back({event["attention"]["index"], std::move(row)});
    }
    client.close();

    end();
    for (const auto& [kind, a] : all) {
        SCOPED_TRACE(kind);
        ASSERT_EQ(a.tokens.size(), 12u);
        rows_ = a.rows;
        expect_recorded(a.end, prompt, a.tokens);
    }
}

// One request of many at once, and what it was told.
struct Mixed {
    std::string kind, text;
    bool left = false; // in the middle, or ended by its name
    std::vector<int32_t> tokens;
    std::vector<std::pair<int64_t, std::vector<float>>> rows;
    std::vector<std::string> errors;
    Json end;
    void take(const Json& attention) {
        if (attention.is_object() && attention.contains("data"))
            rows.emplace_back(attention["index"], numbers_of(attention["data"]));
        else
            errors.push_back(attention.dump());
    }
    void take_event(const Json& event) {
        if (event.contains("attention")) take(event["attention"]);
        const std::string type = event.value("type", ""); // KoboldCPP's events have none
        if (type == "token") tokens.push_back(event["token"]["token_id"]);
        if (type == "done") end = event;
        if (event.contains("summary")) end = event["summary"];
    }
};

void ask(int port, std::mt19937& rng, Mixed& one) {
    httplib::Client client("127.0.0.1", port);
    client.set_read_timeout(60);
    const std::string key = "k" + std::to_string(rng());
    Json body = {{"prompt", one.text},    {"max_length", 8 + rng() % 24},
                 {"temperature", 1.5},    {"sampler_seed", rng() % 1000000},
                 {"ban_eos_token", true}, {"record", true},
                 {"genkey", key},         {"attention", {{"reduce", "none"}}}};
    body["cache_prompt"] = rng() % 4 != 0;
    if (one.kind == "whole") {
        const auto answer = client.Post("/api/v1/generate", body.dump(), "application/json");
        if (!answer || answer->status != 200) return one.errors.push_back(answer ? answer->body : "no answer");
        one.end = Json::parse(answer->body);
        for (const Json& row : one.end["attention"]) one.take(row);
        return;
    }
    if (one.kind == "halo weave") body["output_attentions"] = true;
    const bool aborts = one.left && rng() % 2 == 0;
    std::string text;
    size_t n_events = 0;
    const auto on = [&](const char* data, size_t n) {
        text.append(data, n);
        for (size_t end; (end = text.find("\n\n")) != std::string::npos; text.erase(0, end + 2)) {
            one.take_event(Json::parse(text.substr(text.find("data: ") + 6, end - text.find("data: ") - 6)));
            if (!one.left || ++n_events != 3) continue;
            if (!aborts) return false; // it goes away
            httplib::Client other("127.0.0.1", port);
            (void)other.Post("/api/extra/abort", Json{{"genkey", key}}.dump(), "application/json");
        }
        return true;
    };
    httplib::Request request;
    request.method = "POST";
    request.path = "/api/extra/generate/stream";
    request.body = body.dump();
    request.content_receiver = [&](const char* data, size_t n, size_t, size_t) { return on(data, n); };
    (void)client.send(request);
}

// Sixteen clients with few prompts, some of which leave: whatever an answer tells is of the line that it names.
TEST_F(ServeLlama, NoAnswerOfManyAtOnceHasAnothersRowsOrNamesAnothersLine) {
    const std::string begin = "Answer in one short sentence, please. ";
    const std::vector<std::string> texts = {"A text.", begin + "What is it?", begin + "Which is it?"};
    const char* const kinds[] = {"halo weave", "kobold", "whole"};
    constexpr size_t n_clients = 16, n_requests = 6;
    std::vector<Mixed> all(n_clients * n_requests);
    std::map<std::string, std::vector<int32_t>> prompts;
    for (const std::string& text : texts)
        prompts[text] =
            Json::parse(post("/api/extra/tokencount", {{"prompt", text}}))["ids"].get<std::vector<int32_t>>();
    std::vector<std::thread> clients;
    for (size_t c = 0; c < n_clients; ++c) {
        clients.emplace_back([&, c] {
            std::mt19937 rng(static_cast<uint32_t>(c));
            for (size_t r = 0; r < n_requests; ++r) {
                Mixed& one = all[c * n_requests + r];
                one.kind = kinds[rng() % 3];
                one.text = texts[rng() % texts.size()];
                one.left = one.kind != "whole" && rng() % 4 == 0;
                ask(served_->port(), rng, one);
            }
        });
    }
    for (std::thread& client : clients) client.join();
    end();
    size_t n_rows = 0, n_named = 0, n_without = 0;
    for (const Mixed& one : all) {
        SCOPED_TRACE(one.kind + (one.left ? ", left" : "") + ": " + one.end.dump().substr(0, 300));
        n_without += !one.errors.empty();
        if (!one.end.contains("recording")) continue; // it left before its end, or is told why not
        ++n_named;
        auto recording = Recording::open(out + "/" + one.end["recording"].get<std::string>());
        ASSERT_TRUE(recording) << recording.error().message;
        const int64_t line = one.end["sequence"];
        const std::vector<int32_t>& prompt = prompts[one.text];
        const auto n = static_cast<int64_t>(prompt.size() + one.rows.size()) - 1;
        auto frames = (*recording)->frames(0, n, line);
        ASSERT_TRUE(frames) << frames.error().message;
        for (size_t i = 0; i < prompt.size(); ++i) ASSERT_EQ((*frames)[i].token, prompt[i]) << i;
        for (size_t i = 0; i + 1 < one.tokens.size() && prompt.size() + i < frames->size(); ++i)
            ASSERT_EQ((*frames)[prompt.size() + i].token, one.tokens[i]) << i;
        for (const auto& [index, row] : one.rows) {
            auto rows = (*recording)->rows({index, line});
            ASSERT_TRUE(rows) << rows.error().message;
            ASSERT_EQ(rows->weights, row) << index;
            ++n_rows;
        }
    }
    EXPECT_GT(n_named, all.size() / 2);
    EXPECT_GT(n_rows, all.size() * 4);
    EXPECT_LE(n_without, all.size() / 10);
    RecordProperty("rows", static_cast<int>(n_rows));
    RecordProperty("named", static_cast<int>(n_named));
}

// A client that has left soon after its answer began, and one that only says no more, look the same. The program, which says nothing any
// more, would wait for them, and everybody for it.
TEST_F(ServeLlama, EndsWhereAClientSaysNoMore) {
    const std::string body = Json{{"prompt", "A text."}, {"max_length", 400}, {"ban_eos_token", true}}.dump();
    std::vector<std::unique_ptr<RawClient>> clients;
    for (int i = 0; i < 4; ++i) { // two of them wait for a slot
        clients.push_back(std::make_unique<RawClient>(served_->port()));
        ASSERT_TRUE(clients.back()->say(
            "POST /api/extra/generate/stream HTTP/1.1\r\nHost: 127.0.0.1:" + std::to_string(served_->port()) +
            "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body));
    }
    ASSERT_NE(clients[0]->hear("data: ", 2), "");
    for (const auto& client : clients) client->finish();
    const auto start = std::chrono::steady_clock::now();
    end();
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

TEST_F(ServeLlama, TextsAreThoseOfTheProgramItself) {
    const Json kobold = {{"prompt", "One, two,"}, {"max_length", 16}, {"temperature", 0}, {"rep_pen", 1}, {"top_k", 1}};
    const Json own = {{"prompt", "One, two,"}, {"n_predict", 16}, {"temperature", 0}, {"top_k", 1}};
    const std::string expected = Json::parse(post("/completion", own))["content"];
    const Json answer = Json::parse(post("/api/v1/generate", kobold))["results"][0];
    EXPECT_EQ(answer["text"], expected);
    EXPECT_EQ(answer["completion_tokens"], 16);
    EXPECT_EQ(answer["finish_reason"], "length");
    std::string streamed;
    for (const Json& event : events(post("/api/extra/generate/stream", kobold))) streamed += event["token"];
    EXPECT_EQ(streamed, expected);
    // A stop sequence of the program's own search, shown or not.
    size_t at = expected.size() / 2;
    while (at < expected.size() && static_cast<unsigned char>(expected[at]) >= 0x80) ++at;
    ASSERT_LT(at, expected.size());
    const std::string stop = expected.substr(at, 1);
    Json stopped = kobold;
    stopped["stop_sequence"] = {stop};
    const Json trimmed = Json::parse(post("/api/v1/generate", stopped))["results"][0];
    EXPECT_EQ(trimmed["finish_reason"], "stop");
    EXPECT_EQ(trimmed["text"], expected.substr(0, expected.find(stop)));
    stopped["logprobs"] = true; // of the tokens that are told alone
    const Json probable = Json::parse(post("/api/v1/generate", stopped))["results"][0];
    std::string joined;
    for (const Json& one : probable["logprobs"]["content"]) {
        joined += one["token"];
        EXPECT_NE(one["token"], "");
        EXPECT_LE(one["logprob"].get<double>(), 0);
        EXPECT_EQ(one["top_logprobs"].size(), 5u);
    }
    EXPECT_EQ(joined, probable["text"]);
    stopped["trim_stop"] = false;
    EXPECT_EQ(Json::parse(post("/api/v1/generate", stopped))["results"][0]["text"],
              expected.substr(0, expected.find(stop)) + stop);
    // A bias of -100 forbids.
    Json asked = own;
    asked["return_tokens"] = true;
    const Json first = Json::parse(post("/completion", asked))["tokens"][0];
    Json biased = kobold;
    biased["logit_bias"][std::to_string(first.get<int>())] = -100;
    EXPECT_NE(Json::parse(post("/api/v1/generate", biased))["results"][0]["text"], expected);
}

TEST_F(ServeLlama, ARecordingOfALaterLineDecidesWhatToPrune) {
    const Json body = {{"prompt", "A text of which others are made."},
                       {"max_length", 8},
                       {"ban_eos_token", true},
                       {"request_id", "A"},
                       {"record", true},
                       {"output_attentions", true},
                       {"attention", {{"reduce", "mean"}, {"accumulate", "total"}}}};
    for (const bool later : {false, true}) {
        const Json end = events(post("/api/extra/generate/stream", body)).back();
        ASSERT_TRUE(end.contains("recording")) << end.dump();
        EXPECT_EQ(end["sequence"] != 0, later); // the second one goes on from the first one's prompt
        const Json live = Json::parse(post("/api/v1/prune", {{"policy", "tova"}, {"budget", 10}, {"request_id", "A"}}));
        Json recorded;
        const Json asked = {
            {"policy", "tova"}, {"budget", 10}, {"recording", end["recording"]}, {"sequence", end["sequence"]}};
        for (int i = 0; i < 100 && recorded["kept_tokens"] != live["kept_tokens"]; ++i) { // until it is written
            const auto answer = served_->client().Post("/api/v1/prune", asked.dump(), "application/json");
            recorded = answer ? Json::parse(answer->body) : Json();
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
        EXPECT_EQ(recorded["kept_tokens"], live["kept_tokens"]) << recorded.dump();
    }
}

} // namespace
