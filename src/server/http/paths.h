// The paths of the server: other names of a route, and the nearest route to one that is none.
#pragma once

#include <string>

namespace attnscope::server {

// The route that `path` means: without a slash at its end, /api/latest/ as KoboldCPP's newest, llama-server's names without /v1.
std::string canonical_path(const std::string& path);
// The methods that this route of ours takes, as the header Allow lists them; null: it is none.
const char* methods_of(const std::string& path);
// The route that is most like `path`.
std::string nearest_route(const std::string& path);

} // namespace attnscope::server
