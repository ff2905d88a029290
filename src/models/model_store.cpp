#include "models/model_store.h"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>

namespace attnscope::models {
namespace fs = std::filesystem;

namespace {

std::string environment(const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr ? value : "";
}

std::string known_names() {
    std::string names;
    for (const KnownModel& model : known_models()) names += (names.empty() ? "" : ", ") + std::string(model.name);
    return names;
}

StoredModel look_up(const KnownModel& model) {
    StoredModel stored;
    stored.model = &model;
    stored.path = (fs::path(model_store_folder()) / model.file).string();
    std::error_code ec;
    stored.present = fs::is_regular_file(stored.path, ec) && fs::file_size(stored.path, ec) == model.bytes;
    return stored;
}

} // namespace

std::string model_store_folder() {
    if (const std::string own = environment("ATTNSCOPE_MODELS"); !own.empty()) return own;
    if (const std::string cache = environment("XDG_CACHE_HOME"); !cache.empty()) {
        return (fs::path(cache) / "attnscope" / "models").string();
    }
    const std::string home = environment("HOME");
    return (fs::path(home.empty() ? "." : home) / ".cache" / "attnscope" / "models").string();
}

std::vector<StoredModel> stored_models() {
    std::vector<StoredModel> all;
    for (const KnownModel& model : known_models()) all.push_back(look_up(model));
    return all;
}

Result<std::string> find_model(const std::string& name_or_empty) {
    const std::string name = name_or_empty.empty() ? std::string(default_model_name) : name_or_empty;
    std::error_code ec;
    if (!name_or_empty.empty()) {
        if (fs::is_regular_file(name, ec)) return name;
        if (fs::is_directory(name, ec)) {
            return Error{ErrorKind::invalid_argument, fmt::format("{} is a folder, not a GGUF file", name)};
        }
        if (fs::exists(name, ec)) {
            return Error{ErrorKind::invalid_argument, fmt::format("{} is a device, not a GGUF file", name)};
        }
        if (ec && ec != std::errc::no_such_file_or_directory && ec != std::errc::not_a_directory)
            return Error{ErrorKind::io, fmt::format("cannot look at {}: {}", name, ec.message())};
    }
    if (const KnownModel* model = known_model(name)) {
        const StoredModel stored = look_up(*model);
        if (stored.present) return stored.path;
        return Error{ErrorKind::not_found,
                     fmt::format("{} {} is not in {}; fetch it with: attnscope models get {}",
                                 name_or_empty.empty() ? "no model was named and the default" : "model", name,
                                 model_store_folder(), name)};
    }
    if (name.find('/') != std::string::npos || fs::path(name).extension() == ".gguf")
        return Error{ErrorKind::not_found, fmt::format("there is no file {}", name)};
    return Error{ErrorKind::not_found,
                 fmt::format("there is no file {}, and no known model has that name (known: {})", name, known_names())};
}

} // namespace attnscope::models
