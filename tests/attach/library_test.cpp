// What the library that goes into programs asks of them, and shows them.
#include "support/shell.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <set>
#include <sstream>
#include <string>

using namespace attnscope::test;

namespace {

const std::string library = ATTNSCOPE_ATTACH_LIBRARY;

// Programs run with the glibc of their system, which may be as old as that of manylinux2014.
TEST(AttachLibrary, NeedsNoNewerGlibcThan217) {
    const Answer symbols = shell("objdump -T " + library);
    if (symbols.code != 0) GTEST_SKIP() << "no objdump here";
    std::istringstream in(symbols.output);
    size_t n = 0;
    for (std::string word; in >> word;) {
        const size_t at = word.find("GLIBC_2.");
        if (at == std::string::npos) continue;
        ++n;
        EXPECT_LE(std::atoi(word.c_str() + at + 8), 17) << word;
    }
    EXPECT_GT(n, 20u);
}

// No C++ runtime, no llama, no SQLite: what is not in every program that computes comes with it.
TEST(AttachLibrary, NeedsNothingButTheSystem) {
    const Answer header = shell("objdump -p " + library);
    if (header.code != 0) GTEST_SKIP() << "no objdump here";
    std::istringstream in(header.output);
    std::set<std::string> needed;
    for (std::string word; in >> word;) {
        if (word == "NEEDED" && in >> word) needed.insert(word);
    }
    EXPECT_EQ(needed, (std::set<std::string>{"libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0"}));
}

} // namespace
