// llama.cpp's own log: silenced, but its complaints are kept for our error messages.
#pragma once

#include <string>

namespace attnscope::engine {

// quiet: nothing of llama.cpp's log is printed; otherwise it goes to standard error as usual. Process-wide, because
// llama.cpp's log is.
void set_engine_log(bool quiet);
// The errors that llama.cpp logged since the last call, in order, on one line (the reason comes first, what failed for it last);
// empty if none.
std::string take_engine_complaint();

} // namespace attnscope::engine
