// Attention, hidden states and scores as JSON.
#include "server/http/event_stream.h"

#include <openssl/evp.h>

#include <fmt/format.h>

namespace attnscope::server {

std::string base64(const void* data, size_t size) {
    std::string out((size + 2) / 3 * 4 + 1, '\0'); // EVP_EncodeBlock ends with a NUL
    const auto* bytes = static_cast<const unsigned char*>(data);
    auto* to = reinterpret_cast<unsigned char*>(out.data());
    size_t written = 0;
    constexpr size_t step = size_t(3) << 20; // a multiple of 3 that fits an int
    for (size_t at = 0; at < size; at += step) {
        written +=
            static_cast<size_t>(EVP_EncodeBlock(to + written, bytes + at, static_cast<int>(std::min(step, size - at))));
    }
    out.resize(written);
    return out;
}

namespace {

const char* format_name(Reduce reduce) {
    switch (reduce) {
    case Reduce::none: return "per_layer"; // Halo Weave's names of these two
    case Reduce::mean: return "aggregated";
    case Reduce::per_layer: return "layer_mean";
    default: return reduce_name(reduce);
    }
}

const char* dtype_name_of(AttentionFormat format) {
    switch (format) {
    case AttentionFormat::f32: return "float32";
    case AttentionFormat::f16: return "float16";
    case AttentionFormat::u8: return "uint8";
    }
    return "";
}

template <typename T> std::string list(const std::vector<T>& values) {
    return fmt::format("[{}]", fmt::join(values, ","));
}

} // namespace

AnswerContext answer_context(const Generation& generation, const GenerationEvent& event) {
    return {generation.request.attention->format, generation.n_reused(), event.frame()->verdict};
}

std::string attention_head(const AttentionAnswer& answer, const AnswerContext& context) {
    std::string text = fmt::format(
        R"({{"format":"{}","reduce":"{}","shape":{},"context_length":{},"index":{},"reused":{},"verdict":"{}","dtype":"{}")",
        format_name(answer.reduce), reduce_name(answer.reduce), list(answer.shape), answer.n_columns, answer.index,
        context.n_reused, verdict_text(context.verdict), dtype_name_of(context.format));
    if (answer.first_column > 0) text += fmt::format(",\"first_column\":{}", answer.first_column);
    if (answer.reduce == Reduce::top_k) text += ",\"columns\":" + list(answer.columns);
    return text;
}

std::vector<uint8_t> attention_bytes(const AttentionAnswer& answer, AttentionFormat format) {
    return encode_values(answer.values, answer.row_length(), format);
}

std::string attention_text(const AttentionAnswer& answer, const AnswerContext& context) {
    std::string text = attention_head(answer, context);
    text += ",\"encoding\":\"base64\",\"data\":\"";
    const std::vector<uint8_t> bytes = attention_bytes(answer, context.format);
    text += base64(bytes.data(), bytes.size());
    text += "\"}";
    return text;
}

std::string event_attention(Generation& generation, const GenerationEvent& event) {
    if (!event.frame()) return "null";
    const Result<std::optional<AttentionAnswer>> answer = generation.answer(event);
    if (!answer) return json_text({{"error", answer.error().message}});
    if (!*answer) return "null";
    return attention_text(**answer, answer_context(generation, event));
}

Json hidden_state_json(const std::vector<float>& values) {
    return {{"shape", Json::array({values.size()})},
            {"encoding", "base64"},
            {"dtype", "float32"},
            {"data", base64(values.data(), values.size() * sizeof(float))}};
}

Json scores_json(const PositionScores& scores, const std::vector<Accumulate>& wanted) {
    Json out = {{"rows", scores.n_rows()},
                {"visits", std::vector<int64_t>(scores.visits().begin(), scores.visits().end())}};
    for (const Accumulate what : wanted) {
        const auto copy = [](std::span<const double> s) { return std::vector<double>(s.begin(), s.end()); };
        out[accumulate_name(what)] = what == Accumulate::total         ? copy(scores.total())
                                     : what == Accumulate::mean        ? scores.mean()
                                     : what == Accumulate::window_mean ? scores.window_mean()
                                     : what == Accumulate::last        ? scores.last()
                                                                       : copy(scores.brightness());
    }
    return out;
}

Json scores_json(const Generation& generation) {
    const std::optional<PositionScores> scores = generation.scores();
    if (!scores) return {};
    return scores_json(*scores, generation.request.attention->accumulate);
}

Json summary_json(const Generation& generation) {
    const GenerationSummary s = generation.summary();
    Json out = {{"finish_reason", s.finish_reason},
                {"total_tokens", s.n_generated},
                {"prompt_tokens", s.n_prompt},
                {"reused", s.n_reused}};
    if (s.n_skipped > 0 || generation.request.flow == Flow::latest) out["skipped"] = s.n_skipped;
    if (!s.recording.empty()) out["recording"] = s.recording;
    const Json scores = scores_json(generation);
    if (!scores.is_null()) out["scores"] = scores;
    return out;
}

} // namespace attnscope::server
