// Mistakes with a Result are told in the words of its error.
#include <attnscope/error.h>

#include <gtest/gtest.h>

#include <string>

using namespace attnscope;

namespace {

template <typename Use> std::string told(const Use& use) {
    try {
        use();
    } catch (const std::logic_error& e) {
        return e.what();
    }
    return "";
}

} // namespace

TEST(Result, OfAnErrorTellsItsSentenceWhenItsValueIsTaken) {
    Result<std::string> failed = Error{ErrorKind::not_found, "sky.attn does not exist"};
    const Result<std::string>& constant = failed;
    const std::string sentence = "the value of a Result was taken that is an error: sky.attn does not exist";
    EXPECT_EQ(told([&] { (void)failed->size(); }), sentence);
    EXPECT_EQ(told([&] { (void)*failed; }), sentence);
    EXPECT_EQ(told([&] { (void)failed.value(); }), sentence);
    EXPECT_EQ(told([&] { (void)constant->size(); }), sentence);
    EXPECT_EQ(told([&] { (void)*constant; }), sentence);
    EXPECT_EQ(told([&] { const std::string moved = *std::move(failed); }), sentence);
}

TEST(Result, OfAValueHasNoError) {
    const Result<int> good = 1;
    EXPECT_EQ(*good, 1);
    EXPECT_NE(told([&] { (void)good.error(); }), "");
    EXPECT_NE(told([&] { (void)Result<void>().error(); }), "");
}
