// The third way to come between: calls that an object makes of its own ggml are led to us where they stand. For executables and
// libraries that were linked with ggml inside (statically, -Bsymbolic, hidden names), whose calls no dynamic linker sees.
#pragma once

#include "attach/inside/import_slots.h"

#include <cstddef>
#include <span>

struct link_map;

namespace attnscope::attach {

// In all objects that are loaded now and were not looked at before, where the scheduler's functions are defined under their names and
// called directly. An object is changed as a whole or not at all, and stays loaded. Its code is never writable: the kernel writes
// (/proc/self/mem). No thread may be in the scheduler of such an object, which is so before it has opened its first model. x86-64
// alone. Returns how many calls were changed.
size_t redirect_calls(std::span<const Replacement> replacements);

bool is_redirected(const link_map* object);
// The function of a redirected object, whose name the dynamic linker may not have. Where `object` is none and there is one redirected
// object only: that one's (a function's last call returns to its caller's caller, which may be somebody else). Null: none.
void* redirected_function(const link_map* object, const char* name);

} // namespace attnscope::attach
