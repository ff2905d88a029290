// When we come between, where the dynamic linker has not led the program's calls to us by itself.
#pragma once

#include <cstddef>

namespace attnscope::attach {

// Where the program, or somebody in it, has loaded us late: everything that is loaded now. Returns how many slots and calls were
// changed. From then on this library stays.
size_t come_between() noexcept;

} // namespace attnscope::attach
