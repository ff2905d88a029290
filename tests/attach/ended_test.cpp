// A program that starts others for weeks, as servers do that load a model and let it go again: of those that have ended nothing is kept
// but their recordings.
#include "attach/host_fixture.h"
#include "attach/parent/inbox.h"
#include "attach/wire/messages.h"
#include "attach/wire/ring.h"
#include "support/shell.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

using namespace attnscope;
using namespace attnscope::attach;
using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

constexpr std::chrono::seconds patience{10};
constexpr size_t ring_bytes = size_t(1) << 16;

class AttachEnded : public testing::Test {
protected:
    void SetUp() override {
        const auto say = [this](ProgramRecorder::About, const std::string& line) { said.push_back(line); };
        auto made = Inbox::create([=, this] { return std::make_unique<ProgramRecorder>("", "{}", say, nullptr); }, say);
        ASSERT_TRUE(made);
        inbox = std::move(*made);
    }
    std::string path(const std::string& name) const { return inbox->folder() + "/" + name + ".ring"; }
    static bool write(RingWriter& ring, const ByteList& bytes) {
        return ring.try_write(bytes.bytes().size(), [&](ByteWriter& to) {
            for (const uint8_t byte : bytes.bytes()) to.put(byte);
        });
    }
    // A program's side: its ring, with its first message in it.
    static std::unique_ptr<RingWriter> begin(const std::string& path) {
        auto ring = RingWriter::create(path, ring_bytes);
        if (!ring) return nullptr;
        ByteList bytes;
        write_message(Hello{getpid(), "/bin/p", "/lib/l.so", "ggml", "interposed"}, bytes);
        return write(**ring, bytes) ? std::move(*ring) : nullptr;
    }
    size_t n_rings() const {
        size_t n = 0;
        for (const auto& entry : fs::directory_iterator(inbox->folder())) n += entry.path().extension() == ".ring";
        return n;
    }
    bool take_until(const std::function<bool()>& done) {
        const auto until = std::chrono::steady_clock::now() + patience;
        while (!done() && std::chrono::steady_clock::now() < until) {
            if (inbox->take() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        return done();
    }
    void take_for(std::chrono::milliseconds time) {
        const auto until = std::chrono::steady_clock::now() + time;
        while (std::chrono::steady_clock::now() < until) {
            if (inbox->take() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    }
    std::vector<std::string> said;
    std::unique_ptr<Inbox> inbox;
};

TEST_F(AttachEnded, OneThatWasKilledGivesItsMemoryBack) {
    const pid_t child = fork();
    if (child == 0) {
        const auto ring = begin(path("1-1"));
        while (ring) pause();
        _exit(1);
    }
    ASSERT_TRUE(take_until([&] { return !said.empty(); })); // it was heard
    take_for(std::chrono::milliseconds(200));
    EXPECT_EQ(n_rings(), 1u); // and is believed to live while it does
    EXPECT_TRUE(inbox->programs_live());
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    EXPECT_TRUE(take_until([&] { return n_rings() == 0; }));
    EXPECT_FALSE(inbox->programs_live());
    EXPECT_TRUE(inbox->any_program()); // there was one
}

TEST_F(AttachEnded, ManyMoreThanMayRunAtOnceAreHeardOneAfterAnother) {
    size_t n = 0;
    for (int round = 0; round < 6; ++round) {
        for (int i = 0; i < 100; ++i) {
            const auto ring = begin(path(std::to_string(++n)));
            ASSERT_TRUE(ring);
            ring->close();
        }
        ASSERT_TRUE(take_until([&] { return n_rings() == 0; })) << n;
    }
    EXPECT_EQ(said.size(), n);
}

TEST_F(AttachEnded, MoreAtOnceThanAreListenedToIsSaidOnce) {
    std::vector<std::unique_ptr<RingWriter>> rings;
    for (int i = 0; i < 258; ++i) rings.push_back(begin(path(std::to_string(i))));
    EXPECT_TRUE(take_until([&] { return said.size() >= 257; }));
    take_for(std::chrono::milliseconds(200));
    EXPECT_EQ(said.size(), 257u);
    EXPECT_EQ(std::count(said.begin(), said.end(), "256 programs run at once: of more than that nothing is captured"),
              1);
}

// In a container a program knows itself by a number that nobody has here.
TEST_F(AttachEnded, OneWhoseNumberNobodyHasHereLivesAsLongAsItHoldsItsRing) {
    const pid_t gone = fork();
    if (gone == 0) _exit(0);
    waitpid(gone, nullptr, 0);
    auto ring = begin(path("1-1"));
    ASSERT_TRUE(ring);
    const int64_t pid = gone;
    std::fstream file(path("1-1"), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(offsetof(RingHeader, pid)).write(reinterpret_cast<const char*>(&pid), sizeof pid);
    file.close();
    ASSERT_TRUE(take_until([&] { return said.size() == 1; }));
    take_for(std::chrono::milliseconds(200));
    ASSERT_EQ(n_rings(), 1u);
    ByteList bytes;
    write_message(Notice{"still there"}, bytes);
    ASSERT_TRUE(write(*ring, bytes));
    EXPECT_TRUE(take_until([&] { return said.size() == 2; }));
    ring.reset(); // it is gone, without a word
    EXPECT_TRUE(take_until([&] { return n_rings() == 0; }));
}

// The recording of a child that has ended is closed while its parent runs on.
TEST_F(AttachHosts, RecordingsOfAChildThatHasEndedAreWholeWhileItsParentRuns) {
    const std::string host = ATTNSCOPE_ATTACH_HOST " " + model + " 5 1 11 27 3";
    const Answer answer =
        attach("sh -c '" + host + " > /dev/null; for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.2; " +
               "ls $ATTNSCOPE_ATTACH | grep -q ring || break; done; " + "ls $ATTNSCOPE_ATTACH | grep -c ring; ls " +
               out + " | grep -c wal; " + program + " info " + out + "/*.attn | grep -c \"attn, complete$\"'");
    EXPECT_EQ(answer.output, "0\n0\n1\n");
    EXPECT_EQ(recordings(out).size(), 1u);
    EXPECT_NE(said.find("tokens ok"), std::string::npos) << said;
}

} // namespace
