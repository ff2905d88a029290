// Rows that are not there: what `export`, `diagnose`, `show`, `info` and `capture` make of them. Never zeros that look like an answer.
#include "cli/t5_recording.h"

#include "formats/row_mark.h"

#include <attnscope/recording.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <vector>

namespace attnscope {
namespace {

using Json = nlohmann::json;
using test::Outcome;

class MissingRowsVerbs : public test::T5Recording {
protected:
    void refused(const std::string& arguments, const std::string& sentence) {
        const Outcome o = attnscope(arguments);
        EXPECT_EQ(o.exit_code, 2) << arguments << "\n" << o.errors;
        EXPECT_NE(o.errors.find(sentence), std::string::npos) << arguments << "\n" << o.errors;
    }
    // The numbers of a .npy of float32, and its shape as NumPy writes it.
    static std::vector<float> npy(const std::string& path, std::string& shape) {
        const std::string bytes = test::read_bytes(path);
        const size_t header = 10 + static_cast<unsigned char>(bytes[8]) + 256 * static_cast<unsigned char>(bytes[9]);
        const size_t begin = bytes.find("'shape': (") + 10;
        shape = bytes.substr(begin, bytes.find(')') - begin);
        std::vector<float> values((bytes.size() - header) / sizeof(float));
        std::memcpy(values.data(), bytes.data() + header, values.size() * sizeof(float));
        return values;
    }
    // Lines of a table, which begin with a weight; a text may be "%".
    static size_t weights_in(const std::string& table) {
        size_t n = 0;
        for (size_t at = table.find("% "); at != std::string::npos; at = table.find("% ", at + 1)) ++n;
        return n;
    }
    // Tokens of the text have rows in layers 0 and 1, the others in the rest.
    static bool there(int64_t token, int32_t layer) { return (token < 10) == (layer < 2); }

    std::string export_ = "export " + recording_ + " --to ";
};

TEST_F(MissingRowsVerbs, ArraysHoldNaNWhereThereIsNoRow) {
    auto recording = Recording::open(recording_);
    ASSERT_TRUE(recording);
    ASSERT_EQ(attnscope(export_ + "npy -o " + dir_.file("rows")).exit_code, 0);
    ASSERT_EQ(attnscope(export_ + "npy --padded -o " + dir_.file("rows.npy")).exit_code, 0);
    std::string shape;
    const std::vector<float> padded = npy(dir_.file("rows.npy"), shape);
    EXPECT_EQ(shape, "16, 6, 4, 16, ");
    for (int64_t token = 0; token < 16; ++token) {
        const std::vector<float> own = npy(dir_.file(fmt::format("rows/token_{:05}.npy", token)), shape);
        const auto rows = (*recording)->rows(token);
        ASSERT_TRUE(rows);
        const auto n = static_cast<size_t>(rows->n_columns);
        ASSERT_EQ(own.size(), 24 * n);
        for (size_t r = 0; r < 24; ++r) {
            const bool is_there = there(token, int32_t(r / 4));
            for (size_t j = 0; j < 16; ++j) {
                const float in_padded = padded[(size_t(token) * 24 + r) * 16 + j];
                EXPECT_EQ(std::isnan(in_padded), !is_there) << token << " " << r << " " << j;
                if (j >= n) continue;
                const float x = own[r * n + j];
                if (!is_there) {
                    EXPECT_EQ(std::bit_cast<uint32_t>(x), formats::missing_bits);
                } else {
                    EXPECT_EQ(x, rows->weights[r * n + j]);
                    EXPECT_EQ(in_padded, x);
                }
            }
        }
    }
}

TEST_F(MissingRowsVerbs, ASelectionWithoutARowIsRefusedAndOneWithSomeHoldsThose) {
    refused(export_ + "npy --token 3 --layer 2 -o " + dir_.file("a.npy"), "token 3 has no row in layer 2");
    refused(export_ + "npy --token 3,12 --layer 0 -o " + dir_.file("a"), "token 12 has no row in layer 0");
    refused(export_ + "safetensors --token 12 --layer 1 -o " + dir_.file("a.st"), "token 12 has no row in layer 1");
    refused(export_ + "npy --layer 9 -o " + dir_.file("a"), "there is no layer 9");
    EXPECT_FALSE(std::filesystem::exists(dir_.file("a.npy")));
    const Outcome some = attnscope(export_ + "npy --padded --layer 2,3 -o " + dir_.file("b.npy"));
    ASSERT_EQ(some.exit_code, 0) << some.errors;
    EXPECT_NE(some.errors.find("6 tokens of 16"), std::string::npos) << some.errors;
    std::string shape;
    for (const float x : npy(dir_.file("b.npy"), shape)) ASSERT_FALSE(std::isnan(x));
    EXPECT_EQ(shape, "6, 2, 4, 16, ");
    const std::string none = dir_.file("none.attn");
    ASSERT_EQ(attnscope(read_ + "-n 0 --prompt-rows none -o " + none).exit_code, 0);
    for (const char* to : {"npy", "safetensors", "bertviz", "headvis"})
        refused("export " + none + " --to " + to + " -o " + dir_.file("c"), "quer");
    refused("export " + none + " --to circuitsvis --layer 0 -o " + dir_.file("c"), "without its queries");
}

TEST_F(MissingRowsVerbs, DiagnoseTakesTheMarkForWhatItIs) {
    ASSERT_EQ(attnscope(export_ + "npy -o " + dir_.file("rows")).exit_code, 0);
    ASSERT_EQ(attnscope(export_ + "npy --padded -o " + dir_.file("rows.npy")).exit_code, 0);
    ASSERT_EQ(attnscope(export_ + "safetensors -o " + dir_.file("rows.safetensors")).exit_code, 0);
    for (const std::string what : {"rows", "rows.npy --axes token,layer,head,key", "rows.safetensors"}) {
        const Outcome o = attnscope("diagnose " + dir_.file(what));
        EXPECT_EQ(o.exit_code, 0) << what << "\n" << o.output << o.errors;
        EXPECT_EQ(o.output.find("writing stopped"), std::string::npos) << o.output;
        EXPECT_NE(o.output.find("208 rows of 16 tokens are marked as not there"), std::string::npos) << o.output;
    }
    const Json json = Json::parse(attnscope("diagnose --json " + dir_.file("rows")).output);
    EXPECT_EQ(json["tokens"][3]["missing_rows"], 16);
    for (const Json& sum : json["tokens"][3]["row_sums"])
        EXPECT_NEAR(sum.get<double>(), 1, 1e-5); // of those that are there
    EXPECT_EQ(json["tokens"][12]["missing_rows"], 8);
    ASSERT_EQ(attnscope("filter " + dir_.file("rows") + " -o " + dir_.file("kept")).exit_code, 0);
    const Json kept = Json::parse(test::read_bytes(dir_.file("kept/token_00012_meta.json")));
    EXPECT_EQ(kept["attnscope_kept_as"], "8 of its rows are not there: zeros stand in their place");
    const Outcome again = attnscope("diagnose " + dir_.file("kept"));
    EXPECT_EQ(again.exit_code, 0) << again.output;
    EXPECT_NE(again.output.find("208 rows of 16 tokens"), std::string::npos) << again.output;
    ASSERT_EQ(attnscope("filter " + dir_.file("kept") + " -o " + dir_.file("twice")).exit_code, 0);
    EXPECT_EQ(Json::parse(test::read_bytes(dir_.file("twice/token_00012_meta.json"))), kept);
    // any other NaN is what it was, and so are zeros to the end of a file
    std::string bytes = test::read_bytes(dir_.file("rows/token_00012.npy"));
    std::fill(bytes.end() - 8 * 13 * 4, bytes.end(), '\0');
    test::write_bytes(dir_.file("rows/token_00012.npy"), bytes);
    const Outcome cut = attnscope("diagnose " + dir_.file("rows"));
    EXPECT_EQ(cut.exit_code, 1) << cut.output;
    EXPECT_NE(cut.output.find("writing stopped"), std::string::npos) << cut.output;
}

// Cross attention ends where the decoder's own columns begin: no ring of cells.
TEST_F(MissingRowsVerbs, TheDecodersLayersAreNoRing) {
    const std::string longer = dir_.file("longer.attn");
    ASSERT_EQ(attnscope(read_ + "-n 30 -o " + longer).exit_code, 0);
    for (const char* chosen : {"--layer 2-5", "--token 11-39"}) {
        const std::string out = dir_.file(chosen[2] == 'l' ? "decoders" : "written");
        ASSERT_EQ(attnscope("export " + longer + " --to npy " + chosen + " -o " + out).exit_code, 0);
        const Outcome o = attnscope("diagnose " + out);
        EXPECT_EQ(o.exit_code, 0) << chosen << "\n" << o.output;
    }
    ASSERT_EQ(attnscope("export " + longer + " --to halo-weave --layer 2-5 -o " + dir_.file("halo")).exit_code, 0);
    EXPECT_EQ(attnscope("diagnose " + dir_.file("halo")).exit_code, 0);
}

TEST_F(MissingRowsVerbs, SquarePatternsAreOfOneText) {
    const std::string two_texts = "an encoder and its decoder are two";
    refused(export_ + "bertviz -o " + dir_.file("x"), two_texts);
    refused(export_ + "bertviz --layer 1,2 -o " + dir_.file("x"), "--layer 0,1, or the decoder's, --layer 2,4");
    for (const char* to : {"circuitsvis", "attnview"})
        refused(export_ + to + " --layer 3 -o " + dir_.file("x"), two_texts);
    refused(export_ + "headvis -o " + dir_.file("x"), "attnscope view");
    struct Asked {
        int32_t layer;
        size_t begin, end;
    };
    auto recording = Recording::open(recording_);
    ASSERT_TRUE(recording);
    for (const Asked& a : {Asked{0, 0, 10}, Asked{4, 10, 16}}) {
        const std::string out = dir_.file(fmt::format("layer{}.json", a.layer));
        ASSERT_EQ(attnscope(export_ + fmt::format("circuitsvis --layer {} -o {}", a.layer, out)).exit_code, 0);
        const Json json = Json::parse(test::read_bytes(out));
        ASSERT_EQ(json["tokens"].size(), a.end - a.begin);
        for (size_t h = 0; h < 4; ++h) {
            for (size_t i = a.begin; i < a.end; ++i) {
                const auto row = json["attention"][h][i - a.begin].get<std::vector<double>>();
                const auto expected = (*recording)->rows(int64_t(i), {{a.layer}, {int32_t(h)}});
                ASSERT_TRUE(expected);
                double sum = 0;
                for (size_t j = 0; j < row.size(); ++j) {
                    sum += row[j];
                    const size_t column = a.begin + j;
                    const auto want = column < expected->weights.size() ? double(expected->weights[column]) : 0;
                    EXPECT_NEAR(row[j], want, 1e-5);
                }
                EXPECT_NEAR(sum, 1, 1e-4) << a.layer << " " << i; // a row that is there, and whole
            }
        }
    }
    EXPECT_EQ(attnscope(export_ + "bertviz --layer 2,4 -o " + dir_.file("y")).exit_code, 0);
}

TEST_F(MissingRowsVerbs, HaloWeaveSaysWhyATokenHasNoFile) {
    for (const char* layers : {"", " --layer 2,3,4,5"}) { // no other layer would help
        const std::string halo_weave = export_ + "halo-weave -o " + dir_.file("h") + layers + " --token ";
        refused(halo_weave + "3", "token 3 is of the prompt");
        refused(halo_weave + "10", "token 10 is what the decoder begins with");
        refused(halo_weave + "0-10", "none of these tokens has a file");
    }
    refused(export_ + "halo-weave --token 12 -o " + dir_.file("h"), "--layer 2,3,4,5");
    refused(export_ + "halo-weave --token 99 -o " + dir_.file("h"), "there is no token 99");
    EXPECT_FALSE(std::filesystem::exists(dir_.file("h")));
    const Outcome one = attnscope(export_ + "halo-weave --token 12 --layer 2,3,4,5 -o " + dir_.file("h"));
    ASSERT_EQ(one.exit_code, 0) << one.errors;
    const std::string last = dir_.file("last.attn"); // the row that chose the first token was not kept
    ASSERT_EQ(attnscope(capture_ + "--prompt-rows none -o " + last).exit_code, 0);
    refused("export " + last + " --to halo-weave --token 11 --layer 2,3,4,5 -o " + dir_.file("i"),
            "chosen by the row of token 10, which was recorded without its queries");
}

TEST_F(MissingRowsVerbs, ShowListsNoColumnThatALayerCannotSee) {
    const std::string show = "show " + recording_ + " --token -1 ";
    struct Asked {
        const char* layer;
        size_t begin, end; // columns that it can see
    };
    for (const Asked& a : {Asked{"2", 10, 16}, Asked{"3", 0, 10}, Asked{"2,3", 0, 16}}) {
        SCOPED_TRACE(a.layer);
        const Json json = Json::parse(attnscope(show + "--layer " + a.layer + " --top 20 --values --json").output);
        EXPECT_EQ(json["top"].size(), a.end - a.begin);
        for (const Json& entry : json["top"]) {
            EXPECT_GE(entry["column"], a.begin);
            EXPECT_LT(entry["column"], a.end);
        }
        ASSERT_EQ(json["values"].size(), 16u);
        for (size_t j = 0; j < 16; ++j) EXPECT_EQ(json["values"][j].is_null(), j < a.begin || j >= a.end) << j;
        const Outcome table = attnscope(show + "--layer " + a.layer + " --top 20");
        EXPECT_EQ(table.output.find("0.0000%"), std::string::npos) << table.output;
        EXPECT_EQ(weights_in(table.output), a.end - a.begin) << table.output;
        const Outcome values = attnscope(show + "--layer " + a.layer + " --values");
        EXPECT_EQ(size_t(std::count(values.output.begin(), values.output.end(), '\n')), a.end - a.begin);
        EXPECT_EQ(values.output.substr(0, values.output.find('\t')), std::to_string(a.begin));
    }
    // of the decoder's own layer the first position is the decoder's
    const Outcome hidden = attnscope(show + "--layer 2 --top 20 --hide-first");
    EXPECT_EQ(weights_in(hidden.output), 5u) << hidden.output;
    const Outcome alone = attnscope("show " + recording_ + " --token 10 --layer 2 --top 3 --hide-first");
    EXPECT_EQ(alone.exit_code, 0);
    EXPECT_NE(alone.output.find("no other position"), std::string::npos) << alone.output;
}

TEST_F(MissingRowsVerbs, ShowSaysTheSameInJson) {
    const std::string show = "show " + recording_ + " ";
    const Json generated = Json::parse(attnscope(show + "--generated --hide-first --json").output);
    const Outcome text = attnscope(show + "--generated --hide-first --top 5");
    EXPECT_EQ(generated["generated"], 5);
    EXPECT_EQ(generated["tokens"], (Json{11, 16}));
    EXPECT_FALSE(generated.contains("token")) << "it is of five";
    const double share = generated["first_share"];
    EXPECT_NE(text.output.find(
                  fmt::format("5 generated tokens looked at (mean of {} rows; first position hidden, it has {:.1f}%)",
                              generated["rows"].get<int>(), 100 * share)),
              std::string::npos)
        << text.output;
    for (const Json& entry : generated["top"])
        EXPECT_NE(text.output.find(fmt::format("{:.4f}%", 100 * entry["weight"].get<double>())), std::string::npos);
    for (const char* hide : {"", " --hide-first"}) {
        const Json json = Json::parse(attnscope(show + "--layer 3 --values --json" + hide).output);
        const Outcome values = attnscope(show + "--layer 3 --values" + hide);
        std::string expected;
        for (size_t j = 0; j < json["values"].size(); ++j) {
            if (!json["values"][j].is_null())
                expected += fmt::format("{}\t{:.9g}\n", j, json["values"][j].get<float>());
        }
        EXPECT_EQ(values.output, expected) << hide;
        EXPECT_EQ(json["values"][0].is_null(), *hide != 0);
    }
}

TEST_F(MissingRowsVerbs, InfoNumbersLayersAsTheRecordingDoesAndAsTheModel) {
    const Json info = Json::parse(attnscope("info --json " + recording_).output);
    const int32_t of_model[] = {0, 1, 0, 0, 1, 1};
    ASSERT_EQ(info["layers"].size(), 6u);
    for (size_t i = 0; i < 6; ++i) {
        EXPECT_EQ(info["layers"][i]["index"], i);
        EXPECT_EQ(info["layers"][i]["layer"], of_model[i]);
    }
    EXPECT_EQ(info["rows_per_token"], (Json{{"encoder", 8}, {"decoder", 16}})); // no token has 24
    const Outcome text = attnscope("info " + recording_);
    EXPECT_NE(text.output.find("8 rows a token of the encoder's text, 16 a token of the decoder"), std::string::npos)
        << text.output;
}

TEST_F(MissingRowsVerbs, CaptureCountsTheRowsThatAreThere) {
    EXPECT_NE(said_of_capture_.find("recorded 16 tokens and 176 rows of attention, at most 16 a token"),
              std::string::npos)
        << said_of_capture_;
    EXPECT_NE(said_of_capture_.find("attnscope show "), std::string::npos);
    const Json json = Json::parse(attnscope(capture_ + "--json -o " + dir_.file("j.attn")).output);
    EXPECT_EQ(json["rows"], 10 * 8 + 6 * 16);
    EXPECT_EQ(json["rows_per_token"], 16);
    const Outcome none = attnscope(read_ + "-n 0 --prompt-rows none -o " + dir_.file("none.attn"));
    EXPECT_EQ(none.exit_code, 0);
    EXPECT_NE(none.errors.find("no row of attention"), std::string::npos) << none.errors;
    EXPECT_EQ(none.errors.find("attnscope show "), std::string::npos) << "show would refuse it: " << none.errors;
    EXPECT_NE(none.errors.find("attnscope info "), std::string::npos);
    const Outcome some = attnscope(read_ + "-n 0 --prompt-rows last:2 -o " + dir_.file("some.attn"));
    EXPECT_NE(some.errors.find("10 tokens and 16 rows of attention"), std::string::npos) << some.errors;
    EXPECT_NE(some.errors.find("attnscope show "), std::string::npos);
}

} // namespace
} // namespace attnscope
