// The folder of a parent's rings in shared memory. Whoever makes one first removes those of parents that were killed.
#pragma once

#include "attach/wire/ring.h"

#include <attnscope/error.h>

#include <cstddef>
#include <memory>
#include <string>

namespace attnscope::attach {

struct SharedFolder {
    std::string path;
    std::unique_ptr<ParentLock> lock; // tells programs, and other parents, that we live
};

// In the first place in memory where one can be made.
Result<SharedFolder> make_shared_folder();
Result<SharedFolder> make_shared_folder_in(const std::string& place);

// Removes the folders in `place` that have our name, are this user's and whose parent is gone, which its lock proves: a process number
// may be another one's by now. A program that still writes there keeps what it has mapped. How many folders that were.
size_t remove_left_folders(const std::string& place);

} // namespace attnscope::attach
