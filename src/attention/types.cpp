#include <attnscope/error.h>
#include <attnscope/types.h>

#include <algorithm>

namespace attnscope {

void throw_no_value(const Error& error) {
    throw std::logic_error("the value of a Result was taken that is an error: " + error.message);
}

void throw_no_error() {
    throw std::logic_error("the error of a Result was taken that is none");
}

const char* error_kind_name(ErrorKind kind) {
    switch (kind) {
    case ErrorKind::invalid_argument: return "invalid_argument";
    case ErrorKind::not_found: return "not_found";
    case ErrorKind::io: return "io";
    case ErrorKind::not_ours: return "not_ours";
    case ErrorKind::too_new: return "too_new";
    case ErrorKind::damaged: return "damaged";
    case ErrorKind::unsupported: return "unsupported";
    case ErrorKind::engine: return "engine";
    }
    return "unknown";
}

namespace {

struct TypeRow {
    DType type;
    const char* name;
    int32_t block;
    size_t bytes; // of a block
};

// Block sizes as in ggml-common.h.
constexpr TypeRow type_rows[] = {
    {DType::f32, "f32", 1, 4},         {DType::f16, "f16", 1, 2},     {DType::bf16, "bf16", 1, 2},
    {DType::q4_0, "q4_0", 32, 18},     {DType::q4_1, "q4_1", 32, 20}, {DType::q5_0, "q5_0", 32, 22},
    {DType::q5_1, "q5_1", 32, 24},     {DType::q8_0, "q8_0", 32, 34}, {DType::q8_1, "q8_1", 32, 36},
    {DType::iq4_nl, "iq4_nl", 32, 18},
};

const TypeRow* find(DType type) {
    for (const TypeRow& row : type_rows) {
        if (row.type == type) return &row;
    }
    return nullptr;
}

} // namespace

const char* dtype_name(DType type) {
    const TypeRow* row = find(type);
    return row ? row->name : "?";
}

bool dtype_known(int32_t number) {
    return find(static_cast<DType>(number)) != nullptr;
}

int32_t dtype_block(DType type) {
    const TypeRow* row = find(type);
    return row ? row->block : 1;
}

size_t dtype_row_bytes(DType type, int64_t elements) {
    const TypeRow* row = find(type);
    if (!row || elements < 0) return 0;
    return static_cast<size_t>(elements / row->block) * row->bytes;
}

const char* key_source_name(KeySource source) {
    switch (source) {
    case KeySource::cache: return "cache";
    case KeySource::graph: return "graph";
    case KeySource::sequence: return "sequence";
    }
    return "?";
}

const char* layer_role_name(LayerRole role) {
    switch (role) {
    case LayerRole::every: return "";
    case LayerRole::encoder: return "encoder";
    case LayerRole::decoder: return "decoder";
    case LayerRole::cross: return "cross";
    }
    return "?";
}

size_t Geometry::q_bytes() const {
    size_t n = 0;
    for (const LayerInfo& layer : layers) n += layer.q_bytes();
    return n;
}

size_t Geometry::k_bytes() const {
    return k_offset(n_layer());
}

size_t Geometry::q_offset(int32_t i) const {
    size_t n = 0;
    for (int32_t j = 0; j < i; ++j) n += layers[size_t(j)].q_bytes();
    return n;
}

size_t Geometry::k_offset(int32_t i) const {
    size_t n = 0;
    for (int32_t j = 0; j < i; ++j) {
        if (owns_k(j)) n += layers[size_t(j)].k_bytes();
    }
    return n;
}

int64_t Geometry::n_rows() const {
    int64_t n = 0;
    for (const LayerInfo& layer : layers) n += layer.captured() ? layer.n_head : 0;
    return n;
}

int32_t Geometry::max_heads() const {
    int32_t n = 0;
    for (const LayerInfo& layer : layers) n = std::max(n, layer.captured() ? layer.n_head : 0);
    return n;
}

int64_t ranges_count(const Ranges& ranges) {
    int64_t n = 0;
    for (const Range& r : ranges) n += r.end - r.begin;
    return n;
}

std::string verdict_text(uint32_t bits) {
    struct Name {
        uint32_t bit;
        const char* text;
    };
    static constexpr Name names[] = {
        {verdict_not_finite, "not finite"},
        {verdict_witness_failed, "witness failed"},
        {verdict_row_sum, "row sum"},
        {verdict_layers_equal, "layers equal"},
        {verdict_stale, "previous frame again"},
        {verdict_no_witness, "no witness"},
        {verdict_fingerprint, "fingerprint differs"},
        {verdict_checksum, "checksum differs"},
    };
    if (bits == verdict_ok) return "ok";
    std::string text;
    for (const Name& name : names) {
        if (bits & name.bit) {
            if (!text.empty()) text += ", ";
            text += name.text;
        }
    }
    return text;
}

} // namespace attnscope
