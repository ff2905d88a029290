#include "support/file_bytes.h"

#include <cstdio>
#include <memory>
#include <stdexcept>

namespace attnscope::test {

using File = std::unique_ptr<FILE, int (*)(FILE*)>;

std::string read_bytes(const std::string& path) {
    const File file(std::fopen(path.c_str(), "rb"), std::fclose);
    std::string bytes;
    if (!file) return bytes;
    char buffer[65536];
    while (const size_t n = std::fread(buffer, 1, sizeof buffer, file.get())) bytes.append(buffer, n);
    return bytes;
}

void write_bytes(const std::string& path, std::string_view bytes) {
    const File file(std::fopen(path.c_str(), "wb"), std::fclose);
    if (!file || std::fwrite(bytes.data(), 1, bytes.size(), file.get()) != bytes.size()) {
        throw std::runtime_error("cannot write " + path);
    }
}

} // namespace attnscope::test
