// The command line as a person meets it: exit codes, sentences, and the whole path on a tiny model.
#include "support/shell.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

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
    std::filesystem::create_directory(dir.file("folder"));
    std::filesystem::create_directory(dir.file("other"));
    std::ofstream(dir.file("other") + "/text") << "no recording";
    std::ofstream(dir.file("long")) << std::string(5000, 'x');
    ASSERT_EQ(run(capture("-p ab -n 1 -o " + dir.file("there.attn"))).code, 0);
    const std::string out = " -o " + dir.file("y.attn");
    const std::pair<std::string, std::string> cases[] = {
        {"capture -m " + dir.file("missing.gguf") + " -p x" + out, "no file"},
        {"capture -m " + dir.file("text") + " -p x" + out, "not a GGUF file"},
        {"serve -m /no/such", "error: there is no file /no/such\n"},
        {"serve -m such.gguf", "error: there is no file such.gguf\n"},
        {"serve -m such", "error: there is no file such, and no known model has that name (known: smollm2"},
        {"serve -m /dev/null", "error: /dev/null is a device, not a GGUF file\n"},
        {"serve -m " + dir.file("folder"), "folder is a folder, not a GGUF file\n"},
        {"attach -o " + dir.file("folder") + " --no-such-option -- sh",
         "error: The following argument was not expected: --no-such-option; attnscope attach --help"},
        {"attach --no-such --nor-this -- sh -c true", "arguments were not expected: --no-such --nor-this; attnscope"},
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
        {"show " + dir.path().string(), "is no recording: it is a folder of them. Name one, as"},
        {"view --no-browser " + dir.file("folder"), "folder is empty: there are no recordings (.attn) in it"},
        {"view --no-browser " + dir.file("other"), "error: there are no recordings (.attn) in "},
        {"view --no-browser " + dir.file("nowhere"), "nowhere does not exist"},
        {"serve " + model(), "error: " + model() + " stands behind no option; a model follows -m: attnscope serve -m"},
        {"serve -np 2 " + model(), "stands behind no option; a model follows -m"},
        {"serve --port abc", "error: --port takes a number from 0 to 65535, not abc; attnscope serve --help"},
        {"verify " + dir.file("folder"), "is no recording: it is a folder (if a capture is in it, attnscope diagnose"},
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

// A log that another file left beside a recording hides nothing of it, but somebody may look for it there.
TEST_F(CommandLine, WhatBesideAFileIsNotReadIsSaid) {
    const std::string recording = dir.file("x.attn"), note = "the log beside it (-wal) was not left by this recording";
    ASSERT_EQ(run(capture("-p ab -n 1 -o " + recording)).code, 0);
    for (const char* verb : {"info ", "info --json ", "verify ", "verify --json "})
        EXPECT_EQ(run(verb + recording).output.find("not left by"), std::string::npos) << verb;
    std::ofstream(recording + "-wal") << "another's log";
    for (const char* verb : {"info ", "info --json ", "verify ", "verify --json "}) {
        const Answer told = run(verb + recording);
        EXPECT_EQ(told.code, 0) << verb;
        EXPECT_NE(told.output.find(note), std::string::npos) << verb << told.output;
        EXPECT_EQ(told.output.find("notice") != std::string::npos,
                  std::string(verb).find("--json") != std::string::npos);
    }
}

TEST_F(CommandLine, OptionsMeanWhatLlamaCppMeansByThem) {
    const auto settings = [&](const std::string& options) {
        const std::string recording = dir.file("o.attn");
        const Answer captured = run(capture("-p abc -n 1 --force " + options + " -o " + recording));
        EXPECT_EQ(captured.code, 0) << captured.output;
        return nlohmann::json::parse(run("info --json " + recording).output).at("settings");
    };
    EXPECT_EQ(settings("").at("ubatch_size"), 512);
    EXPECT_EQ(settings("-b 2048").at("ubatch_size"), 512) << "what is computed at once is -ub";
    EXPECT_EQ(settings("-b 64").at("ubatch_size"), 64) << "and at most -b";
    EXPECT_EQ(settings("-b 64 -ub 32").at("ubatch_size"), 32);
    EXPECT_EQ(settings("--temperature 0.25").at("temp"), 0.25);
}

TEST_F(CommandLine, ACaptureSaysWhatItDid) {
    const Answer rounded = run(capture("-c 64 -p abc -n 1 -o " + dir.file("r.attn")));
    EXPECT_EQ(rounded.code, 0);
    EXPECT_NE(rounded.output.find("256 positions of -c 64"), std::string::npos) << rounded.output;
    EXPECT_EQ(run(capture("-c 256 -p abc -n 1 -o " + dir.file("s.attn"))).output.find("note:"), std::string::npos);
    const std::string one = dir.file("t.attn");
    const Answer single = run(capture("-p abc -n 3 -o " + one));
    const auto info = nlohmann::json::parse(run("info --json " + one).output);
    const int frames = info.at("n_frames"), prompt = info.at("n_prompt");
    const std::string told = "recorded " + std::to_string(frames) + " tokens x ";
    EXPECT_NE(single.output.find(told), std::string::npos) << single.output;
    const std::string parts = std::to_string(prompt) + " prompt, " + std::to_string(frames - prompt) + " generated";
    EXPECT_NE(single.output.find(parts), std::string::npos) << single.output;
    const Answer exported = run("export " + one + " --to npy --token 0 -o " + dir.file("one.npy"));
    EXPECT_NE(exported.output.find("1 token written"), std::string::npos) << exported.output;
    EXPECT_EQ(exported.output.find('\x1b'), std::string::npos) << "no terminal, no control characters";
}

TEST_F(CommandLine, ARowThatWasNotKeptAndAFileThatWasCutSayWhatToDo) {
    const std::string none = dir.file("none.attn"), cut = dir.file("cut.attn");
    ASSERT_EQ(run(capture("-p abc -n 1 --prompt-rows none -o " + none)).code, 0);
    const Answer shown = run("show " + none + " --token 0");
    EXPECT_EQ(shown.code, 2);
    EXPECT_NE(shown.output.find("was recorded without its queries: --prompt-rows left them out"), std::string::npos)
        << shown.output;
    std::filesystem::copy_file(none, cut);
    std::filesystem::resize_file(cut, std::filesystem::file_size(cut) / 2);
    const Answer opened = run("show " + cut);
    EXPECT_EQ(opened.code, 2);
    EXPECT_NE(opened.output.find("copy it again from where it is whole"), std::string::npos) << opened.output;
}

TEST(WrongWords, AreNamedWithWhatWasMeant) {
    const Answer near = run("captur -m x");
    EXPECT_EQ(near.code, 2);
    EXPECT_EQ(near.output, "error: there is no verb 'captur'; did you mean capture?\n");
    const Answer far = run("zzzzzzzz --json");
    EXPECT_EQ(far.code, 2);
    const auto body = nlohmann::json::parse(far.output);
    EXPECT_EQ(body["error"]["kind"], "invalid_argument");
    EXPECT_NE(body["error"]["message"].get<std::string>().find("'zzzzzzzz'"), std::string::npos);
    const Answer option = run("info --nonsense x.attn");
    EXPECT_EQ(option.code, 2);
    EXPECT_EQ(option.output.rfind("error: ", 0), 0u) << option.output;
    EXPECT_NE(option.output.find("--nonsense"), std::string::npos) << option.output;
    EXPECT_NE(option.output.find("attnscope info --help"), std::string::npos) << option.output;
    EXPECT_TRUE(nlohmann::json::parse(run("info --json").output).contains("error"));
    EXPECT_EQ(run("").code, 2);
    EXPECT_EQ(run("--hlep").output, "error: The following argument was not expected: --hlep (did you mean --help?); "
                                    "attnscope --help says what there is\n");
    EXPECT_EQ(run("--zzzzzzzz").output, "error: The following argument was not expected: --zzzzzzzz; attnscope --help "
                                        "says what there is\n");
    EXPECT_NE(run("capture --prmopt x").output.find("prmopt"), std::string::npos);
    EXPECT_NE(run("info --jsno x.attn").output.find("--jsno (did you mean --json?)"), std::string::npos);
}

// llama-server has options that we do not know: it is asked, and what it says is put in our words.
TEST_F(CommandLine, AnOptionThatNobodyKnowsIsNamedOnce) {
    if (!std::filesystem::exists(ATTNSCOPE_LLAMA_SERVER)) GTEST_SKIP() << "the sources' llama-server is not built";
    const std::string serve = "serve --port 0 -m " + model();
    const Answer near = run(serve + " --prot 8081");
    EXPECT_EQ(near.code, 2);
    EXPECT_TRUE(near.output.ends_with("error: --prot is an option neither of attnscope serve nor of llama-server; did "
                                      "you mean --port?\n"))
        << near.output;
    const Answer far = run(serve + " --zzzzzzzz");
    EXPECT_TRUE(far.output.ends_with("error: --zzzzzzzz is an option neither of attnscope serve nor of llama-server; "
                                     "attnscope serve --help and llama-server --help list them\n"))
        << far.output;
    const Answer value = run(serve + " --keep many");
    EXPECT_EQ(value.code, 2);
    EXPECT_NE(value.output.find("--keep"), std::string::npos) << value.output;
    for (const Answer& answer : {near, far, value}) {
        EXPECT_EQ(answer.output.find("ended by itself"), std::string::npos) << answer.output;
        EXPECT_EQ(answer.output.find("invalid argument"), std::string::npos) << answer.output;
    }
}

// The verbs are those that --help lists.
TEST(Help, TeachesEveryVerb) {
    std::istringstream lines(run("--help").output);
    std::vector<std::string> verbs;
    bool listed = false;
    for (std::string line; std::getline(lines, line);) {
        if (line == "Subcommands:")
            listed = true;
        else if (listed && line.size() > 3 && line[2] != ' ')
            verbs.push_back(line.substr(2, line.find(' ', 2) - 2));
    }
    ASSERT_GE(verbs.size(), 13u);
    for (const std::string& verb : verbs) {
        const Answer r = run(verb + " --help");
        EXPECT_EQ(r.code, 0) << verb;
        EXPECT_GT(r.output.size(), 200u) << verb;
        EXPECT_NE(r.output.find("\n  attnscope " + verb), std::string::npos) << verb << " has no example";
        EXPECT_EQ(r.output.find("{false}"), std::string::npos) << verb;
        std::string pages = r.output;
        if (verb == "models") {
            for (const char* below : {" get", " path", " check", " make"})
                pages += run(verb + below + " --help").output;
        }
        std::istringstream page(pages);
        for (std::string line; std::getline(page, line);) EXPECT_LE(line.size(), 80u) << verb << ": " << line;
    }
    for (const char* verb : {"attach", "serve", "view"})
        EXPECT_NE(std::find(verbs.begin(), verbs.end(), verb), verbs.end()) << verb;
}
