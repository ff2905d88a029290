#include "attach/parent/early_texts.h"

#include <cstring>
#include <fstream>
#include <system_error>

#include <sys/stat.h>

namespace attnscope::attach {

namespace {

bool is_model(const std::string& path) {
    struct stat info {};
    if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return false;
    char magic[4] = {};
    std::ifstream(path, std::ios::binary).read(magic, sizeof magic);
    return std::memcmp(magic, "GGUF", sizeof magic) == 0;
}

// The file that an argument names, by itself or behind a "="; empty: none.
std::string model_in(const std::string& argument) {
    if (is_model(argument)) return argument;
    const size_t equals = argument.find('=');
    const std::string behind = equals == std::string::npos ? std::string() : argument.substr(equals + 1);
    return is_model(behind) ? behind : std::string();
}

} // namespace

EarlyTexts::~EarlyTexts() {
    if (thread_.joinable()) thread_.join();
}

EarlyTexts::File EarlyTexts::file_at(const std::string& path) {
    struct stat info {};
    if (stat(path.c_str(), &info) != 0) return {};
    return {info.st_dev, info.st_ino, static_cast<uint64_t>(info.st_size), info.st_mtim.tv_sec, info.st_mtim.tv_nsec};
}

void EarlyTexts::begin() {
    if (std::exchange(begun_, true)) return;
    try {
        thread_ = std::thread([this] {
            std::string path;
            for (size_t i = 0; i < arguments_.size() && path.empty(); ++i) path = model_in(arguments_[i]);
            const File before = file_at(path);
            if (before == File()) return;
            Result<std::unique_ptr<Texts>> texts = Texts::open({path}, 0, 0);
            if (!texts || file_at(path) != before) return; // why not is said where they are wanted
            file_ = before;
            texts_ = std::move(*texts);
        });
    } catch (const std::system_error&) { // no thread: it is read when it is wanted
    }
}

std::shared_ptr<Texts> EarlyTexts::of(const std::string& file, int32_t n_vocab, int32_t n_layer) {
    begun_ = true;
    if (thread_.joinable()) thread_.join();
    if (!texts_ || file_at(file) != file_) return nullptr;
    const ModelIdentity& model = texts_->identity();
    return (n_vocab <= 0 || model.n_vocab == n_vocab) && model.n_layer == n_layer ? texts_ : nullptr;
}

} // namespace attnscope::attach
