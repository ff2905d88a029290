#include "bindings.h"

#include <attnscope/types.h>

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;

namespace attnscope::python {

void bind_geometry(nb::module_& m) {
    nb::class_<LayerInfo>(m, "LayerInfo",
                          "One layer of a model: its geometry, or the reason why it has no attention to show.")
        .def_ro("layer", &LayerInfo::layer, "The model's number of this layer.")
        .def_ro("n_head", &LayerInfo::n_head, "Query heads; 0 where the layer has no attention.")
        .def_ro("n_head_kv", &LayerInfo::n_head_kv, "KV heads; each serves n_head / n_head_kv query heads.")
        .def_ro("head_dim", &LayerInfo::head_dim, "Elements of one head of Q and of K.")
        .def_ro("head_dim_v", &LayerInfo::head_dim_v, "Elements of one head of V.")
        .def_prop_ro(
            "q_type", [](const LayerInfo& l) { return dtype_name(l.q_type); },
            "Element type of Q: 'f16', 'f32', 'q8_0', ...")
        .def_prop_ro(
            "k_type", [](const LayerInfo& l) { return dtype_name(l.k_type); }, "Element type of K in the cache.")
        .def_ro("k_layer", &LayerInfo::k_layer, "The layer whose keys are used: itself, unless layers share them.")
        .def_ro("mask_group", &LayerInfo::mask_group,
                "Layers of one number see the same columns; sliding windows have their own.")
        .def_ro("scale", &LayerInfo::scale, "score = scale * q.k, then softcap, then post_scale.")
        .def_ro("softcap", &LayerInfo::softcap, "c in c * tanh(score / c) (Gemma 2); 0: none.")
        .def_ro("post_scale", &LayerInfo::post_scale)
        .def_ro("max_bias", &LayerInfo::max_bias, "ALiBi (Press et al. 2022); 0: none.")
        .def_ro("on_device", &LayerInfo::on_device, "A GPU or another machine computed this layer.")
        .def_ro("sinks", &LayerInfo::sinks,
                "Learned sink logits, one a query head, that only join the denominator; empty: none.")
        .def_ro("absent", &LayerInfo::absent, "Why there is nothing to see here, in words; empty: there is.")
        .def_prop_ro(
            "role", [](const LayerInfo& l) { return std::string(layer_role_name(l.role)); },
            "Whose rows it has: '' every token's; of an encoder with a decoder 'encoder', 'decoder' or 'cross'.")
        .def_prop_ro("captured", &LayerInfo::captured, "Has this layer attention in the recording?")
        .def("__repr__", [](const LayerInfo& l) {
            if (!l.captured()) return "<layer " + std::to_string(l.layer) + ": " + l.absent + ">";
            return "<layer " + std::to_string(l.layer) + ": " + std::to_string(l.n_head) + " heads, " +
                   std::to_string(l.n_head_kv) + " KV heads of " + std::to_string(l.head_dim) + ", Q " +
                   dtype_name(l.q_type) + ", K " + dtype_name(l.k_type) + ">";
        });
}

} // namespace attnscope::python
