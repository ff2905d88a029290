#include "attach/made_graph.h"

#include <algorithm>
#include <cstring>

namespace attnscope::test {

using capture::Op;

namespace {

constexpr capture::GgmlTensorLayout at = attach::tensor_layout;

size_t element_bytes(ggml_type type) {
    return type == GGML_TYPE_F16 ? 2 : type == GGML_TYPE_I64 ? 8 : 4;
}

// A buffer's functions: it knows where its memory is by what stands behind them.
void* base_9(ggml_backend_buffer_t buffer) {
    return reinterpret_cast<void**>(buffer)[9 + 1];
}
void* base_11(ggml_backend_buffer_t buffer) {
    return reinterpret_cast<void**>(buffer)[11 + 1];
}
void nothing() {}
const char* type_name(attach::BufferType*) {
    return "CPU";
}
ggml_backend_buffer_t no_memory(attach::BufferType*, size_t) {
    return nullptr;
}
size_t alignment(attach::BufferType*) {
    return 32;
}
bool host(attach::BufferType*) {
    return true;
}

} // namespace

MadeBuffer::MadeBuffer(size_t n_functions, attach::BufferType* type, size_t bytes) : memory_(bytes / 8 + 1) {
    std::fill_n(words_.begin(), n_functions, reinterpret_cast<void*>(&nothing));
    words_[1] = reinterpret_cast<void*>(n_functions == 9 ? &base_9 : &base_11);
    const attach::BufferTail tail = {type, memory_.data(), bytes, 0};
    std::memcpy(words_.data() + n_functions, &tail, sizeof tail);
}

uint8_t* MadeBuffer::take(size_t bytes) {
    uint8_t* here = reinterpret_cast<uint8_t*>(memory_.data()) + used_;
    used_ += (bytes + 63) / 64 * 64;
    return used_ <= memory_.size() * 8 ? here : nullptr;
}

MadeGraph::MadeGraph(uint64_t seed, size_t n_functions)
    : random_(seed), type_{type_name, no_memory, alignment, nullptr, nullptr, host, nullptr, nullptr},
      buffer_(n_functions, &type_, size_t(1) << 20), next_number_(1 + static_cast<uint32_t>(random_() % 20)) {}

uint32_t MadeGraph::number(Op op) {
    if (op == Op::none) return 0;
    const auto known = numbers_.find(op);
    if (known != numbers_.end()) return known->second;
    next_number_ += 1 + static_cast<uint32_t>(random_() % 5);
    return numbers_[op] = next_number_;
}

ggml_tensor* MadeGraph::make(ggml_type type, std::array<int64_t, 4> ne) {
    auto* t = reinterpret_cast<ggml_tensor*>(tensors_.emplace_back().data());
    put(t, at.type, static_cast<int32_t>(type));
    size_t bytes = element_bytes(type);
    for (size_t i = 0; i < 4; ++i) {
        put(t, at.ne + i * 8, ne[i]);
        put(t, at.nb + i * 8, bytes);
        bytes *= size_t(ne[i]);
    }
    return t;
}

void MadeGraph::name(ggml_tensor* t, const std::string& name) {
    std::strncpy(reinterpret_cast<char*>(t) + at.name, name.c_str(), 63);
}

ggml_tensor* MadeGraph::tensor(const std::string& name) {
    for (auto& t : tensors_) {
        auto* found = reinterpret_cast<ggml_tensor*>(t.data());
        if (name == reinterpret_cast<const char*>(found) + at.name) return found;
    }
    return nullptr;
}

ggml_tensor* MadeGraph::leaf(const std::string& called, ggml_type type, std::array<int64_t, 4> ne, bool input) {
    ggml_tensor* t = make(type, ne);
    name(t, called);
    if (input) {
        put(t, at.flags, attach::flag_input);
        return t; // the scheduler gives it memory later
    }
    put(t, at.buffer, buffer_.as_buffer());
    put(t, at.data, buffer_.take(element_bytes(type) * size_t(ne[0] * ne[1] * ne[2] * ne[3])));
    return t;
}

ggml_tensor* MadeGraph::node(Op op, std::array<int64_t, 4> ne, std::vector<ggml_tensor*> sources) {
    ggml_tensor* t = make(GGML_TYPE_F32, ne);
    put(t, at.op, number(op));
    for (size_t i = 0; i < sources.size(); ++i) put(t, at.src + i * sizeof(void*), sources[i]);
    return t;
}

ggml_tensor* MadeGraph::view(Op op, ggml_tensor* of, std::array<int64_t, 4> ne, std::array<size_t, 4> nb) {
    ggml_tensor* t = make(static_cast<ggml_type>(capture::tensor_field<int32_t>(of, at.type)), ne);
    put(t, at.op, number(op));
    for (size_t i = 0; i < 4; ++i) put(t, at.nb + i * 8, nb[i]);
    auto* owner = capture::tensor_field<ggml_tensor*>(of, at.view_src);
    put(t, at.src, of);
    put(t, at.view_src, owner ? owner : of);
    put(t, at.data, capture::tensor_field<void*>(owner ? owner : of, at.data));
    return t;
}

std::vector<ggml_tensor*> MadeGraph::llama(bool flash, int64_t n) {
    constexpr int64_t width = 32, dim = 16, heads = 2, cells = 24;
    std::vector<ggml_tensor*> asked;
    const auto ask = [&](ggml_tensor* t) { return asked.push_back(t), t; };
    const auto weights = [&](const std::string& called, int64_t a, int64_t b) {
        return leaf(called, GGML_TYPE_F32, {a, b, 1, 1}, false);
    };
    ggml_tensor* tokens = leaf("leaf_2", GGML_TYPE_I32, {n, 1, 1, 1}, true);
    ggml_tensor* positions = leaf("leaf_5", GGML_TYPE_I32, {n, 1, 1, 1}, true);
    ggml_tensor* mask = leaf("leaf_7", flash ? GGML_TYPE_F16 : GGML_TYPE_F32, {cells, n, 1, 1}, true);
    ggml_tensor* to = leaf("leaf_9", GGML_TYPE_I64, {n, 1, 1, 1}, true);
    ggml_tensor* x = ask(node(Op::get_rows, {width, n, 1, 1}, {weights("token_embd.weight", width, 50), tokens}));
    for (int layer = 0; layer < 2; ++layer) {
        const std::string blk = "blk." + std::to_string(layer) + ".", l = "_l" + std::to_string(layer);
        const auto project = [&](const char* what) {
            ggml_tensor* t = ask(node(Op::mul_mat, {width, n, 1, 1}, {weights(blk + what, width, width), x}));
            return view(Op::reshape, t, {dim, heads, n, 1}, {4, 4 * dim, 4 * width, 4 * width * size_t(n)});
        };
        ggml_tensor* q = node(Op::rope, {dim, heads, n, 1}, {project("attn_q.weight"), positions});
        ggml_tensor* k = node(Op::rope, {dim, heads, n, 1}, {project("attn_k.weight"), positions});
        ggml_tensor* v = project("attn_v.weight");
        ggml_tensor* cache_k = leaf("cache_k" + l, GGML_TYPE_F16, {width, cells, 1, 1}, false);
        ggml_tensor* cache_v = leaf("cache_v" + l, GGML_TYPE_F16, {width, cells, 1, 1}, false);
        for (const auto& [cache, from] : {std::pair{cache_k, k}, std::pair{cache_v, v}}) {
            ggml_tensor* store = ask(view(Op::set_rows, cache, {width, cells, 1, 1}, {2, 64, 64 * 24, 64 * 24}));
            ggml_tensor* rows =
                view(Op::reshape, from, {width, n, 1, 1}, {4, 4 * width, 4 * width * size_t(n), 4 * width * size_t(n)});
            put(store, at.src, rows);
            put(store, at.src + 8, to);
        }
        const std::array<size_t, 4> by_head = {2, 64, 2 * dim, 64 * 24};
        ggml_tensor* queries = view(Op::permute, q, {dim, n, heads, 1}, {4, 4 * width, 4 * dim, 4 * width * size_t(n)});
        ggml_tensor* keys = view(Op::view, cache_k, {dim, cells, heads, 1}, by_head);
        ggml_tensor* out = nullptr;
        if (flash) {
            ggml_tensor* values = view(Op::view, cache_v, {dim, cells, heads, 1}, by_head);
            out = node(Op::flash_attn_ext, {dim, heads, n, 1}, {queries, keys, values, mask});
        } else {
            ggml_tensor* scores = node(Op::mul_mat, {cells, n, heads, 1}, {keys, queries});
            ggml_tensor* row = node(Op::soft_max, {cells, n, heads, 1}, {scores, mask});
            ggml_tensor* values = view(Op::view, cache_v, {cells, dim, heads, 1}, {64, 2, 2 * dim, 64 * 24});
            out = node(Op::mul_mat, {dim, n, heads, 1}, {values, row});
        }
        put(out, at.op_params, 0.25F);
        ggml_tensor* flat =
            view(Op::reshape, out, {width, n, 1, 1}, {4, 4 * width, 4 * width * size_t(n), 4 * width * size_t(n)});
        ggml_tensor* o =
            ask(node(Op::mul_mat, {width, n, 1, 1}, {weights(blk + "attn_output.weight", width, width), flat}));
        x = node(Op::add, {width, n, 1, 1}, {o, x});
    }
    ggml_tensor* norm = node(Op::other, {width, n, 1, 1}, {x});
    // MUL has a number that the capture does not tell apart: here that of an operation which this graph has not.
    ask(node(Op::transpose, {width, n, 1, 1}, {norm, weights("output_norm.weight", width, 1)}));
    return asked;
}

std::vector<ggml_tensor*> MadeGraph::noise(size_t n) {
    constexpr Op ops[] = {Op::add,      Op::scale,    Op::unary,    Op::mul_mat,   Op::cont,
                          Op::cpy,      Op::view,     Op::reshape,  Op::rope,      Op::permute,
                          Op::set_rows, Op::get_rows, Op::soft_max, Op::transpose, Op::flash_attn_ext};
    constexpr const char* names[] = {"cache_k_l0",
                                     "cache_v_l0",
                                     "cache_k_l1",
                                     "token_embd.weight",
                                     "blk.0.attn_q.weight",
                                     "kq_soft_max-0",
                                     "Qcur-0",
                                     "output_norm.weight",
                                     "leaf_3",
                                     "",
                                     "cross_embd",
                                     "csa_k",
                                     "x-99999999999"};
    constexpr ggml_type types[] = {GGML_TYPE_F32, GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_I32, GGML_TYPE_I64};
    std::vector<ggml_tensor*> all;
    const auto shape = [&] {
        std::array<int64_t, 4> ne = {1, 1, 1, 1};
        for (int64_t& e : ne) e = pick(3) == 0 ? 16 : 1 + pick(4);
        return ne;
    };
    for (size_t i = 0; i < n; ++i) {
        const std::string called = names[size_t(pick(std::size(names)))];
        if (i < 6 || pick(6) == 0) {
            all.push_back(leaf(called, types[size_t(pick(std::size(types)))], shape(), pick(2) == 0));
            continue;
        }
        const auto any = [&] { return all[size_t(pick(static_cast<int64_t>(all.size())))]; };
        const Op op = ops[size_t(pick(std::size(ops)))];
        ggml_tensor* t = nullptr;
        if (pick(2) == 0) {
            ggml_tensor* of = any();
            std::array<size_t, 4> nb{};
            for (size_t& b : nb) b = size_t(pick(9)) * 8 + 4;
            t = view(op, of, shape(), nb);
            put(t, at.view_offs, size_t(pick(5)) * 32);
        } else {
            t = node(op, pick(3) == 0 ? shape() : [&] {
                std::array<int64_t, 4> same{};
                std::memcpy(same.data(), reinterpret_cast<const char*>(any()) + at.ne, sizeof same);
                return same;
            }(), {});
        }
        for (size_t s = 0; s < 5; ++s) {
            if (pick(4) != 0) put(t, at.src + s * 8, any());
        }
        if (pick(8) == 0) put(t, at.src + 8, t); // a cast names itself
        if (pick(4) == 0) put(t, at.flags, attach::flag_compute);
        put(t, at.op_params, pick(2) == 0 ? 4 : 0x3e800000);
        name(t, called);
        all.push_back(t);
    }
    return all;
}

void use_made_graph(MadeGraph& graph) {
    capture::GgmlAbi& abi = capture::foreign_ggml();
    abi.ops.fill(Op::other);
    for (const Op op :
         {Op::none, Op::add, Op::scale, Op::unary, Op::mul_mat, Op::cont, Op::cpy, Op::view, Op::reshape, Op::permute,
          Op::transpose, Op::get_rows, Op::set_rows, Op::rope, Op::soft_max, Op::flash_attn_ext})
        abi.ops[graph.number(op)] = op;
}

} // namespace attnscope::test
