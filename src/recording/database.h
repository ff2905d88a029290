// SQLite with owners: a connection, its statements, its errors as values.
#pragma once

#include <attnscope/error.h>

#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace attnscope::recording {

class Database;

// A prepared statement. Parameters count from 1, columns from 0. Bound memory is borrowed until the next
// reset().
class Statement {
public:
    Statement() = default;
    Statement& bind(int i, int64_t value);
    Statement& bind(int i, std::span<const uint8_t> blob);
    Statement& bind(int i, std::string_view text);
    Statement& bind_null(int i);
    // True: a row is there. False: done.
    Result<bool> step();
    // Steps a statement that yields no rows, and resets it.
    Result<void> run();
    void reset();

    int64_t integer(int column) const;
    bool is_integer(int column) const;
    bool is_null(int column) const;
    // Valid until the next step() or reset(). Empty when the column is not a blob (text for text()).
    std::span<const uint8_t> blob(int column) const;
    std::string_view text(int column) const;

private:
    friend class Database;
    struct Finalize {
        void operator()(sqlite3_stmt* s) const { sqlite3_finalize(s); }
    };
    std::unique_ptr<sqlite3_stmt, Finalize> stmt_;
    const Database* db_ = nullptr;
    int bound_ = SQLITE_OK; // the first bind that failed; step() reports it
};

// Resets a statement at the end of a scope: a statement left stepped keeps its transaction open.
class ResetOnExit {
public:
    explicit ResetOnExit(Statement& statement) : statement_(statement) {}
    ~ResetOnExit() { statement_.reset(); }
    ResetOnExit(const ResetOnExit&) = delete;
    ResetOnExit& operator=(const ResetOnExit&) = delete;

private:
    Statement& statement_;
};

class Database {
public:
    // `path` names a file: ":memory:" and "file:..." mean files of that name. `doing` starts every error
    // sentence, e.g. "cannot read run.attn".
    static Result<std::unique_ptr<Database>> open(const std::string& path, int flags, const std::string& doing,
                                                  const char* vfs = nullptr);
    Result<Statement> prepare(std::string_view sql);
    Result<void> exec(const char* sql);
    // The first column of the first row.
    Result<int64_t> integer(const char* sql);
    Result<std::string> text(const char* sql);
    Error error(int code) const;
    sqlite3* handle() const { return db_.get(); }
    const std::string& doing() const { return doing_; }

private:
    struct Close {
        void operator()(sqlite3* db) const { sqlite3_close_v2(db); }
    };
    std::unique_ptr<sqlite3, Close> db_;
    std::string doing_;
};

// Extended result code of the last failure, for decisions that an ErrorKind is too coarse for.
int last_code(const Database& db);

} // namespace attnscope::recording
