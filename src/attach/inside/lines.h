// Which line of text each token of a graph continues: told by the cells that it sees, because nobody else tells us.
#pragma once

#include <attnscope/types.h>

#include <cstdint>
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

// The lines of one cache. Every token's predecessor is the visible cell with the highest position below its own; where somebody
// else has gone on from there already, a line branches off.
class Lines {
public:
    static constexpr int64_t none = -1;

    // Tokens in the order of the graph. `visible`: the cells that it may look at.
    Place place(int32_t position, int64_t cell, const Ranges& visible);
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
    void take_back(int64_t line, int64_t length) { lengths_[size_t(line)] = length; }
    int64_t n_lines() const { return static_cast<int64_t>(lengths_.size()); }
    int64_t length(int64_t line) const { return lengths_[size_t(line)]; }

private:
    struct Cell {
        int64_t line = none;
        int64_t index = 0;
        int32_t position = 0;
    };
    struct Before {
        const Cell* cell = nullptr; // null: none
        bool unknown = false;
    };
    // A token placed lately, and what it saw: the predecessor of its line's next token almost always.
    struct Recent {
        int64_t cell = none;
        Ranges visible;
    };
    Before before(int32_t position, int64_t cell, const Ranges& visible) const;
    Cell& at(int64_t cell);
    void holds_something_else(int64_t cell);
    void remember(int64_t before, int64_t cell, const Ranges& visible);
    std::vector<Cell> cells_;
    std::vector<int64_t> lengths_; // by line: tokens it has, shared ones among them
    std::vector<Recent> recent_;   // the newest last
};

} // namespace attnscope::attach
