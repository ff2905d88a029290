// A model of which some layers cannot be captured: who asked for the attention of every token is told that it is not whole, by the exit
// code as well; what is recorded is true all the same.
#include "support/arch_model.h"
#include "support/shell.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <fstream>
#include <string>
#include <vector>

using namespace attnscope::test;
using Json = nlohmann::json;

namespace {

Answer run(const std::string& arguments) {
    return shell_all(ATTNSCOPE_BIN " " + arguments);
}

} // namespace

TEST(MissingLayers, ACaptureThatLacksLayersExitsWithOneAndItsVerificationWithZero) {
    if (std::string(ATTNSCOPE_ARCH_MODELS).empty()) GTEST_SKIP() << "the engine's sources came without their tests";
    const TempDir dir;
    ASSERT_TRUE(make_arch_models(ATTNSCOPE_ARCH_MODELS, dir.file(""), "deepseek4"));
    const std::string ids = dir.file("ids"), recording = dir.file("x.attn");
    std::ofstream(ids) << "[5, 12, 19, 26, 33, 40, 47, 54, 61, 68]";
    const std::string capture =
        "capture -m " + dir.file("deepseek4.gguf") + " --input-ids " + ids + " -n 4 --ignore-eos ";
    const Answer captured = run(capture + "-o " + recording);
    EXPECT_EQ(captured.code, 1) << captured.output;
    EXPECT_NE(captured.output.find("verdict: ok"), std::string::npos) << captured.output;
    EXPECT_NE(captured.output.find("layers are NOT captured"), std::string::npos) << captured.output;
    const Answer json = run(capture + "--json -o " + dir.file("y.attn"));
    EXPECT_EQ(json.code, 1);
    const Json said = Json::parse(json.output);
    EXPECT_EQ(said["verdict"], "ok");
    EXPECT_FALSE(said["not_captured"].empty());
    EXPECT_EQ(said["recorded"], said["n_prompt"].get<int>() + 4) << "what can be recorded is";

    const Answer verified = run("verify " + recording);
    EXPECT_EQ(verified.code, 0) << verified.output;
    EXPECT_NE(verified.output.find("absent"), std::string::npos) << verified.output;
    const Json info = Json::parse(run("info --json " + recording).output);
    std::string first;
    for (const Json& layer : info["layers"]) {
        const std::string index = std::to_string(layer["index"].get<int>());
        if (layer["absent"] == "") continue;
        if (first.empty()) first = index;
        EXPECT_NE(captured.output.find("layer " + index), std::string::npos) << captured.output;
    }
    ASSERT_FALSE(first.empty());
    const Answer shown = run("show " + recording + " --layer " + first); // under the number that it was told by
    EXPECT_EQ(shown.code, 2);
    EXPECT_NE(shown.output.find("layer " + first + " has no rows"), std::string::npos) << shown.output;
    // a folder of Halo Weave's cannot say that a row is not there
    const Answer exported = run("export " + recording + " --to halo-weave -o " + dir.file("h"));
    EXPECT_EQ(exported.code, 2) << exported.output;
    EXPECT_NE(exported.output.find("choose from those that have, --layer "), std::string::npos) << exported.output;
}

TEST(MissingLayers, AnExportSaysWhichAreNotInIt) {
    if (std::string(ATTNSCOPE_ARCH_MODELS).empty()) GTEST_SKIP() << "the engine's sources came without their tests";
    const TempDir dir;
    ASSERT_TRUE(make_arch_models(ATTNSCOPE_ARCH_MODELS, dir.file(""), "deepseek4"));
    const std::string ids = dir.file("ids"), recording = dir.file("x.attn");
    std::ofstream(ids) << "[5, 12, 19, 26, 33, 40]";
    ASSERT_EQ(
        run("capture -m " + dir.file("deepseek4.gguf") + " --input-ids " + ids + " -n 4 --ignore-eos -o " + recording)
            .code,
        1);
    std::vector<int> missing;
    const Json info = Json::parse(run("info --json " + recording).output);
    for (const Json& layer : info["layers"]) {
        if (layer["absent"] != "") missing.push_back(layer["index"].get<int>());
    }
    ASSERT_GE(missing.size(), 2u);
    for (const char* to : {"bertviz", "headvis", "html", "npy"}) {
        const Answer said = run(std::string("export ") + recording + " --to " + to + " -o " + dir.file(to));
        EXPECT_EQ(said.code, 0) << said.output;
        EXPECT_NE(said.output.find("layers " + std::to_string(missing[0]) + ", " + std::to_string(missing[1])),
                  std::string::npos)
            << to << said.output;
        EXPECT_NE(said.output.find("were not captured"), std::string::npos) << to << said.output;
        const Answer json =
            run(std::string("export --json ") + recording + " --to " + to + " -o " + dir.file(std::string("j") + to));
        EXPECT_EQ(Json::parse(json.output)["missing_layers"], Json(missing)) << to << json.output;
    }
    const std::string whole = dir.file("m.gguf"), other = dir.file("y.attn");
    ASSERT_EQ(run("models make --layers 2 -o " + whole).code, 0);
    ASSERT_EQ(run("capture -m " + whole + " --input-ids " + ids + " -n 2 -o " + other).code, 0);
    EXPECT_EQ(run("export " + other + " --to npy -o " + dir.file("w")).output.find("not captured"), std::string::npos);
}

TEST(MissingLayers, TheHelpSaysWhatTheCodesMean) {
    EXPECT_NE(run("capture --help").output.find("0 every layer is recorded and every frame proven"), std::string::npos);
}
