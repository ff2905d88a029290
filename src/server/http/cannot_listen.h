// Why a server could not listen.
#pragma once

#include <attnscope/error.h>

#include <string>

namespace attnscope::server {

// Asked of the system again: httplib keeps no reason.
Error cannot_listen(const std::string& host, int port);

} // namespace attnscope::server
