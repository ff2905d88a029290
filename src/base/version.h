// The version, from the build's project() and from nowhere else.
#pragma once

namespace attnscope::base {

const char* version(); // "0.1.0"
const char* program(); // "attnscope 0.1.0"

} // namespace attnscope::base
