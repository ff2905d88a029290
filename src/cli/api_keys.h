// Keys that requests must bring, from a file: a key on the command line can be seen by every user of the machine.
#pragma once

#include <attnscope/error.h>

#include <string>
#include <vector>

namespace attnscope::cli {

// Adds the keys of `file`, one a line; empty lines are none. Empty `file`: none is wanted.
Result<void> read_api_keys(const std::string& file, std::vector<std::string>& keys);

} // namespace attnscope::cli
