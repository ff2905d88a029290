// CapturedFrame::mean of a session held against the rows of the same frames.
#pragma once

#include "models/model_make.h"

#include <attnscope/session.h>

#include <cstdint>
#include <vector>

namespace attnscope::test {

struct MeanTrial {
    models::ModelShape shape;
    SessionOptions session;             // the model's path and device_mean are set here
    std::vector<int32_t> layers, heads; // GenerateOptions::mean_rows
    size_t n_prompt = 300;
    int32_t n_predict = 150;
};

struct MeanOutcome {
    int32_t n_means = 0;  // tokens that were generated and have a mean
    int32_t n_wrong = 0;  // those whose mean is not as long as their rows
    int32_t n_not_ok = 0; // frames with another verdict
    double worst = 0;     // the largest difference of a mean from that of the frame's own rows; NaN counts as infinite
};
Result<MeanOutcome> try_means(MeanTrial trial);

} // namespace attnscope::test
