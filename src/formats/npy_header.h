// The header of a .npy file, which is also what each member of a .npz starts with.
#pragma once

#include "formats/stored_array.h"

namespace attnscope::formats {

struct NpyHeader {
    ArrayLayout layout;
    int64_t bytes = 0; // of the header; the elements follow
};

// Leaves `bytes` at the first element.
Result<NpyHeader> read_npy_header(base::ByteStream& bytes, const std::string& name);

} // namespace attnscope::formats
