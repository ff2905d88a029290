// What every function of the C API does with errors: nothing leaves it but a status, and the sentence is kept for the thread.
#pragma once

#include <attnscope/attnscope.h>
#include <attnscope/error.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
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

// Bytes of a struct in version 1 of the API: what its shortest caller has. Fields are added behind them.
template <typename T> constexpr size_t first_size = sizeof(T);
template <>
inline constexpr size_t first_size<attnscope_recording_info> = offsetof(attnscope_recording_info, settings) +
                                                               sizeof(attnscope_recording_info::settings);
template <>
inline constexpr size_t first_size<attnscope_frame> = offsetof(attnscope_frame, verdict) +
                                                      sizeof(attnscope_frame::verdict);
template <>
inline constexpr size_t first_size<attnscope_verify_result> = offsetof(attnscope_verify_result, worst_ratio) +
                                                              sizeof(attnscope_verify_result::worst_ratio);
template <>
inline constexpr size_t first_size<attnscope_session_params> = offsetof(attnscope_session_params, cache_type_v) +
                                                               sizeof(attnscope_session_params::cache_type_v);
template <>
inline constexpr size_t first_size<attnscope_generate_params> = offsetof(attnscope_generate_params, user_data) +
                                                                sizeof(attnscope_generate_params::user_data);

// A struct of the caller's: whoever was built with an earlier header has the first struct_size bytes of ours, and with a later
// one more than we know.
template <typename T> Result<void> check_struct(const T* value, const char* name) {
    if (!value) return Error{ErrorKind::invalid_argument, std::string(name) + " is NULL"};
    if (value->struct_size < first_size<T>) {
        return Error{ErrorKind::invalid_argument,
                     std::string(name) + ".struct_size is not sizeof(" + name + "); set it before the call"};
    }
    return {};
}

// What the caller's struct says, and `ours` where it has no such field.
template <typename T> T taken(const T* given, T ours) {
    std::memcpy(&ours, given, std::min(given->struct_size, sizeof(T)));
    return ours;
}

// The fields that the caller's struct has.
template <typename T> void give(T* to, T ours) {
    ours.struct_size = to->struct_size;
    std::memcpy(to, &ours, std::min(ours.struct_size, sizeof(T)));
}

} // namespace attnscope::c_api
