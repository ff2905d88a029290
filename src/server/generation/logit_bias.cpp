#include "server/generation/logit_bias.h"

#include "server/dialects/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace attnscope::server {

namespace {

constexpr float forbidden = -1e9f; // as good as -infinity, but a vocabulary of nothing else can still be sampled
constexpr size_t most_biases = 4096;

// A token id, or a text whose tokens are meant.
Result<std::vector<int32_t>> biased_tokens(const Json& which, bool is_key, const Service& service) {
    const int32_t n_vocab = service.session.n_vocab();
    int64_t id = -1;
    bool is_id = false;
    if (which.is_string()) {
        const auto& text = which.get_ref<const std::string&>();
        if (is_key) { // of an object: JSON has no numbers there
            const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), id);
            is_id = end == text.data() + text.size() && !text.empty();
            if (ec != std::errc()) id = -1;
        }
        if (!is_id && !text.empty() && text.size() <= 1024) return tokenize_text(service, text, false, false);
    } else if (which.is_number_integer()) {
        is_id = true;
        id = which.is_number_unsigned() && which.get<uint64_t>() > uint64_t(INT64_MAX) ? -1 : which.get<int64_t>();
    }
    if (is_id && id >= 0 && id < n_vocab) return std::vector<int32_t>{static_cast<int32_t>(id)};
    return Error{
        ErrorKind::invalid_argument,
        fmt::format(
            "\"logit_bias\" holds {:.60}, which is neither a token id from 0 to {} nor a text of at most 1024 bytes",
            json_text(which), n_vocab - 1)};
}

} // namespace

void read_logit_bias(RequestFields& f, const Service& service, SamplingOptions& s) {
    const Json* biases = f.find("logit_bias");
    if (!biases || (biases->is_structured() && biases->empty())) return;
    const auto add = [&](const Json& which, bool is_key, const Json& bias) {
        if (f.failed()) return;
        if (!bias.is_number() && bias != Json(false))
            return f.fail(
                fmt::format("\"logit_bias\" of {:.60} must be a number, or false to forbid it", json_text(which)));
        const Result<std::vector<int32_t>> tokens = biased_tokens(which, is_key, service);
        if (!tokens) return f.fail(tokens.error().message);
        const double value = bias.is_number() ? std::clamp(bias.get<double>(), -1e6, 1e6) : -1e6;
        for (const int32_t token : *tokens)
            s.logit_bias.emplace_back(token, value <= -100 ? forbidden : static_cast<float>(value));
        if (s.logit_bias.size() > most_biases)
            f.fail(fmt::format("\"logit_bias\" holds more than {} tokens", most_biases));
    };
    if (biases->is_object() && biases->size() <= most_biases) {
        for (const auto& [key, value] : biases->items()) add(key, true, value);
    } else if (biases->is_array() && biases->size() <= most_biases) {
        for (const Json& pair : *biases) {
            if (!pair.is_array() || pair.size() != 2)
                return f.fail("\"logit_bias\" as an array must hold pairs: [token id or text, bias]");
            add(pair[0], false, pair[1]);
        }
    } else {
        f.fail(fmt::format("\"logit_bias\" must be an object or an array of at most {} token ids with their biases",
                           most_biases));
    }
}

} // namespace attnscope::server
