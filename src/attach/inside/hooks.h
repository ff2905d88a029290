// Between the program and its ggml's scheduler.
#pragma once

namespace attnscope::capture {
class GraphHook;
}

namespace attnscope::attach {

// That of the innermost capture::HookScope of this thread.
capture::GraphHook* current_hook();

} // namespace attnscope::attach
