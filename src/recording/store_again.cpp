// A recording that was closed goes on: with new sequences, which may share what is there. Those that were there have ended.
#include "recording/codec.h"
#include "recording/identity.h"
#include "recording/large_steps.h"
#include "recording/schema.h"
#include "recording/store.h"

#include <fmt/format.h>

#include <utility>

namespace attnscope::recording {

namespace {

Result<Written> read_written(const std::string& path) {
    auto recording = Recording::open(path);
    if (!recording) return recording.error();
    const RecordingInfo& info = (*recording)->info();
    if (!info.complete || info.format_version != format_version || info.geometry.layers.empty()) {
        return Error{
            ErrorKind::unsupported,
            fmt::format("cannot write {}: only a recording that this version of attnscope closed goes on", path)};
    }
    Written out{info.identity, info.geometry, (*recording)->sequences(),
                static_cast<int64_t>((*recording)->media().size())};
    for (Sequence& sequence : out.sequences) sequence.ended = true;
    return out;
}

} // namespace

Result<std::unique_ptr<Store>> Store::open_again(const std::string& path, Written& written) {
    auto read = read_written(path); // closes it: our locks are taken after that
    if (!read) return read.error();
    written = std::move(*read);
    auto claim = NameClaim::keep(path);
    if (!claim) return claim.error();
    auto store = std::make_unique<Store>();
    store->claim_ = std::move(*claim);
    store->path_ = path;
    auto db = Database::open(path, SQLITE_OPEN_READWRITE, "cannot write " + path, large_steps_vfs());
    if (!db) return db.error();
    store->db_ = std::move(*db);
    if (auto r = store->take_up(written); !r) return r.error();
    return store;
}

Result<void> Store::take_up(const Written& written) {
    if (auto r = db_->exec("PRAGMA synchronous=NORMAL; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-4096"); !r)
        return r;
    if (identity_of(*db_) != written.identity)
        return Error{ErrorKind::io, fmt::format("cannot write {}: it was replaced", path_)};
    const auto mode = db_->text("PRAGMA journal_mode=WAL");
    if (!mode) return mode.error();
    if (*mode != "wal") return Error{ErrorKind::io, fmt::format("cannot write {}: it has no log", path_)};
    sqlite3_wal_hook(db_->handle(), &Store::after_commit, this);
    const auto page_bytes = db_->integer("PRAGMA page_size");
    const auto chunk_frames = db_->integer("SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'chunk_frames'");
    const auto n_texts = db_->integer("SELECT count(*) FROM token_text");
    if (!page_bytes) return page_bytes.error();
    if (!chunk_frames) return chunk_frames.error();
    if (!n_texts) return n_texts.error();
    if (auto r = prepare(); !r) return r;
    geometry_ = written.geometry;
    layout_ = {static_cast<int32_t>(*page_bytes), static_cast<int32_t>(*chunk_frames)};
    n_texts_ = *n_texts;
    n_media_ = written.n_media;
    for (const Sequence& sequence : written.sequences) {
        n_frames_ += sequence.n_own();
        lines_.emplace_back().sequence = sequence;
    }
    began_ = true;
    if (auto r = open_transaction(); !r) return r;
    return commit(); // from here on it says that it is not whole
}

} // namespace attnscope::recording
