// A dump of arrays whose axes are known, one group after another.
#pragma once

#include "formats/array_tokens.h"

#include <attnscope/dump_reader.h>

#include <memory>
#include <vector>

namespace attnscope::formats {

// Arrays of the same tokens, one behind the other along the layers.
using ArrayGroup = std::vector<std::unique_ptr<ArrayTokens>>;

std::unique_ptr<DumpReader> read_arrays(DumpInfo info, std::vector<ArrayGroup> groups);

} // namespace attnscope::formats
