// The arguments that name a capture, shared by the verbs that read one.
#pragma once

#include "cli/verbs.h"

#include <attnscope/diagnose.h>

#include <string>

namespace attnscope::cli {

struct DumpArguments {
    std::string path;
    std::string shape; // "28,28,512"
    std::string array;
    std::string axes; // "layer,head,query,key"
};

void add_dump_arguments(CLI::App& verb, DumpArguments& arguments);
Result<std::unique_ptr<DumpReader>> open_dump(const DumpArguments& arguments);
Result<Diagnosis> diagnose_path(const DumpArguments& arguments);

} // namespace attnscope::cli
