// Programs with several contexts, models and threads: each text is there, once, and none is mixed up with another.
#include "attach/host_fixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

using namespace attnscope;
using namespace attnscope::test;

namespace {

class AttachContexts : public AttachHosts {
protected:
    std::string other(const std::string& how) {
        std::string path = dir.file("other.gguf");
        EXPECT_EQ(shell(program + " models make --force --seed 7 " + how + " -o " + path + " 2>&1").code, 0);
        return path;
    }
    std::string contexts(const std::string& way, const std::string& more = {}) const {
        return ATTNSCOPE_ATTACH_CONTEXTS_HOST " " + way + " " + model + " " + more;
    }
    // Runs it alone and attached; the texts that it speaks of.
    std::vector<Line> run(const std::string& command) {
        const Answer plain = shell(command), attached = attach(command);
        EXPECT_EQ(plain.code, 0) << plain.output;
        EXPECT_EQ(attached.code, 0) << said;
        std::vector<Line> expected = printed(plain.output), now = printed(attached.output);
        std::sort(expected.begin(), expected.end()), std::sort(now.begin(), now.end()); // threads end in any order
        EXPECT_EQ(now, expected);
        return expected;
    }
    // ... which are what was recorded, and nothing else is.
    void expect_recorded(const std::string& command) {
        const std::vector<Line> texts = run(command);
        EXPECT_EQ(recorded(), texts) << said;
    }
    std::vector<std::string> models() const {
        std::vector<std::string> all;
        for (const std::string& path : recordings(out)) all.push_back((*Recording::open(path))->info().model.path);
        std::sort(all.begin(), all.end());
        return all;
    }
    std::vector<Line> recorded() const {
        std::vector<Line> found = lines();
        std::sort(found.begin(), found.end());
        return found;
    }
};

// Guesses that are taken back are lines of their own, which share what was kept.
TEST_F(AttachContexts, DraftsThatAreTakenBackBranchOff) {
    const std::string command = contexts("drafts", other("--layers 2 --heads 2"));
    for (const char* environment : {"", "env ATTACH_HOST_NO_MMAP=1 "}) {
        std::filesystem::remove_all(out);
        std::filesystem::create_directory(out);
        const std::vector<Line> texts = run(environment + command);
        ASSERT_GT(texts.size(), 20u);
        EXPECT_EQ(recorded(), texts) << said;
        EXPECT_EQ(models(), (std::vector<std::string>{"m.gguf", "other.gguf"})); // of one vocabulary, of each its own
    }
}

TEST_F(AttachContexts, TwoModelsAreKeptApart) {
    expect_recorded(contexts("two", other("--layers 4 --head-dim 64")));
    EXPECT_EQ(models(), (std::vector<std::string>{"m.gguf", "other.gguf"}));
}

TEST_F(AttachContexts, ThoseFreedAndMadeAgainBeginAnew) {
    expect_recorded(contexts("again"));
    EXPECT_EQ(recordings(out).size(), 6u);
    for (const std::string& path : recordings(out)) EXPECT_TRUE((*Recording::open(path))->info().complete) << path;
}

TEST_F(AttachContexts, ThreadsAreKeptApart) {
    expect_recorded(contexts("threads", other("--layers 4 --head-dim 64")));
    EXPECT_EQ(recordings(out).size(), 4u);
}

// An encoder is refused in words, and disturbs nobody.
TEST_F(AttachContexts, EmbeddingsBesideATextDoNotMixWithIt) {
    expect_recorded(contexts("embed", other("--arch bert")));
    EXPECT_NE(said.find("it reads a text without a KV cache (an embedding model"), std::string::npos) << said;
}

// What computes first need not be what reads text: both use one ggml.
TEST_F(AttachContexts, GraphsOfOtherLibrariesWithTheSameGgmlDoNotShutTheDoor) {
    expect_recorded(contexts("eyes"));
    EXPECT_EQ(said.find("second copy"), std::string::npos) << said;
}

// Two texts that part within one batch: one of them is captured, and that the other is not is said.
TEST_F(AttachContexts, TextsThatPartWithinOneBatchAreNotMixedUp) {
    expect_recorded(contexts("forks"));
    EXPECT_NE(said.find("a line that branches off within one graph is not captured"), std::string::npos) << said;
}

// llama.cpp makes its scheduler anew where patches see one another: what was read before is known still.
TEST_F(AttachContexts, ATextGoesOnWhoseSchedulerWasMadeAnew) {
    expect_recorded(contexts("looks"));
    EXPECT_EQ(recordings(out).size(), 1u);
    EXPECT_EQ(said.find("not captured"), std::string::npos) << said;
}

TEST_F(AttachContexts, BehindAPictureThatStaysNothingIsCaptured) {
    expect_recorded(contexts("stays"));
    EXPECT_NE(said.find("goes on from what was not captured"), std::string::npos) << said;
}

// What lies in the cells is looked at, not what lay there.
TEST_F(AttachContexts, ACacheThatChangesWithItsSchedulerIsNotTakenForWhatItWas) {
    expect_recorded(contexts("moves"));
    EXPECT_NE(said.find("goes on from what was not captured"), std::string::npos) << said;
}

TEST_F(AttachContexts, AnothersCacheIsNotTakenForThatOfASchedulerThatWent) {
    expect_recorded(contexts("apart"));
    EXPECT_EQ(recordings(out).size(), 2u);
}

// Keys that are the same tell two such texts not apart: whose each cell is stays known.
TEST_F(AttachContexts, EqualTextsStayApartWhenTheirSchedulerIsMadeAnew) {
    expect_recorded(contexts("twice"));
}

// The memory of the second may lie where that of the first one lay.
TEST_F(AttachContexts, AModelInThePlaceOfAnotherHasRecordingsOfItsOwn) {
    expect_recorded(contexts("swaps", other("--layers 3")));
    EXPECT_EQ(models(), (std::vector<std::string>{"m.gguf", "other.gguf"}));
}

TEST_F(AttachContexts, WhenAContextIsFreedItsRecordingIsComplete) {
    const Answer answer =
        shell(program + " attach -o " + out + " -- " + contexts("freed") + " >" + dir.file("ids") + " 2>" +
              dir.file("said") + " & sleep 2; " + program + " info --json " + out + "/*.attn; kill -TERM $!; wait $!");
    EXPECT_EQ(answer.code, 128 + SIGTERM);
    EXPECT_NE(answer.output.find("\"complete\": true"), std::string::npos) << answer.output;
}

TEST_F(AttachContexts, AttentionThatCannotBeCapturedIsRefusedInWords) {
    EXPECT_EQ(run(contexts("f32keys")).size(), 1u);
    EXPECT_TRUE(recorded().empty());
    EXPECT_NE(said.find("nothing is captured of a context: its attention cannot be captured: with flash attention"),
              std::string::npos)
        << said;
}

// SIGTERM to us goes to the program, whose recordings are then complete.
TEST_F(AttachContexts, ARequestToEndReachesTheProgram) {
    const Answer answer = shell(program + " attach -o " + out + " -- " + contexts("endless") + " >" + dir.file("ids") +
                                " 2>" + dir.file("said") + " & sleep 2; kill -TERM $!; wait $!");
    EXPECT_EQ(answer.code, 128 + SIGTERM);
    const Line ids = numbers(shell("cat " + dir.file("ids")).output);
    ASSERT_GT(ids.size(), 10u);
    const std::vector<Line> found = lines();
    ASSERT_EQ(found.size(), 1u);
    ASSERT_GE(found[0].size() + 1, ids.size()); // a token is printed before it is decoded
    EXPECT_TRUE(std::equal(found[0].begin(), found[0].end(), ids.begin()));
    EXPECT_TRUE((*Recording::open(recordings(out).at(0)))->info().complete);
}

// A terminal's goes to both; what kill sends to us alone is for the program as well.
TEST_F(AttachContexts, AnInterruptThatIsSentToUsAloneReachesTheProgram) {
    for (const auto& [signal, number] : {std::pair("INT", SIGINT), std::pair("QUIT", SIGQUIT)}) {
        const Answer answer = shell("env --default-signal=INT,QUIT " + program + " attach -o " + out + signal + " -- " +
                                    contexts("endless") + " >" + dir.file("ids") + " 2>" + dir.file("said") +
                                    " & us=$!; sleep 2; kill -" + signal +
                                    " $us; (sleep 10; kill -TERM $us) >/dev/null 2>&1 & late=$!; wait $us; code=$?; "
                                    "kill $late; exit $code");
        EXPECT_EQ(answer.code, 128 + number) << signal;
        ASSERT_EQ(recordings(out + signal).size(), 1u);
        EXPECT_TRUE((*Recording::open(recordings(out + signal).at(0)))->info().complete);
    }
}

// Who serves says when the program is there, and that it has ended, also where nothing is recorded.
TEST_F(AttachContexts, WhoServesSaysWhenTheProgramListensAndEnds) {
    const std::string listens = R"(import socket, sys, time
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
time.sleep(1)
s.listen()
time.sleep(20))";
    std::ofstream(dir.file("listens.py")) << listens;
    const Answer answer =
        shell("python3 " + dir.file("listens.py") + " >" + dir.file("port") + " & listens=$!; sleep 0.5; " + program +
              " attach --serve 127.0.0.1:0 --to 127.0.0.1:$(cat " + dir.file("port") + ") -- " + contexts("endless") +
              " >/dev/null 2>" + dir.file("said") + " & us=$!; sleep 2.5; kill -TERM $us; wait $us; kill $listens");
    const std::string all = shell("cat " + dir.file("said")).output;
    EXPECT_NE(all.find("the program listens at 127.0.0.1:"), std::string::npos) << all;
    EXPECT_NE(all.find("the program has ended with status 143; nothing was recorded"), std::string::npos) << all;
}

// The page beside a program that writes: every recording, the newest first, which grows while one looks.
TEST_F(AttachContexts, ThePageShowsRecordingsAsTheyGrow) {
    const std::string look = R"(import json, sys, time, urllib.request
url = next(word for line in open(sys.argv[1]) for word in line.split() if word.startswith("http://")) + "api/"
ask = lambda path: json.load(urllib.request.urlopen(url + path))
for _ in range(200):
    sources = ask("sources")["sources"]
    if len(sources) == 7: break
    time.sleep(0.05)
n = []
for _ in range(2):
    time.sleep(1)
    info = ask("info?r=" + sources[0]["id"])
    n.append(info["n_tokens"])
older = ask("info?r=" + sources[1]["id"])
print(len(sources), info["complete"], n[0] < n[1], older["complete"], older["n_tokens"] > 10)
)";
    std::ofstream(dir.file("look.py")) << look;
    const Answer answer = shell(program + " attach --view -o " + out + " -- sh -c '" + contexts("again") +
                                "; sleep 0.5; exec " + contexts("endless") + "' >" + dir.file("ids") + " 2>" +
                                dir.file("said") + " & attached=$!; sleep 1; python3 " + dir.file("look.py") + " " +
                                dir.file("said") + "; kill -TERM $attached; wait $attached");
    EXPECT_EQ(answer.output, "7 False True True True\n") << shell("cat " + dir.file("said")).output;
    EXPECT_EQ(answer.code, 128 + SIGTERM);
}

// Memory that cannot be had, whichever it is, costs the recording and not the program. (The first few are the C++ runtime's, for
// telling of such a lack.)
TEST_F(AttachContexts, WithoutMemoryForUsTheProgramGoesOn) {
    const std::string command = contexts("again");
    const Answer plain = shell(command);
    std::string all_said;
    for (const int after : {5, 10, 20, 50, 100, 200, 400, 800, 1600, 3200}) {
        const std::string environment = "LD_PRELOAD=" ATTNSCOPE_ATTACH_HUNGRY " ATTACH_HUNGRY=" + std::to_string(after);
        std::filesystem::remove_all(out);
        std::filesystem::create_directory(out);
        const Answer attached = attach(command, environment);
        EXPECT_EQ(attached.code, 0) << after << said;
        all_said += said;
        EXPECT_EQ(attached.output, plain.output) << after;
        const std::vector<Line> texts = printed(plain.output);
        for (const Line& line : lines()) {
            const bool known = std::any_of(texts.begin(), texts.end(), [&](const Line& text) {
                return line.size() <= text.size() && std::equal(line.begin(), line.end(), text.begin());
            });
            EXPECT_TRUE(known) << after;
        }
    }
    EXPECT_NE(all_said.find("no memory; nothing is captured of a context any more"), std::string::npos) << all_said;
    EXPECT_NE(all_said.find("; nothing is captured any more"), std::string::npos) << all_said;
}

} // namespace
