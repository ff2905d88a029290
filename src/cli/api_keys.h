// Who may ask a server of ours: keys that requests must bring, from a file (one on the command line can be seen by every user of the
// machine), and what is said where nobody needs one.
#pragma once

#include <attnscope/error.h>

#include <string>
#include <vector>

namespace attnscope::cli {

// Adds the keys of `file`, one a line; empty lines are none. Empty `file`: none is wanted.
Result<void> read_api_keys(const std::string& file, std::vector<std::string>& keys);

// Nobody but who is on this machine reaches what listens on `host`.
bool is_this_machine(const std::string& host);
// Where others reach it, and no key is wanted, says so. Of every server that generates.
void warn_of_strangers(const std::string& host, bool wants_key);

} // namespace attnscope::cli
