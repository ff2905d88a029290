// Errors are values: a kind that a program can act on and one sentence that a person can act on.
#pragma once

#include <stdexcept>
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

// Throw std::logic_error; for Result.
[[noreturn]] void throw_no_value(const Error& error);
[[noreturn]] void throw_no_error();

// Either a value or an Error. `if (!r) return r.error();`
// Taking the value of an error (value(), *, ->) is a programming mistake and throws std::logic_error with the error's sentence;
// so is error() of a value.
template <typename T> class [[nodiscard]] Result {
public:
    Result(T value) : v_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : v_(std::in_place_index<1>, std::move(error)) {}
    bool ok() const { return v_.index() == 0; }
    explicit operator bool() const { return ok(); }
    T& value() & { return checked(); }
    const T& value() const& { return checked(); }
    T&& value() && { return std::move(checked()); }
    T* operator->() { return &checked(); }
    const T* operator->() const { return &checked(); }
    T& operator*() & { return checked(); }
    const T& operator*() const& { return checked(); }
    T&& operator*() && { return std::move(checked()); }
    const Error& error() const {
        if (ok()) throw_no_error();
        return *std::get_if<1>(&v_);
    }

private:
    T& checked() {
        if (!ok()) throw_no_value(*std::get_if<1>(&v_));
        return *std::get_if<0>(&v_);
    }
    const T& checked() const {
        if (!ok()) throw_no_value(*std::get_if<1>(&v_));
        return *std::get_if<0>(&v_);
    }

    std::variant<T, Error> v_;
};

template <> class [[nodiscard]] Result<void> {
public:
    Result() = default;
    Result(Error error) : failed_(true), error_(std::move(error)) {}
    bool ok() const { return !failed_; }
    explicit operator bool() const { return ok(); }
    const Error& error() const {
        if (!failed_) throw_no_error();
        return error_;
    }

private:
    bool failed_ = false;
    Error error_;
};

} // namespace attnscope
