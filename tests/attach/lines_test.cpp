// Which line a token continues is told by what it sees.
#include "attach/inside/lines.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

using namespace attnscope;
using attach::Lines;
using attach::Place;

namespace {

TEST(AttachLines, ATokenContinuesWhatItSeesLast) {
    Lines lines;
    for (int i = 0; i < 5; ++i) {
        const Place p = lines.place(i, i, {{0, i + 1}});
        EXPECT_EQ(p.line, 0);
        EXPECT_EQ(p.index, i);
        EXPECT_EQ(p.begins, i == 0);
    }
}

TEST(AttachLines, ATokenThatSeesNothingBeginsALine) {
    Lines lines;
    lines.place(0, 0, {{0, 1}});
    lines.place(1, 1, {{0, 2}});
    const Place p = lines.place(0, 2, {{2, 3}});
    EXPECT_TRUE(p.begins && p.alone);
    EXPECT_EQ(p.line, 1);
    EXPECT_EQ(p.parent, Lines::none);
    EXPECT_EQ(p.n_shared, 0);
}

// Two lines in one unified cache, their cells interleaved, as a server's slots have them.
TEST(AttachLines, LinesInOneCacheAreKeptApart) {
    Lines lines;
    Ranges a, b;
    for (int i = 0; i < 6; ++i) {
        const int64_t cell_a = 2 * i, cell_b = 2 * i + 1;
        a.push_back({cell_a, cell_a + 1});
        b.push_back({cell_b, cell_b + 1});
        EXPECT_EQ(lines.place(i, cell_a, a).line, 0);
        const Place p = lines.place(i, cell_b, b);
        EXPECT_EQ(p.line, 1);
        EXPECT_EQ(p.index, i);
    }
}

TEST(AttachLines, TakenBackAndGoneOnOtherwiseBranchesOff) {
    Lines lines;
    for (int i = 0; i < 5; ++i) lines.place(i, i, {{0, i + 1}});
    const Place p = lines.place(3, 3, {{0, 4}}); // cells 3 and 4 were given back
    EXPECT_TRUE(p.begins);
    EXPECT_EQ(p.line, 1);
    EXPECT_EQ(p.parent, 0);
    EXPECT_EQ(p.n_shared, 3);
    EXPECT_EQ(p.index, 3);
    const Place next = lines.place(4, 4, {{0, 5}});
    EXPECT_EQ(next.line, 1);
    EXPECT_FALSE(next.begins);
}

// A ring of a sliding window: the newest cell may have the smallest number.
TEST(AttachLines, PositionsAndNotCellsTellWhatIsLast) {
    Lines lines;
    for (int i = 0; i < 4; ++i) lines.place(i, i, {{0, i + 1}});
    const Place p = lines.place(4, 0, {{0, 4}});
    EXPECT_EQ(p.line, 0);
    EXPECT_EQ(p.index, 4);
    EXPECT_EQ(lines.place(5, 1, {{0, 4}}).index, 5);
}

TEST(AttachLines, CellsOfUnknownContentContinueNothing) {
    Lines lines;
    for (int i = 0; i < 3; ++i) lines.place(i, i, {{0, i + 1}});
    lines.forget_cell(2);
    const Place p = lines.place(3, 3, {{0, 4}});
    EXPECT_TRUE(p.unknown);
    EXPECT_TRUE(lines.place(4, 4, {{0, 5}}).unknown); // nor does what goes on from there
    EXPECT_EQ(lines.n_lines(), 1);
    EXPECT_TRUE(lines.place(0, 9, {{9, 10}}).begins);
    EXPECT_TRUE(Lines().place(5, 5, {{0, 6}}).unknown); // cells that were never stored to
}

// A text that was put back goes on as what it was, although others had its cells.
TEST(AttachLines, RestoredCellsGoOnAsWhatTheyWere) {
    Lines lines;
    for (int i = 0; i < 4; ++i) lines.place(i, i, {{0, i + 1}});
    for (int i = 0; i < 3; ++i) lines.place(i, i, {{0, i + 1}});
    const int64_t n = lines.n_lines();
    for (int i = 0; i < 4; ++i) lines.restore_cell(i, 0, i, i);
    const Place p = lines.place(4, 4, {{0, 5}});
    EXPECT_FALSE(p.begins);
    EXPECT_EQ(p.line, 0);
    EXPECT_EQ(p.index, 4);
    EXPECT_EQ(lines.n_lines(), n);
}

// Keys by cell; of tokens by line and index.
struct Keys : attach::Readings {
    std::map<int64_t, char> cells;
    std::map<std::pair<int64_t, int64_t>, char> tokens;
    std::vector<attach::KnownToken> of(int64_t cell) const override {
        std::vector<attach::KnownToken> found;
        for (const auto& [token, key] : tokens) {
            if (cells.at(cell) == key) found.push_back({token.first, token.second, int32_t(token.second)});
        }
        return found;
    }
    bool holds(int64_t cell, int64_t line, int64_t index) const override {
        return tokens.at({line, index}) == cells.at(cell);
    }
};

// Line 0 of five tokens, and line 1, which is the same text read again; 2 and 3 branch off them, each with its third token.
// What was put back was looked at cell by cell, and of keys that are the same the later line's was taken for it.
class ATextThatWasReadTwice : public testing::Test {
protected:
    void SetUp() override {
        for (int n = 0; n < 2; ++n) {
            for (int i = 0; i < 5; ++i) lines.place(i, i, {{0, i + 1}});
        }
        for (const int64_t n : {0, 1}) {
            for (int i = 0; i < 5; ++i) lines.restore_cell(i, n, i, i);
            EXPECT_EQ(lines.place(2, 2, {{0, 3}}).line, 2 + n);
        }
        keys.tokens = {{{0, 0}, 'a'}, {{0, 1}, 'b'}, {{1, 0}, 'a'}, {{1, 1}, 'B'}, {{2, 2}, 'c'}, {{3, 2}, 'c'}};
    }
    Place next(const std::string& there, const std::vector<int64_t>& taken_for) {
        for (int i = 0; i < 3; ++i) {
            keys.cells[i] = there[size_t(i)];
            lines.restore_cell(i, taken_for[size_t(i)], i, i);
        }
        return lines.place(3, 3, {{0, 4}}, &keys);
    }
    Lines lines;
    Keys keys;
};

TEST_F(ATextThatWasReadTwice, IsToldByAllThatIsSeen) {
    EXPECT_EQ(next("abc", {1, 0, 3}).line, 2);
    EXPECT_EQ(lines.place(4, 4, {{0, 5}}, &keys).line, 2);
    EXPECT_EQ(next("aBc", {0, 1, 2}).line, 3);
}

TEST_F(ATextThatWasReadTwice, IsNeitherWhereNoLineHasAllOfIt) {
    keys.tokens.erase({2, 2}); // it is forgotten
    const Place p = next("abc", {1, 0, 3});
    EXPECT_TRUE(p.unknown);
    EXPECT_TRUE(lines.place(4, 4, {{0, 5}}, &keys).unknown);
}

TEST_F(ATextThatWasReadTwice, IsNeverToldByCellsThatAGraphHasStored) {
    next("aBc", {0, 1, 3});
    lines.place(0, 0, {{0, 1}});                             // another text's
    EXPECT_TRUE(lines.place(4, 4, {{0, 5}}, &keys).unknown); // sees it before what is line 3's
}

TEST(AttachLines, AFailedGraphIsTakenBack) {
    Lines lines;
    for (int i = 0; i < 4; ++i) lines.place(i, i, {{0, i + 1}});
    lines.take_back(0, 3);
    lines.forget_cell(3);
    const Place p = lines.place(3, 7, {{0, 3}, {7, 8}});
    EXPECT_EQ(p.line, 0);
    EXPECT_EQ(p.index, 3);
}

// What Lines says, found by looking at every cell that a token sees.
class EveryCell {
public:
    Place place(int32_t position, int64_t cell, const Ranges& visible) {
        const Cell* last = nullptr;
        Place p;
        for (const Range& r : visible) {
            for (int64_t c = r.begin; c < r.end; ++c) {
                if (c == cell) continue;
                const auto seen = cells_.find(c);
                if (seen == cells_.end()) {
                    cells_.erase(cell);
                    p.unknown = true;
                    return p;
                }
                if (seen->second.position < position && (!last || seen->second.position > last->position))
                    last = &seen->second;
            }
        }
        p.alone = !last;
        p.index = last ? last->index + 1 : 0;
        p.begins = !last || p.index != lengths_[size_t(last->line)];
        p.line = p.begins ? static_cast<int64_t>(lengths_.size()) : last->line;
        if (p.begins) {
            p.parent = last ? last->line : Lines::none;
            p.n_shared = p.index;
            lengths_.push_back(p.index);
        }
        ++lengths_[size_t(p.line)];
        cells_[cell] = {p.line, p.index, position};
        return p;
    }
    void forget_cell(int64_t cell) { cells_.erase(cell); }

private:
    struct Cell {
        int64_t line, index;
        int32_t position;
    };
    std::map<int64_t, Cell> cells_;
    std::vector<int64_t> lengths_;
};

// Sequences in one cache, or each in its own part of it, as servers have them: they go on in turns, branch off each other, are taken
// back and begun again in cells that others have left, look back over a window only, and somebody else writes to cells.
TEST(AttachLines, AreThoseThatALookAtEveryCellFinds) {
    for (uint32_t seed = 0; seed < 300; ++seed) {
        std::mt19937 random(seed);
        const auto below = [&](size_t n) { return static_cast<int64_t>(random() % n); };
        Lines lines;
        EveryCell expected;
        struct Sequence {
            std::vector<int64_t> cells; // by position
        };
        const size_t n_cells = 24 + size_t(below(60));
        const int64_t window = seed % 3 == 0 ? 3 + below(8) : 1000;
        std::vector<Sequence> sequences(1 + size_t(below(40)));
        std::vector<int> users(n_cells, 0);
        const auto cut = [&](Sequence& s, size_t n) {
            for (; s.cells.size() > n; s.cells.pop_back()) --users[size_t(s.cells.back())];
        };
        for (int step = 0; step < 400; ++step) {
            Sequence& s = sequences[size_t(below(sequences.size()))];
            const int64_t what = below(20);
            if (what == 0) cut(s, size_t(below(s.cells.size() + 1)));
            if (what == 1) {
                const Sequence& from = sequences[size_t(below(sequences.size()))];
                if (&from != &s) {
                    cut(s, 0);
                    const size_t n = size_t(below(from.cells.size() + 1));
                    s.cells.assign(from.cells.begin(), from.cells.begin() + static_cast<ptrdiff_t>(n));
                    for (const int64_t c : s.cells) ++users[size_t(c)];
                }
            }
            if (what == 2) {
                const int64_t cell = below(n_cells);
                lines.forget_cell(cell);
                expected.forget_cell(cell);
            }
            if (what < 3) continue;
            const auto free = std::find(users.begin(), users.end(), 0);
            if (free == users.end()) {
                cut(s, 0);
                continue;
            }
            const auto cell = static_cast<int64_t>(free - users.begin());
            s.cells.push_back(cell);
            ++users[size_t(cell)];
            const auto position = static_cast<int32_t>(s.cells.size()) - 1;
            std::vector<int64_t> seen;
            for (int64_t p = std::max<int64_t>(0, position - window); p <= position; ++p)
                seen.push_back(s.cells[size_t(p)]);
            std::sort(seen.begin(), seen.end());
            Ranges visible;
            for (const int64_t c : seen) {
                if (!visible.empty() && visible.back().end == c)
                    ++visible.back().end;
                else
                    visible.push_back({c, c + 1});
            }
            const Place p = lines.place(position, cell, visible), q = expected.place(position, cell, visible);
            ASSERT_EQ(std::tie(p.line, p.index, p.begins, p.parent, p.n_shared, p.alone, p.unknown),
                      std::tie(q.line, q.index, q.begins, q.parent, q.n_shared, q.alone, q.unknown))
                << "seed " << seed << ", step " << step;
        }
    }
}

} // namespace
