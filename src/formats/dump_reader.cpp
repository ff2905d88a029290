#include "base/file_kind.h"
#include "formats/importers.h"

#include <cstring>
#include <filesystem>

namespace attnscope {

using namespace formats;

namespace {

bool ends_with(const std::string& text, const char* end) {
    const size_t n = std::strlen(end);
    return text.size() >= n && text.compare(text.size() - n, n, end) == 0;
}

} // namespace

Result<std::unique_ptr<DumpReader>> DumpReader::open(const std::string& path, const CaptureOptions& options) {
    std::error_code failed;
    if (std::filesystem::is_directory(path, failed)) {
        auto folder = open_halo_weave(path);
        if (folder || folder.error().kind != ErrorKind::not_ours || !is_array_folder(path)) return folder;
        return open_array_folder(path, options);
    }
    if (is_array_folder(path)) return open_array_folder(path, options);
    if (!options.shape.empty()) return open_raw(path, options);
    // SQLite comes first: whoever closes a file gives up all locks that this process has on it, and a recording that is
    // being written lives by them.
    if (ends_with(path, ".attn")) {
        auto recording = open_attn(path);
        if (recording || recording.error().kind != ErrorKind::not_ours) return recording;
    }

    auto file = base::InputFile::open(path);
    if (!file) return file.error();
    char start[512] = {};
    const size_t n = static_cast<size_t>(std::min<int64_t>(file->size(), sizeof start));
    if (auto done = file->read_at(0, start, n); !done) return done.error();
    if (n == 0) return Error{ErrorKind::damaged, path + " is empty"};
    if (n >= 6 && std::memcmp(start, "\x93NUMPY", 6) == 0) return open_npy(path, options);
    if (n >= 4 && (std::memcmp(start, "PK\3\4", 4) == 0 || std::memcmp(start, "PK\5\6", 4) == 0)) {
        return open_npz(path, options);
    }
    if (n == sizeof start && std::string_view(start, n).starts_with(base::sqlite_magic)) {
        file = Error{}; // closed before SQLite opens it, for the same reason
        return open_attn(path);
    }
    if (std::memcmp(start, "\x89HDF\r\n\x1a\n", std::min<size_t>(n, 8)) == 0 && n >= 8) {
        return Error{ErrorKind::not_ours,
                     path + " is an HDF5 file; save the array it holds: np.save('attention.npy', h5py.File('" +
                         path.substr(path.find_last_of('/') + 1) + "')[NAME][:])"};
    }
    if (n >= 2 && start[0] == '\x80' && start[1] >= 2 && start[1] <= 5) {
        return Error{ErrorKind::not_ours, path +
                                              " is a Python pickle: a program, which is not run. Save arrays instead: "
                                              "np.savez('attention.npz', *steps)"};
    }
    // safetensors has no magic: its JSON header follows 8 bytes of size
    if (ends_with(path, ".safetensors") || (n >= 9 && start[8] == '{')) return open_safetensors(path, options);
    return Error{
        ErrorKind::not_ours,
        path + " is no capture that is known, but seems to be " + base::file_kind({start, n}, path).name +
            "; a Halo Weave folder, .npy, .npz, .safetensors and .attn are read, and raw float32 with --shape"};
}

} // namespace attnscope
