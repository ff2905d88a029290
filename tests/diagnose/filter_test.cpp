#include "diagnose/filter_token.h"
#include "formats/export_halo_weave.h"
#include "support/capture_maker.h"
#include "support/shell.h"
#include "support/temp_dir.h"

#include <attnscope/diagnose.h>

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

using namespace attnscope;
using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

void write_folder(const std::string& folder, const SyntheticCapture& capture, bool json_form = false) {
    auto writer = formats::HaloWeaveFolderWriter::create(folder, capture.info.model, json_form);
    ASSERT_TRUE(writer) << writer.error().message;
    for (size_t i = 0; i < capture.tokens.size(); ++i) {
        auto done = (*writer)->add(capture.tokens[i].view(int64_t(i)));
        ASSERT_TRUE(done) << done.error().message;
    }
    ASSERT_TRUE((*writer)->close());
}

const std::string program = ATTNSCOPE_BIN;

SyntheticCapture damaged(const std::string& name, uint64_t seed = 3) {
    for (const Damage& damage : damages()) {
        if (damage.name == name) return make_damaged(damage, seed);
    }
    ADD_FAILURE() << "no damage is called " << name;
    return {};
}

} // namespace

TEST(Filter, KeepsOneLayerOfAnAliasedCaptureAndSaysSo) {
    TempDir dir;
    const SyntheticCapture capture = damaged("every layer the last");
    write_folder(dir.file("in"), capture);
    const Answer ran = shell_all(program + " filter " + dir.file("in") + " -o " + dir.file("out"));
    EXPECT_EQ(ran.code, 0) << ran.output;
    auto reader = DumpReader::open(dir.file("out"));
    ASSERT_TRUE(reader) << reader.error().message;
    ASSERT_EQ((*reader)->info().labels.size(), 1u);
    EXPECT_NE((*reader)->info().labels[0].find("aliasing"), std::string::npos);
    auto token = (*reader)->next();
    ASSERT_TRUE(token && *token);
    EXPECT_EQ((*token)->n_layer, 1);
    EXPECT_NE((*token)->kept_as.find("last layer"), std::string::npos);
    // filtered again: the labels stay
    const Answer again = shell_all(program + " filter " + dir.file("out") + " -o " + dir.file("twice"));
    EXPECT_EQ(again.code, 0) << again.output;
    auto twice = DumpReader::open(dir.file("twice"));
    ASSERT_TRUE(twice);
    EXPECT_EQ((*twice)->info().labels, (*reader)->info().labels);
}

TEST(Filter, RefusesToLaunderWhatCannotBeKept) {
    TempDir dir;
    for (const char* name : {"tokens flip to scores", "ring with room", "some layers the last"}) {
        const std::string in = dir.file(std::string(name) + ".in"), out = dir.file(std::string(name) + ".out");
        write_folder(in, damaged(name));
        const Answer ran = shell_all(program + " filter '" + in + "' -o '" + out + "'");
        EXPECT_EQ(ran.code, 1) << name << ran.output;
        EXPECT_FALSE(fs::exists(out)) << name;
    }
}

TEST(Filter, WhatIsKeptIsClean) {
    TempDir dir;
    for (const char* name : {"previous token again", "torn between layers", "padded to 256, length stated",
                             "shape stated as layers, context, heads", "memory in the order layers, context, heads",
                             "NaN rows", "a block of garbage"}) {
        const std::string in = dir.file(std::string(name) + ".in"), out = dir.file(std::string(name) + ".out");
        write_folder(in, damaged(name, 5));
        const Answer ran = shell_all(program + " filter '" + in + "' -o '" + out + "'");
        EXPECT_EQ(ran.code, 0) << name << ran.output;
        auto reader = DumpReader::open(out);
        ASSERT_TRUE(reader) << name;
        auto diagnosis = diagnose_dump(**reader);
        ASSERT_TRUE(diagnosis) << name;
        EXPECT_EQ(diagnosis->cause(), Cause::clean) << name << ": " << diagnosis->conclusion;
    }
}

TEST(Diagnose, HasExitCodesAndWritesAPageThatEscapesWhatItShows) {
    TempDir dir;
    const std::string in = dir.file("<script>alert(1)</script>");
    fs::create_directories(fs::path(in).parent_path());
    write_folder(in, damaged("nothing"));
    const std::string page = dir.file("page.html");
    EXPECT_EQ(shell_all(program + " diagnose '" + in + "' --html " + page).code, 0);
    std::ifstream file(page);
    const std::string html((std::istreambuf_iterator<char>(file)), {});
    EXPECT_NE(html.find("&lt;script&gt;"), std::string::npos);
    EXPECT_EQ(html.find("<script"), std::string::npos);
    EXPECT_EQ(html.find("http://"), std::string::npos);
    write_folder(dir.file("bad"), damaged("every layer the last"));
    const Answer bad = shell_all(program + " diagnose " + dir.file("bad"));
    EXPECT_EQ(bad.code, 1);
    EXPECT_NE(bad.output.find("1 of "), std::string::npos) << bad.output;
    EXPECT_EQ(shell_all(program + " diagnose " + dir.file("nowhere")).code, 2);
}

// Nothing of ours but the folder reaches that reader.
TEST(HaloWeaveFolder, OpensInAReaderWrittenFromTheFormatsDescription) {
    TempDir dir;
    const SyntheticCapture capture = damaged("nothing");
    for (const bool json : {false, true}) {
        const std::string folder = dir.file(json ? "json" : "binary");
        write_folder(folder, capture, json);
        const Answer ran =
            shell_all("/usr/bin/python3 " ATTNSCOPE_SOURCE_DIR "/tests/diagnose/halo_weave_reader.py " + folder);
        ASSERT_EQ(ran.code, 0) << ran.output;
        const std::string n = std::to_string(capture.tokens.size());
        EXPECT_EQ(ran.output.find("tokens " + n + " stated " + n), 0u) << ran.output;
        const SyntheticToken& first = capture.tokens[0];
        const std::string line = "\n0 " + std::to_string(first.n_layer) + " " + std::to_string(first.n_head) + " " +
                                 std::to_string(first.n_context) + " " + std::to_string(first.n_context) + " " +
                                 std::to_string(first.n_layer * first.n_head) + ".0000";
        EXPECT_NE(ran.output.find(line), std::string::npos) << line << "\nin\n" << ran.output;
    }
}
