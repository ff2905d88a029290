#include "capture/mean/mean_on_device.h"

namespace attnscope::capture {

MeanShape mean_shape(const LayerSource& source, const Batch::Layer& layer) {
    const LayerInfo& info = layer.info;
    MeanShape shape;
    shape.n_head = info.n_head, shape.n_head_kv = info.n_head_kv, shape.head_dim = info.head_dim;
    shape.k_cell = source.device()->k_cell;
    shape.q_head = source.q.head_stride;
    shape.scale = info.scale, shape.softcap = info.softcap, shape.post_scale = info.post_scale;
    shape.group = layer.group;
    shape.sinks = info.sinks.empty() ? nullptr : info.sinks.data();
    return shape;
}

} // namespace attnscope::capture
