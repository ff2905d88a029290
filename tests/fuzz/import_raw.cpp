// The first four bytes are extents, the rest numbers: this is where any tensor at all meets the diagnosis.
#include "import_file.h"

using namespace attnscope;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 4) return 0;
    static const std::string path = fuzz::scratch(".bin");
    fuzz::write_file(path, data + 4, size - 4);
    CaptureOptions options;
    for (int i = 0; i < 4; ++i) {
        if (data[i] != 0 || i > 0) options.shape.push_back(data[i]);
    }
    fuzz::diagnose(path, options);
    return 0;
}
