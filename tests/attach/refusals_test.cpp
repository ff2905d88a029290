// Reasons why nothing is captured that no other test meets on its way: each is said in words, and the program goes on. That no message
// is without a test is held by tests/refusals_test.py.
#include "attach/host_fixture.h"
#include "attach/parent/inbox.h"
#include "attach/parent/texts.h"
#include "attach/wire/ring.h"
#include "support/shell.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

using namespace attnscope;
using namespace attnscope::attach;
using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

class AttachRefusals : public AttachHosts {
protected:
    // Runs `command` alone and attached: it does the same, and `why` is said.
    void expect_said(const std::string& command, const std::string& why) {
        const Answer plain = shell_all(command), attached = attach(command);
        EXPECT_EQ(attached.code, plain.code) << said;
        EXPECT_NE(said.find(why), std::string::npos) << said;
    }
    const std::string host = ATTNSCOPE_ATTACH_HOST " " + model + " 5 1 11 27 3";
};

// /dev/shm of a container has 64 MB; here no file may be that large.
TEST_F(AttachRefusals, ARingThatFindsNoRoom) {
    for (const std::string signal : {"trap \"\" XFSZ; ", ""}) { // which would end the program
        const std::string command = "sh -c '" + signal + "ulimit -f 4000; exec " + host + "'";
        const Answer plain = shell(command), attached = attach(command);
        EXPECT_EQ(attached.code, 0);
        EXPECT_EQ(attached.output, plain.output);
        EXPECT_TRUE(recordings(out).empty());
        EXPECT_NE(said.find("attnscope: no shared memory for "), std::string::npos) << said;
        EXPECT_NE(said.find("; nothing is captured\n"), std::string::npos) << said;
        EXPECT_TRUE(said.ends_with("\nattnscope: nothing was captured, for the reason above\n")) << said;
    }
}

TEST_F(AttachRefusals, AProgramThatCannotBeStarted) {
    const std::string noise = dir.file("noise");
    std::ofstream(noise) << "noise";
    fs::permissions(noise, fs::perms::owner_all);
    EXPECT_EQ(attach(noise).code, 2);
    EXPECT_NE(said.find("cannot start " + noise), std::string::npos) << said;
    EXPECT_EQ(attach("no-such-program-anywhere").code, 2);
    EXPECT_NE(said.find("no program no-such-program-anywhere in PATH"), std::string::npos) << said;
}

// A function of ggml that the program found with us, and has not itself: there is nothing to call.
TEST_F(AttachRefusals, AFunctionThatNoGgmlDefines) {
    const Answer attached = attach("python3 -c 'import ctypes; ctypes.CDLL(None).ggml_backend_sched_free(None)'");
    EXPECT_NE(attached.code, 0);
    EXPECT_NE(said.find("ggml_backend_sched_free was called, but no ggml that defines it can be found"),
              std::string::npos)
        << said;
}

// One that asks for a back end, and then does not ask that for anything.
TEST_F(AttachRefusals, AGgmlThatDoesNotTakeOurBackEnd) {
    expect_said("python3 -c 'import ctypes; here = ctypes.CDLL(None); here.getenv(b\"GGML_BACKEND_PATH\"); "
                "here.ggml_backend_init() if hasattr(here, \"ggml_backend_init\") else None; here.fopen(b\"" +
                    model + "\", b\"rb\")'",
                "its ggml did not take a back end of ours, whose interface it has in another version");
}

// Rings of strangers.
class AttachInbox : public testing::Test {
protected:
    bool was_said(const std::string& words) const {
        return std::any_of(said.begin(), said.end(),
                           [&](const std::string& s) { return s.find(words) != std::string::npos; });
    }
    std::vector<std::string> said;
    TempDir dir;
};

TEST_F(AttachInbox, NoiseIsNotListenedTo) {
    const auto say = [this](ProgramRecorder::About, const std::string& line) { said.push_back(line); };
    auto inbox =
        Inbox::create([&] { return std::make_unique<ProgramRecorder>(dir.path().string(), "{}", say, nullptr); }, say);
    ASSERT_TRUE(inbox);
    auto ring = RingWriter::create((*inbox)->folder() + "/1-1.ring", size_t(1) << 16);
    ASSERT_TRUE(ring && (*ring)->try_write(10, [](ByteWriter& to) {
        for (int i = 0; i < 10; ++i) to.put(uint8_t{0xee});
    }));
    std::ofstream((*inbox)->folder() + "/2-2.ring") << std::string(100000, 'x');
    (*inbox)->finish();
    EXPECT_TRUE(was_said("a program sent what is no message: it is not listened to any more"));
    EXPECT_TRUE(was_said("2-2.ring is no ring"));
}

// The model whose texts are wanted is not among the files that the program has open.
TEST_F(AttachRefusals, TextsOfAnotherModelAreNotTaken) {
    const auto why = [](const std::vector<std::string>& files, int32_t n_vocab, int32_t n_layer) {
        const auto texts = Texts::open(files, n_vocab, n_layer);
        return texts ? std::string() : texts.error().message;
    };
    EXPECT_EQ(why({}, 0, 3), "the program has no GGUF file open");
    EXPECT_NE(why({model}, 7, 3).find("m.gguf has a vocabulary of another size"), std::string::npos);
    EXPECT_NE(why({model}, 0, 5).find("m.gguf has fewer layers"), std::string::npos);
    EXPECT_EQ(why({model}, 0, 3), "");
}

} // namespace
