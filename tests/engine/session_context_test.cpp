// A context that is cut to a prefix and continued, hidden states, and a vocabulary that is asked while a model writes.
#include "models/model_make.h"
#include "support/temp_dir.h"

#include <attnscope/session.h>

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <thread>

using namespace attnscope;
using namespace attnscope::test;

namespace {

std::unique_ptr<Session> open_tiny(const TempDir& dir, const std::string& arch, int32_t n_ctx = 1024) {
    models::ModelShape shape;
    shape.arch = arch;
    shape.n_layer = 4;
    const std::string path = dir.file(arch + ".gguf");
    if (!models::make_model(shape, path)) return nullptr;
    SessionOptions o;
    o.model_path = path;
    o.n_ctx = n_ctx;
    o.n_batch = 32;
    o.n_threads = 1;
    auto session = Session::open(o);
    return session ? std::move(*session) : nullptr;
}

std::vector<int32_t> some_tokens(int n, int step) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < n; ++i) tokens.push_back(5 + i * step % 200);
    return tokens;
}

struct Written {
    std::vector<int32_t> tokens;
    std::vector<Frame> frames;
};

Written run(Session& session, const std::vector<int32_t>& tokens, GenerateOptions o = {}) {
    Written out;
    o.n_predict = 6;
    o.ignore_eos = true;
    o.sampling.temperature = 0;
    const auto result = session.generate(
        tokens, o,
        [&](Frame&& f) -> Result<void> {
            out.frames.push_back(std::move(f));
            return {};
        },
        [&](int32_t token, const std::string&) {
            out.tokens.push_back(token);
            return true;
        });
    EXPECT_TRUE(result) << result.error().message;
    return out;
}

} // namespace

TEST(SessionContext, ACutContextGoesOnAsOneThatNeverHeldMore) {
    for (const char* arch : {"llama", "gemma3", "bloom"}) {
        TempDir dir;
        auto cut = open_tiny(dir, arch), fresh = open_tiny(dir, arch);
        ASSERT_TRUE(cut && fresh);
        const auto prefix = some_tokens(24, 7), other = some_tokens(9, 11), suffix = some_tokens(13, 17);
        GenerateOptions none;
        ASSERT_TRUE(fresh->generate(prefix,
                                    [] {
                                        GenerateOptions o;
                                        o.n_predict = 0;
                                        return o;
                                    }(),
                                    {}));
        ASSERT_TRUE(cut->generate(prefix,
                                  [] {
                                      GenerateOptions o;
                                      o.n_predict = 0;
                                      return o;
                                  }(),
                                  {}));
        run(*cut, other);
        ASSERT_EQ(cut->truncate(24), 24) << arch;
        EXPECT_EQ(cut->n_past(), 24);
        const Written a = run(*cut, suffix), b = run(*fresh, suffix);
        EXPECT_EQ(a.tokens, b.tokens) << arch;
        ASSERT_EQ(a.frames.size(), b.frames.size());
        for (size_t i = 0; i < a.frames.size(); ++i) {
            EXPECT_EQ(a.frames[i].index, 24 + int64_t(i));
            EXPECT_EQ(a.frames[i].visible, b.frames[i].visible) << arch << " frame " << i;
            EXPECT_EQ(a.frames[i].q, b.frames[i].q) << arch << " frame " << i;
            EXPECT_EQ(a.frames[i].k, b.frames[i].k) << arch << " frame " << i;
            EXPECT_EQ(a.frames[i].verdict, verdict_ok) << arch << " frame " << i;
        }
    }
}

TEST(SessionContext, TheSameTokenBehindACutIsNotTheFrameBeforeOnceMore) {
    TempDir dir;
    auto session = open_tiny(dir, "llama");
    ASSERT_TRUE(session);
    const auto tokens = some_tokens(24, 7);
    std::vector<Frame> frames;
    const auto keep = [&](Frame&& f) -> Result<void> {
        frames.push_back(std::move(f));
        return {};
    };
    GenerateOptions nothing;
    nothing.n_predict = 0;
    ASSERT_TRUE(session->generate(tokens, nothing, keep));
    for (int again = 0; again < 2; ++again) { // a client asks the same once more
        ASSERT_EQ(session->truncate(23), 23);
        ASSERT_TRUE(session->generate(std::span(tokens).last(1), nothing, keep));
    }
    ASSERT_EQ(frames.size(), 26u);
    EXPECT_EQ(frames[25].k, frames[24].k); // bit for bit
    for (const Frame& f : frames) EXPECT_EQ(f.verdict, verdict_ok) << f.index;
}

TEST(SessionContext, AWindowThatHasMovedOnIsNotCutButEmptied) {
    TempDir dir;
    auto session = open_tiny(dir, "gemma3");
    ASSERT_TRUE(session);
    run(*session, some_tokens(700, 7));
    ASSERT_EQ(session->n_past(), 706);
    EXPECT_EQ(session->truncate(900), 706); // nothing to forget
    EXPECT_EQ(session->truncate(8), 0);
    EXPECT_EQ(session->n_past(), 0);
    EXPECT_EQ(run(*session, some_tokens(10, 7)).frames.front().index, 0);
}

TEST(SessionContext, EveryTokenIsProvenWhereSomeLayersSeeMoreThanOthers) {
    TempDir dir;
    auto session = open_tiny(dir, "gemma3", 2048);
    ASSERT_TRUE(session);
    run(*session, some_tokens(1030, 7)); // beyond what a window's cache holds
    for (int round = 0; round < 10; ++round) {
        for (const Frame& f : run(*session, {}).frames) {
            EXPECT_EQ(f.witnesses.size(), 1u) << f.index;
            EXPECT_EQ(f.verdict, verdict_ok) << f.index;
        }
    }
}

TEST(SessionContext, TheHiddenStateOfEachTokenComesBeforeIt) {
    TempDir dir;
    auto session = open_tiny(dir, "llama");
    ASSERT_TRUE(session);
    const auto prompt = some_tokens(20, 7);
    const auto n_embd = static_cast<size_t>(session->model_info().n_embd);
    std::vector<std::vector<float>> states;
    GenerateOptions o;
    o.hidden_state = [&](std::span<const float> h) { states.emplace_back(h.begin(), h.end()); };
    const Written with = run(*session, prompt, o);
    ASSERT_EQ(states.size(), with.tokens.size());
    for (size_t i = 0; i < states.size(); ++i) {
        ASSERT_EQ(states[i].size(), n_embd);
        double norm = 0;
        for (const float x : states[i]) norm += double(x) * double(x);
        EXPECT_TRUE(std::isfinite(norm) && norm > 0);
        if (i > 0) {
            EXPECT_NE(states[i], states[i - 1]);
        }
    }
    for (const Frame& f : with.frames) EXPECT_EQ(f.verdict, verdict_ok) << f.index;
    session->reset();
    EXPECT_EQ(run(*session, prompt).tokens, with.tokens); // looking changes nothing
}

TEST(SessionContext, RowsThatAreNotKeptLeaveTheKeys) {
    TempDir dir;
    auto session = open_tiny(dir, "llama");
    ASSERT_TRUE(session);
    GenerateOptions o;
    o.keep_rows = false;
    o.prompt_rows.last = 0;
    for (const Frame& f : run(*session, some_tokens(20, 7), o).frames) {
        EXPECT_TRUE(f.q.empty());
        EXPECT_EQ(f.k.size(), session->geometry().k_bytes());
    }
}

TEST(SessionContext, TheVocabularyAnswersWhileAnotherThreadGenerates) {
    TempDir dir;
    auto session = open_tiny(dir, "llama");
    ASSERT_TRUE(session);
    std::atomic<bool> done{false};
    std::thread asker([&] {
        const auto expected = session->tokenize("Hello, how are you?", true, true);
        while (!done) {
            const auto again = session->tokenize("Hello, how are you?", true, true);
            ASSERT_TRUE(again);
            ASSERT_EQ(*again, *expected);
            for (const int32_t t : *again) session->piece(t);
        }
    });
    run(*session, some_tokens(100, 7));
    done = true;
    asker.join();
}

TEST(SessionContext, TheLastTokenNeedNotBeRead) {
    TempDir dir;
    auto all = open_tiny(dir, "llama"), less = open_tiny(dir, "llama");
    ASSERT_TRUE(all && less);
    const auto prompt = some_tokens(24, 7);
    GenerateOptions unread;
    unread.read_last = false;
    const Written a = run(*all, prompt), b = run(*less, prompt, unread);
    EXPECT_EQ(a.tokens, b.tokens);
    EXPECT_EQ(a.frames.size(), 24u + 6u);
    EXPECT_EQ(b.frames.size(), 24u + 5u);
    EXPECT_EQ(less->n_past(), 24 + 5);
    // Given as the prompt of what follows it gives what would have followed.
    const Written c = run(*all, {a.tokens.back()}), d = run(*less, {b.tokens.back(), a.tokens.back()}, unread);
    EXPECT_EQ(c.tokens, d.tokens);
    // Told to stop by the one who gets the text.
    int32_t n = 0;
    unread.n_predict = 8;
    const auto result =
        less->generate(some_tokens(3, 5), unread, {}, [&](int32_t, const std::string&) { return ++n < 3; });
    ASSERT_TRUE(result) << result.error().message;
    EXPECT_EQ(result->n_generated, 3);
    EXPECT_EQ(result->finish_reason, "stopped");
    EXPECT_EQ(less->n_past(), 24 + 5 + 2 + 5 + 3 + 2);
}
