// Raw float32, little-endian, C order; the shape comes from the person who knows it.
#include "formats/array_plan.h"

namespace attnscope::formats {

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
    std::vector<StoredArray> arrays;
    arrays.push_back({path.substr(path.find_last_of('/') + 1), layout, file_stretch(file, 0, file->size())});
    CaptureOptions only = options;
    only.array.clear();
    return plan_arrays(std::move(info), std::move(arrays), only);
}

} // namespace attnscope::formats
