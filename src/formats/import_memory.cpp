// Arrays that a program holds: the same reading as of a file's.
#include "base/bounded_json.h"
#include "formats/array_plan.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

namespace attnscope {

using namespace formats;

namespace {

class MemoryParts final : public base::ByteStream {
public:
    explicit MemoryParts(std::vector<std::span<const uint8_t>> parts) : parts_(std::move(parts)) {
        for (const auto& part : parts_) ends_.push_back((ends_.empty() ? 0 : ends_.back()) + int64_t(part.size()));
    }
    Result<void> seek(int64_t offset) override {
        at_ = offset;
        return {};
    }
    Result<void> read(void* out, size_t n) override {
        auto* to = static_cast<uint8_t*>(out);
        while (n > 0) {
            const auto end = std::upper_bound(ends_.begin(), ends_.end(), at_);
            if (end == ends_.end()) return Error{ErrorKind::damaged, "the array ends before its shape does"};
            const std::span<const uint8_t> part = parts_[size_t(end - ends_.begin())];
            const size_t now = std::min(n, size_t(*end - at_));
            std::memcpy(to, part.data() + (part.size() - size_t(*end - at_)), now);
            to += now;
            at_ += int64_t(now);
            n -= now;
        }
        return {};
    }

private:
    std::vector<std::span<const uint8_t>> parts_;
    std::vector<int64_t> ends_;
    int64_t at_ = 0;
};

bool element_type(const std::string& name, ElementType& type) {
    for (int t = 0; t <= int(ElementType::boolean); ++t) {
        type = static_cast<ElementType>(t);
        if (name == element_name(type)) return true;
    }
    return false;
}

// As many bytes as the shape needs: what is read is as large as the shape says.
Result<void> check_bytes(const MemoryArray& array, size_t element) {
    int64_t here = 0;
    for (const auto& part : array.parts) here += int64_t(part.size());
    int64_t left = here / int64_t(element); // elements that are there, shared out among the axes
    for (const int64_t extent : array.shape) {
        if (extent == 0) return {}; // nothing to read
        left = extent < 0 ? 0 : left / extent;
    }
    if (left > 0) return {};
    return Error{ErrorKind::damaged, array.name + " of shape " + base::shape_text(array.shape) + " and type " +
                                         array.type + " has only " + std::to_string(here) + " bytes"};
}

} // namespace

Result<std::unique_ptr<DumpReader>> DumpReader::open_arrays(const std::vector<MemoryArray>& arrays,
                                                            const CaptureOptions& options) {
    DumpInfo info;
    info.path = arrays.size() == 1 ? arrays.front().name : "the list";
    info.format = "arrays";
    std::vector<StoredArray> stored;
    for (const MemoryArray& array : arrays) {
        ArrayLayout layout;
        layout.shape = array.shape;
        if (!element_type(array.type, layout.type))
            return Error{ErrorKind::unsupported, array.name + " holds " + array.type + ": weights are floats"};
        if (Result<void> r = check_bytes(array, element_bytes(layout.type)); !r) return r.error();
        stored.push_back({array.name, std::move(layout), std::make_unique<MemoryParts>(array.parts)});
    }
    return plan_arrays(std::move(info), std::move(stored), options);
}

} // namespace attnscope
