#include "attach/inside/operations.h"

#include "attach/inside/structures.h"

#include <cstring>
#include <optional>

namespace attnscope::attach {

namespace {

using capture::name;
using capture::ne;
using capture::Op;
using capture::src;
using capture::type;
using capture::view_src;

uint32_t number(const ggml_tensor* t) {
    return capture::tensor_field<uint32_t>(t, capture::ggml().tensor.op);
}
bool is_leaf(const ggml_tensor* t) {
    return t && number(t) == 0 && !view_src(t);
}
bool is_input(const ggml_tensor* t, ggml_type kind) {
    return is_leaf(t) && type(t) == kind &&
           (capture::tensor_field<int32_t>(t, capture::ggml().tensor.flags) & flag_input) != 0;
}
bool begins(const char* name, const char* with) {
    return std::strncmp(name, with, std::strlen(with)) == 0;
}
// What lies in a model's cache under such a name.
bool in_cache(const ggml_tensor* t, const char* with) {
    return t && view_src(t) && is_leaf(view_src(t)) && begins(name(view_src(t)), with);
}
bool is_float32(const ggml_tensor* t) {
    return t && type(t) == GGML_TYPE_F32;
}
bool has_shape(const ggml_tensor* t, int64_t a, int64_t b) {
    return ne(t, 0) == a && ne(t, 1) == b;
}

bool looks_up_tokens(const ggml_tensor* t) {
    const ggml_tensor *rows = src(t, 0), *ids = src(t, 1);
    return is_float32(t) && is_leaf(rows) && begins(name(rows), "token_embd") && is_input(ids, GGML_TYPE_I32) &&
           has_shape(t, ne(rows, 0), ne(ids, 0));
}

bool stores_rows(const ggml_tensor* t) {
    return in_cache(t, "cache_") && is_float32(src(t, 0)) && is_input(src(t, 1), GGML_TYPE_I64);
}

// Into a view of a cache, which is the second source; or into new memory, which is the node itself.
bool copies(const ggml_tensor* t) {
    const ggml_tensor *from = src(t, 0), *to = src(t, 1);
    if (!from || !to || src(t, 2) || capture::nelements(t) != capture::nelements(from)) return false;
    if (to == t) return !view_src(t) && capture::same_shape(t, from);
    return in_cache(t, "cache_") && view_src(to) == view_src(t) && is_float32(from) && type(to) == type(t);
}

bool multiplies_matrix(const ggml_tensor* t) {
    const ggml_tensor *weights = src(t, 0), *with = src(t, 1);
    if (!is_float32(t) || !is_leaf(weights) || !is_float32(with) || src(t, 2) || view_src(t)) return false;
    const char* dot = std::strrchr(name(weights), '.');
    return begins(name(weights), "blk.") && dot && std::strcmp(dot, ".weight") == 0 && ne(weights, 1) > 1 &&
           ne(weights, 2) == 1 && ne(weights, 0) == ne(with, 0) && has_shape(t, ne(weights, 1), ne(with, 1));
}

bool is_flash_attention(const ggml_tensor* t) {
    const ggml_tensor *q = src(t, 0), *k = src(t, 1), *v = src(t, 2);
    return is_float32(t) && !view_src(t) && is_float32(q) && in_cache(k, "cache_k") && in_cache(v, "cache_") &&
           ne(q, 0) == ne(k, 0) && ne(k, 1) == ne(v, 1) && has_shape(t, ne(v, 0), ne(q, 2)) && ne(t, 2) == ne(q, 1);
}

bool masks_scores(const ggml_tensor* t) {
    const ggml_tensor *scores = src(t, 0), *mask = src(t, 1);
    return is_float32(t) && !view_src(t) && is_float32(scores) && mask && capture::same_shape(t, scores) &&
           ne(mask, 0) == ne(t, 0) && ne(mask, 1) >= ne(t, 1) && ne(mask, 2) == 1 &&
           (is_input(mask, GGML_TYPE_F32) || is_input(mask, GGML_TYPE_F16));
}
// A copy of what lies in a cache, or of a view of it, in new memory.
bool is_copied_from_cache(const ggml_tensor* t) {
    const ggml_tensor* from = t ? src(t, 0) : nullptr;
    return from && !view_src(t) && !src(t, 1) && in_cache(from, "cache_") && capture::same_shape(t, from) &&
           type(t) == type(from) && capture::is_contiguous(t);
}
// The product of values in a cache, or a copy of them, with weights.
bool weighs_values(const ggml_tensor* t) {
    return is_float32(t) && (in_cache(src(t, 0), "cache_") || is_copied_from_cache(src(t, 0))) &&
           is_float32(src(t, 1)) && ne(src(t, 0), 0) == ne(src(t, 1), 0) &&
           has_shape(t, ne(src(t, 0), 1), ne(src(t, 1), 1));
}

bool turns_by_position(const ggml_tensor* t) {
    const ggml_tensor *what = src(t, 0), *positions = src(t, 1);
    return is_float32(t) && !view_src(t) && is_float32(what) && is_input(positions, GGML_TYPE_I32) &&
           (!src(t, 2) || is_leaf(src(t, 2))) && capture::same_shape(t, what) && ne(t, 2) > 0 && ne(positions, 0) > 0 &&
           ne(positions, 0) % ne(t, 2) == 0 && ne(positions, 0) / ne(t, 2) <= 4;
}

// scale(1 / cap) -> tanh -> scale(cap), of products of keys and queries: what a soft-max reads where scores are capped. The tanh; null: it
// is something else.
const ggml_tensor* capped(const ggml_tensor* soft_max) {
    constexpr int32_t tanh = 4; // of the unary operations, the fifth since there are any
    const ggml_tensor* outer = src(soft_max, 0);
    const ggml_tensor* middle = outer && !src(outer, 1) ? src(outer, 0) : nullptr;
    const ggml_tensor* inner = middle && !src(middle, 1) ? src(middle, 0) : nullptr;
    const ggml_tensor* product = inner && !src(inner, 1) ? src(inner, 0) : nullptr;
    const bool same = product && number(outer) == number(inner) && number(middle) != number(outer) &&
                      capture::same_shape(outer, product) && in_cache(src(product, 0), "cache_k");
    return same && capture::int_param(middle, 0) == tanh ? middle : nullptr;
}

class Finder {
public:
    explicit Finder(Operations& known) : known_(known) {}

    // `t` is one of those.
    void is(Op op, const char* name, const ggml_tensor* t) {
        const uint32_t n = number(t);
        const std::optional<uint32_t> before = number_of(op);
        if (n == 0 || n >= known_.size() || (before && *before != n) || (known_[n] != Op::other && known_[n] != op)) {
            if (wrong_.empty()) wrong_ = std::string("its number of the operation ") + name + " was not found";
            return;
        }
        known_[n] = op;
    }
    bool knows(const ggml_tensor* t) const { return number(t) < known_.size() && known_[number(t)] != Op::other; }
    bool is_known_as(const ggml_tensor* t, Op op) const {
        return t && number(t) < known_.size() && known_[number(t)] == op;
    }
    bool has(Op op) const { return number_of(op).has_value(); }
    const std::string& wrong() const { return wrong_; }

private:
    std::optional<uint32_t> number_of(Op op) const {
        for (uint32_t n = 0; n < known_.size(); ++n) {
            if (known_[n] == op) return n;
        }
        return std::nullopt;
    }
    Operations& known_;
    std::string wrong_;
};

// What reads the products of keys and queries, and what is made of them.
void find_weights(std::span<ggml_tensor* const> tensors, Finder& found) {
    for (const ggml_tensor* t : tensors) {
        const ggml_tensor* weights = src(t, 1);
        if (!found.is_known_as(t, Op::mul_mat) || !weighs_values(t) || !masks_scores(weights)) continue;
        found.is(Op::soft_max, "SOFT_MAX", weights);
        if (is_copied_from_cache(src(t, 0))) found.is(Op::cont, "CONT", src(t, 0));
        if (const ggml_tensor* tanh = capped(weights)) {
            found.is(Op::unary, "UNARY", tanh);
            found.is(Op::scale, "SCALE", src(tanh, 0));
        }
    }
}

// Only for the positions, which are the same whatever else turns by them.
void find_turns(std::span<ggml_tensor* const> tensors, Finder& found) {
    const ggml_tensor* positions = nullptr;
    for (const ggml_tensor* t : tensors) {
        if (!turns_by_position(t) || (found.knows(t) && !found.is_known_as(t, Op::rope))) continue;
        if (positions == src(t, 1)) continue;
        positions = src(t, 1);
        found.is(Op::rope, "ROPE", t);
    }
}

} // namespace

std::string find_operations(std::span<ggml_tensor* const> tensors, Operations& known) {
    Operations seen = known;
    seen[0] = Op::none; // the first number in every version
    Finder found(seen);
    for (const ggml_tensor* t : tensors) {
        if (number(t) == 0) continue;
        if (looks_up_tokens(t)) found.is(Op::get_rows, "GET_ROWS", t);
        if (stores_rows(t)) found.is(Op::set_rows, "SET_ROWS", t);
        if (copies(t)) found.is(Op::cpy, "CPY", t);
        if (multiplies_matrix(t)) found.is(Op::mul_mat, "MUL_MAT", t);
        if (is_flash_attention(t)) found.is(Op::flash_attn_ext, "FLASH_ATTN_EXT", t);
    }
    find_weights(tensors, found);
    find_turns(tensors, found);
    if (!found.wrong().empty()) return found.wrong();
    if (!found.has(Op::mul_mat)) return "its number of the operation MUL_MAT was not found";
    if (!found.has(Op::flash_attn_ext) && !found.has(Op::soft_max))
        return "its number of the operation SOFT_MAX was not found";
    known = seen;
    return {};
}

bool stores_keys_of_layer(const ggml_tensor* t) {
    return number(t) != 0 && in_cache(t, "cache_k") && is_float32(src(t, 0));
}

bool is_name_of_last_norm(const char* name) {
    return std::strcmp(name, "output_norm.weight") == 0 || std::strcmp(name, "token_embd_norm.weight") == 0;
}

bool is_last_norm(const ggml_tensor* t) {
    const ggml_tensor *norm = src(t, 0), *weight = src(t, 1);
    if (!is_float32(t) || view_src(t) || !is_float32(norm) || !is_float32(weight) || src(t, 2)) return false;
    return is_leaf(weight) && is_name_of_last_norm(name(weight)) && number(norm) != 0 && number(t) != 0 &&
           capture::same_shape(t, norm) && capture::is_contiguous(t) && capture::is_contiguous(norm) &&
           ne(weight, 0) == ne(t, 0) && capture::nelements(weight) == ne(t, 0) && capture::is_contiguous(weight);
}

} // namespace attnscope::attach
