#include "formats/dump_files.h"
#include "support/temp_dir.h"

#include <attnscope/dump_reader.h>

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>

#include <sys/stat.h>

using namespace attnscope;
using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

// Five tokens of four layers and three heads over seven columns, every number different.
constexpr int64_t n_tokens = 5, n_layer = 4, n_head = 3, n_context = 7;
std::vector<float> counting_values() {
    std::vector<float> values;
    for (int64_t i = 0; i < n_tokens * n_layer * n_head * n_context; ++i) values.push_back(float(i) * 0.5f);
    return values;
}

struct Read {
    std::vector<std::vector<float>> tokens;
    std::vector<std::string> errors;
    std::string open_error;
};

Read read_all(const std::string& path, const CaptureOptions& options = {}) {
    Read read;
    auto reader = DumpReader::open(path, options);
    if (!reader) {
        read.open_error = reader.error().message;
        return read;
    }
    while (!(*reader)->at_end()) {
        auto token = (*reader)->next();
        if (!token) {
            read.errors.push_back(token.error().message);
            if (token.error().kind != ErrorKind::damaged && token.error().kind != ErrorKind::not_found) break;
        } else if (!*token) {
            break;
        } else {
            EXPECT_EQ(int64_t((*token)->values.size()),
                      int64_t((*token)->n_layer) * (*token)->n_head * (*token)->n_context);
            read.tokens.emplace_back((*token)->values.begin(), (*token)->values.end());
        }
    }
    return read;
}

void expect_counting(const Read& read) {
    ASSERT_EQ(read.open_error, "");
    ASSERT_TRUE(read.errors.empty()) << read.errors.front();
    ASSERT_EQ(read.tokens.size(), size_t(n_tokens));
    const auto values = counting_values();
    const size_t n = size_t(n_layer * n_head * n_context);
    for (size_t t = 0; t < read.tokens.size(); ++t) {
        EXPECT_EQ(read.tokens[t],
                  std::vector<float>(values.begin() + int64_t(t * n), values.begin() + int64_t((t + 1) * n)));
    }
}

const std::vector<int64_t> stacked = {n_tokens, n_layer, n_head, n_context};

SyntheticCapture small_capture() {
    SyntheticShape shape;
    shape.n_layer = 2;
    shape.n_head = shape.n_head_kv = 2;
    return make_clean(shape, 3, 4, 1);
}

} // namespace

TEST(DumpReader, ReadsArraysInEitherOrderAndEveryContainer) {
    TempDir dir;
    const auto values = counting_values();
    write_bytes(dir.file("c.npy"), npy_bytes(stacked, values));
    expect_counting(read_all(dir.file("c.npy")));
    write_bytes(dir.file("f.npy"), npy_bytes(stacked, values, true));
    expect_counting(read_all(dir.file("f.npy")));
    for (const bool fortran : {false, true}) {
        write_npz(dir.file("stored.npz"), "x", npy_bytes(stacked, values, fortran), false);
        expect_counting(read_all(dir.file("stored.npz")));
        write_npz(dir.file("deflated.npz"), "x", npy_bytes(stacked, values, fortran), true);
        expect_counting(read_all(dir.file("deflated.npz")));
    }
    write_bytes(dir.file("x.safetensors"), safetensors_bytes(stacked, values));
    expect_counting(read_all(dir.file("x.safetensors")));
    write_bytes(dir.file("x.bin"), npy_bytes(stacked, values).substr(npy_bytes(stacked, {}).size()));
    CaptureOptions options;
    options.shape = stacked;
    expect_counting(read_all(dir.file("x.bin"), options));
}

TEST(DumpReader, ReadsBothFormsOfAHaloWeaveFolderExactly) {
    TempDir dir;
    const SyntheticCapture capture = small_capture();
    for (const bool json : {false, true}) {
        const std::string folder = dir.file(json ? "json" : "binary");
        write_halo_weave(folder, capture, json);
        const Read read = read_all(folder);
        ASSERT_EQ(read.open_error, "");
        ASSERT_TRUE(read.errors.empty()) << read.errors.front();
        ASSERT_EQ(read.tokens.size(), capture.tokens.size());
        for (size_t i = 0; i < read.tokens.size(); ++i) EXPECT_EQ(read.tokens[i], capture.tokens[i].values);
    }
}

// diagnose looks at a token while the next one is read.
TEST(DumpReader, ATokenStaysWhileTheNextOneIsRead) {
    TempDir dir;
    const auto values = counting_values();
    std::vector<std::string> paths;
    const auto path = [&](const char* name) { return paths.emplace_back(dir.file(name)); };
    write_bytes(path("c.npy"), npy_bytes(stacked, values));
    write_bytes(path("f.npy"), npy_bytes(stacked, values, true));
    write_npz(path("x.npz"), "x", npy_bytes(stacked, values), true);
    write_bytes(path("x.safetensors"), safetensors_bytes(stacked, values));
    write_halo_weave(path("binary"), small_capture(), false);
    write_halo_weave(path("json"), small_capture(), true);
    for (const std::string& file : paths) {
        auto reader = DumpReader::open(file);
        ASSERT_TRUE(reader) << reader.error().message;
        auto token = (*reader)->next();
        ASSERT_TRUE(token && *token);
        for (int64_t i = 0; i < 3; ++i) {
            const DumpToken& now = **token;
            const std::vector<float> before(now.values.begin(), now.values.end());
            auto next = (*reader)->next();
            ASSERT_TRUE(next && *next);
            EXPECT_EQ(now.index, i) << file;
            EXPECT_EQ(std::vector<float>(now.values.begin(), now.values.end()), before) << file;
            token = next;
        }
    }
}

// What a folder's own metadata.json may be without spoiling the tokens beside it.
TEST(DumpReader, ReadsTokensBesideABrokenMetadataFile) {
    TempDir dir;
    const std::string folder = dir.file("capture"), metadata = folder + "/metadata.json";
    write_halo_weave(folder, small_capture(), false);
    const auto expect_tokens = [&](const char* what) {
        const Read read = read_all(folder);
        EXPECT_EQ(read.open_error, "") << what;
        EXPECT_EQ(read.tokens.size(), small_capture().tokens.size()) << what;
    };
    write_bytes(metadata, "not JSON");
    expect_tokens("text");
    write_bytes(metadata, std::string("\0\xff\xfe", 3));
    expect_tokens("bytes");
    write_bytes(metadata, "[1, 2]");
    expect_tokens("a list");
    write_bytes(metadata, R"({"num_layers": 1e308, "num_attention_heads": -5, "max_context_length": "x"})");
    expect_tokens("numbers out of range");
    write_bytes(metadata, "{\"model\": \"" + std::string(size_t(2) << 20, 'x') + "\"}");
    expect_tokens("two megabytes");
    fs::remove(metadata);
    expect_tokens("none");
    fs::create_directory(metadata);
    expect_tokens("a folder");
    fs::remove(metadata);
    fs::create_symlink(folder, metadata);
    expect_tokens("a link in a circle");
}

TEST(DumpReader, RefusesShapesThatAreNoAttention) {
    TempDir dir;
    const std::string folder = dir.file("capture"), meta = folder + "/token_00001_meta.json";
    write_halo_weave(folder, small_capture(), false);
    for (const char* shape :
         {"[]", "[0, 2, 5]", "[2, 0, 5]", "[2, 2, 0]", "[-2, -2, 5]", "[2, 2]", "[2, 2, 5, 1, 1]", "[2.5, 2, 5]",
          "\"2,2,5\"", "null", "[[2], 2, 5]", "[2147483648, 1, 1]", "[4294967297, 4294967297, 1]", "[2, 2, 5"}) {
        write_bytes(meta, std::string("{\"attention_shape\": ") + shape + "}");
        const Read read = read_all(folder);
        ASSERT_EQ(read.errors.size(), 1u) << shape;
        EXPECT_NE(read.errors[0].find("token_00001"), std::string::npos) << read.errors[0];
        EXPECT_EQ(read.tokens.size(), small_capture().tokens.size() - 1) << shape;
    }
}

TEST(DumpReader, RefusesBrokenTokensOfTheOlderForm) {
    TempDir dir;
    const std::string folder = dir.file("capture"), file = folder + "/token_00001.json";
    write_halo_weave(folder, small_capture(), true);
    for (const char* attention :
         {"{}", "[]", "null", R"({"shape": [1, 1, 2], "data": [0.5]})",
          R"({"shape": [1, 1, 2], "data": [0.5, 0.5, 0.5]})", R"({"shape": [1, 1, 2], "data": [0.5, "x"]})",
          R"({"shape": [1, 1, 2], "data": {"0": 1}})", R"({"shape": [9000000000000000000, 9, 9], "data": []})",
          R"({"shape": [1, 1, 2]})"}) {
        write_bytes(file, std::string("{\"attention\": ") + attention + "}");
        const Read read = read_all(folder);
        ASSERT_EQ(read.errors.size(), 1u) << attention;
        EXPECT_NE(read.errors[0].find("token_00001"), std::string::npos) << read.errors[0];
        EXPECT_EQ(read.tokens.size(), small_capture().tokens.size() - 1) << attention;
    }
}

TEST(DumpReader, StepsOverBrokenTokensOfAFolderAndSaysWhatIsWrong) {
    TempDir dir;
    const std::string folder = dir.file("capture");
    write_halo_weave(folder, make_clean({}, 3, 8, 1), false);
    fs::resize_file(folder + "/token_00001_attn.bin", 100);                              // half written
    fs::remove(folder + "/token_00002_attn.bin");                                        // missing
    write_bytes(folder + "/token_00003_meta.json", "{\"attention_shape\":[4,");          // not JSON
    write_bytes(folder + "/token_00004_meta.json", "{\"attention_shape\":[1e300,1,1]}"); // a huge number
    write_bytes(folder + "/token_00005_meta.json", "{\"attention_shape\":[9223372036854775807,9223372036854775807,2]}");
    fs::remove(folder + "/token_00006_meta.json");
    fs::create_symlink("/etc/passwd", folder + "/token_00006_meta.json"); // out of the folder
    const Read read = read_all(folder);
    EXPECT_EQ(read.tokens.size(), 2u); // 0 and 7
    ASSERT_EQ(read.errors.size(), 6u);
    EXPECT_NE(read.errors[0].find("half written"), std::string::npos) << read.errors[0];
    EXPECT_NE(read.errors[1].find("No such file"), std::string::npos) << read.errors[1];
    EXPECT_NE(read.errors[2].find("not valid JSON"), std::string::npos) << read.errors[2];
    EXPECT_NE(read.errors[3].find("shape"), std::string::npos) << read.errors[3];
    EXPECT_NE(read.errors[4].find("shape"), std::string::npos) << read.errors[4];
    EXPECT_NE(read.errors[5].find("symbolic link"), std::string::npos) << read.errors[5];
}

TEST(DumpReader, SaysWhichTokensAreMissingBetweenOthers) {
    TempDir dir;
    const std::string folder = dir.file("capture");
    write_halo_weave(folder, make_clean({}, 3, 6, 1), false);
    for (const char* number : {"2", "3"}) {
        fs::remove(folder + "/token_0000" + number + "_meta.json");
        fs::remove(folder + "/token_0000" + number + "_attn.bin");
    }
    const Read read = read_all(folder);
    EXPECT_EQ(read.tokens.size(), 4u);
    ASSERT_EQ(read.errors.size(), 1u);
    EXPECT_EQ(read.errors[0], "tokens 2 to 3 are missing");
}

TEST(DumpReader, RefusesFoldersWithoutTokens) {
    TempDir dir;
    fs::create_directory(dir.file("empty"));
    EXPECT_NE(read_all(dir.file("empty")).open_error.find("not a capture folder"), std::string::npos);
    write_bytes(dir.file("empty/metadata.json"), "{}");
    EXPECT_NE(read_all(dir.file("empty")).open_error.find("0 tokens"), std::string::npos);
    EXPECT_NE(read_all(dir.file("nowhere")).open_error.find("No such file"), std::string::npos);
}

TEST(DumpReader, DoesNotWaitForPipesOrReadDevices) {
    TempDir dir;
    const std::string folder = dir.file("capture");
    write_halo_weave(folder, small_capture(), false);
    fs::remove(folder + "/token_00001_attn.bin");
    ASSERT_EQ(mkfifo((folder + "/token_00001_attn.bin").c_str(), 0600), 0);
    const Read read = read_all(folder);
    ASSERT_EQ(read.errors.size(), 1u);
    EXPECT_NE(read.errors[0].find("not a regular file"), std::string::npos);
    EXPECT_NE(read_all("/dev/zero").open_error, "");
}

TEST(DumpReader, BoundsTheDepthOfJson) {
    TempDir dir;
    const std::string folder = dir.file("capture");
    write_halo_weave(folder, small_capture(), false);
    std::string deep(100000, '[');
    write_bytes(folder + "/token_00000_meta.json", "{\"a\":" + deep);
    write_bytes(folder + "/metadata.json", "{\"a\":" + deep);
    const Read read = read_all(folder);
    ASSERT_EQ(read.errors.size(), 1u);
    EXPECT_NE(read.errors[0].find("nests deeper"), std::string::npos);
    const std::string older = dir.file("older");
    write_halo_weave(older, small_capture(), true);
    write_bytes(older + "/token_00000.json", "{\"attention\":{\"data\":" + deep);
    EXPECT_NE(read_all(older).errors.at(0).find("nests deeper"), std::string::npos);
}

TEST(DumpReader, RefusesArraysThatClaimMoreThanTheyHold) {
    TempDir dir;
    const auto values = counting_values();
    const std::string whole = npy_bytes(stacked, values);
    write_bytes(dir.file("short.npy"), whole.substr(0, whole.size() - 40));
    const Read cut = read_all(dir.file("short.npy"));
    EXPECT_EQ(cut.tokens.size(), size_t(n_tokens - 1)); // the whole ones are still there
    EXPECT_EQ(cut.errors.size(), 1u);
    const std::string huge = npy_bytes({1000000, 1000, 1000, 1000}, {});
    write_npz(dir.file("bomb.npz"), "x", huge + std::string(1 << 20, '\0'), true);
    EXPECT_NE(read_all(dir.file("bomb.npz")).open_error, "");
    write_bytes(dir.file("zero.npy"), npy_bytes({0, n_layer, n_head, n_context}, {}));
    EXPECT_NE(read_all(dir.file("zero.npy")).open_error.find("0 tokens"), std::string::npos);
    std::string big_header("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10);
    write_bytes(dir.file("x.safetensors"), big_header);
    EXPECT_NE(read_all(dir.file("x.safetensors")).open_error.find("header"), std::string::npos);
}

// Every cut and many flipped bytes: an error or a token, never more.
TEST(DumpReader, SurvivesCutAndFlippedBytes) {
    TempDir dir;
    const auto values = counting_values();
    write_npz(dir.file("seed.npz"), "x", npy_bytes(stacked, values), true);
    std::ifstream in(dir.file("seed.npz"), std::ios::binary);
    const std::string npz((std::istreambuf_iterator<char>(in)), {});
    const std::vector<std::pair<std::string, std::string>> seeds = {
        {"a.npy", npy_bytes(stacked, values)}, {"a.safetensors", safetensors_bytes(stacked, values)}, {"a.npz", npz}};
    std::mt19937 random(7);
    for (const auto& [name, bytes] : seeds) {
        for (size_t cut = 0; cut < std::min<size_t>(bytes.size(), 200); ++cut) {
            write_bytes(dir.file(name), bytes.substr(0, cut));
            read_all(dir.file(name));
        }
        for (int i = 0; i < 300; ++i) {
            std::string spoiled = bytes;
            for (int j = 0; j < 3; ++j) spoiled[random() % std::min<size_t>(spoiled.size(), 300)] = char(random());
            write_bytes(dir.file(name), spoiled);
            read_all(dir.file(name));
        }
    }
}
