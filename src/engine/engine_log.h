// llama.cpp's own log: silenced, but its last complaint is kept for our error messages.
#pragma once

#include <string>

namespace attnscope::engine {

// quiet: nothing of llama.cpp's log is printed; otherwise it goes to standard error as usual. Process-wide, because
// llama.cpp's log is.
void set_engine_log(bool quiet);
// The last error that llama.cpp logged since the last call, without line break; empty if none.
std::string take_engine_complaint();

} // namespace attnscope::engine
