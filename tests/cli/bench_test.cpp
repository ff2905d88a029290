// attnscope bench, as a person meets it: what it measures must be there, and nothing may be left behind.
#include "support/file_bytes.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstdlib>
#include <filesystem>
#include <string>

#include <sys/wait.h>

namespace attnscope {
namespace {

class BenchVerb : public testing::Test {
protected:
    void SetUp() override {
        ASSERT_EQ(attnscope("models make --arch llama --layers 3 -o '" + dir_.file("m.gguf") + "'"), 0);
        std::filesystem::create_directory(dir_.file("folder"));
    }
    int attnscope(const std::string& arguments) {
        const std::string command =
            "'" ATTNSCOPE_BIN "' " + arguments + " >'" + dir_.file("out") + "' 2>'" + dir_.file("err") + "'";
        const int status = std::system(command.c_str());
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
    int bench(const std::string& arguments) {
        return attnscope("bench -m '" + dir_.file("m.gguf") + "' -o '" + dir_.file("folder") + "' -ngl 0 " + arguments);
    }
    std::string out() { return test::read_bytes(dir_.file("out")); }
    test::TempDir dir_;
};

TEST_F(BenchVerb, MeasuresEveryLengthAndChargesTheWriter) {
    ASSERT_EQ(bench("--contexts 24,60 --pairs 7 --json"), 0) << test::read_bytes(dir_.file("err"));
    const auto json = nlohmann::json::parse(out());
    EXPECT_EQ(json["way"], "attnscope");
    EXPECT_EQ(json["pairs"], 8) << "pairs are taken by two";
    EXPECT_EQ(json["tokens"], 1);
    ASSERT_EQ(json["runs"].size(), 2u);
    EXPECT_EQ(json["runs"][0]["context"], 24);
    EXPECT_EQ(json["runs"][1]["context"], 60);
    for (const auto& run : json["runs"]) {
        EXPECT_GT(run["plain_ms"].get<double>(), 0);
        EXPECT_GT(run["capturing_ms"].get<double>(), 0);
        const auto& ratio = run["ratio"];
        EXPECT_GT(ratio["sure_low"].get<double>(), 0);
        EXPECT_LE(ratio["sure_low"].get<double>(), ratio["median"].get<double>());
        EXPECT_GE(ratio["sure_high"].get<double>(), ratio["median"].get<double>());
        EXPECT_GT(run["writer_ms"].get<double>(), 0) << "a recording was written, so its thread took time";
        EXPECT_NEAR(run["at_most"].get<double>(),
                    ratio["median"].get<double>() + run["writer_ms"].get<double>() / run["plain_ms"].get<double>(),
                    1e-9);
        EXPECT_GT(run["file_bytes"].get<double>(), 0);
    }
    EXPECT_TRUE(std::filesystem::is_empty(dir_.file("folder"))) << "the recordings are left behind";
}

TEST_F(BenchVerb, TakesTurnsOfSeveralTokens) {
    ASSERT_EQ(bench("--contexts 24 --turns 4 --tokens 5 --json"), 0) << test::read_bytes(dir_.file("err"));
    const auto json = nlohmann::json::parse(out());
    EXPECT_EQ(json["tokens"], 5);
    EXPECT_GT(json["runs"][0]["ratio"]["median"].get<double>(), 0);
}

TEST_F(BenchVerb, AControlCapturesNothing) {
    ASSERT_EQ(bench("--contexts 24 --pairs 4 --control --json"), 0) << test::read_bytes(dir_.file("err"));
    const auto json = nlohmann::json::parse(out());
    EXPECT_EQ(json["way"], "control");
    EXPECT_EQ(json["runs"][0]["writer_ms"], 0);
    EXPECT_EQ(json["runs"][0]["file_bytes"], 0);
    EXPECT_GT(json["runs"][0]["ratio"]["median"].get<double>(), 0);
}

TEST_F(BenchVerb, FailsInASentenceAndLeavesNothing) {
    EXPECT_EQ(bench("--contexts ''"), 2);
    EXPECT_EQ(test::read_bytes(dir_.file("err")), "error: --contexts names no length\n");
    EXPECT_EQ(bench("--contexts 24 --cache-type-k nonsense"), 2);
    EXPECT_EQ(test::read_bytes(dir_.file("err")).find("error: unknown cache type"), 0u);
    EXPECT_TRUE(std::filesystem::is_empty(dir_.file("folder")));
    EXPECT_EQ(
        attnscope("bench -m '" + dir_.file("m.gguf") + "' -ngl 0 --contexts 24 -o '" + dir_.file("nowhere") + "'"), 2);
    EXPECT_NE(test::read_bytes(dir_.file("err")).find("Directory does not exist: " + dir_.file("nowhere")),
              std::string::npos);
}

} // namespace
} // namespace attnscope
