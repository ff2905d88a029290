// attnscope serve as it is started by a person: the engine's own server generates, and ours stands before it. Without a llama-server
// beside the engine's libraries these skip.
#include "support/shell.h"
#include "support/temp_dir.h"

#include <attnscope/recording.h>

#include <gtest/gtest.h>
#include <httplib.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace attnscope;
using namespace attnscope::test;
using Json = nlohmann::json;

namespace {

class EngineServer : public testing::Test {
protected:
    void SetUp() override {
        if (access(ATTNSCOPE_LLAMA_SERVER, X_OK) != 0) GTEST_SKIP() << "there is no " ATTNSCOPE_LLAMA_SERVER;
        ASSERT_EQ(shell(ATTNSCOPE_BIN " models make --layers 3 -o " + model + " 2>&1").code, 0);
        std::filesystem::create_directory(out);
    }
    void TearDown() override {
        if (pid > 0) kill(pid, SIGKILL), wait();
    }
    // Starts `attnscope serve`, and returns when it listens. 0: it ended before.
    int start(const std::vector<std::string>& more) {
        std::vector<std::string> argv = {ATTNSCOPE_BIN, "serve", "-m", model, "-t", "1", "--port", "0"};
        if (records) argv.insert(argv.end(), {"--record", out});
        argv.insert(argv.end(), more.begin(), more.end());
        std::vector<char*> pointers;
        for (std::string& a : argv) pointers.push_back(a.data());
        pointers.push_back(nullptr);
        int ends[2] = {-1, -1};
        if (pipe2(ends, O_CLOEXEC) != 0) return 0;
        posix_spawn_file_actions_t files;
        posix_spawn_file_actions_init(&files);
        posix_spawn_file_actions_adddup2(&files, ends[1], STDOUT_FILENO);
        posix_spawn_file_actions_addopen(&files, STDERR_FILENO, said.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        EXPECT_EQ(posix_spawn(&pid, ATTNSCOPE_BIN, &files, nullptr, pointers.data(), environ), 0);
        posix_spawn_file_actions_destroy(&files);
        close(ends[1]);
        FILE* told = fdopen(ends[0], "r");
        int port = 0;
        if (std::fscanf(told, "listening on http://127.0.0.1:%d", &port) != 1) port = 0;
        std::fclose(told);
        if (port > 0) {
            client = std::make_unique<httplib::Client>("127.0.0.1", port);
            client->set_read_timeout(60);
        }
        return port;
    }
    // Its exit status; 128 and the signal's number.
    int wait() {
        int status = 0;
        waitpid(std::exchange(pid, 0), &status, 0);
        return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
    std::string what_it_said() const { return shell("cat " + said).output; }
    Json post(const std::string& path, const Json& body) {
        const auto answer = client->Post(path, body.dump(), "application/json");
        EXPECT_TRUE(answer) << path;
        return answer ? Json::parse(answer->body, nullptr, false) : Json();
    }
    // The engine's server that belongs to it; 0: none.
    static pid_t child_of(pid_t parent) {
        return std::atoi(shell("pgrep -P " + std::to_string(parent)).output.c_str());
    }
    static bool ends_within(pid_t process, std::chrono::seconds time) {
        const auto until = std::chrono::steady_clock::now() + time;
        while (kill(process, 0) == 0) {
            if (std::chrono::steady_clock::now() > until) return false;
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
        }
        return true;
    }
    // The lines of tokens of all recordings, which are whole.
    std::vector<std::vector<int32_t>> recorded() const {
        std::vector<std::vector<int32_t>> lines;
        for (const auto& entry : std::filesystem::directory_iterator(out)) {
            if (entry.path().extension() != ".attn") continue;
            EXPECT_EQ(shell(ATTNSCOPE_BIN " verify --all " + entry.path().string() + " 2>&1").code, 0);
            auto recording = Recording::open(entry.path().string());
            if (!recording) continue;
            for (const Sequence& s : (*recording)->sequences()) {
                const auto frames = (*recording)->frames(0, s.n_frames, s.id);
                std::vector<int32_t> line;
                for (const Frame& f : frames ? *frames : std::vector<Frame>()) line.push_back(f.token);
                lines.push_back(line);
            }
        }
        return lines;
    }

    TempDir dir;
    const std::string model = dir.file("m.gguf"), out = dir.file("out"), said = dir.file("said");
    bool records = true;
    pid_t pid = 0;
    std::unique_ptr<httplib::Client> client;
};

} // namespace

TEST_F(EngineServer, AnswersWithAttentionWhateverTheEngineCan) {
    ASSERT_GT(start({"-np", "3", "--alias", "made"}), 0) << what_it_said();
    // An option that is llama-server's reached it, and what it alone can do is there.
    const auto slots = client->Get("/slots");
    ASSERT_TRUE(slots);
    EXPECT_EQ(Json::parse(slots->body).size(), 3u);
    EXPECT_EQ(Json::parse(client->Get("/v1/models")->body)["data"][0]["id"], "made");
    EXPECT_EQ(what_it_said().find("initializing"), std::string::npos)
        << what_it_said(); // but of itself it says nothing
    // The engine's own port answers nobody but us.
    const std::string words = shell("tr '\\0' ' ' < /proc/" + std::to_string(child_of(pid)) + "/cmdline").output;
    const size_t at = words.find("--port ");
    ASSERT_NE(at, std::string::npos) << words;
    httplib::Client past("127.0.0.1", std::atoi(words.c_str() + at + 7));
    const auto refused = past.Post("/completion", R"({"prompt": [11, 27], "n_predict": 1})", "application/json");
    ASSERT_TRUE(refused);
    EXPECT_EQ(refused->status, 401);
    const std::vector<int32_t> prompt = {11, 27, 3, 91, 45, 8};
    const Json plain = post("/completion", {{"prompt", prompt},
                                            {"n_predict", 6},
                                            {"temperature", 0},
                                            {"ignore_eos", true},
                                            {"n_probs", 2},
                                            {"return_tokens", true}});
    ASSERT_TRUE(plain.contains("completion_probabilities")) << plain;
    EXPECT_FALSE(plain.contains("attention"));
    const Json told = post("/completion", {{"prompt", prompt},
                                           {"n_predict", 6},
                                           {"temperature", 0},
                                           {"ignore_eos", true},
                                           {"return_tokens", true},
                                           {"attention", {{"reduce", "mean"}}}});
    ASSERT_TRUE(told.contains("attention")) << told;
    ASSERT_EQ(told["attention"].size(), 6u);
    EXPECT_EQ(told["tokens"], plain["tokens"]);
    for (size_t i = 0; i < 6; ++i) {
        EXPECT_EQ(told["attention"][i].value("verdict", ""), "ok") << told["attention"][i];
        EXPECT_EQ(told["attention"][i]["shape"][0], prompt.size() + i);
    }
    kill(pid, SIGTERM);
    EXPECT_EQ(wait(), 0) << what_it_said();
    std::vector<int32_t> line = prompt;
    for (const Json& t : told["tokens"]) line.push_back(t.get<int32_t>());
    line.pop_back(); // chosen, and not decoded
    const auto lines = recorded();
    EXPECT_TRUE(std::any_of(lines.begin(), lines.end(), [&](const std::vector<int32_t>& l) { return l == line; }));
}

// The engine as if attnscope were not there: nothing of ours is in its process, and every protocol is still spoken.
TEST_F(EngineServer, WithoutAttentionItIsTheEngineAlone) {
    records = false;
    ASSERT_GT(start({"--no-attention", "-np", "2", "--api-key", "k"}), 0) << what_it_said();
    EXPECT_EQ(what_it_said().find("/view/"), std::string::npos) << "the page has nothing to show" << what_it_said();
    const std::string maps = "/proc/" + std::to_string(child_of(pid)) + "/maps";
    EXPECT_EQ(shell("grep -c libllama " + maps + " > /dev/null").code, 0);
    EXPECT_NE(shell("grep -c attnscope_attach " + maps).code, 0);
    const Json body = {
        {"prompt", {11, 27, 3}}, {"n_predict", 4}, {"temperature", 0}, {"ignore_eos", true}, {"return_tokens", true}};
    EXPECT_EQ(client->Post("/completion", body.dump(), "application/json")->status, 401);
    client->set_bearer_token_auth("k");
    const auto shape = client->Get("/api/v1/model"); // as its file has it: nothing of it is seen to decode
    ASSERT_TRUE(shape && shape->status == 200);
    EXPECT_EQ(Json::parse(shape->body)["num_layers"], 3);
    EXPECT_EQ(Json::parse(shape->body)["num_attention_heads"], 4);
    EXPECT_EQ(Json::parse(shape->body)["num_key_value_heads"], 2);
    const Json whole = post("/completion", body);
    EXPECT_EQ(whole["tokens"].size(), 4u) << whole;
    const Json kobold = {{"input_ids", {11, 27, 3}}, {"max_length", 4}, {"temperature", 0}, {"ban_eos_token", true}};
    EXPECT_EQ(post("/api/v1/generate", kobold)["results"][0]["completion_tokens"], 4);
    const auto streamed = client->Post("/api/extra/generate/stream", kobold.dump(), "application/json");
    ASSERT_TRUE(streamed);
    EXPECT_NE(streamed->body.find("\"finish_reason\":\"length\""), std::string::npos) << streamed->body;
    EXPECT_GT(post("/api/v1/tokenize", {{"text", "Hello"}})["token_count"], 0);
    const std::vector<std::pair<std::string, Json>> asking = {
        {"/completion", {{"prompt", {11, 27, 3}}, {"attention", {{"reduce", "mean"}}}}},
        {"/v1/completions", {{"prompt", "a"}, {"attention", Json::object()}}},
        {"/v1/chat/completions", {{"messages", {{{"role", "user"}, {"content", "a"}}}}, {"attention", Json::object()}}},
        {"/api/v1/generate", {{"prompt", "a"}, {"attention", Json::object()}}},
        {"/api/extra/generate/stream", {{"prompt", "a"}, {"output_attentions", true}}}};
    for (const auto& [path, asked] : asking) {
        const auto refused = client->Post(path, asked.dump(), "application/json");
        ASSERT_TRUE(refused) << path;
        EXPECT_EQ(refused->status, 400) << path << refused->body;
        EXPECT_NE(refused->body.find("--no-attention"), std::string::npos) << path << refused->body;
    }
    kill(pid, SIGTERM);
    EXPECT_EQ(wait(), 0) << what_it_said();
    EXPECT_EQ(start({"--no-attention", "--record", out}), 0);
    EXPECT_EQ(wait(), 2);
    EXPECT_NE(what_it_said().find("--record and --no-attention exclude each other"), std::string::npos)
        << what_it_said();
    EXPECT_EQ(start({"--record", model}), 0); // a file
    EXPECT_EQ(wait(), 2);
    EXPECT_NE(what_it_said().find("the folder cannot be written to"), std::string::npos) << what_it_said();
}

// A request with attention is pinned to a slot, here to the only one, which somebody else's answer is generated in. llama-server that keeps
// prompts in memory changes the cache under such an answer; it has to go on as if nobody had asked.
TEST_F(EngineServer, WhoAsksForAttentionChangesNobodysText) {
    const int port = start({"-np", "1"});
    ASSERT_GT(port, 0) << what_it_said();
    const std::vector<int32_t> prompt = {11, 27, 3, 91, 45, 8};
    const Json body = {{"prompt", prompt},   {"n_predict", 1500},     {"temperature", 0},
                       {"ignore_eos", true}, {"cache_prompt", false}, {"return_tokens", true}};
    const std::vector<int32_t> another = {70, 12, 99, 33, 41, 8, 15, 60};
    Json asked = {{"prompt", another}, {"n_predict", 2}, {"temperature", 0}};
    post("/completion", asked); // known from before, as texts are that are asked again
    const Json alone = post("/completion", body)["tokens"];
    ASSERT_EQ(alone.size(), 1500u);
    Json beside;
    std::thread other([&] { beside = post("/completion", body)["tokens"]; });
    httplib::Client asks("127.0.0.1", port);
    const auto at_work = [&] {
        const auto slots = asks.Get("/slots");
        return slots && Json::parse(slots->body)[0].value("is_processing", false);
    };
    for (int i = 0; i < 2000 && !at_work(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_TRUE(at_work());
    asked["attention"] = {{"reduce", "mean"}};
    const auto answer = asks.Post("/completion", asked.dump(), "application/json");
    other.join();
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->status, 200) << answer->body;
    EXPECT_EQ(beside, alone);
}

TEST_F(EngineServer, EndsWithAnInterruptAndLeavesNothingBehind) {
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGKILL}) {
        ASSERT_GT(start({}), 0) << what_it_said();
        const pid_t engine = child_of(pid);
        ASSERT_GT(engine, 0);
        kill(pid, signal);
        EXPECT_EQ(wait(), signal == SIGKILL ? 128 + SIGKILL : 0) << what_it_said();
        EXPECT_TRUE(ends_within(engine, std::chrono::seconds(5))) << signal;
    }
}

TEST_F(EngineServer, EndsInTheMiddleOfAnAnswer) {
    ASSERT_GT(start({}), 0) << what_it_said();
    const pid_t server = pid;
    int n = 0;
    const auto begun = std::chrono::steady_clock::now();
    httplib::Request request;
    request.method = "POST";
    request.path = "/completion";
    request.body = Json{{"prompt", {11, 27, 3}},
                        {"n_predict", 4000},
                        {"ignore_eos", true},
                        {"stream", true},
                        {"attention", {{"reduce", "mean"}}}}
                       .dump();
    request.content_receiver = [&](const char*, size_t, size_t, size_t) {
        if (++n == 5) kill(server, SIGTERM);
        return true;
    };
    client->send(request);
    EXPECT_GE(n, 5);
    EXPECT_EQ(wait(), 0) << what_it_said();
    EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(30));
    EXPECT_FALSE(recorded().empty());
}

TEST_F(EngineServer, SaysWhenTheEngineEndsByItself) {
    ASSERT_GT(start({}), 0) << what_it_said();
    kill(child_of(pid), SIGKILL);
    EXPECT_EQ(wait(), 2);
    EXPECT_NE(what_it_said().find("the engine's server ended by itself"), std::string::npos) << what_it_said();
}

TEST_F(EngineServer, WhatNobodyKnowsIsRefusedByName) {
    EXPECT_EQ(start({"--no-such-option"}), 0);
    EXPECT_EQ(wait(), 2);
    EXPECT_NE(what_it_said().find("--no-such-option"), std::string::npos) << what_it_said();
    EXPECT_EQ(start({"--time-limit", "5"}), 0); // without --in-process
    EXPECT_EQ(wait(), 2);
    EXPECT_NE(what_it_said().find("--time-limit has a meaning with --in-process alone"), std::string::npos)
        << what_it_said();
    EXPECT_EQ(start({"--in-process", "--keys-mb", "9"}), 0);
    EXPECT_EQ(wait(), 2);
    EXPECT_NE(what_it_said().find("--keys-mb has no meaning with --in-process"), std::string::npos) << what_it_said();
    EXPECT_EQ(start({"--in-process", "-np", "2"}), 0);
    EXPECT_EQ(wait(), 2);
    EXPECT_NE(what_it_said().find("-np is no option"), std::string::npos) << what_it_said();
    EXPECT_EQ(start({"--engine-server", "/no/such/llama-server"}), 0);
    EXPECT_EQ(wait(), 2);
    EXPECT_NE(what_it_said().find("/no/such/llama-server"), std::string::npos) << what_it_said();
}
