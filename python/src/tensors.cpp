#include "tensors.h"

#include "errors.h"
#include "rows_block.h"

#include <ggml.h>

#include <algorithm>
#include <cstring>

namespace nb = nanobind;

namespace attnscope::python {

namespace {

// `n` elements that begin at `from`; a multiple of the type's block.
void to_float(DType type, const uint8_t* from, float* to, int64_t n) {
    if (type == DType::f32) {
        std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
        return;
    }
    ggml_get_type_traits(static_cast<ggml_type>(type))->to_float(from, to, n);
}

const LayerInfo& captured(const RecordingInfo& info, const std::string& path, int32_t layer) {
    if (layer < 0 || layer >= info.geometry.n_layer())
        throw Failure{{ErrorKind::not_found, path + " has no layer " + std::to_string(layer)}};
    const LayerInfo& l = info.geometry.layers[size_t(layer)];
    if (!l.captured())
        throw Failure{{ErrorKind::unsupported, "layer " + std::to_string(layer) + " has no attention: " + l.absent}};
    return l;
}

void require_to_float(DType type, const char* what) {
    if (type == DType::f32 || ggml_get_type_traits(static_cast<ggml_type>(type))->to_float) return;
    throw Failure{{ErrorKind::unsupported, std::string(what) + " in " + dtype_name(type) +
                                               " cannot be turned into numbers: the engine only "
                                               "multiplies with it"}};
}

} // namespace

Array<float> layer_keys(RecordingPool& pool, int32_t layer) {
    std::vector<float> floats;
    const auto info = pool.info();
    const LayerInfo& l = captured(*info, pool.path(), layer);
    const LayerInfo& own = info->geometry.layers[size_t(l.k_layer)];
    const auto n = static_cast<size_t>(info->n_frames);
    const auto heads = static_cast<size_t>(own.n_head_kv);
    const auto dim = static_cast<size_t>(own.head_dim);
    {
        const nb::gil_scoped_release unlocked;
        require_to_float(own.k_type, "keys");
        const std::vector<uint8_t> bytes = value(pool.lease()->keys(l.k_layer, 0, info->n_frames));
        floats.resize(n * heads * dim);
        if (!floats.empty()) to_float(own.k_type, bytes.data(), floats.data(), static_cast<int64_t>(floats.size()));
    }
    return array(std::move(floats), {n, heads, dim});
}

Array<float> layer_queries(RecordingPool& pool, int32_t layer, const std::vector<int64_t>& tokens) {
    std::vector<float> floats;
    const auto info = pool.info();
    const LayerInfo& l = captured(*info, pool.path(), layer);
    const auto heads = static_cast<size_t>(l.n_head);
    const auto dim = static_cast<size_t>(l.head_dim);
    {
        const nb::gil_scoped_release unlocked;
        require_to_float(l.q_type, "queries");
        floats.resize(tokens.size() * heads * dim);
        in_parallel(tokens.size(), [&](size_t i) {
            const Frame frame = value(pool.lease()->frame(tokens[i], true));
            if (frame.q.empty()) {
                throw Failure{{ErrorKind::not_found, "token " + std::to_string(tokens[i]) + " of " + pool.path() +
                                                         " was recorded without its queries"}};
            }
            to_float(l.q_type, frame.q.data() + info->geometry.q_offset(layer), floats.data() + i * heads * dim,
                     int64_t(heads * dim));
        });
    }
    return array(std::move(floats), {tokens.size(), heads, dim});
}

} // namespace attnscope::python
