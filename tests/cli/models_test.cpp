// attnscope models: lists, makes and checks models, and says in one line what is wrong.
#include "support/file_bytes.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstdlib>
#include <string>

#include <sys/wait.h>

namespace attnscope {
namespace {

using test::TempDir;

struct Outcome {
    int exit_code = -1;
    std::string output; // standard output
    std::string errors; // standard error
};

// Runs the program with a store of its own.
class ModelsVerb : public testing::Test {
protected:
    Outcome attnscope(const std::string& arguments) {
        const std::string command = "ATTNSCOPE_MODELS='" + dir_.file("store") + "' '" ATTNSCOPE_BIN "' " + arguments +
                                    " >'" + dir_.file("out") + "' 2>'" + dir_.file("err") + "'";
        const int status = std::system(command.c_str());
        return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, test::read_bytes(dir_.file("out")),
                test::read_bytes(dir_.file("err"))};
    }
    TempDir dir_;
};

TEST_F(ModelsVerb, ListsKnownModels) {
    const Outcome run = attnscope("models --json");
    EXPECT_EQ(run.exit_code, 0);
    const auto list = nlohmann::json::parse(run.output);
    EXPECT_EQ(list["folder"], dir_.file("store"));
    ASSERT_GE(list["models"].size(), 2u);
    EXPECT_EQ(list["models"][0]["name"], "smollm2");
    EXPECT_EQ(list["models"][0]["present"], false);
    EXPECT_NE(attnscope("models").output.find("attnscope models get smollm2"), std::string::npos);
}

TEST_F(ModelsVerb, MakesAndChecksAModel) {
    const std::string file = dir_.file("tiny.gguf");
    const Outcome made = attnscope("models make --arch gemma3 --layers 3 --json -o " + file);
    ASSERT_EQ(made.exit_code, 0) << made.errors;
    EXPECT_EQ(nlohmann::json::parse(made.output)["path"], file);
    const Outcome checked = attnscope("models check --json " + file);
    ASSERT_EQ(checked.exit_code, 0) << checked.errors;
    const auto summary = nlohmann::json::parse(checked.output);
    EXPECT_EQ(summary["architecture"], "gemma3");
    EXPECT_EQ(summary["n_layer"], 3);
    EXPECT_EQ(summary["generates_text"], true);
}

TEST_F(ModelsVerb, PresetsCanBeChangedInPart) {
    const std::string file = dir_.file("model.gguf");
    const Outcome made = attnscope("models make --preset qwen2.5-0.5b --layers 1 --vocab tiny --type f16 -o " + file);
    ASSERT_EQ(made.exit_code, 0) << made.errors;
    const auto summary = nlohmann::json::parse(attnscope("models check --json " + file).output);
    EXPECT_EQ(summary["architecture"], "qwen2");
    EXPECT_EQ(summary["n_layer"], 1);
    EXPECT_EQ(summary["n_head"], 14);
    EXPECT_EQ(summary["n_embd"], 896);
    EXPECT_EQ(summary["n_vocab"], 260);
}

TEST_F(ModelsVerb, SaysInOneLineWhatIsWrong) {
    const std::string noise = dir_.file("noise.gguf");
    test::write_bytes(noise, "not a model");
    const std::string wrong[] = {
        "models check " + noise,
        "models check nothing.gguf",
        "models path",
        "models get nothing",
        "models make --heads 5 --kv-heads 2 -o " + dir_.file("x.gguf"),
        "models make -o /nonexistent/x.gguf",
        "models make --vocab-from " + noise + " -o " + dir_.file("x.gguf"),
    };
    for (const std::string& arguments : wrong) {
        const Outcome run = attnscope(arguments);
        EXPECT_EQ(run.exit_code, 2) << arguments;
        EXPECT_EQ(run.output, "") << arguments;
        EXPECT_EQ(run.errors.find("error: "), 0u) << arguments << ": " << run.errors;
        EXPECT_EQ(run.errors.find('\n'), run.errors.size() - 1) << arguments << ": " << run.errors;
    }
    const Outcome json = attnscope("models check --json " + noise);
    EXPECT_EQ(json.exit_code, 2);
    EXPECT_EQ(nlohmann::json::parse(json.output)["error"]["kind"], "not_ours");
}

} // namespace
} // namespace attnscope
