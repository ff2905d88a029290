// Maps: rows of many tokens, folded into tiles.
#include "view/key_reader.h"
#include "view/reductions.h"
#include "view/selection.h"

#include <attnscope/attention_map.h>
#include <attnscope/attention_view.h>

#include <algorithm>
#include <new>
#include <string>

namespace attnscope {

namespace {

Error bad(std::string message) { return {ErrorKind::invalid_argument, std::move(message)}; }

Result<void> check_map(AttentionSource& source, const MapRequest& r) {
    if (auto ok = check_selection(r.rows, source.geometry()); !ok) return ok;
    if (r.tokens.begin < 0 || r.tokens.begin >= r.tokens.end) return bad("tokens must be [begin, end) with 0 <= begin < end");
    if (r.tokens.end > source.size())
        return Error{ErrorKind::not_found, "tokens end at " + std::to_string(r.tokens.end) + ", but there are " + std::to_string(source.size())};
    if (r.columns.begin < 0 || r.columns.begin > r.columns.end) return bad("columns must be [begin, end) with 0 <= begin <= end");
    if (r.columns.end > source.size())
        return Error{ErrorKind::not_found, "columns end at " + std::to_string(r.columns.end) + ", but there are " + std::to_string(source.size())};
    if (r.tokens_per_tile < 1 || r.columns_per_tile < 1) return bad("a tile must have at least one token and one column");
    return {};
}

int64_t tiles_of(int64_t n, int64_t per_tile) { return n / per_tile + (n % per_tile != 0); }

} // namespace

Result<AttentionMap> attention_map(AttentionSource& source, const MapRequest& r) try {
    if (auto ok = check_map(source, r); !ok) return ok.error();
    AttentionRequest request;
    request.rows = r.rows;
    request.reduce = r.each_row ? Reduce::none : Reduce::mean;
    ViewOptions options;
    options.n_threads = r.n_threads;
    auto view = AttentionView::create(source, request, options);
    if (!view) return view.error();
    const view::Selection selection = view::select_rows(r.rows, source.geometry());
    AttentionMap map;
    map.columns = r.columns.begin < r.columns.end ? r.columns : Range{0, r.tokens.end};
    map.n_rows = selection.n_rows;
    const int64_t n_token_tiles = tiles_of(r.tokens.end - r.tokens.begin, r.tokens_per_tile);
    const int64_t n_column_tiles = tiles_of(map.columns.end - map.columns.begin, r.columns_per_tile);
    const size_t n_maps = r.each_row ? selection.layers.size() * static_cast<size_t>(selection.n_heads) : 1;
    map.shape = {n_token_tiles, n_column_tiles};
    if (r.each_row) map.shape.insert(map.shape.begin(), {static_cast<int64_t>(selection.layers.size()), selection.n_heads});
    const auto plane = static_cast<size_t>(n_token_tiles * n_column_tiles);
    if (plane > view::max_answer_floats / std::max<size_t>(n_maps, 1)) return bad("the map is too large: ask for larger tiles");
    map.values.assign(n_maps * plane, 0.0f);
    map.n_tokens.assign(static_cast<size_t>(n_token_tiles), 0);
    std::vector<double> sums(map.values.size(), 0.0);
    auto done = (*view)->each(r.tokens, [&](AttentionAnswer&& answer) -> Result<void> {
        const int64_t line = (answer.index - r.tokens.begin) / r.tokens_per_tile;
        ++map.n_tokens[static_cast<size_t>(line)];
        const auto n = static_cast<size_t>(answer.n_columns);
        for (size_t m = 0; m < n_maps; ++m) {
            const size_t to = m * plane + static_cast<size_t>(line * n_column_tiles);
            for (int64_t j = map.columns.begin; j < std::min(map.columns.end, answer.n_columns); ++j) {
                const float w = answer.values[m * n + static_cast<size_t>(j)];
                const size_t tile = to + static_cast<size_t>((j - map.columns.begin) / r.columns_per_tile);
                if (r.value == TileValue::share) sums[tile] += static_cast<double>(w);
                else map.values[tile] = std::max(map.values[tile], w);
            }
        }
        return {};
    });
    if (!done) return done.error();
    if (r.value == TileValue::share) {
        for (size_t i = 0; i < sums.size(); ++i) {
            const int64_t n = map.n_tokens[i % plane / static_cast<size_t>(n_column_tiles)];
            map.values[i] = n > 0 ? static_cast<float>(sums[i] / static_cast<double>(n)) : 0.0f;
        }
    }
    return map;
} catch (const std::bad_alloc&) {
    return Error{ErrorKind::io, "no memory for a map of attention"};
}

} // namespace attnscope
