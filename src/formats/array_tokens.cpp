#include "formats/array_tokens.h"

#include "base/bounded_json.h"

#include <attnscope/dump_reader.h>

#include <algorithm>

namespace attnscope::formats {

namespace {

constexpr int64_t batch_elements = int64_t(16) << 20; // 64 MiB of float32
constexpr int64_t part_elements = int64_t(1) << 16;

} // namespace

Result<std::unique_ptr<ArrayTokens>> ArrayTokens::make(StoredArray array, const std::vector<Axis>& axes) {
    const std::vector<int64_t>& shape = array.layout.shape;
    if (const std::string problem = axes_problem(axes, shape); !problem.empty())
        return Error{ErrorKind::unsupported, array.name + ": " + problem};
    std::unique_ptr<ArrayTokens> made(new ArrayTokens);
    std::vector<int64_t> own = {1, 1, 1};
    for (size_t i = 0; i < axes.size(); ++i) {
        switch (axes[i]) {
        case Axis::one: break;
        case Axis::token:
        case Axis::query:
            made->tokens_ = std::max(made->tokens_, shape[i]);
            made->stacked_ = true;
            made->queries_ = made->queries_ || (axes[i] == Axis::query && shape[i] > 1);
            break;
        case Axis::layer: own[0] = shape[i]; break;
        case Axis::head: own[1] = shape[i]; break;
        case Axis::key: own[2] = shape[i]; break;
        }
    }
    if (!base::shape_elements(own, max_token_elements) || !base::shape_elements(shape, INT64_MAX / 8) ||
        own[0] > INT32_MAX || own[1] > INT32_MAX) {
        return Error{ErrorKind::unsupported,
                     array.name + " has the shape " + base::shape_text(shape) +
                         (std::find(shape.begin(), shape.end(), 0) != shape.end() && !shape.empty() && shape[0] == 0
                              ? ": 0 tokens"
                              : ", which is empty or too large")};
    }
    made->layers_ = own[0], made->heads_ = own[1], made->context_ = own[2];
    // storage order: slowest first
    std::vector<Axis> order = axes;
    if (array.layout.fortran) std::reverse(order.begin(), order.end());
    const std::vector<int64_t> extents = array.storage_shape();
    const auto stride = [&](Axis axis) {
        return axis == Axis::layer ? made->heads_ * made->context_ : axis == Axis::head ? made->context_ : 1;
    };
    const auto is_token = [](Axis axis) { return axis == Axis::token || axis == Axis::query; };
    const bool has_tokens = made->tokens_ > 1;
    bool inside = !has_tokens;
    for (size_t i = 0; i < order.size(); ++i) {
        if (extents[i] == 1) continue;
        if (is_token(order[i]))
            inside = true;
        else
            (inside ? made->inner_ : made->outer_).push_back({extents[i], stride(order[i])});
    }
    made->rows_in_order_ = true;
    int64_t expected = 1;
    for (size_t i = made->inner_.size(); i-- > 0;) {
        made->rows_in_order_ = made->rows_in_order_ && made->inner_[i].stride == expected;
        expected *= made->inner_[i].n;
    }
    made->together_ = made->rows_in_order_ && made->outer_.empty();
    made->array_ = std::move(array);
    return made;
}

Result<void> ArrayTokens::next(float* out) {
    if (at_ >= tokens_) return Error{ErrorKind::invalid_argument, array_.name + " has no more tokens"};
    const int64_t n = elements();
    if (together_) {
        if (auto done = array_.read(at_ * n, static_cast<size_t>(n), out); !done) return done;
    } else {
        if (at_ >= batch_end_) {
            if (auto done = fill_batch(); !done) return done;
        }
        std::copy_n(batch_.begin() + (at_ - batch_begin_) * n, n, out);
    }
    if (++at_ == tokens_) batch_ = {}, part_ = {};
    return {};
}

// For each place outside of the tokens' axis, what lies inside of it for a run of tokens is one stretch of the file.
Result<void> ArrayTokens::fill_batch() {
    const int64_t n = elements();
    batch_begin_ = at_;
    batch_end_ = std::min(tokens_, at_ + std::max<int64_t>(1, batch_elements / n));
    const int64_t run = batch_end_ - batch_begin_;
    batch_.resize(static_cast<size_t>(run * n));
    int64_t outer = 1, inner = 1;
    for (const Extent& e : outer_) outer *= e.n;
    for (const Extent& e : inner_) inner *= e.n;
    part_.resize(static_cast<size_t>(std::min(part_elements, run * inner)));
    std::vector<int64_t> place(outer_.size(), 0), index(inner_.size(), 0);
    for (int64_t o = 0; o < outer; ++o) {
        int64_t base = 0;
        for (size_t i = 0; i < outer_.size(); ++i) base += place[i] * outer_[i].stride;
        int64_t token = 0, j = 0, offset = 0; // `offset`: of element j in the token's own order
        std::fill(index.begin(), index.end(), 0);
        for (int64_t done = 0; done < run * inner;) {
            const int64_t now = std::min<int64_t>(static_cast<int64_t>(part_.size()), run * inner - done);
            const int64_t first = (o * tokens_ + batch_begin_) * inner + done;
            if (auto read = array_.read(first, static_cast<size_t>(now), part_.data()); !read) return read;
            for (int64_t i = 0; i < now;) {
                float* to = batch_.data() + token * n + base;
                if (rows_in_order_) {
                    const int64_t some = std::min(now - i, inner - j);
                    std::copy_n(part_.begin() + i, some, to + j);
                    i += some;
                    j += some;
                } else {
                    to[offset] = part_[static_cast<size_t>(i++)];
                    ++j;
                    for (size_t a = inner_.size(); a-- > 0;) {
                        offset += inner_[a].stride;
                        if (++index[a] < inner_[a].n) break;
                        offset -= inner_[a].n * inner_[a].stride;
                        index[a] = 0;
                    }
                }
                if (j == inner) j = 0, ++token;
            }
            done += now;
        }
        for (size_t i = outer_.size(); i-- > 0;) {
            if (++place[i] < outer_[i].n) break;
            place[i] = 0;
        }
    }
    return {};
}

} // namespace attnscope::formats
