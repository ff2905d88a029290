// The arguments that name a capture, shared by the verbs that read one.
#pragma once

#include "cli/verbs.h"

#include <attnscope/diagnose.h>

#include <string>

namespace attnscope::cli {

struct CaptureArguments {
    std::string path;
    std::string shape; // "28,28,512"
    std::string array;
    std::string axes; // "layer,head,query,key"
};

void add_capture_arguments(CLI::App& verb, CaptureArguments& arguments);
Result<std::unique_ptr<CaptureReader>> open_capture(const CaptureArguments& arguments);
Result<Diagnosis> diagnose_path(const CaptureArguments& arguments);

} // namespace attnscope::cli
