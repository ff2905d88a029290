// What the axes of an array are.
#pragma once

#include <attnscope/error.h>

#include <cstdint>
#include <string>
#include <vector>

namespace attnscope::formats {

enum class Axis : uint8_t {
    one,   // an extent of 1 that means nothing: a batch, a query
    token, // tokens that were decoded one after another
    layer,
    head,
    query, // positions of a prompt that were decoded together
    key,   // positions that are looked at
};
const char* axis_name(Axis axis);

// "layer,head,query,key", also under the names that others use (batch, step, q, k, context, ...).
Result<std::vector<Axis>> parse_axes(const std::string& text);

// "layer 6, head 8, query 40, key 40"
std::string axes_text(const std::vector<Axis>& axes, const std::vector<int64_t>& shape);

// The axes fit the shape: as many, one key at most once each, extents of 1 where an axis is `one`. Otherwise why not.
std::string axes_problem(const std::vector<Axis>& axes, const std::vector<int64_t>& shape);

} // namespace attnscope::formats
