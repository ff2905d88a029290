// Other machines as devices, through llama.cpp's own RPC back end.
#pragma once

#include <attnscope/error.h>

#include <string>

namespace attnscope::engine {

// Makes the devices of "host:port,host:port" known to llama.cpp, which then spreads a model's layers over them. Each server
// is added once a process. Errors: invalid_argument (not host:port), io (nobody answers there): llama.cpp itself would abort.
Result<void> add_rpc_servers(const std::string& servers);

} // namespace attnscope::engine
