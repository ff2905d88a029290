// What a stranger writes under "attention".
#include "server/dialects/attention_json.h"

#include <gtest/gtest.h>

using namespace attnscope;
using namespace attnscope::server;
using Json = nlohmann::json;

namespace {

std::string refusal(const char* text) {
    const auto fields = read_attention(Json::parse(text));
    return fields ? "accepted" : fields.error().message;
}

} // namespace

TEST(AttentionJson, ReadsEveryField) {
    const auto fields =
        read_attention(Json::parse(R"({"layers": [0, 5.0], "heads": 3, "reduce": "spans", "format": "u8",
        "window": 64, "top_k": 9, "spans": [[0, 4], {"characters": [2, 7]}], "every": 5,
        "accumulate": ["brightness", "total", "total"], "window_rows": 8})"));
    ASSERT_TRUE(fields) << fields.error().message;
    const AttentionRequest& r = fields.value().request;
    EXPECT_EQ(r.rows.layers, (std::vector<int32_t>{0, 5}));
    EXPECT_EQ(r.rows.heads, (std::vector<int32_t>{3}));
    EXPECT_EQ(r.reduce, Reduce::spans);
    EXPECT_EQ(r.format, AttentionFormat::u8);
    EXPECT_EQ(r.window, 64);
    EXPECT_EQ(r.top_k, 9);
    EXPECT_EQ(r.spans, (std::vector<Range>{{0, 4}, {2, 7}}));
    EXPECT_EQ(fields.value().character_spans, (std::vector<size_t>{1}));
    EXPECT_EQ(r.every, 5);
    EXPECT_EQ(r.accumulate, (std::vector<Accumulate>{Accumulate::brightness, Accumulate::total}));
    EXPECT_EQ(r.window_rows, 8);
}

TEST(AttentionJson, NothingAndNullMeanTheDefaults) {
    for (const char* text :
         {"{}", R"({"layers": null, "reduce": null, "spans": null, "accumulate": null, "top_k": null})"}) {
        const auto fields = read_attention(Json::parse(text));
        ASSERT_TRUE(fields);
        EXPECT_EQ(fields.value().request.reduce, Reduce::none);
        EXPECT_TRUE(fields.value().request.rows.layers.empty());
        EXPECT_TRUE(fields.value().request.accumulate.empty());
        EXPECT_EQ(fields.value().request.every, 1);
    }
}

TEST(AttentionJson, RefusalsNameTheField) {
    const std::pair<const char*, const char*> cases[] = {
        {R"([])", "\"attention\""},
        {R"({"layer": 1})", "\"attention.layer\""},
        {R"({"layers": [1, -1]})", "\"attention.layers\""},
        {R"({"layers": "all"})", "\"attention.layers\""},
        {R"({"layers": [[1]]})", "\"attention.layers\""},
        {R"({"heads": 0.5})", "\"attention.heads\""},
        {R"({"heads": [99999999999]})", "\"attention.heads\""},
        {R"({"reduce": "sum"})", "\"attention.reduce\""},
        {R"({"reduce": 3})", "\"attention.reduce\""},
        {R"({"reduce": "spans"})", "\"attention.spans\""},
        {R"({"format": "f64"})", "\"attention.format\""},
        {R"({"window": -1})", "\"attention.window\""},
        {R"({"window": 1e300})", "\"attention.window\""},
        {R"({"window": 18446744073709551615})", "\"attention.window\""},
        {R"({"top_k": 0})", "\"attention.top_k\""},
        {R"({"top_k": true})", "\"attention.top_k\""},
        {R"({"every": 0})", "\"attention.every\""},
        {R"({"window_rows": 513})", "\"attention.window_rows\""},
        {R"({"accumulate": "everything"})", "\"attention.accumulate\""},
        {R"({"accumulate": {"total": true}})", "\"attention.accumulate\""},
        {R"({"spans": [[3, 2]]})", "\"attention.spans\""},
        {R"({"spans": [[0, 1, 2]]})", "\"attention.spans\""},
        {R"({"spans": [{"characters": [0, 1], "more": 1}]})", "\"attention.spans\""},
        {R"({"spans": [{"characters": 4}]})", "\"attention.spans\""},
        {R"({"spans": {"a": [0, 1]}})", "\"attention.spans\""},
    };
    for (const auto& [text, start] : cases)
        EXPECT_TRUE(refusal(text).starts_with(start)) << text << ": " << refusal(text);
    Json many = {{"spans", Json::array()}};
    for (size_t i = 0; i <= max_spans; ++i) many["spans"].push_back({0, 1});
    EXPECT_FALSE(read_attention(many));
}

TEST(AttentionJson, FieldsOfTheCallerAreSkipped) {
    const std::string_view others[] = {"flow"};
    EXPECT_TRUE(read_attention(Json::parse(R"({"flow": "latest"})"), others));
    EXPECT_FALSE(read_attention(Json::parse(R"({"flow": "latest"})")));
}

TEST(AttentionJson, SpansOfCharactersBecomeColumns) {
    auto fields = read_attention(Json::parse(R"({"reduce": "spans", "spans": [{"characters": [6, 11]}, [0, 1]]})"));
    ASSERT_TRUE(fields);
    const std::vector<std::string> pieces{"<s>", "hello", " wor", "ld"};
    ASSERT_TRUE(resolve_character_spans(*fields, pieces, "hello world"));
    EXPECT_EQ(fields.value().request.spans, (std::vector<Range>{{2, 4}, {0, 1}}));
    EXPECT_TRUE(fields.value().character_spans.empty());
    auto beyond = read_attention(Json::parse(R"({"spans": [{"characters": [6, 12]}]})"));
    ASSERT_TRUE(beyond);
    const auto refused = resolve_character_spans(*beyond, pieces, "hello world");
    ASSERT_FALSE(refused);
    EXPECT_TRUE(refused.error().message.starts_with("\"attention.spans\""));
}
