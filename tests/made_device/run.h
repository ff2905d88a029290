// One generation of a tiny made model, on the CPU or on devices of tests, and what came out of it.
#pragma once

#include "models/model_make.h"
#include "support/made_device.h"
#include "support/temp_dir.h"

#include <attnscope/session.h>

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace attnscope::test {

// Layers that see everything; layers with windows of 48 positions between others, in a ring of 256 cells that comes round.
enum class Model { plain, windows };
// Weights are f32: other types have kernels of their own in memory that is the CPU's.
models::ModelShape shape_of(Model model);

class Sessions {
public:
    explicit Sessions(const models::ModelShape& shape);
    SessionOptions options(const std::string& devices, FlashAttention flash = FlashAttention::on) const;

private:
    TempDir dir_;
    std::string path_;
};

struct Outcome {
    std::vector<Frame> frames;
    std::vector<std::vector<float>> means; // of each frame, computed where it was decoded; empty: none
    std::vector<int32_t> text;
    Geometry geometry;
    std::string error; // empty: none
};

std::vector<int32_t> some_tokens(size_t n, int32_t first = 5);

// `n` tokens, greedily.
GenerateOptions greedy(int32_t n);

// A CPU's flash attention multiplies queries unrounded, and they are kept so; a device's are f16: so that both can be compared.
void round_queries(Outcome& outcome);

// Generates in an open session. `text` is told of every token, before it is decoded.
Outcome run(Session& session, const std::vector<int32_t>& prompt, const GenerateOptions& options,
            const std::function<void(Session&)>& text = {});
// Opens one first; the devices of tests must be idle.
Outcome run(const SessionOptions& session, const std::vector<int32_t>& prompt, const GenerateOptions& options,
            const std::function<void(Session&)>& text = {});

// Forgets the last token that the engine has read, behind the session's back, as programs do that let a small model guess ahead:
// the next token takes its position and its cells at once.
void take_back_one(Session& session);

// Forgets the first tokens, likewise, and counts positions anew: the engine turns the keys that it keeps.
void forget_first(Session& session, int32_t n);

// The same tokens with the same numbers in them, to the bit, and every frame proven as well as there, on rows that the
// frames give again.
void expect_same(const Outcome& expected, const Outcome& actual, size_t n_frames);

// The mean over all rows of frame `index`, computed from what was captured.
std::vector<double> mean_of_rows(const Outcome& outcome, size_t index);

// The devices are as at first before a test and after it.
class OnMadeDevices : public testing::Test {
protected:
    void SetUp() override;
    void TearDown() override;
};

} // namespace attnscope::test
