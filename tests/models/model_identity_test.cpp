#include "base/sha256.h"
#include "models/model_identity.h"
#include "models/model_make.h"

#include "support/file_bytes.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

namespace attnscope {
namespace {

using test::TempDir;

std::string little_endian(uint64_t n) {
    std::string bytes;
    for (int i = 0; i < 8; ++i) bytes += char(n >> (8 * i));
    return bytes;
}

std::string sha256(const std::string& bytes) {
    base::Sha256 sum;
    sum.add(bytes.data(), bytes.size());
    return sum.hex();
}

TEST(Sha256Of, MatchesTheStandardsExample) {
    // FIPS 180-2, appendix B.1
    EXPECT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(ModelIdentityOf, HashesBothEndsAndTheSize) {
    const TempDir dir;
    const std::string path = dir.file("file");
    for (const size_t size : {size_t(0), size_t(5), (size_t(1) << 20) + 3, (size_t(3) << 20) + 7}) {
        std::string bytes(size, 'x');
        for (size_t i = 0; i < size; ++i) bytes[i] = char(i * 7 + i / 1000);
        test::write_bytes(path, bytes);
        const size_t n = std::min(size, size_t(1) << 20);
        const auto sum = models::model_sha256(path);
        ASSERT_TRUE(sum);
        EXPECT_EQ(*sum, sha256(bytes.substr(0, n) + bytes.substr(size - n) + little_endian(size)));
    }
}

TEST(ModelIdentityOf, NamesTheModel) {
    const TempDir dir;
    const std::string path = dir.file("model.gguf");
    models::ModelShape shape;
    shape.name = "my model";
    ASSERT_TRUE(models::make_model(shape, path));
    const auto summary = gguf::check_gguf(path);
    ASSERT_TRUE(summary);
    const auto id = models::model_identity(path, *summary);
    ASSERT_TRUE(id);
    EXPECT_EQ(id->path, "model.gguf");
    EXPECT_EQ(id->name, "my model");
    EXPECT_EQ(id->architecture, "llama");
    EXPECT_EQ(id->n_layer, 4);
    EXPECT_EQ(id->sha256.size(), 64u);
}

TEST(ModelIdentityOf, SaysThatAFileIsMissing) {
    const auto sum = models::model_sha256("/nonexistent/model.gguf");
    ASSERT_FALSE(sum);
    EXPECT_EQ(sum.error().kind, ErrorKind::not_found);
}

} // namespace
} // namespace attnscope
