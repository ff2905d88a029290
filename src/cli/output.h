// What every verb that writes a file asks before it does.
#pragma once

#include "cli/verbs.h"

#include <attnscope/error.h>

#include <string>

namespace attnscope::cli {

struct OutputName {
    std::string path;
    bool force = false;        // replace what is there
    const char* option = "-o"; // that named it
    std::string input;         // what is read, which is never replaced; may be empty
};

// A file can be written there: nothing is there, or a regular file and --force was given.
Result<void> may_write(const OutputName& name);

// --force, for `what`.
void add_force_flag(CLI::App& verb, bool& force, const char* what = "Replace an existing file");

} // namespace attnscope::cli
