// A fuzzer's bytes as a file, and a capture read to its end and diagnosed.
#pragma once

#include <attnscope/diagnose.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>

#include <unistd.h>

namespace attnscope::fuzz {

inline std::string scratch(const std::string& name) {
    return "/dev/shm/attnscope-fuzz-" + std::to_string(getpid()) + name;
}

inline void write_file(const std::string& path, const uint8_t* data, size_t size) {
    FILE* file = std::fopen(path.c_str(), "wb");
    if (!file) return;
    std::fwrite(data, 1, size, file);
    std::fclose(file);
}

inline void diagnose(DumpReader& reader) {
    auto diagnosis = diagnose_dump(reader);
    if (diagnosis && diagnosis->keep.size() != diagnosis->tokens.size()) __builtin_trap();
}

inline void diagnose(const std::string& path, const CaptureOptions& options = {}) {
    auto reader = DumpReader::open(path, options);
    if (reader) diagnose(**reader);
}

} // namespace attnscope::fuzz
