// The one function of glibc that this library itself needs and musl has not.
#pragma once

#include <dlfcn.h>

struct link_map;

namespace attnscope::attach {

// dladdr1 with the object; 0: none is there, or the system cannot say.
int find_object(const void* address, Dl_info* info, link_map** object);

} // namespace attnscope::attach
