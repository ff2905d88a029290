// What somebody who is no graph has written to a device's cache, into its mirrors.
#pragma once

#include "capture/device/mirror.h"
#include "capture/graph/attention_graph.h"

#include <attnscope/types.h>

namespace attnscope::capture {

// Brings the keys and values of these cells from a device to the mirrors of the node's caches, which graphs have filled before: behind
// all that `engine`, the device's back end, was given, and nobody may look at the mirrors meanwhile. False: the cells do not lie as they
// must, and nobody knows what the mirrors hold of them.
bool read_back(const AttentionNode& node, ggml_backend_t engine, const Ranges& cells, Mirrors& mirrors);

} // namespace attnscope::capture
