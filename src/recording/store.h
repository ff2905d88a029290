// The writer's side of the file, on one thread: rows in, transactions out. No queue, no clock.
#pragma once

#include "recording/database.h"
#include "recording/layout.h"
#include "recording/name_claim.h"

#include <attnscope/recording.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace attnscope::recording {

// What a file held when it was closed.
struct Written {
    std::string identity;
    Geometry geometry;
    std::vector<Sequence> sequences; // by id; all have ended
    int64_t n_media = 0;
};

class Store {
public:
    // Creates the file with its tables, marked incomplete. The folder must exist; an existing file is refused
    // unless `overwrite`.
    static Result<std::unique_ptr<Store>> create(const std::string& path, const RecordingInfo& info, bool overwrite);

    // Goes on with a file that was closed: it is incomplete again. What lies there stays as it is; its sequences have ended, and new ones
    // may share of them.
    static Result<std::unique_ptr<Store>> open_again(const std::string& path, Written& written);

    // States the geometry, which fixes the page size, and switches to the write-ahead log.
    Result<void> begin(const Geometry& geometry, const Layout& layout);
    // Each opens a transaction when none is open. The caller (writer.cpp) has checked the order: frames in order and as
    // the geometry says; sequences in order, before their frames and pictures; none named after its end.
    Result<void> put(Frame&& frame);
    Result<void> put_text(int32_t token, const std::string& piece);
    Result<void> put_sequence(const Sequence& sequence); // n_frames is counted here
    Result<void> put_media(const Media& media);
    Result<void> end_sequence(int64_t id, const std::string& reason);
    // Makes what was put visible to readers and safe from the end of this process.
    Result<void> commit();
    // Seals the last chunk, marks the file complete, and folds the log into it.
    Result<void> finish();

    int64_t n_committed() const { return n_committed_; }
    size_t uncommitted_bytes() const { return uncommitted_bytes_; }
    // The disk, or the file size that is allowed, may end soon.
    bool is_tight() const;

private:
    // A sequence that is being written.
    struct Line {
        Sequence sequence;   // n_frames: what was put
        bool changed = true; // since its row was written
        bool tail_in_file = false;
        // Keys of the chunk that is being filled, (layer that owns K, chunk_frames, n_head_kv, head_dim); empty before the
        // first frame and after the end.
        std::vector<uint8_t> chunk;
        std::vector<std::pair<int64_t, std::vector<uint8_t>>>
            tail; // frames of this chunk since the last commit: index, K
    };

    Result<void> take_up(const Written& written);
    Result<void> prepare();
    Result<void> put_meta(std::string_view key, std::string_view value);
    Result<void> open_transaction();
    Result<void> seal_chunk(Line& line, int64_t n_rows);
    Result<void> seal_rest(Line& line);
    Result<void> put_tails();
    Result<void> put_lines();
    Result<void> put_counts(bool complete);
    Result<void> still_there();
    Result<void> log_is_whole(); // a log that was cut is not copied into the file
    static int after_commit(void* self, sqlite3* db, const char* name, int n_pages);
    Error with_rollback(Error error);

    std::string path_;
    NameClaim claim_; // outlives the connection
    std::unique_ptr<Database> db_;
    int64_t log_bytes_ = 0; // of the log after the last commit
    Statement insert_meta_, insert_frame_, insert_block_, insert_tail_, delete_tail_, insert_text_, insert_sequence_,
        insert_media_;
    Geometry geometry_;
    Layout layout_;
    bool began_ = false;
    bool in_transaction_ = false;
    size_t uncommitted_bytes_ = 0;
    int64_t n_frames_ = 0; // of all sequences
    int64_t n_committed_ = 0;
    int64_t n_texts_ = 0;
    int64_t n_media_ = 0;
    std::vector<Line> lines_;                  // by id
    std::vector<uint8_t> visible_, witnesses_; // scratch
};

} // namespace attnscope::recording
