// Graphs as llama.cpp builds them, of tensors that lie as those of all ggml since November 2024, whose operations have any numbers. And
// graphs as nobody builds them.
#pragma once

#include "attach/inside/structures.h"
#include "capture/graph/ggml_abi.h"

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace attnscope::test {

// Memory with the table of functions that a buffer of ggml has.
class MadeBuffer {
public:
    MadeBuffer(size_t n_functions, attach::BufferType* type, size_t bytes);
    ggml_backend_buffer_t as_buffer() { return reinterpret_cast<ggml_backend_buffer_t>(words_.data()); }
    uint8_t* take(size_t bytes);
    std::array<void*, attach::most_buffer_words>& words() { return words_; }

private:
    std::array<void*, attach::most_buffer_words> words_{};
    std::vector<uint64_t> memory_;
    size_t used_ = 0;
};

class MadeGraph {
public:
    explicit MadeGraph(uint64_t seed, size_t n_functions = 11);

    // Of a tiny llama: what its scheduler would ask about, in order; the last norm is the last.
    std::vector<ggml_tensor*> llama(bool flash, int64_t n_tokens);
    // Tensors of any shapes, names, sources and operations, the first of them leaves.
    std::vector<ggml_tensor*> noise(size_t n);

    ggml_tensor* leaf(const std::string& name, ggml_type type, std::array<int64_t, 4> ne, bool input);
    ggml_tensor* node(capture::Op op, std::array<int64_t, 4> ne, std::vector<ggml_tensor*> sources);
    ggml_tensor* view(capture::Op op, ggml_tensor* of, std::array<int64_t, 4> ne, std::array<size_t, 4> nb);
    void name(ggml_tensor* t, const std::string& name);
    template <typename T> void put(ggml_tensor* t, size_t at, T value) { capture::set_tensor_field(t, at, value); }

    uint32_t number(capture::Op op);
    ggml_tensor* tensor(const std::string& name); // the first of that name
    attach::BufferType& type() { return type_; }

private:
    ggml_tensor* make(ggml_type type, std::array<int64_t, 4> ne);
    int64_t pick(int64_t most) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(most)); }

    std::mt19937_64 random_;
    attach::BufferType type_{};
    MadeBuffer buffer_;
    std::map<capture::Op, uint32_t> numbers_;
    std::deque<std::array<uint64_t, 42>> tensors_;
    uint32_t next_number_;
};

// What the table would say of such graphs: fills capture::foreign_ggml(), whose numbers are those of `graph`.
void use_made_graph(MadeGraph& graph);

} // namespace attnscope::test
