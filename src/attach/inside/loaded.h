// What is loaded into this process, and functions in it.
#pragma once

#include <string>

struct link_map;

namespace attnscope::attach {

// The loaded object that holds `address`; null: none.
link_map* object_of(const void* address);
// The same for the return address of a call that came to us: what has called once stays loaded, so that this is a look into a table.
link_map* caller_at(const void* return_address);
link_map* this_object();
// Its file; the executable's own where the linker has no name for it.
std::string path_of(const link_map* object);

// The function `name` as `caller` would get it if we were not there: its own, where its calls were redirected; of what it was linked
// with, then of what comes behind us in the search, then of the only loaded object that defines it. Null: none.
void* find_function(link_map* caller, const char* name);
// Does any loaded object but this one let the dynamic linker have this function?
bool is_exported(const char* name);

} // namespace attnscope::attach
