// The table of a ggml none of whose functions can be called by name: read from its structures, once they are found to lie as they are
// expected to.
#pragma once

#include "attach/inside/careful_bytes.h"
#include "attach/inside/probe.h"

#include <cstddef>
#include <span>

struct link_map;

namespace attnscope::attach {

// As operations.h has them, in a graph of which nothing is known yet.
bool looks_like_last_norm(const ggml_tensor* tensor, CarefulBytes& memory);
bool looks_like_stored_keys(const ggml_tensor* tensor, CarefulBytes& memory);
// Has the cache that this graph keeps keys in no memory? Then it only shows how much it would need, as where a program fits a model to
// what is free.
bool keeps_keys_nowhere(std::span<ggml_tensor* const> asked, CarefulBytes& memory);

// From a graph that the scheduler of `holder` is about to split: `asked` are operations of it, the last norm behind all others.
// `buffer_functions`: how many functions its memory has; 0: not seen. Numbers of operations are left to find_operations.
Probed probe_structures(link_map* holder, std::span<ggml_tensor* const> asked, size_t buffer_functions);

} // namespace attnscope::attach
