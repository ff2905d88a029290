// A folder for recordings that are still to come.
#pragma once

#include <string>
#include <vector>

namespace attnscope::cli {

// What it made, it takes away again where nothing lies in it, unless it is kept: who could not begin leaves nothing behind.
class NewFolder {
public:
    NewFolder() = default;
    ~NewFolder();
    NewFolder(const NewFolder&) = delete;
    NewFolder& operator=(const NewFolder&) = delete;
    // Makes the folder, and those above it. Empty: recordings can be written into it; else why not.
    std::string make(const std::string& folder);
    void keep() { made_.clear(); }

private:
    std::vector<std::string> made_; // the uppermost first
};

} // namespace attnscope::cli
