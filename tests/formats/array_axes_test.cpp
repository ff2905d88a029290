// What the axes of an array are taken for, stated, and refused where there are two readings.
#include "formats/dump_files.h"
#include "support/temp_dir.h"

#include <attnscope/diagnose.h>
#include <attnscope/dump_reader.h>

#include <gtest/gtest.h>

#include <filesystem>

using namespace attnscope;
using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

constexpr int64_t n_layer = 4, n_head = 6, n_query = 24;

// A prompt's map [layer, head, query, key] of a causal model, and the tokens it is made of.
struct Prompt {
    std::vector<float> values;
    std::vector<SyntheticToken> tokens;
    const float* row(int64_t l, int64_t h, int64_t q) const {
        return values.data() + ((l * n_head + h) * n_query + q) * n_query;
    }
};

Prompt make_prompt() {
    SyntheticShape shape;
    shape.n_layer = int32_t(n_layer);
    shape.n_head = int32_t(n_head);
    shape.n_head_kv = 2;
    SyntheticModel model(shape, 5);
    Prompt prompt;
    prompt.values.assign(size_t(n_layer * n_head * n_query * n_query), 0.0f);
    for (int64_t q = 0; q < n_query; ++q) {
        prompt.tokens.push_back(model.attention(q));
        for (int64_t l = 0; l < n_layer; ++l) {
            for (int64_t h = 0; h < n_head; ++h) {
                std::copy_n(prompt.tokens.back().row(int32_t(l), int32_t(h)), q + 1,
                            prompt.values.begin() + ((l * n_head + h) * n_query + q) * n_query);
            }
        }
    }
    return prompt;
}

// Each token of the prompt, in the order of the queries.
void expect_prompt(const std::string& path, const Prompt& prompt, int32_t layers = int32_t(n_layer),
                   const CaptureOptions& options = {}) {
    auto reader = DumpReader::open(path, options);
    ASSERT_TRUE(reader) << path << ": " << reader.error().message;
    EXPECT_EQ((*reader)->info().n_tokens, n_query) << path;
    EXPECT_NE((*reader)->info().axes.find("query 24, key 24"), std::string::npos) << (*reader)->info().axes;
    EXPECT_FALSE((*reader)->info().axes_why.empty());
    for (int64_t q = 0; q < n_query; ++q) {
        auto token = (*reader)->next();
        ASSERT_TRUE(token && *token) << path;
        ASSERT_EQ((*token)->n_layer, layers) << path;
        ASSERT_EQ((*token)->n_head, n_head) << path;
        EXPECT_EQ((*token)->own_column, q);
        for (int64_t l = 0; l < layers; ++l) {
            for (int64_t h = 0; h < n_head; ++h) {
                const float* expected = prompt.row(l, h, q);
                const float* got = (*token)->values.data() + (l * n_head + h) * n_query;
                ASSERT_TRUE(std::equal(expected, expected + n_query, got)) << path << " layer " << l << " query " << q;
            }
        }
    }
    EXPECT_TRUE((*reader)->at_end());
}

std::string error_of(const std::string& path, const CaptureOptions& options = {}) {
    auto reader = DumpReader::open(path, options);
    return reader ? "" : reader.error().message;
}

Diagnosis diagnosed(const std::string& path, const CaptureOptions& options = {}) {
    auto reader = DumpReader::open(path, options);
    EXPECT_TRUE(reader) << path << ": " << (reader ? "" : reader.error().message);
    if (!reader) return {};
    auto diagnosis = diagnose_dump(**reader);
    EXPECT_TRUE(diagnosis);
    return diagnosis ? *diagnosis : Diagnosis{};
}

std::vector<float> layer_of(const Prompt& prompt, int64_t l) {
    const int64_t n = n_head * n_query * n_query;
    return {prompt.values.begin() + l * n, prompt.values.begin() + (l + 1) * n};
}

} // namespace

TEST(ArrayAxes, ReadsAPromptsMapsInEveryFormThatProgramsWrite) {
    TempDir dir;
    const Prompt prompt = make_prompt();
    const std::vector<int64_t> shape = {n_layer, n_head, n_query, n_query};
    write_bytes(dir.file("c.npy"), npy_bytes(shape, prompt.values));
    expect_prompt(dir.file("c.npy"), prompt);
    write_bytes(dir.file("f.npy"), npy_bytes(shape, prompt.values, true));
    expect_prompt(dir.file("f.npy"), prompt);
    // torch.stack(outputs.attentions): a batch of 1 between layers and heads
    write_bytes(dir.file("five.npy"), npy_bytes({n_layer, 1, n_head, n_query, n_query}, prompt.values));
    expect_prompt(dir.file("five.npy"), prompt);
    write_bytes(dir.file("first.npy"), npy_bytes({1, n_layer, n_head, n_query, n_query}, prompt.values));
    expect_prompt(dir.file("first.npy"), prompt);
    for (const bool deflate : {false, true}) {
        write_npz(dir.file("one.npz"), "attentions", npy_bytes(shape, prompt.values), deflate);
        expect_prompt(dir.file("one.npz"), prompt);
    }
    // one array a layer, as np.savez(*attentions), a TransformerLens cache and named tensors have them
    for (const char* name : {"arr_", "blocks.", "layer_"}) {
        const std::string path = dir.file(std::string(name) + "x.npz");
        std::vector<std::pair<std::string, std::string>> members;
        for (int64_t l = 0; l < n_layer; ++l) {
            members.emplace_back(name + std::to_string(l) + (name[0] == 'b' ? ".attn.hook_pattern" : ""),
                                 npy_bytes({1, n_head, n_query, n_query}, layer_of(prompt, l)));
        }
        write_npz(path, members);
        expect_prompt(path, prompt);
    }
    write_bytes(dir.file("x.safetensors"), safetensors_bytes(shape, prompt.values));
    expect_prompt(dir.file("x.safetensors"), prompt);
    write_bytes(dir.file("one.npy"), npy_bytes({1, n_head, n_query, n_query}, layer_of(prompt, 0)));
    expect_prompt(dir.file("one.npy"), prompt, 1);
}

TEST(ArrayAxes, ReadsAnyOrderThatIsStated) {
    TempDir dir;
    const Prompt prompt = make_prompt();
    std::vector<float> swapped(prompt.values.size()); // [query, key, head, layer]
    for (int64_t l = 0; l < n_layer; ++l)
        for (int64_t h = 0; h < n_head; ++h)
            for (int64_t q = 0; q < n_query; ++q)
                for (int64_t k = 0; k < n_query; ++k)
                    swapped[size_t(((q * n_query + k) * n_head + h) * n_layer + l)] = prompt.row(l, h, q)[k];
    CaptureOptions options;
    options.axes = "query,key,head,layer";
    write_bytes(dir.file("x.npy"), npy_bytes({n_query, n_query, n_head, n_layer}, swapped));
    auto reader = DumpReader::open(dir.file("x.npy"), options);
    ASSERT_TRUE(reader) << reader.error().message;
    for (int64_t q = 0; q < n_query; ++q) {
        auto token = (*reader)->next();
        ASSERT_TRUE(token && *token);
        for (int64_t l = 0; l < n_layer; ++l) {
            for (int64_t h = 0; h < n_head; ++h)
                ASSERT_TRUE(std::equal(prompt.row(l, h, q), prompt.row(l, h, q) + n_query,
                                       (*token)->values.begin() + (l * n_head + h) * n_query));
        }
    }
    options.axes = "layer,head,query";
    EXPECT_NE(error_of(dir.file("x.npy"), options).find("3 axes are named, 4 are there"), std::string::npos);
    options.axes = "layer,layer,query,key";
    EXPECT_NE(error_of(dir.file("x.npy"), options).find("named twice"), std::string::npos);
    options.axes = "layer,hed,query,key";
    EXPECT_NE(error_of(dir.file("x.npy"), options).find("\"hed\""), std::string::npos);
}

TEST(ArrayAxes, ReadsThePromptAndTheStepsOfGenerate) {
    TempDir dir;
    const Prompt prompt = make_prompt();
    SyntheticShape shape;
    shape.n_layer = int32_t(n_layer);
    shape.n_head = int32_t(n_head);
    shape.n_head_kv = 2;
    SyntheticModel model(shape, 5);
    std::vector<std::pair<std::string, std::string>> members;
    for (int64_t l = 0; l < n_layer; ++l)
        members.emplace_back("step_0_layer_" + std::to_string(l),
                             npy_bytes({1, n_head, n_query, n_query}, layer_of(prompt, l)));
    constexpr int64_t steps = 11;
    std::vector<SyntheticToken> tokens;
    for (int64_t s = 1; s <= steps; ++s) {
        tokens.push_back(model.attention(n_query + s - 1));
        for (int64_t l = 0; l < n_layer; ++l) {
            const float* begin = tokens.back().row(int32_t(l), 0);
            members.emplace_back("step_" + std::to_string(s) + "_layer_" + std::to_string(l),
                                 npy_bytes({1, n_head, 1, n_query + s}, {begin, begin + n_head * (n_query + s)}));
        }
    }
    write_npz(dir.file("steps.npz"), members);
    auto reader = DumpReader::open(dir.file("steps.npz"));
    ASSERT_TRUE(reader) << reader.error().message;
    EXPECT_EQ((*reader)->info().n_tokens, n_query + steps);
    for (int64_t i = 0; i < n_query + steps; ++i) {
        auto token = (*reader)->next();
        ASSERT_TRUE(token && *token);
        EXPECT_EQ((*token)->n_layer, n_layer);
        if (i >= n_query) {
            EXPECT_EQ(std::vector<float>((*token)->values.begin(), (*token)->values.end()),
                      tokens[size_t(i - n_query)].values);
        }
    }
    const Diagnosis d = diagnosed(dir.file("steps.npz"));
    EXPECT_EQ(d.cause(), Cause::clean) << d.conclusion;
}

TEST(ArrayAxes, AsksWhereTwoReadingsFit) {
    TempDir dir;
    const Prompt prompt = make_prompt();
    // rows that are used to the end everywhere: tokens of a ring, or queries that look at another text
    std::vector<float> flat(size_t(3 * 4 * 5 * 7));
    for (size_t i = 0; i < flat.size(); ++i) flat[i] = (1.0f + float(i % 7)) / 28.0f;
    write_bytes(dir.file("four.npy"), npy_bytes({3, 4, 5, 7}, flat));
    const std::string four = error_of(dir.file("four.npy"));
    EXPECT_NE(four.find("--axes token,layer,head,key or --axes layer,head,query,key"), std::string::npos) << four;
    CaptureOptions options;
    options.axes = "token,layer,head,key";
    EXPECT_EQ(error_of(dir.file("four.npy"), options), "");
    write_bytes(dir.file("three.npy"), npy_bytes({12, 5, 5}, {flat.begin(), flat.begin() + 300}));
    EXPECT_NE(error_of(dir.file("three.npy")).find("--axes layer,head,key or --axes layer,query,key"),
              std::string::npos);
    write_bytes(dir.file("two.npy"), npy_bytes({5, 7}, {flat.begin(), flat.begin() + 35}));
    EXPECT_NE(error_of(dir.file("two.npy")).find("--axes token,key"), std::string::npos);
    write_bytes(dir.file("batch.npy"), npy_bytes({2, n_layer / 2, n_head, n_query, n_query}, prompt.values));
    EXPECT_NE(error_of(dir.file("batch.npy")).find("too many axes"), std::string::npos);
}

TEST(ArrayAxes, ReadsStacksOfMeans) {
    TempDir dir;
    const Prompt prompt = make_prompt();
    std::vector<float> heads(size_t(n_layer * n_query * n_query), 0.0f), all(size_t(n_query * n_query), 0.0f);
    for (int64_t l = 0; l < n_layer; ++l)
        for (int64_t h = 0; h < n_head; ++h)
            for (int64_t i = 0; i < n_query * n_query; ++i) {
                heads[size_t(l * n_query * n_query + i)] += prompt.row(l, h, 0)[i] / float(n_head);
                all[size_t(i)] += prompt.row(l, h, 0)[i] / float(n_head * n_layer);
            }
    write_bytes(dir.file("heads.npy"), npy_bytes({n_layer, n_query, n_query}, heads));
    Diagnosis d = diagnosed(dir.file("heads.npy"));
    EXPECT_EQ(d.cause(), Cause::clean) << d.conclusion;
    EXPECT_EQ(d.tokens.size(), size_t(n_query));
    EXPECT_EQ(d.tokens.back().n_layer, n_layer);
    write_bytes(dir.file("all.npy"), npy_bytes({n_query, n_query}, all));
    d = diagnosed(dir.file("all.npy"));
    EXPECT_EQ(d.cause(), Cause::clean) << d.conclusion;
    EXPECT_EQ(d.tokens.size(), size_t(n_query));
    // [tokens, context], the first ten rows not captured
    write_bytes(dir.file("tail.npy"), npy_bytes({n_query - 10, n_query}, {all.begin() + 10 * n_query, all.end()}));
    d = diagnosed(dir.file("tail.npy"));
    EXPECT_EQ(d.cause(), Cause::clean) << d.conclusion;
    EXPECT_EQ(d.tokens.size(), size_t(n_query - 10));
    EXPECT_NE(d.dump.axes.find("token 14, key 24"), std::string::npos) << d.dump.axes;
}

TEST(ArrayAxes, LeavesOtherArraysOutAndNamesThem) {
    TempDir dir;
    const Prompt prompt = make_prompt();
    std::vector<float> hidden(size_t(5 * 7 * 16));
    for (size_t i = 0; i < hidden.size(); ++i) hidden[i] = float(int(i * 7919 % 200) - 100) / 25.0f;
    write_npz(dir.file("x.npz"), {{"attentions", npy_bytes({n_layer, n_head, n_query, n_query}, prompt.values)},
                                  {"hidden_states", npy_bytes({5, 7, 16}, hidden)},
                                  {"logits", npy_bytes({5, 112}, hidden)},
                                  {"positions", npy_bytes({16}, {hidden.begin(), hidden.begin() + 16})}});
    const Diagnosis d = diagnosed(dir.file("x.npz"));
    EXPECT_EQ(d.cause(), Cause::clean) << d.conclusion;
    EXPECT_EQ(d.tokens.size(), size_t(n_query));
    ASSERT_EQ(d.dump.notes.size(), 3u);
    EXPECT_NE((d.dump.notes[0] + d.dump.notes[1] + d.dump.notes[2]).find("--array hidden_states"), std::string::npos);
    CaptureOptions options;
    options.array = "nothing";
    EXPECT_NE(error_of(dir.file("x.npz"), options).find("it has attentions, hidden_states, logits"), std::string::npos);
    // two sets of attention
    std::vector<std::pair<std::string, std::string>> members;
    for (const char* set : {"encoder_", "decoder_"}) {
        for (int64_t l = 0; l < n_layer; ++l)
            members.emplace_back(set + std::to_string(l),
                                 npy_bytes({1, n_head, n_query, n_query}, layer_of(prompt, l)));
    }
    write_npz(dir.file("two.npz"), members);
    EXPECT_NE(error_of(dir.file("two.npz")).find("--array 'decoder_*' or --array 'encoder_*'"), std::string::npos);
    options.array = "decoder_*";
    expect_prompt(dir.file("two.npz"), prompt, int32_t(n_layer), options);
}

TEST(ArrayAxes, ReadsFoldersOfArraysAndShards) {
    TempDir dir;
    const Prompt prompt = make_prompt();
    fs::create_directory(dir.file("tokens"));
    for (int64_t q = 0; q < n_query; ++q) {
        write_bytes(dir.file("tokens/token_" + std::to_string(q) + ".npy"),
                    npy_bytes({n_layer, n_head, q + 1}, prompt.tokens[size_t(q)].values));
    }
    Diagnosis d = diagnosed(dir.file("tokens"));
    EXPECT_EQ(d.cause(), Cause::clean) << d.conclusion;
    ASSERT_EQ(d.tokens.size(), size_t(n_query));
    for (int64_t q = 0; q < n_query; ++q) EXPECT_EQ(d.tokens[size_t(q)].n_context, q + 1);
    fs::create_directory(dir.file("shards"));
    std::string map;
    for (int64_t l = 0; l < n_layer; ++l) {
        const std::string name = "attn-0000" + std::to_string(l + 1) + "-of-00004.safetensors";
        write_bytes(dir.file("shards/" + name),
                    safetensors_bytes({n_head, n_query, n_query}, layer_of(prompt, l), "layer." + std::to_string(l)));
        map += (l ? ", " : "") + ("\"layer." + std::to_string(l) + "\": \"" + name + "\"");
    }
    const std::string index = dir.file("shards/attn.safetensors.index.json");
    write_bytes(index, "{\"weight_map\": {" + map + "}}");
    expect_prompt(dir.file("shards"), prompt);
    expect_prompt(index, prompt);
    d = diagnosed(dir.file("shards/attn-00002-of-00004.safetensors"));
    ASSERT_FALSE(d.dump.notes.empty());
    EXPECT_NE(d.dump.notes[0].find("one file of several"), std::string::npos);
    fs::remove(dir.file("shards/attn-00002-of-00004.safetensors"));
    EXPECT_NE(error_of(index).find("belong together"), std::string::npos) << error_of(index);
    write_bytes(index, "{\"weight_map\": {\"a\": \"../../etc/passwd\"}}");
    EXPECT_NE(error_of(index).find("does not lie beside it"), std::string::npos);
}

TEST(ArrayAxes, ReadsEveryElementTypeOfNumPy) {
    TempDir dir;
    const std::vector<int64_t> shape = {1, 2, 3};
    const auto npy = [&](const std::string& type, const std::string& bytes) {
        std::string text = npy_bytes(shape, {});
        text.replace(text.find("<f4"), 3, type);
        write_bytes(dir.file("x.npy"), text + bytes);
        auto reader = DumpReader::open(dir.file("x.npy"));
        EXPECT_TRUE(reader) << type << ": " << (reader ? "" : reader.error().message);
        if (!reader) return std::vector<float>{};
        auto token = (*reader)->next();
        EXPECT_TRUE(token && *token) << type;
        if (!token || !*token) return std::vector<float>{};
        return std::vector<float>((*token)->values.begin(), (*token)->values.end());
    };
    const std::vector<float> small = {0, 1, 2, 3, 4, 5};
    EXPECT_EQ(npy("|u1", std::string("\0\1\2\3\4\5", 6)), small);
    EXPECT_EQ(npy("|b1", std::string("\0\1\1\0\1\0", 6)), (std::vector<float>{0, 1, 1, 0, 1, 0}));
    EXPECT_EQ(npy("|i1", std::string("\xff\1\2\3\4\5", 6)), (std::vector<float>{-1, 1, 2, 3, 4, 5}));
    EXPECT_EQ(npy("<i2", std::string("\0\0\1\0\2\0\3\0\4\0\5\0", 12)), small);
    EXPECT_EQ(npy(">i2", std::string("\0\0\0\1\0\2\0\3\0\4\0\5", 12)), small);
    EXPECT_EQ(npy(">f4", std::string("\0\0\0\0\x3f\x80\0\0\x40\0\0\0\x40\x40\0\0\x40\x80\0\0\x40\xa0\0\0", 24)), small);
}

TEST(ArrayAxes, RefusesWhatIsNoArrayWithTheWayOut) {
    TempDir dir;
    std::string object = npy_bytes({20}, {});
    object.replace(object.find("<f4"), 3, "|O");
    object.insert(object.size() - 1, 1, ' ');
    write_bytes(dir.file("o.npy"), object + "\x80\x04pickled");
    EXPECT_NE(error_of(dir.file("o.npy")).find("np.savez(f, *steps)"), std::string::npos)
        << error_of(dir.file("o.npy"));
    write_npz(dir.file("o.npz"), "attn", object, false);
    EXPECT_NE(error_of(dir.file("o.npz")).find("np.savez(f, *steps)"), std::string::npos);
    write_npz(dir.file("attn.pt"), {{"attn/data.pkl", "pickle"}, {"attn/data/0", "numbers"}}, "");
    EXPECT_NE(error_of(dir.file("attn.pt")).find("PyTorch"), std::string::npos) << error_of(dir.file("attn.pt"));
    write_bytes(dir.file("x.pkl"), "\x80\x04\x95 something");
    EXPECT_NE(error_of(dir.file("x.pkl")).find("pickle"), std::string::npos);
    write_bytes(dir.file("x.h5"), std::string("\x89HDF\r\n\x1a\n", 8) + "rest");
    EXPECT_NE(error_of(dir.file("x.h5")).find("HDF5"), std::string::npos);
    CaptureOptions options;
    options.shape = {20, 6, 8, 40};
    write_bytes(dir.file("half.bin"), std::string(20 * 6 * 8 * 40 * 2, '\1'));
    EXPECT_NE(error_of(dir.file("half.bin"), options).find("exactly half"), std::string::npos);
    EXPECT_NE(error_of(dir.file("half.bin"), options).find("float16"), std::string::npos);
    write_bytes(dir.file("twice.bin"), std::string(20 * 6 * 8 * 40 * 8, '\1'));
    EXPECT_NE(error_of(dir.file("twice.bin"), options).find("float64"), std::string::npos);
    const Prompt prompt = make_prompt();
    write_npz(dir.file("x.npz"), "x", npy_bytes({n_layer, n_head, n_query, n_query}, prompt.values), true);
    fs::resize_file(dir.file("x.npz"), fs::file_size(dir.file("x.npz")) * 2 / 3);
    EXPECT_NE(error_of(dir.file("x.npz")).find("cut short"), std::string::npos) << error_of(dir.file("x.npz"));
}
