// Raw float32, little-endian, C order; the shape comes from the person who knows it.
#include "formats/array_tokens.h"
#include "formats/importers.h"

namespace attnscope {

OpenedCapture open_raw(const std::string& path, const CaptureOptions& options) {
    auto opened = base::InputFile::open(path);
    if (!opened) return opened.error();
    const auto file = std::make_shared<base::InputFile>(std::move(*opened));
    ArrayLayout layout;
    layout.shape = options.shape;
    const auto elements = base::shape_elements(layout.shape, INT64_MAX / 8);
    CaptureInfo info;
    info.path = path;
    info.format = "raw";
    info.storage = "float32";
    if (elements && *elements * 4 < file->size()) {
        return Error{ErrorKind::damaged, path + " has " + std::to_string(file->size()) +
                                             " bytes; the shape " + base::shape_text(layout.shape) +
                                             " accounts for " + std::to_string(*elements * 4)};
    }
    auto tokens = ArrayTokens::make(file_stretch(file, 0, file->size()), layout, path);
    if (!tokens) return tokens.error();
    std::vector<NamedArray> arrays;
    arrays.push_back({path.substr(path.find_last_of('/') + 1), std::move(*tokens)});
    return read_arrays(std::move(info), std::move(arrays));
}

} // namespace attnscope
