#include "recording/store.h"
#include "base/version.h"
#include "recording/checksum.h"
#include "recording/codec.h"
#include "recording/geometry_json.h"
#include "recording/identity.h"
#include "recording/large_steps.h"
#include "recording/schema.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cstring>
#include <ctime>
#include <filesystem>

#include <sys/resource.h>
#include <sys/statvfs.h>

namespace attnscope::recording {

namespace fs = std::filesystem;

namespace {

// Bytes of log after which SQLite copies it into the file. Readers pay for a long log, the disk for a short
// one.
constexpr int64_t checkpoint_bytes = int64_t(16) << 20;
// With less room than this each frame is a transaction: a full disk then takes no frame with it.
constexpr uint64_t tight_bytes = uint64_t(128) << 20;

std::string now_utc() {
    const std::time_t now = std::time(nullptr);
    std::tm utc{};
    gmtime_r(&now, &utc);
    char text[32];
    return {text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc)};
}

Result<std::string> json_object(const std::string& text, const char* what) {
    if (text.empty()) return std::string("{}");
    const auto parsed = nlohmann::json::parse(text, nullptr, false);
    if (!parsed.is_object()) return Error{ErrorKind::invalid_argument, fmt::format("{} is no JSON object", what)};
    return text;
}

} // namespace

Result<std::unique_ptr<Store>> Store::create(const std::string& path, const RecordingInfo& info, bool overwrite) {
    if (path.empty() || path.find('\0') != std::string::npos) {
        return Error{ErrorKind::invalid_argument, "a recording needs a file name"};
    }
    auto settings = json_object(info.settings_json, "settings_json");
    if (!settings) return settings.error();
    auto claim = NameClaim::take(path, overwrite);
    if (!claim) return claim.error();

    auto store = std::make_unique<Store>();
    store->claim_ = std::move(*claim);
    store->path_ = path;
    auto db =
        Database::open(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, "cannot write " + path, large_steps_vfs());
    if (!db) return db.error();
    store->db_ = std::move(*db);
    const std::string setup = fmt::format("PRAGMA page_size={}; PRAGMA synchronous=NORMAL; PRAGMA temp_store=MEMORY; "
                                          "PRAGMA cache_size=-4096; BEGIN IMMEDIATE; PRAGMA application_id={}; "
                                          "PRAGMA user_version={};",
                                          Layout{}.page_bytes, application_id, format_version);
    if (auto r = store->db_->exec(setup.c_str()); !r) return r.error();
    for (const Table& table : tables_of(format_version)) {
        if (auto r = store->db_->exec(table.sql); !r) return r.error();
    }
    if (auto r = store->prepare(); !r) return r.error();

    const std::pair<const char*, std::string> rows[] = {
        {"identity", random_identity()},
        {"created", info.created.empty() ? now_utc() : info.created},
        {"writer", info.writer.empty() ? base::program() : info.writer},
        {"engine", info.engine},
        {"entry", info.entry},
        {"model", model_to_json(info.model)},
        {"settings", *settings},
        {"geometry", ""},
        {"chunk_frames", "0"},
    };
    for (const auto& [key, value] : rows) {
        if (auto r = store->put_meta(key, value); !r) return r.error();
    }
    store->lines_.emplace_back();
    if (auto r = store->put_lines(); !r) return r.error();
    if (auto r = store->put_counts(false); !r) return r.error();
    if (auto r = store->db_->exec("COMMIT"); !r) return r.error();
    return store;
}

Result<void> Store::prepare() {
    const std::pair<Statement*, const char*> statements[] = {
        {&insert_meta_, "INSERT OR REPLACE INTO meta (key, value, checksum) VALUES (?,?,?)"},
        {&insert_frame_,
         "INSERT INTO frame (id, token, position, kind, batched, verdict, checksum, q_checksum, visible, "
         "witnesses, q) VALUES (?,?,?,?,?,?,?,?,?,?,?)"},
        {&insert_block_, "INSERT INTO k_block (id, checksum, data) VALUES (?,?,?)"},
        {&insert_tail_, "INSERT INTO k_tail (id, checksum, data) VALUES (?,?,?)"},
        {&delete_tail_, "DELETE FROM k_tail WHERE id >= ? AND id < ?"},
        {&insert_text_, "INSERT OR IGNORE INTO token_text (token, checksum, piece) VALUES (?,?,?)"},
        {&insert_sequence_, "INSERT OR REPLACE INTO sequence (id, parent, n_shared, n_own, keys_of, geometry, ended, "
                            "checksum, label, end_reason) VALUES (?,?,?,?,?,?,?,?,?,?)"},
        {&insert_media_, "INSERT INTO media (id, sequence, begin, \"end\", kind, width, height, n_patch_x, n_patch_y, "
                         "checksum, name, sha256) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)"},
    };
    for (const auto& [statement, sql] : statements) {
        auto prepared = db_->prepare(sql);
        if (!prepared) return prepared.error();
        *statement = std::move(*prepared);
    }
    return {};
}

Result<void> Store::put_meta(std::string_view key, std::string_view value) {
    if (value.size() > max_meta_bytes) {
        return Error{ErrorKind::invalid_argument,
                     fmt::format("{} has {} bytes; at most {} can be recorded", key, value.size(), max_meta_bytes)};
    }
    return insert_meta_.bind(1, key).bind(2, value).bind(3, meta_checksum(key, value)).run();
}

Result<void> Store::put_counts(bool complete) {
    if (auto r = put_meta("n_frames", std::to_string(n_frames_)); !r) return r.error();
    if (auto r = put_meta("n_texts", std::to_string(n_texts_)); !r) return r.error();
    if (auto r = put_meta("n_sequences", std::to_string(lines_.size())); !r) return r.error();
    if (auto r = put_meta("n_media", std::to_string(n_media_)); !r) return r.error();
    return put_meta("complete", complete ? "1" : "0");
}

Result<void> Store::begin(const Geometry& geometry, const Layout& layout) {
    geometry_ = geometry;
    layout_ = layout;
    if (auto r = open_transaction(); !r) return r.error();
    if (auto r = put_meta("geometry", geometry_to_json(geometry)); !r) return with_rollback(r.error());
    if (auto r = put_meta("chunk_frames", std::to_string(layout.chunk_frames)); !r) return with_rollback(r.error());
    if (auto r = commit(); !r) return r.error();
    if (layout.page_bytes != Layout{}.page_bytes) {
        // the file holds a few rows: rewriting it with another page size costs nothing
        const std::string resize = fmt::format("PRAGMA page_size={}; VACUUM;", layout.page_bytes);
        if (auto r = db_->exec(resize.c_str()); !r) return r.error();
    }
    if (auto r = db_->exec("PRAGMA journal_mode=WAL"); !r) return r.error();
    sqlite3_wal_hook(db_->handle(), &Store::after_commit, this);
    began_ = true;
    return {};
}

// Takes the place of wal_autocheckpoint: the log is looked at before it is copied into the file.
int Store::after_commit(void* self, sqlite3* db, const char*, int n_pages) {
    Store& store = *static_cast<Store*>(self);
    // a log: a header of 32 bytes, and 24 before each page
    store.log_bytes_ = 32 + int64_t(n_pages) * (store.layout_.page_bytes + 24);
    if (n_pages >= checkpoint_bytes / store.layout_.page_bytes && store.log_is_whole())
        sqlite3_wal_checkpoint_v2(db, nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr); // busy: next time
    return SQLITE_OK;
}

Result<void> Store::log_is_whole() {
    std::error_code failed;
    const auto size = fs::file_size(path_ + "-wal", failed);
    if (log_bytes_ == 0 || (!failed && int64_t(size) >= log_bytes_)) return {};
    // What is left of the log begins with whole transactions: a reader finds them. Nothing of it may be copied now.
    sqlite3_db_config(db_->handle(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
    return Error{
        ErrorKind::io,
        fmt::format("cannot write {}: its log {}-wal was {} while being written; what the log still holds is kept",
                    path_, path_, failed ? "deleted" : "cut")};
}

bool Store::is_tight() const {
    rlimit limit{};
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) return true;
    struct statvfs space {};
    return statvfs(path_.c_str(), &space) == 0 && uint64_t(space.f_bavail) * space.f_frsize < tight_bytes;
}

Result<void> Store::open_transaction() {
    if (in_transaction_) return {};
    if (auto r = still_there(); !r) return r.error();
    if (auto r = log_is_whole(); !r) return r.error();
    if (auto r = db_->exec("BEGIN IMMEDIATE"); !r) return r.error();
    in_transaction_ = true;
    return {};
}

Error Store::with_rollback(Error error) {
    // what SQLite says to ROLLBACK does not matter: closing the connection does the same
    (void)sqlite3_exec(db_->handle(), "ROLLBACK", nullptr, nullptr, nullptr);
    in_transaction_ = false;
    return error;
}

Result<void> Store::put(Frame&& frame) {
    if (auto r = open_transaction(); !r) return r.error();
    Line& line = lines_[size_t(frame.sequence)];
    Sequence& sequence = line.sequence;
    frame.index = sequence.n_frames;
    const int64_t id = row_number(frame.sequence, frame.index);
    encode_visible(frame.visible, visible_);
    encode_witnesses(frame.witnesses, witnesses_);
    const std::vector<uint8_t> narrow = narrow_q(geometry_, frame.q);
    const std::span<const uint8_t> q = narrow.empty() ? std::span<const uint8_t>(frame.q) : narrow;
    const int64_t q_checksum = q.empty() ? 0 : checksum(Summed::q, id, q);
    insert_frame_.bind(1, id)
        .bind(2, int64_t(frame.token))
        .bind(3, int64_t(frame.position))
        .bind(4, int64_t(frame.kind))
        .bind(5, int64_t(frame.batched))
        .bind(6, int64_t(frame.verdict))
        .bind(7, frame_checksum(frame, q.size(), q_checksum, visible_, witnesses_, format_version))
        .bind(8, q_checksum)
        .bind(9, std::span<const uint8_t>(visible_))
        .bind(10, std::span<const uint8_t>(witnesses_));
    if (q.empty())
        insert_frame_.bind_null(11);
    else
        insert_frame_.bind(11, q);
    if (auto r = insert_frame_.run(); !r) return with_rollback(r.error());

    line.chunk.resize(geometry_.k_bytes() * static_cast<size_t>(layout_.chunk_frames));
    const auto row_in_chunk = static_cast<size_t>((frame.index - sequence.n_shared) % layout_.chunk_frames);
    size_t from = 0;
    for (int32_t i = 0; i < geometry_.n_layer(); ++i) {
        if (!geometry_.owns_k(i)) continue;
        const size_t bytes = geometry_.layers[size_t(i)].k_bytes();
        uint8_t* layer = line.chunk.data() + from * static_cast<size_t>(layout_.chunk_frames);
        std::memcpy(layer + row_in_chunk * bytes, frame.k.data() + from, bytes);
        from += bytes;
    }
    uncommitted_bytes_ += q.size() + frame.k.size();
    if (from > 0) line.tail.emplace_back(frame.index, std::move(frame.k));
    sequence.n_frames = frame.index + 1;
    line.changed = true;
    ++n_frames_;
    if (sequence.n_own() % layout_.chunk_frames == 0) return seal_chunk(line, layout_.chunk_frames);
    return {};
}

Result<void> Store::seal_chunk(Line& line, int64_t n_rows) {
    const Sequence& sequence = line.sequence;
    if (line.tail_in_file) {
        // first, so that the blocks take the pages that the tail gives up
        delete_tail_.bind(1, row_number(sequence.id, 0)).bind(2, row_number(sequence.id + 1, 0));
        if (auto r = delete_tail_.run(); !r) return with_rollback(r.error());
        line.tail_in_file = false;
    }
    line.tail.clear();
    const int64_t chunk = (sequence.n_own() - 1) / layout_.chunk_frames;
    size_t from = 0;
    for (int32_t i = 0; i < geometry_.n_layer(); ++i) {
        if (!geometry_.owns_k(i)) continue;
        const size_t bytes = geometry_.layers[size_t(i)].k_bytes();
        const std::span<const uint8_t> data(line.chunk.data() + from * static_cast<size_t>(layout_.chunk_frames),
                                            bytes * static_cast<size_t>(n_rows));
        const int64_t id = row_number(sequence.id, chunk * geometry_.n_layer() + i);
        insert_block_.bind(1, id).bind(2, checksum(Summed::k_block, id, data)).bind(3, data);
        if (auto r = insert_block_.run(); !r) return with_rollback(r.error());
        from += bytes;
    }
    return {};
}

// The keys of a sequence whose last chunk is not full.
Result<void> Store::seal_rest(Line& line) {
    if (line.sequence.ended) return {}; // was sealed with its end
    const int64_t rest = began_ ? line.sequence.n_own() % layout_.chunk_frames : 0;
    if (rest != 0) {
        if (auto r = seal_chunk(line, rest); !r) return r.error();
    }
    line.chunk = {};
    return {};
}

Result<void> Store::put_text(int32_t token, const std::string& piece) {
    if (auto r = open_transaction(); !r) return r.error();
    const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(piece.data()), piece.size());
    insert_text_.bind(1, int64_t(token)).bind(2, checksum(Summed::token_text, token, bytes)).bind(3, bytes);
    if (auto r = insert_text_.run(); !r) return with_rollback(r.error());
    n_texts_ += sqlite3_changes64(db_->handle());
    uncommitted_bytes_ += piece.size();
    return {};
}

Result<void> Store::put_tails() {
    for (Line& line : lines_) {
        for (const auto& [index, k] : line.tail) {
            const int64_t id = row_number(line.sequence.id, index);
            insert_tail_.bind(1, id).bind(2, checksum(Summed::k_tail, id, k)).bind(3, std::span<const uint8_t>(k));
            if (auto r = insert_tail_.run(); !r) return r.error();
            line.tail_in_file = true;
        }
        line.tail.clear();
    }
    return {};
}

Result<void> Store::still_there() {
    // A deleted file takes writes without complaint, and they are gone with the process.
    int moved = 0;
    const int rc = sqlite3_file_control(db_->handle(), "main", SQLITE_FCNTL_HAS_MOVED, &moved);
    if (rc != SQLITE_OK || moved == 0) return {};
    return Error{ErrorKind::io, fmt::format("cannot write {}: it was deleted or replaced while being written", path_)};
}

Result<void> Store::commit() {
    if (!in_transaction_) return {};
    if (auto r = still_there(); !r) return with_rollback(r.error());
    if (auto r = put_tails(); !r) return with_rollback(r.error());
    if (auto r = put_lines(); !r) return with_rollback(r.error());
    if (auto r = put_counts(false); !r) return with_rollback(r.error());
    if (auto r = db_->exec("COMMIT"); !r) return with_rollback(r.error());
    in_transaction_ = false;
    uncommitted_bytes_ = 0;
    n_committed_ = n_frames_;
    return {};
}

Result<void> Store::finish() {
    if (auto r = open_transaction(); !r) return r.error();
    if (auto r = still_there(); !r) return with_rollback(r.error());
    if (auto r = log_is_whole(); !r) return with_rollback(r.error());
    for (Line& line : lines_) {
        if (auto r = seal_rest(line); !r) return r.error();
    }
    if (auto r = put_lines(); !r) return with_rollback(r.error());
    if (auto r = put_counts(true); !r) return with_rollback(r.error());
    if (auto r = db_->exec("COMMIT"); !r) return with_rollback(r.error());
    in_transaction_ = false;
    uncommitted_bytes_ = 0;
    n_committed_ = n_frames_;
    if (!began_) return {};
    if (auto r = log_is_whole(); !r) return r.error();
    if (auto r = db_->exec("PRAGMA wal_checkpoint(TRUNCATE)"); !r) return r.error();
    // A reader that has the file open keeps the log's name in use. Its content is in the file by now, so an
    // empty -wal stays until the last reader closes; that is no failure.
    sqlite3_busy_timeout(db_->handle(), 100);
    if (auto r = db_->exec("PRAGMA journal_mode=DELETE");
        !r && last_code(*db_) != SQLITE_BUSY && (last_code(*db_) & 0xff) != SQLITE_LOCKED) {
        return r.error();
    }
    return {};
}

} // namespace attnscope::recording
