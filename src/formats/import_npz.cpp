// .npz: a ZIP archive of .npy members, stored or deflated. libzip reads the archive; members are streamed.
#include "formats/importers.h"
#include "formats/npy_header.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include <zip.h>

namespace attnscope {

namespace {

using Archive = std::shared_ptr<zip_t>;

class ZipMember final : public base::ByteStream {
public:
    ZipMember(Archive archive, zip_uint64_t index, std::string name)
        : archive_(std::move(archive)), index_(index), name_(std::move(name)) {}

    // Where the elements begin: rewind() returns there.
    void set_start(int64_t bytes) { start_ = bytes; }

    Result<void> rewind() override {
        member_.reset(zip_fopen_index(archive_.get(), index_, 0));
        if (!member_) {
            return Error{ErrorKind::damaged, "cannot open " + name_ + ": " + zip_strerror(archive_.get())};
        }
        char skipped[256];
        for (int64_t left = start_; left > 0;) {
            const size_t n = static_cast<size_t>(std::min<int64_t>(left, sizeof skipped));
            if (auto done = read_on(skipped, n); !done) return done;
            left -= static_cast<int64_t>(n);
        }
        return {};
    }

    Result<void> read(void* out, size_t n) override {
        if (!member_) {
            if (auto done = rewind(); !done) return done;
        }
        return read_on(out, n);
    }

private:
    Result<void> read_on(void* out, size_t n) {
        char* at = static_cast<char*>(out);
        while (n > 0) {
            const zip_int64_t got = zip_fread(member_.get(), at, n);
            if (got < 0) return Error{ErrorKind::damaged, name_ + ": " + zip_file_strerror(member_.get())};
            if (got == 0) return Error{ErrorKind::damaged, name_ + " ends before its array does"};
            at += got;
            n -= static_cast<size_t>(got);
        }
        return {};
    }

    struct Close {
        void operator()(zip_file_t* member) const { zip_fclose(member); }
    };
    Archive archive_;
    zip_uint64_t index_;
    std::string name_;
    int64_t start_ = 0;
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

OpenedCapture open_npz(const std::string& path, const CaptureOptions& options) {
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
        std::string message = "cannot read the archive " + path + ": " + zip_error_strerror(&error);
        zip_error_fini(&error);
        return Error{ErrorKind::damaged, std::move(message)};
    }
    CaptureInfo info;
    info.path = path;
    info.format = "npz";
    std::vector<NamedArray> arrays;
    const zip_int64_t n_members = zip_get_num_entries(archive.get(), 0);
    for (zip_int64_t i = 0; i < n_members; ++i) {
        const auto index = static_cast<zip_uint64_t>(i);
        zip_stat_t status;
        zip_stat_init(&status);
        if (zip_stat_index(archive.get(), index, 0, &status) != 0 || !(status.valid & ZIP_STAT_NAME))
            continue;
        std::string name = std::string(status.name).substr(0, 128);
        if (name.size() > 4 && name.compare(name.size() - 4, 4, ".npy") == 0) name.resize(name.size() - 4);
        if (!options.array.empty() && name != options.array) continue;
        auto member = std::make_unique<ZipMember>(archive, index, name);
        auto header = read_npy_header(*member, name);
        if (!header) {
            info.notes.push_back(header.error().message + ": left out");
            continue;
        }
        member->set_start(header->bytes);
        const auto elements = base::shape_elements(header->layout.shape, INT64_MAX / 16);
        if (elements &&
            !size_is_possible(status, *elements * static_cast<int64_t>(element_bytes(header->layout.type)))) {
            return Error{ErrorKind::damaged, name + " of " + path + " is smaller than its shape " +
                                                 base::shape_text(header->layout.shape) + " (half written?)"};
        }
        auto tokens = ArrayTokens::make(std::move(member), header->layout, name);
        if (!tokens) {
            info.notes.push_back(tokens.error().message + ": left out");
            continue;
        }
        info.storage = element_name(header->layout.type);
        arrays.push_back({name, std::move(*tokens)});
    }
    if (arrays.empty()) {
        return Error{ErrorKind::unsupported, path + " holds no array of attention" +
                                                 (info.notes.empty() ? "" : ": " + info.notes.front())};
    }
    std::sort(arrays.begin(), arrays.end(),
              [](const NamedArray& a, const NamedArray& b) { return natural_less(a.name, b.name); });
    return read_arrays(std::move(info), std::move(arrays));
}

} // namespace attnscope
