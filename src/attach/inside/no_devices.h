// Answers for functions that a program's ggml has not, where all that it computes with is a CPU's.
#pragma once

#include "capture/graph/ggml_abi.h"

struct link_map;

namespace attnscope::attach {

// A ggml from before it had devices (October 2024), and forks of it: its memory is a CPU's, or it is not. False: it cannot be told.
bool answer_for_devices(link_map* caller, capture::GgmlAbi& abi);
// The same with these two functions of it.
void answer_for_devices(decltype(&::ggml_backend_buft_is_host) is_host,
                        decltype(&::ggml_backend_cpu_buffer_type) cpu_memory, capture::GgmlAbi& abi);
// A program that is linked with a CPU's ggml alone has no registry of devices to be asked.
bool answer_for_registry(link_map* caller, capture::GgmlAbi& abi);

} // namespace attnscope::attach
