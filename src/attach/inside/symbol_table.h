// Names of an object's functions, those among them that the dynamic linker does not have: from its file's .symtab, or, where that was
// stripped, from what the object exports.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct link_map;

namespace attnscope::attach {

class SymbolTable {
public:
    struct Code {
        uintptr_t begin = 0, end = 0;
    };
    // Null: the object defines no function `marker`, its file has no such table, or the file is not the one that was loaded.
    static std::unique_ptr<SymbolTable> of(const link_map* object, std::string_view marker);
    ~SymbolTable();

    // Of functions whose names begin as the marker does up to its first underscore, or with "gguf"; 0: none, or several.
    uintptr_t function(std::string_view name) const;
    // The code of all functions; all code, where only exported functions have names.
    const std::vector<Code>& code() const { return code_; }
    // Are the bytes there those of the file?
    bool as_in_file(uintptr_t address, size_t n_bytes) const;
    // Only the names are needed from now on: the program gets its descriptor and its memory back.
    void keep_names_only();

private:
    struct Segment {
        uintptr_t begin = 0, end = 0; // as loaded
        uint64_t at = 0;              // in the file
    };
    SymbolTable() = default;
    int file_ = -1;
    std::vector<Segment> segments_; // executable ones
    std::vector<Code> code_;
    std::map<std::string, uintptr_t, std::less<>> functions_;
};

} // namespace attnscope::attach
