// Raw float32, little-endian, C order; the shape comes from the person who knows it.
#include "formats/array_plan.h"

#include <fmt/format.h>

namespace attnscope::formats {

namespace {

// A file that is smaller than its shape says was cut short, or has another shape: "" where it holds whole tokens, or where no other
// extent of one axis fits the file to the byte.
std::string other_shape(const std::vector<int64_t>& shape, int64_t bytes) {
    const auto all = base::shape_elements(shape, INT64_MAX / 16);
    if (!all || *all == 0 || bytes % int64_t(sizeof(float)) != 0 || shape.size() < 2) return {};
    const int64_t numbers = bytes / int64_t(sizeof(float));
    if (numbers == 0 || numbers >= *all || numbers % (*all / shape[0]) == 0) return {};
    for (size_t i = shape.size(); i-- > 1;) {
        const int64_t others = *all / shape[i];
        if (numbers % others != 0) continue;
        std::vector<int64_t> fits = shape;
        fits[i] = numbers / others;
        return base::shape_text(fits);
    }
    return {};
}

} // namespace

OpenedDump open_raw(const std::string& path, const CaptureOptions& options) {
    auto opened = base::InputFile::open(path);
    if (!opened) return opened.error();
    const auto file = std::make_shared<base::InputFile>(std::move(*opened));
    ArrayLayout layout;
    layout.shape = options.shape;
    const auto elements = base::shape_elements(layout.shape, INT64_MAX / 16);
    DumpInfo info;
    info.path = path;
    info.format = "raw";
    const bool half = elements && *elements * 2 == file->size(), twice = elements && *elements * 8 == file->size();
    if (elements && (*elements * 4 < file->size() || half)) {
        return Error{
            ErrorKind::damaged,
            path + " has " + std::to_string(file->size()) + " bytes; the shape " + base::shape_text(layout.shape) +
                " accounts for " + std::to_string(*elements * 4) + " in float32" +
                (half    ? ": exactly half. If it is float16 or bfloat16, save it with its type: "
                           "np.save('x.npy', np.fromfile('x.bin', np.float16).reshape(...)); if it is float32, half of it "
                           "is missing"
                 : twice ? ": exactly twice. If it is float64, save it with its type: np.save('x.npy', "
                           "np.fromfile('x.bin').reshape(...))"
                         : "")};
    }
    if (const std::string fits = other_shape(layout.shape, file->size()); !fits.empty()) {
        return Error{
            ErrorKind::damaged,
            fmt::format("{} has {} bytes; the shape {} needs {} in float32, and the size does not fit it: {} does",
                        path, file->size(), base::shape_text(layout.shape), *elements * 4, fits)};
    }
    std::vector<StoredArray> arrays;
    arrays.push_back({path.substr(path.find_last_of('/') + 1), layout, file_stretch(file, 0, file->size())});
    CaptureOptions only = options;
    only.array.clear();
    return plan_arrays(std::move(info), std::move(arrays), only);
}

} // namespace attnscope::formats
