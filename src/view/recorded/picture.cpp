#include "view/recorded/picture.h"

#include "base/parallel_for.h"
#include "view/recorded/blocks.h"

#include <fmt/format.h>

#include <ggml.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>
#include <new>

namespace attnscope::view {

namespace {

// Sums and maxima of one line of cells.
struct Line {
    std::vector<double> sum;
    std::vector<float> max;
    explicit Line(size_t n) : sum(n, 0.0), max(n, 0.0f) {}
    void add(std::span<const float> row, int64_t side) {
        const auto step = static_cast<size_t>(side);
        for (size_t c = 0, j = 0; c < sum.size() && j < row.size(); ++c) {
            float most = max[c];
            double all = 0;
            for (const size_t end = std::min(row.size(), j + step); j < end; ++j) {
                all += double(row[j]);
                most = std::max(most, row[j]);
            }
            sum[c] += all;
            max[c] = most;
        }
    }
};

// The mean (or maximum) rows of so many tokens at a time: whole lines of cells, and not more memory than 128 MB.
int64_t tokens_at_once(int64_t n, int64_t per_cell) {
    return std::max(per_cell, (int64_t(1) << 25) / std::max<int64_t>(n, 1) / per_cell * per_cell);
}

// Calls set(line, cell, mean, max) for every cell of the finest level.
template <class Set>
Result<void> fill(const RecordedTensors& t, const Selection& selection, int64_t per_cell, const Progress& progress,
                  int64_t side, const Set& set) {
    const int64_t n = t.size(), n_at_once = tokens_at_once(n, per_cell);
    const std::vector<int32_t> layers = t.layers_of(selection);
    const auto n_rows = static_cast<float>(t.n_rows(selection));
    std::vector<float> mean;
    // Every row passes by: finer tiles, and whoever asks who reads a token, need not compute them again.
    std::vector<std::vector<std::vector<double>>> denominators; // (layer, head, token)
    std::atomic<bool> all_have_parts{true};
    for (const int32_t layer : layers) {
        const Range heads = t.heads_of(selection, layer);
        denominators.emplace_back(
            static_cast<size_t>(heads.end - heads.begin),
            std::vector<double>(static_cast<size_t>(n), std::numeric_limits<double>::quiet_NaN()));
    }
    const double whole = double(n) * double(n) * double(layers.size());
    for (int64_t begin = 0; begin < n; begin += n_at_once) {
        const Range tokens{begin, std::min(n, begin + n_at_once)};
        int64_t wide = 0;
        for (int64_t i = tokens.begin; i < tokens.end; ++i) wide = std::max(wide, t.n_columns(i));
        const auto width = static_cast<size_t>(wide);
        mean.assign(width * static_cast<size_t>(tokens.end - tokens.begin), 0.0f);
        const auto row_of = [&](int64_t i) {
            return std::span(mean).subspan(static_cast<size_t>(i - tokens.begin) * width,
                                           static_cast<size_t>(t.n_columns(i)));
        };
        double done = double(begin) * double(begin) * double(layers.size());
        for (size_t l = 0; l < layers.size(); ++l) {
            const int32_t layer = layers[l];
            const Range heads = t.heads_of(selection, layer);
            const auto add = [&](int32_t head, int64_t first, size_t n_tokens, const attention::BlockRows& rows) {
                if (!rows.has_parts) all_have_parts = false;
                std::vector<double>& own = denominators[l][static_cast<size_t>(head - heads.begin)];
                for (size_t r = 0; r < n_tokens && rows.has_parts; ++r)
                    own[static_cast<size_t>(first) + r] = denominator(rows, r, n_tokens);
                std::vector<float> row;
                for (size_t r = 0; r < n_tokens; ++r) {
                    const std::span<float> to = row_of(first + static_cast<int64_t>(r));
                    row.resize(to.size());
                    copy_row(rows, r, row);
                    if (selection.max)
                        for (size_t j = 0; j < row.size(); ++j) to[j] = std::max(to[j], row[j]);
                    else
                        for (size_t j = 0; j < row.size(); ++j) to[j] += row[j];
                }
            };
            done += double(tokens.end) * double(tokens.end) - double(begin) * double(begin);
            if (progress && !progress(std::min(1.0, done / whole)))
                return Error{ErrorKind::io, "stopped before it was done"};
            if (Result<void> r = each_block(t, layer, heads, tokens, add); !r) return r;
        }
        const int64_t first_line = begin / per_cell, end_line = (tokens.end + per_cell - 1) / per_cell;
        base::parallel_for_all(static_cast<size_t>(end_line - first_line), [&](size_t at) {
            const int64_t line_at = first_line + static_cast<int64_t>(at);
            Line line(static_cast<size_t>(side));
            for (int64_t i = line_at * per_cell; i < std::min(n, (line_at + 1) * per_cell); ++i) {
                const auto own = static_cast<float>(t.has_rows(i) ? t.n_rows(selection, i) : 0);
                if (!selection.max && own > 0 && own < n_rows) // fewer rows than others have
                    for (float& w : row_of(i)) w *= n_rows / own;
                line.add(row_of(i), per_cell);
            }
            const double share = 1.0 / (double(per_cell * per_cell) * (selection.max ? 1.0 : double(n_rows)));
            for (int64_t c = 0; c < side; ++c) {
                const auto cell = static_cast<size_t>(c);
                set(line_at, c, static_cast<float>(line.sum[cell] * share),
                    selection.max ? line.max[cell] : line.max[cell] / n_rows);
            }
        });
    }
    for (size_t l = 0; l < layers.size() && all_have_parts; ++l) {
        const auto first = static_cast<int32_t>(t.heads_of(selection, layers[l]).begin);
        for (size_t h = 0; h < denominators[l].size(); ++h)
            t.offer_denominators(layers[l], first + static_cast<int32_t>(h), std::move(denominators[l][h]));
    }
    return {};
}

} // namespace

Result<std::shared_ptr<const Picture>> Picture::make(std::shared_ptr<const RecordedTensors> tensors,
                                                     const Selection& selection, const Progress& progress) {
    if (Result<void> r = tensors->check(selection); !r) return r.error();
    const int64_t n = tensors->size();
    try {
        auto made = std::make_shared<Picture>();
        made->tensors_ = tensors;
        made->selection_ = selection;
        while ((picture_side << made->base_) < n) ++made->base_;
        const int64_t per_cell = int64_t(1) << made->base_;
        Level finest;
        finest.side = (n + per_cell - 1) / per_cell;
        finest.cells.resize(static_cast<size_t>(finest.side * finest.side));
        if (Result<void> r = fill(*tensors, selection, per_cell, progress, finest.side,
                                  [&](int64_t line_at, int64_t c, float mean, float max) {
                                      finest.cells[static_cast<size_t>(line_at * finest.side + c)] = {
                                          ggml_fp32_to_fp16(mean), ggml_fp32_to_fp16(max)};
                                  });
            !r) {
            return r.error();
        }
        made->levels_.push_back(std::move(finest));
        while (made->levels_.back().side > tile_size) {
            const Level& below = made->levels_.back();
            Level level;
            level.side = (below.side + 1) / 2;
            level.cells.resize(static_cast<size_t>(level.side * level.side));
            for (int64_t y = 0; y < level.side; ++y) {
                for (int64_t x = 0; x < level.side; ++x) {
                    float sum = 0, most = 0;
                    for (int64_t dy = 2 * y; dy < std::min(2 * y + 2, below.side); ++dy) {
                        for (int64_t dx = 2 * x; dx < std::min(2 * x + 2, below.side); ++dx) {
                            const Cell& cell = below.cells[static_cast<size_t>(dy * below.side + dx)];
                            sum += ggml_fp16_to_fp32(cell.mean);
                            most = std::max(most, ggml_fp16_to_fp32(cell.max));
                        }
                    }
                    level.cells[static_cast<size_t>(y * level.side + x)] = {ggml_fp32_to_fp16(sum / 4),
                                                                            ggml_fp32_to_fp16(most)};
                }
            }
            made->levels_.push_back(std::move(level));
        }
        made->n_levels_ = made->base_ + static_cast<int32_t>(made->levels_.size());
        return std::shared_ptr<const Picture>(std::move(made));
    } catch (const std::bad_alloc&) {
        return Error{ErrorKind::io, "there is no memory for a picture of this recording"};
    }
}

Result<std::vector<uint16_t>> Picture::tile(int32_t level, int64_t x, int64_t y) const {
    const int64_t across = level >= 0 && level < n_levels_ ? tile_size << level : 0;
    if (across == 0 || x < 0 || y < 0 || x >= (tensors_->size() + across - 1) / across ||
        y >= (tensors_->size() + across - 1) / across) {
        return Error{ErrorKind::not_found, fmt::format("there is no tile {}, {} of level {}", x, y, level)};
    }
    if (level < base_) return computed(level, x, y);
    std::vector<uint16_t> out(static_cast<size_t>(2 * tile_size * tile_size), 0);
    const Level& l = levels_[static_cast<size_t>(level - base_)];
    for (int64_t r = 0; r < std::min(tile_size, l.side - y * tile_size); ++r) {
        for (int64_t c = 0; c < std::min(tile_size, l.side - x * tile_size); ++c) {
            const Cell& cell = l.cells[static_cast<size_t>((y * tile_size + r) * l.side + x * tile_size + c)];
            out[static_cast<size_t>(2 * (r * tile_size + c))] = cell.mean;
            out[static_cast<size_t>(2 * (r * tile_size + c) + 1)] = cell.max;
        }
    }
    return out;
}

Result<std::vector<uint16_t>> Picture::computed(int32_t level, int64_t x, int64_t y) const {
    std::vector<uint16_t> out(static_cast<size_t>(2 * tile_size * tile_size), 0);
    const int64_t side = int64_t(1) << level;
    const int64_t n = tensors_->size();
    const Range columns{x * tile_size * side, std::min(n, (x + 1) * tile_size * side)};
    const auto width = static_cast<size_t>(columns.end - columns.begin);
    const std::vector<int32_t> layers = tensors_->layers_of(selection_);
    std::vector<std::vector<std::span<const double>>> lse(layers.size()); // (layers, heads): of every token
    for (size_t l = 0; l < layers.size(); ++l) {
        const Range heads = tensors_->heads_of(selection_, layers[l]);
        for (int64_t h = heads.begin; h < heads.end; ++h) {
            Result<std::span<const double>> d = tensors_->denominators(layers[l], static_cast<int32_t>(h));
            if (!d) return d.error();
            lse[l].push_back(*d);
        }
    }
    std::mutex mutex;
    Result<void> status;
    base::parallel_for_all(static_cast<size_t>(tile_size), [&](size_t r) {
        Line line(static_cast<size_t>(tile_size));
        std::vector<float> rows, mean, own;
        const int64_t first = (y * tile_size + static_cast<int64_t>(r)) * side;
        for (int64_t i = first; i < std::min(n, first + side); ++i) {
            if (!tensors_->has_rows(i) || tensors_->n_columns(i) <= columns.begin) continue;
            mean.assign(width, 0.0f);
            const auto n_rows = static_cast<float>(std::max<int64_t>(tensors_->n_rows(selection_, i), 1));
            for (size_t l = 0; l < layers.size(); ++l) {
                if (!tensors_->has_rows(i, layers[l])) continue;
                const Range heads = tensors_->heads_of(selection_, layers[l]);
                rows.resize(static_cast<size_t>(heads.end - heads.begin) * width);
                own.clear();
                for (const std::span<const double> head : lse[l])
                    own.push_back(static_cast<float>(head[static_cast<size_t>(i)]));
                if (Result<void> done = tensors_->part(i, layers[l], heads, columns, own, rows); !done) {
                    const std::lock_guard lock(mutex);
                    status = done;
                    return;
                }
                for (size_t h = 0; h < own.size(); ++h) {
                    const float* row = rows.data() + h * width;
                    if (selection_.max)
                        for (size_t j = 0; j < width; ++j) mean[j] = std::max(mean[j], row[j]);
                    else
                        for (size_t j = 0; j < width; ++j) mean[j] += row[j];
                }
            }
            if (!selection_.max)
                for (float& w : mean) w /= n_rows;
            line.add(mean, side);
        }
        for (size_t c = 0; c < static_cast<size_t>(tile_size); ++c) {
            const size_t at = 2 * (r * static_cast<size_t>(tile_size) + c);
            out[at] = ggml_fp32_to_fp16(static_cast<float>(line.sum[c] / double(side * side)));
            out[at + 1] = ggml_fp32_to_fp16(line.max[c]);
        }
    });
    if (!status) return status.error();
    return out;
}

} // namespace attnscope::view
