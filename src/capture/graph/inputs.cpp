#include "capture/graph/inputs.h"

#include "base/parallel_for.h"
#include "capture/graph/ggml_abi.h"

#include <algorithm>

namespace attnscope::capture {

const Inputs::Copy* Inputs::find(const ggml_tensor* t) const {
    for (size_t i = 0; i < used_; ++i) {
        if (copies_[i].tensor == t) return &copies_[i];
    }
    return nullptr;
}

Inputs::Copy* Inputs::add(const ggml_tensor* t) {
    if (find(t)) return nullptr;
    if (used_ == copies_.size()) copies_.emplace_back();
    Copy& copy = copies_[used_++];
    copy.tensor = t;
    return &copy;
}

void Inputs::keep(const ggml_tensor* t) {
    Copy* copy = add(t);
    if (!copy) return;
    copy->bytes.resize(nbytes(t));
    ggml().backend_tensor_get(t, copy->bytes.data(), 0, copy->bytes.size());
}

const uint8_t* Inputs::data(const ggml_tensor* t) const {
    const Copy* copy = find(t);
    return copy ? copy->bytes.data() : nullptr;
}

void Inputs::keep_mask(const ggml_tensor* mask, int64_t n_query) {
    Copy* copy = add(mask);
    if (!copy) return;
    copy->rows.resize(size_t(n_query));
    const int64_t n_stream = std::max<int64_t>(ne(mask, 3), 1);
    if (n_stream > 1) return see_streams(*copy, mask, n_query / n_stream);
    n_query = std::min(n_query, ne(mask, 1));
    constexpr size_t piece_bytes = size_t(256) << 10; // stays in a core's cache
    const int64_t at_once = std::max<int64_t>(1, static_cast<int64_t>(piece_bytes / nb(mask, 1)));
    const auto see = [&](int64_t first, const uint8_t* data) {
        const int64_t n = std::min(at_once, n_query - first);
        for (int64_t i = 0; i < n; ++i) copy->rows[size_t(first + i)] = visible_cells(mask, data, i);
    };
    if (is_host(mask)) { // of a prompt far into a context: tens of megabytes
        const uint8_t* const rows = capture::data(mask);
        base::parallel_for(size_t((n_query + at_once - 1) / at_once), [&](size_t part) {
            const int64_t first = static_cast<int64_t>(part) * at_once;
            see(first, rows + size_t(first) * nb(mask, 1));
        });
        return;
    }
    for (int64_t first = 0; first < n_query; first += at_once) {
        copy->bytes.resize(size_t(std::min(at_once, n_query - first)) * nb(mask, 1));
        ggml().backend_tensor_get(mask, copy->bytes.data(), size_t(first) * nb(mask, 1), copy->bytes.size());
        see(first, copy->bytes.data());
    }
}

// (n_kv, n_query, 1, n_stream): the rows of each stream one behind the other.
void Inputs::see_streams(Copy& copy, const ggml_tensor* mask, int64_t stream_tokens) {
    const uint8_t* all = capture::data(mask);
    if (!is_host(mask)) {
        copy.bytes.resize(nbytes(mask));
        ggml().backend_tensor_get(mask, copy.bytes.data(), 0, copy.bytes.size());
        all = copy.bytes.data();
    }
    for (int64_t i = 0; i < static_cast<int64_t>(copy.rows.size()); ++i) {
        const int64_t stream = i / stream_tokens;
        if (stream >= ne(mask, 3) || i % stream_tokens >= ne(mask, 1)) continue;
        const uint8_t* rows = all + size_t(stream) * nb(mask, 3);
        copy.rows[size_t(i)] = visible_cells(mask, rows, i % stream_tokens);
    }
}

const Ranges& Inputs::visible(const ggml_tensor* mask, int64_t row) const {
    return find(mask)->rows[size_t(row)];
}

bool inputs_stay(ggml_cgraph* graph, bool (*on_host)(const ggml_tensor*)) {
    bool device = false;
    const int n_nodes = ggml().graph_n_nodes(graph);
    ggml_tensor** const nodes = ggml().graph_nodes(graph);
    for (int i = 0; i < n_nodes; ++i) {
        const ggml_tensor* node = nodes[i];
        const bool computes = op(node) != Op::none && op(node) != Op::view && op(node) != Op::reshape &&
                              op(node) != Op::permute && op(node) != Op::transpose;
        if (!computes) continue;
        if (!on_host(node))
            device = true;
        else if (device)
            return false;
    }
    return device;
}

} // namespace attnscope::capture
