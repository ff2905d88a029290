// What a program's ggml knows of devices that are no CPU.
#pragma once

#include "capture/graph/ggml_abi.h"

struct link_map;

namespace attnscope::attach {

// Completes the table with them, where ATTNSCOPE_ATTACH_DEVICES asks for it. Where one of the functions is missing, or where devices say what they can is not found, the table
// stays without any: layers on devices are refused then, in words.
void find_devices(link_map* caller, capture::GgmlAbi& abi);

} // namespace attnscope::attach
