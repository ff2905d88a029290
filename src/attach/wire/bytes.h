// Numbers and text into bytes and back. What is read was written by a program that we did not write: nothing is believed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace attnscope::attach {

class ByteWriter {
public:
    virtual ~ByteWriter() = default;
    template <typename T> void put(T value) {
        static_assert(std::is_trivially_copyable_v<T>);
        put_bytes({reinterpret_cast<const uint8_t*>(&value), sizeof value});
    }
    // A count, then the elements.
    template <typename T> void put_all(std::span<const T> values) {
        static_assert(std::is_trivially_copyable_v<T>);
        put(static_cast<uint64_t>(values.size()));
        put_bytes({reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()});
    }
    void put_text(std::string_view text) { put_all(std::span(text.data(), text.size())); }

protected:
    virtual void put_bytes(std::span<const uint8_t> bytes) = 0;
};

class ByteList : public ByteWriter {
public:
    std::span<const uint8_t> bytes() const { return bytes_; }

private:
    void put_bytes(std::span<const uint8_t> bytes) override { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
    std::vector<uint8_t> bytes_;
};

// How many they are.
class ByteCount : public ByteWriter {
public:
    size_t n() const { return n_; }

private:
    void put_bytes(std::span<const uint8_t> bytes) override { n_ += bytes.size(); }
    size_t n_ = 0;
};

// After the first read beyond the end everything reads as zero and ok() is false.
class ByteReader {
public:
    explicit ByteReader(std::span<const uint8_t> bytes) : left_(bytes) {}
    template <typename T> T get() {
        T value{};
        if (take(sizeof value)) std::memcpy(&value, taken_, sizeof value);
        return value;
    }
    template <typename T> std::vector<T> get_all() {
        const auto n = get<uint64_t>();
        if (n > left_.size() / sizeof(T)) ok_ = false; // before any memory is asked for
        if (!ok_ || n == 0 || !take(n * sizeof(T))) return {};
        if constexpr (sizeof(T) == 1) { // keys and queries: not set to zero first
            const auto* begin = reinterpret_cast<const T*>(taken_);
            return {begin, begin + n};
        }
        std::vector<T> values(n);
        std::memcpy(values.data(), taken_, n * sizeof(T));
        return values;
    }
    std::string get_text() {
        const std::vector<char> text = get_all<char>();
        return {text.begin(), text.end()};
    }
    // A count of things of at least `bytes_each`: more than the rest can hold is no count.
    size_t get_count(size_t bytes_each) {
        const auto n = get<uint64_t>();
        if (n > left_.size() / bytes_each) ok_ = false;
        return ok_ ? n : 0;
    }
    bool ok() const { return ok_; }
    bool at_end() const { return ok_ && left_.empty(); }

private:
    bool take(size_t n) {
        if (!ok_ || n > left_.size()) return ok_ = false;
        taken_ = left_.data();
        left_ = left_.subspan(n);
        return true;
    }
    std::span<const uint8_t> left_;
    const uint8_t* taken_ = nullptr;
    bool ok_ = true;
};

} // namespace attnscope::attach
