// Between the program and its ggml's scheduler.
#pragma once

#include "attach/inside/import_slots.h"

#include <span>

namespace attnscope::capture {
class GraphHook;
}

namespace attnscope::attach {

// Functions of ggml, and ours that come before them.
std::span<const Replacement> replacements();
// That of the innermost capture::HookScope of this thread.
capture::GraphHook* current_hook();

} // namespace attnscope::attach
