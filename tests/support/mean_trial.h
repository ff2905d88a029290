// Frame::mean of a session held against the rows of the same frames.
#pragma once

#include "engine/model_make.h"

#include <attnscope/session.h>

#include <cstdint>
#include <vector>

namespace attnscope::test {

struct MeanTrial {
    ModelShape shape;
    SessionOptions session;              // the model's path and device_mean are set here
    std::vector<int32_t> layers, heads;  // GenerateOptions::mean_layers and mean_heads
    size_t n_prompt = 300;
    int32_t n_predict = 150;
    double tolerance = 1e-6; // how far one float32 computation may lie from another
};

// Every token that is generated must have a mean, and it must be that of its own rows.
void expect_means_of_own_rows(MeanTrial trial);

} // namespace attnscope::test
