// Several sequences in one recording: what they share lies once, and every column is the sequence's own.
#include "attention/fingerprint.h"
#include "support/temp_dir.h"
#include "tree.h"

#include <attnscope/rows.h>
#include <attnscope/verify.h>

#include <gtest/gtest.h>
#include <sqlite3.h>

#include <filesystem>

using namespace attnscope;
using namespace attnscope::test;

namespace {

std::unique_ptr<RecordingWriter> must_begin(const std::string& path, const Geometry& geometry,
                                            const WriterOptions& options = {}) {
    auto writer = RecordingWriter::create(path, make_info(), options);
    EXPECT_TRUE(writer) << writer.error().message;
    EXPECT_TRUE((*writer)->begin(geometry));
    return std::move(*writer);
}

std::unique_ptr<Recording> must_open(const std::string& path) {
    auto recording = Recording::open(path);
    EXPECT_TRUE(recording) << recording.error().message;
    return std::move(*recording);
}

// Rows of a frame from the frames of its sequence, without a file.
std::vector<float> expected_rows(const Geometry& geometry, const std::vector<Frame>& columns, size_t index) {
    const auto n = static_cast<int64_t>(index) + 1;
    std::vector<float> all(size_t(geometry.n_layer()) * size_t(geometry.max_heads()) * size_t(n));
    std::vector<int32_t> positions;
    for (size_t j = 0; j <= index; ++j) positions.push_back(columns[j].position);
    for (int32_t l = 0; l < geometry.n_layer(); ++l) {
        const LayerInfo& layer = geometry.layers[size_t(l)];
        if (!layer.captured()) continue;
        std::vector<KeyBlock> keys;
        for (size_t j = 0; j <= index; ++j)
            keys.push_back({columns[j].k.data() + geometry.k_offset(layer.k_layer), int64_t(j), 1, 0});
        RowsRequest r;
        r.layer = &layer;
        r.q = columns[index].q.data() + geometry.q_offset(l);
        r.keys = keys;
        r.visible = columns[index].visible[size_t(layer.mask_group)];
        r.n_columns = n;
        r.position = columns[index].position;
        r.positions = positions;
        r.batched = columns[index].batched;
        r.head_end = layer.n_head;
        const size_t from = size_t(l) * size_t(geometry.max_heads()) * size_t(n);
        EXPECT_TRUE(attention_rows(r, std::span(all).subspan(from, size_t(layer.n_head) * size_t(n))));
    }
    return all;
}

// Everything that `sequences` says is there, and is what was written.
void expect_tree(Recording& recording, const Geometry& geometry, const std::vector<Sequence>& sequences) {
    ASSERT_EQ(recording.sequences().size(), sequences.size());
    for (const Sequence& s : sequences) {
        const Sequence& read = recording.sequences()[size_t(s.id)];
        EXPECT_EQ(read.id, s.id);
        EXPECT_EQ(read.parent, s.parent);
        EXPECT_EQ(read.n_shared, s.n_shared);
        EXPECT_EQ(read.n_frames, s.n_frames);
        EXPECT_EQ(read.keys_of, s.keys_of);
        EXPECT_EQ(read.label, s.label);
        std::vector<Frame> columns;
        for (int64_t i = 0; i < s.n_frames; ++i)
            columns.push_back(make_frame(geometry, owner_in(sequences, {i, s.id})));
        const auto headers = recording.frames(0, s.n_frames, s.id);
        ASSERT_TRUE(headers) << headers.error().message;
        ASSERT_EQ(headers->size(), columns.size());
        for (int64_t i = 0; i < s.n_frames; ++i) {
            SCOPED_TRACE(testing::Message() << "sequence " << s.id << ", frame " << i);
            ASSERT_TRUE(same_header((*headers)[size_t(i)], columns[size_t(i)]));
            const auto frame = recording.frame({i, s.id}, true, true);
            ASSERT_TRUE(frame) << frame.error().message;
            ASSERT_TRUE(same_frame(*frame, columns[size_t(i)]));
            if (i % 7 != 0 && i + 1 != s.n_frames) continue;
            const auto rows = recording.rows({i, s.id});
            ASSERT_EQ(rows.ok(), !frame->q.empty());
            if (!rows) continue;
            ASSERT_EQ(rows->n_columns, i + 1);
            ASSERT_EQ(rows->weights, expected_rows(geometry, columns, size_t(i)));
        }
        for (int32_t l = 0; l < geometry.n_layer(); ++l) {
            if (!geometry.owns_k(l)) continue;
            for (const auto& [begin, end] :
                 {std::pair<int64_t, int64_t>{0, s.n_frames}, {s.n_shared / 2, s.n_frames}, {3, 3}}) {
                std::vector<uint8_t> expected;
                for (int64_t i = begin; i < end; ++i) {
                    const auto from = columns[size_t(i)].k.begin() + static_cast<ptrdiff_t>(geometry.k_offset(l));
                    expected.insert(expected.end(), from,
                                    from + static_cast<ptrdiff_t>(geometry.layers[size_t(l)].k_bytes()));
                }
                const auto keys = recording.keys(l, begin, end, s.id);
                ASSERT_TRUE(keys) << keys.error().message;
                ASSERT_EQ(*keys, expected);
            }
        }
        EXPECT_FALSE(recording.frame({s.n_frames, s.id}));
        EXPECT_FALSE(recording.frame({-1, s.id}));
        EXPECT_FALSE(recording.rows({INT64_MAX, s.id}));
        EXPECT_FALSE(recording.frames(0, s.n_frames + 1, s.id));
    }
    const auto none = recording.frame({0, int64_t(sequences.size())});
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().kind, ErrorKind::not_found);
    EXPECT_FALSE(recording.frame({0, -1}));
    const auto checked = recording.check();
    EXPECT_TRUE(checked) << checked.error().message;
}

} // namespace

TEST(Sequences, KeepEveryBitOfEveryFrameAndShareBeginnings) {
    for (const Geometry& geometry : {uniform_geometry({}), mixed_geometry()}) {
        const TempDir dir;
        const std::vector<Sequence> tree = make_tree();
        auto writer = must_begin(dir.file("a.attn"), geometry);
        ASSERT_TRUE(push_tree(*writer, geometry, tree, make_media()));
        ASSERT_TRUE(writer->close());
        EXPECT_EQ(writer->recorded(), frames_of(tree));
        auto recording = must_open(dir.file("a.attn"));
        EXPECT_EQ(recording->info().n_frames, tree[0].n_frames);
        expect_tree(*recording, geometry, tree);
        EXPECT_TRUE(recording->sequences()[2].ended);

        const std::vector<Media> media = make_media();
        ASSERT_EQ(recording->media().size(), media.size());
        const Media& picture = recording->media()[0];
        EXPECT_EQ(picture.sequence, media[0].sequence);
        EXPECT_EQ(picture.begin, media[0].begin);
        EXPECT_EQ(picture.end, media[0].end);
        EXPECT_EQ(picture.width, media[0].width);
        EXPECT_EQ(picture.height, media[0].height);
        EXPECT_EQ(picture.n_patch_x, media[0].n_patch_x);
        EXPECT_EQ(picture.n_patch_y, media[0].n_patch_y);
        EXPECT_EQ(picture.name, media[0].name);
        EXPECT_EQ(picture.sha256, media[0].sha256);
        EXPECT_EQ(recording->media()[1].kind, MediaKind::audio);
    }
}

// Whoever asks by index alone gets the sequence that was opened, the shared frames among them.
TEST(Sequences, CanBeOpenedEachAsTheOnlyOne) {
    const TempDir dir;
    const Geometry geometry = mixed_geometry();
    const std::vector<Sequence> tree = make_tree();
    auto writer = must_begin(dir.file("a.attn"), geometry);
    ASSERT_TRUE(push_tree(*writer, geometry, tree, make_media()));
    ASSERT_TRUE(writer->close());
    auto whole = must_open(dir.file("a.attn"));
    for (const Sequence& s : tree) {
        SCOPED_TRACE(s.id);
        auto one = Recording::open_sequence(dir.file("a.attn"), s.id);
        ASSERT_TRUE(one) << one.error().message;
        EXPECT_EQ((*one)->info().n_frames, s.n_frames);
        ASSERT_EQ((*one)->sequences().size(), 1u);
        EXPECT_EQ((*one)->sequences()[0].id, 0);
        EXPECT_EQ((*one)->sequences()[0].label, s.label);
        EXPECT_EQ((*one)->sequences()[0].n_own(), s.n_frames);
        const auto frames = (*one)->frames(0, s.n_frames);
        ASSERT_TRUE(frames) << frames.error().message;
        for (int64_t i = 0; i < s.n_frames; ++i) {
            Frame expected = make_frame(geometry, owner_in(tree, {i, s.id}));
            expected.sequence = 0;
            ASSERT_TRUE(same_header((*frames)[size_t(i)], expected)) << i;
            const auto frame = (*one)->frame(i, true, true);
            ASSERT_TRUE(frame) << frame.error().message;
            ASSERT_TRUE(same_frame(*frame, expected)) << i;
            if (i % 11 != 0 || frame->q.empty()) continue;
            const auto rows = (*one)->rows(i);
            ASSERT_TRUE(rows) << rows.error().message;
            ASSERT_EQ(rows->weights, whole->rows({i, s.id})->weights) << i;
        }
        for (const Media& medium : (*one)->media()) EXPECT_LE(medium.end, s.n_frames);
        EXPECT_FALSE((*one)->frame({0, 1}));
        EXPECT_TRUE((*one)->check());
    }
    for (const int64_t id : {int64_t(-1), int64_t(tree.size()), INT64_MAX}) {
        auto none = Recording::open_sequence(dir.file("a.attn"), id);
        ASSERT_FALSE(none);
        EXPECT_EQ(none.error().kind, ErrorKind::not_found);
    }
    // a picture in what a child shares lies in the child as well
    const Media& picture = whole->media()[0];
    for (const Sequence& s : tree) {
        if (s.parent != picture.sequence || s.n_shared <= picture.begin) continue;
        auto child = Recording::open_sequence(dir.file("a.attn"), s.id);
        ASSERT_TRUE(child);
        EXPECT_FALSE((*child)->media().empty());
    }
}

TEST(Sequences, CanBeReadWhileTheyAreWritten) {
    const TempDir dir;
    const Geometry geometry = mixed_geometry();
    const std::vector<Sequence> tree = make_tree();
    auto writer = must_begin(dir.file("a.attn"), geometry, {.commit_interval_ms = 0});
    std::unique_ptr<Recording> recording = must_open(dir.file("a.attn"));
    ASSERT_FALSE(push_tree(*writer, geometry, tree, make_media(), 300));
    for (int i = 0; i < 4000 && writer->recorded() < 300; ++i) sqlite3_sleep(5);
    ASSERT_EQ(writer->recorded(), 300);
    ASSERT_TRUE(recording->refresh());
    std::vector<Sequence> now = recording->sequences();
    ASSERT_EQ(frames_of(now), 300);
    ASSERT_GT(now.size(), 4u);
    for (const Sequence& s : now) EXPECT_FALSE(s.ended);
    expect_tree(*recording, geometry, now);
}

TEST(Sequences, ThatEndedTakeNoMoreAndAreWhole) {
    const TempDir dir;
    const Geometry geometry = uniform_geometry({});
    auto writer = must_begin(dir.file("a.attn"), geometry, {.commit_interval_ms = 0});
    for (const int64_t id : {0, 1}) {
        Sequence s;
        s.id = id;
        ASSERT_TRUE(writer->begin_sequence(s));
        for (int64_t i = 0; i < 70; ++i) ASSERT_TRUE(writer->push(make_frame(geometry, FramePlace{i, id})));
    }
    ASSERT_TRUE(writer->end_sequence(0, "the cache was shifted"));
    EXPECT_FALSE(writer->push(make_frame(geometry, FramePlace{70, 0})));
    EXPECT_FALSE(writer->end_sequence(0, ""));
    EXPECT_FALSE(writer->end_sequence(2, ""));
    Sequence child; // of one that has ended
    child.id = 2;
    child.parent = 0;
    child.n_shared = 69;
    ASSERT_TRUE(writer->begin_sequence(child));
    ASSERT_TRUE(writer->push(make_frame(geometry, FramePlace{69, 2})));
    for (int i = 0; i < 4000 && writer->recorded() < 141; ++i) sqlite3_sleep(5);
    auto recording = must_open(dir.file("a.attn"));
    EXPECT_TRUE(recording->sequences()[0].ended);
    EXPECT_EQ(recording->sequences()[0].end_reason, "the cache was shifted");
    EXPECT_FALSE(recording->sequences()[1].ended);
    expect_tree(*recording, geometry, recording->sequences());
}

TEST(Sequences, ThatFitNowhereAreRefused) {
    const TempDir dir;
    const Geometry geometry = uniform_geometry({});
    auto unready = RecordingWriter::create(dir.file("b.attn"), make_info());
    ASSERT_TRUE(unready);
    EXPECT_FALSE((*unready)->begin_sequence({}));
    EXPECT_FALSE((*unready)->add_media({}));
    auto writer = must_begin(dir.file("a.attn"), geometry);
    for (int64_t i = 0; i < 10; ++i) ASSERT_TRUE(writer->push(make_frame(geometry, i)));
    const auto refused = [&](const auto& change, ErrorKind kind = ErrorKind::invalid_argument) {
        Sequence s;
        s.id = 1;
        s.parent = 0;
        s.n_shared = 5;
        change(s);
        const auto r = writer->begin_sequence(s);
        return !r && r.error().kind == kind;
    };
    EXPECT_TRUE(refused([](Sequence& s) { s.id = 0; })); // it has frames
    EXPECT_TRUE(refused([](Sequence& s) { s.id = 2; }));
    EXPECT_TRUE(refused([](Sequence& s) { s.id = -1; }));
    EXPECT_TRUE(refused([](Sequence& s) { s.parent = 1; }));
    EXPECT_TRUE(refused([](Sequence& s) { s.parent = -1; })); // shares with nobody
    EXPECT_TRUE(refused([](Sequence& s) { s.parent = -2; }));
    EXPECT_TRUE(refused([](Sequence& s) { s.n_shared = 11; }));
    EXPECT_TRUE(refused([](Sequence& s) { s.n_shared = -1; }));
    EXPECT_TRUE(refused([](Sequence& s) { s.keys_of = 1; }));
    EXPECT_TRUE(refused([](Sequence& s) { s.label.assign(100000, 'x'); }));
    EXPECT_TRUE(refused([](Sequence& s) { s.geometry = 1; }, ErrorKind::unsupported));
    EXPECT_FALSE(refused([](Sequence&) {}));
    EXPECT_FALSE(writer->push(make_frame(geometry, FramePlace{4, 1}))); // the parent's
    EXPECT_FALSE(writer->push(make_frame(geometry, FramePlace{6, 1})));
    EXPECT_FALSE(writer->push(make_frame(geometry, FramePlace{0, 2})));
    EXPECT_FALSE(writer->push(make_frame(geometry, FramePlace{0, -1})));
    EXPECT_TRUE(writer->push(make_frame(geometry, FramePlace{5, 1})));

    const auto media_refused = [&](const auto& change) {
        Media m = make_media()[0];
        change(m);
        return !writer->add_media(m);
    };
    EXPECT_TRUE(media_refused([](Media& m) { m.sequence = 2; }));
    EXPECT_TRUE(media_refused([](Media& m) { m.begin = 46; }));
    EXPECT_TRUE(media_refused([](Media& m) { m.begin = -1; }));
    EXPECT_TRUE(media_refused([](Media& m) { m.n_patch_y = 3; }));
    EXPECT_TRUE(media_refused([](Media& m) { m.width = -1; }));
    EXPECT_TRUE(media_refused([](Media& m) { m.kind = MediaKind(5); }));
    ASSERT_TRUE(writer->close());
    expect_tree(*must_open(dir.file("a.attn")), geometry, must_open(dir.file("a.attn"))->sequences());
}

// Verification reads every sequence, and proves rows whose keys lie with the parent.
TEST(Sequences, AreVerifiedEach) {
    const TempDir dir;
    const Geometry geometry = uniform_geometry({});
    std::vector<Sequence> pair(2);
    pair[0].n_frames = 30;
    pair[1] = {.id = 1, .parent = 0, .n_shared = 20, .n_frames = 40, .label = {}, .end_reason = {}};
    const auto write = [&](double fingerprint) {
        auto writer = must_begin(dir.file("a.attn"), geometry, {.overwrite = true});
        for (const Sequence& s : pair) {
            if (s.id > 0) {
                EXPECT_TRUE(writer->begin_sequence(s));
            }
            for (int64_t i = s.n_shared; i < s.n_frames; ++i) {
                Frame frame = make_frame(geometry, FramePlace{i, s.id});
                frame.verdict = verdict_ok;
                frame.witnesses = {};
                if (s.id == 1 && i == 35) frame.witnesses = {{1, 2, 1e-4f, 5e-3f, 1.0f, fingerprint}};
                EXPECT_TRUE(writer->push(std::move(frame)));
            }
        }
        EXPECT_TRUE(writer->close());
        return must_open(dir.file("a.attn"));
    };
    const std::vector<int32_t> layer{1}, head{2};
    const auto rows = write(0)->rows({35, 1}, {layer, head});
    ASSERT_TRUE(rows) << rows.error().message;
    const double fingerprint = attention::row_fingerprint(rows->weights);

    std::vector<double> done; // of everything: it never falls
    const auto progress = [&](const char*, double fraction) { done.push_back(fraction); };
    const auto good = verify_recording(*write(fingerprint), {.proofs = -1, .progress = progress});
    ASSERT_TRUE(good) << good.error().message;
    EXPECT_GT(done.size(), 3u);
    EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
    EXPECT_GT(done.back(), 0.7) << "the second sequence's proofs";
    EXPECT_LE(done.back(), 1);
    EXPECT_EQ(good->damage, "");
    EXPECT_EQ(good->n_frames, 50);
    ASSERT_EQ(good->frames.size(), 50u);
    EXPECT_EQ(good->n_proven_again, 1);
    const FrameVerdict& proven = good->frames[size_t(30 + 35 - 20)];
    EXPECT_EQ(proven.sequence, 1);
    EXPECT_EQ(proven.index, 35);
    EXPECT_TRUE(proven.proven_again);
    EXPECT_EQ(proven.verdict & verdict_fingerprint, 0u);

    const auto bad = verify_recording(*write(fingerprint * 1.01), {.proofs = -1, .progress = {}});
    ASSERT_TRUE(bad) << bad.error().message;
    for (const FrameVerdict& v : bad->frames)
        EXPECT_EQ(v.verdict & verdict_fingerprint,
                  v.sequence == 1 && v.index == 35 ? uint32_t(verdict_fingerprint) : 0u);
}
