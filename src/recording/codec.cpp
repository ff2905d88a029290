#include "recording/codec.h"

#include "attention/dots.h"
#include "attention/engine_arithmetic.h"
#include "recording/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace attnscope::recording {

namespace {

// Above any context, and far enough from the ends of int64_t that sums of two columns cannot overflow.
constexpr int64_t max_column = int64_t(1) << 48;

void put_varint(uint64_t value, std::vector<uint8_t>& out) {
    for (; value >= 0x80; value >>= 7) out.push_back(static_cast<uint8_t>(value | 0x80));
    out.push_back(static_cast<uint8_t>(value));
}

template <typename T> void put_bits(T value, std::vector<uint8_t>& out) {
    uint8_t bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    out.insert(out.end(), bytes, bytes + sizeof value);
}

// Takes values off the front of a span; after the first failure everything fails.
class Taker {
public:
    explicit Taker(std::span<const uint8_t> bytes) : bytes_(bytes) {}
    bool at_end() const { return bytes_.empty(); }

    std::optional<int64_t> varint(int64_t max) {
        uint64_t value = 0;
        for (unsigned shift = 0; shift < 63 && !bytes_.empty(); shift += 7) {
            const uint8_t byte = bytes_.front();
            bytes_ = bytes_.subspan(1);
            value |= uint64_t(byte & 0x7f) << shift;
            if (!(byte & 0x80)) {
                if (value > static_cast<uint64_t>(max)) return std::nullopt;
                return static_cast<int64_t>(value);
            }
        }
        return std::nullopt;
    }

    template <typename T> bool bits(T& value) {
        if (bytes_.size() < sizeof value) return false;
        std::memcpy(&value, bytes_.data(), sizeof value);
        bytes_ = bytes_.subspan(sizeof value);
        return true;
    }

private:
    std::span<const uint8_t> bytes_;
};

bool witness_fits(const Witness& w, const Geometry& geometry) {
    if (w.layer < 0 || w.layer >= geometry.n_layer()) return false;
    const LayerInfo& layer = geometry.layers[size_t(w.layer)];
    return layer.captured() && w.head >= 0 && w.head < layer.n_head;
}

} // namespace

void encode_visible(const std::vector<Ranges>& visible, std::vector<uint8_t>& out) {
    out.clear();
    for (const Ranges& ranges : visible) {
        put_varint(ranges.size(), out);
        int64_t end = 0;
        for (const Range& r : ranges) {
            put_varint(static_cast<uint64_t>(r.begin - end), out);
            put_varint(static_cast<uint64_t>(r.end - r.begin), out);
            end = r.end;
        }
    }
}

std::optional<std::vector<Ranges>> decode_visible(std::span<const uint8_t> bytes, int32_t n_groups) {
    if (bytes.size() > max_visible_bytes) return std::nullopt;
    Taker take(bytes);
    std::vector<Ranges> visible(static_cast<size_t>(n_groups));
    for (Ranges& ranges : visible) {
        // a range takes two bytes at least, which bounds what a file can make us reserve
        const auto n = take.varint(static_cast<int64_t>(bytes.size() / 2));
        if (!n) return std::nullopt;
        ranges.reserve(static_cast<size_t>(*n));
        int64_t end = 0;
        for (int64_t i = 0; i < *n; ++i) {
            const auto gap = take.varint(max_column);
            const auto length = take.varint(max_column);
            if (!gap || !length || *length == 0 || (i > 0 && *gap == 0)) return std::nullopt;
            const int64_t begin = end + *gap;
            end = begin + *length;
            if (end > max_column) return std::nullopt;
            ranges.push_back({begin, end});
        }
    }
    if (!take.at_end()) return std::nullopt;
    return visible;
}

void encode_witnesses(const std::vector<Witness>& witnesses, std::vector<uint8_t>& out) {
    out.clear();
    for (const Witness& w : witnesses) {
        put_varint(static_cast<uint64_t>(w.layer), out);
        put_varint(static_cast<uint64_t>(w.head), out);
        put_bits(w.error, out);
        put_bits(w.tolerance, out);
        put_bits(w.row_sum, out);
        put_bits(w.fingerprint, out);
    }
}

std::optional<std::vector<Witness>> decode_witnesses(std::span<const uint8_t> bytes, const Geometry& geometry) {
    Taker take(bytes);
    std::vector<Witness> witnesses;
    while (!take.at_end()) {
        Witness w;
        const auto layer = take.varint(std::numeric_limits<int32_t>::max());
        const auto head = take.varint(std::numeric_limits<int32_t>::max());
        if (!layer || !head || !take.bits(w.error) || !take.bits(w.tolerance) || !take.bits(w.row_sum) ||
            !take.bits(w.fingerprint)) {
            return std::nullopt;
        }
        w.layer = static_cast<int32_t>(*layer);
        w.head = static_cast<int32_t>(*head);
        if (!witness_fits(w, geometry) || witnesses.size() == max_witnesses) return std::nullopt;
        witnesses.push_back(w);
    }
    return witnesses;
}

bool queries_may_narrow(const LayerInfo& layer) {
    return layer.captured() && layer.q_type == DType::f32 && layer.k_type == DType::f16 && !layer.on_device;
}

size_t narrow_q_bytes(const Geometry& geometry) {
    size_t bytes = 0;
    for (const LayerInfo& l : geometry.layers) bytes += queries_may_narrow(l) ? l.q_bytes() / 2 : l.q_bytes();
    return bytes;
}

namespace {

bool same_numbers(std::span<const float> a, std::span<const float> b) {
    if (std::memcmp(a.data(), b.data(), a.size_bytes()) == 0) return true; // what almost all are
    return std::equal(a.begin(), a.end(), b.begin(),
                      [](float x, float y) { return x == y || (std::isnan(x) && std::isnan(y)); });
}

} // namespace

std::vector<uint8_t> narrow_q(const Geometry& geometry, std::span<const uint8_t> q) {
    if (q.empty() || narrow_q_bytes(geometry) == geometry.q_bytes()) return {};
    std::vector<uint8_t> stored(narrow_q_bytes(geometry));
    uint8_t* to = stored.data();
    std::vector<float> floats, again;
    for (const LayerInfo& l : geometry.layers) {
        const auto from = q.first(l.q_bytes());
        q = q.subspan(from.size());
        if (!queries_may_narrow(l)) {
            to = std::copy(from.begin(), from.end(), to);
            continue;
        }
        floats.resize(from.size() / sizeof(float));
        std::memcpy(floats.data(), from.data(), from.size());
        const auto n = static_cast<int64_t>(floats.size());
        attention::engine_arithmetic(DType::f16).from_float(floats.data(), to, n);
        again.resize(floats.size());
        attention::to_floats(DType::f16, to, again.data(), n);
        if (!same_numbers(floats, again)) return {};
        to += from.size() / 2;
    }
    return stored;
}

std::vector<uint8_t> widen_q(const Geometry& geometry, std::span<const uint8_t> stored) {
    std::vector<uint8_t> q(geometry.q_bytes());
    uint8_t* to = q.data();
    std::vector<float> floats;
    for (const LayerInfo& l : geometry.layers) {
        const auto from = stored.first(queries_may_narrow(l) ? l.q_bytes() / 2 : l.q_bytes());
        stored = stored.subspan(from.size());
        if (queries_may_narrow(l)) {
            floats.resize(from.size() / sizeof(uint16_t));
            attention::to_floats(DType::f16, from.data(), floats.data(), static_cast<int64_t>(floats.size()));
            std::memcpy(to, floats.data(), l.q_bytes());
        } else {
            std::copy(from.begin(), from.end(), to);
        }
        to += l.q_bytes();
    }
    return q;
}

std::string frame_problem(const Frame& frame, const Geometry& geometry) {
    if (!frame.q.empty() && frame.q.size() != geometry.q_bytes()) {
        return fmt::format("its Q has {} bytes instead of {}", frame.q.size(), geometry.q_bytes());
    }
    if (frame.k.size() != geometry.k_bytes()) {
        return fmt::format("its K has {} bytes instead of {}", frame.k.size(), geometry.k_bytes());
    }
    if (frame.visible.size() != static_cast<size_t>(geometry.n_mask_groups)) {
        return fmt::format("it says what {} mask groups see instead of {}", frame.visible.size(),
                           geometry.n_mask_groups);
    }
    size_t encoded = 0; // an upper bound
    for (const Ranges& ranges : frame.visible) {
        encoded += 10 + 14 * ranges.size();
        int64_t end = -1;
        for (const Range& r : ranges) {
            if (r.begin <= end || r.end <= r.begin || r.end > max_column) {
                return fmt::format("its visible columns [{}, {}) are empty, out of order or out of bounds", r.begin,
                                   r.end);
            }
            end = r.end;
        }
    }
    if (encoded > max_visible_bytes) return "its visible columns are in too many pieces";
    if (frame.witnesses.size() > max_witnesses) return fmt::format("it has {} witnesses", frame.witnesses.size());
    for (const Witness& w : frame.witnesses) {
        if (!witness_fits(w, geometry)) return fmt::format("its witness names layer {}, head {}", w.layer, w.head);
    }
    if (frame.kind != FrameKind::prompt && frame.kind != FrameKind::generated) return "its kind is unknown";
    return {};
}

std::string sequence_problem(const Sequence& s, std::span<const Sequence> before) {
    const auto n = static_cast<int64_t>(before.size());
    if (s.id != n) return fmt::format("it has number {} where {} is due", s.id, n);
    if (n >= max_sequences) return fmt::format("there are {} sequences already", n);
    if (s.parent < -1 || s.parent >= n) return fmt::format("its parent {} has not begun", s.parent);
    if (s.n_shared < 0 || (s.parent < 0 && s.n_shared > 0))
        return fmt::format("it shares {} columns with nobody", s.n_shared);
    if (s.parent >= 0 && s.n_shared > before[size_t(s.parent)].n_frames)
        return fmt::format("it shares {} columns with a sequence of {}", s.n_shared, before[size_t(s.parent)].n_frames);
    if (s.keys_of < -1 || s.keys_of >= n)
        return fmt::format("the sequence {} that it looks at has not begun", s.keys_of);
    if (s.label.size() > max_label_bytes || s.end_reason.size() > max_label_bytes) return "its texts are too long";
    return {};
}

std::string media_problem(const Media& m, std::span<const Sequence> sequences) {
    if (m.sequence < 0 || m.sequence >= static_cast<int64_t>(sequences.size()))
        return fmt::format("its sequence {} has not begun", m.sequence);
    if (m.begin < 0 || m.begin >= m.end || m.end > max_index)
        return fmt::format("its columns [{}, {}) are none", m.begin, m.end);
    if (m.kind != MediaKind::image && m.kind != MediaKind::audio) return "its kind is unknown";
    if (m.width < 0 || m.height < 0 || m.n_patch_x < 0 || m.n_patch_y < 0) return "its size is negative";
    if ((m.n_patch_x > 0 || m.n_patch_y > 0) && int64_t(m.n_patch_x) * m.n_patch_y != m.end - m.begin)
        return fmt::format("its {} columns are no grid of {} x {}", m.end - m.begin, m.n_patch_x, m.n_patch_y);
    if (m.name.size() > max_label_bytes || m.sha256.size() > max_label_bytes) return "its texts are too long";
    return {};
}

} // namespace attnscope::recording
