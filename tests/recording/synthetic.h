// Frames of invented models: deterministic, so that a test can make the expected frame again instead of
// keeping it.
#pragma once

#include <attnscope/recording.h>

#include <string>
#include <vector>

namespace attnscope::test {

struct Shape {
    int32_t n_layer = 2;
    int32_t n_head = 4;
    int32_t n_head_kv = 2;
    int32_t head_dim = 32;
    DType q_type = DType::f16;
    DType k_type = DType::f16;
};

Geometry uniform_geometry(const Shape& shape);
// Layers without attention, shared keys, a sliding window, soft caps, sinks, ALiBi and three types of keys in
// one.
Geometry mixed_geometry();
Geometry smollm2_geometry(); // SmolLM2-135M: 30 layers, 9 heads, 3 KV heads, head size 64
Geometry qwen_7b_geometry(); // 28 layers, 28 heads, 4 KV heads, head size 128

// Finite values of ordinary size, whatever the types.
Frame make_frame(const Geometry& geometry, int64_t index, uint64_t seed = 1);
// The same in a sequence: frames of different sequences differ.
Frame make_frame(const Geometry& geometry, const FramePlace& place);
bool same_header(const Frame& a, const Frame& b); // everything but q and k; bit by bit
bool same_frame(const Frame& a, const Frame& b);

RecordingInfo make_info();
// Writes and closes a recording of n frames; aborts the test program on failure. Some tokens of the prompt are without queries, as
// --prompt-rows leaves them, unless `all_queries`.
void write_recording(const std::string& path, const Geometry& geometry, int64_t n, const WriterOptions& options = {},
                     bool all_queries = false);
std::string piece_of(int32_t token);

} // namespace attnscope::test
