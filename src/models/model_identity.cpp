#include "models/model_identity.h"

#include "base/sha256.h"
#include "gguf/gguf_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

namespace attnscope::models {

Result<std::string> model_sha256(const std::string& path) {
    constexpr uint64_t mib = uint64_t(1) << 20;
    auto source = gguf::open_gguf_source(path);
    if (!source) return source.error();
    const uint64_t size = (*source)->size();
    std::vector<uint8_t> piece(size_t(std::min(size, mib)));
    base::Sha256 sum;
    for (const uint64_t offset : {uint64_t(0), size - piece.size()}) {
        if (!(*source)->read(offset, piece)) return Error{ErrorKind::io, fmt::format("cannot read {}", path)};
        sum.add(piece.data(), piece.size());
    }
    uint8_t length[8];
    for (int i = 0; i < 8; ++i) length[i] = uint8_t(size >> (8 * i));
    sum.add(length, sizeof length);
    std::string hex = sum.hex();
    if (hex.empty()) return Error{ErrorKind::io, fmt::format("cannot compute the SHA-256 of {}", path)};
    return hex;
}

Result<ModelIdentity> model_identity(const std::string& path, const gguf::GgufSummary& summary) {
    auto sha256 = model_sha256(path);
    if (!sha256) return sha256.error();
    ModelIdentity id;
    id.path = std::filesystem::path(path).filename().string();
    id.name = summary.name;
    id.architecture = summary.architecture;
    id.file_bytes = summary.file_bytes;
    id.sha256 = std::move(*sha256);
    id.n_layer = summary.n_layer;
    id.n_vocab = summary.n_vocab;
    id.n_ctx_train = summary.n_ctx_train;
    return id;
}

} // namespace attnscope::models
