// .npz: a ZIP archive of .npy members, stored or deflated. libzip reads the archive; members are streamed.
#include "formats/array_plan.h"
#include "formats/npy_header.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include <zip.h>

namespace attnscope::formats {

namespace {

using Archive = std::shared_ptr<zip_t>;

class ZipMember final : public base::ByteStream {
public:
    ZipMember(Archive archive, zip_uint64_t index, bool stored, std::string name)
        : archive_(std::move(archive)), index_(index), stored_(stored), name_(std::move(name)) {}

    // Where the elements begin: seek() counts from there.
    void set_start(int64_t bytes) { start_ = bytes; }

    Result<void> seek(int64_t offset) override {
        const int64_t target = start_ + offset;
        if (member_ && target == at_) return {};
        if (member_ && stored_ && zip_fseek(member_.get(), static_cast<zip_int64_t>(target), SEEK_SET) == 0) {
            at_ = target;
            return {};
        }
        if (!member_ || target < at_) {
            if (auto done = open_again(); !done) return done;
        }
        char skipped[4096];
        while (at_ < target) {
            const size_t n = static_cast<size_t>(std::min<int64_t>(target - at_, sizeof skipped));
            if (auto done = read_on(skipped, n); !done) return done;
        }
        return {};
    }

    Result<void> read(void* out, size_t n) override {
        if (!member_) {
            if (auto done = seek(0); !done) return done;
        }
        return read_on(out, n);
    }

private:
    Result<void> open_again() {
        member_.reset(zip_fopen_index(archive_.get(), index_, 0));
        if (!member_) {
            return Error{ErrorKind::damaged, "cannot open " + name_ + ": " + zip_strerror(archive_.get())};
        }
        at_ = 0;
        return {};
    }

    Result<void> read_on(void* out, size_t n) {
        char* at = static_cast<char*>(out);
        while (n > 0) {
            const zip_int64_t got = zip_fread(member_.get(), at, n);
            if (got < 0) return Error{ErrorKind::damaged, name_ + ": " + zip_file_strerror(member_.get())};
            if (got == 0) return Error{ErrorKind::damaged, name_ + " ends before its array does"};
            at += got;
            at_ += got;
            n -= static_cast<size_t>(got);
        }
        return {};
    }

    struct Close {
        void operator()(zip_file_t* member) const { zip_fclose(member); }
    };
    Archive archive_;
    zip_uint64_t index_;
    bool stored_; // not compressed: any place can be read
    std::string name_;
    int64_t start_ = 0;
    int64_t at_ = 0; // of the member, its header included
    std::unique_ptr<zip_file_t, Close> member_;
};

// Deflate packs at most 1,032 bytes into one: a member that claims more than its bytes can hold is a lie, and
// is found before memory is set aside for it.
bool size_is_possible(const zip_stat_t& status, int64_t needed) {
    if (!(status.valid & ZIP_STAT_SIZE) || !(status.valid & ZIP_STAT_COMP_SIZE)) return false;
    return status.size >= static_cast<zip_uint64_t>(needed) &&
           static_cast<double>(needed) <= 1032.0 * static_cast<double>(status.comp_size) + 1032.0;
}

} // namespace

OpenedDump open_npz(const std::string& path, const CaptureOptions& options) {
    // libzip follows what it is given; that it is a regular file is checked here
    auto file = base::InputFile::open(path);
    if (!file) return file.error();
    int code = 0;
    const Archive archive(zip_open(path.c_str(), ZIP_RDONLY | ZIP_CHECKCONS, &code), [](zip_t* opened) {
        if (opened) zip_discard(opened);
    });
    if (!archive) {
        zip_error_t error;
        zip_error_init_with_code(&error, code);
        const bool cut = code == ZIP_ER_NOZIP; // it was called because of its first bytes
        std::string message =
            "cannot read the archive " + path + ": " +
            (cut ? "it begins as a ZIP, but its directory, which is written last, is missing: cut short"
                 : zip_error_strerror(&error));
        zip_error_fini(&error);
        return Error{ErrorKind::damaged, std::move(message)};
    }
    DumpInfo info;
    info.path = path;
    info.format = "npz";
    std::vector<StoredArray> arrays;
    bool torch = false;
    const zip_int64_t n_members = zip_get_num_entries(archive.get(), 0);
    for (zip_int64_t i = 0; i < n_members; ++i) {
        const auto index = static_cast<zip_uint64_t>(i);
        zip_stat_t status;
        zip_stat_init(&status);
        if (zip_stat_index(archive.get(), index, 0, &status) != 0 || !(status.valid & ZIP_STAT_NAME)) continue;
        std::string name = std::string(status.name).substr(0, 128);
        if (name.size() > 4 && name.compare(name.size() - 4, 4, ".npy") == 0) name.resize(name.size() - 4);
        torch = torch || name == "data.pkl" || (name.size() > 9 && name.compare(name.size() - 9, 9, "/data.pkl") == 0);
        auto member = std::make_unique<ZipMember>(
            archive, index, (status.valid & ZIP_STAT_COMP_METHOD) && status.comp_method == ZIP_CM_STORE, name);
        auto header = read_npy_header(*member, name);
        if (!header) {
            info.notes.push_back(header.error().message + ": left out");
            info.left_out.push_back(name);
            continue;
        }
        member->set_start(header->bytes);
        const auto elements = base::shape_elements(header->layout.shape, INT64_MAX / 16);
        if (elements &&
            !size_is_possible(status, *elements * static_cast<int64_t>(element_bytes(header->layout.type)))) {
            return Error{ErrorKind::damaged, name + " of " + path + " is smaller than its shape " +
                                                 base::shape_text(header->layout.shape) + " (half written?)"};
        }
        arrays.push_back({name, header->layout, std::move(member)});
    }
    if (torch) {
        return Error{ErrorKind::unsupported,
                     path +
                         " is a PyTorch file (torch.save): a pickle, which is a program, and is not run. Convert it: "
                         "np.savez('attention.npz', *[a.float().numpy() for a in torch.load('" +
                         path.substr(path.find_last_of('/') + 1) + "')])"};
    }
    if (arrays.empty()) {
        return Error{ErrorKind::unsupported,
                     path + " holds no array of attention" + (info.notes.empty() ? "" : ": " + info.notes.front())};
    }
    return plan_arrays(std::move(info), std::move(arrays), options);
}

} // namespace attnscope::formats
