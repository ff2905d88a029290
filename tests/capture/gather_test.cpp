// What a batch's graph of copies picks and converts, against a plain loop, on the CPU's back end.
#include "capture/device/gather.h"

#include <ggml-cpp.h>
#include <ggml-cpu.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

using namespace attnscope;
using namespace attnscope::capture;

namespace {

struct Memory {
    ggml_backend_buffer_ptr buffer;
    uint8_t* data = nullptr;
    explicit Memory(size_t bytes)
        : buffer(ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), bytes)),
          data(static_cast<uint8_t*>(ggml_backend_buffer_get_base(buffer.get()))) {
        std::memset(data, 0xFF, bytes);
    }
};

} // namespace

TEST(Gather, BringsWholesRowsAndHeadsToTheirPlaces) {
    std::mt19937 random(7);
    ggml_backend_ptr cpu(ggml_backend_cpu_init());
    for (int round = 0; round < 20; ++round) {
        const auto pick = [&](int64_t low, int64_t high) {
            return std::uniform_int_distribution<int64_t>(low, high)(random);
        };
        const int64_t dim = 32 * pick(1, 4), n_head = pick(1, 9), n_tokens = pick(2, 40), first = pick(0, n_tokens - 1);
        const DType type = round % 3 == 2 ? DType::bf16 : round % 3 ? DType::f32 : DType::f16;
        const size_t floats = size_t(dim * n_head * n_tokens);
        Placement::Block block;
        Memory from(floats * 4);
        auto* values = reinterpret_cast<float*>(from.data);
        for (size_t i = 0; i < floats; ++i) values[i] = std::normal_distribution<float>()(random);
        block.memory.reset(from.buffer.release());
        block.used = floats * 4;

        GatherPlan plan;
        const size_t whole_bytes = size_t(dim) * 4;
        plan.whole.push_back({size_t(dim) * 4, plan.room(whole_bytes), whole_bytes});
        if (floats < size_t(2 * dim)) continue;
        GatherPlan::Picked picked;
        picked.width = dim, picked.n_rows = n_head * n_tokens;
        for (int64_t t = 0; t < n_tokens; ++t) picked.rows.push_back(int32_t(t * n_head + pick(0, n_head - 1)));
        picked.to = plan.room(picked.rows.size() * size_t(dim) * 4);
        plan.picked.push_back(picked);
        // As llama.cpp lays queries out, and as a view with the tokens inside the heads.
        const bool heads_outside = round % 2;
        const size_t row = dtype_row_bytes(type, dim);
        GatherPlan::Heads heads;
        heads.token_stride = size_t(heads_outside ? dim : dim * n_head) * 4;
        heads.head_stride = size_t(heads_outside ? dim * n_tokens : dim) * 4;
        heads.from = size_t(first) * heads.token_stride;
        heads.head_dim = dim, heads.n_head = n_head, heads.n_tokens = n_tokens - first;
        heads.type = type;
        heads.to_token = row * size_t(n_head) + 64; // other layers' heads lie between
        heads.to = plan.room(heads.to_token * size_t(n_tokens - first));
        plan.heads.push_back(heads);

        Memory to(Gather::memory_needed(plan));
        Gather gather;
        ASSERT_TRUE(gather.build(cpu.get(), block, plan, to.buffer.get()));
        gather.start(cpu.get());
        ggml_backend_synchronize(cpu.get());

        EXPECT_EQ(std::memcmp(to.data + plan.whole[0].to, values + dim, whole_bytes), 0);
        for (size_t i = 0; i < picked.rows.size(); ++i) {
            EXPECT_EQ(std::memcmp(to.data + picked.to + i * size_t(dim) * 4, values + int64_t(picked.rows[i]) * dim,
                                  size_t(dim) * 4),
                      0);
        }
        std::vector<uint8_t> expected(row);
        for (int64_t t = first; t < n_tokens; ++t) {
            for (int64_t h = 0; h < n_head; ++h) {
                const float* source = values + (heads_outside ? h * n_tokens + t : t * n_head + h) * dim;
                if (type == DType::f32) {
                    std::memcpy(expected.data(), source, row);
                } else {
                    ggml_get_type_traits_cpu(ggml_type(type))->from_float(source, expected.data(), dim);
                }
                const uint8_t* at = to.data + heads.to + size_t(t - first) * heads.to_token + size_t(h) * row;
                EXPECT_EQ(std::memcmp(at, expected.data(), row), 0)
                    << "round " << round << " token " << t << " head " << h;
            }
            if (t + 1 < n_tokens) { // nothing between them was touched
                EXPECT_EQ(to.data[heads.to + size_t(t - first) * heads.to_token + row * size_t(n_head)], 0xFF);
            }
        }
    }
}
