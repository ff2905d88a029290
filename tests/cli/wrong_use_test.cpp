// The command line as a person meets it: exit codes, sentences, and the whole path on a tiny model.
#include "support/shell.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

using namespace attnscope::test;

namespace {

Answer run(const std::string& arguments) {
    return shell_all(ATTNSCOPE_BIN " " + arguments);
}

class CommandLine : public testing::Test {
protected:
    void SetUp() override {
        const Answer made = run("models make --arch llama --layers 3 -o " + model());
        ASSERT_EQ(made.code, 0) << made.output;
    }
    std::string model() const { return dir.file("m.gguf"); }
    std::string capture(const std::string& rest) const {
        return "capture -m " + model() + " -t 1 --ignore-eos " + rest;
    }
    TempDir dir;
};

} // namespace

TEST_F(CommandLine, CaptureShowVerifyExportInfoWorkTogether) {
    const std::string recording = dir.file("x.attn");
    const Answer captured = run(capture("-p 'abc def' -n 12 -s 1 --json -o " + recording));
    ASSERT_EQ(captured.code, 0) << captured.output;
    const auto facts = nlohmann::json::parse(captured.output);
    EXPECT_EQ(facts["verdict"], "ok");
    EXPECT_EQ(facts["recorded"], facts["n_prompt"].get<int>() + 12);
    const Answer info = run("info --json " + recording);
    ASSERT_EQ(info.code, 0);
    EXPECT_EQ(nlohmann::json::parse(info.output)["complete"], true);
    EXPECT_EQ(run("verify " + recording).code, 0);
    const Answer shown = run("show " + recording);
    EXPECT_EQ(shown.code, 0);
    EXPECT_EQ(shown.output.find('\x1b'), std::string::npos) << "no colour into a pipe";
    EXPECT_NE(run("show --color always " + recording).output.find("\x1b["), std::string::npos);
    EXPECT_EQ(run("export " + recording + " --to npy --padded -o " + dir.file("r.npy")).code, 0);
    std::ifstream npy(dir.file("r.npy"), std::ios::binary);
    std::string head(10, '\0');
    npy.read(head.data(), 10);
    EXPECT_EQ(head.substr(1, 5), "NUMPY");
    EXPECT_EQ(run("diagnose " + recording).code, 0);
    EXPECT_EQ(run("export " + recording + " --to halo-weave -o " + dir.file("hw")).code, 0);
    EXPECT_EQ(run("diagnose " + dir.file("hw")).code, 0);
}

// Nothing of ours but the folder reaches that reader: it was written from the description of the format alone.
TEST_F(CommandLine, FoldersOfReproduceAndExportOpenInAReaderOfTheFormatsDescription) {
    const std::string wrong = dir.file("wrong"), right = dir.file("right"), recording = dir.file("x.attn");
    const Answer reproduced =
        run("reproduce -m " + model() + " -t 1 -n 5 --ignore-eos --temp 0.3 -s 77 --json -o " + wrong);
    ASSERT_EQ(reproduced.code, 0) << reproduced.output;
    const auto facts = nlohmann::json::parse(reproduced.output);
    EXPECT_EQ(facts["cause"], "aliasing");
    EXPECT_EQ(facts["one_layer_tokens"], 5);
    EXPECT_EQ(facts["last_layer_tokens"], 5);
    EXPECT_EQ(facts["tensors"], 3);
    EXPECT_EQ(facts["addresses"], 1);
    const auto settings = nlohmann::json::parse(run("info --json " + wrong + ".attn").output).at("settings");
    EXPECT_EQ(settings.at("temp"), 0.3); // how the recorded tokens were chosen
    EXPECT_EQ(settings.at("seed"), 77);
    ASSERT_EQ(run(capture("-p 'abc def' -n 5 -o " + recording)).code, 0);
    ASSERT_EQ(run("export " + recording + " --to halo-weave -o " + right).code, 0);
    ASSERT_EQ(run("export " + recording + " --to halo-weave --json -o " + dir.file("older")).code, 0);
    for (const std::string& folder : {wrong, right, dir.file("older")}) {
        const std::string reader =
            "/usr/bin/python3 " ATTNSCOPE_SOURCE_DIR "/tests/diagnose/halo_weave_reader.py " + folder;
        const Answer read = shell_all(reader);
        EXPECT_EQ(read.code, 0) << read.output;
        std::istringstream lines(read.output);
        std::string line;
        int n_tokens = 0, stated = -1, n_lines = 0;
        ASSERT_TRUE(std::getline(lines, line)) << folder;
        ASSERT_EQ(std::sscanf(line.c_str(), "tokens %d stated %d", &n_tokens, &stated), 2) << folder << ": " << line;
        EXPECT_EQ(n_tokens, stated) << folder;
        EXPECT_GE(n_tokens, 5) << folder;
        for (; std::getline(lines, line); ++n_lines) {
            int number = 0, layers = 0, heads = 0, columns = 0, context = 0;
            double sum = 0, row_error = 1;
            ASSERT_EQ(std::sscanf(line.c_str(), "%d %d %d %d %d %lf %lf", &number, &layers, &heads, &columns, &context,
                                  &sum, &row_error),
                      7)
                << folder << ": " << line;
            EXPECT_EQ(layers, 3) << folder;
            EXPECT_EQ(columns, context) << folder;
            EXPECT_NEAR(sum, layers * heads, 1e-4) << folder;
            EXPECT_LT(row_error, 1e-5) << folder;
        }
        EXPECT_EQ(n_lines, n_tokens) << folder;
    }
}

TEST_F(CommandLine, AFlippedByteIsNamedByVerify) {
    const std::string recording = dir.file("x.attn");
    ASSERT_EQ(run(capture("-p 'abc def' -n 800 --ignore-eos -o " + recording)).code, 0);
    std::fstream file(recording, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(0, std::ios::end);
    const auto size = static_cast<std::streamoff>(file.tellg());
    const auto flip = [&](std::streamoff at) {
        file.seekg(at);
        const char byte = static_cast<char>(file.get() ^ 0x55);
        file.seekp(at);
        file.put(byte);
        file.flush();
    };
    int named = 0;
    for (std::streamoff place = 1; place < 24; ++place) {
        const std::streamoff at = size * place / 24 + 200;
        flip(at);
        const Answer verified = run("verify " + recording);
        flip(at);
        if (verified.code == 0) continue; // pages that SQLite has given up hold old bytes
        EXPECT_NE(verified.output.find(verified.code == 1 ? "damage" : "error"), std::string::npos) << verified.output;
        named += verified.code == 1;
    }
    EXPECT_GE(named, 12);
    EXPECT_EQ(run("verify " + recording).code, 0);
}

TEST_F(CommandLine, WrongUseIsAnsweredWithASentenceAndExitCode2) {
    std::ofstream(dir.file("text")) << "this is no model\n";
    std::ofstream(dir.file("ids")) << "[1, 2, 99999999]";
    std::ofstream(dir.file("empty"));
    std::ofstream(dir.file("long")) << std::string(5000, 'x');
    ASSERT_EQ(run(capture("-p ab -n 1 -o " + dir.file("there.attn"))).code, 0);
    const std::string out = " -o " + dir.file("y.attn");
    const std::pair<std::string, const char*> cases[] = {
        {"capture -m " + dir.file("missing.gguf") + " -p x" + out, "no file"},
        {"capture -m " + dir.file("text") + " -p x" + out, "not a GGUF file"},
        {capture("-p x -o /nonexistent/y.attn"), "no folder"},
        {capture("-p x -o " + dir.file("there.attn")), "--force"},
        {capture("-p ''" + out), "prompt is empty"},
        {capture("-f " + dir.file("empty") + out), "prompt is empty"},
        {capture("-f " + dir.file("nowhere") + out), "cannot read"},
        {capture("-c 256 -f " + dir.file("long") + out), "larger -c"},
        {capture("--input-ids " + dir.file("ids") + out), "vocabulary"},
        {capture("--input-ids " + dir.file("text") + out), "token ids"},
        {capture("-p x --prompt-rows some" + out), "last:N"},
        {capture("-p x -ctk q9_9" + out), "cache type"},
        {"info " + dir.file("text"), "is no recording: it seems to be text"},
        {"info " + model(), "seems to be a GGUF model (attnscope capture -m"},
        {"verify " + dir.path().string(), "is no recording: it is a folder (if a capture is in it, attnscope diagnose"},
        {"diagnose " + dir.file("text"), "seems to be text"},
        {"verify " + dir.file("missing.attn"), "does not exist"},
        {"show " + dir.file("there.attn") + " --token 4711", "has tokens 0 to"},
        {"show " + dir.file("there.attn") + " --layer 3-1", "--layer"},
        {"show " + dir.file("there.attn") + " --sequence 1", "has one sequence, 0, and not 1"},
        {"export " + dir.file("there.attn") + " --to npy --sequence -1 -o " + dir.file("z"), "has one sequence"},
        {"export " + dir.file("there.attn") + " --to npy -o /nonexistent/z.npy --padded", "cannot write"},
    };
    for (const auto& [arguments, says] : cases) {
        const Answer r = run(arguments);
        EXPECT_EQ(r.code, 2) << arguments << "\n" << r.output;
        EXPECT_NE(r.output.find(says), std::string::npos) << arguments << "\n" << r.output;
    }
}

TEST(Help, TeachesEveryVerb) {
    for (const char* verb :
         {"models", "capture", "show", "info", "verify", "export", "bench", "reproduce", "diagnose", "filter"}) {
        const Answer r = run(std::string(verb) + " --help");
        EXPECT_EQ(r.code, 0) << verb;
        EXPECT_GT(r.output.size(), 200u) << verb;
    }
}
