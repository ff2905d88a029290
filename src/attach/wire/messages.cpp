#include "attach/wire/messages.h"

#include <utility>

namespace attnscope::attach {

namespace {

// One description of each message serves both ways: Out puts a field, In fills it.
struct Out {
    ByteWriter& bytes;
    template <typename T> void field(const T& value) {
        if constexpr (std::is_same_v<T, std::string>)
            bytes.put_text(value);
        else
            bytes.put(value);
    }
    template <typename T> void list(const std::vector<T>& values) { bytes.put_all(std::span<const T>(values)); }
    template <typename T, typename F> void each(const std::vector<T>& values, size_t, F&& one) {
        bytes.put(static_cast<uint64_t>(values.size()));
        for (const T& value : values) one(*this, value);
    }
};
struct In {
    ByteReader& bytes;
    template <typename T> void field(T& value) {
        if constexpr (std::is_same_v<T, std::string>)
            value = bytes.get_text();
        else
            value = bytes.get<T>();
    }
    void field(bool& value) { value = bytes.get<uint8_t>() != 0; }
    template <typename T> void list(std::vector<T>& values) { values = bytes.get_all<T>(); }
    // `least`: bytes of an element, at least.
    template <typename T, typename F> void each(std::vector<T>& values, size_t least, F&& one) {
        values.resize(bytes.get_count(least));
        for (T& value : values) one(*this, value);
    }
};

template <typename Way, typename L> void pass_layer(Way& way, L& l) {
    way.field(l.layer), way.field(l.n_head), way.field(l.n_head_kv), way.field(l.head_dim), way.field(l.head_dim_v);
    way.field(l.q_type), way.field(l.k_type), way.field(l.key_source), way.field(l.role), way.field(l.k_layer),
        way.field(l.mask_group);
    way.field(l.on_device), way.field(l.absent);
    way.field(l.scale), way.field(l.softcap), way.field(l.post_scale), way.field(l.max_bias);
    way.list(l.sinks), way.list(l.bias), way.field(l.bias_reach);
}

template <typename Way, typename M> void pass_frame(Way& way, M& m) {
    auto& f = m.frame;
    way.field(f.sequence), way.field(f.index), way.field(f.token), way.field(f.position), way.field(f.kind);
    way.field(f.batched), way.list(f.q), way.list(f.k);
    way.each(f.visible, sizeof(uint64_t), [](Way& w, auto& ranges) { w.list(ranges); });
    way.list(f.witnesses);
    way.field(f.verdict);
}

template <typename Way, typename M> void pass(Way& way, M& m) {
    using T = std::remove_const_t<M>;
    if constexpr (std::is_same_v<T, Hello>) {
        way.field(m.pid), way.field(m.program), way.field(m.library), way.field(m.engine), way.field(m.hook);
    } else if constexpr (std::is_same_v<T, Notice>) {
        way.field(m.text);
    } else if constexpr (std::is_same_v<T, StreamBegin>) {
        way.field(m.stream), way.field(m.n_vocab);
        way.each(m.files, sizeof(uint64_t), [](Way& w, auto& file) { w.field(file); });
        way.field(m.geometry.n_mask_groups);
        way.each(m.geometry.layers, 64, [](Way& w, auto& layer) { pass_layer(w, layer); });
    } else if constexpr (std::is_same_v<T, SequenceBegin>) {
        way.field(m.stream), way.field(m.id), way.field(m.parent), way.field(m.n_shared);
    } else if constexpr (std::is_same_v<T, SequenceEnd>) {
        way.field(m.stream), way.field(m.id), way.field(m.reason);
    } else if constexpr (std::is_same_v<T, FrameMessage>) {
        way.field(m.stream), way.field(m.cache_stream);
        pass_frame(way, m);
    } else if constexpr (std::is_same_v<T, FramesDue>) {
        way.field(m.stream), way.field(m.n);
    } else {
        way.field(m.stream), way.field(m.reason);
    }
}

template <size_t I = 0> std::optional<Message> read_kind(uint32_t kind, ByteReader& bytes) {
    if constexpr (I < std::variant_size_v<Message>) {
        if (kind != I) return read_kind<I + 1>(kind, bytes);
        std::variant_alternative_t<I, Message> m;
        In in{bytes};
        pass(in, m);
        if (bytes.at_end()) return Message(std::move(m));
    }
    return std::nullopt;
}

} // namespace

void write_message(const Message& message, ByteWriter& to) {
    to.put(wire_version << 16 | static_cast<uint32_t>(message.index()));
    Out out{to};
    std::visit([&](const auto& m) { pass(out, m); }, message);
}

std::optional<Message> read_message(std::span<const uint8_t> bytes) {
    ByteReader reader(bytes);
    const auto kind = reader.get<uint32_t>();
    if (!reader.ok() || kind >> 16 != wire_version) return std::nullopt;
    return read_kind(kind & 0xffff, reader);
}

} // namespace attnscope::attach
