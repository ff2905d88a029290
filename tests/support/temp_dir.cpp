#include "support/temp_dir.h"

#include <cstdlib>
#include <stdexcept>

namespace attnscope::test {

TempDir::TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "attnscope-test-XXXXXX").string();
    if (!mkdtemp(name.data())) throw std::runtime_error("cannot make a temporary folder");
    path_ = name;
}

TempDir::~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
}

} // namespace attnscope::test
