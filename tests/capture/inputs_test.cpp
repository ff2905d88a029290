// What is kept of a graph's inputs while it runs: all that matters of a mask, and not the mask.
#include "capture/collector.h"

#include <ggml-backend.h>
#include <ggml-cpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <string_view>

#ifdef __GLIBC__
#include <malloc.h>
#endif

using namespace attnscope;
using namespace attnscope::capture;

namespace {

// A mask in memory of a back end's, as the engine has it.
struct Mask {
    Mask(ggml_type type, int64_t n_kv, int64_t n_query) {
        tensor = ggml_new_tensor_2d(ctx.get(), type, n_kv, n_query);
        buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), ggml_backend_cpu_buffer_type()));
    }
    void set(int64_t row, const std::vector<float>& values) {
        const size_t at = size_t(row) * tensor->nb[1];
        if (tensor->type == GGML_TYPE_F32) {
            ggml_backend_tensor_set(tensor, values.data(), at, values.size() * sizeof(float));
            return;
        }
        std::vector<ggml_fp16_t> half(values.size());
        ggml_fp32_to_fp16_row(values.data(), half.data(), static_cast<int64_t>(values.size()));
        ggml_backend_tensor_set(tensor, half.data(), at, half.size() * sizeof(ggml_fp16_t));
    }
    ggml_context_ptr ctx{ggml_init({size_t(1) << 16, nullptr, true})};
    ggml_backend_buffer_ptr buffer;
    ggml_tensor* tensor = nullptr;
};

Ranges ranges_of(const std::vector<float>& row) {
    Ranges ranges;
    for (size_t i = 0; i < row.size(); ++i) {
        if (std::isinf(row[i])) continue;
        const auto at = static_cast<int64_t>(i);
        if (!ranges.empty() && ranges.back().end == at) {
            ranges.back().end = at + 1;
        } else {
            ranges.push_back({at, at + 1});
        }
    }
    return ranges;
}

size_t allocated() {
#ifdef __GLIBC__
    const struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
#else
    return 0;
#endif
}

} // namespace

TEST(Inputs, EveryRowOfAMaskKeepsItsRunsWhereverTheyBeginAndEnd) {
    std::mt19937 random(7);
    Inputs inputs; // one for all: what an earlier graph left must not show
    for (int trial = 0; trial < 200; ++trial) {
        const int64_t n_kv = 1 + int64_t(random() % (trial % 4 == 0 ? 40000 : 300)),
                      n_query = 1 + int64_t(random() % 20);
        Mask mask(trial % 2 ? GGML_TYPE_F16 : GGML_TYPE_F32, n_kv, n_query);
        std::vector<std::vector<float>> rows;
        const uint32_t mean_run = 1 + random() % (trial % 4 == 0 ? 3000 : 100); // long ones are passed in steps
        for (int64_t i = 0; i < n_query; ++i) {
            std::vector<float> row;
            for (bool visible = random() % 2; int64_t(row.size()) < n_kv; visible = !visible) {
                const size_t n = std::min(size_t(n_kv) - row.size(), size_t(1 + random() % (2 * mean_run)));
                row.insert(row.end(), n, visible ? -float(random() % 3) : -INFINITY); // ALiBi masks hold distances
            }
            mask.set(i, row);
            rows.push_back(std::move(row));
        }
        inputs.clear();
        inputs.keep_mask(mask.tensor, n_query);
        for (int64_t i = 0; i < n_query; ++i) {
            ASSERT_EQ(inputs.visible(mask.tensor, i), ranges_of(rows[size_t(i)])) << "trial " << trial << ", row " << i;
        }
    }
}

TEST(Inputs, TheMaskOfALongPromptIsNotKept) {
    Mask mask(GGML_TYPE_F32, 32768, 512); // 64 MiB
    for (int64_t i = 0; i < 512; ++i) {
        std::vector<float> row(32768, -INFINITY);
        std::fill_n(row.begin(), 30000 + i, 0.0f);
        mask.set(i, row);
    }
    Inputs inputs;
    const size_t before = allocated();
    inputs.keep_mask(mask.tensor, 512);
    EXPECT_LT(allocated(), before + (size_t(1) << 20));
    EXPECT_EQ(inputs.visible(mask.tensor, 511), (Ranges{{0, 30511}}));
}

namespace {

// One node after another, on the host (h) or a device (d); v: the one before is only looked at, on the host.
bool stay(const std::string& nodes) {
    const ggml_context_ptr ctx(ggml_init({size_t(1) << 20, nullptr, true}));
    ggml_cgraph* graph = ggml_new_graph(ctx.get());
    ggml_tensor* x = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, 8);
    for (const char c : nodes) {
        x = c == 'v' ? ggml_view_1d(ctx.get(), x, x->ne[0], 0) : ggml_scale(ctx.get(), x, 2.0f);
        ggml_set_name(x, c == 'd' ? "device" : "host");
        ggml_build_forward_expand(graph, x);
    }
    return inputs_stay(graph, [](const ggml_tensor* t) { return std::string_view(t->name) == "host"; });
}

} // namespace

TEST(Inputs, StayWhereNothingIsComputedOnTheHostBehindADevice) {
    EXPECT_TRUE(stay("hdddd"));  // all layers on a device; the tokens' rows are looked up on the host
    EXPECT_TRUE(stay("hhdvdd")); // a view takes no memory
    EXPECT_TRUE(stay("dd"));
    EXPECT_FALSE(stay("hddhd")); // a layer on the host
    EXPECT_FALSE(stay("hdddh")); // the output
    EXPECT_FALSE(stay("hhhh"));  // no device: everything may take the place of an input
    EXPECT_FALSE(stay(""));
}
