// A device that fails, or has no memory left: a sentence, no frame that is wrong, and a session that can be used again.
#include "capture/capture.h"
#include "made_device/proofs_held.h"
#include "made_device/run.h"

#include <gtest/gtest.h>
#include <llama-cpp.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <span>

using namespace attnscope;
using namespace attnscope::test;

namespace {

using Order = MadeStreams::Order;
using Memory = MadeDevice::Memory;

std::atomic<bool> no_mirrors{false};

// Not a session: what a program decodes, as it pleases, with a capture around it.
class Decoding {
public:
    Decoding(const SessionOptions& o, const std::function<void(llama_context_params&)>& adjust) {
        llama_model_params mp = llama_model_default_params();
        mp.n_gpu_layers = 99;
        ggml_backend_dev_t devices[] = {ggml_backend_dev_by_name("TEST0"), nullptr};
        mp.devices = devices;
        model_.reset(llama_model_load_from_file(o.model_path.c_str(), mp));
        llama_context_params cp = llama_context_default_params();
        cp.n_ctx = 256;
        cp.n_batch = cp.n_ubatch = 64;
        cp.n_threads = cp.n_threads_batch = 1;
        cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
        if (adjust) adjust(cp);
        if (model_) context_.reset(llama_init_from_model(model_.get(), cp));
        capture_ = capture::Capture::make({}, [this](CapturedFrame&& f) -> Result<void> {
            frames.push_back(std::move(f.frame));
            return {};
        });
    }
    bool ok() const { return context_ != nullptr; }
    capture::Capture& capture() { return *capture_; }
    Result<void> decode(size_t n, size_t announced) {
        const std::vector<int32_t> tokens = some_tokens(at_ + n);
        const auto ids = std::span(tokens).subspan(at_, n);
        capture::Capture::Decode scope(*capture_, {.ids = ids.first(announced), .positions = {}});
        llama_batch batch = llama_batch_get_one(const_cast<int32_t*>(ids.data()), static_cast<int32_t>(n));
        at_ += n;
        return scope.end(llama_decode(context_.get(), batch) == 0);
    }
    Result<void> decode(size_t n) { return decode(n, n); }

    std::vector<Frame> frames;

private:
    llama_model_ptr model_;
    llama_context_ptr context_;
    std::unique_ptr<capture::Capture> capture_;
    size_t at_ = 0;
};

Outcome joined(Outcome a, Outcome b) {
    a.text.insert(a.text.end(), b.text.begin(), b.text.end());
    std::move(b.frames.begin(), b.frames.end(), std::back_inserter(a.frames));
    a.error += b.error;
    return a;
}

} // namespace

// Mirrors are asked for in huge pages; this is found before the C library's.
extern "C" void* aligned_alloc(size_t align, size_t size) {
    void* p = nullptr;
    if ((no_mirrors && align >= size_t(1) << 20) || posix_memalign(&p, std::max(align, sizeof(void*)), size) != 0) {
        errno = ENOMEM;
        return nullptr;
    }
    return p;
}

// The frames of all tokens that were decoded come, and what is generated after it is what would have been.
TEST_F(OnMadeDevices, AfterADecodeThatFailedAllFramesHaveComeAndTheSessionGoesOn) {
    for (const Model model : {Model::plain, Model::windows}) {
        const Sessions sessions(shape_of(model));
        auto cpu = Session::open(sessions.options("none"));
        ASSERT_TRUE(cpu) << cpu.error().message;
        const Outcome first = run(**cpu, some_tokens(60), greedy(10));
        const Outcome second = run(**cpu, some_tokens(40, 9), greedy(20));
        for (const Order order : {Order::engine_first, Order::engine_last}) {
            MadeDevice::steer().streams.set_order(order);
            auto device = Session::open(sessions.options("TEST0"));
            ASSERT_TRUE(device) << device.error().message;
            MadeDevice::steer().fail_graph(2 + 10); // the prompt's two batches, ten tokens
            Outcome failed = run(**device, some_tokens(60), greedy(20));
            EXPECT_NE(failed.error.find("llama.cpp failed to decode at position 70"), std::string::npos)
                << failed.error;
            failed.error.clear();
            ASSERT_EQ(failed.text.size(), 11u);
            failed.text.pop_back(); // chosen, but never read
            expect_same(first, failed, 70);
            expect_same(joined(first, second), joined(failed, run(**device, some_tokens(40, 9), greedy(20))), 130);
        }
    }
}

// A program decodes more than it announced while earlier tokens still wait for their proofs: their frames come before the error.
TEST_F(OnMadeDevices, AnErrorComesBehindTheFramesOfTokensThatWait) {
    const Sessions sessions(shape_of(Model::plain));
    Decoding d(sessions.options("TEST0"), [](llama_context_params& cp) {
        cp.type_k = GGML_TYPE_Q4_0, cp.type_v = GGML_TYPE_Q8_0; // what ProofsHeld needs
    });
    ASSERT_TRUE(d.ok());
    ASSERT_TRUE(d.decode(8));
    ASSERT_TRUE(d.capture().flush());
    ProofsHeld held;
    held.until_nothing_moves();
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(d.decode(1)) << i;
    Result<void> told = d.decode(2, 1);
    if (told) told = d.capture().flush();
    held.release();
    EXPECT_GT(held.n_waited(), 0);
    ASSERT_FALSE(told);
    EXPECT_NE(told.error().message.find("the engine's graph has 2 tokens, and the decode only 1"), std::string::npos)
        << told.error().message;
    ASSERT_EQ(d.frames.size(), 12u);
    for (size_t i = 8; i < d.frames.size(); ++i) {
        EXPECT_EQ(d.frames[i].index, static_cast<int64_t>(i));
        EXPECT_EQ(d.frames[i].verdict, verdict_ok) << i << ": " << verdict_text(d.frames[i].verdict);
    }
}

// The engine still computes into a block that was never sent from: a larger batch's block takes its place only after that.
TEST_F(OnMadeDevices, ABlockThatTheEngineWritesToIsNotGivenBack) {
    const Sessions sessions(shape_of(Model::plain));
    Decoding d(sessions.options("TEST0"), {});
    ASSERT_TRUE(d.ok());
    ASSERT_TRUE(d.decode(2));
    ASSERT_TRUE(d.capture().flush());
    MadeDevice::steer().streams.set_order(Order::engine_last, std::chrono::milliseconds(50));
    MadeDevice::steer().refuse([](Memory kind, size_t) { return kind == Memory::pinned; });
    const Result<void> refused = d.decode(32);
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().message.find("there is no host memory for the transfer"), std::string::npos)
        << refused.error().message;
    MadeDevice::steer().refuse(nullptr);
    d.capture().forget();
    (void)d.decode(64);
    (void)d.capture().flush();
}

// Who decodes without a session may go on after a decode that failed, and has the frames of all before it by then.
TEST_F(OnMadeDevices, FramesBeforeADecodeThatFailedComeWithItsEnd) {
    const Sessions sessions(shape_of(Model::plain));
    Decoding d(sessions.options("TEST0"), {});
    ASSERT_TRUE(d.ok());
    ASSERT_TRUE(d.decode(8));
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(d.decode(1)) << i;
    MadeDevice::steer().fail_graph(0);
    EXPECT_TRUE(d.decode(1)); // of the capture: the program knows what its decode gave
    EXPECT_EQ(d.frames.size(), 12u);
}

TEST_F(OnMadeDevices, WithoutPinnedMemoryThereIsASentenceAndTheSessionCanBeUsedAgain) {
    const Sessions sessions(shape_of(Model::plain));
    const Outcome expected = run(sessions.options("none"), some_tokens(60), greedy(20));
    auto device = Session::open(sessions.options("TEST0"));
    ASSERT_TRUE(device) << device.error().message;
    MadeDevice::steer().refuse([](Memory kind, size_t) { return kind == Memory::pinned; });
    const Outcome refused = run(**device, some_tokens(60), greedy(20));
    EXPECT_NE(refused.error.find("there is no host memory for the transfer from a device"), std::string::npos)
        << refused.error;
    EXPECT_TRUE(refused.frames.empty());
    MadeDevice::steer().refuse(nullptr);
    (*device)->reset();
    expect_same(expected, run(**device, some_tokens(60), greedy(20)), 80);
}

// One of two devices has begun to send when there is no memory for what the other would.
TEST_F(OnMadeDevices, WithoutPinnedMemoryForTheSecondDeviceThereIsASentenceToo) {
    const Sessions sessions(shape_of(Model::plain));
    const Outcome expected = run(sessions.options("none"), some_tokens(60), greedy(20));
    auto device = Session::open(sessions.options("TEST0,TEST1"));
    ASSERT_TRUE(device) << device.error().message;
    MadeDevice::steer().streams.set_order(Order::engine_first);
    const auto n = std::make_shared<int>(0);
    MadeDevice::steer().refuse([n](Memory kind, size_t) { return kind == Memory::pinned && (*n)++ == 1; });
    const Outcome refused = run(**device, some_tokens(8), greedy(20));
    EXPECT_NE(refused.error.find("there is no host memory for the transfer from a device"), std::string::npos)
        << refused.error;
    (*device)->reset();
    expect_same(expected, run(**device, some_tokens(60), greedy(20)), 80);
}

// Without memory for a copy on the device its blocks go to the host as they are, and the engine waits for that.
TEST_F(OnMadeDevices, WithoutMemoryForCopiesOnTheDeviceFramesAreTheSame) {
    const Sessions sessions(shape_of(Model::plain));
    const Outcome expected = run(sessions.options("none"), some_tokens(60), greedy(20));
    for (const Order order : {Order::engine_first, Order::engine_last}) {
        auto device = Session::open(sessions.options("TEST0"));
        ASSERT_TRUE(device) << device.error().message;
        MadeDevice::steer().streams.set_order(order);
        const auto placed = std::make_shared<int>(0); // the block of a prompt's batch: the engine computes into it
        MadeDevice::steer().refuse([placed](Memory kind, size_t) { return kind == Memory::device && (*placed)++ > 0; });
        const Outcome r = run(**device, some_tokens(60), greedy(20));
        EXPECT_GT(*placed, 1);
        expect_same(expected, r, 80);
        MadeDevice::steer().refuse(nullptr);
    }
}

TEST_F(OnMadeDevices, WithoutMemoryForABatchsQueriesThereIsASentenceAndTheSessionCanBeUsedAgain) {
    const Sessions sessions(shape_of(Model::plain));
    const Outcome expected = run(sessions.options("none"), some_tokens(60), greedy(20));
    auto device = Session::open(sessions.options("TEST0"));
    ASSERT_TRUE(device) << device.error().message;
    MadeDevice::steer().refuse([](Memory kind, size_t) { return kind == Memory::device; });
    const Outcome refused = run(**device, some_tokens(60), greedy(20));
    EXPECT_NE(refused.error.find("no memory for its queries"), std::string::npos) << refused.error;
    EXPECT_TRUE(refused.frames.empty());
    MadeDevice::steer().refuse(nullptr);
    // The engine would use its graph again, as it is, for a batch of the same size.
    (*device)->reset();
    EXPECT_EQ(run(**device, some_tokens(8), greedy(1)).error, "");
    (*device)->reset();
    expect_same(expected, run(**device, some_tokens(60), greedy(20)), 80);
}

TEST_F(OnMadeDevices, WithoutMemoryForMirrorsASessionDoesNotOpenAndTheNextDoes) {
    const Sessions sessions(shape_of(Model::plain));
    const Outcome expected = run(sessions.options("none"), some_tokens(60), greedy(20));
    no_mirrors = true;
    const auto refused = Session::open(sessions.options("TEST0"));
    no_mirrors = false;
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().message.find("no host memory to mirror the cache of a device"), std::string::npos)
        << refused.error().message;
    expect_same(expected, run(sessions.options("TEST0"), some_tokens(60), greedy(20)), 80);
}
