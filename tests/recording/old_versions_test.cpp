// Every recording that was ever written opens. tests/data/vN.zip holds small ones of every kind, written by the last
// program of format N (tests/data/make_recordings.py), with what that program said of them.
#include "attention/fingerprint.h"
#include "support/temp_dir.h"

#include <attnscope/recording.h>
#include <attnscope/verify.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <zip.h>

#include <filesystem>
#include <fstream>

using namespace attnscope;
using attnscope::test::TempDir;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

// Unpacks an archive; recordings are opened in a folder of their own, beside which a -wal may lie.
void unpack(const std::string& archive, const fs::path& folder) {
    int code = 0;
    zip_t* zip = zip_open(archive.c_str(), ZIP_RDONLY, &code);
    ASSERT_NE(zip, nullptr) << archive << ": error " << code;
    for (zip_int64_t i = 0; i < zip_get_num_entries(zip, 0); ++i) {
        zip_stat_t stat{};
        ASSERT_EQ(zip_stat_index(zip, zip_uint64_t(i), 0, &stat), 0);
        std::string bytes(stat.size, '\0');
        zip_file_t* file = zip_fopen_index(zip, zip_uint64_t(i), 0);
        ASSERT_NE(file, nullptr);
        ASSERT_EQ(zip_fread(file, bytes.data(), bytes.size()), zip_int64_t(bytes.size())) << stat.name;
        ASSERT_EQ(zip_fclose(file), 0) << stat.name; // the archive's own checksum
        std::ofstream(folder / stat.name, std::ios::binary) << bytes;
    }
    zip_close(zip);
}

void expect_as_then(Recording& recording, const json& then, int version) {
    const RecordingInfo& info = recording.info();
    EXPECT_EQ(info.format_version, version);
    EXPECT_EQ(info.complete, then.at("complete").get<bool>());
    EXPECT_EQ(info.n_frames, then.at("n_frames").get<int64_t>());
    EXPECT_EQ(json::parse(info.settings_json), then.at("settings"));
    const auto checked = recording.check();
    EXPECT_TRUE(checked) << checked.error().message;

    const auto report = verify_recording(recording, {.proofs = -1, .progress = {}});
    ASSERT_TRUE(report) << report.error().message;
    EXPECT_EQ(report->damage, "");
    EXPECT_EQ(report->n_ok, then.at("n_ok").get<int64_t>());
    EXPECT_GT(report->n_proven_again, 0);

    const json& rows_then = then.at("rows");
    ASSERT_EQ(rows_then.size(), size_t(info.n_frames));
    int64_t compared = 0;
    for (int64_t i = 0; i < info.n_frames; ++i) {
        const auto rows = recording.rows(i);
        ASSERT_EQ(rows.ok(), !rows_then[size_t(i)].is_null()) << "token " << i;
        if (!rows) continue;
        double sum = 0;
        const auto n = size_t(rows->n_columns);
        for (size_t at = 0; at < rows->weights.size(); at += n)
            sum += attention::row_fingerprint(std::span(rows->weights).subspan(at, n));
        // which instruction set adds the products is the machine's choice
        EXPECT_NEAR(sum, rows_then[size_t(i)].get<double>(), 1e-5 * sum) << "token " << i;
        ++compared;
    }
    EXPECT_GT(compared, 0);
}

} // namespace

class OldVersions : public ::testing::TestWithParam<int> {};

TEST_P(OldVersions, OpenVerifyAndGiveTheSameRows) {
    const int version = GetParam();
    const TempDir dir;
    unpack(std::string(ATTNSCOPE_SOURCE_DIR) + "/tests/data/v" + std::to_string(version) + ".zip", dir.path());
    if (HasFatalFailure()) return;
    const json expected = json::parse(std::ifstream(dir.file("expected.json")));
    ASSERT_GE(expected.size(), 20u);
    for (const auto& [name, then] : expected.items()) {
        SCOPED_TRACE(name);
        auto recording = Recording::open(dir.file(name + ".attn"));
        ASSERT_TRUE(recording) << recording.error().message;
        expect_as_then(**recording, then, version);
    }
}

INSTANTIATE_TEST_SUITE_P(Format, OldVersions, ::testing::Values(1, 2),
                         [](const auto& version) { return "V" + std::to_string(version.param); });
