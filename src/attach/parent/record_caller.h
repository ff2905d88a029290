// Records the process that started us, which loads our library itself.
#pragma once

#include "attach/parent/run_attached.h"

namespace attnscope::attach {

// `ready` is told the library and the folder that ATTNSCOPE_ATTACH has to name in that process. Returns when the process and whatever
// else it has told that name have ended or left, or when we are asked to end (SIGTERM, SIGHUP). Of the options argv is what is said of
// the process.
Result<AttachEnd>
record_caller(const AttachOptions& options,
              const std::function<void(const std::string& library, const std::string& folder)>& ready);

} // namespace attnscope::attach
