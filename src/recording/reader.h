// The reading side of the file. One object a thread; every call sees one consistent moment of a file that
// grows.
#pragma once

#include "recording/database.h"

#include <attnscope/recording.h>
#include <attnscope/rows.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace attnscope::recording {

// Opens a file for reading in whichever way works; `notice` says what cannot be seen that way.
struct OpenedFile {
    std::unique_ptr<Database> db;
    std::string notice;
};
Result<OpenedFile> open_for_reading(const std::string& path);

// Whatever a file says goes into JSON and onto terminals later.
std::string valid_utf8(const std::string& text);

// A read transaction for the length of a scope. Short: the writer's log cannot be reused while one is open.
class Snapshot {
public:
    explicit Snapshot(Database& db) : db_(db), began_(db.exec("BEGIN")) {}
    ~Snapshot() { (void)sqlite3_exec(db_.handle(), "COMMIT", nullptr, nullptr, nullptr); }
    Snapshot(const Snapshot&) = delete;
    Snapshot& operator=(const Snapshot&) = delete;
    const Result<void>& began() const { return began_; }

private:
    Database& db_;
    Result<void> began_;
};

class Reader final : public Recording {
public:
    Reader(std::string path, OpenedFile opened);
    Result<void> load(); // after construction, once

    const RecordingInfo& info() const override { return info_; }
    Result<void> refresh() override;
    const std::vector<Sequence>& sequences() const override { return sequences_; }
    const std::vector<Media>& media() const override { return media_; }
    Result<Frame> frame(FramePlace place, bool with_q, bool with_k) override;
    Result<std::vector<Frame>> frames(int64_t begin, int64_t end, int64_t sequence) override;
    Result<std::vector<uint8_t>> keys(int32_t layer, int64_t begin, int64_t end, int64_t sequence) override;
    Result<FrameRows> rows(FramePlace place, const RowSelection& selection) override;
    std::string token_text(int32_t token) const override;
    Result<void> check(const std::function<void(double)>& progress) override;

private:
    // Columns [begin, end) of a sequence that lie with one of its ancestors or itself.
    struct Segment {
        int64_t sequence = 0; // that holds them
        int64_t begin = 0;
        int64_t end = 0;
    };
    // Where a sequence's own keys are at this moment: those of columns below `end` in blocks, the rest in the tail.
    struct Sealed {
        int64_t n_chunks = 0;
        int64_t end = 0;
    };
    // Keys of frames that are not sealed, (frame, Frame::k).
    struct Tail {
        int64_t first = 0;
        std::vector<uint8_t> data;
    };
    struct SegmentKeys {
        Segment segment;
        Sealed sealed;
        Tail tail;
    };
    // One layer's keys in memory, or pointers into a tail.
    struct LayerKeys {
        std::vector<uint8_t> sealed;
        std::vector<KeyBlock> blocks;
    };

    Error damaged(const std::string& what) const;
    Result<void> check_selected(const FrameRows& rows) const; // layers and heads
    // Of the rows of a frame that its sequence holds.
    Result<int64_t> columns_seen(const Frame& frame, FramePlace place) const;
    Error no_such_frame(const FramePlace& place) const;
    const Sequence& sequence(int64_t id) const { return sequences_[size_t(id)]; }

    // reader.cpp: under a snapshot
    Result<void> prepare();
    Result<void> verify_schema();
    Result<std::map<std::string, std::string>> read_meta();
    Result<void> load_info(const std::map<std::string, std::string>& meta);
    Result<void> load_geometry(const std::map<std::string, std::string>& meta);
    Result<void> load_counts(const std::map<std::string, std::string>& meta);
    Result<void> load_texts();

    // reader_sequences.cpp: under a snapshot, the first four
    Result<std::vector<Sequence>> read_sequences(int64_t n);
    Result<std::vector<Media>> read_media(int64_t n, const std::vector<Sequence>& sequences);
    Result<void> last_frames_fit(const std::vector<Sequence>& sequences);
    Result<int64_t> last_row(Statement& last, int64_t sequence); // within the sequence; -1: none
    Result<Segment> owner(const FramePlace& place) const;        // one column
    Result<std::vector<Segment>> segments(int64_t sequence, int64_t begin, int64_t end) const;

    // reader_frames.cpp: under a snapshot; places are owners'
    Result<Frame> frame_fields(Statement& row, const FramePlace& expected, int64_t& q_checksum);
    Result<Frame> read_frame(const FramePlace& place, bool with_q);
    // Calls each(frame) for the frames of columns [begin, end), without q.
    template <typename Each> Result<void> each_frame(int64_t sequence, int64_t begin, int64_t end, const Each& each);
    Result<std::vector<int32_t>> read_positions(int64_t sequence, int64_t end);

    // reader_keys.cpp: under a snapshot; places are owners'
    Result<Sealed> read_sealed(int64_t sequence);
    Result<void> read_block(int64_t sequence, int64_t chunk, int32_t layer, const Sealed& sealed,
                            std::vector<uint8_t>& out);
    Result<Tail> read_tail(const Segment& unsealed);
    Result<std::vector<uint8_t>> read_k(const FramePlace& place);
    Result<void> append_keys(int32_t layer, const Segment& segment, std::vector<uint8_t>& out);
    Result<std::vector<SegmentKeys>> find_keys(int64_t sequence, int64_t end);
    Result<void> load_keys(int32_t layer, const Ranges& visible, const std::vector<SegmentKeys>& where,
                           LayerKeys& keys);

    // reader_check.cpp
    Result<void> check_frames(const std::function<void(double)>& progress);
    Result<void> check_blocks(const std::vector<Sealed>& sealed, const std::function<void(double)>& progress);
    Result<void> check_tail(const std::vector<Sealed>& sealed);

    std::string path_;
    std::unique_ptr<Database> db_;
    RecordingInfo info_;
    int32_t chunk_frames_ = 0; // 0 until the geometry is known
    int64_t n_texts_ = -1;
    int64_t n_frames_ = 0; // of all sequences
    std::map<int32_t, std::string> texts_;
    std::vector<Sequence> sequences_ = std::vector<Sequence>(1); // by id
    std::vector<Media> media_;
    Statement select_meta_, select_frame_, select_frames_, select_q_, last_frame_, last_block_, select_block_,
        select_tail_;
};

} // namespace attnscope::recording
