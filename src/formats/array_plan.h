// From the arrays of a file, or of several that belong together, to a dump: which of them are attention, what their
// axes are, which are layers of one token, and in what order they are read.
#pragma once

#include "formats/importers.h"
#include "formats/stored_array.h"

#include <vector>

namespace attnscope::formats {

// `info` names path and format. Errors: unsupported, with what would help: a question and the option that answers it.
OpenedDump plan_arrays(DumpInfo info, std::vector<StoredArray> arrays, const CaptureOptions& options);

} // namespace attnscope::formats
