// Folders of arrays: token_00000.npy, ... as our own export writes them, or layer_0.npy, ...; and safetensors in shards
// with the index that names them.
#include "formats/array_plan.h"
#include "formats/npy_header.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

namespace attnscope::formats {

namespace {

namespace fs = std::filesystem;
constexpr size_t most_files = 100000;
constexpr size_t most_open = 512; // files of a folder that are open at once: each array keeps its own
constexpr int64_t index_limit = 16 << 20;

bool ends_with(const std::string& text, std::string_view end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::vector<std::string> names_in(const std::string& folder, std::string_view end) {
    std::vector<std::string> names;
    DIR* listing = opendir(folder.c_str());
    if (!listing) return names;
    while (const dirent* entry = readdir(listing)) {
        if (ends_with(entry->d_name, end) && names.size() < most_files) names.emplace_back(entry->d_name);
    }
    closedir(listing);
    std::sort(names.begin(), names.end(), natural_less);
    return names;
}

// Opened when it is read and closed when another is: a folder may hold more files than a process may open.
class FileOnDemand final : public base::ByteStream {
public:
    FileOnDemand(std::string folder, std::string name, int64_t begin)
        : folder_(std::move(folder)), name_(std::move(name)), begin_(begin) {}
    Result<void> seek(int64_t offset) override {
        at_ = offset;
        return {};
    }
    Result<void> read(void* out, size_t n) override {
        const int fd = ::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0) return Error{ErrorKind::io, "cannot open the folder " + folder_ + ": " + std::strerror(errno)};
        auto file = base::InputFile::open_in(fd, name_, folder_ + "/" + name_);
        ::close(fd);
        if (!file) return file.error();
        if (file->size() < begin_ + at_ + static_cast<int64_t>(n))
            return Error{ErrorKind::damaged, folder_ + "/" + name_ + " ends before its array does"};
        auto done = file->read_at(begin_ + at_, out, n);
        at_ += static_cast<int64_t>(n);
        return done;
    }

private:
    std::string folder_, name_;
    int64_t begin_ = 0, at_ = 0;
};

OpenedDump open_npy_files(const std::string& folder, const std::vector<std::string>& names,
                          const CaptureOptions& options) {
    DumpInfo info;
    info.path = folder;
    info.format = "npy folder";
    std::vector<StoredArray> arrays;
    const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return Error{ErrorKind::io, "cannot open the folder " + folder + ": " + std::strerror(errno)};
    for (const std::string& name : names) {
        auto file = base::InputFile::open_in(fd, name, folder + "/" + name);
        Result<NpyHeader> header = Error{};
        if (file) {
            auto shared = std::make_shared<base::InputFile>(std::move(*file));
            auto whole = file_stretch(shared, 0, shared->size());
            header = read_npy_header(*whole, name);
        } else {
            header = file.error();
        }
        if (!header) {
            info.notes.push_back(header.error().message + ": left out");
            info.left_out.push_back(name);
            continue;
        }
        arrays.push_back({name.substr(0, name.size() - 4), header->layout,
                          std::make_unique<FileOnDemand>(folder, name, header->bytes)});
    }
    ::close(fd);
    if (arrays.empty())
        return Error{ErrorKind::unsupported, folder + " holds no array of attention: " + info.notes.front()};
    return plan_arrays(std::move(info), std::move(arrays), options);
}

OpenedDump open_shards(const std::string& folder, std::vector<std::string> names, DumpInfo info,
                       const CaptureOptions& options) {
    if (names.size() > most_open)
        return Error{ErrorKind::unsupported,
                     info.path + " is in " + std::to_string(names.size()) + " files: too many to open at once"};
    std::vector<StoredArray> arrays;
    const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return Error{ErrorKind::io, "cannot open the folder " + folder + ": " + std::strerror(errno)};
    for (const std::string& name : names) {
        auto file = base::InputFile::open_in(fd, name, folder + "/" + name);
        if (!file) {
            ::close(fd);
            return Error{file.error().kind,
                         "one of the files that belong together cannot be read: " + file.error().message};
        }
        auto found = safetensors_arrays(std::make_shared<base::InputFile>(std::move(*file)), info.notes);
        if (!found) {
            ::close(fd);
            return found.error();
        }
        for (StoredArray& array : *found) arrays.push_back(std::move(array));
    }
    ::close(fd);
    return plan_arrays(std::move(info), std::move(arrays), options);
}

OpenedDump open_index(const std::string& path, const CaptureOptions& options) {
    auto file = base::InputFile::open(path);
    if (!file) return file.error();
    auto text = file->read_text(index_limit);
    if (!text) return text.error();
    auto index = base::parse_json_object(*text, path);
    if (!index) return index.error();
    const auto map = index->find("weight_map");
    if (map == index->end() || !map->is_object())
        return Error{ErrorKind::not_ours, path + " is no index of safetensors files: it has no weight_map"};
    std::set<std::string> names;
    for (const auto& [tensor, name] : map->items()) {
        // a file beside the index, and nothing else
        if (!name.is_string() || name.get<std::string>().find('/') != std::string::npos)
            return Error{ErrorKind::damaged, path + " names a file that does not lie beside it"};
        names.insert(name.get<std::string>());
    }
    const size_t slash = path.find_last_of('/');
    DumpInfo info;
    info.path = path;
    info.format = "safetensors";
    return open_shards(slash == std::string::npos ? "." : path.substr(0, slash + 1), {names.begin(), names.end()},
                       std::move(info), options);
}

} // namespace

bool is_array_folder(const std::string& path) {
    std::error_code failed;
    if (!fs::is_directory(path, failed)) return ends_with(path, ".safetensors.index.json");
    return !names_in(path, ".npy").empty() || !names_in(path, ".safetensors").empty();
}

OpenedDump open_array_folder(const std::string& path, const CaptureOptions& options) {
    std::error_code failed;
    if (!fs::is_directory(path, failed)) return open_index(path, options);
    const std::vector<std::string> indexes = names_in(path, ".safetensors.index.json");
    if (indexes.size() == 1) return open_index(path + "/" + indexes[0], options);
    std::vector<std::string> npy = names_in(path, ".npy");
    if (!npy.empty()) return open_npy_files(path, npy, options);
    DumpInfo info;
    info.path = path;
    info.format = "safetensors";
    return open_shards(path, names_in(path, ".safetensors"), std::move(info), options);
}

} // namespace attnscope::formats
