// Folders of recordings, as serve --record and attach -o leave them, where a verb takes recordings.
#pragma once

#include <string>
#include <vector>

namespace attnscope::cli {

// The .attn files in a folder, by name. Empty: there are none, or it is no folder.
std::vector<std::string> recordings_in(const std::string& folder);

struct NamedRecordings {
    std::vector<std::string> paths; // a folder that holds recordings stands for them
    bool one = false;               // a single file was named
};
NamedRecordings recordings_named(const std::vector<std::string>& given);

} // namespace attnscope::cli
