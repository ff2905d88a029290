// One table a public enum: its values and their names, for both directions.
#pragma once

#include <attnscope/error.h>

#include <array>
#include <string>
#include <string_view>

namespace attnscope::base {

template <class E> struct EnumName {
    E value;
    const char* name;
};

template <class E, size_t n> using EnumNames = std::array<EnumName<E>, n>;

// "?" for a value that is not in the table.
template <class E, size_t n> const char* name_of(const EnumNames<E, n>& names, E value) {
    for (const EnumName<E>& entry : names) {
        if (entry.value == value) return entry.name;
    }
    return "?";
}

// The error says which names there are; `what` is what it calls the field.
template <class E, size_t n> Result<E> value_of(const EnumNames<E, n>& names, std::string_view name, const char* what) {
    std::string known;
    for (const EnumName<E>& entry : names) {
        if (name == entry.name) return entry.value;
        known += known.empty() ? "" : ", ";
        known += entry.name;
    }
    return Error{ErrorKind::invalid_argument, std::string(what) + " is not one of " + known};
}

} // namespace attnscope::base
