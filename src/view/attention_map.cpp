// Maps: rows of many tokens, folded into tiles.
#include "base/cores.h"
#include "view/tile_sums.h"

#include <attnscope/attention_map.h>
#include <attnscope/attention_request.h>

#include <algorithm>
#include <new>
#include <string>

namespace attnscope {

namespace {

using namespace view;

constexpr size_t max_map_numbers = size_t(1) << 28;
constexpr size_t max_mean_numbers = size_t(1) << 24; // of the mean rows that are in memory at once

Error bad(std::string message) {
    return {ErrorKind::invalid_argument, std::move(message)};
}

Result<void> check_range(const char* name, const Range& range, int64_t size) {
    if (range.begin < 0 || range.end < range.begin)
        return bad(std::string(name) + " must be [begin, end) with 0 <= begin <= end");
    if (range.end <= size) return {};
    return Error{ErrorKind::not_found, std::string(name) + " end at " + std::to_string(range.end) + ", but there are " +
                                           std::to_string(size)};
}

Result<void> check_map(AttentionSource& source, const MapRequest& r) {
    if (auto ok = check_selection(r.rows, source.geometry()); !ok) return ok;
    if (auto ok = check_range("tokens", r.tokens, source.size()); !ok) return ok;
    if (auto ok = check_range("columns", r.columns, source.size()); !ok) return ok;
    if (r.tokens.begin == r.tokens.end) return bad("tokens must hold at least one token");
    if (r.tokens_per_tile < 1 || r.columns_per_tile < 1)
        return bad("a tile must have at least one token and one column");
    return {};
}

// Where a map is put together.
class Maker {
public:
    Maker(AttentionSource& source, KeyReader& keys, const MapRequest& request)
        : source_(source), keys_(keys), request_(request), selection_(select_rows(request.rows, source.geometry())),
          crew_(own_crew(request.n_threads > 0 ? request.n_threads : static_cast<int32_t>(base::n_cores()))) {
        tiling_.tokens = request.tokens;
        tiling_.columns = request.columns.begin < request.columns.end ? request.columns : Range{0, request.tokens.end};
        tiling_.tokens_per_tile = std::min(request.tokens_per_tile, request.tokens.end - request.tokens.begin);
        tiling_.columns_per_tile = std::min(request.columns_per_tile, tiling_.columns.end - tiling_.columns.begin);
    }

    Result<AttentionMap> make() {
        if (auto ok = start(); !ok) return ok.error();
        const bool single = tiling_.tokens_per_tile == 1 && tiling_.columns_per_tile == 1;
        Result<void> done = request_.each_row && single                                  ? copy_rows()
                            : !request_.each_row && request_.value == TileValue::largest ? largest_means()
                                                                                         : sum_tiles();
        if (!done) return done.error();
        if (map_.n_rows == 0) map_.n_rows = selection_.n_rows; // no token has its queries
        return std::move(map_);
    }

private:
    Result<void> start() {
        map_.columns = tiling_.columns;
        map_.shape = {tiling_.n_lines(), tiling_.n_tiles()};
        size_t n = static_cast<size_t>(tiling_.n_lines()) * static_cast<size_t>(tiling_.n_tiles());
        bool too_large = n > max_map_numbers;
        if (request_.each_row) {
            map_.shape.insert(map_.shape.begin(), {static_cast<int64_t>(selection_.layers.size()), selection_.n_heads});
            const size_t n_maps = selection_.layers.size() * static_cast<size_t>(selection_.n_heads);
            too_large = too_large || n > max_map_numbers / std::max<size_t>(n_maps, 1);
            n *= n_maps;
        }
        if (too_large) return bad("the map has too many numbers: ask for larger tiles, or for fewer layers or heads");
        map_.values.assign(n, 0.0f);
        map_.n_tokens.assign(static_cast<size_t>(tiling_.n_lines()), 0);
        with_rows_.assign(selection_.layers.size() * static_cast<size_t>(tiling_.n_lines()), 0);
        return {};
    }

    // Calls rows(batch) for the tokens of the request, batch by batch.
    template <class F> Result<void> each_batch(int64_t max_tokens, F&& rows) {
        for (int64_t at = request_.tokens.begin; at < request_.tokens.end;) {
            auto batch = load_tokens(source_, selection_, at, request_.tokens.end, max_tokens);
            if (!batch) return batch.error();
            at = batch->end;
            for (const TokenBatch::Token& token : batch->tokens) count(token);
            if (batch->tokens.empty()) continue;
            if (Result<void> done = rows(*batch); !done) return done;
        }
        return {};
    }

    const LayerInfo& layer(size_t place) const {
        return source_.geometry().layers[static_cast<size_t>(selection_.layers[place].layer)];
    }
    void count(const TokenBatch::Token& token) {
        const auto line = static_cast<size_t>(tiling_.line_of(token.index));
        const int64_t n_rows = rows_of_token(selection_, source_.geometry(), token.visible);
        map_.n_tokens[line] += n_rows > 0 || selection_.n_rows == 0 ? 1 : 0;
        for (size_t l = 0; l < selection_.layers.size(); ++l) {
            if (selection_.layers[l].n_rows > 0 && has_rows(layer(l), token.visible))
                ++with_rows_[l * map_.n_tokens.size() + line];
        }
        map_.n_rows = std::max(map_.n_rows, n_rows);
    }
    // Rows that a line of tiles is the mean of: of one head of the layer at `place`, or of all that are selected.
    double rows_in(size_t line, size_t place) const {
        const size_t n_lines = map_.n_tokens.size();
        if (request_.each_row) return static_cast<double>(with_rows_[place * n_lines + line]);
        double n = 0;
        for (size_t l = 0; l < selection_.layers.size(); ++l)
            n += static_cast<double>(with_rows_[l * n_lines + line]) * static_cast<double>(selection_.layers[l].n_rows);
        return n;
    }

    Result<void> compute(const TokenBatch& batch, RowTaker& taker) {
        return compute_batch(source_, keys_, selection_, batch, request_.exact, *crew_, taker);
    }

    Result<void> copy_rows() {
        RowCopies copies(tiling_, selection_, map_.values);
        return each_batch(request_.tokens.end - request_.tokens.begin, [&](const TokenBatch& batch) {
            copies.start_batch(batch);
            return compute(batch, copies);
        });
    }

    Result<void> sum_tiles() {
        TileSums sums(tiling_, selection_, request_.each_row, request_.value, crew_->size());
        auto done = each_batch(request_.tokens.end - request_.tokens.begin, [&](const TokenBatch& batch) {
            sums.start_batch(batch);
            return compute(batch, sums);
        });
        if (!done) return done;
        const auto n_tiles = static_cast<size_t>(tiling_.n_tiles());
        for (size_t p = 0; p < sums.n_planes(); ++p) {
            const std::span<const double> plane = sums.plane(p);
            for (size_t i = 0; i < plane.size(); ++i) {
                const size_t place = p / static_cast<size_t>(std::max(selection_.n_heads, 1));
                const double n = request_.value == TileValue::largest ? 1.0 : rows_in(i / n_tiles, place);
                map_.values[p * plane.size() + i] = n > 0 ? static_cast<float>(plane[i] / n) : 0.0f;
            }
        }
        return {};
    }

    // The largest entries of mean rows, which must be complete first.
    Result<void> largest_means() {
        const int64_t width = tiling_.columns.end - tiling_.columns.begin;
        const auto most = std::max<int64_t>(1, static_cast<int64_t>(max_mean_numbers) / width);
        return each_batch(most, [&](const TokenBatch& batch) -> Result<void> {
            const Tiling rows{{batch.tokens.front().index, batch.end}, tiling_.columns, 1, 1};
            TileSums sums(rows, selection_, false, TileValue::share, crew_->size());
            sums.start_batch(batch);
            if (auto done = compute(batch, sums); !done) return done;
            for (const TokenBatch::Token& token : batch.tokens) {
                const auto mean = sums.plane(0).subspan(static_cast<size_t>(rows.line_of(token.index) * width),
                                                        static_cast<size_t>(width));
                const auto n_rows = static_cast<double>(
                    std::max<int64_t>(rows_of_token(selection_, source_.geometry(), token.visible), 1));
                float* const line = map_.values.data() + tiling_.line_of(token.index) * tiling_.n_tiles();
                for (size_t j = 0; j < mean.size(); ++j) {
                    const auto value = static_cast<float>(mean[j] / n_rows);
                    float& tile = line[static_cast<int64_t>(j) / tiling_.columns_per_tile];
                    if (!(value <= tile)) tile = value;
                }
            }
            return {};
        });
    }

    AttentionSource& source_;
    KeyReader& keys_;
    const MapRequest& request_;
    const SelectedRows selection_;
    const std::unique_ptr<Crew> crew_;
    Tiling tiling_;
    AttentionMap map_;
    std::vector<int64_t> with_rows_; // (selected layers, lines): tokens with rows in the layer
};

} // namespace

Result<AttentionMap> attention_map(AttentionSource& source, const MapRequest& request) try {
    KeyReader* const keys = key_reader(source);
    if (!keys) return bad("the source is neither a KeyStore nor of AttentionSource::of");
    if (auto ok = check_map(source, request); !ok) return ok.error();
    if (auto ok = check_plans(*keys, source.geometry(), request.rows); !ok) return ok.error();
    return Maker(source, *keys, request).make();
} catch (const std::bad_alloc&) {
    return Error{ErrorKind::io, "no memory for a map of attention"};
}

} // namespace attnscope
