#include "synthetic.h"

#include <bit>
#include <cstring>
#include <stdexcept>

namespace attnscope::test {

namespace {

uint64_t mix(uint64_t z) { // SplitMix64
    z += 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

// Random bytes whose 16-bit and 32-bit floats, and the 16-bit scales of quantised blocks, are all finite and
// small: every odd byte is the upper half of a half or of a float's exponent.
std::vector<uint8_t> tensor_bytes(size_t n, uint64_t seed) {
    std::vector<uint8_t> bytes(n);
    for (size_t i = 0; i < n; i += 8) {
        const uint64_t word = mix(seed + i) & 0xbb7fbb7fbb7fbb7fULL;
        std::memcpy(bytes.data() + i, &word, std::min<size_t>(8, n - i));
    }
    return bytes;
}

} // namespace

Geometry uniform_geometry(const Shape& shape) {
    Geometry geometry;
    for (int32_t i = 0; i < shape.n_layer; ++i) {
        LayerInfo layer;
        layer.layer = i;
        layer.n_head = shape.n_head;
        layer.n_head_kv = shape.n_head_kv;
        layer.head_dim = layer.head_dim_v = shape.head_dim;
        layer.q_type = shape.q_type;
        layer.k_type = shape.k_type;
        layer.k_layer = i;
        layer.scale = 0.125f;
        geometry.layers.push_back(layer);
    }
    return geometry;
}

Geometry mixed_geometry() {
    Geometry geometry = uniform_geometry({.n_layer = 7, .n_head = 4, .n_head_kv = 2, .head_dim = 32});
    geometry.n_mask_groups = 2;
    auto& layers = geometry.layers;
    layers[0] = LayerInfo{};
    layers[0].absent = "recurrent: \"no\" attention, keine \xc3\x9c"
                       "berraschung";
    layers[1].q_type = layers[1].k_type = DType::q8_0;
    layers[2].mask_group = 1;
    layers[2].softcap = 30.0f;
    layers[3].k_layer = 2;
    layers[3].scale = 0.1f;
    layers[4].sinks = {0.25f, -1.5f, 0.1f, 3.0f};
    layers[4].q_type = layers[4].k_type = DType::f32;
    layers[5].max_bias = 8.0f;
    layers[4].on_device = true;
    layers[5].n_head = 6;
    layers[5].n_head_kv = 3;
    layers[6].k_layer = 2;
    layers[6].mask_group = 1;
    return geometry;
}

Geometry smollm2_geometry() {
    return uniform_geometry({.n_layer = 30, .n_head = 9, .n_head_kv = 3, .head_dim = 64});
}

Geometry qwen_7b_geometry() {
    return uniform_geometry({.n_layer = 28, .n_head = 28, .n_head_kv = 4, .head_dim = 128});
}

Frame make_frame(const Geometry& geometry, int64_t index, uint64_t seed) {
    const uint64_t base = mix(seed) + static_cast<uint64_t>(index) * 1000003;
    Frame frame;
    frame.index = index;
    frame.token = static_cast<int32_t>(mix(base) % 50);
    frame.position = static_cast<int32_t>(index);
    frame.kind = index < 20 ? FrameKind::prompt : FrameKind::generated;
    frame.batched = index < 20 && index % 4 != 0;
    frame.verdict = static_cast<uint32_t>(mix(base + 1) & 0xff);
    if (index < 20 && index % 3 == 1)
        frame.q.clear();
    else
        frame.q = tensor_bytes(geometry.q_bytes(), base + 2);
    frame.k = tensor_bytes(geometry.k_bytes(), base + 3);
    frame.visible.resize(static_cast<size_t>(geometry.n_mask_groups));
    frame.visible[0] = {{0, index + 1}};
    for (size_t g = 1; g < frame.visible.size(); ++g) {
        // a window of eight, and in every fifth frame a hole
        const int64_t begin = std::max<int64_t>(0, index - 7);
        if (index % 5 == 4)
            frame.visible[g] = {{begin, begin + 2}, {begin + 3, index + 1}};
        else
            frame.visible[g] = {{begin, index + 1}};
    }
    for (int32_t i = 0; i < geometry.n_layer() && index % 2 == 0; ++i) {
        if (!geometry.layers[size_t(i)].captured()) continue;
        frame.witnesses.push_back({i, 1 % geometry.layers[size_t(i)].n_head, 1e-4f, 5e-3f, 1.0f,
                                   static_cast<double>(mix(base + 4)) * 0x1.0p-64});
        if (frame.witnesses.size() == 2) break;
    }
    return frame;
}

Frame make_frame(const Geometry& geometry, const FramePlace& place) {
    Frame frame = make_frame(geometry, place.index, 1 + uint64_t(place.sequence) * 1000);
    frame.sequence = place.sequence;
    return frame;
}

bool same_header(const Frame& a, const Frame& b) {
    const auto same_witness = [](const Witness& x, const Witness& y) {
        return x.layer == y.layer && x.head == y.head &&
               std::bit_cast<uint32_t>(x.error) == std::bit_cast<uint32_t>(y.error) &&
               std::bit_cast<uint32_t>(x.tolerance) == std::bit_cast<uint32_t>(y.tolerance) &&
               std::bit_cast<uint32_t>(x.row_sum) == std::bit_cast<uint32_t>(y.row_sum) &&
               std::bit_cast<uint64_t>(x.fingerprint) == std::bit_cast<uint64_t>(y.fingerprint);
    };
    return a.sequence == b.sequence && a.index == b.index && a.batched == b.batched && a.token == b.token &&
           a.position == b.position && a.kind == b.kind && a.verdict == b.verdict && a.visible == b.visible &&
           std::equal(a.witnesses.begin(), a.witnesses.end(), b.witnesses.begin(), b.witnesses.end(), same_witness);
}

bool same_frame(const Frame& a, const Frame& b) {
    return same_header(a, b) && a.q == b.q && a.k == b.k;
}

RecordingInfo make_info() {
    RecordingInfo info;
    info.created = "2025-01-02T03:04:05Z";
    info.writer = "attnscope 0.1.0";
    info.engine = "llama.cpp 0.5.0";
    info.entry = "interposed";
    info.model.path = "m.gguf";
    info.model.name = "A model";
    info.model.architecture = "llama";
    info.model.description = "llama 1B Q8_0";
    info.model.file_bytes = 123456789012345;
    info.model.sha256 = "00ff";
    info.model.n_layer = 7;
    info.model.n_vocab = 32000;
    info.model.n_ctx_train = 4096;
    info.settings_json = R"({"n_ctx":4096})";
    return info;
}

std::string piece_of(int32_t token) {
    return token == 7 ? std::string("\xe2\x96") : std::string(" p").append(std::to_string(token));
}

void write_recording(const std::string& path, const Geometry& geometry, int64_t n, const WriterOptions& options,
                     bool all_queries) {
    auto writer = RecordingWriter::create(path, make_info(), options);
    if (!writer) throw std::runtime_error(writer.error().message);
    if (auto r = (*writer)->begin(geometry); !r) throw std::runtime_error(r.error().message);
    for (int64_t i = 0; i < n; ++i) {
        Frame frame = make_frame(geometry, i);
        if (all_queries && frame.q.empty()) frame.q = tensor_bytes(geometry.q_bytes(), mix(uint64_t(i)));
        (*writer)->token_text(frame.token, piece_of(frame.token));
        if (auto r = (*writer)->push(std::move(frame)); !r) throw std::runtime_error(r.error().message);
    }
    if (auto r = (*writer)->close(); !r) throw std::runtime_error(r.error().message);
}

} // namespace attnscope::test
