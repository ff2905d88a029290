// How the program's ggml lays out its tensors and numbers its operations: found by having it make tensors of known shapes. No
// version is asked for: forks and stripped builds tell none, or a wrong one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

struct link_map;

namespace attnscope::attach {

struct TensorLayout { // of a ggml_tensor, in bytes
    size_t type = 0, buffer = 0, ne = 0, nb = 0, op = 0, op_params = 0, flags = 0, src = 0, n_src = 0, view_src = 0,
           view_offs = 0, data = 0, name = 0, size = 0;
    bool operator==(const TensorLayout&) const = default;
};

enum class KnownOp : uint8_t {
    none,
    add,
    scale,
    unary,
    mul_mat,
    cont,
    cpy,
    view,
    reshape,
    permute,
    transpose,
    get_rows,
    set_rows,
    rope,
    soft_max,
    flash_attn_ext,
    count_
};

struct Probed {
    TensorLayout tensor;
    std::array<int32_t, size_t(KnownOp::count_)> ops{}; // ggml's number of each; -1: this version has no such operation
    int32_t tanh = -1;                                  // op_params[0] of that unary operation
    int32_t flag_compute = 0;                           // bit of `flags` that marks what runs; 0: nothing is marked
    std::string refusal;                                // why nothing is known, in a sentence; empty: all is
};

// Of the ggml that `caller` uses. A ggml_abort in it ends the probe, not the program.
Probed probe_ggml(link_map* caller);
// ... as the headers have it that this library was built with.
Probed header_ggml();
// What in `found` is otherwise than `built`, in words; empty: nothing.
std::string difference(const Probed& found, const Probed& built);

// Called by our ggml_abort. Does not return while this thread probes.
void abort_of_probe(const char* text);

} // namespace attnscope::attach
