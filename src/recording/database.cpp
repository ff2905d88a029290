#include "recording/database.h"

#include <fmt/format.h>

#include <cstring>
#include <limits>

namespace attnscope::recording {

namespace {

constexpr int busy_timeout_ms = 5000;

ErrorKind kind_of(int code) {
    switch (code & 0xff) {
    case SQLITE_NOTADB: return ErrorKind::not_ours;
    case SQLITE_CORRUPT:
    case SQLITE_TOOBIG:
    case SQLITE_MISMATCH: return ErrorKind::damaged;
    case SQLITE_ERROR: return ErrorKind::damaged; // our statements are constant: the schema is not what it was
    default: return ErrorKind::io;
    }
}

// What of a file whose pages SQLite cannot follow. Asked of SQLite's own descriptor: another one's end would end its locks.
std::string malformed(sqlite3* db) {
    sqlite3_file* file = nullptr;
    uint8_t header[100];
    sqlite3_int64 size = 0;
    if (db && sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &file) == SQLITE_OK && file &&
        file->pMethods && file->pMethods->xRead(file, header, sizeof header, 0) == SQLITE_OK &&
        file->pMethods->xFileSize(file, &size) == SQLITE_OK) {
        // https://www.sqlite.org/fileformat.html#the_database_header: bytes of a page, and how many pages there are
        const int64_t page = header[16] == 0 && header[17] == 1 ? 65536 : int64_t(header[16]) << 8 | header[17];
        int64_t pages = 0;
        for (int i = 28; i < 32; ++i) pages = pages << 8 | header[i];
        if (size < page * pages) {
            return fmt::format(
                "it was cut short: {} bytes are there of {}. Nothing of it can be read; copy it again from "
                "where it is whole",
                size, page * pages);
        }
    }
    return "its pages are not as they were written: it was changed, or copied while it was written. Copy it again from "
           "where "
           "it is whole";
}

std::string reason_of(int code, sqlite3* db) {
    const int system = db ? sqlite3_system_errno(db) : 0;
    std::string reason;
    switch (code & 0xff) {
    case SQLITE_NOTADB: return "it is not an SQLite file";
    case SQLITE_FULL: reason = "the disk is full"; break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: reason = "another process has it locked"; break;
    case SQLITE_READONLY: reason = "it, or its folder, cannot be written"; break;
    case SQLITE_CANTOPEN: reason = "it cannot be opened"; break;
    case SQLITE_IOERR: reason = "the system reported an input/output error"; break;
    case SQLITE_NOMEM: reason = "not enough memory"; break;
    case SQLITE_CORRUPT: reason = malformed(db); break;
    // our statements are constant
    case SQLITE_ERROR: reason = "its tables are not as they were written: " + std::string(sqlite3_errmsg(db)); break;
    default: reason = db ? sqlite3_errmsg(db) : sqlite3_errstr(code); break;
    }
    if (system != 0 && (code & 0xff) != SQLITE_CORRUPT) reason += fmt::format(": {}", std::strerror(system));
    return fmt::format("{} (SQLite {})", reason, code);
}

} // namespace

Statement& Statement::bind(int i, int64_t value) {
    const int rc = sqlite3_bind_int64(stmt_.get(), i, value);
    if (bound_ == SQLITE_OK) bound_ = rc;
    return *this;
}

Statement& Statement::bind(int i, std::span<const uint8_t> blob) {
    // a null pointer would bind NULL where an empty blob is meant
    const void* data = blob.empty() ? "" : static_cast<const void*>(blob.data());
    const int rc = sqlite3_bind_blob64(stmt_.get(), i, data, blob.size(), SQLITE_STATIC);
    if (bound_ == SQLITE_OK) bound_ = rc;
    return *this;
}

Statement& Statement::bind(int i, std::string_view text) {
    const char* data = text.empty() ? "" : text.data();
    const int rc = sqlite3_bind_text64(stmt_.get(), i, data, text.size(), SQLITE_STATIC, SQLITE_UTF8);
    if (bound_ == SQLITE_OK) bound_ = rc;
    return *this;
}

Statement& Statement::bind_null(int i) {
    const int rc = sqlite3_bind_null(stmt_.get(), i);
    if (bound_ == SQLITE_OK) bound_ = rc;
    return *this;
}

Result<bool> Statement::step() {
    if (bound_ != SQLITE_OK) return db_->error(bound_);
    const int rc = sqlite3_step(stmt_.get());
    if (rc == SQLITE_ROW) return true;
    if (rc == SQLITE_DONE) return false;
    return db_->error(rc);
}

Result<void> Statement::run() {
    auto stepped = step();
    reset();
    if (!stepped) return stepped.error();
    return {};
}

void Statement::reset() {
    bound_ = SQLITE_OK;
    if (stmt_) sqlite3_reset(stmt_.get());
}

int64_t Statement::integer(int column) const {
    return sqlite3_column_int64(stmt_.get(), column);
}

bool Statement::is_integer(int column) const {
    return sqlite3_column_type(stmt_.get(), column) == SQLITE_INTEGER;
}

bool Statement::is_null(int column) const {
    return sqlite3_column_type(stmt_.get(), column) == SQLITE_NULL;
}

std::span<const uint8_t> Statement::blob(int column) const {
    if (sqlite3_column_type(stmt_.get(), column) != SQLITE_BLOB) return {};
    const void* data = sqlite3_column_blob(stmt_.get(), column);
    const int n = sqlite3_column_bytes(stmt_.get(), column);
    if (!data || n <= 0) return {};
    return {static_cast<const uint8_t*>(data), static_cast<size_t>(n)};
}

std::string_view Statement::text(int column) const {
    if (sqlite3_column_type(stmt_.get(), column) != SQLITE_TEXT) return {};
    const void* data = sqlite3_column_text(stmt_.get(), column);
    const int n = sqlite3_column_bytes(stmt_.get(), column);
    if (!data || n <= 0) return {};
    return {static_cast<const char*>(data), static_cast<size_t>(n)};
}

Result<std::unique_ptr<Database>> Database::open(const std::string& path, int flags, const std::string& doing,
                                                 const char* vfs) {
    // SQLite gives names that start with a colon a meaning of its own
    const std::string name = path.starts_with(':') ? "./" + path : path;
    auto db = std::make_unique<Database>();
    db->doing_ = doing;
    sqlite3* raw = nullptr;
    const int rc = sqlite3_open_v2(name.c_str(), &raw, flags | SQLITE_OPEN_EXRESCODE, vfs);
    db->db_.reset(raw);
    if (rc != SQLITE_OK) return db->error(rc);
    sqlite3_busy_timeout(raw, busy_timeout_ms);
    return db;
}

Result<Statement> Database::prepare(std::string_view sql) {
    Statement statement;
    statement.db_ = this;
    sqlite3_stmt* raw = nullptr;
    const int rc = sqlite3_prepare_v3(db_.get(), sql.data(), static_cast<int>(sql.size()), SQLITE_PREPARE_PERSISTENT,
                                      &raw, nullptr);
    statement.stmt_.reset(raw);
    if (rc != SQLITE_OK) return error(rc);
    return statement;
}

Result<void> Database::exec(const char* sql) {
    const int rc = sqlite3_exec(db_.get(), sql, nullptr, nullptr, nullptr);
    if (rc != SQLITE_OK) return error(rc);
    return {};
}

Result<int64_t> Database::integer(const char* sql) {
    auto statement = prepare(sql);
    if (!statement) return statement.error();
    auto row = statement->step();
    if (!row) return row.error();
    return *row ? statement->integer(0) : 0;
}

Result<std::string> Database::text(const char* sql) {
    auto statement = prepare(sql);
    if (!statement) return statement.error();
    auto row = statement->step();
    if (!row) return row.error();
    return *row ? std::string(statement->text(0)) : std::string();
}

Error Database::error(int code) const {
    return {kind_of(code), fmt::format("{}: {}", doing_, reason_of(code, db_.get()))};
}

int last_code(const Database& db) {
    return sqlite3_extended_errcode(db.handle());
}

} // namespace attnscope::recording
