// What every function of the C API does with errors: nothing leaves it but a status, and the sentence is kept for the thread.
#pragma once

#include <attnscope/attnscope.h>
#include <attnscope/error.h>

#include <exception>
#include <new>
#include <string>
#include <utility>

namespace attnscope::c_api {

// The thread's last error; never empty after a failed call.
std::string& last_error();

attnscope_status failed(const Error& error);

// Runs `work`, which returns a Result<void>; what is thrown (no memory) becomes a status, too.
template <typename Work> attnscope_status guarded(const Work& work) noexcept {
    try {
        const Result<void> result = work();
        return result ? ATTNSCOPE_OK : failed(result.error());
    } catch (const std::bad_alloc&) {
        return failed({ErrorKind::io, "there is no memory"});
    } catch (const std::exception& e) {
        return failed({ErrorKind::invalid_argument, e.what()});
    }
}

// A struct of the caller's with all fields that this library knows.
template <typename T> Result<void> check_struct(const T* value, const char* name) {
    if (!value) return Error{ErrorKind::invalid_argument, std::string(name) + " is NULL"};
    if (value->struct_size < sizeof(T)) {
        return Error{ErrorKind::invalid_argument,
                     std::string(name) + ".struct_size is not sizeof(" + name + "); set it before the call"};
    }
    return {};
}

} // namespace attnscope::c_api
