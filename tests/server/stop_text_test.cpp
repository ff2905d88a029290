// Whole characters, and ends at stop sequences, however the tokens are cut.
#include "server/generation/stop_text.h"

#include <gtest/gtest.h>

#include <random>

using attnscope::server::StopText;

namespace {

std::string run(const std::string& text, const std::vector<std::string>& stops, bool shown, std::mt19937& random) {
    StopText stop(stops, shown);
    std::string out;
    for (size_t at = 0; at < text.size() && !stop.stopped();) {
        const size_t n = 1 + random() % 4;
        out += stop.add(text.substr(at, n));
        at += n;
    }
    if (!stop.stopped()) out += stop.finish();
    EXPECT_EQ(out, stop.shown());
    return out;
}

} // namespace

TEST(StopText, TheFirstStopEndsTheTextWhereverTokensAreCut) {
    std::mt19937 random(1);
    for (int round = 0; round < 20000; ++round) {
        std::string text;
        const size_t n = random() % 30;
        for (size_t i = 0; i < n; ++i) text += "ab"[random() % 2];
        std::vector<std::string> stops;
        for (size_t i = 0; i < random() % 3; ++i) {
            std::string stop;
            for (size_t j = 0; j < 1 + random() % 4; ++j) stop += "ab"[random() % 2];
            stops.push_back(stop);
        }
        size_t first = std::string::npos;
        for (const std::string& s : stops) first = std::min(first, text.find(s));
        const std::string hidden = run(text, stops, false, random);
        if (first == std::string::npos) {
            EXPECT_EQ(hidden, text);
            EXPECT_EQ(run(text, stops, true, random), text);
            continue;
        }
        // Which of two overlapping stops is met first depends on where tokens end; that none shows does not.
        for (const std::string& s : stops) EXPECT_EQ(hidden.find(s), std::string::npos) << text;
        EXPECT_EQ(text.rfind(hidden, 0), 0u);
        EXPECT_GE(hidden.size() + 4, first);
        const std::string shown = run(text, stops, true, random);
        EXPECT_TRUE(std::any_of(stops.begin(), stops.end(), [&](const std::string& s) { return shown.ends_with(s); }))
            << text;
        EXPECT_EQ(text.rfind(shown, 0), 0u);
    }
}

TEST(StopText, CharactersAreShownWhole) {
    const std::string text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x90\x9D.";
    StopText stop({}, true);
    std::vector<std::string> shown;
    for (const char c : text) {
        const std::string out = stop.add(std::string(1, c));
        if (!out.empty()) shown.push_back(out);
    }
    EXPECT_EQ(shown, (std::vector<std::string>{"a", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x90\x9D", "."}));
    EXPECT_EQ(stop.add("\xE2\x82"), "");
    EXPECT_EQ(stop.finish(), "\xEF\xBF\xBD");
}
