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
    Result<Frame> frame(int64_t index, bool with_q, bool with_k) override;
    Result<std::vector<Frame>> frames(int64_t begin, int64_t end) override;
    Result<std::vector<uint8_t>> keys(int32_t layer, int64_t begin, int64_t end) override;
    Result<FrameRows> rows(int64_t index, const RowSelection& selection) override;
    std::string token_text(int32_t token) const override;
    Result<void> check(const std::function<void(double)>& progress) override;

private:
    // Where the keys are at this moment: frames [0, n_sealed) in blocks, the rest in the tail.
    struct Sealed {
        int64_t n_chunks = 0;
        int64_t n_frames = 0;
    };
    // Keys of frames that are not sealed, (frame, Frame::k).
    struct Tail {
        int64_t first = 0;
        std::vector<uint8_t> data;
    };
    // One layer's keys in memory, or pointers into a tail.
    struct LayerKeys {
        std::vector<uint8_t> sealed;
        std::vector<KeyBlock> blocks;
    };

    Error damaged(const std::string& what) const;
    Error no_such_frame(int64_t index) const;

    // reader.cpp: under a snapshot
    Result<void> prepare();
    Result<void> verify_schema();
    Result<std::map<std::string, std::string>> read_meta();
    Result<void> load_info(const std::map<std::string, std::string>& meta);
    Result<void> load_geometry(const std::map<std::string, std::string>& meta);
    Result<void> load_counts(const std::map<std::string, std::string>& meta);
    Result<void> load_texts();

    // reader_frames.cpp: under a snapshot
    Result<Frame> frame_fields(Statement& row, int64_t expected_index, int64_t& q_checksum);
    Result<Frame> read_frame(int64_t index, bool with_q);
    Result<Sealed> read_sealed();
    Result<void> read_block(int64_t chunk, int32_t layer, const Sealed& sealed, std::vector<uint8_t>& out);
    Result<Tail> read_tail(int64_t begin, int64_t end);
    Result<std::vector<uint8_t>> read_k(int64_t index);

    // reader_rows.cpp
    Result<void> load_keys(int32_t layer, const Ranges& visible, const Sealed& sealed, const Tail& tail,
                           LayerKeys& keys);
    Result<std::vector<int32_t>> read_positions(int64_t end);

    // reader_check.cpp
    Result<void> check_frames(const Sealed& sealed, const std::function<void(double)>& progress);
    Result<void> check_blocks(const Sealed& sealed, const std::function<void(double)>& progress);
    Result<void> check_tail(const Sealed& sealed);

    std::string path_;
    std::unique_ptr<Database> db_;
    RecordingInfo info_;
    int32_t chunk_frames_ = 0; // 0 until the geometry is known
    int64_t n_texts_ = -1;
    std::map<int32_t, std::string> texts_;
    Statement select_meta_, select_frame_, select_frames_, select_q_, last_frame_, last_block_, select_block_,
        select_tail_;
};

} // namespace attnscope::recording
