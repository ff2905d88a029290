// Which line a token continues is told by what it sees.
#include "attach/inside/lines.h"

#include <gtest/gtest.h>

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

TEST(AttachLines, AFailedGraphIsTakenBack) {
    Lines lines;
    for (int i = 0; i < 4; ++i) lines.place(i, i, {{0, i + 1}});
    lines.take_back(0, 3);
    lines.forget_cell(3);
    const Place p = lines.place(3, 7, {{0, 3}, {7, 8}});
    EXPECT_EQ(p.line, 0);
    EXPECT_EQ(p.index, 3);
}

} // namespace
