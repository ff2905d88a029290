// Halo Weave capture folders, both forms: what import_halo_weave reads, and what that project's own scripts
// read.
#pragma once

#include <attnscope/dump_reader.h>
#include <attnscope/error.h>

#include "formats/export_arrays.h"

#include <memory>
#include <string>
#include <vector>

namespace attnscope::formats {

// Writes one token after another. A token's numbers are written before the file that describes them, and
// metadata.json last, so that a folder whose writing stopped shows it.
class HaloWeaveFolderWriter {
public:
    // `folder` is created; one that exists must be empty. `json_form`: the older form, one JSON file a token.
    static Result<std::unique_ptr<HaloWeaveFolderWriter>> create(const std::string& folder, const StatedModel& model,
                                                                 bool json_form);
    // Uses number, token_id, text, kept_as, stated_context (n_context where it is -1), shape and values. `position` of the
    // token in the text; -1: its number, which is its step.
    Result<void> add(const DumpToken& token, int64_t position = -1);
    // A token of the prompt: it has no file, metadata.json lists it.
    void add_prompt_token(int32_t token_id, const std::string& text, int64_t position);
    // Said of the whole folder, kept by `filter` and shown by `diagnose`.
    void add_label(const std::string& label) { labels_.push_back(label); }
    // Writes metadata.json.
    Result<void> close();
    int64_t n_tokens() const { return n_tokens_; }

private:
    HaloWeaveFolderWriter(std::string folder, StatedModel model, bool json_form)
        : folder_(std::move(folder)), model_(std::move(model)), json_form_(json_form) {}
    Result<void> write_file(const std::string& name, const void* data, size_t n) const;

    std::string folder_;
    StatedModel model_;
    bool json_form_ = false;
    int64_t n_tokens_ = 0;
    struct PromptToken {
        int32_t token_id;
        std::string text;
        int64_t position, sentence;
    };
    std::vector<PromptToken> prompt_;
    std::vector<std::string> labels_;
};

// Their form: a file for each generated token, with the row that chose it (from the token before, over the columns that
// were there), and the prompt in metadata.json. Returns the number of tokens written.
Result<int64_t> export_halo_weave(Recording& recording, const ExportSelection& selection, const std::string& folder,
                                  bool json_form, const ExportProgress& progress = {});

} // namespace attnscope::formats
