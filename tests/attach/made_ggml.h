// A ggml whose tensors lie in memory as somebody likes, and whose operations have the numbers that he gives them.
#pragma once

#include "capture/graph/ggml_abi.h"

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace attnscope::test {

// What goes wrong in it.
enum class Fault {
    none,
    missing,        // a function is not there
    other_operator, // a function makes another operation's node
    aborts,         // a function calls ggml_abort
    null_context,   // no memory for a context
    null_buffer,    // no memory for a buffer
    no_name,        // ggml_set_name does nothing
    no_output,      // ggml_set_output does nothing
    no_place,       // ggml_backend_tensor_alloc does nothing
    other_shape,    // tensors have a row more than asked for
    other_offset,   // views begin elsewhere
    other_scale,    // flash attention forgets what it was given
    twice,          // a field stands in two places
    type_names,     // element types have other names
    overhead,       // a tensor's size is no size
    count
};

class MadeGgml {
public:
    explicit MadeGgml(uint64_t seed, Fault fault);
    ~MadeGgml();
    MadeGgml(const MadeGgml&) = delete;
    MadeGgml& operator=(const MadeGgml&) = delete;

    // By its name, as the linker would; null: it has none.
    void* function(const std::string& name) const;
    const capture::GgmlAbi& truth() const { return truth_; }
    size_t overhead() const { return overhead_; }
    bool sources_end_at_view() const { return sources_end_at_view_; } // nothing lies between them and view_src

    // Of the functions themselves.
    ggml_tensor* make(capture::Op op, ggml_type type, const int64_t* shape, std::vector<ggml_tensor*> sources);
    Fault fault() const { return fault_; }
    bool is_hit(const char* function) const { return hit_ == function; }
    const char* op_name(uint32_t number);
    void mirror(ggml_tensor* t) const;
    bool asked_beyond() const { return asked_beyond_; } // for the name of a number that no operation has
    int32_t output_bit() const { return output_bit_; }

private:
    uint32_t number_of(capture::Op op);
    std::mt19937_64 random_;
    const Fault fault_;
    std::string hit_; // the function that the fault is in
    capture::GgmlAbi truth_;
    std::map<capture::Op, uint32_t> numbers_;
    std::vector<std::string> names_; // by number
    size_t overhead_ = 0, mirror_at_ = 0, mirrored_ = 0;
    bool sources_end_at_view_ = true, has_set_rows_ = true, asked_beyond_ = false;
    int32_t output_bit_ = 0;
    std::vector<std::unique_ptr<uint64_t[]>> memory_;
};

// The one that its functions, which are C's, work for.
extern MadeGgml* made_ggml;

} // namespace attnscope::test
