// Several sequences when the writer dies, and when the file is not what it was.
#include "recording/writer.h"
#include "support/temp_dir.h"
#include "tree.h"

#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

using namespace attnscope;
using namespace attnscope::test;
namespace fs = std::filesystem;

namespace {

// A forest without an end: each sequence shares a part of one before it and takes a few frames; some end.
[[noreturn]] void write_forever(const std::string& path, const Geometry& geometry, int pipe, unsigned seed) {
    auto writer = RecordingWriter::create(path, make_info(), {.commit_interval_ms = 3, .commit_bytes = 1 << 18});
    if (!writer) _exit(2);
    (*writer)->on_commit([pipe](int64_t n) {
        if (write(pipe, &n, sizeof n) != ssize_t(sizeof n)) _exit(3);
    });
    if (!(*writer)->begin(geometry)) _exit(4);
    std::mt19937 random(seed);
    std::vector<int64_t> n{0};
    std::vector<bool> ended{false};
    for (;;) {
        const auto id = static_cast<int64_t>(random() % n.size());
        if (random() % 40 == 0) {
            Sequence s;
            s.id = int64_t(n.size());
            s.parent = id;
            s.n_shared = n[size_t(id)] - std::min<int64_t>(n[size_t(id)], int64_t(random() % 50));
            if (!(*writer)->begin_sequence(s)) _exit(5);
            n.push_back(s.n_shared);
            ended.push_back(false);
        } else if (ended[size_t(id)]) {
            continue;
        } else if (random() % 200 == 0 && id > 0) {
            if (!(*writer)->end_sequence(id, "enough")) _exit(6);
            ended[size_t(id)] = true;
        } else if (!(*writer)->push(make_frame(geometry, FramePlace{n[size_t(id)]++, id}))) {
            _exit(7);
        }
    }
}

using Bytes = std::vector<char>;

Bytes read_bytes(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

Geometry tiny_geometry() {
    return uniform_geometry({.n_layer = 2, .n_head = 2, .n_head_kv = 1, .head_dim = 8});
}

std::vector<Sequence> tiny_tree() {
    std::vector<Sequence> tree(4);
    for (size_t i = 0; i < tree.size(); ++i) tree[i].id = int64_t(i);
    tree[0].n_frames = 11;
    tree[1].parent = 0;
    tree[1].n_shared = 5;
    tree[1].n_frames = 15;
    tree[2].parent = 1;
    tree[2].n_shared = 12;
    tree[2].n_frames = 14;
    tree[3].n_frames = 9;
    tree[3].label = "d";
    return tree;
}

void write_tiny(const std::string& path) {
    auto writer = recording::create_writer(path, make_info(), {}, recording::Layout{1024, 4});
    ASSERT_TRUE(writer) << writer.error().message;
    ASSERT_TRUE((*writer)->begin(tiny_geometry()));
    Media picture = make_media()[0];
    picture.begin = 6;
    picture.end = 12;
    ASSERT_TRUE(push_tree(**writer, tiny_geometry(), tiny_tree(), {picture}));
    ASSERT_TRUE((*writer)->close());
}

// Rows of every frame of every sequence, as far as they can be had; empty where they cannot.
std::vector<std::vector<float>> all_rows(Recording& r, const std::vector<Sequence>& tree) {
    std::vector<std::vector<float>> all;
    for (const Sequence& s : tree) {
        for (int64_t i = 0; i < s.n_frames; ++i) {
            auto rows = r.rows({i, s.id});
            all.push_back(rows ? std::move(rows->weights) : std::vector<float>());
        }
    }
    return all;
}

} // namespace

TEST(SequencesKill, EveryCommittedFrameOfEachSurvives) {
    const char* wanted = std::getenv("ATTNSCOPE_KILLS");
    const int kills = wanted ? std::atoi(wanted) : 12;
    std::mt19937 random(wanted ? std::random_device()() : 1);
    const Geometry geometry = mixed_geometry();
    int with_several = 0;
    int64_t frames = 0;
    for (int round = 0; round < kills; ++round) {
        const TempDir dir;
        const std::string path = dir.file("a.attn");
        int ends[2];
        ASSERT_EQ(pipe(ends), 0);
        const pid_t child = fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            close(ends[0]);
            write_forever(path, geometry, ends[1], unsigned(round));
        }
        close(ends[1]);
        usleep(useconds_t(random() % 200000));
        kill(child, SIGKILL);
        int status = 0;
        waitpid(child, &status, 0);
        ASSERT_TRUE(WIFSIGNALED(status)) << "the writer ended by itself with " << WEXITSTATUS(status);
        int64_t promised = 0;
        for (int64_t n = 0; read(ends[0], &n, sizeof n) == ssize_t(sizeof n);) promised = n;
        close(ends[0]);
        if (promised == 0) continue;
        auto recording = Recording::open(path);
        ASSERT_TRUE(recording) << recording.error().message;
        const std::vector<Sequence>& sequences = (*recording)->sequences();
        ASSERT_GE(frames_of(sequences), promised);
        for (const Sequence& s : sequences) {
            for (int64_t i = s.n_shared; i < s.n_frames; ++i) {
                auto frame = (*recording)->frame({i, s.id}, true, true);
                ASSERT_TRUE(frame) << frame.error().message;
                ASSERT_TRUE(same_frame(*frame, make_frame(geometry, FramePlace{i, s.id})));
            }
        }
        const auto checked = (*recording)->check();
        ASSERT_TRUE(checked) << checked.error().message;
        frames += frames_of(sequences);
        with_several += sequences.size() > 2;
    }
    std::printf("%d kills, %d with several sequences, %lld frames, none lost or changed\n", kills, with_several,
                static_cast<long long>(frames));
    EXPECT_GT(with_several, kills / 5);
}

TEST(SequencesDamage, NoFlippedBitChangesContentSilently) {
    const TempDir dir;
    const std::string original = dir.file("original.attn");
    write_tiny(original);
    const Geometry geometry = tiny_geometry();
    const std::vector<Sequence> tree = tiny_tree();
    std::vector<std::vector<float>> rows;
    {
        auto recording = Recording::open(original);
        ASSERT_TRUE(recording) << recording.error().message;
        ASSERT_TRUE((*recording)->check());
        rows = all_rows(**recording, tree);
    }
    const Bytes bytes = read_bytes(original);
    const std::string path = dir.file("flipped.attn");
    const char* wanted = std::getenv("ATTNSCOPE_FLIP_STRIDE");
    const size_t stride = wanted ? size_t(std::max(1, std::atoi(wanted))) : 23;
    size_t flips = 0, noticed = 0;
    for (size_t at = 0; at < bytes.size(); at += at < 100 ? 1 : stride, ++flips) {
        SCOPED_TRACE(testing::Message() << "byte " << at);
        Bytes changed = bytes;
        changed[at] = static_cast<char>(changed[at] ^ (1 << (at / stride % 8)));
        for (const char* suffix : {"", "-wal", "-shm", "-journal"}) fs::remove(path + suffix);
        std::ofstream(path, std::ios::binary).write(changed.data(), std::streamsize(changed.size()));
        auto opened = Recording::open(path);
        if (!opened) {
            ++noticed;
            ASSERT_NE(opened.error().message.find("flipped.attn"), std::string::npos) << opened.error().message;
            continue;
        }
        Recording& r = **opened;
        ASSERT_EQ(r.sequences().size(), tree.size());
        ASSERT_EQ(r.media().size(), 1u);
        ASSERT_EQ(r.media()[0].begin, 6);
        ASSERT_EQ(r.media()[0].name, "cat.png");
        for (const Sequence& s : tree) {
            const Sequence& read = r.sequences()[size_t(s.id)];
            ASSERT_TRUE(read.parent == s.parent && read.n_shared == s.n_shared && read.n_frames == s.n_frames &&
                        read.label == s.label);
            for (int64_t i = s.n_shared; i < s.n_frames; ++i) {
                const auto frame = r.frame({i, s.id}, true, true);
                if (frame) {
                    ASSERT_TRUE(same_frame(*frame, make_frame(geometry, FramePlace{i, s.id})));
                }
            }
        }
        const auto now = all_rows(r, tree);
        bool good = true;
        for (size_t i = 0; i < rows.size(); ++i) {
            if (!now[i].empty()) {
                ASSERT_EQ(now[i], rows[i]);
            }
            good = good && now[i].size() == rows[i].size();
        }
        const auto checked = r.check();
        if (checked) {
            ASSERT_TRUE(good) << "check() passed a file that cannot be read";
        }
        noticed += !checked;
    }
    std::printf("%zu flips in %zu bytes, %zu noticed, the others harmless\n", flips, bytes.size(), noticed);
    EXPECT_GT(noticed, flips / 3);
}

TEST(SequencesDamage, IsFoundWhereItIs) {
    const TempDir dir;
    const std::string path = dir.file("changed.attn");
    // What opening or checking says after a change by hand.
    const auto after = [&](const char* text) {
        for (const char* suffix : {"", "-wal", "-shm", "-journal"}) fs::remove(path + suffix);
        write_tiny(path);
        sqlite3* db = nullptr;
        sqlite3_open(path.c_str(), &db);
        EXPECT_EQ(sqlite3_exec(db, text, nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(db);
        sqlite3_close(db);
        auto r = Recording::open(path);
        if (!r) return r.error().message;
        const auto checked = (*r)->check();
        return checked ? std::string("fine") : checked.error().message;
    };
    const auto found = [&](const char* text, const char* where) {
        const std::string said = after(text);
        EXPECT_NE(said.find(where), std::string::npos) << text << ": " << said;
    };
    found("UPDATE sequence SET n_shared=4 WHERE id=1", "table sequence, row 1");
    found("UPDATE sequence SET n_own=n_own+1 WHERE id=2", "table sequence, row 2");
    found("UPDATE sequence SET label='e' WHERE id=3", "table sequence, row 3");
    found("UPDATE sequence SET parent=3 WHERE id=1", "table sequence, row 1");
    found("DELETE FROM sequence WHERE id=3", "table sequence");
    found("DELETE FROM sequence", "table sequence");
    found("UPDATE sequence SET id=9 WHERE id=2", "table sequence, row 2");
    found("INSERT INTO sequence VALUES (4, -1, 0, 0, -1, 0, 0, 0, '', '')", "table sequence, row 4");
    found("UPDATE media SET \"end\"=13", "table media, row 0");
    found("DELETE FROM media", "table media");
    found("INSERT INTO media VALUES (1, 0, 0, 1, 0, 0, 0, 0, 0, 0, '', '')", "table media, row 1");
    // frames and keys of one sequence do not pass for another's
    found("UPDATE frame SET id = id + (1 << 40) WHERE id = (2 << 40 | 13)", "table frame");
    found("DELETE FROM frame WHERE id = (1 << 40 | 14)", "table frame");
    found("DELETE FROM frame WHERE id = (1 << 40 | 7)", "table frame");
    found("INSERT INTO frame SELECT id + (9 << 40), token, position, kind, batched, verdict, checksum, q_checksum, "
          "visible, "
          "witnesses, q FROM frame WHERE id = 3",
          "table frame");
    found("UPDATE frame SET batched = 1 - batched WHERE id = 3", "table frame, row 3");
    found("UPDATE k_block SET id = -1 - id WHERE id >= (3 << 40)", "table k_block");
    found("UPDATE k_block SET data = (SELECT data FROM k_block WHERE id = 0) WHERE id = (1 << 40)", "table k_block");
    found("DELETE FROM k_block WHERE id >= (2 << 40) AND id < (3 << 40)", "table k_block");
    found("INSERT INTO k_tail VALUES (1 << 40 | 9, 0, x'00')", "table k_tail");
}
