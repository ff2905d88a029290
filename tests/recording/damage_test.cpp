// Files that are not what they were: every call gives the original content or an error, never something else.
#include "recording/writer.h"
#include "support/temp_dir.h"
#include "synthetic.h"

#include <gtest/gtest.h>
#include <sqlite3.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>

using namespace attnscope;
using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

constexpr int64_t n_frames = 21;
using Bytes = std::vector<char>;

Bytes read_bytes(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

void write_bytes(const std::string& path, const Bytes& bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

Geometry tiny_geometry() {
    return uniform_geometry({.n_layer = 2, .n_head = 2, .n_head_kv = 1, .head_dim = 8});
}

// Small pages, so that there is some of everything in few bytes.
void write_tiny(const std::string& path) {
    const Geometry geometry = tiny_geometry();
    auto writer = recording::create_writer(path, make_info(), {}, recording::Layout{1024, 8});
    ASSERT_TRUE(writer) << writer.error().message;
    ASSERT_TRUE((*writer)->begin(geometry));
    for (int64_t i = 0; i < n_frames; ++i) {
        Frame frame = make_frame(geometry, i);
        (*writer)->token_text(frame.token, piece_of(frame.token));
        ASSERT_TRUE((*writer)->push(std::move(frame)));
    }
    ASSERT_TRUE((*writer)->close());
}

struct Baseline {
    RecordingInfo info;
    std::vector<Frame> frames;
    std::vector<std::vector<float>> rows;
};

Baseline baseline_of(const std::string& path) {
    Baseline baseline;
    auto recording = Recording::open(path);
    if (!recording) throw std::runtime_error(recording.error().message);
    baseline.info = (*recording)->info();
    for (int64_t i = 0; i < n_frames; ++i) {
        baseline.frames.push_back(make_frame(tiny_geometry(), i));
        auto rows = (*recording)->rows(i);
        baseline.rows.push_back(rows ? rows->weights : std::vector<float>());
    }
    return baseline;
}

bool same_info(const RecordingInfo& a, const RecordingInfo& b) {
    return a.format_version == b.format_version && a.created == b.created && a.writer == b.writer &&
           a.engine == b.engine && a.entry == b.entry && a.model.path == b.model.path && a.model.name == b.model.name &&
           a.model.sha256 == b.model.sha256 && a.model.file_bytes == b.model.file_bytes &&
           a.settings_json == b.settings_json && a.text_json == b.text_json && a.complete == b.complete &&
           a.geometry.n_layer() == b.geometry.n_layer() && a.geometry.q_bytes() == b.geometry.q_bytes();
}

bool clear_error(const Error& error, const std::string& path) {
    const bool kind = error.kind == ErrorKind::damaged || error.kind == ErrorKind::not_ours ||
                      error.kind == ErrorKind::too_new || error.kind == ErrorKind::io;
    return kind && error.message.find(fs::path(path).filename().string()) != std::string::npos;
}

// What is wrong with how a damaged file was treated; empty: nothing. `found`: some call noticed.
std::string treat(const std::string& path, const Baseline& baseline, int64_t fewer_allowed, bool& found) {
    found = true;
    auto opened = Recording::open(path);
    if (!opened) return clear_error(opened.error(), path) ? "" : "open: " + opened.error().message;
    Recording& r = **opened;
    const int64_t n = r.info().n_frames;
    if (fewer_allowed == 0 && (n != n_frames || !same_info(r.info(), baseline.info))) return "info changed silently";
    if (n > n_frames) return "more frames than were written";
    bool good = true;
    for (int64_t i = 0; i < n; ++i) {
        auto header = r.frame(i);
        auto full = r.frame(i, true, true);
        auto rows = r.rows(i);
        if (header && !same_header(*header, baseline.frames[size_t(i)])) return "a frame changed silently";
        if (full && !same_frame(*full, baseline.frames[size_t(i)])) return "a frame's tensors changed silently";
        if (rows && rows->weights != baseline.rows[size_t(i)]) return "rows changed silently";
        if (!header && !clear_error(header.error(), path)) return "frame: " + header.error().message;
        if (!full && !clear_error(full.error(), path)) return "frame: " + full.error().message;
        const bool kept = !baseline.frames[size_t(i)].q.empty();
        if (!rows && kept && !clear_error(rows.error(), path)) return "rows: " + rows.error().message;
        good = good && header && full && (rows || !kept);
    }
    auto frames = r.frames(0, n);
    if (frames) {
        for (int64_t i = 0; i < n; ++i) {
            if (!same_header((*frames)[size_t(i)], baseline.frames[size_t(i)])) return "frames changed silently";
        }
    }
    auto checked = r.check();
    if (!checked && !clear_error(checked.error(), path)) return "check: " + checked.error().message;
    if (checked && !(good && frames)) return "check() passed a file that cannot be read";
    found = !checked;
    return "";
}

int step(const char* variable, int usual) {
    const char* text = std::getenv(variable);
    return text ? std::max(1, std::atoi(text)) : usual;
}

void remove_all_of(const std::string& path) {
    for (const char* suffix : {"", "-wal", "-shm", "-journal"}) fs::remove(path + suffix);
}

} // namespace

TEST(Damage, NoFlippedBitChangesContentSilently) {
    const TempDir dir;
    const std::string original = dir.file("original.attn");
    write_tiny(original);
    const Baseline baseline = baseline_of(original);
    const Bytes bytes = read_bytes(original);
    const std::string path = dir.file("flipped.attn");
    const auto stride = static_cast<size_t>(step("ATTNSCOPE_FLIP_STRIDE", 17));
    size_t flips = 0;
    size_t noticed = 0;
    for (size_t at = 0; at < bytes.size(); at += at < 100 ? 1 : stride) {
        Bytes changed = bytes;
        changed[at] = static_cast<char>(changed[at] ^ (1 << (at / stride % 8)));
        remove_all_of(path);
        write_bytes(path, changed);
        bool found = false;
        const std::string problem = treat(path, baseline, 0, found);
        ASSERT_EQ(problem, "") << "byte " << at;
        ++flips;
        noticed += found;
    }
    std::printf("%zu flips in %zu bytes, %zu noticed, the others harmless\n", flips, bytes.size(), noticed);
    EXPECT_GT(noticed, flips / 3);
}

TEST(Damage, NoTruncationChangesContentSilently) {
    const TempDir dir;
    const std::string original = dir.file("original.attn");
    write_tiny(original);
    const Baseline baseline = baseline_of(original);
    const Bytes bytes = read_bytes(original);
    const std::string path = dir.file("cut.attn");
    for (size_t n = 0; n < bytes.size(); n += n % 1024 == 0 ? 1 : 511) {
        remove_all_of(path);
        write_bytes(path, Bytes(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(n)));
        bool found = false;
        ASSERT_EQ(treat(path, baseline, 0, found), "") << n << " bytes";
        ASSERT_TRUE(found) << n << " bytes";
    }
}

TEST(Damage, ALogThatIsDamagedOrCutLosesItsEndOnly) {
    const TempDir dir;
    const Geometry geometry = tiny_geometry();
    const std::string live = dir.file("live.attn");
    auto writer = recording::create_writer(live, make_info(), {.commit_interval_ms = 0}, recording::Layout{1024, 8});
    ASSERT_TRUE(writer);
    ASSERT_TRUE((*writer)->begin(geometry));
    for (int64_t i = 0; i < n_frames; ++i) ASSERT_TRUE((*writer)->push(make_frame(geometry, i)));
    for (int i = 0; i < 2000 && (*writer)->recorded() < n_frames; ++i) sqlite3_sleep(5);
    const std::string original = dir.file("original.attn");
    fs::copy_file(live, original);
    fs::copy_file(live + "-wal", original + "-wal");
    const Bytes file = read_bytes(original);
    const Bytes log = read_bytes(original + "-wal");
    ASSERT_GT(log.size(), 1000u);
    const Baseline baseline = baseline_of(original);
    const std::string path = dir.file("a.attn");
    const auto stride = static_cast<size_t>(step("ATTNSCOPE_FLIP_STRIDE", 17)) * 7;
    for (size_t at = 0; at < log.size(); at += stride) {
        for (const bool cut : {false, true}) {
            Bytes changed = log;
            if (cut)
                changed.resize(at);
            else
                changed[at] = static_cast<char>(changed[at] ^ 0x10);
            remove_all_of(path);
            write_bytes(path, file);
            write_bytes(path + "-wal", changed);
            bool found = false;
            ASSERT_EQ(treat(path, baseline, n_frames, found), "") << (cut ? "cut at " : "byte ") << at;
        }
    }
}

TEST(Damage, ALookAtAnotherProgramsDatabaseChangesNothing) {
    const TempDir dir;
    const std::string other = dir.file("other.db"), copy = dir.file("copy.db");
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open(other.c_str(), &db), SQLITE_OK);
    const auto run = [&](const char* sql) { EXPECT_EQ(sqlite3_exec(db, sql, nullptr, nullptr, nullptr), SQLITE_OK); };
    run("CREATE TABLE t(a); PRAGMA cache_size=2; BEGIN");
    for (int i = 0; i < 200; ++i) run("INSERT INTO t VALUES (zeroblob(5000))");
    // As a crash would leave it: half of a transaction, and the journal that takes it back.
    fs::copy_file(other, copy);
    fs::copy_file(other + "-journal", copy + "-journal");
    sqlite3_close(db);
    const Bytes file = read_bytes(copy), journal = read_bytes(copy + "-journal");
    ASSERT_GT(journal.size(), 512u);
    const auto recording = Recording::open(copy);
    ASSERT_FALSE(recording);
    EXPECT_EQ(recording.error().kind, ErrorKind::not_ours);
    EXPECT_NE(recording.error().message.find("another program's SQLite database"), std::string::npos)
        << recording.error().message;
    EXPECT_EQ(read_bytes(copy), file);
    ASSERT_TRUE(fs::exists(copy + "-journal"));
    EXPECT_EQ(read_bytes(copy + "-journal"), journal);
}

TEST(Damage, AJournalOfAnotherRecordingsMakingIsNotUndone) {
    const TempDir dir;
    const Geometry geometry = tiny_geometry();
    const std::string path = dir.file("a.attn");
    {
        auto writer = recording::create_writer(path, make_info(), {}, recording::Layout{1024, 8});
        ASSERT_TRUE(writer);
        ASSERT_TRUE((*writer)->begin(geometry));
        for (int64_t i = 0; i < n_frames; ++i) ASSERT_TRUE((*writer)->push(make_frame(geometry, i)));
        ASSERT_TRUE((*writer)->close());
    }
    const Bytes file = read_bytes(path);
    // As a capture leaves it that was killed while it made its file, and whose file was moved away from this name.
    const std::string head("\xd9\xd5\x05\xf9\x20\xa1\x63\xd7\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\x04\0", 28);
    Bytes journal(512);
    std::copy(head.begin(), head.end(), journal.begin());
    for (const char pages : {0, 1, 2}) { // of the file before the transaction: it is made in several
        journal[19] = static_cast<Bytes::value_type>(pages);
        write_bytes(path + "-journal", journal);
        const auto recording = Recording::open(path);
        ASSERT_TRUE(recording) << recording.error().message;
        EXPECT_EQ((*recording)->info().n_frames, n_frames);
        EXPECT_EQ((*recording)->info().notice,
                  "the journal beside it (-journal) was not left by this recording and is ignored: remove it");
        EXPECT_EQ(read_bytes(path), file);
        EXPECT_EQ(read_bytes(path + "-journal"), journal);
    }
}

TEST(Damage, OtherFilesAreRefusedByKind) {
    const TempDir dir;
    const auto kind = [&](const std::string& path) {
        auto r = Recording::open(path);
        return r ? std::nullopt : std::optional(r.error().kind);
    };
    EXPECT_EQ(kind(dir.file("none.attn")), ErrorKind::not_found);
    EXPECT_EQ(kind(dir.path().string()), ErrorKind::not_ours);
    EXPECT_EQ(kind("/dev/null"), ErrorKind::not_ours);
    EXPECT_EQ(kind(""), ErrorKind::invalid_argument);
    write_bytes(dir.file("empty.attn"), {});
    EXPECT_EQ(kind(dir.file("empty.attn")), ErrorKind::not_ours);
    write_bytes(dir.file("text.attn"), Bytes(5000, 'x'));
    EXPECT_EQ(kind(dir.file("text.attn")), ErrorKind::not_ours);
    write_bytes(dir.file("short.attn"), Bytes(10, 'x'));
    EXPECT_EQ(kind(dir.file("short.attn")), ErrorKind::not_ours);
    const auto sql = [&](const std::string& path, const char* text) {
        sqlite3* db = nullptr;
        sqlite3_open(path.c_str(), &db);
        const int rc = sqlite3_exec(db, text, nullptr, nullptr, nullptr);
        EXPECT_EQ(rc, SQLITE_OK) << sqlite3_errmsg(db);
        sqlite3_close(db);
    };
    sql(dir.file("other.db"), "CREATE TABLE t (x); INSERT INTO t VALUES (1)");
    EXPECT_EQ(kind(dir.file("other.db")), ErrorKind::not_ours);

    const auto changed = [&](const char* text) {
        const std::string path = dir.file("changed.attn");
        remove_all_of(path);
        write_recording(path, uniform_geometry({}), 70);
        sql(path, text);
        return kind(path);
    };
    EXPECT_EQ(changed("PRAGMA user_version=3"), ErrorKind::too_new);
    EXPECT_EQ(changed("PRAGMA user_version=1"), ErrorKind::damaged);
    EXPECT_EQ(changed("PRAGMA user_version=0"), ErrorKind::damaged);
    EXPECT_EQ(changed("CREATE TRIGGER t AFTER INSERT ON frame BEGIN SELECT 1; END"), ErrorKind::damaged);
    EXPECT_EQ(changed("CREATE VIEW v AS SELECT 1"), ErrorKind::damaged);
    EXPECT_EQ(changed("CREATE INDEX i ON frame (token)"), ErrorKind::damaged);
    EXPECT_EQ(changed("DROP TABLE frame; CREATE VIEW frame AS SELECT 1 AS idx"), ErrorKind::damaged);
    EXPECT_EQ(changed("DELETE FROM meta WHERE key='engine'"), ErrorKind::damaged);
    EXPECT_EQ(changed("UPDATE meta SET value='9' WHERE key='n_frames'"), ErrorKind::damaged);
    EXPECT_EQ(changed("DELETE FROM frame WHERE id=69"), ErrorKind::damaged);
    EXPECT_EQ(changed("UPDATE meta SET value=x'00' WHERE key='created'"), ErrorKind::damaged);

    const auto check_after = [&](const char* text) {
        EXPECT_EQ(changed(text), std::nullopt);
        auto r = Recording::open(dir.file("changed.attn"));
        if (!r) return std::string("does not open");
        auto checked = (*r)->check();
        EXPECT_FALSE(checked) << text;
        if (checked) return std::string("fine");
        EXPECT_EQ(checked.error().kind, ErrorKind::damaged);
        return checked.error().message;
    };
    const auto names = [](const std::string& message, const char* table) {
        return message.find(table) != std::string::npos;
    };
    EXPECT_TRUE(names(check_after("DELETE FROM frame WHERE id=30"), "table frame, row 30"));
    EXPECT_TRUE(names(check_after("UPDATE frame SET token=token+1 WHERE id=30"), "table frame, row 30"));
    EXPECT_TRUE(names(check_after("UPDATE frame SET q=NULL WHERE id=30"), "table frame, row 30"));
    EXPECT_TRUE(names(check_after("UPDATE frame SET q=zeroblob(length(q)) WHERE id=30"), "table frame, row 30"));
    EXPECT_TRUE(names(check_after("UPDATE frame SET position='x' WHERE id=5"), "table frame, row 5"));
    EXPECT_TRUE(names(check_after("DELETE FROM k_block WHERE id=1"), "table k_block, row 1"));
    EXPECT_TRUE(names(check_after("UPDATE k_block SET data=zeroblob(9) WHERE id=2"), "table k_block, row 2"));
    EXPECT_TRUE(names(check_after("INSERT INTO k_block VALUES (77, 0, x'00')"), "table k_block"));
    EXPECT_TRUE(names(check_after("INSERT INTO k_tail VALUES (3, 0, x'00')"), "table k_tail, row 3"));
    EXPECT_TRUE(names(check_after("UPDATE k_block SET id=-1 WHERE id=0"), "table k_block, row 0"));
}
