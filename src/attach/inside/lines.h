// Which line of text each token of a graph continues: told by the cells that it sees, because nobody else tells us.
#pragma once

#include "attach/inside/cache_contents.h"

#include <attnscope/types.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace attnscope::attach {

// A token's place in its line.
struct Place {
    int64_t line = 0;
    int64_t index = 0;
    bool begins = false; // the line is new with this token
    int64_t parent = -1, n_shared = 0;
    bool alone = false; // it sees nothing before itself
    // It sees a cell of which nobody knows what it holds: it continues nothing that we know, and has no place.
    bool unknown = false;
};

// Of a cell whose keys were written back: those of a text that was read twice may be the same here, and others elsewhere.
class Readings {
public:
    virtual ~Readings() = default;
    virtual std::vector<KnownToken> of(int64_t cell) const = 0; // the tokens whose keys these are; the latest last
    virtual bool holds(int64_t cell, int64_t line, int64_t index) const = 0;
};

// The lines of one cache. Every token's predecessor is the visible cell with the highest position below its own; where somebody
// else has gone on from there already, a line branches off. All that it sees must be of that one's line.
class Lines {
public:
    static constexpr int64_t none = -1;

    // Tokens in the order of the graph. `visible`: the cells that it may look at. `readings`: of cells that were restored.
    Place place(int32_t position, int64_t cell, const Ranges& visible, const Readings* readings = nullptr);
    // The token that one would go on from.
    struct Predecessor {
        int64_t cell = none, line = none, index = 0;
        bool unknown = false;
    };
    Predecessor predecessor(int32_t position, int64_t cell, const Ranges& visible) const;
    // A cell holds what no graph has stored.
    void forget_cell(int64_t cell);
    // A cell holds a token that has had its place before: its keys were written back there.
    void restore_cell(int64_t cell, int64_t line, int64_t index, int32_t position);
    // The graph failed: what it stored in `cells` is not there, and a line is as long as it was.
    void take_back(int64_t line, int64_t length) { lines_[size_t(line)].length = length; }
    int64_t n_lines() const { return static_cast<int64_t>(lines_.size()); }
    int64_t length(int64_t line) const { return lines_[size_t(line)].length; }
    // The line that the token at `index` of `line` is one of the own of: itself, or who it shares it with.
    int64_t owner(int64_t line, int64_t index) const;

private:
    struct Cell {
        int64_t line = none;
        int64_t index = 0;
        int32_t position = 0;
        bool restored = false;
    };
    struct Line {
        int64_t length = 0; // shared tokens among them
        int64_t parent = none, n_shared = 0;
    };
    struct Before {
        const Cell* cell = nullptr; // null: none
        bool unknown = false;
        bool lately = false; // placed lately, and all that is seen was of its line
    };
    // A token placed lately, and what it saw: the predecessor of its line's next token almost always.
    struct Recent {
        int64_t cell = none;
        Ranges visible;
    };
    Before before(int32_t position, int64_t cell, const Ranges& visible) const;
    // The token that is gone on from, as which all that is seen is of one line; the cells say so then. None: nothing fits.
    const Cell* settle(const Cell& last, int32_t position, int64_t cell, const Ranges& visible,
                       const Readings* readings);
    // Visits what is seen and is not of that token's line, until told to stop.
    void strangers(const KnownToken& last, int32_t position, int64_t cell, const Ranges& visible,
                   const std::function<bool(int64_t cell, int64_t owner)>& visit) const;
    Cell& at(int64_t cell);
    void holds_something_else(int64_t cell);
    void remember(int64_t before, int64_t cell, const Ranges& visible);
    std::vector<Cell> cells_;
    std::vector<Line> lines_;
    std::vector<Recent> recent_; // the newest last
};

} // namespace attnscope::attach
