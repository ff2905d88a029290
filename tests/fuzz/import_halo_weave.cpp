// Bytes up to the first two zero bytes are metadata.json, up to the next two the meta file of two tokens, and
// the rest the numbers of the first; the second token has half of them.
#include "import_file.h"

#include <string_view>

#include <sys/stat.h>

using namespace attnscope;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const std::string folder = fuzz::scratch("-folder");
    mkdir(folder.c_str(), 0700);
    const std::string_view all(reinterpret_cast<const char*>(data), size), border("\0\0", 2);
    const size_t first = std::min(all.find(border), size), second = std::min(all.find(border, first + 2), size);
    const size_t meta = std::min(first + 2, size), numbers = std::min(second + 2, size);
    fuzz::write_file(folder + "/metadata.json", data, first);
    fuzz::write_file(folder + "/token_00000_meta.json", data + meta, second > meta ? second - meta : 0);
    fuzz::write_file(folder + "/token_00000_attn.bin", data + numbers, size - numbers);
    fuzz::write_file(folder + "/token_00002_meta.json", data + meta, second > meta ? second - meta : 0);
    fuzz::write_file(folder + "/token_00002_attn.bin", data + numbers, (size - numbers) / 2);
    fuzz::diagnose(folder);
    return 0;
}
