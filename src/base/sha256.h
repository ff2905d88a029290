// SHA-256 of files and of parts of files, in lower-case hexadecimal.
#pragma once

#include <attnscope/error.h>

#include <cstddef>
#include <memory>
#include <string>

namespace attnscope::base {

class Sha256 {
public:
    Sha256();
    ~Sha256();
    Sha256(const Sha256&) = delete;
    Sha256& operator=(const Sha256&) = delete;
    void add(const void* data, size_t n);
    // The digest of everything added; empty when the library failed. Call once.
    std::string hex();

private:
    struct State;
    std::unique_ptr<State> state_;
};

// Of a whole file, read in pieces of one MiB.
Result<std::string> sha256_file(const std::string& path);

} // namespace attnscope::base
