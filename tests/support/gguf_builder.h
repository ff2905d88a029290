// Writes small GGUF files byte by byte, right or wrong as a test wants them.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace attnscope::test {

class GgufBuilder {
public:
    struct Tensor {
        std::string name;
        std::vector<uint64_t> ne;
        uint32_t type = 0;
        uint64_t bytes = 0;
    };

    uint32_t version = 3;
    uint64_t alignment = 32;
    std::vector<Tensor> tensors;

    template <typename T> static std::string raw(T value) {
        std::string bytes(sizeof(T), '\0');
        std::memcpy(bytes.data(), &value, sizeof(T));
        return bytes;
    }
    static std::string text(std::string_view s) { return raw(uint64_t(s.size())) + std::string(s); }

    // Replaces a key of the same name.
    void key(const std::string& name, uint32_t type, const std::string& value) {
        drop(name);
        keys_.push_back({name, raw(type) + value});
    }
    void u32(const std::string& name, uint32_t v) { key(name, 4, raw(v)); }
    void f32(const std::string& name, float v) { key(name, 6, raw(v)); }
    void boolean(const std::string& name, bool v) { key(name, 7, raw(uint8_t(v))); }
    void string(const std::string& name, std::string_view v) { key(name, 8, text(v)); }
    void strings(const std::string& name, const std::vector<std::string>& v) {
        std::string all;
        for (const std::string& s : v) all += text(s);
        key(name, 9, raw(uint32_t(8)) + raw(uint64_t(v.size())) + all);
    }
    void i32s(const std::string& name, const std::vector<int32_t>& v) {
        std::string all;
        for (const int32_t x : v) all += raw(x);
        key(name, 9, raw(uint32_t(5)) + raw(uint64_t(v.size())) + all);
    }
    void drop(const std::string& name) {
        std::erase_if(keys_, [&](const Key& k) { return k.name == name; });
    }
    void repeat(const std::string& name) {
        for (size_t i = 0; i < keys_.size(); ++i) {
            if (keys_[i].name == name) return keys_.push_back(keys_[i]);
        }
    }

    std::string bytes() const {
        std::string out = "GGUF" + raw(version) + raw(uint64_t(tensors.size())) + raw(uint64_t(keys_.size()));
        for (const Key& k : keys_) out += text(k.name) + k.value;
        uint64_t offset = 0;
        for (const Tensor& t : tensors) {
            out += text(t.name) + raw(uint32_t(t.ne.size()));
            for (const uint64_t n : t.ne) out += raw(n);
            out += raw(t.type) + raw(offset);
            offset = (offset + t.bytes + alignment - 1) / alignment * alignment;
        }
        out.resize((out.size() + alignment - 1) / alignment * alignment, '\0');
        return out + std::string(offset, '\0');
    }

    // A llama of one layer, two heads, one KV head, embedding length 4 and four tokens, which passes the
    // check.
    static GgufBuilder llama() {
        GgufBuilder b;
        b.string("general.architecture", "llama");
        b.string("general.name", "small");
        b.u32("llama.context_length", 8);
        b.u32("llama.embedding_length", 4);
        b.u32("llama.block_count", 1);
        b.u32("llama.attention.head_count", 2);
        b.u32("llama.attention.head_count_kv", 1);
        b.f32("llama.attention.layer_norm_rms_epsilon", 1e-6f);
        b.string("tokenizer.ggml.model", "llama");
        b.strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "a"});
        b.tensors = {{"token_embd.weight", {4, 4}, 0, 64},
                     {"blk.0.attn_norm.weight", {4}, 0, 16},
                     {"blk.0.attn_q.weight", {4, 4}, 1, 32}};
        return b;
    }

private:
    struct Key {
        std::string name;
        std::string value;
    };
    std::vector<Key> keys_;
};

} // namespace attnscope::test
