#include "cli/output.h"

#include "formats/write_whole.h"
#include "recording/name_claim.h"

#include <fmt/format.h>

#include <filesystem>

#include <unistd.h>

namespace attnscope::cli {

Result<void> may_write(const OutputName& name) {
    namespace fs = std::filesystem;
    if (name.path.empty())
        return Error{ErrorKind::invalid_argument, fmt::format("{} names no file to write", name.option)};
    const fs::path path(name.path);
    const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
    std::error_code failed;
    if (!fs::is_directory(folder, failed))
        return Error{ErrorKind::not_found,
                     fmt::format("cannot write {}: no folder {} to write into", name.path, folder.string())};
    if (access(folder.c_str(), W_OK) != 0)
        return Error{ErrorKind::io,
                     fmt::format("cannot write {}: the folder {} is not writable", name.path, folder.string())};
    if (Result<void> free = formats::output_is_free(name.path); !free) return free;
    if (!fs::exists(path, failed)) return {};
    if (!name.input.empty() && fs::equivalent(path, name.input, failed))
        return Error{ErrorKind::invalid_argument,
                     fmt::format("{} is what is read; choose another name with {}", name.path, name.option)};
    if (name.force && path.extension() == ".attn") { // somebody may write it
        if (Result<recording::NameClaim> claim = recording::NameClaim::keep(name.path); !claim) return claim.error();
    }
    if (name.force) return {};
    return Error{
        ErrorKind::invalid_argument,
        fmt::format("{} exists; choose another name with {}, or --force to replace it", name.path, name.option)};
}

void add_force_flag(CLI::App& verb, bool& force, const char* what) {
    verb.add_flag("--force", force, what);
}

} // namespace attnscope::cli
