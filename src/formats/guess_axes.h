// Which axis is what, from the shape, the name and a look at the numbers. A guess is stated with its reason; a shape
// that can be read in two ways is a question.
#pragma once

#include "formats/array_axes.h"
#include "formats/array_probe.h"

#include <cstdint>
#include <string>
#include <vector>

namespace attnscope::formats {

// What an array's name says: "step_3_layer_2" is layer 2 of step 3, "blocks.7.attn.hook_pattern" layer 7.
struct NamedPlace {
    int64_t step = -1, layer = -1;
};
NamedPlace named_place(const std::string& name);

struct AxesGuess {
    std::vector<Axis> axes;
    std::string why;
    std::string question; // not empty: there are two readings, and nothing in the data decides
};

// `one_of_layers`: the array is one layer of several, so that no axis of it is the layers.
AxesGuess guess_axes(const std::vector<int64_t>& shape, const ArrayProbe& probe, bool one_of_layers);

} // namespace attnscope::formats
