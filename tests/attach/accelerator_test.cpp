// Programs whose calls of ggml have no names (linked statically, stripped): ggml loads us as a back end of its own. They compute what
// they would have computed, to the bit, and every text is there, once, or it is said why not.
#include "attach/host_fixture.h"
#include "support/arch_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

using namespace attnscope;
using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

const std::string stripped = ATTNSCOPE_ATTACH_WHOLE "/stripped";
const std::string loads = "env ATTACH_HOST_LOAD_ALL=1 ";
const std::string ours = ATTNSCOPE_ATTACH_LIBRARY;

std::string bytes_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream all;
    all << file.rdbuf();
    return all.str();
}

class AttachAccelerator : public AttachHosts {
protected:
    void SetUp() override {
        if (!fs::exists(stripped)) GTEST_SKIP() << "llama.cpp came without the object files of its build";
        AttachHosts::SetUp();
    }
    std::string arguments(bool flash = true) const {
        return " " + model + " 24 " + (flash ? "1" : "0") + " 11 27 3 91 45 8";
    }
    std::string contexts(const std::string& way, const std::string& more = {}) const {
        return loads + stripped + "-contexts " + way + " " + model + " " + more;
    }
    std::string stripped_states(const std::string& way) const {
        return loads + stripped + "-states " + model + " " + way;
    }
    std::string other(const std::string& how) {
        std::string path = dir.file("other.gguf");
        EXPECT_EQ(shell(program + " models make --force --seed 7 " + how + " -o " + path + " 2>&1").code, 0);
        return path;
    }
    // Runs it alone and attached: it says and does the same. The texts that it speaks of.
    std::vector<Line> run(const std::string& command, const std::string& environment = {}) {
        const Answer plain = shell(command), attached = attach(command, environment);
        EXPECT_EQ(plain.code, 0) << plain.output;
        EXPECT_EQ(attached.code, 0) << said;
        std::vector<Line> expected = printed(plain.output), now = printed(attached.output);
        std::sort(expected.begin(), expected.end()), std::sort(now.begin(), now.end()); // threads end in any order
        EXPECT_EQ(now, expected);
        return expected;
    }
    std::vector<Line> recorded() const {
        std::vector<Line> found = lines();
        std::sort(found.begin(), found.end());
        return found;
    }
    void expect_refused(const std::string& command, const std::string& why, const std::string& environment = {}) {
        run(command, environment);
        EXPECT_TRUE(recordings(out).empty());
        EXPECT_NE(said.find(why), std::string::npos) << said;
    }
};

// Also of prompts that are read in parts, most of which nobody wants a result of.
TEST_F(AttachAccelerator, TheProgramComputesWhatItComputesWithoutUsToTheBit) {
    std::string prompt;
    for (int i = 0; i < 70; ++i) prompt += " " + std::to_string(i * 7 % 250);
    for (const char* flash : {"0", "1"}) {
        const std::string logits = dir.file("logits");
        const std::string command = loads + "ATTACH_HOST_UBATCH=16 ATTACH_HOST_LOGITS=" + logits + " " + stripped +
                                    " " + model + " 20 " + flash + prompt;
        fs::remove_all(out);
        fs::create_directory(out);
        const Answer plain = shell(command);
        const std::string before = bytes_of(logits);
        const Answer attached = attach(command);
        ASSERT_EQ(plain.code, 0);
        EXPECT_EQ(attached.output, plain.output);
        ASSERT_GT(before.size(), 20u * 4);
        EXPECT_TRUE(bytes_of(logits) == before);
        EXPECT_EQ(lines(), printed(plain.output)) << said;
    }
}

TEST_F(AttachAccelerator, ARestoredStateIsRecognisedByWhatLiesInItsCells) {
    const std::vector<Line> texts = run(stripped_states("restore"));
    EXPECT_EQ(recorded(), texts) << said;
}

TEST_F(AttachAccelerator, AStateOfAnotherProcessIsNotTakenForOurs) {
    const std::string state = dir.file("state");
    ASSERT_EQ(shell(stripped_states("save ") + state).code, 0);
    const Answer plain = shell(stripped_states("load ") + state), attached = attach(stripped_states("load ") + state);
    EXPECT_EQ(attached.output, plain.output);
    EXPECT_EQ(lines(), std::vector<Line>{printed(plain.output).at(1)}) << said;
    EXPECT_NE(said.find("goes on from what was not captured"), std::string::npos) << said;
}

TEST_F(AttachAccelerator, AShiftedContextIsNotTakenForWhatItWas) {
    const Answer plain = shell(stripped_states("shift")), attached = attach(stripped_states("shift"));
    EXPECT_EQ(attached.output, plain.output);
    const std::vector<Line> texts = printed(plain.output), found = lines();
    ASSERT_EQ(found.size(), 2u) << said;
    EXPECT_EQ(found[0], Line(texts[0].begin(), texts[0].begin() + 16)); // what was there before the shift
    EXPECT_EQ(found[1], texts[1]);
    EXPECT_NE(said.find("goes on from what was not captured"), std::string::npos) << said;
}

TEST_F(AttachAccelerator, AForkedChildIsLeftAlone) {
    const std::vector<Line> texts = run(stripped_states("fork"));
    EXPECT_EQ(recorded(), texts) << said;
}

TEST_F(AttachAccelerator, DraftsThatAreTakenBackBranchOff) {
    for (const char* environment : {"", "ATTACH_HOST_NO_MMAP=1"}) {
        fs::remove_all(out);
        fs::create_directory(out);
        const std::vector<Line> texts = run(contexts("drafts", other("--layers 2 --heads 2")), environment);
        ASSERT_GT(texts.size(), 20u);
        EXPECT_EQ(recorded(), texts) << said;
    }
}

TEST_F(AttachAccelerator, ContextsAndThreadsAreKeptApart) {
    const std::string model2 = other("--layers 4 --head-dim 64");
    for (const std::string& command : {contexts("two", model2), contexts("again"), contexts("threads", model2)}) {
        fs::remove_all(out);
        fs::create_directory(out);
        const std::vector<Line> texts = run(command);
        EXPECT_EQ(recorded(), texts) << command << said;
        for (const std::string& path : recordings(out)) EXPECT_TRUE((*Recording::open(path))->info().complete) << path;
    }
}

// Graphs that are no text's have no such operation, or are none of ours.
TEST_F(AttachAccelerator, OtherGraphsDoNotDisturb) {
    const std::vector<Line> embedded = run(contexts("embed", other("--arch bert")));
    EXPECT_EQ(recorded(), embedded) << said;
    EXPECT_NE(said.find("its graphs have no multiplication with the weights of a last norm"), std::string::npos)
        << said;
    fs::remove_all(out);
    fs::create_directory(out);
    const std::vector<Line> seen = run(contexts("eyes"));
    EXPECT_EQ(recorded(), seen) << said;
}

// Every kind of attention: what is captured of a program with names is captured here, but where the last norm has no weights (OLMo).
TEST_F(AttachAccelerator, ArchitecturesAreThoseOfProgramsWithNames) {
    const std::string make = ATTNSCOPE_ARCH_MODELS, folder = dir.file("archs");
    if (make.empty()) GTEST_SKIP() << "llama.cpp came without its generator of models";
    const std::vector<std::string> archs = {"gemma2", "gemma3n", "deepseek2", "deepseek4", "lfm2",
                                            "olmo",   "mamba",   "dream",     "deepseek32"};
    std::string names;
    for (const std::string& arch : archs) names += " " + arch;
    fs::create_directory(folder);
    ASSERT_TRUE(make_arch_models(make, folder, names));
    const auto layers = [&] {
        std::smatch found;
        return std::regex_search(said, found, std::regex("[0-9]+ of [0-9]+ layers")) ? found.str() : std::string();
    };
    for (const std::string& arch : archs) {
        for (const char* flash : {"0", "1"}) {
            const std::string arguments = " " + folder + "/" + arch + ".gguf 8 " + flash + " 11 27 3 9 4 8";
            std::vector<Line> found[2];
            std::string n_layers[2];
            const std::string hosts[2] = {ATTNSCOPE_ATTACH_HOST, loads + stripped};
            for (size_t i = 0; i < 2; ++i) {
                fs::remove_all(out);
                fs::create_directory(out);
                run(hosts[i] + arguments);
                found[i] = recorded(), n_layers[i] = layers();
            }
            if (arch == "deepseek32" && flash[0] == '1') {
                EXPECT_NE(said.find("its keys are stored in a way that is not known"), std::string::npos) << said;
            }
            if (arch == "olmo") {
                EXPECT_EQ(found[0].size(), 1u);
                EXPECT_NE(said.find("no multiplication with the weights of a last norm"), std::string::npos) << said;
                continue;
            }
            EXPECT_EQ(found[1], found[0]) << arch << flash << said;
            EXPECT_EQ(n_layers[1], n_layers[0]) << arch << flash << said;
        }
    }
}

TEST_F(AttachAccelerator, AttentionThatCannotBeCapturedIsRefusedInWords) {
    expect_refused(contexts("f32keys"), "nothing is captured of a context: its");
}

// Memory that cannot be had costs the recording and not the program.
TEST_F(AttachAccelerator, WithoutMemoryForUsTheProgramGoesOn) {
    const std::string command = contexts("again");
    const Answer plain = shell(command);
    std::string all_said;
    for (const int after : {5, 20, 48, 72, 100, 116, 200, 300, 400, 800, 1600, 3200}) {
        const std::string environment = "LD_PRELOAD=" ATTNSCOPE_ATTACH_HUNGRY " ATTACH_HUNGRY=" + std::to_string(after);
        fs::remove_all(out);
        fs::create_directory(out);
        const Answer attached = attach(command, environment);
        EXPECT_EQ(attached.code, 0) << after << said;
        EXPECT_EQ(attached.output, plain.output) << after;
        all_said += said;
        const std::vector<Line> texts = printed(plain.output);
        for (const Line& line : lines()) {
            const bool known = std::any_of(texts.begin(), texts.end(), [&](const Line& text) {
                return line.size() <= text.size() && std::equal(line.begin(), line.end(), text.begin());
            });
            EXPECT_TRUE(known) << after;
        }
    }
    EXPECT_NE(all_said.find("nothing is captured of a context"), std::string::npos) << all_said;
}

// Where no library is preloaded: ggml loads it, whom the user has named.
TEST_F(AttachAccelerator, WithoutPreloadTheVariableIsEnough) {
    const std::string command =
        "env -u LD_PRELOAD GGML_BACKEND_PATH=" + ours + " ATTACH_HOST_LOAD_ALL=1 " + stripped + arguments();
    const std::vector<Line> texts = run(command);
    EXPECT_EQ(recorded(), texts) << said;
}

// Nothing in such a program says where its ggml is: it goes on, and the reason is said.
TEST_F(AttachAccelerator, AProgramThatAsksForNoBackEndsIsRefusedInWords) {
    expect_refused(
        stripped + arguments(),
        "m.gguf was opened, but nothing that is loaded has a ggml scheduler whose functions have names, as in a "
        "program "
        "that is linked statically and stripped, and it asks for no back ends of others (ggml_backend_load_all)");
}

TEST_F(AttachAccelerator, WhatTheUserNamesHimselfIsKept) {
    const std::vector<Line> texts = run(loads + stripped + arguments(), "GGML_BACKEND_PATH=" + ours);
    EXPECT_EQ(recorded(), texts) << said;
    fs::remove_all(out);
    fs::create_directory(out);
    expect_refused(loads + stripped + arguments(),
                   "GGML_BACKEND_PATH names another back end than ours, or none, which is kept",
                   "GGML_BACKEND_PATH=/no/such/back-end.so");
}

// An empty name leads ggml into the program itself, where it finds our function.
TEST_F(AttachAccelerator, AnEmptyNameIsNoneOfOurs) {
    expect_refused(loads + stripped + arguments(), "GGML_BACKEND_PATH names another back end than ours, or none",
                   "GGML_BACKEND_PATH=");
}

// Told before it runs, truly.
TEST_F(AttachAccelerator, CheckTellsWhatWillHappen) {
    const auto check = [](const std::string& program_file, const std::string& environment = {}) {
        return shell(environment + " " + program + " attach --check " + program_file);
    };
    const Answer yes = check(stripped);
    EXPECT_EQ(yes.code, 0);
    EXPECT_NE(yes.output.find("told to load the library as an accelerator"), std::string::npos) << yes.output;
    EXPECT_EQ(check(stripped, "GGML_BACKEND_PATH=" + ours).code, 0);
    const Answer kept = check(stripped, "GGML_BACKEND_PATH=/no/such/back-end.so");
    EXPECT_EQ(kept.code, 1);
    EXPECT_NE(kept.output.find("names another one, which is kept"), std::string::npos) << kept.output;
    EXPECT_EQ(check(stripped, "GGML_BACKEND_PATH=").code, 1);
    const Answer named = check(ATTNSCOPE_ATTACH_WHOLE "/static");
    EXPECT_EQ(named.code, 0);
    EXPECT_EQ(named.output.find("accelerator"), std::string::npos) << named.output;
    // One that never looks for back ends: as a copy of the same in which nobody can find them.
    std::string bytes = bytes_of(stripped);
    const std::string variable = "GGML_BACKEND_PATH";
    for (size_t at = bytes.find(variable); at != std::string::npos; at = bytes.find(variable)) bytes[at] = 'g';
    const std::string deaf = dir.file("deaf");
    std::ofstream(deaf, std::ios::binary) << bytes;
    fs::permissions(deaf, fs::perms::owner_all);
    const Answer no = check(deaf);
    EXPECT_EQ(no.code, 1);
    EXPECT_NE(no.output.find("asks for no back ends of others"), std::string::npos) << no.output;
    expect_refused(loads + deaf + arguments(), "it asks for no back ends of others");
}

// ... and programs that are not attached are not told of anything.
TEST_F(AttachAccelerator, WithoutAttachNobodyIsTold) {
    const std::string preload = "env -u ATTNSCOPE_ATTACH LD_PRELOAD=" + ours + " ATTACH_HOST_LOAD_ALL=1 ";
    const Answer plain = shell(loads + stripped + arguments()), loaded = shell_all(preload + stripped + arguments());
    EXPECT_EQ(loaded.output, plain.output);
}

// Where calls can be come before nobody is told of a back end: there is one way in.
TEST_F(AttachAccelerator, ProgramsWithNamesAreNotLedThere) {
    for (const std::string& host :
         {std::string(ATTNSCOPE_ATTACH_HOST), std::string(ATTNSCOPE_ATTACH_WHOLE "/static")}) {
        fs::remove_all(out);
        fs::create_directory(out);
        const std::vector<Line> texts = run(loads + host + arguments());
        EXPECT_EQ(recorded(), texts) << said;
        EXPECT_EQ(said.find("accelerator"), std::string::npos) << said;
    }
}

} // namespace
