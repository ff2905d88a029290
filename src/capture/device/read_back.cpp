#include "capture/device/read_back.h"

#include "capture/graph/host_attention.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace attnscope::capture {

namespace {

constexpr int64_t cells_at_once = 1024; // of values that lie by elements: a few MB

bool fit(const Ranges& cells, int64_t n_cells) {
    return std::all_of(cells.begin(), cells.end(),
                       [&](const Range& r) { return r.begin >= 0 && r.begin < r.end && r.end <= n_cells; });
}

// Cells of `row` bytes, one behind the other.
void read_rows(ggml_backend_t engine, const ggml_tensor* cache, const Ranges& cells, Mirror& mirror) {
    const size_t row = mirror.row_bytes();
    for (const Range& r : cells)
        ggml().backend_tensor_get_async(engine, cache, mirror.row(r.begin), size_t(r.begin) * row,
                                        size_t(r.end - r.begin) * row);
}

// Values whose first elements lie one behind the other, cell by cell, then their second ones.
struct ByElement {
    size_t first = 0;   // of the cache's first stream
    size_t element = 0; // bytes
    size_t next = 0;    // bytes from an element to the next of the same cell
    size_t stream = 0;  // bytes from a stream to the next
    int64_t stream_cells = 0;
};

void read_elements(ggml_backend_t engine, const ggml_tensor* cache, const ByElement& lies, const Range& cells,
                   Mirror& mirror) {
    const size_t n = mirror.row_bytes() / lies.element, bytes = size_t(cells.end - cells.begin) * lies.element;
    const auto stream = size_t(cells.begin / lies.stream_cells), in_stream = size_t(cells.begin % lies.stream_cells);
    const size_t from = lies.first + stream * lies.stream + in_stream * lies.element;
    std::vector<uint8_t> came(n * bytes);
    if (has_strided_transfers()) {
        ggml().backend_tensor_get_2d_async(engine, cache, came.data(), from, bytes, n, lies.next, bytes);
    } else {
        for (size_t i = 0; i < n; ++i)
            ggml().backend_tensor_get_async(engine, cache, came.data() + i * bytes, from + i * lies.next, bytes);
    }
    ggml().backend_synchronize(engine);
    for (int64_t c = cells.begin; c < cells.end; ++c) {
        const uint8_t* element = came.data() + size_t(c - cells.begin) * lies.element;
        uint8_t* row = mirror.row(c);
        for (size_t i = 0; i < n; ++i) std::memcpy(row + i * lies.element, element + i * bytes, lies.element);
    }
}

bool read_values(const AttentionNode& node, ggml_backend_t engine, const Ranges& cells, int64_t n_cells,
                 Mirror& mirror) {
    const ggml_tensor* cache = owner(node.v);
    const HostAttention at = host_attention(node);
    const auto first = static_cast<size_t>(at.v - data(cache));
    if (at.v_dim <= at.v_cell) {
        const bool whole = at.v_cell == mirror.row_bytes() && first == 0 &&
                           (node.cache_streams == 1 || at.v_stream == size_t(node.stream_cells) * at.v_cell);
        if (!whole || size_t(n_cells) * at.v_cell > nbytes(cache)) return false;
        read_rows(engine, cache, cells, mirror);
        return true;
    }
    const int64_t stream_cells = node.cache_streams > 1 ? node.stream_cells : n_cells;
    const ByElement lies{first, at.v_cell, at.v_dim, at.v_stream, stream_cells};
    const size_t n = mirror.row_bytes() / lies.element;
    const size_t end = first + size_t(node.cache_streams - 1) * lies.stream + (n - 1) * lies.next +
                       size_t(stream_cells) * lies.element;
    const bool elements = ggml().blck_size(type(cache)) == 1 && lies.element == ggml().type_size(type(cache));
    if (!elements || at.v_head != size_t(ne(node.v, 1)) * lies.next || end > nbytes(cache)) return false;
    for (const Range& r : cells) {
        for (int64_t c = r.begin; c < r.end;) {
            const int64_t stream_end = (c / stream_cells + 1) * stream_cells;
            const int64_t end_here = std::min({r.end, stream_end, c + cells_at_once});
            read_elements(engine, cache, lies, {c, end_here}, mirror);
            c = end_here;
        }
    }
    return true;
}

} // namespace

bool read_back(const AttentionNode& node, ggml_backend_t engine, const Ranges& cells, Mirrors& mirrors) {
    const auto keys = mirrors.find(node.k_cache);
    if (!engine || keys == mirrors.end() || keys->second.row_bytes() != nb(node.k, 1)) return false;
    const auto n_cells = static_cast<int64_t>(nbytes(node.k_cache) / nb(node.k, 1));
    if (!fit(cells, n_cells)) return false;
    if (const ggml_tensor* v = owner(node.v); v != node.k_cache) {
        const auto values = mirrors.find(v);
        if (values == mirrors.end() || values->second.row_bytes() == 0) return false;
        if (!read_values(node, engine, cells, n_cells, values->second)) return false;
    }
    read_rows(engine, node.k_cache, cells, keys->second);
    ggml().backend_synchronize(engine); // values have come, too
    return true;
}

} // namespace attnscope::capture
