// Runs programs under `attnscope attach`, on a tiny model.
#pragma once

#include "attach/host_output.h"
#include "support/temp_dir.h"

#include <attnscope/recording.h>

#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

namespace attnscope::test {

using Line = std::vector<int32_t>;

inline const std::string program = ATTNSCOPE_BIN;

class AttachHosts : public testing::Test {
protected:
    void SetUp() override {
        ASSERT_EQ(shell(program + " models make --layers 3 -o " + model + " 2>&1").code, 0);
        std::filesystem::create_directory(out);
    }
    // What the program wrote; `said`: what we said beside it.
    Answer attach(const std::string& command, const std::string& environment = {}) {
        const Answer answer =
            shell(environment + " " + program + " attach -o " + out + " -- " + command + " 2>" + dir.file("said"));
        said = shell("cat " + dir.file("said")).output;
        return answer;
    }
    // All sequences of all recordings, which must be true.
    std::vector<Line> lines() const {
        std::vector<Line> all;
        for (const std::string& path : recordings(out)) {
            EXPECT_EQ(shell(program + " verify --all " + path + " 2>&1").code, 0) << path;
            auto recording = Recording::open(path);
            EXPECT_TRUE(recording);
            if (!recording) continue;
            for (const Sequence& s : (*recording)->sequences()) {
                auto frames = (*recording)->frames(0, s.n_frames, s.id);
                EXPECT_TRUE(frames);
                Line line;
                for (const Frame& f : frames ? *frames : std::vector<Frame>()) {
                    EXPECT_EQ(f.verdict, verdict_ok);
                    line.push_back(f.token);
                }
                all.push_back(line);
            }
        }
        return all;
    }
    static std::vector<Line> printed(const std::string& output) {
        std::vector<Line> all;
        std::istringstream in(output);
        for (std::string line; std::getline(in, line);) all.push_back(numbers(line));
        return all;
    }
    std::string states(const std::string& way) const { return ATTNSCOPE_ATTACH_STATES_HOST " " + model + " " + way; }

    TempDir dir;
    const std::string model = dir.file("m.gguf");
    std::string out = dir.file("out"), said;
};

} // namespace attnscope::test
