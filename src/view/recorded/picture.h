// The weights of a selection as a picture (query down, column across), in tiles of 256 x 256 cells. A cell of level L is 2^L x 2^L
// weights: their mean, because that is what is there, and their maximum, because a mean hides spikes.
#pragma once

#include "view/recorded/tensors.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace attnscope::view {

constexpr int64_t tile_size = 256;
constexpr int64_t picture_side = 2048; // cells along a side of the finest level that is kept

class Picture {
public:
    // One pass over the rows of the selection. Memory: 4 bytes a cell, picture_side^2 cells and a third more.
    static Result<std::shared_ptr<const Picture>> make(std::shared_ptr<const RecordedTensors> tensors,
                                                       const Selection& selection, const Progress& progress = {});

    int32_t n_levels() const { return n_levels_; } // level n_levels() - 1 is one tile
    // (256, 256, 2) half floats: mean and maximum. Levels finer than the kept ones are computed from the rows they show.
    // not_found: there is no such tile.
    Result<std::vector<uint16_t>> tile(int32_t level, int64_t x, int64_t y) const;

private:
    struct Cell {
        uint16_t mean = 0, max = 0;
    };
    struct Level {
        int64_t side = 0;
        std::vector<Cell> cells; // (side, side)
    };
    Result<std::vector<uint16_t>> computed(int32_t level, int64_t x, int64_t y) const;

    std::shared_ptr<const RecordedTensors> tensors_;
    Selection selection_;
    int32_t base_ = 0; // the finest level that is kept
    int32_t n_levels_ = 0;
    std::vector<Level> levels_; // [0]: level base_
};

} // namespace attnscope::view
