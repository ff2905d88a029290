// The ggml of the program that we are in. Inside this library every function of ggml that capture/ and attention/ call is a jump
// through a slot, filled here: nothing of ggml is linked, and what runs is the program's own.
#pragma once

#include <string>

struct link_map;

namespace attnscope::attach {

// Fills the slots with the functions that `caller` uses. A sentence: something is missing, and nothing of ggml may be called.
std::string connect_ggml(link_map* caller);
// Did every function that layers on devices need have one?
bool devices_connected();

} // namespace attnscope::attach
