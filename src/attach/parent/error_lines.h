// What a program that is a part of ours writes to its standard error, line by line: we say what of it is said.
#pragma once

#include <attnscope/error.h>

#include <functional>
#include <memory>
#include <string>

namespace attnscope::attach {

class ErrorLines {
public:
    using Hear = std::function<void(const std::string& line)>; // without its end
    static Result<std::unique_ptr<ErrorLines>> open(Hear hear);
    ~ErrorLines();
    ErrorLines(const ErrorLines&) = delete;
    ErrorLines& operator=(const ErrorLines&) = delete;
    // The program's standard error.
    int for_program() const { return write_; }
    // The program has it.
    void given();
    // Takes what is there, and waits for nothing.
    void take();
    // No line gets longer: it is heard as it is.
    void end();

private:
    explicit ErrorLines(Hear hear) : hear_(std::move(hear)) {}
    const Hear hear_;
    int read_ = -1, write_ = -1;
    std::string line_;
};

} // namespace attnscope::attach
