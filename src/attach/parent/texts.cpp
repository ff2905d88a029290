#include "attach/parent/texts.h"

#include "gguf/gguf_check.h"
#include "models/model_identity.h"

#include <llama.h>

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>

namespace attnscope::attach {

namespace {

struct Candidate {
    const std::string* file;
    gguf::GgufSummary summary;
};

// Those with as many layers as were seen come first: not all of a model's need have attention.
std::vector<Candidate> candidates(const std::vector<std::string>& files, int32_t n_vocab, int32_t n_layer,
                                  std::string& why) {
    std::vector<Candidate> good;
    for (const std::string& file : files) {
        // Damaged files would end us inside llama.cpp.
        Result<gguf::GgufSummary> summary = gguf::check_gguf(file);
        if (!summary)
            why = summary.error().message;
        else if (n_vocab > 0 && summary->n_vocab != n_vocab)
            why = file + " has a vocabulary of another size";
        else if (!summary->encoder_decoder && summary->n_layer < n_layer)
            why = file + " has fewer layers";
        else
            good.push_back({&file, std::move(*summary)});
    }
    std::stable_partition(good.begin(), good.end(), [&](const Candidate& c) { return c.summary.n_layer == n_layer; });
    return good;
}

} // namespace

Result<std::unique_ptr<Texts>> Texts::open(const std::vector<std::string>& files, int32_t n_vocab, int32_t n_layer) {
    std::string why = "the program has no GGUF file open";
    for (const Candidate& candidate : candidates(files, n_vocab, n_layer, why)) {
        const std::string& file = *candidate.file;
        Result<ModelIdentity> identity = models::model_identity(file, candidate.summary);
        if (!identity) {
            why = identity.error().message;
            continue;
        }
        llama_model_params params = llama_model_default_params();
        params.vocab_only = true;
        llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
        llama_model* model = llama_model_load_from_file(file.c_str(), params);
        if (!model) {
            why = file + " could not be read by llama.cpp";
            continue;
        }
        std::unique_ptr<Texts> texts(new Texts);
        texts->model_ = model;
        texts->vocab_ = llama_model_get_vocab(model);
        texts->identity_ = std::move(*identity);
        texts->path_ = file;
        return texts;
    }
    return Error{ErrorKind::not_found, why};
}

Texts::~Texts() {
    if (model_) llama_model_free(model_);
}

std::string Texts::piece(int32_t token) const {
    return text_of(token, true);
}

std::string Texts::said(int32_t token) const {
    return text_of(token, false);
}

std::vector<int32_t> Texts::tokens(const std::string& text) const {
    if (llama_vocab_type(vocab_) == LLAMA_VOCAB_TYPE_NONE || text.size() > INT32_MAX) return {};
    const std::string first = llama_vocab_get_add_bos(vocab_) ? piece(llama_vocab_bos(vocab_)) : std::string();
    const std::string_view rest =
        std::string_view(text).substr(!first.empty() && text.starts_with(first) ? first.size() : 0);
    std::vector<int32_t> out(rest.size() / 4 + 16);
    const auto fill = [&] {
        return llama_tokenize(vocab_, rest.data(), static_cast<int32_t>(rest.size()), out.data(),
                              static_cast<int32_t>(out.size()), true, true);
    };
    int32_t n = fill();
    if (n < 0 && n > INT32_MIN) {
        out.resize(static_cast<size_t>(-n));
        n = fill();
    }
    out.resize(static_cast<size_t>(std::max(n, 0)));
    return out;
}

std::string Texts::text_of(int32_t token, bool special) const {
    const bool known = token >= 0 && token < llama_vocab_n_tokens(vocab_);
    if (!known || llama_vocab_type(vocab_) == LLAMA_VOCAB_TYPE_NONE) return {};
    std::string text(64, '\0');
    const auto fill = [&] {
        return llama_token_to_piece(vocab_, token, text.data(), static_cast<int32_t>(text.size()), 0, special);
    };
    int32_t n = fill();
    if (n < 0) {
        text.resize(static_cast<size_t>(-n));
        n = fill();
    }
    text.resize(static_cast<size_t>(std::max(n, 0)));
    return text;
}

} // namespace attnscope::attach
