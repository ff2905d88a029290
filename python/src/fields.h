// What Python handed over by name, as what it has to be; otherwise an error that names it.
#pragma once

#include "errors.h"

#include <nanobind/nanobind.h>

#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

namespace attnscope::python {

template <typename T> struct FieldKind {
    static std::string name() {
        if constexpr (std::is_same_v<T, bool>) return "True or False";
        if constexpr (std::is_integral_v<T>)
            return std::string("a whole number") + (std::is_signed_v<T> ? "" : " from 0") + " of at most " +
                   std::to_string(std::is_signed_v<T> ? 8 * sizeof(T) - 1 : 8 * sizeof(T)) + " bits";
        if constexpr (std::is_floating_point_v<T>) return "a number";
        return "a text";
    }
};
template <typename A, typename B> struct FieldKind<std::pair<A, B>> {
    static std::string name() { return "pairs of " + FieldKind<A>::name() + " and " + FieldKind<B>::name(); }
};
template <typename T> struct FieldKind<std::vector<T>> {
    static std::string name() { return "a list, each " + FieldKind<T>::name(); }
};

template <typename T> T field(nanobind::handle given, const std::string& name) {
    try {
        return nanobind::cast<T>(given);
    } catch (const std::bad_cast&) {
        std::string said = nanobind::repr(given).c_str();
        if (said.size() > 80) said = said.substr(0, 77) + "...";
        throw Failure{{ErrorKind::invalid_argument, name + " must be " + FieldKind<T>::name() + ", not " + said}};
    }
}

} // namespace attnscope::python
