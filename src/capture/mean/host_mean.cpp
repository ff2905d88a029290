#include "capture/mean/host_mean.h"

#include "capture/mean/mean_rows.h"

#include <algorithm>
#include <new>

namespace attnscope::capture {

namespace {

// Thread sanitizers do not see how the engine's threads wait for one another. All of them, and the decode thread, pass
// through this object before and after they touch shared data: a synchronisation that they do see. Empty in other
// builds.
struct SanitizerFence {
#if defined(__SANITIZE_THREAD__)
    static inline std::atomic<uint32_t> passed{0};
    SanitizerFence() {
        ++passed;
    }
    ~SanitizerFence() {
        ++passed;
    }
#else
    SanitizerFence() {}
    ~SanitizerFence() {}
#endif
    SanitizerFence(const SanitizerFence&) = delete;
    SanitizerFence& operator=(const SanitizerFence&) = delete;
};

bool on_host(const AttentionNode& n) {
    return is_host(n.k_cache) && is_host(n.q) && is_host(n.out);
}

} // namespace

HostMean::HostMean(int32_t n_threads) : parts_(size_t(std::max(n_threads, 1))) {}

HostMean::~HostMean() {
    forget();
}

void HostMean::stop() {
    const SanitizerFence fence;
    running_ = false;
}

void HostMean::forget() {
    const SanitizerFence fence;
    nodes_.clear();
    prepared_ = running_ = false;
}

void HostMean::add_to(ggml_cgraph* graph, const GraphAttention& found) {
    forget();
    if (found.n_query != 1) return;
    for (const AttentionNode& n : found.nodes) {
        if (n.refusal.empty() &&
            (n.graph_keys || !on_host(n) || n.max_bias > 0 || n.bias || mask_is_computed(n) || n.cache_streams > 1))
            return;
    }
    const int n_before = ggml().graph_n_nodes(graph);
    if (size_t(n_before) + found.nodes.size() > size_t(ggml().graph_size(graph))) return; // it would abort
    ctx_.reset(ggml().init({ggml().tensor_overhead() * found.nodes.size(), nullptr, true}));
    if (!ctx_) return;
    // A graph takes nodes at its end only; from there they are moved to where they belong.
    std::vector<ggml_tensor*> ours;
    for (const AttentionNode& n : found.nodes) {
        nodes_.push_back(std::make_unique<Node>());
        nodes_.back()->mean = this;
        if (!n.refusal.empty()) {
            ours.push_back(nullptr);
            continue;
        }
        ggml_tensor* reads[] = {n.out, n.q, n.k};
        ours.push_back(ggml().custom_4d(ctx_.get(), GGML_TYPE_F32, 1, 1, 1, 1, reads, 3, compute, GGML_N_TASKS_MAX,
                                        nodes_.back().get()));
        ggml().build_forward_expand(graph, ours.back());
    }
    ggml_tensor** nodes = ggml().graph_nodes(graph);
    const std::vector<ggml_tensor*> engines(nodes, nodes + n_before);
    for (ggml_tensor* node : engines) {
        *nodes++ = node;
        for (size_t i = 0; i < ours.size(); ++i) {
            if (ours[i] && found.nodes[i].out == node) *nodes++ = ours[i];
        }
    }
}

bool HostMean::prepare(const GraphAttention& found, const Geometry& geometry) {
    work_.clear();
    visible_.clear();
    for (auto& node : nodes_) node->work = -1;
    if (nodes_.empty() || nodes_.size() != found.nodes.size() || geometry.layers.size() != found.nodes.size())
        return false;
    while (plans_.size() < geometry.layers.size()) {
        const LayerInfo& info = geometry.layers[plans_.size()];
        Result<attention::RowsPlan> plan = info.captured() ? attention::plan_layer(info, false) : attention::RowsPlan();
        if (!plan) return false;
        plans_.push_back(std::move(*plan));
    }
    int32_t most_heads = 0;
    n_rows_ = 0;
    int64_t n_cells = 0;
    for (size_t i = 0; i < found.nodes.size(); ++i) {
        const AttentionNode& n = found.nodes[i];
        const LayerInfo& info = geometry.layers[i];
        if (info.captured() != n.refusal.empty()) return false;
        if (!info.captured() || !among(rows_.layers, static_cast<int32_t>(i))) continue;
        size_t n_chosen = 0;
        for (int32_t h = 0; h < info.n_head; ++h) n_chosen += among(rows_.heads, h);
        if (n_chosen == 0) continue;
        n_rows_ += n_chosen;
        most_heads = std::max(most_heads, info.n_head);
        n_cells = std::max(n_cells, ne(n.k, 1));
        const auto seen = std::find_if(visible_.begin(), visible_.end(),
                                       [&](const Visibility& v) { return v.mask == n.mask && v.k_cells == n.k_cells; });
        nodes_[i]->work = static_cast<int32_t>(work_.size());
        work_.push_back({&info, &plans_[i], host_attention(n), size_t(seen - visible_.begin())});
        if (seen == visible_.end()) visible_.push_back({n.mask, n.k_cells, i, {}, 0, {}});
    }
    if (work_.empty()) return false;
    chosen_.assign(size_t(most_heads), 0);
    for (size_t h = 0; h < chosen_.size(); ++h) chosen_[h] = among(rows_.heads, static_cast<int32_t>(h));
    stride_ = size_t(n_cells);
    for (auto& n : numerators_) {
        if (n.size() < size_t(most_heads) * stride_) n.resize(size_t(most_heads) * stride_);
    }
    constexpr size_t lines = 128 / sizeof(attention::PartShare); // neighbouring lines come together
    shares_stride_ = (size_t(most_heads) + lines - 1) / lines * lines;
    for (auto& s : shares_) {
        if (s.size() < parts_.size() * shares_stride_) s.resize(parts_.size() * shares_stride_);
    }
    return true;
}

void HostMean::start(const GraphAttention& found, const Inputs& inputs, const Geometry& geometry,
                     const RowSelection& rows) {
    const SanitizerFence fence;
    running_ = false;
    if (!prepared_ || rows != rows_) {
        rows_ = rows;
        prepared_ = prepare(found, geometry);
    }
    if (!prepared_) return;
    for (Visibility& v : visible_) {
        v.cells = inputs.visible(v.mask, 0);
        v.n = ranges_count(v.cells);
        v.sums.assign(v.cells.empty() ? 0 : size_t(v.cells.back().end), 0.0);
    }
    failed_ = false;
    n_parts_ = 0;
    running_ = true;
}

// On the engine's threads, which all meet between two nodes.
void HostMean::compute(ggml_tensor*, int ith, int nth, void* user_data) {
    const Node& node = *static_cast<const Node*>(user_data);
    const SanitizerFence fence;
    HostMean& mean = *node.mean;
    if (!mean.running_ || mean.failed_ || node.work < 0) return;
    const auto work = size_t(node.work), part = size_t(ith), n_parts = size_t(nth);
    if (n_parts > mean.parts_.size()) {
        mean.failed_ = true;
        return;
    }
    try {
        if (part == 0) mean.n_parts_ = n_parts;
        if (work > 0) mean.add_part(work - 1, part, n_parts);
        mean.compute_part(work, part, n_parts);
    } catch (const std::bad_alloc&) {
        mean.failed_ = true;
    }
}

void HostMean::compute_part(size_t index, size_t part, size_t n_parts) {
    const Work& w = work_[index];
    const Visibility& seen = visible_[w.visibility];
    Part& p = parts_[part];
    const int64_t begin = seen.n * int64_t(part) / int64_t(n_parts),
                  end = seen.n * int64_t(part + 1) / int64_t(n_parts);
    attention::keys_of_part(seen.cells, begin, end - begin, p.keys[index % 2]);
    p.q.resize(w.plan->q_head_bytes * size_t(w.info->n_head));
    // of one token: beside such keys they are rounded, whatever they are kept in
    convert_queries(*w.info, w.info->k_type == DType::f16 ? DType::f16 : w.info->q_type, w.data.q, w.data.q_head,
                    w.info->n_head, p.q.data());
    attention::PartRequest request;
    request.layer = w.info, request.plan = w.plan;
    request.q = p.q.data();
    request.k = w.data.k, request.k_stride = w.data.k_cell;
    request.keys = p.keys[index % 2];
    request.numerators = numerators_[index % 2].data(), request.stride = stride_;
    attention::part_rows(attention::row_kernels(), request, shares(index, part).first(size_t(w.info->n_head)),
                         p.float_q);
}

void HostMean::add_part(size_t index, size_t part, size_t n_parts) {
    const Work& w = work_[index];
    const auto n_head = size_t(w.info->n_head);
    Part& mine = parts_[part];
    mine.factors.resize(n_head);
    for (size_t h = 0; h < n_head; ++h) {
        attention::PartSum all(w.info->sinks.empty() ? nullptr : &w.info->sinks[h]);
        for (size_t p = 0; p < n_parts; ++p) all.add(shares(index, p)[h]);
        mine.factors[h] = all.factor(shares(index, part)[h].max);
    }
    const std::span<double> sums = visible_[w.visibility].sums;
    // heads side by side that were all chosen, or all not
    for (size_t begin = 0, end = 0; begin < n_head; begin = end) {
        for (end = begin; end < n_head && chosen_[end] == chosen_[begin]; ++end) {}
        if (!chosen_[begin]) continue;
        for (const Range& r : mine.keys[index % 2]) {
            const float* rows = numerators_[index % 2].data() + begin * stride_ + size_t(r.begin);
            attention::add_rows(attention::row_kernels(), rows, stride_,
                                std::span(mine.factors).subspan(begin, end - begin),
                                sums.subspan(size_t(r.begin), size_t(r.end - r.begin)));
        }
    }
}

void HostMean::finish(Batch& batch, const Collector& collector) {
    const SanitizerFence fence;
    if (!running_) return;
    running_ = false;
    const size_t n_parts = n_parts_;
    if (failed_ || n_parts == 0 || batch.frames.size() != 1) return;
    for (size_t part = 0; part < n_parts; ++part) add_part(work_.size() - 1, part, n_parts);
    batch.mean.assign(size_t(batch.frames.front().index) + 1, 0.0f);
    const double share = 1.0 / static_cast<double>(n_rows_);
    for (const Visibility& seen : visible_) {
        const CellView cells = collector.cells(batch, size_t(batch.layers[seen.attention].group));
        add_cells(cells, seen.cells, std::span<const double>(seen.sums), share, batch.mean);
    }
}

} // namespace attnscope::capture
