// Programs that link, store and restore in other ways than our own: what they decoded is there, and nothing else is.
#include "attach/host_fixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

using namespace attnscope;
using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

// Keys stored by copies, masks that are converted, no model file, calls out of the executable itself.
TEST_F(AttachHosts, KeysThatAreCopiedIntoTheCacheAreFollowed) {
    for (const char* way : {"0", "1", "1 reuse", "1 moved", "1 grown"}) {
        fs::remove_all(out);
        fs::create_directory(out);
        const std::string command = ATTNSCOPE_ATTACH_OLD_HOST " 20 " + std::string(way);
        const Answer plain = shell(command), attached = attach(command);
        ASSERT_EQ(plain.code, 0);
        EXPECT_EQ(attached.code, 0);
        EXPECT_EQ(attached.output, plain.output);
        EXPECT_EQ(lines(), printed(plain.output)) << said;
        EXPECT_NE(said.find("tokens have no texts: "), std::string::npos) << said;
    }
}

TEST_F(AttachHosts, KeysThatAreCopiedApartAreRefusedInWords) {
    const Answer plain = shell(ATTNSCOPE_ATTACH_OLD_HOST " 20 0 apart"),
                 attached = attach(ATTNSCOPE_ATTACH_OLD_HOST " 20 0 apart");
    ASSERT_EQ(plain.code, 0);
    EXPECT_EQ(attached.output, plain.output);
    EXPECT_TRUE(lines().empty());
    EXPECT_NE(said.find("nothing is captured of a context: "), std::string::npos) << said;
}

// Node.js and Python load what they run when they need it, some with RTLD_DEEPBIND.
TEST_F(AttachHosts, LibrariesThatAreLoadedLaterAreReached) {
    const std::string arguments = " " + model + " 20 1 11 27 3 91 45 8";
    const std::string loader = ATTNSCOPE_ATTACH_LOADER " " ATTNSCOPE_ATTACH_HOST_MODULE " ";
    const Answer plain = shell(loader + "local" + arguments), local = attach(loader + "local" + arguments);
    ASSERT_EQ(plain.code, 0) << plain.output;
    EXPECT_EQ(local.output, plain.output);
    EXPECT_EQ(lines(), printed(plain.output)) << said;

    fs::remove_all(out);
    fs::create_directory(out);
    const Answer deep =
        attach(loader + "deepbind" + arguments, "ATTACH_HOST_LOAD_ALL=1 GGML_BACKEND_PATH=" ATTNSCOPE_ATTACH_LIBRARY);
    EXPECT_EQ(deep.output, plain.output);
    EXPECT_EQ(lines(), printed(plain.output)) << said;
    EXPECT_NE(said.find("import slots"), std::string::npos) << said;
}

// A library that was let go and is loaded again may lie where another one lay.
TEST_F(AttachHosts, ALibraryThatIsLoadedAgainIsReachedAgain) {
    const std::string arguments = " " + model + " 20 1 11 27 3 91 45 8";
    const std::string loader = ATTNSCOPE_ATTACH_LOADER " " ATTNSCOPE_ATTACH_HOST_MODULE " local" + arguments;
    const std::string next = "ATTACH_LOADER_NEXT=" ATTNSCOPE_ATTACH_HOST_MODULE;
    const Answer plain = shell(next + " " + loader), attached = attach(loader, next);
    ASSERT_EQ(plain.code, 0) << plain.output;
    EXPECT_EQ(attached.output, plain.output);
    EXPECT_EQ(lines(), printed(plain.output)) << said;
    EXPECT_EQ(recordings(out).size(), 2u);
}

// A prompt cache in memory: the text goes on where it was, although another one lay in its cells.
TEST_F(AttachHosts, ARestoredStateIsRecognised) {
    const Answer plain = shell(states("restore")), attached = attach(states("restore"));
    ASSERT_EQ(plain.code, 0);
    EXPECT_EQ(attached.output, plain.output);
    std::vector<Line> expected = printed(plain.output), found = lines();
    std::sort(expected.begin(), expected.end()), std::sort(found.begin(), found.end());
    EXPECT_EQ(found, expected) << said;
}

// The same text read in another way has the same keys here and other ones there: the state is that of one of both.
TEST_F(AttachHosts, ARestoredStateIsOfTheReadingThatItWasTakenFrom) {
    for (const std::string way :
         {"rounded", "branched", "branched q8_0", "checkpoint", "checkpoint 256", "checkpoint 512 full"}) {
        SCOPED_TRACE(way);
        std::filesystem::remove_all(out);
        std::filesystem::create_directory(out);
        if (way.starts_with("checkpoint")) {
            ASSERT_EQ(shell(program + " models make --force --arch gemma3 --layers 4 -o " + model + " 2>&1").code, 0);
        }
        const Answer plain = shell(states(way)), attached = attach(states(way));
        ASSERT_EQ(plain.code, 0);
        EXPECT_EQ(attached.output, plain.output);
        std::vector<Line> expected = printed(plain.output), found = lines();
        std::sort(expected.begin(), expected.end()), std::sort(found.begin(), found.end());
        EXPECT_EQ(found, expected) << said;
    }
}

// A server that is asked the same again, or with another word, reads what it has not in its cache, were it one token: it is of the prompt.
TEST_F(AttachHosts, APromptsLastTokenThatIsReadAgainIsNoGeneratedOne) {
    for (const std::string way : {"again", "otherwise"}) {
        const Answer plain = shell(states(way)), attached = attach(states(way));
        ASSERT_EQ(plain.code, 0);
        EXPECT_EQ(attached.output, plain.output);
        const std::vector<std::string> files = recordings(out);
        ASSERT_EQ(files.size(), 1u) << said;
        const auto recording = Recording::open(files[0]);
        ASSERT_TRUE(recording.ok()) << recording.error().message;
        std::vector<std::string> kinds; // of a line's own tokens
        for (const Sequence& sequence : (*recording)->sequences()) {
            const auto frames = (*recording)->frames(sequence.n_shared, sequence.n_frames, sequence.id);
            ASSERT_TRUE(frames.ok()) << frames.error().message;
            kinds.emplace_back();
            for (const Frame& frame : *frames) kinds.back() += frame.kind == FrameKind::prompt ? 'p' : 'g';
        }
        EXPECT_EQ(kinds, (std::vector<std::string>{"ppppppgggggggggg", "pgggg"})) << way;
        const std::string info = shell(program + " info " + files[0]).output; // of all sequences, what they share once
        EXPECT_NE(info.find("21: 7 prompt, 14 generated; 21 with a good verdict"), std::string::npos) << info;
        const Answer folder = shell(program + " show " + out + " 2>&1");
        EXPECT_EQ(folder.code, 2);
        EXPECT_NE(folder.output.find("Name one, as " + files[0]), std::string::npos) << folder.output;
        std::filesystem::remove(files[0]);
    }
}

// A server's prompt cache puts a text into cells that others have had meanwhile; a text is copied into another stream of the cache.
TEST_F(AttachHosts, WhatIsPutIntoOtherCellsIsRecognised) {
    for (const std::string way : {"swap", "swap apart", "copy"}) {
        SCOPED_TRACE(way);
        std::filesystem::remove_all(out);
        std::filesystem::create_directory(out);
        const Answer plain = shell(states(way)), attached = attach(states(way));
        ASSERT_EQ(plain.code, 0);
        EXPECT_EQ(attached.output, plain.output);
        std::vector<Line> expected = printed(plain.output), found = lines();
        std::sort(expected.begin(), expected.end()), std::sort(found.begin(), found.end());
        EXPECT_EQ(found, expected) << said;
    }
}

// What an earlier process decoded we have not seen: it is said, and the next text is captured again.
TEST_F(AttachHosts, AStateOfAnotherProcessIsNotTakenForOurs) {
    const std::string state = dir.file("state");
    ASSERT_EQ(shell(states("save ") + state).code, 0);
    const Answer plain = shell(states("load ") + state), attached = attach(states("load ") + state);
    ASSERT_EQ(plain.code, 0);
    EXPECT_EQ(attached.output, plain.output);
    EXPECT_EQ(lines(), std::vector<Line>{printed(plain.output).at(1)}) << said;
    EXPECT_NE(said.find("goes on from what was not captured"), std::string::npos) << said;
}

TEST_F(AttachHosts, AShiftedContextIsNotTakenForWhatItWas) {
    const Answer plain = shell(states("shift")), attached = attach(states("shift"));
    ASSERT_EQ(plain.code, 0);
    EXPECT_EQ(attached.output, plain.output);
    const std::vector<Line> texts = printed(plain.output), found = lines();
    ASSERT_EQ(found.size(), 2u) << said;
    EXPECT_EQ(found[0], Line(texts[0].begin(), texts[0].begin() + 16)); // what was there before the shift
    EXPECT_EQ(found[1], texts[1]);
    EXPECT_NE(said.find("goes on from what was not captured"), std::string::npos) << said;
}

TEST_F(AttachHosts, AForkedChildIsLeftAlone) {
    const Answer plain = shell(states("fork")), attached = attach(states("fork"));
    ASSERT_EQ(plain.code, 0);
    EXPECT_EQ(attached.code, 0);
    EXPECT_EQ(attached.output, plain.output);
    EXPECT_EQ(lines(), printed(plain.output)) << said;
}

// A ring that holds a few tokens, and a parent that stands still: the program waits.
TEST_F(AttachHosts, NothingIsDroppedWhileTheParentLives) {
    const std::string large =
        " models make --force --layers 8 --heads 16 --kv-heads 16 --head-dim 64 --embd 64 -o "; // 32 KB a token
    ASSERT_EQ(shell(program + large + model + " 2>&1").code, 0);
    const std::string host = ATTNSCOPE_ATTACH_HOST " " + model + " 150 1 11 27 3 91 45 8";
    const Answer plain = shell(host);
    shell("ATTNSCOPE_RING_MIB=1 ATTACH_HOST_PAUSE=10 " + program + " attach -o " + out + " -- " + host + " >" +
          dir.file("ids") + " 2>/dev/null & sleep 0.7; kill -STOP $!; sleep 3; kill -CONT $!; wait");
    EXPECT_EQ(shell("cat " + dir.file("ids")).output, plain.output);
    EXPECT_EQ(lines(), printed(plain.output));
}

// Each answer that the probe relies on, given wrongly: it says so, and the program goes on.
class AttachFaults : public AttachHosts, public testing::WithParamInterface<const char*> {};

TEST_P(AttachFaults, EndInARefusal) {
    const std::string command = ATTNSCOPE_ATTACH_LOADER " " ATTNSCOPE_ATTACH_FAULTY_MODULE " local 20 1";
    const std::string fault = "ATTACH_FAULT=" + std::string(GetParam());
    const Answer plain = shell(command), attached = attach(command, fault);
    ASSERT_EQ(plain.code, 0) << plain.output;
    EXPECT_EQ(attached.code, 0);
    EXPECT_EQ(attached.output, plain.output);
    EXPECT_TRUE(lines().empty());
    EXPECT_NE(said.find("nothing of "), std::string::npos) << said;
    EXPECT_NE(said.find("is captured: "), std::string::npos) << said;
}
INSTANTIATE_TEST_SUITE_P(Probe, AttachFaults,
                         testing::Values("abort", "mul_mat", "view_1d", "flash_attn_ext", "set_output",
                                         "tensor_overhead", "op_name", "type_name", "tensor_alloc", "new_tensor_4d"));

TEST_F(AttachHosts, WithoutAFaultThatProgramIsCaptured) {
    const std::string command = ATTNSCOPE_ATTACH_LOADER " " ATTNSCOPE_ATTACH_FAULTY_MODULE " local 20 1";
    const Answer plain = shell(command), attached = attach(command);
    EXPECT_EQ(attached.output, plain.output);
    EXPECT_EQ(lines(), printed(plain.output)) << said;
}

} // namespace
