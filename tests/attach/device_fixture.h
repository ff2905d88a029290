// Runs programs on devices that are made of host memory.
#pragma once

#include "attach/host_fixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace attnscope::test {

class AttachDevices : public AttachHosts {
protected:
    void SetUp() override {
        AttachHosts::SetUp();
        // weights of other types have kernels of their own in memory that is the CPU's
        ASSERT_EQ(shell(program + " models make --force --layers 3 --type f32 -o " + model + " 2>&1").code, 0);
    }
    Answer attach(const std::string& command, const std::string& environment = {}) {
        return AttachHosts::attach(command, "ATTNSCOPE_ATTACH_DEVICES=1 " + environment);
    }
    std::string host(const char* flash) const {
        return ATTNSCOPE_ATTACH_DEVICE_HOST " " + model + " 25 " + flash + " 11 27 3 91 45 8";
    }
    // Of a recording: are all layers on devices?
    static bool on_devices(const std::string& path) {
        auto recording = Recording::open(path);
        if (!recording) return false;
        const std::vector<LayerInfo>& layers = (*recording)->info().geometry.layers;
        return std::all_of(layers.begin(), layers.end(),
                           [](const LayerInfo& l) { return l.captured() && l.on_device; });
    }
};

// Every row of every frame, bit for bit.
inline void expect_same_rows(const std::string& one, const std::string& other) {
    auto a = Recording::open(one), b = Recording::open(other);
    ASSERT_TRUE(a && b);
    const std::vector<Sequence> sequences = (*a)->sequences();
    ASSERT_EQ(sequences.size(), (*b)->sequences().size());
    for (const Sequence& s : sequences) {
        for (int64_t i = 0; i < s.n_frames; ++i) {
            const auto x = (*a)->rows({i, s.id}), y = (*b)->rows({i, s.id});
            ASSERT_TRUE(x && y) << i;
            EXPECT_EQ(x->weights, y->weights) << i;
        }
    }
}

} // namespace attnscope::test
