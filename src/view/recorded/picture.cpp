#include "view/recorded/picture.h"

#include "base/parallel_for.h"

#include <fmt/format.h>

#include <ggml.h>

#include <algorithm>
#include <atomic>
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
        for (size_t j = 0; j < row.size(); ++j) {
            const size_t c = j / static_cast<size_t>(side);
            if (c >= sum.size()) return;
            sum[c] += double(row[j]);
            max[c] = std::max(max[c], row[j]);
        }
    }
};

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
        std::mutex mutex;
        Result<void> status;
        std::atomic<int64_t> done{0};
        std::atomic<bool> stop{false};
        base::parallel_for_all(static_cast<size_t>(finest.side), [&](size_t line_at) {
            Line line(static_cast<size_t>(finest.side));
            std::vector<float> rows, mean;
            const std::vector<int32_t> layers = tensors->layers_of(selection);
            const double n_rows = double(tensors->n_rows(selection));
            for (int64_t i = static_cast<int64_t>(line_at) * per_cell;
                 i < std::min(n, static_cast<int64_t>(line_at + 1) * per_cell); ++i) {
                if (stop || !tensors->has_rows(i)) continue;
                const auto width = static_cast<size_t>(tensors->n_columns(i));
                mean.assign(width, 0.0f);
                for (const int32_t layer : layers) {
                    const Range heads = tensors->heads_of(selection, layer);
                    rows.resize(static_cast<size_t>(heads.end - heads.begin) * width);
                    if (Result<void> r = tensors->rows(i, layer, heads, rows); !r) {
                        const std::lock_guard lock(mutex);
                        status = r;
                        stop = true;
                        return;
                    }
                    for (size_t h = 0; h < static_cast<size_t>(heads.end - heads.begin); ++h) {
                        const float* row = rows.data() + h * width;
                        if (selection.max)
                            for (size_t j = 0; j < width; ++j) mean[j] = std::max(mean[j], row[j]);
                        else
                            for (size_t j = 0; j < width; ++j) mean[j] += row[j];
                    }
                }
                if (!selection.max)
                    for (float& w : mean) w /= static_cast<float>(n_rows);
                line.add(mean, per_cell);
            }
            for (size_t c = 0; c < line.sum.size(); ++c) {
                Cell& cell = finest.cells[line_at * static_cast<size_t>(finest.side) + c];
                cell.mean = ggml_fp32_to_fp16(static_cast<float>(line.sum[c] / double(per_cell * per_cell)));
                cell.max = ggml_fp32_to_fp16(line.max[c]);
            }
            done += static_cast<int64_t>(line_at);
            if (progress && line_at % 16 == 0) {
                const std::lock_guard lock(mutex);
                if (!progress(std::min(1.0, 2.0 * double(done) / double(finest.side * finest.side)))) {
                    status = Error{ErrorKind::io, "stopped before it was done"};
                    stop = true;
                }
            }
        });
        if (!status) return status.error();
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
    const auto n_rows = static_cast<float>(tensors_->n_rows(selection_));
    std::vector<std::span<const float>> lse;
    for (const int32_t layer : layers) {
        Result<std::span<const float>> d = tensors_->denominators(layer);
        if (!d) return d.error();
        lse.push_back(*d);
    }
    std::mutex mutex;
    Result<void> status;
    base::parallel_for_all(static_cast<size_t>(tile_size), [&](size_t r) {
        Line line(static_cast<size_t>(tile_size));
        std::vector<float> rows, mean;
        const int64_t first = (y * tile_size + static_cast<int64_t>(r)) * side;
        for (int64_t i = first; i < std::min(n, first + side); ++i) {
            if (!tensors_->has_rows(i) || tensors_->n_columns(i) <= columns.begin) continue;
            mean.assign(width, 0.0f);
            for (size_t l = 0; l < layers.size(); ++l) {
                const Range heads = tensors_->heads_of(selection_, layers[l]);
                const auto n_head =
                    static_cast<size_t>(tensors_->geometry().layers[static_cast<size_t>(layers[l])].n_head);
                rows.resize(static_cast<size_t>(heads.end - heads.begin) * width);
                const auto own = lse[l].subspan(static_cast<size_t>(i) * n_head + static_cast<size_t>(heads.begin),
                                                static_cast<size_t>(heads.end - heads.begin));
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
