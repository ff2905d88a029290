// The vocabulary of the model that a program has open, read from the file by us.
#pragma once

#include <attnscope/error.h>
#include <attnscope/recording.h>

#include <memory>
#include <string>
#include <vector>

struct llama_model;
struct llama_vocab;

namespace attnscope::attach {

class Texts {
public:
    // The first of `files` whose vocabulary has `n_vocab` tokens (0: unknown) and whose layers are as many as were seen. Errors say of the
    // last file why it was not that.
    static Result<std::unique_ptr<Texts>> open(const std::vector<std::string>& files, int32_t n_vocab, int32_t n_layer);
    ~Texts();
    Texts(const Texts&) = delete;
    Texts& operator=(const Texts&) = delete;
    std::string piece(int32_t token) const; // empty: unknown
    // What a token adds to a text: of those that end or divide texts nothing.
    std::string said(int32_t token) const;
    // As a program cuts a prompt: tokens that are written out are those tokens, and the first one is there once where the model wants it.
    std::vector<int32_t> tokens(const std::string& text) const;
    const ModelIdentity& identity() const { return identity_; }
    const std::string& path() const { return path_; }

private:
    Texts() = default;
    std::string text_of(int32_t token, bool special) const;
    llama_model* model_ = nullptr;
    const llama_vocab* vocab_ = nullptr;
    ModelIdentity identity_;
    std::string path_;
};

} // namespace attnscope::attach
