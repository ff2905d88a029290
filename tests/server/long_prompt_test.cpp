// Prompts that no context of the program holds: they are refused before they are read into memory, or cut into tokens.
#include "llama_stand_in.h"

#include <gtest/gtest.h>

#include <string>

using namespace attnscope;
using namespace attnscope::server;
using namespace attnscope::test;

namespace {

class LongPrompt : public BeforeLlama {
protected:
    LongPrompt() : BeforeLlama([](FrontOptions& o) { o.server.max_body = 64 << 20; }) { program.vocab_type = 2; }
    // The refusal, which speaks of the context.
    std::string refused(const std::string& path, const std::string& body) {
        httplib::Client client("127.0.0.1", front->port());
        client.set_read_timeout(60);
        const auto answer = client.Post(path, body, "application/json");
        EXPECT_TRUE(answer && answer->status == 400) << path << (answer ? answer->body : std::string("no answer"));
        return answer ? answer->body : std::string();
    }
    static std::string ids(size_t n) {
        std::string out = "[97";
        for (size_t i = 1; i < n; ++i) out += ",97";
        return out + "]";
    }
    static std::string text(size_t n, const std::string& of) {
        std::string out = "\"";
        while (out.size() < n) out += of;
        return out + "\"";
    }
    static constexpr const char* attention = R"("attention":{"reduce":"mean"})";
};

TEST_F(LongPrompt, MoreIdsThanTheContextHasAreNotEvenRead) {
    const std::string many = ids(600'000);
    for (const auto& [path, name] :
         {std::pair("/completion", "prompt"), std::pair("/v1/completions", "prompt"),
          std::pair("/api/v1/generate", "input_ids"), std::pair("/api/extra/generate/stream", "input_ids")}) {
        // what follows is no JSON, and nobody comes so far
        const std::string said =
            refused(path, std::string("{") + attention + ",\"" + name + "\":" + many + ", nonsense");
        EXPECT_NE(said.find("the prompt has at least 64 tokens; at most 63 fit into the context of 64"),
                  std::string::npos)
            << path << said;
    }
    EXPECT_NE(refused("/completion", std::string("{\"\\u0070rompt\":") + many + "," + attention + "}")
                  .find("context_length_exceeded"),
              std::string::npos);
    EXPECT_EQ(program.longest_cut, 0u);
}

// Numbers of another field, or deeper in, are none of the prompt's.
TEST_F(LongPrompt, OnlyIdsOfThePromptCount) {
    const std::string body = std::string("{\"prompt\":[97,98],\"n_predict\":2,") + attention +
                             ",\"prompts\":" + ids(300'000) + ",\"x\":{\"prompt\":" + ids(300'000) + "}}";
    httplib::Client client("127.0.0.1", front->port());
    client.set_read_timeout(60);
    const auto answer = client.Post("/completion", body, "application/json");
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->status, 200) << answer->body.substr(0, 500);
}

// Of two members of one name readers of JSON take the last.
TEST_F(LongPrompt, TheLastOfTwoPromptsIsTheOneThatCounts) {
    httplib::Client client("127.0.0.1", front->port());
    client.set_read_timeout(60);
    const std::string many = "\"prompt\":" + ids(600'000);
    for (const std::string last : {"\"prompt\":[97,98]", "\"prompt\":\"ab\"", "\"\\u0070rompt\":[97,98]"}) {
        const auto answer = client.Post("/completion", "{" + many + "," + last + "," + attention + ",\"n_predict\":2}",
                                        "application/json");
        ASSERT_TRUE(answer);
        EXPECT_EQ(answer->status, 200) << last << answer->body.substr(0, 500);
        EXPECT_NE(
            refused("/completion", "{" + last + "," + many + "," + attention + "}").find("context_length_exceeded"),
            std::string::npos)
            << last;
    }
}

TEST_F(LongPrompt, ATextThatNoTokensAreLongEnoughForIsNotCut) {
    const std::string of_chat =
        std::string("{\"messages\":[{\"role\":\"user\",\"content\":") + text(2 << 20, "abc") + "}]," + attention + "}";
    for (const auto& [path, body] :
         {std::pair<std::string, std::string>("/completion",
                                              "{\"prompt\":" + text(2 << 20, "abc") + "," + attention + "}"),
          std::pair<std::string, std::string>("/v1/completions",
                                              "{\"prompt\":[" + text(2 << 20, "abc") + "]," + attention + "}"),
          std::pair<std::string, std::string>("/v1/chat/completions", of_chat)}) {
        const std::string said = refused(path, body);
        EXPECT_NE(said.find("fit into the context of 64"), std::string::npos) << path << said;
        EXPECT_NE(said.find("context_length_exceeded"), std::string::npos) << path << said;
    }
    EXPECT_EQ(program.longest_cut, 0u);
}

// A token may take any space around it, a tokeniser of another kind a whole word; and letters that no token has are left out.
TEST_F(LongPrompt, WhatMightBecomeFewTokensIsLeftToTheProgram) {
    const std::string abc = "{\"prompt\":" + text(2 << 20, "abc") + "," + attention + "}";
    const std::string spaces = "{\"prompt\":" + text(2 << 20, "   \\n\\t") + "," + attention + "}";
    const auto is_cut = [&](const std::string& body) {
        program.longest_cut = 0;
        httplib::Client client("127.0.0.1", front->port());
        client.set_read_timeout(60);
        (void)client.Post("/completion", body, "application/json");
        return program.longest_cut > 1'000'000;
    };
    EXPECT_FALSE(is_cut(abc));
    EXPECT_TRUE(is_cut(spaces));
    const std::string q = "{\"prompt\":" + text(2 << 20, "q") + "," + attention + "}";
    EXPECT_FALSE(is_cut(q));
    program.lacks_a_letter = true;
    EXPECT_TRUE(is_cut(q));
    EXPECT_FALSE(is_cut(abc));
    program.vocab_type = 3;
    EXPECT_TRUE(is_cut(abc));
    program.vocab_type = 0; // it tells none
    EXPECT_TRUE(is_cut(abc));
    program.vocab_type = 2;
    program.long_piece = 70'000; // 64 of them hold it
    EXPECT_TRUE(is_cut(abc));
}

// A value takes two bytes of a body and sixteen once it is read.
TEST_F(LongPrompt, ABodyOfMoreValuesThanAnythingNeedsIsRefused) {
    std::string body = std::string("{\"prompt\":[97],") + attention + ",\"x\":[0";
    for (size_t i = 0; i < size_t(1) << 23; ++i) body += ",0";
    body += "]}";
    EXPECT_NE(refused("/completion", body).find("more than 8388608 values"), std::string::npos);
    EXPECT_NE(refused("/api/v1/detokenize", body).find("more than 8388608 values"), std::string::npos);
}

} // namespace
