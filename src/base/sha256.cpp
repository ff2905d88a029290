#include "base/sha256.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

namespace attnscope::base {

struct Sha256::State {
    std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context{EVP_MD_CTX_new(), EVP_MD_CTX_free};
    bool good = false;
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
    state_->good = state_->context && EVP_DigestInit_ex(state_->context.get(), EVP_sha256(), nullptr) == 1;
}

Sha256::~Sha256() = default;

void Sha256::add(const void* data, size_t n) {
    state_->good = state_->good && EVP_DigestUpdate(state_->context.get(), data, n) == 1;
}

std::string Sha256::hex() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned int n = 0;
    if (!state_->good || EVP_DigestFinal_ex(state_->context.get(), digest.data(), &n) != 1) return {};
    std::string text;
    for (unsigned int i = 0; i < n; ++i) text += fmt::format("{:02x}", digest[i]);
    return text;
}

Result<std::string> sha256_file(const std::string& path) {
    std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
    if (!file) return Error{ErrorKind::io, fmt::format("cannot open {}: {}", path, std::strerror(errno))};
    Sha256 sum;
    std::vector<char> buffer(size_t(1) << 20);
    while (const size_t n = std::fread(buffer.data(), 1, buffer.size(), file.get())) sum.add(buffer.data(), n);
    if (std::ferror(file.get())) {
        return Error{ErrorKind::io, fmt::format("cannot read {}: {}", path, std::strerror(errno))};
    }
    return sum.hex();
}

} // namespace attnscope::base
