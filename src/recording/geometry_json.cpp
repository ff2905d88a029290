#include "recording/geometry_json.h"
#include "base/bounded_json.h"
#include "recording/codec.h"
#include "recording/schema.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <limits>
#include <set>
#include <utility>

namespace attnscope::recording {

using nlohmann::json;

namespace {

// JSON has no infinities; a float32 survives the way through a decimal double, other values travel as words.
json float_to_json(float value) {
    if (std::isfinite(value)) return static_cast<double>(value);
    return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

std::string dump(const json& value) {
    return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

// Reads members of one object; remembers the first that is missing, of the wrong type or out of range.
class Members {
public:
    explicit Members(const json& object) : object_(object), good_(object.is_object()) {}
    bool good() const { return good_; }

    template <typename T> void integer(const char* key, T& out) {
        const json* v = find(key);
        if (!v) return;
        const auto n = v->is_number_float() ? std::nullopt : base::json_whole(*v);
        if (n && std::in_range<T>(*n))
            out = static_cast<T>(*n);
        else
            good_ = false;
    }

    void type(const char* key, DType& out) {
        int32_t number = 0;
        integer(key, number);
        if (!dtype_known(number))
            good_ = false;
        else
            out = static_cast<DType>(number);
    }

    void real(const char* key, float& out) {
        if (const json* v = find(key)) good_ = to_float(*v, out) && good_;
    }

    void text(const char* key, std::string& out) {
        const json* v = find(key);
        if (v && v->is_string())
            out = v->get_ref<const std::string&>();
        else
            good_ = false;
    }

    void reals(const char* key, std::vector<float>& out, size_t most) {
        const json* v = find(key);
        if (!v || !v->is_array() || v->size() > most) {
            good_ = false;
            return;
        }
        for (const json& item : *v) {
            float value = 0;
            good_ = to_float(item, value) && good_;
            out.push_back(value);
        }
    }

    // Members that nobody asked for: a rule that is not known would give other rows in silence.
    std::string unknown() const {
        if (!object_.is_object()) return {};
        for (const auto& [key, value] : object_.items()) {
            if (!asked_.contains(key)) return key;
        }
        return {};
    }
    bool has(const char* key) {
        asked_.insert(key);
        return object_.is_object() && object_.contains(key);
    }

    // False where it is missing.
    void flag(const char* key, bool& out) {
        asked_.insert(key);
        if (!good_) return;
        const auto it = object_.find(key);
        if (it == object_.end()) return;
        good_ = it->is_boolean();
        if (good_) out = it->get<bool>();
    }

    const json* array(const char* key) {
        const json* v = find(key);
        if (v && v->is_array()) return v;
        good_ = false;
        return nullptr;
    }

private:
    const json* find(const char* key) {
        asked_.insert(key);
        if (!good_) return nullptr;
        const auto it = object_.find(key);
        if (it != object_.end()) return &*it;
        good_ = false;
        return nullptr;
    }

    static bool to_float(const json& v, float& out) {
        if (v.is_number()) {
            const double number = v.get<double>();
            if (std::abs(number) > static_cast<double>(std::numeric_limits<float>::max())) return false;
            out = static_cast<float>(number);
            return true;
        }
        if (v == "nan")
            out = std::numeric_limits<float>::quiet_NaN();
        else if (v == "inf")
            out = std::numeric_limits<float>::infinity();
        else if (v == "-inf")
            out = -std::numeric_limits<float>::infinity();
        else
            return false;
        return true;
    }

    const json& object_;
    bool good_;
    std::set<std::string, std::less<>> asked_;
};

std::optional<LayerInfo> layer_from_json(const json& object, std::string& unknown) {
    LayerInfo layer;
    Members m(object);
    m.integer("layer", layer.layer);
    m.integer("n_head", layer.n_head);
    m.integer("n_head_kv", layer.n_head_kv);
    m.integer("head_dim", layer.head_dim);
    m.integer("head_dim_v", layer.head_dim_v);
    m.type("q_type", layer.q_type);
    m.type("k_type", layer.k_type);
    m.integer("k_layer", layer.k_layer);
    m.integer("mask_group", layer.mask_group);
    m.real("scale", layer.scale);
    m.real("softcap", layer.softcap);
    m.real("post_scale", layer.post_scale);
    m.real("max_bias", layer.max_bias);
    m.reals("sinks", layer.sinks, max_heads);
    m.text("absent", layer.absent);
    m.flag("on_device", layer.on_device);
    bool may_narrow = false; // follows from the types; readers that do not know it must refuse the file
    m.flag("f16_queries", may_narrow);
    if (m.has("key_source")) {
        int32_t source = 0;
        m.integer("key_source", source);
        layer.key_source = static_cast<KeySource>(source);
    }
    if (m.has("role")) {
        int32_t role = 0;
        m.integer("role", role);
        layer.role = static_cast<LayerRole>(role);
    }
    if (m.has("bias")) {
        m.integer("bias_reach", layer.bias_reach);
        m.reals("bias", layer.bias, max_bias_floats);
    }
    if (!m.good()) return std::nullopt;
    if (unknown.empty()) unknown = m.unknown();
    return layer;
}

std::string layer_problem(const LayerInfo& layer, const Geometry& geometry) {
    if (layer.layer < 0 || layer.layer > 1 << 20) return "its number is out of bounds";
    if (layer.n_head < 0 || layer.n_head > max_heads || layer.n_head_kv < 0 || layer.n_head_kv > max_heads) {
        return "its numbers of heads are out of bounds";
    }
    if (layer.head_dim < 0 || layer.head_dim > max_head_dim || layer.head_dim_v < 0 ||
        layer.head_dim_v > max_head_dim) {
        return "its head sizes are out of bounds";
    }
    if (!layer.captured()) return {};
    if (layer.n_head == 0 || layer.n_head_kv == 0 || layer.head_dim == 0) return "it is captured but empty";
    if (layer.n_head % layer.n_head_kv != 0) return "its KV heads do not divide its query heads";
    if (!dtype_known(static_cast<int32_t>(layer.q_type)) || !dtype_known(static_cast<int32_t>(layer.k_type))) {
        return "its element type is unknown";
    }
    if (layer.head_dim % dtype_block(layer.q_type) != 0 || layer.head_dim % dtype_block(layer.k_type) != 0) {
        return "its head size is no multiple of its types' blocks";
    }
    if (layer.mask_group < 0 || layer.mask_group >= geometry.n_mask_groups) return "its mask group does not exist";
    if (!layer.sinks.empty() && layer.sinks.size() != static_cast<size_t>(layer.n_head)) {
        return "it has not one sink a query head";
    }
    if (layer.key_source != KeySource::cache && layer.key_source != KeySource::graph &&
        layer.key_source != KeySource::sequence) {
        return "where its keys come from is unknown";
    }
    if (layer.key_source == KeySource::sequence) return "its keys are another sequence's, which cannot be recorded yet";
    if (layer.role < LayerRole::every || layer.role > LayerRole::cross) return "which tokens it is of is unknown";
    if (layer.bias_reach < 0 || layer.bias_reach > max_bias_reach ||
        layer.bias.size() != (layer.bias.empty() ? 0 : size_t(layer.n_head) * (2 * size_t(layer.bias_reach) + 1))) {
        return "its added bias is no table of its heads and distances";
    }
    if (layer.k_layer < 0 || layer.k_layer >= geometry.n_layer()) return "the layer whose keys it uses does not exist";
    const LayerInfo& owner = geometry.layers[size_t(layer.k_layer)];
    if (!geometry.owns_k(layer.k_layer)) return "the layer whose keys it uses has none";
    if (owner.n_head_kv != layer.n_head_kv || owner.head_dim != layer.head_dim || owner.k_type != layer.k_type) {
        return "the layer whose keys it uses has keys of another shape";
    }
    return {};
}

} // namespace

std::string geometry_to_json(const Geometry& geometry) {
    json layers = json::array();
    for (const LayerInfo& layer : geometry.layers) {
        json sinks = json::array();
        for (const float s : layer.sinks) sinks.push_back(float_to_json(s));
        layers.push_back({{"layer", layer.layer},
                          {"n_head", layer.n_head},
                          {"n_head_kv", layer.n_head_kv},
                          {"head_dim", layer.head_dim},
                          {"head_dim_v", layer.head_dim_v},
                          {"q_type", static_cast<int32_t>(layer.q_type)},
                          {"k_type", static_cast<int32_t>(layer.k_type)},
                          {"k_layer", layer.k_layer},
                          {"mask_group", layer.mask_group},
                          {"scale", float_to_json(layer.scale)},
                          {"softcap", float_to_json(layer.softcap)},
                          {"post_scale", float_to_json(layer.post_scale)},
                          {"max_bias", float_to_json(layer.max_bias)},
                          {"sinks", std::move(sinks)},
                          {"absent", layer.absent}});
        if (layer.on_device) layers.back()["on_device"] = true;
        if (queries_may_narrow(layer)) layers.back()["f16_queries"] = true;
        if (layer.key_source != KeySource::cache) layers.back()["key_source"] = static_cast<int32_t>(layer.key_source);
        if (layer.role != LayerRole::every) layers.back()["role"] = static_cast<int32_t>(layer.role);
        if (!layer.bias.empty()) {
            layers.back()["bias_reach"] = layer.bias_reach;
            json& bias = layers.back()["bias"] = json::array();
            for (const float b : layer.bias) bias.push_back(float_to_json(b));
        }
    }
    return dump({{"n_mask_groups", geometry.n_mask_groups}, {"layers", std::move(layers)}});
}

std::optional<Geometry> geometry_from_json(const std::string& text, std::string& unknown) {
    const json root = json::parse(text, nullptr, false);
    Geometry geometry;
    Members m(root);
    m.integer("n_mask_groups", geometry.n_mask_groups);
    const json* layers = m.array("layers");
    if (!layers || layers->size() > size_t(max_layers)) return std::nullopt;
    for (const json& object : *layers) {
        auto layer = layer_from_json(object, unknown);
        if (!layer) return std::nullopt;
        geometry.layers.push_back(std::move(*layer));
    }
    if (!m.good()) return std::nullopt;
    if (unknown.empty()) unknown = m.unknown();
    return geometry;
}

std::string geometry_problem(const Geometry& geometry) {
    if (geometry.layers.empty()) return "it has no layers";
    if (geometry.n_layer() > max_layers) return fmt::format("it has {} layers", geometry.layers.size());
    if (geometry.n_mask_groups < 1 || geometry.n_mask_groups > max_mask_groups) {
        return fmt::format("it has {} mask groups", geometry.n_mask_groups);
    }
    // each layer alone is below 2^12 heads * 2^14 elements * 4 bytes, so 2^12 layers cannot overflow 64 bits
    size_t q = 0;
    size_t k = 0;
    for (int32_t i = 0; i < geometry.n_layer(); ++i) {
        const LayerInfo& layer = geometry.layers[size_t(i)];
        const std::string problem = layer_problem(layer, geometry);
        if (!problem.empty()) return fmt::format("layer {}: {}", i, problem);
        q += layer.q_bytes();
        k += geometry.owns_k(i) ? layer.k_bytes() : 0;
    }
    if (q > max_frame_bytes || k > max_frame_bytes) {
        return fmt::format("a frame would take {} bytes of Q and {} of K", q, k);
    }
    return {};
}

std::string model_to_json(const ModelIdentity& model) {
    return dump({{"path", model.path},
                 {"name", model.name},
                 {"architecture", model.architecture},
                 {"description", model.description},
                 {"file_bytes", model.file_bytes},
                 {"sha256", model.sha256},
                 {"n_layer", model.n_layer},
                 {"n_vocab", model.n_vocab},
                 {"n_ctx_train", model.n_ctx_train}});
}

std::optional<ModelIdentity> model_from_json(const std::string& text) {
    const json root = json::parse(text, nullptr, false);
    ModelIdentity model;
    Members m(root);
    m.text("path", model.path);
    m.text("name", model.name);
    m.text("architecture", model.architecture);
    m.text("description", model.description);
    m.integer("file_bytes", model.file_bytes);
    m.text("sha256", model.sha256);
    m.integer("n_layer", model.n_layer);
    m.integer("n_vocab", model.n_vocab);
    m.integer("n_ctx_train", model.n_ctx_train);
    if (!m.good()) return std::nullopt;
    return model;
}

} // namespace attnscope::recording
