// Some cells of a cache.
#pragma once

#include <attnscope/types.h>

namespace attnscope::attach {

// Few runs of many cells: as long as all that somebody writes at once.
class CellSet {
public:
    // False: all of them were in it.
    bool add(const Range& cells);
    void remove(const Range& cells);
    bool empty() const { return ranges_.empty(); }
    const Ranges& ranges() const { return ranges_; }
    Ranges both(const Ranges& others) const; // sorted, disjoint

private:
    Ranges ranges_;
};

} // namespace attnscope::attach
