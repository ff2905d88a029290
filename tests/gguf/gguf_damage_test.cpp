// Damages whole files systematically. What the check lets through must not bring llama.cpp down.
#include "gguf/gguf_check.h"
#include "gguf/gguf_file.h"
#include "models/model_make.h"

#include "support/engine_trial.h"
#include "support/file_bytes.h"
#include "support/temp_dir.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace attnscope {
namespace {

using test::TempDir;
using test::Trial;

std::span<const uint8_t> as_bytes(const std::string& s) {
    return {reinterpret_cast<const uint8_t*>(s.data()), s.size()};
}

Result<gguf::GgufSummary> check(const std::string& bytes) {
    return gguf::check_gguf_bytes(as_bytes(bytes), "model.gguf");
}

std::string tiny_model(const std::string& arch) {
    const TempDir dir;
    models::ModelShape shape;
    shape.arch = arch;
    shape.n_layer = 2;
    shape.head_dim = 16;
    shape.n_head = 2;
    shape.n_head_kv = 1;
    if (!models::make_model(shape, dir.file("model.gguf"))) return {};
    return test::read_bytes(dir.file("model.gguf"));
}

// Where the weights begin.
uint64_t data_start(const std::string& bytes) {
    const auto source = gguf::memory_gguf_source(as_bytes(bytes));
    const auto file = gguf::read_gguf(*source, "model.gguf");
    return file && !file->tensors.empty() ? file->tensors.front().offset : 0;
}

// ATTNSCOPE_DAMAGE_ALL=1 tries all of them in llama.cpp (some minutes) instead of a sample.
size_t sample(size_t every) {
    return std::getenv("ATTNSCOPE_DAMAGE_ALL") != nullptr ? 1 : every;
}

// Collects damaged files that pass the check and tries them in llama.cpp.
class Passed {
public:
    void add(const std::string& bytes, const std::string& what) {
        const auto result = check(bytes);
        if (!result) {
            EXPECT_FALSE(result.error().message.empty());
            ++refused;
            return;
        }
        paths_.push_back(dir_.file(std::to_string(paths_.size())));
        what_.push_back(what);
        test::write_bytes(paths_.back(), bytes);
    }
    // As add(), but only every n-th that passes.
    void add_some(const std::string& bytes, const std::string& what, size_t every) {
        const auto result = check(bytes);
        if (!result)
            ++refused;
        else if (passed_++ % every == 0)
            add(bytes, what);
    }
    void expect_no_crash() const {
        const auto trials = test::try_in_engine(paths_);
        ASSERT_EQ(trials.size(), paths_.size());
        for (size_t i = 0; i < trials.size(); ++i) {
            EXPECT_NE(trials[i].end, Trial::End::crashed)
                << what_[i] << " passes the check and ends llama.cpp by signal " << trials[i].signal << ": "
                << trials[i].last_words;
        }
    }
    size_t refused = 0;

private:
    TempDir dir_;
    std::vector<std::string> paths_;
    std::vector<std::string> what_;
    size_t passed_ = 0;
};

TEST(GgufDamage, EveryTruncationIsRefused) {
    const std::string whole = tiny_model("llama");
    ASSERT_TRUE(check(whole));
    const uint64_t start = data_start(whole);
    for (size_t n = 0; n < whole.size(); n += n < start ? 1 : 997) {
        const auto result = check(whole.substr(0, n));
        ASSERT_FALSE(result) << n << " bytes of " << whole.size();
        ASSERT_EQ(result.error().message.find("model.gguf "), 0u) << result.error().message;
    }
}

TEST(GgufDamage, FlippedBytesOfTheDirectoryDoNotCrashTheEngine) {
    const std::string whole = tiny_model("llama");
    const uint64_t start = data_start(whole);
    ASSERT_GT(start, 1000u);
    Passed passed;
    for (size_t at = 0; at < start; ++at) {
        for (const uint8_t mask : {0x01, 0x04, 0x20, 0x80, 0xFF}) {
            std::string bytes = whole;
            bytes[at] = char(uint8_t(bytes[at]) ^ mask);
            passed.add_some(bytes, "byte " + std::to_string(at) + " xor " + std::to_string(mask), sample(101));
        }
    }
    EXPECT_GT(passed.refused, 1000u);
    passed.expect_no_crash();
}

class DamagedKeys : public testing::TestWithParam<std::string_view> {};

void put(std::string& bytes, uint64_t at, const void* value, size_t n) {
    std::memcpy(&bytes[size_t(at)], value, n);
}

TEST_P(DamagedKeys, DoNotCrashTheEngine) {
    const std::string whole = tiny_model(std::string(GetParam()));
    const auto source = gguf::memory_gguf_source(as_bytes(whole));
    const auto file = gguf::read_gguf(*source, "model.gguf");
    ASSERT_TRUE(file);
    Passed passed;
    for (const gguf::GgufKey& key : file->keys) {
        std::string bytes = whole;
        if (key.type == gguf::GgufType::uint32) {
            for (const uint32_t value :
                 {0u, 1u, 2u, 3u, 5u, 31u, 64u, 1000u, 65536u, 1u << 24, 0x7FFFFFFFu, 0xFFFFFFFFu}) {
                put(bytes, key.offset, &value, 4);
                passed.add_some(bytes, key.name + " = " + std::to_string(value), sample(2));
            }
        } else if (key.type == gguf::GgufType::float32) {
            for (const float value : {0.0f, -1.0f, 1e-30f, 1e30f, std::numeric_limits<float>::infinity(),
                                      std::numeric_limits<float>::quiet_NaN()}) {
                put(bytes, key.offset, &value, 4);
                passed.add_some(bytes, key.name + " = " + std::to_string(value), sample(2));
            }
        } else if (key.type == gguf::GgufType::array && key.element == gguf::GgufType::int32 && key.count <= 16) {
            for (const int32_t value : {0, 1, 2, 3, 7, -1, 1 << 24}) {
                put(bytes, key.offset, &value, 4);
                passed.add_some(bytes, key.name + "[0] = " + std::to_string(value), sample(2));
            }
        }
        // The key under another name is the key missing.
        std::string without = whole;
        without[size_t(key.offset) -
                (key.type == gguf::GgufType::array    ? 16
                 : key.type == gguf::GgufType::string ? 12
                                                      : 4) -
                1] = '_';
        passed.add_some(without, "no " + key.name, sample(2));
    }
    passed.expect_no_crash();
}

TEST_P(DamagedKeys, WrongTensorTypesDoNotCrashTheEngine) {
    const std::string whole = tiny_model(std::string(GetParam()));
    const uint64_t start = data_start(whole);
    Passed passed;
    // A tensor's type follows its name and shape: n_dims (u32), n_dims dimensions (u64 each).
    const auto source = gguf::memory_gguf_source(as_bytes(whole));
    const auto file = gguf::read_gguf(*source, "model.gguf");
    ASSERT_TRUE(file);
    for (const gguf::GgufTensor& t : file->tensors) {
        const size_t at = whole.rfind(t.name, size_t(start)) + t.name.size() + 4 + 8 * size_t(t.n_dims);
        for (const int32_t type : {0, 1, 2, 8, 9, 15, 24, 25, 26, 27, 28, 30}) {
            std::string bytes = whole;
            put(bytes, at, &type, 4);
            bytes.append(1 << 20, '\0');
            passed.add_some(bytes, t.name + " of type " + std::to_string(type), sample(3));
        }
    }
    passed.expect_no_crash();
}

INSTANTIATE_TEST_SUITE_P(All, DamagedKeys, testing::ValuesIn(models::made_architectures()), [](const auto& param) {
    std::string name(param.param);
    for (char& c : name) c = c == '-' ? '_' : c;
    return name;
});

} // namespace
} // namespace attnscope
