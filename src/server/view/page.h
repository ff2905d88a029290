// The page itself: what `web/` builds, embedded in the binary.
#pragma once

#include <string>
#include <string_view>

namespace attnscope::server {

// Empty where the binary was built without npm.
std::string_view page_script(); // viewer.js, one module
std::string_view page_style();  // viewer.css

// Nothing but our own script and style, nothing inline, no request to anywhere else.
constexpr const char* page_policy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
std::string page_html();

} // namespace attnscope::server
