// Structs that have grown, and callers from before.
#include "c_api/status.h"

#include <gtest/gtest.h>

#include <cstddef>

namespace {

struct Grown {
    size_t struct_size;
    int32_t old_field;
    int32_t new_field;
};

} // namespace

template <> constexpr size_t attnscope::c_api::first_size<Grown> = offsetof(Grown, new_field);

using namespace attnscope::c_api;

TEST(Structs, OfAnOlderHeaderAreReadAndWrittenAsFarAsTheyGo) {
    Grown given{offsetof(Grown, new_field), 7, 13}; // 13: what happens to lie behind the caller's struct
    ASSERT_TRUE(check_struct(&given, "Grown"));
    const Grown read = taken(&given, {0, 1, 2});
    EXPECT_EQ(read.old_field, 7);
    EXPECT_EQ(read.new_field, 2) << "a field that the caller does not know is ours";
    give(&given, {0, 8, 9});
    EXPECT_EQ(given.struct_size, offsetof(Grown, new_field));
    EXPECT_EQ(given.old_field, 8);
    EXPECT_EQ(given.new_field, 13) << "nothing is written behind the caller's struct";
}

TEST(Structs, OfOurHeaderAreReadAndWrittenWhole) {
    Grown given{sizeof(Grown), 7, 13};
    EXPECT_EQ(taken(&given, {0, 1, 2}).new_field, 13);
    give(&given, {0, 8, 9});
    EXPECT_EQ(given.new_field, 9);
    EXPECT_EQ(given.struct_size, sizeof(Grown));
}

TEST(Structs, ShorterThanTheFirstVersionAreRefused) {
    const Grown given{offsetof(Grown, old_field), 0, 0};
    EXPECT_FALSE(check_struct(&given, "Grown"));
    EXPECT_FALSE(check_struct<Grown>(nullptr, "Grown"));
}

TEST(Structs, OfVersionOneKeepTheirSizes) { // whoever adds a field leaves these as they are
    EXPECT_EQ(first_size<attnscope_recording_info>, 56u);
    EXPECT_EQ(first_size<attnscope_frame>, 28u);
    EXPECT_EQ(first_size<attnscope_verify_result>, 56u);
    EXPECT_EQ(first_size<attnscope_session_params>, 56u);
    EXPECT_EQ(first_size<attnscope_generate_params>, 40u);
}
