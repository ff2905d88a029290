// Which way a file can be opened depends on how its writer ended and on what we may do in its folder.
#include "base/file_kind.h"
#include "base/input_file.h"
#include "recording/identity.h"
#include "recording/name_claim.h"
#include "recording/reader.h"
#include "recording/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

namespace attnscope::recording {

namespace fs = std::filesystem;

namespace {

// As sqlite.org/security.html advises for files from strangers. Views and triggers are off, and the schema is
// compared with ours before anything else is asked.
Result<void> harden(Database& db) {
    sqlite3* const h = db.handle();
    sqlite3_db_config(h, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
    sqlite3_db_config(h, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
    sqlite3_db_config(h, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, nullptr);
    sqlite3_db_config(h, SQLITE_DBCONFIG_ENABLE_VIEW, 0, nullptr);
    sqlite3_limit(h, SQLITE_LIMIT_ATTACHED, 0);
    sqlite3_limit(h, SQLITE_LIMIT_COLUMN, 64);
    sqlite3_limit(h, SQLITE_LIMIT_SQL_LENGTH, 16384);
    sqlite3_limit(h, SQLITE_LIMIT_EXPR_DEPTH, 50);
    sqlite3_limit(h, SQLITE_LIMIT_VDBE_OP, 25000);
    return db.exec("PRAGMA cell_size_check=ON; PRAGMA mmap_size=0; PRAGMA cache_size=-4096;");
}

// `code` becomes SQLite's extended code of the failure.
Result<std::unique_ptr<Database>> open_with(const std::string& path, int flags, const char* vfs, bool own_index,
                                            const std::string& doing, int& code) {
    code = SQLITE_CANTOPEN;
    auto db = Database::open(path, flags, doing, vfs);
    if (!db) return db;
    Result<void> ready;
    if (own_index) ready = (*db)->exec("PRAGMA locking_mode=EXCLUSIVE"); // before anything touches the file
    if (ready) ready = harden(**db);
    // the first access takes the locks, and replays or recovers what a dead writer left
    if (ready) ready = (*db)->exec("PRAGMA schema_version");
    code = last_code(**db);
    if (!ready) return ready.error();
    return db;
}

// The path as a URI: SQLite takes "immutable" in no other way.
std::string immutable_uri(const std::string& path) {
    std::string uri = "file:";
    for (const char c : fs::absolute(path).string()) {
        const auto byte = static_cast<unsigned char>(c);
        const bool plain = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
                           (byte >= '0' && byte <= '9') || c == '/' || c == '.' || c == '-' || c == '_';
        uri += plain ? std::string(1, c) : fmt::format("%{:02X}", byte);
    }
    return uri + "?immutable=1";
}

bool has_content(const std::string& path) {
    std::error_code failed;
    const auto size = fs::file_size(path, failed);
    return !failed && size > 0;
}

// The first by name; empty: there is none.
std::string a_recording_in(const std::string& folder) {
    std::string first;
    std::error_code failed;
    for (fs::directory_iterator at(folder, failed), end; !failed && at != end; at.increment(failed)) {
        if (at->path().extension() != ".attn") continue;
        if (first.empty() || at->path().string() < first) first = at->path().string();
    }
    return first;
}

Result<void> is_file(const std::string& path) {
    if (path.empty() || path.find('\0') != std::string::npos) {
        return Error{ErrorKind::invalid_argument, "a recording needs a file name"};
    }
    std::error_code failed;
    const auto status = fs::status(path, failed);
    if (status.type() == fs::file_type::not_found) {
        return Error{ErrorKind::not_found, fmt::format("{} does not exist", path)};
    }
    if (failed) return Error{ErrorKind::io, fmt::format("cannot read {}: {}", path, failed.message())};
    if (const std::string one = a_recording_in(path); fs::is_directory(status) && !one.empty()) {
        return Error{ErrorKind::not_ours,
                     fmt::format("{} is no recording: it is a folder of them. Name one, as {}, or look at all of "
                                 "them with attnscope view {}",
                                 path, one, path)};
    }
    if (fs::is_directory(status)) {
        return Error{
            ErrorKind::not_ours,
            fmt::format("{} is no recording: it is a folder (if a capture is in it, attnscope diagnose {} says "
                        "what is wrong with it)",
                        path, path)};
    }
    if (!fs::is_regular_file(status)) {
        return Error{ErrorKind::not_ours, fmt::format("{} is no recording: it is not a regular file", path)};
    }
    if (fs::file_size(path, failed) == 0 && !failed) {
        // Whether somebody writes it cannot be asked without taking his lock for a moment.
        return Error{ErrorKind::not_ours,
                     fmt::format("{} is no recording: it is empty, as one is that was just begun, or "
                                 "whose writer was killed before it had written anything",
                                 path)};
    }
    return {};
}

// Only of a file that SQLite has refused: opening and closing a file gives up all locks that this process has on it, and
// a recording that is being written lives by them.
Error not_a_recording(const std::string& path) {
    std::string start(512, '\0');
    auto file = base::InputFile::open(path);
    if (!file) return file.error();
    start.resize(static_cast<size_t>(std::min<int64_t>(file->size(), static_cast<int64_t>(start.size()))));
    if (auto r = file->read_at(0, start.data(), start.size()); !r) return r.error();
    const base::FileKind kind = base::file_kind(start, path);
    return {ErrorKind::not_ours, fmt::format("{} is no recording: it seems to be {}{}", path, kind.name,
                                             kind.todo.empty() ? "" : " (" + kind.todo + ")")};
}

// What a connection that takes no locks, replays no log and undoes no journal sees: nothing changes by it.
struct FirstLook {
    bool ours = true;     // the header says so, or cannot be read
    bool logging = true;  // the header says that the writer keeps a log: it was not closed
    std::string identity; // what never changes in a recording; empty where it cannot be read
    bool has_frames = false;
};

FirstLook look_first(const std::string& path) {
    FirstLook look;
    int code = SQLITE_OK;
    auto db = open_with(immutable_uri(path), SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, nullptr, false,
                        "cannot read " + path, code);
    if (!db) {
        look.ours = (code & 0xff) != SQLITE_NOTADB;
        return look;
    }
    sqlite3_file* file = nullptr;
    unsigned char header[100];
    if (sqlite3_file_control((*db)->handle(), "main", SQLITE_FCNTL_FILE_POINTER, &file) != SQLITE_OK || !file ||
        !file->pMethods || file->pMethods->xRead(file, header, sizeof header, 0) != SQLITE_OK)
        return look;
    // https://www.sqlite.org/fileformat.html: 18 is the version that writers need, 68 the application's number
    const uint32_t id =
        uint32_t(header[68]) << 24 | uint32_t(header[69]) << 16 | uint32_t(header[70]) << 8 | header[71];
    look.ours = id == uint32_t(application_id);
    look.logging = header[18] == 2;
    look.identity = identity_of(**db);
    const auto frames = (*db)->text("SELECT CAST(count(*) AS TEXT) FROM (SELECT 1 FROM frame LIMIT 1)");
    look.has_frames = frames && *frames == "1";
    return look;
}

// Whether the transaction that the journal at `path` undoes began with an empty file, as the one does that makes a recording.
bool began_empty(const std::string& path) {
    auto file = base::InputFile::open(path);
    char header[20]; // sqlite.org/fileformat.html#the_rollback_journal: pages before the transaction, at 16
    return file && file->size() >= 20 && file->read_at(0, header, sizeof header) &&
           std::all_of(header + 16, header + 20, [](char c) { return c == 0; });
}

// What undoing its journal, which nobody else holds, would leave nothing of. It is not undone: nothing is gained by that.
Error never_made(const std::string& path) {
    return {ErrorKind::not_ours,
            fmt::format("{} is no recording: whoever began to write it was killed before it held any token", path)};
}

constexpr const char* foreign_journal =
    "the journal beside it (-journal) was not left by this recording and is ignored: remove it";
constexpr const char* foreign_log = "the log beside it (-wal) was not left by this recording and is not read: remove "
                                    "it, or put it back beside its own file";

} // namespace

Result<OpenedFile> open_for_reading(const std::string& path) {
    if (auto r = is_file(path); !r) return r.error();
    const bool own = NameClaim::held_here(path);
    FirstLook look = own ? FirstLook{} : look_first(path);
    if (!look.ours) return not_a_recording(path);
    if (!own && has_content(path + "-wal")) {
        int code = SQLITE_OK;
        const auto alone = [&]() -> Result<OpenedFile> {
            auto db = open_with(immutable_uri(path), SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, nullptr, false,
                                "cannot read " + path, code);
            if (!db) return db.error();
            return OpenedFile{std::move(*db), foreign_log};
        };
        // A writer that closed its file folded its log into it.
        if (!look.logging) return alone();
        for (int again = 0; !look.identity.empty() && again < 3; ++again) {
            auto with_log = open_with(path, SQLITE_OPEN_READONLY, nullptr, false, "cannot read " + path, code);
            if (!with_log) break;
            const std::string identity = identity_of(**with_log);
            if (identity.empty() || identity == look.identity) break;
            with_log->reset();
            if (again == 2) return alone();
            look = look_first(path); // a checkpoint may have been under way
        }
    }
    const std::string doing = "cannot read " + path;
    int code = SQLITE_OK;
    auto db = open_with(path, SQLITE_OPEN_READONLY, nullptr, false, doing, code);
    if (db) return OpenedFile{std::move(*db), ""};
    const Error first = db.error();
    const int primary = code & 0xff;
    const bool to_undo = primary == SQLITE_READONLY || primary == SQLITE_CANTOPEN;
    if (!own && to_undo && look.identity.empty() && !look.has_frames && began_empty(path + "-journal"))
        return never_made(path);

    // A writer that died before it had a log, or while it gave it up, left a transaction to undo.
    if (code == SQLITE_READONLY_ROLLBACK || code == SQLITE_READONLY_RECOVERY) {
        // A recording is written without a log only while it is made, before its first frame, and when it is marked as closed, which
        // needs no undoing. So a journal beside frames is another recording's, and undoing that would empty or cut this one.
        if (!look.identity.empty() && (look.has_frames || began_empty(path + "-journal"))) {
            db = open_with(immutable_uri(path), SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, nullptr, false, doing, code);
            if (!db) return db.error();
            return OpenedFile{std::move(*db), foreign_journal};
        }
        db = open_with(path, SQLITE_OPEN_READWRITE, nullptr, false, doing, code);
        if (db) return OpenedFile{std::move(*db), ""};
    }
    if ((code & 0xff) == SQLITE_NOTADB) return not_a_recording(path);
    if ((code & 0xff) != SQLITE_CANTOPEN && (code & 0xff) != SQLITE_READONLY) return first;

    // A log needs an index beside it, and this folder cannot be written. If there is no index nobody else is writing,
    // and it can be kept in our memory: SQLite does that for a connection that claims the file alone.
    const bool log = has_content(path + "-wal");
    std::error_code ignored;
    if (log && !fs::exists(path + "-shm", ignored) && sqlite3_vfs_find("unix-none")) {
        auto alone = open_with(path, SQLITE_OPEN_READONLY, "unix-none", true, doing, code);
        if (alone) return OpenedFile{std::move(*alone), ""};
    }
    auto still = open_with(immutable_uri(path), SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, nullptr, false, doing, code);
    if (!still) return first;
    return OpenedFile{std::move(*still),
                      log ? "what is in the -wal file cannot be seen, because its folder cannot be written: copy both "
                            "files to a folder of yours to see the rest"
                          : ""};
}

} // namespace attnscope::recording
