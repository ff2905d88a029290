// Attention in front of Ollama, which is here a stand-in that makes a prompt of a request, decodes random queries and keys, and answers in
// its words and OpenAI's: what it is asked, what comes back, and whose rows those are.
#include "llama_stand_in.h"

#include <gtest/gtest.h>

#include <optional>

using namespace attnscope;
using namespace attnscope::server;
using namespace attnscope::test;

namespace {

constexpr ContextId ours{1, 0}, other{2, 0};

struct Rows : BeforeLlama {
    using BeforeLlama::decoded;
};

class OllamaStandIn {
public:
    explicit OllamaStandIn(LiveSequences& live) : live_(live) {
        for (const ContextId one : {ours, other}) {
            live_.context_begins(one, LiveModel({}, 0).geometry(), {});
            live_.model_known(one,
                              {one == ours ? "sha256-a" : "sha256-b",
                               {},
                               [](const std::string& text) { return std::vector<int32_t>(text.begin(), text.end()); },
                               [](int32_t token) { return std::string(1, static_cast<char>(token)); }});
        }
        http_.Get("/", [](const auto&, auto& a) { a.set_content("Ollama is running", "text/plain"); });
        http_.Post("/api/show", [](const httplib::Request& q, httplib::Response& a) {
            const std::string model = Json::parse(q.body)["model"];
            if (model == "cloud") return say(a, {{"modelfile", "FROM cloud\n"}});
            if (model == "a") return say(a, {{"modelfile", "# FROM a\n\nFROM /m/blobs/sha256-a\nFROM /m/sha256-p\n"}});
            a.status = 404;
            say(a, {{"error", "model '" + model + "' not found"}});
        });
        for (const char* path : {"/v1/chat/completions", "/v1/completions", "/api/chat", "/api/generate"})
            http_.Post(path, [this](const httplib::Request& q, httplib::Response& a) { answer(q, a); });
        port = http_.bind_to_any_port("127.0.0.1");
        thread_ = std::thread([this] { http_.listen_after_bind(); });
        reader_ = std::thread([this] {
            while (!done_) live_.all_taken(std::chrono::milliseconds(1));
        });
        http_.wait_until_ready();
    }
    ~OllamaStandIn() {
        http_.stop();
        thread_.join();
        done_ = true;
        reader_.join();
    }

    int port = 0;
    Json last;                            // body of the latest request that it generated for
    std::vector<std::vector<float>> rows; // of our line
    std::vector<int32_t> generated{'x', 'y', 'z'};
    std::string said = "xyz";
    ContextId context = ours; // that decodes it
    int32_t slot = -1;
    std::optional<size_t> beside; // somebody else's with the same prompt, of so many tokens
    int images = 0;

private:
    static void say(httplib::Response& a, const Json& body) { a.set_content(body.dump(), "application/json"); }

    struct Line {
        int64_t number = 0;
        int32_t slot = -1;
        std::vector<int32_t> tokens;
        LiveModel model{{}, 0};
    };
    Line begin(const std::string& prompt, const std::vector<int32_t>& tokens, int32_t in_slot) {
        Line line;
        line.number = n_lines_++;
        line.slot = in_slot;
        line.model = LiveModel({}, static_cast<uint32_t>(line.number));
        line.tokens.assign(prompt.begin(), prompt.end());
        line.tokens.insert(line.tokens.end(), tokens.begin(),
                           tokens.end() - !tokens.empty()); // the last one is not decoded
        live_.line_begins({context, line.number}, -1, 0);
        return line;
    }
    std::vector<float> decode(Line& line, size_t i) {
        Frame frame = line.model.next();
        frame.sequence = line.number;
        frame.token = line.tokens[i];
        live_.frame(context, line.slot, frame);
        return line.model.rows(frame);
    }
    // Both at once.
    void decode_all(const std::string& prompt) {
        rows.clear();
        Line mine = begin(prompt, generated, slot);
        std::optional<Line> theirs;
        if (beside) theirs = begin(prompt, std::vector<int32_t>(*beside, 'x'), slot < 0 ? -1 : slot + 1);
        for (size_t i = 0; i < mine.tokens.size() || (theirs && i < theirs->tokens.size()); ++i) {
            if (i < mine.tokens.size()) rows.push_back(decode(mine, i));
            if (theirs && i < theirs->tokens.size()) decode(*theirs, i);
        }
    }

    void answer(const httplib::Request& q, httplib::Response& a) {
        const Json body = Json::parse(q.body);
        const bool chat = body.contains("messages"), openai = q.path.rfind("/v1/", 0) == 0;
        const std::string prompt = chat ? "<" + body["messages"][0]["content"].get<std::string>() + ">"
                                        : "(" + body["prompt"].get<std::string>() + ")";
        if (body.contains("_debug_render_only")) {
            EXPECT_FALSE(body.contains("keep_alive"));
            Json out = {{"model", "a"}};
            if (q.path != "/v1/completions") // which tells none
                out["_debug_info"] = {{"rendered_template", prompt}, {"image_count", images}};
            return say(a, out);
        }
        last = body;
        decode_all(prompt);
        if (body.value("stream", !openai)) return stream(body, chat, openai, a);
        const auto n = generated.size();
        if (openai) {
            const Json choice = chat ? Json{{"message", {{"content", said}}}, {"finish_reason", "stop"}}
                                     : Json{{"text", said}, {"finish_reason", "stop"}};
            return say(a, {{"choices", {choice}}, {"usage", {{"prompt_tokens", 3}, {"completion_tokens", n}}}});
        }
        Json out = {{"done", true}};
        if (n > 0) out["eval_count"] = n;
        chat ? out["message"] = {{"content", said}} : out["response"] = said;
        say(a, out);
    }

    void stream(const Json& body, bool chat, bool openai, httplib::Response& a) {
        std::string out;
        const auto n = generated.size();
        const auto add = [&](const Json& one) { out += openai ? "data: " + one.dump() + "\n\n" : one.dump() + "\n"; };
        for (const char c : said) {
            const std::string text(1, c);
            if (openai)
                add({{"id", "i"},
                     {"choices",
                      {chat ? Json{{"delta", {{"content", text}}}, {"finish_reason", nullptr}}
                            : Json{{"text", text}, {"finish_reason", nullptr}}}}});
            else
                add(chat ? Json{{"message", {{"content", text}}}, {"done", false}}
                         : Json{{"response", text}, {"done", false}});
        }
        if (openai) {
            add({{"id", "i"}, {"choices", {{{"delta", Json::object()}, {"finish_reason", "stop"}}}}});
            if (body.value("stream_options", Json::object()).value("include_usage", false))
                add({{"id", "i"}, {"choices", Json::array()}, {"usage", {{"completion_tokens", n}}}});
            out += "data: [DONE]\n\n";
        } else {
            add({{"done", true}, {"eval_count", n}});
        }
        a.set_content(out, openai ? "text/event-stream" : "application/x-ndjson");
    }

    LiveSequences& live_;
    httplib::Server http_;
    std::thread thread_, reader_;
    std::atomic<bool> done_{false};
    int64_t n_lines_ = 0;
};

class OllamaFront : public testing::Test {
protected:
    OllamaFront() {
        FrontOptions options;
        options.server.port = 0;
        options.server.attention = true;
        options.to.port = program.port;
        options.patience = std::chrono::milliseconds(500);
        auto started = Front::start(options, live);
        EXPECT_TRUE(started);
        if (started) front = std::move(*started);
    }
    std::string post(const std::string& path, const Json& body, int status = 200) {
        httplib::Client client("127.0.0.1", front->port());
        const auto answer = client.Post(path, body.dump(), "application/json");
        EXPECT_TRUE(answer && answer->status == status) << path << (answer ? answer->body : std::string("no answer"));
        return answer ? answer->body : std::string();
    }
    // A request that the stand-in answers, in the words of `path`.
    static Json asked(const std::string& path, bool streamed) {
        Json body = {{"model", "a"}, {"stream", streamed}, {"attention", Json::object()}, {"request_id", "r"}};
        if (path.find("chat") != std::string::npos)
            body["messages"] = {{{"role", "user"}, {"content", "h"}}};
        else
            body["prompt"] = "h";
        return body;
    }
    Json whole(const std::string& path = "/v1/chat/completions") { return Json::parse(post(path, asked(path, false))); }
    static std::vector<Json> parts(const std::string& text, const std::string& before) {
        std::vector<Json> out;
        for (size_t at = 0, end = 0; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
            const std::string line = text.substr(at, end - at);
            if (line.rfind(before, 0) == 0 && line.find("[DONE]") == std::string::npos)
                out.push_back(Json::parse(line.substr(before.size())));
        }
        return out;
    }
    void expect_rows(const Json& all) {
        ASSERT_EQ(all.size(), program.generated.size()) << all.dump();
        for (size_t i = 0; i < all.size(); ++i) {
            ASSERT_TRUE(all[i].is_object() && all[i].contains("data")) << all[i].dump();
            EXPECT_EQ(all[i]["index"], 2 + i); // of a prompt of three tokens
            EXPECT_EQ(Rows::decoded(all[i]["data"]), program.rows.at(2 + i));
        }
    }
    void expect_errors(const Json& all, const std::string& words) {
        ASSERT_TRUE(all.is_object()) << all.dump(); // once for all tokens
        EXPECT_NE(all.value("error", std::string()).find(words), std::string::npos) << all.dump();
    }
    LiveSequences live;
    OllamaStandIn program{live};
    std::unique_ptr<Front> front;
};

const std::vector<std::string> all_routes = {"/v1/chat/completions", "/v1/completions", "/api/chat", "/api/generate"};

TEST_F(OllamaFront, AWholeAnswerHasTheRowsOfItsTokens) {
    for (const std::string& path : all_routes) {
        const Json answer = whole(path);
        expect_rows(answer["attention"]);
        EXPECT_EQ(answer["reused"], 0);
        for (const char* name : {"attention", "request_id", "_debug_render_only"})
            EXPECT_FALSE(program.last.contains(name)) << path;
        EXPECT_EQ(program.last["stream"], false);
    }
}

TEST_F(OllamaFront, AStreamOfOpenAIsHasThemBeforeItsEnd) {
    for (const char* path : {"/v1/chat/completions", "/v1/completions"}) {
        Json body = asked(path, true);
        body["attention"]["prompt_rows"] = true;
        const std::string text = post(path, body);
        const std::vector<Json> all = parts(text, "data: ");
        ASSERT_EQ(all.size(), 3u + 2 + 3 + 1 + 1) << text;
        Json rows = Json::array();
        for (size_t i = 5; i < 8; ++i) rows.push_back(all[i]["attention"]);
        expect_rows(rows);
        EXPECT_EQ(all[3]["prompt_token"], path[4] == 'c' && path[5] == 'h' ? '<' : '(');
        EXPECT_EQ(all[8]["choices"][0]["finish_reason"], "stop");
        EXPECT_EQ(all[9]["summary"]["reused"], 0);
        EXPECT_FALSE(all[9].contains("usage")); // nobody asked for it
        EXPECT_NE(text.find("data: [DONE]"), std::string::npos);
        body["stream_options"] = {{"include_usage", true}};
        EXPECT_EQ(parts(post(path, body), "data: ").back()["usage"]["completion_tokens"], 3);
    }
}

TEST_F(OllamaFront, AStreamOfItsOwnHasThemInItsLastLine) {
    for (const char* path : {"/api/chat", "/api/generate"}) {
        Json body = asked(path, true);
        const std::vector<Json> all = parts(post(path, body), "");
        ASSERT_EQ(all.size(), 4u);
        for (size_t i = 0; i < 3; ++i) EXPECT_FALSE(all[i].contains("attention"));
        expect_rows(all[3]["attention"]);
        body.erase("stream"); // streams where nothing is said
        EXPECT_EQ(parts(post(path, body), "").size(), 4u);
    }
}

TEST_F(OllamaFront, AnAnswerWithoutTokensHasNoRows) {
    program.generated.clear();
    program.said.clear();
    for (const std::string& path : all_routes) {
        Json body = asked(path, false);
        body["keep_alive"] = 0;
        EXPECT_EQ(Json::parse(post(path, body))["attention"], Json::array()) << path;
        EXPECT_EQ(program.last["keep_alive"], 0);
    }
}

TEST_F(OllamaFront, AnotherModelsTextIsNotTaken) {
    program.context = other;
    expect_errors(whole()["attention"], "decoded no text that begins with this prompt");
}

TEST_F(OllamaFront, SlotsBesideItDoNotDisturb) {
    for (const int32_t slot : {-1, 0}) {
        program.slot = slot;
        program.beside = 5; // another number of tokens than the answer has
        expect_rows(whole()["attention"]);
        program.beside = 3;
        expect_errors(whole()["attention"], "another request with the same prompt ran");
    }
}

TEST_F(OllamaFront, ALineThatSaysSomethingElseIsNotTaken) {
    program.said = "abc";
    expect_errors(whole()["attention"], "is not what the answer says");
    program.said = " xy"; // what ends a text is not in it, nor its first space
    expect_rows(whole()["attention"]);
}

TEST_F(OllamaFront, WhatHasNoAttentionIsRefusedInItsWords) {
    const auto refused = [&](const std::string& path, const Json& more, int status) {
        Json body = asked(path, false);
        body.update(more);
        if (path == "/completion") body["prompt"] = "h";
        const Json error = Json::parse(post(path, body, status))["error"];
        return error.is_string() ? error.get<std::string>() : error["message"].get<std::string>();
    };
    for (const std::string& path : all_routes) {
        EXPECT_EQ(refused(path, {{"model", "none"}}, 404), "model 'none' not found");
        EXPECT_NE(refused(path, {{"model", "cloud"}}, 501).find("not run from a file"), std::string::npos);
        EXPECT_NE(refused(path, {{"attention", {{"layers", {99}}}}}, 400).find("99"), std::string::npos);
        EXPECT_NE(refused(path, {{"attention", {{"nonsense", 1}}}}, 400).find("nonsense"), std::string::npos);
        for (const Json& value : {Json("all"), Json(1)})
            EXPECT_NE(
                refused(path, {{"output_attentions", value}, {"attention", nullptr}}, 400).find("output_attentions"),
                std::string::npos);
        EXPECT_NE(refused(path, {{"record", true}}, 400).find("record"), std::string::npos);
    }
    EXPECT_NE(refused("/completion", Json::object(), 400).find("attention of Ollama is answered at"),
              std::string::npos);
    EXPECT_EQ(refused("/embed", Json::object(), 400).find("/completion,"), std::string::npos);
    program.images = 1;
    EXPECT_NE(refused("/api/chat", Json::object(), 400).find("pictures"), std::string::npos);
}

TEST_F(OllamaFront, WithoutAttentionARequestGoesOnAsItIs) {
    for (const std::string& path : all_routes) {
        Json body = asked(path, false);
        body.erase("attention");
        EXPECT_FALSE(Json::parse(post(path, body)).contains("attention"));
        EXPECT_EQ(program.last, body);
    }
}

// llama-server and KoboldCPP know some of Ollama's routes.
TEST_F(BeforeLlama, OllamasRoutesOfAnotherProgramRefuseAttentionInWords) {
    for (const char* path : {"/api/chat", "/api/generate"}) {
        const Json answer = Json::parse(post(path, {{"prompt", "a"}, {"attention", Json::object()}}, 400));
        EXPECT_NE(answer["error"].get<std::string>().find("attention is answered at"), std::string::npos);
    }
}

} // namespace
