// What a device gives is what the CPU gives, in whatever order the device's streams run.
#include "made_device/run.h"

#include <gtest/gtest.h>

#include <cmath>

using namespace attnscope;
using namespace attnscope::test;

namespace {

using Order = MadeStreams::Order;

struct Case {
    const char* name;
    Model model;
    FlashAttention flash;
    const char* k_type;
    const char* devices;
    Order order;
    bool events = true;
};

void PrintTo(const Case& c, std::ostream* out) {
    *out << c.name;
} // or a test's name shows its bytes

class MadeDevices : public OnMadeDevices, public testing::WithParamInterface<Case> {};

constexpr auto on = FlashAttention::on, off = FlashAttention::off;

} // namespace

TEST_P(MadeDevices, GiveTheFramesOfTheCpuToTheBit) {
    const Case& c = GetParam();
    const Sessions sessions(shape_of(c.model));
    SessionOptions cpu = sessions.options("none", c.flash), device = sessions.options(c.devices, c.flash);
    cpu.cache_type_k = device.cache_type_k = c.k_type;
    const std::vector<int32_t> prompt = some_tokens(150);
    const Outcome expected = run(cpu, prompt, greedy(150));
    MadeDevice::steer().set_events(c.events);
    MadeDevice::steer().streams.set_order(c.order);
    const Outcome actual = run(device, prompt, greedy(150));
    EXPECT_GT(MadeDevice::steer().n_engine_graphs(), 150);
    expect_same(expected, actual, 300);
    for (const LayerInfo& layer : actual.geometry.layers) EXPECT_TRUE(layer.on_device);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, MadeDevices,
    testing::Values(Case{"Together", Model::plain, on, "f16", "TEST0", Order::together},
                    Case{"EngineFirst", Model::plain, on, "f16", "TEST0", Order::engine_first},
                    Case{"EngineLast", Model::plain, on, "f16", "TEST0", Order::engine_last},
                    Case{"WithoutFlashEngineFirst", Model::plain, off, "f16", "TEST0", Order::engine_first},
                    Case{"WithoutFlashEngineLast", Model::plain, off, "f16", "TEST0", Order::engine_last},
                    Case{"Q8EngineFirst", Model::plain, on, "q8_0", "TEST0", Order::engine_first},
                    Case{"WindowsEngineFirst", Model::windows, on, "f16", "TEST0", Order::engine_first},
                    Case{"WindowsWithoutFlashEngineLast", Model::windows, off, "f16", "TEST0", Order::engine_last},
                    Case{"TwoTogether", Model::plain, on, "f16", "TEST0,TEST1", Order::together},
                    Case{"TwoEngineFirst", Model::plain, on, "f16", "TEST0,TEST1", Order::engine_first},
                    Case{"TwoEngineLast", Model::windows, off, "f16", "TEST0,TEST1", Order::engine_last},
                    Case{"WithoutEventsEngineFirst", Model::windows, on, "f16", "TEST0", Order::engine_first, false},
                    Case{"WithoutEventsEngineLast", Model::plain, off, "f16", "TEST0", Order::engine_last, false}),
    [](const auto& c) { return std::string(c.param.name); });

// A prompt of several batches, of which only some tokens keep their queries: those go through a graph of copies.
TEST_F(OnMadeDevices, GatherThePromptsQueriesThatAreKept) {
    const Sessions sessions(shape_of(Model::plain));
    for (const char* k_type : {"f16", "q8_0"}) {
        for (const Order order : {Order::engine_first, Order::engine_last}) {
            SessionOptions cpu = sessions.options("none"), device = sessions.options("TEST0");
            cpu.cache_type_k = device.cache_type_k = k_type;
            for (const int64_t last : {int64_t(0), int64_t(70)}) {
                GenerateOptions g = greedy(3);
                g.prompt_rows.last = last;
                const Outcome expected = run(cpu, some_tokens(150), g);
                MadeDevice::steer().streams.set_order(order);
                const Outcome actual = run(device, some_tokens(150), g);
                expect_same(expected, actual, 153);
                for (size_t i = 0; i < actual.frames.size(); ++i) {
                    EXPECT_EQ(actual.frames[i].q.empty(), i < size_t(150 - last))
                        << k_type << ", " << last << ": " << i;
                }
            }
        }
    }
}

// Some layers' caches lie in host memory, and what reads the masks last is not the device.
TEST_F(OnMadeDevices, LayersOnTheCpuAndOnADeviceAreCapturedAlike) {
    for (const Model model : {Model::plain, Model::windows}) {
        const Sessions sessions(shape_of(model));
        for (const FlashAttention flash : {on, off}) {
            const Outcome expected = run(sessions.options("none", flash), some_tokens(100), greedy(50));
            for (const int32_t n_gpu_layers : {1, 2, 3}) {
                for (const Order order : {Order::engine_first, Order::engine_last}) {
                    MadeDevice::steer().streams.set_order(order);
                    SessionOptions o = sessions.options("TEST0", flash);
                    o.n_gpu_layers = n_gpu_layers;
                    expect_same(expected, run(o, some_tokens(100), greedy(50)), 150);
                    ASSERT_FALSE(HasFailure()) << n_gpu_layers << " layers on the device";
                }
            }
        }
    }
}

TEST_F(OnMadeDevices, MeansAreThoseOfTheRowsInAnyOrder) {
    for (const Model model : {Model::plain, Model::windows}) {
        const Sessions sessions(shape_of(model));
        for (const char* devices : {"TEST0", "TEST0,TEST1"}) {
            for (const Order order : {Order::together, Order::engine_first, Order::engine_last}) {
                MadeDevice::steer().streams.set_order(order);
                SessionOptions o = sessions.options(devices);
                o.device_mean = true;
                const Outcome r = run(o, some_tokens(200), greedy(70));
                ASSERT_EQ(r.error, "");
                ASSERT_EQ(r.frames.size(), 270u);
                for (size_t i = 200; i < r.frames.size(); ++i) {
                    const std::vector<double> rows = mean_of_rows(r, i);
                    const std::vector<float>& mean = r.means[i];
                    ASSERT_EQ(mean.size(), rows.size()) << i;
                    double worst = 0;
                    for (size_t j = 0; j < rows.size(); ++j) {
                        const double difference = std::fabs(rows[j] - static_cast<double>(mean[j]));
                        worst = std::isnan(difference) ? 1 : std::max(worst, difference);
                    }
                    ASSERT_LE(worst, 1e-5) << i; // ggml's products of f16 keys against float32 sums
                }
            }
        }
    }
}

// An encoder has no cache: its keys and values come in the same block as its queries, all of them.
TEST_F(OnMadeDevices, AnEncodersFramesAreThoseOfTheCpu) {
    models::ModelShape shape = shape_of(Model::plain);
    shape.arch = "bert";
    shape.n_ctx_train = 512;
    const Sessions sessions(shape);
    for (const FlashAttention flash : {on, off}) {
        SCOPED_TRACE(flash == on ? "flash" : "plain");
        SessionOptions cpu = sessions.options("none", flash), device = sessions.options("TEST0", flash);
        cpu.only_read = device.only_read = true;
        const std::vector<int32_t> text = some_tokens(150);
        const Outcome expected = run(cpu, text, greedy(0));
        const Outcome actual = run(device, text, greedy(0));
        ASSERT_EQ(actual.error, "");
        expect_same(expected, actual, 150);
        for (const LayerInfo& layer : actual.geometry.layers) EXPECT_TRUE(layer.on_device);
        for (const Frame& f : actual.frames) EXPECT_EQ(f.verdict, verdict_ok) << f.index;
    }
}
