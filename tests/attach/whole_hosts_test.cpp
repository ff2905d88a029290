// Programs that hold llama.cpp inside, linked in the ways that leave other doors: each is captured as our own engine is, bit for bit,
// or refused in words.
#include "attach/host_fixture.h"
#include "attach/own_capture.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

using namespace attnscope;
using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

const std::string whole = ATTNSCOPE_ATTACH_WHOLE "/";
const std::string prompt_ids = "11 27 3 91 45 8";

struct Whole {
    const char* name;
    std::string command; // runs the host; its arguments follow
    const char* hook;    // what is said of the way in
};

class AttachWhole : public AttachHosts {
protected:
    void SetUp() override {
        if (!fs::exists(whole + "static")) GTEST_SKIP() << "llama.cpp came without the object files of its build";
        AttachHosts::SetUp();
    }
    std::string arguments(bool flash) const { return " " + model + " 24 " + (flash ? "1 " : "0 ") + prompt_ids; }
};

class AttachWholeRows : public AttachWhole, public testing::WithParamInterface<Whole> {};

TEST_P(AttachWholeRows, AreThoseOfOurOwnCaptureBitForBit) {
    for (const bool flash : {false, true}) {
        fs::remove_all(out);
        fs::create_directory(out);
        const std::string command = GetParam().command + arguments(flash);
        const Answer plain = shell(command), attached = attach(command);
        ASSERT_EQ(plain.code, 0) << plain.output;
        EXPECT_EQ(attached.code, 0);
        EXPECT_EQ(attached.output, plain.output);
        EXPECT_NE(said.find(GetParam().hook), std::string::npos) << said;
        ASSERT_EQ(lines(), printed(plain.output)) << said; // every row proven again
        expect_rows_of_our_own_capture(recordings(out).at(0), numbers(plain.output),
                                       {program, model, dir.file(flash ? "fa" : "no-fa"), prompt_ids, flash});
    }
}

// A context that only shows how much memory it would need tells nothing of the one that follows.
TEST_P(AttachWholeRows, AreThereAfterAContextWithoutMemory) {
    const std::string command = GetParam().command + arguments(true);
    const Answer plain = shell("ATTACH_HOST_FIT=1 " + command), attached = attach(command, "ATTACH_HOST_FIT=1");
    ASSERT_EQ(plain.code, 0) << plain.output;
    EXPECT_EQ(attached.output, plain.output);
    EXPECT_EQ(lines(), printed(plain.output)) << said;
}

// Keys in blocks that share a scale.
TEST_P(AttachWholeRows, AreThoseWithQuantisedKeys) {
    for (const auto& [number, name] : {std::pair{"8", "q8_0"}, std::pair{"2", "q4_0"}}) {
        fs::remove_all(out);
        fs::create_directory(out);
        const std::string command = GetParam().command + arguments(true),
                          cache = std::string("ATTACH_HOST_CACHE=") + number;
        const Answer plain = shell(cache + " " + command), attached = attach(command, cache);
        ASSERT_EQ(plain.code, 0) << plain.output;
        EXPECT_EQ(attached.code, 0);
        EXPECT_EQ(attached.output, plain.output);
        if (GetParam().name == std::string("Stripped")) { // its arithmetic has no name, and ours has none for these
            const std::string why = std::string("0 of 3 layers: keys of type ") + name + " are not supported";
            EXPECT_NE(said.find(why), std::string::npos) << said;
            continue;
        }
        ASSERT_EQ(lines(), printed(plain.output)) << said;
        expect_rows_of_our_own_capture(
            recordings(out).at(0), numbers(plain.output),
            {program, model, dir.file(name), prompt_ids, true, std::string(" -ctk ") + name});
    }
}
const std::string loader = ATTNSCOPE_ATTACH_LOADER " " + whole;
INSTANTIATE_TEST_SUITE_P(
    Hosts, AttachWholeRows,
    testing::Values(Whole{"OneLibraryThatPythonLoads", "python3 " ATTNSCOPE_ATTACH_CTYPES_HOST " " + whole + "one.so",
                          "interposed"},
                    Whole{"CallsBoundInside", loader + "bsymbolic.so local", "calls redirected"},
                    Whole{"HiddenNames", loader + "hidden.so local", "calls redirected"},
                    Whole{"HiddenNamesInPython", "python3 " ATTNSCOPE_ATTACH_CTYPES_HOST " " + whole + "hidden.so",
                          "calls redirected"},
                    Whole{"Static", whole + "static", "calls redirected"},
                    Whole{"Stripped", "env ATTACH_HOST_LOAD_ALL=1 " + whole + "stripped", "an accelerator of ggml's"}),
    [](const auto& host) { return std::string(host.param.name); });

// Its calls neither come to us nor are in a table that we are told of: said at the end.
TEST_F(AttachWhole, RtldDeepbindIsRefusedInWordsUntilGgmlLoadsUs) {
    const std::string command = ATTNSCOPE_ATTACH_LOADER " " + whole + "one.so deepbind" + arguments(true);
    const Answer plain = shell(command), attached = attach(command);
    ASSERT_EQ(plain.code, 0);
    EXPECT_EQ(attached.code, 0);
    EXPECT_EQ(attached.output, plain.output);
    EXPECT_TRUE(recordings(out).empty());
    EXPECT_NE(said.find("loaded with RTLD_DEEPBIND"), std::string::npos) << said;

    const Answer led = attach(command, "ATTACH_HOST_LOAD_ALL=1 GGML_BACKEND_PATH=" ATTNSCOPE_ATTACH_LIBRARY);
    EXPECT_EQ(led.output, plain.output);
    ASSERT_EQ(lines(), printed(plain.output)) << said;
    expect_rows_of_our_own_capture(recordings(out).at(0), numbers(plain.output),
                                   {program, model, dir.file("ours"), prompt_ids, true});
}

// Two engines in one process: the first is captured, the other goes on and is named.
TEST_F(AttachWhole, ASecondCopyOfGgmlIsRefusedInWords) {
    const std::string command = ATTNSCOPE_ATTACH_LOADER " " ATTNSCOPE_ATTACH_HOST_MODULE " local" + arguments(true);
    const std::string next = "ATTACH_LOADER_NEXT=" + whole + "one.so";
    const Answer plain = shell(next + " " + command), attached = attach(command, next);
    ASSERT_EQ(plain.code, 0) << plain.output;
    EXPECT_EQ(attached.code, 0);
    EXPECT_EQ(attached.output, plain.output);
    EXPECT_EQ(lines(), std::vector<Line>{printed(plain.output).at(0)}) << said;
    EXPECT_NE(said.find("one.so is captured: a second copy of ggml is loaded"), std::string::npos) << said;
}

// A symbol table that is not that of the code that runs must not be believed: the program is left as it is.
TEST_F(AttachWhole, ADamagedTableOfNamesDoesNotHarmTheProgram) {
    const std::string path = dir.file("damaged");
    std::ifstream in(whole + "static", std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), {});
    const Answer plain = shell(whole + "static" + arguments(true));
    // The last part of the file holds section headers and names: in strides, so that each kind is hit.
    for (const size_t stride : {1021u, 97u, 13u}) {
        std::string damaged = bytes;
        for (size_t at = damaged.size() - 20000; at < damaged.size(); at += stride) damaged[at] = char(0xff);
        std::ofstream(path, std::ios::binary) << damaged;
        fs::permissions(path, fs::perms::owner_all);
        fs::remove_all(out);
        fs::create_directory(out);
        const Answer attached = attach(path + arguments(true));
        EXPECT_EQ(attached.code, 0) << stride << said;
        EXPECT_EQ(attached.output, plain.output) << stride;
        for (const std::string& file : recordings(out)) EXPECT_EQ(shell(program + " verify --all " + file).code, 0);
    }
}

} // namespace
