// A server that captures nothing: the same texts, the same reuse of the context, and no attention.
#include "served_model.h"

#include <gtest/gtest.h>

using namespace attnscope;
using namespace attnscope::test;

namespace {

void captures_nothing(server::ServerOptions& o) {
    o.attention = false;
}

// What matters of an answer: its text, and how many tokens of the prompt were not read again.
std::pair<std::string, int> answer_of(const ServedModel& served, const std::string& prompt, int n) {
    const Json asked = {{"prompt", prompt},
                        {"max_length", n},
                        {"temperature", 0},
                        {"ban_eos_token", true},
                        {"output_hidden_states", true}}; // or nothing would tell of the reuse
    std::string text;
    Json done;
    for (const Json& e : served.events("/api/extra/generate/stream", asked)) {
        if (e["type"] == "token") text += e["token"]["text"].get<std::string>();
        if (e["type"] == "done") done = e;
    }
    return {text, done.value("reused", -1)};
}

} // namespace

TEST(NoAttention, TextsAndReuseOfTheContextAreThoseOfACapturingServer) {
    ServedModel plain(captures_nothing), capturing;
    ASSERT_TRUE(plain.ok()) << plain.error();
    ASSERT_TRUE(capturing.ok()) << capturing.error();
    ASSERT_EQ(plain.session().geometry().n_layer(), 0) << "the session captures";
    const std::string text = long_text(6);
    bool reused = false;
    for (const std::string& prompt : {text, text + " And then", text.substr(0, text.size() / 2), text + " And then"}) {
        const auto expected = answer_of(capturing, prompt, 12);
        EXPECT_EQ(answer_of(plain, prompt, 12), expected);
        reused |= expected.second > 0;
    }
    EXPECT_TRUE(reused);
}

TEST(NoAttention, AGenerationThatWasLeftHalfWrittenLeavesAContextThatIsKnown) {
    ServedModel plain(captures_nothing, 1024, Served::real), capturing(Served::real);
    ASSERT_TRUE(plain.ok()) << plain.error();
    ASSERT_TRUE(capturing.ok()) << capturing.error();
    const std::string text = long_text(6);
    std::vector<std::pair<std::string, int>> after;
    for (const ServedModel* served : {&capturing, &plain}) {
        int events = 0;
        served->stream("/api/extra/generate/stream",
                       {{"prompt", text}, {"max_length", 500}, {"temperature", 0}, {"ban_eos_token", true}},
                       [&](const Json&) { return ++events < 5; });
        ASSERT_TRUE(served->idle_within(5));
        // Reuses what was read of the prompt, and nothing of what was written behind it.
        after.push_back(answer_of(*served, text + " And then", 12));
        EXPECT_GT(after.back().second, 0);
    }
    EXPECT_EQ(after[0], after[1]);
}

TEST(NoAttention, AttentionIsRefusedInASentence) {
    ServedModel served(captures_nothing);
    ASSERT_TRUE(served.ok()) << served.error();
    for (const char* body : {R"({"prompt": "a", "output_attentions": true})", R"({"prompt": "a", "attention": {}})"}) {
        Json answer;
        EXPECT_EQ(served.status("/api/extra/generate/stream", body, &answer), 400);
        EXPECT_NE(answer.dump().find("--no-attention"), std::string::npos) << answer.dump();
    }
}

TEST(NoAttention, HiddenStatesStillComeAndTheTimeLimitHolds) {
    ServedModel served(
        [](server::ServerOptions& o) {
            captures_nothing(o);
            o.time_limit = std::chrono::seconds(1);
        },
        1024, Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    const auto events = served.events(
        "/api/extra/generate/stream",
        {{"prompt", "Once"}, {"max_length", 1000}, {"ban_eos_token", true}, {"output_hidden_states", true}});
    ASSERT_GT(events.size(), 1u);
    EXPECT_TRUE(events.front().contains("hidden_state")) << events.front().dump().substr(0, 300);
    EXPECT_EQ(events.back()["finish_reason"], "timeout");
}
