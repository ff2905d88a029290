// The fourth way to come between: ggml loads us as a back end of its own (GGML_BACKEND_PATH), with one accelerator that computes one
// operation a graph. For programs whose calls of ggml have no names: linked statically and stripped.
#pragma once

struct link_map;

namespace attnscope::attach {

// What ggml_backend_init returns to the ggml in `holder`, which goes on at `return_address`; null: its interface for back ends is not
// known.
void* offer_back_end(link_map* holder, const void* return_address);
// Has a ggml taken it?
bool back_end_is_taken();
bool back_end_was_offered();

// The version of the interface that code compares what it was returned with; 0: the code was not understood.
int compared_version(const unsigned char* code, unsigned long n);

} // namespace attnscope::attach
