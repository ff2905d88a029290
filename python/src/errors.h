// Errors of the library as Python exceptions.
#pragma once

#include <attnscope/error.h>

#include <nanobind/nanobind.h>

#include <utility>

namespace attnscope::python {

// Thrown by value() below, turned into the class of attnscope.errors that belongs to its kind. May be thrown without the GIL.
struct Failure {
    Error error;
};

void bind_errors(nanobind::module_& m);

template <typename T> T value(Result<T> result) {
    if (!result) throw Failure{result.error()};
    return std::move(result).value();
}
inline void value(const Result<void>& result) {
    if (!result) throw Failure{result.error()};
}

// Control-C, and whatever else Python's signal handlers raise, ends a long computation: called between its steps on the thread
// that Python called us on, with or without the GIL.
inline void check_signals() {
    const nanobind::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw nanobind::python_error();
}

} // namespace attnscope::python
