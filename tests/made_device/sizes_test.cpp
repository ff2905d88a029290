// Batches of any size one behind the other, as programs decode that are not our session: what the first asked of a device is still on
// its way when the second, larger one needs more memory.
#include "capture/capture.h"
#include "made_device/run.h"

#include <gtest/gtest.h>
#include <llama-cpp.h>

#include <numeric>

using namespace attnscope;
using namespace attnscope::test;

namespace {

Outcome decode(const SessionOptions& o, const std::vector<size_t>& sizes) {
    Outcome outcome;
    llama_model_params mp = llama_model_default_params();
    mp.n_gpu_layers = o.n_gpu_layers;
    ggml_backend_dev_t devices[] = {o.devices == "none" ? nullptr : ggml_backend_dev_by_name(o.devices.c_str()),
                                    nullptr};
    mp.devices = devices;
    const llama_model_ptr model(llama_model_load_from_file(o.model_path.c_str(), mp));
    llama_context_params cp = llama_context_default_params();
    cp.n_ctx = static_cast<uint32_t>(o.n_ctx);
    cp.n_batch = cp.n_ubatch = 64;
    cp.n_seq_max = 1;
    cp.n_threads = cp.n_threads_batch = 1;
    cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    const llama_context_ptr context(llama_init_from_model(model.get(), cp));
    const auto capture = capture::Capture::make({}, [&](CapturedFrame&& f) -> Result<void> {
        outcome.frames.push_back(std::move(f.frame));
        return {};
    });
    const auto note = [&](const Result<void>& r) {
        if (!r) outcome.error += r.error().message;
    };
    const std::vector<int32_t> tokens = some_tokens(std::accumulate(sizes.begin(), sizes.end(), size_t(0)));
    size_t at = 0;
    for (const size_t n : sizes) {
        const auto now = std::span(tokens).subspan(at, n);
        capture::Capture::Decode scope(*capture, {.ids = now, .positions = {}, .kind = FrameKind::prompt});
        llama_batch batch = llama_batch_get_one(const_cast<int32_t*>(now.data()), static_cast<int32_t>(n));
        note(scope.end(llama_decode(context.get(), batch) == 0));
        if (at == 0) note(capture->flush()); // of the first alone the geometry is found out
        at += n;
    }
    note(capture->flush());
    outcome.geometry = capture->geometry();
    round_queries(outcome);
    return outcome;
}

} // namespace

TEST_F(OnMadeDevices, BatchesOfAnySizeInAnyOrderAreCapturedAlike) {
    for (const Model model : {Model::plain, Model::windows}) {
        const Sessions sessions(shape_of(model));
        for (const auto order : {MadeStreams::Order::engine_first, MadeStreams::Order::engine_last}) {
            MadeDevice::steer().streams.set_order(order);
            for (const std::vector<size_t>& sizes : {std::vector<size_t>{1, 1, 8, 1, 3, 32, 1, 40, 64, 1, 1, 5},
                                                     {1, 2, 4, 8, 16, 32, 64},
                                                     {1, 64, 1, 64, 1, 1, 64}}) {
                const Outcome expected = decode(sessions.options("none"), sizes),
                              r = decode(sessions.options("TEST0"), sizes);
                ASSERT_EQ(expected.error + r.error, "");
                ASSERT_EQ(expected.frames.size(), r.frames.size());
                for (size_t i = 0; i < r.frames.size(); ++i) {
                    const Frame &a = expected.frames[i], &b = r.frames[i];
                    ASSERT_EQ(b.index, static_cast<int64_t>(i));
                    ASSERT_EQ(b.token, some_tokens(i + 1).back());
                    ASSERT_TRUE(a.q == b.q && a.k == b.k && a.visible == b.visible) << "frame " << i;
                    if (i == 0) continue; // proven it is once the geometry is known
                    ASSERT_EQ(b.verdict, verdict_ok) << i << ": " << verdict_text(b.verdict);
                    ASSERT_FALSE(b.witnesses.empty()) << i;
                }
            }
        }
    }
}
