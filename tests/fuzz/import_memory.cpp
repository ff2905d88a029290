// Arrays that a program holds, as Python hands them over: types, shapes and parts that need not agree.
#include "import_file.h"

#include <vector>

using namespace attnscope;

namespace {

// What the bytes say, one after the other; 0 behind the last.
struct Bytes {
    const uint8_t* at;
    const uint8_t* end;
    uint8_t next() { return at < end ? *at++ : 0; }
};

constexpr const char* types[] = {"float32", "float16", "bfloat16", "float64",  "int8",
                                 "uint8",   "int64",   "bool",     "complex64"};
constexpr const char* axes[] = {
    "", "", "", "", "token,layer,head,column", "layer,head,query,key", "head,query,key", "token,layer", "x"};

} // namespace

// Two bytes of options, then for each array: type, parts, the number of axes, the axes; the rest is shared out.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Bytes in{data, data + size};
    const int n_arrays = 1 + in.next() % 4;
    CaptureOptions options;
    options.axes = axes[in.next() % std::size(axes)];
    std::vector<MemoryArray> arrays;
    std::vector<int> n_parts;
    for (int i = 0; i < n_arrays; ++i) {
        MemoryArray array;
        array.name = "x" + std::to_string(i);
        array.type = types[in.next() % std::size(types)];
        n_parts.push_back(in.next() % 4);
        for (int n = in.next() % 7; n > 0; --n) {
            const int64_t extent = in.next();
            array.shape.push_back(extent < 250   ? extent
                                  : extent < 253 ? int64_t(1) << (extent - 220)
                                                 : -(extent - 252));
        }
        arrays.push_back(std::move(array));
    }
    size_t left = size_t(in.end - in.at);
    for (int i = 0; i < n_arrays; ++i) {
        size_t own = i + 1 < n_arrays ? left / size_t(n_arrays - i) : left;
        left -= own;
        for (int part = n_parts[size_t(i)]; part >= 0; --part) {
            const size_t now = part > 0 ? own / size_t(part + 1) : own;
            arrays[size_t(i)].parts.emplace_back(in.at, now);
            in.at += now;
            own -= now;
        }
    }
    auto reader = DumpReader::open_arrays(arrays, options);
    if (reader) fuzz::diagnose(**reader);
    return 0;
}
