// What is added to the logits of tokens before one is chosen.
#include "served_model.h"

#include <gtest/gtest.h>

using namespace attnscope;
using namespace attnscope::test;

namespace {

Json asking(const Json& bias) {
    return {{"prompt", "The capital of France is"}, {"max_length", 1}, {"temperature", 0}, {"logit_bias", bias}};
}

} // namespace

TEST(LogitBias, ForbidsAndForcesInAllItsForms) {
    ServedModel served(Served::real);
    ASSERT_TRUE(served.ok()) << served.error();
    const auto text = [&](const Json& bias) {
        return served.post("/api/v1/generate", asking(bias))["results"][0]["text"].get<std::string>();
    };
    const std::string plain = text(nullptr);
    const auto tokens_of = [&](const std::string& words) {
        return served.post("/api/v1/tokenize", {{"text", words}, {"add_special_tokens", false}})["token_ids"];
    };
    const Json ids = tokens_of(plain);
    ASSERT_EQ(ids.size(), 1u);
    const int32_t id = ids[0], other = tokens_of(" zebra")[0];
    for (const Json& forbids :
         {Json{{std::to_string(id), -100}}, Json{{std::to_string(id), false}}, Json{{plain, false}},
          Json::array({{id, false}}), Json::array({{id, -100.0}}), Json::array({{plain, false}})}) {
        EXPECT_NE(text(forbids), plain) << forbids.dump();
    }
    const std::string zebra = served.post("/api/v1/detokenize", {{"token_ids", {other}}})["text"];
    for (const Json& forces : {Json{{std::to_string(other), 100}}, Json::array({{other, 100}}), Json{{zebra, 1000}}}) {
        EXPECT_EQ(text(forces), zebra) << forces.dump();
    }
    EXPECT_EQ(text(Json::object()), plain);
    EXPECT_EQ(text(Json::array()), plain);
    for (const Json& wrong :
         {Json(3), Json("5"), Json{{"5", "much"}}, Json{{"5", true}}, Json{{"99999999", 1}}, Json{{"-1", 1}},
          Json{{"", 1}}, Json::array({5}), Json::array({{5}}), Json::array({{5, 1, 2}}), Json::array({{1.5, 1}}),
          Json::array({{nullptr, 1}}), Json::array({{-1, 1}}), Json::array({{uint64_t(1) << 63, 1}}),
          Json{{"99999999999999999999999", 1}}}) {
        Json answer;
        EXPECT_EQ(served.status("/api/v1/generate", asking(wrong).dump(), &answer), 400) << wrong.dump();
        EXPECT_NE(answer["detail"]["msg"].get<std::string>().find("logit_bias"), std::string::npos) << answer.dump();
    }
}
