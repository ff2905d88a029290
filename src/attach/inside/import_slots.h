// The second way to come between: the slots through which loaded objects call ggml are written to. For objects that were bound
// before we came, or that do not ask the global search for their functions (RTLD_DEEPBIND).
#pragma once

#include <cstddef>
#include <span>

namespace attnscope::attach {

struct Replacement {
    const char* name;
    void* function; // ours
};

// In all objects that are loaded now but our own. Returns how many slots were changed.
size_t replace_imports(std::span<const Replacement> replacements);

} // namespace attnscope::attach
