// Names and bounds of requests.
#include <attnscope/attention_request.h>

#include "base/enum_names.h"

#include <algorithm>
#include <array>

namespace attnscope {

namespace {

constexpr base::EnumNames<Reduce, 9> reduces{{
    {Reduce::none, "none"},
    {Reduce::mean, "mean"},
    {Reduce::max, "max"},
    {Reduce::per_layer, "per_layer"},
    {Reduce::top_k, "top_k"},
    {Reduce::spans, "spans"},
    {Reduce::lookback_ratio, "lookback_ratio"},
    {Reduce::entropy, "entropy"},
    {Reduce::first_share, "first_share"},
}};
constexpr base::EnumNames<AttentionFormat, 3> formats{{
    {AttentionFormat::f32, "f32"},
    {AttentionFormat::f16, "f16"},
    {AttentionFormat::u8, "u8"},
}};
constexpr base::EnumNames<Accumulate, 5> accumulates{{
    {Accumulate::total, "total"},
    {Accumulate::mean, "mean"},
    {Accumulate::window_mean, "window_mean"},
    {Accumulate::last, "last"},
    {Accumulate::brightness, "brightness"},
}};

Error refuse(const std::string& message) {
    return {ErrorKind::invalid_argument, message};
}

// Each chosen once, and in [0, n).
Result<void> check_chosen(const char* field, const std::vector<int32_t>& chosen, int32_t n) {
    std::vector<bool> seen(static_cast<size_t>(std::max(n, 0)));
    for (const int32_t i : chosen) {
        if (i < 0 || i >= n) {
            return refuse(std::string(field) + " asks for " + std::to_string(i) + ", but this model has " +
                          std::to_string(n) + " (0 is the first)");
        }
        if (seen[static_cast<size_t>(i)])
            return refuse(std::string(field) + " asks for " + std::to_string(i) + " twice");
        seen[static_cast<size_t>(i)] = true;
    }
    return {};
}

} // namespace

const char* reduce_name(Reduce reduce) {
    return base::name_of(reduces, reduce);
}
Result<Reduce> reduce_from_name(std::string_view name) {
    return base::value_of(reduces, name, "reduce");
}
const char* attention_format_name(AttentionFormat format) {
    return base::name_of(formats, format);
}
Result<AttentionFormat> attention_format_from_name(std::string_view name) {
    return base::value_of(formats, name, "format");
}
const char* accumulate_name(Accumulate what) {
    return base::name_of(accumulates, what);
}
Result<Accumulate> accumulate_from_name(std::string_view name) {
    return base::value_of(accumulates, name, "accumulate");
}

bool is_of_mean(Reduce reduce) {
    return reduce == Reduce::mean || reduce == Reduce::top_k || reduce == Reduce::spans;
}

bool needs_mean(const AttentionRequest& request) {
    return !request.accumulate.empty() || is_of_mean(request.reduce);
}

Result<void> check_selection(const RowSelection& rows, const Geometry& geometry) {
    if (auto ok = check_chosen("layers", rows.layers, geometry.n_layer()); !ok) return ok.error();
    return check_chosen("heads", rows.heads, geometry.max_heads());
}

Result<void> check_request(const AttentionRequest& request, const Geometry& geometry) {
    if (auto ok = check_selection(request.rows, geometry); !ok) return ok.error();
    if (request.window < 0) return refuse("window must not be negative");
    if (request.top_k < 1 || request.top_k > max_top_k)
        return refuse("top_k must be from 1 to " + std::to_string(max_top_k));
    if (request.every < 1) return refuse("every must be at least 1");
    if (request.window_rows < 1 || request.window_rows > max_window_rows)
        return refuse("window_rows must be from 1 to " + std::to_string(max_window_rows));
    if (request.spans.size() > max_spans)
        return refuse("spans: at most " + std::to_string(max_spans) + " of them can be asked for");
    if (request.reduce == Reduce::spans && request.spans.empty()) return refuse("spans must name at least one span");
    for (size_t i = 0; i < request.spans.size(); ++i) {
        if (request.spans[i].begin < 0 || request.spans[i].end < request.spans[i].begin)
            return refuse("spans: number " + std::to_string(i) + " must be [begin, end) with 0 <= begin <= end");
    }
    return {};
}

} // namespace attnscope
