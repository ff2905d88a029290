// One stored array whose axes are known, cut into tokens of (layers, heads, keys): whatever order the axes lie in, only
// one token (or, where a token's numbers do not lie together, a batch of bounded size) is in memory.
#pragma once

#include "formats/array_axes.h"
#include "formats/stored_array.h"

#include <attnscope/error.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace attnscope::formats {

class ArrayTokens {
public:
    // Errors: unsupported (the axes do not fit, or a token is larger than what is read). Bytes that are missing come
    // from next() in their place: what is there is still readable.
    static Result<std::unique_ptr<ArrayTokens>> make(StoredArray array, const std::vector<Axis>& axes);

    const std::string& name() const { return array_.name; }
    int64_t n_tokens() const { return tokens_; }
    int32_t n_layer() const { return static_cast<int32_t>(layers_); }
    int32_t n_head() const { return static_cast<int32_t>(heads_); }
    int64_t n_context() const { return context_; }
    bool stacked() const { return stacked_; } // there is an axis of tokens or queries
    bool queries() const { return queries_; } // it is one of queries
    int64_t elements() const { return layers_ * heads_ * context_; }
    // Reads the next token into elements() numbers; call n_tokens() times. After an error nothing more can be read.
    Result<void> next(float* out);

private:
    struct Extent {
        int64_t n = 1;
        int64_t stride = 0; // of the token's own order (layers, heads, keys)
    };
    ArrayTokens() = default;
    Result<void> fill_batch();

    StoredArray array_;
    int64_t tokens_ = 1, layers_ = 1, heads_ = 1, context_ = 1;
    bool stacked_ = false, queries_ = false;
    std::vector<Extent> outer_, inner_; // axes that lie outside and inside of the tokens' axis, slowest first
    bool together_ = false;             // a token is one stretch in the token's own order
    bool rows_in_order_ = false;        // what lies inside of the tokens' axis is one stretch of the token
    int64_t at_ = 0;
    std::vector<float> batch_, part_; // tokens [batch_begin_, batch_end_)
    int64_t batch_begin_ = 0, batch_end_ = 0;
};

} // namespace attnscope::formats
