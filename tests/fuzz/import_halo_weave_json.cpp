#include "import_file.h"

#include <sys/stat.h>

using namespace attnscope;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const std::string folder = fuzz::scratch("-json");
    mkdir(folder.c_str(), 0700);
    fuzz::write_file(folder + "/token_00000.json", data, size);
    fuzz::diagnose(folder);
    return 0;
}
