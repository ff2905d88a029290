// Programs whose layers lie on devices, and which write to caches there: what is put back goes on as what it was, or it is not captured.
#include "attach/device_fixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

using namespace attnscope;
using namespace attnscope::test;

namespace {

std::vector<Line> sorted(std::vector<Line> lines) {
    std::sort(lines.begin(), lines.end());
    return lines;
}

class AttachDeviceStates : public AttachDevices {
protected:
    // Runs the program on devices and on the CPU: all lines are there, each with the rows that it has on the CPU. `environment`: of
    // both. Says how the layers lie.
    void expect_as_on_the_cpu(const std::string& way, const std::string& environment, std::string& where) {
        std::vector<std::vector<std::string>> recorded;
        for (const std::string& host :
             {std::string(ATTNSCOPE_ATTACH_STATES_HOST), std::string(ATTNSCOPE_ATTACH_DEVICE_STATES_HOST)}) {
            out = dir.file("out" + std::to_string(++n_runs_));
            std::filesystem::create_directory(out);
            const std::string command = host + " " + model + " " + way;
            const Answer plain = shell(environment + " " + command), attached = attach(command, environment);
            ASSERT_EQ(plain.code, 0);
            EXPECT_EQ(attached.output, plain.output);
            EXPECT_EQ(sorted(lines()), sorted(printed(plain.output))) << said;
            recorded.push_back(recordings(out));
        }
        ASSERT_EQ(recorded[0].size(), recorded[1].size());
        for (size_t i = 0; i < recorded[0].size(); ++i) {
            expect_same_rows(recorded[0][i], recorded[1][i]);
            where = layers(recorded[1][i]);
        }
    }
    // D: on a device; h: in host memory.
    static std::string layers(const std::string& path) {
        std::string where;
        auto recording = Recording::open(path);
        if (!recording) return where;
        for (const LayerInfo& l : (*recording)->info().geometry.layers) where += l.on_device ? 'D' : 'h';
        return where;
    }
    void make(const std::string& what) {
        ASSERT_EQ(shell(program + " models make --force --type f32 " + what + " -o " + model + " 2>&1").code, 0);
    }

private:
    int n_runs_ = 0;
};

} // namespace

// A state in host memory and one that stays on the devices; values that lie by cells, and by elements (without flash attention).
TEST_F(AttachDeviceStates, ARestoredStateIsRecognised) {
    for (const std::string flash : {"1", "0"}) {
        for (const std::string way : {"restore", "restore there"}) {
            SCOPED_TRACE(way + " " + flash);
            std::string where;
            // what the devices are asked for comes as late as it may
            expect_as_on_the_cpu(way, "ATTACH_HOST_FLASH=" + flash + " ATTACH_DEVICES_COPIES=" + dir.file("copies"),
                                 where);
            EXPECT_EQ(where, "DDD");
        }
    }
}

TEST_F(AttachDeviceStates, ARestoredStateIsOfTheReadingThatItWasTakenFrom) {
    for (const std::string way : {"rounded", "branched", "branched q8_0"}) {
        SCOPED_TRACE(way);
        std::string where;
        expect_as_on_the_cpu(way, "", where);
        EXPECT_EQ(where, "DDD");
    }
    std::string where;
    expect_as_on_the_cpu("branched", "ATTACH_HOST_FLASH=0", where);
}

// The last layers lie on devices, the others in host memory; of one mask group all the same.
TEST_F(AttachDeviceStates, SoItIsWhereSomeLayersLieInHostMemory) {
    for (const std::string way : {"restore", "rounded", "swap"}) {
        for (const std::string flash : {"1", "0"}) {
            SCOPED_TRACE(way + " " + flash);
            std::string where;
            expect_as_on_the_cpu(way, "ATTACH_HOST_LAYERS=2 ATTACH_HOST_FLASH=" + flash, where);
            EXPECT_EQ(where, "hhD");
        }
    }
}

// A server's checkpoints: the layers with a window have a cache of their own, which alone is put back.
TEST_F(AttachDeviceStates, SoItIsInTheCacheOfAWindow) {
    make("--arch gemma3 --layers 4");
    for (const std::string way : {"checkpoint", "checkpoint 512 full", "restore"}) {
        SCOPED_TRACE(way);
        std::string where;
        expect_as_on_the_cpu(way, "", where);
        EXPECT_EQ(where, "DDDD");
    }
    std::string where;
    expect_as_on_the_cpu("checkpoint", "ATTACH_HOST_LAYERS=3", where);
    EXPECT_EQ(where, "hhDD");
}

// A server's prompt cache: into cells that others have had meanwhile, beside a text that goes on.
TEST_F(AttachDeviceStates, WhatIsPutBackIntoOtherCellsIsRecognised) {
    for (const std::string way : {"swap", "swap apart", "copy"}) {
        for (const std::string flash : {"1", "0"}) {
            SCOPED_TRACE(way + " " + flash);
            std::string where;
            expect_as_on_the_cpu(way, "ATTACH_HOST_FLASH=" + flash, where);
            EXPECT_EQ(where, "DDD");
        }
    }
}

// What an earlier process decoded we have not seen: it is said, and the next text is captured again.
TEST_F(AttachDeviceStates, AStateOfAnotherProcessIsNotTakenForOurs) {
    const std::string host = ATTNSCOPE_ATTACH_DEVICE_STATES_HOST " " + model, state = dir.file("state");
    ASSERT_EQ(shell(host + " save " + state).code, 0);
    const Answer plain = shell(host + " load " + state), attached = attach(host + " load " + state);
    ASSERT_EQ(plain.code, 0);
    EXPECT_EQ(attached.output, plain.output);
    EXPECT_EQ(lines(), std::vector<Line>{printed(plain.output).at(1)}) << said;
    EXPECT_NE(said.find("goes on from what was not captured"), std::string::npos) << said;
}

TEST_F(AttachDeviceStates, AShiftedContextIsNotTakenForWhatItWas) {
    const std::string command = ATTNSCOPE_ATTACH_DEVICE_STATES_HOST " " + model + " shift";
    const Answer plain = shell(command), attached = attach(command);
    ASSERT_EQ(plain.code, 0);
    EXPECT_EQ(attached.output, plain.output);
    const std::vector<Line> texts = printed(plain.output), found = lines();
    ASSERT_EQ(found.size(), 2u) << said;
    EXPECT_EQ(found[0], Line(texts[0].begin(), texts[0].begin() + 16)); // what was there before the shift
    EXPECT_EQ(found[1], texts[1]);
    EXPECT_NE(said.find("goes on from what was not captured"), std::string::npos) << said;
}

// Keys that are no text's in the layers with a window, while the others hold what they did: nothing is captured any more, and that is all.
TEST_F(AttachDeviceStates, AProgramGoesOnWhoseCaptureHasFailed) {
    make("--arch gemma3 --layers 4");
    const std::string command = ATTNSCOPE_ATTACH_DEVICE_STATES_HOST " " + model + " garbled";
    const Answer plain = shell(command), attached = attach(command);
    ASSERT_EQ(plain.code, 0);
    EXPECT_EQ(attached.code, 0) << said;
    EXPECT_EQ(attached.output, plain.output);
    EXPECT_NE(said.find("the capture failed"), std::string::npos) << said;
}
