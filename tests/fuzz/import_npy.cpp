#include "import_file.h"

using namespace attnscope;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const std::string path = fuzz::scratch(".npy");
    fuzz::write_file(path, data, size);
    fuzz::diagnose(path);
    return 0;
}
