// The writer's side of the file, on one thread: rows in, transactions out. No queue, no clock.
#pragma once

#include "recording/database.h"
#include "recording/layout.h"

#include <attnscope/recording.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace attnscope::recording {

class Store {
public:
    // Creates the file with its tables, marked incomplete. The folder must exist; an existing file is refused
    // unless `overwrite`.
    static Result<std::unique_ptr<Store>> create(const std::string& path, const RecordingInfo& info,
                                                 bool overwrite);

    // States the geometry, which fixes the page size, and switches to the write-ahead log.
    Result<void> begin(const Geometry& geometry, const Layout& layout);
    // Both open a transaction when none is open. Frames come in order and fit the geometry.
    Result<void> put(Frame&& frame);
    Result<void> put_text(int32_t token, const std::string& piece);
    // Makes what was put visible to readers and safe from the end of this process.
    Result<void> commit();
    // Seals the last chunk, marks the file complete, and folds the log into it.
    Result<void> finish();

    int64_t n_committed() const { return n_committed_; }
    size_t uncommitted_bytes() const { return uncommitted_bytes_; }

private:
    Result<void> prepare();
    Result<void> put_meta(std::string_view key, std::string_view value);
    Result<void> open_transaction();
    Result<void> seal_chunk(int64_t n_rows);
    Result<void> put_tail();
    Result<void> put_counts(bool complete);
    Result<void> still_there();
    Error with_rollback(Error error);

    std::string path_;
    std::unique_ptr<Database> db_;
    Statement insert_meta_, insert_frame_, insert_block_, insert_tail_, insert_text_;
    Geometry geometry_;
    Layout layout_;
    bool began_ = false;
    bool in_transaction_ = false;
    size_t uncommitted_bytes_ = 0;
    int64_t n_frames_ = 0;
    int64_t n_committed_ = 0;
    int64_t n_texts_ = 0;

    // Keys of the chunk that is being filled, (layer that owns K, chunk_frames, n_head_kv, head_dim).
    std::vector<uint8_t> chunk_;
    std::vector<std::pair<int64_t, std::vector<uint8_t>>>
        tail_; // frames of this chunk since the last commit: index, K
    bool tail_in_file_ = false;
    std::vector<uint8_t> visible_, witnesses_; // scratch
};

} // namespace attnscope::recording
