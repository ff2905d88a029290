// Errors are values: a kind that a program can act on and one sentence that a person can act on.
#pragma once

#include <string>
#include <utility>
#include <variant>

namespace attnscope {

enum class ErrorKind {
    invalid_argument, // the caller asked for something that makes no sense
    not_found,        // no such file, token, layer
    io,               // the operating system said no: full disk, no permission, read error
    not_ours,         // the file is something else
    too_new,          // the file is ours, but from a newer version
    damaged,          // the file is ours, but its content is not what was written
    unsupported,      // understood, but cannot be done with this model, build or machine
    engine,           // llama.cpp refused or failed
};

// Stable lower-case name of a kind, e.g. "damaged". For --json and logs.
const char* error_kind_name(ErrorKind kind);

struct Error {
    ErrorKind kind = ErrorKind::invalid_argument;
    std::string message; // a whole sentence without a full stop; names the file and the place where there is one
};

// Either a value or an Error. `if (!r) return r.error();`
// value() on an error (or error() on a value) is a programming mistake and throws std::bad_variant_access.
template <typename T> class [[nodiscard]] Result {
public:
    Result(T value) : v_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : v_(std::in_place_index<1>, std::move(error)) {}
    bool ok() const { return v_.index() == 0; }
    explicit operator bool() const { return ok(); }
    T& value() & { return std::get<0>(v_); }
    const T& value() const& { return std::get<0>(v_); }
    T&& value() && { return std::get<0>(std::move(v_)); }
    T* operator->() { return &std::get<0>(v_); }
    const T* operator->() const { return &std::get<0>(v_); }
    T& operator*() & { return std::get<0>(v_); }
    const T& operator*() const& { return std::get<0>(v_); }
    T&& operator*() && { return std::get<0>(std::move(v_)); }
    const Error& error() const { return std::get<1>(v_); }

private:
    std::variant<T, Error> v_;
};

template <> class [[nodiscard]] Result<void> {
public:
    Result() = default;
    Result(Error error) : failed_(true), error_(std::move(error)) {}
    bool ok() const { return !failed_; }
    explicit operator bool() const { return ok(); }
    const Error& error() const {
        if (!failed_) throw std::bad_variant_access();
        return error_;
    }

private:
    bool failed_ = false;
    Error error_;
};

} // namespace attnscope
